//! Reading OpenAPI v3 and structural schemas into the arena.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::format::Pattern;
use super::node::{Arena, Constraints, Edge, Kind, ListType, Node, NodeId, PatchStrategy};
use super::{Schema, SchemaError, rules};

const REFERENCE: &str = "#/components/schemas/";

/// Deepest nesting that is read; a CRD deeper than this is refused.
const MAX_DEPTH: usize = 128;

/// Whose schema is read: what is left unsaid means different things.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// Kubernetes' own definitions, made from Go types.
    Builtin,
    /// A structural schema.
    Crd,
    /// Inside of allOf, anyOf, oneOf, not: constraints on values only.
    Constraint,
}

/// `metadata` of a custom resource, which its own schema leaves out.
fn object_meta() -> Value {
    let string = json!({"type": "string"});
    let strings = json!({"type": "object", "additionalProperties": {"type": "string"}});
    json!({
        "type": "object",
        "properties": {
            "name": string, "generateName": string, "namespace": string, "selfLink": string,
            "uid": string, "resourceVersion": string,
            "generation": {"type": "integer", "format": "int64"},
            "creationTimestamp": {"type": "string", "format": "date-time", "nullable": true},
            "deletionTimestamp": {"type": "string", "format": "date-time", "nullable": true},
            "deletionGracePeriodSeconds": {"type": "integer", "format": "int64", "nullable": true},
            "labels": strings, "annotations": strings,
            "finalizers": {"type": "array", "x-kubernetes-list-type": "set", "items": string},
            "ownerReferences": {
                "type": "array",
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["uid"],
                "items": {
                    "type": "object",
                    "x-kubernetes-map-type": "atomic",
                    "required": ["apiVersion", "kind", "name", "uid"],
                    "properties": {
                        "apiVersion": string, "kind": string, "name": string, "uid": string,
                        "controller": {"type": "boolean", "nullable": true},
                        "blockOwnerDeletion": {"type": "boolean", "nullable": true},
                    },
                },
            },
            "managedFields": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "manager": string, "operation": string, "apiVersion": string,
                        "fieldsType": string, "subresource": string,
                        "time": {"type": "string", "format": "date-time", "nullable": true},
                        "fieldsV1": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                    },
                },
            },
        },
    })
}

/// Adds what every object has to the root (or an embedded resource) of a CRD.
fn with_object_fields(schema: &Map<String, Value>) -> Map<String, Value> {
    let mut schema = schema.clone();
    let properties = schema
        .entry("properties")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert("apiVersion".into(), json!({"type": "string"}));
        properties.insert("kind".into(), json!({"type": "string"}));
        properties.insert("metadata".into(), object_meta());
    }
    schema
}

pub(super) fn crd(version: &Value) -> Result<Schema, SchemaError> {
    let path = "schema.openAPIV3Schema";
    let Some(root) = version
        .pointer("/schema/openAPIV3Schema")
        .and_then(Value::as_object)
    else {
        return Err(error(path, "Required value: schemas are required"));
    };
    if root.get("type").and_then(Value::as_str) != Some("object") {
        return Err(error(
            &format!("{path}.type"),
            "Required value: must be object at the root",
        ));
    }
    let mut arena = Arena::default();
    let edge = Parser { arena: &mut arena }.edge(
        &Value::Object(with_object_fields(root)),
        Dialect::Crd,
        path,
        0,
    )?;
    arena.nodes.shrink_to_fit();
    Ok(Schema {
        arena: Arc::new(arena),
        root: edge,
        builtin: false,
    })
}

pub(super) fn permissive() -> Schema {
    let version = json!({"schema": {"openAPIV3Schema": {
        "type": "object",
        "x-kubernetes-preserve-unknown-fields": true,
    }}});
    crd(&version).unwrap_or_else(|_| {
        let mut arena = Arena::default();
        let node = arena.add(Node {
            preserve_unknown: true,
            ..Node::default()
        });
        Schema {
            arena: Arc::new(arena),
            root: Edge {
                node,
                ..Edge::default()
            },
            builtin: false,
        }
    })
}

/// Reads all of Kubernetes' definitions.
pub(super) fn definitions(all: &Map<String, Value>) -> Result<Arena, SchemaError> {
    let mut arena = Arena::default();
    for name in all.keys() {
        let id = arena.add(Node::default());
        arena.names.insert(name.as_str().into(), id);
    }
    for (at, (name, schema)) in all.iter().enumerate() {
        let Some(object) = schema.as_object() else {
            return Err(error(name, "is not an object"));
        };
        let node = Parser { arena: &mut arena }.node(object, Dialect::Builtin, name, 0)?;
        for kind in object
            .get("x-kubernetes-group-version-kind")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let text = |key: &str| kind[key].as_str().unwrap_or_default();
            let key = format!("{}/{}/{}", text("group"), text("version"), text("kind"));
            arena.kinds.insert(key.into(), at as NodeId);
        }
        arena.nodes[at] = node;
    }
    arena.nodes.shrink_to_fit();
    Ok(arena)
}

