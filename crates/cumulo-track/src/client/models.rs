//! Models: those that runs log, and the registered ones with their versions and
//! aliases.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Client, Error, Result, quote};
use crate::wire::{
    CreateLoggedModel, KeyValue, LoggedModel, LoggedModelOrder, ModelVersion, SearchLoggedModels,
    lenient,
};
use crate::{ErrorCode, TRAIN_KEY_TAG};

impl Client {
    /// The model of that name that the run logs: the one that is there, or a new one.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn ensure_logged_model(
        &self,
        experiment_id: &str,
        run_id: &str,
        name: &str,
    ) -> Result<LoggedModel> {
        #[derive(Deserialize)]
        struct One {
            model: LoggedModel,
        }
        let found = self.logged_models_of_run(experiment_id, run_id).await?;
        let found = found.into_iter().find(|model| model.info.name == name);
        let model = match found {
            Some(model) => model,
            None => {
                let body = CreateLoggedModel {
                    experiment_id: Some(experiment_id.to_owned()),
                    name: Some(name.to_owned()),
                    source_run_id: Some(run_id.to_owned()),
                    ..CreateLoggedModel::default()
                };
                let created: One = self
                    .transport
                    .send(Method::POST, "mlflow/logged-models", &body)
                    .await?;
                created.model
            }
        };
        let body = json!({
            "run_id": run_id,
            "models": [{"model_id": model.info.model_id, "step": 0}],
        });
        self.done(Method::POST, "mlflow/runs/outputs", &body)
            .await?;
        Ok(model)
    }

    /// The models that a run logged, newest first.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn logged_models_of_run(
        &self,
        experiment_id: &str,
        run_id: &str,
    ) -> Result<Vec<LoggedModel>> {
        #[derive(Deserialize)]
        struct Found {
            #[serde(default)]
            models: Vec<LoggedModel>,
        }
        let request = SearchLoggedModels {
            experiment_ids: vec![experiment_id.to_owned()],
            filter: Some(format!("source_run_id = {}", quote(run_id))),
            order_by: vec![LoggedModelOrder {
                field_name: Some("creation_timestamp".to_owned()),
                ascending: Some(false),
                ..LoggedModelOrder::default()
            }],
            ..SearchLoggedModels::default()
        };
        let found: Found = self
            .transport
            .send(Method::POST, "mlflow/logged-models/search", &request)
            .await?;
        Ok(found.models)
    }

    /// Says that the files of a logged model are complete.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn finalize_logged_model(&self, model_id: &str) -> Result<()> {
        let path = format!("mlflow/logged-models/{model_id}");
        let body = json!({"model_id": model_id, "status": "LOGGED_MODEL_READY"});
        self.done(Method::PATCH, &path, &body).await
    }

    /// The logged model.
    ///
    /// # Errors
    /// When it is missing or the service cannot be reached.
    pub async fn get_logged_model(&self, model_id: &str) -> Result<LoggedModel> {
        #[derive(Deserialize)]
        struct One {
            model: LoggedModel,
        }
        let path = format!("mlflow/logged-models/{model_id}");
        let found: One = self.transport.get(&path, &[]).await?;
        Ok(found.model)
    }

    /// Registers a logged model as the next version of a registered model, which is
    /// created when missing. The same `key` again returns the first version.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn register(
        &self,
        model: &LoggedModel,
        name: &str,
        key: &str,
        tags: Vec<KeyValue>,
    ) -> Result<ModelVersion> {
        let source = format!("models:/{}", model.info.model_id);
        let run_id = model.info.source_run_id.as_deref();
        let model_id = Some(model.info.model_id.as_str());
        self.ensure_model_version(name, &source, run_id, model_id, key, tags)
            .await
    }

    /// Registers any source as the next version of a registered model, which is
    /// created when missing. The same `key` again returns the first version.
    ///
    /// # Errors
    /// When the service refuses (see [`crate::Handle::create_model_version`] for
    /// sources) or cannot be reached.
    pub async fn ensure_model_version(
        &self,
        name: &str,
        source: &str,
        run_id: Option<&str>,
        model_id: Option<&str>,
        key: &str,
        mut tags: Vec<KeyValue>,
    ) -> Result<ModelVersion> {
        let created = self
            .done(
                Method::POST,
                "mlflow/registered-models/create",
                &json!({"name": name}),
            )
            .await;
        match created {
            Ok(())
            | Err(Error::Refused {
                code: Some(ErrorCode::ResourceAlreadyExists),
                ..
            }) => {}
            Err(error) => return Err(error),
        }
        tags.retain(|tag| tag.key != TRAIN_KEY_TAG);
        tags.push(KeyValue::new(TRAIN_KEY_TAG, key));
        let body = json!({
            "name": name, "source": source, "run_id": run_id, "model_id": model_id, "tags": tags,
        });
        let answer: OneVersion = self
            .transport
            .send(Method::POST, "mlflow/model-versions/create", &body)
            .await?;
        Ok(answer.model_version)
    }

    /// The version that an alias names; `None` when model or alias are missing.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn get_alias(&self, name: &str, alias: &str) -> Result<Option<ModelVersion>> {
        let query = [("name", name), ("alias", alias)];
        let answer = self
            .transport
            .get::<OneVersion>("mlflow/registered-models/alias", &query)
            .await;
        match answer {
            Ok(answer) => Ok(Some(answer.model_version)),
            Err(error) if error.is_not_found() => Ok(None),
            // MLflow's answer to an alias that is not there.
            Err(Error::Refused {
                code: Some(ErrorCode::InvalidParameterValue),
                message,
                ..
            }) if message.contains("alias") && message.contains("not found") => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Lets an alias name a version.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn set_alias(&self, name: &str, alias: &str, version: &str) -> Result<()> {
        let body = json!({"name": name, "alias": alias, "version": version});
        self.done(Method::POST, "mlflow/registered-models/alias", &body)
            .await
    }

    /// One version.
    ///
    /// # Errors
    /// When it is missing or the service cannot be reached.
    pub async fn get_model_version(&self, name: &str, version: &str) -> Result<ModelVersion> {
        let query = [("name", name), ("version", version)];
        let answer: OneVersion = self
            .transport
            .get("mlflow/model-versions/get", &query)
            .await?;
        Ok(answer.model_version)
    }

    /// Where the files of a version are: pass it to [`Client::download`].
    ///
    /// # Errors
    /// When it is missing or the service cannot be reached.
    pub async fn download_uri(&self, name: &str, version: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Found {
            #[serde(default, deserialize_with = "lenient::string")]
            artifact_uri: String,
        }
        let query = [("name", name), ("version", version)];
        let found: Found = self
            .transport
            .get("mlflow/model-versions/get-download-uri", &query)
            .await?;
        Ok(found.artifact_uri)
    }

    /// Sets a tag of a version.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn set_model_version_tag(
        &self,
        name: &str,
        version: &str,
        key: &str,
        value: &str,
    ) -> Result<()> {
        let body = json!({"name": name, "version": version, "key": key, "value": value});
        self.done(Method::POST, "mlflow/model-versions/set-tag", &body)
            .await
    }
}

#[derive(Deserialize)]
struct OneVersion {
    model_version: ModelVersion,
}
