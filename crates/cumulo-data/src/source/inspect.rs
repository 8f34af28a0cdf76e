//! The columns of a source, by looking into its files.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::error::SourceError;
use super::infer::{self, Classes, CsvProblem, CsvShape};
use super::sniff::{self, Compression};
use super::{ResolvedSource, SourceFile};
use crate::request::FileFormatName;

/// A text file up to this size is read whole before its types are decided.
const WHOLE: u64 = 4 << 20;
/// Of a larger one this much is.
const SAMPLE: u64 = 1 << 20;

/// How thoroughly to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Small files whole, of large text files a sample.
    Sample,
    /// Everything; also finds what is broken where.
    Whole,
}

/// What is known of a source before it is queried.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// Its columns.
    pub schema: SchemaRef,
    /// Its number of rows: exact for Parquet, an estimate otherwise.
    pub rows: u64,
    /// Whether `rows` is exact.
    pub exact: bool,
    /// Whether all of it was seen.
    pub whole: bool,
    /// Whether a CSV value holds a line break, so that the file cannot be read in pieces.
    pub newlines: bool,
}

/// Looks into all files of a source. Blocking.
pub fn inspect_source(source: &ResolvedSource, depth: Depth) -> Result<Inspected, SourceError> {
    match source.format {
        FileFormatName::Csv => inspect_csv(source, depth),
        FileFormatName::Json => inspect_json(source, depth),
        FileFormatName::Parquet => inspect_binary(source, depth, parquet_file),
        FileFormatName::Arrow => inspect_binary(source, depth, arrow_file),
    }
}

fn limit(file: &SourceFile, depth: Depth) -> Option<u64> {
    match depth {
        Depth::Whole => None,
        Depth::Sample if file.compression == Compression::None && file.bytes > WHOLE => {
            Some(SAMPLE)
        }
        Depth::Sample => Some(WHOLE),
    }
}

/// Rows of a file of which `bytes` hold `seen` rows.
fn estimate(file: &SourceFile, seen: u64, bytes: u64, whole: bool) -> u64 {
    if whole || bytes == 0 {
        return seen;
    }
    // Tabular text shrinks to about a quarter under compression.
    let size = match file.compression {
        Compression::None => file.bytes,
        Compression::Gzip | Compression::Zstd => file.bytes.saturating_mul(4),
    };
    let rows = u128::from(seen) * u128::from(size) / u128::from(bytes);
    u64::try_from(rows).unwrap_or(u64::MAX).max(seen)
}

fn malformed(source: &ResolvedSource, file: &SourceFile, problem: String) -> SourceError {
    SourceError::Malformed {
        source_name: source.spec.name.clone(),
        file: file.label.clone(),
        line: None,
        problem,
    }
}

fn open(
    source: &ResolvedSource,
    file: &SourceFile,
) -> Result<Box<dyn std::io::Read + Send>, SourceError> {
    file.compression
        .open(&file.path)
        .map_err(|error| SourceError::io(&source.spec.name, &file.path, error))
}

fn inspect_csv(source: &ResolvedSource, depth: Depth) -> Result<Inspected, SourceError> {
    let shape = CsvShape {
        delimiter: source.delimiter,
        header: source.has_header(),
        null_values: source.spec.options.effective_null_values(),
    };
    let mut columns: Vec<(String, Classes)> = Vec::new();
    let mut rows = 0u64;
    let (mut whole, mut newlines) = (true, false);
    for (index, file) in source.files.iter().enumerate() {
        let look = |limit| {
            infer::look(open(source, file)?, &shape, limit)
                .map_err(|problem| csv_error(source, file, problem))
        };
        let mut seen = look(limit(file, depth))?;
        if !seen.whole
            && seen
                .columns
                .iter()
                .any(|(_, classes)| classes.needs_all_values())
        {
            seen = look(None)?;
        }
        if index == 0 {
            columns = seen.columns;
        } else {
            compare_names(source, file, &columns, &seen.columns)?;
            for ((_, classes), (_, more)) in columns.iter_mut().zip(&seen.columns) {
                classes.merge(*more);
            }
        }
        rows = rows.saturating_add(estimate(file, seen.rows, seen.bytes, seen.whole));
        whole &= seen.whole;
        newlines |= seen.newlines;
    }
    let fields: Vec<Field> = columns
        .into_iter()
        .map(|(name, classes)| Field::new(name, classes.data_type(), true))
        .collect();
    Ok(Inspected {
        schema: Arc::new(Schema::new(fields)),
        rows,
        exact: false,
        whole,
        newlines,
    })
}

