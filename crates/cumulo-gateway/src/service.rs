//! One service at run time: its places, its queue, its replicas.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::HeaderValue;
use parking_lot::Mutex;
use tokio::sync::{broadcast, oneshot};
use tokio::time::Instant;

use crate::dispatch::{Admission, Counts, Dispatcher, Grant, PENALTY, ReplicaId, Ticket};
use crate::handle::Demand;
use crate::metrics::ServiceMetrics;
use crate::options::Options;
use crate::pool::Pool;
use crate::refusal::Refusal;
use crate::table::{Route, ServiceKey, Target};

/// Demand changes that aren't urgent are told at most this often.
const TELL_INTERVAL: Duration = Duration::from_secs(1);

/// A place to send requests to.
pub(crate) struct Replica {
    id: ReplicaId,
    target: Target,
    pub(crate) host: HeaderValue,
    pub(crate) pool: Pool,
}

impl Replica {
    pub(crate) fn pod(&self) -> &str {
        &self.target.pod
    }
}

struct State {
    dispatcher: Dispatcher,
    waiters: HashMap<Ticket, oneshot::Sender<Lease>>,
    replicas: Vec<Arc<Replica>>,
    next_replica: ReplicaId,
    waiting_for: Option<String>,
    model_version: Option<String>,
    last_request: Option<SystemTime>,
    told_at: Duration,
    told_concurrency: usize,
    deleted: bool,
}

/// A service that requests can be sent to.
pub(crate) struct Service {
    pub(crate) key: ServiceKey,
    pub(crate) metrics: ServiceMetrics,
    options: Arc<Options>,
    start: Instant,
    changes: broadcast::Sender<ServiceKey>,
    state: Mutex<State>,
}

/// A place at a replica. Dropping it gives the place to the next who waits.
pub(crate) struct Lease {
    service: Arc<Service>,
    pub(crate) replica: Arc<Replica>,
}

impl Lease {
    /// The replica could not be reached: others should try another first.
    pub(crate) fn failed(&self) {
        let now = self.service.now();
        let mut state = self.service.state.lock();
        state.dispatcher.failed(now, self.replica.id);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let granted = {
            let now = self.service.now();
            let mut state = self.service.state.lock();
            state.last_request = Some(SystemTime::now());
            let grants = state.dispatcher.release(now, self.replica.id);
            self.service.tell(&mut state, now);
            self.service.leases(&mut state, grants)
        };
        deliver(granted);
    }
}

type Granted = Vec<(oneshot::Sender<Lease>, Lease)>;

/// Hands leases out, with no lock held: a lease whose receiver is gone is
/// dropped here and locks again.
fn deliver(granted: Granted) {
    for (sender, lease) in granted {
        drop(sender.send(lease));
    }
}

/// A place in the queue. Dropping it leaves the queue.
struct Waiting<'a> {
    service: &'a Service,
    ticket: Ticket,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let now = self.service.now();
        let mut state = self.service.state.lock();
        if state.waiters.remove(&self.ticket).is_some() {
            state.dispatcher.cancel(now, self.ticket);
            self.service.tell(&mut state, now);
        }
    }
}

