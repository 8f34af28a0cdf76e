//! Comparisons as SQL conditions, checked for sense.

use super::{Comparison, Identifier, Operator, Value};
use crate::database::Sql;
use crate::error::{Error, Result};

/// Refuses a comparison, naming where it stands.
pub(crate) fn refuse(comparison: &Comparison, because: &str) -> Error {
    refuse_identifier(&comparison.identifier, because)
}

/// Refuses a name, naming where it stands.
pub(crate) fn refuse_identifier(identifier: &Identifier, because: &str) -> Error {
    let name = identifier.entity.as_ref().map_or_else(
        || identifier.key.clone(),
        |entity| format!("{entity}.{}", identifier.key),
    );
    Error::invalid(format!(
        "Invalid comparison of '{name}' at character {}: {because}.",
        identifier.offset + 1
    ))
}

/// Adds `<column> <operator> <text>`.
pub(crate) fn text(sql: &mut Sql, column: &'static str, comparison: &Comparison) -> Result<()> {
    match (comparison.operator, &comparison.value) {
        (Operator::Ilike, Value::Text(value)) => {
            // lower() knows ASCII's letters only, in SQLite and for texts that
            // PostgreSQL compares by their bytes.
            sql.push("lower(").push(column).push(")");
            sql.like(value.to_ascii_lowercase());
        }
        (Operator::In | Operator::NotIn, Value::List(values)) => {
            sql.push(column)
                .push(if comparison.operator == Operator::In {
                    " IN "
                } else {
                    " NOT IN "
                });
            sql.bind_list(values.iter().map(String::as_str));
        }
        (Operator::Like, Value::Text(value)) => {
            sql.push(column).like(value.as_str());
        }
        (operator @ (Operator::Equal | Operator::NotEqual), Value::Text(value)) => {
            sql.push(column).push(" ").push(operator.as_str()).push(" ");
            sql.bind(value.as_str());
        }
        (_, Value::Number(_)) => {
            return Err(refuse(
                comparison,
                "it is a text, so compare it with a quoted text such as 'my-value'",
            ));
        }
        (operator, _) => {
            return Err(refuse(
                comparison,
                &format!(
                    "'{}' is not for texts; use =, !=, LIKE, ILIKE, IN or NOT IN",
                    operator.as_str()
                ),
            ));
        }
    }
    Ok(())
}

fn check_numeric(comparison: &Comparison) -> Result<&str> {
    let ordering = matches!(
        comparison.operator,
        Operator::Equal
            | Operator::NotEqual
            | Operator::Less
            | Operator::LessOrEqual
            | Operator::Greater
            | Operator::GreaterOrEqual
    );
    match &comparison.value {
        Value::Number(number) if ordering => Ok(number),
        _ if !ordering => Err(refuse(
            comparison,
            &format!(
                "'{}' is not for numbers; use =, !=, <, <=, > or >=",
                comparison.operator.as_str()
            ),
        )),
        _ => Err(refuse(
            comparison,
            "it is a number, so compare it with a number without quotes",
        )),
    }
}

/// Adds `<column> <operator> <integer>`.
pub(crate) fn integer(sql: &mut Sql, column: &'static str, comparison: &Comparison) -> Result<()> {
    let number = check_numeric(comparison)?;
    let value: i64 = number
        .parse()
        .map_err(|_| refuse(comparison, &format!("'{number}' is not a whole number")))?;
    sql.push(column)
        .push(" ")
        .push(comparison.operator.as_str())
        .push(" ");
    sql.bind(value);
    Ok(())
}

/// Adds a comparison of a metric's value with a number; NaN equals nothing and
/// differs from everything.
pub(crate) fn metric(
    sql: &mut Sql,
    value_column: &'static str,
    nan_column: &'static str,
    comparison: &Comparison,
) -> Result<()> {
    let number = check_numeric(comparison)?;
    let value: f64 = number
        .parse()
        .map_err(|_| refuse(comparison, &format!("'{number}' is not a number")))?;
    sql.push("(").push(value_column).push(" ");
    sql.push(comparison.operator.as_str()).push(" ").bind(value);
    if comparison.operator == Operator::NotEqual {
        sql.push(" OR ").push(nan_column).push(" = 1)");
    } else {
        sql.push(" AND ").push(nan_column).push(" = 0)");
    }
    Ok(())
}

/// Adds `[NOT] EXISTS (<select> … AND t.key = <key> [AND <value condition>])` for a
/// table of keys and values whose alias in `select` is `t`.
pub(crate) fn key_value(
    sql: &mut Sql,
    select: &'static str,
    comparison: &Comparison,
) -> Result<()> {
    if comparison.operator == Operator::IsNull {
        sql.push("NOT ");
    }
    sql.push("EXISTS (").push(select).push(" AND t.key = ");
    sql.bind(comparison.identifier.key.as_str());
    if !matches!(comparison.operator, Operator::IsNull | Operator::IsNotNull) {
        sql.push(" AND ");
        text(sql, "t.value", comparison)?;
    }
    sql.push(")");
    Ok(())
}
