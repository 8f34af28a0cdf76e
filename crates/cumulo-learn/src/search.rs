//! Which settings to try next.
//!
//! The first trials are fixed: settings that do well on most tables, from
//! careful to bold. After them a seeded search looks near the best quarter of
//! what was seen, and anywhere at times, so that it neither stalls nor wanders
//! (a simple evolution strategy; with the few trials that a budget of seconds
//! allows, a surrogate model has nothing to learn from). Pure: the caller trains
//! and keeps the time.

use serde::{Deserialize, Serialize};

use crate::metrics::Metric;
use crate::random::Random;

/// LightGBM's settings of a trial, in its own terms.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(
    missing_docs,
    reason = "the names are LightGBM's parameters, documented there"
)]
pub struct Settings {
    pub learning_rate: f64,
    pub num_leaves: u32,
    pub min_data_in_leaf: u32,
    pub feature_fraction: f64,
    pub bagging_fraction: f64,
    pub lambda_l1: f64,
    pub lambda_l2: f64,
    pub min_gain_to_split: f64,
    pub cat_smooth: f64,
    pub cat_l2: f64,
    pub max_cat_threshold: u32,
    /// Whether features are left out whose values in the rows to choose by lie
    /// beyond those to fit on (a month that had not come yet).
    pub leave_out_drifting: bool,
}

/// A trial's outcome.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Trial {
    /// Its number, from 0; 0 is the baseline.
    pub trial: usize,
    /// Its settings; none for the baseline.
    pub settings: Option<Settings>,
    /// Boosting rounds at the best metric.
    pub rounds: usize,
    /// The metric on the rows to choose by.
    pub metric: f64,
    /// The best metric so far, this one included.
    pub best: f64,
    /// Seconds since training began, when the trial ended.
    pub elapsed: f64,
    /// Whether it was stopped because the budget ended.
    pub cut_short: bool,
}

/// Proposes settings.
#[derive(Clone, Debug)]
pub struct Search {
    random: Random,
    metric: Metric,
    rows: usize,
    drifting: bool,
    seen: Vec<(Settings, f64)>,
}

impl Search {
    /// A search for tables of `rows` rows to fit on; `drifting` says whether
    /// some features drift.
    pub fn new(seed: u64, metric: Metric, rows: usize, drifting: bool) -> Self {
        Self {
            random: Random::new(seed ^ 0x7365_6172_6368),
            metric,
            rows,
            drifting,
            seen: Vec::new(),
        }
    }

    /// Tells how settings did.
    pub fn observe(&mut self, settings: Settings, metric: f64) {
        if !metric.is_finite() {
            return;
        }
        match self.seen.iter_mut().find(|(seen, _)| *seen == settings) {
            // A trial that went on.
            Some(seen) => seen.1 = metric,
            None => self.seen.push((settings, metric)),
        }
    }

    /// How many first trials are fixed.
    pub fn fixed(&self) -> usize {
        self.first().len()
    }

    /// The settings to try as number `trial`, from 1.
    pub fn propose(&mut self, trial: usize) -> Settings {
        let first = self.first();
        if let Some(settings) = trial.checked_sub(1).and_then(|at| first.get(at)) {
            return settings.clone();
        }
        if self.seen.is_empty() || self.random.unit() < 0.2 {
            return self.anywhere();
        }
        let metric = self.metric;
        let mut order: Vec<usize> = (0..self.seen.len()).collect();
        order.sort_by(|a, b| {
            let by_metric = self.seen[*a].1.total_cmp(&self.seen[*b].1);
            if metric.higher_is_better() {
                by_metric.reverse()
            } else {
                by_metric
            }
            .then(a.cmp(b))
        });
        let good = order.len().div_ceil(4);
        let parent = self.seen[order[self.random.below(good)]].0.clone();
        self.near(&parent)
    }

