//! All policies on one trace, and what came out.

use rayon::prelude::*;

use super::bound::upper_bound;
use super::dynamic::{Discipline, Motion, Options as MotionOptions, simulate};
use super::protocol::{Arrivals, Outcome, Point, replay};
use super::trace::Trace;
use crate::packing::{self, Class, Moving, Policy, Settings, Trained};

/// What to replay.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which policies.
    pub policies: Vec<Policy>,
    /// One replay for each; results are means over them.
    pub seeds: Vec<u64>,
    /// Demand at the end, as a multiple of the cluster's GPUs.
    pub inflation: f64,
    /// Replay our policy a second time with moves.
    pub moving: Option<Moving>,
    /// Simulate departures and arrivals too.
    pub motion: Option<MotionOptions>,
    /// Compute the upper bound.
    pub bound: bool,
    /// Settings of our policy.
    pub settings: Settings,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            policies: Policy::ALL.to_vec(),
            seeds: (42..52).collect(),
            inflation: 1.3,
            moving: Some(Moving::default()),
            motion: None,
            bound: true,
            settings: Settings::default(),
        }
    }
}

/// What a run is doing; the caller shows it, and takes the time if it wants to.
#[derive(Clone, Debug, PartialEq)]
pub enum Progress {
    /// So many steps in all.
    Steps(u64),
    /// A stage begins.
    Started(String),
    /// One step of the stage is done.
    Step,
    /// A stage ended after so many decisions.
    Finished(String, u64),
}

/// The replays of one policy.
#[derive(Clone, Debug, Default)]
pub struct Row {
    /// The policy's name, with what else was allowed.
    pub name: String,
    /// One per seed.
    pub outcomes: Vec<Outcome>,
    /// How long the replays took together, if the caller measured it.
    pub seconds: Option<f64>,
}

impl Row {
    /// Mean percent allocated when this percent of demand had arrived.
    pub fn at(&self, percent: usize) -> Option<f64> {
        mean(self.outcomes.iter().map(|outcome| outcome.at(percent)))
    }

    /// Mean number of pods admitted, by class: until demand reached 100%
    /// (`0`), or in all (`1`).
    pub fn admitted(&self, upto: usize) -> [f64; 4] {
        let count = self.outcomes.len().max(1) as f64;
        let mut sums = [0.0; 4];
        for outcome in &self.outcomes {
            for (sum, admitted) in sums.iter_mut().zip(outcome.admitted[upto]) {
                *sum += admitted as f64 / count;
            }
        }
        sums
    }

    /// Mean share of the admitted pods that were moved, in percent.
    pub fn moved(&self) -> f64 {
        let shares = self.outcomes.iter().map(|outcome| {
            let admitted: u64 = outcome.admitted[1].iter().sum();
            Some(outcome.moved as f64 / admitted.max(1) as f64 * 100.0)
        });
        mean(shares).unwrap_or_default()
    }

    /// Mean percent of the cluster's GPUs that had been asked for when the first pod
    /// of at most one GPU was refused.
    pub fn refused_at(&self) -> f64 {
        let at = self.outcomes.iter().map(|outcome| Some(outcome.refused_at));
        mean(at).unwrap_or_default()
    }

    /// Decisions of all seeds.
    pub fn decisions(&self) -> u64 {
        self.outcomes.iter().map(Outcome::decisions).sum()
    }

    /// The mean of the curves.
    pub fn curve(&self) -> Vec<Point> {
        let length = self
            .outcomes
            .iter()
            .map(|outcome| outcome.curve.len())
            .min();
        let points = (0..length.unwrap_or_default()).map(|percent| Point {
            arrived: percent as f64,
            allocated: self.at(percent).unwrap_or_default(),
        });
        points.collect()
    }
}

