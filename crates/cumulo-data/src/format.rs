//! Record batches as text: a table for a terminal, CSV, JSON.

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// The widest a cell of a table gets, in characters.
const MAX_CELL: usize = 60;

/// A table with a header, numbers right-aligned, at most `max_rows` rows and a
/// note when there are more.
pub fn to_table(
    schema: &SchemaRef,
    batches: &[RecordBatch],
    max_rows: usize,
    more: bool,
) -> Result<String, ArrowError> {
    let headers: Vec<String> = schema
        .fields()
        .iter()
        .map(|field| clip(field.name()))
        .collect();
    let right: Vec<bool> = schema
        .fields()
        .iter()
        .map(|field| is_number(field.data_type()))
        .collect();
    let total: usize = batches.iter().map(RecordBatch::num_rows).sum();
    let options = FormatOptions::default().with_null("");
    let mut rows: Vec<Vec<String>> = Vec::new();
    'all: for batch in batches {
        let formatters = batch
            .columns()
            .iter()
            .map(|array| ArrayFormatter::try_new(array.as_ref(), &options))
            .collect::<Result<Vec<_>, _>>()?;
        for row in 0..batch.num_rows() {
            if rows.len() == max_rows {
                break 'all;
            }
            let cells = formatters
                .iter()
                .zip(batch.columns())
                .map(|(formatter, array)| {
                    Ok(clip(&match array.data_type() {
                        DataType::Float64 | DataType::Float32 => {
                            float(&formatter.value(row).try_to_string()?)
                        }
                        _ => formatter.value(row).try_to_string()?,
                    }))
                })
                .collect::<Result<Vec<_>, ArrowError>>()?;
            rows.push(cells);
        }
    }
    let widths: Vec<usize> = headers
        .iter()
        .enumerate()
        .map(|(column, header)| {
            rows.iter()
                .map(|row| width(&row[column]))
                .chain([width(header)])
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    let mut line = |cells: &[String]| {
        let mut out = String::new();
        for (column, cell) in cells.iter().enumerate() {
            if column > 0 {
                out.push_str("  ");
            }
            let padding = " ".repeat(widths[column] - width(cell));
            if right[column] {
                out.push_str(&padding);
                out.push_str(cell);
            } else {
                out.push_str(cell);
                out.push_str(&padding);
            }
        }
        text.push_str(out.trim_end());
        text.push('\n');
    };
    line(&headers);
    let rule: Vec<String> = widths.iter().map(|width| "─".repeat(*width)).collect();
    line(&rule);
    for row in &rows {
        line(row);
    }
    if rows.len() < total || more {
        let of = if more {
            format!("more than {total}")
        } else {
            total.to_string()
        };
        text.push_str(&format!("({} of {of} rows shown)\n", rows.len()));
    } else {
        let s = if total == 1 { "" } else { "s" };
        text.push_str(&format!("({total} row{s})\n"));
    }
    Ok(text)
}

fn is_number(data_type: &DataType) -> bool {
    data_type.is_numeric()
}

fn width(text: &str) -> usize {
    text.chars().count()
}

/// One line of bounded width, so that no cell breaks the table.
fn clip(text: &str) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if width(&line) > MAX_CELL {
        line.chars().take(MAX_CELL - 1).collect::<String>() + "…"
    } else {
        line
    }
}

/// A float with at most six decimals; the full value is in CSV and JSON.
fn float(text: &str) -> String {
    match text.parse::<f64>() {
        Ok(value)
            if value.is_finite() && (value == 0.0 || value.abs() >= 1e-4) && value.abs() < 1e15 =>
        {
            let rounded = format!("{value:.6}");
            let trimmed = rounded.trim_end_matches('0');
            if trimmed.ends_with('.') {
                format!("{trimmed}0")
            } else {
                trimmed.to_owned()
            }
        }
        _ => text.to_owned(),
    }
}

/// CSV with a header (RFC 4180, `\n` between lines).
pub fn to_csv(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String, ArrowError> {
    let mut out = Vec::new();
    let mut writer = arrow::csv::WriterBuilder::new()
        .with_header(true)
        .build(&mut out);
    if batches.is_empty() {
        writer.write(&RecordBatch::new_empty(SchemaRef::clone(schema)))?;
    }
    for batch in batches {
        writer.write(batch)?;
    }
    drop(writer);
    String::from_utf8(out).map_err(|error| ArrowError::CsvError(error.to_string()))
}

/// A JSON array with one object per row; missing values are null.
pub fn to_json(batches: &[RecordBatch]) -> Result<String, ArrowError> {
    let mut out = Vec::new();
    let mut writer = arrow::json::WriterBuilder::new()
        .with_explicit_nulls(true)
        .build::<_, arrow::json::writer::JsonArray>(&mut out);
    for batch in batches {
        writer.write(batch)?;
    }
    writer.finish()?;
    drop(writer);
    if out.is_empty() {
        out.extend_from_slice(b"[]");
    }
    String::from_utf8(out).map_err(|error| ArrowError::JsonError(error.to_string()))
}
