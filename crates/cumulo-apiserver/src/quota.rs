//! What objects count for in ResourceQuotas. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::quantity::Quantity;
use crate::resource::ResourceType;

/// Amounts by the names that quotas use: `pods`, `requests.cpu`, `count/jobs.batch`.
pub type Amounts = BTreeMap<String, Quantity>;

/// Kinds of the core group whose plural alone is a name in quotas.
const COUNTED: [&str; 7] = [
    "configmaps",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "resourcequotas",
    "secrets",
    "services",
];
/// Resources of containers that go by their own name in quotas, too.
const COMPUTE: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// What a quota allows.
pub fn hard(quota: &Value) -> Amounts {
    amounts(&quota["spec"]["hard"])
}

/// A map of quantities; what is none is left out.
pub fn amounts(map: &Value) -> Amounts {
    map.as_object()
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| Some((name.clone(), quantity(value)?)))
        .collect()
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(text) => Quantity::parse(text),
        Value::Number(number) => Quantity::parse(&number.to_string()),
        _ => None,
    }
}

/// Group and plural of what a name in a quota counts; none for unknown names.
pub fn counted(name: &str) -> Option<(&str, &str)> {
    if let Some(resource) = name.strip_prefix("count/") {
        return Some(match resource.split_once('.') {
            Some((plural, group)) => (group, plural),
            None => ("", resource),
        });
    }
    if COUNTED.contains(&name) {
        return Some(("", name));
    }
    match name {
        "services.nodeports" | "services.loadbalancers" => Some(("", "services")),
        "requests.storage" => Some(("", "persistentvolumeclaims")),
        name if name.contains(".storageclass.storage.k8s.io/") => {
            Some(("", "persistentvolumeclaims"))
        }
        name if COMPUTE.contains(&name)
            || name.starts_with("requests.")
            || name.starts_with("limits.")
            || name.starts_with("hugepages-") =>
        {
            Some(("", "pods"))
        }
        _ => None,
    }
}

/// All that an object counts for.
pub fn usage(resource: &ResourceType, object: &Value) -> Amounts {
    let one = Quantity::from(1);
    let mut used = Amounts::new();
    used.insert(format!("count/{}", resource.qualified()), one);
    if !resource.group.is_empty() {
        return used;
    }
    if COUNTED.contains(&resource.plural.as_str()) && resource.plural != "pods" {
        used.insert(resource.plural.clone(), one);
    }
    match resource.plural.as_str() {
        "pods" => pod(object, &mut used),
        "services" => service(&object["spec"], &mut used),
        "persistentvolumeclaims" => claim(object, &mut used),
        _ => {}
    }
    used
}

