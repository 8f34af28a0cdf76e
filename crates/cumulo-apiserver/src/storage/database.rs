//! The SQLite file: one connection, one table of objects, one transaction per
//! batch of writes. What is acknowledged has been through `fdatasync`.
//!
//! The newest version is the largest that an object has, or that the table
//! `revision` has: there it is written only with deletions, of which no object
//! tells. So the usual write, a few objects put, is a single statement, which is
//! a transaction by itself and changes no page but those of the objects.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, QueryBuilder, Row, Sqlite, SqliteConnection,
};

use super::memory::{HistoryLimits, State};
use super::object::{Key, Object, ObjectError, ObjectId};

/// Layout of the tables. Raised together with a migration from the one before.
/// 2: `revision` may be behind the objects.
const LAYOUT: i64 = 2;
/// Rows per statement: enough to make round trips cheap, few enough that the
/// statement cache holds every length that arises.
const ROWS_PER_STATEMENT: usize = 32;

/// Why the database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The file cannot be opened or read.
    #[error(
        "cannot open the object database {path}: {source}. Check that the folder is writable and its disk healthy"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// Written by a newer program.
    #[error(
        "the object database {path} has layout {found}, this program knows up to {LAYOUT}. Use a newer version, or another folder"
    )]
    Layout {
        /// The file.
        path: PathBuf,
        /// Its layout.
        found: i64,
    },
    /// A row that is no object.
    #[error(transparent)]
    Object(#[from] ObjectError),
}

/// Why a batch was not stored.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PersistError {
    /// No room.
    #[error(
        "the disk or the storage limit is full: this write was not stored, nothing stored before is lost. Free some space and try again"
    )]
    Full,
    /// Anything else.
    #[error(
        "the object database failed: {0}. This write was not stored, nothing stored before is lost"
    )]
    Failed(String),
}

impl From<sqlx::Error> for PersistError {
    fn from(error: sqlx::Error) -> Self {
        const SQLITE_FULL: &str = "13";
        let code = error.as_database_error().and_then(|e| e.code());
        if code.as_deref() == Some(SQLITE_FULL) {
            Self::Full
        } else {
            Self::Failed(error.to_string())
        }
    }
}

/// The open file.
#[derive(Debug)]
pub struct Database {
    connection: SqliteConnection,
}

/// Final states of the keys of a batch: an object, or none where it is deleted.
pub type Outcome = HashMap<Key, Option<Arc<Object>>>;