/// CSV columns go by their position, so the names must agree in order.
fn compare_names(
    source: &ResolvedSource,
    file: &SourceFile,
    first: &[(String, Classes)],
    other: &[(String, Classes)],
) -> Result<(), SourceError> {
    let names = |columns: &[(String, Classes)]| -> Vec<String> {
        columns.iter().map(|(name, _)| name.clone()).collect()
    };
    let (first, other) = (names(first), names(other));
    if first == other {
        return Ok(());
    }
    let missing: Vec<&String> = first.iter().filter(|name| !other.contains(name)).collect();
    let extra: Vec<&String> = other.iter().filter(|name| !first.contains(name)).collect();
    let mut difference = Vec::new();
    if !missing.is_empty() {
        difference.push(format!("{missing:?} missing"));
    }
    if !extra.is_empty() {
        difference.push(format!("{extra:?} added"));
    }
    if difference.is_empty() {
        difference.push("the same columns in another order".to_owned());
    }
    Err(SourceError::ColumnsDiffer {
        source_name: source.spec.name.clone(),
        file: file.label.clone(),
        first: source
            .files
            .first()
            .map(|file| file.label.clone())
            .unwrap_or_default(),
        difference: difference.join(", "),
    })
}

fn csv_error(source: &ResolvedSource, file: &SourceFile, problem: CsvProblem) -> SourceError {
    let at = |line, problem| SourceError::Malformed {
        source_name: source.spec.name.clone(),
        file: file.label.clone(),
        line,
        problem,
    };
    match problem {
        CsvProblem::Read(error) => sniff::decompression_error(&source.spec.name, file, &error),
        CsvProblem::Ragged {
            line,
            expected,
            found,
            last: true,
        } if found < expected => SourceError::Truncated {
            source_name: source.spec.name.clone(),
            file: file.label.clone(),
            problem: format!("its last line, {line}, has {found} of {expected} values"),
        },
        CsvProblem::Ragged {
            line,
            expected,
            found,
            ..
        } => at(
            Some(line),
            format!(
                "{found} values where the {} has {expected}; check the delimiter ({:?}) and the quotes",
                if source.has_header() {
                    "header"
                } else {
                    "first line"
                },
                char::from(source.delimiter)
            ),
        ),
        CsvProblem::NotUtf8 { line } => at(
            Some(line),
            "the text is not UTF-8; convert the file (iconv -t utf-8)".to_owned(),
        ),
        CsvProblem::Header(problem) => at(None, problem),
        CsvProblem::OpenQuote { line } => at(
            Some(line),
            "a quote opens here and does not close within 16 MiB".to_owned(),
        ),
    }
}

fn inspect_json(source: &ResolvedSource, depth: Depth) -> Result<Inspected, SourceError> {
    let mut schemas = Vec::new();
    let mut rows = 0u64;
    let mut whole = true;
    for file in &source.files {
        let limit = limit(file, depth);
        let mut reader = BufReader::with_capacity(1 << 17, open(source, file)?);
        let mut line = String::new();
        let (mut number, mut bytes, mut seen, mut ended) = (0u64, 0u64, 0u64, false);
        let mut failure = None;
        let values = std::iter::from_fn(|| {
            loop {
                if limit.is_some_and(|limit| bytes >= limit) {
                    return None;
                }
                line.clear();
                number += 1;
                match reader.read_line(&mut line) {
                    Ok(0) => {
                        ended = true;
                        return None;
                    }
                    Ok(read) => bytes += read as u64,
                    Err(error) => {
                        failure = Some(match error.kind() {
                            std::io::ErrorKind::InvalidData
                                if file.compression == Compression::None =>
                            {
                                json_error(source, file, number, "the text is not UTF-8".to_owned())
                            }
                            _ => sniff::decompression_error(&source.spec.name, file, &error),
                        });
                        return None;
                    }
                }
                if line.trim().is_empty() {
                    continue;
                }
                match serde_json::from_str::<serde_json::Value>(&line) {
                    Ok(value @ serde_json::Value::Object(_)) => {
                        seen += 1;
                        return Some(Ok(value));
                    }
                    Ok(_) => {
                        failure = Some(json_error(
                            source,
                            file,
                            number,
                            "one JSON object a line is wanted".to_owned(),
                        ));
                    }
                    Err(error) if error.is_eof() && !line.ends_with('\n') => {
                        failure = Some(SourceError::Truncated {
                            source_name: source.spec.name.clone(),
                            file: file.label.clone(),
                            problem: format!("its last line, {number}, ends in the middle"),
                        });
                    }
                    Err(error) => {
                        failure = Some(json_error(source, file, number, error.to_string()));
                    }
                }
                return None;
            }
        });
        let schema = arrow::json::reader::infer_json_schema_from_iterator(values);
        if let Some(failure) = failure {
            return Err(failure);
        }
        schemas.push(schema.map_err(|error| malformed(source, file, error.to_string()))?);
        rows = rows.saturating_add(estimate(file, seen, bytes, ended));
        whole &= ended;
    }
    let schema = Schema::try_merge(schemas).map_err(|error| SourceError::ColumnsDiffer {
        source_name: source.spec.name.clone(),
        file: "one file".to_owned(),
        first: "another".to_owned(),
        difference: error.to_string(),
    })?;
    // A field that is null in all rows has no type to go by.
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| match field.data_type() {
            DataType::Null => Field::new(field.name(), DataType::Utf8, true),
            _ => field.as_ref().clone(),
        })
        .collect();
    Ok(Inspected {
        schema: Arc::new(Schema::new(fields)),
        rows,
        exact: false,
        whole,
        newlines: false,
    })
}

