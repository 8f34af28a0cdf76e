//! A cluster in motion: pods come, wait, run and leave.
//!
//! Arrivals are a Poisson stream of the trace's pods, lifetimes are
//! exponential, and the load is the share of the cluster's GPUs that the
//! stream would hold if nobody had to wait. The cluster starts with that many pods
//! (exponential lifetimes forget how long they have lasted) and runs for a while
//! before anything is measured, so that what leaves has left its holes.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::trace::Trace;
use crate::packing::{Class, Packer, PodId, Policy, ShapeId, Trained};

/// Mean lifetimes that pass before the measured time.
const WARM_UP: f64 = 3.0;

/// Who is tried first when something leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// The first in line or nobody.
    Strict,
    /// In the order of the line, whoever fits, as kube-scheduler retries.
    Backfill,
}

/// What to simulate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Share of the cluster's GPUs that the stream asks for.
    pub load: f64,
    /// How long is measured, in hours.
    pub hours: f64,
    /// Mean lifetime of a pod, in hours.
    pub lifetime: f64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            load: 0.9,
            hours: 168.0,
            lifetime: 24.0,
        }
    }
}

/// What happened to one class.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ClassWait {
    /// Pods that came in the measured time.
    pub came: u64,
    /// Mean wait in minutes, of all that came.
    pub mean: f64,
}

/// What happened.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Motion {
    /// Mean share of GPUs that pods held, in percent.
    pub utilisation: f64,
    /// Mean wait in minutes, of all that came; who still waits at the end
    /// counts with the wait so far.
    pub mean_wait: f64,
    /// The wait that one in a hundred exceeds, in minutes.
    pub p99_wait: f64,
    /// The wait that one in a thousand exceeds, in minutes.
    pub p999_wait: f64,
    /// Jain's index of the classes' mean slowdown, (wait + lifetime) / lifetime:
    /// 1 where no class waits longer than another, 1/4 at worst.
    pub fairness: f64,
    /// Per class, in the order of [`Class::ALL`].
    pub classes: [ClassWait; 4],
    /// Pods that still wait at the end.
    pub waiting: u64,
    /// Placements tried.
    pub decisions: u64,
}

impl Motion {
    /// The mean of several; pods and decisions are added up.
    pub fn mean(all: &[Self]) -> Self {
        let count = all.len().max(1) as f64;
        let mut sum = Self::default();
        for one in all {
            sum.utilisation += one.utilisation / count;
            sum.mean_wait += one.mean_wait / count;
            sum.p99_wait += one.p99_wait / count;
            sum.p999_wait += one.p999_wait / count;
            sum.fairness += one.fairness / count;
            for (sum, one) in sum.classes.iter_mut().zip(one.classes) {
                sum.came += one.came;
                sum.mean += one.mean / count;
            }
            sum.waiting += one.waiting;
            sum.decisions += one.decisions;
        }
        sum
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Ending {
    at: f64,
    pod: PodId,
}

impl Eq for Ending {}

impl Ord for Ending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.total_cmp(&other.at).then(self.pod.cmp(&other.pod))
    }
}

impl PartialOrd for Ending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A pod that came: what it asks for, when, and how long it will run.
#[derive(Clone, Copy, Debug)]
struct Coming {
    shape: ShapeId,
    at: f64,
    lifetime: f64,
}

struct Motor<'a> {
    trace: &'a Trace,
    packer: Packer<'a>,
    discipline: Discipline,
    endings: BinaryHeap<Reverse<Ending>>,
    /// All that came, in order; the line holds numbers of these.
    came: Vec<Coming>,
    line: BTreeSet<usize>,
    waits: Vec<(usize, f64)>,
    decisions: u64,
}

impl Motor<'_> {
    /// A pod comes: it starts or stands in line.
    fn arrive(&mut self, coming: Coming) {
        let number = self.came.len();
        self.came.push(coming);
        let blocked = self.discipline == Discipline::Strict && !self.line.is_empty();
        if blocked || !self.try_start(number, coming.at) {
            self.line.insert(number);
        }
    }

    fn try_start(&mut self, number: usize, now: f64) -> bool {
        self.decisions += 1;
        let coming = self.came[number];
        let Some(placed) = self.packer.place(coming.shape) else {
            return false;
        };
        self.waits.push((number, now - coming.at));
        self.endings.push(Reverse(Ending {
            at: now + coming.lifetime,
            pod: placed.pod,
        }));
        true
    }

    /// Starts who can be after something left this node. Only there is more
    /// room than before, so only who fits there is tried.
    fn retry(&mut self, node: u32, now: f64) {
        loop {
            let state = *self.packer.cluster().state(node);
            let catalogue = &self.trace.catalogue;
            let fits =
                |number: &&usize| catalogue.fits(&state, catalogue.get(self.came[**number].shape));
            let next = match self.discipline {
                Discipline::Strict => self.line.first().filter(fits),
                Discipline::Backfill => self.line.iter().find(fits),
            };
            let Some(number) = next.copied() else {
                break;
            };
            if !self.try_start(number, now) {
                break;
            }
            self.line.remove(&number);
            // Behind the head others may fit elsewhere.
            if self.discipline == Discipline::Strict {
                while let Some(first) = self.line.first().copied() {
                    if !self.try_start(first, now) {
                        return;
                    }
                    self.line.remove(&first);
                }
                return;
            }
        }
    }
}

