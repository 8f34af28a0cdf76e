//! Experiments and runs: what a training logs.

use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::{Client, Error, Result, quote};
use crate::handle::now;
use crate::wire::{DatasetInput, Experiment, KeyValue, Metric, Run, RunStatus, SearchRuns};
use crate::{ErrorCode, TRAIN_JOB_TAG};

/// Metrics of one request at most (MLflow's limit).
const METRICS: usize = 1000;
/// Parameters, and tags, of one request at most (MLflow's limit).
const PAIRS: usize = 100;

impl Client {
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
}
