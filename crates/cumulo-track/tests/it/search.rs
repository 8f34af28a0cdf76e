//! Searching runs, compared with doing it by hand.

use cumulo_track::{CreateRun, KeyValue, LogBatch, Metric, Run, SearchRuns};
use proptest::prelude::*;

use crate::server::Server;

const OPERATORS: &[&str] = &["<", "<=", ">", ">=", "=", "!="];

fn holds(value: f64, operator: &str, with: f64) -> bool {
    match operator {
        "<" => value < with,
        "<=" => value <= with,
        ">" => value > with,
        ">=" => value >= with,
        "=" => value == with,
        _ => value != with,
    }
}

fn metric(run: &Run, key: &str) -> Option<f64> {
    run.data
        .metrics
        .iter()
        .find(|metric| metric.key == key)
        .map(|metric| metric.value)
}

async fn all(server: &Server, filter: &str, order: &str, page: i64) -> Vec<Run> {
    let mut runs = Vec::new();
    let mut page_token = None;
    loop {
        let request = SearchRuns {
            experiment_ids: vec!["0".to_owned()],
            filter: Some(filter.to_owned()),
            order_by: vec![order.to_owned()],
            max_results: Some(page),
            page_token,
            ..SearchRuns::default()
        };
        let found = server.handle.search_runs(request).await.unwrap();
        runs.extend(found.items);
        page_token = found.next_page_token;
        if page_token.is_none() {
            return runs;
        }
    }
}

/// Whatever is logged, a search finds exactly the runs that satisfy its filter, in
/// order, missing and NaN values last, over any page size.
#[test]
fn search_is_what_a_person_would_do_by_hand() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let value = prop_oneof![
        3 => (-3i32..3).prop_map(|n| Some(f64::from(n))),
        1 => Just(Some(f64::NAN)),
        1 => Just(None),
    ];
    let strategy = (
        proptest::collection::vec(value, 1..12),
        0..OPERATORS.len(),
        -3i32..3,
        any::<bool>(),
        1i64..6,
    );
    let mut config = ProptestConfig::with_cases(12);
    config.failure_persistence = None;
    let mut runner = proptest::test_runner::TestRunner::new(config);
    let result = runner.run(&strategy, |(values, operator, with, ascending, page)| {
        runtime.block_on(async {
            let server = super::start().await;
            for (n, value) in values.iter().enumerate() {
                let request = CreateRun {
                    run_name: Some(format!("r{n}")),
                    start_time: Some(n as i64),
                    ..CreateRun::default()
                };
                let run = server.handle.create_run(request).await.unwrap();
                let batch = LogBatch {
                    run_id: Some(run.info.run_id),
                    metrics: value.iter().map(|v| Metric::new("m", *v, 1, 0)).collect(),
                    params: vec![KeyValue::new("n", n.to_string())],
                    tags: Vec::new(),
                };
                server.handle.log_batch(batch).await.unwrap();
            }
            let operator = OPERATORS[operator];
            let filter = format!("metrics.m {operator} {with}");
            let found = all(&server, &filter, "start_time ASC", page).await;
            let names: Vec<_> = found.iter().map(|run| run.info.run_name.clone()).collect();
            let expected: Vec<_> = values
                .iter()
                .enumerate()
                .filter(|(_, value)| value.is_some_and(|v| holds(v, operator, f64::from(with))))
                .map(|(n, _)| format!("r{n}"))
                .collect();
            prop_assert_eq!(names, expected);
            let direction = if ascending { "ASC" } else { "DESC" };
            let found = all(&server, "", &format!("metrics.m {direction}"), page).await;
            prop_assert_eq!(found.len(), values.len());
            let order: Vec<_> = found.iter().map(|run| metric(run, "m")).collect();
            for pair in order.windows(2) {
                let fine = match (pair[0], pair[1]) {
                    (_, None) => true,
                    (None, Some(_)) => false,
                    (Some(a), Some(b)) if a.is_nan() || b.is_nan() => b.is_nan(),
                    (Some(a), Some(b)) if ascending => a <= b,
                    (Some(a), Some(b)) => a >= b,
                };
                prop_assert!(fine, "{:?}", order);
            }
            Ok(())
        })
    });
    result.unwrap();
}
