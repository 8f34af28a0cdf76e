use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray,
};

use super::*;
use crate::column::{Column, Columns};
use crate::random::Random;

/// A clock that moves by `step` seconds whenever it is looked at.
struct Steps {
    now: f64,
    step: f64,
    trials: Vec<Trial>,
    cancel_at: f64,
}

impl Steps {
    fn of(step: f64) -> Self {
        Self {
            now: 0.0,
            step,
            trials: Vec::new(),
            cancel_at: f64::INFINITY,
        }
    }
}

impl Progress for Steps {
    fn elapsed(&mut self) -> f64 {
        self.now += self.step;
        self.now
    }

    fn trial(&mut self, trial: &Trial) {
        self.trials.push(trial.clone());
    }

    fn cancelled(&mut self) -> bool {
        self.now > self.cancel_at
    }
}

/// Rows in which `late` follows from a number, a text and an hour, with noise.
fn batch(rows: usize, seed: u64, shuffle: u64) -> RecordBatch {
    let mut random = Random::new(seed);
    let hour = 3_600_000_000i64;
    let mut made: Vec<(Option<f64>, usize, i64, f64)> = (0..rows)
        .map(|row| {
            let distance = (random.unit() > 0.1).then(|| random.between(0.0, 100.0));
            let carrier = random.below(5);
            let when = row as i64 * hour;
            let score = distance.unwrap_or(80.0) / 50.0
                + carrier as f64 / 3.0
                + f64::from(u8::from(row % 24 > 16)) * 1.5
                + random.between(-1.0, 1.0);
            (distance, carrier, when, score)
        })
        .collect();
    let mut random = Random::new(shuffle);
    if shuffle > 0 {
        for at in (1..made.len()).rev() {
            made.swap(at, random.below(at + 1));
        }
    }
    let column = |name, array: ArrayRef| (name, array);
    RecordBatch::try_from_iter_with_nullable(
        vec![
            column(
                "distance",
                Arc::new(Float64Array::from(
                    made.iter().map(|r| r.0).collect::<Vec<_>>(),
                )) as ArrayRef,
            ),
            column(
                "carrier",
                Arc::new(StringArray::from(
                    made.iter()
                        .map(|r| format!("carrier {}", r.1))
                        .collect::<Vec<_>>(),
                )),
            ),
            column(
                "when",
                Arc::new(TimestampMicrosecondArray::from(
                    made.iter().map(|r| r.2).collect::<Vec<_>>(),
                )),
            ),
            column(
                "late",
                Arc::new(BooleanArray::from(
                    made.iter().map(|r| r.3 > 2.2).collect::<Vec<_>>(),
                )),
            ),
            column(
                "delay",
                Arc::new(Float64Array::from(
                    made.iter().map(|r| r.3).collect::<Vec<_>>(),
                )),
            ),
            column(
                "level",
                Arc::new(Int64Array::from(
                    made.iter()
                        .map(|r| (r.3 as i64).clamp(0, 3))
                        .collect::<Vec<_>>(),
                )),
            ),
        ]
        .into_iter()
        .map(|(name, array)| (name, array, true)),
    )
    .unwrap()
}

fn request(task: Task, target: &str) -> TrainRequest {
    let all = ["late", "delay", "level"];
    TrainRequest {
        features: FeatureOptions {
            include: Vec::new(),
            exclude: all
                .iter()
                .filter(|name| **name != target)
                .map(|name| (*name).to_owned())
                .collect(),
        },
        budget_seconds: 10_000.0,
        threads: Some(1),
        max_trials: Some(3),
        ..TrainRequest::new(task, target)
    }
}

fn run(request: &TrainRequest, batch: &RecordBatch) -> TrainOutcome {
    train(request, std::slice::from_ref(batch), &mut Steps::of(0.001)).unwrap()
}

#[test]
fn two_classes_are_learned_and_beat_the_baseline() {
    let request = TrainRequest {
        slices: vec!["carrier".into(), "distance".into(), "when".into()],
        ..request(Task::Classification, "late")
    };
    let outcome = run(&request, &batch(3_000, 1, 0));
    assert!(outcome.metrics["auc"] > 0.85, "{:?}", outcome.metrics);
    assert!((outcome.baseline["auc"] - 0.5).abs() < 1e-12);
    assert_eq!(
        outcome.winner,
        Winner::Trial {
            trial: match outcome.winner {
                Winner::Trial { trial, .. } => trial,
                Winner::Baseline => 0,
            },
            refit: true
        }
    );
    assert_eq!(outcome.trials.len(), 4);
    assert_eq!(outcome.rows.training + outcome.rows.holdout, 3_000);
    assert_eq!(outcome.slices["carrier"].len(), 5);
    assert_eq!(
        outcome.slices["distance"]
            .iter()
            .map(|slice| slice.rows)
            .sum::<usize>(),
        outcome.rows.holdout
    );
    assert!(
        (outcome
            .importance
            .iter()
            .map(|(_, share)| share)
            .sum::<f64>()
            - 1.0)
            .abs()
            < 1e-9
    );
}

