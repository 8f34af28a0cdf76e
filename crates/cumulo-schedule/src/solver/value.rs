//! What a node's free room is worth. The solver places a pod where the least
//! worth is lost; how worth is measured can be plugged in.

use std::collections::BTreeMap;

use super::geometry::Geometry;
use super::model::{CPU, Kind, MEMORY, Model};
use super::problem::{Problem, Sharing, WHOLE};
use super::state::NodeState;
use super::work::{Ask, Part, Pod};

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

/// Minus the part of the free devices that typical pods cannot use, in millionths
/// of a device. Typical is what the problem's running and waiting work asks.
///
/// - Of devices that are given whole or by share it is the fragmentation of
///   Fragmentation Gradient Descent (USENIX ATC '23).
/// - Of devices with partitions it is what is free less the worth of the room for
///   each typical ask. Room for one has a price: the size of the ask times how
///   often it is asked, over the room for it that the whole cluster has left. What
///   few devices still have room for is dear, and an untouched device is opened
///   only when the others cannot serve. Where nothing asks partitions, every
///   profile counts alike.
#[derive(Debug, Clone, Default)]
pub struct Fragmentation {
    typical: Vec<Typical>,
    /// By geometry: what room for an ask is worth.
    prices: BTreeMap<String, Vec<Price>>,
}

/// What room for one partition is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Price {
    profile: usize,
    /// Millionths of a device.
    worth: i64,
    /// What a pod that asks it needs beside.
    cpu: u64,
    memory: u64,
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
        let mut this = Self::weighted(&ranked);
        this.prices = prices(problem, &this.typical);
        this
    }

    /// Takes these pods as typical, each by its weight.
    fn weighted(pods: &[(u64, &Pod)]) -> Self {
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
            prices: BTreeMap::new(),
        }
    }
}

/// The prices of room on devices with partitions, as the cluster is now.
fn prices(problem: &Problem, typical: &[Typical]) -> BTreeMap<String, Vec<Price>> {
    let mut left: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let used = used_counters(problem);
    for (node, spec) in problem.nodes.iter().enumerate() {
        for (device, spec) in spec.devices.iter().enumerate() {
            let Sharing::Partitioned { geometry, .. } = &spec.sharing else {
                continue;
            };
            let Some(geometry) = problem.geometries.get(geometry) else {
                continue;
            };
            let none = vec![0; geometry.counters.len()];
            let used = used.get(&(node, device)).unwrap_or(&none);
            let rooms = left
                .entry(&geometry.name)
                .or_insert_with(|| vec![0; geometry.profiles.len()]);
            for (at, room) in rooms.iter_mut().enumerate() {
                *room += u64::from(geometry.room(at, used));
            }
        }
    }
    let mut prices = BTreeMap::new();
    for (name, left) in left {
        let geometry = &problem.geometries[name];
        let asks = typical.iter().filter_map(|typical| {
            let profile = typical.ask.profile(geometry)?;
            let weight = u64::try_from(typical.weight).unwrap_or(0);
            Some((profile, weight, typical.cpu, typical.memory))
        });
        let mut asks: Vec<_> = asks.collect();
        if asks.is_empty() {
            asks.extend((0..geometry.profiles.len()).map(|profile| (profile, 1, 0, 0)));
        }
        let scarcity = asks.iter().map(|(profile, weight, ..)| {
            let size = u128::from(geometry.profiles[*profile].share);
            let left = u128::from(left[*profile].saturating_add(1));
            u128::from(*weight) * size * 1_000_000 / left
        });
        let scarcity: Vec<u128> = scarcity.collect();
        // An empty device is worth itself.
        let empty = vec![0; geometry.counters.len()];
        let room = |profile: usize| u128::from(geometry.room(profile, &empty));
        let whole = asks.iter().zip(&scarcity);
        let whole: u128 = whole
            .map(|((profile, ..), each)| each * room(*profile))
            .sum();
        let priced = asks.iter().zip(&scarcity).map(|(ask, each)| Price {
            profile: ask.0,
            worth: i64::try_from(each * 1_000_000 / whole.max(1)).unwrap_or(i64::MAX),
            cpu: ask.2,
            memory: ask.3,
        });
        prices.insert(name.to_owned(), priced.collect());
    }
    prices
}

