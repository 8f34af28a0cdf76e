//! Devices from a recording: published, given, waited for, given back.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cumulo_node::devices::mig::MigInstances;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceSlice;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::agent::{Cluster, is_ready, phase, pod};
use crate::bench::PATIENCE;

/// A recording of the first GPUs of another.
fn first(count: usize, folder: &Path, change: impl Fn(&mut Value)) -> PathBuf {
    let recording = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/a100-8.json");
    let mut devices: Value =
        serde_json::from_str(&std::fs::read_to_string(recording).unwrap()).unwrap();
    devices["gpus"].as_array_mut().unwrap().truncate(count);
    change(&mut devices);
    let path = folder.join("devices.json");
    let fresh = folder.join("devices.new");
    std::fs::write(&fresh, devices.to_string()).unwrap();
    std::fs::rename(&fresh, &path).unwrap();
    path
}

fn asking(name: &str, gpu: &str, script: &str) -> Value {
    let mut pod = pod(name, script);
    pod["metadata"]["annotations"] = json!({"cumulo.dev/gpu": gpu});
    pod
}

/// The message that a pod left.
fn left(pod: &Pod) -> String {
    let containers = pod.status.as_ref().unwrap().container_statuses.as_ref();
    let state = containers.unwrap()[0].state.clone().unwrap();
    state.terminated.unwrap().message.unwrap_or_default()
}

fn waits(pod: Option<&Pod>) -> Option<String> {
    let status = pod?.status.as_ref()?;
    let state = status.container_statuses.as_ref()?[0].state.clone()?;
    let waiting = state.waiting?;
    (waiting.reason.as_deref() == Some("WaitingForGpu")).then(|| waiting.message.unwrap())
}

