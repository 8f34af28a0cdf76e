//! Statistics of every column, gathered batch by batch while a snapshot is written.

use arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, PrimitiveArray, RecordBatch,
    StringArray,
};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type, Int64Type, Schema, TimeUnit};
use arrow::error::ArrowError;
use serde_json::{Number, Value};

use super::manifest::{ColumnSummary, TopValue};
use super::sketch::{Distinct, Frequencies, mix};

/// How many of a text column's most frequent values a manifest lists.
const TOP_VALUES: usize = 20;

/// Statistics of a batch's columns, to which more batches are added.
#[derive(Clone, Debug)]
pub(crate) struct TableStatistics {
    rows: u64,
    columns: Vec<ColumnStatistics>,
}

#[derive(Clone, Debug)]
struct ColumnStatistics {
    nulls: u64,
    values: Values,
}

#[derive(Clone, Debug)]
enum Values {
    Integers(Integers),
    Floats(Moments),
    Booleans {
        yes: u64,
        no: u64,
    },
    Texts(Texts),
    /// Dates and times as integers of the column's unit.
    Times(Integers),
    /// Types of which only missing values are counted.
    Opaque,
}

#[derive(Clone, Debug, Default)]
struct Integers {
    range: Option<(i64, i64)>,
    moments: Moments,
}

/// Count, mean and sum of squared deviations, merged as Chan, Golub and LeVeque
/// (1983) do, which loses no digits where the mean is large.
#[derive(Clone, Debug)]
struct Moments {
    count: u64,
    mean: f64,
    squares: f64,
    minimum: f64,
    maximum: f64,
    distinct: Distinct,
}

impl Default for Moments {
    fn default() -> Self {
        Self {
            count: 0,
            mean: 0.0,
            squares: 0.0,
            minimum: f64::INFINITY,
            maximum: f64::NEG_INFINITY,
            distinct: Distinct::default(),
        }
    }
}

impl Moments {
    fn combine(&mut self, count: u64, mean: f64, squares: f64) {
        if count == 0 {
            return;
        }
        let total = self.count + count;
        let delta = mean - self.mean;
        let weight = count as f64 / total as f64;
        self.squares += squares + delta * delta * self.count as f64 * weight;
        self.mean += delta * weight;
        self.count = total;
    }

    /// Adds the values of one array; NaN and infinities are counted as distinct alone.
    fn add<T: ArrowPrimitiveType>(
        &mut self,
        array: &PrimitiveArray<T>,
        number: impl Fn(T::Native) -> f64,
        bits: impl Fn(T::Native) -> u64,
    ) {
        // The batch's own mean first: its values are in the cache still.
        let (mut count, mut sum) = (0u64, 0.0);
        let mut previous = None;
        let mut first = |value: T::Native| {
            let key = bits(value);
            if previous != Some(key) {
                self.distinct.add(mix(key));
                previous = Some(key);
            }
            let value = number(value);
            if value.is_finite() {
                count += 1;
                sum += value;
                self.minimum = self.minimum.min(value);
                self.maximum = self.maximum.max(value);
            }
        };
        if array.null_count() == 0 {
            array.values().iter().for_each(|value| first(*value));
        } else {
            array.iter().flatten().for_each(&mut first);
        }
        if count == 0 {
            return;
        }
        let mean = sum / count as f64;
        let mut squares = 0.0;
        let mut second = |value: T::Native| {
            let value = number(value);
            if value.is_finite() {
                squares += (value - mean) * (value - mean);
            }
        };
        if array.null_count() == 0 {
            array.values().iter().for_each(|value| second(*value));
        } else {
            array.iter().flatten().for_each(&mut second);
        }
        self.combine(count, mean, squares);
    }

    fn merge(&mut self, other: &Self) {
        self.minimum = self.minimum.min(other.minimum);
        self.maximum = self.maximum.max(other.maximum);
        self.distinct.merge(&other.distinct);
        self.combine(other.count, other.mean, other.squares);
    }

    fn standard_deviation(&self) -> Option<f64> {
        (self.count > 1).then(|| (self.squares / (self.count - 1) as f64).sqrt())
    }
}

