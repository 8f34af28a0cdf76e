//! An honest held-out set.
//!
//! Which side a row lies on is decided by the row's own content, never by its
//! position: the same row lies on the same side in every snapshot, on every
//! machine, whatever the order of rows and columns. So a champion that was
//! trained on an earlier snapshot has not seen the rows that it is compared on.
//!
//! * By row hash: the hash of all columns but the target, with a seed, decides.
//!   Equal rows share a side, also when their outcomes differ.
//! * By time: the latest rows are held out, as tomorrow's are what is asked.
//!
//! Both sides come in canonical order (by time, then by hash), so that training
//! does not depend on the order of rows in the snapshot.

use serde::{Deserialize, Serialize};

use crate::hash::mix;
use crate::table::{Table, TableError, Values};

/// How rows are held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "lowercase", deny_unknown_fields)]
pub enum Holdout {
    /// By the hash of a row's content.
    Hash {
        /// The share of rows held out.
        #[serde(default = "default_fraction")]
        fraction: f64,
        /// Another seed gives another set.
        #[serde(default)]
        seed: u64,
    },
    /// The latest rows by a time column (or a number that grows with time).
    Time {
        /// The column.
        column: String,
        /// The share of rows held out; rows of one instant are never parted.
        #[serde(default = "default_fraction")]
        fraction: f64,
    },
}

fn default_fraction() -> f64 {
    0.2
}

impl Default for Holdout {
    fn default() -> Self {
        Holdout::Hash {
            fraction: default_fraction(),
            seed: 0,
        }
    }
}

/// Rows that cannot be split as asked.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// A column that is named is not there.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The fraction is out of range.
    #[error("holdout.fraction is {0}; it must be above 0 and at most 0.9")]
    Fraction(f64),
    /// The column has no order of time.
    #[error(
        "holdout.column `{0}` holds {1}; it must be a time, a date or a number that grows with time"
    )]
    NotTime(String, &'static str),
    /// One side is empty.
    #[error(
        "holding out {by} leaves {training} rows to train on and {holdout} held out of {total}; {advice}"
    )]
    Empty {
        /// How it was split.
        by: &'static str,
        /// Rows to train on.
        training: usize,
        /// Rows held out.
        holdout: usize,
        /// Rows with a target.
        total: usize,
        /// What to do.
        advice: &'static str,
    },
}

/// Row numbers of a table, each side in canonical order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Rows to train on.
    pub training: Vec<u32>,
    /// Rows that training never sees.
    pub holdout: Vec<u32>,
}

/// What ordering and parting the rows needs: computed once per table.
pub(crate) struct Splitter {
    hashes: Vec<u64>,
    /// By time: a number that orders like the instants; missing is lowest.
    times: Option<Vec<i64>>,
    fraction: f64,
    seed: u64,
}

/// Set apart from the seed of the held-out set, so that the validation rows
/// inside the training rows are drawn independently of it.
const VALIDATION_SEED: u64 = 0x7661_6c69_6461_7465;

impl Splitter {
    pub(crate) fn new(table: &Table, target: &str, holdout: &Holdout) -> Result<Self, SplitError> {
        let (fraction, seed, times) = match holdout {
            Holdout::Hash { fraction, seed } => (*fraction, *seed, None),
            Holdout::Time { column, fraction } => (*fraction, 0, Some(instants(table, column)?)),
        };
        if !(fraction > 0.0 && fraction <= 0.9) {
            return Err(SplitError::Fraction(fraction));
        }
        Ok(Self {
            hashes: row_hashes(table, target),
            times,
            fraction,
            seed,
        })
    }