/// What running work has of the counters of devices with partitions.
fn used_counters(problem: &Problem) -> BTreeMap<(usize, usize), Vec<u32>> {
    let mut used: BTreeMap<(usize, usize), Vec<u32>> = BTreeMap::new();
    let pods = problem.running.iter().flat_map(|running| &running.pods);
    for placement in pods.map(|pod| &pod.placement) {
        for held in &placement.devices {
            let Part::Partition { profile, start } = &held.part else {
                continue;
            };
            let device = problem
                .nodes
                .get(placement.node)
                .and_then(|node| node.devices.get(held.device));
            let Some(Sharing::Partitioned { geometry, .. }) = device.map(|device| &device.sharing)
            else {
                continue;
            };
            let Some(geometry) = problem.geometries.get(geometry) else {
                continue;
            };
            let slot = geometry.profile(profile).and_then(|profile| {
                let slots = &geometry.profiles[profile].slots;
                slots.iter().find(|slot| slot.start == *start)
            });
            if let Some(slot) = slot {
                let counters = used
                    .entry((placement.node, held.device))
                    .or_insert_with(|| vec![0; geometry.counters.len()]);
                super::geometry::add(counters, &slot.uses);
            }
        }
    }
    used
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
        let (cpu, memory) = (node.free_cpu(), node.free_memory());
        let mut fragments = 0i64;
        for (device, count) in &kinds {
            if let Division::Partitions(geometry, used) = device.division {
                let prices = self.prices.get(&geometry.name);
                let worth: i64 = prices
                    .into_iter()
                    .flatten()
                    .filter(|price| price.cpu <= cpu && price.memory <= memory)
                    .map(|price| price.worth * i64::from(geometry.room(price.profile, used)))
                    .sum();
                fragments += (i64::from(device.free_share) * 1000 - worth) * count;
            }
        }
        kinds.retain(|(device, _)| !matches!(device.division, Division::Partitions(..)));
        let free: i64 = kinds
            .iter()
            .map(|(device, count)| i64::from(device.free_share) * count)
            .sum();
        for typical in self.typical.iter().filter(|_| free > 0) {
            let (mut usable, mut places) = (0i64, 0i64);
            if typical.cpu <= cpu && typical.memory <= memory {
                for (device, count) in &kinds {
                    let named = typical.models.is_empty()
                        || typical.models.iter().any(|model| model == device.model);
                    if named && typical.ask.usable(device) {
                        usable += i64::from(device.free_share) * count;
                        places += count;
                    }
                }
            }
            if places < i64::from(typical.count) {
                usable = 0;
            }
            fragments += typical.weight * (free - usable);
        }
        -fragments
    }
}

impl Ask {
    /// The partition of a geometry that serves this ask.
    fn profile(&self, geometry: &Geometry) -> Option<usize> {
        match self {
            Self::Whole => geometry.whole(),
            Self::Share { milli, memory } => geometry.smallest(*milli, memory.unwrap_or(0)),
            Self::Memory(memory) => geometry.smallest(0, *memory),
            Self::Profile(name) => geometry.profile(name),
        }
    }

    /// Whether a device without partitions has room for this ask.
    fn usable(&self, device: &DeviceView<'_>) -> bool {
        let (milli, memory) = match self {
            Self::Whole => (WHOLE, 0),
            Self::Share { milli, memory } => (*milli, memory.unwrap_or(0)),
            Self::Memory(memory) => (0, *memory),
            Self::Profile(_) => return false,
        };
        match device.division {
            Division::Whole => device.whole && milli == WHOLE,
            Division::Shares => device.free_share >= milli && device.free_memory >= memory,
            Division::Partitions(..) => false,
        }
    }
}
