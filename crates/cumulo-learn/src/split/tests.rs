use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use proptest::prelude::*;

use super::*;
use crate::random::Random;

/// Rows as (number, text, label, time).
type Row = (i64, u8, u8, i64);

fn table(rows: &[Row], reverse_columns: bool) -> (Table, Vec<f64>) {
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        (
            "number",
            Arc::new(Int64Array::from(
                rows.iter().map(|r| r.0).collect::<Vec<_>>(),
            )),
        ),
        (
            "text",
            Arc::new(StringArray::from(
                rows.iter().map(|r| format!("t{}", r.1)).collect::<Vec<_>>(),
            )),
        ),
        (
            "label",
            Arc::new(Int64Array::from(
                rows.iter().map(|r| i64::from(r.2)).collect::<Vec<_>>(),
            )),
        ),
        (
            "time",
            Arc::new(TimestampMicrosecondArray::from(
                rows.iter().map(|r| r.3).collect::<Vec<_>>(),
            )),
        ),
    ];
    if reverse_columns {
        columns.reverse();
    }
    let table = Table::from_batches(&[RecordBatch::try_from_iter(columns).unwrap()]).unwrap();
    (table, rows.iter().map(|r| f64::from(r.2)).collect())
}

/// The content of the rows of both sides, in order.
fn split(rows: &[Row], holdout: &Holdout, reverse_columns: bool) -> Option<(Vec<Row>, Vec<Row>)> {
    let (table, labels) = table(rows, reverse_columns);
    let split = Splitter::new(&table, "label", holdout)
        .unwrap()
        .split(&labels)
        .ok()?;
    let content = |side: &[u32]| side.iter().map(|row| rows[*row as usize]).collect();
    Some((content(&split.training), content(&split.holdout)))
}

fn shuffled(rows: &[Row], seed: u64) -> Vec<Row> {
    let mut rows = rows.to_vec();
    let mut random = Random::new(seed);
    for at in (1..rows.len()).rev() {
        rows.swap(at, random.below(at + 1));
    }
    rows
}

fn rows() -> impl Strategy<Value = Vec<Row>> {
    prop::collection::vec((-3i64..4, 0u8..4, 0u8..2, 0i64..10), 10..80)
}

fn ways() -> impl Strategy<Value = Holdout> {
    prop_oneof![
        (0.1..0.6f64, any::<u64>()).prop_map(|(fraction, seed)| Holdout::Hash { fraction, seed }),
        (0.1..0.6f64).prop_map(|fraction| Holdout::Time {
            column: "time".into(),
            fraction
        }),
    ]
}

proptest! {
    /// The same rows in another order, with columns in another order, give the same sides in the same order.
    #[test]
    fn the_order_of_rows_and_columns_does_not_matter(rows in rows(), holdout in ways(), seed in any::<u64>()) {
        prop_assert_eq!(split(&rows, &holdout, false), split(&shuffled(&rows, seed), &holdout, true));
    }

    /// Rows that differ in the label at most share a side.
    #[test]
    fn duplicates_share_a_side(rows in rows(), holdout in ways()) {
        if let Some((training, held)) = split(&rows, &holdout, false) {
            for a in &training {
                for b in &held {
                    prop_assert!((a.0, a.1, a.3) != (b.0, b.1, b.3));
                }
            }
            prop_assert_eq!(training.len() + held.len(), rows.len());
        }
    }

    /// By time, everything held out is later than everything trained on.
    #[test]
    fn the_held_out_rows_are_the_latest(rows in rows(), fraction in 0.1..0.6f64) {
        let holdout = Holdout::Time { column: "time".into(), fraction };
        if let Some((training, held)) = split(&rows, &holdout, false) {
            let last = training.iter().map(|row| row.3).max().unwrap();
            let first = held.iter().map(|row| row.3).min().unwrap();
            prop_assert!(last < first);
            prop_assert!(held.len() as f64 >= (rows.len() as f64 * fraction).round());
        }
    }

    /// A row keeps its side when rows are added, so a champion has not seen what a candidate is tested on.
    #[test]
    fn a_row_keeps_its_side_when_rows_are_added(old in rows(), new in rows(), seed in any::<u64>()) {
        let holdout = Holdout::Hash { fraction: 0.3, seed };
        let all: Vec<Row> = old.iter().chain(&new).copied().collect();
        if let (Some((trained, _)), Some((_, held))) = (split(&old, &holdout, false), split(&all, &holdout, false)) {
            prop_assert!(trained.iter().all(|row| !held.contains(row)));
        }
    }

    /// The validation rows come out of the training rows and nothing is lost.
    #[test]
    fn validation_rows_are_a_part_of_training(rows in rows(), holdout in ways()) {
        let (table, labels) = table(&rows, false);
        let splitter = Splitter::new(&table, "label", &holdout).unwrap();
        if let Ok(split) = splitter.split(&labels) {
            let (fit, validation) = splitter.validation(&split.training);
            let mut both: Vec<u32> = fit.iter().chain(&validation).copied().collect();
            both.sort_unstable();
            let mut training = split.training.clone();
            training.sort_unstable();
            prop_assert_eq!(both, training);
        }
    }
}

