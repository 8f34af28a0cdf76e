//! MLflow's scoring protocol (`POST /invocations`): data frames as JSON.

use serde_json::{Map, Value, json};

use crate::tensor::{Data, Tensor};

/// What is wrong with a scoring request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ScoringError {
    #[error("the request is not JSON: {0}")]
    Json(String),
    #[error(
        "the request must be an object with `dataframe_split`, `dataframe_records` or `inputs`"
    )]
    Form,
    #[error("`dataframe_split` must be {{\"columns\": [names], \"data\": [[row], …]}}: {0}")]
    Split(String),
    #[error("`{0}` must be an array of objects, one per row")]
    Records(&'static str),
    #[error("`inputs` must map each column's name to an array of its values")]
    Inputs,
    #[error(
        "column `{column}` mixes {first} and {second}; send one type per column, null for a missing value"
    )]
    Mixed {
        column: String,
        first: &'static str,
        second: &'static str,
    },
    #[error(
        "column `{0}` holds arrays or objects; send such data as tensors to /v2/models/{{name}}/infer"
    )]
    Nested(String),
    #[error("there are no rows to predict")]
    NoRows,
}

/// Parses the body into columns.
pub(crate) fn parse(body: &[u8]) -> Result<Vec<Tensor>, ScoringError> {
    let mut body: Map<String, Value> =
        serde_json::from_slice(body).map_err(|error| ScoringError::Json(error.to_string()))?;
    let columns = if let Some(split) = body.remove("dataframe_split") {
        split_columns(split)?
    } else if let Some(records) = body.remove("dataframe_records") {
        record_columns("dataframe_records", records)?
    } else if let Some(records) = body.remove("instances") {
        record_columns("instances", records)?
    } else if let Some(inputs) = body.remove("inputs") {
        named_columns(inputs)?
    } else {
        return Err(ScoringError::Form);
    };
    if columns.iter().all(|(_, values)| values.is_empty()) {
        return Err(ScoringError::NoRows);
    }
    columns
        .into_iter()
        .map(|(name, values)| Ok(Tensor::column(name.clone(), typed(name, values)?)))
        .collect()
}

type Untyped = Vec<(String, Vec<Value>)>;

fn split_columns(split: Value) -> Result<Untyped, ScoringError> {
    let wrong = |reason: &str| ScoringError::Split(reason.into());
    let Value::Object(mut split) = split else {
        return Err(wrong("it is no object"));
    };
    let Some(Value::Array(names)) = split.remove("columns") else {
        return Err(wrong("`columns` is missing"));
    };
    let Some(Value::Array(rows)) = split.remove("data") else {
        return Err(wrong("`data` is missing"));
    };
    let mut columns: Untyped = Vec::with_capacity(names.len());
    for name in names {
        let name = match name {
            Value::String(name) => name,
            other => other.to_string(),
        };
        columns.push((name, Vec::with_capacity(rows.len())));
    }
    for (index, row) in rows.into_iter().enumerate() {
        let Value::Array(row) = row else {
            return Err(wrong(&format!("row {index} is no array")));
        };
        if row.len() != columns.len() {
            let (found, wanted) = (row.len(), columns.len());
            return Err(wrong(&format!(
                "row {index} has {found} values for {wanted} columns"
            )));
        }
        for ((_, values), value) in columns.iter_mut().zip(row) {
            values.push(value);
        }
    }
    Ok(columns)
}

fn record_columns(field: &'static str, records: Value) -> Result<Untyped, ScoringError> {
    let Value::Array(records) = records else {
        return Err(ScoringError::Records(field));
    };
    let mut columns: Vec<(String, Vec<Value>)> = Vec::new();
    for (index, record) in records.into_iter().enumerate() {
        let Value::Object(record) = record else {
            return Err(ScoringError::Records(field));
        };
        for (position, (name, value)) in record.into_iter().enumerate() {
            // Records mostly have the same fields in the same order.
            let near = columns
                .get(position)
                .is_some_and(|(known, _)| *known == name);
            let place = match near {
                true => Some(position),
                false => columns.iter().position(|(known, _)| *known == name),
            };
            let place = place.unwrap_or_else(|| {
                columns.push((name, vec![Value::Null; index]));
                columns.len() - 1
            });
            columns[place].1.push(value);
        }
        for (_, values) in &mut columns {
            values.resize(index + 1, Value::Null);
        }
    }
    Ok(columns)
}

fn named_columns(inputs: Value) -> Result<Untyped, ScoringError> {
    let Value::Object(inputs) = inputs else {
        return Err(ScoringError::Inputs);
    };
    inputs
        .into_iter()
        .map(|(name, values)| match values {
            Value::Array(values) => Ok((name, values)),
            _ => Err(ScoringError::Inputs),
        })
        .collect()
}

