//! `Model`: what is wanted of a model — this dataset, this target, these
//! acceptance criteria — kept true by training, evaluation and promotion.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::duration;
use crate::shared::{Resources, conditions_schema};
use crate::train_job::TrainJobSpec;

/// What is wanted of a Model.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cumulo.dev",
    version = "v1alpha1",
    kind = "Model",
    plural = "models",
    category = "cumulo",
    namespaced,
    derive = "PartialEq",
    status = "ModelStatus",
    doc = "A model that is trained, evaluated against the champion on the same rows, and promoted.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Champion", type_ = "string", json_path = ".status.champion"),
    printcolumn(name = "Candidate", type_ = "string", json_path = ".status.candidate"),
    printcolumn(
        name = "Metric",
        type_ = "string",
        json_path = ".status.lastEvaluation.summary"
    ),
    printcolumn(name = "Dataset", type_ = "string", json_path = ".spec.dataset"),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#
    ),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = r#".status.conditions[?(@.type=="Ready")].message"#
    )
)]
#[serde(rename_all = "camelCase")]
pub struct ModelSpec {
    /// The Dataset to learn from.
    pub dataset: String,
    /// The column to predict.
    pub target: String,
    /// What kind of prediction.
    pub task: Task,
    /// Which columns are features. All but the target when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub features: Option<Features>,
    /// How the model is trained.
    #[serde(default)]
    pub train: Train,
    /// What a version must show before it is promoted.
    #[serde(default)]
    pub evaluate: Evaluate,
    /// Whether a version that passes becomes the champion by itself.
    #[serde(default)]
    pub promote: Promote,
    /// When a new version is trained.
    #[serde(default)]
    pub retrain: Retrain,
}

/// What kind of prediction a model makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Task {
    /// One of two or more classes, with probabilities.
    Classification,
    /// A number.
    Regression,
}

/// Which columns are features.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Features {
    /// Only these, when given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub include: Vec<String>,
    /// All but these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
}

/// How a model is trained: AutoML, or a TrainJob of the user's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Train {
    /// A budgeted search over gradient-boosted trees. The default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automl: Option<AutoMl>,
    /// A script of the user's: what it logs as a model is the candidate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<TrainJobSpec>,
    /// What the built-in trainer may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// Settings of AutoML.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AutoMl {
    /// The time the search may take. 60 s when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = duration::PATTERN))]
    pub budget: Option<String>,
    /// The most trials. With it, and a budget that is ample for it, the model does not depend on how fast the machine is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1000))]
    pub trials: Option<i64>,
    /// The metric to optimise: `auc`, `logloss`, `accuracy`, `rmse`, `mae`. Chosen by the task when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<String>,
    /// The seed of everything random. 1 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub seed: Option<i64>,
}

/// What a version must show.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evaluate {
    /// Which rows are held out of training and used for evaluation only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holdout: Option<Holdout>,
    /// Criteria by metric, such as `auc: ">= 0.75"`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, String>,
    /// What the candidate is compared with. The champion when absent.
    #[serde(default)]
    pub against: Against,
    /// Columns whose values the metrics are also reported by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slices: Vec<String>,
}

/// What a candidate is compared with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Against {
    /// The current champion, on the same held-out rows.
    #[default]
    Champion,
    /// Nothing: the criteria alone decide.
    Nothing,
}

/// Which rows are held out.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Holdout {
    /// How the rows are chosen.
    #[serde(default)]
    pub by: HoldoutBy,
    /// The time column, for `by: time`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The fraction held out. A fifth when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0.01, max = 0.9))]
    pub fraction: Option<f64>,
}

/// How held-out rows are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum HoldoutBy {
    /// By a hash of each row: the same rows on any machine, in any order.
    #[default]
    RowHash,
    /// The latest rows by a time column: honest where tomorrow is asked for.
    Time,
}

/// Whether promotion is automatic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Promote {
    /// A version that meets the criteria and beats the champion becomes the champion.
    #[default]
    Automatic,
    /// A person (or any MLflow client) moves the alias.
    Manual,
}

/// When a new version is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Retrain {
    /// When the Dataset has a new version.
    #[serde(default = "yes")]
    pub on_data: bool,
}

impl Default for Retrain {
    fn default() -> Self {
        Self { on_data: true }
    }
}

fn yes() -> bool {
    true
}

/// What is observed of a Model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelStatus {
    /// The version with the alias `champion`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub champion: Option<String>,
    /// The version with the alias `candidate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub candidate: Option<String>,
    /// The newest versions, newest last (at most twenty; the registry has all).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub versions: Vec<ModelVersion>,
    /// How the last evaluation went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_evaluation: Option<Evaluation>,
    /// The key of the training that is due or under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_key: Option<String>,
    /// The TrainJob that is under way or was last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_job: Option<String>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: there is a champion that answers the current spec and data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}

/// One trained version.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelVersion {
    /// The registry's version.
    pub version: String,
    /// The key of the training: a hash of the dataset's version and the training's settings.
    pub train_key: String,
    /// The dataset's version.
    pub dataset_version: String,
    /// The TrainJob that made it.
    pub train_job: String,
    /// Metrics on the held-out rows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// What was decided of it: `Promoted`, `Kept`, `Pending`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How an evaluation went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Evaluation {
    /// The version that was evaluated.
    pub version: String,
    /// The champion it was compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub champion: Option<String>,
    /// The candidate's metrics.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metrics: BTreeMap<String, f64>,
    /// The champion's metrics on the same rows.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub champion_metrics: BTreeMap<String, f64>,
    /// Held-out rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows: Option<i64>,
    /// One line for listings, such as `auc 0.691`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub summary: Option<String>,
    /// What was decided and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
}
