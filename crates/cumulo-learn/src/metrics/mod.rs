//! How good predictions are: pure functions of labels and predictions.
//!
//! Every metric takes optional whole-number weights (how often a row counts), so
//! that a bootstrap costs no copying. A metric that is not defined for its rows
//! (AUC with one class, R² of a constant) is `None`, never a made-up number.
//!
//! | metric | task | meaning |
//! | --- | --- | --- |
//! | `auc` | classification | probability that a positive row is ranked above a negative one, ties half (Mann–Whitney U); several classes: mean over one-against-rest |
//! | `logloss` | classification | mean of −ln p(true class), p kept within 10⁻¹⁵ of 0 and 1 |
//! | `brier` | classification | mean squared error of the probability; several classes: summed over classes (Brier 1950) |
//! | `accuracy` | classification | share of rows whose predicted class is right |
//! | `precision`, `recall`, `f1` | classification | of the positive class at the threshold; several classes: unweighted mean over classes (0 where undefined, as scikit-learn does) |
//! | `rmse`, `mae` | regression | root of the mean squared error, mean absolute error |
//! | `r2` | regression | 1 − squared error ÷ squared deviation from the mean |
//! | `mape` | regression | mean of abs(error) ÷ abs(value) over rows whose value is not 0, as a share |

mod classes;
mod ranking;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::column::{list, nearest};

/// A measure of predictions; see the module for definitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the module's table defines each")]
pub enum Metric {
    Auc,
    LogLoss,
    Brier,
    Accuracy,
    Precision,
    Recall,
    F1,
    Rmse,
    Mae,
    R2,
    Mape,
}

/// A name that is no metric of the task.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{name}` is no metric{}; there are {}", .of, .known)]
pub struct UnknownMetric {
    name: String,
    of: &'static str,
    known: String,
}

impl Metric {
    /// All metrics.
    pub const ALL: [Metric; 11] = [
        Metric::Auc,
        Metric::LogLoss,
        Metric::Brier,
        Metric::Accuracy,
        Metric::Precision,
        Metric::Recall,
        Metric::F1,
        Metric::Rmse,
        Metric::Mae,
        Metric::R2,
        Metric::Mape,
    ];
    /// Those of classification.
    pub const CLASSIFICATION: [Metric; 7] = [
        Metric::Auc,
        Metric::LogLoss,
        Metric::Brier,
        Metric::Accuracy,
        Metric::Precision,
        Metric::Recall,
        Metric::F1,
    ];
    /// Those of regression.
    pub const REGRESSION: [Metric; 4] = [Metric::Rmse, Metric::Mae, Metric::R2, Metric::Mape];

    /// Its name in manifests and in tracking.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Auc => "auc",
            Metric::LogLoss => "logloss",
            Metric::Brier => "brier",
            Metric::Accuracy => "accuracy",
            Metric::Precision => "precision",
            Metric::Recall => "recall",
            Metric::F1 => "f1",
            Metric::Rmse => "rmse",
            Metric::Mae => "mae",
            Metric::R2 => "r2",
            Metric::Mape => "mape",
        }
    }

    /// Reads a name; `roc_auc` and `log_loss` are understood too.
    pub fn parse(name: &str) -> Result<Self, UnknownMetric> {
        let normal = name.to_ascii_lowercase().replace(['_', '-', ' '], "");
        let normal = match normal.as_str() {
            "rocauc" => "auc",
            "f1score" => "f1",
            other => other,
        };
        Self::ALL
            .into_iter()
            .find(|metric| metric.name() == normal)
            .ok_or_else(|| {
                let near = nearest(name, Self::ALL.iter().map(|metric| metric.name()));
                let known = if near.is_empty() {
                    list(Self::ALL.iter().map(|metric| metric.name()))
                } else {
                    list(near)
                };
                UnknownMetric {
                    name: name.to_owned(),
                    of: "",
                    known: known.into(),
                }
            })
    }

    /// Whether more is better.
    pub fn higher_is_better(self) -> bool {
        !matches!(
            self,
            Metric::LogLoss | Metric::Brier | Metric::Rmse | Metric::Mae | Metric::Mape
        )
    }

    /// Whether `a` is strictly better than `b`.
    pub fn better(self, a: f64, b: f64) -> bool {
        if self.higher_is_better() {
            a > b
        } else {
            a < b
        }
    }
}

