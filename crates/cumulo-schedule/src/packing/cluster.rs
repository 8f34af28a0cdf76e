//! Nodes grouped by state, and who runs where.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::catalogue::{Catalogue, Kind, Shape, ShapeId};
use super::state::{Choice, MAX_GPUS, NodeState};

/// More states than this and those that no node is in are forgotten.
const STATES_KEPT: usize = 40_000;

/// A pod that runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PodId(pub u32);

/// Where a pod runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Running {
    /// What it asked for.
    pub shape: ShapeId,
    /// The node.
    pub node: u32,
    /// Its devices, a bit each.
    pub devices: u16,
}

/// The number of a state in the table; numbers are used again.
pub(super) type StateId = usize;

/// What a scorer said about a state and a shape.
#[derive(Clone, Copy, Debug)]
pub(super) enum Memo {
    /// It was not asked.
    Unknown,
    /// The pod has no room.
    NoRoom,
    /// So good, on that device.
    Scored(f64, Choice),
}

#[derive(Clone, Debug)]
struct Group {
    state: NodeState,
    /// Nodes in this state, by number, so that ties go to the first name.
    nodes: BTreeSet<u32>,
    /// Where `active` lists it.
    at: usize,
    memo: Vec<Memo>,
}

#[derive(Clone, Debug)]
struct Node {
    state: StateId,
    /// Free thousandths of each device, by the device's own number.
    devices: [u16; MAX_GPUS],
    /// How many pods of each class of GPU pods run here.
    tags: [u16; MAX_GPUS + 1],
    pods: Vec<PodId>,
}

/// A cluster: its nodes, their states and the pods on them.
#[derive(Clone, Debug)]
pub struct Cluster {
    kinds: Vec<Kind>,
    nodes: Vec<Node>,
    groups: Vec<Group>,
    numbers: FxHashMap<NodeState, StateId>,
    active: Vec<StateId>,
    pods: Vec<Option<Running>>,
    vacant: Vec<PodId>,
    with_tags: bool,
    allocated: u64,
    capacity: u64,
}

impl Cluster {
    /// An empty cluster of these kinds of node, in the order of their names.
    /// `with_tags` tells states apart by the classes of pods on the node.
    pub fn new(catalogue: &Catalogue, kinds: &[u16], with_tags: bool) -> Self {
        let mut cluster = Self {
            kinds: catalogue.kinds().to_vec(),
            nodes: Vec::with_capacity(kinds.len()),
            groups: Vec::new(),
            numbers: FxHashMap::default(),
            active: Vec::new(),
            pods: Vec::new(),
            vacant: Vec::new(),
            with_tags,
            allocated: 0,
            capacity: 0,
        };
        for kind in kinds {
            cluster.add_node(*kind);
        }
        cluster
    }

    /// Adds an empty node after the last; nothing that runs is touched.
    pub fn add_node(&mut self, kind: u16) -> u32 {
        let state = self.kinds[usize::from(kind)].empty(kind);
        let number = self.nodes.len() as u32;
        let id = self.enter(state, number);
        self.capacity += u64::from(state.gpu_free());
        self.nodes.push(Node {
            state: id,
            devices: state.gpus,
            tags: [0; MAX_GPUS + 1],
            pods: Vec::new(),
        });
        number
    }

    fn enter(&mut self, state: NodeState, node: u32) -> StateId {
        let id = match self.numbers.get(&state) {
            Some(id) => *id,
            None => {
                self.groups.push(Group {
                    state,
                    nodes: BTreeSet::new(),
                    at: usize::MAX,
                    memo: Vec::new(),
                });
                self.numbers.insert(state, self.groups.len() - 1);
                self.groups.len() - 1
            }
        };
        let group = &mut self.groups[id];
        if group.nodes.is_empty() {
            group.at = self.active.len();
            self.active.push(id);
        }
        group.nodes.insert(node);
        id
    }

