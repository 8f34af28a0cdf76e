//! Experiments, runs, metrics, inputs.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::payload::Payload;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::validate::required;
use crate::wire::{
    CreateExperiment, CreateRun, Empty, GetMetricHistory, GetMetricHistoryBulkInterval, KeyValue,
    LogBatch, LogInputs, LogMetric, LogOutputs, Metric, Page, SearchExperiments, SearchRuns,
    UpdateRun, lenient,
};

pub(super) fn router() -> Router<Handle> {
    Router::new()
        .route("/experiments/create", post(create_experiment))
        .route(
            "/experiments/search",
            get(search_experiments).post(search_experiments),
        )
        .route("/experiments/get", get(get_experiment))
        .route("/experiments/get-by-name", get(get_experiment_by_name))
        .route("/experiments/delete", post(delete_experiment))
        .route("/experiments/restore", post(restore_experiment))
        .route("/experiments/update", post(update_experiment))
        .route("/experiments/set-experiment-tag", post(set_experiment_tag))
        .route(
            "/experiments/delete-experiment-tag",
            post(delete_experiment_tag),
        )
        .route("/experiments/search-datasets", post(search_datasets))
        .route("/runs/create", post(create_run))
        .route("/runs/update", post(update_run))
        .route("/runs/get", get(get_run))
        .route("/runs/search", post(search_runs))
        .route("/runs/delete", post(delete_run))
        .route("/runs/restore", post(restore_run))
        .route("/runs/log-metric", post(log_metric))
        .route("/runs/log-parameter", post(log_param))
        .route("/runs/set-tag", post(set_tag))
        .route("/runs/delete-tag", post(delete_tag))
        .route("/runs/log-batch", post(log_batch))
        .route("/runs/log-model", post(log_model))
        .route("/runs/log-inputs", post(log_inputs))
        .route("/runs/outputs", post(log_outputs))
        .route("/metrics/get-history", get(get_history))
        .route("/metrics/get-history-bulk-interval", get(get_history_bulk))
        .route("/artifacts/list", get(list_artifacts))
}

/// `{"<name>": […], "next_page_token": …}`, leaving out what is empty as protobuf does.
pub(super) fn page<T: Serialize>(name: &str, page: Page<T>) -> Result<Json<Value>> {
    let mut body = serde_json::Map::new();
    if !page.items.is_empty() {
        let items = serde_json::to_value(page.items)
            .map_err(|error| Error::internal(format!("Cannot write the answer: {error}.")))?;
        body.insert(name.to_owned(), items);
    }
    if let Some(token) = page.next_page_token {
        body.insert("next_page_token".to_owned(), Value::String(token));
    }
    Ok(Json(Value::Object(body)))
}

/// Requests that name an experiment, and perhaps a tag or a new name.
#[derive(Debug, Deserialize)]
struct AboutExperiment {
    #[serde(default, deserialize_with = "lenient::name_or_number")]
    experiment_id: Option<String>,
    experiment_name: Option<String>,
    new_name: Option<String>,
    key: Option<String>,
    value: Option<String>,
    #[serde(default, deserialize_with = "lenient::list")]
    experiment_ids: Vec<String>,
}

/// Requests that name a run, and perhaps a tag, parameter, path or model.
#[derive(Debug, Deserialize)]
struct AboutRun {
    run_id: Option<String>,
    run_uuid: Option<String>,
    key: Option<String>,
    value: Option<String>,
    path: Option<String>,
    model_json: Option<String>,
}

impl AboutRun {
    fn id(&self) -> Result<String> {
        let given = self.run_id.clone().filter(|id| !id.is_empty());
        required(given.or_else(|| self.run_uuid.clone()), "run_id")
    }

    fn pair(&self) -> Result<KeyValue> {
        let key = required(self.key.clone(), "key")?;
        Ok(KeyValue::new(key, self.value.clone().unwrap_or_default()))
    }
}

async fn create_experiment(
    State(handle): State<Handle>,
    Payload(request): Payload<CreateExperiment>,
) -> Result<Json<Value>> {
    let id = handle.create_experiment(request).await?;
    Ok(Json(json!({"experiment_id": id})))
}

async fn search_experiments(
    State(handle): State<Handle>,
    Payload(request): Payload<SearchExperiments>,
) -> Result<Json<Value>> {
    page("experiments", handle.search_experiments(request).await?)
}

async fn get_experiment(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutExperiment>,
) -> Result<Json<Value>> {
    let id = required(request.experiment_id, "experiment_id")?;
    Ok(Json(
        json!({"experiment": handle.get_experiment(&id).await?}),
    ))
}

async fn get_experiment_by_name(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutExperiment>,
) -> Result<Json<Value>> {
    let name = required(request.experiment_name, "experiment_name")?;
    Ok(Json(
        json!({"experiment": handle.get_experiment_by_name(&name).await?}),
    ))
}

async fn delete_experiment(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutExperiment>,
) -> Result<Json<Empty>> {
    let id = required(request.experiment_id, "experiment_id")?;
    handle.delete_experiment(&id).await?;
    Ok(Json(Empty {}))
}

async fn restore_experiment(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutExperiment>,
) -> Result<Json<Empty>> {
    let id = required(request.experiment_id, "experiment_id")?;
    handle.restore_experiment(&id).await?;
    Ok(Json(Empty {}))
}

async fn update_experiment(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutExperiment>,
) -> Result<Json<Empty>> {
    let id = required(request.experiment_id, "experiment_id")?;
    let name = required(request.new_name, "new_name")?;
    handle.rename_experiment(&id, name).await?;
    Ok(Json(Empty {}))
}

