//! Aggregated ClusterRoles: their rules are those of the ClusterRoles that their
//! selectors choose. Pure.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::selector::{LabelSelector, SelectorError};

/// Whether a ClusterRole has an aggregation rule.
pub fn is_aggregated(role: &Value) -> bool {
    role["aggregationRule"]["clusterRoleSelectors"]
        .as_array()
        .is_some_and(|selectors| !selectors.is_empty())
}

/// The rules that an aggregated role should have: each once, in the order of the
/// names of the roles that they come from. `roles` is in order of names.
pub fn rules(role: &Value, roles: &[Value]) -> Result<Vec<Value>, SelectorError> {
    let selectors: Vec<LabelSelector> = role["aggregationRule"]["clusterRoleSelectors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(LabelSelector::from_object)
        .collect::<Result<_, _>>()?;
    let mut rules: Vec<Value> = Vec::new();
    for selector in &selectors {
        for other in roles {
            if other["metadata"]["name"] == role["metadata"]["name"]
                || !selector.matches(Some(&labels(other)))
            {
                continue;
            }
            for rule in other["rules"].as_array().into_iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    Ok(rules)
}

fn labels(object: &Value) -> BTreeMap<String, String> {
    object["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}
