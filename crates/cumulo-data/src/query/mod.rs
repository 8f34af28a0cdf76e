//! One SQL SELECT over tables: parsed, planned, and its mistakes explained.

pub mod canonical;
mod error;
mod excerpt;

use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::dataframe::DataFrame;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::logical_expr::{Expr, LogicalPlan, Volatility};
use datafusion::prelude::{SQLOptions, SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{SetExpr, Statement as SqlStatement};

use crate::options::Options;
pub use error::QueryError;
pub(crate) use error::nearest;
use excerpt::Excerpt;

/// The longest query that is taken, in bytes.
pub const MAX_QUERY: usize = 1 << 20;

/// A table of fewer bytes is read by one task: a hash table filled from it has
/// its rows in the order of the files.
const SMALL: usize = 8 << 20;

/// What a query is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A snapshot: the same inputs must give the same rows, and every column a name of its own.
    Snapshot,
    /// An answer to a person.
    Answer,
}

/// A query whose syntax is good and whose tables exist.
#[derive(Clone, Debug)]
pub struct ParsedQuery {
    text: String,
    statement: Statement,
}

/// A session for one query, whose scans are cut into up to `partitions` pieces.
///
/// Partitions keep the order of the files (no round-robin, no stealing), so
/// that the rows of a query without grouping come in the order of the table
/// that it streams.
pub fn session(options: &Options, partitions: usize) -> Result<SessionContext, QueryError> {
    let mut config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_round_robin_repartition(false)
        .with_repartition_file_min_size(SMALL)
        .with_information_schema(false);
    let settings = config.options_mut();
    settings.sql_parser.map_string_types_to_utf8view = false;
    settings.execution.parquet.schema_force_view_types = false;
    // A partition that is done early would take files from another, and the
    // order of the rows would depend on who was faster.
    settings.execution.enable_file_stream_work_stealing = false;
    // A table that is small by its rows goes whole into the hash table, and the
    // other side streams past it in order.
    settings.optimizer.hash_join_single_partition_threshold_rows = 1 << 20;
    settings.optimizer.hash_join_single_partition_threshold = 64 << 20;
    let mut runtime = RuntimeEnvBuilder::new();
    if let Some(limit) = options.memory_limit {
        runtime = runtime.with_memory_pool(Arc::new(FairSpillPool::new(limit)));
    }
    if let Some(folder) = &options.temporary_folder {
        runtime = runtime.with_temp_file_path(folder);
    }
    let runtime = runtime
        .build_arc()
        .map_err(|error| QueryError::Failed(error.to_string()))?;
    Ok(SessionContext::new_with_config_rt(config, runtime))
}

/// Parses a query and checks that it is one SELECT over known tables.
pub fn parse(text: &str, tables: &[String]) -> Result<ParsedQuery, QueryError> {
    if text.len() > MAX_QUERY {
        return Err(QueryError::TooLong {
            bytes: text.len(),
            limit: MAX_QUERY,
        });
    }
    let mut statements =
        DFParser::parse_sql(text).map_err(|error| error::syntax_error(text, &error))?;
    let statement = match (statements.pop_front(), statements.len()) {
        (None, _) => return Err(QueryError::Empty),
        (Some(statement), 0) => statement,
        (Some(_), more) => return Err(QueryError::SeveralStatements(more + 1)),
    };
    match &statement {
        Statement::Statement(inner) => match inner.as_ref() {
            SqlStatement::Query(query) if is_select(&query.body) => {}
            other => return Err(QueryError::NotSelect(first_word(&other.to_string()))),
        },
        other => return Err(QueryError::NotSelect(first_word(&other.to_string()))),
    }
    let (used, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)
        .map_err(|error| error::plan_error(text, error))?;
    for table in used {
        let name = table.table();
        if table.schema().is_some() || !tables.iter().any(|known| known == name) {
            return Err(QueryError::UnknownTable {
                name: table.to_string(),
                suggestion: error::nearest(name, tables.iter().map(String::as_str)),
                known: tables.to_vec(),
                excerpt: Excerpt::find(text, name),
            });
        }
    }
    Ok(ParsedQuery {
        text: text.to_owned(),
        statement,
    })
}

