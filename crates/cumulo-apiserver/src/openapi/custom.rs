//! The document of a custom group-version, made from its CRDs.

use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.";
const REFERENCE: &str = "#/components/schemas/";

/// A small built-in document whose definitions of metadata are borrowed.
const DONOR: &str = "apis/scheduling.k8s.io/v1";

/// One kind as a CRD names it.
struct Resource<'a> {
    group: &'a str,
    version: &'a str,
    kind: &'a str,
    list_kind: String,
    plural: &'a str,
    namespaced: bool,
    has_status: bool,
    has_scale: bool,
    /// Name of its definition: `dev.cumulo.v1alpha1.Dataset`.
    definition: String,
}

/// Makes the OpenAPI v3 document of a group-version from all CRDs that serve
/// it. CRDs of other groups, and versions that are not served, are left out.
pub fn crd_document(group: &str, version: &str, crds: &[&Value]) -> Value {
    let mut paths = Map::new();
    let mut schemas = shared_definitions();
    let tag = format!("{}_{version}", group.replace('.', "_"));
    for crd in crds {
        let Some((resource, entry)) = resource(group, version, crd) else {
            continue;
        };
        schemas.insert(resource.definition.clone(), definition(&resource, entry));
        schemas.insert(
            format!("{}List", resource.definition),
            list_definition(&resource),
        );
        add_paths(&mut paths, &resource, &tag);
    }
    paths.sort_keys();
    schemas.sort_keys();
    json!({
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes CRD", "version": version},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "BearerToken": {
                    "type": "apiKey",
                    "description": "Bearer Token authentication",
                    "name": "authorization",
                    "in": "header",
                },
            },
        },
    })
}

fn resource<'a>(
    group: &'a str,
    version: &'a str,
    crd: &'a Value,
) -> Option<(Resource<'a>, &'a Value)> {
    let spec = crd.get("spec")?;
    if spec["group"].as_str() != Some(group) {
        return None;
    }
    let entry = spec["versions"]
        .as_array()?
        .iter()
        .find(|entry| entry["name"].as_str() == Some(version) && entry["served"] != false)?;
    let names = &spec["names"];
    let kind = names["kind"].as_str()?;
    let reversed: Vec<&str> = group.rsplit('.').collect();
    let subresources = entry.get("subresources");
    let resource = Resource {
        group,
        version,
        kind,
        list_kind: names["listKind"]
            .as_str()
            .map_or_else(|| format!("{kind}List"), str::to_owned),
        plural: names["plural"].as_str()?,
        namespaced: spec["scope"] == "Namespaced",
        has_status: subresources.is_some_and(|s| s.get("status").is_some_and(|v| !v.is_null())),
        has_scale: subresources.is_some_and(|s| s.get("scale").is_some_and(|v| !v.is_null())),
        definition: format!("{}.{version}.{kind}", reversed.join(".")),
    };
    Some((resource, entry))
}

/// Definitions of metadata, deletion options, patches and answers.
fn shared_definitions() -> Map<String, Value> {
    let document = super::builtin_document(DONOR).unwrap_or_default();
    let mut document: Value = serde_json::from_slice(&document).unwrap_or_default();
    let mut shared = match document["components"]["schemas"].take() {
        Value::Object(schemas) => schemas,
        _ => Map::new(),
    };
    shared.retain(|name, _| name.starts_with("io.k8s.apimachinery."));
    shared
}

fn meta(name: &str) -> Value {
    json!({"$ref": format!("{REFERENCE}{META}{name}")})
}

const API_VERSION: &str = "APIVersion defines the versioned schema of this representation of an \
    object. Servers should convert recognized schemas to the latest internal value, and may \
    reject unrecognized values. More info: https://git.k8s.io/community/contributors/devel/\
    sig-architecture/api-conventions.md#resources";
const KIND: &str = "Kind is a string value representing the REST resource this object represents. \
    Servers may infer this from the endpoint the client submits requests to. Cannot be updated. \
    In CamelCase. More info: https://git.k8s.io/community/contributors/devel/sig-architecture/\
    api-conventions.md#types-kinds";

fn definition(resource: &Resource<'_>, entry: &Value) -> Value {
    let schema = entry
        .pointer("/schema/openAPIV3Schema")
        .cloned()
        .unwrap_or_default();
    let mut schema = match schema {
        Value::Object(schema) => schema,
        _ => Map::new(),
    };
    schema.entry("type").or_insert_with(|| json!("object"));
    let properties = schema.entry("properties").or_insert_with(|| json!({}));
    if let Some(properties) = properties.as_object_mut() {
        properties.insert(
            "apiVersion".into(),
            json!({"type": "string", "description": API_VERSION}),
        );
        properties.insert(
            "kind".into(),
            json!({"type": "string", "description": KIND}),
        );
        properties.insert(
            "metadata".into(),
            json!({
                "description": "Standard object's metadata. More info: https://git.k8s.io/community/\
                    contributors/devel/sig-architecture/api-conventions.md#metadata",
                "allOf": [meta("ObjectMeta")],
            }),
        );
    }
    schema.insert(
        "x-kubernetes-group-version-kind".into(),
        json!([gvk(resource, resource.kind)]),
    );
    Value::Object(schema)
}

