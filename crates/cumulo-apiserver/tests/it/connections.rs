//! Watches over real connections, HTTP/1.1 over TLS, where events are written beside
//! HTTP: they say what the same watches say in process, byte for byte.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use cumulo_apiserver::{Clock, listener};
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use rustls::pki_types::{PrivatePkcs8KeyDer, ServerName};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::support::{Running, TOKEN, until};

/// A port for a server, and how to reach it.
struct Port {
    address: SocketAddr,
    connector: TlsConnector,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Port {
    async fn new(server: &Running) -> Self {
        let key = rcgen::KeyPair::generate().expect("a key");
        let parameters = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = parameters.self_signed(&key).expect("a certificate");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let tls = rustls::ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())
            .expect("a certificate");
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).expect("a root");
        let trusting = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let router = server.handle.router();
        let serving = listener::serve(socket, Arc::new(tls), |_| None, router, stop.clone());
        Self {
            address,
            connector: TlsConnector::from(Arc::new(trusting)),
            stop,
            task: tokio::spawn(serving),
        }
    }

    async fn connect(&self) -> SendRequest<Empty<Bytes>> {
        let socket = TcpSocket::new_v4().expect("a socket");
        // Small, so that who does not read soon blocks who writes.
        socket.set_recv_buffer_size(4096).expect("a buffer");
        let stream = socket.connect(self.address).await.expect("a connection");
        let name = ServerName::try_from("localhost").expect("a name");
        let stream = self.connector.connect(name, stream).await.expect("TLS");
        let (sender, connection) = handshake(TokioIo::new(stream)).await.expect("HTTP");
        tokio::spawn(connection);
        sender
    }

    async fn close(self) {
        self.stop.cancel();
        self.task.await.expect("the port closes");
    }
}

async fn ask(
    connection: &mut SendRequest<Empty<Bytes>>,
    path: &str,
    accept: &str,
) -> (HeaderMap, Incoming) {
    let request = Request::builder()
        .uri(path)
        .header("host", "localhost")
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("accept", accept)
        .body(Empty::new())
        .expect("a request");
    connection.ready().await.expect("a free connection");
    let answer = connection.send_request(request).await.expect("an answer");
    assert_eq!(answer.status(), 200);
    let (parts, body) = answer.into_parts();
    (parts.headers, body)
}

/// How a client reads.
#[derive(Debug, Clone, Copy)]
enum Reader {
    /// As soon as something comes.
    Eager,
    /// With a pause after each frame.
    Slow,
    /// When all has been written.
    Late,
}

/// Reads a watch to its end.
async fn read(
    mut body: Incoming,
    reader: Reader,
    written: CancellationToken,
    read: Arc<Mutex<Vec<u8>>>,
) {
    if matches!(reader, Reader::Late) {
        written.cancelled().await;
    }
    while let Some(frame) = body.frame().await {
        let frame = frame.expect("a frame");
        read.lock()
            .extend_from_slice(frame.data_ref().expect("data"));
        if matches!(reader, Reader::Slow) && !written.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    }
}

async fn write(server: &Running, seed: u64, count: usize) {
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..count {
        let namespace = ["default", "kube-public"][random.random_range(0..2)];
        let name = format!("c{}", random.random_range(0..6));
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let object = format!("{path}/{name}");
        let label = ["x", "y"][random.random_range(0..2)];
        // The longest is more than is written at once beside HTTP.
        let size = [20, 20, 2000, 20_000, 50_000][random.random_range(0..5)];
        let body = json!({
            "metadata": {"name": name, "labels": {"l": label}},
            "data": {"text": "a".repeat(size)},
        });
        let answer = match random.random_range(0..5) {
            0 => server.json("DELETE", &object, &Value::Null).await,
            _ => server.json("PUT", &object, &body).await,
        };
        if answer.status == 404 && random.random_range(0..2) == 0 {
            server.json("POST", &path, &body).await;
        }
        if random.random_range(0..3) == 0 {
            let pause = Duration::from_micros(random.random_range(0..4000));
            tokio::time::sleep(pause).await;
        }
    }
}

fn without_bookmarks(events: &[u8]) -> Vec<u8> {
    let lines = events.split_inclusive(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.starts_with(b"{\"type\":\"BOOKMARK\""))
        .flatten()
        .copied()
        .collect()
}

