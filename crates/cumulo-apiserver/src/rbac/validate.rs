//! What is wrong with a role or a binding, beyond its schema, in Kubernetes' own
//! words. Pure.

use serde_json::Value;

use super::{GROUP, PolicyRule};
use crate::status::Cause;

/// What is wrong with a Role or ClusterRole.
pub fn role(object: &Value, namespaced: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    for (n, value) in object["rules"].as_array().into_iter().flatten().enumerate() {
        let at = |field: &str| format!("rules[{n}].{field}");
        let rule = PolicyRule::read(value);
        if rule.verbs.is_empty() {
            causes.push(Cause::required(
                at("verbs"),
                "verbs must contain at least one value",
            ));
        }
        if !rule.non_resource_urls.is_empty() {
            let urls = &value["nonResourceURLs"];
            if namespaced {
                causes.push(Cause::invalid(
                    at("nonResourceURLs"),
                    urls,
                    "namespaced rules cannot apply to non-resource URLs",
                ));
            }
            if !rule.api_groups.is_empty()
                || !rule.resources.is_empty()
                || !rule.resource_names.is_empty()
            {
                causes.push(Cause::invalid(
                    at("nonResourceURLs"),
                    urls,
                    "rules cannot apply to both regular resources and non-resource URLs",
                ));
            }
            continue;
        }
        if rule.api_groups.is_empty() {
            causes.push(Cause::required(
                at("apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if rule.resources.is_empty() {
            causes.push(Cause::required(
                at("resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
    for (n, selector) in object["aggregationRule"]["clusterRoleSelectors"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        if let Err(error) = crate::selector::LabelSelector::from_object(selector) {
            causes.push(Cause::invalid(
                format!("aggregationRule.clusterRoleSelectors[{n}]"),
                selector,
                error.0,
            ));
        }
    }
    causes
}

/// What is wrong with a RoleBinding or ClusterRoleBinding.
pub fn binding(object: &Value, old: Option<&Value>, namespaced: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    let reference = &object["roleRef"];
    if reference["apiGroup"] != GROUP {
        causes.push(Cause::unsupported(
            "roleRef.apiGroup",
            &reference["apiGroup"],
            &[GROUP],
        ));
    }
    let kinds: &[&str] = if namespaced {
        &["Role", "ClusterRole"]
    } else {
        &["ClusterRole"]
    };
    if !kinds.contains(&reference["kind"].as_str().unwrap_or_default()) {
        causes.push(Cause::unsupported(
            "roleRef.kind",
            &reference["kind"],
            kinds,
        ));
    }
    if is_empty(&reference["name"]) {
        causes.push(Cause::required("roleRef.name", ""));
    }
    if let Some(old) = old
        && old["roleRef"] != *reference
    {
        causes.push(Cause::invalid(
            "roleRef",
            reference,
            "cannot change roleRef",
        ));
    }
    for (n, subject) in object["subjects"]
        .as_array()
        .into_iter()
        .flatten()
        .enumerate()
    {
        let at = |field: &str| format!("subjects[{n}].{field}");
        if is_empty(&subject["name"]) {
            causes.push(Cause::required(at("name"), ""));
        }
        match subject["kind"].as_str().unwrap_or_default() {
            "ServiceAccount" if !namespaced && is_empty(&subject["namespace"]) => {
                causes.push(Cause::required(at("namespace"), ""));
            }
            "ServiceAccount" | "User" | "Group" => {}
            _ => causes.push(Cause::unsupported(
                at("kind"),
                &subject["kind"],
                &["ServiceAccount", "User", "Group"],
            )),
        }
    }
    causes
}

fn is_empty(value: &Value) -> bool {
    value.as_str().unwrap_or_default().is_empty()
}
