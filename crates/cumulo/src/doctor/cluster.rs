//! What an installation needs of a cluster, asked before anything is installed.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::authorization::v1::{
    ResourceAttributes, SelfSubjectAccessReview, SelfSubjectAccessReviewSpec,
};
use k8s_openapi::api::core::v1::{ConfigMap, Node, Secret};
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceSlice};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use kube::api::{Api, ListParams, PostParams};
use serde_json::Value;

use super::Finding;
use crate::manifests;
use crate::manifests::settings::Settings;
use crate::place::CONFIGURATION;
use crate::project::apply::api_error;

/// The oldest version whose API has everything: device allocation came to stay with it.
const OLDEST: (u32, u32) = (1, 34);

/// A version of an API group, what it is for, and what is lost without it.
struct Group {
    name: &'static str,
    what: &'static str,
    /// What goes without it; `None` when nothing does.
    without: Option<&'static str>,
}

const GROUPS: &[Group] = &[
    Group {
        name: "apps/v1",
        what: "Deployments",
        without: None,
    },
    Group {
        name: "apiextensions.k8s.io/v1",
        what: "Cumulo's kinds",
        without: None,
    },
    Group {
        name: "authentication.k8s.io/v1",
        what: "checking tokens",
        without: None,
    },
    Group {
        name: "authorization.k8s.io/v1",
        what: "asking for permissions",
        without: None,
    },
    Group {
        name: "coordination.k8s.io/v1",
        what: "electing a leader",
        without: None,
    },
    Group {
        name: "discovery.k8s.io/v1",
        what: "finding the gateways",
        without: None,
    },
    Group {
        name: "policy/v1",
        what: "disruption budgets",
        without: None,
    },
    Group {
        name: "rbac.authorization.k8s.io/v1",
        what: "roles",
        without: None,
    },
    Group {
        name: "storage.k8s.io/v1",
        what: "volumes",
        without: None,
    },
    Group {
        name: "resource.k8s.io/v1",
        what: "device allocation",
        without: Some(
            "GPUs cannot be shared or chosen by model: upgrade to Kubernetes 1.34 or newer, where it is on",
        ),
    },
    Group {
        name: "metrics.k8s.io/v1beta1",
        what: "kubectl top",
        without: Some("usage is not shown: install metrics-server"),
    },
];

/// All checks of a cluster.
pub async fn check(client: &Client, settings: &Settings) -> Vec<Finding> {
    let mut findings = vec![version(client).await];
    let served = served(client).await;
    match &served {
        Ok(served) => findings.extend(GROUPS.iter().map(|group| api(group, served))),
        Err(why) => findings.push(Finding::fail(
            "apis",
            format!("cannot be listed: {why}"),
            "ask the cluster's administrator for the role system:discovery",
        )),
    }
    findings.push(permissions(client, settings).await);
    findings.push(nodes(client).await);
    findings.push(storage(client, settings).await);
    if served.is_ok_and(|served| served.contains("resource.k8s.io/v1")) {
        findings.push(devices(client).await);
    }
    findings.extend(secrets(client, settings).await);
    findings.push(installed(client, settings).await);
    findings
}

async fn version(client: &Client) -> Finding {
    match client.apiserver_version().await {
        Ok(version) => judge_version(&version.major, &version.minor, &version.git_version),
        Err(error) => Finding::fail(
            "version",
            api_error(&error).to_string(),
            "see whether the kubeconfig's server can be reached: kubectl version",
        ),
    }
}

fn judge_version(major: &str, minor: &str, full: &str) -> Finding {
    // Some clouds write 34+.
    let number = |text: &str| text.trim_end_matches('+').parse::<u32>().unwrap_or(0);
    if (number(major), number(minor)) >= OLDEST {
        Finding::ok("version", full)
    } else {
        Finding::warn(
            "version",
            full,
            format!(
                "Cumulo is tested with Kubernetes {}.{} and newer: upgrade",
                OLDEST.0, OLDEST.1
            ),
        )
    }
}

