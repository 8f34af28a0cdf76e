//! The node agent of this process, and its answers for pods: logs and exec.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use cumulo_apiserver::{KubeletProxy, PodStream, PodTarget};
use cumulo_node::agent::{Agent, Handle};
use cumulo_node::{ExecSession, LogOptions};
use futures::{SinkExt, StreamExt};
use http::{Request, StatusCode, header};
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::home::{Config, Home};

/// Subprotocols of exec, the newest first (`remotecommand` of Kubernetes).
const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
/// v5, from the client only: the second byte names a channel that it closes.
const CLOSE: u8 = 255;
/// How long pods may take to end when the platform goes down.
const STOP: Duration = Duration::from_secs(35);

/// The agent that runs pods as processes of this machine.
pub async fn agent(home: &Home, config: &Config, client: kube::Client) -> Result<Agent> {
    let executable = std::env::current_exe().context("cannot tell where this program lies")?;
    let mut options = cumulo_node::Options::new(home.root(), executable);
    options.host_path_roots = config.allowed_roots.clone();
    options.sandbox.roles = roles(home, config, &options.base_environment);
    for folder in options.sandbox.roles.iter().flat_map(|role| &role.write) {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
    }
    Agent::new(options, client).context("the node agent cannot start")
}

/// What this program's own commands reach when they run as pods: of the
/// platform's folder the artifact store and the cache, nothing else. What they
/// write into the store but for datasets goes through the tracking server.
fn roles(
    home: &Home,
    config: &Config,
    environment: &[(String, String)],
) -> Vec<cumulo_node::sandbox::RoleAccess> {
    use cumulo_node::sandbox::{RoleAccess, software};
    let store = home.path("artifacts");
    let role = |words: &[&str], read: Vec<PathBuf>, write: Vec<PathBuf>| RoleAccess {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        read,
        write,
    };
    // uv's settings and wheels, ONNX Runtime's library, as the owner set them.
    let mut building = software::named_paths(environment);
    building.push(store.clone());
    let cache = home.path("cache");
    let sources = config.allowed_roots.iter().cloned();
    vec![
        role(
            &["data", "build"],
            sources.chain([store.clone()]).collect(),
            vec![store.join("datasets")],
        ),
        role(&["learn"], building.clone(), vec![cache.clone()]),
        role(&["exec"], building.clone(), vec![cache.clone()]),
        role(&["serve"], building, vec![cache]),
    ]
}

/// Ends all pods.
pub async fn stop_pods(node: &Handle) {
    node.stop_all(STOP).await;
}

/// Answers the API server for the pods of this process's node.
pub struct NodeProxy {
    node: Handle,
}

impl std::fmt::Debug for NodeProxy {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "NodeProxy({})", self.node.node_name())
    }
}

impl NodeProxy {
    /// Wraps the agent's handle.
    pub fn new(node: Handle) -> Self {
        Self { node }
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
        match target.stream {
            PodStream::Log => self.log(&target, &request),
            PodStream::Exec => self.exec(target, request).await,
            PodStream::Attach | PodStream::PortForward => status(
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "attach and port-forward are not served yet: pods have loopback addresses of their own (see status.podIP), so their ports can be reached directly; use logs -f or exec",
            ),
        }
    }
}

impl NodeProxy {
    fn log(&self, target: &PodTarget, request: &Request<Body>) -> Response {
        let query = request.uri().query().unwrap_or_default();
        let options = match log_options(query, Timestamp::now()) {
            Ok(options) => options,
            Err(problem) => return status(StatusCode::BAD_REQUEST, "BadRequest", &problem),
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
            Err(error) => status(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
        }
    }

    async fn exec(&self, target: PodTarget, request: Request<Body>) -> Response {
        let query = request.uri().query().unwrap_or_default().to_owned();
        let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes())
            .into_owned()
            .collect();
        let command: Vec<String> = pairs
            .iter()
            .filter(|(name, _)| name == "command")
            .map(|(_, value)| value.clone())
            .collect();
        if command.is_empty() {
            return status(
                StatusCode::BAD_REQUEST,
                "BadRequest",
                "you must specify at least 1 command for the container",
            );
        }
        let stdin = flag(&pairs, "stdin");
        if flag(&pairs, "tty") {
            return status(
                StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "a terminal (-t) is not served yet: run the command without -t",
            );
        }
        let (mut parts, _) = request.into_parts();
        let upgrade = match WebSocketUpgrade::from_request_parts(&mut parts, &()).await {
            Ok(upgrade) => upgrade,
            Err(rejection) => return rejection.into_response(),
        };
        let session = match self.node.exec(
            &target.namespace,
            &target.name,
            &target.container,
            &command,
            stdin,
        ) {
            Ok(session) => session,
            Err(error) => return status(StatusCode::BAD_REQUEST, "BadRequest", &error.to_string()),
        };
        upgrade
            .protocols(PROTOCOLS)
            .on_upgrade(move |socket| remote_command(socket, session))
    }
}

