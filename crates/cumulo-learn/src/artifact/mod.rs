//! Writes a model as a folder that stock MLflow loads.
//!
//! ```text
//! MLmodel               flavors python_function and cumulo, signature
//! model.lgb             the trees, LightGBM's text format
//! features.json         the feature plan
//! metrics.json          metrics on the held-out rows, trials, importance
//! input_example.json    a few rows (MLflow's "split" form)
//! python_env.yaml, requirements.txt, conda.yaml
//! code/cumulo_automl.py applies the plan in Python and predicts with LightGBM
//! ```
//!
//! `mlflow.pyfunc.load_model(folder).predict(frame)` gives a data frame with the
//! columns of [`crate::model`], equal to the Rust prediction to 10⁻⁹.

use std::path::{Path, PathBuf};

use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::column::{Column, Columns};
use crate::model::{PLAN_FILE, TREES_FILE, outputs, signature_type};
use crate::train::TrainOutcome;

/// The Python module that loads the folder.
const LOADER: &str = include_str!("cumulo_automl.py");
/// Requirements of the loader. LightGBM reads the text of every 4.x.
const REQUIREMENTS: [&str; 3] = ["lightgbm>=4.0,<5", "numpy>=1.23,<3", "pandas>=1.5,<4"];
/// The version of Python that is proposed; any from 3.9 works.
const PYTHON: &str = "3.11";

/// What a folder says of itself; given from outside, since this crate has no clock.
#[derive(Clone, Debug)]
pub struct Identity {
    /// MLflow's `model_uuid`, 32 hexadecimal digits.
    pub model_uuid: String,
    /// When the model was made.
    pub created: DateTime<Utc>,
    /// The run that made it, in tracking.
    pub run_id: Option<String>,
    /// The logged model's id, in tracking.
    pub model_id: Option<String>,
}

/// A file of the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its path in the folder, with `/`.
    pub path: &'static str,
    /// What it holds.
    pub content: String,
}

/// A folder that cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {source}", .path.display())]
pub struct ArtifactError {
    path: PathBuf,
    source: std::io::Error,
}

/// The folder's files, in memory.
pub fn files(outcome: &TrainOutcome, identity: &Identity) -> Vec<File> {
    let file = |path, content| File { path, content };
    let requirements = REQUIREMENTS.join("\n") + "\n";
    vec![
        file("MLmodel", ml_model(outcome, identity)),
        file(TREES_FILE, outcome.trees.clone()),
        file(PLAN_FILE, outcome.plan.to_json()),
        file("metrics.json", pretty(&report(outcome))),
        file("input_example.json", pretty(&example(&outcome.example))),
        file(
            "python_env.yaml",
            format!(
                "python: \"{PYTHON}\"\nbuild_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n"
            ),
        ),
        file("conda.yaml", conda()),
        file("requirements.txt", requirements),
        file("code/cumulo_automl.py", LOADER.to_owned()),
    ]
}

/// Writes the folder; it is made if it is not there.
pub fn write(
    folder: &Path,
    outcome: &TrainOutcome,
    identity: &Identity,
) -> Result<Vec<PathBuf>, ArtifactError> {
    let mut written = Vec::new();
    for file in files(outcome, identity) {
        let path = folder.join(file.path);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent).map_err(|source| ArtifactError {
            path: parent.to_owned(),
            source,
        })?;
        std::fs::write(&path, file.content).map_err(|source| ArtifactError {
            path: path.clone(),
            source,
        })?;
        written.push(path);
    }
    Ok(written)
}

/// `MLmodel` is YAML; JSON is YAML too and needs no escaping rules of its own.
fn ml_model(outcome: &TrainOutcome, identity: &Identity) -> String {
    let plan = &outcome.plan;
    let inputs: Vec<Value> = plan
        .inputs
        .iter()
        .map(|input| {
            json!({
                "type": signature_type(input.input_type),
                "name": input.name,
                "required": input.required,
            })
        })
        .collect();
    let outputs: Vec<Value> = outputs(plan)
        .iter()
        .map(|output| {
            json!({"type": output.output_type.name(), "name": output.name, "required": true})
        })
        .collect();
    let mut model = json!({
        "artifact_path": "model",
        "flavors": {
            "python_function": {
                "loader_module": "cumulo_automl",
                "code": "code",
                "env": {"conda": "conda.yaml", "virtualenv": "python_env.yaml"},
                "python_version": PYTHON,
            },
            "cumulo": {
                "format": "lightgbm",
                "trees": TREES_FILE,
                "features": PLAN_FILE,
                "plan_version": plan.version,
                "task": plan.task,
                "inputs": plan
                    .inputs
                    .iter()
                    .map(|input| json!({
                        "name": input.name,
                        "type": input.input_type,
                        "required": input.required,
                    }))
                    .collect::<Vec<_>>(),
                "code": "code",
            },
        },
        "model_uuid": identity.model_uuid,
        "utc_time_created": identity
            .created
            .format("%Y-%m-%d %H:%M:%S%.6f")
            .to_string(),
        "signature": {
            "inputs": Value::from(inputs).to_string(),
            "outputs": Value::from(outputs).to_string(),
            "params": null,
        },
        "saved_input_example_info": {
            "artifact_path": "input_example.json",
            "type": "dataframe",
            "pandas_orient": "split",
        },
    });
    if let Some(run_id) = &identity.run_id {
        model["run_id"] = json!(run_id);
    }
    if let Some(model_id) = &identity.model_id {
        model["model_id"] = json!(model_id);
    }
    pretty(&model)
}

fn report(outcome: &TrainOutcome) -> Value {
    json!({
        "metric": outcome.metric,
        "metrics": outcome.metrics,
        "baseline": outcome.baseline,
        "rows": outcome.rows,
        "winner": outcome.winner,
        "trials": outcome.trials,
        "slices": outcome.slices,
        "importance": outcome
            .importance
            .iter()
            .map(|(feature, share)| json!({"feature": feature, "share": share}))
            .collect::<Vec<_>>(),
        "seconds": outcome.seconds,
    })
}

/// Rows in pandas' "split" orientation, which MLflow reads.
fn example(columns: &Columns) -> Value {
    let names: Vec<&str> = columns.iter().map(|(name, _)| name).collect();
    let data: Vec<Value> = (0..columns.rows())
        .map(|row| {
            columns
                .iter()
                .map(|(_, column)| cell(column, row))
                .collect()
        })
        .collect();
    json!({"columns": names, "data": data})
}

fn cell(column: &Column, row: usize) -> Value {
    match column {
        // JSON has no NaN; a missing number is null.
        Column::F64(values) => json!(values[row]),
        Column::I64(values) => json!(values[row]),
        Column::Bool(values) => json!(values[row]),
        Column::Str(values) => json!(values[row]),
        Column::Timestamp(values) => values[row]
            .and_then(DateTime::from_timestamp_micros)
            .map_or(Value::Null, |time| {
                json!(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
            }),
    }
}

fn conda() -> String {
    let requirements: Vec<String> = REQUIREMENTS
        .iter()
        .map(|requirement| format!("  - {requirement}\n"))
        .collect();
    format!(
        "name: cumulo\nchannels:\n- conda-forge\ndependencies:\n- python={PYTHON}\n- pip\n- pip:\n{}",
        requirements.concat()
    )
}

fn pretty(value: &Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default() + "\n"
}
