//! The node agent's answers over HTTP.

use std::io;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cumulo_apiserver::{ContainerUsage, KubeletProxy, NodeUsage, PodStream, PodTarget, Usage};
use cumulo_node::agent::Handle;
use cumulo_node::{Attached, EngineError, ExecSession, Input, OutputStream, Terminal};
use futures::future::BoxFuture;
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::task::TaskTracker;

use super::channels::{self, STDERR, STDOUT};
use super::connection::{Destination, WAITING};
use super::{log_query, port_channels, port_forward, remote_spdy};

/// A port-forward inside a websocket, as kubectl has done it since 1.31.
const TUNNELED: &str = "SPDY/3.1+portforward.k8s.io";
/// The protocol of a port-forward without a websocket.
const SPDY: &str = "SPDY/3.1";
/// The header that names what is spoken inside SPDY.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// How long what a command has written to its terminal is waited for when it has
/// ended.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_millis(500);
/// Answers the API server for the pods of this process's node.
pub struct NodeProxy {
    node: Handle,
    /// Connections that are no longer HTTP.
    upgraded: TaskTracker,
}

impl std::fmt::Debug for NodeProxy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "NodeProxy({})", self.node.node_name())
    }
}

impl NodeProxy {
    /// Wraps the agent's handle.
    pub fn new(node: Handle) -> Self {
        Self {
            node,
            upgraded: TaskTracker::new(),
        }
    }
}

#[async_trait::async_trait]
impl KubeletProxy for NodeProxy {
    async fn forward(&self, target: PodTarget, request: Request<Body>) -> Response {
        if target.node != self.node.node_name() {
            return status(
                StatusCode::BAD_GATEWAY,
                "ServiceUnavailable",
                &format!(
                    "the pod runs on node {}, which this server cannot reach",
                    target.node
                ),
            );
        }
        let asked = pairs(request.uri().query());
        match target.stream {
            PodStream::Log => self.log(&target, &asked),
            PodStream::Exec => self.exec(&target, &asked, request).await,
            PodStream::Attach => self.attach(&target, &asked, request).await,
            PodStream::PortForward => self.port_forward(&target, &asked, request).await,
        }
    }

    async fn usage(&self) -> Vec<NodeUsage> {
        let measured = self.node.measure().await;
        let usage = |usage: cumulo_node::Usage| Usage {
            cpu_nanocores: usage.cpu_nanocores,
            memory_bytes: usage.memory_bytes,
        };
        vec![NodeUsage {
            node: self.node.node_name().to_owned(),
            at: measured.at.into(),
            window: measured.window,
            machine: usage(measured.machine),
            containers: measured
                .containers
                .into_iter()
                .map(|one| ContainerUsage {
                    uid: one.uid,
                    container: one.container,
                    usage: usage(one.usage),
                })
                .collect(),
        }]
    }
}

impl NodeProxy {
    fn log(&self, target: &PodTarget, asked: &[(String, String)]) -> Response {
        let options = match log_query::log_options(asked, Timestamp::now()) {
            Ok(options) => options,
            Err(problem) => return bad_request(&problem),
        };
        match self
            .node
            .logs(&target.namespace, &target.name, &target.container, options)
        {
            Ok(stream) => (
                [(header::CONTENT_TYPE, "text/plain")],
                Body::from_stream(stream),
            )
                .into_response(),
            Err(error) => refused(&error),
        }
    }

    async fn exec(
        &self,
        target: &PodTarget,
        asked: &[(String, String)],
        request: Request<Body>,
    ) -> Response {
        let command: Vec<String> = asked
            .iter()
            .filter(|(name, _)| name == "command")
            .map(|(_, value)| value.clone())
            .collect();
        if command.is_empty() {
            return bad_request("you must specify at least 1 command for the container");
        }
        let upgrade = match Upgrade::of(request, asked).await {
            Ok(upgrade) => upgrade,
            Err(refusal) => return refusal,
        };
        match self.node.exec(
            &target.namespace,
            &target.name,
            &target.container,
            &command,
            flag(asked, "stdin"),
            flag(asked, "tty"),
        ) {
            Ok(session) => self.carried(upgrade, command_streams(session)),
            Err(error) => refused(&error),
        }
    }

    async fn attach(
        &self,
        target: &PodTarget,
        asked: &[(String, String)],
        request: Request<Body>,
    ) -> Response {
        if flag(asked, "tty") {
            return no_terminal();
        }
        let (namespace, pod, container) = (&target.namespace, &target.name, &target.container);
        let stdin = flag(asked, "stdin");
        // Refused before the protocol is looked at: clients that are refused a
        // websocket try again with SPDY, and show the second refusal.
        if let Err(error) = self.node.attachable(namespace, pod, container, stdin) {
            return refused(&error);
        }
        let upgrade = match Upgrade::of(request, asked).await {
            Ok(upgrade) => upgrade,
            Err(refusal) => return refusal,
        };
        match self.node.attach(namespace, pod, container, stdin).await {
            Ok(attached) => self.carried(upgrade, attached_streams(attached)),
            Err(error) => refused(&error),
        }
    }

