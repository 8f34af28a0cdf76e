//! Checks over a result: all of them in one pass, examples of what breaks them
//! in another where something does.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::{Column, ScalarValue};
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::expr_fn::{count, count_distinct, sum};
use datafusion::logical_expr::{Expr, ExprSchemable, lit, not, when};
use datafusion::prelude::SessionContext;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::query::{self, QueryError};
use crate::request::Check;

/// How many example values a broken check shows.
const EXAMPLES: usize = 5;

/// How one rule of a check went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CheckResult {
    /// The rule, in words.
    pub name: String,
    /// Whether it holds within its tolerance.
    pub passed: bool,
    /// Rows that break it.
    pub failed_rows: u64,
    /// The fraction of rows that break it.
    pub fraction: f64,
    /// The fraction that may.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub tolerance: f64,
    /// Some values that break it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub examples: Vec<String>,
}

fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl CheckResult {
    /// One sentence about a broken rule.
    pub fn sentence(&self, rows: u64) -> String {
        let mut text = format!(
            "check \"{}\" failed: {} of {} rows ({}) break it",
            self.name,
            self.failed_rows,
            rows,
            percent(self.fraction)
        );
        if self.tolerance > 0.0 {
            text.push_str(&format!(", {} may", percent(self.tolerance)));
        }
        if !self.examples.is_empty() {
            text.push_str(&format!(", for example {}", self.examples.join("; ")));
        }
        text
    }
}

fn percent(fraction: f64) -> String {
    let value = fraction * 100.0;
    if value > 0.0 && value < 0.01 {
        "less than 0.01 %".to_owned()
    } else {
        format!("{} %", (value * 100.0).round() / 100.0)
    }
}

/// A check that cannot be evaluated.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    /// The check itself is wrong.
    #[error("check {position} is not valid: {}", of_check(problem))]
    Invalid {
        /// Which check, counted from one.
        position: usize,
        /// What is wrong with it.
        problem: Box<QueryError>,
    },
    /// An expression that is not a condition.
    #[error(
        "check {position} is not valid: {expression:?} is {data_type}, and a check must be true or false"
    )]
    NotBoolean {
        /// Which check, counted from one.
        position: usize,
        /// The expression.
        expression: String,
        /// Its type.
        data_type: String,
    },
    /// Evaluating failed.
    #[error("the checks could not be evaluated: {0}")]
    Failed(String),
}

impl CheckError {
    fn invalid(position: usize, problem: QueryError) -> Self {
        Self::Invalid {
            position,
            problem: Box::new(problem),
        }
    }
}

/// A problem in words that speak of the check: it is no query.
fn of_check(problem: &QueryError) -> String {
    let text = problem.to_string();
    match text.strip_prefix("the query is not valid: ") {
        Some(rest) => rest.to_owned(),
        None => match text.strip_prefix("the query ") {
            Some(rest) => format!("it {rest}"),
            None => text,
        },
    }
}

impl From<DataFusionError> for CheckError {
    fn from(error: DataFusionError) -> Self {
        Self::Failed(error.strip_backtrace())
    }
}

/// One rule of a check, ready to run.
struct Rule {
    name: String,
    kind: Kind,
    tolerance: f64,
}

enum Kind {
    /// Rows for which this is true break the rule.
    Broken { when: Expr, shown: Vec<Column> },
    /// Rows beyond the first of each value break the rule.
    Repeated(Column),
}

