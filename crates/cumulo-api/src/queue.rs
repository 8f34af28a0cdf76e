//! `Queue`: who may use how much of the cluster, and whose turn it is.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, LabelSelector};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::shared::conditions_schema;

/// The flavor of nodes that have no label [`crate::labels::FLAVOR`].
pub const DEFAULT_FLAVOR: &str = "default";

/// What a Queue gives to the work in it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "cumulo.dev",
    version = "v1alpha1",
    kind = "Queue",
    plural = "queues",
    shortname = "cq",
    category = "cumulo",
    derive = "PartialEq",
    derive = "Default",
    status = "QueueStatus",
    doc = "A share of the cluster: quotas by flavor of node, a weight, and what its work may displace. Pods with the label cumulo.dev/queue, and TrainJobs and InferenceServices with spec.queue, take their turns in it.",
    printcolumn(name = "Parent", type_ = "string", json_path = ".spec.parent"),
    printcolumn(name = "Weight", type_ = "integer", json_path = ".spec.weight"),
    printcolumn(name = "Running", type_ = "integer", json_path = ".status.admitted"),
    printcolumn(name = "Pending", type_ = "integer", json_path = ".status.pending"),
    printcolumn(
        name = "Age",
        type_ = "date",
        json_path = ".metadata.creationTimestamp"
    ),
    printcolumn(
        name = "Message",
        type_ = "string",
        priority = 1,
        json_path = ".status.message"
    )
)]
#[serde(rename_all = "camelCase")]
pub struct QueueSpec {
    /// The Queue it lies under; what children leave idle, their siblings may borrow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// Its fair share beside its siblings: one of weight 2 is owed twice what one of weight 1 is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub weight: Option<i32>,
    /// Quotas, by flavor of node. What is not named here or in a Queue above is not limited.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    pub quotas: Vec<FlavorQuota>,
    /// Whether work of this Queue may end other work to have what it has a right to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preemption_policy: Option<PreemptionPolicy>,
    /// Namespaces whose pods may use it, by their labels. All of them when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace_selector: Option<LabelSelector>,
}

/// Whether work may end other work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum PreemptionPolicy {
    /// It may end work of lower priority in its own Queue, and work of Queues that use what is this one's.
    PreemptLowerPriority,
    /// It waits.
    Never,
}

/// The quotas on nodes of one flavor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FlavorQuota {
    /// The value of the nodes' label `cumulo.dev/flavor`; `default` for nodes without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flavor: Option<String>,
    /// By resource: `cpu`, `memory`, an extended resource such as `nvidia.com/gpu`, or the name of a DeviceClass,
    /// which counts devices of ResourceClaims.
    pub resources: BTreeMap<String, ResourceQuota>,
}

/// How much of a resource a Queue has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ResourceQuota {
    /// What is its own.
    pub nominal: IntOrString,
    /// Most that it may use beyond its own, of what others leave idle. No limit when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub borrowing_limit: Option<IntOrString>,
    /// Most of its own that others may use while it is idle. All of it when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lending_limit: Option<IntOrString>,
}

/// What is observed of a Queue.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Pods that have a node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admitted: Option<i32>,
    /// Pods that wait for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<i32>,
    /// What its own pods use, by flavor and resource.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub usage: BTreeMap<String, BTreeMap<String, String>>,
    /// Who waits first, and why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The generation of the spec that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: whether the Queue can be used.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
}
