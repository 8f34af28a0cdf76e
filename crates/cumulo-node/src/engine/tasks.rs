//! The tasks beside a running container: waiting for its end, probing it,
//! stopping it. Each reports to the pod's worker through events.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Probe};
use nix::sys::signal::Signal;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exec;
use super::logs;
use super::probe::{self, Schedule, Target, Thresholds};
use super::usage::Excess;
use crate::process;
use crate::record::{AttemptDir, Exit, Started, lock_is_held, read_json};

/// What happened to a container.
#[derive(Debug)]
pub(super) struct Event {
    pub container: usize,
    pub attempt: u32,
    pub what: What,
}

#[derive(Debug)]
pub(super) enum What {
    /// Its process ended; with its termination message.
    Exited(Exit, Option<String>),
    /// Its startup probe passed.
    Started,
    /// Its readiness changed.
    Ready(bool, Option<String>),
    /// It must be killed and started again.
    Unhealthy {
        reason: &'static str,
        message: String,
        grace: Option<Duration>,
    },
    /// It used more memory or ran more processes than it may.
    Excess(Excess),
    /// It filled more of the disk than it may; the sentence says so.
    OverDisk(String),
}

/// Where a task reports.
#[derive(Clone)]
pub(super) struct Reporter {
    pub container: usize,
    pub attempt: u32,
    pub events: mpsc::Sender<Event>,
}

impl Reporter {
    pub async fn send(&self, what: What) {
        let event = Event {
            container: self.container,
            attempt: self.attempt,
            what,
        };
        // The worker is gone only when the engine is closing.
        let _ = self.events.send(event).await;
    }
}

/// The most bytes of a termination message.
const MAX_MESSAGE: usize = 4096;

/// Waits until the supervisor has left, then reports how the container ended.
pub(super) async fn watch_exit(
    attempt: AttemptDir,
    started: Started,
    mark: String,
    fall_back_to_logs: bool,
    reporter: Reporter,
) {
    supervisor_gone(&attempt).await;
    let work = move || read_exit(&attempt, Some(&started), &mark, fall_back_to_logs);
    if let Ok((exit, message)) = tokio::task::spawn_blocking(work).await {
        reporter.send(What::Exited(exit, message)).await;
    }
}

