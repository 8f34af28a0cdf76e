//! Versions of registered models.

use std::collections::HashMap;

use super::{logged_models, registered_models, source};
use crate::TRAIN_KEY_TAG;
use crate::database::{Connection, MAX_BINDS, Sql, query};
use crate::error::{Error, Result};
use crate::handle::{Handle, now};
use crate::validate;
use crate::wire::{CreateModelVersion, KeyValue, ModelVersion};

pub(super) const COLUMNS: &str = "SELECT v.name, v.version, v.creation_time, v.last_updated_time, \
     v.current_stage, v.description, v.source, v.run_id, v.status, v.status_message, v.run_link, \
     v.model_id FROM model_versions v";

/// Versions that are gone keep their number, under this stage.
const DELETED: &str = "Deleted_Internal";

fn not_found(name: &str, version: impl std::fmt::Display) -> Error {
    Error::not_found(format!(
        "Model Version (name={name}, version={version}) not found"
    ))
}

/// Refuses unless the version is there.
pub(super) async fn check_exists(
    connection: &mut Connection,
    name: &str,
    version: i64,
) -> Result<()> {
    let found: Option<i64> = query(
        "SELECT CAST(1 AS BIGINT) FROM model_versions WHERE name = $1 AND version = $2 \
         AND current_stage <> 'Deleted_Internal'",
    )
    .with(name)
    .with(version)
    .scalar(connection)
    .await?;
    found.map(|_| ()).ok_or_else(|| not_found(name, version))
}

async fn put_tag(
    connection: &mut Connection,
    name: &str,
    version: i64,
    tag: &KeyValue,
) -> Result<()> {
    query(
        "INSERT INTO model_version_tags (name, version, key, value) VALUES ($1, $2, $3, $4) \
         ON CONFLICT (name, version, key) DO UPDATE SET value = excluded.value",
    )
    .with(name)
    .with(version)
    .with(&tag.key)
    .with(&tag.value)
    .execute(connection)
    .await?;
    Ok(())
}

/// MLflow's spelling of a stage.
fn stage(text: &str) -> Result<&'static str> {
    Ok(match text.to_ascii_lowercase().as_str() {
        "none" => "None",
        "staging" => "Staging",
        "production" => "Production",
        "archived" => "Archived",
        _ => {
            return Err(Error::invalid(format!(
                "Invalid Model Version stage: {text}. Value must be one of None, Staging, \
                 Production, Archived."
            )));
        }
    })
}

impl Handle {
    /// Creates the next version of a registered model, or returns the one that has
    /// the same [`TRAIN_KEY_TAG`] already.
    ///
    /// # Errors
    /// When the model is missing, a tag is not valid, or the source is not a place
    /// in our own store: local paths, other hosts and other schemes are refused.
    pub async fn create_model_version(&self, request: CreateModelVersion) -> Result<ModelVersion> {
        self.new_version(request, false).await
    }

    /// As [`Handle::create_model_version`], creating the registered model when missing.
    ///
    /// With a [`TRAIN_KEY_TAG`] among the tags it may be called any number of times.
    ///
    /// # Errors
    /// As [`Handle::create_model_version`].
    pub async fn ensure_model_version(&self, request: CreateModelVersion) -> Result<ModelVersion> {
        self.new_version(request, true).await
    }

