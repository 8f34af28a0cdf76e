//! Cells of built-in kinds that take more than looking up a field.

use chrono::{DateTime, Utc};
use serde_json::{Map, Value, json};

use super::duration;
use super::show::{NONE, list, or_none, text};

pub(super) fn data(object: &Value, _: DateTime<Utc>) -> Value {
    let count = |key: &str| object[key].as_object().map_or(0, Map::len);
    json!(count("data") + count("binaryData"))
}

pub(super) fn node_status(node: &Value, _: DateTime<Utc>) -> Value {
    let mut status = list(node, "/status/conditions")
        .iter()
        .find(|condition| condition["type"] == "Ready")
        .map_or("Unknown", |condition| match condition["status"].as_str() {
            Some("True") => "Ready",
            _ => "NotReady",
        })
        .to_owned();
    if node.pointer("/spec/unschedulable") == Some(&json!(true)) {
        status.push_str(",SchedulingDisabled");
    }
    json!(status)
}

pub(super) fn node_roles(node: &Value, _: DateTime<Utc>) -> Value {
    let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(
            |(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if key == "kubernetes.io/role" => value.as_str(),
                None => None,
            },
        )
        .filter(|role| !role.is_empty())
        .collect();
    roles.sort_unstable();
    roles.dedup();
    or_none(roles.join(","))
}

fn address(node: &Value, kind: &str) -> Value {
    list(node, "/status/addresses")
        .iter()
        .find(|address| address["type"] == kind)
        .map_or_else(|| json!(NONE), |address| address["address"].clone())
}

pub(super) fn internal_ip(node: &Value, _: DateTime<Utc>) -> Value {
    address(node, "InternalIP")
}

pub(super) fn external_ip(node: &Value, _: DateTime<Utc>) -> Value {
    address(node, "ExternalIP")
}

fn ingress_points(object: &Value) -> Vec<&str> {
    list(object, "/status/loadBalancer/ingress")
        .iter()
        .filter_map(|point| point["ip"].as_str().or_else(|| point["hostname"].as_str()))
        .collect()
}

pub(super) fn service_external(service: &Value, _: DateTime<Utc>) -> Value {
    let mut addresses: Vec<&str> = Vec::new();
    match text(service, "/spec/type") {
        "ExternalName" => addresses.push(text(service, "/spec/externalName")),
        "LoadBalancer" => addresses = ingress_points(service),
        _ => {}
    }
    addresses.extend(
        list(service, "/spec/externalIPs")
            .iter()
            .filter_map(Value::as_str),
    );
    if addresses.is_empty() && text(service, "/spec/type") == "LoadBalancer" {
        return json!("<pending>");
    }
    or_none(addresses.join(","))
}

pub(super) fn service_ports(service: &Value, _: DateTime<Utc>) -> Value {
    let ports: Vec<String> = list(service, "/spec/ports")
        .iter()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            match port["nodePort"].as_i64() {
                Some(node_port) if node_port > 0 => {
                    format!("{}:{node_port}/{protocol}", port["port"])
                }
                _ => format!("{}/{protocol}", port["port"]),
            }
        })
        .collect();
    or_none(ports.join(","))
}

/// Shows the first few of many.
fn shortened(all: &[String], most: usize) -> Value {
    if all.len() <= most {
        return or_none(all.join(","));
    }
    json!(format!(
        "{} + {} more...",
        all[..most].join(","),
        all.len() - most
    ))
}

pub(super) fn endpoints(object: &Value, _: DateTime<Utc>) -> Value {
    let mut all = Vec::new();
    for subset in list(object, "/subsets") {
        let ports = list(subset, "/ports");
        for address in list(subset, "/addresses") {
            let ip = text(address, "/ip");
            if ports.is_empty() {
                all.push(ip.to_owned());
            }
            all.extend(ports.iter().map(|port| format!("{ip}:{}", port["port"])));
        }
    }
    shortened(&all, 3)
}