/// Every group and version that the server has, as `GROUP/VERSION`.
async fn served(client: &Client) -> Result<BTreeSet<String>, String> {
    let groups = client
        .list_api_groups()
        .await
        .map_err(|error| api_error(&error).to_string())?;
    Ok(groups
        .groups
        .into_iter()
        .flat_map(|group| group.versions)
        .map(|version| version.group_version)
        .collect())
}

fn api(group: &Group, served: &BTreeSet<String>) -> Finding {
    if served.contains(group.name) {
        return Finding::ok(group.name, group.what);
    }
    let found = format!("not served ({})", group.what);
    match group.without {
        Some(without) => Finding::warn(group.name, found, without),
        None => Finding::fail(
            group.name,
            found,
            "every conformant cluster serves it: see its API server's flag --runtime-config",
        ),
    }
}

/// Something that applying the manifests asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Permission {
    verb: &'static str,
    group: String,
    resource: String,
    namespace: Option<String>,
}

impl std::fmt::Display for Permission {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {}", self.verb, self.resource)?;
        if !self.group.is_empty() {
            write!(formatter, ".{}", self.group)?;
        }
        match &self.namespace {
            Some(namespace) => write!(formatter, " in {namespace}"),
            None => Ok(()),
        }
    }
}

/// What server-side apply of the manifests needs, each once.
fn needed(objects: &[Value]) -> BTreeSet<Permission> {
    let mut all = BTreeSet::new();
    for object in objects {
        let version = object["apiVersion"].as_str().unwrap_or_default();
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let kind = object["kind"].as_str().unwrap_or_default().to_lowercase();
        let resource = match kind.strip_suffix("ss") {
            Some(stem) => format!("{stem}sses"),
            None => match kind.strip_suffix('y') {
                Some(stem) => format!("{stem}ies"),
                None => format!("{kind}s"),
            },
        };
        let namespace = object["metadata"]["namespace"].as_str().map(str::to_owned);
        let mut add = |verb: &'static str| {
            all.insert(Permission {
                verb,
                group: group.to_owned(),
                resource: resource.clone(),
                namespace: namespace.clone(),
            });
        };
        add("create");
        add("patch");
        // Nobody gives away what they do not have, unless they have this.
        match kind.as_str() {
            "clusterrole" | "role" => add("escalate"),
            "clusterrolebinding" | "rolebinding" => add("bind"),
            _ => {}
        }
    }
    // Bindings are to roles: that is where the right to bind lies.
    all.into_iter()
        .map(|mut permission| {
            if permission.verb == "bind" {
                permission.resource = permission.resource.replace("bindings", "s");
            }
            permission
        })
        .collect()
}

async fn permissions(client: &Client, settings: &Settings) -> Finding {
    const CHECK: &str = "permissions";
    let objects = match manifests::objects(settings) {
        Ok(objects) => objects,
        Err(error) => return Finding::fail(CHECK, error.to_string(), "report this as a bug"),
    };
    let needed = needed(&objects);
    let reviews: Api<SelfSubjectAccessReview> = Api::all(client.clone());
    let asked = needed.iter().map(|permission| {
        let reviews = reviews.clone();
        let review = SelfSubjectAccessReview {
            spec: SelfSubjectAccessReviewSpec {
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(permission.verb.to_owned()),
                    group: Some(permission.group.clone()),
                    resource: Some(permission.resource.clone()),
                    namespace: permission.namespace.clone(),
                    ..ResourceAttributes::default()
                }),
                ..SelfSubjectAccessReviewSpec::default()
            },
            ..SelfSubjectAccessReview::default()
        };
        async move {
            (
                permission,
                reviews.create(&PostParams::default(), &review).await,
            )
        }
    });
    let mut missing = Vec::new();
    for (permission, answer) in futures::future::join_all(asked).await {
        match answer {
            Ok(review) if review.status.as_ref().is_some_and(|status| status.allowed) => {}
            Ok(_) => missing.push(permission.to_string()),
            Err(error) => {
                return Finding::fail(
                    CHECK,
                    format!("cannot be asked for: {}", api_error(&error)),
                    "see whether the kubeconfig's credential is good: kubectl auth whoami",
                );
            }
        }
    }
    permitted(needed.len(), &missing)
}

/// How many permissions a line names.
const NAMED: usize = 6;

