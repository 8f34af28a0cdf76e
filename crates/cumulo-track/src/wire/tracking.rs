//! Experiments, runs, metrics, inputs.

use serde::{Deserialize, Serialize};

use super::KeyValue;
use super::lenient;

/// `active` or `deleted`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LifecycleStage {
    /// In use.
    Active,
    /// Deleted, and may be restored.
    Deleted,
}

impl LifecycleStage {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Deleted => "deleted",
        }
    }

    pub(crate) fn parse(text: &str) -> Self {
        if text == "deleted" {
            Self::Deleted
        } else {
            Self::Active
        }
    }
}

/// State of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum RunStatus {
    /// At work.
    Running,
    /// Waiting to start.
    Scheduled,
    /// Ended well.
    Finished,
    /// Ended badly.
    Failed,
    /// Stopped by someone.
    Killed,
}

impl RunStatus {
    /// MLflow's name of it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "RUNNING",
            Self::Scheduled => "SCHEDULED",
            Self::Finished => "FINISHED",
            Self::Failed => "FAILED",
            Self::Killed => "KILLED",
        }
    }

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "RUNNING" | "1" => Self::Running,
            "SCHEDULED" | "2" => Self::Scheduled,
            "FINISHED" | "3" => Self::Finished,
            "FAILED" | "4" => Self::Failed,
            "KILLED" | "5" => Self::Killed,
            _ => return None,
        })
    }
}

/// An experiment: a group of runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Experiment {
    /// Identifier, a decimal number as a string.
    pub experiment_id: String,
    /// Unique name.
    pub name: String,
    /// Where artifacts of its runs go.
    pub artifact_location: String,
    /// Active or deleted.
    pub lifecycle_stage: LifecycleStage,
    /// Milliseconds since the Unix epoch.
    #[serde(deserialize_with = "lenient::integer_or_zero")]
    pub last_update_time: i64,
    /// Milliseconds since the Unix epoch.
    #[serde(deserialize_with = "lenient::integer_or_zero")]
    pub creation_time: i64,
    /// Its tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<KeyValue>,
}

/// What identifies and describes a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunInfo {
    /// Identifier: 32 hexadecimal digits.
    pub run_id: String,
    /// The same, by its old name.
    #[serde(default)]
    pub run_uuid: String,
    /// Name for people.
    #[serde(default)]
    pub run_name: String,
    /// Its experiment.
    pub experiment_id: String,
    /// Who started it.
    #[serde(default)]
    pub user_id: String,
    /// State.
    pub status: RunStatus,
    /// Milliseconds since the Unix epoch.
    #[serde(
        default,
        deserialize_with = "lenient::integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub start_time: Option<i64>,
    /// Milliseconds since the Unix epoch, once ended.
    #[serde(
        default,
        deserialize_with = "lenient::integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub end_time: Option<i64>,
    /// Where its artifacts are (`mlflow-artifacts:/…`).
    #[serde(default)]
    pub artifact_uri: String,
    /// Active or deleted.
    pub lifecycle_stage: LifecycleStage,
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Name.
    #[serde(default, deserialize_with = "lenient::string")]
    pub key: String,
    /// Value; may be NaN or infinite.
    #[serde(
        deserialize_with = "lenient::required_double",
        serialize_with = "lenient::write_double"
    )]
    pub value: f64,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub timestamp: i64,
    /// Step within the run.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub step: i64,
    /// Dataset that it was measured on, if one was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_name: Option<String>,
    /// Digest of that dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset_digest: Option<String>,
    /// Logged model that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
    /// Run that it was logged by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
}

impl Metric {
    /// A metric without dataset and model.
    pub fn new(key: impl Into<String>, value: f64, timestamp: i64, step: i64) -> Self {
        Self {
            key: key.into(),
            value,
            timestamp,
            step,
            dataset_name: None,
            dataset_digest: None,
            model_id: None,
            run_id: None,
        }
    }
}

