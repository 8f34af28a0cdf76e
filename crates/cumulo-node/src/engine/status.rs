//! A pod's status from what is observed: pure, along the kubelet's rules.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodSpec, PodStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::{Deserialize, Serialize};

use super::devices::Told;
use super::lifecycle::{Failure, RestartPolicy, Role};
use crate::devices::sharing;
use crate::sandbox;

/// The condition of a pod that keeps to its share of a GPU's memory.
const MEMORY_CONDITION: &str = "cumulo.dev/GpuMemoryWithinShare";

/// How a container's run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminated {
    /// Exit code; 128 + signal when killed by one.
    pub exit_code: i32,
    /// The signal.
    pub signal: Option<i32>,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, …
    pub reason: String,
    /// The container's termination message, or why it was killed.
    pub message: Option<String>,
    /// When it was started; `None` when it could not be.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// A container's present state, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Present {
    /// Not running, but going to.
    Waiting {
        /// For programs.
        reason: String,
        /// For people.
        message: Option<String>,
    },
    /// Running.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// Ended for good.
    Terminated(Terminated),
}

/// One container as observed.
#[derive(Debug, Clone)]
pub struct Observed {
    /// What it is to the pod.
    pub role: Role,
    /// What it does now.
    pub present: Present,
    /// How the run before this one ended.
    pub last: Option<Terminated>,
    /// How often it was started again.
    pub restarts: u32,
    /// Startup probe passed.
    pub started: bool,
    /// Readiness probe passes.
    pub ready: bool,
    /// Names the attempt.
    pub id: Option<String>,
}

/// A pod as observed.
#[derive(Debug, Clone)]
pub struct ObservedPod<'a> {
    /// The manifest; its status gives the conditions of others and the times
    /// of earlier transitions.
    pub pod: &'a Pod,
    /// Containers in the order of [`super::lifecycle::containers`].
    pub containers: &'a [Observed],
    /// When the pod was accepted.
    pub started_at: Timestamp,
    /// Its address.
    pub ip: Option<String>,
    /// The node's address.
    pub host_ip: String,
    /// It failed as a whole.
    pub failure: Option<&'a Failure>,
    /// Deletion is under way.
    pub deleting: bool,
    /// Nothing runs and nothing will.
    pub finished: bool,
    /// What the sandboxes of its containers are worth; `None` when none runs.
    pub sandbox: Option<sandbox::Status>,
    /// What it is told of its devices, until it has ended.
    pub devices: Option<&'a Told>,
}

/// Phase of a pod.
pub fn phase(observed: &ObservedPod) -> &'static str {
    let policy = observed
        .pod
        .spec
        .as_ref()
        .map_or(RestartPolicy::Always, RestartPolicy::of);
    let mut pending = false;
    let mut init_failed = false;
    let (mut running, mut waiting, mut stopped, mut succeeded, mut total) = (0, 0, 0, 0, 0);
    for container in observed.containers {
        match (container.role, &container.present) {
            (Role::Init, Present::Terminated(end)) if end.exit_code == 0 => {}
            (Role::Init, Present::Terminated(_)) => {
                init_failed = true;
                pending = true;
            }
            (Role::Init, _) => pending = true,
            (Role::Sidecar, _) if container.started || container.last.is_some() => {}
            (Role::Sidecar, _) => pending = true,
            (Role::Regular, present) => {
                total += 1;
                match present {
                    Present::Running { .. } => running += 1,
                    Present::Terminated(end) => {
                        stopped += 1;
                        succeeded += u32::from(end.exit_code == 0);
                    }
                    Present::Waiting { .. } if container.last.is_some() => stopped += 1,
                    Present::Waiting { .. } => waiting += 1,
                }
            }
        }
    }
    if observed.finished {
        return if observed.failure.is_none() && total > 0 && succeeded == total {
            "Succeeded"
        } else {
            "Failed"
        };
    }
    if (pending && (waiting == total || init_failed) && running == 0 && stopped == 0) || waiting > 0
    {
        return "Pending";
    }
    if running > 0 || policy == RestartPolicy::Always || stopped != total {
        return "Running";
    }
    // Regular containers are over, sidecars are still ending.
    "Running"
}

