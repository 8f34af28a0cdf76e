//! Registered models, their versions and aliases.

use serde::{Deserialize, Serialize};

use super::KeyValue;
use super::lenient;

/// An alias of a registered model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alias {
    /// Its name, such as `champion`.
    pub alias: String,
    /// The version that it names.
    pub version: String,
}

/// One version of a registered model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelVersion {
    /// Registered model.
    pub name: String,
    /// Version, a decimal number as a string.
    pub version: String,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub creation_timestamp: i64,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub last_updated_timestamp: i64,
    /// `None`, `Staging`, `Production` or `Archived`.
    #[serde(default)]
    pub current_stage: String,
    /// Text for people.
    #[serde(default)]
    pub description: String,
    /// Where it came from, as given.
    #[serde(default)]
    pub source: String,
    /// Run that made it; empty if none.
    #[serde(default)]
    pub run_id: String,
    /// `READY`.
    #[serde(default)]
    pub status: String,
    /// More on the status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_message: Option<String>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<KeyValue>,
    /// Link to the run; empty if none.
    #[serde(default)]
    pub run_link: String,
    /// Aliases that name it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<String>,
    /// Logged model that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
}

impl ModelVersion {
    /// The value of a tag.
    #[must_use]
    pub fn tag(&self, key: &str) -> Option<&str> {
        let tag = self.tags.iter().find(|tag| tag.key == key);
        tag.map(|tag| tag.value.as_str())
    }
}

/// A registered model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegisteredModel {
    /// Unique name.
    pub name: String,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub creation_timestamp: i64,
    /// Milliseconds since the Unix epoch.
    #[serde(default, deserialize_with = "lenient::integer_or_zero")]
    pub last_updated_timestamp: i64,
    /// Text for people.
    #[serde(default)]
    pub description: String,
    /// The newest version of each stage.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub latest_versions: Vec<ModelVersion>,
    /// Tags.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<KeyValue>,
    /// Aliases.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub aliases: Vec<Alias>,
}

/// `registered-models/create`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct CreateRegisteredModel {
    /// Unique name.
    pub name: Option<String>,
    /// Tags.
    #[serde(default, deserialize_with = "lenient::list")]
    pub tags: Vec<KeyValue>,
    /// Text for people.
    pub description: Option<String>,
}

/// `model-versions/create`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct CreateModelVersion {
    /// Registered model.
    pub name: Option<String>,
    /// `mlflow-artifacts:/…`, `runs:/…`, `models:/…` or `cumulo:…`.
    pub source: Option<String>,
    /// Run that made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_id: Option<String>,
    /// Tags.
    #[serde(default, deserialize_with = "lenient::list")]
    pub tags: Vec<KeyValue>,
    /// Link to the run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_link: Option<String>,
    /// Text for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Logged model that it is made from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model_id: Option<String>,
}

/// `registered-models/search` and `model-versions/search`.
#[derive(Debug, Clone, Serialize, Deserialize, Default)]
pub struct SearchRegistry {
    /// Filter expression.
    pub filter: Option<String>,
    /// Items of a page.
    #[serde(default, deserialize_with = "lenient::integer")]
    pub max_results: Option<i64>,
    /// `key [ASC|DESC]`.
    #[serde(default, deserialize_with = "lenient::list")]
    pub order_by: Vec<String>,
    /// Token of the page.
    pub page_token: Option<String>,
}

/// The many requests that name a model, a version, a tag or an alias.
#[derive(Debug, Clone, Deserialize, Default)]
pub(crate) struct RegistryRequest {
    pub(crate) name: Option<String>,
    #[serde(default, deserialize_with = "lenient::name_or_number")]
    pub(crate) version: Option<String>,
    pub(crate) new_name: Option<String>,
    pub(crate) description: Option<String>,
    pub(crate) key: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) alias: Option<String>,
    pub(crate) stage: Option<String>,
    #[serde(default, deserialize_with = "lenient::list")]
    pub(crate) stages: Vec<String>,
    #[serde(default, deserialize_with = "lenient::boolean")]
    pub(crate) archive_existing_versions: Option<bool>,
}
