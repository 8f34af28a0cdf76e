//! The demand for services, summed over all gateways.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cumulo_control::{Demand, DemandSource, ObjectKey};
use futures::stream::{BoxStream, StreamExt, unfold};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::Api;
use kube::runtime::{WatchStreamExt, watcher};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::credential::Credential;
use super::demand::{PATH, ServiceDemand, Snapshot};
use super::follow::{follow, http, http_at};
use super::trust::Trust;

/// Wait before a gateway is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// How long what a gateway said last counts after it went silent.
const LOST: Duration = Duration::from_secs(60);
/// Changes that a slow listener may be behind.
const BEHIND: usize = 1024;

/// Where the gateways are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Gateways {
    /// At these addresses.
    Urls(BTreeSet<String>),
    /// Behind this Service.
    Service {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

impl std::str::FromStr for Gateways {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        if let Some(service) = text.strip_prefix("service/") {
            let parts = service.split_once('/');
            let (namespace, name) = parts.with_context(|| {
                format!("{text:?} names no Service: expected service/NAMESPACE/NAME")
            })?;
            return Ok(Self::Service {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            });
        }
        let mut urls = BTreeSet::new();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            if !url::Url::parse(part).is_ok_and(|url| url.has_host()) {
                bail!(
                    "{part:?} is no gateway: expected http://HOST:PORT or service/NAMESPACE/NAME"
                );
            }
            urls.insert(part.trim_end_matches('/').to_owned());
        }
        if urls.is_empty() {
            bail!("no gateway is named: expected http://HOST:PORT or service/NAMESPACE/NAME");
        }
        Ok(Self::Urls(urls))
    }
}

/// All gateways.
pub struct Fleet {
    state: Mutex<State>,
    changes: broadcast::Sender<Option<ObjectKey>>,
    credential: Credential,
    trust: Trust,
}

/// What is known of them. Pure: time comes in.
#[derive(Default)]
struct State {
    gateways: HashMap<String, Gateway>,
    /// What gateways that are gone have counted.
    retired: HashMap<ObjectKey, (u64, f64)>,
}

struct Gateway {
    instance: String,
    services: HashMap<ObjectKey, ServiceDemand>,
    heard: Instant,
    connected: bool,
}

impl State {
    /// Takes in what a gateway says.
    fn hear(&mut self, url: &str, snapshot: Snapshot, now: Instant) {
        let known = self.gateways.get(url);
        if known.is_some_and(|known| known.instance != snapshot.gateway) {
            self.retire(url);
        }
        let services = snapshot.services.into_iter();
        let services = services
            .map(|service| {
                let key = ObjectKey::new(service.namespace.clone(), service.name.clone());
                (key, service)
            })
            .collect();
        let gateway = Gateway {
            instance: snapshot.gateway,
            services,
            heard: now,
            connected: true,
        };
        self.gateways.insert(url.to_owned(), gateway);
    }

    /// A gateway does not answer; what it said still counts for a while.
    fn lose(&mut self, url: &str) {
        if let Some(gateway) = self.gateways.get_mut(url) {
            gateway.connected = false;
        }
    }

    /// A gateway is gone, or another process has its address. Counts never fall.
    fn retire(&mut self, url: &str) {
        let Some(gone) = self.gateways.remove(url) else {
            return;
        };
        for (key, service) in gone.services {
            let counts = self.retired.entry(key).or_default();
            counts.0 = counts.0.saturating_add(service.requests_total);
            counts.1 += service.concurrency_seconds;
        }
    }