/// Simulates one policy; the seed is that of arrivals and lifetimes.
pub fn simulate(
    trace: &Trace,
    policy: Policy,
    discipline: Discipline,
    trained: Option<&Trained>,
    options: &Options,
    seed: u64,
) -> Motion {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let exponential =
        |mean: f64, random: &mut ChaCha8Rng| -mean * (1.0 - random.random::<f64>()).ln();
    let draw = |random: &mut ChaCha8Rng| trace.pods[random.random_range(0..trace.pods.len())];
    let packer = Packer::new(
        &trace.catalogue,
        &trace.nodes,
        policy,
        trained,
        &trace.pods,
        seed,
    );
    let capacity = trace.capacity() as f64;
    let demand = trace
        .pods
        .iter()
        .map(|id| f64::from(trace.catalogue.get(*id).gpu_total()));
    let mean_demand = demand.sum::<f64>() / trace.pods.len() as f64;
    let steady = options.load * capacity / mean_demand;
    let between = options.lifetime / steady;
    let mut motor = Motor {
        trace,
        packer,
        discipline,
        endings: BinaryHeap::new(),
        came: Vec::new(),
        line: BTreeSet::new(),
        waits: Vec::new(),
        decisions: 0,
    };
    for _ in 0..steady as usize {
        motor.arrive(Coming {
            shape: draw(&mut random),
            at: 0.0,
            lifetime: exponential(options.lifetime, &mut random),
        });
    }
    let start = WARM_UP * options.lifetime;
    let end = start + options.hours;
    let mut first_measured = None;
    let mut now = 0.0;
    let mut held = 0.0;
    let mut next_arrival = exponential(between, &mut random);
    while now < end {
        let ending = motor
            .endings
            .peek()
            .map_or(f64::INFINITY, |ending| ending.0.at);
        let until = ending.min(next_arrival).min(end);
        let measured = until - now.max(start).min(until);
        held += measured * motor.packer.cluster().allocated() as f64;
        now = until;
        if now >= end {
            break;
        }
        if next_arrival <= ending {
            if now >= start {
                first_measured.get_or_insert(motor.came.len());
            }
            motor.arrive(Coming {
                shape: draw(&mut random),
                at: now,
                lifetime: exponential(options.lifetime, &mut random),
            });
            next_arrival = now + exponential(between, &mut random);
        } else if let Some(Reverse(ending)) = motor.endings.pop() {
            let node = motor
                .packer
                .cluster()
                .running(ending.pod)
                .map(|running| running.node);
            motor.packer.stop(ending.pod);
            if let Some(node) = node {
                motor.retry(node, now);
            }
        }
    }
    summary(
        &motor,
        first_measured.unwrap_or(motor.came.len()),
        end,
        options.lifetime,
        held / options.hours / capacity * 100.0,
    )
}

fn summary(motor: &Motor<'_>, first: usize, end: f64, lifetime: f64, utilisation: f64) -> Motion {
    let waiting = motor
        .line
        .iter()
        .map(|number| (*number, end - motor.came[*number].at));
    let all = motor.waits.iter().copied().chain(waiting);
    let mut waits = Vec::new();
    let mut classes = [ClassWait::default(); 4];
    let mut slowdown = [0.0; 4];
    for (number, wait) in all.filter(|(number, _)| *number >= first) {
        let class = motor.trace.catalogue.get(motor.came[number].shape).class();
        let at = Class::ALL
            .iter()
            .position(|other| *other == class)
            .unwrap_or_default();
        classes[at].came += 1;
        classes[at].mean += wait * 60.0;
        slowdown[at] += (wait + lifetime) / lifetime;
        waits.push(wait * 60.0);
    }
    waits.sort_by(f64::total_cmp);
    let count = waits.len().max(1);
    let mut seen = Vec::new();
    for (class, slowdown) in classes.iter_mut().zip(slowdown) {
        if class.came > 0 {
            class.mean /= class.came as f64;
            seen.push(slowdown / class.came as f64);
        }
    }
    let sum: f64 = seen.iter().sum();
    let squares: f64 = seen.iter().map(|value| value * value).sum();
    Motion {
        utilisation,
        mean_wait: waits.iter().sum::<f64>() / count as f64,
        p99_wait: exceeded(&waits, 100),
        p999_wait: exceeded(&waits, 1000),
        fairness: if seen.is_empty() {
            1.0
        } else {
            sum * sum / (seen.len() as f64 * squares)
        },
        classes,
        waiting: motor.line.len() as u64,
        decisions: motor.decisions,
    }
}

/// What one in so many exceeds, of sorted waits.
fn exceeded(waits: &[f64], one_in: usize) -> f64 {
    let at = waits.len() - waits.len() / one_in;
    let at = at.min(waits.len().saturating_sub(1));
    waits.get(at).copied().unwrap_or_default()
}
