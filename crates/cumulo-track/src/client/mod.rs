//! The client side, for pods: track a run, register a model, move files.
//!
//! It survives a restart of the platform. A request that finds nobody, breaks off,
//! or is answered with 429 or 5xx is sent again with growing pauses until
//! [`Options::patience`] is over; every call here may be repeated without doubling
//! anything, also by a process that starts again after a crash.
//!
//! ```no_run
//! # async fn example() -> Result<(), cumulo_track::client::Error> {
//! use cumulo_track::{KeyValue, Metric, RunStatus, client::Client};
//!
//! let client = Client::from_environment()?;
//! let experiment = client.ensure_experiment("late-flights").await?;
//! let run = client.ensure_run(&experiment, "uid-of-the-train-job", "late-flights-1", vec![]).await?;
//! let id = &run.info.run_id;
//! client.log_batch(id, vec![Metric::new("auc", 0.79, 0, 0)], vec![], vec![]).await?;
//! let model = client.ensure_logged_model(&experiment, id, "model").await?;
//! client.upload_folder(&model.info.artifact_uri, "out/model".as_ref()).await?;
//! client.finalize_logged_model(&model.info.model_id).await?;
//! client.register(&model, "late-flights", "dataset-version-and-spec", vec![]).await?;
//! client.end_run(id, RunStatus::Finished).await?;
//! # Ok(()) }
//! ```

mod files;
mod transport;

use std::path::PathBuf;
use std::time::Duration;

use http::Method;
use serde::Deserialize;
use serde_json::json;

use crate::handle::now;
use crate::wire::{
    CreateLoggedModel, DatasetInput, Experiment, KeyValue, LoggedModel, LoggedModelOrder, Metric,
    ModelVersion, Run, RunStatus, SearchLoggedModels, SearchRuns, lenient,
};
use crate::{ErrorCode, TRAIN_JOB_TAG, TRAIN_KEY_TAG};

pub use files::Progress;
use transport::Transport;

/// Metrics of one request at most (MLflow's limit).
const METRICS: usize = 1000;
/// Parameters, and tags, of one request at most (MLflow's limit).
const PAIRS: usize = 100;

/// What went wrong between this process and the tracking service.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The service refused.
    #[error("{message}")]
    Refused {
        /// What kind of refusal, if it said so in MLflow's way.
        code: Option<ErrorCode>,
        /// Its sentence.
        message: String,
        /// Its HTTP status.
        status: u16,
    },
    /// Nobody answered for as long as we had patience.
    #[error(
        "The tracking service at {address} did not answer for {waited:?} ({reason}). Check that \
         the platform is up (`cumulo status`) and that MLFLOW_TRACKING_URI is right."
    )]
    Unreachable {
        /// Where it should be.
        address: String,
        /// How long we tried.
        waited: Duration,
        /// The last attempt's failure.
        reason: String,
    },
    /// The settings make no sense.
    #[error("{0}")]
    Settings(String),
    /// A file here could not be read or written.
    #[error("Cannot {action} {}: {source}.", path.display())]
    File {
        /// What was attempted.
        action: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The answer is not what the protocol says.
    #[error("The answer of the tracking service to {what} is not understood: {reason}.")]
    Answer {
        /// Which request.
        what: String,
        /// Why not.
        reason: String,
    },
    /// An artifact's path or URI is not valid.
    #[error(transparent)]
    Path(#[from] crate::Error),
}

impl Error {
    /// Whether the service said that something is not there.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: Some(ErrorCode::ResourceDoesNotExist),
                ..
            }
        )
    }
}

/// How to reach the service.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it is, such as `http://127.0.0.1:8700`.
    pub address: String,
    /// Bearer token.
    pub token: Option<String>,
    /// How long to try again before giving up.
    pub patience: Duration,
    /// Accept any certificate (`MLFLOW_TRACKING_INSECURE_TLS`).
    pub insecure_tls: bool,
}

/// A cloneable client.
#[derive(Debug, Clone)]
pub struct Client {
    transport: Transport,
}

