//! How fast pods are scheduled: in process, and what `bench/scheduler.py` needs
//! to measure schedulers on an API server. Run by `bench/run scheduler`.
//!
//! `rehearse` decides in memory. `fill URL TOKEN NODES PODS SCHEDULER` makes
//! nodes and pods on a server; `wait URL TOKEN PODS` says when the first and the
//! last of them were bound, in milliseconds since it began to look.

use std::time::Instant;

use cumulo_control::Rehearsal;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod};
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use serde_json::{Value, json};

/// Requests at the same time while the cluster is filled.
const REQUESTS: usize = 64;
const NAMESPACE: &str = "bench";

type Failure = Box<dyn std::error::Error + Send + Sync>;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        [] | ["rehearse"] => rehearse(),
        ["fill", url, token, nodes, pods, scheduler] => {
            fill(client(url, token)?, nodes.parse()?, pods.parse()?, scheduler).await
        }
        ["wait", url, token, pods] => wait(client(url, token)?, pods.parse()?).await,
        ["clear", url, token] => clear(client(url, token)?).await,
        _ => Err("usage: bench_scheduler [rehearse | fill URL TOKEN NODES PODS SCHEDULER | wait URL TOKEN PODS | clear URL TOKEN]".into()),
    }
}

fn client(url: &str, token: &str) -> Result<Client, Failure> {
    let mut config = kube::Config::new(url.parse()?);
    config.accept_invalid_certs = true;
    config.auth_info.token = Some(token.to_owned().into());
    Ok(Client::try_from(config)?)
}

fn node(at: usize) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": {"name": format!("node-{at}"), "labels": {
            "kubernetes.io/hostname": format!("node-{at}"), "topology.kubernetes.io/zone": format!("zone-{}", at % 3)}},
        "status": {
            "capacity": {"cpu": "32", "memory": "256Gi", "pods": "110"},
            "allocatable": {"cpu": "32", "memory": "256Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]},
    })
}

