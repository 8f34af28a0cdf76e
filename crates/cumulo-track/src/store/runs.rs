//! Runs: create, update, delete, parameters and tags.

use super::{experiments, new_id};
use crate::TRAIN_JOB_TAG;
use crate::database::{Bind, Connection, Lock, Row, Sql, query};
use crate::error::{Error, Result};
use crate::handle::{Handle, now};
use crate::names;
use crate::validate;
use crate::wire::{
    CreateRun, KeyValue, LifecycleStage, Run, RunData, RunInfo, RunInputs, RunOutputs, RunStatus,
    UpdateRun,
};

/// The tag that carries a run's name.
const RUN_NAME: &str = "mlflow.runName";
/// The tag that lists the models of a run, as `runs/log-model` keeps it.
const LOGGED_MODELS: &str = "mlflow.log-model.history";

pub(super) const RUN_COLUMNS: &str = "r.run_id, r.experiment_id, r.run_name, r.user_id, r.status, \
                                      r.start_time, r.end_time, r.lifecycle_stage, r.artifact_uri";

/// Reads [`RUN_COLUMNS`].
pub(super) fn info_from_row(row: &Row) -> Result<RunInfo> {
    let run_id: String = row.try_get(0)?;
    let status: &str = row.try_get(4)?;
    let stage: &str = row.try_get(7)?;
    Ok(RunInfo {
        run_uuid: run_id.clone(),
        run_id,
        experiment_id: row.try_get::<i64>(1)?.to_string(),
        run_name: row.try_get(2)?,
        user_id: row.try_get(3)?,
        status: RunStatus::parse(status).unwrap_or(RunStatus::Running),
        start_time: row.try_get(5)?,
        end_time: row.try_get(6)?,
        lifecycle_stage: LifecycleStage::parse(stage),
        artifact_uri: row.try_get(8)?,
    })
}

/// What became of a request for a new run.
enum Created {
    Now(Box<Run>),
    /// The run of the same training job, made by an earlier request.
    Before(String),
}

/// What a write needs to know of a run before it touches it.
pub(super) struct RunState {
    pub(super) experiment_id: i64,
}

fn not_found(run_id: &str) -> Error {
    Error::not_found(format!("Run with id={run_id} not found"))
}

/// The run, if it is there and active.
pub(super) async fn active(connection: &mut Connection, run_id: &str) -> Result<RunState> {
    let row = query("SELECT experiment_id, lifecycle_stage FROM runs WHERE run_id = $1")
        .with(run_id)
        .fetch_optional(connection)
        .await?
        .ok_or_else(|| not_found(run_id))?;
    let stage: &str = row.try_get(1)?;
    if LifecycleStage::parse(stage) == LifecycleStage::Deleted {
        return Err(Error::invalid(format!(
            "The run {run_id} must be in the 'active' state. Current state is deleted."
        )));
    }
    Ok(RunState {
        experiment_id: row.try_get(0)?,
    })
}

fn last_of_each_key(tags: Vec<KeyValue>) -> Vec<KeyValue> {
    let mut last: Vec<KeyValue> = Vec::with_capacity(tags.len());
    for tag in tags {
        last.retain(|other| other.key != tag.key);
        last.push(tag);
    }
    // Rows are always touched in one order, so that two writes cannot wait for each other.
    last.sort_by(|a, b| a.key.cmp(&b.key));
    last
}

/// Sets tags; the last of a repeated key counts, and the name's tag renames the run.
pub(super) async fn put_tags(
    connection: &mut Connection,
    run_id: &str,
    tags: &[KeyValue],
) -> Result<()> {
    let last = last_of_each_key(tags.to_vec());
    if last.is_empty() {
        return Ok(());
    }
    if let Some(name) = last.iter().find(|tag| tag.key == RUN_NAME) {
        query("UPDATE runs SET run_name = $1 WHERE run_id = $2")
            .with(&name.value)
            .with(run_id)
            .execute(&mut *connection)
            .await?;
    }
    let rows = last.iter().map(|tag| -> [Bind; 3] {
        [
            run_id.into(),
            tag.key.as_str().into(),
            tag.value.as_str().into(),
        ]
    });
    let mut sql = Sql::new("INSERT INTO tags (run_id, key, value)");
    sql.bind_rows(rows);
    sql.push(" ON CONFLICT (run_id, key) DO UPDATE SET value = excluded.value");
    sql.execute(connection).await?;
    Ok(())
}

