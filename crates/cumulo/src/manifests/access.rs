//! Service accounts, and what each role may do: what its code calls, and no more.
//!
//! | account | who |
//! | --- | --- |
//! | `cumulo-operator`, `-gateway`, `-tracking`, `-scheduler` | the Deployment of that name |
//! | `cumulo-node` | machines that join with `cumulo node`, through a kubeconfig with its token |
//! | `cumulo-workload` | the token in the pods of users: tracking, artifacts, predictions |
//! | `cumulo-user` | people whose kubeconfig has a client certificate, for the same three |

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::settings::Settings;
use super::{MANAGED_BY, labels};

/// The account whose token the operator puts into the pods it makes.
pub const WORKLOAD: &str = "cumulo-workload";
/// The account of which people without a bearer token get one.
pub const USER: &str = "cumulo-user";
/// The Secret with that token, in every namespace with such pods.
const TRACKING_SECRET: &str = "cumulo-tracking";

const RBAC: &str = "rbac.authorization.k8s.io";
const GROUP: &str = "cumulo.dev";
const KINDS: [&str; 4] = ["datasets", "inferenceservices", "models", "trainjobs"];
const READ: [&str; 3] = ["get", "list", "watch"];

/// Roles that users are given; the same as on the embedded API server.
const USER_ROLES: &str = include_str!("../platform/roles.yaml");

/// Accounts, roles and bindings.
///
/// # Errors
/// When the roles of users cannot be read.
pub fn objects(settings: &Settings) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    for component in components(settings) {
        all.push(json!({
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": metadata(settings, &format!("cumulo-{component}"), component),
            "automountServiceAccountToken": false,
        }));
    }
    all.extend(user_roles()?);
    for component in components(settings) {
        let rules = cluster_rules(component);
        if !rules.is_empty() {
            let name = format!("cumulo:{component}");
            all.push(cluster_role(&name, component, &rules));
            all.push(cluster_binding(settings, &name, &name, component));
        }
    }
    // Who may speak to a role is asked of the API server.
    for component in components(settings).into_iter().filter(|name| serves(name)) {
        let name = format!("cumulo:{component}:auth-delegator");
        all.push(cluster_binding(
            settings,
            &name,
            "system:auth-delegator",
            component,
        ));
    }
    for component in ["workload", "user"] {
        let name = format!("cumulo:account:{component}");
        all.push(cluster_binding(
            settings,
            &name,
            "cumulo:workload",
            component,
        ));
    }
    for component in components(settings) {
        let rules = rules(component);
        if !rules.is_empty() {
            let name = format!("cumulo-{component}");
            all.push(role(settings, &name, component, &rules));
            // Whom the role of people is for, the cluster's administrator says.
            if component != "user" {
                let subject = json!({"kind": "ServiceAccount", "name": name, "namespace": settings.namespace});
                all.push(binding(settings, &name, component, &subject));
            }
        }
    }
    let name = "cumulo-configuration";
    let rules = [json!({
        "apiGroups": [""], "resources": ["configmaps"],
        "resourceNames": [crate::place::CONFIGURATION], "verbs": ["get"],
    })];
    all.push(role(settings, name, "user", &rules));
    let everybody = json!({"apiGroup": RBAC, "kind": "Group", "name": "system:authenticated"});
    all.push(binding(settings, name, "user", &everybody));
    all.extend(node_leases(settings));
    Ok(all)
}

/// Whether an account's program answers requests, be they for metrics only.
fn serves(component: &str) -> bool {
    !matches!(component, "workload" | "user")
}

/// What has an account.
fn components(settings: &Settings) -> Vec<&'static str> {
    let mut all = vec!["operator", "gateway", "tracking"];
    if settings.scheduler {
        all.push("scheduler");
    }
    all.extend(["node", "workload", "user"]);
    all
}

fn metadata(settings: &Settings, name: &str, component: &str) -> Value {
    json!({"name": name, "namespace": settings.namespace, "labels": labels(component)})
}

/// One rule about resources.
fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "verbs": verbs})
}

/// One rule about some objects.
fn named(group: &str, resources: &[&str], names: &[&str], verbs: &[&str]) -> Value {
    json!({"apiGroups": [group], "resources": resources, "resourceNames": names, "verbs": verbs})
}

fn subresources(of: &[&str], subresource: &str) -> Vec<String> {
    of.iter()
        .map(|kind| format!("{kind}/{subresource}"))
        .collect()
}

/// What a role may do everywhere.
pub fn cluster_rules(component: &str) -> Vec<Value> {
    match component {
        "operator" => operator(),
        "gateway" => vec![
            rule(GROUP, &["inferenceservices"], &READ),
            rule("", &["pods"], &READ),
        ],
        "scheduler" => scheduler(),
        "node" => node(),
        _ => Vec::new(),
    }
}

fn operator() -> Vec<Value> {
    vec![
        rule(GROUP, &KINDS, &READ),
        // A Model makes the TrainJobs of its versions.
        rule(GROUP, &["trainjobs"], &["create", "delete"]),
        json!({"apiGroups": [GROUP], "resources": subresources(&KINDS, "status"), "verbs": ["patch"]}),
        // To own pods and TrainJobs, where OwnerReferencesPermissionEnforcement asks for it.
        json!({"apiGroups": [GROUP], "resources": subresources(&KINDS, "finalizers"), "verbs": ["update"]}),
        // The registry, and what the gateways are asked for.
        rule(GROUP, &["models/tracking"], &["get", "update"]),
        rule(GROUP, &["inferenceservices/demand"], &["get"]),
        rule("", &["pods"], &["create", "delete", "get", "list", "watch"]),
        rule("", &["events"], &["create", "patch"]),
        named(
            "",
            &["secrets"],
            &[cumulo_control::ARTIFACTS_SECRET, TRACKING_SECRET],
            &["create", "get", "patch"],
        ),
    ]
}