fn error(path: &str, message: &str) -> SchemaError {
    SchemaError {
        path: path.into(),
        message: message.into(),
    }
}

struct Parser<'a> {
    arena: &'a mut Arena,
}

impl Parser<'_> {
    /// Reads a schema at a place that may also carry a default and patch hints.
    fn edge(
        &mut self,
        schema: &Value,
        dialect: Dialect,
        path: &str,
        depth: usize,
    ) -> Result<Edge, SchemaError> {
        let Some(object) = schema.as_object() else {
            return Err(error(path, "Invalid value: must be an object"));
        };
        let mut edge = Edge::default();
        if let Some(default) = object.get("default") {
            // Defaults that are a Go type's zero value are artefacts of how the
            // built-ins' documents are made; nobody gets them filled in.
            if dialect == Dialect::Builtin && is_zero(default) {
                edge.always_present = default.is_object();
            } else {
                edge.default = Some(Box::new(default.clone()));
            }
        }
        if let Some(strategy) = object
            .get("x-kubernetes-patch-strategy")
            .and_then(Value::as_str)
        {
            edge.patch = PatchStrategy {
                merge: strategy.split(',').any(|s| s == "merge"),
                replace: strategy.split(',').any(|s| s == "replace"),
                retain_keys: strategy.split(',').any(|s| s == "retainKeys"),
            };
        }
        edge.patch_merge_key = text(object, "x-kubernetes-patch-merge-key").map(Into::into);
        if let Some(name) = reference(object) {
            edge.atomic_map = text(object, "x-kubernetes-map-type").map(|kind| kind == "atomic");
            edge.node = *self
                .arena
                .names
                .get(name)
                .ok_or_else(|| error(path, &format!("refers to {name}, which is not there")))?;
            return Ok(edge);
        }
        let node = self.node(object, dialect, path, depth + 1)?;
        edge.node = self.arena.add(node);
        Ok(edge)
    }

    fn node(
        &mut self,
        schema: &Map<String, Value>,
        dialect: Dialect,
        path: &str,
        depth: usize,
    ) -> Result<Node, SchemaError> {
        if depth > MAX_DEPTH {
            return Err(error(path, "Invalid value: nested too deeply"));
        }
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let embedded = flag("x-kubernetes-embedded-resource");
        let expanded;
        let schema = if embedded && dialect == Dialect::Crd {
            expanded = with_object_fields(schema);
            &expanded
        } else {
            schema
        };
        let mut node = Node {
            kind: kind(schema, dialect, path)?,
            format: text(schema, "format").map(Into::into),
            nullable: flag("nullable"),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded,
            atomic_map: text(schema, "x-kubernetes-map-type") == Some("atomic"),
            list: list_type(schema, path)?,
            constraints: self.constraints(schema, path, depth)?,
            ..Node::default()
        };
        if node.kind == Kind::Any && dialect == Dialect::Crd && !node.preserve_unknown {
            return Err(error(
                &format!("{path}.type"),
                "Required value: must not be empty for specified object fields",
            ));
        }
        if let Some(properties) = schema.get("properties").and_then(Value::as_object) {
            for (name, child) in properties {
                let child_path = format!("{path}.properties[{name}]");
                let edge = self.edge(child, dialect, &child_path, depth)?;
                node.properties.push((name.as_str().into(), edge));
            }
            node.properties.sort_by(|a, b| a.0.cmp(&b.0));
            node.properties.shrink_to_fit();
        }
        for name in schema
            .get("required")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            if let Some(name) = name.as_str() {
                node.required.push(name.into());
            }
        }
        match schema.get("additionalProperties") {
            Some(Value::Bool(true)) => node.preserve_unknown = true,
            Some(child @ Value::Object(_)) => {
                let child_path = format!("{path}.additionalProperties");
                let edge = self.edge(child, dialect, &child_path, depth)?;
                node.additional = Some(Box::new(edge));
            }
            _ => {}
        }
        if let Some(items) = schema.get("items") {
            let edge = self.edge(items, dialect, &format!("{path}.items"), depth)?;
            node.items = Some(Box::new(edge));
        } else if node.kind == Kind::Array && dialect == Dialect::Crd {
            return Err(error(
                &format!("{path}.items"),
                "Required value: must be specified",
            ));
        }
        if dialect == Dialect::Builtin {
            // A type that serialises itself (FieldsV1, RawExtension, JSON) has
            // no fields in the document, and may have any.
            if matches!(node.kind, Kind::Object | Kind::Any)
                && node.properties.is_empty()
                && node.additional.is_none()
            {
                node.preserve_unknown = true;
            }
            for (name, edge) in &mut node.properties {
                let is_list = self.arena.nodes[edge.node as usize].kind == Kind::Array;
                if is_list && node.required.contains(name) {
                    edge.always_present = true;
                }
            }
        }
        Ok(node)
    }

    fn constraints(
        &mut self,
        schema: &Map<String, Value>,
        path: &str,
        depth: usize,
    ) -> Result<Option<Box<Constraints>>, SchemaError> {
        let number = |key: &str| schema.get(key).and_then(Value::as_f64);
        let count = |key: &str| schema.get(key).and_then(Value::as_u64);
        let flag = |key: &str| schema.get(key).and_then(Value::as_bool).unwrap_or(false);
        let mut constraints = Constraints {
            allowed: schema
                .get("enum")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
            pattern: None,
            minimum: number("minimum"),
            maximum: number("maximum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            ..Constraints::default()
        };
        if let Some(pattern) = text(schema, "pattern") {
            let compiled = Pattern::new(pattern).map_err(|message| {
                error(
                    &format!("{path}.pattern"),
                    &format!("Invalid value: {pattern:?}: {message}"),
                )
            })?;
            constraints.pattern = Some(compiled);
        }
        let is_reference = reference(schema).is_some();
        for key in ["allOf", "anyOf", "oneOf"] {
            if is_reference {
                break;
            }
            let children = schema
                .get(key)
                .and_then(Value::as_array)
                .into_iter()
                .flatten();
            for (at, child) in children.enumerate() {
                let child_path = format!("{path}.{key}[{at}]");
                let edge = self.edge(child, Dialect::Constraint, &child_path, depth)?;
                match key {
                    "allOf" => constraints.all_of.push(edge.node),
                    "anyOf" => constraints.any_of.push(edge.node),
                    _ => constraints.one_of.push(edge.node),
                }
            }
        }
        if let Some(child) = schema.get("not") {
            let edge = self.edge(child, Dialect::Constraint, &format!("{path}.not"), depth)?;
            constraints.not = Some(edge.node);
        }
        constraints.rules = rules::read(schema, path)?;
        let keys = [
            "enum",
            "pattern",
            "minimum",
            "maximum",
            "multipleOf",
            "minLength",
            "maxLength",
            "minItems",
            "maxItems",
            "minProperties",
            "maxProperties",
            "allOf",
            "anyOf",
            "oneOf",
            "not",
            "x-kubernetes-validations",
        ];
        let any = keys.iter().any(|key| schema.contains_key(*key));
        Ok((any && !is_reference).then(|| Box::new(constraints)))
    }
}

