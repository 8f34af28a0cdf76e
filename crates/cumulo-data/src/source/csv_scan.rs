//! Reading CSV files inside a query.
//!
//! DataFusion's own CSV scan takes texts that mean a missing value into account
//! while it infers types, and forgets them while it reads; so this one reads.
//! It is DataFusion's otherwise: the same Arrow parser, the same projection,
//! and the same cutting of a file into ranges that are read in parallel.

use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::{
    FileOpenFuture, FileOpener, FileScanConfig, FileSource,
};
use datafusion::datasource::projection::{ProjectionOpener, SplitProjection};
use datafusion::datasource::table_schema::TableSchema;
use datafusion::error::{DataFusionError, Result};
use datafusion::physical_expr::projection::ProjectionExprs;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion::physical_plan::{DisplayFormatType, PhysicalExpr, apply_expression_roots};
use futures::StreamExt;
use object_store::ObjectStore;

use super::sniff::Compression;

/// Read ahead from the file system by this much.
const BUFFER: usize = 1 << 18;

/// How the files of a scan are read.
#[derive(Clone, Debug)]
pub(super) struct CsvReading {
    pub(super) delimiter: u8,
    pub(super) header: bool,
    /// Texts that mean a missing value.
    pub(super) null_values: Vec<String>,
    /// Whether a value may hold a line break: then a file cannot be cut.
    pub(super) newlines: bool,
    pub(super) compression: Compression,
}

/// The path of a file, carried beside DataFusion's name for it.
#[derive(Clone, Debug)]
pub(crate) struct LocalPath(pub(crate) PathBuf);

/// A CSV scan for DataFusion's file scan machinery.
#[derive(Clone, Debug)]
pub(super) struct CsvScan {
    reading: Arc<CsvReading>,
    table_schema: TableSchema,
    projection: SplitProjection,
    batch_size: usize,
    metrics: ExecutionPlanMetricsSet,
}

impl CsvScan {
    pub(super) fn new(schema: SchemaRef, reading: CsvReading) -> Self {
        let table_schema = TableSchema::from(schema);
        Self {
            reading: Arc::new(reading),
            projection: SplitProjection::unprojected(&table_schema),
            table_schema,
            batch_size: 8192,
            metrics: ExecutionPlanMetricsSet::new(),
        }
    }

    fn builder(&self, header: bool) -> Result<arrow::csv::ReaderBuilder> {
        let schema = Arc::clone(self.table_schema.file_schema());
        let builder = arrow::csv::ReaderBuilder::new(schema)
            .with_delimiter(self.reading.delimiter)
            .with_header(header)
            .with_batch_size(self.batch_size)
            .with_projection(self.projection.file_indices.clone());
        if self.reading.null_values == [String::new()] {
            // Without an expression the empty text alone is missing, which is faster.
            return Ok(builder);
        }
        let expression = super::table::null_regex(&self.reading.null_values)
            .parse()
            .map_err(|error| DataFusionError::External(Box::new(error)))?;
        Ok(builder.with_null_regex(expression))
    }
}

impl FileSource for CsvScan {
    fn create_file_opener(
        &self,
        _store: Arc<dyn ObjectStore>,
        _config: &FileScanConfig,
        _partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        ProjectionOpener::try_new(
            self.projection.clone(),
            Arc::new(CsvOpener { scan: self.clone() }),
            self.table_schema.file_schema(),
        )
    }

    fn table_schema(&self) -> &TableSchema {
        &self.table_schema
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        Arc::new(Self {
            batch_size,
            ..self.clone()
        })
    }

    fn try_pushdown_projection(
        &self,
        projection: &ProjectionExprs,
    ) -> Result<Option<Arc<dyn FileSource>>> {
        let merged = self.projection.source.try_merge(projection)?;
        let projection = SplitProjection::new(self.table_schema.file_schema(), &merged);
        Ok(Some(Arc::new(Self {
            projection,
            ..self.clone()
        })))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        Some(&self.projection.source)
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        &self.metrics
    }