/// Evaluates checks over a table.
pub(crate) async fn evaluate(
    context: &SessionContext,
    table: DataFrame,
    checks: &[Check],
) -> Result<Vec<CheckResult>, CheckError> {
    let rules = rules(context, &table, checks)?;
    if rules.is_empty() {
        return Ok(Vec::new());
    }
    let mut aggregates = vec![count(lit(1)).alias("rows")];
    for (index, rule) in rules.iter().enumerate() {
        let broken = match &rule.kind {
            Kind::Broken { when: broken, .. } => {
                sum(when(broken.clone(), lit(1i64)).otherwise(lit(0i64))?)
            }
            Kind::Repeated(column) => {
                let column = Expr::Column(column.clone());
                count(column.clone()) - count_distinct(column)
            }
        };
        aggregates.push(broken.alias(format!("rule_{index}")));
    }
    let batches = table
        .clone()
        .aggregate(Vec::new(), aggregates)?
        .collect()
        .await?;
    let number = |index: usize| -> Result<u64, CheckError> {
        let batch = batches
            .iter()
            .find(|batch| batch.num_rows() > 0)
            .ok_or_else(|| CheckError::Failed("no answer".to_owned()))?;
        match ScalarValue::try_from_array(batch.column(index), 0)? {
            ScalarValue::Int64(value) => Ok(value.unwrap_or(0).max(0).unsigned_abs()),
            other => Err(CheckError::Failed(format!("unexpected answer {other}"))),
        }
    };
    let rows = number(0)?;
    let mut results = Vec::with_capacity(rules.len());
    for (index, rule) in rules.iter().enumerate() {
        let failed_rows = number(index + 1)?;
        let fraction = if rows == 0 {
            0.0
        } else {
            failed_rows as f64 / rows as f64
        };
        let passed = fraction <= rule.tolerance;
        let examples = if passed {
            Vec::new()
        } else {
            examples(&table, &rule.kind).await?
        };
        results.push(CheckResult {
            name: rule.name.clone(),
            passed,
            failed_rows,
            fraction,
            tolerance: rule.tolerance,
            examples,
        });
    }
    Ok(results)
}

fn rules(
    context: &SessionContext,
    table: &DataFrame,
    checks: &[Check],
) -> Result<Vec<Rule>, CheckError> {
    let mut rules = Vec::new();
    for (index, check) in checks.iter().enumerate() {
        let position = index + 1;
        let tolerance = check.tolerance.unwrap_or(0.0);
        let mut add = |name: String, kind| {
            rules.push(Rule {
                name: match &check.name {
                    Some(own) => format!("{own} ({name})"),
                    None => name,
                },
                kind,
                tolerance,
            });
        };
        if let Some(expression) = &check.expression {
            let parsed = query::expression(context, table.schema(), expression)
                .map_err(|problem| CheckError::invalid(position, problem))?;
            let data_type = parsed
                .get_type(table.schema())
                .map_err(|error| CheckError::Failed(error.strip_backtrace()))?;
            if data_type != arrow::datatypes::DataType::Boolean {
                return Err(CheckError::NotBoolean {
                    position,
                    expression: expression.clone(),
                    data_type: data_type.to_string(),
                });
            }
            let mut shown: Vec<Column> = parsed.column_refs().into_iter().cloned().collect();
            shown.sort_by(|left, right| left.name.cmp(&right.name));
            shown.truncate(4);
            add(
                expression.split_whitespace().collect::<Vec<_>>().join(" "),
                Kind::Broken {
                    when: not(parsed),
                    shown,
                },
            );
            continue;
        }
        let Some(name) = &check.column else { continue };
        let column =
            known_column(table, name).map_err(|problem| CheckError::invalid(position, problem))?;
        let value = || Expr::Column(column.clone());
        let broken = |when: Expr| Kind::Broken {
            when,
            shown: vec![column.clone()],
        };
        if check.not_null == Some(true) {
            add(
                format!("{name} is not null"),
                Kind::Broken {
                    when: value().is_null(),
                    // A missing value is no example of anything.
                    shown: Vec::new(),
                },
            );
        }
        if let Some(range) = &check.range {
            let data_type = value().get_type(table.schema())?;
            if !data_type.is_numeric() {
                return Err(CheckError::invalid(
                    position,
                    QueryError::Invalid {
                        problem: format!(
                            "a range is one of numbers, and {name:?} is {data_type}: write it as an expression"
                        ),
                        excerpt: None,
                    },
                ));
            }
            let low = range.min.map(|min| value().lt(lit(min)));
            let high = range.max.map(|max| value().gt(lit(max)));
            let words = match (range.min, range.max) {
                (Some(min), Some(max)) => format!("{name} between {min} and {max}"),
                (Some(min), None) => format!("{name} at least {min}"),
                (None, Some(max)) => format!("{name} at most {max}"),
                (None, None) => continue,
            };
            if let Some(when) = [low, high].into_iter().flatten().reduce(Expr::or) {
                add(words, broken(when));
            }
        }
        if let Some(allowed) = &check.allowed_values {
            let values: Vec<Expr> = allowed.iter().filter_map(literal).collect();
            let words: Vec<String> = allowed.iter().take(10).map(Value::to_string).collect();
            let dots = if allowed.len() > 10 { ", …" } else { "" };
            add(
                format!("{name} in [{}{dots}]", words.join(", ")),
                broken(value().in_list(values, true)),
            );
        }
        if check.unique == Some(true) {
            add(format!("{name} is unique"), Kind::Repeated(column.clone()));
        }
    }
    Ok(rules)
}

