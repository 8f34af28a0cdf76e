//! Searching runs.

use super::{ViewType, paging, runs};
use crate::database::Sql;
use crate::error::{Error, Result};
use crate::filter::{self, Comparison, Identifier, compile};
use crate::handle::Handle;
use crate::validate;
use crate::wire::{Page, Run, SearchRuns};

/// What a name of the filter language means for runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Metric,
    Param,
    Tag,
    TextAttribute(&'static str),
    NumberAttribute(&'static str),
    DatasetAttribute(&'static str),
    DatasetContext,
}

fn subject(identifier: &Identifier) -> Result<Subject> {
    let key = identifier.key.as_str();
    match identifier.entity.as_deref() {
        Some("metric" | "metrics") => Ok(Subject::Metric),
        Some("parameter" | "parameters" | "param" | "params") => Ok(Subject::Param),
        Some("tag" | "tags") => Ok(Subject::Tag),
        Some("dataset" | "datasets") => match key {
            "name" => Ok(Subject::DatasetAttribute("d.name")),
            "digest" => Ok(Subject::DatasetAttribute("d.digest")),
            "context" => Ok(Subject::DatasetContext),
            _ => Err(compile::refuse_identifier(
                identifier,
                "valid keys of dataset are name, digest and context",
            )),
        },
        None | Some("attribute" | "attributes" | "attr" | "run") => match key {
            "run_id" => Ok(Subject::TextAttribute("r.run_id")),
            "run_name" | "run name" | "Run name" | "Run Name" => {
                Ok(Subject::TextAttribute("r.run_name"))
            }
            "user_id" => Ok(Subject::TextAttribute("r.user_id")),
            "status" => Ok(Subject::TextAttribute("r.status")),
            "artifact_uri" => Ok(Subject::TextAttribute("r.artifact_uri")),
            "start_time" | "created" | "Created" => Ok(Subject::NumberAttribute("r.start_time")),
            "end_time" => Ok(Subject::NumberAttribute("r.end_time")),
            _ => Err(compile::refuse_identifier(
                identifier,
                "valid attributes are run_id, run_name, user_id, status, artifact_uri, \
                 start_time and end_time; others need metrics., params., tags. or datasets. \
                 before them",
            )),
        },
        Some(_) => Err(compile::refuse_identifier(
            identifier,
            "valid entities are metrics, params, tags, attributes and datasets",
        )),
    }
}

fn condition(sql: &mut Sql, comparison: &Comparison) -> Result<()> {
    match subject(&comparison.identifier)? {
        Subject::TextAttribute(column) => compile::text(sql, column, comparison),
        Subject::NumberAttribute(column) => compile::integer(sql, column, comparison),
        Subject::Param => compile::key_value(
            sql,
            "SELECT 1 FROM params t WHERE t.run_id = r.run_id",
            comparison,
        ),
        Subject::Tag => compile::key_value(
            sql,
            "SELECT 1 FROM tags t WHERE t.run_id = r.run_id",
            comparison,
        ),
        Subject::Metric => {
            sql.push(
                "EXISTS (SELECT 1 FROM latest_metrics m WHERE m.run_id = r.run_id AND m.key = ",
            );
            sql.bind(comparison.identifier.key.as_str()).push(" AND ");
            compile::metric(sql, "m.value", "m.is_nan", comparison)?;
            sql.push(")");
            Ok(())
        }
        Subject::DatasetAttribute(column) => {
            sql.push(
                "EXISTS (SELECT 1 FROM dataset_inputs i JOIN datasets d \
                 ON d.dataset_id = i.dataset_id WHERE i.run_id = r.run_id AND ",
            );
            compile::text(sql, column, comparison)?;
            sql.push(")");
            Ok(())
        }
        Subject::DatasetContext => {
            sql.push(
                "EXISTS (SELECT 1 FROM dataset_input_tags t WHERE t.run_id = r.run_id \
                 AND t.key = 'mlflow.data.context' AND ",
            );
            compile::text(sql, "t.value", comparison)?;
            sql.push(")");
            Ok(())
        }
    }
}

/// The joins and the `ORDER BY` list of an order: missing values last, NaN before them.
fn order(joins: &mut Sql, list: &[String]) -> Result<(Sql, bool)> {
    let mut clause = Sql::default();
    let mut seen = Vec::new();
    let mut by_start_time = false;
    for (number, text) in list.iter().enumerate() {
        let order = filter::parse_order(text)?;
        let subject = subject(&order.identifier)?;
        let identity = (subject, order.identifier.key.clone());
        if seen.contains(&identity) {
            return Err(Error::invalid(format!(
                "`order_by` contains duplicate fields: {list:?}"
            )));
        }
        seen.push(identity);
        let direction = if order.ascending { " ASC, " } else { " DESC, " };
        let table = match subject {
            Subject::TextAttribute(column) | Subject::NumberAttribute(column) => {
                by_start_time |= column == "r.start_time";
                clause.push("CASE WHEN ").push(column);
                clause
                    .push(" IS NULL THEN 1 ELSE 0 END, ")
                    .push(column)
                    .push(direction);
                continue;
            }
            Subject::Metric => "latest_metrics",
            Subject::Param => "params",
            Subject::Tag => "tags",
            Subject::DatasetAttribute(_) | Subject::DatasetContext => {
                return Err(compile::refuse_identifier(
                    &order.identifier,
                    "runs cannot be ordered by their datasets",
                ));
            }
        };
        joins
            .push(" LEFT JOIN ")
            .push(table)
            .push(" o")
            .push_number(number);
        joins
            .push(" ON o")
            .push_number(number)
            .push(".run_id = r.run_id AND o");
        joins
            .push_number(number)
            .push(".key = ")
            .bind(order.identifier.key.as_str());
        clause.push("CASE ");
        if subject == Subject::Metric {
            clause
                .push("WHEN o")
                .push_number(number)
                .push(".is_nan = 1 THEN 1 ");
        }
        clause
            .push("WHEN o")
            .push_number(number)
            .push(".value IS NULL THEN 2 ELSE 0 END, o");
        clause.push_number(number).push(".value").push(direction);
    }
    Ok((clause, by_start_time))
}

impl Handle {
    /// Finds runs, newest first unless told otherwise.
    ///
    /// # Errors
    /// When filter, order, size or token are not valid.
    pub async fn search_runs(&self, request: SearchRuns) -> Result<Page<Run>> {
        let size = validate::page_size(request.max_results, 1000, 50_000)?;
        let offset = paging::offset(request.page_token.as_deref())?;
        let view = ViewType::parse(request.run_view_type.as_deref())?;
        let experiments = request
            .experiment_ids
            .iter()
            .map(|id| validate::experiment_id(id))
            .collect::<Result<Vec<_>>>()?;
        let comparisons = filter::parse_filter(request.filter.as_deref().unwrap_or_default())?;
        if request.order_by.len() > 20 {
            return Err(Error::invalid("`order_by` may have at most 20 fields."));
        }
        let mut sql = Sql::new("SELECT ");
        sql.push(runs::RUN_COLUMNS).push(" FROM runs r");
        let (clause, by_start_time) = order(&mut sql, &request.order_by)?;
        sql.push(" WHERE r.experiment_id IN ")
            .bind_list(experiments);
        sql.push(" AND r.lifecycle_stage IN ")
            .bind_list(view.stages().iter().copied());
        for comparison in &comparisons {
            sql.push(" AND ");
            condition(&mut sql, comparison)?;
        }
        sql.push(" ORDER BY ").append(clause);
        if !by_start_time {
            sql.push("r.start_time DESC, ");
        }
        sql.push("r.run_id LIMIT ").bind(size.saturating_add(1));
        sql.push(" OFFSET ").bind(offset);
        Ok(paging::page(self.load_runs(sql).await?, offset, size))
    }
}

#[cfg(test)]
mod tests {
    use super::{condition, order};
    use crate::database::Sql;
    use crate::filter::parse_filter;

    fn check(filter: &str, by: &[&str]) -> String {
        let build = || -> crate::Result<String> {
            let mut sql = Sql::default();
            let by: Vec<String> = by.iter().map(|text| (*text).to_owned()).collect();
            let (clause, _) = order(&mut sql, &by)?;
            for comparison in parse_filter(filter)? {
                sql.push("\nAND ");
                condition(&mut sql, &comparison)?;
            }
            sql.push("\nORDER BY ").append(clause);
            Ok(sql.text().trim().to_owned())
        };
        build().unwrap_or_else(|error| error.to_string())
    }

    #[test]
    fn filters_become_sql_with_every_value_bound() {
        insta::assert_snapshot!(check(
            "metrics.auc > 0.7 and params.a = 'x' and tags.t ILIKE '%a%' and start_time >= 1 \
             and status IN ('FINISHED') and metrics.loss != 1 and tags.u IS NULL \
             and datasets.name LIKE 'f%' and dataset.context = 'train'",
            &["metrics.auc DESC", "start_time ASC"],
        ), @r"
        LEFT JOIN latest_metrics o0 ON o0.run_id = r.run_id AND o0.key = ?
        AND EXISTS (SELECT 1 FROM latest_metrics m WHERE m.run_id = r.run_id AND m.key = ? AND (m.value > ? AND m.is_nan = 0))
        AND EXISTS (SELECT 1 FROM params t WHERE t.run_id = r.run_id AND t.key = ? AND t.value = ?)
        AND EXISTS (SELECT 1 FROM tags t WHERE t.run_id = r.run_id AND t.key = ? AND lower(t.value) LIKE ?)
        AND r.start_time >= ?
        AND r.status IN (?)
        AND EXISTS (SELECT 1 FROM latest_metrics m WHERE m.run_id = r.run_id AND m.key = ? AND (m.value != ? OR m.is_nan = 1))
        AND NOT EXISTS (SELECT 1 FROM tags t WHERE t.run_id = r.run_id AND t.key = ?)
        AND EXISTS (SELECT 1 FROM dataset_inputs i JOIN datasets d ON d.dataset_id = i.dataset_id WHERE i.run_id = r.run_id AND d.name LIKE ?)
        AND EXISTS (SELECT 1 FROM dataset_input_tags t WHERE t.run_id = r.run_id AND t.key = 'mlflow.data.context' AND t.value = ?)
        ORDER BY CASE WHEN o0.is_nan = 1 THEN 1 WHEN o0.value IS NULL THEN 2 ELSE 0 END, o0.value DESC, CASE WHEN r.start_time IS NULL THEN 1 ELSE 0 END, r.start_time ASC,
        ");
    }

    #[test]
    fn nonsense_is_refused() {
        let shown: Vec<String> = [
            ("params.a > 'x'", ""),
            ("metrics.a = 'x'", ""),
            ("start_time = 1.5", ""),
            ("colour = 'x'", ""),
            ("metric.a LIKE 1", ""),
            ("tags.a = 1", ""),
            ("shape.a = 1", ""),
            ("", "datasets.name"),
        ]
        .iter()
        .map(|(filter, by)| {
            let by: &[&str] = if by.is_empty() { &[] } else { &[by] };
            check(filter, by)
        })
        .chain([check("", &["params.a", "param.a DESC"])])
        .collect();
        insta::assert_snapshot!(shown.join("\n"), @r#"
        Invalid comparison of 'params.a' at character 1: '>' is not for texts; use =, !=, LIKE, ILIKE, IN or NOT IN.
        Invalid comparison of 'metrics.a' at character 1: it is a number, so compare it with a number without quotes.
        Invalid comparison of 'start_time' at character 1: '1.5' is not a whole number.
        Invalid comparison of 'colour' at character 1: valid attributes are run_id, run_name, user_id, status, artifact_uri, start_time and end_time; others need metrics., params., tags. or datasets. before them.
        Invalid comparison of 'metric.a' at character 1: 'LIKE' is not for numbers; use =, !=, <, <=, > or >=.
        Invalid comparison of 'tags.a' at character 1: it is a text, so compare it with a quoted text such as 'my-value'.
        Invalid comparison of 'shape.a' at character 1: valid entities are metrics, params, tags, attributes and datasets.
        Invalid comparison of 'datasets.name' at character 1: runs cannot be ordered by their datasets.
        `order_by` contains duplicate fields: ["params.a", "param.a DESC"]
        "#);
    }
}
