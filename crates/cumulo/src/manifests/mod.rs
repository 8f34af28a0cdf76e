//! What is installed on a cluster: `cumulo manifests`.
//!
//! Pure: settings in, objects out, in the order in which they can be applied.
//! Nothing here asks a server; `cumulo doctor cluster` does.

pub mod access;
pub mod settings;
mod workloads;

use anyhow::Result;
use serde_json::{Value, json};

use settings::Settings;

/// The field manager and the value of `app.kubernetes.io/managed-by`.
const MANAGED_BY: &str = "cumulo-manifests";

/// All objects of an installation.
///
/// # Errors
/// When a definition cannot be written as JSON.
pub fn objects(settings: &Settings) -> Result<Vec<Value>> {
    let mut all = vec![namespace(settings)];
    for definition in cumulo_api::crds() {
        let mut definition = serde_json::to_value(&definition)?;
        definition["metadata"]["labels"] = labels("api");
        all.push(definition);
    }
    all.extend(access::objects(settings)?);
    all.extend(workloads::objects(settings));
    Ok(all)
}

/// All objects as YAML documents.
///
/// # Errors
/// As [`objects`].
pub fn render(settings: &Settings) -> Result<String> {
    let mut text = format!(
        "# Cumulo {}. Apply it with: kubectl apply --server-side -f -\n",
        env!("CARGO_PKG_VERSION")
    );
    for object in objects(settings)? {
        text.push_str("---\n");
        text.push_str(&serde_saphyr::to_string(&object)?);
    }
    Ok(text)
}

/// The namespace, in which only pods of the strictest standard may run.
fn namespace(settings: &Settings) -> Value {
    // A folder of the node is what that standard forbids.
    let level = if workloads::host_folder(settings).is_some() {
        "privileged"
    } else {
        "restricted"
    };
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": settings.namespace,
            "labels": {
                "app.kubernetes.io/name": "cumulo",
                "app.kubernetes.io/managed-by": MANAGED_BY,
                "pod-security.kubernetes.io/enforce": level,
            },
        },
    })
}

/// The labels of a role's objects.
fn labels(component: &str) -> Value {
    json!({
        "app.kubernetes.io/name": "cumulo",
        "app.kubernetes.io/component": component,
        "app.kubernetes.io/managed-by": MANAGED_BY,
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn read(sets: &[&str]) -> Settings {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        let image = "registry.example.org/cumulo@sha256:0123";
        settings::read("cumulo-system", Some(image), &sets).unwrap()
    }

    /// Without the definitions, which `docs/crds.yaml` shows.
    fn shown(settings: &Settings) -> String {
        let mut text = String::new();
        for object in objects(settings).unwrap() {
            if object["kind"] != "CustomResourceDefinition" {
                text.push_str("---\n");
                text.push_str(&serde_saphyr::to_string(&object).unwrap());
            }
        }
        text
    }

    #[test]
    fn the_usual_installation() {
        insta::assert_snapshot!(shown(&read(&["artifacts=s3://bucket/cumulo"])));
    }

    /// What differs when everything is said.
    #[test]
    fn an_installation_with_every_setting() {
        let usual = shown(&read(&["artifacts=s3://bucket/cumulo"]));
        let usual: BTreeSet<&str> = usual.lines().collect();
        let full = shown(&read(&[
            "artifacts=s3://bucket/cumulo",
            "artifacts.secret=object-store",
            "database.secret=postgres",
            "database.key=dsn",
            "gateway.url=https://predict.example.org",
            "tracking.url=https://tracking.example.org",
            "image.pullSecret=registry",
            "replicas.gateway=5",
            "replicas.operator=3",
            "replicas.tracking=4",
            "replicas.scheduler=6",
            "workloads.image=registry.example.org/runtime:1",
        ]));
        let new: Vec<&str> = full.lines().filter(|line| !usual.contains(line)).collect();
        insta::assert_snapshot!(new.join("\n"));
        // State is elsewhere: there is no volume.
        assert!(!full.contains("PersistentVolumeClaim"));
    }

    #[test]
    fn nothing_secret_is_written_and_no_right_is_a_star() {
        let text = shown(&read(&[
            "artifacts=s3://b/p",
            "artifacts.secret=s",
            "database.secret=d",
        ]));
        assert!(!text.contains("kind: Secret"));
        assert!(!text.contains('*'), "{text}");
    }

    #[test]
    fn without_the_scheduler_nothing_of_it_is_left() {
        let text = shown(&read(&["artifacts=s3://b/p", "scheduler.enabled=false"]));
        assert!(!text.contains("scheduler"), "{text}");
    }

    #[test]
    fn names_are_unique_and_namespaced_objects_are_in_the_namespace() {
        let settings = read(&["artifacts=s3://b/p"]);
        let settings = Settings {
            namespace: "elsewhere".to_owned(),
            ..settings
        };
        let mut seen = BTreeSet::new();
        for object in objects(&settings).unwrap() {
            let kind = object["kind"].as_str().unwrap();
            let name = object["metadata"]["name"].as_str().unwrap();
            assert!(
                seen.insert((kind.to_owned(), name.to_owned())),
                "{kind} {name}"
            );
            let cluster = kind.starts_with("Cluster")
                || ["CustomResourceDefinition", "Namespace"].contains(&kind);
            let namespace = object["metadata"]["namespace"].as_str();
            // Nodes say that they live in a namespace of Kubernetes' own.
            let expected = match namespace {
                Some("kube-node-lease") => namespace,
                _ => (!cluster).then_some("elsewhere"),
            };
            assert_eq!(namespace, expected, "{kind} {name}");
        }
        assert!(!shown(&settings).contains("cumulo-system"));
    }
}
