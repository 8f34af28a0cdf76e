//! The whole way from a snapshot to a model.

mod budget;
mod fit;
mod holdout;
mod parameters;

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::booster::BoosterError;
use crate::evaluate::slice_report;
use crate::features::{EncodeError, Encoder, FeatureOptions, FeaturePlan, InferError, Task};
use crate::features::{infer, labels};
use crate::metrics::{Metric, Outcomes, Slice};
use crate::model::{self, LoadedModel, ModelError, gather, kind};
use crate::search::Trial;
use crate::split::{Holdout, SplitError, Splitter};
use crate::table::{Table, TableError};
use crate::trees::{Trees, TreesError};

pub use holdout::{HeldOut, HoldoutScores, score_holdout};

/// What to learn and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TrainRequest {
    /// Classification or regression.
    pub task: Task,
    /// The column to predict.
    pub target: String,
    /// Which columns may be used.
    #[serde(default)]
    pub features: FeatureOptions,
    /// Which rows are held out.
    #[serde(default)]
    pub holdout: Holdout,
    /// Seconds that training may take, from reading to the finished model.
    #[serde(default = "default_budget")]
    pub budget_seconds: f64,
    /// The metric to choose by; `auc` or `rmse` by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<Metric>,
    /// Seed of everything random.
    #[serde(default)]
    pub seed: u64,
    /// Threads that LightGBM uses; as many as there are cores by default. The
    /// same number gives the same model on the same data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threads: Option<usize>,
    /// The most trials besides the baseline; with it, and a budget that is ample
    /// for it, the model does not depend on the machine's speed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_trials: Option<usize>,
    /// Columns for whose values the metric is reported one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<String>,
}

/// What the process that trains should have in its environment from its start.
///
/// LightGBM's threads (libgomp) spin while they wait for each other. On cores
/// that are shared with anything else that burns most of the time: on two busy
/// cores the same training made 4 to 50 rounds where it makes 220 to 250 with
/// this setting. libgomp reads it when it is loaded, so it cannot be set later.
pub const ENVIRONMENT: [(&str, &str); 1] = [("OMP_WAIT_POLICY", "passive")];

fn default_budget() -> f64 {
    60.0
}

impl TrainRequest {
    /// A request with defaults.
    pub fn new(task: Task, target: impl Into<String>) -> Self {
        Self {
            task,
            target: target.into(),
            features: FeatureOptions::default(),
            holdout: Holdout::default(),
            budget_seconds: default_budget(),
            metric: None,
            seed: 0,
            threads: None,
            max_trials: None,
            slices: Vec::new(),
        }
    }

    /// The metric to choose by.
    pub fn chosen_metric(&self) -> Metric {
        self.metric.unwrap_or(match self.task {
            Task::Classification => Metric::Auc,
            Task::Regression => Metric::Rmse,
        })
    }
}

/// Time in, progress out.
pub trait Progress {
    /// Seconds since the budget began to run.
    fn elapsed(&mut self) -> f64;

    /// A trial has ended.
    fn trial(&mut self, _trial: &Trial) {}

    /// Whether to give up; asked after every boosting round.
    fn cancelled(&mut self) -> bool {
        false
    }
}

/// How rows were used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RowCounts {
    /// Rows of the snapshot.
    pub total: usize,
    /// Rows without a value of the target, which are left out.
    pub unlabelled: usize,
    /// Rows trained on, those to choose by included.
    pub training: usize,
    /// Of these, rows that settings and rounds were chosen by.
    pub validation: usize,
    /// Rows held out.
    pub holdout: usize,
}

/// Which model won.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
pub enum Winner {
    /// Nothing beat the constant prediction.
    Baseline,
    /// A trial.
    Trial {
        /// Its number.
        trial: usize,
        /// Whether it was trained again on all training rows.
        refit: bool,
    },
}

