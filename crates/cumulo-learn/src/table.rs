//! A snapshot in memory, typed for learning.

use std::collections::HashMap;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;

use crate::column::{Column, Columns, ColumnsError, NO_TEXT, View, list, nearest};
use crate::hash;

/// The values of a column by what can be learned from them.
#[derive(Clone, Debug)]
pub enum Values {
    /// Numbers; `NaN` is missing.
    Number {
        /// The values.
        values: Vec<f64>,
        /// What they were before.
        kind: NumberKind,
    },
    /// Text by code into `values`; `u32::MAX` is missing.
    Text {
        /// One code per row.
        codes: Vec<u32>,
        /// The distinct texts.
        values: Vec<String>,
    },
    /// Microseconds since 1970 in UTC.
    Time(Vec<Option<i64>>),
    /// A type nothing is learned from, by its name.
    Unsupported(String),
}

/// What a number was in the snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NumberKind {
    /// Floating point or decimal.
    Float,
    /// Signed or unsigned.
    Integer,
    /// A truth value as 0 or 1.
    Boolean,
}

/// A snapshot's columns, all of one length.
#[derive(Clone, Debug)]
pub struct Table {
    names: Vec<String>,
    values: Vec<Values>,
    rows: usize,
}

/// Record batches that make no table, or a column that is asked for in vain.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// Batches of different schemas.
    #[error("batch {batch} has the columns {found} but the first has {expected}")]
    Schema {
        /// The batch, from 0.
        batch: usize,
        /// Its columns.
        found: String,
        /// The first batch's columns.
        expected: String,
    },
    /// More rows than row numbers.
    #[error(
        "the snapshot has {0} rows; at most 2,147,483,647 can be trained on, take a sample in the query"
    )]
    TooManyRows(usize),
    /// A name occurs twice.
    #[error(transparent)]
    Columns(#[from] ColumnsError),
    /// A column cannot be read.
    #[error("column `{column}` cannot be read as {wanted}")]
    Cast {
        /// The column.
        column: String,
        /// The type.
        wanted: String,
        /// Why.
        source: ArrowError,
    },
    /// There is no such column.
    #[error("the snapshot has no column `{column}`{}", suggestion(.nearest, .present))]
    NoColumn {
        /// The column asked for.
        column: String,
        /// Columns with similar names.
        nearest: Vec<String>,
        /// All columns.
        present: Vec<String>,
    },
}

fn suggestion(nearest: &[String], present: &[String]) -> String {
    if present.is_empty() {
        "; it has no columns".to_owned()
    } else if nearest.is_empty() {
        format!("; it has {}", list(present.iter().map(String::as_str)))
    } else {
        format!(
            "; did you mean {}?",
            list(nearest.iter().map(String::as_str))
        )
    }
}

impl Table {
    /// Reads record batches of one schema.
    pub fn from_batches(batches: &[RecordBatch]) -> Result<Self, TableError> {
        let Some(first) = batches.first() else {
            return Ok(Self {
                names: Vec::new(),
                values: Vec::new(),
                rows: 0,
            });
        };
        let schema = first.schema();
        let names: Vec<String> = schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect();
        for (position, name) in names.iter().enumerate() {
            if names[..position].contains(name) {
                return Err(ColumnsError::Twice(name.clone()).into());
            }
        }
        for (number, batch) in batches.iter().enumerate() {
            let other = batch.schema();
            let same = other.fields().len() == names.len()
                && other
                    .fields()
                    .iter()
                    .zip(schema.fields())
                    .all(|(a, b)| a.name() == b.name() && a.data_type() == b.data_type());
            if !same {
                return Err(TableError::Schema {
                    batch: number,
                    found: list(other.fields().iter().map(|field| field.name().as_str())).into(),
                    expected: list(names.iter().map(String::as_str)).into(),
                });
            }
        }
        let rows = batches.iter().map(RecordBatch::num_rows).sum();
        if rows > i32::MAX as usize {
            return Err(TableError::TooManyRows(rows));
        }
        let values = names
            .iter()
            .enumerate()
            .map(|(position, name)| {
                let chunks: Vec<&ArrayRef> =
                    batches.iter().map(|batch| batch.column(position)).collect();
                read(name, schema.field(position).data_type(), &chunks, rows)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            names,
            values,
            rows,
        })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Names in the snapshot's order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Names and values in the snapshot's order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Values)> {
        self.names.iter().map(String::as_str).zip(&self.values)
    }

    /// The column of that name.
    pub fn get(&self, name: &str) -> Result<&Values, TableError> {
        match self.names.iter().position(|other| other == name) {
            Some(position) => Ok(&self.values[position]),
            None => Err(TableError::NoColumn {
                column: name.to_owned(),
                nearest: nearest(name, self.names.iter().map(String::as_str))
                    .into_iter()
                    .map(str::to_owned)
                    .collect(),
                present: self.names.clone(),
            }),
        }
    }

    /// The rows as the columns that a client would send.
    pub fn to_columns(&self, rows: &[u32]) -> Columns {
        let columns = self
            .iter()
            .filter_map(|(name, values)| {
                let column = values.to_column(rows)?;
                Some((name.to_owned(), column))
            })
            .collect();
        Columns::new(columns).unwrap_or_default()
    }
}

