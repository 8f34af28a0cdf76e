//! Logged models: create, finalize, tags, parameters.

use std::collections::HashMap;

use super::{experiments, metrics, new_id};
use crate::artifacts::ArtifactPath;
use crate::database::{Bind, Connection, Lock, MAX_BINDS, Row, Sql, query};
use crate::error::{Error, Result};
use crate::handle::{Handle, now};
use crate::names;
use crate::validate;
use crate::wire::{
    CreateLoggedModel, FileInfo, KeyValue, LoggedModel, LoggedModelData, LoggedModelInfo,
    LoggedModelRegistration, LoggedModelStatus, Metric,
};

pub(super) const MODEL_COLUMNS: &str = "l.model_id, l.experiment_id, l.name, l.artifact_location, \
     l.creation_timestamp_ms, l.last_updated_timestamp_ms, l.status, l.model_type, \
     l.source_run_id, l.status_message";

/// The tag that lists the versions made from a model, as MLflow keeps it.
const MODEL_VERSIONS: &str = "mlflow.modelVersions";
/// Parameters or tags of one request at most.
const MAX_PAIRS: usize = 1000;

fn not_found(model_id: &str) -> Error {
    Error::not_found(format!("Logged model with ID '{model_id}' not found."))
}

fn from_row(row: &Row) -> Result<LoggedModel> {
    let status: &str = row.try_get(6)?;
    Ok(LoggedModel {
        info: LoggedModelInfo {
            model_id: row.try_get(0)?,
            experiment_id: row.try_get::<i64>(1)?.to_string(),
            name: row.try_get(2)?,
            artifact_uri: row.try_get(3)?,
            creation_timestamp_ms: row.try_get(4)?,
            last_updated_timestamp_ms: row.try_get(5)?,
            status: LoggedModelStatus::parse(status).unwrap_or(LoggedModelStatus::Pending),
            model_type: row.try_get(7)?,
            source_run_id: row.try_get(8)?,
            status_message: row.try_get(9)?,
            tags: Vec::new(),
            registrations: Vec::new(),
        },
        data: LoggedModelData::default(),
    })
}

async fn check_exists(connection: &mut Connection, model_id: &str) -> Result<()> {
    let found: Option<i64> = query(
        "SELECT CAST(1 AS BIGINT) FROM logged_models WHERE model_id = $1 AND lifecycle_stage = 'active'",
    )
    .with(model_id)
    .scalar(connection)
    .await?;
    found.map(|_| ()).ok_or_else(|| not_found(model_id))
}

fn check_pairs(pairs: &[KeyValue], what: &str) -> Result<()> {
    if pairs.len() > MAX_PAIRS {
        return Err(Error::invalid(format!(
            "A request can contain at most {MAX_PAIRS} {what}. Got {}. Please split them up \
             across multiple requests.",
            pairs.len()
        )));
    }
    Ok(())
}

async fn put_pairs(
    connection: &mut Connection,
    statement: &'static str,
    model_id: &str,
    pairs: &[KeyValue],
) -> Result<()> {
    let mut last: Vec<&KeyValue> = Vec::with_capacity(pairs.len());
    for pair in pairs {
        last.retain(|other| other.key != pair.key);
        last.push(pair);
    }
    last.sort_by(|a, b| a.key.cmp(&b.key));
    if last.is_empty() {
        return Ok(());
    }
    let mut sql = Sql::new(statement);
    sql.bind_rows(last.iter().map(|pair| -> [Bind; 3] {
        [
            model_id.into(),
            pair.key.as_str().into(),
            pair.value.as_str().into(),
        ]
    }));
    sql.push(" ON CONFLICT (model_id, key) DO UPDATE SET value = excluded.value");
    sql.execute(connection).await?;
    Ok(())
}

const PUT_TAGS: &str = "INSERT INTO logged_model_tags (model_id, key, value)";
const PUT_PARAMS: &str = "INSERT INTO logged_model_params (model_id, key, value)";

fn without_repetition(versions: Vec<LoggedModelRegistration>) -> String {
    let mut once: Vec<LoggedModelRegistration> = Vec::with_capacity(versions.len());
    for version in versions {
        if !once.contains(&version) {
            once.push(version);
        }
    }
    serde_json::to_string(&once).unwrap_or_default()
}

/// Adds a version to the list that a logged model keeps of them.
pub(super) async fn note_version(
    connection: &mut Connection,
    model_id: &str,
    name: &str,
    version: i64,
) -> Result<()> {
    connection.lock(Lock::LoggedModel(model_id)).await?;
    check_exists(connection, model_id).await?;
    let known: Option<String> =
        query("SELECT value FROM logged_model_tags WHERE model_id = $1 AND key = $2")
            .with(model_id)
            .with(MODEL_VERSIONS)
            .scalar(&mut *connection)
            .await?;
    let mut versions: Vec<LoggedModelRegistration> = known
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let this = LoggedModelRegistration {
        name: name.to_owned(),
        version: version.to_string(),
    };
    versions.push(this);
    let text = without_repetition(versions);
    put_pairs(
        connection,
        PUT_TAGS,
        model_id,
        &[KeyValue::new(MODEL_VERSIONS, text)],
    )
    .await
}

