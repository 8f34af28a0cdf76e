//! Searching the registry.

use super::{paging, registered_models, versions};
use crate::database::Sql;
use crate::error::{Error, Result};
use crate::filter::{self, Comparison, Identifier, Operator, Value, compile};
use crate::handle::Handle;
use crate::validate;
use crate::wire::{ModelVersion, Page, RegisteredModel, SearchRegistry};

fn is_tag(identifier: &Identifier) -> bool {
    matches!(identifier.entity.as_deref(), Some("tag" | "tags"))
}

/// Whether it says `mlflow.prompt.is_prompt = 'false'` (or `!= 'true'`).
fn excludes_prompts(comparison: &Comparison) -> bool {
    let Value::Text(value) = &comparison.value else {
        return false;
    };
    comparison.identifier.key == "mlflow.prompt.is_prompt"
        && match comparison.operator {
            Operator::Equal => value == "false",
            Operator::NotEqual => value == "true",
            _ => false,
        }
}

fn is_attribute(identifier: &Identifier) -> bool {
    matches!(
        identifier.entity.as_deref(),
        None | Some("attribute" | "attributes")
    )
}

fn model_attribute(identifier: &Identifier) -> Result<(&'static str, bool)> {
    match identifier.key.as_str() {
        "name" if is_attribute(identifier) => Ok(("g.name", false)),
        "timestamp" | "last_updated_timestamp" if is_attribute(identifier) => {
            Ok(("g.last_updated_time", true))
        }
        "creation_timestamp" if is_attribute(identifier) => Ok(("g.creation_time", true)),
        _ => Err(compile::refuse_identifier(
            identifier,
            "valid keys are name, creation_timestamp, last_updated_timestamp (or timestamp), and \
             tags.<key> in a filter",
        )),
    }
}

fn version_attribute(identifier: &Identifier) -> Result<(&'static str, bool)> {
    match identifier.key.as_str() {
        "name" if is_attribute(identifier) => Ok(("v.name", false)),
        "run_id" if is_attribute(identifier) => Ok(("v.run_id", false)),
        "source_path" | "source" if is_attribute(identifier) => Ok(("v.source", false)),
        "model_id" if is_attribute(identifier) => Ok(("v.model_id", false)),
        "version_number" if is_attribute(identifier) => Ok(("v.version", true)),
        "creation_timestamp" if is_attribute(identifier) => Ok(("v.creation_time", true)),
        "last_updated_timestamp" if is_attribute(identifier) => Ok(("v.last_updated_time", true)),
        _ => Err(compile::refuse_identifier(
            identifier,
            "valid keys are name, version_number, run_id, source_path, model_id, \
             creation_timestamp, last_updated_timestamp, and tags.<key> in a filter",
        )),
    }
}

/// Which of the two is searched.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Models,
    Versions,
}

impl Kind {
    fn attribute(self, identifier: &Identifier) -> Result<(&'static str, bool)> {
        match self {
            Self::Models => model_attribute(identifier),
            Self::Versions => version_attribute(identifier),
        }
    }

    fn tags(self) -> &'static str {
        match self {
            Self::Models => "SELECT 1 FROM registered_model_tags t WHERE t.name = g.name",
            Self::Versions => {
                "SELECT 1 FROM model_version_tags t WHERE t.name = v.name AND t.version = v.version"
            }
        }
    }

    fn condition(self, sql: &mut Sql, comparison: &Comparison) -> Result<()> {
        if is_tag(&comparison.identifier) {
            if excludes_prompts(comparison) {
                // MLflow's client adds this to every search for models. Models do
                // not have the tag, so it is a question about its absence.
                sql.push("NOT EXISTS (").push(self.tags());
                sql.push(" AND t.key = 'mlflow.prompt.is_prompt' AND t.value = 'true')");
                return Ok(());
            }
            return compile::key_value(sql, self.tags(), comparison);
        }
        match self.attribute(&comparison.identifier)? {
            (column, true) => compile::integer(sql, column, comparison),
            (column, false) => compile::text(sql, column, comparison),
        }
    }

    fn order(self, sql: &mut Sql, list: &[String]) -> Result<()> {
        sql.push(" ORDER BY ");
        let mut seen = Vec::new();
        for text in list {
            let order = filter::parse_order(text)?;
            let (column, _) = self.attribute(&order.identifier)?;
            if seen.contains(&column) {
                return Err(Error::invalid(format!(
                    "`order_by` contains duplicate fields: {list:?}"
                )));
            }
            seen.push(column);
            // Where missing values come differs between databases unless it is said.
            sql.push(column).push(if order.ascending {
                " ASC NULLS FIRST, "
            } else {
                " DESC NULLS LAST, "
            });
        }
        match self {
            Self::Models => sql.push("g.name"),
            Self::Versions if list.is_empty() => {
                sql.push("v.last_updated_time DESC, v.name, v.version DESC")
            }
            Self::Versions => sql.push("v.name, v.version DESC"),
        };
        Ok(())
    }
}

impl Handle {
    /// Finds registered models, by name unless told otherwise.
    ///
    /// # Errors
    /// When filter, order, size or token are not valid.
    pub async fn search_registered_models(
        &self,
        request: SearchRegistry,
    ) -> Result<Page<RegisteredModel>> {
        let size = validate::page_size(request.max_results, 100, 1000)?;
        let mut sql = Sql::new(registered_models::COLUMNS);
        sql.push(" WHERE 1 = 1");
        let offset = finish(&mut sql, Kind::Models, &request, size)?;
        Ok(paging::page(
            self.load_registered_models(sql).await?,
            offset,
            size,
        ))
    }

    /// Finds model versions, last changed first unless told otherwise.
    ///
    /// # Errors
    /// When filter, order, size or token are not valid.
    pub async fn search_model_versions(
        &self,
        request: SearchRegistry,
    ) -> Result<Page<ModelVersion>> {
        let size = validate::page_size(request.max_results, 10_000, 200_000)?;
        let mut sql = Sql::new(versions::COLUMNS);
        sql.push(" WHERE v.current_stage <> 'Deleted_Internal'");
        let offset = finish(&mut sql, Kind::Versions, &request, size)?;
        Ok(paging::page(self.load_versions(sql).await?, offset, size))
    }
}

fn finish(sql: &mut Sql, kind: Kind, request: &SearchRegistry, size: i64) -> Result<i64> {
    let offset = paging::offset(request.page_token.as_deref())?;
    for comparison in filter::parse_filter(request.filter.as_deref().unwrap_or_default())? {
        sql.push(" AND ");
        kind.condition(sql, &comparison)?;
    }
    kind.order(sql, &request.order_by)?;
    sql.push(" LIMIT ").bind(size.saturating_add(1));
    sql.push(" OFFSET ").bind(offset);
    Ok(offset)
}
