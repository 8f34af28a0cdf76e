//! How columns become features.
//!
//! A [`FeaturePlan`] is inferred once, from training rows only, and written
//! beside the model. Training, serving in Rust and the Python loader all apply
//! the same plan, so a model meets the same numbers everywhere:
//!
//! | column | features |
//! | --- | --- |
//! | number, truth value | itself as a double; missing is `NaN` |
//! | text | the number of its level, by frequency in training; rare levels share one number, which an unseen level gets too (`NaN` when training had no rare level) |
//! | time, date | year, month, day, weekday, hour, minute in UTC, as far as they vary |

mod encode;
mod infer;
pub(crate) mod time;

use serde::{Deserialize, Serialize};

pub(crate) use encode::Encoder;
pub use encode::{EncodeError, MissingColumn};
pub(crate) use infer::labels;
pub use infer::{FeatureOptions, InferError, infer};

/// The version of the plan's JSON that this crate writes and the highest it reads.
pub const PLAN_VERSION: u32 = 1;

/// What is learned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// One class of two or more.
    Classification,
    /// A number.
    Regression,
}

impl Task {
    /// Its name in manifests.
    pub fn name(self) -> &'static str {
        match self {
            Task::Classification => "classification",
            Task::Regression => "regression",
        }
    }
}

/// A class, with the type that it has in the snapshot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Label {
    /// A truth value.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

impl std::fmt::Display for Label {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Label::Bool(value) => write!(f, "{value}"),
            Label::Integer(value) => write!(f, "{value}"),
            Label::Text(value) => f.write_str(value),
        }
    }
}

/// The column that is predicted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// Its name.
    pub name: String,
    /// Classification: the classes in order; with two, the second is the positive one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<Label>,
    /// Two classes: the positive one is predicted when its probability is above this.
    #[serde(default = "half")]
    pub threshold: f64,
}

fn half() -> f64 {
    0.5
}

/// The type of an input column; the names are those of MLflow's model signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum InputType {
    /// Numbers.
    Double,
    /// Whole numbers in training; any number is accepted.
    Long,
    /// Truth values; numbers are accepted as they are.
    Boolean,
    /// Text.
    String,
    /// Times: timestamps, or text in ISO 8601.
    Datetime,
}

impl InputType {
    /// The type in words a person uses.
    pub fn describe(self) -> &'static str {
        match self {
            InputType::Double => "numbers",
            InputType::Long => "whole numbers",
            InputType::Boolean => "truth values",
            InputType::String => "text",
            InputType::Datetime => "times (ISO 8601)",
        }
    }
}

/// A column that the model reads.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its type.
    #[serde(rename = "type")]
    pub input_type: InputType,
    /// Whether a request must have it. A column that the model never decides by may be left out.
    pub required: bool,
    /// An example of its values, from training; null when the first is missing.
    #[serde(default)]
    pub example: serde_json::Value,
}

/// A part of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimePart {
    /// The calendar year.
    Year,
    /// 1 to 12.
    Month,
    /// Day of the month, 1 to 31.
    Day,
    /// 0 (Monday) to 6.
    Weekday,
    /// 0 to 23.
    Hour,
    /// 0 to 59.
    Minute,
}

impl TimePart {
    /// All parts.
    pub const ALL: [TimePart; 6] = [
        TimePart::Year,
        TimePart::Month,
        TimePart::Day,
        TimePart::Weekday,
        TimePart::Hour,
        TimePart::Minute,
    ];

    /// Its name in the plan.
    pub fn name(self) -> &'static str {
        match self {
            TimePart::Year => "year",
            TimePart::Month => "month",
            TimePart::Day => "day",
            TimePart::Weekday => "weekday",
            TimePart::Hour => "hour",
            TimePart::Minute => "minute",
        }
    }
}

/// How a feature is computed from its column.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Transform {
    /// The number itself.
    Number,
    /// The position of the text in `levels`.
    Category {
        /// Known levels, the most frequent first.
        levels: Vec<String>,
        /// Whether training had rare levels; then every other text is number `levels.len()`.
        other: bool,
    },
    /// A part of the time, in UTC.
    Time {
        /// Which.
        part: TimePart,
    },
}

/// A number that the trees split on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// Its name: the column's, or the column's and the part's.
    pub name: String,
    /// The column that it comes from.
    pub input: String,
    /// How.
    #[serde(flatten)]
    pub transform: Transform,
}

/// A column that is not used, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Its name.
    pub column: String,
    /// Why, for a person.
    pub reason: String,
}

/// The description of all features; `features.json` in a model folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FeaturePlan {
    /// [`PLAN_VERSION`] when it was written.
    pub version: u32,
    /// What is learned.
    pub task: Task,
    /// What is predicted.
    pub target: Target,
    /// The columns that the model reads.
    pub inputs: Vec<Input>,
    /// The features, in the order of the model's features.
    pub features: Vec<Feature>,
    /// Columns that are not used.
    #[serde(default)]
    pub dropped: Vec<Dropped>,
}

/// A plan that cannot be applied.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Not JSON, or not a plan.
    #[error("the feature plan is not valid JSON of its kind: {0}")]
    Json(#[from] serde_json::Error),
    /// Written by a later version.
    #[error(
        "the feature plan has version {0}, this program reads up to {PLAN_VERSION}; use a newer one"
    )]
    Version(u32),
    /// A feature and its input do not agree.
    #[error("the feature plan is inconsistent: {0}")]
    Inconsistent(String),
}

impl FeaturePlan {
    /// Reads and checks a plan.
    pub fn from_json(text: &str) -> Result<Self, PlanError> {
        let plan: Self = serde_json::from_str(text)?;
        plan.check()?;
        Ok(plan)
    }

    /// Whether it can be applied.
    pub fn check(&self) -> Result<(), PlanError> {
        if self.version > PLAN_VERSION {
            return Err(PlanError::Version(self.version));
        }
        if self.features.is_empty() {
            return Err(PlanError::Inconsistent("it has no feature".into()));
        }
        for feature in &self.features {
            let input = self
                .inputs
                .iter()
                .find(|input| input.name == feature.input)
                .ok_or_else(|| {
                    PlanError::Inconsistent(format!(
                        "feature `{}` reads column `{}`, which is no input",
                        feature.name, feature.input
                    ))
                })?;
            let agrees = matches!(
                (&feature.transform, input.input_type),
                (
                    Transform::Number,
                    InputType::Double | InputType::Long | InputType::Boolean
                ) | (Transform::Category { .. }, InputType::String)
                    | (Transform::Time { .. }, InputType::Datetime)
            );
            if !agrees {
                return Err(PlanError::Inconsistent(format!(
                    "feature `{}` cannot be made from {}",
                    feature.name,
                    input.input_type.describe()
                )));
            }
        }
        match self.task {
            Task::Classification if self.target.classes.len() < 2 => Err(PlanError::Inconsistent(
                "classification needs at least two classes".into(),
            )),
            Task::Regression if !self.target.classes.is_empty() => {
                Err(PlanError::Inconsistent("regression has no classes".into()))
            }
            _ => Ok(()),
        }
    }

    /// The plan's JSON, indented.
    pub fn to_json(&self) -> String {
        // A plan is strings, numbers and lists; none of them can fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Numbers of the features that are categories, for LightGBM.
    pub(crate) fn categories(&self) -> Vec<usize> {
        self.features
            .iter()
            .enumerate()
            .filter(|(_, feature)| matches!(feature.transform, Transform::Category { .. }))
            .map(|(position, _)| position)
            .collect()
    }
}

#[cfg(test)]
mod tests;
