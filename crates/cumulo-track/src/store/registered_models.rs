//! Registered models, their tags and aliases.

use std::collections::HashMap;

use futures::future::BoxFuture;

use super::registry_events::RegistryChanges;
use super::versions;
use crate::database::{Connection, Lock, MAX_BINDS, Sql, query};
use crate::error::{Error, Result};
use crate::handle::{Handle, now};
use crate::validate;
use crate::wire::{Alias, CreateRegisteredModel, KeyValue, RegisteredModel};

pub(super) const COLUMNS: &str = "SELECT g.name, g.creation_time, g.last_updated_time, \
                                  g.description FROM registered_models g";

fn not_found(name: &str) -> Error {
    Error::not_found(format!("Registered Model with name={name} not found"))
}

/// Refuses unless the model is there; notes that it changed.
pub(super) async fn touch(connection: &mut Connection, name: &str) -> Result<()> {
    let changed = query("UPDATE registered_models SET last_updated_time = $1 WHERE name = $2")
        .with(now())
        .with(name)
        .execute(connection)
        .await?;
    if changed == 0 {
        return Err(not_found(name));
    }
    Ok(())
}

async fn check_exists(connection: &mut Connection, name: &str) -> Result<()> {
    let found: Option<i64> =
        query("SELECT CAST(1 AS BIGINT) FROM registered_models WHERE name = $1")
            .with(name)
            .scalar(connection)
            .await?;
    found.map(|_| ()).ok_or_else(|| not_found(name))
}

/// Inserts the model; false when it is there already.
pub(super) async fn insert(
    connection: &mut Connection,
    name: &str,
    description: Option<&str>,
    tags: &[KeyValue],
) -> Result<bool> {
    let inserted = query(
        "INSERT INTO registered_models (name, creation_time, last_updated_time, description) \
         VALUES ($1, $2, $2, $3) ON CONFLICT (name) DO NOTHING",
    )
    .with(name)
    .with(now())
    .with(description)
    .execute(&mut *connection)
    .await?;
    if inserted == 0 {
        return Ok(false);
    }
    for tag in tags {
        put_tag(connection, name, tag).await?;
    }
    Ok(true)
}

async fn put_tag(connection: &mut Connection, name: &str, tag: &KeyValue) -> Result<()> {
    query(
        "INSERT INTO registered_model_tags (name, key, value) VALUES ($1, $2, $3) \
         ON CONFLICT (name, key) DO UPDATE SET value = excluded.value",
    )
    .with(name)
    .with(&tag.key)
    .with(&tag.value)
    .execute(connection)
    .await?;
    Ok(())
}

impl Handle {
    /// Changes of the registry from now on.
    #[must_use]
    pub fn subscribe(&self) -> RegistryChanges {
        self.inner.events.subscribe()
    }

    /// A write that changes registered models: nobody else changes them meanwhile, and
    /// whoever listens, here and on platforms that share the database, is told.
    pub(super) async fn change_models<T, F>(&self, names: &[&str], write: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>> + Clone + Send + 'static,
    {
        let mut sorted: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        // Always in one order, so that two writes cannot wait for each other.
        sorted.sort_unstable();
        sorted.dedup();
        let told: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let result = self
            .database()
            .write(move |connection| {
                Box::pin(async move {
                    for name in &sorted {
                        connection.lock(Lock::Model(name)).await?;
                    }
                    let result = write(&mut *connection).await?;
                    for name in &told {
                        connection.announce(name).await?;
                    }
                    Ok(result)
                })
            })
            .await?;
        if !self.database().announces() {
            for name in names {
                self.inner.events.changed(name);
            }
        }
        Ok(result)
    }

    /// Creates a registered model.
    ///
    /// # Errors
    /// When the name is taken or not valid.
    pub async fn create_registered_model(
        &self,
        request: CreateRegisteredModel,
    ) -> Result<RegisteredModel> {
        let name = validate::required(request.name, "name")?;
        validate::model_name(&name)?;
        validate::tag_count(&request.tags)?;
        for tag in &request.tags {
            validate::registry_tag(tag)?;
        }
        let model = name.clone();
        self.change_models(&[&name], move |connection| {
            Box::pin(async move {
                let description = request.description.as_deref();
                if insert(connection, &model, description, &request.tags).await? {
                    Ok(())
                } else {
                    Err(Error::exists(format!(
                        "Registered Model (name={model}) already exists."
                    )))
                }
            })
        })
        .await?;
        self.get_registered_model(&name).await
    }

    /// The registered model.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn get_registered_model(&self, name: &str) -> Result<RegisteredModel> {
        validate::model_name(name)?;
        let mut sql = Sql::new(COLUMNS);
        sql.push(" WHERE g.name = ").bind(name);
        let mut found = self.load_registered_models(sql).await?;
        found.pop().ok_or_else(|| not_found(name))
    }