fn permitted(needed: usize, missing: &[String]) -> Finding {
    const CHECK: &str = "permissions";
    if missing.is_empty() {
        return Finding::ok(CHECK, format!("all {needed} that an installation needs"));
    }
    let mut named = missing
        .iter()
        .take(NAMED)
        .cloned()
        .collect::<Vec<_>>()
        .join(", ");
    if missing.len() > NAMED {
        named.push_str(&format!(" and {} more", missing.len() - NAMED));
    }
    Finding::fail(
        CHECK,
        format!("{} of {needed} are missing: {named}", missing.len()),
        "install as somebody with the role cluster-admin; afterwards users need the roles edit or view only",
    )
}

async fn nodes(client: &Client) -> Finding {
    let nodes: Api<Node> = Api::all(client.clone());
    match nodes.list(&ListParams::default()).await {
        Ok(list) => judge_nodes(&list.items),
        Err(error) => Finding::warn(
            "nodes",
            format!("cannot be listed: {}", api_error(&error)),
            "ask somebody who may list nodes",
        ),
    }
}

fn judge_nodes(nodes: &[Node]) -> Finding {
    const CHECK: &str = "nodes";
    let ready = |node: &&Node| {
        let conditions = node
            .status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        let mut conditions = conditions.filter(|condition| condition.type_ == "Ready");
        conditions.any(|condition| condition.status == "True")
    };
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for node in nodes.iter().filter(ready) {
        let info = node
            .status
            .as_ref()
            .and_then(|status| status.node_info.as_ref());
        let told = info.filter(|info| !info.kubelet_version.is_empty());
        let kind = told.map_or_else(
            || "unknown".to_owned(),
            |info| {
                format!(
                    "{} {}/{}",
                    info.kubelet_version, info.operating_system, info.architecture
                )
            },
        );
        *kinds.entry(kind).or_default() += 1;
    }
    let count: usize = kinds.values().sum();
    let told: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} × {kind}"))
        .collect();
    let found = match told.is_empty() {
        true => format!("0 of {} are ready", nodes.len()),
        false => format!("{count} of {} are ready: {}", nodes.len(), told.join(", ")),
    };
    if count == 0 {
        Finding::fail(
            CHECK,
            found,
            "nothing would run: add a node, or let a machine join with `cumulo node`; `kubectl describe nodes` says why one is not ready",
        )
    } else if count < nodes.len() {
        Finding::warn(
            CHECK,
            found,
            "`kubectl describe nodes` says why the others are not",
        )
    } else {
        Finding::ok(CHECK, found)
    }
}

/// The class that tracking's volume would get.
async fn storage(client: &Client, settings: &Settings) -> Finding {
    const CHECK: &str = "storage class";
    if settings.database_secret.is_some() {
        return Finding::ok(CHECK, "not needed: state goes to PostgreSQL");
    }
    let classes: Api<StorageClass> = Api::all(client.clone());
    match classes.list(&ListParams::default()).await {
        Ok(list) => judge_classes(&list.items, settings.storage_class.as_deref()),
        Err(error) => Finding::warn(
            CHECK,
            format!("cannot be listed: {}", api_error(&error)),
            "ask somebody who may list storage classes",
        ),
    }
}

fn judge_classes(classes: &[StorageClass], wanted: Option<&str>) -> Finding {
    const CHECK: &str = "storage class";
    let name = |class: &StorageClass| class.metadata.name.clone().unwrap_or_default();
    let is_default = |class: &&StorageClass| {
        let annotations = class.metadata.annotations.as_ref();
        annotations.is_some_and(|annotations| {
            annotations
                .get("storageclass.kubernetes.io/is-default-class")
                .is_some_and(|value| value == "true")
        })
    };
    let names: Vec<String> = classes.iter().map(name).collect();
    let all = match names.as_slice() {
        [] => "there is none".to_owned(),
        names => format!("there are {}", names.join(", ")),
    };
    if let Some(wanted) = wanted {
        return match names.iter().any(|name| name == wanted) {
            true => Finding::ok(CHECK, wanted),
            false => Finding::fail(
                CHECK,
                format!("{wanted} is not there; {all}"),
                "name one that is there with --set storage.class=NAME",
            ),
        };
    }
    match classes.iter().find(is_default) {
        Some(class) => Finding::ok(CHECK, format!("{} is the default", name(class))),
        None => Finding::fail(
            CHECK,
            format!("none is the default; {all}"),
            "tracking keeps its state on a volume: name a class with --set storage.class=NAME, or use PostgreSQL with --set database.secret=NAME",
        ),
    }
}

