//! Writes a query's result as Parquet, gathering statistics on the way.
//!
//! Every partition of the plan becomes a file of its own, so that encoding runs
//! on all cores and the rows keep the order of the partitions. Within a
//! partition one task computes while another encodes.

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use futures::StreamExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::manifest::DataFile;
use super::statistics::TableStatistics;
use crate::store::StoreError;

/// Batches that may wait between computing and encoding.
const QUEUE: usize = 4;
/// Rows of a row group: few enough to stay in memory while it is encoded.
const ROW_GROUP: usize = 1 << 18;

/// What was written.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) schema: SchemaRef,
    pub(crate) files: Vec<DataFile>,
    pub(crate) statistics: TableStatistics,
}

/// Why nothing was.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    #[error("{0}")]
    Query(DataFusionError),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("the result cannot be written as Parquet: {0}")]
    Encode(String),
    #[error("writing was stopped: {0}")]
    Stopped(String),
}

/// Runs a plan and writes its result below `folder` as `part-N.parquet`.
/// `rows` counts up while it goes.
pub(crate) async fn write(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    folder: &Path,
    rows: Arc<AtomicU64>,
) -> Result<Written, WriteError> {
    let schema = plain_schema(&plan.schema());
    let partitions = plan.output_partitioning().partition_count();
    let mut tasks = JoinSet::new();
    for partition in 0..partitions {
        let plan = Arc::clone(&plan);
        let context = Arc::clone(&context);
        let schema = Arc::clone(&schema);
        let rows = Arc::clone(&rows);
        let path = folder.join(format!("part-{partition}.parquet.partial"));
        tasks.spawn(async move {
            let (sender, receiver) = mpsc::channel(QUEUE);
            let encoder =
                tokio::task::spawn_blocking(move || encode(receiver, &schema, &path, &rows));
            let computed = compute(plan, context, partition, sender).await;
            // The encoder's own error is the cause when it hung up first.
            let encoded = encoder
                .await
                .map_err(|error| WriteError::Stopped(error.to_string()))?;
            match (computed, encoded) {
                (_, Err(error)) => Err(error),
                (Err(error), _) => Err(WriteError::Query(error)),
                (Ok(()), Ok(part)) => Ok((partition, part)),
            }
        });
    }
    let mut parts = Vec::with_capacity(partitions);
    while let Some(joined) = tasks.join_next().await {
        // An error ends the others: dropping the set aborts them.
        let (partition, part) =
            joined.map_err(|error| WriteError::Stopped(error.to_string()))??;
        parts.push((partition, part));
    }
    parts.sort_by_key(|(partition, _)| *partition);
    finish(folder, schema, parts.into_iter().map(|(_, part)| part))
}

async fn compute(
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    partition: usize,
    sender: mpsc::Sender<RecordBatch>,
) -> Result<(), DataFusionError> {
    let mut stream = plan.execute(partition, context)?;
    while let Some(batch) = stream.next().await {
        if sender.send(batch?).await.is_err() {
            break;
        }
    }
    Ok(())
}

struct Part {
    path: PathBuf,
    rows: u64,
    bytes: u64,
    statistics: TableStatistics,
}

fn encode(
    mut batches: mpsc::Receiver<RecordBatch>,
    schema: &SchemaRef,
    path: &Path,
    rows: &AtomicU64,
) -> Result<Part, WriteError> {
    let mut statistics = TableStatistics::new(schema);
    let file = File::create(path).map_err(|error| StoreError::file(path, error))?;
    let mut writer = ArrowWriter::try_new(
        BufWriter::with_capacity(1 << 20, file),
        Arc::clone(schema),
        Some(properties()),
    )
    .map_err(|error| parquet_error(path, error))?;
    while let Some(batch) = batches.blocking_recv() {
        let batch = plain_batch(&batch, schema).map_err(encode_error)?;
        statistics.add(&batch).map_err(encode_error)?;
        writer
            .write(&batch)
            .map_err(|error| parquet_error(path, error))?;
        rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
    }
    let output = writer
        .into_inner()
        .map_err(|error| parquet_error(path, error))?;
    let file = output
        .into_inner()
        .map_err(|error| StoreError::file(path, error.into_error()))?;
    let io = |error| StoreError::file(path, error);
    file.sync_data().map_err(io)?;
    let bytes = file.metadata().map_err(io)?.len();
    Ok(Part {
        path: path.to_owned(),
        rows: statistics.rows(),
        bytes,
        statistics,
    })
}

fn properties() -> WriterProperties {
    WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .set_created_by(concat!("cumulo ", env!("CARGO_PKG_VERSION")).to_owned())
        .build()
}

fn encode_error(error: ArrowError) -> WriteError {
    WriteError::Encode(error.to_string())
}

fn parquet_error(path: &Path, error: ParquetError) -> WriteError {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(io) => StoreError::file(path, *io).into(),
            Err(other) => WriteError::Encode(other.to_string()),
        },
        other => WriteError::Encode(other.to_string()),
    }
}

/// Gives the files their names, leaving out empty ones (but for the last one left).
fn finish(
    folder: &Path,
    schema: SchemaRef,
    parts: impl Iterator<Item = Part>,
) -> Result<Written, WriteError> {
    let mut statistics = TableStatistics::new(&schema);
    let mut files = Vec::new();
    let mut empty = Vec::new();
    let mut keep = |path: &Path, rows, bytes| -> Result<(), StoreError> {
        let name = format!("part-{}.parquet", files.len());
        std::fs::rename(path, folder.join(&name)).map_err(|error| StoreError::file(path, error))?;
        files.push(DataFile { name, rows, bytes });
        Ok(())
    };
    let mut any = false;
    for part in parts {
        statistics.merge(part.statistics);
        if part.rows == 0 {
            empty.push((part.path, part.bytes));
        } else {
            any = true;
            keep(&part.path, part.rows, part.bytes)?;
        }
    }
    let mut empty = empty.into_iter();
    if !any && let Some((path, bytes)) = empty.next() {
        keep(&path, 0, bytes)?;
    }
    for (path, _) in empty {
        std::fs::remove_file(&path).map_err(|error| StoreError::file(&path, error))?;
    }
    Ok(Written {
        schema,
        files,
        statistics,
    })
}

/// The schema that readers get: one type for all texts, no metadata, every
/// column nullable, so that no reader needs to know how a query made it.
fn plain_schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema
            .fields()
            .iter()
            .map(|field| Field::new(field.name(), plain_type(field.data_type()), true))
            .collect::<Vec<_>>(),
    ))
}

fn plain_type(data_type: &DataType) -> DataType {
    match data_type {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, values) => plain_type(values),
        other => other.clone(),
    }
}

fn plain_batch(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(array, field)| {
            if array.data_type() == field.data_type() {
                Ok(Arc::clone(array))
            } else {
                cast(array, field.data_type())
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
}
