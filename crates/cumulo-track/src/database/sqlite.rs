//! SQLite: one writer, many readers.
//!
//! SQLite allows one writer at a time, and with `synchronous=FULL` a commit
//! waits for the disk. So all writes go through one task that takes whatever is
//! waiting, runs each write inside its own savepoint of one transaction, commits
//! once, and only then answers all of them (group commit): a failing write undoes
//! only itself, nothing is acknowledged before it is durable, and ten concurrent
//! writers pay for one `fsync`. Readers use a pool of their own and never wait
//! for the writer (write-ahead log).

use std::path::Path;
use std::time::Duration;

use futures::future::BoxFuture;
use sqlx::Connection as _;
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use tokio::sync::{mpsc, oneshot};

use super::{Connection, MAX_WAITING_WRITES, migrations, query, stopped, too_many_waiting};
use crate::error::{Error, Result};

/// Writes in one transaction at most, so that no caller waits for ever.
const MAX_GROUP: usize = 128;
/// Reads that run at the same time.
const READERS: u32 = 4;

/// Told to a job whose transaction could be committed or not.
type Answer = Box<dyn FnOnce(Result<()>) + Send>;
type Job = Box<dyn for<'c> FnOnce(&'c mut Connection, Place) -> BoxFuture<'c, Answer> + Send>;

/// Whether a job shares its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// It has it for itself, and needs no savepoint.
    Alone,
    Grouped,
}

/// The way to the one task that writes.
#[derive(Clone)]
pub(super) struct Writer(mpsc::Sender<Job>);

/// Opens (or creates) the file, brings its schema up to date and starts the writer.
pub(super) async fn open(path: &Path) -> Result<(SqlitePool, Writer)> {
    if let Some(folder) = path.parent() {
        tokio::fs::create_dir_all(folder).await.map_err(|error| {
            Error::internal(format!("Cannot create {}: {error}.", folder.display()))
        })?;
    }
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
    migrations::sqlite(&mut writer).await?;
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
    tokio::spawn(write_loop(Connection::Sqlite(Box::new(writer)), waiting));
    Ok((readers, Writer(jobs)))
}

impl Writer {
    pub(super) async fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>> + Clone + Send + 'static,
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
        self.0.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => too_many_waiting(),
            mpsc::error::TrySendError::Closed(_) => stopped(),
        })?;
        receiver.await.map_err(|_| stopped())?
    }
}

/// Runs `write` so that its failure leaves no trace.
async fn undoable<T, F>(connection: &mut Connection, place: Place, write: F) -> Result<T>
where
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>>,
{
    if place == Place::Alone {
        let result = write(connection).await;
        if result.is_err() {
            query("ROLLBACK").execute(connection).await?;
            // The group commits what is left: nothing.
            query("BEGIN IMMEDIATE").execute(connection).await?;
        }
        return result;
    }
    query("SAVEPOINT job").execute(connection).await?;
    let result = write(connection).await;
    if result.is_err() {
        query("ROLLBACK TO job").execute(connection).await?;
    }
    query("RELEASE job").execute(connection).await?;
    result
}

/// The writer: ends when the last handle is dropped.
async fn write_loop(mut connection: Connection, mut waiting: mpsc::Receiver<Job>) {
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
    if let Connection::Sqlite(connection) = connection
        && let Err(error) = connection.close().await
    {
        tracing::warn!(%error, "closing the tracking database failed");
    }
}

async fn run_group(
    connection: &mut Connection,
    group: &mut Vec<Job>,
    answers: &mut Vec<Answer>,
) -> Result<()> {
    // IMMEDIATE takes the write lock at once: no upgrade can fail half-way.
    query("BEGIN IMMEDIATE").execute(connection).await?;
    let place = if group.len() == 1 {
        Place::Alone
    } else {
        Place::Grouped
    };
    for job in group.drain(..) {
        answers.push(job(connection, place).await);
    }
    if let Err(error) = query("COMMIT").execute(connection).await {
        if let Err(rollback) = query("ROLLBACK").execute(connection).await {
            tracing::error!(error = %rollback, "rolling back the tracking database failed");
        }
        return Err(error);
    }
    Ok(())
}
