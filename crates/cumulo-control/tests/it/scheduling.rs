//! The scheduler against the embedded API server, and what goes wrong around it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use cumulo_control::{LeaderOptions, SchedulerOptions};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::api::resource::v1::{
    DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// A server, and schedulers that come and go.
struct Cluster {
    client: Client,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    _folder: tempfile::TempDir,
}

/// A scheduler that runs.
struct Scheduler {
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Scheduler {
    async fn stop(self) {
        self.stop.cancel();
        self.running.await.unwrap();
    }

    /// Ends it at once, whatever it is doing.
    async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = cumulo_apiserver::Options::new(folder.path());
        let (server, handle) = cumulo_apiserver::Server::open(options).await.unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        let client = Client::new(handle.client_service(), "default");
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in cumulo_api::crds() {
            crds.create(&PostParams::default(), &crd).await.unwrap();
        }
        let namespaces: Api<Namespace> = Api::all(client.clone());
        let namespace = read(json!({"metadata": {"name": "kube-system"}}));
        // It may be there already.
        let _ = namespaces.create(&PostParams::default(), &namespace).await;
        Self {
            client,
            shutdown,
            serving,
            _folder: folder,
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
    }

    fn scheduler(&self, leader: Option<LeaderOptions>) -> Scheduler {
        let stop = CancellationToken::new();
        let options = SchedulerOptions {
            default_scheduler: true,
            claim_controller: true,
            leader,
            ..SchedulerOptions::default()
        };
        let running = tokio::spawn(cumulo_control::run_scheduler(
            self.client.clone(),
            options,
            stop.clone(),
        ));
        Scheduler { stop, running }
    }

    fn all<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = ()>,
    {
        Api::all(self.client.clone())
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), "default")
    }

    async fn create<K>(&self, api: Api<K>, object: Value) -> K
    where
        K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Serialize + std::fmt::Debug,
    {
        api.create(&PostParams::default(), &read(object))
            .await
            .unwrap()
    }

    async fn node(&self, name: &str, cpu: &str) {
        self.create::<Node>(self.all(), json!({"metadata": {"name": name}}))
            .await;
        let status = json!({"status": {"allocatable": {"cpu": cpu, "memory": "64Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        self.all::<Node>()
            .patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    /// A node with GPUs, and the class of them.
    async fn gpus(&self, node: &str, count: usize) {
        let class = json!({"metadata": {"name": "gpu"}, "spec": {"selectors": [
            {"cel": {"expression": "device.driver == 'gpu.example.com'"}}]}});
        let _ = self
            .all::<DeviceClass>()
            .create(&PostParams::default(), &read(class))
            .await;
        let devices: Vec<Value> = (0..count)
            .map(|at| json!({"name": format!("gpu-{at}")}))
            .collect();
        self.create::<ResourceSlice>(
            self.all(),
            json!({"metadata": {"name": format!("{node}-gpus")}, "spec": {"driver": "gpu.example.com", "nodeName": node,
                "pool": {"name": node, "generation": 1, "resourceSliceCount": 1}, "devices": devices}}),
        )
        .await;
    }

    async fn claim(&self, name: &str) {
        let claim = json!({"metadata": {"name": name}, "spec": {"devices": {"requests": [
            {"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}});
        self.create::<ResourceClaim>(self.api(), claim).await;
    }

    async fn pod(&self, name: &str, cpu: &str, more: Value) -> Pod {
        let mut spec = json!({"containers": [{"name": "main", "image": "x",
            "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]});
        for (field, value) in more.as_object().unwrap() {
            spec[field] = value.clone();
        }
        self.create::<Pod>(
            self.api(),
            json!({"metadata": {"name": name}, "spec": spec}),
        )
        .await
    }

    async fn until<T>(&self, what: &str, found: impl AsyncFn(&Self) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(found) = found(self).await {
                return found;
            }
            if Instant::now() > deadline {
                let pods = self
                    .api::<Pod>()
                    .list(&ListParams::default())
                    .await
                    .unwrap();
                let said: Vec<_> = pods
                    .items
                    .iter()
                    .map(|pod| (&pod.metadata.name, node_of(pod), refusal(pod)))
                    .collect();
                panic!("never: {what}; {said:#?}");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn bound(&self, name: &str) -> String {
        self.until(&format!("{name} is bound"), async |cluster: &Self| {
            node_of(&cluster.api::<Pod>().get(name).await.ok()?)
        })
        .await
    }

    async fn says(&self, name: &str, text: &str) {
        self.until(&format!("{name} says {text:?}"), async |cluster: &Self| {
            let said = refusal(&cluster.api::<Pod>().get(name).await.ok()?)?;
            said.contains(text).then_some(())
        })
        .await;
    }

    /// Devices by the claim that has them.
    async fn given(&self) -> BTreeMap<String, Vec<String>> {
        let claims = self
            .api::<ResourceClaim>()
            .list(&ListParams::default())
            .await
            .unwrap();
        let mut given = BTreeMap::new();
        for claim in claims {
            let devices = claim
                .status
                .and_then(|status| status.allocation?.devices?.results);
            let devices = devices.unwrap_or_default().into_iter();
            let devices: Vec<_> = devices
                .map(|one| format!("{}/{}", one.pool, one.device))
                .collect();
            given.insert(claim.metadata.name.unwrap(), devices);
        }
        given
    }

    /// Changes a claim's status as a person might.
    async fn edit_claim(&self, name: &str, status: Value) {
        self.api::<ResourceClaim>()
            .patch_status(
                name,
                &PatchParams::default(),
                &Patch::Merge(&json!({"status": status})),
            )
            .await
            .unwrap();
    }
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn node_of(pod: &Pod) -> Option<String> {
    pod.spec
        .as_ref()?
        .node_name
        .clone()
        .filter(|node| !node.is_empty())
}

fn refusal(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|one| one.type_ == "PodScheduled" && one.status == "False")?;
    condition.message.clone()
}

fn uses(claim: &str) -> Value {
    json!({"resourceClaims": [{"name": "gpu", "resourceClaimName": claim}]})
}

fn allocation(node: &str, device: &str) -> Value {
    json!({"devices": {"results": [{"request": "gpu", "driver": "gpu.example.com", "pool": node, "device": device}]},
        "nodeSelector": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]}]}})
}

/// Takes part in an election that is decided quickly.
fn leader(identity: &str) -> LeaderOptions {
    LeaderOptions {
        duration: Duration::from_secs(1),
        deadline: Duration::from_millis(800),
        retry: Duration::from_millis(100),
        ..LeaderOptions::new("kube-system", "cumulo-scheduler", identity)
    }
}

/// Of two schedulers one leads, and no device and no room is given twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_schedulers_at_once() {
    let cluster = Cluster::start().await;
    for node in ["a", "b", "c"] {
        cluster.node(node, "8").await;
        cluster.gpus(node, 4).await;
    }
    let first = cluster.scheduler(Some(leader("one")));
    let second = cluster.scheduler(Some(leader("two")));
    let mut load: BTreeMap<String, usize> = BTreeMap::new();
    // Pods without devices would otherwise take the room beside the last of them.
    for (kind, devices) in [("g", true), ("p", false)] {
        for at in 0..12 {
            let mut more = json!({});
            if devices {
                cluster.claim(&format!("c{at}")).await;
                more = uses(&format!("c{at}"));
            }
            cluster.pod(&format!("{kind}{at}"), "1", more).await;
        }
        for at in 0..12 {
            let node = cluster.bound(&format!("{kind}{at}")).await;
            *load.entry(node).or_default() += 1;
        }
    }
    assert_eq!(
        load,
        BTreeMap::from([("a".into(), 8), ("b".into(), 8), ("c".into(), 8)])
    );
    let mut devices: Vec<String> = cluster.given().await.into_values().flatten().collect();
    devices.sort();
    assert_eq!(devices.len(), 12, "{devices:?}");
    devices.dedup();
    assert_eq!(devices.len(), 12, "each is given once");
    first.stop().await;
    second.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn preemption_promises_the_place_and_waits_for_the_end() {
    let cluster = Cluster::start().await;
    cluster.node("a", "2").await;
    let scheduler = cluster.scheduler(None);
    let class = json!({"metadata": {"name": "urgent"}, "value": 100});
    cluster.create::<PriorityClass>(cluster.all(), class).await;
    cluster.pod("low", "2", json!({})).await;
    cluster.bound("low").await;
    let urgent = json!({"priorityClassName": "urgent"});
    cluster.pod("high", "2", urgent).await;
    let api = cluster.api::<Pod>();
    cluster
        .until(
            "high is promised the node and low must go",
            async |cluster: &Cluster| {
                let api = cluster.api::<Pod>();
                let promised = api.get("high").await.ok()?.status?.nominated_node_name?;
                let low = api.get_opt("low").await.ok()?;
                let going = low.is_none_or(|low| low.metadata.deletion_timestamp.is_some());
                (promised == "a" && going).then_some(())
            },
        )
        .await;
    // The node agent's part: it has ended.
    let now = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    let _ = api.delete("low", &now).await;
    assert_eq!(cluster.bound("high").await, "a");
    scheduler.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_next_leads_when_the_first_falls_silent() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    let holder = async |cluster: &Cluster| {
        let api: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-system");
        api.get_opt("cumulo-scheduler")
            .await
            .unwrap()?
            .spec?
            .holder_identity
    };
    let first = cluster.scheduler(Some(leader("first")));
    cluster.pod("one", "1", json!({})).await;
    cluster.bound("one").await;
    let second = cluster.scheduler(Some(leader("second")));
    cluster.pod("two", "1", json!({})).await;
    cluster.bound("two").await;
    assert_eq!(holder(&cluster).await.as_deref(), Some("first"));
    first.kill().await;
    cluster.pod("three", "1", json!({})).await;
    cluster.bound("three").await;
    assert_eq!(holder(&cluster).await.as_deref(), Some("second"));
    // One that ends well leaves the Lease to the next.
    second.stop().await;
    assert_eq!(holder(&cluster).await.unwrap_or_default(), "");
    cluster.stop().await;
}

/// Killed after a claim got its devices and before the pod was bound: the next
/// start finishes it, or frees the devices where that cannot be.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_between_allocating_and_binding() {
    let cluster = Cluster::start().await;
    for node in ["a", "b"] {
        cluster.node(node, "8").await;
        cluster.gpus(node, 2).await;
    }
    for (claim, node, device) in [("c1", "b", "gpu-1"), ("c2", "gone", "gpu-0")] {
        cluster.claim(claim).await;
        let pod = cluster.pod(&format!("pod-{claim}"), "1", uses(claim)).await;
        let user = json!({"resource": "pods", "name": pod.metadata.name, "uid": pod.metadata.uid});
        cluster
            .edit_claim(
                claim,
                json!({"allocation": allocation(node, device), "reservedFor": [user]}),
            )
            .await;
    }
    let scheduler = cluster.scheduler(None);
    assert_eq!(cluster.bound("pod-c1").await, "b");
    let node = cluster.bound("pod-c2").await;
    let given = cluster.given().await;
    assert_eq!(given["c1"], ["b/gpu-1"]);
    assert!(given["c2"][0].starts_with(&node), "{given:?}");
    scheduler.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_devices_that_vanish_and_claims_edited_by_hand() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    cluster.gpus("a", 2).await;
    let scheduler = cluster.scheduler(None);
    // By hand: one device is given to a claim that nobody uses.
    cluster.claim("by-hand").await;
    cluster
        .edit_claim("by-hand", json!({"allocation": allocation("a", "gpu-0")}))
        .await;
    cluster.claim("c1").await;
    cluster.pod("p1", "1", uses("c1")).await;
    cluster.bound("p1").await;
    assert_eq!(cluster.given().await["c1"], ["a/gpu-1"]);
    cluster.claim("c2").await;
    cluster.pod("p2", "1", uses("c2")).await;
    cluster
        .says("p2", "has too few free devices of class gpu")
        .await;
    // By hand: a claim is given what another has. It is not given a third time.
    cluster
        .edit_claim("by-hand", json!({"allocation": allocation("a", "gpu-1")}))
        .await;
    cluster.bound("p2").await;
    assert_eq!(cluster.given().await["c2"], ["a/gpu-0"]);
    // The node and its devices go.
    cluster
        .all::<Node>()
        .delete("a", &DeleteParams::default())
        .await
        .unwrap();
    cluster
        .all::<ResourceSlice>()
        .delete("a-gpus", &DeleteParams::default())
        .await
        .unwrap();
    cluster.pod("late", "1", json!({})).await;
    cluster.says("late", "there are no nodes").await;
    cluster.node("b", "8").await;
    assert_eq!(cluster.bound("late").await, "b");
    scheduler.stop().await;
    cluster.stop().await;
}

/// A scheduler whose copies are old is refused by the server, not obeyed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn somebody_else_is_faster() {
    let cluster = Cluster::start().await;
    cluster.node("a", "1").await;
    cluster.node("b", "1").await;
    let scheduler = cluster.scheduler(None);
    // A race at every pod: the test binds each to b itself as soon as it is there.
    for at in 0..10 {
        let name = format!("p{at}");
        cluster.pod(&name, "100m", json!({})).await;
        let binding = json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": name, "namespace": "default"},
            "target": {"apiVersion": "v1", "kind": "Node", "name": "b"}});
        let request =
            http::Request::post(format!("/api/v1/namespaces/default/pods/{name}/binding"))
                .header("content-type", "application/json")
                .body(binding.to_string().into_bytes())
                .unwrap();
        let _ = cluster.client.request::<Value>(request).await;
    }
    let mut load: BTreeMap<String, usize> = BTreeMap::new();
    for at in 0..10 {
        *load
            .entry(cluster.bound(&format!("p{at}")).await)
            .or_default() += 1;
    }
    assert!(load.values().all(|pods| *pods <= 10));
    // What is free is known in the end: exactly what is left is given.
    cluster.pod("rest", "1100m", json!({})).await;
    cluster.says("rest", "no node has room").await;
    scheduler.stop().await;
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_are_made_from_templates_and_freed_at_the_end() {
    let cluster = Cluster::start().await;
    cluster.node("a", "8").await;
    cluster.gpus("a", 1).await;
    let scheduler = cluster.scheduler(None);
    let template = json!({"metadata": {"name": "one-gpu"}, "spec": {"spec": {"devices": {"requests": [
        {"name": "gpu", "exactly": {"deviceClassName": "gpu"}}]}}}});
    cluster
        .create::<ResourceClaimTemplate>(cluster.api(), template)
        .await;
    let uses = json!({"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}]});
    cluster.pod("first", "1", uses.clone()).await;
    cluster.bound("first").await;
    cluster.pod("second", "1", uses).await;
    cluster.says("second", "has too few free devices").await;
    // It ends well: its devices are the next one's.
    let done = json!({"status": {"phase": "Succeeded"}});
    cluster
        .api::<Pod>()
        .patch_status("first", &PatchParams::default(), &Patch::Merge(&done))
        .await
        .unwrap();
    cluster.bound("second").await;
    cluster
        .until("the first claim is gone", async |cluster: &Cluster| {
            let given = cluster.given().await;
            (given.len() == 1 && given.values().all(|devices| devices.len() == 1)).then_some(())
        })
        .await;
    scheduler.stop().await;
    cluster.stop().await;
}
