//! A trained model, ready to predict.
//!
//! A [`LoadedModel`] is immutable: share it between threads behind an `Arc` and
//! predict from all of them at once, without a lock. What goes in and out:
//!
//! | task | outputs |
//! | --- | --- |
//! | classification, two classes | `prediction` (the class, in the type of the snapshot), `probability` (of the second class) |
//! | classification, more classes | `prediction`, and `probability_<class>` for each |
//! | regression | `prediction` (a double) |
//!
//! The same names and numbers as MLflow's `pyfunc` gives for the same folder.

use std::path::{Path, PathBuf};

use crate::column::{Column, Columns};
use crate::features::{
    EncodeError, Encoder, FeaturePlan, Input, InputType, Label, PlanError, Task,
};
use crate::metrics::{Kind, highest};
use crate::table::Table;
use crate::trees::{Trees, TreesError};

/// The file of the trees in a model folder.
pub const TREES_FILE: &str = "model.lgb";
/// The file of the feature plan in a model folder.
pub const PLAN_FILE: &str = "features.json";

/// A model folder that cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file cannot be read.
    #[error("cannot read {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The feature plan is wrong.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The trees are wrong.
    #[error(transparent)]
    Trees(#[from] TreesError),
    /// The files do not belong together.
    #[error(
        "the feature plan describes {plan} but the trees have {trees}; the files are of different models"
    )]
    Mismatch {
        /// What the plan says.
        plan: String,
        /// What the trees say.
        trees: String,
    },
}

/// Columns that nothing can be predicted from.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PredictError {
    /// There is no row.
    #[error("there are no rows to predict")]
    NoRows,
    /// The columns are wrong.
    #[error(transparent)]
    Columns(#[from] EncodeError),
}

/// The type of an output column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputType {
    /// [`Column::F64`].
    Double,
    /// [`Column::I64`].
    Long,
    /// [`Column::Bool`].
    Boolean,
    /// [`Column::Str`].
    String,
}

impl OutputType {
    /// Its name in MLflow's model signature.
    pub fn name(self) -> &'static str {
        match self {
            OutputType::Double => "double",
            OutputType::Long => "long",
            OutputType::Boolean => "boolean",
            OutputType::String => "string",
        }
    }
}

/// A column that comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its type.
    pub output_type: OutputType,
}

/// What was predicted, a value per row.
#[derive(Clone, Debug, PartialEq)]
pub struct Predictions {
    /// Named columns, `prediction` first.
    pub columns: Vec<(String, Column)>,
    /// Number of rows.
    pub rows: usize,
}

impl Predictions {
    /// The column of that name.
    pub fn get(&self, name: &str) -> Option<&Column> {
        self.columns
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, column)| column)
    }
}

/// A model in memory.
#[derive(Clone, Debug)]
pub struct LoadedModel {
    plan: FeaturePlan,
    encoder: Encoder,
    trees: Trees,
    outputs: Vec<Output>,
}

impl LoadedModel {
    /// Loads the folder that [`crate::artifact::write`] wrote (or a download of it).
    pub fn open(folder: &Path) -> Result<Self, ModelError> {
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).map_err(|source| ModelError::Read { path, source })
        };
        Self::new(&read(PLAN_FILE)?, &read(TREES_FILE)?)
    }

    /// Makes a model of the text of its two files.
    pub fn new(plan: &str, trees: &str) -> Result<Self, ModelError> {
        Self::from_parts(FeaturePlan::from_json(plan)?, Trees::parse(trees)?)
    }

    /// Makes a model of a plan and its trees.
    pub fn from_parts(plan: FeaturePlan, trees: Trees) -> Result<Self, ModelError> {
        plan.check()?;
        let outputs = outputs(&plan);
        let width = kind(&plan).width();
        if trees.features() != plan.features.len() || trees.outputs() != width {
            return Err(ModelError::Mismatch {
                plan: format!("{} features and {width} outputs", plan.features.len()),
                trees: format!("{} and {}", trees.features(), trees.outputs()),
            });
        }
        Ok(Self {
            encoder: Encoder::new(&plan),
            plan,
            trees,
            outputs,
        })
    }

    /// How columns become features.
    pub fn plan(&self) -> &FeaturePlan {
        &self.plan
    }

    /// What it predicts.
    pub fn task(&self) -> Task {
        self.plan.task
    }

    /// The columns that it reads. Others in a request are ignored.
    pub fn inputs(&self) -> &[Input] {
        &self.plan.inputs
    }

    /// The columns that come out.
    pub fn outputs(&self) -> &[Output] {
        &self.outputs
    }

    /// The trees.
    pub fn trees(&self) -> &Trees {
        &self.trees
    }

    /// What the numbers of [`LoadedModel::scores`] are.
    pub fn kind(&self) -> Kind {
        kind(&self.plan)
    }

    /// Predicts every row.
    pub fn predict(&self, columns: &Columns) -> Result<Predictions, PredictError> {
        if columns.rows() == 0 {
            return Err(PredictError::NoRows);
        }
        let features = self.encoder.encode(columns)?;
        let mut scores = vec![0.0; columns.rows() * self.trees.outputs()];
        self.trees.predict_into(&features, &mut scores);
        Ok(self.present(scores, columns.rows()))
    }

    /// The raw numbers for some rows of a snapshot: [`Kind::width`] per row, in
    /// the order of `rows`.
    pub fn scores(&self, table: &Table, rows: &[u32]) -> Result<Vec<f64>, EncodeError> {
        let width = self.trees.features();
        let all = self.encoder.encode_table(table)?;
        let mut scores = vec![0.0; rows.len() * self.trees.outputs()];
        let chosen = gather(&all, width, rows);
        self.trees.predict_into(&chosen, &mut scores);
        Ok(scores)
    }

    fn present(&self, scores: Vec<f64>, rows: usize) -> Predictions {
        let target = &self.plan.target;
        let columns = match self.kind() {
            Kind::Regression => vec![("prediction".to_owned(), Column::F64(scores))],
            Kind::Binary { threshold } => {
                let classes = scores.iter().map(|p| usize::from(*p > threshold));
                vec![
                    ("prediction".to_owned(), labels(&target.classes, classes)),
                    ("probability".to_owned(), Column::F64(scores)),
                ]
            }
            Kind::Multiclass { classes } => {
                let chosen = scores.chunks_exact(classes).map(highest);
                let mut columns = vec![("prediction".to_owned(), labels(&target.classes, chosen))];
                for (class, output) in self.outputs.iter().skip(1).enumerate() {
                    let values = scores
                        .iter()
                        .skip(class)
                        .step_by(classes)
                        .copied()
                        .collect();
                    columns.push((output.name.clone(), Column::F64(values)));
                }
                columns
            }
        };
        Predictions { columns, rows }
    }
}

