//! Building a snapshot, from the request to the manifest.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::datatypes::Schema;
use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use crate::check::{self, CheckError, CheckResult};
use crate::options::Options;
use crate::query::{self, ParsedQuery, Purpose, QueryError};
use crate::request::{BuildRequest, RequestError};
use crate::snapshot::manifest::{Manifest, SourceFileRecord, SourceRecord};
use crate::snapshot::version::{FORMAT_GENERATION, version};
use crate::snapshot::write::{self, WriteError, Written};
use crate::snapshot::{MANIFEST, dataset_path, version_path};
use crate::source::inspect::{Depth, Inspected, inspect_source};
use crate::source::table::{FileTable, partitioned_file};
use crate::source::{ResolvedSource, SourceError, resolve};
use crate::store::{ArtifactStore, StoreError};

/// What a build is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A source comes over the network.
    Downloading {
        /// The source.
        name: String,
        /// Bytes so far.
        received: u64,
        /// Bytes in all, if the server says.
        total: Option<u64>,
    },
    /// A source's files are here and hashed.
    SourceReady {
        /// The source.
        name: String,
        /// How many files.
        files: usize,
        /// Their size.
        bytes: u64,
    },
    /// The same query over the same sources was built before.
    UpToDate {
        /// The version.
        version: String,
    },
    /// The query runs.
    Querying {
        /// Rows written so far.
        rows: u64,
    },
    /// A sample of a source misled; its files are read whole and the query starts again.
    Rereading,
    /// The checks run.
    Checking {
        /// How many checks were asked for.
        checks: usize,
    },
    /// The snapshot is in the store.
    Published {
        /// The version.
        version: String,
        /// Its rows.
        rows: u64,
    },
}

impl std::fmt::Display for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Downloading {
                name,
                received,
                total: Some(total),
            } => write!(
                formatter,
                "downloading {name}: {} of {}",
                size(*received),
                size(*total)
            ),
            Self::Downloading { name, received, .. } => {
                write!(formatter, "downloading {name}: {}", size(*received))
            }
            Self::SourceReady { name, files, bytes } => {
                let s = if *files == 1 { "" } else { "s" };
                write!(
                    formatter,
                    "source {name}: {files} file{s}, {}",
                    size(*bytes)
                )
            }
            Self::UpToDate { version } => {
                write!(formatter, "version {version} is there already")
            }
            Self::Querying { rows: 0 } => formatter.write_str("querying"),
            Self::Querying { rows } => write!(formatter, "querying: {rows} rows written"),
            Self::Rereading => formatter.write_str(
                "a value beyond the sample does not fit its column's type; reading the sources whole",
            ),
            Self::Checking { checks } => {
                let s = if *checks == 1 { "" } else { "s" };
                write!(formatter, "running {checks} check{s}")
            }
            Self::Published { version, rows } => {
                write!(formatter, "published version {version}: {rows} rows")
            }
        }
    }
}

/// A size for a person.
fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} bytes"),
        10_000..=999_999 => format!("{} kB", bytes / 1000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

/// What was built, small enough for a termination message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildOutcome {
    /// The version.
    pub version: String,
    /// Its rows.
    pub rows: u64,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its number of columns.
    pub columns: usize,
    /// Where it is.
    pub uri: String,
    /// Whether it was there already.
    pub reused: bool,
    /// Name and type of the columns; of very many the first ones.
    pub schema: Vec<(String, String)>,
    /// How the checks went.
    pub checks: Vec<CheckResult>,
}

impl BuildOutcome {
    /// JSON of at most `limit` bytes: long column lists are cut, and long
    /// check lists lose their examples, then their last entries.
    pub fn to_message(&self, limit: usize) -> String {
        let mut small = self.clone();
        loop {
            let text = serde_json::to_string(&small).unwrap_or_default();
            if text.len() <= limit {
                return text;
            }
            let examples: usize = small.checks.iter().map(|check| check.examples.len()).sum();
            if examples > 0 {
                small
                    .checks
                    .iter_mut()
                    .for_each(|check| check.examples.clear());
            } else if small.schema.len() > 1 && small.schema.len() >= small.checks.len() {
                small.schema.truncate(small.schema.len() * 3 / 4);
            } else if small.checks.len() > 1 {
                small.checks.truncate(small.checks.len() * 3 / 4);
            } else {
                small.schema.clear();
                small.checks.clear();
                return serde_json::to_string(&small).unwrap_or_default();
            }
        }
    }

