//! Carrying a decision out: claims, bindings, evictions. What was decided is
//! assumed at once; many requests go out side by side, and what the server
//! refuses is taken back.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::{AllocationResult, ResourceClaim};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::MANAGER;
use super::assumed::Annotations;
use super::decide::{Bind, Decision, Preemption};
use super::known::Known;
use super::pod::Pod;
use super::status::{Events, Note, Sayings};
use super::stores::Stores;
use super::view::View;
use crate::key::ObjectKey;

/// Keeps a claim while it has devices (Kubernetes' own name).
pub(crate) const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// How often a write is tried again that others were faster with.
const ATTEMPTS: usize = 4;

/// Why a step was not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// Gone, or somebody was faster: the watch tells.
    #[error("{0}")]
    Overtaken(String),
    /// The server refused or could not be reached.
    #[error("{doing}: {error}")]
    Api {
        doing: String,
        #[source]
        error: Box<kube::Error>,
    },
}

pub(crate) fn failed(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Failure {
    let doing = doing.into();
    move |error| match &error {
        kube::Error::Api(status) if matches!(status.code, 404 | 409) => {
            Failure::Overtaken(format!("{doing}: {}", status.message))
        }
        _ => Failure::Api {
            doing,
            error: Box::new(error),
        },
    }
}

/// Carries decisions out.
pub(crate) struct Carrier {
    hands: Arc<Hands>,
    tasks: TaskTracker,
    stop: CancellationToken,
    sayings: tokio::sync::Mutex<Sayings>,
}

/// What every task works with.
struct Hands {
    client: kube::Client,
    stores: Arc<Stores>,
    /// Requests at the same time.
    requests: Semaphore,
    events: mpsc::Sender<Note>,
}

impl Carrier {
    pub(crate) fn new(client: kube::Client, stores: Arc<Stores>, requests: usize) -> Self {
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        let (sender, events) = Events::channel(client.clone());
        let stopped = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = events.run() => {}
            }
        });
        Self {
            hands: Arc::new(Hands {
                client: client.clone(),
                stores: Arc::clone(&stores),
                requests: Semaphore::new(requests.max(1)),
                events: sender,
            }),
            tasks,
            stop,
            sayings: tokio::sync::Mutex::new(Sayings::new(client, stores)),
        }
    }

    /// Ends what is under way.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
        self.tasks.close();
    }

    /// Sets a decision to work. Returns when to look again, if at some moment.
    pub(crate) async fn carry_out(&self, view: &View, decision: Decision) -> Option<Duration> {
        for bind in decision.binds {
            self.hands.assume(&bind);
            let hands = Arc::clone(&self.hands);
            self.spawn(async move { hands.bind(bind).await });
        }
        for preemption in decision.preemptions {
            self.hands.assume_promises(&preemption);
            let hands = Arc::clone(&self.hands);
            self.spawn(async move { hands.preempt(preemption).await });
        }
        for pod in decision.unpromised {
            self.hands.stores.assumed.promised(&pod, None);
            let hands = Arc::clone(&self.hands);
            self.spawn(async move {
                if let Err(error) = hands.nominate(&pod, None).await {
                    tracing::debug!(%error, "a promise was not taken back");
                }
            });
        }
        for claim in decision.release {
            let hands = Arc::clone(&self.hands);
            self.spawn(async move { hands.release(&claim).await });
        }
        let mut sayings = self.sayings.lock().await;
        sayings.say(view, decision.waits, &self.hands.events).await
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }
}

impl Hands {
    /// So that nothing is given twice while it is written.
    fn assume(&self, bind: &Bind) {
        self.stores
            .assumed
            .bound(&bind.pod, &bind.node, &bind.annotations);
        for (key, allocation) in &bind.allocations {
            self.stores.assumed.given(key, allocation);
        }
    }

    /// So that nobody else is ended for the same.
    fn assume_promises(&self, preemption: &Preemption) {
        for (pod, node) in &preemption.beneficiaries {
            self.stores.assumed.promised(pod, Some(node));
        }
        for victim in &preemption.victims {
            self.stores.assumed.goes(victim);
        }
    }

    async fn bind(&self, bind: Bind) {
        let Ok(_permit) = self.requests.acquire().await else {
            return;
        };
        let Bind {
            pod,
            node,
            allocations,
            allocated,
            annotations,
        } = bind;
        let mut done = Vec::new();
        let mut outcome = Ok(());
        for (key, allocation) in &allocations {
            outcome = self.allocate(key, allocation, &pod).await;
            if outcome.is_err() {
                break;
            }
            done.push(key);
        }
        if outcome.is_ok() {
            for key in &allocated {
                outcome = self.reserve(key, &pod).await;
                if outcome.is_err() {
                    break;
                }
            }
        }
        if outcome.is_ok() {
            outcome = self.bind_pod(&pod, &node, &annotations).await;
        }
        match outcome {
            Ok(()) => {
                let (namespace, name) = (pod.namespace(), pod.name());
                tracing::info!(namespace, pod = name, node, "bound");
                let message = format!("assigned {namespace}/{name} to {node}");
                // A note that finds no room is not told: binding goes first.
                let _ = self
                    .events
                    .try_send(Note::of(&pod, "Scheduled", message, false));
            }
            Err(error) => {
                match &error {
                    Failure::Overtaken(_) => tracing::info!(%error, "another was faster"),
                    Failure::Api { .. } => tracing::warn!(%error, "not bound; tried again"),
                }
                // Where only the answer was lost, the pod runs with its devices.
                if self.refresh_pod(&pod).await {
                    for key in done {
                        self.release(key).await;
                    }
                }
                for (key, _) in &allocations {
                    self.refresh_claim(key).await;
                    self.stores.assumed.told_of_claim(key);
                }
                self.stores.assumed.not_bound(&pod);
                self.stores.touch();
            }
        }
    }

