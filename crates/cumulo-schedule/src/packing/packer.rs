//! One pod after another onto a cluster.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::baseline;
use super::catalogue::{Catalogue, Shape, ShapeId};
use super::cluster::{Cluster, Memo, PodId, StateId};
use super::fgd::{Fragmentation, Typical};
use super::ours::{Ours, Trained};
use super::state::{Choice, NodeState};

/// How a node is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Policy {
    /// Any node, any device.
    Random,
    /// The node whose free vector is least along the request.
    DotProduct,
    /// Pods of one class together.
    Clustering,
    /// Shared devices, then used nodes, then free nodes.
    Packing,
    /// The least left over.
    BestFit,
    /// Fragmentation gradient descent.
    Fgd,
    /// kube-scheduler's default scoring.
    Kubernetes,
    /// Rollouts from the workload's mix.
    Ours,
}

impl Policy {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Random,
        Self::Kubernetes,
        Self::DotProduct,
        Self::Clustering,
        Self::Packing,
        Self::BestFit,
        Self::Fgd,
        Self::Ours,
    ];

    /// The word on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::DotProduct => "dotprod",
            Self::Clustering => "clustering",
            Self::Packing => "packing",
            Self::BestFit => "bestfit",
            Self::Fgd => "fgd",
            Self::Kubernetes => "kubernetes",
            Self::Ours => "ours",
        }
    }
}

/// A pod that found its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The pod's number, to stop it by.
    pub pod: PodId,
    /// The node.
    pub node: u32,
    /// Its devices, a bit each.
    pub devices: u16,
}

#[derive(Clone, Debug)]
pub(super) enum Scorer {
    Random,
    Formula(Policy),
    Fgd(Fragmentation),
    Ours(Box<Ours>),
}

impl Scorer {
    pub fn score(
        &mut self,
        catalogue: &Catalogue,
        state: &NodeState,
        shape: &Shape,
    ) -> (f64, Choice) {
        let formula = |score| (score, baseline::tightest(state, shape));
        match self {
            Self::Random => formula(0.0),
            Self::Formula(Policy::DotProduct) => formula(baseline::dot_product(state, shape)),
            Self::Formula(Policy::Clustering) => formula(baseline::clustering(state, shape)),
            Self::Formula(Policy::Packing) => formula(baseline::packing(state, shape)),
            Self::Formula(Policy::Kubernetes) => {
                let kind = &catalogue.kinds()[usize::from(state.kind)];
                formula(baseline::kubernetes(state, shape, kind))
            }
            Self::Formula(_) => formula(baseline::best_fit(state, shape)),
            Self::Fgd(fragmentation) => fragmentation.score(state, shape),
            Self::Ours(ours) => ours.score(state, shape),
        }
    }
}

/// A cluster and the policy that fills it.
#[derive(Clone, Debug)]
pub struct Packer<'a> {
    pub(super) catalogue: &'a Catalogue,
    pub(super) cluster: Cluster,
    pub(super) scorer: Scorer,
    random: ChaCha8Rng,
}

impl<'a> Packer<'a> {
    /// An empty cluster of these kinds of node, in the order of their names.
    /// `pods` is the workload that FGD takes its typical pods from; `trained`
    /// is what our policy learned, and without it ours decides like FGD.
    pub fn new(
        catalogue: &'a Catalogue,
        nodes: &[u16],
        policy: Policy,
        trained: Option<&Trained>,
        pods: &[ShapeId],
        seed: u64,
    ) -> Self {
        let scorer = match (policy, trained) {
            (Policy::Random, _) => Scorer::Random,
            (Policy::Ours, Some(trained)) => Scorer::Ours(Box::new(trained.scorer(catalogue))),
            (Policy::Fgd | Policy::Ours, _) => {
                let typical = Typical::paper(catalogue, pods);
                Scorer::Fgd(Fragmentation::new(catalogue, &typical))
            }
            (policy, _) => Scorer::Formula(policy),
        };
        Self {
            catalogue,
            cluster: Cluster::new(catalogue, nodes, policy == Policy::Clustering),
            scorer,
            random: ChaCha8Rng::seed_from_u64(seed),
        }
    }