fn json_error(
    source: &ResolvedSource,
    file: &SourceFile,
    line: u64,
    problem: String,
) -> SourceError {
    SourceError::Malformed {
        source_name: source.spec.name.clone(),
        file: file.label.clone(),
        line: Some(line),
        problem,
    }
}

type Read = fn(&ResolvedSource, &SourceFile, Depth) -> Result<(SchemaRef, u64), SourceError>;

fn inspect_binary(
    source: &ResolvedSource,
    depth: Depth,
    read: Read,
) -> Result<Inspected, SourceError> {
    let mut schema: Option<SchemaRef> = None;
    let mut rows = 0u64;
    for file in &source.files {
        let (found, count) = read(source, file, depth)?;
        rows = rows.saturating_add(count);
        match &schema {
            None => schema = Some(found),
            Some(first) => {
                let ordered = source.format == FileFormatName::Arrow;
                if let Some(difference) = compare_schemas(first, &found, ordered) {
                    return Err(SourceError::ColumnsDiffer {
                        source_name: source.spec.name.clone(),
                        file: file.label.clone(),
                        first: source
                            .files
                            .first()
                            .map(|file| file.label.clone())
                            .unwrap_or_default(),
                        difference,
                    });
                }
            }
        }
    }
    Ok(Inspected {
        schema: schema.unwrap_or_else(|| Arc::new(Schema::empty())),
        rows,
        exact: source.format == FileFormatName::Parquet,
        whole: true,
        newlines: false,
    })
}

/// How two schemas differ: by names and types, and by order where that counts
/// (Arrow files are read by position, Parquet files by name).
fn compare_schemas(first: &Schema, other: &Schema, ordered: bool) -> Option<String> {
    let mut differences = Vec::new();
    for field in first.fields() {
        match other.column_with_name(field.name()) {
            None => differences.push(format!("{:?} missing", field.name())),
            Some((_, found)) if found.data_type() != field.data_type() => {
                differences.push(format!(
                    "{:?} is {} rather than {}",
                    field.name(),
                    found.data_type(),
                    field.data_type()
                ));
            }
            Some(_) => {}
        }
    }
    for field in other.fields() {
        if first.column_with_name(field.name()).is_none() {
            differences.push(format!("{:?} added", field.name()));
        }
    }
    let names = |schema: &Schema| -> Vec<String> {
        schema
            .fields()
            .iter()
            .map(|field| field.name().clone())
            .collect()
    };
    if ordered && differences.is_empty() && names(first) != names(other) {
        differences.push("the same columns in another order".to_owned());
    }
    (!differences.is_empty()).then(|| differences.join(", "))
}

/// Without the metadata that pandas and others attach, which differs from file to file.
fn bare(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(
        schema
            .fields()
            .iter()
            .map(|field| field.as_ref().clone().with_metadata(Default::default()))
            .collect::<Vec<_>>(),
    ))
}

fn parquet_file(
    source: &ResolvedSource,
    file: &SourceFile,
    depth: Depth,
) -> Result<(SchemaRef, u64), SourceError> {
    let damaged = |error: String| {
        malformed(
            source,
            file,
            format!("it is not a readable Parquet file ({error}); write or get it again"),
        )
    };
    let input = File::open(&file.path)
        .map_err(|error| SourceError::io(&source.spec.name, &file.path, error))?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(input)
        .map_err(|error| damaged(error.to_string()))?;
    let schema = bare(builder.schema());
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    if depth == Depth::Whole {
        let reader = builder
            .build()
            .map_err(|error| damaged(error.to_string()))?;
        for batch in reader {
            batch.map_err(|error| damaged(error.to_string()))?;
        }
    }
    Ok((schema, rows))
}

fn arrow_file(
    source: &ResolvedSource,
    file: &SourceFile,
    depth: Depth,
) -> Result<(SchemaRef, u64), SourceError> {
    let damaged = |error: String| {
        malformed(
            source,
            file,
            format!("it is not a readable Arrow IPC file ({error}); write or get it again"),
        )
    };
    let input = File::open(&file.path)
        .map_err(|error| SourceError::io(&source.spec.name, &file.path, error))?;
    let reader = arrow::ipc::reader::FileReader::try_new_buffered(input, None)
        .map_err(|error| damaged(error.to_string()))?;
    let schema = bare(&reader.schema());
    let batches = reader.num_batches() as u64;
    let mut rows = 0u64;
    for batch in reader {
        rows += batch
            .map_err(|error| damaged(error.to_string()))?
            .num_rows() as u64;
        if depth == Depth::Sample {
            // The footer does not tell the rows; batches are mostly of one size.
            return Ok((schema, rows.saturating_mul(batches)));
        }
    }
    Ok((schema, rows))
}