fn text<'a>(schema: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    schema.get(key).and_then(Value::as_str)
}

/// The definition that a property is: `$ref`, alone or as the only `allOf`.
fn reference(schema: &Map<String, Value>) -> Option<&str> {
    let direct = schema.get("$ref");
    let only = || match schema
        .get("allOf")
        .and_then(Value::as_array)
        .map(Vec::as_slice)
    {
        Some([one]) => one.get("$ref"),
        _ => None,
    };
    direct.or_else(only)?.as_str()?.strip_prefix(REFERENCE)
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
    }
}

fn kind(schema: &Map<String, Value>, dialect: Dialect, path: &str) -> Result<Kind, SchemaError> {
    let int_or_string = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true))
        || text(schema, "format") == Some("int-or-string");
    if int_or_string {
        return Ok(Kind::IntOrString);
    }
    if dialect == Dialect::Builtin && path.ends_with("api.resource.Quantity") {
        return Ok(Kind::Quantity);
    }
    Ok(match text(schema, "type") {
        None | Some("") => Kind::Any,
        Some("object") => Kind::Object,
        Some("array") => Kind::Array,
        Some("string") => Kind::String,
        Some("integer") => Kind::Integer,
        Some("number") => Kind::Number,
        Some("boolean") => Kind::Boolean,
        Some(other) => {
            return Err(error(
                &format!("{path}.type"),
                &format!(
                    "Unsupported value: {other:?}: supported values: \"array\", \"boolean\", \
                     \"integer\", \"number\", \"object\", \"string\""
                ),
            ));
        }
    })
}

fn list_type(schema: &Map<String, Value>, path: &str) -> Result<ListType, SchemaError> {
    match text(schema, "x-kubernetes-list-type") {
        None | Some("atomic") => Ok(ListType::Atomic),
        Some("set") => Ok(ListType::Set),
        Some("map") => {
            let keys: Box<[Box<str>]> = schema
                .get("x-kubernetes-list-map-keys")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .map(Into::into)
                .collect();
            if keys.is_empty() {
                return Err(error(
                    &format!("{path}.x-kubernetes-list-map-keys"),
                    "Required value: must not be empty if x-kubernetes-list-type is map",
                ));
            }
            Ok(ListType::Map(keys))
        }
        Some(other) => Err(error(
            &format!("{path}.x-kubernetes-list-type"),
            &format!(
                "Unsupported value: {other:?}: supported values: \"atomic\", \"map\", \"set\""
            ),
        )),
    }
}
