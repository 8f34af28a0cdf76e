//! What is used: of one node, and of all of them with an index of equal states.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::geometry::{add, subtract};
use super::model::{Kind, Model, NodeSpec};
use super::problem::{Instance, Sharing, WHOLE};
use super::work::{Part, Placement};

/// What is used of a node. May exceed its capacity when a node shrank under
/// running work; then nothing is free.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct NodeState {
    pub used: Box<[u64]>,
    pub devices: Box<[DeviceState]>,
}

/// What is used of a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub(super) struct DeviceState {
    /// Thousandths of compute; turns of a time-sliced device count here too.
    pub share: u32,
    pub memory: u64,
    /// Processes, or turns.
    pub clients: u32,
    pub counters: Box<[u32]>,
    /// Instances that exist and that nothing runs in: profile and slot.
    pub idle: Vec<(usize, usize)>,
}

impl DeviceState {
    pub fn untouched(&self) -> bool {
        self.share == 0 && self.memory == 0 && self.clients == 0
    }
}

/// What one pod takes of its node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Take {
    pub amounts: Box<[u64]>,
    pub devices: Vec<DeviceTake>,
}

/// What one pod takes of one device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeviceTake {
    pub request: usize,
    pub device: usize,
    pub share: u32,
    pub memory: u64,
    pub clients: u32,
    pub part: Took,
}

/// How a part is given, as positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    Whole,
    Share,
    Slots,
    Partition { profile: usize, slot: usize },
}

impl Take {
    /// Thousandths of devices, as quotas count them.
    pub fn device_milli(&self) -> u64 {
        self.devices
            .iter()
            .map(|device| u64::from(device.share))
            .sum()
    }
}

impl DeviceTake {
    /// All of a device.
    pub fn whole(request: usize, device: usize, node: &NodeSpec) -> Self {
        let spec = &node.devices[device];
        let clients = match spec.kind {
            Kind::Mps { clients, .. } => clients,
            Kind::TimeSliced { slots } => slots,
            Kind::Exclusive | Kind::Partitioned { .. } => 1,
        };
        Self {
            request,
            device,
            share: WHOLE,
            memory: spec.usable,
            clients,
            part: Took::Whole,
        }
    }
}

impl NodeState {
    pub fn empty(model: &Model<'_>, node: usize) -> Self {
        let spec = &model.nodes[node];
        let devices = spec.devices.iter().enumerate().map(|(at, device)| {
            let Kind::Partitioned { geometry } = device.kind else {
                return DeviceState::default();
            };
            let geometry = model.geometries[geometry];
            let mut idle = Vec::new();
            let sharing = &model.problem.nodes[node].devices[at].sharing;
            if let Sharing::Partitioned { instances, .. } = sharing {
                idle.extend(
                    instances
                        .iter()
                        .filter_map(|instance| locate(geometry, instance)),
                );
            }
            idle.sort_unstable();
            let counters = vec![0; geometry.counters.len()].into_boxed_slice();
            DeviceState {
                counters,
                idle,
                ..DeviceState::default()
            }
        });
        Self {
            used: vec![0; spec.capacity.len()].into_boxed_slice(),
            devices: devices.collect(),
        }
    }

    pub fn take(&mut self, model: &Model<'_>, node: usize, take: &Take) {
        for (used, amount) in self.used.iter_mut().zip(&take.amounts) {
            *used = used.saturating_add(*amount);
        }
        for part in &take.devices {
            let device = &mut self.devices[part.device];
            device.share = device.share.saturating_add(part.share);
            device.memory = device.memory.saturating_add(part.memory);
            device.clients = device.clients.saturating_add(part.clients);
            if let (Took::Partition { profile, slot }, Some(geometry)) =
                (part.part, geometry(model, node, part.device))
            {
                let uses = &geometry.profiles[profile].slots[slot].uses;
                add(&mut device.counters, uses);
                // The instance itself, or what had to go for it.
                device.idle.retain(|idle| {
                    *idle != (profile, slot)
                        && geometry.fits(idle_slot(geometry, *idle), &device.counters)
                });
            }
        }
    }

    /// Undoes [`Self::take`]; a partition stays as an idle instance.
    pub fn release(&mut self, model: &Model<'_>, node: usize, take: &Take) {
        for (used, amount) in self.used.iter_mut().zip(&take.amounts) {
            *used = used.saturating_sub(*amount);
        }
        for part in &take.devices {
            let device = &mut self.devices[part.device];
            device.share = device.share.saturating_sub(part.share);
            device.memory = device.memory.saturating_sub(part.memory);
            device.clients = device.clients.saturating_sub(part.clients);
            if let (Took::Partition { profile, slot }, Some(geometry)) =
                (part.part, geometry(model, node, part.device))
            {
                subtract(
                    &mut device.counters,
                    &geometry.profiles[profile].slots[slot].uses,
                );
                device.idle.push((profile, slot));
                device.idle.sort_unstable();
            }
        }
    }

    /// What is used now or at a later moment, whichever is more: what fits
    /// beside it fits at both moments.
    pub fn either(&self, later: &Self) -> Self {
        let mut both = self.clone();
        for (used, other) in both.used.iter_mut().zip(&later.used) {
            *used = (*used).max(*other);
        }
        for (device, other) in both.devices.iter_mut().zip(&later.devices) {
            device.share = device.share.max(other.share);
            device.memory = device.memory.max(other.memory);
            device.clients = device.clients.max(other.clients);
            for (used, other) in device.counters.iter_mut().zip(&other.counters) {
                *used = (*used).max(*other);
            }
        }
        both
    }
}

