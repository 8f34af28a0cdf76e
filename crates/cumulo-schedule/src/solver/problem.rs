//! What there is: nodes, their devices, and the whole problem.
//!
//! Quantities are integers: CPU in thousandths of a core, memory in bytes, device
//! shares in thousandths of a device, time in seconds since any fixed origin.

use std::collections::BTreeMap;

use super::geometry::Geometry;
use super::queue::Queue;
use super::work::{Job, Running};

/// Seconds since a fixed origin, or a length of time in seconds.
pub type Seconds = u64;

/// Thousandths of one device that a whole device has.
pub const WHOLE: u32 = 1000;

/// Amounts of what a node has and a pod asks, besides devices.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Resources {
    /// Thousandths of a core.
    pub cpu: u64,
    /// Bytes.
    pub memory: u64,
    /// Any other countable resource by its name (`pods`, `ephemeral-storage`, …).
    pub other: BTreeMap<String, u64>,
}

impl Resources {
    /// CPU in thousandths of a core and memory in bytes, nothing else.
    #[must_use]
    pub fn new(cpu: u64, memory: u64) -> Self {
        Self {
            cpu,
            memory,
            other: BTreeMap::new(),
        }
    }
}

/// A node, as far as deciding about it goes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// Its name; unique.
    pub name: String,
    /// What pods may use in all (allocatable).
    pub capacity: Resources,
    /// Its accelerators. A placement names one by its position here.
    pub devices: Vec<Device>,
    /// Labels, for selectors.
    pub labels: BTreeMap<String, String>,
    /// Taints, for tolerations.
    pub taints: Vec<Taint>,
    /// The domain it lies in at each topology level, e.g. `rack` → `r12`.
    pub topology: BTreeMap<String, String>,
    /// The resource flavor that quotas count it under.
    pub flavor: String,
    /// Price in millionths of the currency per hour; decides between equals.
    pub price: u64,
    /// Region, for pods that name regions.
    pub region: String,
    /// Whether new pods may come.
    pub availability: Availability,
}

/// Whether new pods may come to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Availability {
    /// Pods may come.
    #[default]
    Ready,
    /// Pods that run stay; none may come (cordoned, not ready).
    Closed,
}

/// A taint of a node.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    pub value: String,
    /// What it does to pods that do not tolerate it.
    pub effect: TaintEffect,
}

/// What a taint does to pods that do not tolerate it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TaintEffect {
    /// No pod comes.
    NoSchedule,
    /// A pod comes when there is no better node.
    PreferNoSchedule,
}

/// An accelerator: GPU, TPU, NPU, or anything that a ResourceSlice publishes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Device {
    /// Name or UUID.
    pub name: String,
    /// Model, e.g. `A100-SXM4-80GB`.
    pub model: String,
    /// Memory in bytes.
    pub memory: u64,
    /// Bytes of it that the driver keeps; never given to pods.
    pub reserved: u64,
    /// How it can be divided.
    pub sharing: Sharing,
    /// NUMA node it hangs on.
    pub numa: Option<u32>,
    /// NVLink (or other fast link) domain it lies in.
    pub link: Option<String>,
    /// Whether new pods may use it.
    pub health: Health,
}

impl Device {
    /// A device that is given away whole, without domains.
    #[must_use]
    pub fn whole(name: &str, model: &str, memory: u64) -> Self {
        Self {
            name: name.to_owned(),
            model: model.to_owned(),
            memory,
            reserved: 0,
            sharing: Sharing::Exclusive,
            numa: None,
            link: None,
            health: Health::Healthy,
        }
    }

    /// Bytes that pods may use in all.
    #[must_use]
    pub fn usable(&self) -> u64 {
        self.memory.saturating_sub(self.reserved)
    }
}

/// Whether new pods may use a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Health {
    /// They may.
    #[default]
    Healthy,
    /// What runs stays; nothing new comes.
    Broken,
}

/// How a device can be divided.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Sharing {
    /// Whole or not at all.
    Exclusive,
    /// Shares of compute and memory with limits per process (MPS).
    Mps {
        /// Most processes at a time (48 on current NVIDIA GPUs).
        clients: u32,
        /// Bytes that each process's context takes beside what it asks.
        overhead: u64,
    },
    /// Turns of equal length; memory is counted, not enforced by the device.
    TimeSliced {
        /// Turns that one round has.
        slots: u32,
    },
    /// Partitions with their own memory and compute (MIG).
    Partitioned {
        /// Name of the geometry in [`Problem::geometries`].
        geometry: String,
        /// The instances that exist now, used or idle.
        instances: Vec<Instance>,
    },
}

/// A partition that exists on a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instance {
    /// Profile's name, e.g. `1g.10gb`.
    pub profile: String,
    /// Where it starts.
    pub start: u32,
}

/// Everything a decision is made from.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Problem {
    /// The moment decided for.
    pub now: Seconds,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Topology levels, widest first, e.g. `block`, `rack`. `node` is always
    /// the narrowest and is not listed.
    pub levels: Vec<String>,
    /// Geometries by name; [`super::geometry::builtin`] has NVIDIA's.
    pub geometries: BTreeMap<String, Geometry>,
    /// The queue tree. Work in a queue without quotas is limited by capacity only.
    pub queues: Vec<Queue>,
    /// Work that runs.
    pub running: Vec<Running>,
    /// Work that waits.
    pub waiting: Vec<Job>,
    /// How to decide.
    pub options: Options,
}

/// How to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Work that waited for longer goes first, by arrival, and is never passed.
    pub starvation: Seconds,
    /// How long work without an estimate is taken to run when a reservation is
    /// computed; doubled for work that ran past it.
    pub assumed_duration: Seconds,
    /// Most reservations for work that must wait. Backfill respects all of them.
    pub reservations: usize,
    /// Most pods moved to make room, in one solution.
    pub moves: usize,
    /// Most domains looked into for one preemption.
    pub preemption_domains: usize,
    /// Most simulated preemptions in one solution: bounds its time.
    pub preemption_attempts: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            starvation: 6 * 3600,
            assumed_duration: 3600,
            reservations: 4,
            moves: 0,
            preemption_domains: 64,
            preemption_attempts: 256,
        }
    }
}
