//! Pods that share a GPU of a recording: through a daemon that is a script here, and
//! under the watch over their memory.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cumulo_node::Options;
use cumulo_node::devices::watch::Response;
use k8s_openapi::api::core::v1::{Event, Pod, PodCondition};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::agent::{Cluster, is_ready, phase, pod};
use crate::bench::PATIENCE;

/// One H100, with these processes: number and GiB.
fn recording(folder: &Path, processes: &[(u32, u64)]) -> PathBuf {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/h100-8.json");
    let mut devices: Value =
        serde_json::from_str(&std::fs::read_to_string(recording).unwrap()).unwrap();
    devices["gpus"].as_array_mut().unwrap().truncate(1);
    devices["gpus"][0]["processes"] = processes
        .iter()
        .map(|(pid, gibibytes)| json!({"pid": pid, "memory": gibibytes << 30}))
        .collect();
    let path = folder.join("devices.json");
    let fresh = folder.join("devices.new");
    std::fs::write(&fresh, devices.to_string()).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    path
}

/// Starts, answers and stops as the vendor's program does.
fn control_program(folder: &Path) -> PathBuf {
    let path = folder.join("nvidia-cuda-mps-control");
    let script = r#"#!/bin/sh
control="$CUDA_MPS_PIPE_DIRECTORY/control"
if [ "$1" = -d ]; then : > "$control"; exit 0; fi
[ -e "$control" ] || exit 1
read -r line
case "$line" in quit*) rm "$control" ;; esac
"#;
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn sharing(name: &str, gpu: &str, script: &str) -> Value {
    let mut pod = pod(name, script);
    pod["metadata"]["annotations"] = json!({"cumulo.dev/gpu": gpu});
    // Nobody joins another's daemon or has a larger share by a line in a manifest.
    pod["spec"]["containers"][0]["env"] = json!([
        {"name": "CUDA_MPS_PIPE_DIRECTORY", "value": "/tmp/another"},
        {"name": "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "value": "100"},
        {"name": "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", "value": "0=80G"},
        {"name": "CUDA_VISIBLE_DEVICES", "value": "0,1,2,3"},
    ]);
    pod
}

fn condition<'a>(pod: Option<&'a Pod>, kind: &str) -> Option<&'a PodCondition> {
    let conditions = pod?.status.as_ref()?.conditions.as_ref()?;
    conditions.iter().find(|condition| condition.type_ == kind)
}

