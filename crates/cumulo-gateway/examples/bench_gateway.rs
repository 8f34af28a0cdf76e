//! What the gateway adds to a one-row prediction.
//!
//! Trains a LightGBM model (AutoML, 50,000 rows), serves it in a process of its
//! own, puts the gateway before it in this one, and asks for one row at a time:
//! the model as a function, the server, and the server through the gateway; then
//! with 32 connections at once. Prints a table.
//!
//! `cargo run --release -p cumulo-gateway --example bench_gateway [--requests N]`

use std::error::Error;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray};
use cumulo_gateway::{Event, Gateway, Options, PodRecord, ServiceKey, ServiceRecord};
use cumulo_learn::artifact::{self, Identity};
use cumulo_learn::features::Task;
use cumulo_learn::train::{Progress, TrainRequest, train};
use cumulo_learn::{Column, Columns, LoadedModel};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CARRIERS: [&str; 5] = ["UA", "AA", "DL", "B6", "EV"];
const NUMBERS: usize = 12;

struct Stopwatch(Instant);

impl Progress for Stopwatch {
    fn elapsed(&mut self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }
}

fn noise(row: usize, salt: usize) -> f64 {
    let mut z = (row as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (salt as u64 + 1) << 32;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

/// Twelve numbers, one text, one label.
fn make_model(folder: &Path) -> Result<()> {
    let rows = 50_000;
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for column in 0..NUMBERS {
        let values: Vec<f64> = (0..rows).map(|row| noise(row, column)).collect();
        columns.push((format!("x{column}"), Arc::new(Float64Array::from(values))));
    }
    let carriers: Vec<&str> = (0..rows)
        .map(|row| CARRIERS[(noise(row, 90) * 5.0) as usize % 5])
        .collect();
    columns.push(("carrier".into(), Arc::new(StringArray::from(carriers))));
    let late: Vec<i64> = (0..rows)
        .map(|row| {
            let sum: f64 = (0..NUMBERS)
                .map(|column| noise(row, column) * ((column % 4) as f64 - 1.0))
                .sum();
            i64::from(sum + noise(row, 91) * 2.0 > 4.0)
        })
        .collect();
    columns.push(("late".into(), Arc::new(Int64Array::from(late))));
    let batch = RecordBatch::try_from_iter(columns)?;
    let mut request = TrainRequest::new(Task::Classification, "late");
    request.max_trials = Some(1);
    request.budget_seconds = 60.0;
    let outcome = train(&request, &[batch], &mut Stopwatch(Instant::now()))?;
    let identity = Identity {
        model_uuid: "0123456789abcdef0123456789abcdef".into(),
        created: chrono::DateTime::from_timestamp(1_700_000_000, 0).unwrap_or_default(),
        run_id: None,
        model_id: None,
    };
    artifact::write(folder, &outcome, &identity)?;
    Ok(())
}

/// A request line, headers and body, and how to read the answer: the client is
/// as thin as can be, so that what is measured isn't the client.
struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr, body: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let head = format!(
            "POST /v2/models/flights/infer HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        Ok(Self {
            stream,
            request: (head + body).into_bytes(),
            answer: vec![0; 64 << 10],
        })
    }

    async fn ask(&mut self) -> Result<()> {
        self.stream.write_all(&self.request).await?;
        let mut length = 0;
        loop {
            let read = self.stream.read(&mut self.answer[length..]).await?;
            if read == 0 {
                return Err("the connection was closed".into());
            }
            length += read;
            let text = &self.answer[..length];
            let Some(end) = text.windows(4).position(|window| window == b"\r\n\r\n") else {
                continue;
            };
            let head = std::str::from_utf8(&text[..end])?;
            if !head.starts_with("HTTP/1.1 200") {
                return Err(String::from_utf8_lossy(text).into_owned().into());
            }
            let body: usize = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .and_then(|length| length.parse().ok())
                .ok_or("no content-length")?;
            if length >= end + 4 + body {
                return Ok(());
            }
        }
    }
}

fn percentile(sorted: &[Duration], share: f64) -> f64 {
    let index = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[index].as_secs_f64() * 1e6
}

fn row(name: &str, mut times: Vec<Duration>) -> f64 {
    times.sort();
    let p50 = percentile(&times, 0.5);
    println!(
        "{name:<34} {p50:>10.1} {:>10.1} {:>10.1}",
        percentile(&times, 0.9),
        percentile(&times, 0.99)
    );
    p50
}

async fn sequential(client: &mut Client, requests: usize) -> Result<Vec<Duration>> {
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let start = Instant::now();
        client.ask().await?;
        times.push(start.elapsed());
    }
    Ok(times)
}

async fn throughput(name: &str, address: SocketAddr, body: &str, requests: usize) -> Result<()> {
    let start = Instant::now();
    let clients: Vec<_> = (0..32)
        .map(|_| {
            let body = body.to_owned();
            tokio::spawn(async move {
                let mut client = Client::connect(address, &body).await?;
                sequential(&mut client, requests / 32).await
            })
        })
        .collect();
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort();
    println!(
        "{name:<34} {rate:>10.0} {:>10.1} {:>10.1}",
        percentile(&times, 0.5),
        percentile(&times, 0.99)
    );
    Ok(())
}

