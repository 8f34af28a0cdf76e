//! The types of a CSV file's columns, by looking at its values.
//!
//! Every value is put into the narrowest class that has it; a column's type is
//! the narrowest that has all its classes. A small file is read whole. Of a
//! large one a sample decides; should a later value contradict, the build reads
//! the whole file and starts again (see [`crate::build`]), so that the outcome
//! is as if it had been read whole at once.

use std::io::Read;

use arrow::datatypes::{DataType, TimeUnit};

/// The classes that a column's values fall into, as bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Classes(u8);

impl Classes {
    const BOOLEAN: u8 = 1;
    const INTEGER: u8 = 2;
    const FLOAT: u8 = 4;
    const DATE: u8 = 8;
    const TIMESTAMP: u8 = 16;
    const TEXT: u8 = 32;
    /// An integer beyond 64 bits.
    const LONG: u8 = 64;

    /// Whether a sample of a column may mislead without a parser noticing: no
    /// value was seen, or dates alone (as a date a timestamp loses its time).
    pub(super) fn needs_all_values(self) -> bool {
        self.0 == 0 || self.0 == Self::DATE
    }

    /// Adds the classes of another part of the same column.
    pub(super) fn merge(&mut self, other: Self) {
        self.0 |= other.0;
    }

    fn add(&mut self, value: &[u8]) {
        // Once a column is text, nothing narrows it again.
        if self.0 & Self::TEXT == 0 {
            self.0 |= classify(value);
        }
    }

    /// The type that has all values of these classes.
    pub(super) fn data_type(self) -> DataType {
        let only = |classes: u8| self.0 != 0 && self.0 & !classes == 0;
        if only(Self::BOOLEAN) {
            DataType::Boolean
        } else if only(Self::INTEGER) {
            DataType::Int64
        } else if only(Self::INTEGER | Self::LONG) {
            // An identifier: a float would lose digits.
            DataType::Utf8
        } else if only(Self::INTEGER | Self::LONG | Self::FLOAT) {
            DataType::Float64
        } else if only(Self::DATE) {
            DataType::Date32
        } else if only(Self::DATE | Self::TIMESTAMP) {
            DataType::Timestamp(TimeUnit::Microsecond, None)
        } else {
            DataType::Utf8
        }
    }
}

fn classify(value: &[u8]) -> u8 {
    // Numbers may have blanks around them, as Arrow's parser has it.
    let trimmed = value.trim_ascii();
    let Some(first) = trimmed.first() else {
        return Classes::TEXT;
    };
    match first {
        b't' | b'T' | b'f' | b'F'
            if value.eq_ignore_ascii_case(b"true") || value.eq_ignore_ascii_case(b"false") =>
        {
            Classes::BOOLEAN
        }
        b'-' | b'+' | b'.' | b'0'..=b'9' | b'n' | b'N' | b'i' | b'I' => number(trimmed)
            .or_else(|| date_or_time(value))
            .unwrap_or(Classes::TEXT),
        _ => Classes::TEXT,
    }
}

/// An integer or a decimal number, `nan` and `inf` included.
fn number(value: &[u8]) -> Option<u8> {
    let digits = match value.split_first() {
        Some((b'-' | b'+', rest)) => rest,
        _ => value,
    };
    if digits.is_empty() {
        return None;
    }
    if digits.iter().all(u8::is_ascii_digit) {
        if digits.len() < 19 {
            return Some(Classes::INTEGER);
        }
        let fits = std::str::from_utf8(value).ok()?.parse::<i64>().is_ok();
        return Some(if fits {
            Classes::INTEGER
        } else {
            Classes::LONG
        });
    }
    let special = [&b"nan"[..], b"inf", b"infinity"];
    if special.iter().any(|word| digits.eq_ignore_ascii_case(word)) {
        return Some(Classes::FLOAT);
    }
    let mut rest = digits;
    let mut count = 0;
    let take = |rest: &mut &[u8]| {
        let length = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        *rest = &rest[length..];
        length
    };
    count += take(&mut rest);
    if let Some(tail) = rest.strip_prefix(b".") {
        rest = tail;
        count += take(&mut rest);
    }
    if count == 0 {
        return None;
    }
    if let Some(b'e' | b'E') = rest.first() {
        rest = &rest[1..];
        if let Some(b'+' | b'-') = rest.first() {
            rest = &rest[1..];
        }
        if take(&mut rest) == 0 {
            return None;
        }
    }
    rest.is_empty().then_some(Classes::FLOAT)
}

