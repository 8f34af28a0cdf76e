//! What the controllers need of the registry, answered by tracking in this process.

use std::collections::BTreeMap;

use cumulo_control::{ModelRegistry, RegisteredVersion, RegistryError, RunSummary};
use cumulo_track::{
    Handle, ModelVersion, RegistryChange, SearchExperiments, SearchRuns, TRAIN_JOB_TAG,
};
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};

/// The registry behind a tracking handle.
pub struct TrackRegistry {
    tracking: Handle,
}

impl TrackRegistry {
    /// Wraps the handle.
    pub fn new(tracking: Handle) -> Self {
        Self { tracking }
    }
}

fn failed(error: cumulo_track::Error) -> RegistryError {
    RegistryError(error.to_string())
}

/// What is not there is `None`, everything else an error.
fn optional<T>(result: cumulo_track::Result<T>) -> Result<Option<T>, RegistryError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// A version as the controllers see it.
pub fn registered(version: ModelVersion) -> RegisteredVersion {
    RegisteredVersion {
        version: version.version,
        source: version.source,
        tags: version
            .tags
            .into_iter()
            .map(|tag| (tag.key, tag.value))
            .collect::<BTreeMap<_, _>>(),
    }
}

#[async_trait::async_trait]
impl ModelRegistry for TrackRegistry {
    async fn by_alias(
        &self,
        model: &str,
        alias: &str,
    ) -> Result<Option<RegisteredVersion>, RegistryError> {
        let found = optional(self.tracking.get_alias(model, alias).await)?;
        Ok(found.flatten().map(registered))
    }

    async fn by_version(
        &self,
        model: &str,
        version: &str,
    ) -> Result<Option<RegisteredVersion>, RegistryError> {
        let found = if version == "latest" {
            self.tracking.latest_version(model).await
        } else {
            self.tracking.get_model_version(model, version).await
        };
        Ok(optional(found)?.map(registered))
    }

    async fn versions(&self, model: &str) -> Result<Vec<RegisteredVersion>, RegistryError> {
        let versions = optional(self.tracking.list_model_versions(model).await)?;
        Ok(versions
            .unwrap_or_default()
            .into_iter()
            .map(registered)
            .collect())
    }

    async fn set_alias(
        &self,
        model: &str,
        alias: &str,
        version: &str,
    ) -> Result<(), RegistryError> {
        self.tracking
            .set_alias(model, alias, version)
            .await
            .map_err(failed)
    }

    async fn run_of_job(&self, job_uid: &str) -> Result<Option<RunSummary>, RegistryError> {
        let experiments = self
            .tracking
            .search_experiments(SearchExperiments {
                max_results: Some(50_000),
                ..SearchExperiments::default()
            })
            .await
            .map_err(failed)?;
        let runs = self
            .tracking
            .search_runs(SearchRuns {
                experiment_ids: experiments
                    .items
                    .into_iter()
                    .map(|experiment| experiment.experiment_id)
                    .collect(),
                filter: Some(format!("tags.`{TRAIN_JOB_TAG}` = '{job_uid}'")),
                max_results: Some(1),
                ..SearchRuns::default()
            })
            .await
            .map_err(failed)?;
        Ok(runs.items.into_iter().next().map(|run| RunSummary {
            id: run.info.run_id,
            metrics: run
                .data
                .metrics
                .into_iter()
                .map(|metric| (metric.key, metric.value))
                .collect(),
        }))
    }

    fn changes(&self) -> BoxStream<'static, String> {
        unfold(self.tracking.subscribe(), |mut changes| async move {
            let name = match changes.next().await? {
                RegistryChange::Model { name } => name,
                // The controllers take the empty name for "look at everything".
                _ => String::new(),
            };
            Some((name, changes))
        })
        .boxed()
    }
}