    /// Parts the rows that have a label (others are in neither part).
    pub(crate) fn split(&self, labels: &[f64]) -> Result<Split, SplitError> {
        let mut rows: Vec<u32> = (0..labels.len() as u32)
            .filter(|row| !labels[*row as usize].is_nan())
            .collect();
        self.order(&mut rows, labels);
        let total = rows.len();
        let (training, holdout) = self.part(rows, self.fraction, self.seed);
        if training.is_empty() || holdout.is_empty() {
            return Err(SplitError::Empty {
                by: if self.times.is_some() {
                    "by time"
                } else {
                    "by row hash"
                },
                training: training.len(),
                holdout: holdout.len(),
                total,
                advice: if total < 10 {
                    "there are too few rows with a target"
                } else {
                    "too few rows differ; change holdout.fraction or hold out in another way"
                },
            });
        }
        Ok(Split { training, holdout })
    }

    /// Parts the training rows once more, in the same way, into rows to fit on
    /// and rows to choose settings and rounds by. Keeps the order. The second
    /// part is empty when the rows cannot be parted.
    pub(crate) fn validation(&self, training: &[u32]) -> (Vec<u32>, Vec<u32>) {
        let fraction = self.fraction.clamp(0.1, 0.25);
        let (fit, validation) = self.part(
            training.to_vec(),
            fraction,
            mix(self.seed ^ VALIDATION_SEED),
        );
        if fit.is_empty() || validation.is_empty() {
            (training.to_vec(), Vec::new())
        } else {
            (fit, validation)
        }
    }

    fn order(&self, rows: &mut [u32], labels: &[f64]) {
        rows.sort_unstable_by(|a, b| {
            let (a, b) = (*a as usize, *b as usize);
            let by_time = match &self.times {
                Some(times) => times[a].cmp(&times[b]),
                None => std::cmp::Ordering::Equal,
            };
            by_time
                .then(self.hashes[a].cmp(&self.hashes[b]))
                .then(labels[a].total_cmp(&labels[b]))
        });
    }

    /// Parts rows that are in canonical order.
    fn part(&self, rows: Vec<u32>, fraction: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
        match &self.times {
            None => {
                let bound = (fraction * (u64::MAX as f64)) as u64;
                rows.into_iter()
                    .partition(|row| mix(self.hashes[*row as usize] ^ mix(seed)) >= bound)
            }
            Some(times) => {
                let first = rows.len() - (rows.len() as f64 * fraction).round() as usize;
                let Some(boundary) = rows.get(first).map(|row| times[*row as usize]) else {
                    return (rows, Vec::new());
                };
                // Rows without a time are old: they sort first and stay in training.
                rows.into_iter().partition(|row| {
                    let time = times[*row as usize];
                    time < boundary || time == i64::MIN
                })
            }
        }
    }
}

/// A number per row that orders like the column's instants.
fn instants(table: &Table, column: &str) -> Result<Vec<i64>, SplitError> {
    match table.get(column)? {
        Values::Time(values) => Ok(values.iter().map(|v| v.unwrap_or(i64::MIN)).collect()),
        Values::Number { values, .. } => Ok(values
            .iter()
            .map(|value| {
                if value.is_nan() {
                    return i64::MIN;
                }
                // The bits of a double order like a sign and magnitude number.
                let bits = (value + 0.0).to_bits() as i64;
                if bits < 0 { bits ^ i64::MAX } else { bits }
            })
            .collect()),
        Values::Text { .. } => Err(SplitError::NotTime(column.to_owned(), "text")),
        Values::Unsupported(_) => Err(SplitError::NotTime(
            column.to_owned(),
            "values of another type",
        )),
    }
}

/// A hash per row of all columns but the target: the sum over columns of the
/// mixed hashes of name and value, so the order of columns does not matter.
fn row_hashes(table: &Table, target: &str) -> Vec<u64> {
    let mut hashes = vec![0u64; table.rows()];
    for (name, values) in table.iter().filter(|(name, _)| *name != target) {
        let column = crate::hash::bytes(name.as_bytes());
        for (hash, value) in hashes.iter_mut().zip(values.hashes()) {
            *hash = hash.wrapping_add(mix(column ^ value));
        }
    }
    for hash in &mut hashes {
        *hash = mix(*hash);
    }
    hashes
}

#[cfg(test)]
mod tests;