    fn first(&self) -> Vec<Settings> {
        let leaf = least_in_leaf(self.rows);
        let base = Settings {
            learning_rate: 0.1,
            num_leaves: 31,
            min_data_in_leaf: leaf,
            feature_fraction: 0.6,
            bagging_fraction: 0.8,
            lambda_l1: 0.0,
            lambda_l2: 1.0,
            min_gain_to_split: 0.0,
            cat_smooth: 10.0,
            cat_l2: 10.0,
            max_cat_threshold: 32,
            leave_out_drifting: false,
        };
        let mut first = Vec::new();
        first.push(base.clone());
        if self.drifting {
            first.push(Settings {
                leave_out_drifting: true,
                ..base.clone()
            });
        }
        // Then once more capacity, and in the direction that did better.
        let leave_out_drifting = self.best().is_some_and(|best| best.leave_out_drifting);
        let bold = Settings {
            num_leaves: 127,
            feature_fraction: 0.5,
            lambda_l2: 5.0,
            leave_out_drifting,
            ..base.clone()
        };
        let careful = Settings {
            num_leaves: 15,
            feature_fraction: 0.4,
            bagging_fraction: 0.6,
            lambda_l2: 10.0,
            leave_out_drifting,
            ..base
        };
        if self.rows > 5_000 {
            let bold_is_best = self
                .best()
                .is_some_and(|best| best.num_leaves == bold.num_leaves);
            let bolder = Settings {
                num_leaves: 255,
                ..bold.clone()
            };
            first.push(bold);
            first.push(if bold_is_best { bolder } else { careful });
        } else {
            first.push(careful);
        }
        first
    }

    /// The best settings so far.
    fn best(&self) -> Option<&Settings> {
        let mut best: Option<&(Settings, f64)> = None;
        for seen in &self.seen {
            if best.is_none_or(|best| self.metric.better(seen.1, best.1)) {
                best = Some(seen);
            }
        }
        best.map(|(settings, _)| settings)
    }

    fn anywhere(&mut self) -> Settings {
        let leaf = f64::from(least_in_leaf(self.rows));
        let most_leaves = (self.rows as f64 / 50.0).clamp(4.0, 255.0);
        let random = &mut self.random;
        let log =
            |random: &mut Random, low: f64, high: f64| random.between(low.ln(), high.ln()).exp();
        Settings {
            learning_rate: log(random, 0.03, 0.2),
            num_leaves: log(random, 4.0, most_leaves).round() as u32,
            min_data_in_leaf: log(random, (leaf / 4.0).max(1.0), leaf * 4.0).round() as u32,
            feature_fraction: random.between(0.3, 1.0),
            bagging_fraction: random.between(0.5, 1.0),
            lambda_l1: zero_or(random, 0.01, 10.0),
            lambda_l2: zero_or(random, 0.01, 100.0),
            min_gain_to_split: zero_or(random, 0.001, 1.0),
            cat_smooth: log(random, 1.0, 100.0),
            cat_l2: log(random, 1.0, 100.0),
            max_cat_threshold: log(random, 8.0, 128.0).round() as u32,
            leave_out_drifting: self.drifting && random.unit() < 0.5,
        }
    }

    /// Moves each setting with probability one half; ranges are those of `anywhere`.
    fn near(&mut self, parent: &Settings) -> Settings {
        let wild = self.anywhere();
        let random = &mut self.random;
        let mut step = |value: f64, wild: f64, low: f64, high: f64| {
            if random.unit() < 0.5 {
                return value;
            }
            if value <= 0.0 {
                return wild;
            }
            (value * random.between(-0.6, 0.6).exp()).clamp(low, high)
        };
        let most_leaves = (self.rows as f64 / 50.0).clamp(4.0, 255.0);
        Settings {
            learning_rate: step(parent.learning_rate, wild.learning_rate, 0.02, 0.3),
            num_leaves: step(f64::from(parent.num_leaves), 0.0, 3.0, most_leaves).round() as u32,
            min_data_in_leaf: step(f64::from(parent.min_data_in_leaf), 1.0, 1.0, 1e6).round()
                as u32,
            feature_fraction: step(parent.feature_fraction, 1.0, 0.2, 1.0),
            bagging_fraction: step(parent.bagging_fraction, 1.0, 0.3, 1.0),
            lambda_l1: step(parent.lambda_l1, wild.lambda_l1, 0.0, 100.0),
            lambda_l2: step(parent.lambda_l2, wild.lambda_l2, 0.0, 1000.0),
            min_gain_to_split: step(parent.min_gain_to_split, wild.min_gain_to_split, 0.0, 10.0),
            cat_smooth: step(parent.cat_smooth, wild.cat_smooth, 0.1, 1000.0),
            cat_l2: step(parent.cat_l2, wild.cat_l2, 0.1, 1000.0),
            max_cat_threshold: step(f64::from(parent.max_cat_threshold), 32.0, 1.0, 512.0).round()
                as u32,
            leave_out_drifting: if self.random.unit() < 0.15 {
                wild.leave_out_drifting
            } else {
                parent.leave_out_drifting
            },
        }
    }
}

