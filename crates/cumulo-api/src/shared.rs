//! Parts that several kinds share.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use crate::gpu::Gpu;

/// A Python environment, resolved and locked by uv.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Environment {
    /// The Python version, such as `3.11`. The newest one installed when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(regex(pattern = r"^3(\.[0-9]+){0,2}$"))]
    pub python: Option<String>,
    /// Requirements as pip takes them, such as `scikit-learn` or `numpy<2`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub packages: Vec<String>,
    /// The text of a requirements.txt. In a manifest a path beside it; `cumulo apply` puts the text here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requirements: Option<String>,
    /// The text of a lock (a requirements.txt with every version pinned): used as it is, nothing is resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lock: Option<String>,
}

/// What a pod of this object may use. Quantities as in Kubernetes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// CPU cores, such as `2` or `500m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<IntOrString>,
    /// Memory, such as `512Mi` or `8Gi`. What uses more is ended with the reason OOMKilled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<IntOrString>,
    /// GPUs: a share of one such as `0.3`, a count such as `2`, or an object of `count`, `model` and one of `share`,
    /// `memory` (`10Gi`) and `profile` (`1g.10gb`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
}

impl Resources {
    /// The resources as Kubernetes quantities, by resource name. GPUs are none: they go into an annotation.
    pub fn quantities(&self) -> BTreeMap<String, String> {
        [("cpu", &self.cpu), ("memory", &self.memory)]
            .into_iter()
            .filter_map(|(name, amount)| {
                amount.as_ref().map(|amount| {
                    let text = match amount {
                        IntOrString::Int(number) => number.to_string(),
                        IntOrString::String(text) => text.clone(),
                    };
                    (name.to_owned(), text)
                })
            })
            .collect()
    }
}

/// Marks a list of conditions as a map keyed by type, so that several writers can own one each.
pub(crate) fn conditions_schema(generator: &mut SchemaGenerator) -> Schema {
    let item =
        generator.subschema_for::<k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition>();
    json_schema!({
        "type": "array",
        "items": item,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "description": "The observed conditions, each with a reason and a message.",
    })
}

/// A value of any JSON type.
pub(crate) fn any_values_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": {"x-kubernetes-preserve-unknown-fields": true},
    })
}
