//! A snapshot's manifest: what it holds, where it came from, how its checks went.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::check::CheckResult;
use crate::request::{Check, FileFormatName};

/// `manifest.json` beside a snapshot's files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// The generation of the snapshot format.
    pub generation: u32,
    /// The dataset's namespace.
    pub namespace: String,
    /// The dataset's name.
    pub name: String,
    /// The version.
    pub version: String,
    /// Number of rows.
    pub rows: u64,
    /// Size of all data files in bytes.
    pub bytes: u64,
    /// The data files, in the order of their rows.
    pub files: Vec<DataFile>,
    /// The columns with their statistics.
    pub columns: Vec<ColumnSummary>,
    /// The query as written.
    pub query: String,
    /// The sources.
    pub sources: Vec<SourceRecord>,
    /// The checks that were asked for.
    pub checks: Vec<Check>,
    /// How they went.
    pub check_results: Vec<CheckResult>,
    /// When it was made, RFC 3339, and by what.
    pub created: String,
    /// The program and its version.
    pub created_by: String,
}

/// One Parquet file of a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataFile {
    /// Its name in the snapshot's folder.
    pub name: String,
    /// Its rows.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What is recorded of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceRecord {
    /// The table's name.
    pub name: String,
    /// The format.
    pub format: FileFormatName,
    /// The files in the order in which they were read.
    pub files: Vec<SourceFileRecord>,
}

/// One file of a source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SourceFileRecord {
    /// Where it came from, without credentials.
    pub uri: String,
    /// SHA-256 of its content.
    pub sha256: String,
    /// Its size in bytes.
    pub bytes: u64,
}

/// A column and its statistics.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ColumnSummary {
    /// Its name.
    pub name: String,
    /// Its Arrow type.
    #[serde(rename = "type")]
    pub data_type: String,
    /// Missing values.
    pub nulls: u64,
    /// Distinct values: exact for up to 10,000 texts, an estimate (HyperLogLog, 1.6 %) otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub distinct: Option<u64>,
    /// The smallest value, for numbers, dates and times.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<Value>,
    /// The largest value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<Value>,
    /// The mean; for booleans the fraction that is true.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean: Option<f64>,
    /// The sample standard deviation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standard_deviation: Option<f64>,
    /// The shortest text, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shortest: Option<u64>,
    /// The longest text, in bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub longest: Option<u64>,
    /// The most frequent values of a text or boolean column.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub top_values: Vec<TopValue>,
}

/// A value and how often it occurs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopValue {
    /// The value.
    pub value: String,
    /// How often.
    pub count: u64,
}
