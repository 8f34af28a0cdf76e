//! How many pods with certain labels run in each domain: for affinity and spread.

use std::collections::BTreeMap;

use super::model::Model;
use super::solution::JobRef;

struct Count<'p> {
    labels: &'p BTreeMap<String, String>,
    level: usize,
}

/// Counts of labelled pods by domain, for every label set and level that some
/// work asks about.
pub(super) struct Nearby {
    /// By count and domain.
    pods: Vec<Vec<i64>>,
    level: Vec<usize>,
    /// By job, the counts whose labels it has.
    waiting: Vec<Vec<usize>>,
    running: Vec<Vec<usize>>,
    /// By waiting job, the count of each affinity rule, then of each spread.
    asked: Vec<Vec<usize>>,
    grown: Vec<Vec<usize>>,
    undo: Vec<(usize, usize, i64)>,
}

impl Nearby {
    pub fn new(model: &Model<'_>) -> Self {
        let mut counts: Vec<Count<'_>> = Vec::new();
        let mut find = |labels, level| {
            let known = counts
                .iter()
                .position(|count| count.level == level && count.labels == labels);
            known.unwrap_or_else(|| {
                counts.push(Count { labels, level });
                counts.len() - 1
            })
        };
        let mut asks = |job: JobRef| {
            let job = model.job(job);
            let affinity = job
                .affinity
                .iter()
                .map(|rule| (&rule.labels, model.level(&rule.level)));
            let spread = job
                .spread
                .iter()
                .map(|rule| (&rule.labels, model.level(&rule.level)));
            affinity
                .chain(spread)
                .map(|(labels, level)| find(labels, level))
                .collect::<Vec<_>>()
        };
        let asked = (0..model.problem.waiting.len())
            .map(|at| asks(JobRef::Waiting(at)))
            .collect();
        let grown = (0..model.problem.running.len())
            .map(|at| asks(JobRef::Running(at)))
            .collect();
        let matching = |job: JobRef| {
            let labels = &model.job(job).labels;
            let has = |count: &Count<'_>| {
                !count.labels.is_empty()
                    && count
                        .labels
                        .iter()
                        .all(|(key, value)| labels.get(key) == Some(value))
            };
            let found = counts.iter().enumerate().filter(|(_, count)| has(count));
            found.map(|(at, _)| at).collect::<Vec<_>>()
        };
        Self {
            waiting: (0..model.problem.waiting.len())
                .map(|at| matching(JobRef::Waiting(at)))
                .collect(),
            running: (0..model.problem.running.len())
                .map(|at| matching(JobRef::Running(at)))
                .collect(),
            pods: counts
                .iter()
                .map(|count| vec![0; model.levels[count.level].names.len()])
                .collect(),
            level: counts.iter().map(|count| count.level).collect(),
            asked,
            grown,
            undo: Vec::new(),
        }
    }

    /// Counts a pod of `job` on `node`, or takes it back.
    pub fn count(&mut self, model: &Model<'_>, job: JobRef, node: usize, by: i64) {
        let matching = match job {
            JobRef::Running(at) => &self.running[at],
            JobRef::Waiting(at) => &self.waiting[at],
        };
        for at in matching {
            if let Some(domain) = model.levels[self.level[*at]].domain[node] {
                self.pods[*at][domain] += by;
                self.undo.push((*at, domain, by));
            }
        }
    }

    pub fn mark(&self) -> usize {
        self.undo.len()
    }

    pub fn rollback(&mut self, mark: usize) {
        while self.undo.len() > mark {
            if let Some((count, domain, by)) = self.undo.pop() {
                self.pods[count][domain] -= by;
            }
        }
    }

    /// Level and pods by domain of the job's rule (affinity first, then spread).
    pub fn of(&self, job: JobRef, rule: usize) -> (usize, &[i64]) {
        let count = match job {
            JobRef::Running(at) => self.grown[at][rule],
            JobRef::Waiting(at) => self.asked[at][rule],
        };
        (self.level[count], &self.pods[count])
    }

    /// Whether the job's own labels are those of the rule.
    pub fn own(&self, job: JobRef, rule: usize) -> bool {
        match job {
            JobRef::Running(at) => self.running[at].contains(&self.grown[at][rule]),
            JobRef::Waiting(at) => self.waiting[at].contains(&self.asked[at][rule]),
        }
    }
}