/// Ends the model server's process in every case.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The model server's part of this program.
async fn serve(model: PathBuf, file: PathBuf) -> Result<()> {
    let options = cumulo_serve::Options {
        name: "flights".into(),
        model,
        address: SocketAddr::from(([127, 0, 0, 1], 0)),
        ..cumulo_serve::Options::default()
    };
    let server = cumulo_serve::Server::bind(options).await?;
    // Written whole, then named.
    let unfinished = file.with_extension("unfinished");
    std::fs::write(&unfinished, server.address().to_string())?;
    std::fs::rename(unfinished, file)?;
    server.run(CancellationToken::new()).await?;
    Ok(())
}

async fn start(folder: &Path) -> Result<(Process, SocketAddr)> {
    let file = folder.join("address");
    let child = Command::new(std::env::current_exe()?)
        .args([Path::new("serve"), &folder.join("model"), &file])
        .spawn()?;
    let process = Process(child);
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(text) = std::fs::read_to_string(&file) {
            let address: SocketAddr = text.parse()?;
            let ready = reqwest::get(format!("http://{address}/v2/health/ready")).await;
            if ready.is_ok_and(|ready| ready.status().is_success()) {
                return Ok((process, address));
            }
        }
        if Instant::now() > deadline {
            return Err("the model server is not ready after 20 s".into());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn gateway(server: SocketAddr) -> Result<SocketAddr> {
    let handle = Gateway::new(Options::default()).handle();
    handle.apply(Event::Services(vec![ServiceRecord {
        key: ServiceKey::new("default", "flights"),
        active_revision: Some("1".into()),
        model_version: None,
        waiting_for: None,
    }]));
    handle.apply(Event::Pod(PodRecord {
        namespace: "default".into(),
        name: "flights-1-0".into(),
        uid: "1".into(),
        service: "flights".into(),
        revision: Some("1".into()),
        address: Some(server),
        ready: true,
        deleting: false,
    }));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
        let _ = stream.set_nodelay(true);
    });
    let router = handle.router();
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(address)
}

async fn bench(requests: usize) -> Result<()> {
    let folder = tempfile::tempdir()?;
    println!("training the model …");
    make_model(&folder.path().join("model"))?;
    let model = LoadedModel::open(&folder.path().join("model"))?;
    let (_process, server) = start(folder.path()).await?;
    let gateway = gateway(server).await?;

    let mut inputs: Vec<serde_json::Value> = (0..NUMBERS)
        .map(|column| json!({"name": format!("x{column}"), "shape": [1], "datatype": "FP64", "data": [noise(77, column)]}))
        .collect();
    inputs.push(json!({"name": "carrier", "shape": [1], "datatype": "BYTES", "data": ["UA"]}));
    let body = json!({ "inputs": inputs }).to_string();
    let mut columns: Vec<(String, Column)> = (0..NUMBERS)
        .map(|column| (format!("x{column}"), Column::F64(vec![noise(77, column)])))
        .collect();
    columns.push(("carrier".into(), Column::Str(vec![Some("UA".into())])));
    let columns = Columns::new(columns)?;

    println!(
        "\none row, one after another ({requests} each) {:>8} {:>10} {:>10}",
        "p50 µs", "p90 µs", "p99 µs"
    );
    let mut times = Vec::with_capacity(requests);
    for _ in 0..requests {
        let start = Instant::now();
        std::hint::black_box(model.predict(std::hint::black_box(&columns))?);
        times.push(start.elapsed());
    }
    let function = row("the model as a function", times);
    let (mut direct, mut through) = (
        Client::connect(server, &body).await?,
        Client::connect(gateway, &body).await?,
    );
    sequential(&mut direct, requests / 10).await?;
    sequential(&mut through, requests / 10).await?;
    // In turns, so that whatever else the machine does meets both.
    let (mut at_server, mut at_gateway) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        at_server.extend(sequential(&mut direct, requests / 20).await?);
        at_gateway.extend(sequential(&mut through, requests / 20).await?);
    }
    let at_server = row("the model server", at_server);
    let at_gateway = row("through the gateway", at_gateway);
    println!(
        "\nadded to the model's own time, p50: server {:.1} µs, server and gateway {:.1} µs (aim: ≤ 300 µs)",
        at_server - function,
        at_gateway - function
    );

    println!(
        "\n32 connections ({requests} requests) {:>12} {:>10} {:>10}",
        "requests/s", "p50 µs", "p99 µs"
    );
    throughput("the model server", server, &body, requests).await?;
    throughput("through the gateway", gateway, &body, requests).await?;
    Ok(())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    match &arguments[..] {
        [role, model, file] if role == "serve" => {
            runtime.block_on(serve(model.into(), file.into()))
        }
        [flag, requests] if flag == "--requests" => runtime.block_on(bench(requests.parse()?)),
        [] => runtime.block_on(bench(20_000)),
        _ => Err("usage: bench_gateway [--requests N]".into()),
    }
}