fn geometry<'p>(
    model: &Model<'p>,
    node: usize,
    device: usize,
) -> Option<&'p super::geometry::Geometry> {
    match model.nodes[node].devices[device].kind {
        Kind::Partitioned { geometry } => Some(model.geometries[geometry]),
        _ => None,
    }
}

fn idle_slot(geometry: &super::geometry::Geometry, idle: (usize, usize)) -> &super::geometry::Slot {
    &geometry.profiles[idle.0].slots[idle.1]
}

/// Profile and slot of an instance by name and start.
pub(super) fn locate(
    geometry: &super::geometry::Geometry,
    instance: &Instance,
) -> Option<(usize, usize)> {
    let profile = geometry.profile(&instance.profile)?;
    let slot = geometry.profiles[profile]
        .slots
        .iter()
        .position(|slot| slot.start == instance.start)?;
    Some((profile, slot))
}

/// What a pod of `shape` in a given place takes.
pub(super) fn take_of(model: &Model<'_>, shape: usize, placement: &Placement) -> Take {
    let node = &model.nodes[placement.node];
    let devices = placement.devices.iter().filter_map(|part| {
        let spec = node.devices.get(part.device)?;
        let overhead = match spec.kind {
            Kind::Mps { overhead, .. } => overhead,
            _ => 0,
        };
        let (share, memory, clients, took) = match &part.part {
            Part::Whole => return Some(DeviceTake::whole(part.request, part.device, node)),
            Part::Share { milli, memory } => {
                (*milli, memory.saturating_add(overhead), 1, Took::Share)
            }
            Part::Slots { slots, memory } => {
                let round = match spec.kind {
                    Kind::TimeSliced { slots } => slots.max(1),
                    _ => 1,
                };
                (slots * WHOLE / round, *memory, *slots, Took::Slots)
            }
            Part::Partition { profile, start } => {
                let geometry = geometry(model, placement.node, part.device)?;
                let instance = Instance {
                    profile: profile.clone(),
                    start: *start,
                };
                let (profile, slot) = locate(geometry, &instance)?;
                let found = &geometry.profiles[profile];
                (
                    found.share,
                    found.memory,
                    1,
                    Took::Partition { profile, slot },
                )
            }
        };
        let (request, device) = (part.request, part.device);
        Some(DeviceTake {
            request,
            device,
            share,
            memory,
            clients,
            part: took,
        })
    });
    Take {
        amounts: model.shapes[shape].amounts.clone(),
        devices: devices.collect(),
    }
}

/// Nodes that are alike in all that matters to a pod, but for topology.
pub(super) struct Class {
    pub state: NodeState,
    pub nodes: BTreeSet<usize>,
}

/// What is used of every node, with nodes in equal states found as one.
pub(super) struct Cluster {
    pub class_of: Vec<usize>,
    pub classes: Vec<Class>,
    known: FxHashMap<(usize, NodeState), usize>,
    /// Classes in the order in which they got their first node, with repetitions.
    pub filled: Vec<usize>,
    undo: Vec<(usize, usize)>,
}

impl Cluster {
    pub fn new(model: &Model<'_>) -> Self {
        let mut cluster = Self {
            class_of: Vec::with_capacity(model.nodes.len()),
            classes: Vec::new(),
            known: FxHashMap::default(),
            filled: Vec::new(),
            undo: Vec::new(),
        };
        for node in 0..model.nodes.len() {
            let class = cluster.class(model, node, NodeState::empty(model, node));
            cluster.class_of.push(class);
            cluster.enter(node, class);
        }
        cluster
    }

    pub fn state(&self, node: usize) -> &NodeState {
        &self.classes[self.class_of[node]].state
    }

    pub fn take(&mut self, model: &Model<'_>, node: usize, take: &Take) {
        let mut state = self.state(node).clone();
        state.take(model, node, take);
        self.set(model, node, state);
    }

    pub fn release(&mut self, model: &Model<'_>, node: usize, take: &Take) {
        let mut state = self.state(node).clone();
        state.release(model, node, take);
        self.set(model, node, state);
    }

    /// A point to go back to with [`Self::rollback`].
    pub fn mark(&self) -> usize {
        self.undo.len()
    }

    pub fn rollback(&mut self, mark: usize) {
        while self.undo.len() > mark {
            if let Some((node, class)) = self.undo.pop() {
                self.shift(node, class);
            }
        }
    }

    fn set(&mut self, model: &Model<'_>, node: usize, state: NodeState) {
        let class = self.class(model, node, state);
        self.undo.push((node, self.class_of[node]));
        self.shift(node, class);
    }

    fn shift(&mut self, node: usize, class: usize) {
        let from = self.class_of[node];
        if from != class {
            self.classes[from].nodes.remove(&node);
            self.class_of[node] = class;
            self.enter(node, class);
        }
    }

    fn enter(&mut self, node: usize, class: usize) {
        let nodes = &mut self.classes[class].nodes;
        if nodes.is_empty() {
            self.filled.push(class);
        }
        nodes.insert(node);
    }

    fn class(&mut self, model: &Model<'_>, node: usize, state: NodeState) -> usize {
        let key = (model.nodes[node].class, state);
        if let Some(class) = self.known.get(&key) {
            return *class;
        }
        self.classes.push(Class {
            state: key.1.clone(),
            nodes: BTreeSet::new(),
        });
        self.known.insert(key, self.classes.len() - 1);
        self.classes.len() - 1
    }
}