fn mean(values: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let values: Vec<f64> = values.collect::<Option<_>>()?;
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// The simulated time of one policy.
#[derive(Clone, Debug)]
pub struct MotionRow {
    /// The policy's name, with its discipline.
    pub name: String,
    /// What happened.
    pub motion: Motion,
    /// How long it took, if the caller measured it.
    pub seconds: Option<f64>,
}

/// What came out.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Nodes of the cluster.
    pub nodes: usize,
    /// GPUs of the cluster.
    pub gpus: u64,
    /// Pods of the trace.
    pub pods: usize,
    /// Shapes of pod.
    pub shapes: usize,
    /// Demand at the end, in percent of the cluster's GPUs.
    pub end: usize,
    /// Pods that came, mean by class: until 100%, and in all.
    pub came: [[f64; 4]; 2],
    /// One per policy.
    pub rows: Vec<Row>,
    /// No policy can exceed this, mean over seeds: at 100%, and at the end.
    pub bound: Option<[f64; 2]>,
    /// No policy can exceed this, mean over seeds, that admits all of at most one
    /// GPU who came before the last policy here refused the first of them.
    pub bound_admitting: Option<[f64; 2]>,
    /// Departures and arrivals.
    pub motion: Vec<MotionRow>,
}

/// Replays a trace under policies.
///
/// # Errors
///
/// The trace has no nodes, no GPUs' worth of demand, or no pods.
pub fn run(
    trace: &Trace,
    options: &Options,
    progress: &(dyn Fn(Progress) + Sync),
) -> Result<Report, packing::Error> {
    if trace.nodes.is_empty() {
        return Err(packing::Error::NoNodes);
    }
    if trace.pods.is_empty() {
        return Err(packing::Error::NoPods);
    }
    let arrivals: Vec<Arrivals> = options
        .seeds
        .par_iter()
        .map(|seed| Arrivals::inflate(trace, options.inflation, *seed))
        .collect();
    let with_ours = options.policies.contains(&Policy::Ours);
    let moving = options.moving.filter(|_| with_ours);
    let mut stages: Vec<(String, Policy, Option<Moving>)> = Vec::new();
    for policy in &options.policies {
        stages.push((policy.name().to_owned(), *policy, None));
    }
    if let Some(moving) = moving {
        let name = format!("ours, {}% moved", moving.share * 100.0);
        stages.push((name, Policy::Ours, Some(moving)));
    }
    let motions = options
        .motion
        .map_or(0, |_| options.policies.len() * arrivals.len());
    let steps = stages.len() * arrivals.len()
        + usize::from(with_ours)
        + usize::from(options.bound) * 4 * arrivals.len()
        + motions;
    progress(Progress::Steps(steps as u64));
    let mut report = Report {
        nodes: trace.nodes.len(),
        gpus: trace.capacity() / 1000,
        pods: trace.pods.len(),
        shapes: trace.catalogue.shapes().len(),
        end: (options.inflation * 100.0).round() as usize,
        ..Report::default()
    };
    let trained = if with_ours {
        progress(Progress::Started("learning the workload".to_owned()));
        let (catalogue, settings) = (&trace.catalogue, options.settings.clone());
        let trained = Trained::learn(catalogue, &trace.nodes, &trace.pods, settings)?;
        progress(Progress::Step);
        progress(Progress::Finished("learning the workload".to_owned(), 0));
        Some(trained)
    } else {
        None
    };
    for (name, policy, moving) in stages {
        progress(Progress::Started(name.clone()));
        let pairs = arrivals.par_iter().zip(&options.seeds);
        let outcomes = pairs.map(|(arrivals, seed)| {
            let trained = trained.as_ref();
            let outcome = replay(trace, arrivals, policy, trained, moving.as_ref(), *seed);
            progress(Progress::Step);
            outcome
        });
        let row = Row {
            name: name.clone(),
            outcomes: outcomes.collect(),
            seconds: None,
        };
        progress(Progress::Finished(name, row.decisions()));
        report.rows.push(row);
    }
    if let Some(row) = report.rows.first() {
        report.came = [0, 1].map(|upto| {
            let mut sums = [0.0; 4];
            for outcome in &row.outcomes {
                for (sum, came) in sums.iter_mut().zip(outcome.came[upto]) {
                    *sum += came as f64 / row.outcomes.len() as f64;
                }
            }
            sums
        });
    }
    if options.bound {
        progress(Progress::Started("upper bound".to_owned()));
        let last = stages_without_moves(&report).last();
        let bounds: Vec<[Option<f64>; 4]> = arrivals
            .par_iter()
            .enumerate()
            .map(|(seed, arrivals)| {
                let last = last.and_then(|row| row.outcomes.get(seed));
                let kept = last.map_or(0, |outcome| outcome.before_refusal as usize);
                [(0, 100), (0, report.end), (kept, 100), (kept, report.end)].map(
                    |(kept, percent)| {
                        let came = &arrivals.pods[..upto(trace, arrivals, percent)];
                        let bound = upper_bound(trace, came, kept);
                        progress(Progress::Step);
                        bound
                    },
                )
            })
            .collect();
        let mean_of = |kind: usize| mean(bounds.iter().map(|bound| bound[kind]));
        report.bound = mean_of(0).zip(mean_of(1)).map(<[f64; 2]>::from);
        report.bound_admitting = mean_of(2).zip(mean_of(3)).map(<[f64; 2]>::from);
        progress(Progress::Finished("upper bound".to_owned(), 0));
    }
    if let Some(motion) = &options.motion {
        let in_motion = trained.as_ref().map(Trained::in_motion);
        for policy in &options.policies {
            let discipline = match policy {
                Policy::BestFit => Discipline::Strict,
                _ => Discipline::Backfill,
            };
            let name = match discipline {
                Discipline::Strict => format!("{}, strict FIFO", policy.name()),
                Discipline::Backfill => policy.name().to_owned(),
            };
            progress(Progress::Started(format!("{name} in motion")));
            let motions = options.seeds.par_iter().map(|seed| {
                let trained = in_motion.as_ref();
                let motion = simulate(trace, *policy, discipline, trained, motion, *seed);
                progress(Progress::Step);
                motion
            });
            let motion = Motion::mean(&motions.collect::<Vec<_>>());
            progress(Progress::Finished(
                format!("{name} in motion"),
                motion.decisions,
            ));
            report.motion.push(MotionRow {
                name,
                motion,
                seconds: None,
            });
        }
    }
    Ok(report)
}