pub(super) fn slice_ports(object: &Value, _: DateTime<Utc>) -> Value {
    let ports: Vec<String> = list(object, "/ports")
        .iter()
        .map(|port| port["port"].to_string())
        .collect();
    if ports.is_empty() {
        json!("<unset>")
    } else {
        shortened(&ports, 3)
    }
}

pub(super) fn slice_endpoints(object: &Value, _: DateTime<Utc>) -> Value {
    let all: Vec<String> = list(object, "/endpoints")
        .iter()
        .flat_map(|endpoint| list(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if all.is_empty() {
        json!("<unset>")
    } else {
        shortened(&all, 3)
    }
}

pub(super) fn access_modes(object: &Value, _: DateTime<Utc>) -> Value {
    let short = |mode: &str| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "?",
    };
    let modes: Vec<&str> = list(object, "/spec/accessModes")
        .iter()
        .filter_map(Value::as_str)
        .map(short)
        .collect();
    json!(modes.join(","))
}

pub(super) fn claim(object: &Value, _: DateTime<Utc>) -> Value {
    match object.pointer("/spec/claimRef") {
        Some(claim) => json!(format!(
            "{}/{}",
            text(claim, "/namespace"),
            text(claim, "/name")
        )),
        None => json!(""),
    }
}

fn quota(object: &Value, wants_limits: bool) -> Value {
    let hard = object.pointer("/status/hard").and_then(Value::as_object);
    let parts: Vec<String> = hard
        .into_iter()
        .flatten()
        .filter(|(resource, _)| resource.starts_with("limits.") == wants_limits)
        .map(|(resource, most)| {
            let used = object["status"]["used"][resource].as_str().unwrap_or("0");
            format!("{resource}: {used}/{}", most.as_str().unwrap_or_default())
        })
        .collect();
    json!(parts.join(", "))
}

pub(super) fn quota_requests(object: &Value, _: DateTime<Utc>) -> Value {
    quota(object, false)
}

pub(super) fn quota_limits(object: &Value, _: DateTime<Utc>) -> Value {
    quota(object, true)
}

pub(super) fn controller(object: &Value, _: DateTime<Utc>) -> Value {
    let owner = list(object, "/metadata/ownerReferences")
        .iter()
        .find(|owner| owner["controller"] == true);
    match owner {
        Some(owner) => {
            let group = text(owner, "/apiVersion")
                .split_once('/')
                .map_or("", |(group, _)| group);
            let kind = text(owner, "/kind").to_lowercase();
            let kind = if group.is_empty() {
                kind
            } else {
                format!("{kind}.{group}")
            };
            json!(format!("{kind}/{}", text(owner, "/name")))
        }
        None => json!(NONE),
    }
}

pub(super) fn job_status(job: &Value, _: DateTime<Utc>) -> Value {
    let has = |kind: &str| {
        list(job, "/status/conditions")
            .iter()
            .any(|condition| condition["type"] == kind && condition["status"] == "True")
    };
    json!(if has("Complete") {
        "Complete"
    } else if has("Failed") {
        "Failed"
    } else if !text(job, "/metadata/deletionTimestamp").is_empty() {
        "Terminating"
    } else if has("Suspended") {
        "Suspended"
    } else if has("FailureTarget") {
        "FailureTarget"
    } else if has("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    })
}

pub(super) fn job_completions(job: &Value, _: DateTime<Utc>) -> Value {
    let done = job
        .pointer("/status/succeeded")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    if let Some(all) = job.pointer("/spec/completions").and_then(Value::as_i64) {
        return json!(format!("{done}/{all}"));
    }
    match job.pointer("/spec/parallelism").and_then(Value::as_i64) {
        Some(parallel) if parallel > 1 => json!(format!("{done}/1 of {parallel}")),
        _ => json!(format!("{done}/1")),
    }
}

pub(super) fn job_duration(job: &Value, now: DateTime<Utc>) -> Value {
    let start = duration::parse(job.pointer("/status/startTime"));
    let end = duration::parse(job.pointer("/status/completionTime")).unwrap_or(now);
    json!(start.map_or_else(String::new, |start| duration::age(start, end)))
}

fn flag(object: &Value, pointer: &str) -> Value {
    json!(object.pointer(pointer) == Some(&json!(true)))
}

pub(super) fn suspended(job: &Value, _: DateTime<Utc>) -> Value {
    flag(job, "/spec/suspend")
}

pub(super) fn global_default(class: &Value, _: DateTime<Utc>) -> Value {
    flag(class, "/globalDefault")
}

pub(super) fn expansion(class: &Value, _: DateTime<Utc>) -> Value {
    flag(class, "/allowVolumeExpansion")
}

pub(super) fn role(binding: &Value, _: DateTime<Utc>) -> Value {
    json!(format!(
        "{}/{}",
        text(binding, "/roleRef/kind"),
        text(binding, "/roleRef/name")
    ))
}

fn subjects(binding: &Value, kind: &str) -> Value {
    let names: Vec<String> = list(binding, "/subjects")
        .iter()
        .filter(|subject| subject["kind"] == kind)
        .map(|subject| match subject["namespace"].as_str() {
            Some(namespace) => format!("{namespace}/{}", text(subject, "/name")),
            None => text(subject, "/name").to_owned(),
        })
        .collect();
    json!(names.join(", "))
}

pub(super) fn users(binding: &Value, _: DateTime<Utc>) -> Value {
    subjects(binding, "User")
}

pub(super) fn groups(binding: &Value, _: DateTime<Utc>) -> Value {
    subjects(binding, "Group")
}

pub(super) fn service_accounts(binding: &Value, _: DateTime<Utc>) -> Value {
    subjects(binding, "ServiceAccount")
}

pub(super) fn ingress_hosts(ingress: &Value, _: DateTime<Utc>) -> Value {
    let hosts: Vec<String> = list(ingress, "/spec/rules")
        .iter()
        .map(|rule| {
            rule["host"]
                .as_str()
                .filter(|host| !host.is_empty())
                .unwrap_or("*")
                .to_owned()
        })
        .collect();
    if hosts.is_empty() {
        json!("*")
    } else {
        shortened(&hosts, 3)
    }
}

pub(super) fn ingress_address(ingress: &Value, _: DateTime<Utc>) -> Value {
    json!(ingress_points(ingress).join(","))
}

pub(super) fn ingress_ports(ingress: &Value, _: DateTime<Utc>) -> Value {
    json!(if list(ingress, "/spec/tls").is_empty() {
        "80"
    } else {
        "80, 443"
    })
}

pub(super) fn claim_state(claim: &Value, _: DateTime<Utc>) -> Value {
    let mut states = Vec::new();
    if !text(claim, "/metadata/deletionTimestamp").is_empty() {
        states.push("deleted");
    }
    let allocated = claim
        .pointer("/status/allocation")
        .is_some_and(|a| !a.is_null());
    if allocated {
        states.push("allocated");
    }
    if !list(claim, "/status/reservedFor").is_empty() {
        states.push("reserved");
    }
    if states.is_empty() {
        states.push("pending");
    }
    json!(states.join(","))
}

pub(super) fn pod_cpu(metrics: &Value, _: DateTime<Utc>) -> Value {
    sum_of_usage(metrics, "cpu", "n")
}

pub(super) fn pod_memory(metrics: &Value, _: DateTime<Utc>) -> Value {
    sum_of_usage(metrics, "memory", "Ki")
}

/// What the containers of a `PodMetrics` use together.
fn sum_of_usage(metrics: &Value, resource: &str, unit: &str) -> Value {
    let sum: u64 = list(metrics, "/containers")
        .iter()
        .filter_map(|container| container["usage"][resource].as_str())
        .filter_map(|amount| amount.strip_suffix(unit)?.parse::<u64>().ok())
        .sum();
    json!(format!("{sum}{unit}"))
}