impl Handle {
    /// Creates a logged model, pending until it is finalized.
    ///
    /// # Errors
    /// When the experiment is missing or deleted, or something is not valid.
    pub async fn create_logged_model(&self, request: CreateLoggedModel) -> Result<LoggedModel> {
        let experiment = validate::required(request.experiment_id, "experiment_id")?;
        let experiment = validate::experiment_id(&experiment)?;
        let name = request.name.unwrap_or_else(names::random);
        validate::logged_model_name(&name)?;
        check_pairs(&request.params, "params")?;
        check_pairs(&request.tags, "tags")?;
        for tag in &request.tags {
            validate::registry_tag(tag)?;
        }
        let (params, tags) = (request.params, request.tags);
        let model_type = request.model_type.filter(|text| !text.is_empty());
        let run_id = request.source_run_id.filter(|id| !id.is_empty());
        let model_id = self
            .database()
            .write(move |connection| {
                Box::pin(async move {
                    experiments::check_active(connection, experiment).await?;
                    let id = format!("m-{}", new_id());
                    query(
                        "INSERT INTO logged_models (model_id, experiment_id, name, \
                         artifact_location, creation_timestamp_ms, last_updated_timestamp_ms, \
                         status, model_type, source_run_id, lifecycle_stage) \
                         SELECT $1, experiment_id, $2, artifact_location || $3, $4, $4, \
                         'LOGGED_MODEL_PENDING', $5, $6, 'active' \
                         FROM experiments WHERE experiment_id = $7",
                    )
                    .with(&id)
                    .with(&name)
                    .with(format!("/models/{id}/artifacts"))
                    .with(now())
                    .with(model_type)
                    .with(run_id)
                    .with(experiment)
                    .execute(&mut *connection)
                    .await?;
                    put_pairs(connection, PUT_PARAMS, &id, &params).await?;
                    put_pairs(connection, PUT_TAGS, &id, &tags).await?;
                    Ok(id)
                })
            })
            .await?;
        self.get_logged_model(&model_id).await
    }

    /// The logged model, whole.
    ///
    /// # Errors
    /// When it is missing or deleted.
    pub async fn get_logged_model(&self, model_id: &str) -> Result<LoggedModel> {
        let mut sql = Sql::new("SELECT ");
        sql.push(MODEL_COLUMNS);
        sql.push(" FROM logged_models l WHERE l.lifecycle_stage = 'active' AND l.model_id = ");
        sql.bind(model_id);
        let mut found = self.load_logged_models(sql).await?;
        found.pop().ok_or_else(|| not_found(model_id))
    }

    /// Says that the upload of a model's files is done, or failed.
    ///
    /// # Errors
    /// When it is missing, or the status is unknown.
    pub async fn finalize_logged_model(&self, model_id: &str, status: &str) -> Result<LoggedModel> {
        let status = LoggedModelStatus::parse(status).ok_or_else(|| {
            Error::invalid(format!(
                "Invalid model status '{status}': expected LOGGED_MODEL_READY, \
                 LOGGED_MODEL_UPLOAD_FAILED or LOGGED_MODEL_PENDING."
            ))
        })?;
        let id = model_id.to_owned();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    check_exists(connection, &id).await?;
                    query(
                        "UPDATE logged_models SET status = $1, last_updated_timestamp_ms = $2 \
                         WHERE model_id = $3",
                    )
                    .with(status.as_str())
                    .with(now())
                    .with(&id)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await?;
        self.get_logged_model(model_id).await
    }

