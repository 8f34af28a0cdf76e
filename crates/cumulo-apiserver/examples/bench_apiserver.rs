//! The client of `bench/apiserver.py`: one phase of load on a Kubernetes API
//! server, whichever it is, and what was measured as a line of JSON.
//!
//! ```text
//! bench_apiserver ADDRESS TOKEN (--insecure | --ca FILE) PHASE [NAME=VALUE …]
//!
//! create namespace= prefix= clients= seconds=     new ConfigMaps, as fast as they are answered
//! update namespace= prefix= clients= seconds=     the same with PUT, under the version last seen
//! fill   namespace= prefix= clients= count=       so many new ConfigMaps, each 100th labelled pick=yes
//! list   namespace= query= expect= seconds=       one GET after the other, bodies read to their end
//! watch  namespace= watchers= writes= interval=   one write each so many milliseconds, seen by all
//! namespace namespace=                            makes the namespace
//! count                                           ConfigMaps in all namespaces
//! ```
//!
//! Every client is one connection that is kept, HTTPS and HTTP/1.1, bodies are
//! JSON, and a ConfigMap holds 1000 bytes. Answers are checked for their status
//! and otherwise not parsed, so that little of the machine goes to the client.

use std::collections::HashMap;
use std::error::Error;
use std::io::{IoSliceMut, Read, Write};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, UNIX_EPOCH};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use nix::sys::socket::sockopt::ReceiveTimestampns;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Barrier;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Left out of every rate and every quantile.
const WARM_UP: Duration = Duration::from_millis(500);
/// Objects that a client of the phase `update` writes in turns.
const OWN_OBJECTS: usize = 4;

/// Takes any certificate: the servers make their own, for this run.
#[derive(Debug)]
struct AnyCertificate(Arc<rustls::crypto::CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    authorization: String,
    tls: TlsConnector,
}

struct Connection {
    sender: SendRequest<Full<Bytes>>,
    server: Server,
}

impl Server {
    /// `authority`: a file with the certificates to trust; none: any is taken.
    fn new(address: &str, token: &str, authority: Option<&str>) -> Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?;
        let mut config = match authority {
            Some(file) => {
                let mut roots = rustls::RootCertStore::empty();
                for certificate in CertificateDer::pem_file_iter(file)? {
                    roots.add(certificate?)?;
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
            None => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
                .with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            address: address.parse()?,
            authorization: format!("Bearer {token}"),
            tls: TlsConnector::from(Arc::new(config)),
        })
    }

    async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(self.address.ip());
        let stream = self.tls.connect(name, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Connection {
            sender,
            server: self.clone(),
        })
    }
}

impl Connection {
    async fn send(
        &mut self,
        method: Method,
        path: &str,
        body: String,
    ) -> Result<http::Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, self.server.address.to_string())
            .header(header::AUTHORIZATION, &self.server.authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::from(body))?;
        self.sender.ready().await?;
        Ok(self.sender.send_request(request).await?)
    }

    async fn ask(&mut self, method: Method, path: &str, body: String) -> Result<Bytes> {
        let answer = self.send(method, path, body).await?;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        if status.is_success() {
            Ok(body)
        } else {
            let text = String::from_utf8_lossy(&body).into_owned();
            Err(format!("{path} was answered {status}: {text}").into())
        }
    }
}

fn collection(namespace: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps")
}

fn config_map(name: &str, version: &str, picked: bool, number: usize) -> String {
    let mut metadata = json!({"name": name});
    if !version.is_empty() {
        metadata["resourceVersion"] = json!(version);
    }
    if picked {
        metadata["labels"] = json!({"pick": "yes"});
    }
    let filler = "y".repeat(1000);
    let data = json!({"n": number.to_string(), "x": filler});
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}).to_string()
}

fn after<'a>(body: &'a [u8], mark: &[u8]) -> Option<&'a str> {
    let start = body.windows(mark.len()).position(|w| w == mark)? + mark.len();
    let length = body[start..].iter().position(|&b| b == b'"')?;
    std::str::from_utf8(&body[start..start + length]).ok()
}