/// Adds parameters; one that is there already must have the same value.
pub(super) async fn put_params(
    connection: &mut Connection,
    run_id: &str,
    params: &[KeyValue],
) -> Result<()> {
    if params.is_empty() {
        return Ok(());
    }
    let mut sorted: Vec<&KeyValue> = params.iter().collect();
    sorted.sort_by(|a, b| a.key.cmp(&b.key));
    let rows = sorted.into_iter().map(|param| -> [Bind; 3] {
        [
            run_id.into(),
            param.key.as_str().into(),
            param.value.as_str().into(),
        ]
    });
    let mut sql = Sql::new("INSERT INTO params (run_id, key, value)");
    sql.bind_rows(rows);
    sql.push(" ON CONFLICT (run_id, key) DO NOTHING");
    let inserted = sql.execute(connection).await?;
    if usize::try_from(inserted).is_ok_and(|inserted| inserted == params.len()) {
        return Ok(());
    }
    let mut sql = Sql::new("SELECT key, value FROM params WHERE run_id = ");
    sql.bind(run_id).push(" AND key IN ");
    sql.bind_list(params.iter().map(|param| param.key.as_str()));
    for row in sql.fetch(&mut *connection).await? {
        let (key, old): (&str, &str) = (row.try_get(0)?, row.try_get(1)?);
        let new = params.iter().find(|param| param.key == key);
        if let Some(new) = new.filter(|new| new.value != old) {
            return Err(Error::invalid(format!(
                "Changing param values is not allowed. Param with key='{key}' was already logged \
                 with value='{old}' for run ID='{run_id}'. Attempted logging new value '{}'.",
                new.value
            )));
        }
    }
    Ok(())
}

impl Handle {
    /// Creates a run, or returns the one that has the same [`TRAIN_JOB_TAG`] already.
    ///
    /// # Errors
    /// When the experiment is missing or deleted, or names and tags are not valid.
    pub async fn create_run(&self, request: CreateRun) -> Result<Run> {
        let experiment = request.experiment_id.filter(|id| !id.is_empty());
        let experiment = validate::experiment_id(experiment.as_deref().unwrap_or("0"))?;
        let mut tags = request.tags;
        validate::tag_count(&tags)?;
        for (index, tag) in tags.iter().enumerate() {
            validate::tag(tag, &format!("tags[{index}]"))?;
        }
        let tagged = tags.iter().find(|tag| tag.key == RUN_NAME);
        let tagged = tagged
            .map(|tag| tag.value.clone())
            .filter(|name| !name.is_empty());
        let given = request.run_name.filter(|name| !name.is_empty());
        if let (Some(name), Some(tag)) = (&given, &tagged)
            && name != tag
        {
            return Err(Error::invalid(format!(
                "Both 'run_name' argument and 'mlflow.runName' tag are specified, but with \
                 different values (run_name='{name}', mlflow.runName='{tag}')."
            )));
        }
        let name = given.or(tagged).unwrap_or_else(names::random);
        tags.retain(|tag| tag.key != RUN_NAME);
        tags.push(KeyValue::new(RUN_NAME, name.as_str()));
        let tags = last_of_each_key(tags);
        let job = tags.iter().find(|tag| tag.key == TRAIN_JOB_TAG);
        let job = job.map(|tag| tag.value.clone());
        let user = request.user_id.unwrap_or_default();
        let start_time = request.start_time.unwrap_or_else(now);
        let created = self
            .database()
            .write(move |connection| {
                Box::pin(async move {
                    experiments::check_active(connection, experiment).await?;
                    if let Some(job) = &job {
                        connection.lock(Lock::TrainJob(experiment, job)).await?;
                        if let Some(existing) = of_train_job(connection, experiment, job).await? {
                            return Ok(Created::Before(existing));
                        }
                    }
                    let id = new_id();
                    let mut sql = Sql::new(
                        "INSERT INTO runs (run_id, experiment_id, run_name, user_id, status, \
                         start_time, lifecycle_stage, artifact_uri) SELECT ",
                    );
                    sql.bind(id.as_str()).push(", experiment_id, ");
                    sql.bind(name.as_str()).push(", ").bind(user.as_str());
                    sql.push(", 'RUNNING', ").bind(start_time);
                    sql.push(", 'active', artifact_location || ");
                    sql.bind(format!("/{id}/artifacts"));
                    sql.push(" FROM experiments WHERE experiment_id = ");
                    sql.bind(experiment);
                    sql.push(
                        " RETURNING run_id, experiment_id, run_name, user_id, status, start_time, \
                         end_time, lifecycle_stage, artifact_uri",
                    );
                    let rows = sql.fetch(&mut *connection).await?;
                    let row = rows.first().ok_or_else(|| not_found(&id))?;
                    let info = info_from_row(row)?;
                    put_tags(connection, &id, &tags).await?;
                    let data = RunData {
                        tags,
                        ..RunData::default()
                    };
                    Ok(Created::Now(Box::new(Run {
                        info,
                        data,
                        inputs: RunInputs::default(),
                        outputs: RunOutputs::default(),
                    })))
                })
            })
            .await?;
        match created {
            Created::Now(run) => Ok(*run),
            Created::Before(run_id) => self.get_run(&run_id).await,
        }
    }

