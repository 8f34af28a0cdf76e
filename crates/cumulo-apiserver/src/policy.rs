//! ValidatingAdmissionPolicies: which writes they are about, and what they say
//! of one. Pure.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::cel::{Expression, Scope, convert};
use crate::resource::ResourceType;
use crate::selector::LabelSelector;
use crate::status::Cause;

/// Most bytes of a message.
const MAX_MESSAGE: usize = 5 << 10;
/// Variables that expressions may name.
const VARIABLES: [&str; 6] = [
    "object",
    "oldObject",
    "request",
    "params",
    "namespaceObject",
    "variables",
];

/// A policy whose expressions are compiled.
#[derive(Debug)]
pub struct Policy {
    /// `spec.matchConstraints`.
    pub constraints: Value,
    /// `spec.paramKind`, where the policy has parameters.
    pub parameters: Option<(String, String)>,
    /// Whether what cannot be evaluated is refused.
    pub fails_closed: bool,
    conditions: Vec<(String, Expression)>,
    variables: Vec<(String, Expression)>,
    validations: Vec<Validation>,
}

#[derive(Debug)]
struct Validation {
    expression: Expression,
    message: Option<String>,
    message_expression: Option<Expression>,
    reason: (&'static str, StatusCode),
}

/// Why a policy refuses a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The sentence.
    pub message: String,
    /// The reason in the status.
    pub reason: &'static str,
    /// The code that goes with it.
    pub code: StatusCode,
}

fn reason(text: Option<&str>) -> (&'static str, StatusCode) {
    match text {
        Some("Unauthorized") => ("Unauthorized", StatusCode::UNAUTHORIZED),
        Some("Forbidden") => ("Forbidden", StatusCode::FORBIDDEN),
        Some("RequestEntityTooLarge") => ("RequestEntityTooLarge", StatusCode::PAYLOAD_TOO_LARGE),
        _ => ("Invalid", StatusCode::UNPROCESSABLE_ENTITY),
    }
}

