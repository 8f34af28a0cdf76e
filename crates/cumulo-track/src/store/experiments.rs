//! Experiments and their tags.

use std::collections::HashMap;

use super::{ViewType, paging};
use crate::artifacts::ArtifactPath;
use crate::database::{Connection, Lock, Row, Sql, query};
use crate::error::{Error, ErrorCode, Result};
use crate::filter::compile;
use crate::filter::{self, Comparison, Identifier};
use crate::handle::{Handle, now};
use crate::validate;
use crate::wire::{
    CreateExperiment, Experiment, KeyValue, LifecycleStage, Page, SearchExperiments,
};

const COLUMNS: &str = "SELECT e.experiment_id, e.name, e.artifact_location, e.lifecycle_stage, \
                       e.creation_time, e.last_update_time FROM experiments e";

fn from_row(row: &Row) -> Result<Experiment> {
    let stage: &str = row.try_get(3)?;
    Ok(Experiment {
        experiment_id: row.try_get::<i64>(0)?.to_string(),
        name: row.try_get(1)?,
        artifact_location: row.try_get(2)?,
        lifecycle_stage: LifecycleStage::parse(stage),
        creation_time: row.try_get(4)?,
        last_update_time: row.try_get(5)?,
        tags: Vec::new(),
    })
}

/// The experiment's stage, within a write.
pub(super) async fn stage(connection: &mut Connection, id: i64) -> Result<LifecycleStage> {
    let stage: Option<String> =
        query("SELECT lifecycle_stage FROM experiments WHERE experiment_id = $1")
            .with(id)
            .scalar(connection)
            .await?;
    stage
        .map(|stage| LifecycleStage::parse(&stage))
        .ok_or_else(|| not_found(id))
}

/// Refuses unless the experiment is active, and keeps it so until the write's end.
pub(super) async fn check_active(connection: &mut Connection, id: i64) -> Result<()> {
    connection.lock(Lock::ExperimentShared(id)).await?;
    match stage(connection, id).await? {
        LifecycleStage::Active => Ok(()),
        LifecycleStage::Deleted => Err(Error::invalid(format!(
            "The experiment {id} must be in the 'active' state. Current state is deleted."
        ))),
    }
}

fn not_found(id: i64) -> Error {
    Error::not_found(format!("No Experiment with id={id} exists"))
}

