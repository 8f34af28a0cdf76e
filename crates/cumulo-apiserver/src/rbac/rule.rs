//! One rule of a role: what it allows, and what it covers of other rules.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::auth::Attributes;

/// Stands for everything in verbs, groups and resources.
const ALL: &str = "*";

/// A `PolicyRule` of `rbac.authorization.k8s.io/v1`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PolicyRule {
    /// Verbs, or `*`.
    pub verbs: Vec<String>,
    /// API groups (empty: the core group), or `*`.
    pub api_groups: Vec<String>,
    /// Resources such as `pods`, `pods/log`, `*/scale`, or `*`.
    pub resources: Vec<String>,
    /// Names of single objects; none means all.
    pub resource_names: Vec<String>,
    /// Paths, the last segment may be `*`.
    pub non_resource_urls: Vec<String>,
}

impl PolicyRule {
    /// Reads a rule; what is no list of texts counts as empty.
    pub fn read(value: &Value) -> Self {
        let texts = |field: &str| -> Vec<String> {
            value[field]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        Self {
            verbs: texts("verbs"),
            api_groups: texts("apiGroups"),
            resources: texts("resources"),
            resource_names: texts("resourceNames"),
            non_resource_urls: texts("nonResourceURLs"),
        }
    }

    /// Reads a list of rules.
    pub fn read_all(value: &Value) -> Vec<Self> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .map(Self::read)
            .collect()
    }

    /// The rule that allows everything on objects, and the one for paths.
    pub fn everything() -> Vec<Self> {
        let all = || vec![ALL.to_owned()];
        vec![
            Self {
                verbs: all(),
                api_groups: all(),
                resources: all(),
                ..Self::default()
            },
            Self {
                verbs: all(),
                non_resource_urls: all(),
                ..Self::default()
            },
        ]
    }

    /// The rule as JSON, without its empty lists.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        map.insert("verbs".into(), json!(self.verbs));
        for (field, list) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !list.is_empty() {
                map.insert(field.into(), json!(list));
            }
        }
        Value::Object(map)
    }

    /// Whether the rule allows a request.
    pub fn allows(&self, attributes: &Attributes) -> bool {
        if !has(&self.verbs, &attributes.verb) {
            return false;
        }
        if attributes.resource.is_empty() {
            return self
                .non_resource_urls
                .iter()
                .any(|pattern| path_matches(pattern, &attributes.path));
        }
        has(&self.api_groups, &attributes.group)
            && self.names_resource(&attributes.resource, &attributes.subresource)
            && (self.resource_names.is_empty() || self.resource_names.contains(&attributes.name))
    }

    fn names_resource(&self, resource: &str, subresource: &str) -> bool {
        self.resources.iter().any(|rule| {
            if rule == ALL {
                return true;
            }
            match rule.split_once('/') {
                None => subresource.is_empty() && rule == resource,
                Some((of, sub)) => {
                    !subresource.is_empty() && sub == subresource && (of == ALL || of == resource)
                }
            }
        })
    }

    /// Whether everything that `other` allows is allowed by this rule alone.
    fn covers(&self, other: &Self) -> bool {
        let all = |own: &[String], wanted: &[String]| wanted.iter().all(|text| has(own, text));
        let resources = other.resources.iter().all(|wanted| {
            has(&self.resources, wanted)
                || wanted
                    .split_once('/')
                    .is_some_and(|(_, sub)| self.resources.contains(&format!("*/{sub}")))
        });
        let names = self.resource_names.is_empty()
            || (!other.resource_names.is_empty()
                && other
                    .resource_names
                    .iter()
                    .all(|name| self.resource_names.contains(name)));
        let paths = other.non_resource_urls.iter().all(|wanted| {
            self.non_resource_urls
                .iter()
                .any(|own| path_matches(own, wanted))
        });
        all(&self.verbs, &other.verbs)
            && all(&self.api_groups, &other.api_groups)
            && resources
            && names
            && paths
    }

    /// The rule as rules of one verb on one thing each.
    fn pieces(&self) -> Vec<Self> {
        let one = |text: &String| vec![text.clone()];
        let mut pieces = Vec::new();
        for path in &self.non_resource_urls {
            for verb in &self.verbs {
                pieces.push(Self {
                    verbs: one(verb),
                    non_resource_urls: one(path),
                    ..Self::default()
                });
            }
        }
        let names: Vec<Vec<String>> = match self.resource_names.as_slice() {
            [] => vec![Vec::new()],
            names => names.iter().map(one).collect(),
        };
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    for name in &names {
                        pieces.push(Self {
                            verbs: one(verb),
                            api_groups: one(group),
                            resources: one(resource),
                            resource_names: name.clone(),
                            ..Self::default()
                        });
                    }
                }
            }
        }
        pieces
    }

    /// How Kubernetes shows a rule in a refusal.
    fn shown(&self) -> String {
        let parts: Vec<String> = [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ]
        .iter()
        .filter(|(_, list)| !list.is_empty())
        .map(|(name, list)| format!("{name}:{}", quoted(list)))
        .collect();
        format!("{{{}}}", parts.join(", "))
    }
}

fn has(list: &[String], wanted: &str) -> bool {
    list.iter().any(|text| text == ALL || text == wanted)
}

/// Whether a path (or a pattern of paths) is within a pattern: the same, or
/// beginning with what is before a trailing `*`.
fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == path
        || pattern
            .strip_suffix('*')
            .is_some_and(|prefix| path.starts_with(prefix))
}

/// A list of texts as Go's `%q` writes it.
pub(super) fn quoted(list: &[String]) -> String {
    let texts: Vec<String> = list.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", texts.join(" "))
}

/// What of `wanted` the rules of `own` do not allow; nothing when all is covered.
/// Rules on one resource are joined, so that the refusal reads well.
pub fn missing(own: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    let mut missing: Vec<PolicyRule> = Vec::new();
    for piece in wanted.iter().flat_map(PolicyRule::pieces) {
        if own.iter().any(|rule| rule.covers(&piece)) {
            continue;
        }
        let same = missing.iter_mut().find(|rule| {
            rule.api_groups == piece.api_groups
                && rule.resources == piece.resources
                && rule.resource_names == piece.resource_names
                && rule.non_resource_urls == piece.non_resource_urls
        });
        match same {
            Some(rule) => {
                for verb in piece.verbs {
                    if !rule.verbs.contains(&verb) {
                        rule.verbs.push(verb);
                    }
                }
            }
            None => missing.push(piece),
        }
    }
    missing
}

/// Missing rules, a line each, sorted.
pub fn shown(missing: &[PolicyRule]) -> String {
    let lines: BTreeSet<String> = missing.iter().map(PolicyRule::shown).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    lines.join("\n")
}
