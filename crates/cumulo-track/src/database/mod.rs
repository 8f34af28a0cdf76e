//! The SQL database: one writer, many readers.
//!
//! SQLite allows one writer at a time, and with `synchronous=FULL` a commit
//! waits for the disk. So all writes go through one task that takes whatever is
//! waiting, runs each write inside its own savepoint of one transaction, commits
//! once, and only then answers all of them (group commit): a failing write undoes
//! only itself, nothing is acknowledged before it is durable, and ten concurrent
//! writers pay for one `fsync`. Readers use a pool of their own and never wait
//! for the writer (write-ahead log).

mod migrations;
mod sql;

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Connection;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use tokio::sync::{mpsc, oneshot};

use crate::error::{Error, ErrorCode, Result};

pub(crate) use sql::{Bind, Sql};

/// Writes that may wait; one more is refused with "try again".
const MAX_WAITING_WRITES: usize = 4096;
/// Writes in one transaction at most, so that no caller waits for ever.
const MAX_GROUP: usize = 128;
/// Reads that run at the same time.
const READERS: u32 = 4;
/// Values bound in one statement at most (SQLite allows 32766).
pub(crate) const MAX_BINDS: usize = 8000;

/// Told to a job whose transaction could be committed or not.
type Answer = Box<dyn FnOnce(Result<()>) + Send>;
type Job = Box<dyn for<'c> FnOnce(&'c mut SqliteConnection, Place) -> BoxFuture<'c, Answer> + Send>;

/// Whether a job shares its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It has it for itself, and needs no savepoint.
    Alone,
    Grouped,
}

/// A cloneable way to the database.
#[derive(Clone)]
pub(crate) struct Database {
    readers: SqlitePool,
    jobs: mpsc::Sender<Job>,
}

impl Database {
    /// Opens (or creates) the file, brings its schema up to date and starts the writer.
    pub(crate) async fn open(path: &Path) -> Result<Self> {
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .foreign_keys(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(Duration::from_secs(10))
            .statement_cache_capacity(256)
            // `LIKE` must tell "a" from "A", as it does in PostgreSQL; `ILIKE` is
            // written with lower() on both.
            .pragma("case_sensitive_like", "true")
            .pragma("temp_store", "memory")
            .pragma("cache_size", "-16384");
        let describe = |e: sqlx::Error| {
            Error::internal(format!(
                "Cannot open the tracking database {}: {e}. Check that the folder exists, may be written, and is not in use by another version.",
                path.display()
            ))
        };
        let mut writer = SqliteConnection::connect_with(&options)
            .await
            .map_err(describe)?;
        migrations::migrate(&mut writer).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(Duration::from_secs(30))
            .connect_with(options.row_buffer_size(1024))
            .await
            .map_err(describe)?;
        let (jobs, waiting) = mpsc::channel(MAX_WAITING_WRITES);
        tokio::spawn(write_loop(writer, waiting));
        Ok(Self { readers, jobs })
    }

    /// The pool for reading.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Runs `write` atomically; when this returns `Ok` its effect is on disk.
    pub(crate) async fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel::<Result<T>>();
        let job: Job = Box::new(move |connection, place| {
            Box::pin(async move {
                let result = undoable(connection, place, write).await;
                let answer: Answer = Box::new(move |committed| {
                    let result = match (result, committed) {
                        (Ok(value), Ok(())) => Ok(value),
                        (Ok(_), Err(error)) | (Err(error), _) => Err(error),
                    };
                    // The caller may have gone; what it asked for is done all the same.
                    drop(sender.send(result));
                });
                answer
            })
        });
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => Error::new(
                ErrorCode::ResourceExhausted,
                format!(
                    "{MAX_WAITING_WRITES} writes are waiting for the tracking database already: \
                     try again in a moment, and log in batches."
                ),
            ),
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        receiver.await.map_err(|_| stopped())?
    }
}

fn stopped() -> Error {
    Error::new(
        ErrorCode::TemporarilyUnavailable,
        "The tracking database has stopped: try again when the platform is up.",
    )
}

/// Runs `write` so that its failure leaves no trace.
async fn undoable<T, F>(connection: &mut SqliteConnection, place: Place, write: F) -> Result<T>
where
    F: for<'c> FnOnce(&'c mut SqliteConnection) -> BoxFuture<'c, Result<T>>,
{
    if place == Place::Alone {
        let result = write(connection).await;
        if result.is_err() {
            sqlx::query("ROLLBACK").execute(&mut *connection).await?;
            // The group commits what is left: nothing.
            sqlx::query("BEGIN IMMEDIATE")
                .execute(&mut *connection)
                .await?;
        }
        return result;
    }
    sqlx::query("SAVEPOINT job")
        .execute(&mut *connection)
        .await?;
    let result = write(connection).await;
    if result.is_err() {
        sqlx::query("ROLLBACK TO job")
            .execute(&mut *connection)
            .await?;
    }
    sqlx::query("RELEASE job").execute(&mut *connection).await?;
    result
}

/// The writer: ends when the last handle is dropped.
async fn write_loop(mut connection: SqliteConnection, mut waiting: mpsc::Receiver<Job>) {
    let mut group = Vec::with_capacity(MAX_GROUP);
    while waiting.recv_many(&mut group, MAX_GROUP).await > 0 {
        let mut answers = Vec::with_capacity(group.len());
        let result = run_group(&mut connection, &mut group, &mut answers).await;
        // Jobs of a group whose transaction could not even begin: their callers
        // see the closed answer channel.
        group.clear();
        for answer in answers {
            answer(result.clone());
        }
    }
    if let Err(error) = connection.close().await {
        tracing::warn!(%error, "closing the tracking database failed");
    }
}

async fn run_group(
    connection: &mut SqliteConnection,
    group: &mut Vec<Job>,
    answers: &mut Vec<Answer>,
) -> Result<()> {
    // IMMEDIATE takes the write lock at once: no upgrade can fail half-way.
    sqlx::query("BEGIN IMMEDIATE")
        .execute(&mut *connection)
        .await?;
    let place = if group.len() == 1 {
        Place::Alone
    } else {
        Place::Grouped
    };
    for job in group.drain(..) {
        answers.push(job(connection, place).await);
    }
    if let Err(error) = sqlx::query("COMMIT").execute(&mut *connection).await {
        if let Err(rollback) = sqlx::query("ROLLBACK").execute(&mut *connection).await {
            tracing::error!(error = %rollback, "rolling back the tracking database failed");
        }
        return Err(error.into());
    }
    Ok(())
}
