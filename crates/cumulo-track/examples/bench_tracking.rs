//! Tracking against the Python MLflow server on SQLite, in the same run:
//! `bench_tracking [RUNS]`, run by `bench/run tracking`.
//!
//! Both servers hold the same runs (5 metrics, 5 parameters, 3 tags each); one client
//! with one connection sends the same requests to both. `CUMULO_TEST_PYTHON` names a
//! Python with MLflow; without it `uv` makes one. Times are medians.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use cumulo_track::{CreateRun, Handle, KeyValue, LogBatch, Metric, Options};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const METRICS: usize = 5;
const PARAMS: usize = 5;
const TAGS: usize = 3;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let runs = match std::env::args().nth(1) {
        Some(text) => text.parse()?,
        None => 10_000,
    };
    let folder = tempfile::tempdir()?;
    let http = reqwest::Client::builder().no_proxy().build()?;

    let handle = Handle::open(&Options::below(folder.path().join("cumulo"))).await?;
    fill(&handle, runs).await?;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let ours = format!("http://{}", listener.local_addr()?);
    let router = handle.router();
    let server = tokio::spawn(async move { axum::serve(listener, router).await });

    let database = folder.path().join("mlflow.db");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../bench/tracking/mlflow_peer.py");
    let filled = python()
        .arg(script)
        .arg(&database)
        .arg(runs.to_string())
        .status()
        .await?;
    if !filled.success() {
        return Err("the MLflow database could not be filled; see the message above".into());
    }
    let (_peer, theirs) = start_mlflow(folder.path(), &http).await?;

    println!(
        "{runs} runs with {METRICS} metrics, {PARAMS} parameters and {TAGS} tags; medians, one client"
    );
    println!("| request | MLflow on SQLite | Cumulo | ratio |");
    println!("| --- | --- | --- | --- |");
    let search = |filter: &str, order: &str, size: u32| json!({"experiment_ids": ["0"], "filter": filter, "order_by": [order], "max_results": size});
    let half = "metrics.`metric-0` > 0.5 and params.`param-1` = '3'";
    let cases: [(&str, usize, Request); 6] = [
        ("create a run", 40, Request::Create),
        ("log-batch of 10 metrics", 40, Request::Batch(10)),
        ("log-batch of 100 metrics", 40, Request::Batch(100)),
        (
            "search: filter on a metric and a parameter, by metric, 100 runs",
            9,
            Request::Search(search(half, "metrics.`metric-1` DESC", 100)),
        ),
        (
            "search: newest 1000 runs",
            5,
            Request::Search(search("", "attributes.start_time DESC", 1000)),
        ),
        (
            "search: all runs by metric, one page",
            3,
            Request::Search(search("", "metrics.`metric-1` DESC", 50_000)),
        ),
    ];
    for (name, times, request) in cases {
        let theirs = measure(&http, &theirs, &request, times).await?;
        let ours = measure(&http, &ours, &request, times).await?;
        println!(
            "| {name} | {:.1} ms | {:.2} ms | {:.1}x |",
            theirs.as_secs_f64() * 1e3,
            ours.as_secs_f64() * 1e3,
            theirs.as_secs_f64() / ours.as_secs_f64()
        );
    }
    server.abort();
    Ok(())
}

fn python() -> tokio::process::Command {
    let mut command = match std::env::var_os("CUMULO_TEST_PYTHON") {
        Some(python) => tokio::process::Command::new(python),
        None => {
            let mut uv = tokio::process::Command::new("uv");
            uv.args([
                "run",
                "--no-project",
                "--quiet",
                "--with",
                "mlflow>=3.1,<4",
                "python",
            ]);
            uv
        }
    };
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    command
        .env("MLFLOW_DISABLE_TELEMETRY", "true")
        .env("DO_NOT_TRACK", "true");
    command
}

/// The server with the workers that it starts, ended together.
struct Peer(Option<u32>);

impl Drop for Peer {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, killpg};
        if let Some(group) = self.0.and_then(|id| i32::try_from(id).ok()) {
            // An error says that it is gone already.
            let _ = killpg(nix::unistd::Pid::from_raw(group), Signal::SIGKILL);
        }
    }
}

