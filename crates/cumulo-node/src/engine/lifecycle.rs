//! What a pod does next: pure, from what is wanted and what is observed to
//! the next steps.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde::{Deserialize, Serialize};

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Runs to its end before the next container starts.
    Init,
    /// An init container with `restartPolicy: Always`: started in its turn,
    /// runs beside the others, ends after them.
    Sidecar,
    /// One of `spec.containers`.
    Regular,
}

/// When containers are started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartPolicy {
    /// Whatever their exit code.
    Always,
    /// When they exit with another code than 0.
    OnFailure,
    /// Never.
    Never,
}

impl RestartPolicy {
    /// The policy of a pod.
    pub fn of(spec: &PodSpec) -> Self {
        match spec.restart_policy.as_deref() {
            Some("Never") => Self::Never,
            Some("OnFailure") => Self::OnFailure,
            _ => Self::Always,
        }
    }

    /// Whether a container in this role is started again after its end.
    pub fn restarts(self, role: Role, exit_code: i32) -> bool {
        match (role, self) {
            (Role::Sidecar, _) => true,
            (_, Self::Never) => false,
            (Role::Init, _) | (_, Self::OnFailure) => exit_code != 0,
            (_, Self::Always) => true,
        }
    }
}

/// All containers of a pod in the order in which they start.
pub fn containers(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| {
        match container.restart_policy.as_deref() {
            Some("Always") => (Role::Sidecar, container),
            _ => (Role::Init, container),
        }
    });
    init.chain(
        spec.containers
            .iter()
            .map(|container| (Role::Regular, container)),
    )
}

/// How fast containers are started again.
#[derive(Debug, Clone, Copy)]
pub struct BackOff {
    /// The wait before the second restart; doubled for each further one. The
    /// first restart is immediate.
    pub base: SignedDuration,
    /// The longest wait.
    pub max: SignedDuration,
    /// A container that ran this long starts over at `base`.
    pub reset: SignedDuration,
}

impl BackOff {
    /// The wait after so many ends in a row.
    pub fn delay(&self, ends: u32) -> SignedDuration {
        if ends <= 1 {
            return SignedDuration::ZERO;
        }
        let factor = 1i32.checked_shl(ends - 2).filter(|factor| *factor > 0);
        factor
            .and_then(|factor| self.base.checked_mul(factor))
            .map_or(self.max, |delay| delay.min(self.max))
    }

    /// The number of ends in a row after a run that lasted so long.
    pub fn ends(&self, before: u32, lasted: SignedDuration) -> u32 {
        if lasted >= self.reset {
            1
        } else {
            before.saturating_add(1)
        }
    }
}

/// A container as the engine sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Not started yet, or a start failed before any process existed; not
    /// tried again before `not_before`.
    Waiting {
        /// When the start may be tried again.
        not_before: Option<Timestamp>,
    },
    /// Its process runs.
    Running {
        /// Its startup probe has passed, or it has none.
        started: bool,
        /// It was told to stop.
        stopping: bool,
    },
    /// Its process has ended.
    Terminated {
        /// Exit code.
        exit_code: i32,
        /// When it ended.
        finished_at: Timestamp,
        /// How often in a row, see [`BackOff::ends`].
        ends: u32,
    },
}

/// A reason to fail the whole pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// For programs, in CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

/// Everything that a plan depends on.
#[derive(Debug, Clone)]
pub struct View<'a> {
    /// Role and state of every container, in the order in which they start.
    pub containers: &'a [(Role, State)],
    /// The pod's restart policy.
    pub policy: RestartPolicy,
    /// When the pod was accepted.
    pub started_at: Timestamp,
    /// `spec.activeDeadlineSeconds`.
    pub deadline: Option<SignedDuration>,
    /// Set when the pod has already failed as a whole.
    pub failure: Option<&'a Failure>,
    /// The pod is being deleted.
    pub deleting: bool,
    /// Restart timing.
    pub back_off: BackOff,
}

/// The next steps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Containers to start now, by index.
    pub start: Vec<usize>,
    /// Containers to stop now, by index.
    pub stop: Vec<usize>,
    /// The pod fails as a whole from now on.
    pub fail: Option<Failure>,
    /// Nothing runs and nothing will.
    pub finished: bool,
    /// When to plan again if nothing happens before.
    pub wake_at: Option<Timestamp>,
}