    /// Renames a registered model with all its versions.
    ///
    /// # Errors
    /// When it is missing, or the new name is taken or not valid.
    pub async fn rename_registered_model(
        &self,
        name: &str,
        new_name: &str,
    ) -> Result<RegisteredModel> {
        validate::model_name(new_name)
            .map_err(|error| Error::invalid(error.message.replace("'name'", "'new_name'")))?;
        let (old, new) = (name.to_owned(), new_name.to_owned());
        self.change_models(&[name, new_name], move |connection| {
                Box::pin(async move {
                    check_exists(connection, &old).await?;
                    if old != new && check_exists(connection, &new).await.is_ok() {
                        return Err(Error::exists(format!(
                            "Registered Model (name={new}) already exists."
                        )));
                    }
                    // Versions, tags and aliases follow by their foreign keys.
                    query(
                        "UPDATE registered_models SET name = $1, last_updated_time = $2 WHERE name = $3",
                    )
                    .with(&new)
                    .with(now())
                    .with(&old)
                    .execute(&mut *connection)
                    .await?;
                    query("UPDATE model_versions SET last_updated_time = $1 WHERE name = $2")
                        .with(now())
                        .with(&new)
                        .execute(connection)
                        .await?;
                    Ok(())
                })
            })
            .await?;
        self.get_registered_model(new_name).await
    }

