//! A snapshot's rows, for trainers.

use std::fs::File;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::files::part_files;

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no snapshot.
    #[error("{} is not a snapshot: it has no part-0.parquet", folder.display())]
    NotASnapshot {
        /// The folder.
        folder: PathBuf,
    },
    /// A column that is not there.
    #[error("the snapshot in {} has no column {column:?}{}", folder.display(), suggestion.as_ref().map(|name| format!(": did you mean {name:?}?")).unwrap_or_default())]
    UnknownColumn {
        /// The folder.
        folder: PathBuf,
        /// The column.
        column: String,
        /// The nearest column that is there.
        suggestion: Option<String>,
    },
    /// The file system failed.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A damaged file.
    #[error("{} is not a readable Parquet file ({problem}): build the dataset again", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// The Parquet files of a snapshot in a local folder, in the order of their rows.
pub fn snapshot_files(folder: &Path) -> Result<Vec<PathBuf>, ReadError> {
    let files = part_files(folder).map_err(|source| ReadError::Io {
        path: folder.to_owned(),
        source,
    })?;
    if files.is_empty() {
        return Err(ReadError::NotASnapshot {
            folder: folder.to_owned(),
        });
    }
    Ok(files)
}

/// The columns of a snapshot in a local folder.
pub fn snapshot_schema(folder: &Path) -> Result<SchemaRef, ReadError> {
    let files = snapshot_files(folder)?;
    Ok(open(&files[0])?.schema().clone())
}

/// Reads a snapshot in a local folder: all columns, or the named ones in the
/// order of the snapshot. Blocking.
pub fn read_snapshot(
    folder: &Path,
    columns: Option<&[&str]>,
) -> Result<Vec<RecordBatch>, ReadError> {
    let mut batches = Vec::new();
    for path in snapshot_files(folder)? {
        let mut builder = open(&path)?.with_batch_size(1 << 16);
        if let Some(columns) = columns {
            let schema = builder.schema();
            for column in columns {
                if schema.column_with_name(column).is_none() {
                    let known = schema.fields().iter().map(|field| field.name().as_str());
                    return Err(ReadError::UnknownColumn {
                        folder: folder.to_owned(),
                        column: (*column).to_owned(),
                        suggestion: crate::query::nearest(column, known),
                    });
                }
            }
            let roots: Vec<usize> = schema
                .fields()
                .iter()
                .enumerate()
                .filter(|(_, field)| columns.contains(&field.name().as_str()))
                .map(|(index, _)| index)
                .collect();
            let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
            builder = builder.with_projection(mask);
        }
        let damaged = |problem: String| ReadError::Damaged {
            path: path.clone(),
            problem,
        };
        let reader = builder
            .build()
            .map_err(|error| damaged(error.to_string()))?;
        for batch in reader {
            batches.push(batch.map_err(|error| damaged(error.to_string()))?);
        }
    }
    Ok(batches)
}

fn open(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>, ReadError> {
    let file = File::open(path).map_err(|source| ReadError::Io {
        path: path.to_owned(),
        source,
    })?;
    ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| ReadError::Damaged {
        path: path.to_owned(),
        problem: error.to_string(),
    })
}