    /// Changes the protocol and carries the streams.
    fn carried(&self, upgrade: Upgrade, streams: Streams) -> Response {
        let Streams {
            stdin,
            terminal,
            output,
            work,
        } = streams;
        let resize = move |columns: u16, rows: u16| {
            if let Some(terminal) = &terminal {
                terminal.resize(columns, rows);
            }
        };
        match upgrade {
            Upgrade::Websocket(upgrade) => upgrade
                .protocols(channels::PROTOCOLS)
                .on_upgrade(move |socket| channels::carry(socket, stdin, resize, output, work)),
            Upgrade::Spdy(upgraded, wanted) => {
                self.upgraded.spawn(async move {
                    match upgraded.await {
                        Ok(connection) => {
                            let connection = TokioIo::new(connection);
                            remote_spdy::carry(connection, wanted, stdin, resize, output, work)
                                .await;
                        }
                        Err(error) => {
                            tracing::debug!(%error, "a command's connection was not upgraded")
                        }
                    }
                });
                switched(remote_spdy::PROTOCOL)
            }
        }
    }

    async fn port_forward(
        &self,
        target: &PodTarget,
        asked: &[(String, String)],
        mut request: Request<Body>,
    ) -> Response {
        let address = match self.node.address(&target.namespace, &target.name) {
            Ok(address) => address,
            Err(error) => return refused(&error),
        };
        let destination = Destination {
            pod: target.name.clone(),
            address,
        };
        if names(&request, header::UPGRADE, SPDY) {
            if !names(&request, STREAM_PROTOCOL, port_forward::PROTOCOL) {
                return bad_request(
                    "X-Stream-Protocol-Version has to offer portforward.k8s.io, the only protocol there is",
                );
            }
            let upgraded = hyper::upgrade::on(&mut request);
            self.upgraded.spawn(async move {
                match upgraded.await {
                    Ok(connection) => forward_ports(TokioIo::new(connection), destination).await,
                    Err(error) => tracing::debug!(%error, "a port-forward was not upgraded"),
                }
            });
            return switched(port_forward::PROTOCOL);
        }
        let upgrade = match websocket(request).await {
            Ok(upgrade) => upgrade.protocols([TUNNELED, port_channels::PROTOCOL]),
            Err(refusal) => return refusal,
        };
        match upgrade.selected_protocol().map(HeaderValue::as_bytes) {
            Some(name) if name == TUNNELED.as_bytes() => {
                upgrade.on_upgrade(move |socket| forward_ports_in_websocket(socket, destination))
            }
            Some(_) => match port_channels::ports(asked) {
                Some(ports) => upgrade.on_upgrade(async move |socket| {
                    port_channels::serve(socket, &ports, &destination).await;
                }),
                None => bad_request("ports has to name the ports that are forwarded"),
            },
            None => bad_request(&format!(
                "port-forward speaks {TUNNELED} or {} inside a websocket, or {SPDY} without one",
                port_channels::PROTOCOL
            )),
        }
    }
}

/// The protocol that a client wants to go on with.
enum Upgrade {
    Websocket(WebSocketUpgrade),
    Spdy(hyper::upgrade::OnUpgrade, remote_spdy::Wanted),
}

impl Upgrade {
    /// What a request for a command's or a container's streams asks for, or the
    /// refusal of one that asks for something else.
    async fn of(mut request: Request<Body>, asked: &[(String, String)]) -> Result<Self, Response> {
        if !names(&request, header::UPGRADE, SPDY) {
            return websocket(request).await.map(Self::Websocket);
        }
        if !names(&request, STREAM_PROTOCOL, remote_spdy::PROTOCOL) {
            return Err(bad_request(
                "X-Stream-Protocol-Version has to offer v4.channel.k8s.io, the only protocol there is over SPDY",
            ));
        }
        let wanted = remote_spdy::Wanted {
            stdin: flag(asked, "stdin"),
            stdout: flag(asked, "stdout"),
            stderr: flag(asked, "stderr"),
            tty: flag(asked, "tty"),
        };
        Ok(Self::Spdy(hyper::upgrade::on(&mut request), wanted))
    }
}

/// The upgrade to a websocket that a request asks for.
async fn websocket(request: Request<Body>) -> Result<WebSocketUpgrade, Response> {
    let (mut parts, _) = request.into_parts();
    WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(IntoResponse::into_response)
}