/// The rows of policies that moved nobody.
fn stages_without_moves(report: &Report) -> impl Iterator<Item = &Row> {
    let still = |row: &&Row| row.outcomes.iter().all(|outcome| outcome.moved == 0);
    report.rows.iter().filter(still)
}

/// How many pods come until demand no longer rounds to so many percent of the
/// cluster's GPUs: who takes part in the mean that a curve has there, and all before.
fn upto(trace: &Trace, arrivals: &Arrivals, percent: usize) -> usize {
    let capacity = trace.capacity() as f64;
    let mut demand = 0u64;
    let within = arrivals.pods.iter().take_while(|id| {
        demand += u64::from(trace.catalogue.get(**id).gpu_total());
        (demand as f64 / capacity * 100.0).round() as usize <= percent
    });
    within.count()
}

impl Report {
    /// Notes how long a stage took; the report itself reads no clock.
    pub fn took(&mut self, stage: &str, seconds: f64) {
        for row in self.rows.iter_mut().filter(|row| row.name == stage) {
            row.seconds = Some(seconds);
        }
        let motion = self.motion.iter_mut();
        for row in motion.filter(|row| stage.strip_suffix(" in motion") == Some(&row.name)) {
            row.seconds = Some(seconds);
        }
    }

    /// The names of the classes, as the tables have them.
    pub fn classes() -> [&'static str; 4] {
        Class::ALL.map(Class::name)
    }
}
