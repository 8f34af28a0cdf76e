//! Infers a plan from a snapshot's training rows.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::column::NO_TEXT;
use crate::table::{NumberKind, Table, TableError, Values};

use super::{
    Dropped, Feature, FeaturePlan, Input, InputType, Label, PLAN_VERSION, Target, Task, TimePart,
    Transform, time,
};

/// Levels of a text column that get a number of their own.
const MAX_LEVELS: usize = 255;
/// Above this share of distinct values a text column is an identifier.
const IDENTIFIER_SHARE: f64 = 0.9;
/// Below this number of distinct values nothing is called an identifier.
const IDENTIFIER_LEVELS: usize = 50;
/// More classes than this are taken for a mistake.
const MAX_CLASSES: usize = 200;

/// Which columns may become features.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct FeatureOptions {
    /// Only these columns; empty means all.
    pub include: Vec<String>,
    /// Not these columns.
    pub exclude: Vec<String>,
}

/// A snapshot that nothing can be learned from, as asked.
#[derive(Debug, thiserror::Error)]
pub enum InferError {
    /// A column that is named is not there.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The target is also asked for as a feature.
    #[error("the target `{0}` cannot be a feature; take it out of `features.include`")]
    TargetIncluded(String),
    /// The target's type does not fit the task.
    #[error("the target `{target}` holds {found}, which {task} cannot predict; {advice}")]
    TargetType {
        /// The target.
        target: String,
        /// What it holds.
        found: String,
        /// The task.
        task: &'static str,
        /// What to do.
        advice: &'static str,
    },
    /// There are too few or too many classes.
    #[error("the target `{target}` has {classes} distinct values; classification needs 2 to {MAX_CLASSES}{}", .advice)]
    Classes {
        /// The target.
        target: String,
        /// Distinct values.
        classes: usize,
        /// What to do, starting with `; ` or empty.
        advice: &'static str,
    },
    /// No column is left.
    #[error("no column can serve as a feature: {0}")]
    NoFeatures(String),
}

/// Infers how the columns of `table` become features, from the rows `training` alone.
pub fn infer(
    table: &Table,
    task: Task,
    target: &str,
    options: &FeatureOptions,
    training: &[u32],
) -> Result<FeaturePlan, InferError> {
    for name in options.include.iter().chain(&options.exclude) {
        table.get(name)?;
    }
    if options.include.iter().any(|name| name == target) {
        return Err(InferError::TargetIncluded(target.to_owned()));
    }
    let mut plan = FeaturePlan {
        version: PLAN_VERSION,
        task,
        target: Target {
            name: target.to_owned(),
            classes: classes(target, table.get(target)?, task)?,
            threshold: 0.5,
        },
        inputs: Vec::new(),
        features: Vec::new(),
        dropped: Vec::new(),
    };
    for (name, values) in table.iter() {
        if name == target {
            continue;
        }
        let excluded = options.exclude.iter().any(|other| other == name)
            || (!options.include.is_empty() && !options.include.iter().any(|other| other == name));
        let made = if excluded {
            Err("excluded by the specification".to_owned())
        } else {
            features(values, training)
        };
        match made {
            Err(reason) => plan.dropped.push(Dropped {
                column: name.to_owned(),
                reason,
            }),
            Ok(transforms) => {
                plan.inputs.push(Input {
                    name: name.to_owned(),
                    input_type: input_type(values),
                    required: true,
                    example: training
                        .first()
                        .map_or(Value::Null, |row| example(values, *row as usize)),
                });
                plan.features
                    .extend(transforms.into_iter().map(|transform| Feature {
                        name: match &transform {
                            Transform::Time { part } => format!("{name}.{}", part.name()),
                            _ => name.to_owned(),
                        },
                        input: name.to_owned(),
                        transform,
                    }));
            }
        }
    }
    if plan.features.is_empty() {
        let reasons: Vec<String> = plan
            .dropped
            .iter()
            .take(10)
            .map(|dropped| format!("`{}` is {}", dropped.column, dropped.reason))
            .collect();
        return Err(InferError::NoFeatures(if reasons.is_empty() {
            "the snapshot has no other column than the target".into()
        } else {
            reasons.join(", ")
        }));
    }
    Ok(plan)
}