async fn devices(client: &Client) -> Finding {
    let classes: Api<DeviceClass> = Api::all(client.clone());
    let slices: Api<ResourceSlice> = Api::all(client.clone());
    let parameters = ListParams::default();
    match (
        classes.list(&parameters).await,
        slices.list(&parameters).await,
    ) {
        (Ok(classes), Ok(slices)) => judge_devices(classes.items.len(), &slices.items),
        (Err(error), _) | (_, Err(error)) => Finding::warn(
            "devices",
            format!("cannot be listed: {}", api_error(&error)),
            "ask somebody who may list deviceclasses and resourceslices",
        ),
    }
}

fn judge_devices(classes: usize, slices: &[ResourceSlice]) -> Finding {
    let mut drivers: BTreeMap<&str, usize> = BTreeMap::new();
    for slice in slices {
        let devices = slice.spec.devices.as_ref().map_or(0, Vec::len);
        *drivers.entry(&slice.spec.driver).or_default() += devices;
    }
    if drivers.is_empty() {
        return Finding::ok(
            "devices",
            format!("no driver publishes any ({classes} device classes); everything runs on CPUs"),
        );
    }
    let told: Vec<String> = drivers
        .iter()
        .map(|(driver, count)| format!("{count} of {driver}"))
        .collect();
    Finding::ok(
        "devices",
        format!("{} ({classes} device classes)", told.join(", ")),
    )
}

/// The Secrets that the settings name.
async fn secrets(client: &Client, settings: &Settings) -> Vec<Finding> {
    let named = [
        (
            &settings.database_secret,
            Some(settings.database_key.as_str()),
        ),
        (&settings.artifacts_secret, None),
        (&settings.pull_secret, None),
    ];
    let api: Api<Secret> = Api::namespaced(client.clone(), &settings.namespace);
    let mut findings = Vec::new();
    for (name, key) in named {
        let Some(name) = name else { continue };
        let check = format!("secret {name}");
        findings.push(match api.get_opt(name).await {
            Ok(Some(secret)) => {
                let keys: Vec<String> = secret.data.unwrap_or_default().into_keys().collect();
                judge_secret(&check, &keys, key)
            }
            Ok(None) => Finding::fail(
                &check,
                format!("is not in namespace {}", settings.namespace),
                format!(
                    "make it: kubectl create secret generic {name} -n {} --from-literal=…",
                    settings.namespace
                ),
            ),
            Err(error) => Finding::warn(
                &check,
                api_error(&error).to_string(),
                "ask somebody who may read Secrets there",
            ),
        });
    }
    findings
}

fn judge_secret(check: &str, keys: &[String], wanted: Option<&str>) -> Finding {
    match wanted {
        Some(wanted) if !keys.iter().any(|key| key == wanted) => Finding::fail(
            check,
            format!("has no key {wanted:?}; it has {}", keys.join(", ")),
            "name the key with --set database.key=KEY",
        ),
        _ => Finding::ok(check, format!("has {}", keys.join(", "))),
    }
}