#[test]
fn several_classes_and_numbers_are_learned() {
    let rows = batch(3_000, 2, 0);
    let classes = run(&request(Task::Classification, "level"), &rows);
    assert!(
        classes.metrics["logloss"] < 0.9 * classes.baseline["logloss"],
        "{:?}",
        classes.metrics
    );
    let number = run(&request(Task::Regression, "delay"), &rows);
    assert!(number.metrics["r2"] > 0.6, "{:?}", number.metrics);
    let absolute = run(
        &TrainRequest {
            metric: Some(Metric::Mae),
            ..request(Task::Regression, "delay")
        },
        &rows,
    );
    assert!(absolute.metrics["mae"] < absolute.baseline["mae"]);
}

#[test]
fn the_order_of_rows_does_not_change_the_model() {
    for holdout in [
        Holdout::default(),
        Holdout::Time {
            column: "when".into(),
            fraction: 0.2,
        },
    ] {
        let request = TrainRequest {
            holdout,
            ..request(Task::Classification, "late")
        };
        let first = run(&request, &batch(1_500, 3, 0));
        let second = run(&request, &batch(1_500, 3, 99));
        assert_eq!(first.trees, second.trees);
        assert_eq!(first.plan.features, second.plan.features);
        assert_eq!(first.metrics, second.metrics);
    }
}

#[test]
fn nothing_to_learn_leaves_the_baseline() {
    let mut random = Random::new(5);
    let rows = 600;
    let noise = |random: &mut Random| (0..rows).map(|_| random.unit()).collect::<Vec<f64>>();
    let (x, y) = (noise(&mut random), noise(&mut random));
    let batch = RecordBatch::try_from_iter(vec![
        ("x", Arc::new(Float64Array::from(x)) as ArrayRef),
        ("y", Arc::new(Float64Array::from(y))),
    ])
    .unwrap();
    let request = TrainRequest {
        threads: Some(1),
        max_trials: Some(1),
        ..TrainRequest::new(Task::Regression, "y")
    };
    let outcome = run(&request, &batch);
    let model = outcome.model().unwrap();
    if outcome.winner == Winner::Baseline {
        let columns = Columns::new(vec![("x".into(), Column::F64(vec![0.1, 0.9]))]).unwrap();
        let Some(Column::F64(values)) = model.predict(&columns).unwrap().get("prediction").cloned()
        else {
            panic!("a number is predicted")
        };
        assert_eq!(values[0], values[1]);
        assert!((values[0] - 0.5).abs() < 0.1);
        // Nothing is read, so nothing is required.
        assert!(model.inputs().iter().all(|input| !input.required));
    }
    assert!(outcome.metrics["rmse"] < 1.05 * outcome.baseline["rmse"]);
}

#[test]
fn a_constant_model_predicts_shares() {
    // Too few rows for any split of a leaf: 6 to fit on.
    let outcome = run(
        &TrainRequest {
            max_trials: Some(0),
            ..request(Task::Classification, "level")
        },
        &batch(300, 4, 0),
    );
    assert_eq!(outcome.winner, Winner::Baseline);
    let model = outcome.model().unwrap();
    let predictions = model.predict(&outcome.example).unwrap();
    let sum: f64 = predictions.columns[1..]
        .iter()
        .map(|(_, column)| match column {
            Column::F64(values) => values[0],
            _ => f64::NAN,
        })
        .sum();
    assert!((sum - 1.0).abs() < 1e-9);
    assert!((outcome.metrics["logloss"] - outcome.baseline["logloss"]).abs() < 0.02);
}

#[test]
fn the_budget_is_kept_on_any_clock() {
    let rows = batch(2_000, 6, 0);
    for step in [0.01, 0.1, 1.0] {
        let mut clock = Steps::of(step);
        let request = TrainRequest {
            budget_seconds: 30.0,
            max_trials: None,
            ..request(Task::Classification, "late")
        };
        let outcome = train(&request, std::slice::from_ref(&rows), &mut clock).unwrap();
        assert!(
            outcome.seconds <= 33.0,
            "{} s at a step of {step}",
            outcome.seconds
        );
        assert!(
            clock.trials.len() >= 2,
            "{} trials at a step of {step}",
            clock.trials.len()
        );
        let mut best = f64::NEG_INFINITY;
        for trial in &clock.trials {
            best = best.max(trial.metric);
            assert_eq!(trial.best, best);
        }
    }
}

#[test]
fn training_can_be_cancelled() {
    let mut clock = Steps {
        cancel_at: 1.0,
        ..Steps::of(0.1)
    };
    let error = train(
        &request(Task::Classification, "late"),
        &[batch(500, 7, 0)],
        &mut clock,
    )
    .unwrap_err();
    assert!(matches!(error, TrainError::Cancelled));
}