fn scheduler() -> Vec<Value> {
    vec![
        rule("", &["pods", "nodes", "namespaces"], &READ),
        rule("", &["pods/binding"], &["create"]),
        rule("", &["pods/status"], &["patch"]),
        // To make room for what comes first.
        rule("", &["pods/eviction"], &["create"]),
        rule("", &["events"], &["create", "patch"]),
        rule("", &["persistentvolumeclaims", "persistentvolumes"], &READ),
        rule("storage.k8s.io", &["storageclasses", "csinodes"], &READ),
        rule("policy", &["poddisruptionbudgets"], &READ),
        rule("scheduling.k8s.io", &["priorityclasses"], &READ),
        rule(
            "resource.k8s.io",
            &[
                "deviceclasses",
                "resourceclaims",
                "resourceclaimtemplates",
                "resourceslices",
            ],
            &READ,
        ),
        // A claim that is given a device keeps it until it is done (a finalizer).
        rule("resource.k8s.io", &["resourceclaims"], &["patch"]),
        rule(
            "resource.k8s.io",
            &["resourceclaims/status"],
            &["patch", "update"],
        ),
        rule(GROUP, &["queues", "trainjobs", "inferenceservices"], &READ),
        rule(GROUP, &["queues/status"], &["patch"]),
    ]
}

/// What the kubelet may do, of the things that the node agent does.
fn node() -> Vec<Value> {
    vec![
        rule("", &["nodes"], &["create", "get", "list", "patch", "watch"]),
        rule("", &["nodes/status"], &["patch"]),
        rule("", &["pods"], &["delete", "get", "list", "watch"]),
        rule("", &["pods/status"], &["patch"]),
        rule("", &["configmaps", "secrets"], &["get"]),
        rule("", &["events"], &["create", "patch"]),
        rule(
            "resource.k8s.io",
            &["resourceslices"],
            &["create", "delete", "get", "list", "update", "watch"],
        ),
        rule(
            "resource.k8s.io",
            &["resourceclaims"],
            &["get", "list", "watch"],
        ),
    ]
}

/// What a role may do in the installation's own namespace.
pub fn rules(component: &str) -> Vec<Value> {
    let lease = |name: &str| {
        vec![
            // A name cannot be asked for when an object is created.
            rule("coordination.k8s.io", &["leases"], &["create"]),
            named(
                "coordination.k8s.io",
                &["leases"],
                &[name],
                &["get", "patch", "update"],
            ),
        ]
    };
    match component {
        "operator" => {
            let mut all = lease("cumulo-operator");
            all.push(named(
                "",
                &["serviceaccounts/token"],
                &[WORKLOAD],
                &["create"],
            ));
            all.push(rule("discovery.k8s.io", &["endpointslices"], &READ));
            all
        }
        "scheduler" => lease("cumulo-scheduler"),
        // What `cumulo --context` does where the ConfigMap names no URLs.
        "user" => vec![
            rule("", &["services", "pods"], &["get", "list"]),
            rule("", &["pods/portforward"], &["create", "get"]),
            named("", &["serviceaccounts/token"], &[USER], &["create"]),
        ],
        _ => Vec::new(),
    }
}

/// Nodes say that they live in a namespace of Kubernetes' own.
fn node_leases(settings: &Settings) -> Vec<Value> {
    let metadata =
        json!({"name": "cumulo-node", "namespace": "kube-node-lease", "labels": labels("node")});
    vec![
        json!({
            "apiVersion": format!("{RBAC}/v1"),
            "kind": "Role",
            "metadata": metadata,
            "rules": [rule("coordination.k8s.io", &["leases"], &["create", "get", "patch", "update"])],
        }),
        json!({
            "apiVersion": format!("{RBAC}/v1"),
            "kind": "RoleBinding",
            "metadata": metadata,
            "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "cumulo-node"},
            "subjects": [{"kind": "ServiceAccount", "name": "cumulo-node", "namespace": settings.namespace}],
        }),
    ]
}

/// The ClusterRoles that users get; whom they are bound to differs from the embedded server.
fn user_roles() -> Result<Vec<Value>> {
    let documents: Vec<Vec<Value>> =
        serde_saphyr::from_multiple(USER_ROLES).context("the roles of users")?;
    Ok(documents
        .into_iter()
        .flatten()
        .filter(|object| object["kind"] == "ClusterRole")
        .map(|mut object| {
            object["metadata"]["labels"]["app.kubernetes.io/managed-by"] = json!(MANAGED_BY);
            object
        })
        .collect())
}

fn cluster_role(name: &str, component: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRole",
        "metadata": {"name": name, "labels": labels(component)},
        "rules": rules,
    })
}

fn cluster_binding(settings: &Settings, name: &str, role: &str, component: &str) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name, "labels": labels(component)},
        "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": role},
        "subjects": [{
            "kind": "ServiceAccount",
            "name": format!("cumulo-{component}"),
            "namespace": settings.namespace,
        }],
    })
}

fn role(settings: &Settings, name: &str, component: &str, rules: &[Value]) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "Role",
        "metadata": metadata(settings, name, component),
        "rules": rules,
    })
}

fn binding(settings: &Settings, name: &str, component: &str, subject: &Value) -> Value {
    json!({
        "apiVersion": format!("{RBAC}/v1"),
        "kind": "RoleBinding",
        "metadata": metadata(settings, name, component),
        "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": name},
        "subjects": [subject],
    })
}
