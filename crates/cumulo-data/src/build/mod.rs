//! Building a snapshot, from the request to the manifest.

mod compute;
mod error;
mod outcome;
mod progress;
mod publish;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::Schema;

use crate::check::{self, CheckError, CheckResult};
use crate::options::Options;
use crate::query::{self, ParsedQuery};
use crate::request::BuildRequest;
use crate::snapshot::manifest::{Manifest, SourceFileRecord, SourceRecord};
use crate::snapshot::version::{FORMAT_GENERATION, version};
use crate::snapshot::{MANIFEST, version_path};
use crate::source::table::{FileTable, partitioned_file};
use crate::source::{ResolvedSource, resolve};
use crate::store::{ArtifactStore, StoreError};

pub use error::BuildError;
pub use outcome::BuildOutcome;
pub use progress::Progress;

use publish::manifest_bytes;

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
        for file in &manifest.files {
            let path = format!("{}/{}", self.path(), file.name);
            if self.store.size(&path).await? != Some(file.bytes) {
                tracing::warn!(
                    version = self.version,
                    file = file.name,
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
                None => crate::fetch::fetch_files(
                    self.store,
                    &self.path(),
                    &manifest,
                    &downloads.join("snapshot"),
                )
                .await
                .map_err(|error| BuildError::Write(error.to_string()))?,
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