/// The label of each row as the number that LightGBM learns: the position of
/// the class, or the value; `NaN` where it is missing.
pub(crate) fn labels(target: &Target, values: &Values) -> Vec<f64> {
    match values {
        Values::Number { values, .. } if target.classes.is_empty() => values.clone(),
        Values::Number { values, kind } => values
            .iter()
            .map(|value| {
                if value.is_nan() {
                    return f64::NAN;
                }
                position(&target.classes, &number_label(*value, *kind))
            })
            .collect(),
        Values::Text { codes, values } => {
            let by_code: Vec<f64> = values
                .iter()
                .map(|text| position(&target.classes, &Label::Text(text.clone())))
                .collect();
            codes
                .iter()
                .map(|code| by_code.get(*code as usize).copied().unwrap_or(f64::NAN))
                .collect()
        }
        Values::Time(values) => vec![f64::NAN; values.len()],
        Values::Unsupported(_) => Vec::new(),
    }
}

fn position(classes: &[Label], label: &Label) -> f64 {
    classes
        .binary_search(label)
        .map_or(f64::NAN, |position| position as f64)
}

fn number_label(value: f64, kind: NumberKind) -> Label {
    match kind {
        NumberKind::Boolean => Label::Bool(value != 0.0),
        _ => Label::Integer(value as i64),
    }
}

fn classes(target: &str, values: &Values, task: Task) -> Result<Vec<Label>, InferError> {
    let wrong = |found: &str, advice| InferError::TargetType {
        target: target.to_owned(),
        found: found.to_owned(),
        task: task.name(),
        advice,
    };
    if task == Task::Regression {
        return match values {
            Values::Number { .. } => Ok(Vec::new()),
            Values::Text { .. } => Err(wrong(
                "text",
                "use `task: classification` or cast it in the query",
            )),
            Values::Time(_) => Err(wrong("times", "compute a number from it in the query")),
            Values::Unsupported(name) => Err(wrong(name, "compute a number from it in the query")),
        };
    }
    let too_many = |classes, advice| InferError::Classes {
        target: target.to_owned(),
        classes,
        advice,
    };
    let mut found: BTreeSet<Label> = BTreeSet::new();
    match values {
        Values::Number { values, kind } => {
            for value in values.iter().filter(|value| !value.is_nan()) {
                if value.fract() != 0.0 || value.abs() > 9e15 {
                    return Err(wrong(
                        "fractions",
                        "use `task: regression`, or compute a class in the query",
                    ));
                }
                found.insert(number_label(*value, *kind));
                if found.len() > MAX_CLASSES {
                    return Err(too_many(found.len(), "; is it `task: regression`?"));
                }
            }
        }
        Values::Text { codes, values } => {
            let mut used = vec![false; values.len()];
            for code in codes.iter().filter(|code| **code != NO_TEXT) {
                used[*code as usize] = true;
            }
            found.extend(
                values
                    .iter()
                    .zip(used)
                    .filter(|(_, used)| *used)
                    .map(|(text, _)| Label::Text(text.clone())),
            );
        }
        Values::Time(_) => return Err(wrong("times", "compute a class from it in the query")),
        Values::Unsupported(name) => {
            return Err(wrong(name, "compute a class from it in the query"));
        }
    }
    match found.len() {
        0 | 1 => Err(too_many(
            found.len(),
            "; does the query filter the others out?",
        )),
        n if n > MAX_CLASSES => Err(too_many(n, "; group rare ones in the query")),
        _ => Ok(found.into_iter().collect()),
    }
}