impl Integers {
    fn add(&mut self, array: &PrimitiveArray<Int64Type>) {
        let range = (arrow::compute::min(array), arrow::compute::max(array));
        if let (Some(minimum), Some(maximum)) = range {
            self.widen(minimum, maximum);
        }
        self.moments
            .add(array, |value| value as f64, |value| value as u64);
    }

    fn widen(&mut self, minimum: i64, maximum: i64) {
        self.range = Some(match self.range {
            None => (minimum, maximum),
            Some((low, high)) => (low.min(minimum), high.max(maximum)),
        });
    }

    fn merge(&mut self, other: &Self) {
        if let Some((minimum, maximum)) = other.range {
            self.widen(minimum, maximum);
        }
        self.moments.merge(&other.moments);
    }
}

#[derive(Clone, Debug, Default)]
struct Texts {
    frequencies: Frequencies,
    shortest: Option<u64>,
    longest: Option<u64>,
}

impl Texts {
    fn add(&mut self, array: &StringArray) {
        // Sorted and repeated columns are common: equal neighbours are counted once.
        let mut run: Option<(&str, u64)> = None;
        for value in array.iter().flatten() {
            match &mut run {
                Some((text, times)) if *text == value => *times += 1,
                _ => {
                    if let Some((text, times)) = run.replace((value, 1)) {
                        self.put(text, times);
                    }
                }
            }
        }
        if let Some((text, times)) = run {
            self.put(text, times);
        }
    }

    fn put(&mut self, text: &str, times: u64) {
        let length = text.len() as u64;
        self.shortest = Some(self.shortest.map_or(length, |known| known.min(length)));
        self.longest = Some(self.longest.map_or(length, |known| known.max(length)));
        self.frequencies.add(text, times);
    }

    fn merge(&mut self, other: Self) {
        self.shortest = [self.shortest, other.shortest].into_iter().flatten().min();
        self.longest = [self.longest, other.longest].into_iter().flatten().max();
        self.frequencies.merge(other.frequencies);
    }
}

impl TableStatistics {
    pub(crate) fn new(schema: &Schema) -> Self {
        let columns = schema
            .fields()
            .iter()
            .map(|field| ColumnStatistics {
                nulls: 0,
                values: match field.data_type() {
                    DataType::Boolean => Values::Booleans { yes: 0, no: 0 },
                    DataType::Utf8 => Values::Texts(Texts::default()),
                    DataType::Timestamp(..) | DataType::Date32 | DataType::Date64 => {
                        Values::Times(Integers::default())
                    }
                    DataType::UInt64 | DataType::Decimal128(..) | DataType::Decimal256(..) => {
                        Values::Floats(Moments::default())
                    }
                    kind if kind.is_integer() => Values::Integers(Integers::default()),
                    kind if kind.is_floating() => Values::Floats(Moments::default()),
                    _ => Values::Opaque,
                },
            })
            .collect();
        Self { rows: 0, columns }
    }

    /// Adds a batch of the schema given at the start.
    pub(crate) fn add(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.rows += batch.num_rows() as u64;
        for (statistics, array) in self.columns.iter_mut().zip(batch.columns()) {
            statistics.nulls += array.logical_null_count() as u64;
            statistics.values.add(array)?;
        }
        Ok(())
    }

    /// Adds another part's statistics.
    pub(crate) fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        for (mine, theirs) in self.columns.iter_mut().zip(other.columns) {
            mine.nulls += theirs.nulls;
            match (&mut mine.values, theirs.values) {
                (Values::Integers(mine), Values::Integers(theirs))
                | (Values::Times(mine), Values::Times(theirs)) => mine.merge(&theirs),
                (Values::Floats(mine), Values::Floats(theirs)) => mine.merge(&theirs),
                (Values::Texts(mine), Values::Texts(theirs)) => mine.merge(theirs),
                (
                    Values::Booleans { yes, no },
                    Values::Booleans {
                        yes: more_yes,
                        no: more_no,
                    },
                ) => {
                    *yes += more_yes;
                    *no += more_no;
                }
                _ => {}
            }
        }
    }

    pub(crate) fn rows(&self) -> u64 {
        self.rows
    }

    /// What a manifest says of each column.
    pub(crate) fn summaries(&self, schema: &Schema) -> Vec<ColumnSummary> {
        schema
            .fields()
            .iter()
            .zip(&self.columns)
            .map(|(field, statistics)| {
                let mut summary = ColumnSummary {
                    name: field.name().clone(),
                    data_type: field.data_type().to_string(),
                    nulls: statistics.nulls,
                    ..ColumnSummary::default()
                };
                statistics.values.describe(field.data_type(), &mut summary);
                summary
            })
            .collect()
    }
}

