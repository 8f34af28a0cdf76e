//! The task that owns one pod.

mod adopt;
mod live;
mod publish;
mod refusal;
mod start;

pub(super) use refusal::refusal;

use std::collections::BTreeMap;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodStatus};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::lifecycle::{self, BackOff, Failure, RestartPolicy, Role, State, View};
use super::probe::Target;
use super::status::Terminated;
use super::tasks::{Event, What};
use super::{Desired, Notice, Shared, Snapshot, volumes};
use crate::record::{AttemptDir, Exit, Started, read_json, write_json};
use crate::{address, process, quantity};

/// The manifest as last seen, in the pod's folder.
pub(super) const POD_FILE: &str = "pod.json";
/// What the engine remembers about the pod.
const STATE_FILE: &str = "state.json";
/// Grace for a pod whose object is gone already.
const REMOVAL_GRACE: Duration = Duration::from_secs(2);

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodRecord {
    started_at: Timestamp,
    ip: Option<Ipv4Addr>,
    #[serde(default)]
    failure: Option<Failure>,
    #[serde(default)]
    finished: bool,
    #[serde(default)]
    containers: BTreeMap<String, ContainerRecord>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerRecord {
    /// The attempt that runs or ended last.
    attempt: Option<u32>,
    restarts: u32,
    /// Ends in a row, see [`BackOff::ends`].
    ends: u32,
    /// How the attempt ended; `None` while it runs.
    ended: Option<Terminated>,
    /// How the one before ended.
    last: Option<Terminated>,
    /// Why the node killed the attempt.
    kill: Option<Failure>,
}

/// A container whose process runs.
struct Live {
    started: Started,
    started_ok: bool,
    ready: bool,
    stop_deadline: Option<Instant>,
    /// Cancelled when the process has ended.
    gone: CancellationToken,
    target: Target,
}

struct Run {
    role: Role,
    declared: Container,
    record: ContainerRecord,
    live: Option<Live>,
    /// Why it cannot be started, since when it was tried how often.
    trouble: Option<(&'static str, String)>,
    tries: u32,
    not_before: Option<Timestamp>,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    uid: String,
    namespace: String,
    name: String,
    folder: PathBuf,
    desired: watch::Receiver<Desired>,
    snapshot: watch::Sender<Option<Snapshot>>,
    spec: PodSpec,
    record: PodRecord,
    runs: Vec<Run>,
    events: mpsc::Receiver<Event>,
    reporter: mpsc::Sender<Event>,
    trouble: Option<String>,
    prepared: bool,
    published: Option<PodStatus>,
    written: Option<Arc<Pod>>,
}

impl Worker {
    pub fn new(
        shared: Arc<Shared>,
        uid: String,
        folder: PathBuf,
        desired: watch::Receiver<Desired>,
        snapshot: watch::Sender<Option<Snapshot>>,
        refused: Option<Failure>,
    ) -> Self {
        let pod = Arc::clone(&desired.borrow().pod);
        let spec = pod.spec.clone().unwrap_or_default();
        let runs = lifecycle::containers(&spec)
            .map(|(role, container)| Run {
                role,
                declared: container.clone(),
                record: ContainerRecord::default(),
                live: None,
                trouble: None,
                tries: 0,
                not_before: None,
            })
            .collect();
        let (reporter, events) = mpsc::channel(64);
        Self {
            uid,
            namespace: pod.metadata.namespace.clone().unwrap_or_default(),
            name: pod.metadata.name.clone().unwrap_or_default(),
            folder,
            desired,
            snapshot,
            spec,
            record: PodRecord {
                started_at: Timestamp::now(),
                ip: None,
                finished: refused.is_some(),
                failure: refused,
                containers: BTreeMap::new(),
            },
            runs,
            events,
            reporter,
            shared,
            trouble: None,
            prepared: false,
            published: None,
            written: None,
        }
    }

    pub async fn run(mut self) {
        let shutdown = self.shared.shutdown.clone();
        loop {
            let wanted = self.desired.borrow_and_update().clone();
            let mut wake_at = None;
            self.write_pod(&wanted.pod);
            if !self.prepared {
                match self.prepare().await {
                    Ok(()) => {
                        self.prepared = true;
                        self.trouble = None;
                    }
                    Err(error) => {
                        tracing::warn!(pod = %self.name, namespace = %self.namespace, %error, "cannot prepare pod");
                        self.trouble = Some(error.to_string());
                        wake_at = Timestamp::now()
                            .saturating_add(SignedDuration::from_secs(2))
                            .ok();
                    }
                }
            }
            let ending = wanted.removed
                || wanted.stop_within.is_some()
                || wanted.pod.metadata.deletion_timestamp.is_some();
            if self.prepared && (!self.record.finished || self.any_live()) {
                match self.step(&wanted, ending).await {
                    Step::Again => continue,
                    Step::WaitUntil(time) => wake_at = time,
                }
            } else if ending && !self.any_live() {
                self.record.finished = true;
            }
            self.publish(&wanted, ending);
            if wanted.removed && !self.any_live() {
                self.clean_up().await;
                return;
            }
            tokio::select! {
                () = shutdown.cancelled() => return,
                changed = self.desired.changed() => if changed.is_err() { return },
                event = self.events.recv() => {
                    if let Some(event) = event {
                        self.handle(event).await;
                    }
                    while let Ok(event) = self.events.try_recv() {
                        self.handle(event).await;
                    }
                }
                () = sleep_until(wake_at) => {}
            }
        }
    }

    fn any_live(&self) -> bool {
        self.runs.iter().any(|run| run.live.is_some())
    }

    /// Plans and takes the next steps.
    async fn step(&mut self, wanted: &Desired, ending: bool) -> Step {
        let now = Timestamp::now();
        let back_off = self.back_off();
        let states: Vec<(Role, State)> = self
            .runs
            .iter()
            .map(|run| (run.role, run.state()))
            .collect();
        let plan = lifecycle::plan(
            &View {
                containers: &states,
                policy: RestartPolicy::of(&self.spec),
                started_at: self.record.started_at,
                deadline: wanted
                    .pod
                    .spec
                    .as_ref()
                    .and_then(|spec| spec.active_deadline_seconds)
                    .map(SignedDuration::from_secs),
                failure: self.record.failure.as_ref(),
                deleting: ending,
                back_off,
            },
            now,
        );
        if let Some(failure) = plan.fail {
            self.notice(None, true, "DeadlineExceeded", failure.message.clone());
            self.record.failure = Some(failure);
            self.save().await;
            return Step::Again;
        }
        let grace = self.grace(wanted);
        for index in plan.stop {
            self.stop(index, grace);
        }
        if ending {
            self.shorten_stops(grace);
        }
        let starting = !plan.start.is_empty();
        for index in plan.start {
            self.start(index).await;
        }
        if plan.finished && !self.record.finished {
            self.record.finished = true;
            self.save().await;
        }
        if starting {
            Step::Again
        } else {
            Step::WaitUntil(plan.wake_at)
        }
    }

    fn back_off(&self) -> BackOff {
        let options = &self.shared.options;
        let signed =
            |duration: Duration| SignedDuration::try_from(duration).unwrap_or(SignedDuration::MAX);
        BackOff {
            base: signed(options.restart_base),
            max: signed(options.restart_max),
            reset: signed(options.restart_reset),
        }
    }

    fn grace(&self, wanted: &Desired) -> Duration {
        let declared = wanted
            .pod
            .metadata
            .deletion_grace_period_seconds
            .or(self.spec.termination_grace_period_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok())
            .map_or(Duration::from_secs(30), Duration::from_secs);
        let declared = match wanted.stop_within {
            Some(limit) => declared.min(limit),
            None => declared,
        };
        if wanted.removed {
            declared.min(REMOVAL_GRACE)
        } else {
            declared
        }
    }

    /// Makes the pod's folder, reads what an earlier engine left, and takes
    /// over what runs.
    async fn prepare(&mut self) -> io::Result<()> {
        let folder = self.folder.clone();
        let known = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(&folder)?;
            read_json::<PodRecord>(&folder.join(STATE_FILE))
        })
        .await
        .map_err(io::Error::other)??;
        if let Some(record) = known {
            self.record = record;
            if let Some(ip) = self.record.ip {
                self.shared.addresses.lock().insert(ip);
            }
            for index in 0..self.runs.len() {
                let name = &self.runs[index].declared.name;
                if let Some(record) = self.record.containers.remove(name) {
                    self.runs[index].record = record;
                    self.adopt(index).await;
                }
            }
        }
        if self.record.ip.is_none() && !self.record.finished {
            self.record.ip = Some(self.choose_address()?);
        }
        self.try_save().await
    }

    fn choose_address(&self) -> io::Result<Ipv4Addr> {
        if self.spec.host_network == Some(true) {
            return Ok(self.shared.options.host_ip);
        }
        let ports: Vec<u16> = self
            .runs
            .iter()
            .flat_map(|run| run.declared.ports.iter().flatten())
            .filter_map(|port| u16::try_from(port.container_port).ok())
            .collect();
        let mut addresses = self.shared.addresses.lock();
        let address = address::choose(&self.uid, &addresses, |address| {
            address::ports_are_free(address, &ports)
        })
        .ok_or_else(|| {
            io::Error::new(
                io::ErrorKind::AddrInUse,
                "no loopback address with the pod's ports free was found",
            )
        })?;
        addresses.insert(address);
        Ok(address)
    }

    fn attempt_dir(&self, index: usize, number: u32) -> AttemptDir {
        let name = &self.runs[index].declared.name;
        let folder = self.shared.container_folder(&self.uid, name);
        AttemptDir(folder.join("attempts").join(number.to_string()))
    }

    fn work_dir(&self, declared: &Container) -> PathBuf {
        let work = self
            .shared
            .container_folder(&self.uid, &declared.name)
            .join("work");
        let inner = declared
            .working_dir
            .as_deref()
            .and_then(|folder| volumes::safe_relative(folder).ok());
        inner.map_or_else(|| work.clone(), |inner| work.join(inner))
    }

    async fn handle(&mut self, event: Event) {
        let index = event.container;
        if self.runs[index].record.attempt != Some(event.attempt) {
            return;
        }
        let name = self.runs[index].declared.name.clone();
        match event.what {
            What::Exited(exit, message) => {
                let begun = self.runs[index]
                    .live
                    .as_ref()
                    .map(|live| live.started.started_at);
                self.ended(index, begun, exit, message);
                self.save().await;
            }
            What::Started => {
                let no_readiness = self.runs[index].declared.readiness_probe.is_none();
                if let Some(live) = &mut self.runs[index].live {
                    live.started_ok = true;
                    live.ready = live.ready || no_readiness;
                }
            }
            What::Ready(ready, message) => {
                if let Some(live) = &mut self.runs[index].live {
                    live.ready = ready;
                }
                if let Some(message) = message {
                    let message = format!("readiness probe failed: {message}");
                    self.notice(Some(&name), true, "Unhealthy", message);
                }
            }
            What::Unhealthy {
                reason,
                message,
                grace,
            } => {
                self.notice(
                    Some(&name),
                    true,
                    "Unhealthy",
                    format!("{reason}: {message}"),
                );
                let wanted = self.desired.borrow().clone();
                let grace = grace.unwrap_or_else(|| self.grace(&wanted));
                let stopping = self.runs[index]
                    .live
                    .as_ref()
                    .is_some_and(|live| live.stop_deadline.is_some());
                if !stopping {
                    self.stop(index, grace);
                }
            }
            What::OverMemory(used) => {
                let limit = memory_limit(&self.runs[index].declared).unwrap_or(0);
                let message = format!(
                    "container {name} used {} of memory, its limit is {}; raise resources.limits.memory or use less",
                    quantity::show_bytes(used),
                    quantity::show_bytes(limit)
                );
                self.runs[index].record.kill = Some(Failure {
                    reason: "OOMKilled".to_owned(),
                    message: message.clone(),
                });
                self.save().await;
                if let Some(live) = &self.runs[index].live {
                    process::signal_group(&live.started, Signal::SIGKILL);
                }
                self.notice(Some(&name), true, "OOMKilled", message);
            }
        }
    }

    /// Notes how a container's attempt ended.
    fn ended(
        &mut self,
        index: usize,
        begun: Option<Timestamp>,
        exit: Exit,
        message: Option<String>,
    ) {
        let back_off = self.back_off();
        let run = &mut self.runs[index];
        if let Some(live) = run.live.take() {
            live.gone.cancel();
        }
        let killed = run.record.kill.take();
        let reason = match &killed {
            Some(kill) => kill.reason.clone(),
            None if exit.start_error.is_some() => "StartError".to_owned(),
            None if exit.unknown => "ContainerStatusUnknown".to_owned(),
            None if exit.exit_code == 0 => "Completed".to_owned(),
            None => "Error".to_owned(),
        };
        let lasted = begun.map_or(SignedDuration::ZERO, |begun| {
            exit.finished_at.duration_since(begun)
        });
        run.record.ends = back_off.ends(run.record.ends, lasted);
        run.record.ended = Some(Terminated {
            exit_code: exit.exit_code,
            signal: exit.signal,
            reason,
            message: killed.map(|kill| kill.message).or(message),
            started_at: begun,
            finished_at: exit.finished_at,
        });
    }

    fn notice(
        &self,
        container: Option<&str>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        tracing::debug!(pod = %self.name, namespace = %self.namespace, container, reason, message, "pod notice");
        // Nobody may be listening.
        let _ = self.shared.notices.send(Notice {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            container: container.map(str::to_owned),
            warning,
            reason,
            message,
        });
    }

    /// Keeps the manifest for an engine that starts while the API is away.
    fn write_pod(&mut self, pod: &Arc<Pod>) {
        if self
            .written
            .as_ref()
            .is_some_and(|written| same_but_status(written, pod))
        {
            return;
        }
        let written = std::fs::create_dir_all(&self.folder)
            .and_then(|()| write_json(&self.folder.join(POD_FILE), pod.as_ref()));
        match written {
            Ok(()) => self.written = Some(Arc::clone(pod)),
            Err(error) => {
                tracing::warn!(pod = %self.name, namespace = %self.namespace, %error, "cannot write the pod's manifest");
            }
        }
    }

    async fn save(&mut self) {
        if let Err(error) = self.try_save().await {
            tracing::warn!(pod = %self.name, namespace = %self.namespace, %error, "cannot write the pod's state");
        }
    }

    async fn try_save(&mut self) -> io::Result<()> {
        self.record.containers = self
            .runs
            .iter()
            .map(|run| (run.declared.name.clone(), run.record.clone()))
            .collect();
        let record = self.record.clone();
        let path = self.folder.join(STATE_FILE);
        tokio::task::spawn_blocking(move || write_json(&path, &record))
            .await
            .map_err(io::Error::other)?
    }

    /// Removes every trace of the pod.
    async fn clean_up(self) {
        let (folder, uid) = (self.folder.clone(), self.uid.clone());
        let work = tokio::task::spawn_blocking(move || {
            process::kill_marked(&format!("{uid}/"));
            std::fs::remove_dir_all(folder)
        });
        match work.await {
            Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(pod = %self.name, namespace = %self.namespace, %error, "cannot remove the pod's folder");
            }
            _ => {}
        }
        if let Some(ip) = self.record.ip {
            self.shared.addresses.lock().remove(&ip);
        }
        self.shared.pods.lock().remove(&self.uid);
    }
}