async fn start_mlflow(folder: &Path, http: &reqwest::Client) -> Result<(Peer, String), Failure> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?
        .local_addr()?
        .port();
    let database = format!("sqlite:///{}/mlflow.db", folder.display());
    let child = python()
        .args([
            "-m",
            "mlflow",
            "server",
            "--host",
            "127.0.0.1",
            "--workers",
            "1",
        ])
        .args([
            "--port",
            &port.to_string(),
            "--backend-store-uri",
            &database,
        ])
        .arg("--artifacts-destination")
        .arg(folder.join("mlartifacts"))
        .current_dir(folder)
        .process_group(0)
        .spawn()?;
    let peer = Peer(child.id());
    let address = format!("http://127.0.0.1:{port}");
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let healthy = http.get(format!("{address}/health")).send().await;
        if healthy.is_ok_and(|answer| answer.status().is_success()) {
            return Ok((peer, address));
        }
        if Instant::now() > deadline {
            return Err("the MLflow server did not become healthy within 120 s".into());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "small numbers")]
async fn fill(handle: &Handle, runs: usize) -> Result<(), Failure> {
    for start in (0..runs).step_by(100) {
        let mut writes = tokio::task::JoinSet::new();
        for n in start..(start + 100).min(runs) {
            let handle = handle.clone();
            writes.spawn(async move {
                let request = CreateRun {
                    run_name: Some(format!("run-{n}")),
                    user_id: Some("me".to_owned()),
                    start_time: i64::try_from(n + 1).ok(),
                    ..CreateRun::default()
                };
                let run = handle.create_run(request).await?;
                let value = |m: usize| ((n * 7919 + m * 104_729) % runs) as f64 / runs as f64;
                let metrics =
                    (0..METRICS).map(|m| Metric::new(format!("metric-{m}"), value(m), 1, 0));
                let params = (0..PARAMS)
                    .map(|p| KeyValue::new(format!("param-{p}"), ((n + p) % 10).to_string()));
                let tags = (0..TAGS)
                    .map(|t| KeyValue::new(format!("tag-{t}"), ((n + t) % 100).to_string()));
                handle
                    .log_batch(LogBatch {
                        run_id: Some(run.info.run_id),
                        metrics: metrics.collect(),
                        params: params.collect(),
                        tags: tags.collect(),
                    })
                    .await
            });
        }
        while let Some(result) = writes.join_next().await {
            result??;
        }
    }
    Ok(())
}

enum Request {
    Create,
    Batch(usize),
    Search(Value),
}

async fn send(http: &reqwest::Client, url: String, body: &Value) -> Result<Value, Failure> {
    let answer = http.post(url).json(body).send().await?;
    let status = answer.status();
    let bytes = answer.bytes().await?;
    if !status.is_success() {
        return Err(String::from_utf8_lossy(&bytes).into_owned().into());
    }
    Ok(serde_json::from_slice(&bytes)?)
}

async fn measure(
    http: &reqwest::Client,
    address: &str,
    request: &Request,
    times: usize,
) -> Result<Duration, Failure> {
    let url = |path: &str| format!("{address}/api/2.0/mlflow/runs/{path}");
    let new_run =
        json!({"experiment_id": "0", "start_time": 1, "tags": [{"key": "a", "value": "b"}]});
    let created = send(http, url("create"), &new_run).await?;
    let run_id = created["run"]["info"]["run_id"].clone();
    let mut measured = Vec::with_capacity(times);
    // The first is a warm-up.
    for n in 0..=times {
        let (url, body) = match request {
            Request::Create => (url("create"), new_run.clone()),
            Request::Search(body) => (url("search"), body.clone()),
            Request::Batch(size) => {
                let metrics: Vec<Value> = (0..*size)
                    .map(|m| json!({"key": format!("m{m}"), "value": 0.5, "timestamp": n, "step": n}))
                    .collect();
                (
                    url("log-batch"),
                    json!({"run_id": run_id, "metrics": metrics}),
                )
            }
        };
        let started = Instant::now();
        let answer = http.post(url).json(&body).send().await?;
        let status = answer.status();
        let bytes = answer.bytes().await?;
        measured.push(started.elapsed());
        if !status.is_success() {
            return Err(String::from_utf8_lossy(&bytes).into_owned().into());
        }
    }
    measured.remove(0);
    measured.sort();
    Ok(measured[measured.len() / 2])
}