    fn of(manifest: &Manifest, store: &ArtifactStore, reused: bool) -> Self {
        Self {
            version: manifest.version.clone(),
            rows: manifest.rows,
            bytes: manifest.bytes,
            columns: manifest.columns.len(),
            uri: store.url_of(&version_path(
                &manifest.namespace,
                &manifest.name,
                &manifest.version,
            )),
            reused,
            schema: manifest
                .columns
                .iter()
                .map(|column| (column.name.clone(), column.data_type.clone()))
                .collect(),
            checks: manifest.check_results.clone(),
        }
    }
}

/// Why nothing was published. The message says what, where and what to do.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The request makes no sense by itself.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// A source cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The query is wrong or failed.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A check is wrong.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// The result broke its checks.
    #[error("{}; nothing was published", failures(*rows, results))]
    ChecksFailed {
        /// The version that was refused.
        version: String,
        /// Its rows.
        rows: u64,
        /// How all checks went.
        results: Vec<CheckResult>,
    },
    /// The artifact store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The result cannot be written.
    #[error("{0}")]
    Write(String),
}

fn failures(rows: u64, results: &[CheckResult]) -> String {
    let failed: Vec<String> = results
        .iter()
        .filter(|result| !result.passed)
        .map(|result| result.sentence(rows))
        .collect();
    match failed.len() {
        0..=3 => failed.join("; "),
        n => format!("{}; and {} more", failed[..3].join("; "), n - 3),
    }
}

impl BuildError {
    /// A word for a condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Request(_) => "RequestInvalid",
            Self::Source(error) => error.reason(),
            Self::Query(QueryError::Failed(_)) => "QueryFailed",
            Self::Query(QueryError::OutOfMemory(_)) => "OutOfMemory",
            Self::Query(_) => "QueryInvalid",
            Self::Check(CheckError::Failed(_)) => "CheckError",
            Self::Check(_) => "CheckInvalid",
            Self::ChecksFailed { .. } => "CheckFailed",
            Self::Store(_) | Self::Write(_) => "StoreFailed",
        }
    }

    /// How the checks went, where that is the failure.
    pub fn check_results(&self) -> Option<&[CheckResult]> {
        match self {
            Self::ChecksFailed { results, .. } => Some(results),
            _ => None,
        }
    }

    /// Whether trying again with nothing changed may help.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Source(error) => error.is_transient(),
            Self::Store(_) => true,
            _ => false,
        }
    }
}

impl From<WriteError> for BuildError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::Store(error) => Self::Store(error),
            other => Self::Write(other.to_string()),
        }
    }
}

/// Builds one dataset: finds the sources, runs the query unless the same was
/// built before, writes, checks and publishes.
pub async fn build(
    request: &BuildRequest,
    store: &ArtifactStore,
    options: &Options,
    progress: impl Fn(Progress) + Send + Sync,
) -> Result<BuildOutcome, BuildError> {
    request.validate()?;
    // A mistake in the query is told before anything is downloaded.
    let parsed = query::parse(&request.query, &table_names(request))?;
    let downloads = options
        .temporary_directory()
        .map_err(|error| StoreError::file(Path::new("the temporary folder"), error))?;
    let sources = resolve(
        &request.sources,
        store,
        options,
        downloads.path(),
        &progress,
    )
    .await?;
    let version = version(&request.query, &sources);
    tracing::info!(dataset = request.name, version, "snapshot version known");
    let job = Job {
        request,
        parsed: &parsed,
        sources: &sources,
        version: &version,
        store,
        options,
        progress: &progress,
    };
    if let Some(outcome) = job.reuse(downloads.path()).await? {
        return Ok(outcome);
    }
    job.make().await
}

