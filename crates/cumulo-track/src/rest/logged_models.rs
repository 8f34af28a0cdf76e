//! Logged models.

use axum::extract::{Path, State};
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};

use super::payload::Payload;
use super::tracking::page;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::validate::required;
use crate::wire::{CreateLoggedModel, Empty, KeyValue, SearchLoggedModels, lenient};

pub(super) fn router() -> Router<Handle> {
    Router::new()
        .route("/logged-models", post(create))
        .route("/logged-models/search", post(search))
        .route(
            "/logged-models/{model_id}",
            get(get_one).patch(finalize).delete(delete_one),
        )
        .route("/logged-models/{model_id}/tags", patch(set_tags))
        .route("/logged-models/{model_id}/tags/{key}", delete(delete_tag))
        .route("/logged-models/{model_id}/params", post(log_params))
        .route(
            "/logged-models/{model_id}/artifacts/directories",
            get(list_artifacts),
        )
}

#[derive(Debug, Deserialize)]
struct AboutModel {
    #[serde(default, deserialize_with = "lenient::name_or_number")]
    status: Option<String>,
    #[serde(default, deserialize_with = "lenient::list")]
    tags: Vec<KeyValue>,
    #[serde(default, deserialize_with = "lenient::list")]
    params: Vec<KeyValue>,
    artifact_directory_path: Option<String>,
}

async fn create(
    State(handle): State<Handle>,
    Payload(request): Payload<CreateLoggedModel>,
) -> Result<Json<Value>> {
    Ok(Json(
        json!({"model": handle.create_logged_model(request).await?}),
    ))
}

async fn search(
    State(handle): State<Handle>,
    Payload(request): Payload<SearchLoggedModels>,
) -> Result<Json<Value>> {
    if request.experiment_ids.is_empty() {
        return Err(Error::missing("experiment_ids"));
    }
    page("models", handle.search_logged_models(request).await?)
}

async fn get_one(
    State(handle): State<Handle>,
    Path(model_id): Path<String>,
) -> Result<Json<Value>> {
    Ok(Json(
        json!({"model": handle.get_logged_model(&model_id).await?}),
    ))
}

async fn finalize(
    State(handle): State<Handle>,
    Path(model_id): Path<String>,
    Payload(request): Payload<AboutModel>,
) -> Result<Json<Value>> {
    let status = required(request.status, "status")?;
    let model = handle.finalize_logged_model(&model_id, &status).await?;
    Ok(Json(json!({"model": model})))
}

async fn delete_one(
    State(handle): State<Handle>,
    Path(model_id): Path<String>,
) -> Result<Json<Empty>> {
    handle.delete_logged_model(model_id).await?;
    Ok(Json(Empty {}))
}

async fn set_tags(
    State(handle): State<Handle>,
    Path(model_id): Path<String>,
    Payload(request): Payload<AboutModel>,
) -> Result<Json<Value>> {
    let model = handle
        .set_logged_model_tags(&model_id, request.tags)
        .await?;
    Ok(Json(json!({"model": model})))
}

async fn delete_tag(
    State(handle): State<Handle>,
    Path((model_id, key)): Path<(String, String)>,
) -> Result<Json<Empty>> {
    handle.delete_logged_model_tag(model_id, key).await?;
    Ok(Json(Empty {}))
}

async fn log_params(
    State(handle): State<Handle>,
    Path(model_id): Path<String>,
    Payload(request): Payload<AboutModel>,
) -> Result<Json<Empty>> {
    handle
        .log_logged_model_params(model_id, request.params)
        .await?;
    Ok(Json(Empty {}))
}

async fn list_artifacts(
    State(handle): State<Handle>,
    Path(model_id): Path<String>,
    Payload(request): Payload<AboutModel>,
) -> Result<Json<Value>> {
    let path = request.artifact_directory_path;
    let (root, files) = handle
        .list_logged_model_artifacts(&model_id, path.as_deref())
        .await?;
    Ok(Json(json!({"root_uri": root, "files": files})))
}
