//! The state that a decision works on: nodes, quotas, counts of labelled work
//! and reserved places, all of which can be taken back to an earlier mark.

use std::collections::BTreeMap;

use super::index::Index;
use super::model::{Kind, Model};
use super::nearby::Nearby;
use super::problem::{Instance, Seconds};
use super::quota::{Charge, Tree};
use super::solution::JobRef;
use super::state::{Cluster, NodeState, Take, Took, take_of};
use super::value::NodeValue;
use super::work::{DevicePart, Part, Placed, Placement};

/// A pod in its place, with what it takes.
#[derive(Debug, Clone)]
pub(super) struct Put {
    pub member: usize,
    pub node: usize,
    pub take: Take,
    /// Partitions that had to be made for it.
    pub changes: Vec<Change>,
    /// Position among the running job's pods, if it was there before.
    pub origin: Option<usize>,
}

/// Partitions of one device that are made and go.
#[derive(Debug, Clone)]
pub(super) struct Change {
    pub device: usize,
    pub remove: Vec<Instance>,
    pub create: Instance,
}

/// Work that has its place: it ran before or was just bound.
#[derive(Debug, Clone)]
pub(super) struct Work {
    pub job: JobRef,
    pub puts: Vec<Put>,
    /// When it is taken to end.
    pub end: Seconds,
}

/// What a reserved node will look like at the reserved moment, with the place taken.
pub(super) struct Shadow {
    /// The waiting job it is kept for.
    pub job: usize,
    pub at: Seconds,
    pub state: NodeState,
}

/// A point to go back to.
#[derive(Clone, Copy)]
pub(super) struct Mark {
    cluster: usize,
    tree: usize,
    nearby: usize,
    shadows: usize,
}

pub(super) struct Engine<'p> {
    pub model: &'p Model<'p>,
    pub cluster: Cluster,
    pub index: Index<'p>,
    pub tree: Tree,
    pub nearby: Nearby,
    pub work: Vec<Work>,
    pub shadows: BTreeMap<usize, Shadow>,
    shadow_undo: Vec<(usize, NodeState)>,
}

impl<'p> Engine<'p> {
    /// Nodes with what runs on them.
    pub fn new(model: &'p Model<'p>, value: &'p dyn NodeValue) -> Self {
        let mut engine = Self::hollow(model, value);
        for (at, running) in model.problem.running.iter().enumerate() {
            let job = JobRef::Running(at);
            let shapes = model.shapes_of(job);
            let puts: Vec<Put> = running
                .pods
                .iter()
                .enumerate()
                .map(|(origin, pod)| Put {
                    origin: Some(origin),
                    member: pod.member,
                    node: pod.placement.node,
                    take: take_of(model, shapes[pod.member], &pod.placement),
                    changes: Vec::new(),
                })
                .collect();
            for put in &puts {
                engine.put(job, put);
            }
            let end = running_end(model, at);
            engine.work.push(Work { job, puts, end });
        }
        engine
    }

    /// Nodes on which nothing runs.
    pub fn hollow(model: &'p Model<'p>, value: &'p dyn NodeValue) -> Self {
        Self {
            model,
            cluster: Cluster::new(model),
            index: Index::new(model, value),
            tree: Tree::new(model),
            nearby: Nearby::new(model),
            work: Vec::new(),
            shadows: BTreeMap::new(),
            shadow_undo: Vec::new(),
        }
    }

    pub fn mark(&self) -> Mark {
        Mark {
            cluster: self.cluster.mark(),
            tree: self.tree.mark(),
            nearby: self.nearby.mark(),
            shadows: self.shadow_undo.len(),
        }
    }

    pub fn rollback(&mut self, mark: Mark) {
        self.cluster.rollback(mark.cluster);
        self.tree.rollback(mark.tree);
        self.nearby.rollback(mark.nearby);
        while self.shadow_undo.len() > mark.shadows {
            if let Some((node, state)) = self.shadow_undo.pop()
                && let Some(shadow) = self.shadows.get_mut(&node)
            {
                shadow.state = state;
            }
        }
    }

    /// When a job is taken to end that runs or would start now.
    pub fn end(&self, job: JobRef) -> Seconds {
        match job {
            JobRef::Running(at) => self.work.get(at).map_or(Seconds::MAX, |work| work.end),
            JobRef::Waiting(_) => started_end(self.model, job),
        }
    }

    pub fn put(&mut self, job: JobRef, put: &Put) {
        self.cluster.take(self.model, put.node, &put.take);
        self.change_shadow(job, put, NodeState::take);
        if let Some(queue) = self.model.queue(job) {
            let charges = charges(self.model, put.node, &put.take);
            self.tree.charge(queue, &charges);
        }
        self.nearby.count(self.model, job, put.node, 1);
    }