async fn until_folders(folder: &Path, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    let found = || std::fs::read_dir(folder).map_or(0, Iterator::count);
    while found() != count {
        assert!(Instant::now() < deadline, "{} in {folder:?}", found());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn events_of(cluster: &Cluster, name: &str, reason: &str) -> Vec<String> {
    let deadline = Instant::now() + PATIENCE;
    let api: Api<Event> = Api::default_namespaced(cluster.client.clone());
    loop {
        let events = api.list(&ListParams::default()).await.unwrap().items;
        let told: Vec<String> = events
            .into_iter()
            .filter(|event| event.involved_object.name.as_deref() == Some(name))
            .filter(|event| event.reason.as_deref() == Some(reason))
            .filter_map(|event| event.message)
            .collect();
        if !told.is_empty() {
            return told;
        }
        assert!(Instant::now() < deadline, "no event {reason} of {name}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// `$$` in a command is one `$`, as in Kubernetes.
const STAYS: &str = "echo $$$$ > pid; trap 'exit 0' TERM; while :; do sleep 0.05; done";
const WORTH: &str = "cumulo.dev/GpuShareEnforced";
const WITHIN: &str = "cumulo.dev/GpuMemoryWithinShare";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pods_share_a_gpu_through_one_daemon() {
    let cluster = Cluster::new().await;
    let folder = cluster.folder.path().to_owned();
    let settings = |options: &mut Options| {
        options.devices = Some(recording(&folder, &[]));
        options.mps = Some(control_program(&folder));
        options.watch_interval = Duration::from_millis(50);
    };
    let daemons = folder.join("node/mps");
    let agent = cluster.agent_as(settings);

    let see = "echo $CUDA_MPS_PIPE_DIRECTORY $CUDA_MPS_ACTIVE_THREAD_PERCENTAGE \
        $CUDA_MPS_PINNED_DEVICE_MEM_LIMIT > $CUMULO_TERMINATION_LOG";
    cluster.create(sharing("large", "0.5", STAYS)).await;
    cluster.until("large", is_ready).await;
    cluster.create(sharing("small", "0.3", see)).await;
    let ended = |pod: Option<&Pod>| matches!(phase(pod), Some("Succeeded" | "Failed"));
    let small = cluster.until("small", ended).await.unwrap();
    let state = small.status.unwrap().container_statuses.unwrap()[0]
        .state
        .clone()
        .unwrap();
    let told = state.terminated.unwrap().message.unwrap();
    let pipes = daemons.join("afc5fa1390d4/pipe");
    let expected = format!("{} 30 0=24302M", pipes.display());
    assert_eq!(told.trim(), expected);

    let limited = |pod: Option<&Pod>| {
        condition(pod, WORTH).is_some_and(|told| told.reason.as_deref() == Some("LimitedByMps"))
    };
    let large = cluster.until("large", limited).await;
    assert_eq!(condition(large.as_ref(), WORTH).unwrap().status, "False");
    assert_eq!(condition(large.as_ref(), WITHIN).unwrap().status, "True");

    // The daemon stays for whoever has a share, also across a restart, and no longer.
    agent.stop().await;
    assert!(pipes.join("control").exists());
    let agent = cluster.agent_as(settings);
    cluster
        .pods()
        .delete("large", &DeleteParams::default())
        .await
        .unwrap();
    until_folders(&daemons, 0).await;
    assert!(events_of(&cluster, "small", "GpuReleased").await[0].starts_with("gave its GPU back"));

    // One that has a whole GPU needs none, and neither does one that has nothing.
    cluster.create(sharing("whole", "1", see)).await;
    cluster.create(pod("plain", see)).await;
    for name in ["whole", "plain"] {
        let pod = cluster.until(name, ended).await;
        assert_eq!(condition(pod.as_ref(), WORTH), None);
    }
    assert_eq!(std::fs::read_dir(&daemons).unwrap().count(), 0);
    agent.handle.stop_all(Duration::from_secs(5)).await;
    agent.stop().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_that_takes_more_memory_than_its_share_is_ended() {
    let cluster = Cluster::new().await;
    let folder = cluster.folder.path().to_owned();
    let agent = cluster.agent_as(|options| {
        options.devices = Some(recording(&folder, &[]));
        options.watch_interval = Duration::from_millis(50);
        options.over_memory = Response::End;
    });
    cluster.create(sharing("greedy", "0.3", STAYS)).await;
    cluster.create(sharing("modest", "0.5", STAYS)).await;
    let mut processes = Vec::new();
    for (name, gibibytes) in [("greedy", 30), ("modest", 30)] {
        let pod = cluster.until(name, is_ready).await.unwrap();
        let uid = pod.metadata.uid.unwrap();
        let path = folder.join(format!("node/pods/{uid}/containers/main/work/pid"));
        let deadline = Instant::now() + PATIENCE;
        let pid = loop {
            match std::fs::read_to_string(&path).map(|text| text.trim().parse()) {
                Ok(Ok(pid)) => break pid,
                _ => assert!(Instant::now() < deadline, "{path:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        processes.push((pid, gibibytes));
    }
    let turns = |pod: Option<&Pod>| {
        condition(pod, WORTH).is_some_and(|told| told.reason.as_deref() == Some("TimeSliced"))
    };
    cluster.until("greedy", turns).await;
    recording(&folder, &processes);
    let greedy = cluster
        .until("greedy", |pod| phase(pod) == Some("Failed"))
        .await
        .unwrap();
    let status = greedy.status.unwrap();
    assert_eq!(status.reason.as_deref(), Some("GpuMemoryExceeded"));
    let message = status.message.unwrap();
    assert!(
        message.starts_with("the pod uses 30Gi of the memory of GPU-afc5fa13"),
        "{message}"
    );
    assert_eq!(
        events_of(&cluster, "greedy", "GpuMemoryExceeded")
            .await
            .len(),
        1
    );
    let modest = cluster.until("modest", is_ready).await;
    assert_eq!(condition(modest.as_ref(), WITHIN).unwrap().status, "True");
    agent.handle.stop_all(Duration::from_secs(5)).await;
    agent.stop().await;
    cluster.end().await;
}