impl std::fmt::Display for Metric {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// What kind of predictions there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// One probability per row, of class 1; the class is 1 above the threshold.
    Binary {
        /// The threshold.
        threshold: f64,
    },
    /// One probability per row and class, row after row.
    Multiclass {
        /// Number of classes.
        classes: usize,
    },
    /// One number per row.
    Regression,
}

impl Kind {
    /// Numbers per row.
    pub fn width(self) -> usize {
        match self {
            Kind::Multiclass { classes } => classes,
            _ => 1,
        }
    }

    /// The metrics that are defined for it.
    pub fn metrics(self) -> &'static [Metric] {
        match self {
            Kind::Regression => &Metric::REGRESSION,
            _ => &Metric::CLASSIFICATION,
        }
    }
}

/// Predictions with what came out.
#[derive(Clone, Copy, Debug)]
pub struct Outcomes<'a> {
    /// The number of the true class, or the true value, per row.
    pub labels: &'a [f64],
    /// [`Kind::width`] numbers per row.
    pub predictions: &'a [f64],
    /// What they are.
    pub kind: Kind,
}

/// How often each row counts; `None` counts every row once.
pub(crate) type Weights<'a> = Option<&'a [u32]>;

fn weight(weights: Weights<'_>, row: usize) -> f64 {
    weights.map_or(1.0, |weights| f64::from(weights[row]))
}

/// Sorted orders of predictions, computed once for many weightings.
pub(crate) struct Ranked(Vec<Vec<u32>>);

impl Outcomes<'_> {
    /// The metric over all rows.
    pub fn metric(&self, metric: Metric) -> Option<f64> {
        let ranked = (metric == Metric::Auc).then(|| self.rank());
        self.weighted(metric, ranked.as_ref(), None)
    }

    /// Every metric that is defined for these predictions, by name.
    pub fn all(&self) -> BTreeMap<String, f64> {
        self.kind
            .metrics()
            .iter()
            .filter_map(|metric| Some((metric.name().to_owned(), self.metric(*metric)?)))
            .collect()
    }

    pub(crate) fn rank(&self) -> Ranked {
        let width = self.kind.width();
        Ranked(
            (0..width)
                .map(|class| ranking::order(self.predictions, class, width))
                .collect(),
        )
    }

    /// The metric with rows counted `weights` times.
    pub(crate) fn weighted(
        &self,
        metric: Metric,
        ranked: Option<&Ranked>,
        weights: Weights<'_>,
    ) -> Option<f64> {
        if self.labels.is_empty() || self.predictions.len() != self.labels.len() * self.kind.width()
        {
            return None;
        }
        let value = match (self.kind, metric) {
            (Kind::Binary { .. }, Metric::Auc) => ranking::auc(
                &ranked?.0[0],
                self.predictions,
                0,
                1,
                self.labels,
                1.0,
                weights,
            ),
            (Kind::Multiclass { classes }, Metric::Auc) => {
                let areas: Vec<f64> = (0..classes)
                    .filter_map(|class| {
                        ranking::auc(
                            &ranked?.0[class],
                            self.predictions,
                            class,
                            classes,
                            self.labels,
                            class as f64,
                            weights,
                        )
                    })
                    .collect();
                (!areas.is_empty()).then(|| areas.iter().sum::<f64>() / areas.len() as f64)
            }
            (Kind::Regression, _) => self.regression(metric, weights),
            (_, Metric::LogLoss) => self.mean(weights, |row| self.log_loss(row)),
            (_, Metric::Brier) => self.mean(weights, |row| self.brier(row)),
            (_, Metric::Accuracy) => self.mean(weights, |row| {
                f64::from(u8::from(self.class(row) as f64 == self.labels[row]))
            }),
            (_, Metric::Precision | Metric::Recall | Metric::F1) => {
                classes::score(self, metric, weights)
            }
            _ => None,
        };
        value.filter(|value| value.is_finite())
    }

    fn mean(&self, weights: Weights<'_>, of: impl Fn(usize) -> f64) -> Option<f64> {
        let (mut sum, mut total) = (0.0, 0.0);
        for row in 0..self.labels.len() {
            let weight = weight(weights, row);
            if weight > 0.0 {
                sum += weight * of(row);
                total += weight;
            }
        }
        (total > 0.0).then(|| sum / total)
    }

    /// The predicted class.
    fn class(&self, row: usize) -> usize {
        match self.kind {
            Kind::Binary { threshold } => usize::from(self.predictions[row] > threshold),
            _ => highest(self.row(row)),
        }
    }

    fn row(&self, row: usize) -> &[f64] {
        let width = self.kind.width();
        &self.predictions[row * width..(row + 1) * width]
    }

    fn log_loss(&self, row: usize) -> f64 {
        const LEAST: f64 = 1e-15;
        let probability = match self.kind {
            Kind::Binary { .. } if self.labels[row] == 0.0 => 1.0 - self.predictions[row],
            Kind::Binary { .. } => self.predictions[row],
            _ => self
                .row(row)
                .get(self.labels[row] as usize)
                .copied()
                .unwrap_or(f64::NAN),
        };
        -probability.clamp(LEAST, 1.0 - LEAST).ln()
    }

    fn brier(&self, row: usize) -> f64 {
        match self.kind {
            Kind::Multiclass { .. } => self
                .row(row)
                .iter()
                .enumerate()
                .map(|(class, probability)| {
                    let truth = f64::from(u8::from(class as f64 == self.labels[row]));
                    (probability - truth).powi(2)
                })
                .sum(),
            _ => (self.predictions[row] - self.labels[row]).powi(2),
        }
    }

    fn regression(&self, metric: Metric, weights: Weights<'_>) -> Option<f64> {
        let error = |row: usize| self.predictions[row] - self.labels[row];
        match metric {
            Metric::Rmse => self.mean(weights, |row| error(row).powi(2)).map(f64::sqrt),
            Metric::Mae => self.mean(weights, |row| error(row).abs()),
            Metric::R2 => {
                let mean = self.mean(weights, |row| self.labels[row])?;
                let spread = self.mean(weights, |row| (self.labels[row] - mean).powi(2))?;
                let left = self.mean(weights, |row| error(row).powi(2))?;
                (spread > 0.0).then(|| 1.0 - left / spread)
            }
            Metric::Mape => {
                let (mut sum, mut total) = (0.0, 0.0);
                for row in (0..self.labels.len()).filter(|row| self.labels[*row] != 0.0) {
                    let weight = weight(weights, row);
                    sum += weight * (error(row) / self.labels[row]).abs();
                    total += weight;
                }
                (total > 0.0).then(|| sum / total)
            }
            _ => None,
        }
    }
}