    fn leave(&mut self, id: StateId, node: u32) {
        let group = &mut self.groups[id];
        group.nodes.remove(&node);
        if !group.nodes.is_empty() {
            return;
        }
        let at = group.at;
        self.active.swap_remove(at);
        if let Some(moved) = self.active.get(at).copied() {
            self.groups[moved].at = at;
        }
    }

    fn change(&mut self, node: u32, state: NodeState) {
        let old = self.nodes[node as usize].state;
        self.leave(old, node);
        let new = self.enter(state, node);
        self.nodes[node as usize].state = new;
        if self.groups.len() > STATES_KEPT {
            self.forget();
        }
    }

    /// Keeps the states that some node is in.
    fn forget(&mut self) {
        let mut renumbered = FxHashMap::default();
        let mut kept = Vec::with_capacity(self.active.len());
        for (at, id) in self.active.iter().enumerate() {
            let mut group = self.groups[*id].clone();
            group.at = at;
            renumbered.insert(*id, at);
            kept.push(group);
        }
        self.groups = kept;
        self.active = (0..self.groups.len()).collect();
        let states = self.groups.iter().enumerate();
        self.numbers = states.map(|(at, group)| (group.state, at)).collect();
        for node in &mut self.nodes {
            node.state = renumbered[&node.state];
        }
    }

    /// The distinct states that nodes are in.
    pub(super) fn active(&self) -> &[StateId] {
        &self.active
    }

    pub(super) fn state_of(&self, id: StateId) -> &NodeState {
        &self.groups[id].state
    }

    pub(super) fn members(&self, id: StateId) -> &BTreeSet<u32> {
        &self.groups[id].nodes
    }

    pub(super) fn memo(&self, id: StateId, shape: ShapeId) -> Memo {
        let memo = self.groups[id].memo.get(shape.0 as usize).copied();
        memo.unwrap_or(Memo::Unknown)
    }

    pub(super) fn remember(&mut self, id: StateId, shape: ShapeId, shapes: usize, memo: Memo) {
        let memos = &mut self.groups[id].memo;
        if memos.len() < shapes {
            memos.resize(shapes, Memo::Unknown);
        }
        memos[shape.0 as usize] = memo;
    }

    /// Starts a pod. The caller has checked the room.
    pub fn start(&mut self, node: u32, id: ShapeId, shape: &Shape, choice: Choice) -> PodId {
        let pod = self.vacant.pop().unwrap_or_else(|| {
            self.pods.push(None);
            PodId(self.pods.len() as u32 - 1)
        });
        self.start_as(pod, node, id, shape, choice);
        pod
    }

    /// Starts a pod under a number that `lift` kept for it.
    pub(super) fn start_as(
        &mut self,
        pod: PodId,
        node: u32,
        id: ShapeId,
        shape: &Shape,
        choice: Choice,
    ) {
        let state = self.state(node).after(shape, choice);
        let running = Running {
            shape: id,
            node,
            devices: self.pick(node, shape, choice),
        };
        self.start_on(pod, running, shape, state);
    }

    fn start_on(&mut self, pod: PodId, running: Running, shape: &Shape, mut state: NodeState) {
        let slot = &mut self.nodes[running.node as usize];
        for device in bits(running.devices) {
            slot.devices[device] -= shape.milli;
        }
        self.pods[pod.0 as usize] = Some(running);
        slot.pods.push(pod);
        slot.tags[tag(shape)] += 1;
        if self.with_tags {
            state.tags = tags(&slot.tags);
        }
        self.allocated += u64::from(shape.gpu_total());
        self.change(running.node, state);
    }

    /// Ends a pod; its number is used again.
    pub fn stop(&mut self, pod: PodId, shape: &Shape) -> Running {
        self.vacant.push(pod);
        self.lift(pod, shape)
    }