fn known_column(table: &DataFrame, name: &str) -> Result<Column, QueryError> {
    match table.schema().fields().iter().find(|f| f.name() == name) {
        Some(_) => Ok(Column::new_unqualified(name)),
        None => {
            let known: Vec<String> = table
                .schema()
                .fields()
                .iter()
                .map(|field| field.name().clone())
                .collect();
            Err(QueryError::Invalid {
                problem: match query::nearest(name, known.iter().map(String::as_str)) {
                    Some(near) => {
                        format!("the result has no column {name:?}: did you mean {near:?}?")
                    }
                    None => format!(
                        "the result has no column {name:?}; it has {}",
                        known
                            .iter()
                            .take(20)
                            .cloned()
                            .collect::<Vec<_>>()
                            .join(", ")
                    ),
                },
                excerpt: None,
            })
        }
    }
}

fn literal(value: &Value) -> Option<Expr> {
    Some(match value {
        // A missing value passes anyway.
        Value::Null => return None,
        Value::Bool(value) => lit(*value),
        Value::Number(number) => match number.as_i64() {
            Some(integer) => lit(integer),
            None => lit(number.as_f64()?),
        },
        Value::String(text) => lit(text.clone()),
        other => lit(other.to_string()),
    })
}

/// Some rows that break a rule, as `column=value` or the value alone.
async fn examples(table: &DataFrame, kind: &Kind) -> Result<Vec<String>, DataFusionError> {
    let (frame, shown) = match kind {
        Kind::Broken { shown, .. } if shown.is_empty() => return Ok(Vec::new()),
        Kind::Broken { when, shown } => (table.clone().filter(when.clone())?, shown.clone()),
        Kind::Repeated(column) => {
            let value = Expr::Column(column.clone());
            let frame = table
                .clone()
                .filter(value.clone().is_not_null())?
                .aggregate(vec![value], vec![count(lit(1)).alias("times")])?
                .filter(Expr::Column(Column::new_unqualified("times")).gt(lit(1)))?;
            (frame, vec![column.clone()])
        }
    };
    let columns: Vec<Expr> = shown.iter().cloned().map(Expr::Column).collect();
    let order: Vec<_> = columns
        .iter()
        .map(|column| column.clone().sort(true, false))
        .collect();
    // Ordered, so that the same data gives the same message.
    let batches = frame
        .select(columns)?
        .distinct()?
        .sort(order)?
        .limit(0, Some(EXAMPLES))?
        .collect()
        .await?;
    let mut texts = Vec::new();
    for batch in &batches {
        texts.extend(rows_of(batch)?);
    }
    Ok(texts)
}

fn rows_of(batch: &RecordBatch) -> Result<Vec<String>, DataFusionError> {
    let options = FormatOptions::default().with_null("null");
    let formatters = batch
        .columns()
        .iter()
        .map(|array| ArrayFormatter::try_new(array.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    let schema = batch.schema();
    Ok((0..batch.num_rows())
        .map(|row| {
            formatters
                .iter()
                .zip(schema.fields())
                .map(|(formatter, field)| {
                    let mut value = formatter.value(row).to_string();
                    if value.chars().count() > 60 {
                        value = value.chars().take(60).collect::<String>() + "…";
                    }
                    if formatters.len() == 1 {
                        value
                    } else {
                        format!("{}={value}", field.name())
                    }
                })
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect())
}