async fn installed(client: &Client, settings: &Settings) -> Finding {
    const CHECK: &str = "cumulo";
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), &settings.namespace);
    match maps.get_opt(CONFIGURATION).await {
        Ok(None) => Finding::ok(
            CHECK,
            format!("not installed in {} yet", settings.namespace),
        ),
        Ok(Some(map)) => {
            let data = map.data.unwrap_or_default();
            let version = data.get("version").map_or("unknown", String::as_str);
            let ours = env!("CARGO_PKG_VERSION");
            if version == ours {
                Finding::ok(
                    CHECK,
                    format!("{version} is installed in {}", settings.namespace),
                )
            } else {
                Finding::warn(
                    CHECK,
                    format!(
                        "{version} is installed in {}, this is {ours}",
                        settings.namespace
                    ),
                    "apply the manifests of the version that you want",
                )
            }
        }
        Err(error) => Finding::warn(
            CHECK,
            api_error(&error).to_string(),
            "ask somebody who may read ConfigMaps there",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;
    use serde_json::json;

    fn line(finding: &Finding) -> String {
        format!(
            "{:?} {}: {} → {}",
            finding.verdict, finding.check, finding.found, finding.fix
        )
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert_eq!(
            judge_version("1", "34+", "v1.34.1-gke").verdict,
            Verdict::Ok
        );
        assert_eq!(judge_version("1", "35", "v1.35.4").verdict, Verdict::Ok);
        assert_eq!(judge_version("1", "9", "v1.9.0").verdict, Verdict::Warn);
    }

    #[test]
    fn what_applying_needs_follows_from_what_is_applied() {
        let objects = [
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "n"}}),
            json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "p", "namespace": "n"}}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": {"name": "c"}}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding", "metadata": {"name": "b", "namespace": "n"}}),
        ];
        let told: Vec<String> = needed(&objects).iter().map(ToString::to_string).collect();
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn missing_permissions_are_named_up_to_a_few() {
        let missing: Vec<String> = (0..8).map(|number| format!("create x{number}")).collect();
        insta::assert_snapshot!(line(&permitted(20, &missing)), @"Fail permissions: 8 of 20 are missing: create x0, create x1, create x2, create x3, create x4, create x5 and 2 more → install as somebody with the role cluster-admin; afterwards users need the roles edit or view only");
        assert_eq!(permitted(20, &[]).verdict, Verdict::Ok);
    }

    #[test]
    fn nodes_are_counted_by_what_they_are() {
        let node = |ready: &str| -> Node {
            serde_json::from_value(json!({"status": {
                "conditions": [{"type": "Ready", "status": ready}],
                "nodeInfo": {"kubeletVersion": "v1.35.0", "operatingSystem": "linux", "architecture": "arm64",
                    "bootID": "", "containerRuntimeVersion": "", "kernelVersion": "", "kubeProxyVersion": "",
                    "machineID": "", "osImage": "", "systemUUID": ""},
            }}))
            .unwrap()
        };
        let told = [
            line(&judge_nodes(&[])),
            line(&judge_nodes(&[node("True"), node("Unknown")])),
            line(&judge_nodes(&[node("True"), node("True")])),
        ];
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn a_volume_needs_a_class() {
        let class = |name: &str, default: bool| -> StorageClass {
            serde_json::from_value(
                json!({"provisioner": "p", "metadata": {"name": name, "annotations":
                {"storageclass.kubernetes.io/is-default-class": default.to_string()}}}),
            )
            .unwrap()
        };
        let told = [
            line(&judge_classes(&[], None)),
            line(&judge_classes(&[class("slow", false)], None)),
            line(&judge_classes(
                &[class("slow", false), class("fast", true)],
                None,
            )),
            line(&judge_classes(&[class("slow", false)], Some("slow"))),
            line(&judge_classes(&[class("slow", false)], Some("fast"))),
        ];
        insta::assert_snapshot!(told.join("\n"));
    }

    #[test]
    fn what_a_secret_holds_is_never_shown() {
        let keys = ["dsn".to_owned()];
        assert_eq!(judge_secret("s", &keys, Some("dsn")).verdict, Verdict::Ok);
        insta::assert_snapshot!(line(&judge_secret("s", &keys, Some("url"))), @r#"Fail s: has no key "url"; it has dsn → name the key with --set database.key=KEY"#);
    }

    #[test]
    fn an_api_that_can_be_missed_is_a_warning() {
        let served = BTreeSet::from(["apps/v1".to_owned()]);
        let verdicts: BTreeMap<&str, Verdict> = GROUPS
            .iter()
            .map(|group| (group.name, api(group, &served).verdict))
            .collect();
        assert_eq!(verdicts["apps/v1"], Verdict::Ok);
        assert_eq!(verdicts["policy/v1"], Verdict::Fail);
        assert_eq!(verdicts["resource.k8s.io/v1"], Verdict::Warn);
    }
}
