//! The controller of ResourceClaims, for servers that have none: makes claims
//! from templates, and frees devices that no pod uses any more. On a cluster
//! kube-controller-manager does this.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, Patch, PostParams, Preconditions};
use serde_json::json;

use super::carry_out::{FINALIZER, parameters};
use super::known::Known;
use super::pod::Pod;
use super::stores::Stores;
use crate::key::{ObjectKey, hash, limited};

/// On generated claims: the claim's name in its pod (Kubernetes' own).
const POD_CLAIM: &str = "resource.kubernetes.io/pod-claim-name";
/// How long until a step that failed is tried again.
const RETRY: Duration = Duration::from_secs(2);

/// One step.
#[derive(Debug)]
enum Step {
    /// Make a claim.
    Make(Box<ResourceClaim>),
    /// Tell a pod the names of its claims.
    Tell {
        pod: ObjectKey,
        uid: String,
        claims: Vec<(String, String)>,
    },
    /// Only these pods still use a claim; without any it has no devices.
    Keep {
        claim: ObjectKey,
        version: String,
        users: serde_json::Value,
        none: bool,
        /// Pods that are taken for gone.
        dropped: Vec<(String, String)>,
    },
    /// A claim without devices needs no keeping.
    Let {
        claim: ObjectKey,
        version: String,
        finalizers: Vec<String>,
    },
    /// The pod that a claim was made for is over.
    Delete { claim: ObjectKey, uid: String },
}

/// Runs for as long as it is polled.
pub(crate) async fn run(client: kube::Client, stores: Arc<Stores>) {
    stores.synced().await;
    loop {
        let steps = plan(
            &stores.pods.select(|_| true),
            &stores.claims.select(|_| true),
            &stores.templates.select(|_| true),
        );
        let mut failed = false;
        for step in steps {
            if let Err(error) = take(&client, &stores, step).await {
                failed = true;
                tracing::debug!(%error, "a step about resource claims failed");
            }
        }
        if failed {
            let _ = tokio::time::timeout(RETRY, stores.claim_change.notified()).await;
        } else {
            stores.claim_change.notified().await;
        }
    }
}

/// The steps that follow from what is there. Pure.
fn plan(
    pods: &[Arc<Pod>],
    claims: &[Arc<Known<ResourceClaim>>],
    templates: &[Arc<ResourceClaimTemplate>],
) -> Vec<Step> {
    let mut steps = Vec::new();
    let templates: HashMap<ObjectKey, &Arc<ResourceClaimTemplate>> = templates
        .iter()
        .map(|template| (ObjectKey::of(template.as_ref()), template))
        .collect();
    let existing: HashMap<ObjectKey, &Known<ResourceClaim>> = claims
        .iter()
        .map(|claim| (ObjectKey::of(claim.as_ref()), claim.as_ref()))
        .collect();
    let mut living: HashSet<&str> = HashSet::new();
    for pod in pods {
        if !pod.finished() {
            living.insert(pod.uid());
        }
        if pod.finished() || pod.deleting() {
            continue;
        }
        let mut names = Vec::new();
        for (name, template) in &pod.spec.templates {
            if pod.status.claims.contains_key(name) {
                continue;
            }
            let Some(template) = templates.get(&ObjectKey::new(pod.namespace(), template)) else {
                continue;
            };
            let claim = generate(pod, name, template);
            let key = ObjectKey::of(&claim);
            names.push((name.clone(), key.name.clone()));
            if !existing.contains_key(&key) {
                steps.push(Step::Make(Box::new(claim)));
            }
        }
        if !names.is_empty() {
            steps.push(Step::Tell {
                pod: pod.key(),
                uid: pod.uid().to_owned(),
                claims: names,
            });
        }
    }
    for claim in claims {
        steps.extend(tidy(&claim.object, &living));
    }
    steps
}

