//! What is asked for: pods, gangs, what runs and what waits.

use std::collections::BTreeMap;

use super::problem::{Resources, Seconds, TaintEffect};

/// Work that starts and ends as one: a pod, or a gang of pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name, for reasons; unique among running and waiting work.
    pub name: String,
    /// The queue it is in.
    pub queue: String,
    /// Higher goes first in its queue.
    pub priority: i32,
    /// When it began to wait.
    pub arrival: Seconds,
    /// When it should have ended; the earlier goes first among equal priorities.
    pub deadline: Option<Seconds>,
    /// How long it is expected to run once it started.
    pub estimate: Option<Seconds>,
    /// Its pods. A single pod is one group of exactly one.
    pub members: Vec<Members>,
    /// How near its pods must be, and should be, to each other.
    pub topology: Topology,
    /// Whether it may be ended for others.
    pub preemptible: bool,
    /// Whether others may be ended for it.
    pub preempts: bool,
    /// Whether its pods can be started elsewhere without losing work.
    pub movable: bool,
    /// Labels that affinity and spread of others look at.
    pub labels: BTreeMap<String, String>,
    /// Nearness to, or distance from, other work.
    pub affinity: Vec<Affinity>,
    /// Evenness over domains.
    pub spread: Vec<Spread>,
}

impl Job {
    /// A job of one pod, of priority 0, that arrived at 0 and may not be preempted.
    #[must_use]
    pub fn pod(name: &str, queue: &str, pod: Pod) -> Self {
        Self::gang(name, queue, pod, 1, 1)
    }

    /// A job of `min` to `max` equal pods.
    #[must_use]
    pub fn gang(name: &str, queue: &str, pod: Pod, min: u32, max: u32) -> Self {
        Self {
            name: name.to_owned(),
            queue: queue.to_owned(),
            priority: 0,
            arrival: 0,
            deadline: None,
            estimate: None,
            members: vec![Members { pod, min, max }],
            topology: Topology::default(),
            preemptible: false,
            preempts: true,
            movable: false,
            labels: BTreeMap::new(),
            affinity: Vec::new(),
            spread: Vec::new(),
        }
    }
}

/// Equal pods of a job.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Members {
    /// What each asks.
    pub pod: Pod,
    /// Without this many the job does not start.
    pub min: u32,
    /// More than this many are of no use.
    pub max: u32,
}

/// What one pod asks of one node.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Pod {
    /// CPU, memory and other countables.
    pub resources: Resources,
    /// Devices.
    pub devices: Vec<DeviceRequest>,
    /// All must hold of the node.
    pub selector: Vec<Requirement>,
    /// Each that does not hold makes a node worse by its weight.
    pub preferred: Vec<Preference>,
    /// Taints it puts up with.
    pub tolerations: Vec<Toleration>,
    /// Regions it may run in; none listed: all.
    pub regions: Vec<String>,
}

impl Pod {
    /// A pod that asks CPU (thousandths) and memory (bytes) only.
    #[must_use]
    pub fn new(cpu: u64, memory: u64) -> Self {
        Self {
            resources: Resources::new(cpu, memory),
            ..Self::default()
        }
    }

    /// The same with one more device request.
    #[must_use]
    pub fn with(mut self, request: DeviceRequest) -> Self {
        self.devices.push(request);
        self
    }
}

/// A wish for devices of one kind on the pod's node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DeviceRequest {
    /// How many, each on a device of its own (several partitions may share one).
    pub count: u32,
    /// What of each.
    pub ask: Ask,
    /// Models that will do; none listed: all.
    pub models: Vec<String>,
    /// A domain that all `count` must lie in.
    pub within: Option<Locality>,
}

impl DeviceRequest {
    /// One device's part, of any model.
    #[must_use]
    pub fn one(ask: Ask) -> Self {
        Self {
            count: 1,
            ask,
            models: Vec::new(),
            within: None,
        }
    }

    /// Several whole devices, of any model.
    #[must_use]
    pub fn whole(count: u32) -> Self {
        Self {
            count,
            ask: Ask::Whole,
            models: Vec::new(),
            within: None,
        }
    }
}

/// How much of a device is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Ask {
    /// All of it, alone.
    Whole,
    /// A share of compute in thousandths, with memory in bytes; without memory
    /// the same share of what the device has.
    Share {
        /// Thousandths of a device, 1 to 1000. 1000 is [`Ask::Whole`].
        milli: u32,
        /// Bytes.
        memory: Option<u64>,
    },
    /// Memory in bytes, with the share of compute that goes with it.
    Memory(u64),
    /// A partition of this profile.
    Profile(String),
}

