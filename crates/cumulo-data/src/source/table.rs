//! A source as a DataFusion table.
//!
//! Not DataFusion's own listing table: files are read in the order in which they
//! were given (so that a snapshot's rows come in the same order on every
//! machine), estimated row counts of text files let the planner
//! put the small side of a join into the hash table, and files need no
//! particular extension.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::stats::Precision;
use datafusion::common::{DataFusionError, Statistics};
use datafusion::config::{JsonOptions, TableParquetOptions};
use datafusion::datasource::TableType;
use datafusion::datasource::file_format::FileFormat;
use datafusion::datasource::file_format::arrow::ArrowFormat;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::datasource::file_format::json::JsonFormat;
use datafusion::datasource::file_format::parquet::ParquetFormat;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, FileSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::datasource::table_schema::TableSchema;
use datafusion::execution::object_store::ObjectStoreUrl;
use datafusion::logical_expr::Expr;
use datafusion::physical_plan::ExecutionPlan;
use object_store::path::Path as ObjectPath;

use super::ResolvedSource;
use super::csv_scan::{CsvReading, CsvScan, LocalPath};
use super::error::SourceError;
use super::inspect::Inspected;
use super::sniff::Compression;
use crate::request::FileFormatName;

/// What reads a table's files.
enum Reader {
    Csv(CsvReading),
    Format(Arc<dyn FileFormat>),
}

/// Files of one format and schema as a table.
pub struct FileTable {
    name: String,
    schema: SchemaRef,
    reader: Reader,
    files: Vec<PartitionedFile>,
    rows: Precision<usize>,
    /// Whether one file can be read by several threads.
    splittable: bool,
}

impl fmt::Debug for FileTable {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("FileTable")
            .field("name", &self.name)
            .field("files", &self.files.len())
            .finish_non_exhaustive()
    }
}

impl FileTable {
    /// The tables of a source; one per kind of compression among its files,
    /// as a scan decompresses in one way.
    pub fn of_source(
        source: &ResolvedSource,
        inspected: &Inspected,
    ) -> Result<Vec<Arc<dyn TableProvider>>, SourceError> {
        let mut tables: Vec<Arc<dyn TableProvider>> = Vec::new();
        let mut start = 0;
        while start < source.files.len() {
            let compression = source.files[start].compression;
            let run = source.files[start..]
                .iter()
                .take_while(|file| file.compression == compression)
                .count();
            let files: Vec<_> = source.files[start..start + run]
                .iter()
                .map(|file| {
                    partitioned_file(&file.path, file.bytes).map_err(|problem| {
                        SourceError::Malformed {
                            source_name: source.spec.name.clone(),
                            file: file.label.clone(),
                            line: None,
                            problem,
                        }
                    })
                })
                .collect::<Result<_, _>>()?;
            let rows = usize::try_from(inspected.rows).unwrap_or(usize::MAX);
            let alone = run == source.files.len();
            tables.push(Arc::new(Self {
                name: source.spec.name.clone(),
                schema: Arc::clone(&inspected.schema),
                reader: reader(source, inspected, compression),
                files,
                rows: if inspected.exact && alone {
                    Precision::Exact(rows)
                } else {
                    Precision::Inexact(share(rows, run, source.files.len()))
                },
                splittable: splittable(source.format, inspected, compression),
            }));
            start += run;
        }
        Ok(tables)
    }

    /// A table over Parquet files that are known to share a schema.
    pub(crate) fn of_parquet(
        name: &str,
        schema: SchemaRef,
        files: Vec<PartitionedFile>,
        rows: usize,
    ) -> Self {
        Self {
            name: name.to_owned(),
            schema,
            reader: Reader::Format(Arc::new(parquet_format())),
            files,
            rows: Precision::Exact(rows),
            splittable: true,
        }
    }
}

/// The rows that fall to `run` of `all` files.
fn share(rows: usize, run: usize, all: usize) -> usize {
    (rows as u128 * run as u128 / all.max(1) as u128) as usize
}

