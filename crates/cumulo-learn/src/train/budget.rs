//! Keeps a search within its budget: pure arithmetic on measured seconds.

/// Time that is left for what comes after training: scoring, writing.
const RESERVE_SHARE: f64 = 0.04;
/// An estimate of the final training is increased by this factor.
const CAUTION: f64 = 1.15;

/// What the final training on all rows would cost.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cost {
    /// Seconds per boosting round on the rows to fit on.
    pub(super) seconds_per_round: f64,
    /// Rounds to train.
    pub(super) rounds: usize,
}

/// Why a trial was stopped before it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// It has had its share; it may go on later.
    Share,
    /// No time is left but for the final training.
    Budget,
}

/// Decides when to stop.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    /// Seconds for all.
    pub(super) total: f64,
    /// Training rows ÷ rows to fit on.
    pub(super) growth: f64,
    /// Seconds that binning the rows to fit on took.
    pub(super) binning: f64,
    /// Rows ready to be scored take seconds too; measured by the caller.
    pub(super) after: f64,
}

impl Budget {
    /// Seconds after which no training may go on.
    pub(super) fn end(&self) -> f64 {
        (self.total * (1.0 - RESERVE_SHARE) - self.after).max(self.total * 0.5)
    }

    /// Estimated seconds of the final training.
    pub(super) fn refit(&self, cost: Cost) -> f64 {
        CAUTION * self.growth * (self.binning + cost.seconds_per_round * cost.rounds as f64)
    }

    /// Whether a trial must stop at `now` after it has taken `taken` seconds of
    /// the `share` of what was left when it began; the dearer of `best` and the
    /// trial's own `cost` must still be trained on all rows afterwards.
    pub(super) fn stop(
        &self,
        now: f64,
        taken: f64,
        share: f64,
        best: Option<Cost>,
        cost: Cost,
    ) -> Option<Stop> {
        let refit = self
            .refit(cost)
            .max(best.map_or(0.0, |best| self.refit(best)));
        if now + refit >= self.end() {
            return Some(Stop::Budget);
        }
        let left_at_start = (self.end() - (now - taken)).max(0.0);
        (taken > share * left_at_start).then_some(Stop::Share)
    }

    /// Whether another trial is worth beginning at `now`.
    pub(super) fn another(&self, now: f64, best: Option<Cost>) -> bool {
        match best {
            None => now < self.end(),
            Some(best) => {
                // A trial that cannot reach a good part of the best one's rounds teaches nothing.
                let trial = 0.3 * best.seconds_per_round * best.rounds as f64;
                now + trial + self.refit(best) < self.end()
            }
        }
    }

    /// Whether the final training still fits.
    pub(super) fn affords_refit(&self, now: f64, best: Cost) -> bool {
        now + self.refit(best) / CAUTION < self.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a trial costs, when it is stopped the final training still fits.
        #[test]
        fn a_stopped_trial_leaves_room_for_the_final_training(
            total in 5.0..600.0f64,
            per_round in 0.0005..0.5f64,
            binning in 0.0..1.0f64,
            growth in 1.0..1.4f64,
        ) {
            let budget = Budget { total, growth, binning, after: 0.2 };
            let began = 1.0;
            let mut rounds = 0;
            let now = |rounds: usize| began + rounds as f64 * per_round;
            while rounds < 5_000
                && budget
                    .stop(
                        now(rounds),
                        now(rounds) - began,
                        1.0,
                        None,
                        Cost { seconds_per_round: per_round, rounds },
                    )
                    .is_none()
            {
                rounds += 1;
            }
            // The last round was begun before the check, hence one round's grace.
            let cost = Cost { seconds_per_round: per_round, rounds: rounds.saturating_sub(1) };
            if rounds > 1 {
                prop_assert!(now(rounds - 1) + budget.refit(cost) <= budget.end() + 1e-9);
            }
            prop_assert!(budget.end() <= total);
        }

        /// A trial that has a share leaves the rest of the time to others.
        #[test]
        fn a_share_is_kept(total in 10.0..600.0f64, began in 0.0..5.0f64, share in 0.05..0.9f64) {
            let budget = Budget { total, growth: 1.2, binning: 0.0, after: 0.0 };
            let left = budget.end() - began;
            let stop = |taken: f64| budget.stop(began + taken, taken, share, None, Cost::default());
            prop_assert_eq!(stop(left * share * 0.99), None);
            prop_assert_eq!(stop(left * share * 1.01), Some(Stop::Share));
            prop_assert_eq!(stop(left * 1.001), Some(Stop::Budget));
        }
    }
}
