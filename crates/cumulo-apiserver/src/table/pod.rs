//! The columns of pods, after `printPod` in Kubernetes' printers.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::duration;

fn list<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object
        .pointer(pointer)
        .and_then(Value::as_array)
        .map(Vec::as_slice)
        .unwrap_or_default()
}

fn text<'a>(object: &'a Value, pointer: &str) -> Option<&'a str> {
    object
        .pointer(pointer)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Names of init containers that go on beside the main ones.
fn sidecars(pod: &Value) -> Vec<&str> {
    list(pod, "/spec/initContainers")
        .iter()
        .filter(|container| text(container, "/restartPolicy") == Some("Always"))
        .filter_map(|container| text(container, "/name"))
        .collect()
}

fn is_sidecar(sidecars: &[&str], status: &Value) -> bool {
    text(status, "/name").is_some_and(|name| sidecars.contains(&name))
}

/// `ready/all` containers.
pub(super) fn ready(pod: &Value, _: DateTime<Utc>) -> Value {
    let sidecars = sidecars(pod);
    let all = list(pod, "/spec/containers").len() + sidecars.len();
    let main = list(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| status["ready"] == true && status.pointer("/state/running").is_some());
    let beside = list(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|status| {
            is_sidecar(&sidecars, status) && status["ready"] == true && status["started"] == true
        });
    json!(format!("{}/{all}", main.count() + beside.count()))
}

/// What the pod is doing, in one word.
pub(super) fn status(pod: &Value, _: DateTime<Utc>) -> Value {
    let mut reason = text(pod, "/status/reason")
        .or_else(|| text(pod, "/status/phase"))
        .unwrap_or("Unknown")
        .to_owned();
    let gated = list(pod, "/status/conditions").iter().any(|condition| {
        condition["type"] == "PodScheduled" && condition["reason"] == "SchedulingGated"
    });
    if gated {
        reason = "SchedulingGated".into();
    }
    let initializing = initializing(pod);
    if let Some(step) = &initializing {
        reason.clone_from(step);
    } else {
        let mut has_running = false;
        for status in list(pod, "/status/containerStatuses").iter().rev() {
            if let Some(waiting) = text(status, "/state/waiting/reason") {
                reason = waiting.into();
            } else if let Some(terminated) = status.pointer("/state/terminated") {
                reason = terminated_reason(terminated);
            } else if status["ready"] == true && status.pointer("/state/running").is_some() {
                has_running = true;
            }
        }
        if reason == "Completed" && has_running {
            let is_ready = list(pod, "/status/conditions")
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
            reason = if is_ready { "Running" } else { "NotReady" }.into();
        }
    }
    if text(pod, "/metadata/deletionTimestamp").is_some() {
        let phase = text(pod, "/status/phase").unwrap_or_default();
        if text(pod, "/status/reason") == Some("NodeLost") {
            reason = "Unknown".into();
        } else if !matches!(phase, "Failed" | "Succeeded") {
            reason = "Terminating".into();
        }
    }
    json!(reason)
}

fn terminated_reason(terminated: &Value) -> String {
    if let Some(reason) = text(terminated, "/reason") {
        return reason.into();
    }
    match number(terminated, "/signal") {
        0 => format!("ExitCode:{}", number(terminated, "/exitCode")),
        signal => format!("Signal:{signal}"),
    }
}

/// `Init:…` while init containers are at work.
fn initializing(pod: &Value) -> Option<String> {
    let sidecars = sidecars(pod);
    let all = list(pod, "/spec/initContainers").len();
    for (at, status) in list(pod, "/status/initContainerStatuses")
        .iter()
        .enumerate()
    {
        if let Some(terminated) = status.pointer("/state/terminated") {
            if number(terminated, "/exitCode") == 0 {
                continue;
            }
            return Some(format!("Init:{}", terminated_reason(terminated)));
        }
        if is_sidecar(&sidecars, status) && status["started"] == true {
            continue;
        }
        return Some(match text(status, "/state/waiting/reason") {
            Some(waiting) if waiting != "PodInitializing" => format!("Init:{waiting}"),
            _ => format!("Init:{at}/{all}"),
        });
    }
    None
}

/// How often containers were restarted, and when last.
pub(super) fn restarts(pod: &Value, now: DateTime<Utc>) -> Value {
    let sidecars = sidecars(pod);
    let main = list(pod, "/status/containerStatuses").iter();
    let init = list(pod, "/status/initContainerStatuses")
        .iter()
        .filter(|status| initializing(pod).is_some() || is_sidecar(&sidecars, status));
    let mut count = 0;
    let mut last = None;
    for status in main.chain(init) {
        count += number(status, "/restartCount");
        last = last.max(duration::parse(
            status.pointer("/lastState/terminated/finishedAt"),
        ));
    }
    match last {
        Some(time) if count > 0 => json!(format!("{count} ({} ago)", duration::age(time, now))),
        _ => json!(count.to_string()),
    }
}

/// Readiness gates that hold, of all.
pub(super) fn gates(pod: &Value, _: DateTime<Utc>) -> Value {
    let gates = list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return json!("<none>");
    }
    let holding = gates.iter().filter(|gate| {
        list(pod, "/status/conditions").iter().any(|condition| {
            condition["type"] == gate["conditionType"] && condition["status"] == "True"
        })
    });
    json!(format!("{}/{}", holding.count(), gates.len()))
}
