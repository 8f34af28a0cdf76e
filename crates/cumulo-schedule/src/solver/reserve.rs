//! Places kept for work that must wait, so that what is smaller and comes
//! later fills the gaps without delaying it (EASY backfill).

use super::engine::{Engine, Mark, Put, Shadow, charges};
use super::place::Rules;
use super::problem::Seconds;
use super::quota::Charge;
use super::solution::{JobRef, Reservation};

/// Quota that is kept for work with a reservation.
pub(super) struct Held {
    pub job: usize,
    pub queue: usize,
    pub charges: Vec<Charge>,
}

impl Engine<'_> {
    /// Keeps the earliest place for a waiting job that running work leaves by
    /// its estimates, on nodes that nothing else is kept on.
    pub fn reserve(&mut self, job: usize) -> Option<(Reservation, Option<Held>)> {
        let mut ends: Vec<Seconds> = self.work.iter().map(|work| work.end).collect();
        ends.retain(|end| *end < Seconds::MAX);
        ends.sort_unstable();
        ends.dedup();
        let reserved: Vec<usize> = self.shadows.keys().copied().collect();
        // The later, the more is free: the first moment is found by halving.
        let (mut low, mut high) = (0, ends.len());
        while low < high {
            let middle = low + (high - low) / 2;
            let mark = self.mark();
            let fits = self.place_at(job, ends[middle], &reserved).is_some();
            self.rollback(mark);
            if fits {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let at = *ends.get(low)?;
        let mark = self.mark();
        let puts = self.place_at(job, at, &reserved);
        self.keep(job, at, puts?, mark)
    }

    fn place_at(&mut self, job: usize, at: Seconds, reserved: &[usize]) -> Option<Vec<Put>> {
        let ended: Vec<(JobRef, Vec<Put>)> = self
            .work
            .iter()
            .filter(|work| work.end <= at)
            .map(|work| (work.job, work.puts.clone()))
            .collect();
        for (ended, puts) in &ended {
            for put in puts {
                self.lift(*ended, put);
            }
        }
        let job = JobRef::Waiting(job);
        let counts = self.minimum(job);
        self.place(
            job,
            &counts,
            &[],
            Rules {
                reserved: false,
                except: reserved,
                ..Rules::ALL
            },
        )
    }

    fn keep(
        &mut self,
        job: usize,
        at: Seconds,
        puts: Vec<Put>,
        mark: Mark,
    ) -> Option<(Reservation, Option<Held>)> {
        let pods = puts.iter().map(|put| self.placed(put)).collect();
        let states: Vec<_> = puts
            .iter()
            .map(|put| (put.node, self.cluster.state(put.node).clone()))
            .collect();
        self.rollback(mark);
        for (node, state) in states {
            self.shadows.insert(node, Shadow { job, at, state });
        }
        let held = self.model.queue(JobRef::Waiting(job)).map(|queue| {
            let all = puts
                .iter()
                .flat_map(|put| charges(self.model, put.node, &put.take));
            Held {
                job,
                queue,
                charges: merged(all),
            }
        });
        let held = held.filter(|held| self.tree.lacking(held.queue, &held.charges).is_none());
        if let Some(held) = &held {
            self.tree.charge(held.queue, &held.charges);
        }
        Some((Reservation { job, at, pods }, held))
    }
}

/// Charges of the same kind added up.
pub(super) fn merged(charges: impl Iterator<Item = Charge>) -> Vec<Charge> {
    let mut sums: Vec<Charge> = Vec::new();
    for charge in charges {
        match sums.iter_mut().find(|sum| sum.at == charge.at) {
            Some(sum) => sum.amount = sum.amount.saturating_add(charge.amount),
            None => sums.push(charge),
        }
    }
    sums
}
