//! A table with every kind of column, and a clock.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{
    ArrayRef, BooleanArray, Date32Array, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use cumulo_learn::artifact::Identity;
use cumulo_learn::train::Progress;

pub struct Stopwatch(pub Instant);

impl Stopwatch {
    pub fn start() -> Self {
        Self(Instant::now())
    }
}

impl Progress for Stopwatch {
    fn elapsed(&mut self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

pub fn identity() -> Identity {
    Identity {
        model_uuid: "0123456789abcdef0123456789abcdef".into(),
        created: chrono::DateTime::from_timestamp(1_700_000_000, 0).expect("a valid instant"),
        run_id: None,
        model_id: None,
    }
}

/// A sequence that looks random and is the same every time.
fn noise(row: usize, salt: u64) -> f64 {
    let mut z =
        (row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ salt.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Gaps in every kind of column, rare texts, awkward names, times before 1970.
pub fn batch(rows: usize, shift: usize) -> RecordBatch {
    let at = |row: usize, salt: u64| noise(row + shift, salt);
    let gap = |row: usize, salt: u64| at(row, salt + 100) < 0.08;
    let number: Vec<Option<f64>> = (0..rows)
        .map(|row| (!gap(row, 1)).then(|| at(row, 1) * 1e3 - 300.0))
        .collect();
    let count: Vec<Option<i64>> = (0..rows)
        .map(|row| (!gap(row, 2)).then(|| (at(row, 2) * 20.0) as i64 - 4))
        .collect();
    let flag: Vec<Option<bool>> = (0..rows)
        .map(|row| (!gap(row, 3)).then(|| at(row, 3) < 0.4))
        .collect();
    let text: Vec<Option<String>> = (0..rows)
        .map(|row| {
            let level = (at(row, 4) * at(row, 14) * 12.0) as usize;
            let rare = at(row, 5) < 0.01;
            (!gap(row, 4)).then(|| {
                if rare {
                    format!("rare {row}")
                } else {
                    format!("größe \"{level}\"")
                }
            })
        })
        .collect();
    let when: Vec<Option<i64>> = (0..rows)
        .map(|row| (!gap(row, 6)).then(|| (at(row, 6) * 2e15) as i64 - 500_000_000_000_000))
        .collect();
    let day: Vec<Option<i32>> = (0..rows)
        .map(|row| (!gap(row, 7)).then(|| (at(row, 7) * 20_000.0) as i32 - 2_000))
        .collect();
    let score: Vec<f64> = (0..rows)
        .map(|row| {
            let hour = when[row].map_or(3.0, |micros| {
                (micros.div_euclid(3_600_000_000)).rem_euclid(24) as f64
            });
            number[row].map_or(0.7, |n| (n / 200.0).sin())
                + count[row].map_or(0.0, |n| n as f64 / 10.0)
                + if flag[row] == Some(true) { 0.8 } else { 0.0 }
                + text[row]
                    .as_ref()
                    .map_or(0.3, |text| text.len() as f64 % 3.0 / 2.0)
                + hour / 24.0
                + at(row, 8)
        })
        .collect();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("a number", Arc::new(Float64Array::from(number))),
        ("count", Arc::new(Int64Array::from(count))),
        ("flag", Arc::new(BooleanArray::from(flag))),
        ("text,1", Arc::new(StringArray::from(text))),
        ("when", Arc::new(TimestampMicrosecondArray::from(when))),
        ("day", Arc::new(Date32Array::from(day))),
        ("amount", Arc::new(Float64Array::from(score.clone()))),
        (
            "late",
            Arc::new(BooleanArray::from(
                score.iter().map(|s| *s > 2.2).collect::<Vec<_>>(),
            )),
        ),
        (
            "grade",
            Arc::new(StringArray::from(
                score
                    .iter()
                    .map(|s| ["low", "middle", "high"][(*s as usize).min(2)])
                    .collect::<Vec<_>>(),
            )),
        ),
        (
            "level",
            Arc::new(Int64Array::from(
                score
                    .iter()
                    .map(|s| i64::from(*s > 1.5) + 1)
                    .collect::<Vec<_>>(),
            )),
        ),
    ];
    RecordBatch::try_from_iter_with_nullable(
        columns.into_iter().map(|(name, array)| (name, array, true)),
    )
    .expect("columns of one length")
}

pub const TARGETS: [&str; 4] = ["amount", "late", "grade", "level"];
