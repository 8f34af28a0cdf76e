//! What services are asked to do, told by a gateway to operators: lines of JSON,
//! each the whole of what is known, at once when scaling should look at a
//! service, every second while requests are under way, and now and then.

use std::convert::Infallible;
use std::time::{Duration, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use cumulo_gateway::{Handle, ServiceKey};
use futures::stream::unfold;
use http::header;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

/// Where the stream is.
pub const PATH: &str = "/demand";
/// While requests are under way.
const BUSY: Duration = Duration::from_secs(1);
/// At rest, so that a broken connection is noticed.
const REST: Duration = Duration::from_secs(10);

/// What one gateway knows at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Snapshot {
    /// The gateway's process: its counts begin anew with another one.
    pub gateway: String,
    /// Services that were ever asked for anything.
    pub services: Vec<ServiceDemand>,
    /// Whether scaling should look at all services.
    #[serde(default)]
    pub all: bool,
    /// Services that scaling should look at, as NAMESPACE/NAME.
    #[serde(default)]
    pub look_at: Vec<String>,
}

/// What one service is asked to do.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceDemand {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Requests at a replica.
    pub in_flight: u64,
    /// Requests that wait for one.
    pub queued: u64,
    /// Requests since the gateway started.
    pub requests_total: u64,
    /// Seconds since the last one came or left.
    pub idle_seconds: Option<f64>,
    /// Request-seconds since the gateway started.
    pub concurrency_seconds: f64,
}

/// The route.
pub fn router(gateway: Handle, shutdown: CancellationToken) -> Router {
    let name = uuid();
    Router::new().route(
        PATH,
        get(move || {
            let answer = stream(gateway.clone(), name.clone(), shutdown.clone());
            std::future::ready(answer)
        }),
    )
}

fn uuid() -> String {
    hex::encode(rand::random::<[u8; 16]>())
}

struct Teller {
    gateway: Handle,
    name: String,
    changes: broadcast::Receiver<ServiceKey>,
    shutdown: CancellationToken,
    wait: Duration,
}

fn stream(gateway: Handle, name: String, shutdown: CancellationToken) -> Response {
    let teller = Teller {
        changes: gateway.changes(),
        gateway,
        name,
        shutdown,
        wait: Duration::ZERO,
    };
    let lines = unfold(teller, |mut teller| async move {
        let line = teller.next().await?;
        Some((Ok::<_, Infallible>(line), teller))
    });
    (
        [(header::CONTENT_TYPE, "application/x-ndjson")],
        Body::from_stream(lines),
    )
        .into_response()
}

impl Teller {
    async fn next(&mut self) -> Option<Bytes> {
        let mut look_at = Vec::new();
        // The first line comes at once and is for all.
        let mut all = self.wait.is_zero();
        tokio::select! {
            () = self.shutdown.cancelled() => return None,
            () = tokio::time::sleep(self.wait) => {}
            change = self.changes.recv() => match change {
                Ok(key) => look_at.push(shown(&key)),
                Err(RecvError::Lagged(_)) => all = true,
                Err(RecvError::Closed) => return None,
            },
        }
        while let Ok(key) = self.changes.try_recv() {
            look_at.push(shown(&key));
        }
        let snapshot = Snapshot {
            gateway: self.name.clone(),
            services: self.services(),
            all,
            look_at,
        };
        let busy = snapshot
            .services
            .iter()
            .any(|service| service.in_flight + service.queued > 0);
        self.wait = if busy { BUSY } else { REST };
        let mut line = serde_json::to_vec(&snapshot).ok()?;
        line.push(b'\n');
        Some(line.into())
    }

    fn services(&self) -> Vec<ServiceDemand> {
        let all = self.gateway.demands().into_iter();
        all.filter(|(_, demand)| demand.requests_total > 0 || demand.queued > 0)
            .map(|(key, demand)| ServiceDemand {
                namespace: key.namespace,
                name: key.name,
                in_flight: demand.in_flight as u64,
                queued: demand.queued as u64,
                requests_total: demand.requests_total,
                idle_seconds: demand.last_request.map(|last| {
                    let idle = SystemTime::now().duration_since(last);
                    idle.unwrap_or_default().as_secs_f64()
                }),
                concurrency_seconds: demand.concurrency_seconds,
            })
            .collect()
    }
}

fn shown(key: &ServiceKey) -> String {
    format!("{}/{}", key.namespace, key.name)
}
