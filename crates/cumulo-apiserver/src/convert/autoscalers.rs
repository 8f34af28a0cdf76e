//! HorizontalPodAutoscalers: version 1 knows one number, the target of CPU use;
//! whatever else version 2 says it carries in annotations, as Kubernetes does.

use serde_json::{Value, json};

use crate::strategy::object_at;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
/// Parts of version 2, and the annotations that carry them.
const CARRIED: [(&str, &str, &str); 4] = [
    ("spec", "metrics", METRICS),
    ("spec", "behavior", BEHAVIOR),
    ("status", "currentMetrics", CURRENT),
    ("status", "conditions", CONDITIONS),
];

fn is_cpu(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

/// From version 2 to version 1.
pub(super) fn to_v1(object: &mut Value) {
    for (part, field, numbers) in [
        (
            "spec",
            "targetCPUUtilizationPercentage",
            "/resource/target/averageUtilization",
        ),
        (
            "status",
            "currentCPUUtilizationPercentage",
            "/resource/current/averageUtilization",
        ),
    ] {
        let list = if part == "spec" {
            "metrics"
        } else {
            "currentMetrics"
        };
        let Some(metrics) = object[part][list].as_array().cloned() else {
            continue;
        };
        let (cpu, others): (Vec<_>, Vec<_>) = metrics
            .into_iter()
            .partition(|metric| is_cpu(metric) && metric.pointer(numbers).is_some());
        if let Some(number) = cpu.first().and_then(|metric| metric.pointer(numbers)) {
            object_at(object, &[part]).insert(field.into(), number.clone());
        }
        object_at(object, &[part]).insert(list.into(), json!(others));
    }
    for (part, field, annotation) in CARRIED {
        let Some(value) = object
            .get_mut(part)
            .and_then(Value::as_object_mut)
            .and_then(|part| part.shift_remove(field))
        else {
            continue;
        };
        if value.as_array().is_none_or(|list| !list.is_empty()) {
            object_at(object, &["metadata", "annotations"])
                .insert(annotation.into(), json!(value.to_string()));
        }
    }
}

/// From version 1 to version 2.
pub(super) fn to_v2(object: &mut Value) {
    for (part, field, annotation) in CARRIED {
        let text = object
            .pointer_mut("/metadata/annotations")
            .and_then(Value::as_object_mut)
            .and_then(|annotations| annotations.shift_remove(annotation));
        let carried = text
            .as_ref()
            .and_then(Value::as_str)
            .and_then(|text| serde_json::from_str(text).ok());
        if let Some(value) = carried {
            object_at(object, &[part]).insert(field.into(), value);
        }
    }
    if object["metadata"]["annotations"] == json!({}) {
        object_at(object, &["metadata"]).shift_remove("annotations");
    }
    for (part, field, list, holder) in [
        (
            "spec",
            "targetCPUUtilizationPercentage",
            "metrics",
            "target",
        ),
        (
            "status",
            "currentCPUUtilizationPercentage",
            "currentMetrics",
            "current",
        ),
    ] {
        let Some(number) = object
            .get_mut(part)
            .and_then(Value::as_object_mut)
            .and_then(|part| part.shift_remove(field))
        else {
            continue;
        };
        let mut value = json!({"averageUtilization": number});
        if holder == "target" {
            value["type"] = json!("Utilization");
        }
        let metric = json!({"type": "Resource", "resource": {"name": "cpu", holder: value}});
        let all = object_at(object, &[part])
            .entry(list)
            .or_insert_with(|| json!([]));
        if let Some(all) = all.as_array_mut() {
            all.insert(0, metric);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back_nothing_is_lost() {
        let memory = json!({"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}});
        let cpu = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"averageUtilization": 60, "type": "Utilization"}}});
        let newer = json!({
            "metadata": {"name": "a"},
            "spec": {"maxReplicas": 3, "metrics": [cpu, memory], "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5}}},
            "status": {"conditions": [{"type": "AbleToScale"}], "desiredReplicas": 1},
        });
        let mut object = newer.clone();
        to_v1(&mut object);
        assert_eq!(object["spec"]["targetCPUUtilizationPercentage"], 60);
        assert!(object["spec"].get("metrics").is_none());
        to_v2(&mut object);
        assert_eq!(object, newer);
    }
}
