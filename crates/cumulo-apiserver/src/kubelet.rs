//! What the node agent answers for: logs and streams of pods. The server checks
//! the request and hands it over; how it gets there is the wiring's business.

use std::time::{Duration, SystemTime};

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

    /// What the nodes use that it reaches; `metrics.k8s.io` is answered from it.
    async fn usage(&self) -> Vec<NodeUsage> {
        Vec::new()
    }
}

/// What something uses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Processors, in thousand-millionths.
    pub cpu_nanocores: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
}

/// What a container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Uid of its pod.
    pub uid: String,
    /// Its name.
    pub container: String,
    /// What it uses.
    pub usage: Usage,
}

/// What a node and the containers on it use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeUsage {
    /// Name of the node.
    pub node: String,
    /// When it was measured: the end of the window.
    pub at: SystemTime,
    /// The time over which rates were measured.
    pub window: Duration,
    /// The whole node.
    pub machine: Usage,
    /// Each container that runs.
    pub containers: Vec<ContainerUsage>,
}
