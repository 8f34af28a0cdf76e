//! Notices of the engine as Kubernetes events.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::broadcast::{self, error::RecvError};

use super::limited;
use crate::engine::Notice;

/// Repeated notices are counted on one event as long as it is remembered.
const REMEMBERED: usize = 512;

/// Publishes notices until the engine is gone.
pub(super) async fn publish(
    client: Client,
    mut notices: broadcast::Receiver<Notice>,
    node_name: &str,
) {
    let mut seen: BTreeMap<(String, String, String), (String, i32)> = BTreeMap::new();
    loop {
        let notice = match notices.recv().await {
            Ok(notice) => notice,
            Err(RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "too many pod notices, some become no events");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        let key = (
            notice.uid.clone(),
            notice.reason.to_owned(),
            notice.message.clone(),
        );
        if seen.len() >= REMEMBERED {
            seen.clear();
        }
        let written = match seen.get_mut(&key) {
            Some((name, count)) => {
                *count = count.saturating_add(1);
                repeat(&client, &notice, name, *count).await
            }
            None => {
                let event = event(&notice, node_name, Timestamp::now());
                let name = event.metadata.name.clone().unwrap_or_default();
                seen.insert(key, (name, 1));
                let api: Api<Event> = Api::namespaced(client.clone(), &notice.namespace);
                limited(api.create(&PostParams::default(), &event))
                    .await
                    .map(drop)
            }
        };
        if let Err(error) = written {
            // The namespace may be going away; an event is not worth a retry.
            tracing::debug!(%error, pod = notice.name, "cannot write an event");
        }
    }
}

async fn repeat(
    client: &Client,
    notice: &Notice,
    name: &str,
    count: i32,
) -> Result<(), kube::Error> {
    let api: Api<Event> = Api::namespaced(client.clone(), &notice.namespace);
    let patch = json!({"count": count, "lastTimestamp": Time(Timestamp::now())});
    limited(api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)))
        .await
        .map(drop)
}

fn event(notice: &Notice, node_name: &str, now: Timestamp) -> Event {
    let identifier = uuid::Uuid::new_v4().simple().to_string();
    Event {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", notice.name, &identifier[..16])),
            namespace: Some(notice.namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(notice.namespace.clone()),
            name: Some(notice.name.clone()),
            uid: Some(notice.uid.clone()),
            field_path: notice
                .container
                .as_ref()
                .map(|container| format!("spec.containers{{{container}}}")),
            ..ObjectReference::default()
        },
        type_: Some(if notice.warning { "Warning" } else { "Normal" }.to_owned()),
        reason: Some(notice.reason.to_owned()),
        message: Some(notice.message.clone()),
        count: Some(1),
        first_timestamp: Some(Time(now)),
        last_timestamp: Some(Time(now)),
        source: Some(EventSource {
            component: Some("cumulo-node".to_owned()),
            host: Some(node_name.to_owned()),
        }),
        reporting_component: Some("cumulo-node".to_owned()),
        reporting_instance: Some(node_name.to_owned()),
        ..Event::default()
    }
}
