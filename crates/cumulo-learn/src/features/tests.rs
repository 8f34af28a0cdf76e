use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, DictionaryArray, Float64Array, Int64Array, ListArray, RecordBatch,
    StringArray, TimestampSecondArray,
};
use arrow::datatypes::{Int32Type, Int64Type};
use proptest::prelude::*;

use super::*;
use crate::column::{Column, Columns};
use crate::table::Table;

fn table(columns: Vec<(&str, ArrayRef)>) -> Table {
    Table::from_batches(&[RecordBatch::try_from_iter(columns).unwrap()]).unwrap()
}

fn every_row(table: &Table) -> Vec<u32> {
    (0..table.rows() as u32).collect()
}

fn sample() -> Table {
    let carriers: DictionaryArray<Int32Type> = ["UA", "UA", "AA", "UA", "AA", "DL", "UA", "AA"]
        .into_iter()
        .collect();
    table(vec![
        (
            "late",
            Arc::new(BooleanArray::from(vec![
                true, false, false, true, false, true, false, true,
            ])),
        ),
        (
            "distance",
            Arc::new(Int64Array::from(vec![
                Some(10),
                None,
                Some(30),
                Some(40),
                Some(50),
                Some(60),
                Some(70),
                Some(80),
            ])),
        ),
        ("carrier", Arc::new(carriers)),
        (
            "when",
            Arc::new(TimestampSecondArray::from(vec![
                0, 3_600, 86_400, 90_000, 2_678_400, 5, 6, 7,
            ])),
        ),
        ("same", Arc::new(Float64Array::from(vec![1.5; 8]))),
        (
            "nothing",
            Arc::new(StringArray::from(vec![None::<&str>; 8])),
        ),
        (
            "list",
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(vec![
                Some(
                    vec![Some(1)]
                );
                8
            ])),
        ),
        (
            "secret",
            Arc::new(Int64Array::from((0..8).collect::<Vec<i64>>())),
        ),
    ])
}

fn sample_plan() -> FeaturePlan {
    let table = sample();
    let options = FeatureOptions {
        exclude: vec!["secret".into()],
        ..FeatureOptions::default()
    };
    infer(
        &table,
        Task::Classification,
        "late",
        &options,
        &every_row(&table),
    )
    .unwrap()
}

#[test]
fn a_plan_is_inferred_from_columns() {
    insta::assert_json_snapshot!(sample_plan(), @r#"
    {
      "version": 1,
      "task": "classification",
      "target": {
        "name": "late",
        "classes": [
          false,
          true
        ],
        "threshold": 0.5
      },
      "inputs": [
        {
          "name": "distance",
          "type": "long",
          "required": true,
          "example": 10
        },
        {
          "name": "carrier",
          "type": "string",
          "required": true,
          "example": "UA"
        },
        {
          "name": "when",
          "type": "datetime",
          "required": true,
          "example": "1970-01-01T00:00:00Z"
        }
      ],
      "features": [
        {
          "name": "distance",
          "input": "distance",
          "kind": "number"
        },
        {
          "name": "carrier",
          "input": "carrier",
          "kind": "category",
          "levels": [
            "UA",
            "AA"
          ],
          "other": true
        },
        {
          "name": "when.month",
          "input": "when",
          "kind": "time",
          "part": "month"
        },
        {
          "name": "when.day",
          "input": "when",
          "kind": "time",
          "part": "day"
        },
        {
          "name": "when.weekday",
          "input": "when",
          "kind": "time",
          "part": "weekday"
        },
        {
          "name": "when.hour",
          "input": "when",
          "kind": "time",
          "part": "hour"
        }
      ],
      "dropped": [
        {
          "column": "same",
          "reason": "the same in every training row"
        },
        {
          "column": "nothing",
          "reason": "missing in every training row"
        },
        {
          "column": "list",
          "reason": "of type List(Int64), which is not learned from"
        },
        {
          "column": "secret",
          "reason": "excluded by the specification"
        }
      ]
    }
    "#);
}

#[test]
fn a_plan_survives_its_json() {
    let plan = sample_plan();
    assert_eq!(FeaturePlan::from_json(&plan.to_json()).unwrap(), plan);
}

#[test]
fn a_snapshot_and_a_request_become_the_same_features() {
    let table = sample();
    let encoder = Encoder::new(&sample_plan());
    let from_table = encoder.encode_table(&table).unwrap();
    let from_columns = encoder
        .encode(&table.to_columns(&every_row(&table)))
        .unwrap();
    let bits = |values: &[f64]| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&from_table), bits(&from_columns));
    // distance, carrier, month, day, weekday (Thursday), hour
    assert_eq!(from_table[..6], [10.0, 0.0, 1.0, 1.0, 3.0, 0.0]);
    // DL is rare and shares the number after the known levels.
    assert_eq!(from_table[5 * 6 + 1], 2.0);
}

