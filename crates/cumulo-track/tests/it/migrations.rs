//! Databases of older versions, and of newer ones.

use std::path::Path;

use cumulo_track::{CreateModelVersion, CreateRun, Handle, KeyValue, Options, TRAIN_KEY_TAG};
use sqlx::postgres::PgConnection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Executor};

use crate::server::shared_database;

/// Databases as each published version left them, in the order of the versions.
const SQLITE: &[&str] = &[include_str!("schema/sqlite-1.sql")];
const POSTGRES: &[&str] = &[include_str!("schema/postgres-1.sql")];

/// Everything that older versions wrote is there, and can be gone on with.
async fn check(options: &Options) {
    let handle = Handle::open(options).await.unwrap();
    let run_id = "0123456789abcdef0123456789abcdef";
    let run = handle.get_run(run_id).await.unwrap();
    assert_eq!(run.info.run_name, "first");
    assert_eq!(run.data.metrics[0].value, 0.79);
    assert_eq!(run.data.params[0], KeyValue::new("depth", "6"));
    let request = CreateRun {
        experiment_id: Some("1".to_owned()),
        ..CreateRun::default()
    };
    let same = handle.ensure_run("job-1", request.clone()).await.unwrap();
    assert_eq!(same.info.run_id, run_id);
    let other = handle.ensure_run("job-2", request).await.unwrap();
    assert_ne!(other.info.run_id, run_id);
    let champion = handle
        .resolve("models:/late-flights@champion")
        .await
        .unwrap();
    assert_eq!(champion.version.version, "1");
    for (key, version) in [("k1", "1"), ("k2", "2")] {
        let request = CreateModelVersion {
            name: Some("late-flights".to_owned()),
            source: Some(format!("runs:/{run_id}/model")),
            tags: vec![KeyValue::new(TRAIN_KEY_TAG, key)],
            ..CreateModelVersion::default()
        };
        let made = handle.ensure_model_version(request).await.unwrap();
        assert_eq!(made.version, version);
    }
    assert_eq!(handle.ensure_experiment("new").await.unwrap(), "2");
}

/// Tables and indexes, as the database itself describes them.
async fn sqlite_schema(path: &Path) -> Vec<String> {
    let mut connection = sqlite(path).await;
    // How it is written does not matter, what it says does.
    let all: Vec<String> =
        sqlx::query_scalar("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name")
            .fetch_all(&mut connection)
            .await
            .unwrap();
    all.iter()
        .map(|sql| sql.replace("/*hash*/", ""))
        .map(|sql| sql.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

async fn sqlite(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true);
    SqliteConnection::connect_with(&options).await.unwrap()
}

async fn postgres_schema(address: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(address).await.unwrap();
    sqlx::query_scalar(
        "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable \
         || ' ' || COALESCE(collation_name, '') FROM information_schema.columns \
         WHERE table_schema = 'public' UNION ALL \
         SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' UNION ALL \
         SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint \
         WHERE connamespace = 'public'::regnamespace ORDER BY 1",
    )
    .fetch_all(&mut connection)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_sqlite_file_of_each_older_version_is_brought_up_to_date() {
    let fresh = tempfile::tempdir().unwrap();
    Handle::open(&Options::below(fresh.path())).await.unwrap();
    let expected = sqlite_schema(&fresh.path().join("tracking.db")).await;
    for older in SQLITE {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tracking.db");
        sqlite(&path).await.execute(*older).await.unwrap();
        check(&Options::below(folder.path())).await;
        assert_eq!(sqlite_schema(&path).await, expected);
    }
}

#[tokio::test]
async fn a_postgresql_database_of_each_older_version_is_brought_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = Options::below(folder.path()).artifacts;
    let fresh = shared_database().await;
    Handle::open(&Options::at(&fresh, &artifacts))
        .await
        .unwrap();
    let expected = postgres_schema(&fresh).await;
    assert!(expected.len() > 100, "{expected:?}");
    for older in POSTGRES {
        let address = shared_database().await;
        let mut connection = PgConnection::connect(&address).await.unwrap();
        connection.execute(*older).await.unwrap();
        check(&Options::at(&address, &artifacts)).await;
        assert_eq!(postgres_schema(&address).await, expected);
    }
}

#[tokio::test]
async fn a_newer_database_is_refused() {
    const NEWER: &str = "INSERT INTO schema_version (version) VALUES (4711)";
    let folder = tempfile::tempdir().unwrap();
    let local = Options::below(folder.path());
    let shared = Options::at(shared_database().await, &local.artifacts);
    for options in [&local, &shared] {
        Handle::open(options).await.unwrap();
    }
    let path = folder.path().join("tracking.db");
    sqlite(&path).await.execute(NEWER).await.unwrap();
    let mut connection = PgConnection::connect(&shared.database).await.unwrap();
    connection.execute(NEWER).await.unwrap();
    for options in [&local, &shared] {
        let error = Handle::open(options).await.unwrap_err();
        insta::allow_duplicates! {
            insta::assert_snapshot!(error, @"The tracking database has schema version 4711, this program knows only up to 2: start the newer program that wrote it, or restore a backup.");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn platforms_that_start_at_once_migrate_once() {
    let folder = tempfile::tempdir().unwrap();
    let artifacts = Options::below(folder.path()).artifacts;
    let address = shared_database().await;
    let mut connection = PgConnection::connect(&address).await.unwrap();
    connection.execute(POSTGRES[0]).await.unwrap();
    let mut starts = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let options = Options::at(&address, &artifacts);
        starts.spawn(async move { Handle::open(&options).await });
    }
    let opened = starts.join_all().await;
    assert!(opened.iter().all(Result::is_ok), "{opened:?}");
    let versions: Vec<i64> = sqlx::query_scalar("SELECT version FROM schema_version ORDER BY 1")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(versions, [1, 2]);
}
