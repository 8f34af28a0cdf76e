//! A service of its own for each test.

use std::net::SocketAddr;

use cumulo_track::{Handle, Options};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// A running service; it stops when dropped.
pub struct Server {
    pub handle: Handle,
    pub address: SocketAddr,
    pub folder: TempDir,
    http: reqwest::Client,
    _stop: tokio_util::sync::DropGuard,
}

impl Server {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = Options::below(folder.path());
        let handle = Handle::open(&options).await.unwrap();
        let (address, stop) = serve(&handle, "127.0.0.1:0").await;
        Self {
            handle,
            address,
            folder,
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