impl Policy {
    /// Compiles a policy.
    ///
    /// # Errors
    /// What is wrong with its expressions.
    pub fn compile(policy: &Value) -> Result<Self, Vec<Cause>> {
        let spec = &policy["spec"];
        let mut causes = Vec::new();
        let mut compile = |value: &Value, path: String| match value.as_str() {
            None | Some("") => {
                causes.push(Cause::required(path, ""));
                None
            }
            Some(source) => match Expression::compile(source, &VARIABLES) {
                Ok(expression) => Some(expression),
                Err(error) => {
                    causes.push(Cause::invalid(path, value, error.to_string()));
                    None
                }
            },
        };
        let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let mut named = |list: &str| -> Vec<(String, Expression)> {
            items(&spec[list])
                .iter()
                .enumerate()
                .filter_map(|(n, item)| {
                    let path = format!("spec.{list}[{n}].expression");
                    let name = item["name"].as_str().unwrap_or_default().to_owned();
                    Some((name, compile(&item["expression"], path)?))
                })
                .collect()
        };
        let conditions = named("matchConditions");
        let variables = named("variables");
        let mut validations = Vec::new();
        for (n, item) in items(&spec["validations"]).iter().enumerate() {
            let path = format!("spec.validations[{n}]");
            let expression = compile(&item["expression"], format!("{path}.expression"));
            let message_expression = match &item["messageExpression"] {
                Value::String(text) if !text.is_empty() => compile(
                    &item["messageExpression"],
                    format!("{path}.messageExpression"),
                ),
                _ => None,
            };
            if let Some(expression) = expression {
                validations.push(Validation {
                    expression,
                    message: item["message"].as_str().map(str::to_owned),
                    message_expression,
                    reason: reason(item["reason"].as_str()),
                });
            }
        }
        if !causes.is_empty() {
            return Err(causes);
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(Self {
            constraints: spec["matchConstraints"].clone(),
            parameters: spec["paramKind"].is_object().then(|| {
                (
                    text(&spec["paramKind"]["apiVersion"]),
                    text(&spec["paramKind"]["kind"]),
                )
            }),
            fails_closed: spec["failurePolicy"] != "Ignore",
            conditions,
            variables,
            validations,
        })
    }

    /// What the policy refuses about a write.
    pub fn judge(&self, facts: &Facts<'_>, parameters: &Value) -> Vec<Refusal> {
        let mut scope = Scope::default();
        scope.set("object", convert::plain(facts.object));
        scope.set("oldObject", convert::plain(facts.old));
        scope.set("request", convert::plain(facts.request));
        scope.set("params", convert::plain(parameters));
        scope.set("namespaceObject", convert::plain(facts.namespace));
        let failed = |what: String| Refusal {
            message: what,
            reason: "Invalid",
            code: StatusCode::UNPROCESSABLE_ENTITY,
        };
        let mut errors = Vec::new();
        for (name, condition) in &self.conditions {
            match condition.holds(&scope) {
                Ok(true) => {}
                // A condition that does not hold counts for more than one that fails.
                Ok(false) => return Vec::new(),
                Err(error) => errors.push(failed(format!(
                    "match condition '{name}' could not be evaluated: {error}"
                ))),
            }
        }
        if !errors.is_empty() {
            return if self.fails_closed {
                errors
            } else {
                Vec::new()
            };
        }
        let mut broken: Vec<(String, String)> = Vec::new();
        for (name, variable) in &self.variables {
            // One that fails matters to those who use it only.
            match variable.evaluate(&scope) {
                Ok(value) => scope.set(&format!("variables.{name}"), value),
                Err(error) => broken.push((format!("variables.{name}"), error.to_string())),
            }
        }
        let mut refusals = Vec::new();
        for validation in &self.validations {
            let (reason, code) = validation.reason;
            match validation.expression.holds(&scope) {
                Ok(true) => {}
                Ok(false) => refusals.push(Refusal {
                    message: validation.says(&scope),
                    reason,
                    code,
                }),
                Err(error) => {
                    let source = validation.expression.source();
                    let why = broken
                        .iter()
                        .find(|(name, _)| source.contains(name.as_str()))
                        .map_or_else(
                            || error.to_string(),
                            |(name, error)| format!("{name}: {error}"),
                        );
                    if self.fails_closed {
                        refusals.push(failed(format!(
                            "expression '{source}' resulted in error: {why}"
                        )));
                    }
                }
            }
        }
        refusals
    }
}

impl Validation {
    fn says(&self, scope: &Scope) -> String {
        self.message_expression
            .as_ref()
            .and_then(|expression| expression.text(scope).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n'))
            .or_else(|| self.message.clone().filter(|message| !message.is_empty()))
            .unwrap_or_else(|| format!("failed expression: {}", self.expression.source()))
    }
}

/// What expressions see of a write.
#[derive(Debug)]
pub struct Facts<'a> {
    /// The object, null when it goes.
    pub object: &'a Value,
    /// What was there, null when it is new.
    pub old: &'a Value,
    /// The request.
    pub request: &'a Value,
    /// The namespace, null for what has none.
    pub namespace: &'a Value,
}

/// What of a write decides whether a policy is about it.
#[derive(Debug)]
pub struct Subject<'a> {
    /// `CREATE`, `UPDATE`, `DELETE`.
    pub operation: &'static str,
    /// The type, in the version asked for.
    pub resource: &'a Arc<ResourceType>,
    /// The subresource, if one is written.
    pub subresource: Option<&'a str>,
    /// Name of the object.
    pub name: &'a str,
    /// The object, and what was there.
    pub objects: [&'a Value; 2],
    /// The namespace, null for what has none.
    pub namespace: &'a Value,
}

/// Whether `matchResources` or `matchConstraints` are about a write. Left out,
/// they are about all.
pub fn matches(constraints: &Value, subject: &Subject<'_>) -> bool {
    if constraints.is_null() {
        return true;
    }
    let rules = |list: &str| constraints[list].as_array().cloned().unwrap_or_default();
    if rules("excludeResourceRules")
        .iter()
        .any(|rule| rule_matches(rule, subject))
    {
        return false;
    }
    let included = rules("resourceRules");
    if !included.is_empty() && !included.iter().any(|rule| rule_matches(rule, subject)) {
        return false;
    }
    let of_namespace = if subject.resource.is("", "namespaces") {
        subject.objects[0]
    } else {
        subject.namespace
    };
    let everywhere = of_namespace.is_null();
    (everywhere || selects(&constraints["namespaceSelector"], of_namespace))
        && subject
            .objects
            .iter()
            .any(|object| selects(&constraints["objectSelector"], object))
}

fn selects(selector: &Value, object: &Value) -> bool {
    if selector.as_object().is_none_or(serde_json::Map::is_empty) {
        return true;
    }
    let labels = object["metadata"]["labels"].as_object().map(|labels| {
        labels
            .iter()
            .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
            .collect()
    });
    !object.is_null()
        && LabelSelector::from_object(selector)
            .is_ok_and(|selector| selector.matches(labels.as_ref()))
}

fn rule_matches(rule: &Value, subject: &Subject<'_>) -> bool {
    let has = |list: &str, wanted: &str| {
        rule[list]
            .as_array()
            .into_iter()
            .flatten()
            .any(|item| item == "*" || item == wanted)
    };
    let resource = subject.resource;
    let scope = match rule["scope"].as_str() {
        Some("Cluster") => !resource.namespaced,
        Some("Namespaced") => resource.namespaced,
        _ => true,
    };
    let names = rule["resourceNames"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let wanted = rule["resources"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let named = wanted.iter().filter_map(Value::as_str).any(|pattern| {
        let (plural, part) = pattern.split_once('/').unwrap_or((pattern, ""));
        let own = subject.subresource.unwrap_or_default();
        (plural == "*" || plural == resource.plural)
            && (part == own || (part == "*") || (pattern == "*" && own.is_empty()))
    });
    scope
        && named
        && has("apiGroups", &resource.group)
        && has("apiVersions", &resource.version)
        && has("operations", subject.operation)
        && (names.is_empty() || names.contains(&json!(subject.name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(spec: &Value, object: &Value) -> Vec<String> {
        let policy = Policy::compile(&json!({"spec": spec})).expect("a policy");
        let facts = Facts {
            object,
            old: &Value::Null,
            request: &json!({"operation": "CREATE"}),
            namespace: &json!({"metadata": {"name": "n"}}),
        };
        policy
            .judge(&facts, &Value::Null)
            .into_iter()
            .map(|refusal| refusal.message)
            .collect()
    }

    #[test]
    fn validations_variables_and_messages() {
        let spec = json!({
            "variables": [
                {"name": "replicas", "expression": "object.spec.replicas"},
                {"name": "odd", "expression": "variables.replicas % 2 == 1"},
                {"name": "broken", "expression": "object.spec.absent"},
            ],
            "validations": [
                {"expression": "variables.replicas > 1", "messageExpression": "'wants more than 1, not ' + string(variables.replicas)"},
                {"expression": "variables.odd", "message": "odd numbers only"},
                {"expression": "namespaceObject.metadata.name == 'n' && request.operation == 'CREATE'"},
                {"expression": "object.spec.replicas != 2"},
            ],
        });
        let object = |replicas: u32| json!({"spec": {"replicas": replicas}});
        assert_eq!(judge(&spec, &object(3)), Vec::<String>::new());
        assert_eq!(
            judge(&spec, &object(2)),
            [
                "odd numbers only",
                "failed expression: object.spec.replicas != 2"
            ]
        );
        assert_eq!(judge(&spec, &object(1)), ["wants more than 1, not 1"]);
        let uses = json!({
            "variables": [{"name": "broken", "expression": "object.spec.absent"}],
            "validations": [{"expression": "variables.broken == 1"}],
        });
        assert_eq!(
            judge(&uses, &object(1)),
            [
                "expression 'variables.broken == 1' resulted in error: variables.broken: no such key: absent"
            ]
        );
        let mut ignores = uses;
        ignores["failurePolicy"] = json!("Ignore");
        assert_eq!(judge(&ignores, &object(1)), Vec::<String>::new());
    }

    #[test]
    fn conditions_decide_whether_it_is_asked() {
        let spec = json!({
            "matchConditions": [{"name": "big", "expression": "object.spec.replicas > 10"}],
            "validations": [{"expression": "false"}],
        });
        assert_eq!(
            judge(&spec, &json!({"spec": {"replicas": 1}})),
            Vec::<String>::new()
        );
        assert_eq!(
            judge(&spec, &json!({"spec": {"replicas": 11}})),
            ["failed expression: false"]
        );
        assert_eq!(
            judge(&spec, &json!({})),
            ["match condition 'big' could not be evaluated: no such key: spec"]
        );
    }

    #[test]
    fn rules_say_what_a_policy_is_about() {
        let types = crate::resource::builtin_types();
        let resource = types
            .iter()
            .find(|r| r.plural == "deployments")
            .expect("a type");
        let object = json!({"metadata": {"labels": {"a": "b"}}});
        let subject = Subject {
            operation: "CREATE",
            resource,
            subresource: None,
            name: "x",
            objects: [&object, &Value::Null],
            namespace: &json!({"metadata": {"labels": {"team": "x"}}}),
        };
        let rule = json!({"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["deployments"]});
        let mut constraints = json!({"resourceRules": [rule]});
        assert!(matches(&constraints, &subject));
        constraints["namespaceSelector"] = json!({"matchLabels": {"team": "y"}});
        assert!(!matches(&constraints, &subject));
        constraints["namespaceSelector"] = json!({"matchLabels": {"team": "x"}});
        constraints["objectSelector"] = json!({"matchLabels": {"a": "b"}});
        assert!(matches(&constraints, &subject));
        constraints["excludeResourceRules"] = json!([{"apiGroups": ["*"], "apiVersions": ["*"], "operations": ["*"], "resources": ["*"], "resourceNames": ["x"]}]);
        assert!(!matches(&constraints, &subject));
    }
}
