//! OpenAPI v2 (Swagger), for clients that read nothing newer: made from the
//! documents of version 3, of which it says less.
//!
//! The part of the built-in kinds is made when it is first asked for, and kept
//! compressed: it is large and rarely read.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Map, Value, json};

const COMPONENTS: &str = "#/components/schemas/";
const DEFINITIONS: &str = "#/definitions/";
/// What version 2 has no words for.
const DROPPED: [&str; 4] = ["allOf", "anyOf", "oneOf", "not"];
/// Formats that are published; others mean nothing to clients.
const FORMATS: [&str; 31] = [
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "date-time",
    "int32",
    "int64",
    "float",
    "double",
    "k8s-short-name",
    "k8s-long-name",
];
const COMPRESSION_LEVEL: i32 = 3;

/// Members of `paths` and of `definitions`, as text without braces, compressed.
struct Builtin {
    paths: Vec<u8>,
    definitions: Vec<u8>,
}

static BUILTIN: LazyLock<Builtin> = LazyLock::new(|| {
    let mut paths = BTreeMap::new();
    let mut definitions = BTreeMap::new();
    for document in super::builtin_documents() {
        let text = super::builtin_document(document.path).unwrap_or_default();
        let document: Value = serde_json::from_slice(&text).unwrap_or_default();
        add(&document, false, &mut paths, &mut definitions);
    }
    let pack = |members: &BTreeMap<String, Value>| {
        zstd::encode_all(inside(members).as_bytes(), COMPRESSION_LEVEL).unwrap_or_default()
    };
    Builtin {
        paths: pack(&paths),
        definitions: pack(&definitions),
    }
});

/// The document: the built-in kinds and these documents of version 3.
pub fn document(custom: &[Value], version: &str) -> Vec<u8> {
    let mut paths = BTreeMap::new();
    let mut definitions = BTreeMap::new();
    for document in custom {
        add(document, true, &mut paths, &mut definitions);
    }
    definitions.retain(|name, _| !name.starts_with("io.k8s."));
    let mut out = Vec::with_capacity(8 << 20);
    let info = json!({"title": "Kubernetes", "version": version});
    out.extend_from_slice(format!("{{\"swagger\":\"2.0\",\"info\":{info}").as_bytes());
    for (name, builtin, custom) in [
        ("paths", &BUILTIN.paths, &paths),
        ("definitions", &BUILTIN.definitions, &definitions),
    ] {
        out.extend_from_slice(format!(",\"{name}\":{{").as_bytes());
        match zstd::decode_all(builtin.as_slice()) {
            Ok(text) => out.extend_from_slice(&text),
            Err(error) => tracing::error!(%error, "openapi v2 cannot be decompressed"),
        }
        if !custom.is_empty() {
            out.push(b',');
            out.extend_from_slice(inside(custom).as_bytes());
        }
        out.push(b'}');
    }
    out.extend_from_slice(
        br#","securityDefinitions":{"BearerToken":{"description":"Bearer Token authentication","type":"apiKey","name":"authorization","in":"header"}},"security":[{"BearerToken":[]}]}"#,
    );
    out
}

fn inside(members: &BTreeMap<String, Value>) -> String {
    let text = serde_json::to_string(members).unwrap_or_default();
    text.strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
        .unwrap_or_default()
        .to_owned()
}

fn add(
    document: &Value,
    custom: bool,
    paths: &mut BTreeMap<String, Value>,
    definitions: &mut BTreeMap<String, Value>,
) {
    for (name, schema) in document["components"]["schemas"]
        .as_object()
        .into_iter()
        .flatten()
    {
        if definitions.contains_key(name) {
            continue;
        }
        let mut schema = schema.clone();
        if custom && !name.starts_with("io.k8s.") {
            publish(&mut schema);
        }
        refer(&mut schema);
        definitions.insert(name.clone(), schema);
    }
    for (path, item) in document["paths"].as_object().into_iter().flatten() {
        paths.insert(path.clone(), path_item(item));
    }
}