/// Rows of a row-major matrix in the order of `rows`.
pub(crate) fn gather(matrix: &[f64], width: usize, rows: &[u32]) -> Vec<f64> {
    let mut out = Vec::with_capacity(rows.len() * width);
    for row in rows {
        let from = *row as usize * width;
        out.extend_from_slice(&matrix[from..from + width]);
    }
    out
}

pub(crate) fn kind(plan: &FeaturePlan) -> Kind {
    match (plan.task, plan.target.classes.len()) {
        (Task::Regression, _) => Kind::Regression,
        (Task::Classification, 2) => Kind::Binary {
            threshold: plan.target.threshold,
        },
        (Task::Classification, classes) => Kind::Multiclass { classes },
    }
}

/// The columns that a model of this plan gives.
pub(crate) fn outputs(plan: &FeaturePlan) -> Vec<Output> {
    let output = |name: &str, output_type| Output {
        name: name.to_owned(),
        output_type,
    };
    let label_type = match plan.target.classes.first() {
        None => OutputType::Double,
        Some(Label::Bool(_)) => OutputType::Boolean,
        Some(Label::Integer(_)) => OutputType::Long,
        Some(Label::Text(_)) => OutputType::String,
    };
    let mut outputs = vec![output("prediction", label_type)];
    match kind(plan) {
        Kind::Regression => {}
        Kind::Binary { .. } => outputs.push(output("probability", OutputType::Double)),
        Kind::Multiclass { .. } => outputs.extend(
            plan.target
                .classes
                .iter()
                .map(|class| output(&format!("probability_{class}"), OutputType::Double)),
        ),
    }
    outputs
}

fn labels(classes: &[Label], chosen: impl Iterator<Item = usize>) -> Column {
    match classes.first() {
        Some(Label::Bool(_)) => Column::Bool(
            chosen
                .map(|class| match &classes[class] {
                    Label::Bool(value) => Some(*value),
                    _ => None,
                })
                .collect(),
        ),
        Some(Label::Integer(_)) => Column::I64(
            chosen
                .map(|class| match &classes[class] {
                    Label::Integer(value) => *value,
                    _ => 0,
                })
                .collect(),
        ),
        _ => Column::Str(
            chosen
                .map(|class| Some(classes[class].to_string()))
                .collect(),
        ),
    }
}

/// Inputs that no tree splits on need not be given.
pub(crate) fn relax_unused(plan: &mut FeaturePlan, trees: &Trees) {
    for input in &mut plan.inputs {
        input.required = plan
            .features
            .iter()
            .enumerate()
            .any(|(position, feature)| feature.input == input.name && trees.uses(position));
    }
}

/// The type of an input in MLflow's signature. Only text is named: MLflow refuses
/// whole numbers where a signature says `double`, numbers with a gap where it
/// says `long`, and times with a zone where it says `datetime`. The loader
/// checks these columns itself; their types are stated in the `cumulo` flavor.
pub(crate) fn signature_type(input_type: InputType) -> &'static str {
    match input_type {
        InputType::String => "string",
        _ => "any",
    }
}