fn quantile(sorted: &[Duration], share: f64) -> f64 {
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).map_or(f64::NAN, |d| d.as_secs_f64() * 1e3)
}

fn delays(mut all: Vec<Duration>) -> Value {
    all.sort_unstable();
    json!({"samples": all.len(), "p50_ms": quantile(&all, 0.5), "p99_ms": quantile(&all, 0.99)})
}

/// Creates or updates from all clients at once, for a time.
async fn writes(server: &Server, phase: &Phase, update: bool) -> Result<Value> {
    let clients = phase.number("clients")?;
    let time = Duration::from_secs_f64(phase.text("seconds")?.parse()?);
    let path = collection(phase.text("namespace")?);
    let ready = Arc::new(Barrier::new(clients));
    let mut tasks = JoinSet::new();
    for client in 0..clients {
        let (server, path, ready) = (server.clone(), path.clone(), ready.clone());
        let prefix = format!("{}-{client}", phase.text("prefix")?);
        tasks.spawn(async move {
            let mut connection = server.connect().await?;
            let mut versions = Vec::new();
            for own in 0..if update { OWN_OBJECTS } else { 0 } {
                let body = config_map(&format!("{prefix}-{own}"), "", false, own);
                let answer = connection.ask(Method::POST, &path, body).await?;
                versions.push(version_of(&answer)?);
            }
            ready.wait().await;
            let from = Instant::now() + WARM_UP;
            let mut measured = Vec::new();
            for number in 0.. {
                let began = Instant::now();
                if update {
                    let own = number % OWN_OBJECTS;
                    let name = format!("{prefix}-{own}");
                    let body = config_map(&name, &versions[own], false, number + OWN_OBJECTS);
                    let place = format!("{path}/{name}");
                    let answer = connection.ask(Method::PUT, &place, body).await?;
                    versions[own] = version_of(&answer)?;
                } else {
                    let body = config_map(&format!("{prefix}-{number}"), "", false, number);
                    connection.ask(Method::POST, &path, body).await?;
                }
                let ended = Instant::now();
                if ended > from + time {
                    break;
                }
                if ended > from {
                    measured.push(ended - began);
                }
            }
            Result::Ok(measured)
        });
    }
    let mut all = Vec::new();
    while let Some(done) = tasks.join_next().await {
        all.extend(done??);
    }
    let mut answer = json!({"per_second": all.len() as f64 / time.as_secs_f64()});
    answer["delay"] = delays(all);
    Ok(answer)
}

fn version_of(answer: &[u8]) -> Result<String> {
    let version = after(answer, b"\"resourceVersion\":\"").ok_or("an answer has no version")?;
    Ok(version.to_owned())
}