/// References point at definitions, and stand beside a description.
fn refer(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            if let Some([only]) = object
                .get("allOf")
                .and_then(Value::as_array)
                .map(Vec::as_slice)
                && let Some(reference) = only.get("$ref").cloned()
            {
                object.shift_remove("allOf");
                object.insert("$ref".into(), reference);
            }
            if let Some(Value::String(reference)) = object.get_mut("$ref")
                && let Some(name) = reference.strip_prefix(COMPONENTS)
            {
                *reference = format!("{DEFINITIONS}{name}");
            }
            // Quantities and the like are text in version 2.
            if let Some(kinds) = object.get("oneOf").and_then(Value::as_array) {
                let text = kinds.iter().any(|kind| kind["type"] == "string");
                object.shift_remove("oneOf");
                if text {
                    object.insert("type".into(), json!("string"));
                }
            }
            object.values_mut().for_each(refer);
        }
        Value::Array(items) => items.iter_mut().for_each(refer),
        _ => {}
    }
}

/// A custom resource's schema as Kubernetes publishes it in version 2: clients
/// take what is named for all there is, so what may hold more names nothing.
fn publish(root: &mut Value) {
    if root["x-kubernetes-preserve-unknown-fields"] == true {
        let kind = root["x-kubernetes-group-version-kind"].clone();
        *root = json!({"type": "object", "x-kubernetes-group-version-kind": kind});
        return;
    }
    reduce(root);
}

fn reduce(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    // Metadata is a reference, and stays one.
    let reference = object
        .get("allOf")
        .and_then(|all| all.get(0))
        .is_some_and(|first| first.get("$ref").is_some());
    if reference {
        return;
    }
    for name in DROPPED {
        object.shift_remove(name);
    }
    let nullable = object.shift_remove("nullable") == Some(json!(true));
    let open = object.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    if nullable || open {
        object.shift_remove("items");
        object.shift_remove("properties");
    }
    if nullable || (open && object.get("type") == Some(&json!("object"))) {
        object.shift_remove("type");
    }
    if object.get("type") == Some(&json!("array")) && !object.contains_key("items") {
        object.shift_remove("type");
    }
    if object
        .get("format")
        .and_then(Value::as_str)
        .is_some_and(|format| !FORMATS.contains(&format))
    {
        object.shift_remove("format");
    }
    let nullable: Vec<Value> = object
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter(|(_, child)| child["nullable"] == true)
        .map(|(name, _)| json!(name))
        .collect();
    if let Some(required) = object.get_mut("required").and_then(Value::as_array_mut) {
        required.retain(|name| !nullable.contains(name));
        if required.is_empty() {
            object.shift_remove("required");
        }
    }
    if let Some(properties) = object.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(reduce);
    }
    for name in ["items", "additionalProperties"] {
        if let Some(child) = object.get_mut(name) {
            reduce(child);
        }
    }
}

fn path_item(item: &Value) -> Value {
    let mut out = Map::new();
    for (name, part) in item.as_object().into_iter().flatten() {
        let part = match name.as_str() {
            "parameters" => json!(parameters(part)),
            "get" | "put" | "post" | "delete" | "options" | "head" | "patch" => operation(part),
            _ => continue,
        };
        out.insert(name.clone(), part);
    }
    Value::Object(out)
}

fn parameters(list: &Value) -> Vec<Value> {
    list.as_array()
        .into_iter()
        .flatten()
        .map(|parameter| {
            let mut out = parameter.as_object().cloned().unwrap_or_default();
            if let Some(Value::Object(schema)) = out.shift_remove("schema") {
                out.extend(schema);
            }
            Value::Object(out)
        })
        .collect()
}

