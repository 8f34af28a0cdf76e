//! Validation rules of custom resources (`x-kubernetes-validations`): read with
//! the schema, evaluated once everything else about an object is right.

use serde_json::{Map, Value};

use super::node::{Cursor, ListType};
use super::validate::{identity, join};
use super::{CollectedRule, FieldError, FieldErrorKind, SchemaError};
use crate::cel::{Expression, Scope, convert};

/// Most rules that are evaluated for one object: list elements have rules each.
const MAX_EVALUATIONS: usize = 10_000;
/// Most errors that are reported.
const MAX_ERRORS: usize = 100;
/// Most bytes of a message that an expression makes.
const MAX_MESSAGE: usize = 5 << 10;

/// One rule.
#[derive(Debug)]
pub(crate) struct Rule {
    expression: Expression,
    message: Option<Box<str>>,
    message_expression: Option<Expression>,
    kind: FieldErrorKind,
    /// Names below the place of the rule: what the error is about.
    field: Vec<Box<str>>,
    optional_old: bool,
}

/// Reads the rules of one schema.
pub(super) fn read(schema: &Map<String, Value>, path: &str) -> Result<Vec<Rule>, SchemaError> {
    schema
        .get("x-kubernetes-validations")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(at, rule)| {
            let path = format!("{path}.x-kubernetes-validations[{at}]");
            one(schema, rule).map_err(|(field, message)| SchemaError {
                path: format!("{path}.{field}"),
                message,
            })
        })
        .collect()
}

fn one(schema: &Map<String, Value>, rule: &Value) -> Result<Rule, (&'static str, String)> {
    let text = |key: &str| rule[key].as_str().filter(|text| !text.trim().is_empty());
    let variables = ["self", "oldSelf"];
    let source =
        text("rule").ok_or(("rule", "Required value: rule is not specified".to_owned()))?;
    let compile = |source: &str| {
        Expression::compile(source, &variables)
            .map_err(|error| format!("Invalid value: {}: {error}", Value::from(source)))
    };
    let expression = compile(source).map_err(|message| ("rule", message))?;
    let message_expression = text("messageExpression")
        .map(compile)
        .transpose()
        .map_err(|message| ("messageExpression", message))?;
    let kind = match text("reason") {
        None | Some("FieldValueInvalid") => FieldErrorKind::Invalid,
        Some("FieldValueForbidden") => FieldErrorKind::Forbidden,
        Some("FieldValueRequired") => FieldErrorKind::Required,
        Some("FieldValueDuplicate") => FieldErrorKind::Duplicate,
        Some(other) => {
            return Err((
                "reason",
                format!(
                    "Unsupported value: {other:?}: supported values: \"FieldValueDuplicate\", \
                     \"FieldValueForbidden\", \"FieldValueInvalid\", \"FieldValueRequired\""
                ),
            ));
        }
    };
    let optional_old = rule["optionalOldSelf"] == true;
    if optional_old && !expression.uses("oldSelf") {
        return Err((
            "optionalOldSelf",
            "Invalid value: true: may not be set if oldSelf is not used in rule".into(),
        ));
    }
    let field = match text("fieldPath") {
        Some(path) => field_path(schema, path).ok_or_else(|| {
            (
                "fieldPath",
                format!("Invalid value: {path:?}: fieldPath must be a valid path: does not refer to a valid field"),
            )
        })?,
        None => Vec::new(),
    };
    Ok(Rule {
        expression,
        message: text("message").map(Into::into),
        message_expression,
        kind,
        field,
        optional_old,
    })
}

/// Reads `.spec.a['b']`; none where it leads to no field of the schema.
fn field_path(schema: &Map<String, Value>, path: &str) -> Option<Vec<Box<str>>> {
    let mut names: Vec<Box<str>> = Vec::new();
    let mut rest = path;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix("['") {
            let end = quoted.find("']")?;
            names.push(quoted[..end].into());
            rest = &quoted[end + 2..];
        } else {
            let plain = rest.strip_prefix('.')?;
            let end = plain.find(['.', '[']).unwrap_or(plain.len());
            names.push(plain[..end].into());
            rest = &plain[end..];
        }
    }
    let mut at = schema;
    for name in &names {
        let below = match at.get("properties").and_then(|all| all.get(name.as_ref())) {
            Some(below) => below,
            None => at.get("additionalProperties")?,
        };
        at = below.as_object()?;
    }
    (!names.is_empty()).then_some(names)
}

/// What the rules find wrong with an object that is right otherwise. Parts that
/// are the same in `old` are not looked at.
pub(super) fn check(root: Cursor<'_>, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut check = Check {
        errors: Vec::new(),
        left: MAX_EVALUATIONS,
    };
    check.value(root, value, old, "");
    check.errors
}

struct Check {
    errors: Vec<FieldError>,
    left: usize,
}

