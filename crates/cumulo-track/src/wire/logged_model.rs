//! Logged models: MLflow 3's models as things of their own.

use serde::{Deserialize, Serialize};

use super::lenient;
use super::{KeyValue, Metric};

/// State of a logged model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LoggedModelStatus {
    /// Files are still being uploaded.
    #[serde(rename = "LOGGED_MODEL_PENDING")]
    Pending,
    /// Usable.
    #[serde(rename = "LOGGED_MODEL_READY")]
    Ready,
    /// The upload failed.
    #[serde(rename = "LOGGED_MODEL_UPLOAD_FAILED")]
    UploadFailed,
}

impl LoggedModelStatus {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "LOGGED_MODEL_PENDING",
            Self::Ready => "LOGGED_MODEL_READY",
            Self::UploadFailed => "LOGGED_MODEL_UPLOAD_FAILED",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "LOGGED_MODEL_PENDING" | "1" => Self::Pending,
            "LOGGED_MODEL_READY" | "2" => Self::Ready,
            "LOGGED_MODEL_UPLOAD_FAILED" | "3" => Self::UploadFailed,
            _ => return None,
        })
    }
}

/// A version in the registry that was made from a logged model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoggedModelRegistration {
    /// Registered model.
    pub name: String,
    /// Version.
    pub version: String,
}

/// What identifies and describes a logged model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedModelInfo {
    /// Identifier: `m-` and 32 hexadecimal digits.
    pub model_id: String,
    /// Its experiment.
    pub experiment_id: String,
    /// Name for people.
    #[serde(default)]
    pub name: String,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub creation_timestamp_ms: i64,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub last_updated_timestamp_ms: i64,
    /// Where its files are.
    #[serde(default)]
    pub artifact_uri: String,
    /// State.
    pub status: LoggedModelStatus,
    /// Kind, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Run that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_run_id: Option<String>,
    /// More on the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_message: Option<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<KeyValue>,
    /// Versions in the registry made from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registrations: Vec<LoggedModelRegistration>,
}

/// What was logged about a model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct LoggedModelData {
    /// Parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<KeyValue>,
    /// Metrics.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
}

/// A logged model, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LoggedModel {
    /// What identifies it.
    pub info: LoggedModelInfo,
    /// What was logged about it.
    #[serde(default)]
    pub data: LoggedModelData,
}

/// `POST logged-models`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct CreateLoggedModel {
    /// Experiment.
    pub experiment_id: Option<String>,
    /// Name; one is made up when not given.
    pub name: Option<String>,
    /// Kind, free text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_type: Option<String>,
    /// Run that makes it.
    pub source_run_id: Option<String>,
    /// Parameters.
    #[serde(default, deserialize_with = "lenient::list")]
    pub params: Vec<KeyValue>,
    /// Tags.
    #[serde(default, deserialize_with = "lenient::list")]
    pub tags: Vec<KeyValue>,
}

/// A dataset whose metrics count in a search.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct DatasetFilter {
    /// Name; required.
    pub dataset_name: Option<String>,
    /// Digest.
    pub dataset_digest: Option<String>,
}

/// One key of an order of logged models.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct LoggedModelOrder {
    /// An attribute, or `metrics.<name>`.
    pub field_name: Option<String>,
    /// Smallest first (default) or largest first.
    #[serde(default, deserialize_with = "lenient::boolean")]
    pub ascending: Option<bool>,
    /// Only metrics on this dataset.
    pub dataset_name: Option<String>,
    /// Only metrics on this digest.
    pub dataset_digest: Option<String>,
}

/// `logged-models/search`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct SearchLoggedModels {
    /// Experiments to look in.
    #[serde(default, deserialize_with = "lenient::list")]
    pub experiment_ids: Vec<String>,
    /// Filter expression.
    pub filter: Option<String>,
    /// Datasets that metric comparisons are about.
    #[serde(default, deserialize_with = "lenient::list")]
    pub datasets: Vec<DatasetFilter>,
    /// Models of a page: 50 unless told.
    #[serde(default, deserialize_with = "lenient::integer")]
    pub max_results: Option<i64>,
    /// Order.
    #[serde(default, deserialize_with = "lenient::list")]
    pub order_by: Vec<LoggedModelOrder>,
    /// Token of the page.
    pub page_token: Option<String>,
}
