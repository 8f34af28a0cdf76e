//! The SQL database: a SQLite file of this platform's own, or a database of a
//! PostgreSQL server that several platforms share.
//!
//! Operations are written once, against [`Connection`] and [`Readers`]. What they
//! may rely on in both: a write is atomic, it is durable when it is acknowledged,
//! and no other write that takes the same [`Lock`] happens in between. Texts are
//! compared and ordered by their bytes, `LIKE` tells "a" from "A", missing values
//! come where the statement says.

mod migrations;
mod postgres;
mod row;
mod sql;
mod sqlite;

use futures::future::BoxFuture;
use sqlx::PgTransaction;
use sqlx::sqlite::{SqliteConnection, SqlitePool};

use crate::address::DatabaseAddress;
use crate::error::{Error, ErrorCode, Result};
use crate::store::registry_events::Events;

pub(crate) use row::Row;
pub(crate) use sql::{Bind, Sql, query};

/// Writes that may wait; one more is refused with "try again".
const MAX_WAITING_WRITES: usize = 4096;
/// Values bound in one statement at most (SQLite allows 32766, PostgreSQL 65535).
pub(crate) const MAX_BINDS: usize = 8000;

/// A cloneable way to the database.
#[derive(Clone)]
pub(crate) struct Database {
    readers: Readers,
    writer: Writer,
}

#[derive(Clone)]
enum Writer {
    Sqlite(sqlite::Writer),
    Postgres(postgres::Writer),
}

/// A cloneable way to read.
#[derive(Clone)]
pub(crate) enum Readers {
    Sqlite(SqlitePool),
    Postgres(postgres::Readers),
}

/// The transaction of a write.
pub(crate) enum Connection {
    /// The only writer, so that every lock is held already.
    Sqlite(Box<SqliteConnection>),
    Postgres(Box<PgTransaction<'static>>),
}

/// What writes that read before they write must have for themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Lock<'a> {
    /// An experiment and whether it is deleted; shared by what is made in it.
    ExperimentShared(i64),
    Experiment(i64),
    /// The run of a training job in an experiment.
    TrainJob(i64, &'a str),
    /// What a run keeps of its models.
    RunModels(&'a str),
    /// A registered model with its versions, aliases and tags.
    Model(&'a str),
    /// What a logged model keeps of its versions.
    LoggedModel(&'a str),
}

impl Database {
    /// Opens (or creates) the database and brings its schema up to date. Changes of
    /// the registry by other platforms are told to `events`.
    ///
    /// # Errors
    /// When it cannot be reached, created or read, or a newer version wrote it.
    pub(crate) async fn open(address: &DatabaseAddress, events: &Events) -> Result<Self> {
        match address {
            DatabaseAddress::Sqlite(path) => {
                let (readers, writer) = sqlite::open(path).await?;
                Ok(Self {
                    readers: Readers::Sqlite(readers),
                    writer: Writer::Sqlite(writer),
                })
            }
            DatabaseAddress::Postgres(url) => {
                let (readers, writer) = postgres::open(url, events.clone()).await?;
                Ok(Self {
                    readers: Readers::Postgres(readers),
                    writer: Writer::Postgres(writer),
                })
            }
        }
    }

    /// The way to read.
    pub(crate) fn readers(&self) -> &Readers {
        &self.readers
    }

    /// The pool of SQLite's readers, where it is SQLite.
    pub(crate) fn sqlite(&self) -> Option<&SqlitePool> {
        match &self.readers {
            Readers::Sqlite(pool) => Some(pool),
            Readers::Postgres(_) => None,
        }
    }

    /// Whether changes of the registry come back from the database, to this platform
    /// as to the others that share it.
    pub(crate) fn announces(&self) -> bool {
        matches!(self.writer, Writer::Postgres(_))
    }

    /// Runs `write` atomically; when this returns `Ok` its effect is on disk. It may
    /// run more than once until it succeeds, each time as if it had never run.
    pub(crate) async fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>> + Clone + Send + 'static,
    {
        match &self.writer {
            Writer::Sqlite(writer) => writer.write(write).await,
            Writer::Postgres(writer) => writer.write(write).await,
        }
    }
}

impl Readers {
    async fn fetch(&self, sql: Sql) -> Result<Vec<Row>> {
        match self {
            Self::Sqlite(pool) => {
                let rows = sql.into_sqlite().fetch_all(pool).await?;
                Ok(rows.into_iter().map(Row::Sqlite).collect())
            }
            Self::Postgres(readers) => readers.fetch(&sql).await,
        }
    }
}

impl Connection {
    async fn fetch(&mut self, sql: Sql) -> Result<Vec<Row>> {
        Ok(match self {
            Self::Sqlite(connection) => {
                let rows = sql.into_sqlite().fetch_all(connection.as_mut()).await?;
                rows.into_iter().map(Row::Sqlite).collect()
            }
            Self::Postgres(transaction) => {
                let rows = sql.to_postgres()?.fetch_all(&mut ***transaction).await?;
                rows.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    async fn execute(&mut self, sql: Sql) -> Result<u64> {
        Ok(match self {
            Self::Sqlite(connection) => {
                let query = sql.into_sqlite();
                query.execute(connection.as_mut()).await?.rows_affected()
            }
            Self::Postgres(transaction) => {
                let query = sql.to_postgres()?;
                query.execute(&mut ***transaction).await?.rows_affected()
            }
        })
    }

    /// Waits until this transaction alone has what `lock` names, until its end.
    pub(crate) async fn lock(&mut self, lock: Lock<'_>) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(transaction) => postgres::lock(transaction, lock).await,
        }
    }

    /// Tells every platform that shares the database, when this is committed, that a
    /// registered model changed.
    pub(crate) async fn announce(&mut self, model: &str) -> Result<()> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(transaction) => postgres::announce(transaction, model).await,
        }
    }
}

fn stopped() -> Error {
    Error::new(
        ErrorCode::TemporarilyUnavailable,
        "The tracking database has stopped: try again when the platform is up.",
    )
}

fn too_many_waiting() -> Error {
    Error::new(
        ErrorCode::ResourceExhausted,
        format!(
            "{MAX_WAITING_WRITES} writes are waiting for the tracking database already: try again \
             in a moment, and log in batches."
        ),
    )
}