#[test]
fn the_share_is_about_what_was_asked() {
    let rows: Vec<Row> = (0..20_000).map(|n| (n, 0, 0, n)).collect();
    for (holdout, tolerance) in [
        (
            Holdout::Hash {
                fraction: 0.2,
                seed: 7,
            },
            0.01,
        ),
        (
            Holdout::Time {
                column: "time".into(),
                fraction: 1.0 / 6.0,
            },
            1e-4,
        ),
    ] {
        let (Holdout::Hash { fraction, .. } | Holdout::Time { fraction, .. }) = &holdout;
        let (_, held) = split(&rows, &holdout, false).unwrap();
        let share = held.len() as f64 / rows.len() as f64;
        assert!(
            (share - fraction).abs() < tolerance,
            "{share} of {holdout:?}"
        );
    }
}

#[test]
fn rows_without_a_label_are_in_neither_part() {
    let rows: Vec<Row> = (0..200).map(|n| (n, 0, 0, n)).collect();
    let (table, mut labels) = table(&rows, false);
    labels[..50].fill(f64::NAN);
    let split = Splitter::new(&table, "label", &Holdout::default())
        .unwrap()
        .split(&labels)
        .unwrap();
    assert_eq!(split.training.len() + split.holdout.len(), 150);
    assert!(
        split
            .training
            .iter()
            .chain(&split.holdout)
            .all(|row| *row >= 50)
    );
}

#[test]
fn numbers_order_rows_as_times_do() {
    let values = vec![
        f64::NAN,
        -2.0,
        -1.0,
        0.0,
        1.0,
        2.0,
        f64::INFINITY,
        f64::NEG_INFINITY,
    ];
    let table = Table::from_batches(&[RecordBatch::try_from_iter(vec![(
        "n",
        Arc::new(Float64Array::from(values)) as ArrayRef,
    )])
    .unwrap()])
    .unwrap();
    let instants = instants(&table, "n").unwrap();
    let order = [0, 7, 1, 2, 3, 4, 5, 6];
    assert!(
        order
            .windows(2)
            .all(|pair| instants[pair[0]] < instants[pair[1]]),
        "{instants:?}"
    );
}

#[test]
fn splits_that_make_no_sense_are_refused() {
    let same: Vec<Row> = vec![(1, 1, 0, 5); 30];
    let (table, labels) = table(&same, false);
    let refusal = |holdout: Holdout| match Splitter::new(&table, "label", &holdout) {
        Err(error) => error.to_string(),
        Ok(splitter) => splitter.split(&labels).unwrap_err().to_string(),
    };
    insta::assert_snapshot!(refusal(Holdout::Time { column: "time".into(), fraction: 0.2 }), @"holding out by time leaves 0 rows to train on and 30 held out of 30; too few rows differ; change holdout.fraction or hold out in another way");
    insta::assert_snapshot!(refusal(Holdout::Time { column: "text".into(), fraction: 0.2 }), @"holdout.column `text` holds text; it must be a time, a date or a number that grows with time");
    insta::assert_snapshot!(refusal(Holdout::Time { column: "times".into(), fraction: 0.2 }), @"the snapshot has no column `times`; did you mean `time`?");
    insta::assert_snapshot!(refusal(Holdout::Hash { fraction: 1.5, seed: 0 }), @"holdout.fraction is 1.5; it must be above 0 and at most 0.9");
}
