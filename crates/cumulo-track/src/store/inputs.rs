//! What went into a run and what came out: datasets and models.

use std::collections::HashSet;

use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::{new_id, runs};
use crate::database::Sql;
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::validate;
use crate::wire::{DatasetInfo, DatasetInput, DatasetSummary, LogInputs, LogOutputs};

const MAX_INPUTS: usize = 1000;
const MAX_SUMMARIES: i64 = 1000;

fn limit(what: &str, value: &str, maximum: usize) -> Result<()> {
    if value.chars().count() > maximum {
        return Err(Error::invalid(format!(
            "'{what}' exceeds the maximum length of {maximum} characters"
        )));
    }
    Ok(())
}

fn check(input: &DatasetInput) -> Result<&DatasetInfo> {
    let dataset = input
        .dataset
        .as_ref()
        .ok_or_else(|| Error::missing("datasets.dataset"))?;
    for (what, value) in [
        ("dataset.name", &dataset.name),
        ("dataset.digest", &dataset.digest),
        ("dataset.source_type", &dataset.source_type),
        ("dataset.source", &dataset.source),
    ] {
        if value.is_empty() {
            return Err(Error::missing(what));
        }
    }
    limit("name", &dataset.name, 500)?;
    limit("digest", &dataset.digest, 36)?;
    limit("source", &dataset.source, 65_535)?;
    limit(
        "schema",
        dataset.schema.as_deref().unwrap_or_default(),
        1_048_575,
    )?;
    limit(
        "profile",
        dataset.profile.as_deref().unwrap_or_default(),
        16_777_215,
    )?;
    validate::tag_count(&input.tags)?;
    for tag in &input.tags {
        limit("key", &tag.key, 255)?;
        limit("value", &tag.value, 500)?;
    }
    Ok(dataset)
}

impl Handle {
    /// Notes datasets and models as inputs of a run; again changes nothing.
    ///
    /// # Errors
    /// When the run is missing or deleted, or an input is not valid.
    pub async fn log_inputs(&self, request: LogInputs) -> Result<()> {
        let run_id = validate::required(request.run_id, "run_id")?;
        validate::run_id(&run_id)?;
        if request.datasets.len() > MAX_INPUTS || request.models.len() > MAX_INPUTS {
            return Err(Error::invalid(format!(
                "A request can contain at most {MAX_INPUTS} datasets and {MAX_INPUTS} models."
            )));
        }
        for input in &request.datasets {
            check(input)?;
        }
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    let run = runs::active(connection, &run_id).await?;
                    let mut seen = HashSet::new();
                    for input in &request.datasets {
                        let dataset = check(input)?;
                        if seen.insert((&dataset.name, &dataset.digest)) {
                            put_input(connection, &run_id, run.experiment_id, dataset, input)
                                .await?;
                        }
                    }
                    for model in &request.models {
                        sqlx::query(
                            "INSERT INTO model_inputs (run_id, model_id) VALUES ($1, $2) \
                             ON CONFLICT (run_id, model_id) DO NOTHING",
                        )
                        .bind(&run_id)
                        .bind(&model.model_id)
                        .execute(&mut *connection)
                        .await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// Notes logged models as outputs of a run; again changes nothing.
    ///
    /// # Errors
    /// When the run is missing or deleted.
    pub async fn log_outputs(&self, request: LogOutputs) -> Result<()> {
        let run_id = validate::required(request.run_id, "run_id")?;
        if request.models.len() > MAX_INPUTS {
            return Err(Error::invalid(format!(
                "A request can contain at most {MAX_INPUTS} models."
            )));
        }
        self.database()
            .write(move |connection| {
                Box::pin(async move {
                    runs::active(connection, &run_id).await?;
                    for model in &request.models {
                        sqlx::query(
                            "INSERT INTO model_outputs (run_id, model_id, step) VALUES ($1, $2, $3) \
                             ON CONFLICT (run_id, model_id, step) DO NOTHING",
                        )
                        .bind(&run_id)
                        .bind(&model.model_id)
                        .bind(model.step)
                        .execute(&mut *connection)
                        .await?;
                    }
                    Ok(())
                })
            })
            .await
    }

    /// The datasets that runs of these experiments used.
    ///
    /// # Errors
    /// When an identifier is not valid.
    pub async fn search_datasets(&self, experiment_ids: &[String]) -> Result<Vec<DatasetSummary>> {
        if experiment_ids.is_empty() || experiment_ids.len() > 20 {
            return Err(Error::invalid(format!(
                "SearchDatasets request must specify at least one and at most 20 experiment_ids. \
                 Received {} experiment_ids.",
                experiment_ids.len()
            )));
        }
        let ids = experiment_ids
            .iter()
            .map(|id| validate::experiment_id(id))
            .collect::<Result<Vec<_>>>()?;
        let mut sql = Sql::new(
            "SELECT DISTINCT d.experiment_id, d.name, d.digest, t.value FROM datasets d \
             JOIN dataset_inputs i ON i.dataset_id = d.dataset_id \
             LEFT JOIN dataset_input_tags t ON t.run_id = i.run_id \
             AND t.dataset_id = i.dataset_id AND t.key = 'mlflow.data.context' \
             WHERE d.experiment_id IN ",
        );
        sql.bind_list(ids);
        sql.push(" ORDER BY d.experiment_id, d.name, d.digest, t.value LIMIT ")
            .bind(MAX_SUMMARIES);
        let rows = sql.fetch(self.database().readers()).await?;
        rows.iter()
            .map(|row| {
                Ok(DatasetSummary {
                    experiment_id: row.try_get::<i64, _>(0)?.to_string(),
                    name: row.try_get(1)?,
                    digest: row.try_get(2)?,
                    context: row.try_get(3)?,
                })
            })
            .collect()
    }
}

async fn put_input(
    connection: &mut SqliteConnection,
    run_id: &str,
    experiment_id: i64,
    dataset: &DatasetInfo,
    input: &DatasetInput,
) -> Result<()> {
    sqlx::query(
        "INSERT INTO datasets (dataset_id, experiment_id, name, digest, source_type, source, \
         schema, profile) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (experiment_id, name, digest) DO NOTHING",
    )
    .bind(new_id())
    .bind(experiment_id)
    .bind(&dataset.name)
    .bind(&dataset.digest)
    .bind(&dataset.source_type)
    .bind(&dataset.source)
    .bind(&dataset.schema)
    .bind(&dataset.profile)
    .execute(&mut *connection)
    .await?;
    let dataset_id: String = sqlx::query_scalar(
        "SELECT dataset_id FROM datasets WHERE experiment_id = $1 AND name = $2 AND digest = $3",
    )
    .bind(experiment_id)
    .bind(&dataset.name)
    .bind(&dataset.digest)
    .fetch_one(&mut *connection)
    .await?;
    let inserted = sqlx::query(
        "INSERT INTO dataset_inputs (run_id, dataset_id) VALUES ($1, $2) \
         ON CONFLICT (run_id, dataset_id) DO NOTHING",
    )
    .bind(run_id)
    .bind(&dataset_id)
    .execute(&mut *connection)
    .await?;
    if inserted.rows_affected() == 0 {
        return Ok(());
    }
    for tag in &input.tags {
        sqlx::query(
            "INSERT INTO dataset_input_tags (run_id, dataset_id, key, value) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (run_id, dataset_id, key) \
             DO UPDATE SET value = excluded.value",
        )
        .bind(run_id)
        .bind(&dataset_id)
        .bind(&tag.key)
        .bind(&tag.value)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
