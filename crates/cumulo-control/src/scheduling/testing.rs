//! What the tests share: small views, and what is decided on them.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::decide::{Decision, decide};
use super::dra::{Class, Expressions, Inventory};
use super::known::Known;
use super::node::Node;
use super::pod::Pod;
use super::view::{Ours, View};
use crate::key::ObjectKey;

/// An object from JSON.
pub(crate) fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

/// A view to which things are added one by one.
pub(crate) struct World {
    pub(crate) view: View,
    slices: Vec<Arc<Known<ResourceSlice>>>,
    made: i64,
}

impl World {
    pub(crate) fn new() -> Self {
        let view = View {
            now: Timestamp::from_second(1_800_000_000).unwrap(),
            ours: Ours {
                name: "cumulo".to_owned(),
                default_scheduler: true,
            },
            ..View::default()
        };
        Self {
            view,
            slices: Vec::new(),
            made: 0,
        }
    }

    /// A node that is ready, with labels.
    pub(crate) fn node(&mut self, name: &str, cpu: &str, memory: &str, labels: Value) -> &mut Self {
        self.node_of(json!({
            "metadata": {"name": name, "labels": labels},
            "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "110"},
                "conditions": [{"type": "Ready", "status": "True"}]},
        }))
    }

    pub(crate) fn node_of(&mut self, node: Value) -> &mut Self {
        let node: v1::Node = read(node);
        self.view.nodes.push(Arc::new(Node::of(&node)));
        self.view.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    /// A pod; what is not given is filled in. Made later than those before.
    pub(crate) fn pod(&mut self, name: &str, spec: Value, metadata: Value) -> &mut Self {
        self.pod_with(name, spec, metadata, json!({}))
    }

    pub(crate) fn pod_with(
        &mut self,
        name: &str,
        spec: Value,
        metadata: Value,
        status: Value,
    ) -> &mut Self {
        self.made += 1;
        let created = Timestamp::from_second(1_799_990_000 + self.made).unwrap();
        let mut object = json!({
            "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"),
                "creationTimestamp": created.to_string()},
            "spec": {"containers": [{"name": "main"}]},
            "status": status,
        });
        for (part, given) in [("metadata", metadata), ("spec", spec)] {
            for (field, value) in given.as_object().unwrap() {
                object[part][field] = value.clone();
            }
        }
        self.view.pods.push(Arc::new(read::<Pod>(object)));
        self
    }

    pub(crate) fn claim(&mut self, claim: Value) -> &mut Self {
        let claim: Known<ResourceClaim> = read(claim);
        let key = ObjectKey::of(&claim);
        self.view.claims.insert(key, Arc::new(claim));
        self
    }

    pub(crate) fn class(&mut self, class: Value) -> &mut Self {
        let class: DeviceClass = read(class);
        let mut classes = HashMap::clone(&self.view.classes);
        let selectors = class.spec.selectors.iter().flatten();
        classes.insert(
            class.name_any(),
            Class {
                selectors: selectors
                    .map(|selector| selector.cel.as_ref().unwrap().expression.clone())
                    .collect(),
                config: class.spec.config.clone().unwrap_or_default(),
            },
        );
        self.view.classes = Arc::new(classes);
        self
    }

    pub(crate) fn slice(&mut self, slice: Value) -> &mut Self {
        self.slices.push(Arc::new(read(slice)));
        self.view.inventory = Arc::new(Inventory::of(&self.slices));
        self
    }

    pub(crate) fn queue(&mut self, queue: Value) -> &mut Self {
        let queue: cumulo_api::Queue = read(queue);
        self.view.queues.insert(queue.name_any(), Arc::new(queue));
        self
    }

    pub(crate) fn decide(&self) -> Decision {
        decide(&self.view, &mut Expressions::new())
    }

    /// What is decided, a line for each pod.
    pub(crate) fn told(&self) -> String {
        told(&self.decide())
    }

    /// Does what was decided, as a cluster would.
    pub(crate) fn apply(&mut self, decision: &Decision) {
        for bind in &decision.binds {
            let pod = self
                .view
                .pods
                .iter_mut()
                .find(|pod| pod.uid() == bind.pod.uid())
                .unwrap();
            let pod = Arc::make_mut(pod);
            pod.node = Some(bind.node.clone());
            let annotations = pod.metadata.annotations.get_or_insert_default();
            annotations.extend(bind.annotations.clone());
            for (key, allocation) in &bind.allocations {
                let claim = Arc::make_mut(self.view.claims.get_mut(key).unwrap());
                claim.object.status.get_or_insert_default().allocation = Some(allocation.clone());
            }
        }
    }
}

/// A decision, a line for each pod.
pub(crate) fn told(decision: &Decision) -> String {
    let mut lines = Vec::new();
    for bind in &decision.binds {
        let mut line = format!("{} → {}", bind.pod.name(), bind.node);
        for (_, allocation) in &bind.allocations {
            let devices = allocation.devices.as_ref().unwrap();
            for result in devices.results.iter().flatten() {
                line.push_str(&format!(
                    " {}={}/{}",
                    result.request, result.pool, result.device
                ));
                for (name, amount) in result.consumed_capacity.iter().flatten() {
                    line.push_str(&format!(" {name}:{}", amount.0));
                }
            }
        }
        lines.push(line);
    }
    for preemption in &decision.preemptions {
        let names = |pods: Vec<String>| pods.join(", ");
        lines.push(format!(
            "{} ends for {}",
            names(
                preemption
                    .victims
                    .iter()
                    .map(|pod| pod.name().to_owned())
                    .collect()
            ),
            names(
                preemption
                    .beneficiaries
                    .iter()
                    .map(|(pod, node)| format!("{} on {node}", pod.name()))
                    .collect()
            ),
        ));
    }
    for wait in &decision.waits {
        lines.push(format!("{} waits: {}", wait.pod.name, wait.reason));
    }
    lines.sort();
    lines.join("\n")
}

/// Requests of a pod's only container.
pub(crate) fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

/// A part of a spec put into another.
pub(crate) fn with(mut spec: Value, more: Value) -> Value {
    for (field, value) in more.as_object().unwrap() {
        spec[field] = value.clone();
    }
    spec
}