const JSON: &str = "application/json";
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io";
const PARTIAL: &str = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn watches_over_connections_say_what_those_in_process_say() {
    let server = Running::with(|o| {
        o.settings.bookmark_interval = Duration::from_millis(15);
        // Tables show ages.
        o.clock = Clock::new(|| chrono::DateTime::UNIX_EPOCH);
    })
    .await;
    let port = Port::new(&server).await;
    write(&server, 0, 20).await;
    let version = server.handle.version();
    let inside = "/api/v1/namespaces/default/configmaps";
    let everywhere = "/api/v1/configmaps";
    let kinds = [
        (inside, "", JSON),
        (everywhere, "", JSON),
        (everywhere, "labelSelector=l%3Dx", JSON),
        (inside, "fieldSelector=metadata.name%3Dc3", JSON),
        (inside, "allowWatchBookmarks=true", JSON),
        (inside, "", TABLE),
        (everywhere, "labelSelector=l%3Dy", PARTIAL),
        (everywhere, "", PROTOBUF),
    ];
    let written = CancellationToken::new();
    let mut watching = JoinSet::new();
    let mut watched = Vec::new();
    let mut expected = Vec::new();
    for (number, (path, query, accept)) in kinds.into_iter().enumerate() {
        let path = format!("{path}?watch=true&resourceVersion={version}&{query}");
        for reader in [Reader::Eager, Reader::Eager, Reader::Slow, Reader::Late] {
            let mut connection = port.connect().await;
            let (_, body) = ask(&mut connection, &path, accept).await;
            let bytes = Arc::<Mutex<Vec<u8>>>::default();
            watching.spawn(read(body, reader, written.clone(), bytes.clone()));
            watched.push((number, reader, bytes));
        }
        // Some go away in between.
        let mut connection = port.connect().await;
        let (_, mut body) = ask(&mut connection, &path, accept).await;
        tokio::spawn(async move {
            body.frame().await;
            body.frame().await;
        });
        let request = Request::builder().uri(path).header("accept", accept);
        let request = request.body(Body::empty()).expect("a request");
        let answer = server.handle.client_service().oneshot(request).await;
        expected.push(answer.expect("an answer").into_body());
    }
    tokio::join!(write(&server, 1, 120), write(&server, 2, 120));
    // The last write is told to everyone: to some as new, to some as gone.
    let last = format!("{inside}/c3");
    for label in ["x", "y"] {
        let body = json!({"metadata": {"name": "c3", "labels": {"l": label}}});
        if server.json("PUT", &last, &body).await.status == 404 {
            server.json("POST", inside, &body).await;
        }
    }
    written.cancel();
    let newest = server.handle.version();
    let text = newest.to_string();
    until("everything is said", async || {
        watched.iter().all(|(_, _, bytes)| {
            let bytes = bytes.lock();
            let tail = &bytes[bytes.len().saturating_sub(100_000)..];
            tail.windows(text.len()).any(|part| part == text.as_bytes())
        })
    })
    .await;
    let handle = server.handle.clone();
    server.close().await;
    assert_eq!(handle.version(), newest);
    let mut said = Vec::new();
    for body in expected {
        let body = body.collect().await.expect("a watch").to_bytes();
        said.push(without_bookmarks(&body));
    }
    assert!(said.iter().all(|said| said.len() > 10_000));
    while let Some(reader) = watching.join_next().await {
        reader.expect("a reader");
    }
    for (number, reader, bytes) in watched {
        let read = without_bookmarks(&bytes.lock());
        let (read, said) = (
            String::from_utf8_lossy(&read),
            String::from_utf8_lossy(&said[number]),
        );
        let same = read
            .bytes()
            .zip(said.bytes())
            .take_while(|(a, b)| a == b)
            .count();
        assert!(
            read == said,
            "{:?}, {reader:?}: the same for {same} bytes of {} and {}",
            kinds[number],
            read.len(),
            said.len(),
        );
    }
    port.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_connection_goes_on_after_a_watch() {
    let server = Running::new().await;
    let port = Port::new(&server).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let fixed = json!({"metadata": {"name": "fixed"}, "data": {"a": "b"}});
    let fixed = server.json("POST", path, &fixed).await;
    assert_eq!(fixed.status, 201);
    let mut clients = JoinSet::new();
    let done = CancellationToken::new();
    for _ in 0..24 {
        let mut connection = port.connect().await;
        let fixed = fixed.body.clone();
        clients.spawn(async move {
            for _ in 0..2 {
                // From now on: each watch says nothing of what the one before said.
                let query = "?watch=true&timeoutSeconds=1&fieldSelector=metadata.name%3Dbusy";
                let (_, body) = ask(&mut connection, &format!("{path}{query}"), JSON).await;
                let events = body.collect().await.expect("a watch").to_bytes();
                let mut last = 0;
                for line in events.split_inclusive(|byte| *byte == b'\n') {
                    let event: Value = serde_json::from_slice(line).expect("an event");
                    let version = event["object"]["metadata"]["resourceVersion"].as_str();
                    let version = version.and_then(|v| v.parse().ok()).expect("a version");
                    assert!(
                        version > last,
                        "{version} after {last}: {}",
                        String::from_utf8_lossy(&events)
                    );
                    last = version;
                }
                assert!(last > 0);
                for _ in 0..5 {
                    let (_, body) = ask(&mut connection, &format!("{path}/fixed"), JSON).await;
                    let body = body.collect().await.expect("an object").to_bytes();
                    let body: Value = serde_json::from_slice(&body).expect("an object");
                    assert_eq!(body, fixed);
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
            }
        });
    }
    let writing = async {
        for number in 0.. {
            let busy = json!({"metadata": {"name": "busy"}, "data": {"n": number.to_string()}});
            let method = if number == 0 { "POST" } else { "PUT" };
            let place = if number == 0 {
                path.to_owned()
            } else {
                format!("{path}/busy")
            };
            server.json(method, &place, &busy).await;
            if done.is_cancelled() {
                break;
            }
        }
    };
    let reading = async {
        while let Some(client) = clients.join_next().await {
            client.expect("a client");
        }
        done.cancel();
    };
    tokio::join!(writing, reading);
    port.close().await;
    server.close().await;
}
