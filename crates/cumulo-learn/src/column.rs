//! Named columns: what a prediction takes in and gives out.

use std::borrow::Cow;

/// The values of one column. Missing values are `NaN` in [`Column::F64`] and
/// `None` elsewhere; [`Column::I64`] has none (send numbers with gaps as `F64`).
#[derive(Clone, Debug, PartialEq)]
pub enum Column {
    /// Floating-point numbers; `NaN` is a missing value.
    F64(Vec<f64>),
    /// Whole numbers, none missing.
    I64(Vec<i64>),
    /// Truth values.
    Bool(Vec<Option<bool>>),
    /// Text. Also accepted for a time column, in ISO 8601.
    Str(Vec<Option<String>>),
    /// Instants, in microseconds since 1970-01-01T00:00:00Z.
    Timestamp(Vec<Option<i64>>),
}

impl Column {
    /// Number of values.
    pub fn len(&self) -> usize {
        match self {
            Column::F64(values) => values.len(),
            Column::I64(values) => values.len(),
            Column::Bool(values) => values.len(),
            Column::Str(values) => values.len(),
            Column::Timestamp(values) => values.len(),
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind of values in words a person uses.
    pub fn kind(&self) -> &'static str {
        match self {
            Column::F64(_) => "numbers",
            Column::I64(_) => "whole numbers",
            Column::Bool(_) => "truth values",
            Column::Str(_) => "text",
            Column::Timestamp(_) => "times",
        }
    }
}

/// Columns that do not form a table.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ColumnsError {
    /// Two columns differ in length.
    #[error(
        "column `{name}` has {rows} values but `{first}` has {expected}; all columns must be of one length"
    )]
    Length {
        /// The column that differs.
        name: String,
        /// Its length.
        rows: usize,
        /// The first column.
        first: String,
        /// The first column's length.
        expected: usize,
    },
    /// A name occurs twice.
    #[error("column `{0}` is given twice; name each column once")]
    Twice(String),
}

/// Columns of one length, each with a name of its own.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Columns {
    columns: Vec<(String, Column)>,
    rows: usize,
}

impl Columns {
    /// Checks lengths and names.
    pub fn new(columns: Vec<(String, Column)>) -> Result<Self, ColumnsError> {
        let rows = columns.first().map_or(0, |(_, column)| column.len());
        for (position, (name, column)) in columns.iter().enumerate() {
            if column.len() != rows {
                return Err(ColumnsError::Length {
                    name: name.clone(),
                    rows: column.len(),
                    first: columns[0].0.clone(),
                    expected: rows,
                });
            }
            if columns[..position].iter().any(|(other, _)| other == name) {
                return Err(ColumnsError::Twice(name.clone()));
            }
        }
        Ok(Self { columns, rows })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The column of that name.
    pub fn get(&self, name: &str) -> Option<&Column> {
        self.columns
            .iter()
            .find(|(other, _)| other == name)
            .map(|(_, column)| column)
    }

    /// Like [`Columns::get`], looking first at `position`, where a client that
    /// sends columns in the model's order has it.
    pub(crate) fn get_near(&self, name: &str, position: usize) -> Option<&Column> {
        match self.columns.get(position) {
            Some((other, column)) if other == name => Some(column),
            _ => self.get(name),
        }
    }

    /// Names and values in the order given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Column)> {
        self.columns
            .iter()
            .map(|(name, column)| (name.as_str(), column))
    }

    /// Only the columns of these names.
    pub fn only(mut self, names: &[&str]) -> Self {
        self.columns
            .retain(|(name, _)| names.contains(&name.as_str()));
        self
    }

    /// Gives the columns away.
    pub fn into_vec(self) -> Vec<(String, Column)> {
        self.columns
    }
}

/// A read-only look at a column, whether it came with a request or from a
/// snapshot: features are computed from this, so there is one code path.
#[derive(Clone, Copy, Debug)]
pub(crate) enum View<'a> {
    F64(&'a [f64]),
    I64(&'a [i64]),
    Bool(&'a [Option<bool>]),
    Str(&'a [Option<String>]),
    Timestamp(&'a [Option<i64>]),
    /// Text by code into `values`; [`NO_TEXT`] is a missing value.
    Coded {
        codes: &'a [u32],
        values: &'a [String],
    },
}

/// The code of a missing text.
pub(crate) const NO_TEXT: u32 = u32::MAX;

impl<'a> From<&'a Column> for View<'a> {
    fn from(column: &'a Column) -> Self {
        match column {
            Column::F64(values) => View::F64(values),
            Column::I64(values) => View::I64(values),
            Column::Bool(values) => View::Bool(values),
            Column::Str(values) => View::Str(values),
            Column::Timestamp(values) => View::Timestamp(values),
        }
    }
}

impl View<'_> {
    /// The kind of values in words a person uses.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            View::F64(_) => "numbers",
            View::I64(_) => "whole numbers",
            View::Bool(_) => "truth values",
            View::Str(_) | View::Coded { .. } => "text",
            View::Timestamp(_) => "times",
        }
    }
}

/// The candidates nearest to `name` by spelling, best first, at most three.
pub(crate) fn nearest<'a>(
    name: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Vec<&'a str> {
    let wanted = normal(name);
    let mut scored: Vec<(f64, &str)> = candidates
        .into_iter()
        .map(|candidate| (strsim::jaro_winkler(&wanted, &normal(candidate)), candidate))
        .filter(|(score, _)| *score > 0.8)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
    scored.into_iter().take(3).map(|(_, name)| name).collect()
}

fn normal(name: &str) -> String {
    name.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .collect()
}

/// `` `a`, `b` and 3 more ``: a bounded list for messages.
pub(crate) fn list<'a>(names: impl IntoIterator<Item = &'a str>) -> Cow<'static, str> {
    let names: Vec<&str> = names.into_iter().collect();
    let shown: Vec<String> = names
        .iter()
        .take(20)
        .map(|name| format!("`{name}`"))
        .collect();
    let rest = names.len().saturating_sub(shown.len());
    if rest > 0 {
        format!("{} and {rest} more", shown.join(", ")).into()
    } else {
        shown.join(", ").into()
    }
}
