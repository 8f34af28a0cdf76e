//! The Node object and its lease.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    DaemonEndpoint, Namespace, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeSpec,
    NodeStatus, NodeSystemInfo, Taint,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;

use super::{answered, limited};
use crate::options::Options;
use cumulo_api::labels::{RUNTIME, RUNTIME_PROCESS};

/// Namespace of node leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";
/// The lease is renewed this often …
const RENEW_EVERY: Duration = Duration::from_secs(10);
/// … and lasts this long.
const LEASE_SECONDS: i32 = 40;
/// Wait after a failure.
const RETRY: Duration = Duration::from_secs(1);

/// Registers the node and keeps its lease; never ends.
pub(super) async fn keep(client: &Client, options: &Options, capacity: (u64, u64)) {
    let wanted = node(options, capacity, Timestamp::now());
    loop {
        match register(client, &wanted).await {
            Ok(()) => break,
            Err(error) => {
                tracing::warn!(%error, node = options.node_name, "cannot register the node, trying again");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
    tracing::info!(node = options.node_name, "node registered");
    loop {
        let renewed = renew(client, &options.node_name).await;
        if let Err(error) = &renewed {
            tracing::warn!(%error, node = options.node_name, "cannot renew the node's lease, trying again");
        }
        tokio::time::sleep(if renewed.is_ok() { RENEW_EVERY } else { RETRY }).await;
        // Who looks after nodes may have given this one up meanwhile.
        if let Err(error) = register(client, &wanted).await {
            tracing::warn!(%error, node = options.node_name, "cannot check the node");
        }
    }
}

/// The node as it shall be.
fn node(options: &Options, capacity: (u64, u64), now: Timestamp) -> Node {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let read = |path: &str| {
        std::fs::read_to_string(path)
            .map(|text| text.trim().to_owned())
            .unwrap_or_default()
    };
    let labels = [
        ("kubernetes.io/hostname", options.node_name.as_str()),
        ("kubernetes.io/os", std::env::consts::OS),
        ("kubernetes.io/arch", architecture),
        (RUNTIME, RUNTIME_PROCESS),
    ];
    let more = options
        .labels
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let resources: BTreeMap<String, Quantity> = [
        ("cpu", capacity.0.to_string()),
        ("memory", format!("{}Ki", capacity.1 / 1024)),
        ("pods", options.max_pods.to_string()),
    ]
    .map(|(name, value)| (name.to_owned(), Quantity(value)))
    .into();
    Node {
        metadata: ObjectMeta {
            name: Some(options.node_name.clone()),
            labels: Some(
                labels
                    .into_iter()
                    .chain(more)
                    .map(|(key, value)| (key.to_owned(), value.to_owned()))
                    .collect(),
            ),
            ..ObjectMeta::default()
        },
        spec: options.tainted.then(|| NodeSpec {
            taints: Some(vec![Taint {
                key: RUNTIME.to_owned(),
                value: Some(RUNTIME_PROCESS.to_owned()),
                effect: "NoSchedule".to_owned(),
                time_added: None,
            }]),
            ..NodeSpec::default()
        }),
        status: Some(NodeStatus {
            daemon_endpoints: options.kubelet_port.map(|port| NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: i32::from(port),
                }),
            }),
            capacity: Some(resources.clone()),
            allocatable: Some(resources),
            addresses: Some(
                [
                    ("InternalIP", options.host_ip.to_string()),
                    ("Hostname", options.node_name.clone()),
                ]
                .map(|(type_, address)| NodeAddress {
                    type_: type_.to_owned(),
                    address,
                })
                .into(),
            ),
            conditions: Some(vec![NodeCondition {
                type_: "Ready".to_owned(),
                status: "True".to_owned(),
                reason: Some("NodeAgentReady".to_owned()),
                message: Some("the node agent runs pods as processes".to_owned()),
                last_heartbeat_time: Some(Time(now)),
                last_transition_time: Some(Time(now)),
            }]),
            node_info: Some(NodeSystemInfo {
                architecture: architecture.to_owned(),
                operating_system: std::env::consts::OS.to_owned(),
                kernel_version: read("/proc/sys/kernel/osrelease"),
                boot_id: crate::process::boot_id(),
                machine_id: read("/etc/machine-id"),
                os_image: os_name(&read("/etc/os-release")),
                kubelet_version: concat!("v", env!("CARGO_PKG_VERSION"), "-cumulo").to_owned(),
                container_runtime_version: concat!("process://", env!("CARGO_PKG_VERSION"))
                    .to_owned(),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        }),
    }
}

fn os_name(release: &str) -> String {
    release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or_else(
            || "Linux".to_owned(),
            |name| name.trim_matches('"').to_owned(),
        )
}

/// Creates the node, or brings it up to date where it differs.
async fn register(client: &Client, wanted: &Node) -> Result<(), kube::Error> {
    let api: Api<Node> = Api::all(client.clone());
    let name = wanted.metadata.name.clone().unwrap_or_default();
    let existing = match limited(api.get_opt(&name)).await? {
        Some(existing) => existing,
        None => {
            let mut fresh = wanted.clone();
            fresh.status = None;
            limited(api.create(&PostParams::default(), &fresh)).await?
        }
    };
    let has_labels = wanted.metadata.labels.iter().flatten().all(|(key, value)| {
        existing
            .metadata
            .labels
            .as_ref()
            .is_some_and(|labels| labels.get(key) == Some(value))
    });
    if !has_labels {
        let patch = json!({"metadata": {"labels": wanted.metadata.labels}});
        limited(api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
    }
    if !same_status(existing.status.as_ref(), wanted.status.as_ref()) {
        let patch = json!({"status": wanted.status});
        limited(api.patch_status(&name, &PatchParams::default(), &Patch::Merge(&patch))).await?;
    }
    Ok(())
}

/// Compares statuses without their times.
fn same_status(one: Option<&NodeStatus>, other: Option<&NodeStatus>) -> bool {
    let timeless = |status: Option<&NodeStatus>| {
        let status = status?;
        let conditions: Vec<_> = status
            .conditions
            .iter()
            .flatten()
            .map(|condition| (condition.type_.clone(), condition.status.clone()))
            .collect();
        Some((
            conditions,
            status.capacity.clone(),
            status.allocatable.clone(),
            status.addresses.clone(),
            status.node_info.clone(),
            status.daemon_endpoints.clone(),
        ))
    };
    timeless(one) == timeless(other)
}

/// Renews the lease, or makes it.
async fn renew(client: &Client, node_name: &str) -> Result<(), kube::Error> {
    let api: Api<Lease> = Api::namespaced(client.clone(), LEASE_NAMESPACE);
    let now = MicroTime(Timestamp::now());
    let patch = json!({"spec": {
        "renewTime": now,
        "holderIdentity": node_name,
        "leaseDurationSeconds": LEASE_SECONDS,
    }});
    let parameters = PatchParams::default();
    match limited(api.patch(node_name, &parameters, &Patch::Merge(&patch))).await {
        Err(error) if answered(&error, 404) => {}
        other => return other.map(drop),
    }
    let lease = Lease {
        metadata: ObjectMeta {
            name: Some(node_name.to_owned()),
            namespace: Some(LEASE_NAMESPACE.to_owned()),
            ..ObjectMeta::default()
        },
        spec: Some(LeaseSpec {
            holder_identity: Some(node_name.to_owned()),
            lease_duration_seconds: Some(LEASE_SECONDS),
            renew_time: Some(now),
            ..LeaseSpec::default()
        }),
    };
    match limited(api.create(&PostParams::default(), &lease)).await {
        Err(error) if answered(&error, 404) => {
            let namespaces: Api<Namespace> = Api::all(client.clone());
            let namespace = Namespace {
                metadata: ObjectMeta {
                    name: Some(LEASE_NAMESPACE.to_owned()),
                    ..ObjectMeta::default()
                },
                ..Namespace::default()
            };
            limited(namespaces.create(&PostParams::default(), &namespace)).await?;
            limited(api.create(&PostParams::default(), &lease))
                .await
                .map(drop)
        }
        other => other.map(drop),
    }
}
