//! `cumulo learn`: AutoML on a snapshot, and the evaluation of two versions on
//! the same held-out rows.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};
use cumulo_data::{ArtifactStore, fetch_snapshot, read_snapshot};
use cumulo_learn::artifact::{self, Identity};
use cumulo_learn::column::Column;
use cumulo_learn::evaluate::compare;
use cumulo_learn::features::Label;
use cumulo_learn::metrics::Kind;
use cumulo_learn::search::Trial;
use cumulo_learn::train::{HeldOut, HoldoutScores, Progress};
use cumulo_learn::{LoadedModel, TrainRequest, train as learn};
use cumulo_serve::{Data, Tensor};
use cumulo_track::client::Client;
use cumulo_track::{DatasetInfo, DatasetInput, KeyValue, Metric, RunStatus};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;

use super::exec::relative_to_store;
use super::serve;
use super::task::{self, Failure};

/// Rows that are scored at once by a model of another kind than our own.
const SCORE_BATCH: usize = 10_000;

/// A Dataset's version.
#[derive(Debug, Deserialize)]
struct DatasetReference {
    name: String,
    version: String,
    uri: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct TrainTask {
    name: String,
    model: String,
    dataset: DatasetReference,
    train_key: String,
    #[serde(flatten)]
    request: TrainRequest,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct EvaluateTask {
    model: String,
    candidate: String,
    champion: Option<String>,
    dataset: DatasetReference,
    #[serde(flatten)]
    request: TrainRequest,
}

/// Runs `cumulo learn train`.
pub fn train() -> Result<ExitCode> {
    task::log();
    let started = Instant::now();
    let result = task::runtime(2)?.block_on(train_task(started));
    Ok(task::finish(result))
}

/// Runs `cumulo learn evaluate`.
pub fn evaluate() -> Result<ExitCode> {
    task::log();
    let result = task::runtime(2)?.block_on(evaluate_task());
    Ok(task::finish(result))
}

/// The folder of a snapshot on this machine, fetched where the store is elsewhere.
async fn snapshot(dataset: &DatasetReference) -> Result<PathBuf> {
    let store = ArtifactStore::from_url(&task::variable("CUMULO_ARTIFACTS")?)?;
    let relative = relative_to_store(&dataset.uri, &store)
        .with_context(|| format!("{} is not in the artifact store", dataset.uri))?;
    Ok(fetch_snapshot(&store, &relative, &kept(&relative)).await?)
}

/// Where a fetched snapshot is kept: in the cache, which other tasks share, or in the
/// working folder.
pub(super) fn kept(relative: &str) -> PathBuf {
    let folder = std::env::var_os("CUMULO_CACHE").map(PathBuf::from);
    folder.unwrap_or_default().join("snapshots").join(relative)
}

/// Tells trials to the log, and to whoever writes them to tracking.
struct Reporter {
    started: Instant,
    trials: mpsc::UnboundedSender<f64>,
}

impl Progress for Reporter {
    fn elapsed(&mut self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    fn trial(&mut self, trial: &Trial) {
        eprintln!(
            "trial {:>3}  {:.5}  best {:.5}  {:>4} rounds  {:>5.1} s{}",
            trial.trial,
            trial.metric,
            trial.best,
            trial.rounds,
            trial.elapsed,
            if trial.cut_short { "  (cut short)" } else { "" }
        );
        // The receiver lives as long as training does.
        let _ = self.trials.send(trial.metric);
    }
}

async fn train_task(started: Instant) -> Result<String, Failure> {
    let task: TrainTask = task::read("CUMULO_TRAIN")?;
    let uid = task::variable("CUMULO_TRAIN_JOB_UID")?;
    let client = Client::from_environment().context("tracking")?;
    let experiment = client
        .ensure_experiment(&task.model)
        .await
        .context("tracking")?;
    let tags = vec![
        KeyValue::new("mlflow.source.type", "JOB"),
        KeyValue::new(
            "cumulo.dataset",
            format!("{}@{}", task.dataset.name, task.dataset.version),
        ),
    ];
    let run = client
        .ensure_run(&experiment, &uid, &task.name, tags)
        .await
        .context("tracking")?;
    let run_id = run.info.run_id;
    let result = train_run(&task, &client, &experiment, &run_id, started).await;
    let state = if result.is_ok() {
        RunStatus::Finished
    } else {
        RunStatus::Failed
    };
    client.end_run(&run_id, state).await.context("tracking")?;
    result
}

async fn train_run(
    task: &TrainTask,
    client: &Client,
    experiment: &str,
    run_id: &str,
    started: Instant,
) -> Result<String, Failure> {
    client
        .log_inputs(
            run_id,
            vec![DatasetInput {
                tags: vec![KeyValue::new("mlflow.data.context", "training")],
                dataset: Some(DatasetInfo {
                    name: task.dataset.name.clone(),
                    digest: task.dataset.version.clone(),
                    source_type: "cumulo".to_owned(),
                    source: json!({"uri": task.dataset.uri}).to_string(),
                    ..DatasetInfo::default()
                }),
            }],
        )
        .await
        .context("tracking")?;
    let folder = snapshot(&task.dataset).await?;
    let request = task.request.clone();
    let metric = request.chosen_metric();
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let training = tokio::task::spawn_blocking(move || {
        let batches = read_snapshot(&folder, None)
            .map_err(|error| Failure::new("SourceInvalid", error.to_string()))?;
        let mut reporter = Reporter {
            started,
            trials: sender,
        };
        learn(&request, &batches, &mut reporter)
            .map_err(|error| Failure::new("TargetInvalid", error.to_string()))
    });
    // Metrics are seen while training goes on; the tracking server may be away for a while.
    // A trial that goes on after a first look is told twice, so steps count what was told.
    let mut step = 0;
    while let Some(value) = receiver.recv().await {
        let metric = Metric::new(
            format!("validation_{}", metric.name()),
            value,
            chrono::Utc::now().timestamp_millis(),
            step,
        );
        step += 1;
        client
            .log_batch(run_id, vec![metric], Vec::new(), Vec::new())
            .await
            .context("tracking")?;
    }
    let outcome = training.await.context("the training thread ended")??;

    let now = chrono::Utc::now();
    let metrics = outcome
        .metrics
        .iter()
        .map(|(key, value)| (key.clone(), *value))
        .chain(
            outcome
                .baseline
                .iter()
                .map(|(key, value)| (format!("baseline_{key}"), *value)),
        )
        .filter(|(_, value)| value.is_finite())
        .map(|(key, value)| Metric::new(key, value, now.timestamp_millis(), 0))
        .collect();
    let parameters = vec![
        KeyValue::new("target", &task.request.target),
        KeyValue::new("task", task.request.task.name()),
        KeyValue::new("budget_seconds", task.request.budget_seconds.to_string()),
        KeyValue::new("seed", task.request.seed.to_string()),
        KeyValue::new("trials", outcome.trials.len().to_string()),
        KeyValue::new(
            "winner",
            serde_json::to_string(&outcome.winner).unwrap_or_default(),
        ),
        KeyValue::new("rows_training", outcome.rows.training.to_string()),
        KeyValue::new("rows_holdout", outcome.rows.holdout.to_string()),
    ];
    client
        .log_batch(run_id, metrics, parameters, Vec::new())
        .await
        .context("tracking")?;

    let model = client
        .ensure_logged_model(experiment, run_id, "model")
        .await
        .context("tracking")?;
    let written = Path::new("model");
    let identity = Identity {
        model_uuid: model.info.model_id.trim_start_matches("m-").to_owned(),
        created: now,
        run_id: Some(run_id.to_owned()),
        model_id: Some(model.info.model_id.clone()),
    };
    artifact::write(written, &outcome, &identity).context("the model")?;
    client
        .upload_folder(&model.info.artifact_uri, written)
        .await
        .context("the model cannot be uploaded")?;
    client
        .finalize_logged_model(&model.info.model_id)
        .await
        .context("tracking")?;
    let tags = vec![KeyValue::new(
        "cumulo.dataset",
        format!("{}@{}", task.dataset.name, task.dataset.version),
    )];
    let version = client
        .register(&model, &task.model, &task.train_key, tags)
        .await
        .context("registry")?;
    let metrics: BTreeMap<_, _> = outcome
        .metrics
        .iter()
        .filter(|(_, value)| value.is_finite())
        .collect();
    Ok(json!({
        "run": run_id,
        "model": {"name": version.name, "version": version.version},
        "metrics": metrics,
    })
    .to_string())
}

async fn evaluate_task() -> Result<String, Failure> {
    let task: EvaluateTask = task::read("CUMULO_EVALUATE")?;
    let client = Client::from_environment().context("tracking")?;
    let folder = snapshot(&task.dataset).await?;
    let request = task.request.clone();
    let held_out = tokio::task::spawn_blocking(move || {
        let batches = read_snapshot(&folder, None)
            .map_err(|error| Failure::new("SourceInvalid", error.to_string()))?;
        HeldOut::new(&request, &batches)
            .map_err(|error| Failure::new("TargetInvalid", error.to_string()))
    })
    .await
    .context("reading the snapshot")??;
    let metric = task.request.chosen_metric();
    let candidate = score(&client, &task.model, &task.candidate, &held_out).await?;
    let champion = match &task.champion {
        Some(version) => Some(score(&client, &task.model, version, &held_out).await?),
        None => None,
    };
    let champion_outcomes = champion.as_ref().map(HoldoutScores::outcomes);
    let evaluation = compare(
        &candidate.outcomes(),
        champion_outcomes.as_ref(),
        metric,
        task.request.seed,
    )
    .map_err(|error| Failure::new("RequestInvalid", error.to_string()))?;
    let slices = held_out
        .slices(&candidate, metric, &task.request.slices)
        .map_err(|error| Failure::new("RequestInvalid", error.to_string()))?;
    for (column, values) in &slices {
        for slice in values {
            eprintln!(
                "{column} = {}: {} {:?} of {} rows",
                slice.value,
                metric.name(),
                slice.metric,
                slice.rows
            );
        }
    }
    let finite = |metrics: &BTreeMap<String, f64>| -> BTreeMap<String, f64> {
        metrics
            .iter()
            .filter(|(_, value)| value.is_finite())
            .map(|(key, value)| (key.clone(), *value))
            .collect()
    };
    Ok(json!({
        "candidate": {"metrics": finite(&evaluation.candidate)},
        "champion": evaluation.champion.as_ref().map(|metrics| json!({"metrics": finite(metrics)})),
        "rows": evaluation.rows,
        "difference": evaluation.difference.as_ref().map(|difference| json!({
            "metric": difference.metric.name(), "value": difference.value, "low": difference.low, "high": difference.high,
        })),
    })
    .to_string())
}

/// A registered version's predictions for the held-out rows: our own models in
/// process, any other through the runtime that would serve it.
async fn score(
    client: &Client,
    model: &str,
    version: &str,
    held_out: &HeldOut,
) -> Result<HoldoutScores, Failure> {
    let folder = PathBuf::from(format!("version-{version}"));
    let uri = client
        .download_uri(model, version)
        .await
        .context("registry")?;
    client
        .download(&uri, &folder)
        .await
        .with_context(|| format!("models:/{model}/{version} cannot be fetched"))?;
    if folder.join(cumulo_learn::model::PLAN_FILE).is_file() {
        let held_out = held_out.clone();
        return tokio::task::spawn_blocking(move || {
            let model = LoadedModel::open(&folder)
                .map_err(|error| Failure::new("ModelInvalid", error.to_string()))?;
            held_out
                .score(&model)
                .map_err(|error| Failure::new("ModelInvalid", error.to_string()))
        })
        .await
        .context("scoring")?;
    }
    let options = serve::options(
        "model",
        Some(version),
        folder,
        cumulo_serve::RuntimeChoice::Auto,
    )?;
    let runtime = cumulo_serve::runtime::open(&options)
        .await
        .map_err(|error| Failure::new("ModelInvalid", error.to_string()))?;
    let columns = held_out.columns();
    let inputs = runtime.metadata().inputs;
    let kind = held_out.scores_of(Vec::new()).kind;
    let mut predictions = Vec::new();
    let rows = held_out.rows();
    for start in (0..rows).step_by(SCORE_BATCH) {
        let end = (start + SCORE_BATCH).min(rows);
        let tensors = columns
            .iter()
            .filter(|(name, _)| inputs.is_empty() || inputs.iter().any(|input| input.name == *name))
            .map(|(name, column)| Tensor::column(name, part(column, start, end)))
            .collect();
        let outputs = runtime
            .infer(tensors)
            .await
            .map_err(|error| Failure::new("ModelInvalid", error.to_string()))?;
        predictions.extend(read_scores(
            &outputs,
            kind,
            held_out.classes(),
            end - start,
        )?);
    }
    runtime.close().await;
    Ok(held_out.scores_of(predictions))
}

fn part(column: &Column, start: usize, end: usize) -> Data {
    match column {
        Column::F64(values) => Data::F64(values[start..end].to_vec()),
        Column::I64(values) => Data::I64(values[start..end].to_vec()),
        Column::Bool(values) => Data::Bool(values[start..end].to_vec()),
        Column::Str(values) => Data::Text(values[start..end].to_vec()),
        Column::Timestamp(values) => Data::Text(
            values[start..end]
                .iter()
                .map(|value| {
                    value
                        .and_then(chrono::DateTime::from_timestamp_micros)
                        .map(|time| time.format("%Y-%m-%dT%H:%M:%S%.f").to_string())
                })
                .collect(),
        ),
    }
}

/// Reads scores out of a model's answer: probabilities where it gives them, its prediction otherwise.
fn read_scores(
    outputs: &[Tensor],
    kind: Kind,
    classes: &[Label],
    rows: usize,
) -> Result<Vec<f64>, Failure> {
    let invalid = |message: String| Failure::new("ModelInvalid", message);
    let width = kind.width();
    let probabilities = outputs
        .iter()
        .find(|output| output.name.starts_with("prob"));
    let chosen = probabilities
        .or_else(|| outputs.first())
        .ok_or_else(|| invalid("the model gave no output".to_owned()))?;
    if let Some(values) = chosen.data.to_f64() {
        if values.len() == rows * width {
            return Ok(values);
        }
        // Two probabilities a row: the second is that of the second class.
        if width == 1 && values.len() == rows * 2 {
            return Ok(values.chunks(2).map(|pair| pair[1]).collect());
        }
    }
    // Labels alone: the named class is certain.
    if let (Data::Text(values), true) = (&chosen.data, !classes.is_empty())
        && values.len() == rows
    {
        let names: Vec<String> = classes.iter().map(|class| class.to_string()).collect();
        let wanted: &[String] = if width == 1 { &names[1..] } else { &names };
        return Ok(values
            .iter()
            .flat_map(|value| {
                wanted.iter().map(move |name| {
                    if value.as_ref() == Some(name) {
                        1.0
                    } else {
                        0.0
                    }
                })
            })
            .collect());
    }
    Err(invalid(format!(
        "the model's output {:?} has shape {:?}; {rows} rows of {width} numbers are needed to evaluate it",
        chosen.name, chosen.shape
    )))
}