async fn set_experiment_tag(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutExperiment>,
) -> Result<Json<Empty>> {
    let id = required(request.experiment_id, "experiment_id")?;
    let key = required(request.key, "key")?;
    let tag = KeyValue::new(key, request.value.unwrap_or_default());
    handle.set_experiment_tag(&id, tag).await?;
    Ok(Json(Empty {}))
}

async fn delete_experiment_tag(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutExperiment>,
) -> Result<Json<Empty>> {
    let id = required(request.experiment_id, "experiment_id")?;
    let key = required(request.key, "key")?;
    handle.delete_experiment_tag(&id, key).await?;
    Ok(Json(Empty {}))
}

async fn search_datasets(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutExperiment>,
) -> Result<Json<Value>> {
    let found = handle.search_datasets(&request.experiment_ids).await?;
    Ok(Json(json!({"dataset_summaries": found})))
}

async fn create_run(
    State(handle): State<Handle>,
    Payload(request): Payload<CreateRun>,
) -> Result<Json<Value>> {
    Ok(Json(json!({"run": handle.create_run(request).await?})))
}

async fn update_run(
    State(handle): State<Handle>,
    Payload(request): Payload<UpdateRun>,
) -> Result<Json<Value>> {
    Ok(Json(json!({"run_info": handle.update_run(request).await?})))
}

async fn get_run(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutRun>,
) -> Result<Json<Value>> {
    Ok(Json(json!({"run": handle.get_run(&request.id()?).await?})))
}

#[derive(Serialize)]
struct SearchRunsAnswer {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    runs: Vec<crate::wire::Run>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_page_token: Option<String>,
}

async fn search_runs(
    State(handle): State<Handle>,
    Payload(request): Payload<SearchRuns>,
) -> Result<Json<SearchRunsAnswer>> {
    let found = handle.search_runs(request).await?;
    Ok(Json(SearchRunsAnswer {
        runs: found.items,
        next_page_token: found.next_page_token,
    }))
}

async fn delete_run(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutRun>,
) -> Result<Json<Empty>> {
    handle.delete_run(request.id()?).await?;
    Ok(Json(Empty {}))
}

async fn restore_run(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutRun>,
) -> Result<Json<Empty>> {
    handle.restore_run(request.id()?).await?;
    Ok(Json(Empty {}))
}

async fn log_metric(
    State(handle): State<Handle>,
    Payload(request): Payload<LogMetric>,
) -> Result<Json<Empty>> {
    let given = request.run_id.filter(|id| !id.is_empty());
    let run_id = required(given.or(request.run_uuid), "run_id")?;
    let metric = Metric {
        key: required(request.key, "key")?,
        value: request.value.ok_or_else(|| Error::missing("value"))?,
        timestamp: request
            .timestamp
            .ok_or_else(|| Error::missing("timestamp"))?,
        step: request.step,
        dataset_name: request.dataset_name.filter(|name| !name.is_empty()),
        dataset_digest: request.dataset_digest.filter(|digest| !digest.is_empty()),
        model_id: request.model_id.filter(|id| !id.is_empty()),
        run_id: None,
    };
    handle.log_metric(run_id, metric).await?;
    Ok(Json(Empty {}))
}

async fn log_param(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutRun>,
) -> Result<Json<Empty>> {
    handle.log_param(request.id()?, request.pair()?).await?;
    Ok(Json(Empty {}))
}

async fn set_tag(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutRun>,
) -> Result<Json<Empty>> {
    handle.set_tag(request.id()?, request.pair()?).await?;
    Ok(Json(Empty {}))
}

async fn delete_tag(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutRun>,
) -> Result<Json<Empty>> {
    handle
        .delete_tag(request.id()?, request.pair()?.key)
        .await?;
    Ok(Json(Empty {}))
}

async fn log_batch(
    State(handle): State<Handle>,
    Payload(request): Payload<LogBatch>,
) -> Result<Json<Empty>> {
    handle.log_batch(request).await?;
    Ok(Json(Empty {}))
}

async fn log_model(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutRun>,
) -> Result<Json<Empty>> {
    let model = required(request.model_json.clone(), "model_json")?;
    handle.log_model(request.id()?, &model).await?;
    Ok(Json(Empty {}))
}

async fn log_inputs(
    State(handle): State<Handle>,
    Payload(request): Payload<LogInputs>,
) -> Result<Json<Empty>> {
    handle.log_inputs(request).await?;
    Ok(Json(Empty {}))
}

async fn log_outputs(
    State(handle): State<Handle>,
    Payload(request): Payload<LogOutputs>,
) -> Result<Json<Empty>> {
    handle.log_outputs(request).await?;
    Ok(Json(Empty {}))
}

async fn get_history(
    State(handle): State<Handle>,
    Payload(request): Payload<GetMetricHistory>,
) -> Result<Json<Value>> {
    let given = request.run_id.filter(|id| !id.is_empty());
    let run_id = required(given.or(request.run_uuid), "run_id")?;
    let key = required(request.metric_key, "metric_key")?;
    let token = request.page_token.as_deref();
    let found = handle
        .metric_history(&run_id, &key, request.max_results, token)
        .await?;
    page("metrics", found)
}

async fn get_history_bulk(
    State(handle): State<Handle>,
    Payload(request): Payload<GetMetricHistoryBulkInterval>,
) -> Result<Json<Value>> {
    Ok(Json(
        json!({"metrics": handle.metric_history_bulk(request).await?}),
    ))
}

async fn list_artifacts(
    State(handle): State<Handle>,
    Payload(request): Payload<AboutRun>,
) -> Result<Json<Value>> {
    let (root, files) = handle
        .list_artifacts(&request.id()?, request.path.as_deref())
        .await?;
    Ok(Json(json!({"root_uri": root, "files": files})))
}