/// Ends when nobody holds the attempt's lock any more.
pub(super) async fn supervisor_gone(attempt: &AttemptDir) {
    // Opened before the lock is looked at: from here on, the supervisor's
    // leaving is an end of file.
    if let Ok(mut alive) = pipe::OpenOptions::new().open_receiver(attempt.alive())
        && lock_is_held(&attempt.lock())
    {
        let mut buffer = [0; 16];
        while let Ok(1..) = alive.read(&mut buffer).await {}
    }
    let mut wait = Duration::from_millis(1);
    while lock_is_held(&attempt.lock()) {
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

/// How an attempt ended whose supervisor is gone. Blocks.
pub(super) fn read_exit(
    attempt: &AttemptDir,
    started: Option<&Started>,
    mark: &str,
    fall_back_to_logs: bool,
) -> (Exit, Option<String>) {
    let exit = read_json::<Exit>(&attempt.exit()).ok().flatten();
    if exit.is_none()
        && let Some(started) = started
    {
        process::signal_group(started, Signal::SIGKILL);
    }
    process::kill_marked(mark);
    let exit = exit.unwrap_or_else(|| Exit {
        exit_code: 137,
        signal: None,
        finished_at: jiff::Timestamp::now(),
        start_error: None,
        unknown: true,
    });
    let message = exit
        .start_error
        .clone()
        .or_else(|| termination_message(attempt))
        .or_else(|| {
            (fall_back_to_logs && exit.exit_code != 0)
                .then(|| logs::last_lines(attempt))
                .flatten()
        })
        .or_else(|| {
            exit.unknown.then(|| {
                "the end of the container was not seen: its supervisor was killed or the machine restarted".to_owned()
            })
        });
    (exit, message)
}

fn termination_message(attempt: &AttemptDir) -> Option<String> {
    use std::io::Read;
    let mut content = Vec::new();
    std::fs::File::open(attempt.termination())
        .ok()?
        .take(MAX_MESSAGE as u64)
        .read_to_end(&mut content)
        .ok()?;
    let text = String::from_utf8_lossy(&content).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// Runs a container's probes: the startup probe first, then readiness and
/// liveness beside each other.
pub(super) async fn run_probes(container: Container, target: Target, reporter: Reporter) {
    if let Some(startup) = &container.startup_probe {
        if !wait_started(startup, &target, &reporter).await {
            return;
        }
        reporter.send(What::Started).await;
    }
    let readiness = async {
        if let Some(probe) = &container.readiness_probe {
            watch_readiness(probe, &target, &reporter).await;
        }
    };
    let liveness = async {
        if let Some(probe) = &container.liveness_probe {
            watch_liveness(probe, &target, &reporter).await;
        }
    };
    tokio::join!(readiness, liveness);
}

async fn initial_delay(probe: &Probe) {
    if let Some(delay) = probe
        .initial_delay_seconds
        .and_then(|delay| u64::try_from(delay).ok())
        .filter(|delay| *delay > 0)
    {
        tokio::time::sleep(Duration::from_secs(delay)).await;
    }
}

async fn wait_started(probe: &Probe, target: &Target, reporter: &Reporter) -> bool {
    initial_delay(probe).await;
    let mut thresholds = Thresholds::new(probe);
    let mut schedule = Schedule::new(probe, true);
    loop {
        let result = probe::check(probe, target).await;
        let (counts, wait) = schedule.next(result.is_ok(), Instant::now());
        if counts {
            match (thresholds.add(result.is_ok()), result) {
                (Some(true), _) => return true,
                (Some(false), Err(message)) => {
                    let reason = "startup probe failed";
                    reporter.send(unhealthy(reason, message, probe)).await;
                    return false;
                }
                _ => {}
            }
        }
        tokio::time::sleep(wait).await;
    }
}

async fn watch_readiness(probe: &Probe, target: &Target, reporter: &Reporter) {
    initial_delay(probe).await;
    let mut thresholds = Thresholds::new(probe);
    let mut schedule = Schedule::new(probe, true);
    let mut told = false;
    loop {
        let result = probe::check(probe, target).await;
        let (counts, wait) = schedule.next(result.is_ok(), Instant::now());
        if counts
            && let Some(ready) = thresholds.add(result.is_ok())
            && ready != told
        {
            told = ready;
            reporter.send(What::Ready(ready, result.err())).await;
        }
        tokio::time::sleep(wait).await;
    }
}

async fn watch_liveness(probe: &Probe, target: &Target, reporter: &Reporter) {
    initial_delay(probe).await;
    let mut thresholds = Thresholds::new(probe);
    let mut schedule = Schedule::new(probe, false);
    loop {
        tokio::time::sleep(schedule.next(true, Instant::now()).1).await;
        let result = probe::check(probe, target).await;
        if let (Some(false), Err(message)) = (thresholds.add(result.is_ok()), result) {
            let reason = "liveness probe failed";
            reporter.send(unhealthy(reason, message, probe)).await;
            return;
        }
    }
}

fn unhealthy(reason: &'static str, message: String, probe: &Probe) -> What {
    What::Unhealthy {
        reason,
        message,
        grace: probe
            .termination_grace_period_seconds
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map(Duration::from_secs),
    }
}

/// Runs a lifecycle hook.
pub(super) async fn run_hook(
    hook: &LifecycleHandler,
    target: &Target,
    limit: Duration,
) -> Result<(), String> {
    let work = async {
        if let Some(action) = &hook.exec {
            let command = action.command.as_deref().unwrap_or_default();
            return match exec::run(&target.exec, command, limit).await {
                Ok((0, _)) => Ok(()),
                Ok((code, output)) => Err(format!("the command exited with {code}: {output}")),
                Err(error) => Err(error.to_string()),
            };
        }
        if let Some(action) = &hook.http_get {
            return probe::http_get(action, target).await;
        }
        if let Some(action) = &hook.sleep {
            let seconds = u64::try_from(action.seconds).unwrap_or(0);
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        }
        Ok(())
    };
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(format!("it did not end within {} s", limit.as_secs())))
}

/// Stops a container: hook, signal, patience, kill. Its end is reported by
/// [`watch_exit`], which cancels `gone`.
pub(super) async fn stop(
    container: Container,
    target: Target,
    started: Started,
    grace: Duration,
    gone: CancellationToken,
) {
    let deadline = Instant::now() + grace;
    let lifecycle = container.lifecycle.as_ref();
    if let Some(hook) = lifecycle.and_then(|lifecycle| lifecycle.pre_stop.as_ref())
        && !grace.is_zero()
    {
        let result = tokio::select! {
            () = gone.cancelled() => return,
            result = run_hook(hook, &target, grace) => result,
        };
        if let Err(error) = result {
            tracing::warn!(container = container.name, error, "preStop hook failed");
        }
    }
    let signal = lifecycle
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref())
        .and_then(|name| name.parse::<Signal>().ok())
        .unwrap_or(Signal::SIGTERM);
    if !grace.is_zero() {
        process::signal_group(&started, signal);
    }
    tokio::select! {
        () = gone.cancelled() => return,
        () = tokio::time::sleep_until(deadline) => {}
    }
    process::signal_group(&started, Signal::SIGKILL);
}