    /// The demand for a service. As long as a gateway is not heard, a service
    /// counts as just used: what is not known lets nothing sleep.
    fn demand(&self, key: &ObjectKey, now: Instant) -> Demand {
        let (mut requests, mut integral) = self.retired.get(key).copied().unwrap_or_default();
        let (mut in_flight, mut queued, mut idle) = (0u64, 0u64, None);
        let mut heard = false;
        let mut silent = false;
        for gateway in self.gateways.values() {
            let since = now.saturating_duration_since(gateway.heard);
            let counts = gateway.connected || since < LOST;
            heard |= gateway.connected;
            silent |= !gateway.connected && counts;
            let Some(service) = gateway.services.get(key) else {
                continue;
            };
            requests = requests.saturating_add(service.requests_total);
            integral += service.concurrency_seconds;
            let last = service.idle_seconds.unwrap_or(0.0).max(0.0);
            let mut own = Duration::try_from_secs_f64(last).unwrap_or_default() + since;
            if counts {
                let under_way = service.in_flight.saturating_add(service.queued);
                in_flight = in_flight.saturating_add(service.in_flight);
                queued = queued.saturating_add(service.queued);
                // Between two lines, what was under way goes on.
                integral += under_way as f64 * since.as_secs_f64();
                if under_way > 0 {
                    own = Duration::ZERO;
                }
            }
            idle = Some(idle.map_or(own, |idle: Duration| idle.min(own)));
        }
        if silent || !heard {
            idle = Some(Duration::ZERO);
        }
        Demand {
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            queued: u32::try_from(queued).unwrap_or(u32::MAX),
            requests_total: requests,
            idle_for: idle,
            concurrency_seconds: Some(integral),
        }
    }
}

impl Fleet {
    /// Of gateways that are yet to be heard.
    pub fn new(credential: Credential, trust: Trust) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            changes: broadcast::channel(BEHIND).0,
            credential,
            trust,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many gateways are heard.
    pub fn connected(&self) -> usize {
        let state = self.lock();
        state.gateways.values().filter(|one| one.connected).count()
    }

