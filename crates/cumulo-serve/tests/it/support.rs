//! A running server and the models that it serves.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{Float64Array, Int64Array, RecordBatch, StringArray};
use cumulo_learn::artifact::{self, Identity};
use cumulo_learn::features::Task;
use cumulo_learn::train::{Progress, TrainRequest, train};
use cumulo_serve::{Error, Options, Server};
use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The Python that uv takes: whichever is here and new enough for MLflow 3 and
/// for the wheel of ONNX Runtime.
pub const PYTHON: &str = ">=3.10";

pub struct Running {
    pub address: SocketAddr,
    pub client: reqwest::Client,
    pub shutdown: CancellationToken,
    pub task: JoinHandle<Result<(), Error>>,
}

/// Options for a free port and short waits.
pub fn options(model: &Path) -> Options {
    Options {
        name: "m".into(),
        version: Some("3".into()),
        model: model.into(),
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        drain_milliseconds: 200,
        ..Options::default()
    }
}

impl Running {
    pub async fn start(options: Options) -> Self {
        let server = Server::bind(options).await.expect("the server listens");
        let shutdown = CancellationToken::new();
        let running = Self {
            address: server.address(),
            client: reqwest::Client::new(),
            shutdown: shutdown.clone(),
            task: tokio::spawn(server.run(shutdown)),
        };
        running.until_ready(true).await;
        running
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Waits until readiness is as wanted.
    pub async fn until_ready(&self, wanted: bool) {
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            assert!(!self.task.is_finished(), "the server ended");
            let (status, _) = self.get("/v2/health/ready").await;
            if (status == 200) == wanted {
                return;
            }
            assert!(Instant::now() < deadline, "not ready={wanted} in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn get(&self, path: &str) -> (u16, String) {
        let response = self
            .client
            .get(self.url(path))
            .send()
            .await
            .expect("an answer");
        (
            response.status().as_u16(),
            response.text().await.expect("a text"),
        )
    }

    pub async fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
        let request = self.client.post(self.url(path)).body(body);
        let response = request.send().await.expect("an answer");
        let status = response.status().as_u16();
        let text = response.text().await.expect("a text");
        (
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        )
    }

    pub async fn infer(&self, inputs: Value) -> (u16, Value) {
        let body = serde_json::json!({ "inputs": inputs }).to_string();
        self.post("/v2/models/m/infer", body).await
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), self.task).await;
        ended
            .expect("the server ends")
            .expect("no panic")
            .expect("no error");
    }
}

struct Stopwatch(Instant);

impl Progress for Stopwatch {
    fn elapsed(&mut self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

/// Trains a small model of late flights into `folder`.
pub fn automl(folder: &Path) {
    let rows = 2_000usize;
    let noise = |row: usize, salt: usize| ((row * 7919 + salt * 104_729) % 1_000) as f64 / 1_000.0;
    let hour: Vec<i64> = (0..rows).map(|row| (noise(row, 1) * 24.0) as i64).collect();
    let wind: Vec<f64> = (0..rows).map(|row| noise(row, 2) * 30.0).collect();
    let carrier: Vec<&str> = (0..rows).map(|row| ["UA", "AA", "DL"][row % 3]).collect();
    let late: Vec<i64> = (0..rows)
        .map(|row| i64::from(hour[row] as f64 + wind[row] / 2.0 + noise(row, 3) * 5.0 > 22.0))
        .collect();
    let batch = RecordBatch::try_from_iter([
        (
            "hour",
            Arc::new(Int64Array::from(hour)) as arrow::array::ArrayRef,
        ),
        ("wind", Arc::new(Float64Array::from(wind))),
        ("carrier", Arc::new(StringArray::from(carrier))),
        ("late", Arc::new(Int64Array::from(late))),
    ])
    .expect("a batch");
    let mut request = TrainRequest::new(Task::Classification, "late");
    request.max_trials = Some(1);
    request.budget_seconds = 60.0;
    let mut progress = Stopwatch(Instant::now());
    let outcome = train(&request, &[batch], &mut progress).expect("a model");
    let identity = Identity {
        model_uuid: "0123456789abcdef0123456789abcdef".into(),
        created: chrono::DateTime::from_timestamp(1_700_000_000, 0).expect("an instant"),
        run_id: None,
        model_id: None,
    };
    artifact::write(folder, &outcome, &identity).expect("the folder is written");
}