impl Handle {
    /// Creates an experiment and returns its identifier.
    ///
    /// # Errors
    /// When the name is taken or not valid, or the artifact location is not ours.
    pub async fn create_experiment(&self, request: CreateExperiment) -> Result<String> {
        let name = validate::required(request.name, "name")?;
        validate::experiment_name(&name)?;
        validate::tag_count(&request.tags)?;
        for tag in &request.tags {
            validate::experiment_tag(tag)?;
        }
        let location = request
            .artifact_location
            .filter(|location| !location.is_empty());
        if let Some(location) = &location {
            ArtifactPath::from_uri(location).map_err(|error| {
                Error::invalid(format!(
                    "Invalid artifact location '{location}': {error} Artifacts of experiments \
                     live in the artifact store; leave artifact_location out, or use \
                     mlflow-artifacts:/<path>."
                ))
            })?;
        }
        let tags = request.tags;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let time = now();
                    // Asked before: PostgreSQL spends a number on each insertion, refused or not.
                    refuse_taken(connection, &name, None).await?;
                    let id: i64 = query(
                        "INSERT INTO experiments (name, artifact_location, lifecycle_stage, \
                         creation_time, last_update_time) VALUES ($1, $2, 'active', $3, $3) \
                         RETURNING experiment_id",
                    )
                    .with(&name)
                    .with(location.as_deref().unwrap_or_default())
                    .with(time)
                    .scalar_one(&mut *connection)
                    .await?;
                    if location.is_none() {
                        query(
                            "UPDATE experiments SET artifact_location = $1 WHERE experiment_id = $2",
                        )
                        .with(format!("mlflow-artifacts:/experiments/{id}"))
                        .with(id)
                        .execute(&mut *connection)
                        .await?;
                    }
                    for tag in tags {
                        put_tag(connection, id, &tag).await?;
                    }
                    Ok(id.to_string())
                })
            })
            .await
    }

    /// The experiment of that identifier, deleted ones too.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get_experiment(&self, id: &str) -> Result<Experiment> {
        let id = validate::experiment_id(id)?;
        let mut sql = Sql::new(COLUMNS);
        sql.push(" WHERE e.experiment_id = ").bind(id);
        let mut found = self.load_experiments(sql).await?;
        found.pop().ok_or_else(|| not_found(id))
    }

    /// The experiment of that name, deleted ones too.
    ///
    /// # Errors
    /// When there is none.
    pub async fn get_experiment_by_name(&self, name: &str) -> Result<Experiment> {
        let mut sql = Sql::new(COLUMNS);
        sql.push(" WHERE e.name = ").bind(name);
        let mut found = self.load_experiments(sql).await?;
        found.pop().ok_or_else(|| {
            Error::not_found(format!("Could not find experiment with name '{name}'"))
        })
    }

    /// The identifier of the experiment of that name, created when missing.
    ///
    /// # Errors
    /// When the name is not valid, or the experiment of that name is deleted.
    pub async fn ensure_experiment(&self, name: &str) -> Result<String> {
        let created = self
            .create_experiment(CreateExperiment {
                name: Some(name.to_owned()),
                ..CreateExperiment::default()
            })
            .await;
        match created {
            Err(error) if error.code == ErrorCode::ResourceAlreadyExists => {
                let experiment = self.get_experiment_by_name(name).await?;
                if experiment.lifecycle_stage == LifecycleStage::Deleted {
                    return Err(error);
                }
                Ok(experiment.experiment_id)
            }
            other => other,
        }
    }

    async fn load_experiments(&self, sql: Sql) -> Result<Vec<Experiment>> {
        let rows = sql.fetch(self.database().readers()).await?;
        let mut experiments = rows.iter().map(from_row).collect::<Result<Vec<_>>>()?;
        let index: HashMap<i64, usize> = rows
            .iter()
            .enumerate()
            .map(|(index, row)| Ok((row.try_get::<i64>(0)?, index)))
            .collect::<Result<_>>()?;
        let ids: Vec<i64> = index.keys().copied().collect();
        for chunk in ids.chunks(crate::database::MAX_BINDS) {
            let mut sql = Sql::new(
                "SELECT experiment_id, key, value FROM experiment_tags WHERE experiment_id IN ",
            );
            sql.bind_list(chunk.iter().copied());
            sql.push(" ORDER BY key");
            for row in sql.fetch(self.database().readers()).await? {
                let position = index.get(&row.try_get::<i64>(0)?);
                if let Some(experiment) = position.and_then(|p| experiments.get_mut(*p)) {
                    let (key, value): (String, String) = (row.try_get(1)?, row.try_get(2)?);
                    experiment.tags.push(KeyValue { key, value });
                }
            }
        }
        Ok(experiments)
    }

    /// Finds experiments.
    ///
    /// # Errors
    /// When filter, order, size or token are not valid.
    pub async fn search_experiments(&self, request: SearchExperiments) -> Result<Page<Experiment>> {
        let size = validate::page_size(request.max_results, 1000, 50_000)?;
        let offset = paging::offset(request.page_token.as_deref())?;
        let view = ViewType::parse(request.view_type.as_deref())?;
        let mut sql = Sql::new(COLUMNS);
        sql.push(" WHERE e.lifecycle_stage IN ")
            .bind_list(view.stages().iter().copied());
        for comparison in filter::parse_filter(request.filter.as_deref().unwrap_or_default())? {
            sql.push(" AND ");
            condition(&mut sql, &comparison)?;
        }
        sql.push(" ORDER BY ");
        let mut ordered_by_id = false;
        for text in &request.order_by {
            let order = filter::parse_order(text)?;
            let (column, _) = attribute(&order.identifier)?;
            ordered_by_id |= column == "e.experiment_id";
            sql.push(column)
                .push(if order.ascending { " ASC, " } else { " DESC, " });
        }
        if request.order_by.is_empty() {
            sql.push("e.creation_time DESC, e.experiment_id ASC");
        } else if ordered_by_id {
            sql.push("e.name");
        } else {
            sql.push("e.experiment_id DESC");
        }
        sql.push(" LIMIT ").bind(size.saturating_add(1));
        sql.push(" OFFSET ").bind(offset);
        Ok(paging::page(
            self.load_experiments(sql).await?,
            offset,
            size,
        ))
    }

    /// Renames an experiment.
    ///
    /// # Errors
    /// When it is missing or deleted, or the name is taken or not valid.
    pub async fn rename_experiment(&self, id: &str, new_name: String) -> Result<()> {
        let id = validate::experiment_id(id)?;
        validate::experiment_name(&new_name)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    if stage(connection, id).await? == LifecycleStage::Deleted {
                        return Err(Error::new(
                            ErrorCode::InvalidState,
                            "Cannot rename a non-active experiment.",
                        ));
                    }
                    refuse_taken(connection, &new_name, Some(id)).await?;
                    query(
                        "UPDATE experiments SET name = $1, last_update_time = $2 WHERE experiment_id = $3",
                    )
                    .with(&new_name)
                    .with(now())
                    .with(id)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Deletes an experiment and its runs; both may be restored.
    ///
    /// # Errors
    /// When it is missing or deleted already.
    pub async fn delete_experiment(&self, id: &str) -> Result<()> {
        self.move_experiment(id, LifecycleStage::Active, LifecycleStage::Deleted)
            .await
    }

    /// Restores a deleted experiment and its runs.
    ///
    /// # Errors
    /// When it is missing or not deleted.
    pub async fn restore_experiment(&self, id: &str) -> Result<()> {
        self.move_experiment(id, LifecycleStage::Deleted, LifecycleStage::Active)
            .await
    }

    async fn move_experiment(
        &self,
        id: &str,
        from: LifecycleStage,
        to: LifecycleStage,
    ) -> Result<()> {
        let id = validate::experiment_id(id)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    connection.lock(Lock::Experiment(id)).await?;
                    if stage(connection, id).await? != from {
                        return Err(not_found(id));
                    }
                    let time = now();
                    query(
                        "UPDATE experiments SET lifecycle_stage = $1, last_update_time = $2 \
                         WHERE experiment_id = $3",
                    )
                    .with(to.as_str())
                    .with(time)
                    .with(id)
                    .execute(&mut *connection)
                    .await?;
                    query(
                        "UPDATE runs SET lifecycle_stage = $1, deleted_time = $2 \
                         WHERE experiment_id = $3",
                    )
                    .with(to.as_str())
                    .with((to == LifecycleStage::Deleted).then_some(time))
                    .with(id)
                    .execute(connection)
                    .await?;
                    Ok(())
                })
            })
            .await
    }

    /// Sets a tag of an experiment.
    ///
    /// # Errors
    /// When the experiment is missing or deleted, or the tag is not valid.
    pub async fn set_experiment_tag(&self, id: &str, tag: KeyValue) -> Result<()> {
        let id = validate::experiment_id(id)?;
        validate::experiment_tag(&tag)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    check_active(connection, id).await?;
                    put_tag(connection, id, &tag).await
                })
            })
            .await
    }

    /// Deletes a tag of an experiment.
    ///
    /// # Errors
    /// When the experiment or the tag is missing.
    pub async fn delete_experiment_tag(&self, id: &str, key: String) -> Result<()> {
        let id = validate::experiment_id(id)?;
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    check_active(connection, id).await?;
                    let deleted =
                        query("DELETE FROM experiment_tags WHERE experiment_id = $1 AND key = $2")
                            .with(id)
                            .with(&key)
                            .execute(connection)
                            .await?;
                    if deleted == 0 {
                        return Err(Error::not_found(format!(
                            "No tag with name: {key} in experiment with id {id}"
                        )));
                    }
                    Ok(())
                })
            })
            .await
    }
}

