//! The task that owns one pod.

mod adopt;
mod devices;
mod events;
mod kept;
mod live;
mod publish;
mod refusal;
mod start;

pub(super) use devices::adopt_devices;
pub(super) use kept::POD_FILE;
pub(super) use refusal::refusal;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod, PodCondition, PodSpec};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::devices::Told;
use super::lifecycle::{self, BackOff, Failure, RestartPolicy, Role, State, View};
use super::probe::Target;
use super::tasks::Event;
use super::{Desired, Shared, Snapshot, volumes};
use crate::quantity;
use crate::record::{AttemptDir, Started};
use kept::{ContainerRecord, PodRecord};

/// Grace for a pod whose object is gone already.
const REMOVAL_GRACE: Duration = Duration::from_secs(2);

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
    /// The conditions that were last said.
    published: Vec<PodCondition>,
    /// What was last done about its devices.
    heeded: Told,
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
                devices: Vec::new(),
                containers: BTreeMap::new(),
            },
            runs,
            events,
            reporter,
            shared,
            trouble: None,
            prepared: false,
            published: Vec::new(),
            heeded: Told::default(),
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
            self.heed(&wanted.devices).await;
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
            if self.record.finished && !self.any_live() {
                self.free_devices();
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
        if wanted.drained && self.record.failure.is_none() && !self.record.finished {
            self.record.failure = Some(lifecycle::Failure {
                reason: "Terminated".to_owned(),
                message: "the pod was ended because its node is going down".to_owned(),
            });
            self.save().await;
        }
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