/// Plans a pod's next steps.
pub fn plan(view: &View, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let running = view
        .containers
        .iter()
        .any(|(_, state)| matches!(state, State::Running { .. }));

    if view.failure.is_none()
        && !view.deleting
        && let Some(limit) = view.deadline
    {
        let until = view.started_at.saturating_add(limit).unwrap_or(now);
        if until <= now {
            if running || !all_done(view) {
                plan.fail = Some(Failure {
                    reason: "DeadlineExceeded".to_owned(),
                    message: format!(
                        "the pod was active longer than its activeDeadlineSeconds of {}",
                        limit.as_secs()
                    ),
                });
            }
        } else {
            plan.wake_at = Some(until);
        }
    }

    if view.failure.is_some() || plan.fail.is_some() || view.deleting {
        plan.wake_at = None;
        stop_in_order(view, &mut plan);
        plan.finished = !running;
        return plan;
    }

    // Init containers and sidecars, one after the other.
    let mut initialized = true;
    for (index, (role, state)) in view.containers.iter().enumerate() {
        match role {
            Role::Regular => {}
            Role::Init => match state {
                State::Terminated { exit_code: 0, .. } => {}
                State::Terminated { exit_code, .. } if !view.policy.restarts(*role, *exit_code) => {
                    stop_in_order(view, &mut plan);
                    plan.finished = !running;
                    return plan;
                }
                _ => {
                    initialized = false;
                    start_when_due(view, index, now, &mut plan);
                    break;
                }
            },
            Role::Sidecar => match state {
                State::Running { started: true, .. } => {}
                // It was up before; the others do not wait for it again.
                State::Terminated { .. } if regular_began(view) => {
                    if !all_done(view) {
                        start_when_due(view, index, now, &mut plan);
                    }
                }
                _ => {
                    if !regular_began(view) {
                        initialized = false;
                    }
                    start_when_due(view, index, now, &mut plan);
                    if !initialized {
                        break;
                    }
                }
            },
        }
    }
    if !initialized {
        return plan;
    }
    if all_done(view) {
        plan.start.clear();
        plan.wake_at = None;
        stop_in_order(view, &mut plan);
        plan.finished = !running;
        return plan;
    }
    for (index, (role, _)) in view.containers.iter().enumerate() {
        if *role == Role::Regular {
            start_when_due(view, index, now, &mut plan);
        }
    }
    plan
}

/// Regular containers were started at least once, so the pod is initialized.
fn regular_began(view: &View) -> bool {
    view.containers
        .iter()
        .any(|(role, state)| *role == Role::Regular && !matches!(state, State::Waiting { .. }))
}

/// All regular containers have ended for good.
fn all_done(view: &View) -> bool {
    view.containers
        .iter()
        .all(|(role, state)| match (role, state) {
            (Role::Regular, State::Terminated { exit_code, .. }) => {
                !view.policy.restarts(*role, *exit_code)
            }
            (Role::Regular, _) => false,
            _ => true,
        })
}

/// When a container that does not run may start (again), if it may at all.
pub fn due_at(role: Role, state: &State, policy: RestartPolicy, back_off: &BackOff) -> Due {
    match state {
        State::Running { .. } => Due::Never,
        State::Waiting { not_before: None } => Due::Now,
        State::Waiting {
            not_before: Some(time),
        } => Due::At(*time),
        State::Terminated {
            exit_code,
            finished_at,
            ends,
        } => {
            if policy.restarts(role, *exit_code) {
                Due::At(
                    finished_at
                        .saturating_add(back_off.delay(*ends))
                        .unwrap_or(*finished_at),
                )
            } else {
                Due::Never
            }
        }
    }
}

/// When a container may start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// Not before.
    At(Timestamp),
    /// It runs, or has ended for good.
    Never,
}

fn start_when_due(view: &View, index: usize, now: Timestamp, plan: &mut Plan) {
    let Some((role, state)) = view.containers.get(index) else {
        return;
    };
    match due_at(*role, state, view.policy, &view.back_off) {
        Due::Now => plan.start.push(index),
        Due::At(time) if time <= now => plan.start.push(index),
        Due::At(time) => {
            plan.wake_at = Some(plan.wake_at.map_or(time, |other| other.min(time)));
        }
        Due::Never => {}
    }
}

/// Regular and init containers stop together; sidecars after them, the last
/// started first.
fn stop_in_order(view: &View, plan: &mut Plan) {
    let mut others_run = false;
    for (index, (role, state)) in view.containers.iter().enumerate() {
        if let (Role::Regular | Role::Init, State::Running { stopping, .. }) = (role, state) {
            others_run = true;
            if !stopping {
                plan.stop.push(index);
            }
        }
    }
    if others_run {
        return;
    }
    for (index, (role, state)) in view.containers.iter().enumerate().rev() {
        if let (Role::Sidecar, State::Running { stopping, .. }) = (role, state) {
            if !stopping {
                plan.stop.push(index);
            }
            return;
        }
    }
}