/// The answer that changes to SPDY.
fn switched(protocol: &'static str) -> Response {
    let mut response = StatusCode::SWITCHING_PROTOCOLS.into_response();
    for (name, value) in [
        ("connection", "Upgrade"),
        ("upgrade", SPDY),
        (STREAM_PROTOCOL, protocol),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Whether one of a header's values, which may be lists, is `wanted`.
fn names(request: &Request<Body>, header: impl header::AsHeaderName, wanted: &str) -> bool {
    request
        .headers()
        .get_all(header)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|value| value.trim().eq_ignore_ascii_case(wanted))
}

/// What is carried between a client and a process.
struct Streams {
    stdin: Option<Input>,
    terminal: Option<Terminal>,
    /// Messages as `channels::framed` makes them.
    output: mpsc::Receiver<Bytes>,
    /// Fills `output`, and says how it went. Dropped when the client leaves.
    work: BoxFuture<'static, Value>,
}

/// A command's streams. The client's leaving ends the command: dropping it kills
/// its process group.
fn command_streams(session: ExecSession) -> Streams {
    let ExecSession {
        stdin,
        stdout,
        stderr,
        terminal,
        mut process,
    } = session;
    let (sender, output) = mpsc::channel(WAITING);
    let errors = sender.clone();
    let has_terminal = terminal.is_some();
    let work = async move {
        let shown = async move {
            tokio::join!(
                channels::pump(STDOUT, stdout, sender),
                channels::pump(STDERR, stderr, errors),
            );
        };
        if has_terminal {
            // What the command left behind may keep its terminal open for ever.
            let mut shown = std::pin::pin!(shown);
            let end = tokio::select! {
                end = process.wait() => {
                    let _ = tokio::time::timeout(LAST_WORDS, shown.as_mut()).await;
                    end
                }
                () = shown.as_mut() => process.wait().await,
            };
            return channels::exit_status(end.map_err(|error| error.to_string()));
        }
        shown.await;
        channels::exit_status(process.wait().await.map_err(|error| error.to_string()))
    };
    Streams {
        stdin,
        terminal,
        output,
        work: Box::pin(work),
    }
}

/// What a running container says, and what it is told.
fn attached_streams(attached: Attached) -> Streams {
    let Attached {
        stdin,
        output: mut said,
    } = attached;
    let (sender, output) = mpsc::channel(WAITING);
    let work = async move {
        while let Some((stream, data)) = said.recv().await {
            let channel = match stream {
                OutputStream::Stdout => STDOUT,
                OutputStream::Stderr => STDERR,
            };
            if sender.send(channels::framed(channel, &data)).await.is_err() {
                break;
            }
        }
        channels::success()
    };
    Streams {
        stdin: stdin.map(|stdin| Box::new(stdin) as Input),
        terminal: None,
        output,
        work: Box::pin(work),
    }
}

/// Forwards ports over a connection that speaks SPDY.
async fn forward_ports<C>(connection: C, destination: Destination)
where
    C: AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let (reader, mut writer) = tokio::io::split(connection);
    let (sender, mut receiver) = mpsc::channel::<Bytes>(WAITING);
    let write = async move {
        while let Some(frame) = receiver.recv().await {
            if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
                return;
            }
        }
        let _ = writer.shutdown().await;
    };
    tokio::join!(serve_ports(reader, sender, &destination), write);
}

/// Forwards ports over a websocket whose messages are a connection's bytes.
async fn forward_ports_in_websocket(socket: WebSocket, destination: Destination) {
    let (mut sink, source) = socket.split();
    let source = source
        .take_while(|message| std::future::ready(!matches!(message, Ok(Message::Close(_)))))
        .filter_map(async |message| match message {
            Ok(Message::Binary(data)) => Some(Ok(data)),
            Ok(_) => None,
            Err(error) => Some(Err(io::Error::other(error))),
        });
    let (sender, mut receiver) = mpsc::channel::<Bytes>(WAITING);
    let write = async move {
        while let Some(frame) = receiver.recv().await {
            if sink.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    let reader = StreamReader::new(Box::pin(source));
    tokio::join!(serve_ports(reader, sender, &destination), write);
}

async fn serve_ports<R: AsyncRead + Unpin>(
    reader: R,
    sender: mpsc::Sender<Bytes>,
    destination: &Destination,
) {
    if let Err(error) = port_forward::serve(reader, sender, destination).await {
        tracing::debug!(pod = destination.pod, %error, "a port-forward ended");
    }
}

/// The parameters of a query.
pub(super) fn pairs(query: Option<&str>) -> Vec<(String, String)> {
    url::form_urlencoded::parse(query.unwrap_or_default().as_bytes())
        .into_owned()
        .collect()
}

pub(super) fn flag(pairs: &[(String, String)], name: &str) -> bool {
    pairs
        .iter()
        .any(|(key, value)| key == name && matches!(value.as_str(), "true" | "1"))
}

fn no_terminal() -> Response {
    status(
        StatusCode::NOT_IMPLEMENTED,
        "NotImplemented",
        "containers have no terminal of their own: attach without -t, or exec -t a command",
    )
}

fn refused(error: &EngineError) -> Response {
    bad_request(&error.to_string())
}

fn bad_request(message: &str) -> Response {
    status(StatusCode::BAD_REQUEST, "BadRequest", message)
}

fn status(code: StatusCode, reason: &str, message: &str) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {},
        "status": "Failure", "reason": reason, "message": message, "code": code.as_u16(),
    });
    (
        code,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}