    async fn bind_pod(
        &self,
        pod: &Pod,
        node: &str,
        annotations: &Annotations,
    ) -> Result<(), Failure> {
        let (namespace, name) = (pod.namespace(), pod.name());
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {"name": name, "namespace": namespace, "uid": pod.uid(), "annotations": annotations},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let doing = || format!("binding pod {namespace}/{name} to {node}");
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/binding");
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(binding.to_string().into_bytes())
            .map_err(|error| failed(doing())(kube::Error::HttpError(error)))?;
        self.client
            .request::<Value>(request)
            .await
            .map(drop)
            .map_err(failed(doing()))
    }

    /// Gives a claim its devices, if nobody changed it since it was decided on.
    async fn allocate(
        &self,
        key: &ObjectKey,
        allocation: &AllocationResult,
        pod: &Pod,
    ) -> Result<(), Failure> {
        let doing = || format!("allocating ResourceClaim {key}");
        let Some(claim) = self.stores.claims.get(key) else {
            return Err(Failure::Overtaken(format!("{}: it is gone", doing())));
        };
        let status = claim.object.status.as_ref();
        if status.is_some_and(|status| status.allocation.is_some()) {
            return Err(Failure::Overtaken(format!("{}: it has devices", doing())));
        }
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut version = claim.object.metadata.resource_version.clone();
        let finalizers = claim.object.metadata.finalizers.clone().unwrap_or_default();
        if !finalizers.iter().any(|one| one == FINALIZER) {
            let mut finalizers = finalizers;
            finalizers.push(FINALIZER.to_owned());
            let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
            let written = api
                .patch(&key.name, &parameters(), &Patch::Merge(&patch))
                .await
                .map_err(failed(doing()))?;
            let raced = written.status.as_ref();
            if raced.is_some_and(|status| status.allocation.is_some()) {
                return Err(Failure::Overtaken(format!("{}: it has devices", doing())));
            }
            version = written.metadata.resource_version;
        }
        let users = claim
            .object
            .status
            .as_ref()
            .and_then(|status| status.reserved_for.clone());
        let users = with_user(users, pod);
        let patch = json!({
            "metadata": {"resourceVersion": version},
            "status": {"allocation": allocation, "reservedFor": users},
        });
        let written = api
            .patch_status(&key.name, &parameters(), &Patch::Merge(&patch))
            .await
            .map_err(failed(doing()))?;
        self.stores.claims.offer(known(written, &claim));
        self.stores.assumed.told_of_claim(key);
        Ok(())
    }

    /// Counts a pod among the users of a claim that has devices.
    async fn reserve(&self, key: &ObjectKey, pod: &Pod) -> Result<(), Failure> {
        let doing = || format!("reserving ResourceClaim {key} for pod {}", pod.key());
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut last = None;
        for _ in 0..ATTEMPTS {
            let claim = api.get(&key.name).await.map_err(failed(doing()))?;
            let status = claim.status.unwrap_or_default();
            if status.allocation.is_none() {
                return Err(Failure::Overtaken(format!(
                    "{}: its devices are gone",
                    doing()
                )));
            }
            let users = status.reserved_for.unwrap_or_default();
            if users.iter().any(|user| user.uid == pod.uid()) {
                return Ok(());
            }
            let patch = json!({
                "metadata": {"resourceVersion": claim.metadata.resource_version},
                "status": {"reservedFor": with_user(Some(users), pod)},
            });
            let written = api
                .patch_status(&key.name, &parameters(), &Patch::Merge(&patch))
                .await;
            match written {
                Ok(_) => return Ok(()),
                Err(kube::Error::Api(status)) if status.code == 409 => {
                    last = Some(kube::Error::Api(status));
                }
                Err(error) => return Err(failed(doing())(error)),
            }
        }
        let refused = last.map(|error| error.to_string()).unwrap_or_default();
        Err(Failure::Overtaken(format!("{}: {refused}", doing())))
    }