/// The whole status.
pub fn pod_status(observed: &ObservedPod, now: Timestamp) -> PodStatus {
    let phase = phase(observed);
    let spec = observed.pod.spec.clone().unwrap_or_default();
    let mut init = Vec::new();
    let mut regular = Vec::new();
    for (container, (_, declared)) in observed
        .containers
        .iter()
        .zip(super::lifecycle::containers(&spec))
    {
        let status = container_status(container, declared);
        if container.role == Role::Regular {
            regular.push(status);
        } else {
            init.push(status);
        }
    }
    let previous = observed.pod.status.as_ref();
    PodStatus {
        phase: Some(phase.to_owned()),
        reason: observed.failure.map(|failure| failure.reason.clone()),
        message: observed.failure.map(|failure| failure.message.clone()),
        start_time: Some(time(observed.started_at)),
        host_ip: Some(observed.host_ip.clone()),
        host_ips: Some(vec![HostIP {
            ip: observed.host_ip.clone(),
        }]),
        pod_ip: observed.ip.clone(),
        pod_ips: observed.ip.clone().map(|ip| vec![PodIP { ip }]),
        qos_class: Some(
            previous
                .and_then(|status| status.qos_class.clone())
                .unwrap_or_else(|| quality_of_service(&spec).to_owned()),
        ),
        conditions: Some(conditions(observed, phase, now)),
        container_statuses: Some(regular),
        init_container_statuses: (!init.is_empty()).then_some(init),
        observed_generation: observed.pod.metadata.generation,
        ..PodStatus::default()
    }
}

fn time(at: Timestamp) -> Time {
    // Kubernetes times have whole seconds.
    Time(Timestamp::from_second(at.as_second()).unwrap_or(at))
}

fn terminated(end: &Terminated, id: Option<&String>) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: id.cloned(),
        exit_code: end.exit_code,
        signal: end.signal,
        reason: Some(end.reason.clone()),
        message: end.message.clone(),
        started_at: end.started_at.map(time),
        finished_at: Some(time(end.finished_at)),
    }
}

fn container_status(
    container: &Observed,
    declared: &k8s_openapi::api::core::v1::Container,
) -> ContainerStatus {
    let state = match &container.present {
        Present::Waiting { reason, message } => ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.clone()),
                message: message.clone(),
            }),
            ..ContainerState::default()
        },
        Present::Running { started_at } => ContainerState {
            running: Some(ContainerStateRunning {
                started_at: Some(time(*started_at)),
            }),
            ..ContainerState::default()
        },
        Present::Terminated(end) => ContainerState {
            terminated: Some(terminated(end, container.id.as_ref())),
            ..ContainerState::default()
        },
    };
    let ready = match container.role {
        // A finished init container counts as ready, as with the kubelet.
        Role::Init => {
            matches!(&container.present, Present::Terminated(end) if end.exit_code == 0)
        }
        _ => container.ready && matches!(container.present, Present::Running { .. }),
    };
    let image = declared.image.clone().unwrap_or_default();
    ContainerStatus {
        name: declared.name.clone(),
        image_id: image.clone(),
        image,
        container_id: container.id.clone(),
        ready,
        started: Some(container.started && matches!(container.present, Present::Running { .. })),
        restart_count: i32::try_from(container.restarts).unwrap_or(i32::MAX),
        state: Some(state),
        last_state: container.last.as_ref().map(|end| ContainerState {
            terminated: Some(terminated(end, None)),
            ..ContainerState::default()
        }),
        ..ContainerStatus::default()
    }
}

/// Conditions that are the kubelet's; those of others may have changed since.
const OWN: [&str; 7] = [
    "PodReadyToStartContainers",
    "Initialized",
    "ContainersReady",
    "Ready",
    sandbox::CONDITION,
    sharing::CONDITION,
    MEMORY_CONDITION,
];
/// The scheduler's, or the kubelet's where nobody scheduled.
const SCHEDULED: &str = "PodScheduled";

/// Puts the kubelet's own conditions as they were published in place of those that are there.
pub fn restore(conditions: &mut Vec<PodCondition>, published: &[PodCondition]) {
    for known in published {
        let own = OWN.contains(&known.type_.as_str());
        match conditions
            .iter_mut()
            .find(|other| other.type_ == known.type_)
        {
            Some(there) if own => *there = known.clone(),
            None if own || known.type_ == SCHEDULED => conditions.push(known.clone()),
            _ => {}
        }
    }
}

