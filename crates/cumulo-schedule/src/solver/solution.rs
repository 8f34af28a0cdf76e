//! What was decided: ordered actions, and for what waits its place and why.

use super::problem::{Instance, Seconds};
use super::work::{Placed, Placement};

/// What to do, in order, and what waits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Solution {
    /// To be done in this order: room is made before it is used.
    pub actions: Vec<Action>,
    /// What waits, in the order it was looked at.
    pub waits: Vec<Wait>,
    /// Places kept free for what waits at the front.
    pub reservations: Vec<Reservation>,
}

/// A job of the problem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JobRef {
    /// Position in `Problem::running`.
    Running(usize),
    /// Position in `Problem::waiting`.
    Waiting(usize),
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Put a pod in its place. All pods of a gang are bound one after another.
    Bind {
        /// The job.
        job: JobRef,
        /// The pod and its place.
        pod: Placed,
        /// Why there.
        reason: String,
    },
    /// End pods of running work so that other work can take their place.
    Preempt {
        /// Position in `Problem::running`.
        job: usize,
        /// Positions in the job's `pods`; all of them, or what is above its minimum.
        pods: Vec<usize>,
        /// The work that takes the place; it is bound in the same solution.
        beneficiary: usize,
        /// Why this one.
        reason: String,
    },
    /// Start a running pod elsewhere and end it here.
    Move {
        /// Position in `Problem::running`.
        job: usize,
        /// Position in the job's `pods`.
        pod: usize,
        /// The new place.
        to: Placement,
        /// The work that takes the place.
        beneficiary: usize,
        /// Why.
        reason: String,
    },
    /// Remove idle partitions of a device and create others.
    Repartition {
        /// Position of the node.
        node: usize,
        /// Position of the device on it.
        device: usize,
        /// Idle instances to remove.
        remove: Vec<Instance>,
        /// Instances to create.
        create: Vec<Instance>,
        /// Why.
        reason: String,
    },
}

/// Work that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// Position in `Problem::waiting`.
    pub job: usize,
    /// Its place among what waits in its queue; 1 is next.
    pub place: usize,
    /// What holds it back.
    pub cause: Cause,
    /// The same as a sentence.
    pub reason: String,
    /// What would let it run, as a sentence.
    pub remedy: String,
}

/// What holds work back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cause {
    /// It would not fit even if nothing ran.
    Infeasible,
    /// Its queue's quota, with what may be borrowed.
    Quota,
    /// What is free does not hold it.
    Capacity,
    /// It would fit, but delay the reservation of this waiting job.
    Reserved(usize),
    /// It would fit, but this job of its queue waited past the bound for the same quota.
    Behind(usize),
}

/// A place kept for work that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// Position in `Problem::waiting`.
    pub job: usize,
    /// When it can start, if work ends as estimated.
    pub at: Seconds,
    /// The places.
    pub pods: Vec<Placed>,
}

impl Solution {
    /// The places given to a job in this solution.
    pub fn bound(&self, of: JobRef) -> impl Iterator<Item = &Placed> {
        self.actions.iter().filter_map(move |action| match action {
            Action::Bind { job, pod, .. } if *job == of => Some(pod),
            _ => None,
        })
    }

    /// Why a job waits, if it does.
    #[must_use]
    pub fn wait(&self, job: usize) -> Option<&Wait> {
        self.waits.iter().find(|wait| wait.job == job)
    }
}

/// A length of time as people say it, for reasons.
pub(super) fn duration(seconds: Seconds) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}
