//! Options and the handle that everything goes through.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use crate::address::{self, DatabaseAddress, StoreAddress};
use crate::artifacts::ArtifactStore;
use crate::database::Database;
use crate::error::{Error, ErrorCode, Result};
use crate::store::registry_events::Events;

/// What the tracking service needs to know.
///
/// It may hold a password, so it is never serialised, and its `Debug` hides it.
#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    /// Where runs and the registry are: `sqlite:///path/tracking.db`, created when
    /// missing, or `postgres://user:password@host:5432/database`, whose schema is
    /// created when missing. What the URL leaves out comes from PostgreSQL's usual
    /// variables: `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGPASSFILE`,
    /// `PGSSLMODE`, `PGSSLROOTCERT`.
    pub database: String,
    /// Where artifacts are: `file:///path`, created when missing, or
    /// `s3://bucket/prefix`, whose bucket must be there. S3 takes its credentials and
    /// settings from the usual variables: `AWS_ACCESS_KEY_ID`,
    /// `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`, `AWS_REGION`, `AWS_ENDPOINT_URL`,
    /// `AWS_ALLOW_HTTP`, `AWS_VIRTUAL_HOSTED_STYLE_REQUEST`, and those of web
    /// identities and container credentials.
    pub artifacts: String,
    /// Variables such as `AWS_…` that count before those of the process.
    #[serde(skip)]
    pub environment: Vec<(String, String)>,
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
        Self::at(
            address::of_path("sqlite", &folder.join("tracking.db")),
            address::of_path("file", &folder.join("artifacts")),
        )
    }

    /// A database and an artifact store at these addresses.
    #[must_use]
    pub fn at(database: impl Into<String>, artifacts: impl Into<String>) -> Self {
        Self {
            database: database.into(),
            artifacts: artifacts.into(),
            environment: Vec::new(),
            max_artifact_bytes: default_max_artifact_bytes(),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Options")
            .field("database", &address::redacted(&self.database))
            .field("artifacts", &address::redacted(&self.artifacts))
            .field("max_artifact_bytes", &self.max_artifact_bytes)
            .finish()
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

impl fmt::Debug for Handle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Handle").finish_non_exhaustive()
    }
}

impl Handle {
    /// Opens database and artifact store, creating what is missing.
    ///
    /// # Errors
    /// When an address is not one, the database or the store cannot be reached,
    /// created or read, or a newer version wrote the database.
    pub async fn open(options: &Options) -> Result<Self> {
        let database = DatabaseAddress::parse(&options.database)?;
        let artifacts = StoreAddress::parse(&options.artifacts)?;
        tracing::info!(%database, %artifacts, "opening tracking");
        let artifacts = ArtifactStore::open(&artifacts, options).await?;
        let events = Events::default();
        let database = Database::open(&database, &events).await?;
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

    /// Writes a consistent copy of the database, as one moment left it, to a file that
    /// does not exist yet. Nothing waits for it.
    ///
    /// # Errors
    /// When the database is not SQLite, or the file cannot be written.
    pub async fn copy_database(&self, path: &Path) -> Result<()> {
        let Some(pool) = self.database().sqlite() else {
            return Err(Error::new(
                ErrorCode::InvalidState,
                "Tracking is in PostgreSQL, which has its own tools for copies (pg_dump, \
                 pg_basebackup): use them.",
            ));
        };
        sqlx::query("VACUUM INTO ?")
            .bind(path.to_string_lossy().into_owned())
            .execute(pool)
            .await?;
        Ok(())
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