async fn fill(server: &Server, phase: &Phase) -> Result<Value> {
    let count = phase.number("count")?;
    let path = collection(phase.text("namespace")?);
    let next = Arc::new(AtomicUsize::new(0));
    let mut tasks = JoinSet::new();
    let began = Instant::now();
    for _ in 0..phase.number("clients")? {
        let (server, path, next) = (server.clone(), path.clone(), next.clone());
        let prefix = phase.text("prefix")?.to_owned();
        tasks.spawn(async move {
            let mut connection = server.connect().await?;
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Result::Ok(());
                }
                let name = format!("{prefix}-{number:06}");
                let body = config_map(&name, "", number.is_multiple_of(100), number);
                connection.ask(Method::POST, &path, body).await?;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    Ok(json!({"seconds": began.elapsed().as_secs_f64()}))
}

async fn list(server: &Server, phase: &Phase) -> Result<Value> {
    let time = Duration::from_secs_f64(phase.text("seconds")?.parse()?);
    let path = format!(
        "{}?{}",
        collection(phase.text("namespace")?),
        phase.text("query")?
    );
    let mut connection = server.connect().await?;
    // The first answer warms up, and is looked at: as many objects as there should be.
    let body = connection.ask(Method::GET, &path, String::new()).await?;
    let mark = b"\"uid\":\"";
    let items = body.windows(mark.len()).filter(|w| w == mark).count();
    if items != phase.number("expect")? {
        return Err(format!("{path} listed {items} objects").into());
    }
    let began = Instant::now();
    let mut measured = Vec::new();
    while began.elapsed() < time || measured.len() < 3 {
        let one = Instant::now();
        connection.ask(Method::GET, &path, String::new()).await?;
        measured.push(one.elapsed());
    }
    let mut answer = delays(measured);
    answer["bytes"] = json!(body.len());
    Ok(answer)
}

/// A watch whose events wait in its socket until they are looked for.
///
/// Watchers are on machines of their own; here their reading would take the processor from
/// the server that is measured. The kernel notes when bytes arrive (`SO_TIMESTAMPNS`), so
/// that they can be read when all of them are there.
struct Watcher {
    socket: std::net::TcpStream,
    tls: rustls::ClientConnection,
    text: Vec<u8>,
    /// Since 1970, and how much text was there then.
    arrived: Vec<(Duration, usize)>,
}

impl Watcher {
    fn open(server: &Server, query: &str) -> Result<Self> {
        let mut socket = std::net::TcpStream::connect(server.address)?;
        setsockopt(&socket, ReceiveTimestampns, &true)?;
        let name = ServerName::from(server.address.ip());
        let mut tls = rustls::ClientConnection::new(server.tls.config().clone(), name)?;
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        write!(
            stream,
            "GET {query} HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\n\r\n",
            server.address, server.authorization
        )?;
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            head.push(byte[0]);
        }
        if !head.starts_with(b"HTTP/1.1 200 ") {
            let head = String::from_utf8_lossy(&head).into_owned();
            return Err(format!("a watch was answered {head}").into());
        }
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            tls,
            text: Vec::new(),
            arrived: Vec::new(),
        })
    }

    /// Reads what has arrived since the last time.
    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 16 << 10];
        let mut notes = nix::cmsg_space!(nix::sys::time::TimeSpec);
        loop {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let socket = self.socket.as_raw_fd();
            let received =
                match recvmsg::<()>(socket, &mut parts, Some(&mut notes), MsgFlags::empty()) {
                    Err(nix::Error::EAGAIN) => return Ok(()),
                    received => received?,
                };
            let at = received.cmsgs()?.find_map(|note| match note {
                ControlMessageOwned::ScmTimestampns(at) => Some(Duration::from(at)),
                _ => None,
            });
            let count = received.bytes;
            if count == 0 {
                return Err("a watch ended".into());
            }
            let mut left = &buffer[..count];
            while !left.is_empty() {
                self.tls.read_tls(&mut left)?;
                let state = self.tls.process_new_packets()?;
                let from = self.text.len();
                self.text.resize(from + state.plaintext_bytes_to_read(), 0);
                self.tls.reader().read_exact(&mut self.text[from..])?;
            }
            let at = at.ok_or("the kernel does not say when it received")?;
            self.arrived.push((at, self.text.len()));
        }
    }
}

