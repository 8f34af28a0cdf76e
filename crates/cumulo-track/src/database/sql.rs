//! Statements put together from parts, every value bound, for either database.

use std::borrow::Cow;
use std::fmt::Write as _;

use sqlx::postgres::{PgArguments, Postgres};
use sqlx::sqlite::{Sqlite, SqliteArguments};
use sqlx::{AssertSqlSafe, Decode, Type};

use super::row::Row;
use super::{Connection, Readers};
use crate::error::{Error, Result};

/// A value for a placeholder. Missing values have a type too: PostgreSQL wants it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Bind {
    Text(Option<String>),
    Integer(Option<i64>),
    Real(Option<f64>),
}

impl From<&str> for Bind {
    fn from(value: &str) -> Self {
        Self::Text(Some(value.to_owned()))
    }
}

impl From<&String> for Bind {
    fn from(value: &String) -> Self {
        Self::Text(Some(value.clone()))
    }
}

impl From<String> for Bind {
    fn from(value: String) -> Self {
        Self::Text(Some(value))
    }
}

impl From<i64> for Bind {
    fn from(value: i64) -> Self {
        Self::Integer(Some(value))
    }
}

impl From<f64> for Bind {
    fn from(value: f64) -> Self {
        Self::Real(Some(value))
    }
}

impl From<Option<String>> for Bind {
    fn from(value: Option<String>) -> Self {
        Self::Text(value)
    }
}

impl From<&Option<String>> for Bind {
    fn from(value: &Option<String>) -> Self {
        Self::Text(value.clone())
    }
}

impl From<Option<&str>> for Bind {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(str::to_owned))
    }
}

impl From<Option<i64>> for Bind {
    fn from(value: Option<i64>) -> Self {
        Self::Integer(value)
    }
}

/// A statement under construction: text with placeholders, and their values in the
/// order of the text.
///
/// Placeholders are written as SQLite's `?` (numbered ones are looked up by name
/// there, which takes quadratic time in long lists) and become PostgreSQL's `$1`,
/// `$2` when it runs there. A text given whole to [`query`] has `$1` for both.
///
/// Only `&'static str` can be pushed as text, so nothing that a request brings
/// can become SQL.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sql {
    text: Cow<'static, str>,
    binds: Vec<Bind>,
    /// Which of the binds are patterns of `LIKE`.
    patterns: Vec<usize>,
    /// Whether its placeholders have their numbers already.
    numbered: bool,
}

/// A statement whose text is whole, with `$1`, `$2`, … for what is bound next.
pub(crate) fn query(text: &'static str) -> Sql {
    Sql {
        text: Cow::Borrowed(text),
        numbered: true,
        ..Sql::default()
    }
}

impl Sql {
    pub(crate) fn new(text: &'static str) -> Self {
        Self {
            text: Cow::Borrowed(text),
            ..Self::default()
        }
    }

