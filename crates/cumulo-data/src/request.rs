//! What a build is asked for: the JSON that a controller hands to
//! `cumulo data build`.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// One dataset to build.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BuildRequest {
    /// The dataset's namespace.
    pub namespace: String,
    /// The dataset's name.
    pub name: String,
    /// The sources; each is a table of that name in the query.
    pub sources: Vec<SourceSpec>,
    /// One SQL SELECT over the sources.
    pub query: String,
    /// What must hold of the result.
    #[serde(default)]
    pub checks: Vec<Check>,
}

/// One source: files of one format, read as one table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceSpec {
    /// The table's name in the query.
    pub name: String,
    /// Paths, globs, `file://`, `http(s)://` URLs, or `cumulo:` paths in the artifact store.
    pub uris: Vec<String>,
    /// The format; from the files' extension when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub format: Option<FileFormatName>,
    /// How to read the format.
    #[serde(default, skip_serializing_if = "SourceOptions::is_default")]
    pub options: SourceOptions,
}

/// A file format that sources may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileFormatName {
    /// Apache Parquet.
    Parquet,
    /// Comma-separated values, plain, gzip or zstd.
    Csv,
    /// One JSON object a line, plain, gzip or zstd.
    #[serde(alias = "jsonl", alias = "ndjson")]
    Json,
    /// Arrow IPC file.
    Arrow,
}

impl std::fmt::Display for FileFormatName {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Parquet => "Parquet",
            Self::Csv => "CSV",
            Self::Json => "JSON lines",
            Self::Arrow => "Arrow IPC",
        })
    }
}

/// How a CSV source is read.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SourceOptions {
    /// The delimiter, one character. A comma when absent (a tab for `.tsv`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub delimiter: Option<String>,
    /// Whether the first line holds the columns' names. True when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<bool>,
    /// Texts that mean a missing value. The empty text and `NA` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_values: Option<Vec<String>>,
}

impl SourceOptions {
    /// Whether nothing is set.
    pub fn is_default(&self) -> bool {
        self == &Self::default()
    }

    /// The texts that mean a missing value.
    pub fn effective_null_values(&self) -> Vec<String> {
        self.null_values
            .clone()
            .unwrap_or_else(|| vec![String::new(), "NA".to_owned()])
    }
}

/// One check: of a column, or an SQL expression that must not be false for any row.
///
/// As with an SQL CHECK constraint a missing value breaks `notNull` alone: a
/// range, an allowed value, uniqueness or an expression that comes out NULL
/// passes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Check {
    /// A name of its own for messages; made from the check when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The column that the four rules below speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// No value is missing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_null: Option<bool>,
    /// Every value lies in the range, limits included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub range: Option<Range>,
    /// No value occurs twice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<bool>,
    /// Every value is one of these.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_values: Option<Vec<serde_json::Value>>,
    /// An SQL expression over the result's columns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// The fraction of rows that may break the check. Zero when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f64>,
}

/// A closed range; either end may be absent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Range {
    /// The smallest allowed value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// The largest allowed value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// A request that cannot be built, whatever its sources hold.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RequestError {
    /// The text is not a request.
    #[error("the build request is not valid: {0}")]
    Malformed(String),
    /// A name that cannot be a folder of the artifact store.
    #[error(
        "the {what} {name:?} is not valid: use lower-case letters, digits, '-' and '.', and at most 253 of them"
    )]
    Name {
        /// Namespace or name.
        what: &'static str,
        /// The offending text.
        name: String,
    },
    /// There is nothing to query.
    #[error("the dataset has no sources: give at least one under spec.sources")]
    NoSources,
    /// Two tables of one name.
    #[error("the source {0:?} is given twice: a source's name is a table's name in the query")]
    DuplicateSource(String),
    /// A source without files.
    #[error("the source {0:?} has no uri: give `uri` or `uris`")]
    NoUris(String),
    /// A delimiter that is not one ASCII character.
    #[error("the source {source_name:?} has the delimiter {delimiter:?}: give one ASCII character")]
    Delimiter {
        /// The source.
        source_name: String,
        /// The offending text.
        delimiter: String,
    },
    /// A check that says nothing or contradicts itself.
    #[error("check {position} is not valid: {problem}")]
    Check {
        /// Which check, counted from one.
        position: usize,
        /// What is wrong and what to do.
        problem: String,
    },
}

impl BuildRequest {
    /// Reads a request from JSON and validates it.
    pub fn from_json(text: &str) -> Result<Self, RequestError> {
        let request: Self = serde_json::from_str(text)
            .map_err(|error| RequestError::Malformed(error.to_string()))?;
        request.validate()?;
        Ok(request)
    }

    /// Whether the request makes sense by itself.
    pub fn validate(&self) -> Result<(), RequestError> {
        valid_name("namespace", &self.namespace)?;
        valid_name("name", &self.name)?;
        if self.sources.is_empty() {
            return Err(RequestError::NoSources);
        }
        let mut seen = BTreeSet::new();
        for source in &self.sources {
            if !seen.insert(source.name.to_lowercase()) {
                return Err(RequestError::DuplicateSource(source.name.clone()));
            }
            if source.uris.is_empty() {
                return Err(RequestError::NoUris(source.name.clone()));
            }
            if let Some(delimiter) = &source.options.delimiter
                && !(delimiter.len() == 1 && delimiter.is_ascii())
            {
                return Err(RequestError::Delimiter {
                    source_name: source.name.clone(),
                    delimiter: delimiter.clone(),
                });
            }
        }
        for (index, check) in self.checks.iter().enumerate() {
            check.validate().map_err(|problem| RequestError::Check {
                position: index + 1,
                problem,
            })?;
        }
        Ok(())
    }
}

impl Check {
    fn validate(&self) -> Result<(), String> {
        if let Some(tolerance) = self.tolerance
            && !(0.0..=1.0).contains(&tolerance)
        {
            return Err(format!(
                "tolerance is {tolerance}: it is a fraction of rows between 0 and 1"
            ));
        }
        let rules = self.not_null == Some(true)
            || self.range.is_some()
            || self.unique == Some(true)
            || self.allowed_values.is_some();
        match (&self.column, &self.expression) {
            (Some(_), Some(_)) => {
                Err("give either `column` with rules or `expression`, not both".to_owned())
            }
            (None, None) => Err("give `column` with rules, or `expression`".to_owned()),
            (None, Some(_)) if rules => {
                Err("notNull, range, unique and allowedValues need `column`".to_owned())
            }
            (Some(column), None) if !rules => Err(format!(
                "nothing is asked of column {column:?}: give notNull, range, unique or allowedValues"
            )),
            _ => Ok(()),
        }
    }
}

/// A namespace or name as Kubernetes allows it, which makes it a safe folder name too.
fn valid_name(what: &'static str, name: &str) -> Result<(), RequestError> {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let good = name.len() <= 253
        && edge(name.chars().next())
        && edge(name.chars().last())
        && name.chars().all(allowed)
        && !name.contains("..");
    if good {
        Ok(())
    } else {
        Err(RequestError::Name {
            what,
            name: name.to_owned(),
        })
    }
}
