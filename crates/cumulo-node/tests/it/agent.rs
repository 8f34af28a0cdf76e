//! The agent against the embedded API server, in one process.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cumulo_node::{Agent, Handle, LogOptions, Options};
use futures::StreamExt;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Node, Pod};
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bench::PATIENCE;

pub(crate) struct Cluster {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) client: Client,
    server: JoinHandle<()>,
    shutdown: CancellationToken,
}

pub(crate) struct RunningAgent {
    pub(crate) handle: Handle,
    task: JoinHandle<()>,
    shutdown: CancellationToken,
}

impl Cluster {
    pub(crate) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = cumulo_apiserver::Options::new(folder.path().join("api"));
        let (server, handle) = cumulo_apiserver::Server::open(options).await.unwrap();
        let shutdown = CancellationToken::new();
        let server = tokio::spawn(server.run(shutdown.clone()));
        Self {
            client: Client::new(handle.client_service(), "default"),
            folder,
            server,
            shutdown,
        }
    }

    fn agent(&self) -> RunningAgent {
        self.agent_with(None)
    }

    /// An agent with the devices of a recording.
    pub(crate) fn agent_with(&self, devices: Option<PathBuf>) -> RunningAgent {
        self.agent_as(|options| options.devices = devices)
    }

    /// An agent with other settings.
    pub(crate) fn agent_as(&self, change: impl FnOnce(&mut Options)) -> RunningAgent {
        let mut options = Options::new(self.folder.path(), "/bin/echo");
        options.mps = None;
        options.device_interval = Duration::from_millis(50);
        options.node_name = "laptop".to_owned();
        options.supervisor = vec![env!("CARGO_BIN_EXE_cumulo-shim").into()];
        change(&mut options);
        let agent = Agent::new(options, self.client.clone()).unwrap();
        let handle = agent.handle();
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move { agent.run(stop).await.unwrap() });
        RunningAgent {
            handle,
            task,
            shutdown,
        }
    }

    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::default_namespaced(self.client.clone())
    }

    pub(crate) async fn create(&self, pod: Value) {
        let pod = serde_json::from_value(pod).unwrap();
        self.pods()
            .create(&PostParams::default(), &pod)
            .await
            .unwrap();
    }

    /// Polls the pod until it is as wanted; `None` stands for its absence.
    pub(crate) async fn until(
        &self,
        name: &str,
        wanted: impl Fn(Option<&Pod>) -> bool,
    ) -> Option<Pod> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let pod = self.pods().get_opt(name).await.unwrap();
            if wanted(pod.as_ref()) {
                return pod;
            }
            assert!(Instant::now() < deadline, "not reached: {pod:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        self.server.await.unwrap();
    }
}

impl RunningAgent {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

pub(crate) fn phase(pod: Option<&Pod>) -> Option<&str> {
    pod?.status.as_ref()?.phase.as_deref()
}

pub(crate) fn is_ready(pod: Option<&Pod>) -> bool {
    pod.and_then(|pod| pod.status.as_ref()?.conditions.as_ref())
        .is_some_and(|conditions| {
            conditions
                .iter()
                .any(|condition| condition.type_ == "Ready" && condition.status == "True")
        })
}

pub(crate) fn pod(name: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "nodeName": "laptop",
            "restartPolicy": "Never",
            "containers": [{
                "name": "main",
                "image": "cumulo.dev/runtime:latest",
                "command": ["sh", "-c", script],
                "env": [{"name": "SETTING", "valueFrom": {"configMapKeyRef": {"name": "settings", "key": "a", "optional": true}}}],
            }],
        },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_goes_its_way_through_the_api() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent();
    let settings: Api<ConfigMap> = Api::default_namespaced(cluster.client.clone());
    let map = serde_json::from_value(json!({"metadata": {"name": "settings"}, "data": {"a": "b"}}));
    settings
        .create(&PostParams::default(), &map.unwrap())
        .await
        .unwrap();

    cluster
        .create(pod(
            "short",
            "echo $SETTING > $CUMULO_TERMINATION_LOG; echo said",
        ))
        .await;
    let done = cluster
        .until("short", |pod| phase(pod) == Some("Succeeded"))
        .await
        .unwrap();
    let status = done.status.unwrap();
    let end = status.container_statuses.unwrap()[0].state.clone().unwrap();
    assert_eq!(end.terminated.unwrap().message.as_deref(), Some("b"));
    let log = agent
        .handle
        .logs("default", "short", "main", LogOptions::default())
        .unwrap()
        .map(|piece| piece.unwrap().to_vec())
        .concat()
        .await;
    assert_eq!(log, b"said\n");