/// `2013-01-31`, or that with a time: `2013-01-31T10:00:00Z`, `… 10:00:00.5+02:00`.
fn date_or_time(value: &[u8]) -> Option<u8> {
    let shape = |value: &[u8], pattern: &[u8]| {
        value.len() >= pattern.len()
            && value
                .iter()
                .zip(pattern)
                .all(|(byte, wanted)| match wanted {
                    b'0' => byte.is_ascii_digit(),
                    b'T' => matches!(byte, b'T' | b' '),
                    wanted => byte == wanted,
                })
    };
    if !shape(value, b"0000-00-00") {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    if value.len() == 10 {
        use arrow::compute::kernels::cast_utils::Parser;
        return arrow::datatypes::Date32Type::parse(text).map(|_| Classes::DATE);
    }
    arrow::compute::kernels::cast_utils::string_to_timestamp_nanos(text)
        .ok()
        .map(|_| Classes::TIMESTAMP)
}

/// How a CSV file is to be read.
#[derive(Clone, Debug)]
pub(super) struct CsvShape {
    pub(super) delimiter: u8,
    pub(super) header: bool,
    pub(super) null_values: Vec<String>,
}

/// What was seen of a CSV file.
#[derive(Clone, Debug)]
pub(super) struct CsvSeen {
    pub(super) columns: Vec<(String, Classes)>,
    pub(super) rows: u64,
    /// Bytes read, decompressed.
    pub(super) bytes: u64,
    /// Whether the file was read to its end.
    pub(super) whole: bool,
    /// Whether a quoted value holds a line break.
    pub(super) newlines: bool,
}

/// Why a CSV file cannot be read.
#[derive(Debug)]
pub(super) enum CsvProblem {
    /// The reader below failed (truncated compression, for example).
    Read(std::io::Error),
    /// A row with another number of values than the header.
    Ragged {
        line: u64,
        expected: u64,
        found: u64,
        last: bool,
    },
    /// Text that is not UTF-8.
    NotUtf8 { line: u64 },
    /// A header without names, with a name twice, and the like.
    Header(String),
    /// A quote that never ends.
    OpenQuote { line: u64 },
}

/// Looks at a CSV file's values, up to about `limit` bytes.
pub(super) fn look(
    reader: impl Read,
    shape: &CsvShape,
    limit: Option<u64>,
) -> Result<CsvSeen, CsvProblem> {
    let mut reader = csv::ReaderBuilder::new()
        .delimiter(shape.delimiter)
        .has_headers(false)
        .flexible(true)
        .buffer_capacity(1 << 17)
        .from_reader(reader);
    let mut record = csv::ByteRecord::new();
    let read = |error: csv::Error| match error.into_kind() {
        csv::ErrorKind::Io(error) => CsvProblem::Read(error),
        other => CsvProblem::Header(format!("{other:?}")),
    };
    if !reader.read_byte_record(&mut record).map_err(read)? {
        return Err(CsvProblem::Header("it has no line".to_owned()));
    }
    let names = header(&record, shape)?;
    let mut seen = CsvSeen {
        columns: names
            .into_iter()
            .map(|name| (name, Classes::default()))
            .collect(),
        rows: 0,
        bytes: 0,
        whole: false,
        newlines: false,
    };
    let width = seen.columns.len() as u64;
    let mut pending = !shape.header;
    loop {
        if !pending && !reader.read_byte_record(&mut record).map_err(read)? {
            seen.whole = true;
            break;
        }
        pending = false;
        let line = record.position().map_or(0, csv::Position::line);
        if record.len() as u64 != width {
            let found = record.len() as u64;
            let mut next = csv::ByteRecord::new();
            let last = !reader.read_byte_record(&mut next).unwrap_or(false);
            return Err(CsvProblem::Ragged {
                line,
                expected: width,
                found,
                last,
            });
        }
        for ((_, classes), value) in seen.columns.iter_mut().zip(record.iter()) {
            let null = shape
                .null_values
                .iter()
                .any(|null| null.as_bytes() == value);
            if !null {
                classes.add(value);
            }
        }
        if memchr_newline(record.as_slice()) {
            seen.newlines = true;
            // One value of many lines may be an opening quote without its end.
            if record.as_slice().len() > 16 << 20 {
                return Err(CsvProblem::OpenQuote { line });
            }
        }
        if std::str::from_utf8(record.as_slice()).is_err() {
            return Err(CsvProblem::NotUtf8 { line });
        }
        seen.rows += 1;
        if limit.is_some_and(|limit| reader.position().byte() >= limit) {
            break;
        }
    }
    seen.bytes = reader.position().byte();
    Ok(seen)
}

fn memchr_newline(bytes: &[u8]) -> bool {
    bytes.contains(&b'\n')
}

fn header(record: &csv::ByteRecord, shape: &CsvShape) -> Result<Vec<String>, CsvProblem> {
    if !shape.header {
        return Ok((1..=record.len()).map(|i| format!("column_{i}")).collect());
    }
    let mut names = Vec::with_capacity(record.len());
    let mut seen = std::collections::HashSet::new();
    for (index, value) in record.iter().enumerate() {
        let name = std::str::from_utf8(value).map_err(|_| CsvProblem::NotUtf8 { line: 1 })?;
        let name = if index == 0 {
            name.trim_start_matches('\u{feff}')
        } else {
            name
        };
        let name = if name.is_empty() {
            // What R and pandas write over a column of row names.
            format!("column_{}", index + 1)
        } else {
            name.to_owned()
        };
        if !seen.insert(name.clone()) {
            return Err(CsvProblem::Header(format!(
                "its header names the column {name:?} twice; rename one"
            )));
        }
        names.push(name);
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shape() -> CsvShape {
        CsvShape {
            delimiter: b',',
            header: true,
            null_values: vec![String::new(), "NA".to_owned()],
        }
    }

    fn types(text: &str) -> Vec<DataType> {
        look(text.as_bytes(), &shape(), None)
            .expect("readable")
            .columns
            .iter()
            .map(|(_, classes)| classes.data_type())
            .collect()
    }

    #[test]
    fn types_are_the_narrowest_that_hold_all_values() {
        let microseconds = DataType::Timestamp(TimeUnit::Microsecond, None);
        for (values, expected) in [
            ("1\n-2\nNA", DataType::Int64),
            ("1\n2.5\n1e3", DataType::Float64),
            ("9223372036854775808", DataType::Utf8),
            ("9223372036854775807", DataType::Int64),
            ("true\nFALSE", DataType::Boolean),
            ("true\n1", DataType::Utf8),
            ("2013-01-31", DataType::Date32),
            ("2013-02-31", DataType::Utf8),
            ("2013-01-31T10:00:00Z\n2013-01-31", microseconds.clone()),
            ("2013-01-31 10:00:00.123456", microseconds),
            ("9E\nAA", DataType::Utf8),
            ("-", DataType::Utf8),
            ("1.", DataType::Float64),
            (".", DataType::Utf8),
            ("NA\n", DataType::Utf8),
            ("1\nnan\n-inf", DataType::Float64),
            (" 7\n8 ", DataType::Int64),
            ("1.5\n9223372036854775808", DataType::Float64),
        ] {
            assert_eq!(types(&format!("a\n{values}\n")), [expected], "{values}");
        }
    }

    #[test]
    fn a_byte_order_mark_and_nameless_columns_are_looked_through() {
        let seen = look("\u{feff}a,,c\n1,2,3\n".as_bytes(), &shape(), None).expect("readable");
        let names: Vec<_> = seen.columns.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "column_2", "c"]);
    }

    #[test]
    fn a_short_row_is_found_with_its_line() {
        let problem = look("a,b\n1,2\n3\n".as_bytes(), &shape(), None).expect_err("ragged");
        assert!(matches!(
            problem,
            CsvProblem::Ragged {
                line: 3,
                expected: 2,
                found: 1,
                last: true
            }
        ));
    }

    proptest! {
        /// Whatever the values, a column of the type that was found can be parsed as it.
        #[test]
        fn every_value_parses_as_the_type_found(
            values in proptest::collection::vec("(-?[0-9]{1,20}|-?[0-9]{0,3}\\.[0-9]{0,3}(e[0-9]{1,2})?|true|False|20[0-9]{2}-[01][0-9]-[0-3][0-9]( [0-2][0-9]:[0-5][0-9]:[0-5][0-9])?|NA||[a-z]{1,3})", 1..20)
        ) {
            let text = format!("a,b\n{}\n", values.iter().map(|v| format!("{v},x")).collect::<Vec<_>>().join("\n"));
            let seen = look(text.as_bytes(), &shape(), None).expect("readable");
            let fields: Vec<_> = seen.columns.iter()
                .map(|(name, classes)| arrow::datatypes::Field::new(name, classes.data_type(), true))
                .collect();
            let schema = std::sync::Arc::new(arrow::datatypes::Schema::new(fields));
            let csv = arrow::csv::ReaderBuilder::new(schema)
                .with_header(true)
                .with_null_regex(crate::source::table::null_regex(&shape().null_values).parse().expect("a regex"))
                .build(text.as_bytes())
                .expect("a reader");
            let mut rows = 0;
            for batch in csv {
                let batch = batch.map_err(|error| TestCaseError::fail(error.to_string()))?;
                rows += batch.num_rows();
            }
            prop_assert_eq!(rows, values.len());
        }
    }
}