    async fn new_version(
        &self,
        request: CreateModelVersion,
        create_model: bool,
    ) -> Result<ModelVersion> {
        let name = validate::required(request.name.clone(), "name")?;
        validate::model_name(&name)?;
        validate::tag_count(&request.tags)?;
        for tag in &request.tags {
            validate::registry_tag(tag)?;
        }
        let origin = source::resolve(self, &request).await?;
        let key = request.tags.iter().find(|tag| tag.key == TRAIN_KEY_TAG);
        let key = key.map(|tag| tag.value.clone());
        let model = name.clone();
        let version = self
            .change_models(&[&name], move |connection| {
                Box::pin(async move {
                    if create_model {
                        registered_models::insert(connection, &model, None, &[]).await?;
                    }
                    if let Some(key) = key {
                        let existing = query(
                            "SELECT v.version FROM model_version_tags t JOIN model_versions v \
                             ON v.name = t.name AND v.version = t.version WHERE t.name = $1 \
                             AND t.key = 'cumulo.trainKey' AND t.value = $2 \
                             AND v.current_stage <> 'Deleted_Internal' LIMIT 1",
                        )
                        .with(&model)
                        .with(&key)
                        .scalar(&mut *connection)
                        .await?;
                        if let Some(existing) = existing {
                            return Ok(existing);
                        }
                    }
                    registered_models::touch(connection, &model).await?;
                    let version: i64 = query(
                        "SELECT COALESCE(MAX(version), 0) + 1 FROM model_versions WHERE name = $1",
                    )
                    .with(&model)
                    .scalar_one(&mut *connection)
                    .await?;
                    query(
                        "INSERT INTO model_versions (name, version, creation_time, \
                         last_updated_time, description, current_stage, source, \
                         storage_location, run_id, run_link, status, model_id) \
                         VALUES ($1, $2, $3, $3, $4, 'None', $5, $6, $7, $8, 'READY', $9)",
                    )
                    .with(&model)
                    .with(version)
                    .with(now())
                    .with(&request.description)
                    .with(&origin.source)
                    .with(&origin.storage_location)
                    .with(&origin.run_id)
                    .with(&request.run_link)
                    .with(&origin.model_id)
                    .execute(&mut *connection)
                    .await?;
                    for tag in &request.tags {
                        put_tag(connection, &model, version, tag).await?;
                    }
                    if let Some(model_id) = &origin.model_id {
                        logged_models::note_version(connection, model_id, &model, version).await?;
                    }
                    Ok(version)
                })
            })
            .await?;
        self.get_model_version(&name, &version.to_string()).await
    }

