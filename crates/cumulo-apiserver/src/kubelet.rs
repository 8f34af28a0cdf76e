//! What the node agent answers for: logs and streams of pods. The server checks
//! the request and hands it over; how it gets there is the wiring's business.

use async_trait::async_trait;
use axum::body::Body;
use axum::response::Response;
use http::Request;

/// The stream or file that is wanted of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodStream {
    /// `pods/log`.
    Log,
    /// `pods/exec`.
    Exec,
    /// `pods/attach`.
    Attach,
    /// `pods/portforward`.
    PortForward,
}

impl PodStream {
    /// The subresource of a name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "log" => Some(Self::Log),
            "exec" => Some(Self::Exec),
            "attach" => Some(Self::Attach),
            "portforward" => Some(Self::PortForward),
            _ => None,
        }
    }
}

/// The pod that a stream is wanted of. Its existence, its node and the container
/// have been checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodTarget {
    /// Namespace of the pod.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Uid of the pod.
    pub uid: String,
    /// Node that the pod runs on.
    pub node: String,
    /// Container; empty for port-forward.
    pub container: String,
    /// What is wanted.
    pub stream: PodStream,
}

/// Answers for pods. The request is the client's own: query parameters as
/// Kubernetes defines them (`follow`, `tailLines`, `command`, `stdin`, …), and for
/// streams the upgrade to a websocket (`v5.channel.k8s.io`), which an axum
/// `WebSocketUpgrade` extractor can take from it.
#[async_trait]
pub trait KubeletProxy: Send + Sync + std::fmt::Debug {
    /// Answers one request.
    async fn forward(&self, target: PodTarget, request: Request<Body>) -> Response;
}
