//! Fragmentation Gradient Descent (USENIX ATC '23).
//!
//! The fragments of a node, for one typical pod, are the free GPU that this
//! pod could not use there; the fragmentation is their mean over the typical
//! pods. A pod goes where it makes the fragmentation grow least.

use rustc_hash::FxHashMap;

use super::catalogue::{Catalogue, Shape, ShapeId};
use super::state::{Choice, MAX_GPUS, NodeState, WHOLE};

/// Most fragmentations remembered.
const REMEMBERED: usize = 1 << 21;

/// The mix of a workload: what its pods ask for and how often.
#[derive(Clone, Debug)]
pub struct Typical {
    /// Shapes with their share of the pods; shares sum to 1.
    pub mix: Vec<(Shape, f64)>,
}

impl Typical {
    /// All shapes of a workload, the most frequent first.
    pub fn all(catalogue: &Catalogue, pods: &[ShapeId]) -> Self {
        Self::count(pods.iter().map(|id| *catalogue.get(*id)))
    }

    /// The shapes that cover 95% of the pods, memory left out, as the paper's
    /// simulator takes them.
    pub fn paper(catalogue: &Catalogue, pods: &[ShapeId]) -> Self {
        let mut all = Self::count(pods.iter().map(|id| Shape {
            memory: 0,
            ..*catalogue.get(*id)
        }));
        let mut covered = 0.0;
        let wanted = all.mix.iter().take_while(|(_, share)| {
            let before = covered;
            covered += share;
            before < 0.95 - 1e-12
        });
        let kept = wanted.count();
        all.mix.truncate(kept);
        let sum: f64 = all.mix.iter().map(|(_, share)| share).sum();
        for (_, share) in &mut all.mix {
            *share /= sum;
        }
        all
    }

    fn count(shapes: impl Iterator<Item = Shape>) -> Self {
        let mut counts: FxHashMap<Shape, u64> = FxHashMap::default();
        let mut total = 0;
        for shape in shapes {
            *counts.entry(shape).or_default() += 1;
            total += 1;
        }
        let mut sorted: Vec<_> = counts.into_iter().collect();
        sorted.sort_by(|a, b| b.1.cmp(&a.1).then(b.0.cmp(&a.0)));
        let mix = sorted
            .into_iter()
            .map(|(shape, count)| (shape, count as f64 / total as f64))
            .collect();
        Self { mix }
    }
}

/// The fragmentation of states, remembered.
#[derive(Clone, Debug)]
pub struct Fragmentation {
    /// Per model (the last for nodes without): the GPU shapes of the typical
    /// pods that may run there, by rising CPU, and the share of those that may
    /// not or need no GPU.
    per_model: Vec<(Vec<(Shape, f64)>, f64)>,
    known: FxHashMap<(u16, u32, [u16; MAX_GPUS]), f64>,
}

impl Fragmentation {
    /// For the kinds of node of a catalogue.
    pub fn new(catalogue: &Catalogue, typical: &Typical) -> Self {
        let per_model = catalogue.kinds().iter().map(|kind| {
            let can = |shape: &Shape| shape.gpus > 0 && shape.models.allows(kind.model);
            let mut shapes: Vec<_> = typical
                .mix
                .iter()
                .filter(|(s, _)| can(s))
                .copied()
                .collect();
            shapes.sort_by_key(|(shape, _)| *shape);
            let rest = typical.mix.iter().filter(|(shape, _)| !can(shape));
            (shapes, rest.map(|(_, share)| share).sum())
        });
        Self {
            per_model: per_model.collect(),
            known: FxHashMap::default(),
        }
    }

    /// Thousandths of free GPU that a pod of the mix cannot use, on average.
    pub fn of(&mut self, state: &NodeState) -> f64 {
        let key = (state.kind, state.cpu, state.gpus);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let (shapes, unusable) = &self.per_model[usize::from(state.kind)];
        let devices = state.devices();
        let mut below = [0u32; MAX_GPUS + 1];
        for (at, free) in devices.iter().enumerate() {
            below[at + 1] = below[at] + u32::from(*free);
        }
        let total = below[devices.len()];
        let mut sum = unusable * f64::from(total);
        for (shape, share) in shapes {
            let room = shape.cpu <= state.cpu
                && shape.gpus <= state.count
                && devices[usize::from(state.count - shape.gpus)] >= shape.milli;
            let wasted = if room {
                below[devices.partition_point(|free| *free < shape.milli)]
            } else {
                total
            };
            sum += share * f64::from(wasted);
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key, sum);
        sum
    }

    /// How much less fragmented the node is after the pod came.
    pub fn gradient(&mut self, before: &NodeState, after: &NodeState) -> f64 {
        self.of(before) - self.of(after)
    }

    /// The paper's score: a sigmoid of the gradient in whole steps of 0 to 100,
    /// so that many nodes tie. A fraction looks at each device.
    pub fn score(&mut self, state: &NodeState, shape: &Shape) -> (f64, Choice) {
        let mut best = (-1.0, Choice::Tightest);
        for choice in state.choices(shape) {
            let gradient = self.gradient(state, &state.after(shape, choice));
            let score = (100.0 / (1.0 + (-gradient / f64::from(WHOLE)).exp())).floor();
            if score > best.0 {
                best = (score, choice);
            }
        }
        best
    }
}