/// Each source's name, also as SQL reads it without quotes.
fn table_names(request: &BuildRequest) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for source in &request.sources {
        for name in [source.name.clone(), source.name.to_lowercase()] {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

struct Job<'a> {
    request: &'a BuildRequest,
    parsed: &'a ParsedQuery,
    sources: &'a [ResolvedSource],
    version: &'a str,
    store: &'a ArtifactStore,
    options: &'a Options,
    progress: &'a (dyn Fn(Progress) + Send + Sync),
}

impl Job<'_> {
    fn path(&self) -> String {
        version_path(&self.request.namespace, &self.request.name, self.version)
    }

    fn manifest_path(&self) -> String {
        format!("{}/{MANIFEST}", self.path())
    }

    /// The version's manifest, if it is there and its files are.
    async fn existing(&self) -> Result<Option<Manifest>, BuildError> {
        let Some(bytes) = self.store.read(&self.manifest_path()).await? else {
            return Ok(None);
        };
        let manifest: Manifest = match serde_json::from_slice(&bytes) {
            Ok(manifest) => manifest,
            Err(error) => {
                tracing::warn!(version = self.version, %error, "manifest is not readable, building again");
                return Ok(None);
            }
        };
        if let Some(folder) = self.store.local_path(&self.path())? {
            let complete = manifest.files.iter().all(|file| {
                std::fs::metadata(folder.join(&file.name))
                    .is_ok_and(|metadata| metadata.len() == file.bytes)
            });
            if !complete {
                tracing::warn!(
                    version = self.version,
                    "snapshot is incomplete, building again"
                );
                return Ok(None);
            }
        }
        Ok(Some(manifest))
    }

    /// What was built before, with the checks of this request.
    async fn reuse(&self, downloads: &Path) -> Result<Option<BuildOutcome>, BuildError> {
        let Some(mut manifest) = self.existing().await? else {
            return Ok(None);
        };
        if manifest.checks != self.request.checks {
            let folder = match self.store.local_path(&self.path())? {
                Some(folder) => folder,
                None => {
                    let folder = downloads.join("snapshot");
                    std::fs::create_dir_all(&folder)
                        .map_err(|error| StoreError::file(&folder, error))?;
                    for file in &manifest.files {
                        let from = format!("{}/{}", self.path(), file.name);
                        self.store.download(&from, &folder.join(&file.name)).await?;
                    }
                    folder
                }
            };
            let schema = crate::read::snapshot_schema(&folder)
                .map_err(|error| BuildError::Write(error.to_string()))?;
            let files: Vec<(PathBuf, u64)> = manifest
                .files
                .iter()
                .map(|file| (folder.join(&file.name), file.bytes))
                .collect();
            manifest.check_results = self.check(&schema, &files, manifest.rows).await?;
            manifest.checks = self.request.checks.clone();
            self.store
                .write(&self.manifest_path(), manifest_bytes(&manifest)?.into())
                .await?;
        }
        (self.progress)(Progress::UpToDate {
            version: self.version.to_owned(),
        });
        Ok(Some(BuildOutcome::of(&manifest, self.store, true)))
    }

    /// Computes, checks and publishes.
    async fn make(&self) -> Result<BuildOutcome, BuildError> {
        let staging = self.staging()?;
        let written = self.compute(staging.path()).await?;
        let rows = written.statistics.rows();
        let files: Vec<(PathBuf, u64)> = written
            .files
            .iter()
            .map(|file| (staging.path().join(&file.name), file.bytes))
            .collect();
        let check_results = self.check(&written.schema, &files, rows).await?;
        let manifest = Manifest {
            generation: FORMAT_GENERATION,
            namespace: self.request.namespace.clone(),
            name: self.request.name.clone(),
            version: self.version.to_owned(),
            rows,
            bytes: written.files.iter().map(|file| file.bytes).sum(),
            columns: written.statistics.summaries(&written.schema),
            files: written.files,
            query: self.request.query.clone(),
            sources: self.sources.iter().map(record).collect(),
            checks: self.request.checks.clone(),
            check_results,
            created: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true),
            created_by: concat!("cumulo ", env!("CARGO_PKG_VERSION")).to_owned(),
        };
        self.publish(staging, &manifest).await?;
        (self.progress)(Progress::Published {
            version: self.version.to_owned(),
            rows,
        });
        Ok(BuildOutcome::of(&manifest, self.store, false))
    }

    /// A folder to write to: beside the dataset's versions where the store is
    /// local, so that publishing is a rename.
    fn staging(&self) -> Result<tempfile::TempDir, BuildError> {
        let dataset = dataset_path(&self.request.namespace, &self.request.name);
        let Some(folder) = self.store.local_path(&dataset)? else {
            return self.options.temporary_directory().map_err(|error| {
                StoreError::file(Path::new("the temporary folder"), error).into()
            });
        };
        std::fs::create_dir_all(&folder).map_err(|error| StoreError::file(&folder, error))?;
        remove_stale(&folder);
        tempfile::Builder::new()
            .prefix(STAGING)
            .tempdir_in(&folder)
            .map_err(|error| StoreError::file(&folder, error).into())
    }

    /// Into how many pieces scans are cut: by the sources' sizes alone, not by
    /// this machine's cores, as the pieces decide the order of some joins' rows.
    /// So a snapshot's files are the same on every machine.
    fn partitions(&self) -> usize {
        let largest = self
            .sources
            .iter()
            .map(|source| source.files.iter().map(|file| file.bytes).sum::<u64>())
            .max()
            .unwrap_or(0);
        usize::try_from(largest.div_ceil(PARTITION).clamp(1, 64)).unwrap_or(1)
    }

    async fn inspect(&self, depth: Depth) -> Result<Vec<Inspected>, SourceError> {
        futures::stream::iter(self.sources.to_vec())
            .map(|source| async move {
                let name = source.spec.name.clone();
                tokio::task::spawn_blocking(move || inspect_source(&source, depth))
                    .await
                    .unwrap_or_else(|error| {
                        Err(SourceError::Stopped {
                            source_name: name,
                            problem: error.to_string(),
                        })
                    })
            })
            .buffered(self.options.effective_threads())
            .try_collect()
            .await
    }

    /// Runs the query. Should it stumble over a source's content, the sources
    /// are read whole: either that finds what is broken, or it finds the types
    /// that a sample missed, and the query runs once more with them.
    async fn compute(&self, folder: &Path) -> Result<Written, BuildError> {
        let sampled = self.inspect(Depth::Sample).await?;
        let error = match self.run(folder, &sampled).await? {
            Ok(written) => return Ok(written),
            Err(error) => error,
        };
        if !matches!(error.find_root(), DataFusionError::ResourcesExhausted(_)) {
            let whole = self.inspect(Depth::Whole).await?;
            let differs = whole.iter().zip(&sampled).any(|(whole, sampled)| {
                whole.schema != sampled.schema || whole.newlines != sampled.newlines
            });
            if differs {
                (self.progress)(Progress::Rereading);
                tracing::info!(
                    version = self.version,
                    "a sample misled about a source's columns, querying again"
                );
                clear(folder)?;
                return match self.run(folder, &whole).await? {
                    Ok(written) => Ok(written),
                    Err(error) => Err(query::explain(self.parsed, error).into()),
                };
            }
        }
        Err(query::explain(self.parsed, error).into())
    }

    /// One run of the query; the inner error is the query's own.
    async fn run(
        &self,
        folder: &Path,
        inspected: &[Inspected],
    ) -> Result<Result<Written, DataFusionError>, BuildError> {
        let context = query::session(self.options, self.partitions())?;
        for (source, inspected) in self.sources.iter().zip(inspected) {
            let lower = source.name().to_lowercase();
            query::register(
                &context,
                source.name(),
                FileTable::of_source(source, inspected)?,
            )?;
            if lower != source.name() {
                query::register(&context, &lower, FileTable::of_source(source, inspected)?)?;
            }
        }
        let frame = query::plan(&context, self.parsed, Purpose::Snapshot).await?;
        let task = context.task_ctx();
        let plan = match frame.create_physical_plan().await {
            Ok(plan) => plan,
            Err(error) => return Ok(Err(error)),
        };
        let rows = Arc::new(AtomicU64::new(0));
        let writing = write::write(plan, task, folder, Arc::clone(&rows));
        tokio::pin!(writing);
        let mut tick = tokio::time::interval(Duration::from_millis(500));
        let outcome = loop {
            tokio::select! {
                outcome = &mut writing => break outcome,
                _ = tick.tick() => (self.progress)(Progress::Querying {
                    rows: rows.load(Ordering::Relaxed),
                }),
            }
        };
        match outcome {
            Ok(written) => Ok(Ok(written)),
            Err(WriteError::Query(error)) => Ok(Err(error)),
            Err(other) => Err(other.into()),
        }
    }

    async fn check(
        &self,
        schema: &Arc<Schema>,
        files: &[(PathBuf, u64)],
        rows: u64,
    ) -> Result<Vec<CheckResult>, BuildError> {
        if self.request.checks.is_empty() {
            return Ok(Vec::new());
        }
        (self.progress)(Progress::Checking {
            checks: self.request.checks.len(),
        });
        let context = query::session(self.options, self.options.effective_threads())?;
        let files = files
            .iter()
            .map(|(path, bytes)| partitioned_file(path, *bytes))
            .collect::<Result<Vec<_>, _>>()
            .map_err(BuildError::Write)?;
        let count = usize::try_from(rows).unwrap_or(usize::MAX);
        let table = FileTable::of_parquet("snapshot", Arc::clone(schema), files, count);
        let frame = context
            .read_table(Arc::new(table))
            .map_err(CheckError::from)?;
        let results = check::evaluate(&context, frame, &self.request.checks).await?;
        if results.iter().all(|result| result.passed) {
            Ok(results)
        } else {
            Err(BuildError::ChecksFailed {
                version: self.version.to_owned(),
                rows,
                results,
            })
        }
    }

    /// Puts the snapshot into the store, the manifest last.
    async fn publish(
        &self,
        staging: tempfile::TempDir,
        manifest: &Manifest,
    ) -> Result<(), BuildError> {
        let bytes = manifest_bytes(manifest)?;
        let Some(target) = self.store.local_path(&self.path())? else {
            for file in &manifest.files {
                let to = format!("{}/{}", self.path(), file.name);
                self.store
                    .upload(&staging.path().join(&file.name), &to)
                    .await?;
            }
            self.store
                .write(&self.manifest_path(), bytes.into())
                .await?;
            return Ok(());
        };
        let path = staging.path().join(MANIFEST);
        write_synced(&path, &bytes).map_err(|error| StoreError::file(&path, error))?;
        match std::fs::rename(staging.path(), &target) {
            Ok(()) => {}
            Err(_) if target.exists() => {
                // Somebody else made the same version meanwhile, or left half of
                // one: either way what is here now is complete and the same.
                if self.existing().await?.is_some() {
                    return Ok(());
                }
                std::fs::remove_dir_all(&target)
                    .and_then(|()| std::fs::rename(staging.path(), &target))
                    .map_err(|error| StoreError::file(&target, error))?;
            }
            Err(error) => return Err(StoreError::file(&target, error).into()),
        }
        // Moved away: there is nothing left to remove.
        let _ = staging.keep();
        set_readable(&target);
        Ok(())
    }
}

