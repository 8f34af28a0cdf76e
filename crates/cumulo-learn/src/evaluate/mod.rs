//! Whether a candidate should take the champion's place: pure functions of the
//! predictions of both on the same rows.

mod criteria;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::{Metric, Outcomes, Slice, slices};
use crate::random::Random;
use crate::table::{Table, TableError, Values};

pub use criteria::{Criteria, CriteriaError, Criterion, Relation};

/// Resamples of a bootstrap.
const RESAMPLES: usize = 400;

/// The difference of a metric between candidate and champion on the same rows,
/// signed so that above 0 the candidate is better, with the 95% percentile
/// interval of a paired bootstrap (Efron and Tibshirani 1993, chapter 13).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The metric.
    pub metric: Metric,
    /// On the rows as they are.
    pub value: f64,
    /// Lower end of the interval.
    pub low: f64,
    /// Upper end of the interval.
    pub high: f64,
}

/// Candidate and champion on the same rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// Number of rows.
    pub rows: usize,
    /// The candidate's metrics by name.
    pub candidate: BTreeMap<String, f64>,
    /// The champion's, if there is one.
    pub champion: Option<BTreeMap<String, f64>>,
    /// How much better the candidate is.
    pub difference: Option<Difference>,
}

/// Predictions that cannot be compared.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "the candidate was scored on {candidate} rows and the champion on {champion}; both must meet the same rows"
)]
pub struct NotPaired {
    candidate: usize,
    champion: usize,
}

/// Computes all metrics of both and the difference in `metric`.
pub fn compare(
    candidate: &Outcomes<'_>,
    champion: Option<&Outcomes<'_>>,
    metric: Metric,
    seed: u64,
) -> Result<Evaluation, NotPaired> {
    let difference = match champion {
        Some(champion) => {
            if champion.labels.len() != candidate.labels.len() {
                return Err(NotPaired {
                    candidate: candidate.labels.len(),
                    champion: champion.labels.len(),
                });
            }
            paired_bootstrap(candidate, champion, metric, seed, RESAMPLES)
        }
        None => None,
    };
    Ok(Evaluation {
        rows: candidate.labels.len(),
        candidate: candidate.all(),
        champion: champion.map(Outcomes::all),
        difference,
    })
}

/// Draws rows with replacement, the same for both, and looks at the difference.
fn paired_bootstrap(
    candidate: &Outcomes<'_>,
    champion: &Outcomes<'_>,
    metric: Metric,
    seed: u64,
    resamples: usize,
) -> Option<Difference> {
    let sign = if metric.higher_is_better() { 1.0 } else { -1.0 };
    let ranked = (metric == Metric::Auc).then(|| (candidate.rank(), champion.rank()));
    let (first, second) = match &ranked {
        Some((first, second)) => (Some(first), Some(second)),
        None => (None, None),
    };
    let difference = |weights: Option<&[u32]>| {
        let candidate = candidate.weighted(metric, first, weights)?;
        let champion = champion.weighted(metric, second, weights)?;
        Some(sign * (candidate - champion))
    };
    let value = difference(None)?;
    let rows = candidate.labels.len();
    let mut random = Random::new(seed ^ 0x626f_6f74);
    let mut weights = vec![0u32; rows];
    let mut drawn: Vec<f64> = (0..resamples)
        .filter_map(|_| {
            weights.fill(0);
            for _ in 0..rows {
                weights[random.below(rows)] += 1;
            }
            difference(Some(&weights))
        })
        .collect();
    drawn.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let position = (share * drawn.len() as f64) as usize;
        drawn
            .get(position.min(drawn.len().saturating_sub(1)))
            .copied()
    };
    Some(Difference {
        metric,
        value,
        low: at(0.025).unwrap_or(value),
        high: at(0.975).unwrap_or(value),
    })
}

/// What to do with a candidate, and why, for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "decision", rename_all = "camelCase")]
pub enum Decision {
    /// It becomes the champion.
    Promote {
        /// Why.
        reason: String,
    },
    /// The champion stays.
    Keep {
        /// Why.
        reason: String,
    },
}

impl Decision {
    /// Why.
    pub fn reason(&self) -> &str {
        match self {
            Decision::Promote { reason } | Decision::Keep { reason } => reason,
        }
    }

    /// Whether the candidate becomes the champion.
    pub fn promotes(&self) -> bool {
        matches!(self, Decision::Promote { .. })
    }
}

/// Decides on metrics: the candidate must meet every criterion and, where there
/// is a champion, be strictly better than it in `metric` on the same rows.
pub fn decide(
    candidate: &BTreeMap<String, f64>,
    champion: Option<&BTreeMap<String, f64>>,
    criteria: &Criteria,
    metric: Metric,
) -> Decision {
    decide_with(candidate, champion, criteria, metric, None)
}

