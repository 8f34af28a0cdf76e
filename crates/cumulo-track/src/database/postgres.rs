//! PostgreSQL, shared by any number of platforms.
//!
//! Each write is a transaction of its own (the server itself commits many with one
//! `fsync`), at `READ COMMITTED`, with advisory locks around what is read before it
//! is written. What concurrent writes can do to each other all the same (a
//! deadlock, a unique key that another one took first) makes the write run again.
//!
//! A server that goes away and comes back is waited for, within bounds. When the
//! connection breaks while a `COMMIT` is under way, its outcome is not guessed: each
//! write leaves a token of its own, and whether that is there is what became of it.
//! The number of the transaction says only when it is over: a crash can undo one
//! that no other server process heard of, and its number is then given to another.

use std::time::Duration;

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use sqlx::postgres::{
    PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgTransaction, Postgres,
};
use sqlx::{ConnectOptions, Executor, Row as _};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};
use url::Url;

use super::row::Row;
use super::sql::Sql;
use super::{Connection, Lock, MAX_WAITING_WRITES, migrations, stopped, too_many_waiting};
use crate::address::redacted;
use crate::error::{Error, ErrorCode, Result, Trouble};
use crate::store::registry_events::Events;

/// Connections of one platform at most, beside the one that listens. (PostgreSQL
/// allows 100 in all unless told otherwise.)
const CONNECTIONS: u32 = 16;
/// How long a request waits for a connection, or for the server to come back.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often a write that others got in the way of, or a read or a write whose
/// connection broke, runs at most.
const ATTEMPTS: u32 = 8;
/// SQLSTATE `invalid_parameter_value`: `pg_xact_status` of a number from the future.
const OUT_OF_RANGE: &str = "22023";
/// Registry changes are told on this channel; the payload is the model's name.
const CHANNEL: &str = "cumulo_registry";

/// Tokens of finished writes that one write takes away, at most.
const TAKEN_AWAY: usize = 64;
/// Where writes leave their tokens; those of platforms that ended are found by their age.
pub(super) const TOKENS: &str = "CREATE TABLE IF NOT EXISTS write_tokens \
    (token BIGINT PRIMARY KEY, made TIMESTAMPTZ NOT NULL DEFAULT now()); \
    DELETE FROM write_tokens WHERE made < now() - interval '1 day'";

/// What every session is told first.
const SESSION: &str = "SET default_transaction_isolation = 'read committed'; \
                       SET lock_timeout = '20s'; SET statement_timeout = '120s'; \
                       SET idle_in_transaction_session_timeout = '120s'";

/// Reads, each by itself.
#[derive(Clone)]
pub(crate) struct Readers(PgPool);

/// Writes, each in its transaction.
#[derive(Clone)]
pub(super) struct Writer {
    pool: PgPool,
    waiting: Arc<Semaphore>,
    tokens: Tokens,
    /// Ends the listener with the last handle.
    _listener: Arc<DropGuard>,
}

/// Connects, brings the schema up to date, and listens for changes.
pub(super) async fn open(url: &Url, events: Events) -> Result<(Readers, Writer)> {
    let describe = |error: sqlx::Error| {
        // The driver's message may hold the address, but never the password.
        Error::new(
            ErrorCode::TemporarilyUnavailable,
            format!(
                "Cannot use the tracking database {}: {error}. Check the address, that the \
                 database exists and the server runs, and the password (PGPASSWORD, or the file \
                 that PGPASSFILE names).",
                redacted(url.as_str())
            ),
        )
    };
    let options = PgConnectOptions::from_url(url)
        .map_err(describe)?
        .application_name("cumulo")
        .statement_cache_capacity(256);
    let pool = PgPoolOptions::new()
        .max_connections(CONNECTIONS)
        .acquire_timeout(PATIENCE)
        .idle_timeout(Duration::from_secs(300))
        .after_connect(|connection, _| {
            Box::pin(async move { connection.execute(SESSION).await.map(|_| ()) })
        })
        .connect_with(options.clone())
        .await
        .map_err(describe)?;
    let mut first = pool.acquire().await.map_err(describe)?;
    migrations::postgres(&mut first).await?;
    drop(first);
    let stop = CancellationToken::new();
    let listener = Listener::start(options, events).await.map_err(describe)?;
    let stopped = stop.clone();
    tokio::spawn(async move {
        stopped.run_until_cancelled(listener.run()).await;
    });
    let writer = Writer {
        pool: pool.clone(),
        waiting: Arc::new(Semaphore::new(MAX_WAITING_WRITES)),
        tokens: Tokens::default(),
        _listener: Arc::new(stop.drop_guard()),
    };
    Ok((Readers(pool), writer))
}

/// How long to wait before the next attempt: doubling from 5 ms, with a share of
/// chance so that two that got in each other's way do not do so again.
fn pause(attempt: u32, chance: f64) -> Duration {
    let base = Duration::from_millis(5 << attempt.min(8));
    base.mul_f64(0.5 + chance.clamp(0.0, 1.0))
}

