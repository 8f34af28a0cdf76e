//! The gateway as the rest of the platform sees it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::Router;
use parking_lot::{Mutex, RwLock};
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::options::Options;
use crate::refusal::Refusal;
use crate::service::Service;
use crate::table::{Event, ServiceKey, Table};

/// How long a request for a service that isn't known waits for the first list of
/// services after a start.
const FIRST_LIST: Duration = Duration::from_secs(10);

/// What is asked of a service at one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Demand {
    /// Requests at a replica.
    pub in_flight: usize,
    /// Requests that wait for one.
    pub queued: usize,
    /// Requests since the gateway started.
    pub requests_total: u64,
    /// Replicas that the gateway sends requests to.
    pub ready_replicas: usize,
    /// When the last request came or left its replica.
    pub last_request: Option<SystemTime>,
    /// Integral of the concurrency (in flight and queued) since the start, in
    /// request-seconds: the exact average between two moments is the
    /// difference divided by the seconds between them.
    pub concurrency_seconds: f64,
}

pub(crate) struct Shared {
    pub(crate) options: Arc<Options>,
    start: Instant,
    table: Mutex<Table>,
    services: RwLock<HashMap<String, HashMap<String, Arc<Service>>>>,
    changes: broadcast::Sender<ServiceKey>,
    listed: watch::Sender<bool>,
}

/// Cloneable access to a gateway.
#[derive(Clone)]
pub struct Handle(pub(crate) Arc<Shared>);

/// The gateway's background part: it watches services and pods.
pub struct Gateway {
    handle: Handle,
}

impl Gateway {
    /// A gateway that knows no service yet.
    pub fn new(options: Options) -> Self {
        let shared = Shared {
            options: Arc::new(options),
            start: Instant::now(),
            table: Mutex::default(),
            services: RwLock::default(),
            changes: broadcast::channel(256).0,
            listed: watch::channel(false).0,
        };
        Self {
            handle: Handle(Arc::new(shared)),
        }
    }

    /// Access for routers, autoscaling and metrics.
    pub fn handle(&self) -> Handle {
        self.handle.clone()
    }

    /// Watches InferenceServices and their pods until `shutdown`. While the API
    /// is away, the last known routes go on serving.
    pub async fn run(self, client: kube::Client, shutdown: CancellationToken) {
        let watching = crate::watch::run(client, self.handle);
        tokio::select! {
            () = watching => {}
            () = shutdown.cancelled() => {}
        }
    }
}

impl Handle {
    /// The routes: `/v2/…` and `/namespaces/{namespace}/v2/…`.
    pub fn router(&self) -> Router {
        crate::routes::router(self.clone())
    }

    /// Takes a change of services or pods in.
    pub fn apply(&self, event: Event) {
        let first_list = matches!(event, Event::Services(_));
        // Held until the services know, so that events are taken in one after another.
        let mut table = self.0.table.lock();
        for key in table.apply(event) {
            match table.route(&key) {
                Some(route) => self.service_or_new(&key).update(route),
                None => {
                    let removed = {
                        let mut services = self.0.services.write();
                        services
                            .get_mut(&key.namespace)
                            .and_then(|services| services.remove(&key.name))
                    };
                    if let Some(service) = removed {
                        service.delete();
                    }
                }
            }
        }
        drop(table);
        if first_list {
            self.0
                .listed
                .send_if_modified(|listed| !std::mem::replace(listed, true));
        }
    }

    fn service_or_new(&self, key: &ServiceKey) -> Arc<Service> {
        let mut services = self.0.services.write();
        services
            .entry(key.namespace.clone())
            .or_default()
            .entry(key.name.clone())
            .or_insert_with(|| {
                Service::new(
                    key.clone(),
                    self.0.options.clone(),
                    self.0.start,
                    self.0.changes.clone(),
                )
            })
            .clone()
    }

    fn find(&self, namespace: &str, name: &str) -> Option<Arc<Service>> {
        self.0.services.read().get(namespace)?.get(name).cloned()
    }

    /// A service by name; right after a start, waits for the first list.
    pub(crate) async fn service(
        &self,
        namespace: &str,
        name: &str,
    ) -> Result<Arc<Service>, Refusal> {
        if let Some(service) = self.find(namespace, name) {
            return Ok(service);
        }
        if !*self.0.listed.borrow() {
            let mut listed = self.0.listed.subscribe();
            let first = listed.wait_for(|listed| *listed);
            let _ = tokio::time::timeout(FIRST_LIST, first).await;
            if let Some(service) = self.find(namespace, name) {
                return Ok(service);
            }
        }
        let services = self.0.services.read();
        let names = services
            .get(namespace)
            .into_iter()
            .flat_map(|services| services.keys());
        let suggestion = names
            .map(|known| (strsim::damerau_levenshtein(known, name), known))
            .filter(|(distance, known)| *distance <= known.len().max(3) / 3)
            .min()
            .map(|(_, known)| known.clone());
        Err(Refusal::UnknownService {
            key: ServiceKey::new(namespace, name),
            suggestion,
        })
    }

    pub(crate) fn services(&self) -> Vec<Arc<Service>> {
        let services = self.0.services.read();
        let mut all: Vec<Arc<Service>> = services
            .values()
            .flat_map(HashMap::values)
            .cloned()
            .collect();
        drop(services);
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// What is asked of one service now.
    pub fn demand(&self, key: &ServiceKey) -> Option<Demand> {
        Some(self.find(&key.namespace, &key.name)?.demand())
    }

    /// What is asked of all services now.
    pub fn demands(&self) -> Vec<(ServiceKey, Demand)> {
        let services = self.services().into_iter();
        services
            .map(|service| (service.key.clone(), service.demand()))
            .collect()
    }

    /// Average concurrency and requests per second of a service over the last
    /// `window` (at most ten minutes).
    pub fn average(&self, key: &ServiceKey, window: Duration) -> Option<(f64, f64)> {
        Some(self.find(&key.namespace, &key.name)?.average(window))
    }

    /// Says which service's demand changed in a way that autoscaling should look
    /// at: at once when a request waits for the first replica; when demand
    /// begins, ends or doubles, at most once a second. A receiver that lags
    /// should look at all services.
    pub fn changes(&self) -> broadcast::Receiver<ServiceKey> {
        self.0.changes.subscribe()
    }

    /// Whether the first list of services has come: before, requests for
    /// services that aren't known wait.
    pub fn is_listed(&self) -> bool {
        *self.0.listed.borrow()
    }

    /// The metrics in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let services = self.services().into_iter();
        let rows: Vec<_> = services
            .map(|service| (service.key.clone(), service.clone(), service.counts()))
            .collect();
        crate::metrics::render(&rows)
    }
}