fn typed(name: String, values: Vec<Value>) -> Result<Data, ScoringError> {
    let kind = |value: &Value| match value {
        Value::Null => None,
        Value::Bool(_) => Some("truth values"),
        Value::Number(_) => Some("numbers"),
        Value::String(_) => Some("text"),
        Value::Array(_) | Value::Object(_) => Some("nested values"),
    };
    let first = values.iter().find_map(kind);
    let other = values
        .iter()
        .filter_map(kind)
        .find(|other| Some(*other) != first);
    if let (Some(first), Some(second)) = (first, other) {
        return Err(ScoringError::Mixed {
            column: name,
            first,
            second,
        });
    }
    Ok(match first {
        Some("truth values") => Data::Bool(values.iter().map(Value::as_bool).collect()),
        Some("text") => Data::Text(
            values
                .into_iter()
                .map(|value| match value {
                    Value::String(text) => Some(text),
                    _ => None,
                })
                .collect(),
        ),
        Some("nested values") => return Err(ScoringError::Nested(name)),
        // A column of nothing but missing values fits any type best as this.
        _ => match values
            .iter()
            .map(Value::as_i64)
            .collect::<Option<Vec<i64>>>()
        {
            Some(whole) => Data::I64(whole),
            None => Data::F64(
                values
                    .iter()
                    .map(|value| value.as_f64().unwrap_or(f64::NAN))
                    .collect(),
            ),
        },
    })
}

/// `{"predictions": […]}`: values where there is one output, else a record per row.
pub(crate) fn render(outputs: &[Tensor]) -> Vec<u8> {
    let rendered = match outputs {
        [one] => serde_json::to_value(one).map(|mut one| one["data"].take()),
        _ => serde_json::to_value(outputs).map(|all| {
            let rows = outputs
                .first()
                .map_or(0, |output| output.shape.first().copied().unwrap_or(0));
            let row = |row: usize| -> Value {
                let columns = outputs.iter().enumerate().map(|(index, output)| {
                    let width = (output.data.len() / rows.max(1)).max(1);
                    let data = &all[index]["data"];
                    let value = match width {
                        1 => data[row].clone(),
                        _ => (row * width..(row + 1) * width)
                            .map(|at| data[at].clone())
                            .collect(),
                    };
                    (output.name.clone(), value)
                });
                Value::Object(columns.collect())
            };
            (0..rows).map(row).collect()
        }),
    };
    match rendered {
        Ok(predictions) => json!({ "predictions": predictions })
            .to_string()
            .into_bytes(),
        Err(error) => {
            tracing::error!(%error, "answer could not be rendered");
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_forms_mean_the_same() {
        let split =
            br#"{"dataframe_split": {"columns": ["a", "b"], "data": [[1, "x"], [2.5, null]]}}"#;
        let records = br#"{"dataframe_records": [{"a": 1, "b": "x"}, {"a": 2.5}]}"#;
        let inputs = br#"{"inputs": {"a": [1, 2.5], "b": ["x", null]}}"#;
        let wanted = vec![
            Tensor::column("a", Data::F64(vec![1.0, 2.5])),
            Tensor::column("b", Data::Text(vec![Some("x".into()), None])),
        ];
        assert_eq!(parse(split).as_ref(), Ok(&wanted));
        assert_eq!(parse(records).as_ref(), Ok(&wanted));
        assert_eq!(parse(inputs).as_ref(), Ok(&wanted));
    }

    #[test]
    fn mistakes() {
        let message = |body: &str| parse(body.as_bytes()).expect_err("a mistake").to_string();
        insta::assert_snapshot!(message(r#"{"rows": []}"#), @"the request must be an object with `dataframe_split`, `dataframe_records` or `inputs`");
        insta::assert_snapshot!(message(r#"{"dataframe_records": []}"#), @"there are no rows to predict");
        insta::assert_snapshot!(message(r#"{"dataframe_split": {"columns": ["a"], "data": [[1, 2]]}}"#), @r#"`dataframe_split` must be {"columns": [names], "data": [[row], …]}: row 0 has 2 values for 1 columns"#);
        insta::assert_snapshot!(message(r#"{"dataframe_records": [{"a": 1}, {"a": "x"}]}"#), @"column `a` mixes numbers and text; send one type per column, null for a missing value");
    }

    #[test]
    fn answers() {
        let prediction = Tensor::column("prediction", Data::Bool(vec![Some(true), Some(false)]));
        let probability = Tensor::column("probability", Data::F64(vec![0.75, 0.25]));
        let text = |outputs: &[Tensor]| String::from_utf8(render(outputs)).expect("text");
        insta::assert_snapshot!(text(std::slice::from_ref(&prediction)), @r#"{"predictions":[true,false]}"#);
        insta::assert_snapshot!(text(&[prediction, probability]), @r#"{"predictions":[{"prediction":true,"probability":0.75},{"prediction":false,"probability":0.25}]}"#);
    }
}
