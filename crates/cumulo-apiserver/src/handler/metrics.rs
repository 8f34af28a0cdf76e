//! `metrics.k8s.io`: what pods and nodes use, measured by the node agent when
//! somebody asks. The labels and names that select are those of the pods and
//! nodes themselves.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use crate::engine::{Engine, timestamp};
use crate::kubelet::{NodeUsage, Usage};
use crate::operation::{ListOptions, Target};
use crate::resource::ResourceType;
use crate::status::ApiError;
use crate::storage::Object;

/// The API group.
pub(super) const GROUP: &str = "metrics.k8s.io";

/// Metrics of the pods or nodes that a list selects. What is not measured, as
/// nothing of it runs, is left out.
pub(super) async fn list(
    engine: &Engine,
    resource: &ResourceType,
    options: &ListOptions,
) -> Result<Vec<Value>, ApiError> {
    // Metrics have no versions and no pages.
    let options = ListOptions {
        namespace: options.namespace.clone(),
        labels: options.labels.clone(),
        fields: options.fields.clone(),
        ..ListOptions::default()
    };
    let listed = engine.list(&*measured(engine, resource)?, &options).await?;
    let usage = Measured::now(engine).await;
    Ok(listed
        .objects
        .iter()
        .filter_map(|object| usage.of(resource, object))
        .collect())
}

/// Metrics of one pod or node.
pub(super) async fn one(
    engine: &Engine,
    resource: &ResourceType,
    namespace: &str,
    name: &str,
) -> Result<Value, ApiError> {
    let target = Target::new(&measured(engine, resource)?, namespace, name);
    let missing = || {
        ApiError::not_found(
            resource,
            &format!("{namespace}/{name}").trim_matches('/').to_owned(),
        )
    };
    let object = engine.get(&target).map_err(|_| missing())?;
    let usage = Measured::now(engine).await;
    usage.of(resource, &object).ok_or_else(missing)
}

/// The type whose objects are measured: pods or nodes of the core group.
fn measured(engine: &Engine, resource: &ResourceType) -> Result<Arc<ResourceType>, ApiError> {
    engine
        .registry
        .catalog()
        .find("", "v1", &resource.plural)
        .cloned()
        .ok_or_else(ApiError::no_such_path)
}

/// A container's name, what it uses, and the measurement that says so.
type Part<'a> = (&'a str, Usage, &'a NodeUsage);

/// What the nodes told.
struct Measured(Vec<NodeUsage>);

impl Measured {
    async fn now(engine: &Engine) -> Self {
        let proxy = engine.kubelet.read().clone();
        Self(match proxy {
            Some(proxy) => proxy.usage().await,
            None => Vec::new(),
        })
    }

    fn of(&self, resource: &ResourceType, object: &Object) -> Option<Value> {
        if resource.plural == "nodes" {
            let node = self.0.iter().find(|node| *node.node == *object.id.name)?;
            let mut metrics = frame(resource, object, node);
            metrics["usage"] = usage(node.machine);
            return Some(metrics);
        }
        let mut parts: HashMap<&str, Vec<Part<'_>>> = HashMap::new();
        for node in &self.0 {
            for one in &node.containers {
                parts
                    .entry(&one.uid)
                    .or_default()
                    .push((&one.container, one.usage, node));
            }
        }
        let parts = parts.get(object.meta.uid.as_str())?;
        let mut metrics = frame(resource, object, parts.first()?.2);
        metrics["containers"] = parts
            .iter()
            .map(|(name, used, _)| json!({"name": name, "usage": usage(*used)}))
            .collect();
        Some(metrics)
    }
}

fn frame(resource: &ResourceType, object: &Object, node: &NodeUsage) -> Value {
    let at = DateTime::<Utc>::from(node.at);
    let mut metadata = json!({
        "name": *object.id.name,
        "creationTimestamp": timestamp(at),
    });
    if !object.id.namespace.is_empty() {
        metadata["namespace"] = json!(*object.id.namespace);
    }
    if let Some(labels) = &object.meta.labels {
        metadata["labels"] = json!(labels);
    }
    json!({
        "kind": resource.kind,
        "apiVersion": resource.api_version(),
        "metadata": metadata,
        "timestamp": timestamp(at),
        "window": format!("{:.3}s", node.window.as_secs_f64()),
    })
}

fn usage(usage: Usage) -> Value {
    json!({
        "cpu": format!("{}n", usage.cpu_nanocores),
        "memory": format!("{}Ki", usage.memory_bytes / 1024),
    })
}
