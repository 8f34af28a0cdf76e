//! Selectors over labels and nodes, as Kubernetes documents them. Pure.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{NodeSelector, NodeSelectorRequirement, NodeSelectorTerm};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// Labels by their keys.
pub(crate) type Labels = BTreeMap<String, String>;

/// What must hold of a label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Condition {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Above(i64),
    Below(i64),
}

/// A condition on one label.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Requirement {
    pub(crate) key: String,
    pub(crate) condition: Condition,
}

impl Requirement {
    fn read(key: &str, operator: &str, values: &[String]) -> Option<Self> {
        let number = || values.first()?.parse().ok();
        let condition = match operator {
            "In" => Condition::In(values.to_vec()),
            "NotIn" => Condition::NotIn(values.to_vec()),
            "Exists" => Condition::Exists,
            "DoesNotExist" => Condition::Absent,
            "Gt" => Condition::Above(number()?),
            "Lt" => Condition::Below(number()?),
            _ => return None,
        };
        Some(Self {
            key: key.to_owned(),
            condition,
        })
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.condition {
            Condition::In(values) => {
                value.is_some_and(|value| values.iter().any(|one| one == value))
            }
            Condition::NotIn(values) => {
                value.is_none_or(|value| values.iter().all(|one| one != value))
            }
            Condition::Exists => value.is_some(),
            Condition::Absent => value.is_none(),
            Condition::Above(bound) => number().is_some_and(|number| number > *bound),
            Condition::Below(bound) => number().is_some_and(|number| number < *bound),
        }
    }
}

/// A selector of labels: all requirements hold. `None` in `requirements` is the
/// selector that selects nothing (Kubernetes' null).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Selector {
    pub(crate) requirements: Option<Vec<Requirement>>,
}

impl Selector {
    /// Reads a selector; `Err` names what is not understood.
    pub(crate) fn read(selector: Option<&LabelSelector>) -> Result<Self, String> {
        let Some(selector) = selector else {
            return Ok(Self { requirements: None });
        };
        let mut requirements: Vec<Requirement> = selector
            .match_labels
            .iter()
            .flatten()
            .map(|(key, value)| Requirement {
                key: key.clone(),
                condition: Condition::In(vec![value.clone()]),
            })
            .collect();
        for one in selector.match_expressions.iter().flatten() {
            let values = one.values.as_deref().unwrap_or_default();
            let read = Requirement::read(&one.key, &one.operator, values)
                .filter(|_| !matches!(one.operator.as_str(), "Gt" | "Lt"));
            requirements.push(read.ok_or_else(|| format!("operator {:?}", one.operator))?);
        }
        Ok(Self {
            requirements: Some(requirements),
        })
    }

    /// Adds a condition.
    pub(crate) fn and(&mut self, key: &str, condition: Condition) {
        if let Some(requirements) = &mut self.requirements {
            requirements.push(Requirement {
                key: key.to_owned(),
                condition,
            });
        }
    }

    /// Whether it selects these labels.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.requirements.as_ref().is_some_and(|requirements| {
            requirements
                .iter()
                .all(|one| one.holds(labels.get(&one.key).map(String::as_str)))
        })
    }
}

/// One term of a node selector: labels and fields that must all hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub(crate) struct NodeTerm {
    labels: Vec<Requirement>,
    fields: Vec<Requirement>,
}

impl NodeTerm {
    /// Reads a term; `Err` names what is not understood.
    pub(crate) fn read(term: &NodeSelectorTerm) -> Result<Self, String> {
        let all = |given: &Option<Vec<NodeSelectorRequirement>>| {
            let mut read = Vec::new();
            for one in given.iter().flatten() {
                let values = one.values.as_deref().unwrap_or_default();
                let requirement = Requirement::read(&one.key, &one.operator, values);
                read.push(requirement.ok_or_else(|| {
                    format!("operator {:?} with {values:?} on {}", one.operator, one.key)
                })?);
            }
            Ok::<_, String>(read)
        };
        let fields = all(&term.match_fields)?;
        if let Some(field) = fields.iter().find(|field| field.key != "metadata.name") {
            return Err(format!("the node field {}", field.key));
        }
        Ok(Self {
            labels: all(&term.match_expressions)?,
            fields,
        })
    }

    /// Whether a node is selected; a term without conditions selects none.
    pub(crate) fn matches(&self, name: &str, labels: &Labels) -> bool {
        let some = !(self.labels.is_empty() && self.fields.is_empty());
        some && self.fields.iter().all(|field| field.holds(Some(name)))
            && self
                .labels
                .iter()
                .all(|one| one.holds(labels.get(&one.key).map(String::as_str)))
    }
}

/// Terms of which one must hold.
pub(crate) fn node_terms(selector: &NodeSelector) -> Result<Vec<NodeTerm>, String> {
    selector
        .node_selector_terms
        .iter()
        .map(NodeTerm::read)
        .collect()
}

/// Whether a node is selected by one of the terms.
pub(crate) fn selects(terms: &[NodeTerm], name: &str, labels: &Labels) -> bool {
    terms.iter().any(|term| term.matches(name, labels))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(selector: serde_json::Value, name: &str, labels: &[(&str, &str)]) -> bool {
        let selector: NodeSelector = serde_json::from_value(selector).unwrap();
        let labels = labels
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        selects(&node_terms(&selector).unwrap(), name, &labels)
    }

    #[test]
    fn node_selectors_are_ors_of_ands() {
        let selector = json!({"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "zone", "operator": "In", "values": ["a"]},
                                  {"key": "cores", "operator": "Gt", "values": ["8"]}]},
            {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n7"]}]}]});
        assert!(node(
            selector.clone(),
            "n1",
            &[("zone", "a"), ("cores", "16")]
        ));
        assert!(!node(
            selector.clone(),
            "n1",
            &[("zone", "a"), ("cores", "8")]
        ));
        assert!(!node(
            selector.clone(),
            "n1",
            &[("zone", "a"), ("cores", "many")]
        ));
        assert!(node(selector, "n7", &[]));
        assert!(
            !node(json!({"nodeSelectorTerms": [{}]}), "n1", &[]),
            "an empty term selects none"
        );
    }

    #[test]
    fn what_is_not_understood_is_named() {
        let term: NodeSelectorTerm = serde_json::from_value(
            json!({"matchExpressions": [{"key": "a", "operator": "Near", "values": ["b"]}]}),
        )
        .unwrap();
        assert!(NodeTerm::read(&term).unwrap_err().contains("Near"));
        let selector: LabelSelector = serde_json::from_value(
            json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}),
        )
        .unwrap();
        assert!(Selector::read(Some(&selector)).is_err());
        assert!(!Selector::read(None).unwrap().matches(&Labels::new()));
    }
}