fn pod(at: usize, scheduler: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": format!("pod-{at}"), "namespace": NAMESPACE, "uid": format!("uid-{at}"), "labels": {"app": "bench"}},
        "spec": {"schedulerName": scheduler, "containers": [{"name": "main", "image": "pause",
            "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]},
    })
}

/// Half of the pods ask for a GPU, by a claim of their own.
fn devices(nodes: usize, pods: usize) -> Vec<Value> {
    let mut objects = vec![
        json!({"kind": "DeviceClass", "metadata": {"name": "gpu.nvidia.com"}, "spec": {"selectors": [
        {"cel": {"expression": "device.driver == 'gpu.nvidia.com' && device.attributes['gpu.nvidia.com'].type == 'gpu'"}}]}}),
    ];
    for at in 0..nodes {
        let gpus: Vec<Value> = (0..8)
            .map(|gpu| {
                json!({"name": format!("gpu-{gpu}"), "attributes": {"type": {"string": "gpu"}, "index": {"int": gpu}},
                    "capacity": {"memory": {"value": "80Gi"}}})
            })
            .collect();
        objects.push(
            json!({"kind": "ResourceSlice", "metadata": {"name": format!("slice-{at}")}, "spec": {
            "driver": "gpu.nvidia.com", "nodeName": format!("node-{at}"), "devices": gpus,
            "pool": {"name": format!("node-{at}"), "generation": 1, "resourceSliceCount": 1}}}),
        );
    }
    for at in 0..pods {
        let selectors = json!([{"cel": {"expression":
            "device.capacity['gpu.nvidia.com'].memory.compareTo(quantity('40Gi')) >= 0"}}]);
        objects.push(json!({"kind": "ResourceClaim",
            "metadata": {"name": format!("claim-{at}"), "namespace": NAMESPACE, "uid": format!("claim-{at}")},
            "spec": {"devices": {"requests": [{"name": "gpu", "exactly":
                {"deviceClassName": "gpu.nvidia.com", "selectors": selectors}}]}}}));
        let mut pod = pod(at, "cumulo");
        pod["spec"]["resourceClaims"] =
            json!([{"name": "gpu", "resourceClaimName": format!("claim-{at}")}]);
        objects.push(pod);
    }
    objects
}

fn rehearse() -> Result<(), Failure> {
    println!("| in process | nodes | pods | bound | seconds | binds/s |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for (what, nodes, pods, claims, batch) in [
        ("pods, all at once", 5000, 10_000, false, 10_000),
        ("pods, 500 at a time", 5000, 10_000, false, 500),
        ("pods with a claim, all at once", 500, 4000, true, 4000),
        ("pods with a claim, 250 at a time", 500, 4000, true, 250),
    ] {
        let mut objects: Vec<Value> = (0..nodes).map(node).collect();
        if claims {
            objects.extend(devices(nodes, pods));
        } else {
            objects.extend((0..pods).map(|at| pod(at, "cumulo")));
        }
        // Those that come later are held by a gate until it is their turn.
        let mut rehearsal = Rehearsal::new(&objects, Timestamp::now())?;
        let names: Vec<String> = (0..pods)
            .map(|at| format!("{NAMESPACE}/pod-{at}"))
            .collect();
        let began = Instant::now();
        let mut bound = 0;
        for batch in names.chunks(batch) {
            bound += rehearsal.step_only(batch).bound.len();
        }
        let seconds = began.elapsed().as_secs_f64();
        println!(
            "| {what} | {nodes} | {pods} | {bound} | {seconds:.2} | {:.0} |",
            bound as f64 / seconds
        );
    }
    Ok(())
}

async fn fill(client: Client, nodes: usize, pods: usize, scheduler: &str) -> Result<(), Failure> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let namespace = serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?;
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => {}
        other => drop(other?),
    }
    let api: Api<Node> = Api::all(client.clone());
    let known = api
        .list_metadata(&kube::api::ListParams::default())
        .await?
        .items
        .len();
    futures::stream::iter(known..nodes)
        .map(|at| {
            let api = api.clone();
            async move {
                let node = node(at);
                let name = format!("node-{at}");
                api.create(
                    &PostParams::default(),
                    &serde_json::from_value(node.clone())?,
                )
                .await?;
                // The not-ready taint that admission adds goes, as the lifecycle controller would do.
                let ready = json!({"spec": {"taints": null}});
                api.patch(&name, &PatchParams::default(), &Patch::Merge(&ready))
                    .await?;
                let status = json!({"status": node["status"]});
                api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&status))
                    .await?;
                Ok::<(), Failure>(())
            }
        })
        .buffer_unordered(REQUESTS)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<Vec<()>, _>>()?;
    let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
    futures::stream::iter(0..pods)
        .map(|at| {
            let api = api.clone();
            let mut pod = pod(at, scheduler);
            if let Some(metadata) = pod["metadata"].as_object_mut() {
                metadata.remove("uid");
            }
            async move {
                api.create(&PostParams::default(), &serde_json::from_value(pod)?)
                    .await?;
                Ok::<(), Failure>(())
            }
        })
        .buffer_unordered(REQUESTS)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<Vec<()>, _>>()?;
    Ok(())
}

/// Watches until that many pods are bound.
async fn wait(client: Client, pods: usize) -> Result<(), Failure> {
    let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let mut events = std::pin::pin!(watcher::watcher(api, watcher::Config::default()));
    let began = Instant::now();
    let mut bound = std::collections::HashSet::new();
    let mut first = None;
    while let Some(event) = events.next().await {
        let (Event::Apply(pod) | Event::InitApply(pod)) = event? else {
            if bound.is_empty() {
                println!("looking");
            }
            continue;
        };
        if pod
            .spec
            .as_ref()
            .is_some_and(|spec| spec.node_name.is_some())
        {
            first.get_or_insert_with(|| began.elapsed());
            bound.insert(pod.metadata.uid.unwrap_or_default());
            if bound.len() >= pods {
                break;
            }
        }
    }
    let first = first.unwrap_or_default().as_millis();
    println!("{first} {}", began.elapsed().as_millis());
    Ok(())
}

/// Removes the pods, at once.
async fn clear(client: Client) -> Result<(), Failure> {
    let api: Api<Pod> = Api::namespaced(client, NAMESPACE);
    let names = api.list_metadata(&kube::api::ListParams::default()).await?;
    let parameters = kube::api::DeleteParams {
        grace_period_seconds: Some(0),
        ..Default::default()
    };
    futures::stream::iter(names.items)
        .map(|pod| {
            let (api, parameters) = (api.clone(), parameters.clone());
            async move {
                let name = pod.metadata.name.unwrap_or_default();
                api.delete(&name, &parameters).await.map(drop)
            }
        })
        .buffer_unordered(REQUESTS)
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect::<Result<Vec<()>, _>>()?;
    Ok(())
}
