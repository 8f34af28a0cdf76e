//! What a node's free room is worth. The solver places a pod where the least
//! worth is lost; how worth is measured can be plugged in.

use std::collections::BTreeMap;

use super::geometry::Geometry;
use super::model::{CPU, Kind, MEMORY, Model};
use super::problem::{Problem, WHOLE};
use super::state::NodeState;
use super::work::{Ask, Pod};

/// Measures what a node's free room is worth.
///
/// Equal states must have equal values: they are computed once.
pub trait NodeValue {
    /// Worth of what is free on a node, in any unit; more is better.
    fn value(&self, node: &NodeView<'_>) -> i64;
}

/// A node in some state, as a [`NodeValue`] sees it.
pub struct NodeView<'a> {
    model: &'a Model<'a>,
    node: usize,
    state: &'a NodeState,
}

/// A device in some state.
#[derive(Debug, Clone, Copy)]
pub struct DeviceView<'a> {
    /// Model.
    pub model: &'a str,
    /// Thousandths that are free; none of a broken device.
    pub free_share: u32,
    /// Bytes that are free.
    pub free_memory: u64,
    /// Bytes that pods may use in all.
    pub usable: u64,
    /// Whether nothing runs on it and it can be had whole.
    pub whole: bool,
    /// How its free room can be divided.
    pub division: Division<'a>,
}

impl DeviceView<'_> {
    /// Whether two devices differ in nothing but their place.
    fn alike(&self, other: &Self) -> bool {
        let division = match (self.division, other.division) {
            (Division::Whole, Division::Whole) | (Division::Shares, Division::Shares) => true,
            (Division::Partitions(a, used), Division::Partitions(b, other)) => {
                a.name == b.name && used == other
            }
            _ => false,
        };
        division
            && self.whole == other.whole
            && self.free_share == other.free_share
            && self.free_memory == other.free_memory
            && self.model == other.model
    }
}

/// How a device's free room can be divided.
#[derive(Debug, Clone, Copy)]
pub enum Division<'a> {
    /// Not at all.
    Whole,
    /// At any share.
    Shares,
    /// Into the partitions of a geometry, beside what is used of its counters.
    Partitions(&'a Geometry, &'a [u32]),
}

impl<'a> NodeView<'a> {
    pub(super) fn new(model: &'a Model<'a>, node: usize, state: &'a NodeState) -> Self {
        Self { model, node, state }
    }

    /// CPU that is free, in thousandths of a core.
    #[must_use]
    pub fn free_cpu(&self) -> u64 {
        self.free(CPU)
    }

    /// Memory that is free, in bytes.
    #[must_use]
    pub fn free_memory(&self) -> u64 {
        self.free(MEMORY)
    }

    /// CPU and memory that pods may use in all.
    #[must_use]
    pub fn capacity(&self) -> (u64, u64) {
        let capacity = &self.model.nodes[self.node].capacity;
        (capacity[CPU], capacity[MEMORY])
    }

    /// The devices, in the order of the problem.
    pub fn devices(&self) -> impl Iterator<Item = DeviceView<'_>> {
        let specs = &self.model.nodes[self.node].devices;
        specs
            .iter()
            .zip(&self.state.devices)
            .map(|(spec, state)| DeviceView {
                model: &self.model.models[spec.model],
                free_share: if spec.healthy {
                    WHOLE.saturating_sub(state.share)
                } else {
                    0
                },
                free_memory: if spec.healthy {
                    spec.usable.saturating_sub(state.memory)
                } else {
                    0
                },
                usable: spec.usable,
                whole: spec.healthy && state.untouched(),
                division: match spec.kind {
                    Kind::Exclusive => Division::Whole,
                    Kind::Mps { .. } | Kind::TimeSliced { .. } => Division::Shares,
                    Kind::Partitioned { geometry } => {
                        Division::Partitions(self.model.geometries[geometry], &state.counters)
                    }
                },
            })
    }

    fn free(&self, resource: usize) -> u64 {
        self.model.nodes[self.node].capacity[resource].saturating_sub(self.state.used[resource])
    }
}

/// Minus the part of the free devices that typical pods cannot use
/// (Fragmentation Gradient Descent, USENIX ATC '23), in millionths of a device.
///
/// Typical is what the problem's running and waiting work asks; where nothing
/// asks partitions, every profile counts alike.
#[derive(Debug, Clone, Default)]
pub struct Fragmentation {
    typical: Vec<Typical>,
}

#[derive(Debug, Clone)]
struct Typical {
    /// Thousandths of the typical workload.
    weight: i64,
    cpu: u64,
    memory: u64,
    count: u32,
    ask: Ask,
    models: Vec<String>,
}

/// Most shapes that count as typical.
const TYPICAL_SHAPES: usize = 32;