/// A trained model with all that is known of it.
#[derive(Clone, Debug)]
pub struct TrainOutcome {
    /// How columns become features.
    pub plan: FeaturePlan,
    /// The model in LightGBM's text format.
    pub trees: String,
    /// All metrics on the held-out rows.
    pub metrics: BTreeMap<String, f64>,
    /// The same metrics of the constant prediction on the same rows.
    pub baseline: BTreeMap<String, f64>,
    /// The metric that was chosen by.
    pub metric: Metric,
    /// Every trial, the baseline first.
    pub trials: Vec<Trial>,
    /// Which won.
    pub winner: Winner,
    /// How rows were used.
    pub rows: RowCounts,
    /// The metric per value of the columns asked for, on the held-out rows.
    pub slices: BTreeMap<String, Vec<Slice>>,
    /// Each feature's share of the total gain of all splits, the largest first.
    pub importance: Vec<(String, f64)>,
    /// A few training rows as a client would send them.
    pub example: crate::column::Columns,
    /// Seconds from the beginning to the finished model.
    pub seconds: f64,
}

impl TrainOutcome {
    /// The model, ready to predict.
    pub fn model(&self) -> Result<LoadedModel, ModelError> {
        LoadedModel::from_parts(self.plan.clone(), Trees::parse(&self.trees)?)
    }
}