    /// The run of a training job in an experiment: the one that is there, or a new one.
    ///
    /// However often it is called, and whatever crashes in between, there is one
    /// active run per experiment and `job`.
    ///
    /// # Errors
    /// As [`Handle::create_run`].
    pub async fn ensure_run(&self, job: &str, mut request: CreateRun) -> Result<Run> {
        request.tags.retain(|tag| tag.key != TRAIN_JOB_TAG);
        request.tags.push(KeyValue::new(TRAIN_JOB_TAG, job));
        self.create_run(request).await
    }

    /// The run, whole, deleted ones too.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get_run(&self, run_id: &str) -> Result<Run> {
        validate::run_id(run_id)?;
        let mut sql = Sql::new("SELECT ");
        sql.push(RUN_COLUMNS)
            .push(" FROM runs r WHERE r.run_id = ")
            .bind(run_id);
        let mut runs = self.load_runs(sql).await?;
        runs.pop().ok_or_else(|| not_found(run_id))
    }

    /// Changes state, end and name of a run.
    ///
    /// # Errors
    /// When it is missing or deleted.
    pub async fn update_run(&self, request: UpdateRun) -> Result<RunInfo> {
        let run_id = validate::required(request.run_id.or(request.run_uuid), "run_id")?;
        let status = request
            .status
            .map(|status| {
                RunStatus::parse(&status).ok_or_else(|| {
                    Error::invalid(format!(
                        "Invalid run status '{status}': expected RUNNING, SCHEDULED, FINISHED, \
                         FAILED or KILLED."
                    ))
                })
            })
            .transpose()?;
        let end_time = request.end_time;
        let name = request.run_name.filter(|name| !name.is_empty());
        if let Some(name) = &name {
            validate::tag(&KeyValue::new(RUN_NAME, name.as_str()), "")?;
        }
        let id = run_id.clone();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    active(connection, &id).await?;
                    query(
                        "UPDATE runs SET status = COALESCE($1, status), \
                         end_time = COALESCE($2, end_time) WHERE run_id = $3",
                    )
                    .with(status.map(RunStatus::as_str))
                    .with(end_time)
                    .with(&id)
                    .execute(&mut *connection)
                    .await?;
                    if let Some(name) = name {
                        put_tags(connection, &id, &[KeyValue::new(RUN_NAME, name)]).await?;
                    }
                    Ok(())
                })
            })
            .await?;
        Ok(self.get_run(&run_id).await?.info)
    }

    /// Deletes a run; it may be restored.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_run(&self, run_id: String) -> Result<()> {
        self.move_run(run_id, LifecycleStage::Deleted).await
    }

    /// Restores a deleted run.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn restore_run(&self, run_id: String) -> Result<()> {
        self.move_run(run_id, LifecycleStage::Active).await
    }

    async fn move_run(&self, run_id: String, to: LifecycleStage) -> Result<()> {
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let changed = query(
                        "UPDATE runs SET lifecycle_stage = $1, deleted_time = $2 WHERE run_id = $3",
                    )
                    .with(to.as_str())
                    .with((to == LifecycleStage::Deleted).then(now))
                    .with(&run_id)
                    .execute(connection)
                    .await?;
                    if changed == 0 {
                        return Err(not_found(&run_id));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Logs a parameter.
    ///
    /// # Errors
    /// When the run is missing or deleted, or the parameter has another value already.
    pub async fn log_param(&self, run_id: String, param: KeyValue) -> Result<()> {
        validate::param(&param, "")?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    active(connection, &run_id).await?;
                    put_params(connection, &run_id, &[param]).await
                })
            })
            .await
    }

    /// Sets a tag of a run.
    ///
    /// # Errors
    /// When the run is missing or deleted, or the tag is not valid.
    pub async fn set_tag(&self, run_id: String, tag: KeyValue) -> Result<()> {
        validate::tag(&tag, "")?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    active(connection, &run_id).await?;
                    put_tags(connection, &run_id, &[tag]).await
                })
            })
            .await
    }

    /// Deletes a tag of a run.
    ///
    /// # Errors
    /// When the run or the tag is missing.
    pub async fn delete_tag(&self, run_id: String, key: String) -> Result<()> {
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    active(connection, &run_id).await?;
                    let deleted = query("DELETE FROM tags WHERE run_id = $1 AND key = $2")
                        .with(&run_id)
                        .with(&key)
                        .execute(connection)
                        .await?;
                    if deleted == 0 {
                        return Err(Error::not_found(format!(
                            "No tag with name: {key} in run with id {run_id}"
                        )));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Notes a model in the run's history of models (MLflow 2's `log-model`).
    ///
    /// # Errors
    /// When the run is missing or deleted, or the text is not a JSON object.
    pub async fn log_model(&self, run_id: String, model_json: &str) -> Result<()> {
        let mut model: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(model_json).map_err(|error| {
                Error::invalid(format!(
                    "Malformed model info. \n {model_json} \n not valid JSON: {error}"
                ))
            })?;
        for field in ["artifact_path", "flavors", "utc_time_created", "run_id"] {
            if !model.contains_key(field) {
                return Err(Error::invalid(format!(
                    "Model json is missing mandatory fields: {field}"
                )));
            }
        }
        model.remove("signature");
        model.remove("saved_input_example_info");
        let model = serde_json::Value::Object(model);
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    connection.lock(Lock::RunModels(&run_id)).await?;
                    active(connection, &run_id).await?;
                    let history: Option<String> =
                        query("SELECT value FROM tags WHERE run_id = $1 AND key = $2")
                            .with(&run_id)
                            .with(LOGGED_MODELS)
                            .scalar(&mut *connection)
                            .await?;
                    let mut models: Vec<serde_json::Value> = history
                        .and_then(|text| serde_json::from_str(&text).ok())
                        .unwrap_or_default();
                    // A retried request must not double the model.
                    if !models.contains(&model) {
                        models.push(model);
                    }
                    let tag =
                        KeyValue::new(LOGGED_MODELS, serde_json::Value::from(models).to_string());
                    validate::tag(&tag, "")?;
                    put_tags(connection, &run_id, &[tag]).await
                })
            })
            .await
    }
}

async fn of_train_job(
    connection: &mut Connection,
    experiment: i64,
    job: &str,
) -> Result<Option<String>> {
    query(
        "SELECT r.run_id FROM tags t JOIN runs r ON r.run_id = t.run_id \
         WHERE t.key = 'cumulo.trainJob' AND t.value = $1 AND r.experiment_id = $2 \
         AND r.lifecycle_stage = 'active' ORDER BY r.start_time LIMIT 1",
    )
    .with(job)
    .with(experiment)
    .scalar(connection)
    .await
}