impl Check {
    fn value(&mut self, cursor: Cursor<'_>, value: &Value, old: Option<&Value>, path: &str) {
        let node = cursor.node();
        if old == Some(value) || value.is_null() || self.errors.len() >= MAX_ERRORS {
            return;
        }
        let rules = node.constraints.as_deref().map(|c| c.rules.as_slice());
        self.rules(cursor, rules.unwrap_or_default(), value, old, path);
        match value {
            Value::Object(object) => {
                for (key, child) in object {
                    if let Some(below) = cursor.under(key) {
                        let old = old.and_then(|old| old.get(key));
                        self.value(below, child, old, &join(path, key));
                    }
                }
            }
            Value::Array(items) => {
                let Some(element) = cursor.items() else {
                    return;
                };
                let before = old
                    .and_then(Value::as_array)
                    .map(Vec::as_slice)
                    .unwrap_or_default();
                for (at, item) in items.iter().enumerate() {
                    // Elements of other lists cannot be told from each other.
                    let previous = match cursor.list_type() {
                        ListType::Map(keys) => identity(element, keys, item).and_then(|wanted| {
                            before
                                .iter()
                                .find(|b| identity(element, keys, b).as_ref() == Some(&wanted))
                        }),
                        ListType::Set | ListType::Atomic => None,
                    };
                    self.value(element, item, previous, &format!("{path}[{at}]"));
                }
            }
            _ => {}
        }
    }

    fn rules(
        &mut self,
        cursor: Cursor<'_>,
        rules: &[Rule],
        value: &Value,
        old: Option<&Value>,
        path: &str,
    ) {
        if rules.is_empty() {
            return;
        }
        let scope = |optional: bool| {
            let mut scope = Scope::default();
            scope.set("self", convert::typed(value, Some(cursor)));
            let old = old.map(|old| convert::typed(old, Some(cursor)));
            match old {
                old if optional => scope.set("oldSelf", convert::optional(old)),
                Some(old) => scope.set("oldSelf", old),
                None => {}
            }
            scope
        };
        let usual = scope(false);
        for rule in rules {
            // Rules about changes need something that changes.
            if rule.expression.uses("oldSelf") && old.is_none() && !rule.optional_old {
                continue;
            }
            if self.left == 0 {
                let sentence = "validation failed due to running out of cost budget, no further validation rules will be run";
                self.report(FieldErrorKind::Invalid, path, invalid(value, sentence));
                return;
            }
            self.left -= 1;
            let optional;
            let scope = if rule.optional_old {
                optional = scope(true);
                &optional
            } else {
                &usual
            };
            match rule.expression.holds(scope) {
                Ok(true) => {}
                Ok(false) => self.broken(rule, scope, value, path),
                Err(error) => {
                    let sentence = format!("{error} evaluating rule: {}", rule.named());
                    self.report(FieldErrorKind::Invalid, path, invalid(value, &sentence));
                }
            }
        }
    }

    fn broken(&mut self, rule: &Rule, scope: &Scope, value: &Value, path: &str) {
        let made = rule
            .message_expression
            .as_ref()
            .and_then(|expression| expression.text(scope).ok())
            .map(|text| text.trim().to_owned())
            .filter(|text| !text.is_empty() && text.len() <= MAX_MESSAGE && !text.contains('\n'));
        let detail = match (made, &rule.message) {
            (Some(made), _) => made,
            (None, Some(message)) => message.to_string(),
            (None, None) => format!("failed rule: {}", rule.named()),
        };
        let message = match rule.kind {
            FieldErrorKind::Forbidden => format!("Forbidden: {detail}"),
            FieldErrorKind::Required => format!("Required value: {detail}"),
            FieldErrorKind::Duplicate if value.is_object() || value.is_array() => {
                format!("Duplicate value: {detail}")
            }
            FieldErrorKind::Duplicate => format!("Duplicate value: {value}: {detail}"),
            _ => invalid(value, &detail),
        };
        let path = rule
            .field
            .iter()
            .fold(path.to_owned(), |path, name| join(&path, name));
        self.report(rule.kind, &path, message);
    }

    fn report(&mut self, kind: FieldErrorKind, path: &str, message: String) {
        self.errors.push(FieldError {
            kind,
            // A rule at the root is about the object itself.
            path: if path.is_empty() {
                "<nil>".into()
            } else {
                path.to_owned()
            },
            message,
        });
    }
}

impl Rule {
    /// The rule as messages show it: on one line.
    fn named(&self) -> String {
        self.expression
            .source()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ")
    }
}

/// Objects and lists are not repeated in messages.
fn invalid(value: &Value, detail: &str) -> String {
    if value.is_object() || value.is_array() {
        format!("Invalid value: {detail}")
    } else {
        format!("Invalid value: {value}: {detail}")
    }
}

/// The rules in a schema with their places. Schemas of definitions are trees, so
/// this ends.
pub(super) fn collect(root: Cursor<'_>) -> Vec<CollectedRule> {
    fn walk(cursor: Cursor<'_>, path: &str, found: &mut Vec<CollectedRule>) {
        let node = cursor.node();
        for rule in node.constraints.iter().flat_map(|c| &c.rules) {
            found.push(CollectedRule {
                path: if path.is_empty() {
                    ".".into()
                } else {
                    path.into()
                },
                rule: rule.expression.source().to_owned(),
                message: rule.message.as_deref().map(Into::into),
            });
        }
        for (name, edge) in &node.properties {
            walk(cursor.follow(edge), &format!("{path}.{name}"), found);
        }
        if let Some(edge) = node.additional.as_deref() {
            walk(cursor.follow(edge), &format!("{path}.*"), found);
        }
        if let Some(edge) = node.items.as_deref() {
            walk(cursor.follow(edge), &format!("{path}[*]"), found);
        }
    }
    let mut found = Vec::new();
    if root.arena.names.is_empty() {
        walk(root, "", &mut found);
    }
    found
}