enum Step {
    Again,
    WaitUntil(Option<Timestamp>),
}

impl Run {
    fn state(&self) -> State {
        match (&self.live, &self.record.ended) {
            (Some(live), _) => State::Running {
                started: live.started_ok,
                stopping: live.stop_deadline.is_some(),
            },
            (None, Some(ended)) => State::Terminated {
                exit_code: ended.exit_code,
                // A start that lacks something is tried again no earlier.
                finished_at: self
                    .not_before
                    .map_or(ended.finished_at, |time| time.max(ended.finished_at)),
                ends: self.record.ends,
            },
            (None, None) => State::Waiting {
                not_before: self.not_before,
            },
        }
    }
}

fn falls_back(declared: &Container) -> bool {
    declared.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
}

fn memory_limit(declared: &Container) -> Option<u64> {
    let limits = declared.resources.as_ref()?.limits.as_ref()?;
    quantity::whole(limits.get("memory")?).filter(|limit| *limit > 0)
}

/// Compares what matters for running the pod.
fn same_but_status(one: &Pod, other: &Pod) -> bool {
    one.spec == other.spec
        && one.metadata.deletion_timestamp == other.metadata.deletion_timestamp
        && one.metadata.deletion_grace_period_seconds
            == other.metadata.deletion_grace_period_seconds
        && one.metadata.labels == other.metadata.labels
        && one.metadata.annotations == other.metadata.annotations
}

async fn until_gone(
    work: impl Future<Output = ()>,
    gone: CancellationToken,
    shutdown: CancellationToken,
) {
    tokio::select! {
        () = work => {}
        () = gone.cancelled() => {}
        () = shutdown.cancelled() => {}
    }
}

async fn sleep_until(time: Option<Timestamp>) {
    match time {
        Some(time) => {
            let wait = time.duration_since(Timestamp::now());
            let wait = Duration::try_from(wait).unwrap_or(Duration::ZERO);
            // Timers have millisecond resolution; waking early would spin.
            tokio::time::sleep(wait + Duration::from_millis(1)).await;
        }
        None => std::future::pending().await,
    }
}
