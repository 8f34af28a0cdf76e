//! What a node and its pods use, as metrics-server and others read it of a kubelet.

use std::collections::BTreeMap;
use std::fmt::Write;

use axum::Json;
use axum::response::{IntoResponse, Response};
use cumulo_node::{Handle, NodeUsage, Usage};
use http::header;
use serde_json::{Value, json};

/// `/metrics/resource`, in Prometheus' text format.
pub async fn resource(node: &Handle) -> Response {
    let text = rendered(&node.measure().await, |uid| node.name_of(uid));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn rendered(measured: &NodeUsage, name_of: impl Fn(&str) -> Option<(String, String)>) -> String {
    let at = measured.at.as_millisecond();
    let seconds = |usage: &Usage| usage.cpu_nanoseconds as f64 / 1e9;
    let mut cpu = String::new();
    let mut memory = String::new();
    let mut pods: BTreeMap<(String, String), (f64, u64)> = BTreeMap::new();
    for one in &measured.containers {
        let Some((namespace, pod)) = name_of(&one.uid) else {
            continue;
        };
        let labels = format!(
            "{{container=\"{}\",namespace=\"{namespace}\",pod=\"{pod}\"}}",
            one.container
        );
        // Writing to a text cannot fail.
        let _ = writeln!(
            cpu,
            "container_cpu_usage_seconds_total{labels} {} {at}",
            seconds(&one.usage)
        );
        let _ = writeln!(
            memory,
            "container_memory_working_set_bytes{labels} {} {at}",
            one.usage.memory_bytes
        );
        let sums = pods.entry((namespace, pod)).or_default();
        sums.0 += seconds(&one.usage);
        sums.1 = sums.1.saturating_add(one.usage.memory_bytes);
    }
    let mut pod_cpu = String::new();
    let mut pod_memory = String::new();
    for ((namespace, pod), (seconds, bytes)) in pods {
        let labels = format!("{{namespace=\"{namespace}\",pod=\"{pod}\"}}");
        let _ = writeln!(
            pod_cpu,
            "pod_cpu_usage_seconds_total{labels} {seconds} {at}"
        );
        let _ = writeln!(
            pod_memory,
            "pod_memory_working_set_bytes{labels} {bytes} {at}"
        );
    }
    format!(
        "# TYPE container_cpu_usage_seconds_total counter\n{cpu}# TYPE container_memory_working_set_bytes gauge\n{memory}# TYPE node_cpu_usage_seconds_total counter\nnode_cpu_usage_seconds_total {} {at}\n# TYPE node_memory_working_set_bytes gauge\nnode_memory_working_set_bytes {} {at}\n# TYPE pod_cpu_usage_seconds_total counter\n{pod_cpu}# TYPE pod_memory_working_set_bytes gauge\n{pod_memory}# TYPE resource_scrape_error gauge\nresource_scrape_error 0\n",
        seconds(&measured.machine),
        measured.machine.memory_bytes
    )
}

/// `/stats/summary`.
pub async fn summary(node: &Handle) -> Response {
    let measured = node.measure().await;
    Json(summarised(&measured, node.node_name(), |uid| {
        node.name_of(uid)
    }))
    .into_response()
}

fn summarised(
    measured: &NodeUsage,
    node: &str,
    name_of: impl Fn(&str) -> Option<(String, String)>,
) -> Value {
    let time = measured.at.to_string();
    let cpu = |usage: &Usage| {
        json!({"time": time, "usageNanoCores": usage.cpu_nanocores,
            "usageCoreNanoSeconds": usage.cpu_nanoseconds})
    };
    let memory = |usage: &Usage| json!({"time": time, "workingSetBytes": usage.memory_bytes});
    let mut pods: BTreeMap<&str, Vec<Value>> = BTreeMap::new();
    for one in &measured.containers {
        pods.entry(&one.uid).or_default().push(json!({
            "name": one.container, "cpu": cpu(&one.usage), "memory": memory(&one.usage),
        }));
    }
    let pods: Vec<Value> = pods
        .into_iter()
        .filter_map(|(uid, containers)| {
            let (namespace, name) = name_of(uid)?;
            Some(json!({
                "podRef": {"name": name, "namespace": namespace, "uid": uid},
                "containers": containers,
            }))
        })
        .collect();
    json!({
        "node": {
            "nodeName": node, "cpu": cpu(&measured.machine), "memory": memory(&measured.machine),
        },
        "pods": pods,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cumulo_node::ContainerUsage;
    use k8s_openapi::jiff::Timestamp;

    use super::*;

    fn measured() -> NodeUsage {
        let usage = Usage {
            cpu_nanocores: 250_000_000,
            cpu_nanoseconds: 1_500_000_000,
            memory_bytes: 42,
        };
        NodeUsage {
            at: Timestamp::from_second(1_800_000_000).unwrap(),
            window: Duration::from_secs(1),
            machine: usage,
            containers: vec![
                ContainerUsage {
                    uid: "u".to_owned(),
                    container: "main".to_owned(),
                    usage,
                },
                ContainerUsage {
                    uid: "gone".to_owned(),
                    container: "main".to_owned(),
                    usage,
                },
            ],
        }
    }

    fn name_of(uid: &str) -> Option<(String, String)> {
        (uid == "u").then(|| ("n".to_owned(), "p".to_owned()))
    }

    #[test]
    fn metrics_are_those_of_a_kubelet() {
        insta::assert_snapshot!(rendered(&measured(), name_of), @r#"
        # TYPE container_cpu_usage_seconds_total counter
        container_cpu_usage_seconds_total{container="main",namespace="n",pod="p"} 1.5 1800000000000
        # TYPE container_memory_working_set_bytes gauge
        container_memory_working_set_bytes{container="main",namespace="n",pod="p"} 42 1800000000000
        # TYPE node_cpu_usage_seconds_total counter
        node_cpu_usage_seconds_total 1.5 1800000000000
        # TYPE node_memory_working_set_bytes gauge
        node_memory_working_set_bytes 42 1800000000000
        # TYPE pod_cpu_usage_seconds_total counter
        pod_cpu_usage_seconds_total{namespace="n",pod="p"} 1.5 1800000000000
        # TYPE pod_memory_working_set_bytes gauge
        pod_memory_working_set_bytes{namespace="n",pod="p"} 42 1800000000000
        # TYPE resource_scrape_error gauge
        resource_scrape_error 0
        "#);
    }

    #[test]
    fn a_summary_names_pods() {
        let summary = summarised(&measured(), "node", name_of);
        assert_eq!(summary["pods"][0]["podRef"]["name"], "p");
        assert_eq!(summary["pods"].as_array().map(Vec::len), Some(1));
        assert_eq!(summary["node"]["cpu"]["usageNanoCores"], 250_000_000);
    }
}