/// What a run has logged: for each metric its latest value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct RunData {
    /// Latest value of each metric.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<Metric>,
    /// Parameters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<KeyValue>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<KeyValue>,
}

/// A dataset that runs used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct DatasetInfo {
    /// Name.
    #[serde(default, deserialize_with = "lenient::string")]
    pub name: String,
    /// Digest of its content.
    #[serde(default, deserialize_with = "lenient::string")]
    pub digest: String,
    /// Kind of source.
    #[serde(default, deserialize_with = "lenient::string")]
    pub source_type: String,
    /// Source, as JSON text.
    #[serde(default, deserialize_with = "lenient::string")]
    pub source: String,
    /// Schema, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schema: Option<String>,
    /// Statistics, as JSON text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
}

/// A dataset as an input of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetInput {
    /// Tags of this use, such as `mlflow.data.context`.
    #[serde(
        default,
        deserialize_with = "lenient::list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub tags: Vec<KeyValue>,
    /// The dataset.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<DatasetInfo>,
}

/// A logged model as an input of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInput {
    /// The logged model.
    #[serde(default, deserialize_with = "lenient::string")]
    pub model_id: String,
}

/// A logged model as an output of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelOutput {
    /// The logged model.
    #[serde(default, deserialize_with = "lenient::string")]
    pub model_id: String,
    /// Step at which it was made.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub step: i64,
}

/// What went into a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RunInputs {
    /// Datasets.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub dataset_inputs: Vec<DatasetInput>,
    /// Logged models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model_inputs: Vec<ModelInput>,
}

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct RunOutputs {
    /// Logged models.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub model_outputs: Vec<ModelOutput>,
}

/// A run, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What identifies it.
    pub info: RunInfo,
    /// What it logged.
    #[serde(default)]
    pub data: RunData,
    /// What went in.
    #[serde(default)]
    pub inputs: RunInputs,
    /// What came out.
    #[serde(default)]
    pub outputs: RunOutputs,
}

impl Run {
    /// The value of a tag.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        let tag = self.data.tags.iter().find(|tag| tag.key == key);
        tag.map(|tag| tag.value.as_str())
    }
}

/// `experiments/create`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct CreateExperiment {
    /// Unique name.
    pub name: Option<String>,
    /// Where artifacts go; `mlflow-artifacts:/…` only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_location: Option<String>,
    /// Tags.
    #[serde(default, deserialize_with = "lenient::list")]
    pub tags: Vec<KeyValue>,
}

/// `experiments/search`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct SearchExperiments {
    /// Items of a page.
    #[serde(default, deserialize_with = "lenient::integer")]
    pub max_results: Option<i64>,
    /// Token of the page.
    pub page_token: Option<String>,
    /// Filter expression.
    pub filter: Option<String>,
    /// `key [ASC|DESC]`.
    #[serde(default, deserialize_with = "lenient::list")]
    pub order_by: Vec<String>,
    /// `ACTIVE_ONLY` (default), `DELETED_ONLY` or `ALL`.
    #[serde(default, deserialize_with = "lenient::name_or_number")]
    pub view_type: Option<String>,
}

/// `runs/create`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct CreateRun {
    /// Experiment; the default one (`0`) when not given.
    pub experiment_id: Option<String>,
    /// Who starts it.
    pub user_id: Option<String>,
    /// Name for people; one is made up when not given.
    pub run_name: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer")]
    pub start_time: Option<i64>,
    /// Tags.
    #[serde(default, deserialize_with = "lenient::list")]
    pub tags: Vec<KeyValue>,
}

/// `runs/update`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct UpdateRun {
    /// The run.
    pub run_id: Option<String>,
    /// The run, by its old name.
    pub run_uuid: Option<String>,
    /// New state.
    #[serde(default, deserialize_with = "lenient::name_or_number")]
    pub status: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer")]
    pub end_time: Option<i64>,
    /// New name.
    pub run_name: Option<String>,
}

