//! The document of `metrics.k8s.io/v1beta1`, which is no custom resource but
//! described as if it were one.

use serde_json::{Value, json};

/// Its path below `/openapi/v3/`.
pub const PATH: &str = "apis/metrics.k8s.io/v1beta1";

/// The document: schemas only, as what is measured is read and not written.
pub fn document() -> Value {
    let definitions = [
        definition(
            "NodeMetrics",
            "nodes",
            "Cluster",
            "NodeMetrics sets resource usage metrics of a node.",
            ("usage", usage("The resource usage of the node.")),
        ),
        definition(
            "PodMetrics",
            "pods",
            "Namespaced",
            "PodMetrics sets resource usage metrics of a pod.",
            (
                "containers",
                json!({
                    "type": "array",
                    "description": "Metrics for all containers are collected within the same time window.",
                    "items": {
                        "type": "object",
                        "description": "ContainerMetrics sets resource usage metrics of a container.",
                        "required": ["name", "usage"],
                        "properties": {
                            "name": {
                                "type": "string",
                                "description": "Container name corresponding to the one from pod.spec.containers.",
                            },
                            "usage": usage("The resource usage of the container."),
                        },
                    },
                }),
            ),
        ),
    ];
    let all: Vec<&Value> = definitions.iter().collect();
    let mut document = super::crd_document("metrics.k8s.io", "v1beta1", &all);
    document["paths"] = json!({});
    document
}

fn definition(
    kind: &str,
    plural: &str,
    scope: &str,
    description: &str,
    (field, schema): (&str, Value),
) -> Value {
    let mut properties = json!({
        "timestamp": {
            "type": "string",
            "format": "date-time",
            "description": "The end of the time interval from which the metrics were collected: [timestamp-window, timestamp].",
        },
        "window": {
            "type": "string",
            "description": "The length of the time interval from which the metrics were collected.",
        },
    });
    properties[field] = schema;
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.metrics.k8s.io")},
        "spec": {
            "group": "metrics.k8s.io",
            "names": {"kind": kind, "listKind": format!("{kind}List"), "plural": plural, "singular": ""},
            "scope": scope,
            "versions": [{
                "name": "v1beta1",
                "served": true,
                "storage": true,
                "schema": {"openAPIV3Schema": {
                    "type": "object",
                    "description": description,
                    "required": ["timestamp", "window", field],
                    "properties": properties,
                }},
            }],
        },
    })
}

fn usage(description: &str) -> Value {
    json!({
        "type": "object",
        "description": description,
        "additionalProperties": {"x-kubernetes-int-or-string": true},
    })
}