/// What can go wrong in training.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The snapshot cannot be read.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The rows cannot be split.
    #[error(transparent)]
    Split(#[from] SplitError),
    /// The columns do not fit the task.
    #[error(transparent)]
    Infer(#[from] InferError),
    /// The columns cannot be encoded.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The metric does not fit the task.
    #[error("the metric `{metric}` does not fit {task}; use one of {known}")]
    Metric {
        /// The metric.
        metric: Metric,
        /// The task.
        task: &'static str,
        /// What fits.
        known: String,
    },
    /// A model of another task.
    #[error("the model does {} but {} is asked; compare models of one task", .model.name(), .asked.name())]
    Task {
        /// What the model does.
        model: Task,
        /// What is asked.
        asked: Task,
    },
    /// The budget is no time.
    #[error("the budget is {0} s; it must be above 0")]
    Budget(f64),
    /// The target holds an infinite number.
    #[error("the target `{0}` holds an infinite number; filter such rows out in the query")]
    Infinite(String),
    /// Training was given up.
    #[error("training was cancelled")]
    Cancelled,
    /// LightGBM refused.
    #[error("{0}")]
    Booster(String),
    /// LightGBM wrote what cannot be read; a bug.
    #[error("the trained model cannot be read back: {0}")]
    Trees(#[from] TreesError),
    /// The model cannot be put together; a bug.
    #[error("the trained model cannot be put together: {0}")]
    Model(#[from] ModelError),
}

impl From<BoosterError> for TrainError {
    fn from(error: BoosterError) -> Self {
        TrainError::Booster(error.to_string())
    }
}

/// Trains a model on record batches of one schema.
pub fn train(
    request: &TrainRequest,
    batches: &[RecordBatch],
    progress: &mut dyn Progress,
) -> Result<TrainOutcome, TrainError> {
    if request.budget_seconds.is_nan() || request.budget_seconds <= 0.0 {
        return Err(TrainError::Budget(request.budget_seconds));
    }
    let table = Table::from_batches(batches)?;
    let target_values = table.get(&request.target)?;
    for column in &request.slices {
        table.get(column)?;
    }
    // Classes and features are checked on all rows before any is split, so that
    // a wrong target is named as such.
    let all_rows: Vec<u32> = (0..table.rows() as u32).collect();
    let target = infer(
        &table,
        request.task,
        &request.target,
        &request.features,
        &all_rows,
    )?
    .target;
    let labels = labels(&target, target_values);
    if labels.iter().any(|label| label.is_infinite()) {
        return Err(TrainError::Infinite(request.target.clone()));
    }
    let splitter = Splitter::new(&table, &request.target, &request.holdout)?;
    let split = splitter.split(&labels)?;
    let mut plan = infer(
        &table,
        request.task,
        &request.target,
        &request.features,
        &split.training,
    )?;
    let kind = kind(&plan);
    let metric = request.chosen_metric();
    if !kind.metrics().contains(&metric) {
        return Err(TrainError::Metric {
            metric,
            task: request.task.name(),
            known: crate::column::list(kind.metrics().iter().map(|metric| metric.name())).into(),
        });
    }
    let matrix = Encoder::new(&plan).encode_table(&table)?;
    let width = plan.features.len();
    let rows = fit::Rows {
        matrix: &matrix,
        width,
        labels: &labels,
    };
    let (fit_rows, validation) = splitter.validation(&split.training);
    tracing::info!(
        rows = table.rows(),
        training = split.training.len(),
        holdout = split.holdout.len(),
        features = width,
        seconds = progress.elapsed(),
        "prepared the rows"
    );
    let fitted = fit::fit(
        request,
        &plan,
        metric,
        matches!(request.holdout, Holdout::Time { .. }),
        &rows,
        &split.training,
        &fit_rows,
        &validation,
        progress,
    )?;

    let trees = Trees::parse(&fitted.trees)?;
    model::relax_unused(&mut plan, &trees);
    let held_labels: Vec<f64> = split
        .holdout
        .iter()
        .map(|row| labels[*row as usize])
        .collect();
    let mut predictions = vec![0.0; split.holdout.len() * trees.outputs()];
    trees.predict_into(&gather(&matrix, width, &split.holdout), &mut predictions);
    let outcomes = Outcomes {
        labels: &held_labels,
        predictions: &predictions,
        kind,
    };
    let constant: Vec<f64> = fitted.constant.repeat(split.holdout.len());
    let baseline = Outcomes {
        predictions: &constant,
        ..outcomes
    };
    let mut slices = BTreeMap::new();
    for column in &request.slices {
        slices.insert(
            column.clone(),
            slice_report(&outcomes, metric, &table, column, &split.holdout)?,
        );
    }
    let first: Vec<u32> = split.training.iter().copied().take(5).collect();
    let inputs: Vec<&str> = plan
        .inputs
        .iter()
        .map(|input| input.name.as_str())
        .collect();
    Ok(TrainOutcome {
        metrics: outcomes.all(),
        baseline: baseline.all(),
        metric,
        importance: importance(&plan, &fitted.trees),
        trees: fitted.trees,
        trials: fitted.trials,
        winner: fitted.winner,
        rows: RowCounts {
            total: table.rows(),
            unlabelled: table.rows() - split.training.len() - split.holdout.len(),
            training: split.training.len(),
            validation: validation.len(),
            holdout: split.holdout.len(),
        },
        slices,
        example: table.to_columns(&first).only(&inputs),
        plan,
        seconds: progress.elapsed(),
    })
}

/// Each feature's share of the gain of all splits, the largest first.
fn importance(plan: &FeaturePlan, trees: &str) -> Vec<(String, f64)> {
    let mut gains = vec![0.0; plan.features.len()];
    let mut features: Vec<usize> = Vec::new();
    for line in trees.lines() {
        if let Some(values) = line.strip_prefix("split_feature=") {
            features = values
                .split_ascii_whitespace()
                .filter_map(|value| value.parse().ok())
                .collect();
        } else if let Some(values) = line.strip_prefix("split_gain=") {
            let values = values.split_ascii_whitespace();
            for (feature, gain) in features.iter().zip(values) {
                if let (Some(sum), Ok(gain)) = (gains.get_mut(*feature), gain.parse::<f64>()) {
                    *sum += gain.max(0.0);
                }
            }
        }
    }
    let total: f64 = gains.iter().sum();
    let mut shares: Vec<(String, f64)> = plan
        .features
        .iter()
        .zip(gains)
        .map(|(feature, gain)| {
            (
                feature.name.clone(),
                if total > 0.0 { gain / total } else { 0.0 },
            )
        })
        .collect();
    shares.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    shares
}

#[cfg(test)]
mod tests;
