//! What the controllers need of the gateway, answered by the one in this process.

use std::time::SystemTime;

use cumulo_control::{Demand, DemandSource, ObjectKey};
use cumulo_gateway::{Handle, ServiceKey};
use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use tokio::sync::broadcast::error::RecvError;

/// Demand as a gateway sees it.
pub struct GatewayDemand {
    gateway: Handle,
}

impl GatewayDemand {
    /// Wraps the handle.
    pub fn new(gateway: Handle) -> Self {
        Self { gateway }
    }
}

impl DemandSource for GatewayDemand {
    fn demand(&self, service: &ObjectKey) -> Demand {
        let key = ServiceKey::new(&service.namespace, &service.name);
        let Some(demand) = self.gateway.demand(&key) else {
            return Demand::default();
        };
        Demand {
            in_flight: u32::try_from(demand.in_flight).unwrap_or(u32::MAX),
            queued: u32::try_from(demand.queued).unwrap_or(u32::MAX),
            requests_total: demand.requests_total,
            idle_for: demand
                .last_request
                .map(|last| SystemTime::now().duration_since(last).unwrap_or_default()),
            concurrency_seconds: Some(demand.concurrency_seconds),
        }
    }

    fn changes(&self) -> BoxStream<'static, Option<ObjectKey>> {
        unfold(self.gateway.changes(), |mut changes| async move {
            match changes.recv().await {
                Ok(key) => Some((Some(ObjectKey::new(key.namespace, key.name)), changes)),
                Err(RecvError::Lagged(_)) => Some((None, changes)),
                Err(RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}
