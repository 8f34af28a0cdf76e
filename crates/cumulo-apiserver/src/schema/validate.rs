//! Finding what is wrong with a value, in Kubernetes' words.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::format;
use super::node::{Constraints, Cursor, Edge, Kind, ListType, NodeId};
use super::{FieldError, FieldErrorKind, Schema};

/// Most errors that are reported for one object.
const MAX_ERRORS: usize = 100;

/// Lists of built-in kinds that must have an element.
const LISTS_THAT_MATTER: &[&str] = &["containers", "versions", "verbs", "nodeSelectorTerms"];

pub(super) fn validate(schema: &Schema, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut check = Check {
        builtin: schema.builtin,
        errors: Vec::new(),
    };
    check.value(schema.cursor(), value, old, "");
    check.errors
}

struct Check {
    builtin: bool,
    errors: Vec<FieldError>,
}

impl Check {
    fn report(&mut self, kind: FieldErrorKind, path: &str, message: String) {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError {
                kind,
                path: path.into(),
                message,
            });
        }
    }

    fn invalid(&mut self, path: &str, shown: &Value, sentence: &str) {
        let message = format!("Invalid value: {shown}: {path} in body {sentence}");
        self.report(FieldErrorKind::Invalid, path, message);
    }

    fn value(&mut self, cursor: Cursor<'_>, value: &Value, old: Option<&Value>, path: &str) {
        if old == Some(value) {
            return;
        }
        let node = cursor.node();
        if value.is_null() && node.nullable {
            return;
        }
        if !self.has_type(node.kind, value) {
            let found = type_name(value);
            let wanted = node.kind.name();
            self.report(
                FieldErrorKind::TypeInvalid,
                path,
                format!(
                    "Invalid value: {found:?}: {path} in body must be of type {wanted}: {found:?}"
                ),
            );
            return;
        }
        if let Some(constraints) = node.constraints.as_deref() {
            self.constraints(cursor, constraints, value, path);
        }
        match value {
            Value::Object(object) => self.object(cursor, object, old, path),
            Value::Array(items) => self.list(cursor, items, old, path),
            Value::String(text) => self.text(cursor, text, path),
            Value::Number(number) => {
                if let Some(format) = node.format.as_deref()
                    && node.kind == Kind::Integer
                {
                    let (least, most) = match format {
                        "int32" => (f64::from(i32::MIN), f64::from(i32::MAX)),
                        _ => return,
                    };
                    if number.as_f64().is_some_and(|n| n < least || n > most) {
                        self.invalid(
                            path,
                            value,
                            &format!("must be of type {format}: \"{number}\""),
                        );
                    }
                }
            }
            _ => {}
        }
    }

    fn has_type(&self, kind: Kind, value: &Value) -> bool {
        match kind {
            Kind::Any => true,
            Kind::Object => value.is_object(),
            Kind::Array => value.is_array(),
            Kind::String => value.is_string(),
            Kind::Boolean => value.is_boolean(),
            Kind::Number => value.is_number(),
            Kind::Integer => is_integer(value),
            Kind::IntOrString => is_integer(value) || value.is_string(),
            Kind::Quantity => value.is_number() || value.is_string(),
        }
    }

    fn text(&mut self, cursor: Cursor<'_>, text: &str, path: &str) {
        let node = cursor.node();
        if node.kind == Kind::Quantity && !format::is_quantity(text) {
            let message = format!(
                "Invalid value: {}: quantities must match the regular expression \
                 '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
                Value::from(text)
            );
            self.report(FieldErrorKind::Invalid, path, message);
        }
        if let Some(name) = node.format.as_deref()
            && node.kind == Kind::String
            && !(self.builtin && text.is_empty())
            && !format::holds(name, text)
        {
            let shown = Value::from(text);
            self.invalid(path, &shown, &format!("must be of type {name}: {shown}"));
        }
    }

    fn object(
        &mut self,
        cursor: Cursor<'_>,
        object: &Map<String, Value>,
        old: Option<&Value>,
        path: &str,
    ) {
        let node = cursor.node();
        for name in &node.required {
            let missing = match object.get(name.as_ref()) {
                None | Some(Value::Null) => !self.is_lenient(cursor, name, path),
                // Go cannot tell an empty string from one that is not there.
                Some(Value::String(text)) => {
                    self.builtin && text.is_empty() && !self.is_lenient(cursor, name, path)
                }
                Some(Value::Array(items)) => {
                    self.builtin && items.is_empty() && LISTS_THAT_MATTER.contains(&name.as_ref())
                }
                Some(_) => false,
            };
            if missing {
                self.report(
                    FieldErrorKind::Required,
                    &join(path, name),
                    "Required value".into(),
                );
            }
        }
        if node.embedded {
            for name in ["apiVersion", "kind"] {
                if object
                    .get(name)
                    .and_then(Value::as_str)
                    .is_none_or(str::is_empty)
                {
                    let sentence = "Required value: must not be empty".to_owned();
                    self.report(FieldErrorKind::Required, &join(path, name), sentence);
                }
            }
        }
        for (key, child) in object {
            if let Some(below) = cursor.under(key) {
                let old = old.and_then(|old| old.get(key));
                self.value(below, child, old, &join(path, key));
            }
        }
    }

    /// Fields that Kubernetes' documents call required only because Go always
    /// writes them: everything in a status, lists, and the parts of an event.
    fn is_lenient(&self, cursor: Cursor<'_>, name: &str, path: &str) -> bool {
        if !self.builtin {
            return false;
        }
        let in_status =
            path == "status" || path.starts_with("status.") || path.starts_with("status[");
        let at_root = path.is_empty();
        let is_list = cursor
            .field(name)
            .is_some_and(|field| field.node().kind == Kind::Array);
        in_status
            || (at_root && matches!(name, "status" | "involvedObject" | "eventTime" | "metadata"))
            || (is_list && !LISTS_THAT_MATTER.contains(&name))
    }

    fn list(&mut self, cursor: Cursor<'_>, items: &[Value], old: Option<&Value>, path: &str) {
        let Some(element) = cursor.items() else {
            return;
        };
        let kind = cursor.list_type();
        let old_items = old
            .and_then(Value::as_array)
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut seen = HashSet::new();
        for (at, item) in items.iter().enumerate() {
            let place = format!("{path}[{at}]");
            let identity = match kind {
                ListType::Atomic => None,
                ListType::Set => Some(item.to_string()),
                ListType::Map(keys) => identity(element, keys, item),
            };
            let previous = match (kind, &identity) {
                (ListType::Map(keys), Some(wanted)) => old_items.iter().find(|candidate| {
                    self::identity(element, keys, candidate).as_ref() == Some(wanted)
                }),
                _ => None,
            };
            // Kubernetes' own lists may repeat an element where it always
            // allowed that (ports); only custom resources are held to it.
            if let Some(identity) = identity
                && !self.builtin
                && !seen.insert(identity.clone())
            {
                let message = format!("Duplicate value: {identity}");
                self.report(FieldErrorKind::Duplicate, &place, message);
            }
            self.value(element, item, previous, &place);
        }
    }

    fn constraints(&mut self, cursor: Cursor<'_>, c: &Constraints, value: &Value, path: &str) {
        // Go takes an empty string for a field that is not set.
        let unset = self.builtin && value == "";
        let allowed = c.allowed.is_empty() || c.allowed.iter().any(|allowed| same(allowed, value));
        if !allowed && !unset {
            let allowed: Vec<String> = c.allowed.iter().map(Value::to_string).collect();
            let message = format!(
                "Unsupported value: {value}: supported values: {}",
                allowed.join(", ")
            );
            self.report(FieldErrorKind::NotSupported, path, message);
        }
        match value {
            Value::String(text) => self.string_limits(c, text, path),
            Value::Number(_) => self.number_limits(c, value, path),
            Value::Array(items) => {
                let (count, what) = (items.len() as u64, "items");
                self.size_limits(c.min_items, c.max_items, count, what, path);
            }
            Value::Object(fields) => {
                let (count, what) = (fields.len() as u64, "properties");
                self.size_limits(c.min_properties, c.max_properties, count, what, path);
            }
            _ => {}
        }
        self.combinations(cursor, c, value, path);
    }

    fn string_limits(&mut self, c: &Constraints, text: &str, path: &str) {
        let length = text.chars().count() as u64;
        if let Some(most) = c.max_length
            && length > most
        {
            let message = format!("Too long: may not be more than {most} bytes");
            self.report(FieldErrorKind::TooLong, path, message);
        }
        if let Some(least) = c.min_length
            && length < least
        {
            self.invalid(
                path,
                &text.into(),
                &format!("should be at least {least} chars long"),
            );
        }
        if let Some(pattern) = &c.pattern
            && !pattern.matches(text)
        {
            let sentence = format!("should match '{}'", pattern.source());
            self.invalid(path, &text.into(), &sentence);
        }
    }

    fn number_limits(&mut self, c: &Constraints, value: &Value, path: &str) {
        let Some(number) = value.as_f64() else { return };
        if let Some(most) = c.maximum {
            if c.exclusive_maximum && number >= most {
                self.invalid(path, value, &format!("should be less than {most}"));
            } else if number > most {
                self.invalid(
                    path,
                    value,
                    &format!("should be less than or equal to {most}"),
                );
            }
        }
        if let Some(least) = c.minimum {
            if c.exclusive_minimum && number <= least {
                self.invalid(path, value, &format!("should be greater than {least}"));
            } else if number < least {
                self.invalid(
                    path,
                    value,
                    &format!("should be greater than or equal to {least}"),
                );
            }
        }
        if let Some(factor) = c.multiple_of
            && factor > 0.0
            && (number / factor - (number / factor).round()).abs() > 1e-9
        {
            self.invalid(path, value, &format!("should be a multiple of {factor}"));
        }
    }

    fn size_limits(
        &mut self,
        least: Option<u64>,
        most: Option<u64>,
        count: u64,
        what: &str,
        path: &str,
    ) {
        if let Some(most) = most
            && count > most
        {
            let message = format!("Too many: {count}: must have at most {most} {what}");
            self.report(FieldErrorKind::TooMany, path, message);
        }
        if let Some(least) = least
            && count < least
        {
            self.invalid(
                path,
                &count.into(),
                &format!("should have at least {least} {what}"),
            );
        }
    }

    fn combinations(&mut self, cursor: Cursor<'_>, c: &Constraints, value: &Value, path: &str) {
        let problems = |check: &Check, id: NodeId| {
            let edge = Edge {
                node: id,
                ..Edge::default()
            };
            let mut inner = Check {
                builtin: check.builtin,
                errors: Vec::new(),
            };
            inner.value(Cursor::new(cursor.arena, &edge), value, None, path);
            inner.errors
        };
        let mut collected = Vec::new();
        for id in &c.all_of {
            collected.extend(problems(self, *id));
        }
        if !c.any_of.is_empty() {
            let all: Vec<_> = c.any_of.iter().map(|id| problems(self, *id)).collect();
            if all.iter().all(|errors| !errors.is_empty()) {
                self.invalid(
                    path,
                    &shown(value),
                    "must validate at least one schema (anyOf)",
                );
                // Of the alternatives the one that came closest explains most.
                collected.extend(all.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
        }
        if !c.one_of.is_empty() {
            let all: Vec<_> = c.one_of.iter().map(|id| problems(self, *id)).collect();
            let holding = all.iter().filter(|errors| errors.is_empty()).count();
            if holding != 1 {
                self.invalid(
                    path,
                    &shown(value),
                    "must validate one and only one schema (oneOf)",
                );
            }
            if holding == 0 {
                collected.extend(all.into_iter().min_by_key(Vec::len).unwrap_or_default());
            }
        }
        if let Some(id) = c.not
            && problems(self, id).is_empty()
        {
            self.invalid(path, &shown(value), "must not validate the schema (not)");
        }
        for error in collected {
            if !self.errors.contains(&error) {
                self.report(error.kind, &error.path, error.message);
            }
        }
    }
}

/// Large values are not repeated in messages.
fn shown(value: &Value) -> Value {
    match value {
        Value::Object(_) => "object".into(),
        Value::Array(_) => "array".into(),
        other => other.clone(),
    }
}

pub(super) fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.into()
    } else {
        format!("{path}.{name}")
    }
}

fn is_integer(value: &Value) -> bool {
    value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
}

/// Equal as JSON values: 1 is 1.0.
fn same(a: &Value, b: &Value) -> bool {
    a == b || (a.is_number() && b.is_number() && a.as_f64() == b.as_f64())
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) if is_integer(value) => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// What tells a list element apart, as JSON.
pub(super) fn identity(element: Cursor<'_>, keys: &[Box<str>], item: &Value) -> Option<String> {
    let object = item.as_object()?;
    let mut identity = Map::new();
    for key in keys {
        let default = || element.field(key).and_then(Cursor::default_value);
        if let Some(value) = object.get(key.as_ref()).or_else(default) {
            identity.insert(key.to_string(), value.clone());
        }
    }
    Some(Value::Object(identity).to_string())
}
