//! Running the query over the sources.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use datafusion::error::DataFusionError;
use futures::{StreamExt, TryStreamExt};

use super::{BuildError, Job, Progress};
use crate::query::{self, Purpose};
use crate::snapshot::write::{self, WriteError, Written};
use crate::source::SourceError;
use crate::source::inspect::{Depth, Inspected, inspect_source};
use crate::source::table::FileTable;
use crate::store::StoreError;

/// Bytes of a source that one task reads.
const PARTITION: u64 = 8 << 20;

impl Job<'_> {
    /// Runs the query. Should it stumble over a source's content, the sources
    /// are read whole: either that finds what is broken, or it finds the types
    /// that a sample missed, and the query runs once more with them.
    pub(super) async fn compute(&self, folder: &Path) -> Result<Written, BuildError> {
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
}

/// Empties a staging folder.
fn clear(folder: &Path) -> Result<(), StoreError> {
    let io = |error| StoreError::file(folder, error);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        std::fs::remove_file(entry.map_err(io)?.path()).map_err(io)?;
    }
    Ok(())
}