    /// Deletes a logged model; its files stay.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_logged_model(&self, model_id: String) -> Result<()> {
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    check_exists(connection, &model_id).await?;
                    query(
                        "UPDATE logged_models SET lifecycle_stage = 'deleted', \
                         last_updated_timestamp_ms = $1 WHERE model_id = $2",
                    )
                    .with(now())
                    .with(&model_id)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Sets tags of a logged model.
    ///
    /// # Errors
    /// When it is missing, or a tag is not valid.
    pub async fn set_logged_model_tags(
        &self,
        model_id: &str,
        mut tags: Vec<KeyValue>,
    ) -> Result<LoggedModel> {
        check_pairs(&tags, "tags")?;
        for tag in &mut tags {
            validate::registry_tag(tag)?;
            // MLflow's client adds to this list what the server has added already.
            if tag.key == MODEL_VERSIONS
                && let Ok(versions) = serde_json::from_str(&tag.value)
            {
                tag.value = without_repetition(versions);
            }
        }
        let id = model_id.to_owned();
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    connection.lock(Lock::LoggedModel(&id)).await?;
                    check_exists(connection, &id).await?;
                    put_pairs(connection, PUT_TAGS, &id, &tags).await
                })
            })
            .await?;
        self.get_logged_model(model_id).await
    }

    /// Deletes a tag of a logged model.
    ///
    /// # Errors
    /// When the model or the tag is missing.
    pub async fn delete_logged_model_tag(&self, model_id: String, key: String) -> Result<()> {
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    check_exists(connection, &model_id).await?;
                    let deleted =
                        query("DELETE FROM logged_model_tags WHERE model_id = $1 AND key = $2")
                            .with(&model_id)
                            .with(&key)
                            .execute(connection)
                            .await?;
                    if deleted == 0 {
                        return Err(Error::not_found(format!(
                            "No tag with key '{key}' found for model with ID '{model_id}'."
                        )));
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Adds parameters to a logged model.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn log_logged_model_params(
        &self,
        model_id: String,
        params: Vec<KeyValue>,
    ) -> Result<()> {
        check_pairs(&params, "params")?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    check_exists(connection, &model_id).await?;
                    put_pairs(connection, PUT_PARAMS, &model_id, &params).await
                })
            })
            .await
    }

    /// Lists the files of a logged model below `path`, and says where they are.
    ///
    /// # Errors
    /// When the model is missing or the path is not valid.
    pub async fn list_logged_model_artifacts(
        &self,
        model_id: &str,
        path: Option<&str>,
    ) -> Result<(String, Vec<FileInfo>)> {
        let model = self.get_logged_model(model_id).await?;
        let files = self.list_below(&model.info.artifact_uri, path).await?;
        Ok((model.info.artifact_uri, files))
    }

    /// Lists the artifacts of a run below `path`, and says where they are.
    ///
    /// # Errors
    /// When the run is missing or the path is not valid.
    pub async fn list_artifacts(
        &self,
        run_id: &str,
        path: Option<&str>,
    ) -> Result<(String, Vec<FileInfo>)> {
        let run = self.get_run(run_id).await?;
        let files = self.list_below(&run.info.artifact_uri, path).await?;
        Ok((run.info.artifact_uri, files))
    }

    async fn list_below(&self, root: &str, path: Option<&str>) -> Result<Vec<FileInfo>> {
        let root = ArtifactPath::from_uri(root)?;
        let path = path
            .filter(|path| !path.is_empty())
            .map(ArtifactPath::parse)
            .transpose()?;
        let folder = match &path {
            Some(path) => root.join(path),
            None => root,
        };
        let mut files = self.artifacts().list(&folder).await?;
        if let Some(path) = path {
            for file in &mut files {
                file.path = format!("{}/{}", path.as_str(), file.path);
            }
        }
        Ok(files)
    }

    /// Runs the statement, which must select [`MODEL_COLUMNS`] first, and loads the rest.
    pub(super) async fn load_logged_models(&self, sql: Sql) -> Result<Vec<LoggedModel>> {
        let readers = self.database().readers();
        let rows = sql.fetch(readers).await?;
        let mut models = rows.iter().map(from_row).collect::<Result<Vec<_>>>()?;
        let index: HashMap<String, usize> = models
            .iter()
            .enumerate()
            .map(|(position, model)| (model.info.model_id.clone(), position))
            .collect();
        let ids: Vec<String> = models
            .iter()
            .map(|model| model.info.model_id.clone())
            .collect();
        for chunk in ids.chunks(MAX_BINDS) {
            let about = |text: &'static str| {
                let mut sql = Sql::new(text);
                sql.bind_list(chunk.iter().map(String::as_str))
                    .push(" ORDER BY model_id, key");
                sql.fetch(readers)
            };
            let (tags, params, logged) = tokio::try_join!(
                about("SELECT model_id, key, value FROM logged_model_tags WHERE model_id IN "),
                about("SELECT model_id, key, value FROM logged_model_params WHERE model_id IN "),
                about(
                    "SELECT model_id, key, value, timestamp, step, is_nan, run_id, dataset_name, \
                     dataset_digest FROM logged_model_metrics WHERE model_id IN "
                ),
            )?;
            for row in &tags {
                let position = index.get(row.try_get::<&str>(0)?);
                if let Some(model) = position.and_then(|p| models.get_mut(*p)) {
                    let (key, value): (String, String) = (row.try_get(1)?, row.try_get(2)?);
                    if key == MODEL_VERSIONS {
                        model.info.registrations = serde_json::from_str(&value).unwrap_or_default();
                    }
                    model.info.tags.push(KeyValue { key, value });
                }
            }
            for row in &params {
                let position = index.get(row.try_get::<&str>(0)?);
                if let Some(model) = position.and_then(|p| models.get_mut(*p)) {
                    let (key, value): (String, String) = (row.try_get(1)?, row.try_get(2)?);
                    model.data.params.push(KeyValue { key, value });
                }
            }
            for row in &logged {
                let model_id: String = row.try_get(0)?;
                let position = index.get(&model_id);
                if let Some(model) = position.and_then(|p| models.get_mut(*p)) {
                    model.data.metrics.push(Metric {
                        key: row.try_get(1)?,
                        value: metrics::read(row.try_get(2)?, row.try_get(5)?),
                        timestamp: row.try_get(3)?,
                        step: row.try_get(4)?,
                        dataset_name: row.try_get(7)?,
                        dataset_digest: row.try_get(8)?,
                        model_id: Some(model_id),
                        run_id: row.try_get(6)?,
                    });
                }
            }
        }
        Ok(models)
    }
}