impl Values {
    pub(crate) fn view(&self) -> Option<View<'_>> {
        match self {
            Values::Number { values, .. } => Some(View::F64(values)),
            Values::Text { codes, values } => Some(View::Coded { codes, values }),
            Values::Time(values) => Some(View::Timestamp(values)),
            Values::Unsupported(_) => None,
        }
    }

    /// A stable hash of each value, the same for the same value whatever the
    /// type that held it.
    pub(crate) fn hashes(&self) -> Vec<u64> {
        match self {
            Values::Number { values, .. } => values.iter().map(|v| hash::number(*v)).collect(),
            Values::Text { codes, values } => {
                let by_code: Vec<u64> = values.iter().map(|v| hash::bytes(v.as_bytes())).collect();
                codes
                    .iter()
                    .map(|code| {
                        by_code
                            .get(*code as usize)
                            .copied()
                            .unwrap_or(hash::MISSING)
                    })
                    .collect()
            }
            Values::Time(values) => values
                .iter()
                .map(|v| v.map_or(hash::MISSING, |v| hash::mix(v as u64)))
                .collect(),
            Values::Unsupported(_) => Vec::new(),
        }
    }

    fn to_column(&self, rows: &[u32]) -> Option<Column> {
        let pick = |values: &[f64]| {
            rows.iter()
                .map(|row| values[*row as usize])
                .collect::<Vec<_>>()
        };
        Some(match self {
            Values::Number { values, kind } => {
                let values = pick(values);
                match kind {
                    NumberKind::Integer if values.iter().all(|v| !v.is_nan()) => {
                        Column::I64(values.into_iter().map(|v| v as i64).collect())
                    }
                    NumberKind::Boolean => Column::Bool(
                        values
                            .into_iter()
                            .map(|v| (!v.is_nan()).then_some(v != 0.0))
                            .collect(),
                    ),
                    _ => Column::F64(values),
                }
            }
            Values::Text { codes, values } => Column::Str(
                rows.iter()
                    .map(|row| values.get(codes[*row as usize] as usize).cloned())
                    .collect(),
            ),
            Values::Time(values) => {
                Column::Timestamp(rows.iter().map(|row| values[*row as usize]).collect())
            }
            Values::Unsupported(_) => return None,
        })
    }
}

fn read(
    name: &str,
    data_type: &DataType,
    chunks: &[&ArrayRef],
    rows: usize,
) -> Result<Values, TableError> {
    let as_type = |array: &ArrayRef, wanted: &DataType| {
        cast(array, wanted).map_err(|source| TableError::Cast {
            column: name.to_owned(),
            wanted: wanted.to_string(),
            source,
        })
    };
    // A dictionary is read as its values.
    let plain = match data_type {
        DataType::Dictionary(_, values) => values.as_ref(),
        other => other,
    };
    let number_kind = match plain {
        DataType::Boolean => Some(NumberKind::Boolean),
        other if other.is_integer() => Some(NumberKind::Integer),
        other if other.is_floating() || other.is_decimal() => Some(NumberKind::Float),
        _ => None,
    };
    if let Some(kind) = number_kind {
        let mut values = Vec::with_capacity(rows);
        for chunk in chunks {
            let array = as_type(chunk, &DataType::Float64)?;
            let array = array.as_primitive::<Float64Type>();
            values.extend(array.iter().map(|value| value.unwrap_or(f64::NAN)));
        }
        return Ok(Values::Number { values, kind });
    }
    match plain {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let mut codes = Vec::with_capacity(rows);
            let mut texts: Vec<String> = Vec::new();
            let mut known: HashMap<String, u32> = HashMap::new();
            for chunk in chunks {
                let array = as_type(chunk, &DataType::Utf8)?;
                for text in array.as_string::<i32>() {
                    codes.push(match text {
                        None => NO_TEXT,
                        Some(text) => match known.get(text) {
                            Some(code) => *code,
                            None => {
                                let code = texts.len() as u32;
                                texts.push(text.to_owned());
                                known.insert(text.to_owned(), code);
                                code
                            }
                        },
                    });
                }
            }
            Ok(Values::Text {
                codes,
                values: texts,
            })
        }
        DataType::Date32 | DataType::Date64 | DataType::Timestamp(_, _) => {
            let mut values = Vec::with_capacity(rows);
            for chunk in chunks {
                // The instant is what counts; a time zone only says how to show it.
                let array = match chunk.data_type() {
                    DataType::Timestamp(unit, Some(_)) => {
                        let raw = as_type(chunk, &DataType::Int64)?;
                        let raw = raw.as_primitive::<Int64Type>().clone();
                        values.extend(raw.iter().map(|value| value.map(|v| micros(v, *unit))));
                        continue;
                    }
                    _ => as_type(chunk, &DataType::Timestamp(TimeUnit::Microsecond, None))?,
                };
                values.extend(array.as_primitive::<TimestampMicrosecondType>().iter());
            }
            Ok(Values::Time(values))
        }
        // A column without any value: nothing to learn from, nothing to refuse.
        DataType::Null => Ok(Values::Number {
            values: vec![f64::NAN; rows],
            kind: NumberKind::Float,
        }),
        other => Ok(Values::Unsupported(other.to_string())),
    }
}

fn micros(value: i64, unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => value.saturating_mul(1_000_000),
        TimeUnit::Millisecond => value.saturating_mul(1_000),
        TimeUnit::Microsecond => value,
        TimeUnit::Nanosecond => value.div_euclid(1_000),
    }
}