    /// The cluster as it is.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// Adds an empty node; what runs stays where it is.
    pub fn add_node(&mut self, kind: u16) -> u32 {
        self.cluster.add_node(kind)
    }

    /// Places a pod, or tells that it has no room anywhere.
    pub fn place(&mut self, id: ShapeId) -> Option<Placed> {
        let (node, choice) = if matches!(self.scorer, Scorer::Random) {
            self.any(id)?
        } else {
            let (_, node, choice) = self.best(id, None)?;
            (node, choice)
        };
        Some(self.start(node, id, choice))
    }

    /// Whether some node has room.
    pub fn has_room(&mut self, id: ShapeId) -> bool {
        self.best(id, None).is_some()
    }

    /// Ends a pod.
    pub fn stop(&mut self, pod: PodId) {
        if let Some(running) = self.cluster.running(pod) {
            self.cluster.stop(pod, self.catalogue.get(running.shape));
        }
    }

    pub(super) fn start(&mut self, node: u32, id: ShapeId, choice: Choice) -> Placed {
        let shape = self.catalogue.get(id);
        let pod = self.cluster.start(node, id, shape, choice);
        let running = self.cluster.running(pod).expect("it was just started");
        Placed {
            pod,
            node,
            devices: running.devices,
        }
    }

    /// The score of a state, asked once per state and shape.
    pub(super) fn score(&mut self, state: StateId, id: ShapeId) -> Option<(f64, Choice)> {
        match self.cluster.memo(state, id) {
            Memo::NoRoom => return None,
            Memo::Scored(score, choice) => return Some((score, choice)),
            Memo::Unknown => {}
        }
        let shape = self.catalogue.get(id);
        let seen = *self.cluster.state_of(state);
        let memo = if self.catalogue.fits(&seen, shape) {
            let (score, choice) = self.scorer.score(self.catalogue, &seen, shape);
            Memo::Scored(score, choice)
        } else {
            Memo::NoRoom
        };
        let shapes = self.catalogue.shapes().len();
        self.cluster.remember(state, id, shapes, memo);
        match memo {
            Memo::Scored(score, choice) => Some((score, choice)),
            _ => None,
        }
    }

    /// The best node other than `except`, with its score and device.
    pub(super) fn best(&mut self, id: ShapeId, except: Option<u32>) -> Option<(f64, u32, Choice)> {
        let mut best: Option<(f64, u32, Choice)> = None;
        for at in 0..self.cluster.active().len() {
            let state = self.cluster.active()[at];
            let Some((score, choice)) = self.score(state, id) else {
                continue;
            };
            if best.is_some_and(|(highest, _, _)| score < highest) {
                continue;
            }
            let members = self.cluster.members(state);
            let Some(node) = members.iter().copied().find(|node| Some(*node) != except) else {
                continue;
            };
            if best.is_none_or(|(highest, first, _)| score > highest || node < first) {
                best = Some((score, node, choice));
            }
        }
        best
    }

    fn any(&mut self, id: ShapeId) -> Option<(u32, Choice)> {
        let shape = self.catalogue.get(id);
        let states = self.cluster.active().iter().copied();
        let mut fitting: Vec<u32> = states
            .filter(|state| self.catalogue.fits(self.cluster.state_of(*state), shape))
            .flat_map(|state| self.cluster.members(state).iter().copied())
            .collect();
        if fitting.is_empty() {
            return None;
        }
        fitting.sort_unstable();
        let node = fitting[self.random.random_range(0..fitting.len())];
        let devices: Vec<u16> = self.cluster.state(node).devices().to_vec();
        let fits = devices.iter().filter(|free| **free >= shape.milli);
        let fits: Vec<u16> = fits.copied().collect();
        let choice = if shape.is_fraction() {
            Choice::Free(fits[self.random.random_range(0..fits.len())])
        } else {
            Choice::Tightest
        };
        Some((node, choice))
    }
}
