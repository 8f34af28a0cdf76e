//! Room for a pod that fits nowhere, by moving few that run.

use super::catalogue::{Shape, ShapeId};
use super::cluster::{PodId, Running};
use super::packer::{Packer, Placed};
use super::state::{Choice, NodeState};

/// How much may be moved, and for what.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moving {
    /// Moves in all, as a share of the pods that were admitted.
    pub share: f64,
    /// The least that one move must gain, in thousandths of a GPU.
    pub gain: u32,
    /// Plans that are tried for one pod before it is refused.
    pub tries: usize,
}

impl Default for Moving {
    fn default() -> Self {
        Self {
            share: 0.01,
            gain: 400,
            tries: 8,
        }
    }
}

/// Who must leave a node so that a pod fits there.
struct Plan {
    node: u32,
    leaving: Vec<PodId>,
    /// What the policy thinks of it, per move; more is better.
    worth: f64,
}

impl Packer<'_> {
    /// Places a pod, moving at most `moves` others where it fits nowhere.
    /// Gives the place and who was moved; those keep their numbers.
    pub fn place_moving(
        &mut self,
        id: ShapeId,
        moves: usize,
        moving: &Moving,
    ) -> Option<(Placed, Vec<PodId>)> {
        if let Some(placed) = self.place(id) {
            return Some((placed, Vec::new()));
        }
        let shape = *self.catalogue.get(id);
        let worthwhile = (shape.gpu_total() / moving.gain.max(1)) as usize;
        let most = worthwhile.min(moves);
        if most == 0 {
            return None;
        }
        let mut plans = self.plans(&shape, most);
        plans.sort_by(|a, b| {
            let fewer = a.leaving.len().cmp(&b.leaving.len());
            fewer
                .then(b.worth.total_cmp(&a.worth))
                .then(a.node.cmp(&b.node))
        });
        plans.truncate(moving.tries);
        plans.iter().find_map(|plan| {
            let placed = self.carry_out(plan, id)?;
            Some((placed, plan.leaving.clone()))
        })
    }

    /// Plans for a shape: every single pod whose leaving makes room, and per
    /// node the cheapest set of devices.
    fn plans(&mut self, shape: &Shape, most: usize) -> Vec<Plan> {
        let mut found = Vec::new();
        let mut elsewhere: Vec<Option<Option<f64>>> = vec![None; self.catalogue.shapes().len()];
        for node in 0..self.cluster.node_count() as u32 {
            let state = *self.cluster.state(node);
            let kind = self.catalogue.kinds()[usize::from(state.kind)];
            if !self.catalogue.fits(&kind.empty(state.kind), shape) {
                continue;
            }
            for pod in self.cluster.pods_on(node).to_vec() {
                let running = self.running(pod);
                let left = self
                    .cluster
                    .state_without(node, &[(pod, self.shape(running))]);
                if !left.has_room(shape) {
                    continue;
                }
                let goes = &mut elsewhere[running.shape.0 as usize];
                let goes = *goes.get_or_insert_with(|| {
                    self.best(running.shape, None).map(|(score, _, _)| score)
                });
                if let Some(worth) = self.worth(&left, shape, running, goes) {
                    found.push(Plan {
                        node,
                        leaving: vec![pod],
                        worth,
                    });
                }
            }
            if most > 1
                && let Some(leaving) = self.cheapest(node, shape, most)
            {
                found.push(Plan {
                    node,
                    worth: -(leaving.len() as f64),
                    leaving,
                });
            }
        }
        found
    }

    /// What swapping one pod for another is worth, or none if the one that
    /// leaves would have no place.
    fn worth(
        &mut self,
        left: &NodeState,
        shape: &Shape,
        leaving: Running,
        elsewhere: Option<f64>,
    ) -> Option<f64> {
        let other = *self.catalogue.get(leaving.shape);
        let (comes, choice) = self.scorer.score(self.catalogue, left, shape);
        let after = left.after(shape, choice);
        let (stayed, _) = self.scorer.score(self.catalogue, left, &other);
        let here = after
            .has_room(&other)
            .then(|| self.scorer.score(self.catalogue, &after, &other).0);
        let best = match (elsewhere, here) {
            (Some(there), Some(here)) => there.max(here),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => return None,
        };
        Some(comes - stayed + best)
    }

    /// The pods of the emptiest devices of a node, and then those that hold
    /// the most CPU per GPU, until the shape fits.
    fn cheapest(&self, node: u32, shape: &Shape, most: usize) -> Option<Vec<PodId>> {
        let mut pods: Vec<(PodId, Running)> = self
            .cluster
            .pods_on(node)
            .iter()
            .map(|pod| (*pod, self.running(*pod)))
            .collect();
        let mut leaving: Vec<(PodId, Shape)> = Vec::new();
        loop {
            let left = self.cluster.state_without(node, &leaving);
            if left.has_room(shape) {
                return (leaving.len() > 1).then(|| leaving.iter().map(|(pod, _)| *pod).collect());
            }
            if leaving.len() == most || pods.is_empty() {
                return None;
            }
            let short_of_devices =
                shape.gpus > 0 && left.gpus[usize::from(left.count - shape.gpus)] < shape.milli;
            let cost = |(_, running): &(PodId, Running)| {
                let other = self.shape(*running);
                if short_of_devices {
                    if other.gpus == 0 {
                        return (u32::MAX, 0);
                    }
                    // Fractions that share a device must all leave: count it whole.
                    let sharing = pods
                        .iter()
                        .filter(|(_, peer)| peer.devices & running.devices != 0);
                    (sharing.count() as u32 * 1000, other.gpu_total())
                } else {
                    (other.gpu_total(), u32::MAX - other.cpu)
                }
            };
            let (at, _) = pods.iter().enumerate().min_by_key(|(_, pod)| cost(pod))?;
            let (pod, running) = pods.swap_remove(at);
            leaving.push((pod, self.shape(running)));
        }
    }

    /// Does a plan, or leaves everything as it was. Pods keep their numbers.
    fn carry_out(&mut self, plan: &Plan, id: ShapeId) -> Option<Placed> {
        let mut left = Vec::new();
        for pod in &plan.leaving {
            let shape = self.shape(self.running(*pod));
            left.push((*pod, self.cluster.lift(*pod, &shape), shape));
        }
        let placed = self.start_at(plan.node, id);
        let placed = placed.expect("the plan makes room");
        // The hardest to place first.
        left.sort_by_key(|(_, _, shape)| std::cmp::Reverse(shape.gpu_total()));
        for at in 0..left.len() {
            let (pod, running, shape) = left[at];
            if let Some((_, node, choice)) = self.best(running.shape, None) {
                let cluster = &mut self.cluster;
                cluster.start_as(pod, node, running.shape, &shape, choice);
                continue;
            }
            for (pod, _, shape) in &left[..at] {
                self.cluster.lift(*pod, shape);
            }
            self.stop(placed.pod);
            for (pod, running, shape) in &left {
                self.cluster.put_back(*pod, *running, shape);
            }
            return None;
        }
        Some(placed)
    }

    fn running(&self, pod: PodId) -> Running {
        self.cluster.running(pod).expect("a pod on a node runs")
    }

    fn shape(&self, running: Running) -> Shape {
        *self.catalogue.get(running.shape)
    }

    /// Starts a pod on a node that the caller chose, on the device that the
    /// policy chooses there; none if it does not fit.
    pub fn start_at(&mut self, node: u32, id: ShapeId) -> Option<Placed> {
        let shape = *self.catalogue.get(id);
        let state = *self.cluster.state(node);
        if !self.catalogue.fits(&state, &shape) {
            return None;
        }
        let (_, choice): (f64, Choice) = self.scorer.score(self.catalogue, &state, &shape);
        Some(self.start(node, id, choice))
    }
}
