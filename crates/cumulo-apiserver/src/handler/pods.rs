//! What only pods have: binding, and the streams that the node agent answers
//! for.

use axum::body::Body;
use axum::response::Response;
use http::{Request, StatusCode};
use serde_json::{Value, json};

use super::request::Query;
use crate::engine::Engine;
use crate::kubelet::{PodStream, PodTarget};
use crate::operation::Target;
use crate::status::{ApiError, Cause};
use crate::strategy::object_at;

/// `pods/binding`: gives a pod its node.
pub(super) async fn bind(
    engine: &Engine,
    target: &Target,
    binding: &Value,
    dry_run: bool,
) -> Result<Value, ApiError> {
    let node = binding["target"]["name"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::invalid(
            &target.resource,
            &target.name,
            vec![Cause::required("target.name", "")],
        ));
    }
    let uid = binding["metadata"]["uid"].as_str().unwrap_or_default();
    let current = engine.get(target)?;
    if !uid.is_empty() && uid != current.meta.uid {
        return Err(ApiError::conflict(
            &target.resource,
            &target.name,
            format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                current.meta.uid
            ),
        ));
    }
    if dry_run {
        return Ok(success());
    }
    let now = engine.clock.timestamp();
    engine
        .adjust(target, "kube-scheduler", |pod| {
            if pod["metadata"]["deletionTimestamp"].is_string() {
                return Err(ApiError::conflict(
                    &target.resource,
                    &target.name,
                    format!("pod {} is being deleted, cannot be assigned to a host", target.name),
                ));
            }
            let bound = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            if !bound.is_empty() {
                return Err(ApiError::conflict(
                    &target.resource,
                    &target.name,
                    format!("pod {} is already assigned to node \"{bound}\"", target.name),
                ));
            }
            object_at(pod, &["spec"]).insert("nodeName".into(), json!(node));
            for (key, value) in binding["metadata"]["annotations"]
                .as_object()
                .into_iter()
                .flatten()
            {
                object_at(pod, &["metadata", "annotations"]).insert(key.clone(), value.clone());
            }
            set_condition(
                pod,
                json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": now}),
            );
            Ok(())
        })
        .await?;
    Ok(success())
}

/// The answer to what has been done.
pub(super) fn success() -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
}

fn set_condition(object: &mut Value, condition: Value) {
    let status = object_at(object, &["status"]);
    let conditions = status.entry("conditions").or_insert_with(|| json!([]));
    if !conditions.is_array() {
        *conditions = json!([]);
    }
    if let Some(list) = conditions.as_array_mut() {
        list.retain(|c| c["type"] != condition["type"]);
        list.push(condition);
    }
}

/// `pods/log`, `exec`, `attach`, `portforward`: checked here, answered by the node.
pub(super) async fn stream(
    engine: &Engine,
    target: &Target,
    stream: PodStream,
    query: &Query,
    request: Request<Body>,
) -> Result<Response, ApiError> {
    let pod = engine.get(target)?;
    let value = pod.value();
    let container = match stream {
        PodStream::PortForward => String::new(),
        _ => container(&target.name, &value, query.text("container"))?,
    };
    let node = value["spec"]["nodeName"].as_str().unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!(
            "pod {} does not have a host assigned",
            target.name
        )));
    }
    let proxy = engine.kubelet.read().clone().ok_or_else(|| {
        ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "ServiceUnavailable",
            format!(
                "no node agent answers for node \"{node}\": it is not connected to this server"
            ),
        )
    })?;
    let pod = PodTarget {
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        uid: pod.meta.uid.clone(),
        node: node.to_owned(),
        container,
        stream,
    };
    Ok(proxy.forward(pod, request).await)
}

/// The container that is meant.
fn container(pod: &str, value: &Value, asked: Option<&str>) -> Result<String, ApiError> {
    let names = |list: &str| -> Vec<String> {
        value["spec"][list]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c["name"].as_str())
            .map(str::to_owned)
            .collect()
    };
    let containers = names("containers");
    let init = names("initContainers");
    let ephemeral = names("ephemeralContainers");
    match asked {
        Some(name) => {
            let known = [&containers, &init, &ephemeral]
                .iter()
                .any(|list| list.iter().any(|c| c == name));
            if known {
                Ok(name.to_owned())
            } else {
                Err(ApiError::bad_request(format!(
                    "container {name} is not valid for pod {pod}"
                )))
            }
        }
        None => {
            let preferred =
                value["metadata"]["annotations"]["kubectl.kubernetes.io/default-container"]
                    .as_str()
                    .filter(|name| containers.iter().any(|c| c == name));
            match (preferred, containers.as_slice()) {
                (Some(name), _) => Ok(name.to_owned()),
                (None, [one]) => Ok(one.clone()),
                (None, many) => {
                    let mut text = format!(
                        "a container name must be specified for pod {pod}, choose one of: [{}]",
                        many.join(" ")
                    );
                    if !init.is_empty() {
                        text =
                            format!("{text} or one of the init containers: [{}]", init.join(" "));
                    }
                    Err(ApiError::bad_request(text))
                }
            }
        }
    }
}
