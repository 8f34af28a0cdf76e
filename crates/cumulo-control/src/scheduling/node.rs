//! A node as far as scheduling looks at it, and whether a pod may go there at
//! all. Pure.

use std::collections::BTreeMap;

use cumulo_schedule::solver::Resources;
use k8s_openapi::api::core::v1;
use kube::ResourceExt;

use super::pod::{Place, Taint};
use super::quantity::offered;
use super::selector::{Labels, selects};

/// Pods that a node takes whose number nobody says (the kubelet's default).
const USUAL_PODS: u64 = 110;
/// The taint of nodes that are not ready.
const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// The taint of nodes that take no new pods.
const CORDONED: &str = "node.kubernetes.io/unschedulable";

/// A node.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) labels: Labels,
    /// With those that follow from its state.
    pub(crate) taints: Vec<Taint>,
    pub(crate) capacity: Resources,
}

impl Node {
    pub(crate) fn of(node: &v1::Node) -> Self {
        let status = node.status.as_ref();
        let given = status
            .and_then(|status| status.allocatable.as_ref().or(status.capacity.as_ref()))
            .into_iter()
            .flatten();
        let mut amounts: BTreeMap<String, u64> = given
            .filter_map(|(name, quantity)| Some((name.clone(), offered(name, &quantity.0)?)))
            .collect();
        amounts.entry("pods".to_owned()).or_insert(USUAL_PODS);
        let spec = node.spec.as_ref();
        let mut taints: Vec<Taint> = spec
            .and_then(|spec| spec.taints.as_ref())
            .into_iter()
            .flatten()
            .map(|taint| Taint {
                key: taint.key.clone(),
                value: taint.value.clone().unwrap_or_default(),
                effect: taint.effect.clone(),
            })
            .collect();
        let mut own = |key: &str| {
            if !taints.iter().any(|taint| taint.key == key) {
                taints.push(Taint {
                    key: key.to_owned(),
                    value: String::new(),
                    effect: "NoSchedule".to_owned(),
                });
            }
        };
        // A cluster's node lifecycle controller sets these taints; where there is
        // none, they follow from the node's state all the same.
        if spec.and_then(|spec| spec.unschedulable) == Some(true) {
            own(CORDONED);
        }
        let mut conditions = status
            .iter()
            .flat_map(|status| status.conditions.iter().flatten());
        if !conditions.any(|one| one.type_ == "Ready" && one.status == "True") {
            own(NOT_READY);
        }
        Self {
            name: node.name_any(),
            labels: node.metadata.labels.clone().unwrap_or_default(),
            taints,
            capacity: Resources {
                cpu: amounts.remove("cpu").unwrap_or(0),
                memory: amounts.remove("memory").unwrap_or(0),
                other: amounts,
            },
        }
    }

    /// Why a pod may not come here, whatever runs; `None` when it may.
    pub(crate) fn refuses(&self, place: &Place) -> Option<String> {
        if let Some(taint) = self.refusing_taint(place) {
            return Some(match taint.key.as_str() {
                CORDONED => "takes no new pods".to_owned(),
                NOT_READY => "is not ready".to_owned(),
                _ => format!("has the taint {}", show_taint(taint)),
            });
        }
        self.unwanted(place)
    }

    /// The first taint that keeps a pod off.
    pub(crate) fn refusing_taint(&self, place: &Place) -> Option<&Taint> {
        self.taints.iter().find(|taint| {
            // An effect that is not known keeps pods off, too.
            taint.effect != "PreferNoSchedule"
                && !place.tolerations.iter().any(|one| one.covers(taint))
        })
    }

    /// Why the pod does not want this node.
    pub(crate) fn unwanted(&self, place: &Place) -> Option<String> {
        let missing = place
            .selector
            .iter()
            .find(|(key, value)| self.labels.get(*key) != Some(value));
        if let Some((key, value)) = missing {
            return Some(format!("lacks the label {key}={value}"));
        }
        let terms = place.required.as_ref()?;
        (!selects(terms, &self.name, &self.labels))
            .then(|| "does not match the node affinity".to_owned())
    }
}

fn show_taint(taint: &Taint) -> String {
    let Taint { key, value, effect } = taint;
    if value.is_empty() {
        format!("{key}:{effect}")
    } else {
        format!("{key}={value}:{effect}")
    }
}
