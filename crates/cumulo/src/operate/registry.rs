//! What the controllers need of the registry, asked of a tracking server.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use cumulo_control::{ModelRegistry, RegisteredVersion, RegistryError, RunSummary};
use cumulo_track::client::{Client, Error, Options};
use cumulo_track::{SearchRuns, TRAIN_JOB_TAG};
use futures::stream::{BoxStream, StreamExt, unfold};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::credential::Credential;
use super::follow::{follow, http};
use super::registry_changes::{Change, PATH};
use super::trust::Trust;
use crate::platform::registered;

/// How long one question is tried: the controllers try again themselves.
const PATIENCE: Duration = Duration::from_secs(10);
/// Wait before the stream of changes is opened again.
const AGAIN: Duration = Duration::from_secs(2);
/// Changes that a slow listener may be behind.
const BEHIND: usize = 1024;
/// Experiments that one search for a run may name.
const EXPERIMENTS: usize = 1000;

/// The registry behind a tracking server.
pub struct RemoteRegistry {
    address: String,
    credential: Credential,
    trust: Trust,
    /// The client, and the token that it was made with.
    client: Mutex<(Option<String>, Client)>,
    changes: broadcast::Sender<String>,
}

impl RemoteRegistry {
    /// The registry at this address.
    ///
    /// # Errors
    /// When the address is not a URL.
    pub fn new(address: &str, credential: Credential, trust: Trust) -> Result<Arc<Self>> {
        let token = credential.token();
        let client = connect(address, token.clone(), &trust)
            .with_context(|| format!("--tracking-uri {address:?} cannot be used"))?;
        Ok(Arc::new(Self {
            address: address.trim_end_matches('/').to_owned(),
            credential,
            trust,
            client: Mutex::new((token, client)),
            changes: broadcast::channel(BEHIND).0,
        }))
    }

    /// The client; made anew when the token was replaced.
    fn client(&self) -> Result<Client, RegistryError> {
        let token = self.credential.token();
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if client.0 != token {
            let fresh = connect(&self.address, token.clone(), &self.trust).map_err(failed)?;
            *client = (token, fresh);
        }
        Ok(client.1.clone())
    }

    /// Follows the changes until `shutdown`.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let work = async {
            let http = match http(&self.trust) {
                Ok(http) => http,
                Err(error) => {
                    tracing::error!(%error, "changes of the registry cannot be followed");
                    return;
                }
            };
            let url = format!("{}{PATH}", self.address);
            let mut told = String::new();
            loop {
                let why = follow(&http, &url, &self.credential, |line| {
                    let model = match line {
                        // What changed before is unknown.
                        None => String::new(),
                        Some(line) => serde_json::from_slice::<Change>(line)
                            .map(|change| change.model)
                            .unwrap_or_default(),
                    };
                    // Nobody listens while another replica leads.
                    let _ = self.changes.send(model);
                })
                .await;
                if told != why {
                    tracing::warn!(
                        why,
                        "following the registry's changes broke off, trying again"
                    );
                    told = why;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    }
}

fn connect(address: &str, token: Option<String>, trust: &Trust) -> Result<Client, Error> {
    Client::new(Options {
        address: address.to_owned(),
        token,
        patience: PATIENCE,
        insecure_tls: false,
        authorities: trust.text().map(str::to_owned),
    })
}

fn failed(error: Error) -> RegistryError {
    RegistryError(error.to_string())
}

#[async_trait::async_trait]
impl ModelRegistry for RemoteRegistry {
    async fn by_alias(
        &self,
        model: &str,
        alias: &str,
    ) -> Result<Option<RegisteredVersion>, RegistryError> {
        let found = self.client()?.get_alias(model, alias).await;
        Ok(found.map_err(failed)?.map(registered))
    }

    async fn by_version(
        &self,
        model: &str,
        version: &str,
    ) -> Result<Option<RegisteredVersion>, RegistryError> {
        if version == "latest" {
            return Ok(self.versions(model).await?.pop());
        }
        match self.client()?.get_model_version(model, version).await {
            Ok(found) => Ok(Some(registered(found))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    async fn versions(&self, model: &str) -> Result<Vec<RegisteredVersion>, RegistryError> {
        let found = self.client()?.model_versions(model).await;
        Ok(found.map_err(failed)?.into_iter().map(registered).collect())
    }

    async fn set_alias(
        &self,
        model: &str,
        alias: &str,
        version: &str,
    ) -> Result<(), RegistryError> {
        let set = self.client()?.set_alias(model, alias, version).await;
        set.map_err(failed)
    }

    async fn run_of_job(&self, job_uid: &str) -> Result<Option<RunSummary>, RegistryError> {
        let client = self.client()?;
        let experiments = client.experiments().await.map_err(failed)?;
        let ids: Vec<String> = experiments
            .into_iter()
            .map(|experiment| experiment.experiment_id)
            .collect();
        for some in ids.chunks(EXPERIMENTS) {
            let request = SearchRuns {
                experiment_ids: some.to_vec(),
                filter: Some(format!("tags.`{TRAIN_JOB_TAG}` = '{job_uid}'")),
                max_results: Some(1),
                ..SearchRuns::default()
            };
            let runs = client.search_runs(&request).await.map_err(failed)?;
            if let Some(run) = runs.into_iter().next() {
                let metrics: BTreeMap<String, f64> = run
                    .data
                    .metrics
                    .into_iter()
                    .map(|metric| (metric.key, metric.value))
                    .collect();
                return Ok(Some(RunSummary {
                    id: run.info.run_id,
                    metrics,
                }));
            }
        }
        Ok(None)
    }

    fn changes(&self) -> BoxStream<'static, String> {
        unfold(self.changes.subscribe(), |mut changes| async move {
            match changes.recv().await {
                Ok(name) => Some((name, changes)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((String::new(), changes)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}
