//! `cumulo explain`: why a pod waits, its place, and what would let it run; or
//! where it runs and with which devices.

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};
use cumulo_api::labels;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use super::get::split_target;
use crate::cli::ExplainArgs;
use crate::place::Place;
use crate::project::apply::api_error;

/// Runs `cumulo explain`.
///
/// # Errors
/// When there is no such object, or the platform does not answer.
pub async fn run(place: &Place, arguments: ExplainArgs) -> Result<()> {
    let client = place.client().await?;
    let (kind, name) = split_target(&arguments.resource, arguments.name.as_deref())?;
    let name = name.context(
        "name the object: cumulo explain pod/NAME, trainjob/NAME or inferenceservice/NAME",
    )?;
    let namespace = place.namespace(&arguments.namespace);
    let namespace = namespace.as_str();
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let label = match kind.as_str() {
        "pod" | "pods" | "po" => None,
        "trainjob" | "trainjobs" | "tj" => Some(labels::TRAIN_JOB),
        "inferenceservice" | "inferenceservices" | "isvc" => Some(labels::INFERENCE_SERVICE),
        "gang" => Some(labels::GANG),
        other => bail!(
            "cannot explain {other}: name a pod, trainjob, inferenceservice or gang, such as pod/{name}"
        ),
    };
    let pods = match label {
        None => vec![api.get(&name).await.map_err(|error| api_error(&error))?],
        Some(label) => {
            let selector = ListParams::default().labels(&format!("{label}={name}"));
            api.list(&selector)
                .await
                .map_err(|error| api_error(&error))?
                .items
        }
    };
    if pods.is_empty() {
        bail!(
            "{kind} {name} has no pods in namespace {namespace}: `cumulo describe {kind} {name}` says why"
        );
    }
    let claims: Api<ResourceClaim> = Api::namespaced(client, namespace);
    for pod in pods {
        let mut devices = Vec::new();
        for (request, claim) in claim_names(&pod) {
            let found = match claim {
                Some(claim) => claims
                    .get_opt(&claim)
                    .await
                    .map_err(|error| api_error(&error))?,
                None => None,
            };
            devices.push((request, found));
        }
        print!("{}", text(&pod, &devices));
    }
    Ok(())
}

/// The claims of a pod: the name in the pod, and of the object once it is known.
fn claim_names(pod: &Pod) -> Vec<(String, Option<String>)> {
    let wanted = pod
        .spec
        .iter()
        .flat_map(|spec| spec.resource_claims.iter().flatten());
    let made = pod
        .status
        .as_ref()
        .and_then(|status| status.resource_claim_statuses.as_ref());
    wanted
        .map(|claim| {
            let generated = made
                .into_iter()
                .flatten()
                .find(|one| one.name == claim.name);
            let object = claim
                .resource_claim_name
                .clone()
                .or_else(|| generated.and_then(|one| one.resource_claim_name.clone()));
            (claim.name.clone(), object)
        })
        .collect()
}