    /// Adds text of ours.
    pub(crate) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.to_mut().push_str(text);
        self
    }

    /// Adds a number of ours (an alias's index).
    pub(crate) fn push_number(&mut self, number: usize) -> &mut Self {
        self.text.to_mut().push_str(&number.to_string());
        self
    }

    /// Adds a placeholder and its value.
    pub(crate) fn bind(&mut self, value: impl Into<Bind>) -> &mut Self {
        self.binds.push(value.into());
        self.text.to_mut().push('?');
        self
    }

    /// Adds `LIKE <pattern>`, in which only `%` and `_` are special: PostgreSQL's
    /// backslash is switched off, as SQLite has none.
    pub(crate) fn like(&mut self, pattern: impl Into<Bind>) -> &mut Self {
        self.patterns.push(self.binds.len());
        self.push(" LIKE ").bind(pattern)
    }

    /// The value of the next placeholder of a [`query`].
    pub(crate) fn with(mut self, value: impl Into<Bind>) -> Self {
        self.binds.push(value.into());
        self
    }

    /// Adds a part that binds nothing.
    pub(crate) fn append(&mut self, part: Self) -> &mut Self {
        debug_assert!(part.binds.is_empty(), "its placeholders would clash");
        self.text.to_mut().push_str(&part.text);
        self
    }

    /// Adds `($1, $2, …)`; for an empty list `(NULL)`, which nothing is in.
    pub(crate) fn bind_list<T: Into<Bind>>(
        &mut self,
        values: impl IntoIterator<Item = T>,
    ) -> &mut Self {
        self.push("(");
        let mut first = true;
        for value in values {
            if !first {
                self.push(", ");
            }
            first = false;
            self.bind(value);
        }
        if first {
            self.push("NULL");
        }
        self.push(")")
    }

    /// Adds `VALUES` rows.
    pub(crate) fn bind_rows<const N: usize>(
        &mut self,
        rows: impl IntoIterator<Item = [Bind; N]>,
    ) -> &mut Self {
        self.push(" VALUES ");
        let mut first = true;
        for row in rows {
            if !first {
                self.push(", ");
            }
            first = false;
            self.bind_list(row);
        }
        self
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The text with PostgreSQL's placeholders.
    pub(super) fn postgres_text(&self) -> Cow<'static, str> {
        if self.numbered || self.binds.is_empty() {
            return self.text.clone();
        }
        let mut text = String::with_capacity(self.text.len() + 3 * self.binds.len());
        let mut number = 0;
        for (index, piece) in self.text.split('?').enumerate() {
            if index > 0 {
                number += 1;
                // Writing to a String does not fail.
                let _ = write!(text, "${number}");
                if self.patterns.contains(&(number - 1)) {
                    text.push_str(" ESCAPE ''");
                }
            }
            text.push_str(piece);
        }
        Cow::Owned(text)
    }

    pub(super) fn into_sqlite(self) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
        let mut query = match self.text {
            Cow::Borrowed(text) => sqlx::query(text),
            Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)),
        };
        for bind in self.binds {
            query = match bind {
                Bind::Text(value) => query.bind(value),
                Bind::Integer(value) => query.bind(value),
                Bind::Real(value) => query.bind(value),
            };
        }
        query
    }

    /// # Errors
    /// When a text cannot be stored there.
    pub(super) fn to_postgres(&self) -> Result<sqlx::query::Query<'static, Postgres, PgArguments>> {
        let mut query = match self.postgres_text() {
            Cow::Borrowed(text) => sqlx::query(text),
            Cow::Owned(text) => sqlx::query(AssertSqlSafe(text)),
        };
        for bind in &self.binds {
            query = match bind {
                Bind::Text(Some(value)) if value.contains('\0') => {
                    return Err(Error::invalid(
                        "A text has the character U+0000, which the database cannot store: \
                         leave it out.",
                    ));
                }
                Bind::Text(value) => query.bind(value.clone()),
                Bind::Integer(value) => query.bind(*value),
                Bind::Real(value) => query.bind(*value),
            };
        }
        Ok(query)
    }

    /// Runs it and collects the rows.
    pub(crate) async fn fetch(self, on: impl Into<Target<'_>>) -> Result<Vec<Row>> {
        match on.into() {
            Target::Writing(connection) => connection.fetch(self).await,
            Target::Reading(readers) => readers.fetch(self).await,
        }
    }

    /// Runs it and gives the first row, if there is one.
    pub(crate) async fn fetch_optional(self, on: impl Into<Target<'_>>) -> Result<Option<Row>> {
        Ok(self.fetch(on).await?.into_iter().next())
    }

    /// Runs it and gives the first value of the first row, if there is one.
    pub(crate) async fn scalar<T>(self, on: impl Into<Target<'_>>) -> Result<Option<T>>
    where
        T: for<'r> Decode<'r, Sqlite> + Type<Sqlite>,
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        match self.fetch_optional(on).await? {
            Some(row) => Ok(Some(row.try_get::<T>(0)?)),
            None => Ok(None),
        }
    }

    /// As [`Sql::scalar`], of a statement that always gives a row.
    pub(crate) async fn scalar_one<T>(self, on: impl Into<Target<'_>>) -> Result<T>
    where
        T: for<'r> Decode<'r, Sqlite> + Type<Sqlite>,
        T: for<'r> Decode<'r, Postgres> + Type<Postgres>,
    {
        let found = self.scalar(on).await?;
        found.ok_or_else(|| Error::from(sqlx::Error::RowNotFound))
    }

    /// Runs it; returns how many rows it changed.
    pub(crate) async fn execute(self, connection: &mut Connection) -> Result<u64> {
        connection.execute(self).await
    }
}

/// Where a statement runs.
pub(crate) enum Target<'a> {
    /// In the transaction of a write.
    Writing(&'a mut Connection),
    /// By itself.
    Reading(&'a Readers),
}

impl<'a> From<&'a mut Connection> for Target<'a> {
    fn from(connection: &'a mut Connection) -> Self {
        Self::Writing(connection)
    }
}

impl<'a> From<&'a Readers> for Target<'a> {
    fn from(readers: &'a Readers) -> Self {
        Self::Reading(readers)
    }
}

#[cfg(test)]
mod tests {
    use super::{Sql, query};

    #[test]
    fn each_database_gets_its_placeholders() {
        let mut sql = Sql::new("SELECT a FROM t WHERE b = ");
        sql.bind("x").push(" AND c").like("%y%").push(" AND d IN ");
        sql.bind_list([1_i64, 2]).push(" AND e IN ");
        sql.bind_list(Vec::<i64>::new());
        let whole = query("SELECT $1, $2, $1").with(1_i64).with("x");
        insta::assert_snapshot!(
            [sql.text(), &sql.postgres_text(), &whole.postgres_text()].join("\n"),
            @r"
        SELECT a FROM t WHERE b = ? AND c LIKE ? AND d IN (?, ?) AND e IN (NULL)
        SELECT a FROM t WHERE b = $1 AND c LIKE $2 ESCAPE '' AND d IN ($3, $4) AND e IN (NULL)
        SELECT $1, $2, $1
        "
        );
    }
}
