//! Applies a plan: columns in, rows of features out.

use std::collections::HashMap;

use crate::column::{Columns, NO_TEXT, View, list, nearest};
use crate::table::Table;

use super::{FeaturePlan, InputType, TimePart, Transform, time};

/// Columns that the plan cannot be applied to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum EncodeError {
    /// Columns are missing.
    #[error("{}", missing_message(.missing, .given))]
    Missing {
        /// The columns that are missing, with what may have been meant.
        missing: Vec<MissingColumn>,
        /// The columns that were given.
        given: Vec<String>,
    },
    /// A column has the wrong type.
    #[error("column `{column}` must hold {expected}, but holds {found}")]
    WrongType {
        /// The column.
        column: String,
        /// What the model expects.
        expected: &'static str,
        /// What was given.
        found: &'static str,
    },
    /// A text is no time.
    #[error(
        "column `{column}`, row {row}: {value:?} is no time; write it as in 2013-01-31T10:00:00Z"
    )]
    NotATime {
        /// The column.
        column: String,
        /// The row, from 0.
        row: usize,
        /// The text, cut to 60 characters.
        value: String,
    },
}

/// A column that is missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MissingColumn {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub expected: &'static str,
    /// Columns that were given, are not read by the model, and have similar names.
    pub nearest: Vec<String>,
}

fn missing_message(missing: &[MissingColumn], given: &[String]) -> String {
    let mut message = match missing {
        [one] => format!("column `{}` ({}) is missing", one.name, one.expected),
        many => format!(
            "{} columns are missing: {}",
            many.len(),
            list(many.iter().map(|column| column.name.as_str()))
        ),
    };
    let meant: Vec<String> = missing
        .iter()
        .filter_map(|column| {
            let nearest = column.nearest.first()?;
            Some(format!("is `{nearest}` meant to be `{}`?", column.name))
        })
        .take(5)
        .collect();
    if meant.is_empty() {
        let given = list(given.iter().map(String::as_str));
        let given = if given.is_empty() {
            "no columns".into()
        } else {
            given
        };
        message.push_str(&format!("; given: {given}"));
    } else {
        message.push_str(&format!("; {}", meant.join(" ")));
    }
    message
}

/// A plan made ready to apply: texts looked up by hash, features by column.
#[derive(Clone, Debug)]
pub(crate) struct Encoder {
    inputs: Vec<EncodedInput>,
    features: usize,
}

#[derive(Clone, Debug)]
struct EncodedInput {
    name: String,
    input_type: InputType,
    required: bool,
    steps: Vec<(usize, Step)>,
}

#[derive(Clone, Debug)]
enum Step {
    Number,
    Category {
        levels: HashMap<String, f64>,
        unknown: f64,
    },
    Time(TimePart),
}

impl Encoder {
    pub(crate) fn new(plan: &FeaturePlan) -> Self {
        let inputs = plan
            .inputs
            .iter()
            .map(|input| EncodedInput {
                name: input.name.clone(),
                input_type: input.input_type,
                required: input.required,
                steps: plan
                    .features
                    .iter()
                    .enumerate()
                    .filter(|(_, feature)| feature.input == input.name)
                    .map(|(position, feature)| (position, step(&feature.transform)))
                    .collect(),
            })
            .collect();
        Self {
            inputs,
            features: plan.features.len(),
        }
    }

    /// Row-major features of all rows.
    pub(crate) fn encode(&self, columns: &Columns) -> Result<Vec<f64>, EncodeError> {
        let mut out = vec![f64::NAN; columns.rows() * self.features];
        let mut missing = Vec::new();
        for (position, input) in self.inputs.iter().enumerate() {
            match columns.get_near(&input.name, position) {
                Some(column) => input.encode(View::from(column), &mut out, self.features)?,
                None if input.required => missing.push(input),
                None => {}
            }
        }
        if missing.is_empty() {
            Ok(out)
        } else {
            Err(self.missing(&missing, columns.iter().map(|(name, _)| name).collect()))
        }
    }

    /// Row-major features of a snapshot's rows.
    pub(crate) fn encode_table(&self, table: &Table) -> Result<Vec<f64>, EncodeError> {
        let mut out = vec![f64::NAN; table.rows() * self.features];
        let mut missing = Vec::new();
        for input in &self.inputs {
            match table.get(&input.name) {
                Ok(values) => match values.view() {
                    Some(view) => input.encode(view, &mut out, self.features)?,
                    None => {
                        return Err(EncodeError::WrongType {
                            column: input.name.clone(),
                            expected: input.input_type.describe(),
                            found: "values of another type",
                        });
                    }
                },
                Err(_) if input.required => missing.push(input),
                Err(_) => {}
            }
        }
        if missing.is_empty() {
            Ok(out)
        } else {
            Err(self.missing(&missing, table.names().iter().map(String::as_str).collect()))
        }
    }