/// The kubelet's own conditions; those of others are kept as they are.
fn conditions(observed: &ObservedPod, phase: &str, now: Timestamp) -> Vec<PodCondition> {
    let names = |wanted: &dyn Fn(&Observed) -> bool| -> Vec<String> {
        let spec = observed.pod.spec.as_ref();
        spec.map(|spec| {
            super::lifecycle::containers(spec)
                .zip(observed.containers)
                .filter(|(_, container)| wanted(container))
                .map(|((_, declared), _)| declared.name.clone())
                .collect()
        })
        .unwrap_or_default()
    };
    let uninitialized = names(&|container| match container.role {
        Role::Init => !matches!(&container.present, Present::Terminated(end) if end.exit_code == 0),
        Role::Sidecar => !container.started && container.last.is_none(),
        Role::Regular => false,
    });
    let unready = names(&|container| match container.role {
        Role::Init => false,
        _ => !(container.ready && matches!(container.present, Present::Running { .. })),
    });
    let over = matches!(phase, "Succeeded" | "Failed");
    let initialized = if uninitialized.is_empty() {
        (true, phase == "Succeeded", String::new())
    } else {
        (
            false,
            false,
            format!(
                "containers with incomplete status: [{}]",
                uninitialized.join(" ")
            ),
        )
    };
    let ready = unready.is_empty() && initialized.0 && !over && !observed.deleting;
    let (reason, message) = match (ready, phase) {
        (true, _) => (None, None),
        (_, "Succeeded") => (Some("PodCompleted".to_owned()), None),
        (_, "Failed") => (Some("PodFailed".to_owned()), None),
        _ if unready.is_empty() => (Some("PodTerminating".to_owned()), None),
        _ => (
            Some("ContainersNotReady".to_owned()),
            Some(format!(
                "containers with unready status: [{}]",
                unready.join(" ")
            )),
        ),
    };
    let mut own = vec![
        condition(
            "PodReadyToStartContainers",
            observed.ip.is_some() && !over,
            None,
            None,
        ),
        condition(
            "Initialized",
            initialized.0,
            match initialized {
                (true, true, _) => Some("PodCompleted".to_owned()),
                (false, ..) => Some("ContainersNotInitialized".to_owned()),
                _ => None,
            },
            (!initialized.2.is_empty()).then(|| initialized.2.clone()),
        ),
    ];
    for kind in ["ContainersReady", "Ready"] {
        own.push(condition(kind, ready, reason.clone(), message.clone()));
    }
    if let Some(status) = &observed.sandbox {
        own.push(condition(
            sandbox::CONDITION,
            status.sandboxed,
            Some(status.reason.clone()),
            Some(status.message.clone()),
        ));
    }
    if let Some(worth) = observed.devices.and_then(|told| told.worth.as_ref()) {
        own.push(condition(
            sharing::CONDITION,
            worth.enforced,
            Some(worth.reason.to_owned()),
            Some(worth.message.clone()),
        ));
        let excess = observed
            .devices
            .and_then(|told| told.verdict.excess.as_ref());
        own.push(match excess {
            Some(excess) => condition(
                MEMORY_CONDITION,
                false,
                Some("GpuMemoryExceeded".to_owned()),
                Some(format!("the pod {excess}")),
            ),
            None => condition(MEMORY_CONDITION, true, Some("WithinShare".to_owned()), None),
        });
    }
    let previous: Vec<PodCondition> = observed
        .pod
        .status
        .as_ref()
        .and_then(|status| status.conditions.clone())
        .unwrap_or_default();
    if !previous.iter().any(|other| other.type_ == SCHEDULED) {
        own.push(condition(SCHEDULED, true, None, None));
    }
    for condition in &mut own {
        condition.observed_generation = observed.pod.metadata.generation;
        condition.last_transition_time = previous
            .iter()
            .find(|other| other.type_ == condition.type_ && other.status == condition.status)
            .and_then(|other| other.last_transition_time.clone())
            .or_else(|| Some(time(now)));
    }
    let foreign = previous
        .into_iter()
        .filter(|other| !own.iter().any(|condition| condition.type_ == other.type_))
        .collect::<Vec<_>>();
    own.extend(foreign);
    own
}

fn condition(
    kind: &str,
    holds: bool,
    reason: Option<String>,
    message: Option<String>,
) -> PodCondition {
    PodCondition {
        type_: kind.to_owned(),
        status: if holds { "True" } else { "False" }.to_owned(),
        reason,
        message,
        ..PodCondition::default()
    }
}

/// The pod's class of service: `Guaranteed` when every container's limits of
/// cpu and memory equal its requests, `BestEffort` when none has either.
fn quality_of_service(spec: &PodSpec) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for (_, container) in super::lifecycle::containers(spec) {
        let resources = container.resources.clone().unwrap_or_default();
        let limits = resources.limits.unwrap_or_default();
        let requests = resources.requests.unwrap_or_default();
        any |= !limits.is_empty() || !requests.is_empty();
        for resource in ["cpu", "memory"] {
            guaranteed &= match (limits.get(resource), requests.get(resource)) {
                (Some(limit), Some(request)) => {
                    crate::quantity::milli(limit) == crate::quantity::milli(request)
                }
                (Some(_), None) => true,
                _ => false,
            };
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}