fn list_definition(resource: &Resource<'_>) -> Value {
    json!({
        "description": format!("{} is a list of {}", resource.list_kind, resource.kind),
        "type": "object",
        "required": ["items"],
        "properties": {
            "apiVersion": {"type": "string", "description": API_VERSION},
            "items": {
                "description": format!("List of {}", resource.plural),
                "type": "array",
                "items": {"$ref": format!("{REFERENCE}{}", resource.definition)},
            },
            "kind": {"type": "string", "description": KIND},
            "metadata": {
                "description": "Standard list metadata.",
                "allOf": [meta("ListMeta")],
            },
        },
        "x-kubernetes-group-version-kind": [gvk(resource, &resource.list_kind)],
    })
}

fn gvk(resource: &Resource<'_>, kind: &str) -> Value {
    json!({"group": resource.group, "version": resource.version, "kind": kind})
}

fn query(name: &str, kind: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": "query",
        "description": description,
        "schema": {"type": kind, "uniqueItems": true},
    })
}

fn in_path(name: &str, description: &str) -> Value {
    json!({
        "name": name,
        "in": "path",
        "description": description,
        "required": true,
        "schema": {"type": "string", "uniqueItems": true},
    })
}

fn pretty() -> Value {
    query(
        "pretty",
        "string",
        "If 'true', then the output is pretty printed.",
    )
}

/// Parameters of writes: names as kubectl looks for them.
fn write_parameters(patches: bool) -> Vec<Value> {
    let mut parameters = vec![
        query(
            "dryRun",
            "string",
            "When present, indicates that modifications should not be persisted. Valid values: All.",
        ),
        query(
            "fieldManager",
            "string",
            "fieldManager is a name associated with the actor or entity that is making these changes.",
        ),
        query(
            "fieldValidation",
            "string",
            "fieldValidation instructs the server on how to handle unknown or duplicate fields. \
             Valid values are: Ignore, Warn, Strict.",
        ),
    ];
    if patches {
        parameters.push(query(
            "force",
            "boolean",
            "Force is going to \"force\" Apply requests. It means user will re-acquire conflicting \
             fields owned by other people.",
        ));
    }
    parameters
}

fn list_parameters() -> Vec<Value> {
    [
        (
            "allowWatchBookmarks",
            "boolean",
            "Requests watch events with type \"BOOKMARK\".",
        ),
        (
            "continue",
            "string",
            "Where the last page of the list ended.",
        ),
        (
            "fieldSelector",
            "string",
            "Restricts the objects by their fields.",
        ),
        (
            "labelSelector",
            "string",
            "Restricts the objects by their labels.",
        ),
        ("limit", "integer", "Most objects in one answer."),
        (
            "resourceVersion",
            "string",
            "Constrains which versions the answer may be from.",
        ),
        (
            "resourceVersionMatch",
            "string",
            "How resourceVersion is meant.",
        ),
        (
            "sendInitialEvents",
            "boolean",
            "Starts a watch with the objects that there are.",
        ),
        (
            "timeoutSeconds",
            "integer",
            "Time after which the call ends.",
        ),
        ("watch", "boolean", "Streams changes instead of listing."),
    ]
    .into_iter()
    .map(|(name, kind, description)| query(name, kind, description))
    .collect()
}

fn answer(schema: &Value, codes: &[&str]) -> Value {
    let mut responses = Map::new();
    for code in codes {
        responses.insert(
            (*code).into(),
            json!({
                "description": match *code {
                    "201" => "Created",
                    "202" => "Accepted",
                    _ => "OK",
                },
                "content": {
                    "application/json": {"schema": schema},
                    "application/yaml": {"schema": schema},
                },
            }),
        );
    }
    responses.insert("401".into(), json!({"description": "Unauthorized"}));
    Value::Object(responses)
}

/// Makes the operations of one resource.
struct Operations<'a> {
    resource: &'a Resource<'a>,
    tag: &'a str,
}

