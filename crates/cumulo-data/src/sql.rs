//! SQL over snapshots, for a person who asks.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::options::Options;
use crate::query::{self, Purpose, QueryError};
use crate::source::table::{FileTable, partitioned_file};

/// A table by its Parquet files.
#[derive(Clone, Debug)]
pub struct SqlTable {
    /// Its name in the query.
    pub name: String,
    /// Its files, all of one schema, in the order of their rows.
    pub files: Vec<PathBuf>,
}

/// Limits of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlLimits {
    /// The most rows that are kept; there may be more.
    pub max_rows: usize,
}

impl Default for SqlLimits {
    fn default() -> Self {
        Self { max_rows: 10_000 }
    }
}

/// An answer.
#[derive(Clone, Debug)]
pub struct QueryResult {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its rows.
    pub batches: Vec<RecordBatch>,
    /// Whether there were more rows than the limit.
    pub truncated: bool,
}

impl QueryResult {
    /// The number of rows kept.
    pub fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The query is wrong.
    #[error(transparent)]
    Query(#[from] QueryError),
    /// A table's file cannot be read.
    #[error("the table {table:?} cannot be read: {problem}")]
    Table {
        /// The table.
        table: String,
        /// What is wrong.
        problem: String,
    },
}

/// Answers one SELECT over tables of Parquet files.
pub async fn query_tables(
    tables: &[SqlTable],
    sql: &str,
    limits: SqlLimits,
    options: &Options,
) -> Result<QueryResult, SqlError> {
    let mut names: Vec<String> = tables.iter().map(|table| table.name.clone()).collect();
    names.sort();
    let parsed = query::parse(sql, &names)?;
    let context = query::session(options, options.effective_threads())?;
    for table in tables {
        let owned = table.clone();
        let opened = tokio::task::spawn_blocking(move || open(&owned))
            .await
            .map_err(|error| SqlError::Table {
                table: table.name.clone(),
                problem: error.to_string(),
            })??;
        query::register(&context, &table.name, vec![Arc::new(opened)])?;
    }
    let frame = query::plan(&context, &parsed, Purpose::Answer).await?;
    let schema: SchemaRef = Arc::new(frame.schema().as_arrow().clone());
    // One more than wanted tells whether there are more.
    let batches = frame
        .limit(0, Some(limits.max_rows.saturating_add(1)))
        .map_err(|error| query::explain(&parsed, error))?
        .collect()
        .await
        .map_err(|error| query::explain(&parsed, error))?;
    let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let mut kept = Vec::new();
    let mut left = limits.max_rows;
    for batch in batches {
        if left == 0 {
            break;
        }
        let take = batch.num_rows().min(left);
        kept.push(batch.slice(0, take));
        left -= take;
    }
    Ok(QueryResult {
        schema,
        batches: kept,
        truncated: total > limits.max_rows,
    })
}

fn open(table: &SqlTable) -> Result<FileTable, SqlError> {
    let failed = |problem: String| SqlError::Table {
        table: table.name.clone(),
        problem,
    };
    let mut schema = None;
    let mut rows = 0usize;
    let mut files = Vec::with_capacity(table.files.len());
    for path in &table.files {
        let shown = |error: &dyn std::fmt::Display| failed(format!("{}: {error}", path.display()));
        let file = std::fs::File::open(path).map_err(|error| shown(&error))?;
        let bytes = file.metadata().map_err(|error| shown(&error))?.len();
        let builder =
            ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| shown(&error))?;
        rows += usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        schema.get_or_insert_with(|| builder.schema().clone());
        files.push(partitioned_file(path, bytes).map_err(failed)?);
    }
    let schema = schema.ok_or_else(|| failed("it has no files".to_owned()))?;
    Ok(FileTable::of_parquet(&table.name, schema, files, rows))
}