/// The position of the highest number, the first among equals.
pub(crate) fn highest(values: &[f64]) -> usize {
    let mut best = 0;
    for (position, value) in values.iter().enumerate() {
        if *value > values[best] {
            best = position;
        }
    }
    best
}

/// A metric over the rows of one value of a column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The value; `(missing)` and `(other)` collect what has no value or is too rare.
    pub value: String,
    /// Number of rows.
    pub rows: usize,
    /// The metric; none where it is not defined.
    pub metric: Option<f64>,
}

/// The most slices that are reported of a column; the rest is `(other)`.
pub const MAX_SLICES: usize = 20;

/// A metric per group of rows, the largest groups first. `groups` numbers the
/// group of each row and `names` names the groups.
pub fn slices(
    outcomes: &Outcomes<'_>,
    metric: Metric,
    groups: &[usize],
    names: &[String],
) -> Vec<Slice> {
    let mut counts = vec![0usize; names.len()];
    for group in groups {
        counts[*group] += 1;
    }
    let mut largest: Vec<usize> = (0..names.len())
        .filter(|group| counts[*group] > 0)
        .collect();
    largest.sort_by(|a, b| counts[*b].cmp(&counts[*a]).then(names[*a].cmp(&names[*b])));
    let ranked = (metric == Metric::Auc).then(|| outcomes.rank());
    let report = |name: &str, wanted: &dyn Fn(usize) -> bool| {
        let weights: Vec<u32> = groups
            .iter()
            .map(|group| u32::from(wanted(*group)))
            .collect();
        Slice {
            value: name.to_owned(),
            rows: weights.iter().filter(|weight| **weight > 0).count(),
            metric: outcomes.weighted(metric, ranked.as_ref(), Some(&weights)),
        }
    };
    let named = if largest.len() > MAX_SLICES {
        MAX_SLICES - 1
    } else {
        largest.len()
    };
    let mut slices: Vec<Slice> = largest[..named]
        .iter()
        .map(|group| report(&names[*group], &|other| other == *group))
        .collect();
    if named < largest.len() {
        let rest = &largest[named..];
        slices.push(report("(other)", &|group| rest.contains(&group)));
    }
    slices
}

#[cfg(test)]
mod tests;