    /// Takes devices back that nobody uses.
    async fn release(&self, key: &ObjectKey) {
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        let Ok(Some(claim)) = api.get_opt(&key.name).await else {
            return;
        };
        let finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
        let patch = json!({
            "metadata": {"resourceVersion": claim.metadata.resource_version},
            "status": {"allocation": null, "reservedFor": null},
        });
        match api
            .patch_status(&key.name, &parameters(), &Patch::Merge(&patch))
            .await
        {
            Ok(freed) => {
                let kept: Vec<&String> =
                    finalizers.iter().filter(|one| *one != FINALIZER).collect();
                let patch = json!({"metadata": {
                    "resourceVersion": freed.metadata.resource_version, "finalizers": kept}});
                // Who allocates it again puts the finalizer back.
                let _ = api
                    .patch(&key.name, &parameters(), &Patch::Merge(&patch))
                    .await;
                tracing::info!(claim = %key, "devices taken back");
            }
            Err(error) => tracing::debug!(claim = %key, %error, "devices not taken back"),
        }
        self.refresh_claim(key).await;
        self.stores.touch();
    }

    /// Room is made: the place is promised, those who must go are asked to.
    async fn preempt(&self, preemption: Preemption) {
        for (pod, node) in &preemption.beneficiaries {
            if let Err(error) = self.nominate(pod, Some(node)).await {
                tracing::info!(%error, "the place was not promised, nobody is ended");
                return self.call_off(&preemption).await;
            }
        }
        for victim in &preemption.victims {
            if let Err(error) = self.evict(victim, &preemption.reason).await {
                tracing::warn!(pod = %victim.key(), %error, "not evicted");
                // Who was evicted already goes; the rest is decided anew.
                return self.call_off(&preemption).await;
            }
        }
        self.stores.touch();
    }

    /// Takes back what was assumed of a preemption.
    async fn call_off(&self, preemption: &Preemption) {
        for (pod, _) in &preemption.beneficiaries {
            let _ = self.nominate(pod, None).await;
        }
        for victim in &preemption.victims {
            self.refresh_pod(victim).await;
            self.stores.assumed.stays(victim);
        }
        self.stores.touch();
    }

    /// Promises a place, or takes the promise back.
    async fn nominate(&self, pod: &Pod, node: Option<&str>) -> Result<(), Failure> {
        let doing = || format!("promising pod {} a place", pod.key());
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        let patch = json!({"metadata": {"uid": pod.uid()}, "status": {"nominatedNodeName": node}});
        let written = api
            .patch_status(pod.name(), &parameters(), &Patch::Merge(&patch))
            .await
            .map_err(failed(doing()));
        if let Ok(written) = &written {
            self.stores.pods.offer(written.clone());
        }
        self.stores.assumed.told_of_promise(pod);
        written.map(drop)
    }

    /// Ends a pod with its grace period, where the disruption budgets allow it.
    async fn evict(&self, pod: &Pod, reason: &str) -> Result<(), Failure> {
        let (namespace, name) = (pod.namespace(), pod.name());
        let doing = || format!("evicting pod {namespace}/{name}");
        let _ = self
            .events
            .try_send(Note::of(pod, "Preempted", reason.to_owned(), false));
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let now = crate::conditions::whole_second(Timestamp::now());
        let condition = json!({"status": {"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{MANAGER}: {reason}"), "lastTransitionTime": now.to_string()}]}});
        let told = api
            .patch_status(name, &parameters(), &Patch::Strategic(&condition))
            .await;
        told.map_err(failed(doing()))?;
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": name, "namespace": namespace},
            "deleteOptions": {"preconditions": {"uid": pod.uid()}},
        });
        let path = format!("/api/v1/namespaces/{namespace}/pods/{name}/eviction");
        let request = http::Request::post(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(eviction.to_string().into_bytes())
            .map_err(|error| failed(doing())(kube::Error::HttpError(error)))?;
        self.client
            .request::<Value>(request)
            .await
            .map(drop)
            .map_err(failed(doing()))
    }

    async fn refresh_claim(&self, key: &ObjectKey) {
        let api: Api<Known<ResourceClaim>> = Api::namespaced(self.client.clone(), &key.namespace);
        if let Ok(Some(claim)) = api.get_opt(&key.name).await {
            self.stores.claims.offer(claim);
        }
    }

    /// Reads a pod anew; whether it is known to have no node.
    async fn refresh_pod(&self, pod: &Pod) -> bool {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), pod.namespace());
        match api.get_opt(pod.name()).await {
            Ok(Some(found)) => {
                let waits = found.node.is_none() || found.uid() != pod.uid();
                self.stores.pods.offer(found);
                waits
            }
            Ok(None) => true,
            // The watch tells.
            Err(_) => false,
        }
    }
}

fn with_user(
    users: Option<Vec<k8s_openapi::api::resource::v1::ResourceClaimConsumerReference>>,
    pod: &Pod,
) -> Value {
    let mut users = users.unwrap_or_default();
    if !users.iter().any(|user| user.uid == pod.uid()) {
        users.push(
            k8s_openapi::api::resource::v1::ResourceClaimConsumerReference {
                api_group: None,
                name: pod.name().to_owned(),
                resource: "pods".to_owned(),
                uid: pod.uid().to_owned(),
            },
        );
    }
    json!(users)
}

/// What was written, with what is not known of it.
fn known(written: ResourceClaim, before: &Known<ResourceClaim>) -> Known<ResourceClaim> {
    Known {
        object: written,
        unknown: before.unknown.clone(),
    }
}

pub(crate) fn parameters() -> PatchParams {
    PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    }
}
