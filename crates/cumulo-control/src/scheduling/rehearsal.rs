//! Scheduling without a server: what would be done with some objects.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::resource::v1::{DeviceClass, ResourceClaim, ResourceSlice};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::decide::{Decision, decide};
use super::dra::{Class, Expressions, Inventory};
use super::known::Known;
use super::node::Node;
use super::pod::Pod;
use super::view::{Ours, View};
use crate::key::ObjectKey;

/// Why objects cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// An object is not what its kind says.
    #[error("{kind} {name} cannot be read: {error}")]
    Object {
        /// The kind.
        kind: String,
        /// The name.
        name: String,
        /// Where and why.
        error: serde_json::Error,
    },
}

/// A cluster in memory: Nodes, Pods, Queues, DeviceClasses, ResourceSlices and
/// ResourceClaims. Objects of other kinds are left out.
pub struct Rehearsal {
    view: View,
    expressions: Expressions,
    /// Position of each pod by its uid, and of claims by their key.
    pods: HashMap<String, usize>,
}

/// What one decision came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rehearsed {
    /// Pods (`namespace/name`) with their nodes.
    pub bound: Vec<(String, String)>,
    /// Pods that wait, with the reason.
    pub waiting: Vec<(String, String)>,
}

impl Rehearsal {
    /// Reads objects. All pods are taken for this scheduler's.
    ///
    /// # Errors
    /// When one is not what its kind says.
    pub fn new(objects: &[Value], now: Timestamp) -> Result<Self, RehearsalError> {
        let mut view = View {
            now,
            ours: Ours {
                name: super::NAME.to_owned(),
                default_scheduler: true,
            },
            ..View::default()
        };
        let mut slices: Vec<Arc<Known<ResourceSlice>>> = Vec::new();
        let mut classes = HashMap::new();
        for object in objects {
            match object["kind"].as_str().unwrap_or_default() {
                "Node" => view
                    .nodes
                    .push(Arc::new(Node::of(&read::<v1::Node>(object)?))),
                "Pod" => view.pods.push(Arc::new(read::<Pod>(object)?)),
                "Queue" => {
                    let queue: cumulo_api::Queue = read(object)?;
                    view.queues.insert(queue.name_any(), Arc::new(queue));
                }
                "ResourceSlice" => slices.push(Arc::new(read(object)?)),
                "DeviceClass" => {
                    let class: DeviceClass = read(object)?;
                    let selectors = class.spec.selectors.iter().flatten();
                    let selectors =
                        selectors.filter_map(|one| Some(one.cel.as_ref()?.expression.clone()));
                    let known = Class {
                        selectors: selectors.collect(),
                        config: class.spec.config.clone().unwrap_or_default(),
                    };
                    classes.insert(class.name_any(), known);
                }
                "ResourceClaim" => {
                    let claim: Known<ResourceClaim> = read(object)?;
                    view.claims.insert(ObjectKey::of(&claim), Arc::new(claim));
                }
                _ => {}
            }
        }
        view.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        view.inventory = Arc::new(Inventory::of(&slices));
        view.classes = Arc::new(classes);
        let pods = view.pods.iter().enumerate();
        let pods = pods.map(|(at, pod)| (pod.uid().to_owned(), at)).collect();
        Ok(Self {
            view,
            expressions: Expressions::new(),
            pods,
        })
    }

    /// Decides about all pods that wait, and does in memory what was decided.
    pub fn step(&mut self) -> Rehearsed {
        let decision = decide(&self.view, &mut self.expressions);
        self.apply(&decision)
    }

    /// The same as if of the pods that wait only those of these names
    /// (`namespace/name`) were there.
    pub fn step_only(&mut self, names: &[String]) -> Rehearsed {
        let names: HashSet<&str> = names.iter().map(String::as_str).collect();
        let mut view = self.view.clone();
        view.pods
            .retain(|pod| pod.runs() || names.contains(pod.key().to_string().as_str()));
        let decision = decide(&view, &mut self.expressions);
        self.apply(&decision)
    }

    fn apply(&mut self, decision: &Decision) -> Rehearsed {
        let mut rehearsed = Rehearsed::default();
        for bind in &decision.binds {
            if let Some(at) = self.pods.get(bind.pod.uid()) {
                let pod = Arc::make_mut(&mut self.view.pods[*at]);
                pod.node = Some(bind.node.clone());
                let annotations = pod.metadata.annotations.get_or_insert_default();
                annotations.extend(bind.annotations.clone());
            }
            for (key, allocation) in &bind.allocations {
                if let Some(claim) = self.view.claims.get_mut(key) {
                    let status = &mut Arc::make_mut(claim).object.status;
                    status.get_or_insert_default().allocation = Some(allocation.clone());
                }
            }
            rehearsed
                .bound
                .push((bind.pod.key().to_string(), bind.node.clone()));
        }
        for wait in &decision.waits {
            rehearsed
                .waiting
                .push((wait.pod.to_string(), wait.message()));
        }
        rehearsed
    }
}

fn read<T: DeserializeOwned>(object: &Value) -> Result<T, RehearsalError> {
    serde_json::from_value(object.clone()).map_err(|error| RehearsalError::Object {
        kind: object["kind"].as_str().unwrap_or_default().to_owned(),
        name: object["metadata"]["name"]
            .as_str()
            .unwrap_or_default()
            .to_owned(),
        error,
    })
}