fn is_select(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(_) | SetExpr::Values(_) => true,
        SetExpr::Query(query) => is_select(&query.body),
        SetExpr::SetOperation { left, right, .. } => is_select(left) && is_select(right),
        _ => false,
    }
}

fn first_word(text: &str) -> String {
    text.split_whitespace()
        .next()
        .unwrap_or(text)
        .to_uppercase()
}

/// Makes tables known to a session under one name; several are read one after the other.
pub fn register(
    context: &SessionContext,
    name: &str,
    mut tables: Vec<Arc<dyn TableProvider>>,
) -> Result<(), QueryError> {
    let failed = |error: datafusion::error::DataFusionError| QueryError::Failed(error.to_string());
    let table: Arc<dyn TableProvider> = if tables.len() == 1 {
        tables.remove(0)
    } else {
        let mut frames = tables.into_iter().map(|table| context.read_table(table));
        let mut all = match frames.next() {
            Some(frame) => frame.map_err(failed)?,
            None => return Err(QueryError::Failed(format!("the table {name} has no files"))),
        };
        for frame in frames {
            all = all.union(frame.map_err(failed)?).map_err(failed)?;
        }
        all.into_view()
    };
    let reference = datafusion::common::TableReference::bare(name);
    let _ = context
        .deregister_table(reference.clone())
        .map_err(failed)?;
    context.register_table(reference, table).map_err(failed)?;
    Ok(())
}

/// Plans a query over a session's tables.
pub async fn plan(
    context: &SessionContext,
    query: &ParsedQuery,
    purpose: Purpose,
) -> Result<DataFrame, QueryError> {
    let text = query.text.as_str();
    let plan = context
        .state()
        .statement_to_plan(query.statement.clone())
        .await
        .map_err(|error| error::plan_error(text, error))?;
    SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false)
        .with_allow_statements(false)
        .verify_plan(&plan)
        .map_err(|error| error::plan_error(text, error))?;
    if purpose == Purpose::Snapshot {
        if let Some(function) = unreproducible(&plan).map_err(|e| error::plan_error(text, e))? {
            return Err(QueryError::NotReproducible {
                excerpt: Excerpt::find(text, &function),
                function,
            });
        }
        let mut seen = std::collections::HashSet::new();
        for field in plan.schema().fields() {
            if !seen.insert(field.name().clone()) {
                return Err(QueryError::DuplicateColumn(field.name().clone()));
            }
        }
    }
    Ok(DataFrame::new(context.state(), plan))
}

/// Explains an error that comes while a query of this text runs.
pub fn explain(query: &ParsedQuery, error: datafusion::error::DataFusionError) -> QueryError {
    error::run_error(&query.text, error)
}

/// Parses a boolean expression over a result's columns, for a check.
pub(crate) fn expression(
    context: &SessionContext,
    schema: &datafusion::common::DFSchema,
    text: &str,
) -> Result<Expr, QueryError> {
    context
        .state()
        .create_logical_expr(text, schema)
        .map_err(|error| match error.find_root() {
            datafusion::error::DataFusionError::SQL(..) => error::syntax_error(text, &error),
            _ => error::plan_error(text, error),
        })
}

/// A function whose outcome does not depend on its arguments alone.
fn unreproducible(
    plan: &LogicalPlan,
) -> Result<Option<String>, datafusion::error::DataFusionError> {
    let mut found = None;
    plan.apply_with_subqueries(|node| {
        node.apply_expressions(|expression| {
            expression.apply(|inner| {
                if let Expr::ScalarFunction(call) = inner
                    && call.func.signature().volatility != Volatility::Immutable
                {
                    found = Some(call.func.name().to_owned());
                    return Ok(TreeNodeRecursion::Stop);
                }
                Ok(TreeNodeRecursion::Continue)
            })
        })
    })?;
    Ok(found)
}
