//! What the server sends of a pod, read into [`Pod`].

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{NodeAffinity, PodAffinity, PodAntiAffinity};
use k8s_openapi::api::core::v1::{PodResourceClaim, TopologySpreadConstraint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::affinity::{self, Toleration};
use super::resources::{self, Container, ContainerStatus, Quantities};
use super::{HostPort, Place, Pod, Spec, Status};
use crate::scheduling::known;
use crate::scheduling::selector::{Labels, NodeTerm, node_terms};

/// Fields of `spec` (Kubernetes 1.35) that do not limit where a pod may run.
const INDIFFERENT: &[&str] = &[
    "activeDeadlineSeconds",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "hostAliases",
    "hostIPC",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "os",
    "readinessGates",
    "restartPolicy",
    "runtimeClassName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
];

#[derive(Deserialize)]
struct RawPod {
    #[serde(default)]
    metadata: RawMeta,
    #[serde(default)]
    spec: RawSpec,
    #[serde(default)]
    status: RawStatus,
}

/// Metadata without `managedFields`, which is larger than all the rest.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawMeta {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    owner_references: Option<Vec<OwnerReference>>,
}

#[derive(Default)]
struct RawSpec {
    node_name: Option<String>,
    scheduler_name: Option<String>,
    priority: Option<i32>,
    priority_class: Option<String>,
    preemption_policy: Option<String>,
    host_network: bool,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    overhead: Quantities,
    resources: resources::Requirements,
    node_selector: BTreeMap<String, String>,
    affinity: Option<Value>,
    tolerations: Vec<Toleration>,
    spread: Option<Value>,
    claims: Option<Value>,
    volumes: Vec<RawVolume>,
    gates: Vec<IgnoredAny>,
    unknown: Vec<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVolume {
    #[serde(default)]
    name: String,
    persistent_volume_claim: Option<RawVolumeClaim>,
    ephemeral: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawVolumeClaim {
    #[serde(default)]
    claim_name: String,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    phase: Option<String>,
    nominated_node_name: Option<String>,
    conditions: Option<Vec<RawCondition>>,
    resource_claim_statuses: Option<Vec<RawClaimStatus>>,
    container_statuses: Option<Vec<ContainerStatus>>,
    start_time: Option<Time>,
}

#[derive(Deserialize)]
struct RawCondition {
    #[serde(rename = "type", default)]
    type_: String,
    #[serde(default)]
    status: String,
    message: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawClaimStatus {
    #[serde(default)]
    name: String,
    resource_claim_name: Option<String>,
}

impl<'de> Deserialize<'de> for RawSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = RawSpec;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("a pod's spec")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawSpec, A::Error> {
                let mut spec = RawSpec::default();
                while let Some(field) = map.next_key::<String>()? {
                    spec.field(&field, &mut map)?;
                }
                Ok(spec)
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl RawSpec {
    fn field<'de, A: MapAccess<'de>>(&mut self, name: &str, map: &mut A) -> Result<(), A::Error> {
        fn value<'de, A: MapAccess<'de>, T: Deserialize<'de> + Default>(
            map: &mut A,
        ) -> Result<T, A::Error> {
            Ok(map.next_value::<Option<T>>()?.unwrap_or_default())
        }
        match name {
            "nodeName" => self.node_name = map.next_value()?,
            "schedulerName" => self.scheduler_name = map.next_value()?,
            "priority" => self.priority = map.next_value()?,
            "priorityClassName" => self.priority_class = map.next_value()?,
            "preemptionPolicy" => self.preemption_policy = map.next_value()?,
            "hostNetwork" => self.host_network = value(map)?,
            "containers" => self.containers = value(map)?,
            "initContainers" => self.init_containers = value(map)?,
            "overhead" => self.overhead = value(map)?,
            "resources" => self.resources = value(map)?,
            "nodeSelector" => self.node_selector = value(map)?,
            "affinity" => self.affinity = map.next_value()?,
            "tolerations" => self.tolerations = value(map)?,
            "topologySpreadConstraints" => self.spread = map.next_value()?,
            "resourceClaims" => self.claims = map.next_value()?,
            "volumes" => self.volumes = value(map)?,
            "schedulingGates" => self.gates = value(map)?,
            _ => {
                map.next_value::<IgnoredAny>()?;
                if !INDIFFERENT.contains(&name) {
                    self.unknown.push(format!("spec.{name}"));
                }
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Pod {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let RawPod {
            metadata,
            spec,
            status,
        } = RawPod::deserialize(deserializer)?;
        let metadata = ObjectMeta {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            resource_version: metadata.resource_version,
            creation_timestamp: metadata.creation_timestamp,
            deletion_timestamp: metadata.deletion_timestamp,
            labels: metadata.labels,
            annotations: metadata.annotations,
            owner_references: metadata.owner_references,
            ..ObjectMeta::default()
        };
        let node = spec.node_name.clone().filter(|node| !node.is_empty());
        let statuses = status.container_statuses.as_deref().unwrap_or_default();
        Ok(Self {
            spec: Arc::new(digest(spec, &metadata, statuses)),
            metadata,
            node,
            status: Status {
                phase: status.phase.unwrap_or_default(),
                nominated: status.nominated_node_name.filter(|node| !node.is_empty()),
                refusal: status
                    .conditions
                    .into_iter()
                    .flatten()
                    .find(|one| one.type_ == "PodScheduled" && one.status == "False")
                    .and_then(|one| one.message),
                claims: status
                    .resource_claim_statuses
                    .into_iter()
                    .flatten()
                    .map(|one| (one.name, one.resource_claim_name))
                    .collect(),
                started: status.start_time.map(|time| time.0),
            },
        })
    }
}

fn digest(raw: RawSpec, metadata: &ObjectMeta, statuses: &[ContainerStatus]) -> Spec {
    let mut unknown = raw.unknown;
    let empty = Labels::new();
    let labels = metadata.labels.as_ref().unwrap_or(&empty);
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let mut required = None;
    let mut preferred_nodes = Vec::new();
    let mut pods = affinity::Terms::default();
    for (field, value) in raw.affinity.into_iter().flat_map(fields) {
        let path = format!("spec.affinity.{field}");
        match field.as_str() {
            "nodeAffinity" => {
                if let Some(read) = known::read::<NodeAffinity>(value, &path, &mut unknown) {
                    nodes(
                        &read,
                        &path,
                        &mut required,
                        &mut preferred_nodes,
                        &mut unknown,
                    );
                }
            }
            "podAffinity" => {
                if let Some(read) = known::read::<PodAffinity>(value, &path, &mut unknown) {
                    pods.near(&read, namespace, labels, &mut unknown);
                }
            }
            "podAntiAffinity" => {
                if let Some(read) = known::read::<PodAntiAffinity>(value, &path, &mut unknown) {
                    pods.apart(&read, namespace, labels, &mut unknown);
                }
            }
            _ if value.is_null() => {}
            _ => unknown.push(path),
        }
    }
    let spread: Option<Vec<TopologySpreadConstraint>> = raw
        .spread
        .and_then(|value| known::read(value, "spec.topologySpreadConstraints", &mut unknown));
    let spread = affinity::spread(spread.unwrap_or_default(), namespace, labels, &mut unknown);
    let claims: Option<Vec<PodResourceClaim>> = raw
        .claims
        .and_then(|value| known::read(value, "spec.resourceClaims", &mut unknown));
    let claims = claims.unwrap_or_default();
    let templates = claims.iter().filter_map(|one| {
        let template = one.resource_claim_template_name.clone()?;
        Some((one.name.clone(), template))
    });
    let templates = templates.collect();
    let claims = claims.into_iter();
    for toleration in &raw.tolerations {
        toleration.check(&mut unknown);
    }
    let requests = resources::requests(
        &resources::Given {
            containers: &raw.containers,
            init_containers: &raw.init_containers,
            overhead: &raw.overhead,
            pod: &raw.resources,
            statuses,
        },
        &mut unknown,
    );
    Spec {
        scheduler: raw.scheduler_name.unwrap_or_default(),
        priority: raw.priority,
        priority_class: raw.priority_class.filter(|name| !name.is_empty()),
        preempts: raw.preemption_policy.as_deref() != Some("Never"),
        requests,
        ports: ports(&raw.containers, &raw.init_containers, raw.host_network),
        place: Arc::new(Place {
            selector: raw.node_selector,
            required,
            tolerations: raw.tolerations,
        }),
        preferred_nodes,
        near: pods.near,
        apart: pods.apart,
        preferred_pods: pods.preferred,
        spread,
        claims: claims
            .map(|one| (one.name, one.resource_claim_name))
            .collect(),
        templates,
        volumes: raw
            .volumes
            .iter()
            .filter_map(|volume| Some(volume.persistent_volume_claim.as_ref()?.claim_name.clone()))
            .collect(),
        ephemeral: raw
            .volumes
            .iter()
            .filter(|volume| volume.ephemeral.is_some())
            .map(|volume| volume.name.clone())
            .collect(),
        gated: !raw.gates.is_empty(),
        unknown,
    }
}

fn fields(value: Value) -> Vec<(String, Value)> {
    match value {
        Value::Object(fields) => fields.into_iter().collect(),
        _ => Vec::new(),
    }
}

fn nodes(
    read: &NodeAffinity,
    path: &str,
    required: &mut Option<Vec<NodeTerm>>,
    preferred: &mut Vec<(u32, NodeTerm)>,
    unknown: &mut Vec<String>,
) {
    if let Some(selector) = &read.required_during_scheduling_ignored_during_execution {
        match node_terms(selector) {
            Ok(terms) => *required = Some(terms),
            Err(what) => unknown.push(format!("{path}: {what}")),
        }
    }
    let given = &read.preferred_during_scheduling_ignored_during_execution;
    for term in given.iter().flatten() {
        match NodeTerm::read(&term.preference) {
            Ok(read) => preferred.push((u32::try_from(term.weight).unwrap_or(1), read)),
            Err(what) => unknown.push(format!("{path}: {what}")),
        }
    }
}

fn ports(containers: &[Container], init: &[Container], host_network: bool) -> Vec<HostPort> {
    let sidecars = init.iter().filter(|container| container.sidecar());
    let mut ports: Vec<HostPort> = containers
        .iter()
        .chain(sidecars)
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let number = match port.host_port {
                Some(number) if number > 0 => number,
                _ if host_network => port.container_port,
                _ => return None,
            };
            let address = port.host_ip.clone();
            Some(HostPort {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                address: address.filter(|ip| !matches!(ip.as_str(), "" | "0.0.0.0" | "::")),
                port: number,
            })
        })
        .collect();
    ports.sort();
    ports.dedup();
    ports
}