/// One pod in words.
fn text(pod: &Pod, claims: &[(String, Option<ResourceClaim>)]) -> String {
    let mut text = String::new();
    let spec = pod.spec.as_ref();
    let status = pod.status.as_ref();
    let node = spec
        .and_then(|spec| spec.node_name.as_deref())
        .filter(|node| !node.is_empty());
    let phase = status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or("Pending");
    let standing = match node {
        Some(node) => format!("has its place on node {node} ({phase})"),
        None => "waits for a node".to_owned(),
    };
    let _ = writeln!(
        text,
        "pod {}/{} {standing}",
        pod.namespace().unwrap_or_default(),
        pod.name_any()
    );
    let gates = spec.and_then(|spec| spec.scheduling_gates.as_ref());
    let gates: Vec<&str> = gates
        .into_iter()
        .flatten()
        .map(|gate| gate.name.as_str())
        .collect();
    if !gates.is_empty() {
        let _ = writeln!(
            text,
            "  why:     it is held by scheduling gates: {}",
            gates.join(", ")
        );
    }
    let mut conditions = status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let refusal = conditions.find(|one| one.type_ == "PodScheduled" && one.status == "False");
    if let (None, Some(message)) = (node, refusal.and_then(|one| one.message.as_deref())) {
        for part in message.split("; ") {
            match (
                part.strip_prefix("would help: "),
                part.strip_prefix("number "),
            ) {
                (Some(remedy), _) => {
                    let _ = writeln!(text, "  helps:   {remedy}");
                }
                (_, Some(place)) => {
                    let _ = writeln!(text, "  place:   number {place}");
                }
                (None, None) => {
                    let _ = writeln!(text, "  why:     {part}");
                }
            }
        }
    } else if node.is_none() && gates.is_empty() {
        let scheduler = spec
            .and_then(|spec| spec.scheduler_name.as_deref())
            .unwrap_or_default();
        let _ = writeln!(
            text,
            "  why:     scheduler {scheduler:?} has said nothing about it yet"
        );
    }
    let nominated = status.and_then(|status| status.nominated_node_name.as_deref());
    if let Some(nominated) = nominated.filter(|name| node.is_none() && !name.is_empty()) {
        let _ = writeln!(
            text,
            "  promise: room on {nominated}, once others have left it"
        );
    }
    for (title, label) in [("queue", labels::QUEUE), ("gang", labels::GANG)] {
        if let Some(value) = pod.labels().get(label) {
            let _ = writeln!(text, "  {:8} {value}", format!("{title}:"));
        }
    }
    for (name, claim) in claims {
        let said = match claim {
            None => "its ResourceClaim is not made yet".to_owned(),
            Some(claim) => devices(claim),
        };
        let _ = writeln!(text, "  claim:   {name}: {said}");
    }
    text
}

fn devices(claim: &ResourceClaim) -> String {
    let allocation = claim
        .status
        .as_ref()
        .and_then(|status| status.allocation.as_ref());
    let Some(devices) = allocation.and_then(|allocation| allocation.devices.as_ref()) else {
        return format!("{} has no devices yet", claim.name_any());
    };
    let each = devices.results.iter().flatten().map(|result| {
        let amounts = result.consumed_capacity.iter().flatten();
        let amounts: Vec<String> = amounts
            .map(|(name, amount)| format!("{name} {}", amount.0))
            .collect();
        let part = if amounts.is_empty() {
            String::new()
        } else {
            format!(" ({})", amounts.join(", "))
        };
        format!("{}/{}/{}{part}", result.driver, result.pool, result.device)
    });
    format!(
        "{} has {}",
        claim.name_any(),
        each.collect::<Vec<_>>().join(", ")
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_said_of_a_pod_is_taken_apart() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "train-1", "namespace": "team", "labels": {"cumulo.dev/queue": "research"}},
            "spec": {"containers": [], "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "t"}]},
            "status": {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                "message": "no node has room for 4 cpu and 1.0 GiB memory: n has 1 cpu free of 4 cpu; number 2 in queue research; would help: running work that ends, or more nodes"}]},
        }))
        .unwrap();
        let claim: ResourceClaim = serde_json::from_value(json!({
            "metadata": {"name": "train-1-gpu-1a2b3"}, "spec": {},
            "status": {"allocation": {"devices": {"results": [
                {"request": "gpu", "driver": "gpu.cumulo.dev", "pool": "n", "device": "gpu-0",
                 "consumedCapacity": {"memory": "10Gi"}}]}}},
        }))
        .unwrap();
        insta::assert_snapshot!(text(&pod, &[("gpu".to_owned(), Some(claim))]), @r"
        pod team/train-1 waits for a node
          why:     no node has room for 4 cpu and 1.0 GiB memory: n has 1 cpu free of 4 cpu
          place:   number 2 in queue research
          helps:   running work that ends, or more nodes
          queue:   research
          claim:   gpu: train-1-gpu-1a2b3 has gpu.cumulo.dev/n/gpu-0 (memory 10Gi)
        ");
    }
}
