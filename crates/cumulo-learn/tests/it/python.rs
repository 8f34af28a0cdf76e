//! Stock MLflow loads the folder and predicts the same numbers.
//!
//! Needs `uv` in PATH, which prepares Python with MLflow and LightGBM once and
//! keeps it in its cache.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use cumulo_learn::features::Task;
use cumulo_learn::table::Table;
use cumulo_learn::{Column, Predictions, artifact};
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};

use crate::roundtrip::trained;
use crate::sample;

const CHECK: &str = include_str!("check.py");

fn json(predictions: &Predictions) -> Value {
    predictions
        .columns
        .iter()
        .map(|(name, column)| {
            let values = match column {
                Column::F64(values) => json!(values),
                Column::I64(values) => json!(values),
                Column::Bool(values) => json!(values),
                Column::Str(values) => json!(values),
                Column::Timestamp(values) => json!(values),
            };
            (name.clone(), values)
        })
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Writes a model, fresh rows and our prediction of them into `folder`.
fn prepare(folder: &Path, task: Task, target: &str) {
    let (_, outcome) = trained(task, target);
    artifact::write(&folder.join("model"), &outcome, &sample::identity())
        .expect("the model is written");
    let rows = sample::batch(700, 50_000);
    let mut writer = ArrowWriter::try_new(
        File::create(folder.join("rows.parquet")).expect("a file"),
        rows.schema(),
        None,
    )
    .expect("a writer");
    writer.write(&rows).expect("the rows are written");
    writer.close().expect("the file is closed");
    let table = Table::from_batches(&[rows]).expect("a table");
    let all: Vec<u32> = (0..table.rows() as u32).collect();
    let predictions = outcome
        .model()
        .expect("a model")
        .predict(&table.to_columns(&all))
        .expect("rows are predicted");
    std::fs::write(folder.join("expected.json"), json(&predictions).to_string()).expect("a file");
}

#[test]
fn stock_mlflow_predicts_the_same_numbers() {
    let folder = tempfile::tempdir().expect("a folder");
    for (task, target) in [
        (Task::Classification, "late"),
        (Task::Classification, "grade"),
        (Task::Classification, "level"),
        (Task::Regression, "amount"),
    ] {
        let case = folder.path().join(target);
        std::fs::create_dir(&case).expect("a folder");
        prepare(&case, task, target);
    }
    let script = folder.path().join("check.py");
    std::fs::write(&script, CHECK).expect("the script is written");
    let output = Command::new("uv")
        // Whichever is here and new enough for MLflow 3.
        .args(["run", "--no-project", "--quiet", "--python", ">=3.10"])
        .args([
            "--with",
            "mlflow>=3,<4",
            "--with",
            "lightgbm>=4,<5",
            "--with",
            "pandas",
            "--with",
            "pyarrow",
        ])
        .arg("python")
        .arg(&script)
        .arg(folder.path())
        .env(
            "MLFLOW_TRACKING_URI",
            format!("file://{}/mlruns", folder.path().display()),
        )
        .env("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
        .output()
        .expect("`uv` must be in PATH: install it, or run `make test`, which does");
    let text = String::from_utf8_lossy(&output.stdout);
    println!("{text}");
    assert!(
        output.status.success() && text.contains("all equal"),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