impl Values {
    fn add(&mut self, array: &ArrayRef) -> Result<(), ArrowError> {
        match self {
            Self::Integers(integers) | Self::Times(integers) => {
                match array.as_primitive_opt::<Int64Type>() {
                    Some(array) => integers.add(array),
                    None => integers.add(cast_to_integers(array)?.as_primitive::<Int64Type>()),
                }
            }
            Self::Floats(moments) => {
                let cast_array;
                let array = match array.as_primitive_opt::<Float64Type>() {
                    Some(array) => array,
                    None => {
                        cast_array = cast(array, &DataType::Float64)?;
                        cast_array.as_primitive::<Float64Type>()
                    }
                };
                moments.add(array, |value| value, f64::to_bits);
            }
            Self::Booleans { yes, no } => {
                if let Some(array) = array.as_any().downcast_ref::<BooleanArray>() {
                    *yes += array.true_count() as u64;
                    *no += array.false_count() as u64;
                }
            }
            Self::Texts(texts) => {
                if let Some(array) = array.as_any().downcast_ref::<StringArray>() {
                    texts.add(array);
                }
            }
            Self::Opaque => {}
        }
        Ok(())
    }

    fn describe(&self, data_type: &DataType, summary: &mut ColumnSummary) {
        match self {
            Self::Integers(integers) => {
                if let Some((minimum, maximum)) = integers.range {
                    summary.min = Some(minimum.into());
                    summary.max = Some(maximum.into());
                    summary.mean = Some(integers.moments.mean);
                    summary.standard_deviation = integers.moments.standard_deviation();
                }
                summary.distinct = Some(integers.moments.distinct.estimate());
            }
            Self::Times(integers) => {
                if let Some((minimum, maximum)) = integers.range {
                    summary.min = show_time(data_type, minimum);
                    summary.max = show_time(data_type, maximum);
                }
                summary.distinct = Some(integers.moments.distinct.estimate());
            }
            Self::Floats(moments) => {
                if moments.count > 0 {
                    let number = |value| Number::from_f64(value).map(Value::Number);
                    summary.min = number(moments.minimum);
                    summary.max = number(moments.maximum);
                    summary.mean = Some(moments.mean);
                    summary.standard_deviation = moments.standard_deviation();
                }
                summary.distinct = Some(moments.distinct.estimate());
            }
            Self::Booleans { yes, no } => {
                summary.distinct = Some(u64::from(*yes > 0) + u64::from(*no > 0));
                summary.top_values = [("true", *yes), ("false", *no)]
                    .into_iter()
                    .filter(|(_, count)| *count > 0)
                    .map(|(value, count)| TopValue {
                        value: value.to_owned(),
                        count,
                    })
                    .collect();
                if yes + no > 0 {
                    summary.mean = Some(*yes as f64 / (yes + no) as f64);
                }
            }
            Self::Texts(texts) => {
                summary.distinct = Some(texts.frequencies.distinct());
                summary.shortest = texts.shortest;
                summary.longest = texts.longest;
                if texts.frequencies.is_exact() {
                    summary.top_values = texts
                        .frequencies
                        .top(TOP_VALUES)
                        .into_iter()
                        .map(|(value, count)| TopValue { value, count })
                        .collect();
                }
            }
            Self::Opaque => {}
        }
    }
}

/// Any integer, date or time as 64-bit integers of its own unit.
fn cast_to_integers(array: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    match array.data_type() {
        DataType::Date32 => cast(&cast(array, &DataType::Int32)?, &DataType::Int64),
        _ => cast(array, &DataType::Int64),
    }
}