impl Readers {
    pub(super) async fn fetch(&self, sql: &Sql) -> Result<Vec<Row>> {
        let mut attempt = 0;
        loop {
            let query = sql.to_postgres()?;
            match query.fetch_all(&self.0).await.map_err(Error::from) {
                Ok(rows) => return Ok(rows.into_iter().map(Row::Postgres).collect()),
                Err(error) if error.trouble == Trouble::Disconnected && attempt + 1 < ATTEMPTS => {
                    tokio::time::sleep(pause(attempt, rand::random())).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Tokens of writes whose outcome is known, to be taken away by the next ones.
#[derive(Clone, Default)]
struct Tokens(Arc<Mutex<Vec<i64>>>);

impl Tokens {
    fn take(&self) -> Vec<i64> {
        let mut finished = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = finished.len().saturating_sub(TAKEN_AWAY);
        finished.split_off(kept)
    }

    fn put(&self, tokens: impl IntoIterator<Item = i64>) {
        let mut finished = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        finished.extend(tokens);
    }
}

/// What became of one attempt to write.
enum Attempt<T> {
    Done(T),
    /// Certainly not stored; another attempt may help.
    Again(Error),
    Refused(Error),
}

impl Writer {
    pub(super) async fn write<T, F>(&self, write: F) -> Result<T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>> + Clone + Send + 'static,
    {
        let waiting = Arc::clone(&self.waiting);
        let permit = waiting
            .try_acquire_owned()
            .map_err(|_| too_many_waiting())?;
        let (pool, tokens) = (self.pool.clone(), self.tokens.clone());
        // A task of its own: the caller may go away, what it asked for is done all
        // the same, and no transaction is left open half-way.
        let done = tokio::spawn(async move {
            let _permit = permit;
            let mut attempt = 0;
            loop {
                match once(&pool, &tokens, write.clone()).await {
                    Attempt::Done(value) => return Ok(value),
                    Attempt::Again(error) if attempt + 1 < ATTEMPTS => {
                        tracing::debug!(%error, attempt, "writing again");
                        tokio::time::sleep(pause(attempt, rand::random())).await;
                        attempt += 1;
                    }
                    Attempt::Again(error) | Attempt::Refused(error) => return Err(error),
                }
            }
        });
        done.await.map_err(|_| stopped())?
    }
}

fn again_or_refused<T>(error: Error) -> Attempt<T> {
    match error.trouble {
        Trouble::Disconnected | Trouble::Conflict => Attempt::Again(error),
        Trouble::None => Attempt::Refused(error),
    }
}

async fn once<T, F>(pool: &PgPool, tokens: &Tokens, write: F) -> Attempt<T>
where
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>>,
{
    let (token, finished) = (rand::random::<i64>(), tokens.take());
    let attempt = transact(pool, token, &finished, write).await;
    match &attempt {
        // Those of before were taken away with it.
        Attempt::Done(_) => tokens.put([token]),
        Attempt::Again(_) | Attempt::Refused(_) => tokens.put(finished),
    }
    attempt
}

async fn transact<T, F>(pool: &PgPool, token: i64, finished: &[i64], write: F) -> Attempt<T>
where
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T>>,
{
    let mut transaction = match pool.begin().await {
        Ok(transaction) => transaction,
        Err(error) => return again_or_refused(error.into()),
    };
    let number = sqlx::query_scalar::<_, String>(
        "WITH gone AS (DELETE FROM write_tokens WHERE token = ANY($2)) \
         INSERT INTO write_tokens (token) VALUES ($1) RETURNING pg_current_xact_id()::text",
    )
    .bind(token)
    .bind(finished)
    .fetch_one(&mut *transaction)
    .await;
    let number = match number {
        Ok(number) => number,
        Err(error) => return again_or_refused(error.into()),
    };
    let mut connection = Connection::Postgres(Box::new(transaction));
    let result = write(&mut connection).await;
    let Connection::Postgres(transaction) = connection else {
        return Attempt::Refused(stopped());
    };
    match result {
        Ok(value) => match transaction.commit().await.map_err(Error::from) {
            Ok(()) => Attempt::Done(value),
            Err(error) if error.trouble == Trouble::Disconnected => {
                outcome(pool, token, &number, value, error).await
            }
            Err(error) => again_or_refused(error),
        },
        Err(error) => {
            // Dropping it would do the same, later.
            if let Err(rollback) = transaction.rollback().await {
                tracing::debug!(error = %rollback, "rolling back failed");
            }
            again_or_refused(error)
        }
    }
}

/// What became of a write whose `COMMIT` was not answered: of that token, in the
/// transaction of that number.
async fn outcome<T>(pool: &PgPool, token: i64, number: &str, value: T, lost: Error) -> Attempt<T> {
    for attempt in 0..ATTEMPTS {
        // Asked first: what is over when this is answered is seen by the next statement.
        let status = sqlx::query_scalar::<_, Option<String>>("SELECT pg_xact_status($1::xid8)")
            .bind(number.to_owned())
            .fetch_one(pool)
            .await;
        let over = match &status {
            Ok(status) => status.as_deref() != Some("in progress"),
            // A number that the server has not given yet: a crash undid its transaction.
            Err(sqlx::Error::Database(error)) => error.code().as_deref() == Some(OUT_OF_RANGE),
            Err(_) => false,
        };
        if over {
            let there = sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT 1 FROM write_tokens WHERE token = $1)",
            )
            .bind(token)
            .fetch_one(pool)
            .await;
            match there {
                Ok(true) => return Attempt::Done(value),
                Ok(false) => return Attempt::Again(lost),
                Err(error) => tracing::debug!(%error, "asking again for a write's token"),
            }
        } else {
            tracing::debug!(?status, "asking again for a transaction's outcome");
        }
        tokio::time::sleep(pause(attempt, rand::random())).await;
    }
    Attempt::Refused(Error::new(
        ErrorCode::TemporarilyUnavailable,
        "The connection to the tracking database broke while a write was under way, and the \
         database does not say whether it was stored: look before you try again.",
    ))
}

/// The key of an advisory lock: every platform computes the same.
fn key(text: &str) -> i64 {
    let digest = Sha256::digest(text.as_bytes());
    let mut bytes = [0; 8];
    for (to, from) in bytes.iter_mut().zip(digest) {
        *to = from;
    }
    i64::from_be_bytes(bytes)
}

pub(super) async fn lock(transaction: &mut PgTransaction<'static>, lock: Lock<'_>) -> Result<()> {
    let (shared, name) = match lock {
        Lock::ExperimentShared(id) => (true, format!("experiment {id}")),
        Lock::Experiment(id) => (false, format!("experiment {id}")),
        Lock::TrainJob(id, job) => (false, format!("train job {id} {job}")),
        Lock::RunModels(id) => (false, format!("run models {id}")),
        Lock::Model(name) => (false, format!("model {name}")),
        Lock::LoggedModel(id) => (false, format!("logged model {id}")),
    };
    let statement = if shared {
        "SELECT pg_advisory_xact_lock_shared($1)"
    } else {
        "SELECT pg_advisory_xact_lock($1)"
    };
    sqlx::query(statement)
        .bind(key(&name))
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

pub(super) async fn announce(transaction: &mut PgTransaction<'static>, model: &str) -> Result<()> {
    sqlx::query("SELECT pg_notify($1, $2)")
        .bind(CHANNEL)
        .bind(model.to_owned())
        .execute(&mut **transaction)
        .await?;
    Ok(())
}

/// Hears of changes, this platform's own among them.
struct Listener {
    /// None while the connection is lost: it is the pool's only one, so it has to be let
    /// go before there can be another.
    listener: Option<PgListener>,
    pool: PgPool,
    events: Events,
}

impl Listener {
    async fn start(options: PgConnectOptions, events: Events) -> Result<Self, sqlx::Error> {
        // A pool of its own, so that its connection is not one of the others'.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .acquire_timeout(PATIENCE)
            .connect_with(options)
            .await?;
        let listener = Self::listen(&pool).await?;
        Ok(Self {
            listener: Some(listener),
            pool,
            events,
        })
    }

    async fn listen(pool: &PgPool) -> Result<PgListener, sqlx::Error> {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen(CHANNEL).await?;
        Ok(listener)
    }

    async fn run(mut self) {
        let mut attempt = 0;
        loop {
            let heard = match &mut self.listener {
                Some(listener) => listener.try_recv().await,
                None => match Self::listen(&self.pool).await {
                    Ok(listener) => {
                        self.listener = Some(listener);
                        Ok(None)
                    }
                    Err(error) => Err(error),
                },
            };
            match heard {
                Ok(Some(notification)) => {
                    attempt = 0;
                    self.events.changed(notification.payload());
                }
                // Connected again; what happened in between was not told.
                Ok(None) => self.events.missed(),
                Err(error) => {
                    tracing::debug!(%error, "the registry's changes are not heard; trying again");
                    self.listener = None;
                    tokio::time::sleep(pause(attempt, rand::random())).await;
                    attempt += 1;
                }
            }
        }
    }
}

/// Text of one column of a raw query; for [`migrations`].
pub(super) async fn number(
    connection: &mut sqlx::postgres::PgConnection,
    statement: &'static str,
) -> Result<i64> {
    let row = sqlx::query::<Postgres>(statement)
        .fetch_one(connection)
        .await?;
    Ok(row.try_get(0)?)
}

#[cfg(test)]
mod tests {
    use super::{key, pause};
    use std::time::Duration;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!(pause(0, 0.5), Duration::from_millis(5));
        assert_eq!(pause(3, 0.5), Duration::from_millis(40));
        assert!(pause(1000, 1.0) <= Duration::from_millis(1920));
    }

    #[test]
    fn lock_keys_do_not_change() {
        // Platforms of different versions must exclude each other.
        assert_eq!(key("model late-flights"), 3_853_489_308_480_427_527);
    }
}