impl Service {
    pub(crate) fn new(
        key: ServiceKey,
        options: Arc<Options>,
        start: Instant,
        changes: broadcast::Sender<ServiceKey>,
    ) -> Arc<Self> {
        let dispatcher = Dispatcher::new(options.concurrency_per_replica, options.queue_limit);
        Arc::new(Self {
            key,
            metrics: ServiceMetrics::default(),
            options,
            start,
            changes,
            state: Mutex::new(State {
                dispatcher,
                waiters: HashMap::new(),
                replicas: Vec::new(),
                next_replica: 0,
                waiting_for: None,
                model_version: None,
                last_request: None,
                told_at: Duration::ZERO,
                told_concurrency: 0,
                deleted: false,
            }),
        })
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    /// Takes a new route over.
    pub(crate) fn update(self: &Arc<Self>, route: Route) {
        let granted = {
            let now = self.now();
            let mut state = self.state.lock();
            let mut replicas = Vec::with_capacity(route.targets.len());
            for target in route.targets {
                let known = state.replicas.iter().find(|known| known.target == target);
                let replica = match known {
                    Some(known) => known.clone(),
                    None => {
                        state.next_replica += 1;
                        let host = target.address.to_string();
                        Arc::new(Replica {
                            id: state.next_replica,
                            host: HeaderValue::from_str(&host)
                                .unwrap_or(HeaderValue::from_static("localhost")),
                            pool: Pool::new(target.address, self.options.idle_connections),
                            target,
                        })
                    }
                };
                replicas.push(replica);
            }
            let ids: Vec<ReplicaId> = replicas.iter().map(|replica| replica.id).collect();
            state.replicas = replicas;
            state.waiting_for = route.waiting_for;
            state.model_version = route.model_version;
            let grants = state.dispatcher.set_replicas(now, &ids);
            self.leases(&mut state, grants)
        };
        deliver(granted);
    }

    /// The service is gone: nobody waits for it any more.
    pub(crate) fn delete(&self) {
        let mut state = self.state.lock();
        state.deleted = true;
        state.replicas.clear();
        let now = self.now();
        state.dispatcher.set_replicas(now, &[]);
        let waiters = std::mem::take(&mut state.waiters);
        for ticket in waiters.keys() {
            state.dispatcher.cancel(now, *ticket);
        }
        drop(state);
        drop(waiters);
    }

    fn lease(self: &Arc<Self>, state: &State, id: ReplicaId) -> Option<Lease> {
        let replica = state.replicas.iter().find(|replica| replica.id == id)?;
        Some(Lease {
            service: self.clone(),
            replica: replica.clone(),
        })
    }

    fn leases(self: &Arc<Self>, state: &mut State, grants: Vec<Grant>) -> Granted {
        grants
            .into_iter()
            .filter_map(|grant| {
                let lease = self.lease(state, grant.replica)?;
                Some((state.waiters.remove(&grant.ticket)?, lease))
            })
            .collect()
    }

    /// Tells autoscaling that demand changed, when it matters: at once when
    /// somebody begins to wait for the first replica, else not too often.
    fn tell(&self, state: &mut State, now: Duration) {
        let counts = state.dispatcher.counts();
        let concurrency = counts.in_flight + counts.queued;
        let urgent = counts.replicas == 0 && counts.queued > 0 && state.told_concurrency == 0;
        let doubled = concurrency >= 2 * state.told_concurrency.max(1);
        let began_or_ended = (concurrency == 0) != (state.told_concurrency == 0);
        let due = now.saturating_sub(state.told_at) >= TELL_INTERVAL || state.told_at.is_zero();
        if urgent || ((doubled || began_or_ended) && due) {
            state.told_at = now;
            state.told_concurrency = concurrency;
            // Nobody listening is no error.
            let _ = self.changes.send(self.key.clone());
        } else if concurrency == 0 {
            state.told_concurrency = 0;
        }
    }

    /// Waits for a place until `deadline`. `again` is a request that had one.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        mut again: bool,
        since: Instant,
        deadline: Instant,
    ) -> Result<Lease, Refusal> {
        loop {
            let (ticket, mut receiver, soon) = {
                let now = self.now();
                let mut state = self.state.lock();
                if state.deleted {
                    return Err(self.unknown());
                }
                let admission = if again {
                    state.dispatcher.readmit(now)
                } else {
                    state.last_request = Some(SystemTime::now());
                    state.dispatcher.admit(now)
                };
                self.tell(&mut state, now);
                match admission {
                    Admission::Granted(id) => {
                        let Some(lease) = self.lease(&state, id) else {
                            return Err(self.unknown());
                        };
                        return Ok(lease);
                    }
                    Admission::Full { replicas } => return Err(self.full(&state, replicas)),
                    Admission::Queued(ticket) => {
                        let (sender, receiver) = oneshot::channel();
                        state.waiters.insert(ticket, sender);
                        (ticket, receiver, state.dispatcher.penalised(now))
                    }
                }
            };
            let waiting = Waiting {
                service: self,
                ticket,
            };
            let until = match soon {
                true => deadline.min(Instant::now() + PENALTY),
                false => deadline,
            };
            match tokio::time::timeout_at(until, &mut receiver).await {
                Ok(Ok(lease)) => return Ok(lease),
                Ok(Err(_)) => return Err(self.unknown()),
                Err(_) => {
                    drop(waiting);
                    // It may have been granted between the two.
                    if let Ok(lease) = receiver.try_recv() {
                        return Ok(lease);
                    }
                    if Instant::now() >= deadline {
                        return Err(Refusal::HoldExpired {
                            key: self.key.clone(),
                            waited: since.elapsed(),
                            waiting_for: self.waiting_for(&self.state.lock()),
                        });
                    }
                    again = true;
                }
            }
        }
    }

    fn unknown(&self) -> Refusal {
        Refusal::UnknownService {
            key: self.key.clone(),
            suggestion: None,
        }
    }

    fn full(&self, state: &State, replicas: usize) -> Refusal {
        let limit = self.options.queue_limit;
        match replicas {
            0 => Refusal::HoldFull {
                key: self.key.clone(),
                limit,
                waiting_for: self.waiting_for(state),
            },
            _ => Refusal::Busy {
                key: self.key.clone(),
                replicas,
                limit,
            },
        }
    }

    fn waiting_for(&self, state: &State) -> String {
        let replicas = state.replicas.len();
        match (&state.waiting_for, replicas) {
            (Some(waiting_for), _) => waiting_for.clone(),
            (None, 0) => "a replica to become ready".into(),
            (None, _) => format!("a free place at one of its {replicas} replicas"),
        }
    }

    /// What the service waits for, as told to a client that asks whether it is ready.
    pub(crate) fn readiness(&self) -> Result<(), String> {
        let state = self.state.lock();
        match state.replicas.is_empty() {
            false => Ok(()),
            true => Err(self.waiting_for(&state)),
        }
    }

    pub(crate) fn model_version(&self) -> Option<String> {
        self.state.lock().model_version.clone()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.state.lock().dispatcher.counts()
    }

    /// The demand of this moment.
    pub(crate) fn demand(&self) -> Demand {
        let now = self.now();
        let mut state = self.state.lock();
        let counts = state.dispatcher.counts();
        Demand {
            in_flight: counts.in_flight,
            queued: counts.queued,
            requests_total: counts.requests,
            ready_replicas: counts.replicas,
            last_request: state.last_request,
            concurrency_seconds: state.dispatcher.window().total(now),
        }
    }

    /// Average concurrency and requests per second over the last `window`.
    pub(crate) fn average(&self, window: Duration) -> (f64, f64) {
        let now = self.now();
        self.state.lock().dispatcher.window().over(now, window)
    }
}
