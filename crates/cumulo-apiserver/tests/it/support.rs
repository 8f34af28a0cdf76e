//! A server for a test, and ways to talk to it.

use std::time::Duration;

use axum::body::Body;
use cumulo_apiserver::auth::{StaticTokens, UserInfo};
use cumulo_apiserver::{Handle, Options, Server};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

pub const TOKEN: &str = "a-token-for-tests";

/// A running server.
pub struct Running {
    pub handle: Handle,
    pub folder: std::sync::Arc<tempfile::TempDir>,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
    pub text: String,
}

impl Answer {
    /// The message of a status.
    pub fn message(&self) -> String {
        format!(
            "{} {}: {}",
            self.status.as_u16(),
            self.body["reason"].as_str().unwrap_or("-"),
            self.body["message"].as_str().unwrap_or("-")
        )
    }
}

pub fn options(folder: &std::path::Path) -> Options {
    let mut options = Options::new(folder);
    let tokens = StaticTokens::default().with(TOKEN, UserInfo::new("tester", &[]));
    options.authenticator = std::sync::Arc::new(tokens);
    options
}

impl Running {
    pub async fn new() -> Self {
        Self::with(|_| {}).await
    }

    pub async fn with(adjust: impl FnOnce(&mut Options)) -> Self {
        let folder = std::sync::Arc::new(tempfile::tempdir().expect("a folder"));
        Self::open(folder, adjust).await
    }

    pub async fn open(
        folder: std::sync::Arc<tempfile::TempDir>,
        adjust: impl FnOnce(&mut Options),
    ) -> Self {
        let mut options = options(folder.path());
        adjust(&mut options);
        let (server, handle) = Server::open(options).await.expect("the server opens");
        let stop = CancellationToken::new();
        let task = tokio::spawn(server.run(stop.clone()));
        Self {
            handle,
            folder,
            stop,
            task,
        }
    }

    pub fn client(&self) -> kube::Client {
        kube::Client::new(self.handle.client_service(), "default")
    }

    pub async fn close(self) -> std::sync::Arc<tempfile::TempDir> {
        self.stop.cancel();
        self.task.await.expect("the server ends");
        self.folder
    }

    /// One request with the platform's identity.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        media: &str,
        body: impl Into<Body>,
    ) -> Answer {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", media)
            .header("user-agent", "tester/1.0")
            .body(body.into())
            .expect("a request");
        self.send(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, "application/json", Body::empty())
            .await
    }

    pub async fn json(&self, method: &str, path: &str, body: &Value) -> Answer {
        self.call(method, path, "application/json", body.to_string())
            .await
    }

    pub async fn accept(&self, path: &str, accept: &str) -> Answer {
        let request = Request::builder()
            .uri(path)
            .header("accept", accept)
            .body(Body::empty())
            .expect("a request");
        self.send(request).await
    }

    pub async fn send(&self, request: Request<Body>) -> Answer {
        read(
            self.handle
                .client_service()
                .oneshot(request)
                .await
                .expect("an answer"),
        )
        .await
    }

    /// One request as somebody from outside.
    pub async fn outside(&self, request: Request<Body>) -> Answer {
        read(
            self.handle
                .router()
                .oneshot(request)
                .await
                .expect("an answer"),
        )
        .await
    }
}

async fn read(response: http::Response<Body>) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.expect("a body").to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    Answer {
        status: parts.status,
        headers: parts.headers,
        body: serde_json::from_slice(&bytes).unwrap_or(Value::Null),
        text,
    }
}

/// Waits until something holds; ten seconds at most.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "never happened: {what}"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
