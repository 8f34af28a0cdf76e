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
    let objects = measured(engine, resource)?;
    let listed = engine.list(&objects, &options).await?;
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
    let shown = match namespace {
        "" => name.to_owned(),
        namespace => format!("{namespace}/{name}"),
    };
    let missing = || ApiError::not_found(resource, &shown);
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

/// What the nodes told.
struct Measured {
    nodes: Vec<NodeUsage>,
    /// By uid of the pod: places in `nodes` and in the node's containers.
    containers: HashMap<String, Vec<(usize, usize)>>,
}

impl Measured {
    async fn now(engine: &Engine) -> Self {
        let proxy = engine.kubelet.read().clone();
        let nodes = match proxy {
            Some(proxy) => proxy.usage().await,
            None => Vec::new(),
        };
        let mut containers: HashMap<String, Vec<(usize, usize)>> = HashMap::new();
        for (node, usage) in nodes.iter().enumerate() {
            for (container, one) in usage.containers.iter().enumerate() {
                containers
                    .entry(one.uid.clone())
                    .or_default()
                    .push((node, container));
            }
        }
        Self { nodes, containers }
    }

    fn of(&self, resource: &ResourceType, object: &Object) -> Option<Value> {
        if resource.plural == "nodes" {
            let node = self
                .nodes
                .iter()
                .find(|node| *node.node == *object.id.name)?;
            let mut metrics = frame(resource, object, node);
            metrics["usage"] = usage(node.machine);
            return Some(metrics);
        }
        let places = self.containers.get(object.meta.uid.as_str())?;
        let mut metrics = frame(resource, object, &self.nodes[places.first()?.0]);
        metrics["containers"] = places
            .iter()
            .map(|(node, container)| &self.nodes[*node].containers[*container])
            .map(|one| json!({"name": one.container, "usage": usage(one.usage)}))
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