/// Domain inside a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Locality {
    /// One NVLink domain.
    Link,
    /// One NUMA node.
    Numa,
}

/// A condition on a node's labels.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Requirement {
    /// Label key.
    pub key: String,
    /// What must hold of it.
    pub condition: Condition,
}

/// What must hold of a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Condition {
    /// Present with one of the values.
    In(Vec<String>),
    /// Absent, or present with another value.
    NotIn(Vec<String>),
    /// Present.
    Exists,
    /// Absent.
    Absent,
}

impl Requirement {
    /// Whether it holds of `labels`.
    #[must_use]
    pub fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        match &self.condition {
            Condition::In(values) => value.is_some_and(|value| values.contains(value)),
            Condition::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
            Condition::Exists => value.is_some(),
            Condition::Absent => value.is_none(),
        }
    }
}

/// A requirement that should hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Preference {
    /// How much worse a node is where it does not hold.
    pub weight: u32,
    /// What should hold.
    pub requirement: Requirement,
}

/// Taints a pod puts up with.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Toleration {
    /// Key; none: every key.
    pub key: Option<String>,
    /// Value; none: every value.
    pub value: Option<String>,
    /// Effect; none: every effect.
    pub effect: Option<TaintEffect>,
}

impl Toleration {
    /// Whether it covers a taint.
    #[must_use]
    pub fn covers(&self, taint: &super::problem::Taint) -> bool {
        self.key.as_ref().is_none_or(|key| *key == taint.key)
            && self
                .value
                .as_ref()
                .is_none_or(|value| *value == taint.value)
            && self.effect.is_none_or(|effect| effect == taint.effect)
    }
}

/// How near the pods of a job are to each other. Levels are those of
/// [`super::problem::Problem::levels`], or `node`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Topology {
    /// All pods lie in one domain of this level, or the job waits.
    pub required: Option<String>,
    /// All pods lie in one domain of this level where that is possible; else
    /// in the next wider one.
    pub preferred: Option<String>,
}

/// Nearness to, or distance from, other work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// Labels that the other work has, all of them.
    pub labels: BTreeMap<String, String>,
    /// Level of the domain meant, or `node`.
    pub level: String,
    /// What is wished.
    pub rule: AffinityRule,
}

/// What is wished of the domains where other work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AffinityRule {
    /// Only there.
    Near,
    /// Not there.
    Apart,
    /// Rather there.
    PreferNear,
    /// Rather not there.
    PreferApart,
}

/// Evenness over domains: after placing a pod, its domain has at most
/// `max_skew` more pods of such work than the domain with the fewest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Spread {
    /// Labels of the work counted; none: the job's own pods.
    pub labels: BTreeMap<String, String>,
    /// Level of the domains, or `node`.
    pub level: String,
    /// Most difference between two domains; at least 1.
    pub max_skew: u32,
}

/// A job that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// The job.
    pub job: Job,
    /// Where its pods are.
    pub pods: Vec<Placed>,
    /// When it started.
    pub start: Seconds,
    /// When it last saved its state; what came after is lost if it is ended.
    pub checkpoint: Option<Seconds>,
}

/// A pod in its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Placed {
    /// Which group of the job's members it belongs to.
    pub member: usize,
    /// Where it is.
    pub placement: Placement,
}

/// A place for a pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Placement {
    /// Position of the node in the problem.
    pub node: usize,
    /// What it has of the node's devices.
    pub devices: Vec<DevicePart>,
}

/// What a pod has of one device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DevicePart {
    /// Which of the pod's requests it answers.
    pub request: usize,
    /// Position of the device on its node.
    pub device: usize,
    /// What of it.
    pub part: Part,
}

/// What of a device a pod has.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// All of it.
    Whole,
    /// A share with limits (MPS).
    Share {
        /// Thousandths of compute.
        milli: u32,
        /// Bytes.
        memory: u64,
    },
    /// Turns of a time-sliced device.
    Slots {
        /// How many turns of a round.
        slots: u32,
        /// Bytes.
        memory: u64,
    },
    /// A partition.
    Partition {
        /// Profile.
        profile: String,
        /// Where it starts.
        start: u32,
    },
}