impl Database {
    /// Opens or creates the file. `limit` bounds its size in bytes.
    pub async fn open(path: &Path, limit: Option<u64>) -> Result<Self, DatabaseError> {
        let failed = |source| DatabaseError::Open {
            path: path.to_owned(),
            source,
        };
        let mut connection = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            // A log that a burst made long is cut back at the next checkpoint.
            .pragma("journal_size_limit", "16777216")
            .pragma("cache_size", "-2048")
            .disable_statement_logging()
            .connect()
            .await
            .map_err(failed)?;
        let found: i64 = sqlx::query("PRAGMA user_version")
            .fetch_one(&mut connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?;
        if found > LAYOUT {
            return Err(DatabaseError::Layout {
                path: path.to_owned(),
                found,
            });
        }
        if found == 0 {
            sqlx::raw_sql(
                "BEGIN;
                 CREATE TABLE objects (
                   resource TEXT NOT NULL, namespace TEXT NOT NULL, name TEXT NOT NULL,
                   version INTEGER NOT NULL, body BLOB NOT NULL,
                   PRIMARY KEY (resource, namespace, name));
                 CREATE TABLE revision (id INTEGER PRIMARY KEY CHECK (id = 1), version INTEGER NOT NULL);
                 INSERT INTO revision VALUES (1, 1);
                 PRAGMA user_version = 2;
                 COMMIT;",
            )
            .execute(&mut connection)
            .await
            .map_err(failed)?;
        }
        if found == 1 {
            sqlx::raw_sql("PRAGMA user_version = 2")
                .execute(&mut connection)
                .await
                .map_err(failed)?;
        }
        if let Some(limit) = limit {
            let page: i64 = sqlx::query("PRAGMA page_size")
                .fetch_one(&mut connection)
                .await
                .and_then(|row| row.try_get(0))
                .map_err(failed)?;
            let pages = (limit / page.max(512).unsigned_abs()).max(16);
            sqlx::raw_sql(AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")))
                .execute(&mut connection)
                .await
                .map_err(failed)?;
        }
        Ok(Self { connection })
    }

    /// Reads everything into memory.
    pub async fn load(
        &mut self,
        path: &Path,
        limits: HistoryLimits,
    ) -> Result<State, DatabaseError> {
        let failed = |source| DatabaseError::Open {
            path: path.to_owned(),
            source,
        };
        let mut newest: i64 = sqlx::query("SELECT version FROM revision")
            .fetch_one(&mut self.connection)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?;
        let mut objects: Vec<(Arc<str>, Arc<Object>)> = Vec::new();
        let mut names: HashMap<String, Arc<str>> = HashMap::new();
        let mut rows = sqlx::query("SELECT resource, namespace, name, version, body FROM objects")
            .fetch(&mut self.connection);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let resource: &str = row.try_get(0).map_err(failed)?;
            let resource = match names.get(resource) {
                Some(name) => name.clone(),
                None => {
                    let name: Arc<str> = resource.into();
                    names.insert(resource.to_owned(), name.clone());
                    name
                }
            };
            let id = ObjectId::new(
                row.try_get(1).map_err(failed)?,
                row.try_get(2).map_err(failed)?,
            );
            let version: i64 = row.try_get(3).map_err(failed)?;
            let body: &[u8] = row.try_get(4).map_err(failed)?;
            let object = Object::parse(id, version.unsigned_abs(), Bytes::copy_from_slice(body))?;
            newest = newest.max(version);
            objects.push((resource, Arc::new(object)));
        }
        let mut state = State::new(newest.unsigned_abs(), limits);
        for (resource, object) in objects {
            state.load(&resource, object);
        }
        Ok(state)
    }

    /// Stores a batch in one transaction: all of it or nothing.
    pub async fn persist(&mut self, outcome: &Outcome, version: u64) -> Result<(), PersistError> {
        let result = self.transaction(outcome, version).await;
        if result.is_err() {
            // SQLite may have rolled back by itself; then this says so, which is fine.
            if let Err(error) = sqlx::raw_sql("ROLLBACK")
                .execute(&mut self.connection)
                .await
            {
                tracing::debug!(%error, "no transaction left to roll back");
            }
        }
        result
    }

    /// Statements are sent together, up to a full INSERT at once: each trip to
    /// SQLite's thread and back costs about as much as a small statement, and a
    /// batch that is one write, or a few, is a single trip.
    async fn transaction(&mut self, outcome: &Outcome, version: u64) -> Result<(), PersistError> {
        let mut puts: Vec<(&Key, &Arc<Object>)> = outcome
            .iter()
            .filter_map(|(key, object)| Some((key, object.as_ref()?)))
            .collect();
        // Neighbours in the index are written one after the other.
        puts.sort_unstable_by_key(|(key, _)| *key);
        let only_puts = puts.len() == outcome.len();
        if only_puts && puts.len() <= ROWS_PER_STATEMENT {
            let mut query = QueryBuilder::<Sqlite>::new("");
            put(&mut query, &puts);
            query.build().execute(&mut self.connection).await?;
            return Ok(());
        }
        let mut query = QueryBuilder::<Sqlite>::new("BEGIN IMMEDIATE; ");
        for rows in puts.chunks(ROWS_PER_STATEMENT) {
            put(&mut query, rows);
            query.push("; ");
            if rows.len() == ROWS_PER_STATEMENT {
                query.build().execute(&mut self.connection).await?;
                query = QueryBuilder::new("");
            }
        }
        for (key, _) in outcome.iter().filter(|(_, object)| object.is_none()) {
            query.push("DELETE FROM objects WHERE resource = ");
            query.push_bind(key.resource.to_string());
            query.push(" AND namespace = ");
            query.push_bind(key.id.namespace.to_string());
            query.push(" AND name = ");
            query.push_bind(key.id.name.to_string());
            query.push("; ");
            query.build().execute(&mut self.connection).await?;
            query = QueryBuilder::new("");
        }
        if !only_puts {
            query.push("UPDATE revision SET version = ");
            query.push_bind(version.cast_signed());
            query.push("; ");
        }
        query.push("COMMIT");
        query.build().execute(&mut self.connection).await?;
        Ok(())
    }

    /// Writes a consistent copy to a file that must not exist yet.
    pub async fn copy_to(&mut self, path: &Path) -> Result<(), PersistError> {
        sqlx::query("VACUUM INTO ?")
            .bind(path.to_string_lossy().into_owned())
            .execute(&mut self.connection)
            .await?;
        Ok(())
    }

    /// Closes the file, folding the log into it.
    pub async fn close(self) {
        if let Err(error) = self.connection.close().await {
            tracing::warn!(%error, "closing the object database failed");
        }
    }
}

/// A statement that stores objects, whether they are there or not.
fn put(query: &mut QueryBuilder<Sqlite>, rows: &[(&Key, &Arc<Object>)]) {
    query.push("INSERT INTO objects (resource, namespace, name, version, body) ");
    query.push_values(rows, |mut tuple, (key, object)| {
        tuple
            .push_bind(key.resource.to_string())
            .push_bind(key.id.namespace.to_string())
            .push_bind(key.id.name.to_string())
            .push_bind(object.version.cast_signed())
            .push_bind(object.bytes.to_vec());
    });
    query.push(
        " ON CONFLICT (resource, namespace, name) DO UPDATE SET version = excluded.version, body = excluded.body",
    );
}