/// Bytes of a source that one task reads.
const PARTITION: u64 = 8 << 20;

const STAGING: &str = ".building-";

/// A temporary folder is for its owner alone; a snapshot is for all that may see the store.
fn set_readable(folder: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755));
}

fn write_synced(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::io::Write;
    let mut file = std::fs::File::create(path)?;
    file.write_all(bytes)?;
    file.sync_data()
}

fn manifest_bytes(manifest: &Manifest) -> Result<Vec<u8>, BuildError> {
    serde_json::to_vec_pretty(manifest)
        .map_err(|error| BuildError::Write(format!("the manifest cannot be written: {error}")))
}

/// Removes what builds that were killed left behind, a day later.
fn remove_stale(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten() {
        let stale = entry.file_name().to_string_lossy().starts_with(STAGING)
            && entry
                .metadata()
                .and_then(|metadata| metadata.modified())
                .ok()
                .and_then(|time| time.elapsed().ok())
                .is_some_and(|age| age > Duration::from_secs(86_400));
        if stale {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// Empties a staging folder.
fn clear(folder: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::file(folder, error);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        std::fs::remove_file(entry.map_err(io)?.path()).map_err(io)?;
    }
    Ok(())
}

fn record(source: &ResolvedSource) -> SourceRecord {
    SourceRecord {
        name: source.spec.name.clone(),
        format: source.format,
        files: source
            .files
            .iter()
            .map(|file| SourceFileRecord {
                uri: without_secrets(&file.label),
                sha256: file.sha256.clone(),
                bytes: file.bytes,
            })
            .collect(),
    }
}

/// A URL without user, password and query; anything else as it is.
fn without_secrets(label: &str) -> String {
    match url::Url::parse(label) {
        Ok(mut url) if matches!(url.scheme(), "http" | "https") => {
            let _ = url.set_username("");
            let _ = url.set_password(None);
            url.set_query(None);
            url.to_string()
        }
        _ => label.to_owned(),
    }
}