    fn missing(&self, missing: &[&EncodedInput], given: Vec<&str>) -> EncodeError {
        let spare: Vec<&str> = given
            .iter()
            .copied()
            .filter(|name| self.inputs.iter().all(|input| input.name != *name))
            .collect();
        EncodeError::Missing {
            missing: missing
                .iter()
                .map(|input| MissingColumn {
                    name: input.name.clone(),
                    expected: input.input_type.describe(),
                    nearest: nearest(&input.name, spare.iter().copied())
                        .into_iter()
                        .map(str::to_owned)
                        .collect(),
                })
                .collect(),
            given: given.into_iter().map(str::to_owned).collect(),
        }
    }
}

fn step(transform: &Transform) -> Step {
    match transform {
        Transform::Number => Step::Number,
        Transform::Category { levels, other } => Step::Category {
            levels: levels
                .iter()
                .enumerate()
                .map(|(position, level)| (level.clone(), position as f64))
                .collect(),
            unknown: if *other {
                levels.len() as f64
            } else {
                f64::NAN
            },
        },
        Transform::Time { part } => Step::Time(*part),
    }
}

impl EncodedInput {
    /// Writes this input's features into rows of `width` numbers that hold `NaN`.
    fn encode(&self, view: View<'_>, out: &mut [f64], width: usize) -> Result<(), EncodeError> {
        match self.input_type {
            InputType::Double | InputType::Long | InputType::Boolean => match view {
                View::F64(values) => self.numbers(values.iter().copied(), out, width),
                View::I64(values) => self.numbers(values.iter().map(|v| *v as f64), out, width),
                View::Bool(values) => self.numbers(
                    values
                        .iter()
                        .map(|v| v.map_or(f64::NAN, |v| if v { 1.0 } else { 0.0 })),
                    out,
                    width,
                ),
                _ => return self.nothing_or_wrong(view),
            },
            InputType::String => match view {
                View::Str(values) => {
                    self.texts(values.iter().map(|value| value.as_deref()), out, width)
                }
                View::Coded { codes, values } => self.codes(codes, values, out, width),
                _ => return self.nothing_or_wrong(view),
            },
            InputType::Datetime => match view {
                View::Timestamp(values) => {
                    for (row, value) in out.chunks_exact_mut(width).zip(values) {
                        if let Some(micros) = value {
                            self.times(*micros, row);
                        }
                    }
                }
                View::Str(values) => {
                    for (number, (row, value)) in
                        out.chunks_exact_mut(width).zip(values).enumerate()
                    {
                        let Some(text) = value else { continue };
                        self.times(self.instant(text, number)?, row);
                    }
                }
                View::Coded { codes, values } => {
                    for (number, (row, code)) in out.chunks_exact_mut(width).zip(codes).enumerate()
                    {
                        let Some(text) = values.get(*code as usize) else {
                            continue;
                        };
                        self.times(self.instant(text, number)?, row);
                    }
                }
                _ => return self.nothing_or_wrong(view),
            },
        }
        Ok(())
    }

    fn numbers(&self, values: impl Iterator<Item = f64>, out: &mut [f64], width: usize) {
        for (row, value) in out.chunks_exact_mut(width).zip(values) {
            for (position, _) in &self.steps {
                row[*position] = value;
            }
        }
    }

    fn texts<'a>(
        &self,
        values: impl Iterator<Item = Option<&'a str>>,
        out: &mut [f64],
        width: usize,
    ) {
        for (row, value) in out.chunks_exact_mut(width).zip(values) {
            let Some(text) = value else { continue };
            for (position, step) in &self.steps {
                if let Step::Category { levels, unknown } = step {
                    row[*position] = levels.get(text).copied().unwrap_or(*unknown);
                }
            }
        }
    }

    fn codes(&self, codes: &[u32], values: &[String], out: &mut [f64], width: usize) {
        for (position, step) in &self.steps {
            let Step::Category { levels, unknown } = step else {
                continue;
            };
            let by_code: Vec<f64> = values
                .iter()
                .map(|text| levels.get(text).copied().unwrap_or(*unknown))
                .collect();
            for (row, code) in out.chunks_exact_mut(width).zip(codes) {
                if *code != NO_TEXT {
                    row[*position] = by_code[*code as usize];
                }
            }
        }
    }

    fn times(&self, micros: i64, row: &mut [f64]) {
        for (position, step) in &self.steps {
            if let Step::Time(part) = step {
                row[*position] = time::part(micros, *part);
            }
        }
    }

    fn instant(&self, text: &str, row: usize) -> Result<i64, EncodeError> {
        time::parse(text).ok_or_else(|| EncodeError::NotATime {
            column: self.name.clone(),
            row,
            value: text.chars().take(60).collect(),
        })
    }

    /// A column in which every value is missing has no type of its own.
    fn nothing_or_wrong(&self, view: View<'_>) -> Result<(), EncodeError> {
        let nothing = match view {
            View::F64(values) => values.iter().all(|value| value.is_nan()),
            View::I64(values) => values.is_empty(),
            View::Bool(values) => values.iter().all(Option::is_none),
            View::Str(values) => values.iter().all(Option::is_none),
            View::Timestamp(values) => values.iter().all(Option::is_none),
            View::Coded { codes, .. } => codes.iter().all(|code| *code == NO_TEXT),
        };
        if nothing {
            return Ok(());
        }
        Err(EncodeError::WrongType {
            column: self.name.clone(),
            expected: self.input_type.describe(),
            found: view.kind(),
        })
    }
}