async fn slices_until(cluster: &Cluster, wanted: impl Fn(&[ResourceSlice]) -> bool) {
    let api: Api<ResourceSlice> = Api::all(cluster.client.clone());
    let deadline = Instant::now() + PATIENCE;
    loop {
        let slices = api.list(&ListParams::default()).await.unwrap().items;
        if wanted(&slices) {
            return;
        }
        assert!(Instant::now() < deadline, "not reached: {slices:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn devices(slices: &[ResourceSlice]) -> Vec<&str> {
    let devices = slices.iter().flat_map(|slice| &slice.spec.devices);
    devices
        .flatten()
        .map(|device| device.name.as_str())
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_what_it_asks_for_or_is_told_why_not() {
    let cluster = Cluster::new().await;
    let recording = first(1, cluster.folder.path(), |_| ());
    let agent = cluster.agent_with(Some(recording.clone()));
    let see = "echo seen $CUDA_VISIBLE_DEVICES. > $CUMULO_TERMINATION_LOG";

    // Who asks for nothing sees nothing, whatever the manifest says.
    let mut plain = pod("plain", see);
    plain["spec"]["containers"][0]["env"] = json!([{"name": "CUDA_VISIBLE_DEVICES", "value": "0"}]);
    cluster.create(plain).await;
    let ended = |pod: Option<&Pod>| matches!(phase(pod), Some("Succeeded" | "Failed"));
    let plain = cluster.until("plain", ended).await.unwrap();
    assert_eq!(left(&plain).trim(), "seen .");

    // What can never fit fails with a sentence, and so does what is not understood.
    cluster.create(asking("many", "2", see)).await;
    cluster.create(asking("wrong", "lots", see)).await;
    for (name, expected) in [
        ("many", "asks for 2 GPUs, more than this node has: "),
        ("wrong", "gpu: \"lots\" is not understood: "),
    ] {
        let failed = cluster.until(name, ended).await.unwrap().status.unwrap();
        assert_eq!(failed.phase.as_deref(), Some("Failed"));
        assert_eq!(failed.reason.as_deref(), Some("GpuUnavailable"));
        let message = failed.message.unwrap();
        assert!(message.starts_with(expected), "{message}");
    }

    // One has most of the GPU, so another waits; also across a restart.
    let stays = format!("{see}; trap 'exit 0' TERM; while :; do sleep 0.05; done");
    cluster.create(asking("first", "0.7", &stays)).await;
    cluster.until("first", is_ready).await;
    cluster.create(asking("second", "0.5", see)).await;
    let message = |pod: Option<&Pod>| waits(pod).is_some();
    let waiting = cluster.until("second", message).await;
    let sentence = waits(waiting.as_ref()).unwrap();
    assert!(
        sentence.starts_with(
            "asks for 0.5 of a GPU, which is not free: the most that is free of one is 0.3"
        ),
        "{sentence}"
    );
    agent.stop().await;
    let agent = cluster.agent_with(Some(recording));
    let inventory = agent.handle.devices().await.unwrap();
    assert_eq!(inventory.holders.len(), 1);
    assert_eq!(inventory.holders[0].pod, "first");
    assert_eq!(inventory.holders[0].held[0].milli, 700);

    // It ends, and the other has its turn.
    cluster
        .pods()
        .delete("first", &DeleteParams::default())
        .await
        .unwrap();
    let second = cluster.until("second", ended).await.unwrap();
    assert!(left(&second).contains("seen GPU-"), "{}", left(&second));
    assert_eq!(agent.handle.devices().await.unwrap().holders, []);
    agent.handle.stop_all(Duration::from_secs(5)).await;
    agent.stop().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_devices_says_so() {
    let cluster = Cluster::new().await;
    let recording = first(0, cluster.folder.path(), |_| ());
    let agent = cluster.agent_with(Some(recording));
    cluster.create(asking("share", "0.3", "true")).await;
    let failed = cluster
        .until("share", |pod| phase(pod) == Some("Failed"))
        .await
        .unwrap();
    assert_eq!(
        failed.status.unwrap().message.as_deref(),
        Some("asks for 0.3 of a GPU; this node has none")
    );
    agent.stop().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_follow_the_devices_and_are_written_for_changes_only() {
    let cluster = Cluster::new().await;
    let folder = cluster.folder.path().to_owned();
    let recording = first(2, &folder, |_| ());
    let agent = cluster.agent_with(Some(recording));
    slices_until(&cluster, |slices| devices(slices) == ["gpu-0", "gpu-1"]).await;
    let api: Api<ResourceSlice> = Api::all(cluster.client.clone());
    let before = api.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(before[0].spec.pool.generation, 1);
    assert_eq!(
        before[0].metadata.owner_references.as_ref().unwrap()[0].kind,
        "Node"
    );

    // Another temperature is no change; several looks go by.
    first(2, &folder, |devices| {
        devices["gpus"][0]["temperature"] = json!(80);
    });
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        api.list(&ListParams::default()).await.unwrap().items,
        before
    );

    // A GPU that breaks is taken back.
    first(2, &folder, |devices| {
        devices["gpus"][0]["xids"] = json!([79]);
    });
    slices_until(&cluster, |slices| devices(slices) == ["gpu-1"]).await;
    let after = api.list(&ListParams::default()).await.unwrap().items;
    assert_eq!(after[0].spec.pool.generation, 2);

    // What somebody deletes comes back; and all go with the last device.
    let name = after[0].metadata.name.clone().unwrap();
    api.delete(&name, &DeleteParams::default()).await.unwrap();
    slices_until(&cluster, |slices| devices(slices) == ["gpu-1"]).await;
    first(0, &folder, |_| ());
    slices_until(&cluster, |slices| slices.is_empty()).await;

    // A vendor's driver comes first.
    let slice = serde_json::from_value(json!({
        "metadata": {"name": "vendors"},
        "spec": {"driver": "gpu.nvidia.com", "nodeName": "laptop",
            "pool": {"name": "laptop", "generation": 1, "resourceSliceCount": 1}, "devices": []},
    }));
    api.create(&Default::default(), &slice.unwrap())
        .await
        .unwrap();
    first(2, &folder, |_| ());
    tokio::time::sleep(Duration::from_millis(500)).await;
    slices_until(&cluster, |slices| slices.len() == 1).await;
    agent.stop().await;
    cluster.end().await;
}

/// The profiles of the instances in a recording, in the file's order.
fn profiles(recording: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(recording).unwrap();
    let devices: Value = serde_json::from_str(&text).unwrap();
    let instances = devices["gpus"][0]["mig"]["instances"].as_array().cloned();
    let instances = instances.unwrap_or_default();
    let names = instances.iter().map(|one| one["profile"].as_str().unwrap());
    names.map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_made_for_pods_and_make_room_when_nobody_has_them() {
    let cluster = Cluster::new().await;
    // A GPU in MIG mode with nothing on it.
    let folder = cluster.folder.path().to_owned();
    let mixed = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/mixed-mig.json");
    let mut devices: Value =
        serde_json::from_str(&std::fs::read_to_string(mixed).unwrap()).unwrap();
    devices["gpus"].as_array_mut().unwrap().drain(..3);
    let recording = folder.join("devices.json");
    std::fs::write(&recording, devices.to_string()).unwrap();
    let settings = |options: &mut cumulo_node::Options| {
        options.devices = Some(recording.clone());
        options.mig_instances = MigInstances::Manage;
        options.device_interval = Duration::from_millis(50);
    };
    let agent = cluster.agent_as(settings);
    let see = "echo seen $CUDA_VISIBLE_DEVICES. > $CUMULO_TERMINATION_LOG";
    let stays = format!("{see}; trap 'exit 0' TERM; while :; do sleep 0.05; done");

    cluster.create(asking("small", "1g.10gb", &stays)).await;
    cluster.until("small", is_ready).await;
    assert_eq!(profiles(&recording), ["1g.10gb"]);
    // It is known as made here, and published as a place like any other.
    let inventory = agent.handle.devices().await.unwrap();
    let id = inventory.snapshot.gpus[0].instances().unwrap()[0].id;
    assert!(inventory.managed.made(&inventory.snapshot.gpus[0], id));
    slices_until(&cluster, |slices| {
        let names = self::devices(slices);
        let places = ["gpu-3-mig-1g-10gb-6", "gpu-3-mig-7g-80gb-0"];
        places.iter().all(|place| names.contains(place))
    })
    .await;

    // The pod keeps it across a restart, and nothing else can have its room.
    agent.stop().await;
    let agent = cluster.agent_as(settings);
    cluster.create(asking("whole", "7g.80gb", see)).await;
    let message = |pod: Option<&Pod>| waits(pod).is_some();
    let waiting = cluster.until("whole", message).await;
    let sentence = waits(waiting.as_ref()).unwrap();
    assert!(
        sentence
            .starts_with("asks for a 7g.80gb partition of a GPU, for which there is no room now"),
        "{sentence}"
    );
    assert_eq!(profiles(&recording), ["1g.10gb"]);

    // With its end the room is free.
    cluster
        .pods()
        .delete("small", &DeleteParams::default())
        .await
        .unwrap();
    let ended = |pod: Option<&Pod>| matches!(phase(pod), Some("Succeeded" | "Failed"));
    let whole = cluster.until("whole", ended).await.unwrap();
    assert!(left(&whole).contains("seen MIG-"), "{}", left(&whole));
    assert_eq!(profiles(&recording), ["7g.80gb"]);
    agent.stop().await;
    cluster.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pod_gets_a_whole_gpu_of_amds() {
    let cluster = Cluster::new().await;
    let recording = cluster.folder.path().join("devices.json");
    let machine = concat!(env!("CARGO_MANIFEST_DIR"), "/recordings/mi300x-8.json");
    std::fs::copy(machine, &recording).unwrap();
    let agent = cluster.agent_with(Some(recording));
    let see = "echo ${CUDA_VISIBLE_DEVICES-unset} $ROCR_VISIBLE_DEVICES. > $CUMULO_TERMINATION_LOG";
    cluster
        .create(asking("whole", "{model: [H100, MI300X]}", see))
        .await;
    cluster.create(asking("share", "0.3", see)).await;
    let ended = |pod: Option<&Pod>| matches!(phase(pod), Some("Succeeded" | "Failed"));
    let whole = cluster.until("whole", ended).await.unwrap();
    assert!(left(&whole).starts_with("unset GPU-"), "{}", left(&whole));
    let share = cluster.until("share", ended).await.unwrap().status.unwrap();
    assert_eq!(share.reason.as_deref(), Some("GpuUnavailable"));
    let message = share.message.unwrap();
    assert!(
        message.ends_with("can only be given whole: only NVIDIA's GPUs are shared"),
        "{message}"
    );
    agent.stop().await;
    cluster.end().await;
}