/// Carries a process's streams over the channels of a websocket.
async fn remote_command(socket: WebSocket, session: ExecSession) {
    let (mut sink, mut source) = socket.split();
    let (stdin, stdout, stderr, mut process) = session.into_parts();
    let (sender, mut receiver) = mpsc::channel::<Bytes>(16);
    let pump_out = pump(STDOUT, stdout, sender.clone());
    let pump_err = pump(STDERR, stderr, sender.clone());
    drop(sender);
    let input = async move {
        let mut stdin = stdin;
        while let Some(Ok(message)) = source.next().await {
            let Message::Binary(data) = message else {
                if matches!(message, Message::Close(_)) {
                    break;
                }
                continue;
            };
            match (data.first(), &mut stdin) {
                (Some(&STDIN), Some(pipe)) => {
                    if pipe.write_all(&data[1..]).await.is_err() {
                        stdin = None;
                    }
                }
                (Some(&CLOSE), _) if data.get(1) == Some(&STDIN) => stdin = None,
                _ => {}
            }
        }
    };
    let work = async move {
        let output = async {
            while let Some(data) = receiver.recv().await {
                if sink.send(Message::Binary(data)).await.is_err() {
                    break;
                }
            }
        };
        tokio::join!(pump_out, pump_err, output);
        let end = exit_status(process.wait().await.map_err(|error| error.to_string()));
        let mut frame = BytesMut::new();
        frame.put_u8(ERROR);
        frame.put_slice(end.to_string().as_bytes());
        let _ = sink.send(Message::Binary(frame.freeze())).await;
        let close = CloseFrame {
            code: axum::extract::ws::close_code::NORMAL,
            reason: "".into(),
        };
        let _ = sink.send(Message::Close(Some(close))).await;
    };
    // The client's leaving ends the process: dropping it kills its group.
    let input = async {
        input.await;
        // A closed standard input alone is no reason to end; give the work its time.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = work => {}
        () = input => {}
    }
}

async fn pump<R: tokio::io::AsyncRead + Unpin>(
    channel: u8,
    stream: Option<R>,
    sender: mpsc::Sender<Bytes>,
) {
    let Some(mut stream) = stream else { return };
    loop {
        let mut frame = BytesMut::with_capacity(16 << 10);
        frame.put_u8(channel);
        match stream.read_buf(&mut frame).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if sender.send(frame.freeze()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The Status that ends an exec stream.
fn exit_status(code: std::result::Result<i32, String>) -> serde_json::Value {
    match code {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(message) => {
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message})
        }
    }
}

fn flag(pairs: &[(String, String)], name: &str) -> bool {
    pairs
        .iter()
        .any(|(key, value)| key == name && matches!(value.as_str(), "true" | "1"))
}

/// The options of a log request (`PodLogOptions`).
fn log_options(query: &str, now: Timestamp) -> std::result::Result<LogOptions, String> {
    let pairs: Vec<(String, String)> = url::form_urlencoded::parse(query.as_bytes())
        .into_owned()
        .collect();
    let text = |name: &str| {
        pairs
            .iter()
            .find(|(key, value)| key == name && !value.is_empty())
            .map(|(_, value)| value.as_str())
    };
    let number = |name: &str| -> std::result::Result<Option<u64>, String> {
        text(name)
            .map(|value| {
                value
                    .parse()
                    .map_err(|_| format!("{name} must be a whole number, not {value:?}"))
            })
            .transpose()
    };
    let since = match (number("sinceSeconds")?, text("sinceTime")) {
        (Some(_), Some(_)) => {
            return Err("at most one of sinceTime or sinceSeconds may be given".to_owned());
        }
        (Some(seconds), None) => {
            let seconds =
                i64::try_from(seconds).map_err(|_| "sinceSeconds is too large".to_owned())?;
            now.checked_sub(SignedDuration::from_secs(seconds)).ok()
        }
        (None, Some(time)) => Some(time.parse().map_err(|_| {
            format!("sinceTime must be a time such as 2026-01-31T12:00:00Z, not {time:?}")
        })?),
        (None, None) => None,
    };
    Ok(LogOptions {
        follow: flag(&pairs, "follow"),
        previous: flag(&pairs, "previous"),
        timestamps: flag(&pairs, "timestamps"),
        since,
        tail_lines: number("tailLines")?,
        limit_bytes: number("limitBytes")?,
    })
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

/// The proxy as the API server takes it.
pub fn proxy(node: Handle) -> Arc<dyn KubeletProxy> {
    Arc::new(NodeProxy::new(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_options_are_read() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        let options = log_options("follow=true&tailLines=5&sinceSeconds=60", now).unwrap();
        assert!(options.follow && !options.previous);
        assert_eq!(options.tail_lines, Some(5));
        assert_eq!(options.since, Some("2026-01-31T11:59:00Z".parse().unwrap()));
        insta::assert_snapshot!(log_options("tailLines=x", now).unwrap_err(), @r#"tailLines must be a whole number, not "x""#);
        assert!(log_options("sinceSeconds=1&sinceTime=2026-01-31T12:00:00Z", now).is_err());
    }
}