    /// Changes the description of a registered model.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn update_registered_model(
        &self,
        name: &str,
        description: Option<String>,
    ) -> Result<RegisteredModel> {
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                touch(connection, &model).await?;
                query("UPDATE registered_models SET description = $1 WHERE name = $2")
                    .with(description)
                    .with(&model)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await?;
        self.get_registered_model(name).await
    }

    /// Deletes a registered model with all its versions; the files stay.
    ///
    /// # Errors
    /// When it is missing.
    pub async fn delete_registered_model(&self, name: &str) -> Result<()> {
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                let deleted = query("DELETE FROM registered_models WHERE name = $1")
                    .with(&model)
                    .execute(connection)
                    .await?;
                if deleted == 0 {
                    return Err(not_found(&model));
                }
                Ok(())
            })
        })
        .await?;
        Ok(())
    }

    /// Sets a tag of a registered model.
    ///
    /// # Errors
    /// When the model is missing, or the tag is not valid.
    pub async fn set_registered_model_tag(&self, name: &str, tag: KeyValue) -> Result<()> {
        validate::registry_tag(&tag)?;
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                check_exists(connection, &model).await?;
                put_tag(connection, &model, &tag).await
            })
        })
        .await?;
        Ok(())
    }

    /// Deletes a tag of a registered model, if it has it.
    ///
    /// # Errors
    /// When the model is missing.
    pub async fn delete_registered_model_tag(&self, name: &str, key: String) -> Result<()> {
        let model = name.to_owned();
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                check_exists(connection, &model).await?;
                query("DELETE FROM registered_model_tags WHERE name = $1 AND key = $2")
                    .with(&model)
                    .with(&key)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await?;
        Ok(())
    }

    /// Lets an alias name a version.
    ///
    /// # Errors
    /// When the version is missing, or the alias is not valid or reserved.
    pub async fn set_alias(&self, name: &str, alias: &str, version: &str) -> Result<()> {
        validate::model_name(name)?;
        validate::alias(alias, true)?;
        let number = validate::version(version)?;
        let (model, key) = (name.to_owned(), alias.to_owned());
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                versions::check_exists(connection, &model, number).await?;
                query(
                    "INSERT INTO registered_model_aliases (name, alias, version) \
                         VALUES ($1, $2, $3) ON CONFLICT (name, alias) \
                         DO UPDATE SET version = excluded.version",
                )
                .with(&model)
                .with(&key)
                .with(number)
                .execute(connection)
                .await?;
                Ok(())
            })
        })
        .await?;
        Ok(())
    }

    /// Deletes an alias, if it is there.
    ///
    /// # Errors
    /// When the model is missing.
    pub async fn delete_alias(&self, name: &str, alias: &str) -> Result<()> {
        let (model, key) = (name.to_owned(), alias.to_owned());
        self.change_models(&[name], move |connection| {
            Box::pin(async move {
                check_exists(connection, &model).await?;
                query("DELETE FROM registered_model_aliases WHERE name = $1 AND alias = $2")
                    .with(&model)
                    .with(&key)
                    .execute(connection)
                    .await?;
                Ok(())
            })
        })
        .await?;
        Ok(())
    }

    /// Runs the statement, which must select [`COLUMNS`], and loads the rest.
    pub(super) async fn load_registered_models(&self, sql: Sql) -> Result<Vec<RegisteredModel>> {
        let readers = self.database().readers();
        let rows = sql.fetch(readers).await?;
        let mut models = rows
            .iter()
            .map(|row| {
                Ok(RegisteredModel {
                    name: row.try_get(0)?,
                    creation_timestamp: row.try_get(1)?,
                    last_updated_timestamp: row.try_get(2)?,
                    description: row.try_get::<Option<String>>(3)?.unwrap_or_default(),
                    latest_versions: Vec::new(),
                    tags: Vec::new(),
                    aliases: Vec::new(),
                })
            })
            .collect::<Result<Vec<_>>>()?;
        let index: HashMap<String, usize> = models
            .iter()
            .enumerate()
            .map(|(position, model)| (model.name.clone(), position))
            .collect();
        let names: Vec<String> = models.iter().map(|model| model.name.clone()).collect();
        for chunk in names.chunks(MAX_BINDS) {
            let mut tags =
                Sql::new("SELECT name, key, value FROM registered_model_tags WHERE name IN ");
            tags.bind_list(chunk.iter().map(String::as_str))
                .push(" ORDER BY name, key");
            for row in tags.fetch(readers).await? {
                let position = index.get(row.try_get::<&str>(0)?);
                if let Some(model) = position.and_then(|p| models.get_mut(*p)) {
                    let (key, value): (String, String) = (row.try_get(1)?, row.try_get(2)?);
                    model.tags.push(KeyValue { key, value });
                }
            }
            let mut aliases = Sql::new(
                "SELECT name, alias, version FROM registered_model_aliases WHERE name IN ",
            );
            aliases
                .bind_list(chunk.iter().map(String::as_str))
                .push(" ORDER BY name, alias");
            for row in aliases.fetch(readers).await? {
                let position = index.get(row.try_get::<&str>(0)?);
                if let Some(model) = position.and_then(|p| models.get_mut(*p)) {
                    let version: i64 = row.try_get(2)?;
                    model.aliases.push(Alias {
                        alias: row.try_get(1)?,
                        version: version.to_string(),
                    });
                }
            }
            let mut latest = Sql::new(versions::COLUMNS);
            latest.push(
                " JOIN (SELECT name, current_stage, MAX(version) AS version FROM model_versions \
                 WHERE current_stage <> 'Deleted_Internal' GROUP BY name, current_stage) newest \
                 ON newest.name = v.name AND newest.version = v.version WHERE v.name IN ",
            );
            latest
                .bind_list(chunk.iter().map(String::as_str))
                .push(" ORDER BY v.name, v.version");
            for version in self.load_versions(latest).await? {
                let position = index.get(&version.name);
                if let Some(model) = position.and_then(|p| models.get_mut(*p)) {
                    model.latest_versions.push(version);
                }
            }
        }
        Ok(models)
    }
}