/// Refuses when another experiment has the name, deleted ones too.
async fn refuse_taken(connection: &mut Connection, name: &str, except: Option<i64>) -> Result<()> {
    let row = query("SELECT experiment_id, lifecycle_stage FROM experiments WHERE name = $1")
        .with(name)
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else {
        return Ok(());
    };
    if except == Some(row.try_get::<i64>(0)?) {
        return Ok(());
    }
    let stage: &str = row.try_get(1)?;
    let hint = match LifecycleStage::parse(stage) {
        LifecycleStage::Deleted => " in deleted state. Restore it, or choose another name.",
        LifecycleStage::Active => ".",
    };
    Err(Error::exists(format!(
        "Experiment(name={name}) already exists{hint}"
    )))
}

async fn put_tag(connection: &mut Connection, id: i64, tag: &KeyValue) -> Result<()> {
    query(
        "INSERT INTO experiment_tags (experiment_id, key, value) VALUES ($1, $2, $3) \
         ON CONFLICT (experiment_id, key) DO UPDATE SET value = excluded.value",
    )
    .with(id)
    .with(&tag.key)
    .with(&tag.value)
    .execute(connection)
    .await?;
    Ok(())
}

/// The column of an attribute, and whether it is a number.
fn attribute(identifier: &Identifier) -> Result<(&'static str, bool)> {
    let attribute = matches!(
        identifier.entity.as_deref(),
        None | Some("attribute" | "attributes")
    );
    match identifier.key.as_str() {
        "name" if attribute => Ok(("e.name", false)),
        "experiment_id" if attribute => Ok(("e.experiment_id", true)),
        "creation_time" if attribute => Ok(("e.creation_time", true)),
        "last_update_time" if attribute => Ok(("e.last_update_time", true)),
        _ => Err(compile::refuse_identifier(
            identifier,
            "valid keys are name, experiment_id, creation_time, last_update_time, and tags.<key> \
             in a filter",
        )),
    }
}

fn condition(sql: &mut Sql, comparison: &Comparison) -> Result<()> {
    if matches!(
        comparison.identifier.entity.as_deref(),
        Some("tag" | "tags")
    ) {
        return compile::key_value(
            sql,
            "SELECT 1 FROM experiment_tags t WHERE t.experiment_id = e.experiment_id",
            comparison,
        );
    }
    match attribute(&comparison.identifier)? {
        // Identifiers are texts in the protocol: experiment_id = '1'.
        ("e.experiment_id", _) => compile::text(sql, "CAST(e.experiment_id AS TEXT)", comparison),
        (column, true) => compile::integer(sql, column, comparison),
        (column, false) => compile::text(sql, column, comparison),
    }
}
