//! Scores models on the held-out rows of a request, so that a candidate and a
//! champion meet the same rows, whatever each was trained on.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;

use crate::evaluate::slice_report;
use crate::features::{Label, Target, Task, infer, labels};
use crate::metrics::{Kind, Metric, Outcomes, Slice};
use crate::model::{LoadedModel, kind};
use crate::split::Splitter;
use crate::table::{Table, TableError};

use super::{TrainError, TrainRequest};

/// The held-out rows of a request.
#[derive(Clone, Debug)]
pub struct HeldOut {
    table: Table,
    rows: Vec<u32>,
    labels: Vec<f64>,
    target: Target,
    task: Task,
    kind: Kind,
}

/// A model's predictions for held-out rows.
#[derive(Clone, Debug, PartialEq)]
pub struct HoldoutScores {
    /// The true class's number or the true value, per row.
    pub labels: Vec<f64>,
    /// [`Kind::width`] numbers per row.
    pub predictions: Vec<f64>,
    /// What they are.
    pub kind: Kind,
}

impl HoldoutScores {
    /// For the metrics.
    pub fn outcomes(&self) -> Outcomes<'_> {
        Outcomes {
            labels: &self.labels,
            predictions: &self.predictions,
            kind: self.kind,
        }
    }
}

impl HeldOut {
    /// Finds the held-out rows, as [`super::train`] does for the same request.
    pub fn new(request: &TrainRequest, batches: &[RecordBatch]) -> Result<Self, TrainError> {
        let table = Table::from_batches(batches)?;
        let all: Vec<u32> = (0..table.rows() as u32).collect();
        let plan = infer(
            &table,
            request.task,
            &request.target,
            &request.features,
            &all,
        )?;
        let all_labels = labels(&plan.target, table.get(&request.target)?);
        let rows = Splitter::new(&table, &request.target, &request.holdout)?
            .split(&all_labels)?
            .holdout;
        Ok(Self {
            labels: rows.iter().map(|row| all_labels[*row as usize]).collect(),
            kind: kind(&plan),
            task: request.task,
            target: plan.target,
            table,
            rows,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows.len()
    }

    /// The rows as the columns that a client would send, for models of other kinds.
    pub fn columns(&self) -> crate::column::Columns {
        self.table.to_columns(&self.rows)
    }

    /// The classes in the order of [`HoldoutScores::labels`]; none for regression.
    pub fn classes(&self) -> &[Label] {
        &self.target.classes
    }

    /// Takes another model's predictions for [`HeldOut::columns`]: with two
    /// classes the second one's probability, with more a number per row and class.
    pub fn scores_of(&self, predictions: Vec<f64>) -> HoldoutScores {
        HoldoutScores {
            labels: self.labels.clone(),
            predictions,
            kind: self.kind,
        }
    }

    /// Scores a model.
    pub fn score(&self, model: &LoadedModel) -> Result<HoldoutScores, TrainError> {
        if model.task() != self.task {
            return Err(TrainError::Task {
                model: model.task(),
                asked: self.task,
            });
        }
        let scores = model.scores(&self.table, &self.rows)?;
        let theirs = &model.plan().target.classes;
        let predictions = if *theirs == self.target.classes {
            scores
        } else {
            // The snapshot may have classes that the model has not met, and the other way round.
            let width = model.kind().width();
            let probability = |row: usize, class: &Label| match theirs.binary_search(class) {
                Ok(position) if width == 1 && position == 0 => 1.0 - scores[row],
                Ok(_) if width == 1 => scores[row],
                Ok(position) => scores[row * width + position],
                Err(_) => 0.0,
            };
            let wanted = match self.kind {
                Kind::Binary { .. } => &self.target.classes[1..],
                _ => &self.target.classes[..],
            };
            (0..self.rows.len())
                .flat_map(|row| wanted.iter().map(move |class| (row, class)))
                .map(|(row, class)| probability(row, class))
                .collect()
        };
        Ok(self.scores_of(predictions))
    }

    /// The metric per value of some columns.
    pub fn slices(
        &self,
        scores: &HoldoutScores,
        metric: Metric,
        columns: &[String],
    ) -> Result<BTreeMap<String, Vec<Slice>>, TableError> {
        columns
            .iter()
            .map(|column| {
                let report =
                    slice_report(&scores.outcomes(), metric, &self.table, column, &self.rows)?;
                Ok((column.clone(), report))
            })
            .collect()
    }
}

/// Scores one model on the held-out rows of `request`; [`HeldOut`] scores several.
pub fn score_holdout(
    model: &LoadedModel,
    batches: &[RecordBatch],
    request: &TrainRequest,
) -> Result<HoldoutScores, TrainError> {
    HeldOut::new(request, batches)?.score(model)
}
