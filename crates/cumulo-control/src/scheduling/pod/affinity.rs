//! Where a pod wants to be with regard to other pods, and the taints it puts up with.

use k8s_openapi::api::core::v1::{
    PodAffinity, PodAffinityTerm, PodAntiAffinity, TopologySpreadConstraint,
    WeightedPodAffinityTerm,
};
use serde::Deserialize;

use crate::scheduling::selector::{Condition, Labels, Selector};

/// Pods that something is said of, and the label of nodes whose value is a domain.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct PodTerm {
    pub(crate) selector: Selector,
    pub(crate) namespaces: Vec<String>,
    pub(crate) namespace_selector: Option<Selector>,
    pub(crate) topology: String,
}

impl PodTerm {
    /// Whether it speaks of a pod; `namespace` gives the labels of one.
    pub(crate) fn matches<'a>(
        &self,
        namespace: &str,
        labels: &Labels,
        namespace_labels: impl Fn(&str) -> Option<&'a Labels>,
    ) -> bool {
        let there = self.namespaces.iter().any(|one| one == namespace)
            || self.namespace_selector.as_ref().is_some_and(|selector| {
                // A namespace that is not known yet may have any labels.
                namespace_labels(namespace).is_some_and(|labels| selector.matches(labels))
                    || selector.requirements.as_ref().is_some_and(Vec::is_empty)
            });
        there && self.selector.matches(labels)
    }
}

/// A topology spread constraint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Spread {
    pub(crate) term: PodTerm,
    pub(crate) max_skew: i64,
    pub(crate) min_domains: usize,
    /// `DoNotSchedule`, or else a wish.
    pub(crate) required: bool,
    /// Count only nodes that the pod's selector and affinity allow.
    pub(crate) honor_affinity: bool,
    /// Count only nodes whose taints the pod tolerates.
    pub(crate) honor_taints: bool,
}

/// A toleration.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Default)]
#[serde(default)]
pub(crate) struct Toleration {
    pub(crate) key: Option<String>,
    pub(crate) operator: Option<String>,
    pub(crate) value: Option<String>,
    pub(crate) effect: Option<String>,
}

/// A taint of a node or a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Taint {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) effect: String,
}

impl Toleration {
    /// Notes an operator that is not understood; such a toleration covers nothing.
    pub(crate) fn check(&self, unknown: &mut Vec<String>) {
        if let Some(operator) = &self.operator
            && !matches!(operator.as_str(), "" | "Equal" | "Exists")
        {
            unknown.push(format!("spec.tolerations: operator {operator:?}"));
        }
    }

    /// Whether it covers a taint.
    pub(crate) fn covers(&self, taint: &Taint) -> bool {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let (key, effect) = (text(&self.key), text(&self.effect));
        let value = match self.operator.as_deref() {
            Some("Exists") => true,
            None | Some("" | "Equal") => text(&self.value) == taint.value && !key.is_empty(),
            Some(_) => return false,
        };
        value
            && (effect.is_empty() || effect == taint.effect)
            && (key.is_empty() || key == taint.key)
    }
}

/// Affinity terms while they are read.
#[derive(Default)]
pub(super) struct Terms {
    pub(super) near: Vec<PodTerm>,
    pub(super) apart: Vec<PodTerm>,
    pub(super) preferred: Vec<(i32, PodTerm)>,
}

impl Terms {
    pub(super) fn near(
        &mut self,
        given: &PodAffinity,
        namespace: &str,
        labels: &Labels,
        unknown: &mut Vec<String>,
    ) {
        let required = given
            .required_during_scheduling_ignored_during_execution
            .iter();
        let preferred = given
            .preferred_during_scheduling_ignored_during_execution
            .iter();
        self.near = read(required.flatten(), namespace, labels, unknown);
        self.prefer(preferred.flatten(), 1, namespace, labels, unknown);
    }

