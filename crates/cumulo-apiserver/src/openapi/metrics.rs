//! The document of `metrics.k8s.io/v1beta1`, which is no custom resource but
//! described as if it were one.

use serde_json::{Value, json};

/// Its path below `/openapi/v3/`.
pub const PATH: &str = "apis/metrics.k8s.io/v1beta1";

/// The document. What is measured is read, not written and not watched.
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
    if let Some(paths) = document["paths"].as_object_mut() {
        paths.retain(|path, _| !path.contains("/watch/"));
        for operations in paths.values_mut().filter_map(Value::as_object_mut) {
            operations.retain(|operation, _| matches!(operation.as_str(), "get" | "parameters"));
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_can_be_written() {
        let document = document();
        let paths = document["paths"].as_object().expect("paths");
        let all: Vec<String> = paths
            .iter()
            .flat_map(|(path, operations)| {
                let names = operations.as_object().expect("operations").keys();
                names
                    .filter(|name| *name != "parameters")
                    .map(move |name| format!("{name} {path}"))
            })
            .collect();
        insta::assert_snapshot!(all.join("\n"), @r"
        get /apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods
        get /apis/metrics.k8s.io/v1beta1/namespaces/{namespace}/pods/{name}
        get /apis/metrics.k8s.io/v1beta1/nodes
        get /apis/metrics.k8s.io/v1beta1/nodes/{name}
        get /apis/metrics.k8s.io/v1beta1/pods
        ");
    }
}