/// `runs/log-metric`.
#[derive(Debug, Clone, Deserialize, Default)]
pub(crate) struct LogMetric {
    pub(crate) run_id: Option<String>,
    pub(crate) run_uuid: Option<String>,
    pub(crate) key: Option<String>,
    #[serde(default, deserialize_with = "lenient::double")]
    pub(crate) value: Option<f64>,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(crate) timestamp: Option<i64>,
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub(crate) step: i64,
    pub(crate) model_id: Option<String>,
    pub(crate) dataset_name: Option<String>,
    pub(crate) dataset_digest: Option<String>,
}

/// `runs/log-batch`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct LogBatch {
    /// The run.
    pub run_id: Option<String>,
    /// Up to 1000 metrics.
    #[serde(default, deserialize_with = "lenient::list")]
    pub metrics: Vec<Metric>,
    /// Up to 100 parameters.
    #[serde(default, deserialize_with = "lenient::list")]
    pub params: Vec<KeyValue>,
    /// Up to 100 tags.
    #[serde(default, deserialize_with = "lenient::list")]
    pub tags: Vec<KeyValue>,
}

/// `runs/log-inputs`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct LogInputs {
    /// The run.
    pub run_id: Option<String>,
    /// Datasets.
    #[serde(default, deserialize_with = "lenient::list")]
    pub datasets: Vec<DatasetInput>,
    /// Logged models.
    #[serde(default, deserialize_with = "lenient::list")]
    pub models: Vec<ModelInput>,
}

/// `runs/outputs`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct LogOutputs {
    /// The run.
    pub run_id: Option<String>,
    /// Logged models.
    #[serde(default, deserialize_with = "lenient::list")]
    pub models: Vec<ModelOutput>,
}

/// `runs/search`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct SearchRuns {
    /// Experiments to look in.
    #[serde(default, deserialize_with = "lenient::list")]
    pub experiment_ids: Vec<String>,
    /// Filter expression.
    pub filter: Option<String>,
    /// `ACTIVE_ONLY` (default), `DELETED_ONLY` or `ALL`.
    #[serde(default, deserialize_with = "lenient::name_or_number")]
    pub run_view_type: Option<String>,
    /// Runs of a page: 1000 unless told, at most 50000.
    #[serde(default, deserialize_with = "lenient::integer")]
    pub max_results: Option<i64>,
    /// `metrics.auc DESC`, `params.x`, `attributes.start_time ASC`, …
    #[serde(default, deserialize_with = "lenient::list")]
    pub order_by: Vec<String>,
    /// Token of the page.
    pub page_token: Option<String>,
}

/// `metrics/get-history`.
#[derive(Debug, Clone, Deserialize, Default)]
pub(crate) struct GetMetricHistory {
    pub(crate) run_id: Option<String>,
    pub(crate) run_uuid: Option<String>,
    pub(crate) metric_key: Option<String>,
    pub(crate) page_token: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(crate) max_results: Option<i64>,
}

/// `metrics/get-history-bulk-interval`.
#[derive(Debug, Clone, Deserialize, Default)]
pub(crate) struct GetMetricHistoryBulkInterval {
    #[serde(default, deserialize_with = "lenient::list")]
    pub(crate) run_ids: Vec<String>,
    pub(crate) metric_key: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(crate) start_step: Option<i64>,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(crate) end_step: Option<i64>,
    #[serde(default, deserialize_with = "lenient::integer")]
    pub(crate) max_results: Option<i64>,
}

/// A dataset as listed by `experiments/search-datasets`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatasetSummary {
    /// Its experiment.
    pub experiment_id: String,
    /// Name.
    pub name: String,
    /// Digest.
    pub digest: String,
    /// `mlflow.data.context` of the use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
}

/// A file or folder in an artifact listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileInfo {
    /// Path, relative to what was listed.
    pub path: String,
    /// Whether it is a folder.
    #[serde(default)]
    pub is_dir: bool,
    /// Bytes, for a file.
    #[serde(
        default,
        deserialize_with = "lenient::integer",
        skip_serializing_if = "Option::is_none"
    )]
    pub file_size: Option<i64>,
}