fn service(spec: &Value, used: &mut Amounts) {
    let kind = spec["type"].as_str().unwrap_or_default();
    let balanced = kind == "LoadBalancer";
    used.insert(
        "services.loadbalancers".into(),
        Quantity::from(i64::from(balanced)),
    );
    let ports = spec["ports"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let count = match kind {
        "NodePort" => ports.len(),
        // Without ports of nodes only those count that were asked for.
        "LoadBalancer" if spec["allocateLoadBalancerNodePorts"] == false => ports
            .iter()
            .filter(|port| port["nodePort"].as_i64().is_some_and(|n| n != 0))
            .count(),
        "LoadBalancer" => ports.len(),
        _ => 0,
    };
    used.insert(
        "services.nodeports".into(),
        Quantity::from(i64::try_from(count).unwrap_or(i64::MAX)),
    );
}

fn claim(object: &Value, used: &mut Amounts) {
    let Some(storage) = quantity(&object["spec"]["resources"]["requests"]["storage"]) else {
        return;
    };
    used.insert("requests.storage".into(), storage);
    if let Some(class) = object["spec"]["storageClassName"].as_str() {
        let prefix = format!("{class}.storageclass.storage.k8s.io/");
        used.insert(format!("{prefix}requests.storage"), storage);
        used.insert(format!("{prefix}persistentvolumeclaims"), Quantity::from(1));
    }
}

/// Whether a pod has ended: then it uses nothing any more, but still counts as
/// an object.
fn is_over(pod: &Value) -> bool {
    matches!(
        pod["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed")
    )
}

fn pod(object: &Value, used: &mut Amounts) {
    if is_over(object) {
        return;
    }
    used.insert("pods".into(), Quantity::from(1));
    for (part, prefix) in [("requests", "requests."), ("limits", "limits.")] {
        for (name, amount) in resources(&object["spec"], part) {
            if part == "requests"
                && (COMPUTE.contains(&name.as_str()) || name.starts_with("hugepages-"))
            {
                used.insert(name.clone(), amount);
            }
            used.insert(format!("{prefix}{name}"), amount);
        }
    }
}

/// What a pod needs at once: its containers together, or an init container
/// alone with the sidecars that were started before it.
fn resources(spec: &Value, part: &str) -> Amounts {
    let each = |container: &Value| amounts(&container["resources"][part]);
    let add = |total: &mut Amounts, more: &Amounts| {
        for (name, amount) in more {
            let sum = total.entry(name.clone()).or_insert(Quantity::ZERO);
            *sum = sum.plus(amount);
        }
    };
    let mut together = Amounts::new();
    for container in spec["containers"].as_array().into_iter().flatten() {
        add(&mut together, &each(container));
    }
    let mut sidecars = Amounts::new();
    let mut most = Amounts::new();
    for container in spec["initContainers"].as_array().into_iter().flatten() {
        let mut now = sidecars.clone();
        add(&mut now, &each(container));
        if container["restartPolicy"] == "Always" {
            sidecars = now.clone();
        }
        for (name, amount) in now {
            let known = most.entry(name).or_insert(Quantity::ZERO);
            *known = (*known).max(amount);
        }
    }
    add(&mut together, &sidecars);
    for (name, amount) in most {
        let known = together.entry(name).or_insert(Quantity::ZERO);
        *known = (*known).max(amount);
    }
    add(&mut together, &amounts(&spec["overhead"]));
    together
}

/// Whether a quota is about an object: all of its scopes are.
pub fn is_about(quota: &Value, resource: &ResourceType, object: &Value) -> bool {
    let spec = &quota["spec"];
    let scopes = spec["scopes"].as_array().into_iter().flatten();
    let expressions = spec["scopeSelector"]["matchExpressions"]
        .as_array()
        .into_iter()
        .flatten();
    let mut all = scopes
        .map(|scope| (scope.as_str().unwrap_or_default(), "Exists", &Value::Null))
        .chain(expressions.map(|e| {
            (
                e["scopeName"].as_str().unwrap_or_default(),
                e["operator"].as_str().unwrap_or_default(),
                &e["values"],
            )
        }))
        .peekable();
    if all.peek().is_none() {
        return true;
    }
    resource.is("", "pods")
        && all.all(|(scope, operator, values)| pod_has(object, scope, operator, values))
}

fn pod_has(pod: &Value, scope: &str, operator: &str, values: &Value) -> bool {
    let spec = &pod["spec"];
    let terminating = spec["activeDeadlineSeconds"]
        .as_i64()
        .is_some_and(|s| s >= 0);
    let best_effort = crate::strategy::quality_of_service(spec) == "BestEffort";
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => best_effort,
        "NotBestEffort" => !best_effort,
        "PriorityClass" => {
            let class = spec["priorityClassName"].as_str().unwrap_or_default();
            let named = values.as_array().into_iter().flatten().any(|v| v == class);
            match operator {
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                "In" => named,
                "NotIn" => !named,
                _ => false,
            }
        }
        _ => false,
    }
}