    pub fn lift(&mut self, job: JobRef, put: &Put) {
        self.cluster.release(self.model, put.node, &put.take);
        self.change_shadow(job, put, NodeState::release);
        if let Some(queue) = self.model.queue(job) {
            let charges = charges(self.model, put.node, &put.take);
            self.tree.refund(queue, &charges);
        }
        self.nearby.count(self.model, job, put.node, -1);
    }

    /// Applies a pod to the reserved moment of its node, if it still runs then.
    fn change_shadow(
        &mut self,
        job: JobRef,
        put: &Put,
        change: fn(&mut NodeState, &Model<'_>, usize, &Take),
    ) {
        let end = self.end(job);
        if let Some(shadow) = self
            .shadows
            .get_mut(&put.node)
            .filter(|shadow| end > shadow.at)
        {
            self.shadow_undo.push((put.node, shadow.state.clone()));
            change(&mut shadow.state, self.model, put.node, &put.take);
        }
    }

    /// What has to be done about partitions before `take` can be had on `node`.
    pub fn changes(&self, node: usize, take: &Take) -> Vec<Change> {
        let mut changes = Vec::new();
        let mut state = self.cluster.state(node).clone();
        for part in &take.devices {
            let Kind::Partitioned { geometry } = self.model.nodes[node].devices[part.device].kind
            else {
                continue;
            };
            let Took::Partition { profile, slot } = part.part else {
                continue;
            };
            let geometry = self.model.geometries[geometry];
            let before = state.devices[part.device].idle.clone();
            let step = Take {
                amounts: Box::default(),
                devices: vec![part.clone()],
            };
            state.take(self.model, node, &step);
            if before.contains(&(profile, slot)) {
                continue;
            }
            let name = |(profile, slot): (usize, usize)| Instance {
                profile: geometry.profiles[profile].name.clone(),
                start: geometry.profiles[profile].slots[slot].start,
            };
            let kept = &state.devices[part.device].idle;
            changes.push(Change {
                device: part.device,
                remove: before
                    .iter()
                    .filter(|idle| !kept.contains(idle))
                    .map(|idle| name(*idle))
                    .collect(),
                create: name((profile, slot)),
            });
        }
        changes
    }

    /// A put as the solution tells it.
    pub fn placed(&self, put: &Put) -> Placed {
        let node = &self.model.nodes[put.node];
        let devices = put.take.devices.iter().map(|part| {
            let spec = &node.devices[part.device];
            let told = match (part.part, spec.kind) {
                (Took::Share, Kind::Mps { overhead, .. }) => Part::Share {
                    milli: part.share,
                    memory: part.memory.saturating_sub(overhead),
                },
                (Took::Share, _) => Part::Share {
                    milli: part.share,
                    memory: part.memory,
                },
                (Took::Slots, _) => Part::Slots {
                    slots: part.clients,
                    memory: part.memory,
                },
                (Took::Partition { profile, slot }, Kind::Partitioned { geometry }) => {
                    let found = &self.model.geometries[geometry].profiles[profile];
                    Part::Partition {
                        profile: found.name.clone(),
                        start: found.slots[slot].start,
                    }
                }
                _ => Part::Whole,
            };
            DevicePart {
                request: part.request,
                device: part.device,
                part: told,
            }
        });
        let placement = Placement {
            node: put.node,
            devices: devices.collect(),
        };
        Placed {
            member: put.member,
            placement,
        }
    }
}

/// When a job that starts now is taken to end; without an estimate never, so
/// that it cannot be taken to be gone by the time of a reservation.
fn started_end(model: &Model<'_>, job: JobRef) -> Seconds {
    let estimate = model.job(job).estimate;
    estimate.map_or(Seconds::MAX, |estimate| {
        model.problem.now.saturating_add(estimate)
    })
}

/// When running work is taken to end: as estimated, or, where it ran past its
/// estimate or has none, after the next doubling.
fn running_end(model: &Model<'_>, at: usize) -> Seconds {
    let running = &model.problem.running[at];
    let now = model.problem.now;
    let mut length = running
        .job
        .estimate
        .unwrap_or(model.problem.options.assumed_duration)
        .max(1);
    while running.start.saturating_add(length) <= now {
        length = length.saturating_mul(2);
    }
    running.start.saturating_add(length)
}

/// What a pod's place is charged to its queue.
pub(super) fn charges(model: &Model<'_>, node: usize, take: &Take) -> Vec<Charge> {
    let base = model.nodes[node].flavor * model.resources.len();
    let amounts = take.amounts.iter().copied().chain([take.device_milli()]);
    amounts
        .enumerate()
        .filter(|(_, amount)| *amount > 0)
        .map(|(resource, amount)| Charge {
            at: base + resource,
            amount,
        })
        .collect()
}