/// Zero in half of the cases, otherwise log-uniform.
fn zero_or(random: &mut Random, low: f64, high: f64) -> f64 {
    if random.unit() < 0.5 {
        0.0
    } else {
        random.between(low.ln(), high.ln()).exp()
    }
}

/// Rows that a leaf must hold: 20 as LightGBM has it, fewer in small tables, more in large ones.
fn least_in_leaf(rows: usize) -> u32 {
    let scaled = (rows as f64).sqrt() / 8.0;
    scaled.clamp(2.0, 100.0).round() as u32
}

impl Settings {
    /// As LightGBM's parameters.
    pub(crate) fn parameters(&self) -> String {
        let Self {
            learning_rate,
            num_leaves,
            min_data_in_leaf,
            feature_fraction,
            bagging_fraction,
            lambda_l1,
            lambda_l2,
            min_gain_to_split,
            cat_smooth,
            cat_l2,
            max_cat_threshold,
            leave_out_drifting: _,
        } = self;
        let num_leaves = (*num_leaves).max(2);
        format!(
            "learning_rate={learning_rate} num_leaves={num_leaves} min_data_in_leaf={min_data_in_leaf} \
             feature_fraction={feature_fraction} bagging_fraction={bagging_fraction} bagging_freq=1 \
             lambda_l1={lambda_l1} lambda_l2={lambda_l2} min_gain_to_split={min_gain_to_split} \
             cat_smooth={cat_smooth} cat_l2={cat_l2} max_cat_threshold={max_cat_threshold}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A made-up landscape: the further from these settings, the worse.
    fn goodness(settings: &Settings) -> f64 {
        let far = |value: f64, best: f64| (value.max(1e-3) / best).ln().powi(2);
        -far(settings.learning_rate, 0.05)
            - far(f64::from(settings.num_leaves), 60.0)
            - far(settings.feature_fraction, 0.4)
            - far(settings.lambda_l2, 5.0) / 10.0
            - if settings.leave_out_drifting {
                0.0
            } else {
                1.0
            }
    }

    fn explore(seed: u64, rows: usize, trials: usize) -> Vec<(Settings, f64)> {
        let mut search = Search::new(seed, Metric::Auc, rows, true);
        (1..=trials)
            .map(|trial| {
                let settings = search.propose(trial);
                let metric = goodness(&settings);
                search.observe(settings.clone(), metric);
                (settings, metric)
            })
            .collect()
    }

    proptest! {
        /// Every proposal is one that LightGBM accepts, and a seed always gives the same ones.
        #[test]
        fn proposals_are_valid_and_repeatable(seed in any::<u64>(), rows in 1usize..1_000_000) {
            let seen = explore(seed, rows, 60);
            for (settings, _) in &seen {
                prop_assert!(settings.learning_rate > 0.0 && settings.learning_rate <= 0.3);
                prop_assert!((3..=255).contains(&settings.num_leaves) , "{}", settings.num_leaves);
                prop_assert!(settings.min_data_in_leaf >= 1);
                for fraction in [settings.feature_fraction, settings.bagging_fraction] {
                    prop_assert!(fraction > 0.0 && fraction <= 1.0);
                }
                for weight in [settings.lambda_l1, settings.lambda_l2, settings.min_gain_to_split] {
                    prop_assert!(weight >= 0.0 && weight.is_finite());
                }
                prop_assert!(settings.cat_smooth > 0.0 && settings.cat_l2 > 0.0 && settings.max_cat_threshold >= 1);
                prop_assert!(!settings.parameters().contains("NaN"));
            }
            prop_assert_eq!(seen, explore(seed, rows, 60));
        }
    }

    #[test]
    fn the_search_gets_better_than_its_first_settings() {
        let best = |seen: &[(Settings, f64)]| {
            seen.iter()
                .map(|(_, metric)| *metric)
                .fold(f64::NEG_INFINITY, f64::max)
        };
        let better = (0..20)
            .filter(|seed| {
                let seen = explore(*seed, 100_000, 60);
                best(&seen) > best(&seen[..4]) / 2.0
            })
            .count();
        assert!(better >= 18, "{better} of 20 searches halved the distance");
    }
}