    /// One version.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn get_model_version(&self, name: &str, version: &str) -> Result<ModelVersion> {
        validate::model_name(name)?;
        let number = validate::version(version)?;
        let mut sql = Sql::new(COLUMNS);
        sql.push(" WHERE v.current_stage <> 'Deleted_Internal' AND v.name = ")
            .bind(name);
        sql.push(" AND v.version = ").bind(number);
        let mut found = self.load_versions(sql).await?;
        found.pop().ok_or_else(|| not_found(name, version))
    }

    /// The version that an alias names.
    ///
    /// # Errors
    /// When model or alias are missing.
    pub async fn get_model_version_by_alias(
        &self,
        name: &str,
        alias: &str,
    ) -> Result<ModelVersion> {
        validate::model_name(name)?;
        validate::alias(alias, false)?;
        if alias.eq_ignore_ascii_case("latest") {
            return self.latest_version(name).await;
        }
        let mut sql = Sql::new(COLUMNS);
        sql.push(" JOIN registered_model_aliases a ON a.name = v.name AND a.version = v.version");
        sql.push(" WHERE a.name = ")
            .bind(name)
            .push(" AND a.alias = ")
            .bind(alias);
        if let Some(version) = self.load_versions(sql).await?.pop() {
            return Ok(version);
        }
        self.get_registered_model(name).await?;
        // MLflow answers INVALID_PARAMETER_VALUE here, and clients rely on it.
        Err(Error::invalid(format!(
            "Registered model alias {alias} not found."
        )))
    }

    /// The version of an alias, or `None` when the model or the alias is missing.
    ///
    /// # Errors
    /// When the names are not valid or the database fails.
    pub async fn get_alias(&self, name: &str, alias: &str) -> Result<Option<ModelVersion>> {
        validate::model_name(name)?;
        validate::alias(alias, false)?;
        let mut sql = Sql::new(COLUMNS);
        sql.push(" JOIN registered_model_aliases a ON a.name = v.name AND a.version = v.version");
        sql.push(" WHERE a.name = ")
            .bind(name)
            .push(" AND a.alias = ")
            .bind(alias);
        Ok(self.load_versions(sql).await?.pop())
    }

    /// All versions of a model, oldest first; none when the model is missing.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list_model_versions(&self, name: &str) -> Result<Vec<ModelVersion>> {
        let mut sql = Sql::new(COLUMNS);
        sql.push(" WHERE v.current_stage <> 'Deleted_Internal' AND v.name = ")
            .bind(name);
        sql.push(" ORDER BY v.version");
        self.load_versions(sql).await
    }

    /// The versions of a model that have a tag of that value, oldest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn model_versions_by_tag(
        &self,
        name: &str,
        key: &str,
        value: &str,
    ) -> Result<Vec<ModelVersion>> {
        let mut sql = Sql::new(COLUMNS);
        sql.push(" JOIN model_version_tags t ON t.name = v.name AND t.version = v.version");
        sql.push(" WHERE v.current_stage <> 'Deleted_Internal' AND v.name = ")
            .bind(name);
        sql.push(" AND t.key = ")
            .bind(key)
            .push(" AND t.value = ")
            .bind(value);
        sql.push(" ORDER BY v.version");
        self.load_versions(sql).await
    }

    /// The newest version.
    ///
    /// # Errors
    /// When there is none.
    pub async fn latest_version(&self, name: &str) -> Result<ModelVersion> {
        let mut sql = Sql::new(COLUMNS);
        sql.push(" WHERE v.current_stage <> 'Deleted_Internal' AND v.name = ")
            .bind(name);
        sql.push(" ORDER BY v.version DESC LIMIT 1");
        let mut found = self.load_versions(sql).await?;
        found.pop().ok_or_else(|| {
            Error::not_found(format!("Registered Model with name={name} has no versions"))
        })
    }

    /// The newest version of each of the stages (all, if none is named).
    ///
    /// # Errors
    /// When the model is missing or a stage unknown.
    pub async fn latest_versions(
        &self,
        name: &str,
        stages: &[String],
    ) -> Result<Vec<ModelVersion>> {
        let wanted = stages
            .iter()
            .map(|text| stage(text))
            .collect::<Result<Vec<_>>>()?;
        let mut versions = self.get_registered_model(name).await?.latest_versions;
        versions.retain(|v| wanted.is_empty() || wanted.contains(&v.current_stage.as_str()));
        Ok(versions)
    }

    /// Changes the description of a version.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn update_model_version(
        &self,
        name: &str,
        version: &str,
        description: Option<String>,
    ) -> Result<ModelVersion> {
        let number = validate::version(version)?;
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                check_exists(connection, &model, number).await?;
                query(
                    "UPDATE model_versions SET description = $1, last_updated_time = $2 \
                         WHERE name = $3 AND version = $4",
                )
                .with(description)
                .with(now())
                .with(&model)
                .with(number)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await?;
        self.get_model_version(name, version).await
    }

    /// Moves a version to a stage, the others of that stage to `Archived` if asked.
    ///
    /// # Errors
    /// When it is missing, the stage is unknown, or `archive` is asked for a stage
    /// that is not active.
    pub async fn transition_stage(
        &self,
        name: &str,
        version: &str,
        to: &str,
        archive: bool,
    ) -> Result<ModelVersion> {
        let number = validate::version(version)?;
        let to = stage(to)?;
        if archive && !matches!(to, "Staging" | "Production") {
            return Err(Error::invalid(format!(
                "Model version transition cannot archive existing model versions because '{to}' \
                 is not an Active stage. Valid stages are Staging, Production"
            )));
        }
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                check_exists(connection, &model, number).await?;
                registered_models::touch(connection, &model).await?;
                if archive {
                    query(
                        "UPDATE model_versions SET current_stage = 'Archived', \
                             last_updated_time = $1 WHERE name = $2 AND version <> $3 \
                             AND current_stage = $4",
                    )
                    .with(now())
                    .with(&model)
                    .with(number)
                    .with(to)
                    .execute(&mut *connection)
                    .await?;
                }
                query(
                    "UPDATE model_versions SET current_stage = $1, last_updated_time = $2 \
                         WHERE name = $3 AND version = $4",
                )
                .with(to)
                .with(now())
                .with(&model)
                .with(number)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await?;
        self.get_model_version(name, version).await
    }

    /// Deletes a version; its number is not used again, its aliases go, its files stay.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_model_version(&self, name: &str, version: &str) -> Result<()> {
        let number = validate::version(version)?;
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                check_exists(connection, &model, number).await?;
                registered_models::touch(connection, &model).await?;
                query("DELETE FROM registered_model_aliases WHERE name = $1 AND version = $2")
                    .with(&model)
                    .with(number)
                    .execute(&mut *connection)
                    .await?;
                query("DELETE FROM model_version_tags WHERE name = $1 AND version = $2")
                    .with(&model)
                    .with(number)
                    .execute(&mut *connection)
                    .await?;
                query(
                    "UPDATE model_versions SET current_stage = $1, last_updated_time = $2, \
                         description = NULL, user_id = NULL, source = '', storage_location = '', \
                         run_id = NULL, run_link = NULL, status_message = NULL \
                         WHERE name = $3 AND version = $4",
                )
                .with(DELETED)
                .with(now())
                .with(&model)
                .with(number)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await?;
        Ok(())
    }

    /// Where the files of a version are (`mlflow-artifacts:/…`).
    ///
    /// # Errors
    /// When it is missing.
    pub async fn download_uri(&self, name: &str, version: &str) -> Result<String> {
        validate::model_name(name)?;
        let number = validate::version(version)?;
        let location: Option<String> = query(
            "SELECT storage_location FROM model_versions WHERE name = $1 AND version = $2 \
             AND current_stage <> 'Deleted_Internal'",
        )
        .with(name)
        .with(number)
        .scalar(self.database().readers())
        .await?;
        location.ok_or_else(|| not_found(name, version))
    }

    /// Sets a tag of a version.
    ///
    /// # Errors
    /// When it is missing, or the tag is not valid.
    pub async fn set_model_version_tag(
        &self,
        name: &str,
        version: &str,
        tag: KeyValue,
    ) -> Result<()> {
        validate::registry_tag(&tag)?;
        let number = validate::version(version)?;
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                check_exists(connection, &model, number).await?;
                put_tag(connection, &model, number, &tag).await
            })
        })
        .await?;
        Ok(())
    }

    /// Deletes a tag of a version, if it has it.
    ///
    /// # Errors
    /// When the version is missing.
    pub async fn delete_model_version_tag(
        &self,
        name: &str,
        version: &str,
        key: String,
    ) -> Result<()> {
        let number = validate::version(version)?;
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                check_exists(connection, &model, number).await?;
                query(
                    "DELETE FROM model_version_tags WHERE name = $1 AND version = $2 AND key = $3",
                )
                .with(&model)
                .with(number)
                .with(&key)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await?;
        Ok(())
    }

    /// Runs the statement, which must select [`COLUMNS`], and loads tags and aliases.
    pub(super) async fn load_versions(&self, sql: Sql) -> Result<Vec<ModelVersion>> {
        let readers = self.database().readers();
        let rows = sql.fetch(readers).await?;
        let mut versions = Vec::with_capacity(rows.len());
        let mut index = HashMap::with_capacity(rows.len());
        for row in &rows {
            let (name, version): (String, i64) = (row.try_get(0)?, row.try_get(1)?);
            index.insert((name.clone(), version), versions.len());
            let text = |column: usize| -> Result<String> {
                Ok(row.try_get::<Option<String>>(column)?.unwrap_or_default())
            };
            versions.push(ModelVersion {
                name,
                version: version.to_string(),
                creation_timestamp: row.try_get(2)?,
                last_updated_timestamp: row.try_get(3)?,
                current_stage: row.try_get(4)?,
                description: text(5)?,
                source: row.try_get(6)?,
                run_id: text(7)?,
                status: row.try_get(8)?,
                status_message: row.try_get(9)?,
                tags: Vec::new(),
                run_link: text(10)?,
                aliases: Vec::new(),
                model_id: row.try_get(11)?,
            });
        }
        let mut names: Vec<&str> = versions.iter().map(|v| v.name.as_str()).collect();
        names.dedup();
        let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
        // One version is asked for most often: do not load the tags of all its siblings.
        let only = match versions.as_slice() {
            [one] => Some(validate::version(&one.version)?),
            _ => None,
        };
        for chunk in names.chunks(MAX_BINDS) {
            let about = |text: &'static str, last: &'static str| {
                let mut sql = Sql::new(text);
                sql.bind_list(chunk.iter().map(String::as_str));
                if let Some(version) = only {
                    sql.push(" AND version = ").bind(version);
                }
                sql.push(last);
                sql.fetch(readers)
            };
            let (tags, aliases) = tokio::try_join!(
                about(
                    "SELECT name, version, key, value FROM model_version_tags WHERE name IN ",
                    " ORDER BY name, version, key"
                ),
                about(
                    "SELECT name, version, alias FROM registered_model_aliases WHERE name IN ",
                    " ORDER BY name, alias"
                ),
            )?;
            for row in &tags {
                let of = (row.try_get(0)?, row.try_get(1)?);
                if let Some(version) = index.get(&of).and_then(|p| versions.get_mut(*p)) {
                    let (key, value): (String, String) = (row.try_get(2)?, row.try_get(3)?);
                    version.tags.push(KeyValue { key, value });
                }
            }
            for row in &aliases {
                let of = (row.try_get(0)?, row.try_get(1)?);
                if let Some(version) = index.get(&of).and_then(|p| versions.get_mut(*p)) {
                    version.aliases.push(row.try_get(2)?);
                }
            }
        }
        Ok(versions)
    }
}
