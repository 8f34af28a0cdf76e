//! Options and the handle that everything goes through.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::artifacts::ArtifactStore;
use crate::database::Database;
use crate::error::{Error, Result};
use crate::store::registry_events::Events;

/// What the tracking service needs to know.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    /// The SQLite file; created when missing.
    pub database: PathBuf,
    /// The folder of artifacts; created when missing.
    pub artifacts: PathBuf,
    /// Bytes of one uploaded file at most.
    #[serde(default = "default_max_artifact_bytes")]
    pub max_artifact_bytes: u64,
}

fn default_max_artifact_bytes() -> u64 {
    20 * 1024 * 1024 * 1024
}

impl Options {
    /// The usual layout below a folder: `tracking.db` and `artifacts/`.
    #[must_use]
    pub fn below(folder: impl Into<PathBuf>) -> Self {
        let folder = folder.into();
        Self {
            database: folder.join("tracking.db"),
            artifacts: folder.join("artifacts"),
            max_artifact_bytes: default_max_artifact_bytes(),
        }
    }
}

pub(crate) struct Inner {
    pub(crate) database: Database,
    pub(crate) artifacts: ArtifactStore,
    pub(crate) events: Events,
}

/// A cloneable way to tracking, registry and artifacts, within the process.
///
/// Methods mirror MLflow's operations; [`Handle::router`] serves them over HTTP.
#[derive(Clone)]
pub struct Handle {
    pub(crate) inner: Arc<Inner>,
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Opens database and artifact folder, creating what is missing.
    ///
    /// # Errors
    /// When the file or the folder cannot be created or read, or a newer version
    /// wrote the database.
    pub async fn open(options: &Options) -> Result<Self> {
        if let Some(folder) = options.database.parent() {
            tokio::fs::create_dir_all(folder).await.map_err(|error| {
                Error::internal(format!("Cannot create {}: {error}.", folder.display()))
            })?;
        }
        let artifacts = ArtifactStore::open(&options.artifacts, options.max_artifact_bytes).await?;
        let database = Database::open(&options.database).await?;
        let events = Events::default();
        tracing::info!(
            database = %options.database.display(),
            artifacts = %options.artifacts.display(),
            "tracking opened"
        );
        Ok(Self {
            inner: Arc::new(Inner {
                database,
                artifacts,
                events,
            }),
        })
    }

    /// Housekeeping until shutdown: removes uploads that were given up a day ago.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut every = tokio::time::interval(Duration::from_secs(3600));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = every.tick() => {
                    let store = self.inner.artifacts.clone();
                    if let Err(error) = store.remove_stale_uploads(Duration::from_secs(86_400)).await {
                        tracing::warn!(%error, "removing stale uploads failed");
                    }
                }
            }
        }
    }

    /// The artifact store, for reading and writing within the process.
    #[must_use]
    pub fn artifacts(&self) -> &ArtifactStore {
        &self.inner.artifacts
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.database
    }
}

/// Milliseconds since the Unix epoch.
pub(crate) fn now() -> i64 {
    chrono::Utc::now().timestamp_millis()
}