    pub(super) fn apart(
        &mut self,
        given: &PodAntiAffinity,
        namespace: &str,
        labels: &Labels,
        unknown: &mut Vec<String>,
    ) {
        let required = given
            .required_during_scheduling_ignored_during_execution
            .iter();
        let preferred = given
            .preferred_during_scheduling_ignored_during_execution
            .iter();
        self.apart = read(required.flatten(), namespace, labels, unknown);
        self.prefer(preferred.flatten(), -1, namespace, labels, unknown);
    }

    fn prefer<'a>(
        &mut self,
        given: impl Iterator<Item = &'a WeightedPodAffinityTerm>,
        sign: i32,
        namespace: &str,
        labels: &Labels,
        unknown: &mut Vec<String>,
    ) {
        for one in given {
            let terms = read(
                [&one.pod_affinity_term].into_iter(),
                namespace,
                labels,
                unknown,
            );
            let weight = one.weight.clamp(1, 100) * sign;
            self.preferred
                .extend(terms.into_iter().map(|term| (weight, term)));
        }
    }
}

fn read<'a>(
    given: impl Iterator<Item = &'a PodAffinityTerm>,
    namespace: &str,
    labels: &Labels,
    unknown: &mut Vec<String>,
) -> Vec<PodTerm> {
    let mut terms = Vec::new();
    for one in given {
        let mut understood = |selector| {
            Selector::read(selector)
                .map_err(|what| unknown.push(format!("spec.affinity: {what}")))
                .ok()
        };
        let Some(mut selector) = understood(one.label_selector.as_ref()) else {
            continue;
        };
        let namespace_selector = match &one.namespace_selector {
            Some(given) => match understood(Some(given)) {
                Some(selector) => Some(selector),
                None => continue,
            },
            None => None,
        };
        for key in one.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector.and(key, Condition::In(vec![value.clone()]));
            }
        }
        for key in one.mismatch_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector.and(key, Condition::NotIn(vec![value.clone()]));
            }
        }
        let mut namespaces = one.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        terms.push(PodTerm {
            selector,
            namespaces,
            namespace_selector,
            topology: one.topology_key.clone(),
        });
    }
    terms
}

pub(super) fn spread(
    given: Vec<TopologySpreadConstraint>,
    namespace: &str,
    labels: &Labels,
    unknown: &mut Vec<String>,
) -> Vec<Spread> {
    let mut all = Vec::new();
    for one in given {
        let path = "spec.topologySpreadConstraints";
        let required = match one.when_unsatisfiable.as_str() {
            "DoNotSchedule" => true,
            "ScheduleAnyway" => false,
            other => {
                unknown.push(format!("{path}: whenUnsatisfiable {other:?}"));
                continue;
            }
        };
        let mut honors = |policy: &Option<String>, usual: bool| match policy.as_deref() {
            None => usual,
            Some("Honor") => true,
            Some("Ignore") => false,
            Some(other) => {
                unknown.push(format!("{path}: policy {other:?}"));
                usual
            }
        };
        let honor_affinity = honors(&one.node_affinity_policy, true);
        let honor_taints = honors(&one.node_taints_policy, false);
        let mut selector = match Selector::read(one.label_selector.as_ref()) {
            Ok(selector) => selector,
            Err(what) => {
                unknown.push(format!("{path}: {what}"));
                continue;
            }
        };
        for key in one.match_label_keys.iter().flatten() {
            if let Some(value) = labels.get(key) {
                selector.and(key, Condition::In(vec![value.clone()]));
            }
        }
        all.push(Spread {
            term: PodTerm {
                selector,
                namespaces: vec![namespace.to_owned()],
                namespace_selector: None,
                topology: one.topology_key,
            },
            max_skew: i64::from(one.max_skew.max(1)),
            min_domains: usize::try_from(one.min_domains.unwrap_or(1)).unwrap_or(1),
            required,
            honor_affinity,
            honor_taints,
        });
    }
    all
}