/// Result of the client's calls.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Client {
    /// A client with these settings.
    ///
    /// # Errors
    /// When the address is not a URL.
    pub fn new(options: Options) -> Result<Self> {
        Ok(Self {
            transport: Transport::new(options)?,
        })
    }

    /// A client with MLflow's own settings: `MLFLOW_TRACKING_URI`,
    /// `MLFLOW_TRACKING_TOKEN`, `MLFLOW_TRACKING_INSECURE_TLS`.
    ///
    /// # Errors
    /// When `MLFLOW_TRACKING_URI` is missing or not a URL.
    pub fn from_environment() -> Result<Self> {
        let address = std::env::var("MLFLOW_TRACKING_URI").map_err(|_| {
            Error::Settings(
                "MLFLOW_TRACKING_URI is not set: set it to the platform's address, such as \
                 http://127.0.0.1:8700."
                    .to_owned(),
            )
        })?;
        let insecure = std::env::var("MLFLOW_TRACKING_INSECURE_TLS").unwrap_or_default();
        Self::new(Options {
            address,
            token: std::env::var("MLFLOW_TRACKING_TOKEN")
                .ok()
                .filter(|t| !t.is_empty()),
            patience: Duration::from_secs(300),
            insecure_tls: insecure.eq_ignore_ascii_case("true") || insecure == "1",
        })
    }

    /// The identifier of the experiment of that name, created when missing.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn ensure_experiment(&self, name: &str) -> Result<String> {
        #[derive(Deserialize)]
        struct Found {
            experiment: Experiment,
        }
        #[derive(Deserialize)]
        struct Created {
            experiment_id: String,
        }
        let query = [("experiment_name", name)];
        for _ in 0..2 {
            match self
                .transport
                .get::<Found>("mlflow/experiments/get-by-name", &query)
                .await
            {
                Ok(found) => return Ok(found.experiment.experiment_id),
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
            let body = json!({"name": name});
            match self
                .transport
                .send::<Created>(Method::POST, "mlflow/experiments/create", &body)
                .await
            {
                Ok(created) => return Ok(created.experiment_id),
                // Somebody else was faster, or our first attempt did arrive.
                Err(Error::Refused {
                    code: Some(ErrorCode::ResourceAlreadyExists),
                    ..
                }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Answer {
            what: format!("the creation of experiment '{name}'"),
            reason: "it neither exists nor can be created".to_owned(),
        })
    }

    /// The run of a training job: the one that is there, or a new one.
    ///
    /// The service keeps one active run per experiment and `job`, so a pod that
    /// starts again continues its run.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn ensure_run(
        &self,
        experiment_id: &str,
        job: &str,
        name: &str,
        mut tags: Vec<KeyValue>,
    ) -> Result<Run> {
        let found = self
            .search_runs(&SearchRuns {
                experiment_ids: vec![experiment_id.to_owned()],
                filter: Some(format!("tags.`{TRAIN_JOB_TAG}` = {}", quote(job))),
                max_results: Some(1),
                ..SearchRuns::default()
            })
            .await?;
        if let Some(run) = found.into_iter().next() {
            return Ok(run);
        }
        #[derive(Deserialize)]
        struct Created {
            run: Run,
        }
        tags.retain(|tag| tag.key != TRAIN_JOB_TAG);
        tags.push(KeyValue::new(TRAIN_JOB_TAG, job));
        let user = std::env::var("USER").unwrap_or_else(|_| "cumulo".to_owned());
        let body = json!({
            "experiment_id": experiment_id,
            "user_id": user,
            "run_name": name,
            "start_time": now(),
            "tags": tags,
        });
        let created: Created = self
            .transport
            .send(Method::POST, "mlflow/runs/create", &body)
            .await?;
        Ok(created.run)
    }

    /// The run.
    ///
    /// # Errors
    /// When it is missing or the service cannot be reached.
    pub async fn get_run(&self, run_id: &str) -> Result<Run> {
        #[derive(Deserialize)]
        struct Found {
            run: Run,
        }
        let found: Found = self
            .transport
            .get("mlflow/runs/get", &[("run_id", run_id)])
            .await?;
        Ok(found.run)
    }

    /// The first page of a search for runs.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn search_runs(&self, request: &SearchRuns) -> Result<Vec<Run>> {
        #[derive(Deserialize)]
        struct Found {
            #[serde(default)]
            runs: Vec<Run>,
        }
        let found: Found = self
            .transport
            .send(Method::POST, "mlflow/runs/search", request)
            .await?;
        Ok(found.runs)
    }

    /// Logs any number of metrics, parameters and tags, in as many requests as needed.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached; earlier requests have been
    /// stored then, and repeating the call doubles nothing.
    pub async fn log_batch(
        &self,
        run_id: &str,
        metrics: Vec<Metric>,
        params: Vec<KeyValue>,
        tags: Vec<KeyValue>,
    ) -> Result<()> {
        for params in params.chunks(PAIRS) {
            self.batch(json!({"run_id": run_id, "params": params}))
                .await?;
        }
        for tags in tags.chunks(PAIRS) {
            self.batch(json!({"run_id": run_id, "tags": tags})).await?;
        }
        for metrics in metrics.chunks(METRICS) {
            self.batch(json!({"run_id": run_id, "metrics": metrics}))
                .await?;
        }
        Ok(())
    }

    async fn batch(&self, body: serde_json::Value) -> Result<()> {
        self.done(Method::POST, "mlflow/runs/log-batch", &body)
            .await
    }

    async fn done(&self, method: Method, path: &str, body: &serde_json::Value) -> Result<()> {
        let _: serde_json::Value = self.transport.send(method, path, body).await?;
        Ok(())
    }

    /// Sets a tag of a run.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn set_tag(&self, run_id: &str, key: &str, value: &str) -> Result<()> {
        let body = json!({"run_id": run_id, "key": key, "value": value});
        self.done(Method::POST, "mlflow/runs/set-tag", &body).await
    }

    /// Notes the datasets that a run uses.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn log_inputs(&self, run_id: &str, datasets: Vec<DatasetInput>) -> Result<()> {
        let body = json!({"run_id": run_id, "datasets": datasets});
        self.done(Method::POST, "mlflow/runs/log-inputs", &body)
            .await
    }

    /// Sets the state of a run; with its end if the state is final.
    ///
    /// # Errors
    /// When the service refuses or cannot be reached.
    pub async fn end_run(&self, run_id: &str, status: RunStatus) -> Result<()> {
        let running = matches!(status, RunStatus::Running | RunStatus::Scheduled);
        let mut body = json!({"run_id": run_id, "status": status});
        if !running && let Some(body) = body.as_object_mut() {
            body.insert("end_time".to_owned(), now().into());
        }
        self.done(Method::POST, "mlflow/runs/update", &body).await
    }

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

/// A text for the filter language.
fn quote(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