    /// Listens to all gateways until `shutdown`.
    pub async fn run(
        self: Arc<Self>,
        client: kube::Client,
        gateways: Gateways,
        shutdown: CancellationToken,
    ) {
        let work = async {
            let http = match http(&self.trust) {
                Ok(http) => http,
                Err(error) => {
                    tracing::error!(%error, "gateways cannot be asked for demand");
                    return;
                }
            };
            match gateways {
                Gateways::Urls(urls) => {
                    futures::future::join_all(urls.iter().map(|url| self.listen(&http, url, url)))
                        .await;
                }
                Gateways::Service { namespace, name } => {
                    self.listen_to_service(client, &http, &namespace, &name)
                        .await;
                }
            }
        };
        tokio::select! {
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    }

    /// Listens to one gateway, which is asked for at `base`; never ends.
    async fn listen(&self, http: &reqwest::Client, url: &str, base: &str) {
        let address = format!("{base}{PATH}");
        let mut told = String::new();
        loop {
            let why = follow(http, &address, &self.credential, |line| {
                let snapshot = line.map(serde_json::from_slice::<Snapshot>);
                if let Some(Ok(snapshot)) = snapshot {
                    self.hear(url, snapshot);
                }
            })
            .await;
            self.lock().lose(url);
            if told != why {
                tracing::warn!(gateway = url, why, "a gateway is not heard, trying again");
                told = why;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn hear(&self, url: &str, snapshot: Snapshot) {
        let all = snapshot.all;
        let look_at: Vec<ObjectKey> = snapshot
            .look_at
            .iter()
            .filter_map(|text| text.split_once('/'))
            .map(|(namespace, name)| ObjectKey::new(namespace, name))
            .collect();
        self.lock().hear(url, snapshot, Instant::now());
        // Nobody listens while another replica leads.
        if all {
            let _ = self.changes.send(None);
        }
        for key in look_at {
            let _ = self.changes.send(Some(key));
        }
    }

    /// The way to an endpoint of a Service. Over TLS it is asked under the Service's
    /// name, which its certificate has to be for.
    fn reach(
        &self,
        http: &reqwest::Client,
        url: &str,
        namespace: &str,
        name: &str,
    ) -> Result<(reqwest::Client, String)> {
        let Some(address) = url.strip_prefix("https://") else {
            return Ok((http.clone(), url.to_owned()));
        };
        let address: SocketAddr = address.parse()?;
        let name = format!("{name}.{namespace}.svc");
        let http = http_at(&self.trust, &name, address)?;
        Ok((http, format!("https://{name}:{}", address.port())))
    }

    /// Listens to the endpoints of a Service, as they come and go.
    async fn listen_to_service(
        self: &Arc<Self>,
        client: kube::Client,
        http: &reqwest::Client,
        namespace: &str,
        name: &str,
    ) {
        let api: Api<EndpointSlice> = Api::namespaced(client, namespace);
        let of_service =
            watcher::Config::default().labels(&format!("kubernetes.io/service-name={name}"));
        let mut events = Box::pin(watcher(api, of_service).default_backoff());
        let mut slices: HashMap<String, BTreeSet<String>> = HashMap::new();
        let mut fresh: HashMap<String, BTreeSet<String>> = HashMap::new();
        let mut listeners: HashMap<String, tokio::task::JoinHandle<()>> = HashMap::new();
        // Ends all listeners with this future.
        let ending = AbortAll::default();
        while let Some(event) = events.next().await {
            match event {
                Ok(watcher::Event::Init) => fresh.clear(),
                Ok(watcher::Event::InitApply(slice)) => {
                    fresh.insert(slice_name(&slice), urls(&slice));
                    continue;
                }
                Ok(watcher::Event::InitDone) => slices = std::mem::take(&mut fresh),
                Ok(watcher::Event::Apply(slice)) => {
                    slices.insert(slice_name(&slice), urls(&slice));
                }
                Ok(watcher::Event::Delete(slice)) => {
                    slices.remove(&slice_name(&slice));
                }
                Err(error) => {
                    tracing::warn!(%error, "watching the gateways' endpoints failed, trying again");
                    continue;
                }
            }
            let wanted: HashSet<&String> = slices.values().flatten().collect();
            listeners.retain(|url, task| {
                let stays = wanted.contains(url);
                if !stays {
                    task.abort();
                    self.lock().retire(url);
                }
                stays
            });
            for url in wanted {
                if !listeners.contains_key(url) {
                    let (http, base) = match self.reach(http, url, namespace, name) {
                        Ok(way) => way,
                        Err(error) => {
                            tracing::warn!(%error, gateway = url, "a gateway cannot be asked");
                            continue;
                        }
                    };
                    let (fleet, own) = (self.clone(), url.clone());
                    let task = tokio::spawn(async move { fleet.listen(&http, &own, &base).await });
                    ending.add(task.abort_handle());
                    listeners.insert(url.clone(), task);
                }
            }
        }
    }
}

/// Ends tasks when it goes.
#[derive(Default)]
struct AbortAll(Mutex<Vec<tokio::task::AbortHandle>>);

impl AbortAll {
    fn add(&self, task: tokio::task::AbortHandle) {
        let mut tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tasks.retain(|task| !task.is_finished());
        tasks.push(task);
    }
}

impl Drop for AbortAll {
    fn drop(&mut self) {
        let tasks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for task in tasks.iter() {
            task.abort();
        }
    }
}

fn slice_name(slice: &EndpointSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

/// The addresses of a slice's endpoints, at its port `http`, its port `https` or its first one.
fn urls(slice: &EndpointSlice) -> BTreeSet<String> {
    let ports = slice.ports.as_deref().unwrap_or_default();
    let named = |name: &str| ports.iter().find(|port| port.name.as_deref() == Some(name));
    let found = named("http").or(named("https")).or(ports.first());
    let Some((found, port)) = found.and_then(|found| Some((found, found.port?))) else {
        return BTreeSet::new();
    };
    let secure = [&found.name, &found.app_protocol]
        .iter()
        .any(|text| text.as_deref() == Some("https"));
    let scheme = if secure { "https" } else { "http" };
    let ready = slice.endpoints.iter().filter(|endpoint| {
        let conditions = endpoint.conditions.as_ref();
        conditions.and_then(|conditions| conditions.ready) != Some(false)
    });
    ready
        .flat_map(|endpoint| &endpoint.addresses)
        .map(|address| match address.contains(':') {
            true => format!("{scheme}://[{address}]:{port}"),
            false => format!("{scheme}://{address}:{port}"),
        })
        .collect()
}

impl DemandSource for Fleet {
    fn demand(&self, service: &ObjectKey) -> Demand {
        self.lock().demand(service, Instant::now())
    }

    fn changes(&self) -> BoxStream<'static, Option<ObjectKey>> {
        unfold(self.changes.subscribe(), |mut changes| async move {
            match changes.recv().await {
                Ok(change) => Some((change, changes)),
                Err(broadcast::error::RecvError::Lagged(_)) => Some((None, changes)),
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(gateway: &str, in_flight: u64, requests: u64, integral: f64) -> Snapshot {
        Snapshot {
            gateway: gateway.to_owned(),
            services: vec![ServiceDemand {
                namespace: "n".to_owned(),
                name: "s".to_owned(),
                in_flight,
                requests_total: requests,
                idle_seconds: Some(3.0),
                concurrency_seconds: integral,
                ..ServiceDemand::default()
            }],
            ..Snapshot::default()
        }
    }

    #[test]
    fn gateways_are_summed_and_never_fall() {
        let key = ObjectKey::new("n", "s");
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        let mut state = State::default();
        assert_eq!(
            state.demand(&key, start).idle_for,
            Some(Duration::ZERO),
            "nobody is heard yet"
        );
        state.hear("a", said("one", 2, 10, 5.0), start);
        state.hear("b", said("two", 0, 4, 1.0), start);
        let demand = state.demand(&key, after(1));
        assert_eq!((demand.in_flight, demand.requests_total), (2, 14));
        assert_eq!(
            demand.concurrency_seconds,
            Some(8.0),
            "2 go on for a second"
        );
        // Another process at the same address starts from nothing.
        state.hear("a", said("three", 0, 1, 0.5), after(2));
        let demand = state.demand(&key, after(2));
        assert_eq!(demand.requests_total, 15);
        assert_eq!(demand.idle_for, Some(Duration::from_secs(3)));
        state.retire("b");
        assert_eq!(state.demand(&key, after(2)).requests_total, 15);
    }

    #[test]
    fn a_silent_gateway_lets_nothing_sleep_for_a_while() {
        let key = ObjectKey::new("n", "s");
        let start = Instant::now();
        let mut state = State::default();
        state.hear("a", said("one", 1, 1, 0.0), start);
        state.hear("b", said("two", 0, 1, 0.0), start);
        state.lose("a");
        let soon = state.demand(&key, start + Duration::from_secs(10));
        assert_eq!((soon.in_flight, soon.idle_for), (1, Some(Duration::ZERO)));
        state.hear("b", said("two", 0, 1, 0.0), start + LOST);
        let later = state.demand(&key, start + LOST);
        assert_eq!(later.in_flight, 0);
        assert_eq!(later.idle_for, Some(Duration::from_secs(3)));
    }

    #[test]
    fn endpoints_have_the_scheme_of_their_port() {
        let slice = |name: &str, protocol: Option<&str>| {
            let json = serde_json::json!({
                "addressType": "IPv4",
                "metadata": {"name": "a"},
                "ports": [{"name": "metrics", "port": 1}, {"name": name, "port": 2, "appProtocol": protocol}],
                "endpoints": [{"addresses": ["10.0.0.1"]}, {"addresses": ["fd00::1"], "conditions": {"ready": false}}],
            });
            let found = urls(&serde_json::from_value(json).unwrap());
            found.into_iter().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(slice("http", None), "http://10.0.0.1:2");
        assert_eq!(slice("https", None), "https://10.0.0.1:2");
        assert_eq!(slice("http", Some("https")), "https://10.0.0.1:2");
        assert_eq!(slice("other", None), "http://10.0.0.1:1");
    }

    #[test]
    fn gateways_are_named() {
        let service: Gateways = "service/ns/gateway".parse().unwrap();
        assert!(matches!(service, Gateways::Service { name, .. } if name == "gateway"));
        let urls: Gateways = "http://a:1, http://b:2/".parse().unwrap();
        let expected = ["http://a:1", "http://b:2"].map(str::to_owned);
        assert_eq!(urls, Gateways::Urls(expected.into()));
        for wrong in ["", "service/x", "a:1"] {
            assert!(wrong.parse::<Gateways>().is_err(), "{wrong}");
        }
    }
}