/// A local file as DataFusion names it.
pub(crate) fn partitioned_file(
    path: &std::path::Path,
    bytes: u64,
) -> Result<PartitionedFile, String> {
    let location = ObjectPath::from_absolute_path(path)
        .map_err(|error| format!("the path cannot be used: {error}"))?;
    Ok(PartitionedFile::new_from_meta(object_store::ObjectMeta {
        location,
        last_modified: chrono::DateTime::UNIX_EPOCH,
        size: bytes,
        e_tag: None,
        version: None,
    })
    .with_extension(LocalPath(path.to_owned())))
}

fn splittable(format: FileFormatName, inspected: &Inspected, compression: Compression) -> bool {
    compression == Compression::None && !(format == FileFormatName::Csv && inspected.newlines)
}

fn parquet_format() -> ParquetFormat {
    let mut options = TableParquetOptions::default();
    options.global.schema_force_view_types = false;
    options.global.pushdown_filters = true;
    options.global.reorder_filters = true;
    ParquetFormat::default().with_options(options)
}

/// A regular expression that matches the null texts and nothing else.
pub(crate) fn null_regex(values: &[String]) -> String {
    let escaped: Vec<String> = values
        .iter()
        .map(|value| {
            let mut text = String::new();
            for c in value.chars() {
                if c.is_ascii_punctuation() {
                    text.push('\\');
                }
                text.push(c);
            }
            text
        })
        .collect();
    format!("^(?:{})$", escaped.join("|"))
}

fn reader(source: &ResolvedSource, inspected: &Inspected, compression: Compression) -> Reader {
    Reader::Format(match source.format {
        FileFormatName::Csv => {
            return Reader::Csv(CsvReading {
                delimiter: source.delimiter,
                header: source.has_header(),
                null_values: source.spec.options.effective_null_values(),
                newlines: inspected.newlines,
                compression,
            });
        }
        FileFormatName::Parquet => Arc::new(parquet_format()),
        FileFormatName::Arrow => Arc::new(ArrowFormat),
        FileFormatName::Json => Arc::new(
            JsonFormat::default()
                .with_options(JsonOptions::default())
                .with_file_compression_type(compression_type(compression)),
        ),
    })
}

fn compression_type(compression: Compression) -> FileCompressionType {
    match compression {
        Compression::None => FileCompressionType::UNCOMPRESSED,
        Compression::Gzip => FileCompressionType::GZIP,
        Compression::Zstd => FileCompressionType::ZSTD,
    }
}

#[async_trait]
impl TableProvider for FileTable {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn statistics(&self) -> Option<Statistics> {
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = self.rows;
        Some(statistics)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        _filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>, DataFusionError> {
        // Consecutive files stay together, in order: reading the partitions one
        // after the other gives the files' order.
        let groups = if self.splittable {
            vec![FileGroup::new(self.files.clone())]
        } else {
            let partitions = state
                .config()
                .target_partitions()
                .clamp(1, self.files.len().max(1));
            let size = self.files.len().div_ceil(partitions).max(1);
            self.files
                .chunks(size)
                .map(|chunk| FileGroup::new(chunk.to_vec()))
                .collect()
        };
        let mut statistics = Statistics::new_unknown(&self.schema);
        statistics.num_rows = self.rows;
        let schema = Arc::clone(&self.schema);
        let source: Arc<dyn FileSource> = match &self.reader {
            Reader::Csv(reading) => Arc::new(CsvScan::new(schema, reading.clone())),
            Reader::Format(format) => format.file_source(TableSchema::from(schema)),
        };
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), source)
            .with_file_groups(groups)
            .with_statistics(statistics)
            .with_projection_indices(projection.cloned())?
            .with_preserve_order(true)
            .with_limit(limit)
            .build();
        match &self.reader {
            Reader::Csv(_) => Ok(DataSourceExec::from_data_source(config)),
            Reader::Format(format) => format.create_physical_plan(state, config).await,
        }
    }
}