/// The features of a column, or why it has none.
fn features(values: &Values, training: &[u32]) -> Result<Vec<Transform>, String> {
    match values {
        Values::Number { values, .. } => {
            let mut present = training
                .iter()
                .map(|row| values[*row as usize])
                .filter(|value| !value.is_nan());
            let Some(first) = present.next() else {
                return Err("missing in every training row".into());
            };
            let missing = training.iter().any(|row| values[*row as usize].is_nan());
            if !missing && present.all(|value| value == first) {
                return Err("the same in every training row".into());
            }
            Ok(vec![Transform::Number])
        }
        Values::Text { codes, values } => levels(codes, values, training),
        Values::Time(values) => {
            let parts: Vec<Transform> = TimePart::ALL
                .into_iter()
                .filter(|part| {
                    let mut seen = training
                        .iter()
                        .filter_map(|row| values[*row as usize])
                        .map(|micros| time::part(micros, *part));
                    seen.next()
                        .is_some_and(|first| seen.any(|value| value != first))
                })
                .map(|part| Transform::Time { part })
                .collect();
            if parts.is_empty() {
                Err("the same or missing in every training row".into())
            } else {
                Ok(parts)
            }
        }
        Values::Unsupported(name) => Err(format!("of type {name}, which is not learned from")),
    }
}

fn levels(codes: &[u32], values: &[String], training: &[u32]) -> Result<Vec<Transform>, String> {
    let mut counts = vec![0usize; values.len()];
    let mut present = 0usize;
    for row in training {
        let code = codes[*row as usize];
        if code != NO_TEXT {
            counts[code as usize] += 1;
            present += 1;
        }
    }
    let mut seen: Vec<(usize, &String)> = counts
        .into_iter()
        .zip(values)
        .filter(|(count, _)| *count > 0)
        .collect();
    if seen.is_empty() {
        return Err("missing in every training row".into());
    }
    if seen.len() == 1 && present == training.len() {
        return Err("the same in every training row".into());
    }
    if seen.len() > IDENTIFIER_LEVELS && seen.len() as f64 > IDENTIFIER_SHARE * present as f64 {
        return Err("an identifier: nearly every row has a value of its own".into());
    }
    // By name among equals, so that the plan does not depend on the rows' order.
    seen.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(b.1)));
    let rare = (training.len() / 10_000).clamp(2, 20);
    let total = seen.len();
    let mut kept: Vec<String> = seen
        .iter()
        .take(MAX_LEVELS)
        .filter(|(count, _)| *count >= rare)
        .map(|(_, text)| (*text).clone())
        .collect();
    if kept.is_empty() {
        // Every level is rare: the most frequent still tell more than none.
        kept = seen
            .iter()
            .take(MAX_LEVELS)
            .map(|(_, text)| (*text).clone())
            .collect();
    }
    let other = kept.len() < total;
    Ok(vec![Transform::Category {
        levels: kept,
        other,
    }])
}

fn input_type(values: &Values) -> InputType {
    match values {
        Values::Number { kind, .. } => match kind {
            NumberKind::Float => InputType::Double,
            NumberKind::Integer => InputType::Long,
            NumberKind::Boolean => InputType::Boolean,
        },
        Values::Text { .. } | Values::Unsupported(_) => InputType::String,
        Values::Time(_) => InputType::Datetime,
    }
}

fn example(values: &Values, row: usize) -> Value {
    match values {
        Values::Number { values, kind } => {
            let value = values[row];
            match kind {
                _ if value.is_nan() => Value::Null,
                NumberKind::Boolean => Value::Bool(value != 0.0),
                NumberKind::Integer => Value::from(value as i64),
                NumberKind::Float => Value::from(value),
            }
        }
        Values::Text { codes, values } => values
            .get(codes[row] as usize)
            .map_or(Value::Null, |text| Value::from(text.as_str())),
        Values::Time(values) => values[row]
            .and_then(chrono::DateTime::from_timestamp_micros)
            .map_or(Value::Null, |time| {
                Value::from(time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
            }),
        Values::Unsupported(_) => Value::Null,
    }
}