    // The node is there, and alive.
    let nodes: Api<Node> = Api::all(cluster.client.clone());
    let node = nodes.get("laptop").await.unwrap();
    assert_eq!(
        node.metadata.labels.unwrap()["cumulo.dev/runtime"],
        "process"
    );
    let node = node.status.unwrap();
    assert_eq!(node.conditions.unwrap()[0].status, "True");
    assert_eq!(node.capacity.unwrap()["pods"].0, "110");
    let leases: Api<Lease> = Api::namespaced(cluster.client.clone(), "kube-node-lease");
    let lease = leases.get("laptop").await.unwrap().spec.unwrap();
    assert_eq!(lease.holder_identity.as_deref(), Some("laptop"));

    // Deleting a running pod is graceful, and leaves nothing.
    cluster
        .create(pod(
            "long",
            "trap 'exit 0' TERM; while :; do sleep 0.05; done",
        ))
        .await;
    cluster.until("long", is_ready).await;
    cluster
        .pods()
        .delete("long", &DeleteParams::default())
        .await
        .unwrap();
    cluster.until("long", |pod| pod.is_none()).await;
    cluster
        .pods()
        .delete("short", &DeleteParams::default())
        .await
        .unwrap();
    cluster.until("short", |pod| pod.is_none()).await;
    let folder = cluster.folder.path().join("node/pods");
    crate::bench::eventually("the folders are gone", || {
        std::fs::read_dir(&folder).unwrap().count() == 0
    })
    .await;

    let events: Api<Event> = Api::default_namespaced(cluster.client.clone());
    let events = events.list(&ListParams::default()).await.unwrap();
    let started = events
        .iter()
        .filter(|event| event.reason.as_deref() == Some("Started"));
    assert_eq!(started.count(), 2);
    agent.stop().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_outlive_the_agent() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent();
    for name in ["stays", "ends", "goes"] {
        let script = if name == "ends" {
            "while [ ! -e go ]; do sleep 0.02; done"
        } else {
            "exec sleep 1000"
        };
        cluster.create(pod(name, script)).await;
    }
    let mut before = Vec::new();
    for name in ["stays", "ends", "goes"] {
        before.push(cluster.until(name, is_ready).await.unwrap());
    }
    agent.stop().await;
    // While no agent runs: one ends, one is deleted by force.
    let uid = before[1].metadata.uid.clone().unwrap();
    let go = cluster
        .folder
        .path()
        .join("node/pods")
        .join(uid)
        .join("containers/main/work/go");
    std::fs::write(go, "").unwrap();
    let force = DeleteParams {
        grace_period_seconds: Some(0),
        ..DeleteParams::default()
    };
    cluster.pods().delete("goes", &force).await.unwrap();
    // Times are in seconds: one that was forgotten is another by now.
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let agent = cluster.agent();
    cluster
        .until("ends", |pod| phase(pod) == Some("Succeeded"))
        .await;
    let after = cluster.until("stays", is_ready).await.unwrap();
    assert_eq!(before[0].status, after.status);
    assert_eq!(
        before[0].metadata.resource_version, after.metadata.resource_version,
        "nothing was written, as nothing changed"
    );
    let gone = cluster
        .folder
        .path()
        .join("node/pods")
        .join(before[2].metadata.uid.clone().unwrap());
    crate::bench::eventually("the forced pod is gone", || !gone.exists()).await;

    agent.handle.stop_all(Duration::from_secs(5)).await;
    agent.stop().await;
    cluster.end().await;
}

/// Prints how long a pod takes from its creation to ready, through the API.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn starting_is_quick() {
    let cluster = Cluster::new().await;
    let agent = cluster.agent();
    let mut times = Vec::new();
    for number in 0..20 {
        let name = format!("quick-{number}");
        let mut pod = pod(&name, "touch up; exec sleep 1000");
        pod["spec"]["terminationGracePeriodSeconds"] = json!(0);
        pod["spec"]["containers"][0]["readinessProbe"] =
            json!({"exec": {"command": ["test", "-e", "up"]}});
        let begun = Instant::now();
        cluster.create(pod).await;
        cluster.until(&name, is_ready).await;
        times.push(begun.elapsed());
    }
    times.sort();
    println!("created to ready: p50 {:?}, max {:?}", times[10], times[19]);
    // A hundred times what it takes; it guards against waiting for a period.
    assert!(times[10] < Duration::from_secs(5), "{times:?}");
    agent.handle.stop_all(Duration::ZERO).await;
    agent.stop().await;
    cluster.end().await;
}
