//! The protocol of the FGD paper: the pods of the trace, shuffled, and more of
//! them drawn until the demand is 1.3 times the cluster; one at a time, none
//! leaves, none is tried again.

use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::trace::Trace;
use crate::packing::{Class, Moving, Packer, Policy, ShapeId, Trained};

/// Pods in the order in which they come.
#[derive(Clone, Debug)]
pub struct Arrivals {
    /// Their shapes.
    pub pods: Vec<ShapeId>,
}

impl Arrivals {
    /// Shuffles the trace's pods, then appends uniform draws of them until the
    /// next would bring the demand above `ratio` times the cluster's GPUs.
    pub fn inflate(trace: &Trace, ratio: f64, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed);
        let mut pods = trace.pods.clone();
        pods.shuffle(&mut random);
        let demand = |id: &ShapeId| u64::from(trace.catalogue.get(*id).gpu_total());
        let target = trace.capacity() as f64 * ratio;
        let mut sum: u64 = pods.iter().map(demand).sum();
        let unbounded = trace.pods.iter().all(|id| demand(id) == 0);
        if unbounded {
            return Self { pods };
        }
        loop {
            let id = trace.pods[random.random_range(0..trace.pods.len())];
            if (sum + demand(&id)) as f64 > target {
                break;
            }
            sum += demand(&id);
            pods.push(id);
        }
        Self { pods }
    }
}

/// How far a replay is after one more percent of demand arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Point {
    /// Percent of the cluster's GPUs that pods have asked for so far.
    pub arrived: f64,
    /// Percent of the cluster's GPUs that pods hold.
    pub allocated: f64,
}

/// One replay.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outcome {
    /// A point per whole percent of arrived demand, from 0.
    pub curve: Vec<Point>,
    /// Pods that came, by class, until demand reached 100% and in all.
    pub came: [[u64; 4]; 2],
    /// Pods that were admitted, likewise.
    pub admitted: [[u64; 4]; 2],
    /// Pods that were moved so that others fit.
    pub moved: u64,
    /// Pods that came before the first of at most one GPU was refused.
    pub before_refusal: u64,
    /// Percent of the cluster's GPUs that those had asked for.
    pub refused_at: f64,
}

impl Outcome {
    /// Percent allocated when this percent of demand had arrived.
    pub fn at(&self, percent: usize) -> Option<f64> {
        self.curve.get(percent).map(|point| point.allocated)
    }

    /// Decisions that were taken.
    pub fn decisions(&self) -> u64 {
        self.came[1].iter().sum()
    }
}

/// Replays arrivals under a policy.
pub fn replay(
    trace: &Trace,
    arrivals: &Arrivals,
    policy: Policy,
    trained: Option<&Trained>,
    moving: Option<&Moving>,
    seed: u64,
) -> Outcome {
    let mut packer = Packer::new(
        &trace.catalogue,
        &trace.nodes,
        policy,
        trained,
        &trace.pods,
        seed,
    );
    let capacity = packer.cluster().capacity() as f64;
    let mut outcome = Outcome::default();
    // As the paper's analysis does: the mean over the pods whose arrived
    // demand rounds to this percent.
    let mut sums: Vec<(f64, u64)> = Vec::new();
    let mut demand = 0u64;
    let mut refused = false;
    for id in &arrivals.pods {
        let shape = trace.catalogue.get(*id);
        let class = Class::ALL.iter().position(|class| *class == shape.class());
        let class = class.expect("every class is listed");
        demand += u64::from(shape.gpu_total());
        let admitted = match moving {
            None => packer.place(*id).is_some(),
            Some(moving) => {
                let running: u64 = outcome.admitted[1].iter().sum();
                let allowed = (running as f64 * moving.share) as u64;
                let left = allowed.saturating_sub(outcome.moved) as usize;
                let placed = packer.place_moving(*id, left, moving);
                outcome.moved += placed.as_ref().map_or(0, |(_, moved)| moved.len() as u64);
                placed.is_some()
            }
        };
        refused |= !admitted && shape.gpus <= 1;
        let arrived = demand as f64 / capacity * 100.0;
        if !refused {
            outcome.before_refusal += 1;
            outcome.refused_at = arrived;
        }
        let until_full = arrived <= 100.0;
        for upto in usize::from(!until_full)..2 {
            outcome.came[upto][class] += 1;
            outcome.admitted[upto][class] += u64::from(admitted);
        }
        let percent = arrived.round() as usize;
        if sums.len() <= percent {
            sums.resize(percent + 1, (0.0, 0));
        }
        sums[percent].0 += packer.cluster().allocated() as f64 / capacity * 100.0;
        sums[percent].1 += 1;
    }
    let mut last = 0.0;
    for (percent, (sum, count)) in sums.iter().enumerate() {
        if *count > 0 {
            last = sum / *count as f64;
        }
        outcome.curve.push(Point {
            arrived: percent as f64,
            allocated: last,
        });
    }
    outcome
}
