//! Statements put together from parts, every value bound.

use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqlitePool, SqliteRow};
use sqlx::{AssertSqlSafe, Sqlite};

use crate::error::Result;

/// A value for a placeholder.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Bind {
    Text(String),
    Integer(i64),
    Real(f64),
    Null,
}

impl From<&str> for Bind {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Bind {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<i64> for Bind {
    fn from(value: i64) -> Self {
        Self::Integer(value)
    }
}

impl From<f64> for Bind {
    fn from(value: f64) -> Self {
        Self::Real(value)
    }
}

impl<T: Into<Bind>> From<Option<T>> for Bind {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// A statement under construction: text with placeholders, and their values in the
/// order of the text.
///
/// Placeholders are SQLite's `?`: numbered ones (`$1`) are looked up by name, which
/// takes quadratic time in long lists. Another database gets its kind in
/// [`Sql::bind`], the only place that writes them.
///
/// Only `&'static str` can be pushed as text, so nothing that a request brings
/// can become SQL.
#[derive(Debug, Default, Clone)]
pub(crate) struct Sql {
    text: String,
    binds: Vec<Bind>,
}

impl Sql {
    pub(crate) fn new(text: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            binds: Vec::new(),
        }
    }

    /// Adds text of ours.
    pub(crate) fn push(&mut self, text: &'static str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Adds a number of ours (an alias's index).
    pub(crate) fn push_number(&mut self, number: usize) -> &mut Self {
        self.text.push_str(&number.to_string());
        self
    }

    /// Adds a placeholder and its value.
    pub(crate) fn bind(&mut self, value: impl Into<Bind>) -> &mut Self {
        self.binds.push(value.into());
        self.text.push('?');
        self
    }

    /// Adds a part that binds nothing.
    pub(crate) fn append(&mut self, part: Self) -> &mut Self {
        debug_assert!(part.binds.is_empty(), "its placeholders would clash");
        self.text.push_str(&part.text);
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

    fn into_query(self) -> sqlx::query::Query<'static, Sqlite, SqliteArguments> {
        let mut query = sqlx::query(AssertSqlSafe(self.text));
        for bind in self.binds {
            query = match bind {
                Bind::Text(value) => query.bind(value),
                Bind::Integer(value) => query.bind(value),
                Bind::Real(value) => query.bind(value),
                Bind::Null => query.bind(None::<String>),
            };
        }
        query
    }

    /// Runs it on the pool and collects the rows.
    pub(crate) async fn fetch(self, pool: &SqlitePool) -> Result<Vec<SqliteRow>> {
        Ok(self.into_query().fetch_all(pool).await?)
    }

    /// Runs it on a connection and collects the rows.
    pub(crate) async fn fetch_on(
        self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<SqliteRow>> {
        Ok(self.into_query().fetch_all(connection).await?)
    }

    /// Runs it on a connection; returns how many rows it changed.
    pub(crate) async fn execute(self, connection: &mut SqliteConnection) -> Result<u64> {
        Ok(self.into_query().execute(connection).await?.rows_affected())
    }
}