/// What a pod's containers must say because a quota counts it, and do not:
/// `cpu for: a,b; memory for: a`. Empty when nothing is missing.
pub fn unsaid(hard: &Amounts, pod: &Value) -> String {
    let mut missing: Vec<String> = Vec::new();
    for name in hard.keys() {
        let (part, resource) = match name.split_once('.') {
            Some(("requests", resource)) => ("requests", resource),
            Some(("limits", resource)) => ("limits", resource),
            _ => ("requests", name.as_str()),
        };
        if !COMPUTE.contains(&resource) {
            continue;
        }
        let silent: Vec<&str> = ["initContainers", "containers"]
            .iter()
            .flat_map(|list| pod["spec"][*list].as_array().into_iter().flatten())
            .filter(|container| container["resources"][part][resource].is_null())
            .filter_map(|container| container["name"].as_str())
            .collect();
        if !silent.is_empty() {
            missing.push(format!("{name} for: {}", silent.join(",")));
        }
    }
    missing.join("; ")
}

/// Amounts as messages show them: `cpu=600m,pods=1`.
pub fn shown(amounts: &Amounts) -> String {
    let each: Vec<String> = amounts
        .iter()
        .map(|(name, amount)| format!("{name}={amount}"))
        .collect();
    each.join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::builtin_types;

    fn resource(plural: &str) -> std::sync::Arc<ResourceType> {
        builtin_types()
            .into_iter()
            .find(|r| r.plural == plural)
            .expect("a resource")
    }

    #[test]
    fn a_pod_counts_what_it_needs_at_once() {
        let container = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu, "example.com/x": "1"}, "limits": {"cpu": "2"}}});
        let mut pod = json!({"spec": {
            "initContainers": [
                {"name": "sidecar", "restartPolicy": "Always", "resources": {"requests": {"cpu": "100m"}}},
                container("first", "3"),
            ],
            "containers": [container("a", "500m"), container("b", "1")],
        }});
        let pods = resource("pods");
        insta::assert_snapshot!(shown(&usage(&pods, &pod)), @"count/pods=1,cpu=3100m,limits.cpu=4,pods=1,requests.cpu=3100m,requests.example.com/x=2");
        pod["status"]["phase"] = json!("Succeeded");
        assert_eq!(shown(&usage(&pods, &pod)), "count/pods=1");
    }

    #[test]
    fn scopes_say_which_pods_a_quota_is_about() {
        let pods = resource("pods");
        let quota = |scope: &str| json!({"spec": {"scopes": [scope]}});
        let pod = json!({"spec": {"activeDeadlineSeconds": 5, "containers": [{"name": "a"}]}});
        let about: Vec<bool> = [
            "Terminating",
            "NotTerminating",
            "BestEffort",
            "NotBestEffort",
        ]
        .iter()
        .map(|scope| is_about(&quota(scope), &pods, &pod))
        .collect();
        assert_eq!(about, [true, false, true, false]);
        assert!(!is_about(
            &quota("BestEffort"),
            &resource("secrets"),
            &json!({})
        ));
        let selector = json!({"spec": {"scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["high"]},
        ]}}});
        assert!(!is_about(&selector, &pods, &pod));
        assert!(is_about(
            &selector,
            &pods,
            &json!({"spec": {"priorityClassName": "high"}})
        ));
    }

    #[test]
    fn services_count_ports() {
        let services = resource("services");
        let service =
            json!({"spec": {"type": "LoadBalancer", "ports": [{"port": 1}, {"port": 2}]}});
        insta::assert_snapshot!(shown(&usage(&services, &service)), @"count/services=1,services=1,services.loadbalancers=1,services.nodeports=2");
    }

    #[test]
    fn containers_have_to_say_what_is_counted() {
        let pod = json!({"spec": {"containers": [
            {"name": "a", "resources": {"requests": {"cpu": "1"}}}, {"name": "b"},
        ]}});
        let hard = amounts(&json!({"requests.cpu": "1", "limits.memory": "1", "pods": 3}));
        assert_eq!(
            unsaid(&hard, &pod),
            "limits.memory for: a,b; requests.cpu for: b"
        );
    }
}