    /// Takes a pod off its node, to be started elsewhere under its number.
    pub(super) fn lift(&mut self, pod: PodId, shape: &Shape) -> Running {
        let running = self.pods[pod.0 as usize].take().expect("the pod runs");
        let slot = &mut self.nodes[running.node as usize];
        slot.pods.retain(|other| *other != pod);
        slot.tags[tag(shape)] -= 1;
        for device in bits(running.devices) {
            slot.devices[device] += shape.milli;
        }
        let mut state = self.groups[slot.state].state;
        state.cpu += shape.cpu;
        state.memory += shape.memory;
        state.gpus = slot.devices;
        state.gpus[..usize::from(state.count)].sort_unstable();
        if self.with_tags {
            state.tags = tags(&slot.tags);
        }
        self.allocated -= u64::from(shape.gpu_total());
        self.change(running.node, state);
        running
    }

    /// Starts a pod where it ran before; its devices are free again.
    pub(super) fn put_back(&mut self, pod: PodId, running: Running, shape: &Shape) {
        let mut state = *self.state(running.node);
        state.cpu -= shape.cpu;
        state.memory -= shape.memory;
        state.gpus = self.nodes[running.node as usize].devices;
        for device in bits(running.devices) {
            state.gpus[device] -= shape.milli;
        }
        state.gpus[..usize::from(state.count)].sort_unstable();
        self.start_on(pod, running, shape, state);
    }

    /// The state that a node would be in without these pods.
    pub(super) fn state_without(&self, node: u32, pods: &[(PodId, Shape)]) -> NodeState {
        let mut state = *self.state(node);
        state.gpus = self.nodes[node as usize].devices;
        for (pod, shape) in pods {
            let running = self.running(*pod).expect("the pod runs");
            state.cpu += shape.cpu;
            state.memory += shape.memory;
            for device in bits(running.devices) {
                state.gpus[device] += shape.milli;
            }
        }
        state.gpus[..usize::from(state.count)].sort_unstable();
        state
    }

    /// The devices that a choice means on this node, a bit each.
    fn pick(&self, node: u32, shape: &Shape, choice: Choice) -> u16 {
        let slot = &self.nodes[node as usize];
        let count = usize::from(self.groups[slot.state].state.count);
        let mut fitting: Vec<usize> = (0..count)
            .filter(|device| match choice {
                Choice::Free(level) => slot.devices[*device] == level,
                Choice::Tightest => slot.devices[*device] >= shape.milli,
            })
            .collect();
        fitting.sort_by_key(|device| slot.devices[*device]);
        let taken = fitting.iter().take(usize::from(shape.gpus));
        taken.fold(0, |mask, device| mask | 1 << device)
    }

    /// The state of a node.
    pub fn state(&self, node: u32) -> &NodeState {
        &self.groups[self.nodes[node as usize].state].state
    }

    /// The pods on a node.
    pub fn pods_on(&self, node: u32) -> &[PodId] {
        &self.nodes[node as usize].pods
    }

    /// Where a pod runs; none once it ended.
    pub fn running(&self, pod: PodId) -> Option<Running> {
        self.pods.get(pod.0 as usize).copied().flatten()
    }

    /// Number of nodes.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Number of distinct states.
    pub fn state_count(&self) -> usize {
        self.active.len()
    }

    /// Thousandths of GPUs that pods hold.
    pub fn allocated(&self) -> u64 {
        self.allocated
    }

    /// Thousandths of GPUs in all.
    pub fn capacity(&self) -> u64 {
        self.capacity
    }
}

fn bits(mask: u16) -> impl Iterator<Item = usize> {
    (0..MAX_GPUS).filter(move |bit| mask >> bit & 1 == 1)
}

/// 0 for a fraction, n for n whole GPUs; CPU pods count as no class, in the
/// last place that no mask shows.
fn tag(shape: &Shape) -> usize {
    match shape.gpus {
        0 => MAX_GPUS,
        1 if shape.is_fraction() => 0,
        gpus => usize::from(gpus).min(MAX_GPUS - 1),
    }
}

fn tags(counts: &[u16; MAX_GPUS + 1]) -> u32 {
    let present = counts[..MAX_GPUS].iter().enumerate();
    present.fold(0, |mask, (at, count)| mask | u32::from(*count > 0) << at)
}
