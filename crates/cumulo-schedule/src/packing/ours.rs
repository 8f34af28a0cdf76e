//! Our policy: put a pod where it costs the least GPU in the long run.

use super::Error;
use super::catalogue::{Catalogue, Shape, ShapeId};
use super::fgd::Typical;
use super::price::Prices;
use super::state::{Choice, NodeState};
use super::value::Rollouts;

/// What can be turned.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Rollouts per state.
    pub rollouts: usize,
    /// Draws per rollout, at most.
    pub draws: usize,
    /// Draws without room after which the most patient rollouts end; 0 for no end.
    pub misses: u32,
    /// Weight of tightness: small, it breaks near-ties.
    pub tightness: f64,
    /// The same where pods leave.
    pub tightness_in_motion: f64,
    /// Weight of room for pods of several GPUs.
    pub large: f64,
    /// The same where pods leave.
    pub large_in_motion: f64,
    /// Weight of what a fraction spoils on its device, by the prices of fractions.
    pub price: f64,
    /// Seed of all draws.
    pub seed: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            rollouts: 64,
            draws: 160,
            misses: 60,
            tightness: 0.003,
            tightness_in_motion: 0.03,
            large: 0.2,
            large_in_motion: 30.0,
            price: 2.0,
            seed: 1,
        }
    }
}

/// What is known of a workload: what its pods ask for and how often, never
/// which come next. Made once, used by many replays.
#[derive(Clone, Debug)]
pub struct Trained {
    settings: Settings,
    typical: Typical,
    prices: Prices,
    nodes: Vec<u16>,
}

impl Trained {
    /// Takes the mix of a workload on the nodes of a cluster.
    ///
    /// # Errors
    ///
    /// There are no nodes or no pods.
    pub fn learn(
        catalogue: &Catalogue,
        nodes: &[u16],
        pods: &[ShapeId],
        settings: Settings,
    ) -> Result<Self, Error> {
        if nodes.is_empty() {
            return Err(Error::NoNodes);
        }
        if pods.is_empty() {
            return Err(Error::NoPods);
        }
        let typical = Typical::all(catalogue, pods);
        Ok(Self {
            prices: Prices::new(&typical),
            typical,
            nodes: nodes.to_vec(),
            settings,
        })
    }

    /// The same for a cluster that pods leave. There, room for large pods comes back
    /// and whoever needs it waits long for the next, so it is kept above all else, and
    /// full nodes are filled sooner, so that the emptiest run empty.
    #[must_use]
    pub fn in_motion(&self) -> Self {
        let mut trained = self.clone();
        trained.settings.large = trained.settings.large_in_motion;
        trained.settings.tightness = trained.settings.tightness_in_motion;
        trained
    }

    pub(super) fn scorer(&self, catalogue: &Catalogue) -> Ours {
        let kinds = catalogue.kinds().iter();
        Ours {
            rollouts: Rollouts::new(catalogue, &self.typical, &self.settings),
            large: large(catalogue, &self.nodes, &self.typical, self.settings.large),
            models: kinds.map(|kind| kind.model).collect(),
            tightness: self.settings.tightness,
            prices: self.prices.clone(),
            price: self.settings.price,
        }
    }
}

/// The shapes of several GPUs with what room for one is worth: more, the more
/// of the empty cluster's room for them their pods will need. Where a shape
/// fits few nodes, those nodes are kept for it.
fn large(
    catalogue: &Catalogue,
    nodes: &[u16],
    typical: &Typical,
    weight: f64,
) -> Vec<(Shape, f64)> {
    let capacity = |kind: &u16| f64::from(catalogue.kinds()[usize::from(*kind)].gpus) * 1000.0;
    let capacity: f64 = nodes.iter().map(capacity).sum();
    let demand = typical
        .mix
        .iter()
        .map(|(shape, share)| f64::from(shape.gpu_total()) * share);
    let pods = capacity / demand.sum::<f64>().max(1.0);
    let large = typical.mix.iter().filter(|(shape, _)| shape.gpus > 1);
    let worth = large.map(|(shape, share)| {
        let room: u32 = nodes
            .iter()
            .map(|kind| {
                let model = catalogue.kinds()[usize::from(*kind)].model;
                places(
                    &catalogue.kinds()[usize::from(*kind)].empty(*kind),
                    shape,
                    model,
                )
            })
            .sum();
        let needed = (share * pods / f64::from(room.max(1))).min(1.0);
        (*shape, weight * needed * f64::from(shape.gpu_total()))
    });
    worth.collect()
}

/// How many pods of a shape of several GPUs a node has room for.
fn places(state: &NodeState, shape: &Shape, model: Option<u8>) -> u32 {
    if !shape.models.allows(model) {
        return 0;
    }
    let devices = state.devices();
    let free = devices.len() - devices.partition_point(|free| *free < shape.milli);
    let by = |free: u32, asked: u32| free.checked_div(asked).unwrap_or(u32::MAX);
    let fits = by(free as u32, u32::from(shape.gpus));
    fits.min(by(state.cpu, shape.cpu))
        .min(by(state.memory, shape.memory))
}

/// The scorer of our policy.
#[derive(Clone, Debug)]
pub(super) struct Ours {
    rollouts: Rollouts,
    large: Vec<(Shape, f64)>,
    models: Vec<Option<u8>>,
    tightness: f64,
    prices: Prices,
    price: f64,
}

impl Ours {
    /// The best device of this node, and how good it is, in thousandths of a
    /// GPU: what the pod spares from being left over, less what it spoils on its
    /// device by the prices, less the room for large pods that it takes, less a
    /// little for what stays free beside it.
    pub fn score(&mut self, state: &NodeState, shape: &Shape) -> (f64, Choice) {
        let before = self.rollouts.left_over(state);
        let room = self.room(state);
        let mut best = (f64::NEG_INFINITY, Choice::Tightest);
        for choice in state.choices(shape) {
            let after = state.after(shape, choice);
            let spared = before - self.rollouts.left_over(&after);
            let lost = room - self.room(&after);
            // A core counts as 62.5 thousandths: 16 cores for each GPU.
            let free = f64::from(after.gpu_free()) + f64::from(after.cpu) / 16.0;
            let spoilt = match choice {
                Choice::Free(free) => self.prices.spoils(free, shape.milli),
                Choice::Tightest => 0.0,
            };
            let score = spared - lost - self.price * spoilt - self.tightness * free;
            if score > best.0 {
                best = (score, choice);
            }
        }
        best
    }

    /// What the room for pods of several GPUs is worth.
    fn room(&self, state: &NodeState) -> f64 {
        if state.whole_free() < 2 {
            return 0.0;
        }
        let model = self.models[usize::from(state.kind)];
        let worth = self.large.iter();
        worth
            .map(|(shape, worth)| f64::from(places(state, shape, model)) * worth)
            .sum()
    }
}
