//! Searching logged models.

use super::{logged_models, paging};
use crate::database::Sql;
use crate::error::{Error, Result};
use crate::filter::{self, Comparison, Identifier, compile};
use crate::handle::Handle;
use crate::validate;
use crate::wire::{DatasetFilter, LoggedModel, LoggedModelOrder, Page, SearchLoggedModels};

/// The column of an attribute, and whether it is a number.
fn attribute(identifier: &Identifier) -> Result<(&'static str, bool)> {
    match identifier.key.as_str() {
        "model_id" => Ok(("l.model_id", false)),
        "name" => Ok(("l.name", false)),
        "model_type" => Ok(("l.model_type", false)),
        "status" => Ok(("l.status", false)),
        "source_run_id" => Ok(("l.source_run_id", false)),
        "experiment_id" => Ok(("CAST(l.experiment_id AS TEXT)", false)),
        "artifact_location" => Ok(("l.artifact_location", false)),
        "creation_time" | "creation_timestamp" | "creation_timestamp_ms" => {
            Ok(("l.creation_timestamp_ms", true))
        }
        "last_updated_timestamp" | "last_updated_timestamp_ms" => {
            Ok(("l.last_updated_timestamp_ms", true))
        }
        _ => Err(compile::refuse_identifier(
            identifier,
            "valid attributes are name, model_id, model_type, status, source_run_id, \
             creation_timestamp and last_updated_timestamp; others need metrics., params. or \
             tags. before them",
        )),
    }
}

/// Adds `AND (<dataset is one of these>)` about the table with alias `m`.
fn on_datasets(sql: &mut Sql, datasets: &[DatasetFilter]) {
    if datasets.is_empty() {
        return;
    }
    sql.push(" AND (");
    for (index, dataset) in datasets.iter().enumerate() {
        if index > 0 {
            sql.push(" OR ");
        }
        sql.push("(m.dataset_name = ")
            .bind(dataset.dataset_name.clone());
        if let Some(digest) = dataset.dataset_digest.as_deref().filter(|d| !d.is_empty()) {
            sql.push(" AND m.dataset_digest = ").bind(digest);
        }
        sql.push(")");
    }
    sql.push(")");
}

fn condition(sql: &mut Sql, comparison: &Comparison, datasets: &[DatasetFilter]) -> Result<bool> {
    match comparison.identifier.entity.as_deref() {
        None | Some("attribute" | "attributes") => {
            match attribute(&comparison.identifier)? {
                (column, true) => compile::integer(sql, column, comparison)?,
                (column, false) => compile::text(sql, column, comparison)?,
            }
            Ok(false)
        }
        Some("param" | "params") => {
            compile::key_value(
                sql,
                "SELECT 1 FROM logged_model_params t WHERE t.model_id = l.model_id",
                comparison,
            )?;
            Ok(false)
        }
        Some("tag" | "tags") => {
            compile::key_value(
                sql,
                "SELECT 1 FROM logged_model_tags t WHERE t.model_id = l.model_id",
                comparison,
            )?;
            Ok(false)
        }
        Some("metric" | "metrics") => {
            sql.push(
                "EXISTS (SELECT 1 FROM logged_model_metrics m WHERE m.model_id = l.model_id \
                 AND m.key = ",
            );
            sql.bind(comparison.identifier.key.as_str()).push(" AND ");
            compile::metric(sql, "m.value", "m.is_nan", comparison)?;
            on_datasets(sql, datasets);
            sql.push(")");
            Ok(true)
        }
        Some(_) => Err(compile::refuse_identifier(
            &comparison.identifier,
            "valid entities are metrics, params, tags and attributes",
        )),
    }
}

/// Adds the `ORDER BY` list.
fn order(sql: &mut Sql, list: &[LoggedModelOrder]) -> Result<()> {
    for order in list {
        let field = validate::required(order.field_name.clone(), "order_by.field_name")?;
        let identifier = filter::parse_order(&field)?.identifier;
        let direction = if order.ascending.unwrap_or(true) {
            " ASC NULLS LAST, "
        } else {
            " DESC NULLS LAST, "
        };
        if identifier.entity.is_none() {
            sql.push(attribute(&identifier)?.0).push(direction);
            continue;
        }
        if !matches!(identifier.entity.as_deref(), Some("metric" | "metrics")) {
            return Err(Error::invalid(format!(
                "Invalid order by field name: {field}. Only attributes and metrics are supported."
            )));
        }
        // The latest value of the metric.
        sql.push("(SELECT m.value FROM logged_model_metrics m WHERE m.model_id = l.model_id AND m.key = ");
        sql.bind(identifier.key.as_str());
        if let Some(name) = order
            .dataset_name
            .as_deref()
            .filter(|name| !name.is_empty())
        {
            sql.push(" AND m.dataset_name = ").bind(name);
        }
        if let Some(digest) = order.dataset_digest.as_deref().filter(|d| !d.is_empty()) {
            sql.push(" AND m.dataset_digest = ").bind(digest);
        }
        sql.push(" ORDER BY m.timestamp DESC, m.step DESC, m.run_id LIMIT 1)")
            .push(direction);
    }
    Ok(())
}

impl Handle {
    /// Finds logged models, newest first unless told otherwise.
    ///
    /// # Errors
    /// When filter, datasets, order, size or token are not valid.
    pub async fn search_logged_models(
        &self,
        request: SearchLoggedModels,
    ) -> Result<Page<LoggedModel>> {
        let size = validate::page_size(request.max_results, 50, 1000)?;
        let offset = paging::offset(request.page_token.as_deref())?;
        if request.datasets.len() > 100 || request.order_by.len() > 20 {
            return Err(Error::invalid(
                "At most 100 datasets and 20 order_by fields are allowed.",
            ));
        }
        for dataset in &request.datasets {
            if dataset
                .dataset_name
                .as_deref()
                .unwrap_or_default()
                .is_empty()
            {
                return Err(Error::invalid(
                    "`dataset_name` in the `datasets` clause must be specified.",
                ));
            }
        }
        let experiments = request
            .experiment_ids
            .iter()
            .map(|id| validate::experiment_id(id))
            .collect::<Result<Vec<_>>>()?;
        let mut sql = Sql::new("SELECT ");
        sql.push(logged_models::MODEL_COLUMNS);
        sql.push(
            " FROM logged_models l WHERE l.lifecycle_stage = 'active' AND l.experiment_id IN ",
        );
        sql.bind_list(experiments);
        let mut about_metrics = false;
        for comparison in filter::parse_filter(request.filter.as_deref().unwrap_or_default())? {
            sql.push(" AND ");
            about_metrics |= condition(&mut sql, &comparison, &request.datasets)?;
        }
        if !about_metrics && !request.datasets.is_empty() {
            sql.push(
                " AND EXISTS (SELECT 1 FROM logged_model_metrics m WHERE m.model_id = l.model_id",
            );
            on_datasets(&mut sql, &request.datasets);
            sql.push(")");
        }
        sql.push(" ORDER BY ");
        order(&mut sql, &request.order_by)?;
        sql.push("l.creation_timestamp_ms DESC, l.model_id LIMIT ")
            .bind(size.saturating_add(1));
        sql.push(" OFFSET ").bind(offset);
        Ok(paging::page(
            self.load_logged_models(sql).await?,
            offset,
            size,
        ))
    }
}