    fn file_type(&self) -> &str {
        "csv"
    }

    fn supports_repartitioning(&self) -> bool {
        self.reading.compression == Compression::None && !self.reading.newlines
    }

    fn fmt_extra(&self, _: DisplayFormatType, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, ", has_header={}", self.reading.header)
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.projection.source.iter(), f)
    }
}

struct CsvOpener {
    scan: CsvScan,
}

impl FileOpener for CsvOpener {
    fn open(&self, file: PartitionedFile) -> Result<FileOpenFuture> {
        let Some(LocalPath(path)) = file.extension::<LocalPath>().cloned() else {
            return Err(DataFusionError::Internal(
                "a CSV file without its path".to_owned(),
            ));
        };
        let scan = self.scan.clone();
        let size = file.object_meta.size;
        let range = file.range.as_ref().map(|range| {
            let clip = |byte: i64| u64::try_from(byte).unwrap_or(0).min(size);
            (clip(range.start), clip(range.end))
        });
        Ok(Box::pin(async move {
            let (reader, first) = open(&path, &scan.reading, range, size)?;
            let header = scan.reading.header && first;
            let reader = scan.builder(header)?.build_buffered(reader)?;
            Ok(futures::stream::iter(reader)
                .map(|batch| batch.map_err(DataFusionError::from))
                .boxed())
        }))
    }
}

/// Opens a file, or the lines of it that start in a range, and says whether the
/// first line is among them.
fn open(
    path: &Path,
    reading: &CsvReading,
    range: Option<(u64, u64)>,
    size: u64,
) -> std::io::Result<(Box<dyn BufRead + Send>, bool)> {
    let Some((start, end)) = range else {
        let input = reading.compression.open(path)?;
        return Ok((Box::new(BufReader::with_capacity(BUFFER, input)), true));
    };
    let mut file = File::open(path)?;
    let first = line_start(&mut file, start, size)?;
    let last = line_start(&mut file, end, size)?;
    file.seek(SeekFrom::Start(first))?;
    let input = file.take(last.saturating_sub(first));
    Ok((
        Box::new(BufReader::with_capacity(BUFFER, input)),
        start == 0,
    ))
}

/// Where the first line that starts at a position or after it starts.
fn line_start(file: &mut File, position: u64, size: u64) -> std::io::Result<u64> {
    if position == 0 || position >= size {
        return Ok(position.min(size));
    }
    let mut at = position - 1;
    file.seek(SeekFrom::Start(at))?;
    let mut buffer = vec![0; 1 << 14];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(size);
        }
        if let Some(index) = buffer[..read].iter().position(|byte| *byte == b'\n') {
            return Ok(at + index as u64 + 1);
        }
        at += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a file is cut, its ranges hold every line once and in order.
        #[test]
        fn ranges_hold_every_line_once(
            lines in proptest::collection::vec("[a-z]{0,9}", 0..40),
            cuts in proptest::collection::vec(0u64..300, 0..5),
            ended in any::<bool>(),
        ) {
            let mut text = lines.join("\n");
            if ended {
                text.push('\n');
            }
            let mut file = tempfile::NamedTempFile::new().expect("a file");
            std::io::Write::write_all(&mut file, text.as_bytes()).expect("written");
            let size = text.len() as u64;
            let mut edges: Vec<u64> = cuts.iter().map(|cut| cut.min(&size)).copied().collect();
            edges.extend([0, size]);
            edges.sort_unstable();
            let reading = CsvReading {
                delimiter: b',',
                header: false,
                null_values: vec![],
                newlines: false,
                compression: Compression::None,
            };
            let mut read = String::new();
            for edge in edges.windows(2) {
                let range = Some((edge[0], edge[1]));
                let (mut reader, _) = open(file.path(), &reading, range, size).expect("open");
                let mut part = String::new();
                reader.read_to_string(&mut part).expect("read");
                prop_assert!(part.is_empty() || read.is_empty() || read.ends_with('\n'));
                read.push_str(&part);
            }
            prop_assert_eq!(read, text);
        }
    }
}
