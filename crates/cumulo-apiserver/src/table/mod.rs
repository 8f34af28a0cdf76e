//! `meta.k8s.io/v1 Table`: what `kubectl get` shows.
//!
//! Built-in kinds have their columns in a data table ([`builtin`]); custom
//! resources name theirs in `additionalPrinterColumns`. kubectl prints cells as
//! it gets them, so ages are rendered here, from the `now` that is passed in.

mod builtin;
mod cells;
mod duration;
mod event;
mod jsonpath;
mod pod;
mod show;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};
use serde_json_path::JsonPath;

pub use duration::human_duration;

/// The columns of one kind.
#[derive(Debug)]
pub struct Printer {
    columns: Vec<Column>,
}

#[derive(Debug)]
struct Column {
    name: Cow<'static, str>,
    kind: Cow<'static, str>,
    format: Cow<'static, str>,
    description: Cow<'static, str>,
    priority: i64,
    cell: Cell,
}

/// Computes a cell from an object.
type Compute = fn(&Value, DateTime<Utc>) -> Value;

enum Cell {
    Builtin(show::Show),
    Path(Box<JsonPath>),
}

impl std::fmt::Debug for Cell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Cell::Builtin(_) => "Builtin",
            Cell::Path(_) => "Path",
        })
    }
}

/// A printer column that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("additionalPrinterColumns[{index}].jsonPath: Invalid value: {path:?}: {message}")]
pub struct TableError {
    /// Which column.
    pub index: usize,
    /// Its JSONPath.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

/// The columns of a built-in kind, which are name and age for those that are
/// not in the table; `group` is empty for the core group.
pub fn builtin(group: &str, kind: &str) -> Arc<Printer> {
    Arc::new(builtin::printer(group, kind))
}

impl Printer {
    /// Reads `additionalPrinterColumns` of one entry of a CRD's `spec.versions`.
    ///
    /// # Errors
    ///
    /// When a JSONPath cannot be read.
    pub fn from_crd_version(version: &Value) -> Result<Printer, TableError> {
        let mut columns = vec![builtin::name_column()];
        let given = version
            .get("additionalPrinterColumns")
            .and_then(Value::as_array);
        for (index, column) in given.into_iter().flatten().enumerate() {
            let text = |key: &str| column[key].as_str().unwrap_or_default().to_owned();
            let path = text("jsonPath");
            let compiled = jsonpath::compile(&path).map_err(|message| TableError {
                index,
                path: path.clone(),
                message,
            })?;
            columns.push(Column {
                name: text("name").into(),
                kind: text("type").into(),
                format: text("format").into(),
                description: text("description").into(),
                priority: column["priority"].as_i64().unwrap_or(0),
                cell: Cell::Path(Box::new(compiled)),
            });
        }
        if given.is_none_or(Vec::is_empty) {
            columns.push(builtin::age_column());
        }
        Ok(Printer { columns })
    }

    /// `columnDefinitions`.
    fn definitions(&self) -> Value {
        self.columns
            .iter()
            .map(|column| {
                json!({
                    "name": column.name,
                    "type": column.kind,
                    "format": column.format,
                    "description": column.description,
                    "priority": column.priority,
                })
            })
            .collect()
    }

    fn cells(&self, object: &Value, now: DateTime<Utc>) -> Value {
        self.columns
            .iter()
            .map(|column| column.cell(object, now))
            .collect()
    }
}

impl Column {
    fn cell(&self, object: &Value, now: DateTime<Utc>) -> Value {
        let path = match &self.cell {
            Cell::Builtin(show) => return show.cell(object, now),
            Cell::Path(path) => path,
        };
        let Some(value) = path.query(object).first() else {
            return Value::Null;
        };
        match (self.kind.as_ref(), value) {
            (_, Value::Null) => Value::Null,
            ("integer", Value::Number(number)) => match number.as_i64() {
                Some(integer) => json!(integer),
                None => json!(number.as_f64().unwrap_or_default().trunc() as i64),
            },
            ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
            ("string", Value::String(text)) => json!(text),
            ("string", other) => json!(other.to_string()),
            ("date", Value::String(text)) => match DateTime::parse_from_rfc3339(text) {
                Ok(time) => json!(duration::age(time.with_timezone(&Utc), now)),
                Err(_) => json!("<invalid>"),
            },
            _ => Value::Null,
        }
    }
}

/// How much of each object a row carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata, as `PartialObjectMetadata`.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

/// An `includeObject` that is none of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unrecognized includeObject value: {0:?}; supported are None, Metadata, Object")]
pub struct UnknownIncludeObject(String);

impl FromStr for IncludeObject {
    type Err = UnknownIncludeObject;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "" | "Metadata" => Ok(Self::Metadata),
            "None" => Ok(Self::None),
            "Object" => Ok(Self::Object),
            other => Err(UnknownIncludeObject(other.into())),
        }
    }
}

/// Renders objects as a Table. `list_metadata` becomes the table's metadata:
/// the list's, or a single object's `{"resourceVersion": …}`.
pub fn render(
    printer: &Printer,
    objects: &[&Value],
    list_metadata: &Value,
    include: IncludeObject,
    now: DateTime<Utc>,
) -> Value {
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            let mut row = json!({"cells": printer.cells(object, now)});
            row["object"] = match include {
                IncludeObject::None => Value::Null,
                IncludeObject::Metadata => json!({
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": object.get("metadata"),
                }),
                IncludeObject::Object => (*object).clone(),
            };
            row
        })
        .collect();
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": printer.definitions(),
        "rows": rows,
    })
}
