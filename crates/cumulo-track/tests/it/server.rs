//! A service of its own for each test.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use cumulo_track::{Handle, Options};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::peer::Peer;

/// Where state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// SQLite and a folder.
    Laptop,
    /// PostgreSQL and S3.
    Cluster,
}

/// The PostgreSQL server that tests share, each with databases of its own.
fn postgres() -> &'static str {
    static POSTGRES: OnceLock<Peer> = OnceLock::new();
    &POSTGRES.get_or_init(|| Peer::start("postgres.py")).words[0]
}

/// The S3 server that tests share, each with prefixes of its own.
fn s3() -> &'static [String] {
    static S3: OnceLock<Peer> = OnceLock::new();
    &S3.get_or_init(|| Peer::start("s3.py")).words
}

fn unique() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed))
}

/// An empty database of a PostgreSQL server.
pub async fn new_database(server: &str) -> String {
    let name = unique();
    let mut connection = PgConnection::connect(server).await.unwrap();
    sqlx::query(AssertSqlSafe(format!("CREATE DATABASE {name}")))
        .execute(&mut connection)
        .await
        .unwrap();
    connection.close().await.unwrap();
    server.replace("/postgres", &format!("/{name}"))
}

/// An empty database of the PostgreSQL server that tests share.
pub async fn shared_database() -> String {
    // Starting it waits for a process.
    let server = tokio::task::spawn_blocking(postgres).await.unwrap();
    new_database(server).await
}

/// State of its own; what lies in the folder goes with it.
pub async fn options(place: Place, folder: &Path) -> Options {
    match place {
        Place::Laptop => Options::below(folder),
        Place::Cluster => {
            let s3 = tokio::task::spawn_blocking(s3).await.unwrap();
            let artifacts = format!("s3://{}/{}", s3[3], unique());
            let mut options = Options::at(shared_database().await, artifacts);
            options.environment = [
                ("AWS_ENDPOINT_URL", s3[0].as_str()),
                ("AWS_ACCESS_KEY_ID", &s3[1]),
                ("AWS_SECRET_ACCESS_KEY", &s3[2]),
                ("AWS_ALLOW_HTTP", "true"),
                ("AWS_REGION", "us-east-1"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec();
            options
        }
    }
}

/// A running service; it stops when dropped.
pub struct Server {
    pub handle: Handle,
    pub address: SocketAddr,
    pub folder: TempDir,
    pub options: Options,
    http: reqwest::Client,
    _stop: tokio_util::sync::DropGuard,
}

impl Server {
    pub async fn start_at(place: Place) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = options(place, folder.path()).await;
        let handle = Handle::open(&options).await.unwrap();
        let (address, stop) = serve(&handle, "127.0.0.1:0").await;
        Self {
            handle,
            address,
            folder,
            options,
            http: reqwest::Client::builder().no_proxy().build().unwrap(),
            _stop: stop.drop_guard(),
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A JSON request below `/api/2.0/mlflow`; status and answer.
    pub async fn call(&self, method: Method, path: &str, body: &Value) -> (StatusCode, Value) {
        let url = self.url(&format!("/api/2.0/mlflow/{path}"));
        let response = self
            .http
            .request(method, url)
            .json(body)
            .send()
            .await
            .unwrap();
        let status = response.status();
        (status, response.json().await.unwrap())
    }

    pub async fn post(&self, path: &str, body: &Value) -> (StatusCode, Value) {
        self.call(Method::POST, path, body).await
    }

    pub async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.http.get(self.url(path)).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    pub async fn put(&self, path: &str, content: impl Into<reqwest::Body>) -> (StatusCode, String) {
        let url = self.url(path);
        let response = self.http.put(url).body(content).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    pub async fn delete(&self, path: &str) -> (StatusCode, String) {
        let response = self.http.delete(self.url(path)).send().await.unwrap();
        (response.status(), response.text().await.unwrap())
    }

    /// Creates a run in the default experiment.
    pub async fn run(&self) -> String {
        let run = self.handle.create_run(Default::default()).await.unwrap();
        run.info.run_id
    }
}

/// Serves until the token is cancelled.
pub async fn serve(handle: &Handle, at: &str) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind(at).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let router = handle.router();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            () = stopped.cancelled() => {}
            result = axum::serve(listener, router) => result.unwrap(),
        }
    });
    (address, stop)
}
