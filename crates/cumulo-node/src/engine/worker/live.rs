//! Watching and stopping a container whose process runs.

use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Live, Worker, falls_back, memory_limit, until_gone};
use crate::engine::exec::ExecTarget;
use crate::engine::probe::Target;
use crate::engine::start::mark;
use crate::engine::tasks::{self, Reporter, What};
use crate::engine::{disk, limits, usage};
use crate::process;
use crate::record::Started;
use crate::sandbox::Policy;

/// A postStart hook may take this long.
const POST_START_LIMIT: Duration = Duration::from_secs(600);

impl Worker {
    /// A container's process runs: watches it.
    pub(super) fn went_live(
        &mut self,
        index: usize,
        number: u32,
        started: Started,
        env: Vec<(String, String)>,
        policy: Option<Arc<Policy>>,
        adopted: bool,
    ) {
        let attempt = self.attempt_dir(index, number);
        let declared = self.runs[index].declared.clone();
        let gone = CancellationToken::new();
        let reporter = Reporter {
            container: index,
            attempt: number,
            events: self.reporter.clone(),
        };
        let target = Target::new(
            &declared,
            ExecTarget {
                env: env.into(),
                work_dir: self.work_dir(&declared),
                policy,
            },
            self.record.ip.unwrap_or(self.shared.options.host_ip),
            self.shared.http.clone(),
        );
        let tracker = &self.shared.tracker;
        let shutdown = self.shared.shutdown.clone();
        let exit = tasks::watch_exit(
            attempt,
            started.clone(),
            mark(&self.uid, &declared.name, number),
            falls_back(&declared),
            reporter.clone(),
        );
        tracker.spawn({
            let shutdown = shutdown.clone();
            async move {
                tokio::select! {
                    () = exit => {}
                    () = shutdown.cancelled() => {}
                }
            }
        });
        if declared.startup_probe.is_some()
            || declared.readiness_probe.is_some()
            || declared.liveness_probe.is_some()
        {
            let probes = tasks::run_probes(declared.clone(), target.clone(), reporter.clone());
            tracker.spawn(until_gone(probes, gone.clone(), shutdown.clone()));
        }
        if let Some(hook) = declared
            .lifecycle
            .as_ref()
            .and_then(|hooks| hooks.post_start.clone())
            && !adopted
        {
            let (target, reporter) = (target.clone(), reporter.clone());
            let work = async move {
                if let Err(message) = tasks::run_hook(&hook, &target, POST_START_LIMIT).await {
                    let reason = "postStart hook failed";
                    reporter
                        .send(What::Unhealthy {
                            reason,
                            message,
                            grace: None,
                        })
                        .await;
                }
            };
            tracker.spawn(until_gone(work, gone.clone(), shutdown.clone()));
        }
        let most = usage::Most {
            memory: memory_limit(&declared),
            tasks: self.shared.options.max_tasks,
        };
        if most.memory.is_some() || most.tasks.is_some() {
            let exceeded = self
                .shared
                .sampler
                .watch(started.supervisor, most, gone.clone());
            let reporter = reporter.clone();
            let work = async move {
                if let Ok(excess) = exceeded.await {
                    reporter.send(What::Excess(excess)).await;
                }
            };
            tracker.spawn(until_gone(work, gone.clone(), shutdown.clone()));
        }
        let quotas = limits::quotas(&self.spec, &declared, &self.folder);
        if !quotas.is_empty() {
            let interval = self.shared.options.disk_interval;
            let work = async move {
                let message = disk::exceeded(quotas, interval).await;
                reporter.send(What::OverDisk(message)).await;
            };
            tracker.spawn(until_gone(work, gone.clone(), shutdown));
        }
        if adopted && !self.record.devices.is_empty() {
            // The engine before may have paused it.
            process::signal_group(&started, Signal::SIGCONT);
        }
        let started_ok = declared.startup_probe.is_none();
        self.runs[index].live = Some(Live {
            started,
            started_ok,
            ready: started_ok && declared.readiness_probe.is_none(),
            stop_deadline: None,
            gone,
            target,
        });
    }

    pub(super) fn stop(&mut self, index: usize, grace: Duration) {
        let run = &mut self.runs[index];
        let Some(live) = &mut run.live else {
            return;
        };
        live.stop_deadline = Some(Instant::now() + grace);
        // One that was paused could not end.
        if self.heeded.verdict.paused {
            process::signal_group(&live.started, Signal::SIGCONT);
        }
        let work = tasks::stop(
            run.declared.clone(),
            live.target.clone(),
            live.started.clone(),
            grace,
            live.gone.clone(),
        );
        let shutdown = self.shared.shutdown.clone();
        self.shared.tracker.spawn(async move {
            tokio::select! {
                () = work => {}
                () = shutdown.cancelled() => {}
            }
        });
        let name = self.runs[index].declared.name.clone();
        let message = format!("stopping container {name}");
        self.notice(Some(&name), false, "Killing", message);
    }

    /// A second deletion may grant less grace than the first.
    pub(super) fn shorten_stops(&mut self, grace: Duration) {
        let deadline = Instant::now() + grace;
        for run in &mut self.runs {
            let Some(live) = &mut run.live else { continue };
            let Some(before) = live.stop_deadline else {
                continue;
            };
            if deadline + Duration::from_millis(500) >= before {
                continue;
            }
            live.stop_deadline = Some(deadline);
            let (started, gone) = (live.started.clone(), live.gone.clone());
            let work = async move {
                tokio::time::sleep_until(deadline).await;
                process::signal_group(&started, Signal::SIGKILL);
            };
            let shutdown = self.shared.shutdown.clone();
            self.shared.tracker.spawn(until_gone(work, gone, shutdown));
        }
    }
}
