//! Whose turn it is: inside a queue by an ordered key, between queues by
//! dominant-resource fairness down the tree.

use std::cmp::Reverse;
use std::collections::VecDeque;

use super::model::Model;
use super::problem::Seconds;
use super::quota::{Share, Tree};
use super::solution::JobRef;

/// Place of a job in its queue; the least is next, earlier fields decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    /// What waited past the bound goes before the rest, by arrival.
    pub patience: Patience,
    /// Then the higher priority.
    pub priority: Reverse<i32>,
    /// Then the earlier deadline.
    pub deadline: Seconds,
    /// Then who came first.
    pub arrival: Seconds,
    /// Then the order of the problem.
    pub job: usize,
}

/// Whether a job waited past the starvation bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Patience {
    /// It did; it arrived then.
    Starved(Seconds),
    /// It did not.
    Waiting,
}

impl Turn {
    pub fn of(model: &Model<'_>, job: usize) -> Self {
        let asked = model.job(JobRef::Waiting(job));
        let waited = model.problem.now.saturating_sub(asked.arrival);
        Self {
            patience: if waited > model.problem.options.starvation {
                Patience::Starved(asked.arrival)
            } else {
                Patience::Waiting
            },
            priority: Reverse(asked.priority),
            deadline: asked.deadline.unwrap_or(Seconds::MAX),
            arrival: asked.arrival,
            job,
        }
    }
}

/// What is still to be looked at, by queue.
pub(super) struct Turns {
    /// Past the bound, over all queues.
    starved: VecDeque<usize>,
    /// By queue, in order.
    queues: Vec<VecDeque<usize>>,
    /// In no queue, of a higher priority than all that waits in queues.
    urgent: VecDeque<usize>,
    /// In no queue.
    free: VecDeque<usize>,
    /// By queue, how many wait in it and below.
    below: Vec<usize>,
}

impl Turns {
    pub fn new(model: &Model<'_>, tree: &Tree) -> Self {
        let count = model.problem.queues.len();
        let mut turns = Self {
            starved: VecDeque::new(),
            queues: vec![VecDeque::new(); count],
            urgent: VecDeque::new(),
            free: VecDeque::new(),
            below: vec![0; count],
        };
        let mut order: Vec<Turn> = (0..model.problem.waiting.len())
            .map(|job| Turn::of(model, job))
            .collect();
        order.sort_unstable();
        let queued = order.iter().filter(|turn| {
            let queue = model.queue(JobRef::Waiting(turn.job));
            queue.is_some() && turn.patience == Patience::Waiting
        });
        let highest = queued.map(|turn| turn.priority.0).max();
        for turn in order {
            match (turn.patience, model.queue(JobRef::Waiting(turn.job))) {
                (Patience::Starved(_), _) => turns.starved.push_back(turn.job),
                (Patience::Waiting, None) => {
                    let urgent = highest.is_some_and(|highest| turn.priority.0 > highest);
                    let list = if urgent {
                        &mut turns.urgent
                    } else {
                        &mut turns.free
                    };
                    list.push_back(turn.job);
                }
                (Patience::Waiting, Some(queue)) => {
                    turns.queues[queue].push_back(turn.job);
                    turns.adjust(tree, queue, 1);
                }
            }
        }
        turns
    }

    /// The next job, by what each queue is owed now.
    pub fn next(&mut self, tree: &Tree) -> Option<usize> {
        if let Some(job) = self.starved.pop_front() {
            return Some(job);
        }
        if let Some(job) = self.urgent.pop_front() {
            return Some(job);
        }
        let mut at: Option<usize> = None;
        loop {
            if let Some(queue) = at
                && let Some(job) = self.queues[queue].pop_front()
            {
                self.adjust(tree, queue, -1);
                return Some(job);
            }
            let owed = tree
                .children(at)
                .iter()
                .filter(|child| self.below[**child] > 0);
            let next: Option<(Share, usize)> = owed.map(|child| (tree.share(*child), *child)).min();
            match next {
                Some((_, child)) => at = Some(child),
                None => return self.free.pop_front(),
            }
        }
    }

    fn adjust(&mut self, tree: &Tree, queue: usize, by: isize) {
        let mut at = Some(queue);
        while let Some(queue) = at {
            self.below[queue] = self.below[queue].saturating_add_signed(by);
            at = tree.parent(queue);
        }
    }
}