impl Operations<'_> {
    fn make(
        &self,
        action: &str,
        id: &str,
        description: &str,
        kind: Value,
        parameters: Vec<Value>,
        responses: Value,
    ) -> Value {
        json!({
            "tags": [self.tag],
            "description": description,
            "operationId": id,
            "parameters": parameters,
            "responses": responses,
            "x-kubernetes-action": action,
            "x-kubernetes-group-version-kind": kind,
        })
    }

    /// Reading and writing one object, or one of its subresources.
    fn object(&self, suffix: &str, part: &str, schema: &Value, kind: &Value) -> Value {
        let resource = self.resource;
        let name = resource.kind;
        let id = |verb: &str| self.id(verb, part, resource.namespaced);
        let body = json!({
            "required": true,
            "content": {"application/json": {"schema": schema}, "application/yaml": {"schema": schema}},
        });
        let reference = meta("Patch");
        let patch_body = json!({
            "required": true,
            "content": {
                "application/apply-patch+yaml": {"schema": reference},
                "application/json-patch+json": {"schema": reference},
                "application/merge-patch+json": {"schema": reference},
            },
        });
        let get = self.make(
            "get",
            &id("read"),
            &format!("read {suffix}the specified {name}"),
            kind.clone(),
            vec![query(
                "resourceVersion",
                "string",
                "Constrains which version the answer may be from.",
            )],
            answer(schema, &["200"]),
        );
        let mut put = self.make(
            "put",
            &id("replace"),
            &format!("replace {suffix}the specified {name}"),
            kind.clone(),
            write_parameters(false),
            answer(schema, &["200", "201"]),
        );
        let mut patch = self.make(
            "patch",
            &id("patch"),
            &format!("partially update {suffix}the specified {name}"),
            kind.clone(),
            write_parameters(true),
            answer(schema, &["200"]),
        );
        put["requestBody"] = body;
        patch["requestBody"] = patch_body;
        let mut item = json!({"get": get, "put": put, "patch": patch});
        if part.is_empty() {
            item["delete"] = self.make(
                "delete",
                &id("delete"),
                &format!("delete a {name}"),
                kind.clone(),
                vec![
                    write_parameters(false).swap_remove(0),
                    query(
                        "gracePeriodSeconds",
                        "integer",
                        "Seconds before the object should be deleted.",
                    ),
                    query(
                        "propagationPolicy",
                        "string",
                        "Whether and how garbage collection is performed.",
                    ),
                ],
                answer(&meta("Status"), &["200", "202"]),
            );
            item["delete"]["requestBody"] =
                json!({"content": {"application/json": {"schema": meta("DeleteOptions")}}});
        }
        item
    }

    fn id(&self, verb: &str, part: &str, namespaced: bool) -> String {
        let mut group = String::new();
        for word in self.resource.group.split(['.', '-']) {
            let mut letters = word.chars();
            group.extend(letters.next().map(|c| c.to_ascii_uppercase()));
            group.push_str(letters.as_str());
        }
        let version = self.resource.version;
        let version = format!("{}{}", version[..1].to_uppercase(), &version[1..]);
        let scope = if namespaced { "Namespaced" } else { "" };
        format!("{verb}{group}{version}{scope}{}{part}", self.resource.kind)
    }
}

fn add_paths(paths: &mut Map<String, Value>, resource: &Resource<'_>, tag: &str) {
    let operations = Operations { resource, tag };
    let schema = json!({"$ref": format!("{REFERENCE}{}", resource.definition)});
    let list_schema = json!({"$ref": format!("{REFERENCE}{}List", resource.definition)});
    let kind = gvk(resource, resource.kind);
    let root = format!("/apis/{}/{}", resource.group, resource.version);
    let collection = if resource.namespaced {
        format!("{root}/namespaces/{{namespace}}/{}", resource.plural)
    } else {
        format!("{root}/{}", resource.plural)
    };
    let list = |id: String| {
        operations.make(
            "list",
            &id,
            &format!("list objects of kind {}", resource.kind),
            kind.clone(),
            list_parameters(),
            answer(&list_schema, &["200"]),
        )
    };
    let body = json!({
        "required": true,
        "content": {"application/json": {"schema": schema}, "application/yaml": {"schema": schema}},
    });
    let namespace = || {
        in_path(
            "namespace",
            "object name and auth scope, such as for teams and projects",
        )
    };
    let mut shared = vec![pretty()];
    if resource.namespaced {
        shared.insert(0, namespace());
    }
    let mut item = json!({
            "get": list(operations.id("list", "", resource.namespaced)),
            "post": operations.make(
                "post",
                &operations.id("create", "", resource.namespaced),
                &format!("create a {}", resource.kind),
                kind.clone(),
                write_parameters(false),
                answer(&schema, &["200", "201", "202"]),
            ),
            "delete": operations.make(
                "deletecollection",
                &operations.id("deleteCollection", "", resource.namespaced),
                &format!("delete collection of {}", resource.kind),
                kind.clone(),
                list_parameters(),
                answer(&meta("Status"), &["200"]),
            ),
            "parameters": shared,
    });
    item["post"]["requestBody"] = body;
    paths.insert(collection.clone(), item);
    if resource.namespaced {
        paths.insert(
            format!("{root}/{}", resource.plural),
            json!({
                "get": list(format!("{}ForAllNamespaces", operations.id("list", "", false))),
                "parameters": [pretty()],
            }),
        );
    }
    let mut shared = vec![
        in_path("name", &format!("name of the {}", resource.kind)),
        pretty(),
    ];
    if resource.namespaced {
        shared.insert(1, namespace());
    }
    let mut add = |path: String, mut item: Value| {
        item["parameters"] = json!(shared);
        paths.insert(path, item);
    };
    let object = format!("{collection}/{{name}}");
    add(object.clone(), operations.object("", "", &schema, &kind));
    if resource.has_status {
        add(
            format!("{object}/status"),
            operations.object("status of ", "Status", &schema, &kind),
        );
    }
    if resource.has_scale {
        let scale = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
        let any = json!({"type": "object"});
        add(
            format!("{object}/scale"),
            operations.object("scale of ", "Scale", &any, &scale),
        );
    }
}
