//! Registered models, versions, aliases.

use axum::extract::State;
use axum::routing::{delete, get, patch, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::payload::Payload;
use super::tracking::page;
use crate::error::Result;
use crate::handle::Handle;
use crate::validate::required;
use crate::wire::{
    CreateModelVersion, CreateRegisteredModel, Empty, KeyValue, RegistryRequest, SearchRegistry,
};

pub(super) fn router() -> Router<Handle> {
    Router::new()
        .route("/registered-models/create", post(create_model))
        .route("/registered-models/get", get(get_model))
        .route(
            "/registered-models/search",
            get(search_models).post(search_models),
        )
        .route("/registered-models/rename", post(rename_model))
        .route("/registered-models/update", patch(update_model))
        .route("/registered-models/delete", delete(delete_model))
        .route(
            "/registered-models/get-latest-versions",
            get(latest_versions).post(latest_versions),
        )
        .route("/registered-models/set-tag", post(set_model_tag))
        .route("/registered-models/delete-tag", delete(delete_model_tag))
        .route(
            "/registered-models/alias",
            get(get_by_alias).post(set_alias).delete(delete_alias),
        )
        .route("/model-versions/create", post(create_version))
        .route("/model-versions/get", get(get_version))
        .route(
            "/model-versions/search",
            get(search_versions).post(search_versions),
        )
        .route("/model-versions/update", patch(update_version))
        .route("/model-versions/transition-stage", post(transition_stage))
        .route("/model-versions/delete", delete(delete_version))
        .route("/model-versions/get-download-uri", get(download_uri))
        .route("/model-versions/set-tag", post(set_version_tag))
        .route("/model-versions/delete-tag", delete(delete_version_tag))
}

impl RegistryRequest {
    fn name(&self) -> Result<String> {
        required(self.name.clone(), "name")
    }

    fn version(&self) -> Result<String> {
        required(self.version.clone(), "version")
    }

    fn tag(&self) -> Result<KeyValue> {
        let key = required(self.key.clone(), "key")?;
        Ok(KeyValue::new(key, self.value.clone().unwrap_or_default()))
    }

    fn alias(&self) -> Result<String> {
        required(self.alias.clone(), "alias")
    }
}

async fn create_model(
    State(handle): State<Handle>,
    Payload(request): Payload<CreateRegisteredModel>,
) -> Result<Json<Value>> {
    let model = handle.create_registered_model(request).await?;
    Ok(Json(json!({"registered_model": model})))
}

async fn get_model(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let model = handle.get_registered_model(&request.name()?).await?;
    Ok(Json(json!({"registered_model": model})))
}

async fn search_models(
    State(handle): State<Handle>,
    Payload(request): Payload<SearchRegistry>,
) -> Result<Json<Value>> {
    page(
        "registered_models",
        handle.search_registered_models(request).await?,
    )
}

async fn rename_model(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let new_name = required(request.new_name.clone(), "new_name")?;
    let model = handle
        .rename_registered_model(&request.name()?, &new_name)
        .await?;
    Ok(Json(json!({"registered_model": model})))
}

async fn update_model(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let name = request.name()?;
    let model = handle
        .update_registered_model(&name, request.description)
        .await?;
    Ok(Json(json!({"registered_model": model})))
}

async fn delete_model(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Empty>> {
    handle.delete_registered_model(&request.name()?).await?;
    Ok(Json(Empty {}))
}

async fn latest_versions(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let found = handle
        .latest_versions(&request.name()?, &request.stages)
        .await?;
    Ok(Json(json!({"model_versions": found})))
}

async fn set_model_tag(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Empty>> {
    handle
        .set_registered_model_tag(&request.name()?, request.tag()?)
        .await?;
    Ok(Json(Empty {}))
}

async fn delete_model_tag(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Empty>> {
    let key = request.tag()?.key;
    handle
        .delete_registered_model_tag(&request.name()?, key)
        .await?;
    Ok(Json(Empty {}))
}

async fn set_alias(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Empty>> {
    let (name, alias) = (request.name()?, request.alias()?);
    handle.set_alias(&name, &alias, &request.version()?).await?;
    Ok(Json(Empty {}))
}

async fn delete_alias(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Empty>> {
    handle
        .delete_alias(&request.name()?, &request.alias()?)
        .await?;
    Ok(Json(Empty {}))
}

async fn get_by_alias(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let (name, alias) = (request.name()?, request.alias()?);
    let version = handle.get_model_version_by_alias(&name, &alias).await?;
    Ok(Json(json!({"model_version": version})))
}

async fn create_version(
    State(handle): State<Handle>,
    Payload(request): Payload<CreateModelVersion>,
) -> Result<Json<Value>> {
    let version = handle.create_model_version(request).await?;
    Ok(Json(json!({"model_version": version})))
}

async fn get_version(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let version = handle
        .get_model_version(&request.name()?, &request.version()?)
        .await?;
    Ok(Json(json!({"model_version": version})))
}

async fn search_versions(
    State(handle): State<Handle>,
    Payload(request): Payload<SearchRegistry>,
) -> Result<Json<Value>> {
    page(
        "model_versions",
        handle.search_model_versions(request).await?,
    )
}

async fn update_version(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let (name, version) = (request.name()?, request.version()?);
    let version = handle
        .update_model_version(&name, &version, request.description)
        .await?;
    Ok(Json(json!({"model_version": version})))
}

async fn transition_stage(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let (name, version) = (request.name()?, request.version()?);
    let stage = required(request.stage, "stage")?;
    let archive = request.archive_existing_versions.unwrap_or(false);
    let version = handle
        .transition_stage(&name, &version, &stage, archive)
        .await?;
    Ok(Json(json!({"model_version": version})))
}

async fn delete_version(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Empty>> {
    handle
        .delete_model_version(&request.name()?, &request.version()?)
        .await?;
    Ok(Json(Empty {}))
}

async fn download_uri(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Value>> {
    let uri = handle
        .download_uri(&request.name()?, &request.version()?)
        .await?;
    Ok(Json(json!({"artifact_uri": uri})))
}

async fn set_version_tag(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Empty>> {
    let (name, version) = (request.name()?, request.version()?);
    handle
        .set_model_version_tag(&name, &version, request.tag()?)
        .await?;
    Ok(Json(Empty {}))
}

async fn delete_version_tag(
    State(handle): State<Handle>,
    Payload(request): Payload<RegistryRequest>,
) -> Result<Json<Empty>> {
    let (name, version) = (request.name()?, request.version()?);
    let key = request.tag()?.key;
    handle
        .delete_model_version_tag(&name, &version, key)
        .await?;
    Ok(Json(Empty {}))
}