fn operation(operation: &Value) -> Value {
    let mut out = Map::new();
    let mut all = parameters(&operation["parameters"]);
    let mut consumes: Vec<&String> = vec![];
    for (name, part) in operation.as_object().into_iter().flatten() {
        match name.as_str() {
            "parameters" => {}
            "requestBody" => {
                let content = part["content"].as_object();
                consumes = content.into_iter().flat_map(Map::keys).collect();
                let mut schema = content
                    .and_then(|content| content.values().next())
                    .map(|media| media["schema"].clone())
                    .unwrap_or_default();
                refer(&mut schema);
                let mut body = json!({"name": "body", "in": "body", "schema": schema});
                if part["required"] == true {
                    body["required"] = json!(true);
                }
                all.insert(0, body);
            }
            "responses" => {
                let mut produces: Vec<&String> = Vec::new();
                let mut responses = Map::new();
                for (code, response) in part.as_object().into_iter().flatten() {
                    let mut answer = json!({"description": response["description"]});
                    let content = response["content"].as_object();
                    for media in content.into_iter().flat_map(Map::keys) {
                        if !produces.contains(&media) {
                            produces.push(media);
                        }
                    }
                    if let Some(media) = content.and_then(|content| content.values().next()) {
                        let mut schema = media["schema"].clone();
                        refer(&mut schema);
                        answer["schema"] = schema;
                    }
                    responses.insert(code.clone(), answer);
                }
                out.insert("produces".into(), json!(produces));
                out.insert("responses".into(), Value::Object(responses));
            }
            _ => {
                out.insert(name.clone(), part.clone());
            }
        }
    }
    out.insert(
        "consumes".into(),
        if consumes.is_empty() {
            json!(["*/*"])
        } else {
            json!(consumes)
        },
    );
    if !all.is_empty() {
        out.insert("parameters".into(), json!(all));
    }
    out.insert("schemes".into(), json!(["https"]));
    Value::Object(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn definition(version: &Value) -> Value {
        let crd = json!({"spec": {
            "group": "test.dev", "scope": "Namespaced",
            "names": {"plural": "things", "kind": "Thing", "listKind": "ThingList"},
            "versions": [version],
        }});
        let custom = crate::openapi::crd_document("test.dev", "v1", &[&crd]);
        let document: Value = serde_json::from_slice(&document(&[custom], "v1.35")).expect("JSON");
        assert!(
            document["paths"]["/apis/test.dev/v1/namespaces/{namespace}/things"]["post"]
                .is_object()
        );
        document["definitions"]["dev.test.v1.Thing"].clone()
    }

    #[test]
    fn built_in_kinds_and_paths_are_there() {
        let document: Value = serde_json::from_slice(&document(&[], "v1.35")).expect("JSON");
        let pod = &document["definitions"]["io.k8s.api.core.v1.Pod"];
        assert_eq!(
            pod["properties"]["spec"]["$ref"],
            "#/definitions/io.k8s.api.core.v1.PodSpec"
        );
        let create = &document["paths"]["/api/v1/namespaces/{namespace}/pods"]["post"];
        assert_eq!(
            create["parameters"][0]["schema"]["$ref"],
            "#/definitions/io.k8s.api.core.v1.Pod"
        );
        assert_eq!(
            create["responses"]["201"]["schema"]["$ref"],
            "#/definitions/io.k8s.api.core.v1.Pod"
        );
        assert!(!document.to_string().contains(COMPONENTS));
    }

    #[test]
    fn custom_resources_say_what_version_two_can() {
        let version = |schema: Value| json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
        let whole = definition(&version(json!({
            "type": "object", "description": "A thing.",
            "properties": {"spec": {"type": "object", "required": ["a", "b"], "properties": {
                "a": {"type": "string", "nullable": true},
                "b": {"type": "integer", "anyOf": [{"minimum": 1}]},
                "c": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"d": {"type": "string"}}},
            }}},
        })));
        assert_eq!(
            whole["properties"]["spec"],
            json!({"type": "object", "required": ["b"], "properties": {
                "a": {}, "b": {"type": "integer"}, "c": {"x-kubernetes-preserve-unknown-fields": true},
            }})
        );
        assert_eq!(
            whole["properties"]["metadata"]["$ref"],
            "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
        );
        let open = definition(&version(json!({
            "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}},
        })));
        assert_eq!(open["type"], "object");
        assert!(open.get("properties").is_none());
    }
}
