//! What went into a run and what came out: datasets and models.

use std::collections::HashSet;

use super::{new_id, runs};
use crate::database::{Connection, Sql, query};
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
                        query(
                            "INSERT INTO model_inputs (run_id, model_id) VALUES ($1, $2) \
                             ON CONFLICT (run_id, model_id) DO NOTHING",
                        )
                        .with(&run_id)
                        .with(&model.model_id)
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
                        query(
                            "INSERT INTO model_outputs (run_id, model_id, step) VALUES ($1, $2, $3) \
                             ON CONFLICT (run_id, model_id, step) DO NOTHING",
                        )
                        .with(&run_id)
                        .with(&model.model_id)
                        .with(model.step)
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
        sql.push(" ORDER BY d.experiment_id, d.name, d.digest, t.value NULLS FIRST LIMIT ")
            .bind(MAX_SUMMARIES);
        let rows = sql.fetch(self.database().readers()).await?;
        rows.iter()
            .map(|row| {
                Ok(DatasetSummary {
                    experiment_id: row.try_get::<i64>(0)?.to_string(),
                    name: row.try_get(1)?,
                    digest: row.try_get(2)?,
                    context: row.try_get(3)?,
                })
            })
            .collect()
    }
}

async fn put_input(
    connection: &mut Connection,
    run_id: &str,
    experiment_id: i64,
    dataset: &DatasetInfo,
    input: &DatasetInput,
) -> Result<()> {
    query(
        "INSERT INTO datasets (dataset_id, experiment_id, name, digest, source_type, source, \
         schema, profile) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) \
         ON CONFLICT (experiment_id, name, digest) DO NOTHING",
    )
    .with(new_id())
    .with(experiment_id)
    .with(&dataset.name)
    .with(&dataset.digest)
    .with(&dataset.source_type)
    .with(&dataset.source)
    .with(&dataset.schema)
    .with(&dataset.profile)
    .execute(&mut *connection)
    .await?;
    let dataset_id: String = query(
        "SELECT dataset_id FROM datasets WHERE experiment_id = $1 AND name = $2 AND digest = $3",
    )
    .with(experiment_id)
    .with(&dataset.name)
    .with(&dataset.digest)
    .scalar_one(&mut *connection)
    .await?;
    let inserted = query(
        "INSERT INTO dataset_inputs (run_id, dataset_id) VALUES ($1, $2) \
         ON CONFLICT (run_id, dataset_id) DO NOTHING",
    )
    .with(run_id)
    .with(&dataset_id)
    .execute(&mut *connection)
    .await?;
    if inserted == 0 {
        return Ok(());
    }
    for tag in &input.tags {
        query(
            "INSERT INTO dataset_input_tags (run_id, dataset_id, key, value) \
             VALUES ($1, $2, $3, $4) ON CONFLICT (run_id, dataset_id, key) \
             DO UPDATE SET value = excluded.value",
        )
        .with(run_id)
        .with(&dataset_id)
        .with(&tag.key)
        .with(&tag.value)
        .execute(&mut *connection)
        .await?;
    }
    Ok(())
}
