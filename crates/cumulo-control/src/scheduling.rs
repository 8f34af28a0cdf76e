//! The binder: pods without a node get the first one that has room.
//!
//! A laptop has no scheduler of its own, and a cluster's own may be left alone:
//! which pods are bound is an option.

mod choose;
mod quantity;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};

use crate::conditions::whole_second;
use crate::context::{Context, Error, doing};
use crate::options::SchedulerOptions;
use crate::pods::{deleting, finished};
use choose::{Node, Requests, choose};

/// The scheduler's name in pods that ask for it.
pub(crate) const NAME: &str = "cumulo";
pub(crate) const MANAGER: &str = "cumulo-scheduler";

/// Binds what can be bound, and says of the rest what it waits for.
pub(crate) async fn reconcile(context: &Context) -> Result<Option<Duration>, Error> {
    let Some(options) = &context.options.scheduler else {
        return Ok(None);
    };
    let mut waiting = context.pods.select(|pod| ours(pod, options));
    if waiting.is_empty() {
        return Ok(None);
    }
    // Whoever came first is served first.
    waiting.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    let mut nodes: Vec<Node> = context
        .nodes
        .select(|_| true)
        .iter()
        .map(|node| Node::of(node))
        .collect();
    for pod in context
        .pods
        .select(|pod| bound(pod).is_some() && !finished(pod))
    {
        if let Some(node) = nodes
            .iter_mut()
            .find(|node| Some(node.name.as_str()) == bound(&pod))
        {
            node.take(&Requests::of(&pod));
        }
    }
    for pod in waiting {
        let requests = Requests::of(&pod);
        match choose(&pod, &requests, &nodes) {
            Ok(chosen) => {
                bind(context, &pod, &chosen).await?;
                if let Some(node) = nodes.iter_mut().find(|node| node.name == chosen) {
                    node.take(&requests);
                }
            }
            Err(message) => refuse(context, &pod, message).await?,
        }
    }
    Ok(None)
}

/// Whether a pod waits for this binder.
fn ours(pod: &Pod, options: &SchedulerOptions) -> bool {
    let name = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.scheduler_name.as_deref());
    let named = match name {
        Some(NAME) => true,
        None | Some("" | "default-scheduler") => options.default_scheduler,
        Some(_) => false,
    };
    named && bound(pod).is_none() && !deleting(pod) && !finished(pod)
}

/// The node that a pod is bound to.
fn bound(pod: &Pod) -> Option<&str> {
    let node = pod.spec.as_ref()?.node_name.as_deref()?;
    (!node.is_empty()).then_some(node)
}

async fn bind(context: &Context, pod: &Arc<Pod>, node: &str) -> Result<(), Error> {
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let binding = json!({
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    });
    let request = http::Request::post(format!(
        "/api/v1/namespaces/{namespace}/pods/{name}/binding"
    ))
    .header(http::header::CONTENT_TYPE, "application/json")
    .body(binding.to_string().into_bytes())
    .map_err(|error| Error::Internal(format!("binding pod {namespace}/{name}: {error}")))?;
    match context.client.request::<Value>(request).await {
        Ok(_) => {
            tracing::info!(namespace, pod = name, node, "bound");
            // Until the watch tells of it, so that the room is not given twice.
            let mut assumed = Pod::clone(pod);
            if let Some(spec) = &mut assumed.spec {
                spec.node_name = Some(node.to_owned());
            }
            context.pods.offer(assumed);
            Ok(())
        }
        // Deleted, or bound by somebody else: the watch will tell.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        Err(error) => Err(doing(format!("binding pod {namespace}/{name} to {node}"))(
            error,
        )),
    }
}

/// Says why a pod has no node; writes nothing that was said before.
async fn refuse(context: &Context, pod: &Pod, message: String) -> Result<(), Error> {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let known = conditions
        .into_iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    if known.is_some_and(|known| known.message.as_deref() == Some(message.as_str())) {
        return Ok(());
    }
    let now = Time(whole_second(Timestamp::now()));
    let condition = PodCondition {
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("Unschedulable".to_owned()),
        message: Some(message),
        last_transition_time: known
            .and_then(|known| known.last_transition_time.clone())
            .or(Some(now)),
        ..PodCondition::default()
    };
    let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    // A strategic merge: conditions of other types are their owners'.
    let patch = json!({"status": {"conditions": [condition]}});
    match api
        .patch_status(&name, &parameters, &Patch::Strategic(&patch))
        .await
    {
        Ok(written) => {
            context.pods.offer(written);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(doing(format!(
            "telling why pod {namespace}/{name} has no node"
        ))(error)),
    }
}