#[test]
fn held_out_rows_are_the_same_for_every_model() {
    let rows = batch(2_000, 8, 0);
    let request = request(Task::Classification, "late");
    let outcome = run(&request, &rows);
    let model = outcome.model().unwrap();
    let scores = score_holdout(&model, &[batch(2_000, 8, 17)], &request).unwrap();
    let metrics = scores.outcomes().all();
    for (name, value) in &outcome.metrics {
        assert!((metrics[name] - value).abs() < 1e-12, "{name}");
    }
    // A model that knows another set of classes meets the same rows.
    let held = HeldOut::new(&request, std::slice::from_ref(&rows)).unwrap();
    assert_eq!(held.rows(), outcome.rows.holdout);
    assert_eq!(held.columns().rows(), held.rows());
    let slices = held
        .slices(&scores, Metric::Auc, &["carrier".into()])
        .unwrap();
    assert_eq!(
        slices["carrier"]
            .iter()
            .map(|slice| slice.rows)
            .sum::<usize>(),
        held.rows()
    );
    let other = run(&self::request(Task::Classification, "level"), &rows)
        .model()
        .unwrap();
    let mut plan = other.plan().clone();
    plan.target.name = "level".into();
    let level = HeldOut::new(
        &self::request(Task::Classification, "level"),
        &[rows.slice(0, 500)],
    )
    .unwrap();
    assert!(
        level
            .score(&other)
            .unwrap()
            .outcomes()
            .metric(Metric::Accuracy)
            .unwrap()
            > 0.4
    );
    insta::assert_snapshot!(held.score(&run(&self::request(Task::Regression, "delay"), &rows).model().unwrap()).unwrap_err(),
        @"the model does regression but classification is asked; compare models of one task");
}

#[test]
fn requests_read_as_in_a_manifest() {
    let request: TrainRequest = serde_json::from_str(
        r#"{"task": "classification", "target": "late", "holdout": {"by": "time", "column": "when", "fraction": 0.25},
            "budgetSeconds": 30, "metric": "auc", "features": {"exclude": ["delay"]}, "trainKey": "ignored"}"#,
    )
    .unwrap();
    assert_eq!(
        request.holdout,
        Holdout::Time {
            column: "when".into(),
            fraction: 0.25
        }
    );
    assert_eq!(
        (request.budget_seconds, request.metric),
        (30.0, Some(Metric::Auc))
    );
    let smallest: TrainRequest =
        serde_json::from_str(r#"{"task": "regression", "target": "y", "holdout": {"by": "hash"}}"#)
            .unwrap();
    assert_eq!(smallest, TrainRequest::new(Task::Regression, "y"));
}

#[test]
fn what_cannot_be_trained_is_refused_with_a_reason() {
    let rows = batch(100, 9, 0);
    let refusal = |request: TrainRequest| {
        train(&request, std::slice::from_ref(&rows), &mut Steps::of(0.001))
            .unwrap_err()
            .to_string()
    };
    let late = || request(Task::Classification, "late");
    insta::assert_snapshot!(refusal(TrainRequest { metric: Some(Metric::Rmse), ..late() }), @"the metric `rmse` does not fit classification; use one of `auc`, `logloss`, `brier`, `accuracy`, `precision`, `recall`, `f1`");
    insta::assert_snapshot!(refusal(TrainRequest { budget_seconds: 0.0, ..late() }), @"the budget is 0 s; it must be above 0");
    insta::assert_snapshot!(refusal(TrainRequest { target: "lat".into(), ..late() }), @"the snapshot has no column `lat`; did you mean `late`?");
    insta::assert_snapshot!(refusal(TrainRequest { slices: vec!["carier".into()], ..late() }), @"the snapshot has no column `carier`; did you mean `carrier`?");
    let empty = train(&late(), &[rows.slice(0, 0)], &mut Steps::of(0.001)).unwrap_err();
    insta::assert_snapshot!(empty, @"the target `late` has 0 distinct values; classification needs 2 to 200; does the query filter the others out?");
    let none = train(&late(), &[], &mut Steps::of(0.001)).unwrap_err();
    insta::assert_snapshot!(none, @"the snapshot has no column `late`; it has no columns");
}

/// Tiny tables end in a model or a reason, never in a panic.
#[test]
fn tiny_tables_are_survived() {
    for rows in 1..40 {
        for (task, target) in [
            (Task::Classification, "late"),
            (Task::Classification, "level"),
            (Task::Regression, "delay"),
        ] {
            for holdout in [
                Holdout::default(),
                Holdout::Time {
                    column: "when".into(),
                    fraction: 0.3,
                },
            ] {
                let request = TrainRequest {
                    holdout,
                    max_trials: Some(2),
                    ..request(task, target)
                };
                match train(
                    &request,
                    &[batch(rows, rows as u64, 0)],
                    &mut Steps::of(0.001),
                ) {
                    Ok(outcome) => {
                        outcome.model().unwrap().predict(&outcome.example).unwrap();
                    }
                    Err(error) => assert!(
                        matches!(error, TrainError::Split(_) | TrainError::Infer(_)),
                        "{rows} rows: {error}"
                    ),
                }
            }
        }
    }
}
