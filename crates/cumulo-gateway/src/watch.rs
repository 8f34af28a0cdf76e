//! Services and pods as the Kubernetes API tells of them.

use std::net::SocketAddr;
use std::pin::pin;

use futures::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::core::{ApiResource, GroupVersionKind};
use kube::runtime::watcher::{self, Event as Watched};
use kube::runtime::{WatchStreamExt, watcher as watch};
use serde_json::Value;

use crate::handle::Handle;
use crate::table::{Event, PodRecord, ServiceKey, ServiceRecord};
use crate::{PORT_ANNOTATION, REVISION_LABEL, SERVICE_LABEL};

/// Watches both kinds for as long as it is polled.
pub(crate) async fn run(client: kube::Client, handle: Handle) {
    let service = GroupVersionKind::gvk(cumulo_api::GROUP, cumulo_api::VERSION, "InferenceService");
    let service = ApiResource::from_gvk_with_plural(&service, "inferenceservices");
    let pod = GroupVersionKind::gvk("", "v1", "Pod");
    let pod = ApiResource::from_gvk_with_plural(&pod, "pods");
    let services = follow(
        Api::all_with(client.clone(), &service),
        watcher::Config::default(),
        &handle,
        service_record,
        Event::Services,
        Event::Service,
        |record| Event::ServiceDeleted(record.key),
    );
    let pods = follow(
        Api::all_with(client, &pod),
        watcher::Config::default().labels(SERVICE_LABEL),
        &handle,
        pod_record,
        Event::Pods,
        Event::Pod,
        |record| Event::PodDeleted {
            namespace: record.namespace,
            name: record.name,
        },
    );
    tokio::join!(services, pods);
}

async fn follow<R>(
    api: Api<DynamicObject>,
    config: watcher::Config,
    handle: &Handle,
    record: fn(&DynamicObject) -> Option<R>,
    all: fn(Vec<R>) -> Event,
    one: fn(R) -> Event,
    deleted: fn(R) -> Event,
) {
    let mut events = pin!(watch(api, config).default_backoff());
    // A list comes in pieces and counts once it is whole.
    let mut listed = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            Ok(Watched::Init) => listed.clear(),
            Ok(Watched::InitApply(object)) => listed.extend(record(&object)),
            Ok(Watched::InitDone) => handle.apply(all(std::mem::take(&mut listed))),
            Ok(Watched::Apply(object)) => {
                if let Some(record) = record(&object) {
                    handle.apply(one(record));
                }
            }
            Ok(Watched::Delete(object)) => {
                if let Some(record) = record(&object) {
                    handle.apply(deleted(record));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "watch interrupted, routes stay as they are");
            }
        }
    }
}

fn text(value: &Value) -> Option<String> {
    value
        .as_str()
        .filter(|text| !text.is_empty())
        .map(String::from)
}

fn service_record(object: &DynamicObject) -> Option<ServiceRecord> {
    let status = &object.data["status"];
    let conditions = status["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition["type"] == "Ready");
    Some(ServiceRecord {
        key: ServiceKey::new(
            object.metadata.namespace.clone()?,
            object.metadata.name.clone()?,
        ),
        active_revision: text(&status["activeRevision"]),
        model_version: text(&status["modelVersion"]),
        waiting_for: ready
            .filter(|ready| ready["status"] != "True")
            .and_then(|ready| text(&ready["message"]).or_else(|| text(&ready["reason"]))),
    })
}

fn pod_record(object: &DynamicObject) -> Option<PodRecord> {
    let metadata = &object.metadata;
    let label = |name: &str| metadata.labels.as_ref()?.get(name).cloned();
    let status = &object.data["status"];
    let conditions = status["conditions"].as_array();
    let ready = conditions
        .into_iter()
        .flatten()
        .any(|condition| condition["type"] == "Ready" && condition["status"] == "True");
    let annotated = metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(PORT_ANNOTATION))
        .and_then(|port| port.parse::<u16>().ok());
    let containers = object.data["spec"]["containers"].as_array();
    let declared = containers
        .into_iter()
        .flatten()
        .flat_map(|container| container["ports"].as_array().into_iter().flatten())
        .find(|port| port["name"] == "http")
        .and_then(|port| port["containerPort"].as_u64())
        .and_then(|port| u16::try_from(port).ok());
    let ip = status["podIP"].as_str().and_then(|ip| ip.parse().ok());
    let address = annotated
        .or(declared)
        .zip(ip)
        .map(|(port, ip)| SocketAddr::new(ip, port));
    Some(PodRecord {
        namespace: metadata.namespace.clone()?,
        name: metadata.name.clone()?,
        uid: metadata.uid.clone().unwrap_or_default(),
        service: label(SERVICE_LABEL)?,
        revision: label(REVISION_LABEL),
        address,
        ready,
        deleting: metadata.deletion_timestamp.is_some(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn object(value: Value) -> DynamicObject {
        serde_json::from_value(value).expect("an object")
    }

    #[test]
    fn a_pod_as_the_controller_makes_it() {
        let pod = object(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "default", "name": "flights-3f-0", "uid": "u",
                "labels": {"cumulo.dev/inference-service": "flights", "cumulo.dev/revision": "3f"},
            },
            "spec": {"containers": [{"name": "server", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": "127.1.2.3", "conditions": [{"type": "Ready", "status": "True"}]},
        }));
        let record = pod_record(&pod).expect("a record");
        assert_eq!(
            record.address,
            Some(SocketAddr::from(([127, 1, 2, 3], 8080)))
        );
        assert!(record.ready && !record.deleting);
        assert_eq!(record.revision.as_deref(), Some("3f"));
        assert_eq!(record.service, "flights");
    }

    #[test]
    fn a_service_says_what_it_waits_for() {
        let service = object(json!({
            "apiVersion": "cumulo.dev/v1alpha1", "kind": "InferenceService",
            "metadata": {"namespace": "default", "name": "flights"},
            "status": {"activeRevision": "3f", "conditions": [
                {"type": "Ready", "status": "False", "reason": "ModelMissing",
                 "message": "waits for models:/late-flights@champion"}]},
        }));
        let record = service_record(&service).expect("a record");
        assert_eq!(record.active_revision.as_deref(), Some("3f"));
        assert_eq!(
            record.waiting_for.as_deref(),
            Some("waits for models:/late-flights@champion")
        );
    }
}