/// Decides on an evaluation; the reason states the interval of the difference.
pub fn decide_evaluation(evaluation: &Evaluation, criteria: &Criteria, metric: Metric) -> Decision {
    decide_with(
        &evaluation.candidate,
        evaluation.champion.as_ref(),
        criteria,
        metric,
        evaluation.difference.as_ref(),
    )
}

fn decide_with(
    candidate: &BTreeMap<String, f64>,
    champion: Option<&BTreeMap<String, f64>>,
    criteria: &Criteria,
    metric: Metric,
    difference: Option<&Difference>,
) -> Decision {
    let failed: Vec<String> = criteria
        .iter()
        .filter_map(|criterion| criterion.failure(candidate))
        .collect();
    if !failed.is_empty() {
        return Decision::Keep {
            reason: format!(
                "the candidate does not meet the criteria: {}",
                failed.join("; ")
            ),
        };
    }
    let met = match criteria.describe(candidate) {
        Some(met) => format!("it meets the criteria ({met})"),
        None => "there are no criteria".to_owned(),
    };
    let Some(champion) = champion else {
        return Decision::Promote {
            reason: format!("there is no champion yet and {met}"),
        };
    };
    let name = metric.name();
    let (ours, theirs) = match (candidate.get(name), champion.get(name)) {
        (Some(ours), Some(theirs)) => (*ours, *theirs),
        (None, _) => {
            return Decision::Keep {
                reason: format!(
                    "the candidate has no {name} on these rows, so nothing says that it is better"
                ),
            };
        }
        (_, None) => {
            return Decision::Promote {
                reason: format!("the champion has no {name} on these rows and {met}"),
            };
        }
    };
    let interval = difference
        .filter(|difference| difference.metric == metric)
        .map(|difference| {
            format!(
                ", difference {:+.4} with a 95% interval of {:+.4} to {:+.4}",
                difference.value, difference.low, difference.high
            )
        })
        .unwrap_or_default();
    let numbers = format!("{name} {ours:.4} against {theirs:.4} on the same rows{interval}");
    if metric.better(ours, theirs) {
        Decision::Promote {
            reason: format!("the candidate is better than the champion: {numbers}; {met}"),
        }
    } else {
        Decision::Keep {
            reason: format!("the candidate is not better than the champion: {numbers}"),
        }
    }
}

/// A metric per value of a column; numbers of more than 20 values are put into
/// four groups of about equal size.
pub(crate) fn slice_report(
    outcomes: &Outcomes<'_>,
    metric: Metric,
    table: &Table,
    column: &str,
    rows: &[u32],
) -> Result<Vec<Slice>, TableError> {
    const MISSING: &str = "(missing)";
    let mut names: Vec<String> = Vec::new();
    let groups: Vec<usize> = match table.get(column)? {
        Values::Text { codes, values } => {
            names = values.clone();
            names.push(MISSING.to_owned());
            rows.iter()
                .map(|row| (codes[*row as usize] as usize).min(values.len()))
                .collect()
        }
        Values::Number { values, .. } => {
            let chosen: Vec<f64> = rows.iter().map(|row| values[*row as usize]).collect();
            number_groups(&chosen, &mut names)
        }
        Values::Time(values) => {
            let months: Vec<f64> = rows
                .iter()
                .map(|row| {
                    values[*row as usize].map_or(f64::NAN, |micros| {
                        crate::features::time::part(micros, crate::features::TimePart::Month)
                    })
                })
                .collect();
            let groups = number_groups(&months, &mut names);
            for name in names.iter_mut().filter(|name| *name != MISSING) {
                *name = format!("month {name}");
            }
            groups
        }
        Values::Unsupported(_) => {
            names.push("(all)".to_owned());
            vec![0; rows.len()]
        }
    };
    Ok(slices(outcomes, metric, &groups, &names))
}

fn number_groups(values: &[f64], names: &mut Vec<String>) -> Vec<usize> {
    let mut distinct: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
    distinct.sort_by(f64::total_cmp);
    let sorted = distinct.clone();
    distinct.dedup();
    // The upper bounds of the groups, the last one open.
    let bounds: Vec<f64> = if distinct.len() <= crate::metrics::MAX_SLICES {
        names.extend(distinct.iter().map(ToString::to_string));
        distinct
    } else {
        let mut bounds: Vec<f64> = [1, 2, 3, 4]
            .iter()
            .map(|quarter| sorted[(sorted.len() - 1) * quarter / 4])
            .collect();
        bounds.dedup();
        for (position, bound) in bounds.iter().enumerate() {
            names.push(match position {
                0 => format!("≤ {bound}"),
                _ => format!("> {} and ≤ {bound}", bounds[position - 1]),
            });
        }
        bounds
    };
    names.push("(missing)".to_owned());
    values
        .iter()
        .map(|value| {
            if value.is_nan() {
                bounds.len()
            } else {
                bounds
                    .partition_point(|bound| bound < value)
                    .min(bounds.len().saturating_sub(1))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests;