impl Fragmentation {
    /// Takes what the problem's work asks as typical.
    #[must_use]
    pub fn of(problem: &Problem) -> Self {
        let mut counts: BTreeMap<(u64, u64, u32, String), (u64, &Pod)> = BTreeMap::new();
        let running = problem.running.iter().map(|running| &running.job);
        for member in running.chain(&problem.waiting).flat_map(|job| &job.members) {
            let pod = &member.pod;
            let Some(request) = pod.devices.first() else {
                continue;
            };
            let kind = format!("{:?}{:?}", request.ask, request.models);
            let key = (pod.resources.cpu, pod.resources.memory, request.count, kind);
            counts.entry(key).or_insert((0, pod)).0 += u64::from(member.max.max(1));
        }
        let mut ranked: Vec<(u64, &Pod)> = counts.into_values().collect();
        ranked.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
        ranked.truncate(TYPICAL_SHAPES);
        Self::weighted(&ranked)
    }

    /// Takes these pods as typical, each by its weight.
    #[must_use]
    pub fn weighted(pods: &[(u64, &Pod)]) -> Self {
        let total: u64 = pods.iter().map(|(count, _)| count).sum::<u64>().max(1);
        let typical = pods.iter().filter_map(|(count, pod)| {
            let request = pod.devices.first()?;
            let models = request.models.clone();
            Some(Typical {
                weight: i64::try_from(count * 1000 / total).unwrap_or(1000).max(1),
                cpu: pod.resources.cpu,
                memory: pod.resources.memory,
                count: request.count,
                ask: request.ask.clone(),
                models,
            })
        });
        Self {
            typical: typical.collect(),
        }
    }
}

impl NodeValue for Fragmentation {
    fn value(&self, node: &NodeView<'_>) -> i64 {
        // Devices in the same state are looked at once.
        let mut kinds: Vec<(DeviceView<'_>, i64)> = Vec::new();
        for device in node.devices() {
            match kinds.iter_mut().find(|(known, _)| known.alike(&device)) {
                Some((_, count)) => *count += 1,
                None => kinds.push((device, 1)),
            }
        }
        let free: i64 = kinds
            .iter()
            .map(|(device, count)| i64::from(device.free_share) * count)
            .sum();
        let mut fragments = 0i64;
        if free == 0 {
            return 0;
        }
        let (cpu, memory) = (node.free_cpu(), node.free_memory());
        for typical in &self.typical {
            let (mut usable, mut places) = (0i64, 0i64);
            if typical.cpu <= cpu && typical.memory <= memory {
                for (device, count) in &kinds {
                    let named = typical.models.is_empty()
                        || typical.models.iter().any(|model| model == device.model);
                    if named {
                        let (milli, serves) = typical.ask.usable(device);
                        usable += i64::from(milli) * count;
                        places += i64::from(serves) * count;
                    }
                }
            }
            if places < i64::from(typical.count) {
                usable = 0;
            }
            fragments += typical.weight * (free - usable);
        }
        if self.typical.is_empty() {
            for (device, count) in &kinds {
                if let Division::Partitions(geometry, used) = device.division {
                    let profiles = i64::try_from(geometry.profiles.len().max(1)).unwrap_or(1);
                    for (at, profile) in geometry.profiles.iter().enumerate() {
                        let usable = i64::from(geometry.room(at, used) * profile.share);
                        let lost = (i64::from(device.free_share) - usable).max(0);
                        fragments += lost * 1000 / profiles * count;
                    }
                }
            }
        }
        -fragments
    }
}

impl Ask {
    /// Thousandths of a device's free room that this ask can use, and in how
    /// many devices or partitions.
    fn usable(&self, device: &DeviceView<'_>) -> (u32, u32) {
        let (milli, memory) = match self {
            Ask::Whole => (WHOLE, 0),
            Ask::Share { milli, memory } => (*milli, memory.unwrap_or(0)),
            Ask::Memory(memory) => (0, *memory),
            Ask::Profile(_) => (0, 0),
        };
        match device.division {
            Division::Partitions(geometry, used) => {
                let profile = match self {
                    Ask::Profile(name) => geometry.profile(name),
                    _ => geometry.smallest(milli, memory),
                };
                profile.map_or((0, 0), |profile| {
                    let room = geometry.room(profile, used);
                    (
                        (room * geometry.profiles[profile].share).min(device.free_share),
                        room,
                    )
                })
            }
            Division::Whole
                if device.whole && !matches!(self, Ask::Profile(_)) && milli == WHOLE =>
            {
                (device.free_share, 1)
            }
            Division::Shares
                if !matches!(self, Ask::Profile(_))
                    && device.free_share >= milli
                    && device.free_memory >= memory =>
            {
                (device.free_share, 1)
            }
            _ => (0, 0),
        }
    }
}