#[test]
fn an_unseen_level_is_missing_unless_training_had_rare_ones() {
    let mut plan = sample_plan();
    let unseen = Columns::new(vec![
        ("distance".into(), Column::F64(vec![1.0])),
        ("carrier".into(), Column::Str(vec![Some("ZZ".into())])),
        (
            "when".into(),
            Column::Str(vec![Some("2013-02-03 04:05".into())]),
        ),
    ])
    .unwrap();
    assert_eq!(
        Encoder::new(&plan).encode(&unseen).unwrap()[1..],
        [2.0, 2.0, 3.0, 6.0, 4.0]
    );
    let Transform::Category { other, .. } = &mut plan.features[1].transform else {
        panic!("the second feature is a category")
    };
    *other = false;
    assert!(Encoder::new(&plan).encode(&unseen).unwrap()[1].is_nan());
}

fn refusal(columns: Vec<(&str, Column)>) -> String {
    let columns = Columns::new(
        columns
            .into_iter()
            .map(|(name, column)| (name.to_owned(), column))
            .collect(),
    )
    .unwrap();
    Encoder::new(&sample_plan())
        .encode(&columns)
        .unwrap_err()
        .to_string()
}

#[test]
fn wrong_columns_are_refused_with_what_is_wrong() {
    let text = |value: &str| Column::Str(vec![Some(value.into())]);
    let time = Column::Timestamp(vec![Some(0)]);
    insta::assert_snapshot!(refusal(vec![("dist", Column::I64(vec![1])), ("Carrier", text("UA")), ("when", time.clone())]),
        @"2 columns are missing: `distance`, `carrier`; is `dist` meant to be `distance`? is `Carrier` meant to be `carrier`?");
    insta::assert_snapshot!(refusal(vec![("distance", Column::I64(vec![1])), ("carrier", text("UA"))]),
        @"column `when` (times (ISO 8601)) is missing; given: `distance`, `carrier`");
    insta::assert_snapshot!(refusal(vec![]),
        @"3 columns are missing: `distance`, `carrier`, `when`; given: no columns");
    insta::assert_snapshot!(refusal(vec![("distance", text("far")), ("carrier", text("UA")), ("when", time.clone())]),
        @"column `distance` must hold whole numbers, but holds text");
    insta::assert_snapshot!(refusal(vec![("distance", Column::I64(vec![1])), ("carrier", Column::I64(vec![1])), ("when", time)]),
        @"column `carrier` must hold text, but holds whole numbers");
    insta::assert_snapshot!(refusal(vec![("distance", Column::I64(vec![1])), ("carrier", text("UA")), ("when", text("tomorrow"))]),
        @r#"column `when`, row 0: "tomorrow" is no time; write it as in 2013-01-31T10:00:00Z"#);
}

#[test]
fn a_column_without_any_value_fits_every_type() {
    let columns = Columns::new(vec![
        ("distance".into(), Column::Str(vec![None])),
        ("carrier".into(), Column::F64(vec![f64::NAN])),
        ("when".into(), Column::Str(vec![None])),
    ])
    .unwrap();
    let features = Encoder::new(&sample_plan()).encode(&columns).unwrap();
    assert!(features.iter().all(|feature| feature.is_nan()));
}

fn infer_error(task: Task, target: &str, options: FeatureOptions) -> String {
    let table = sample();
    infer(&table, task, target, &options, &every_row(&table))
        .unwrap_err()
        .to_string()
}

#[test]
fn a_specification_that_does_not_fit_is_refused() {
    let none = FeatureOptions::default;
    insta::assert_snapshot!(infer_error(Task::Classification, "latee", none()), @"the snapshot has no column `latee`; did you mean `late`?");
    insta::assert_snapshot!(infer_error(Task::Regression, "carrier", none()), @"the target `carrier` holds text, which regression cannot predict; use `task: classification` or cast it in the query");
    insta::assert_snapshot!(infer_error(Task::Classification, "same", none()), @"the target `same` holds fractions, which classification cannot predict; use `task: regression`, or compute a class in the query");
    insta::assert_snapshot!(infer_error(Task::Classification, "nothing", none()), @"the target `nothing` has 0 distinct values; classification needs 2 to 200; does the query filter the others out?");
    insta::assert_snapshot!(infer_error(Task::Classification, "late", FeatureOptions { include: vec!["same".into()], exclude: vec![] }),
        @"no column can serve as a feature: `distance` is excluded by the specification, `carrier` is excluded by the specification, `when` is excluded by the specification, `same` is the same in every training row, `nothing` is excluded by the specification, `list` is excluded by the specification, `secret` is excluded by the specification");
    insta::assert_snapshot!(infer_error(Task::Classification, "late", FeatureOptions { include: vec![], exclude: vec!["secrets".into()] }),
        @"the snapshot has no column `secrets`; did you mean `secret`?");
}

#[test]
fn plans_that_cannot_be_applied_are_refused() {
    let mut later = sample_plan();
    later.version = 2;
    insta::assert_snapshot!(later.check().unwrap_err(), @"the feature plan has version 2, this program reads up to 1; use a newer one");
    let mut wrong = sample_plan();
    wrong.inputs[1].input_type = InputType::Double;
    insta::assert_snapshot!(wrong.check().unwrap_err(), @"the feature plan is inconsistent: feature `carrier` cannot be made from numbers");
}

#[test]
fn times_are_read_from_text() {
    let micros = |text: &str| time::parse(text);
    assert_eq!(micros("1970-01-01"), Some(0));
    for text in [
        "2013-01-31T10:20:30Z",
        "2013-01-31T10:20:30",
        "2013-01-31 10:20:30",
        "2013-01-31 10:20:30Z",
        "2013-01-31T11:20:30+01:00",
        "2013-01-31 05:20:30-05:00",
        "2013-01-31 10:20:30+00",
        " 2013-01-31T10:20:30.000000 ",
    ] {
        assert_eq!(micros(text), Some(1_359_627_630_000_000), "{text}");
    }
    for text in [
        "",
        "soon",
        "2013",
        "2013-13-01",
        "31.01.2013",
        "2013-01-31T25:00:00",
    ] {
        assert_eq!(micros(text), None, "{text}");
    }
}

proptest! {
    /// The parts agree with chrono's calendar, before 1970 too.
    #[test]
    fn parts_of_a_time_agree_with_the_calendar(micros in -60_000_000_000_000_000i64..60_000_000_000_000_000) {
        use chrono::{Datelike, Timelike};
        let known = chrono::DateTime::from_timestamp_micros(micros).unwrap();
        prop_assert_eq!(time::part(micros, TimePart::Year), f64::from(known.year()));
        prop_assert_eq!(time::part(micros, TimePart::Month), f64::from(known.month()));
        prop_assert_eq!(time::part(micros, TimePart::Day), f64::from(known.day()));
        prop_assert_eq!(time::part(micros, TimePart::Weekday), f64::from(known.weekday().num_days_from_monday()));
        prop_assert_eq!(time::part(micros, TimePart::Hour), f64::from(known.hour()));
        prop_assert_eq!(time::part(micros, TimePart::Minute), f64::from(known.minute()));
    }

    /// Frequencies, not the order of rows, decide on levels.
    #[test]
    fn a_plan_does_not_depend_on_the_order_of_rows(
        values in prop::collection::vec((0u8..6, -5i64..5), 8..60),
        seed in any::<u64>(),
    ) {
        let build = |values: &[(u8, i64)]| {
            let texts: Vec<String> = values.iter().map(|(text, _)| format!("level {text}")).collect();
            let labels: Vec<bool> = values.iter().map(|(text, _)| *text > 2).collect();
            table(vec![
                ("y", Arc::new(BooleanArray::from(labels)) as ArrayRef),
                ("text", Arc::new(StringArray::from(texts))),
                ("number", Arc::new(Int64Array::from(values.iter().map(|(_, n)| *n).collect::<Vec<_>>()))),
            ])
        };
        let mut shuffled = values.clone();
        let mut random = crate::random::Random::new(seed);
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, random.below(at + 1));
        }
        let plan = |table: &Table| infer(table, Task::Classification, "y", &FeatureOptions::default(), &every_row(table)).ok()
            .map(|plan| (plan.features, plan.target, plan.dropped));
        prop_assert_eq!(plan(&build(&values)), plan(&build(&shuffled)));
    }
}
