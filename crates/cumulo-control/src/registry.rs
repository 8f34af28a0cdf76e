//! What the controllers need of the model registry and of tracking; filled by
//! the wiring, so that this crate knows no tracking protocol.

use std::collections::BTreeMap;

use async_trait::async_trait;
use futures::stream::BoxStream;

/// The tag of a registered model version that holds the key of its training.
pub const TRAIN_KEY_TAG: &str = "cumulo.trainKey";
/// The alias of the version that is served.
pub const CHAMPION: &str = "champion";
/// The alias of the version that is being evaluated or was last.
pub const CANDIDATE: &str = "candidate";

/// One version of a registered model.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RegisteredVersion {
    /// The version, a number as text.
    pub version: String,
    /// Where its files are.
    pub source: String,
    /// Its tags.
    pub tags: BTreeMap<String, String>,
}

/// A tracked run, as far as a TrainJob's status shows it.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct RunSummary {
    /// The run's id.
    pub id: String,
    /// The last value of each metric.
    pub metrics: BTreeMap<String, f64>,
}

/// The registry could not answer.
#[derive(Debug, thiserror::Error)]
#[error("the model registry did not answer: {0}")]
pub struct RegistryError(pub String);

/// Access to the model registry.
#[async_trait]
pub trait ModelRegistry: Send + Sync + 'static {
    /// The version that an alias of a model points to; `None` when the model or
    /// the alias does not exist.
    async fn by_alias(
        &self,
        model: &str,
        alias: &str,
    ) -> Result<Option<RegisteredVersion>, RegistryError>;

    /// One version; `None` when it does not exist.
    async fn by_version(
        &self,
        model: &str,
        version: &str,
    ) -> Result<Option<RegisteredVersion>, RegistryError>;

    /// All versions of a model, oldest first; empty when there is no such model.
    async fn versions(&self, model: &str) -> Result<Vec<RegisteredVersion>, RegistryError>;

    /// Points an alias to a version. Idempotent.
    async fn set_alias(&self, model: &str, alias: &str, version: &str)
    -> Result<(), RegistryError>;

    /// The run that belongs to a TrainJob (tag `cumulo.trainJob` = the job's UID).
    async fn run_of_job(&self, job_uid: &str) -> Result<Option<RunSummary>, RegistryError>;

    /// Names of models whose versions or aliases changed. An empty name means
    /// that changes were missed and everything should be looked at.
    fn changes(&self) -> BoxStream<'static, String>;
}