/// One writer and many watchers; every write carries a number by which its event is known
/// again. Told is how long after a write's start its event was in each watcher's socket.
async fn watch(server: &Server, phase: &Phase) -> Result<Value> {
    const NAME: &str = "watched";
    let (watchers, writes) = (phase.number("watchers")?, phase.number("writes")?);
    let interval = Duration::from_millis(phase.text("interval")?.parse()?);
    let path = collection(phase.text("namespace")?);
    let mut writer = server.connect().await?;
    let body = config_map(NAME, "", false, 0);
    let made = writer.ask(Method::POST, &path, body).await?;
    let query = format!("{path}?watch=true&resourceVersion={}", version_of(&made)?);
    let opened = (0..watchers).map(|_| Watcher::open(server, &query));
    let mut opened = opened.collect::<Result<Vec<_>>>()?;
    // The first writes warm up; that of number 0 changes nothing.
    let warm = writes.div_ceil(4);
    let (mut begun, mut answered) = (Vec::new(), Vec::new());
    let mut clock = tokio::time::interval(interval);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for number in 0..=writes + warm {
        clock.tick().await;
        let body = config_map(NAME, "", false, number);
        let place = format!("{path}/{NAME}");
        let began = Instant::now();
        begun.push(UNIX_EPOCH.elapsed()?);
        writer.ask(Method::PUT, &place, body).await?;
        answered.push(began.elapsed());
        tokio::time::sleep(interval / 2).await;
        for watcher in &mut opened {
            watcher.read()?;
        }
    }
    // Far more than any event takes; one that is missing is an error below.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut measured = Vec::new();
    let mut last = vec![Duration::ZERO; begun.len()];
    for mut watcher in opened {
        watcher.read()?;
        let mut next = 1;
        let mut read = 0;
        for (at, end) in watcher.arrived {
            while let Some(length) = watcher.text[read..end].windows(2).position(|w| w == b"}\n") {
                let line = &watcher.text[read..read + length];
                read += length + 2;
                let number = after(line, b"\"data\":{\"n\":\"").ok_or("an unknown event")?;
                if number.parse() != Ok(next) {
                    return Err(format!("event {number} came instead of {next}").into());
                }
                if next > warm {
                    let delay = at.saturating_sub(begun[next]);
                    measured.push(delay);
                    last[next] = last[next].max(delay);
                }
                next += 1;
            }
        }
        if next != begun.len() {
            return Err(format!("a watch ended before event {next}").into());
        }
    }
    // How long the writes took by themselves, and until the last watcher had each.
    let milliseconds = |all: &[Duration]| -> Vec<f64> {
        let counted = all.iter().skip(warm + 1);
        counted.map(|one| one.as_secs_f64() * 1e3).collect()
    };
    let mut answer = delays(measured);
    answer["answered_ms"] = json!(milliseconds(&answered));
    answer["last_ms"] = json!(milliseconds(&last));
    Ok(answer)
}

async fn namespace(server: &Server, phase: &Phase) -> Result<Value> {
    let name = phase.text("namespace")?;
    let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
    let mut connection = server.connect().await?;
    let path = "/api/v1/namespaces";
    connection.ask(Method::POST, path, body.to_string()).await?;
    Ok(json!({}))
}

async fn count(server: &Server) -> Result<Value> {
    let mut connection = server.connect().await?;
    let path = "/api/v1/configmaps?limit=1";
    let body = connection.ask(Method::GET, path, String::new()).await?;
    let page: Value = serde_json::from_slice(&body)?;
    let shown = page["items"].as_array().map_or(0, Vec::len) as u64;
    let more = page["metadata"]["remainingItemCount"].as_u64().unwrap_or(0);
    Ok(json!({"count": shown + more}))
}

struct Phase(HashMap<String, String>);

impl Phase {
    fn text(&self, name: &str) -> Result<&str> {
        let value = self.0.get(name).ok_or(format!("{name}= is missing"))?;
        Ok(value)
    }

    fn number(&self, name: &str) -> Result<usize> {
        Ok(self.text(name)?.parse()?)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut next = move || arguments.next();
    let usage =
        "usage: bench_apiserver ADDRESS TOKEN (--insecure | --ca FILE) PHASE [NAME=VALUE …]";
    let (address, token) = (next().ok_or(usage)?, next().ok_or(usage)?);
    let authority = match next().as_deref() {
        Some("--insecure") => None,
        Some("--ca") => Some(next().ok_or(usage)?),
        _ => return Err(usage.into()),
    };
    let server = Server::new(&address, &token, authority.as_deref())?;
    let name = next().ok_or(usage)?;
    let mut settings = HashMap::new();
    while let Some(setting) = next() {
        let (key, value) = setting.split_once('=').ok_or(usage)?;
        settings.insert(key.to_owned(), value.to_owned());
    }
    let phase = Phase(settings);
    let answer = match name.as_str() {
        "create" => writes(&server, &phase, false).await?,
        "update" => writes(&server, &phase, true).await?,
        "fill" => fill(&server, &phase).await?,
        "list" => list(&server, &phase).await?,
        "watch" => watch(&server, &phase).await?,
        "namespace" => namespace(&server, &phase).await?,
        "count" => count(&server).await?,
        _ => return Err(usage.into()),
    };
    println!("{answer}");
    Ok(())
}