fn tidy(claim: &ResourceClaim, living: &HashSet<&str>) -> Option<Step> {
    let key = ObjectKey::of(claim);
    let version = claim.metadata.resource_version.clone().unwrap_or_default();
    let status = claim.status.clone().unwrap_or_default();
    let users = status.reserved_for.unwrap_or_default();
    let mut kept = users.clone();
    kept.retain(|user| user.resource != "pods" || living.contains(user.uid.as_str()));
    let gone = claim.metadata.deletion_timestamp.is_some();
    if kept.len() < users.len() {
        return Some(Step::Keep {
            claim: key,
            version,
            none: kept.is_empty(),
            dropped: users
                .iter()
                .filter(|user| !kept.contains(user))
                .map(|user| (user.name.clone(), user.uid.clone()))
                .collect(),
            users: json!(kept),
        });
    }
    // Its pod is over: what was made for it goes.
    let owner = claim.metadata.owner_references.iter().flatten();
    let mut owner = owner.filter(|owner| owner.kind == "Pod" && owner.controller == Some(true));
    let generated = claim.annotations().contains_key(POD_CLAIM);
    if generated
        && !gone
        && owner
            .next()
            .is_some_and(|owner| !living.contains(owner.uid.as_str()))
    {
        return Some(Step::Delete {
            claim: key,
            uid: claim.metadata.uid.clone().unwrap_or_default(),
        });
    }
    let finalizers = claim.metadata.finalizers.clone().unwrap_or_default();
    if gone && kept.is_empty() && finalizers.iter().any(|one| one == FINALIZER) {
        if status.allocation.is_some() {
            return Some(Step::Keep {
                claim: key,
                version,
                none: true,
                dropped: Vec::new(),
                users: json!([]),
            });
        }
        return Some(Step::Let {
            claim: key,
            version,
            finalizers: finalizers
                .into_iter()
                .filter(|one| one != FINALIZER)
                .collect(),
        });
    }
    None
}

/// The claim of a pod, by a name that follows from what it is for.
fn generate(pod: &Pod, name: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let mark = hash(&(pod.uid(), name));
    let given = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM.to_owned(), name.to_owned());
    ResourceClaim {
        metadata: ObjectMeta {
            name: Some(limited(pod.name(), &format!("-{name}-{}", &mark[..5]))),
            namespace: Some(pod.namespace().to_owned()),
            labels: given.labels,
            annotations: Some(annotations),
            owner_references: Some(vec![OwnerReference {
                api_version: "v1".to_owned(),
                kind: "Pod".to_owned(),
                name: pod.name().to_owned(),
                uid: pod.uid().to_owned(),
                controller: Some(true),
                block_owner_deletion: Some(true),
            }]),
            ..ObjectMeta::default()
        },
        spec: template.spec.spec.clone(),
        status: None,
    }
}

async fn take(client: &kube::Client, stores: &Stores, step: Step) -> Result<(), kube::Error> {
    let claims = |key: &ObjectKey| -> Api<Known<ResourceClaim>> {
        Api::namespaced(client.clone(), &key.namespace)
    };
    let written = match step {
        Step::Make(claim) => {
            let key = ObjectKey::of(claim.as_ref());
            let claim = Known {
                object: *claim,
                unknown: Vec::new(),
            };
            match claims(&key).create(&PostParams::default(), &claim).await {
                Err(kube::Error::Api(status)) if status.code == 409 => return Ok(()),
                other => other?,
            }
        }
        Step::Tell { pod, uid, claims } => {
            let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace);
            let statuses: Vec<_> = claims
                .iter()
                .map(|(name, claim)| json!({"name": name, "resourceClaimName": claim}))
                .collect();
            let patch =
                json!({"metadata": {"uid": uid}, "status": {"resourceClaimStatuses": statuses}});
            let written = api
                .patch_status(&pod.name, &parameters(), &Patch::Strategic(&patch))
                .await;
            match written {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                other => stores.pods.offer(other?),
            }
            stores.touch();
            return Ok(());
        }
        Step::Keep {
            claim,
            version,
            users,
            none,
            dropped,
        } => {
            // The copy of the pods may be older than the claim.
            let pods: Api<Pod> = Api::namespaced(client.clone(), &claim.namespace);
            for (name, uid) in dropped {
                let pod = pods.get_opt(&name).await?;
                if pod.is_some_and(|pod| pod.uid() == uid && !pod.finished()) {
                    return Ok(());
                }
            }
            let mut status = json!({"reservedFor": users});
            if none {
                status = json!({"reservedFor": null, "allocation": null});
            }
            let patch = json!({"metadata": {"resourceVersion": version}, "status": status});
            claims(&claim)
                .patch_status(&claim.name, &parameters(), &Patch::Merge(&patch))
                .await?
        }
        Step::Let {
            claim,
            version,
            finalizers,
        } => {
            let patch = json!({"metadata": {"resourceVersion": version, "finalizers": finalizers}});
            claims(&claim)
                .patch(&claim.name, &parameters(), &Patch::Merge(&patch))
                .await?
        }
        Step::Delete { claim, uid } => {
            let parameters = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: Some(uid),
                    resource_version: None,
                }),
                ..DeleteParams::default()
            };
            let deleted = claims(&claim).delete(&claim.name, &parameters).await;
            return match deleted {
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
                other => other.map(drop),
            };
        }
    };
    stores.claims.offer(written);
    stores.touch();
    Ok(())
}