/// A time in ISO 8601.
fn show_time(data_type: &DataType, value: i64) -> Option<Value> {
    use chrono::DateTime;
    let time = match data_type {
        DataType::Date32 => {
            let seconds = value.checked_mul(86_400)?;
            let date = DateTime::from_timestamp(seconds, 0)?.date_naive();
            return Some(date.to_string().into());
        }
        DataType::Date64 => DateTime::from_timestamp_millis(value)?,
        DataType::Timestamp(TimeUnit::Second, _) => DateTime::from_timestamp(value, 0)?,
        DataType::Timestamp(TimeUnit::Millisecond, _) => DateTime::from_timestamp_millis(value)?,
        DataType::Timestamp(TimeUnit::Microsecond, _) => DateTime::from_timestamp_micros(value)?,
        DataType::Timestamp(TimeUnit::Nanosecond, _) => DateTime::from_timestamp_nanos(value),
        _ => return None,
    };
    Some(
        time.naive_utc()
            .format("%Y-%m-%dT%H:%M:%S%.f")
            .to_string()
            .into(),
    )
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{Float64Array, Int64Array};
    use proptest::prelude::*;

    use super::*;

    fn batch(rows: &[(Option<i64>, Option<f64>, Option<String>)]) -> RecordBatch {
        let integers: Int64Array = rows.iter().map(|row| row.0).collect();
        let floats: Float64Array = rows.iter().map(|row| row.1).collect();
        let texts: StringArray = rows.iter().map(|row| row.2.as_deref()).collect();
        RecordBatch::try_from_iter([
            ("i", Arc::new(integers) as ArrayRef),
            ("f", Arc::new(floats)),
            ("s", Arc::new(texts)),
        ])
        .expect("a batch")
    }

    fn close(left: Option<f64>, right: Option<f64>) -> bool {
        match (left, right) {
            (Some(left), Some(right)) => {
                (left - right).abs() <= 1e-9 * (1.0 + left.abs().max(right.abs()))
            }
            (left, right) => left.is_none() && right.is_none(),
        }
    }

    proptest! {
        /// Gathered in two parts or at once, against the textbook's formulas.
        #[test]
        fn parts_add_up_to_the_whole(
            rows in proptest::collection::vec(
                (proptest::option::of(-1000i64..1000), proptest::option::of(-1e6f64..1e6), proptest::option::of("[a-c]{0,2}")),
                0..80,
            ),
            cut in 0usize..80,
        ) {
            let cut = cut.min(rows.len());
            let schema = batch(&rows).schema();
            let gather = |rows: &[_]| {
                let mut statistics = TableStatistics::new(&schema);
                statistics.add(&batch(rows)).expect("added");
                statistics
            };
            let whole = gather(&rows).summaries(&schema);
            let mut parts = gather(&rows[..cut]);
            parts.merge(gather(&rows[cut..]));
            prop_assert_eq!(parts.rows(), rows.len() as u64);
            for (part, whole) in parts.summaries(&schema).iter().zip(&whole) {
                prop_assert_eq!(part.nulls, whole.nulls);
                prop_assert_eq!(part.distinct, whole.distinct);
                prop_assert_eq!(&part.min, &whole.min);
                prop_assert_eq!(&part.max, &whole.max);
                prop_assert_eq!(&part.top_values, &whole.top_values);
                prop_assert!(close(part.mean, whole.mean));
                prop_assert!(close(part.standard_deviation, whole.standard_deviation));
            }
            let floats: Vec<f64> = rows.iter().filter_map(|row| row.1).collect();
            let n = floats.len() as f64;
            let mean = floats.iter().sum::<f64>() / n;
            if floats.len() > 1 {
                let variance = floats.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0);
                prop_assert!(close(whole[1].mean, Some(mean)));
                prop_assert!(close(whole[1].standard_deviation, Some(variance.sqrt())));
            }
            let integers: std::collections::BTreeSet<i64> = rows.iter().filter_map(|row| row.0).collect();
            prop_assert_eq!(whole[0].min.as_ref().and_then(Value::as_i64), integers.first().copied());
            prop_assert_eq!(whole[0].max.as_ref().and_then(Value::as_i64), integers.last().copied());
        }
    }
}
