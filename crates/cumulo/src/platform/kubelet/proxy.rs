//! The node agent's answers over HTTP.

use std::io;

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use cumulo_apiserver::{ContainerUsage, KubeletProxy, NodeUsage, PodStream, PodTarget, Usage};
use cumulo_node::agent::Handle;
use cumulo_node::{Attached, EngineError, ExecSession, OutputStream};
use futures::{SinkExt, StreamExt};
use http::{HeaderValue, Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use k8s_openapi::jiff::Timestamp;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_util::io::StreamReader;
use tokio_util::task::TaskTracker;

use super::channels::{self, STDERR, STDOUT};
use super::connection::{Destination, WAITING};
use super::remote::{self, Remote};
use super::{log_query, port_channels, port_forward};

/// A port-forward inside a websocket, as kubectl has done it since 1.31.
const TUNNELED: &str = "SPDY/3.1+portforward.k8s.io";
/// The protocol of a port-forward without a websocket.
const SPDY: &str = "SPDY/3.1";
/// The header that names what is spoken inside SPDY.
const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
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
        if flag(asked, "tty") {
            return no_terminal();
        }
        let start = || {
            self.node.exec(
                &target.namespace,
                &target.name,
                &target.container,
                &command,
                flag(asked, "stdin"),
            )
        };
        if names(&request, header::UPGRADE, SPDY) {
            return self.remote(request, asked, || Ok(Remote::command(start()?)));
        }
        let upgrade = match websocket(request).await {
            Ok(upgrade) => upgrade,
            Err(refusal) => return refusal,
        };
        match start() {
            Ok(session) => upgrade
                .protocols(channels::PROTOCOLS)
                .on_upgrade(move |socket| run_command(socket, session)),
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
        if names(&request, header::UPGRADE, SPDY) {
            return match self.node.attach(namespace, pod, container, stdin).await {
                Ok(attached) => self.remote(request, asked, || Ok(Remote::attached(attached))),
                Err(error) => refused(&error),
            };
        }
        let upgrade = match websocket(request).await {
            Ok(upgrade) => upgrade,
            Err(refusal) => return refusal,
        };
        match self.node.attach(namespace, pod, container, stdin).await {
            Ok(attached) => upgrade
                .protocols(channels::PROTOCOLS)
                .on_upgrade(move |socket| follow(socket, attached)),
            Err(error) => refused(&error),
        }
    }

    /// Exec and attach over SPDY, which API servers speak to nodes.
    fn remote(
        &self,
        mut request: Request<Body>,
        asked: &[(String, String)],
        start: impl FnOnce() -> Result<Remote, EngineError>,
    ) -> Response {
        let Some(protocol) = remote::PROTOCOLS
            .into_iter()
            .find(|protocol| names(&request, STREAM_PROTOCOL, protocol))
        else {
            return bad_request(&format!(
                "X-Stream-Protocol-Version has to offer one of {}",
                remote::PROTOCOLS.join(", ")
            ));
        };
        let remote = match start() {
            Ok(remote) => remote,
            Err(error) => return refused(&error),
        };
        let wanted = remote::Wanted {
            stdin: flag(asked, "stdin"),
            stdout: flag(asked, "stdout"),
            stderr: flag(asked, "stderr"),
        };
        let upgraded = hyper::upgrade::on(&mut request);
        self.upgraded.spawn(async move {
            match upgraded.await {
                Ok(connection) => run_remote(TokioIo::new(connection), wanted, remote).await,
                Err(error) => tracing::debug!(%error, "a stream was not upgraded"),
            }
        });
        switched(protocol)
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

/// The upgrade to a websocket that a request asks for, or the refusal of one
/// that asks for something else.
async fn websocket(request: Request<Body>) -> std::result::Result<WebSocketUpgrade, Response> {
    let (mut parts, _) = request.into_parts();
    WebSocketUpgrade::from_request_parts(&mut parts, &())
        .await
        .map_err(IntoResponse::into_response)
}

/// The answer after which a connection speaks SPDY.
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

/// Carries a command's streams. The client's leaving ends the command: dropping
/// it kills its process group.
async fn run_command(socket: WebSocket, session: ExecSession) {
    let (stdin, stdout, stderr, mut process) = session.into_parts();
    let (sender, receiver) = mpsc::channel(WAITING);
    let output = sender.clone();
    let work = async move {
        tokio::join!(
            channels::pump(STDOUT, stdout, output),
            channels::pump(STDERR, stderr, sender),
        );
        channels::exit_status(process.wait().await.map_err(|error| error.to_string()))
    };
    channels::carry(socket, stdin, receiver, work).await;
}

/// Carries what a running container says, and what it is told.
async fn follow(socket: WebSocket, attached: Attached) {
    let Attached { stdin, mut output } = attached;
    let (sender, receiver) = mpsc::channel(WAITING);
    let work = async move {
        while let Some((stream, data)) = output.recv().await {
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
    channels::carry(socket, stdin, receiver, work).await;
}

/// Writes frames to a connection until there are no more.
async fn write_frames<W: AsyncWrite + Unpin>(mut writer: W, mut frames: mpsc::Receiver<Bytes>) {
    while let Some(frame) = frames.recv().await {
        if writer.write_all(&frame).await.is_err() || writer.flush().await.is_err() {
            return;
        }
    }
    let _ = writer.shutdown().await;
}

/// Carries a command's or a container's streams over SPDY.
async fn run_remote<C>(connection: C, wanted: remote::Wanted, what: Remote)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(connection);
    let (sender, frames) = mpsc::channel::<Bytes>(WAITING);
    tokio::join!(
        remote::serve(reader, sender, wanted, what),
        write_frames(writer, frames)
    );
}

/// Forwards ports over a connection that speaks SPDY.
async fn forward_ports<C>(connection: C, destination: Destination)
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let (reader, writer) = tokio::io::split(connection);
    let (sender, frames) = mpsc::channel::<Bytes>(WAITING);
    tokio::join!(
        serve_ports(reader, sender, &destination),
        write_frames(writer, frames)
    );
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
        "a terminal (-t) is not served: run the command without -t",
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
