//! Between the table of types and the pure modules that render tables and
//! OpenAPI documents.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::openapi;
use crate::resource::ResourceType;
use crate::table::{self, IncludeObject};

/// Objects as a `Table`.
pub(super) fn render(
    engine: &Engine,
    resource: &ResourceType,
    objects: &[Value],
    include: IncludeObject,
    metadata: &Value,
) -> Value {
    let objects: Vec<&Value> = objects.iter().collect();
    let builtin;
    let printer = match &resource.custom {
        Some(custom) => &custom.printer,
        None => {
            builtin = table::builtin(&resource.group, &resource.kind);
            &builtin
        }
    };
    table::render(printer, &objects, metadata, include, engine.clock.now())
}

/// Definitions that are served, as values.
fn definitions(engine: &Engine) -> Vec<Value> {
    let catalog = engine.registry.catalog();
    let served: BTreeSet<&str> = catalog
        .stored()
        .filter_map(|r| Some(r.custom.as_ref()?.definition.as_str()))
        .collect();
    engine
        .store
        .all("apiextensions.k8s.io/customresourcedefinitions", None)
        .iter()
        .filter(|o| served.contains(&*o.id.name))
        .map(|o| o.value())
        .collect()
}

/// Group-versions of definitions, those that are served.
fn versions(definitions: &[Value]) -> BTreeSet<(String, String)> {
    definitions
        .iter()
        .flat_map(|d| {
            let group = d["spec"]["group"].as_str().unwrap_or_default().to_owned();
            d["spec"]["versions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|v| v["served"] == json!(true))
                .filter_map(move |v| Some((group.clone(), v["name"].as_str()?.to_owned())))
        })
        .collect()
}

/// What the document of version 2 is known by: it changes with the definitions.
pub(super) fn openapi_version(engine: &Engine) -> String {
    let served: Vec<String> = definitions(engine)
        .iter()
        .map(|d| format!("{}/{}", d["metadata"]["uid"], d["metadata"]["generation"]))
        .collect();
    let hash = openapi::hash(format!("{} {}", super::VERSION, served.join(" ")).as_bytes());
    format!("\"{}\"", &hash[..32])
}

/// `/openapi/v2`.
pub(super) fn openapi_version2(engine: &Engine) -> Vec<u8> {
    let definitions = definitions(engine);
    let all: Vec<&Value> = definitions.iter().collect();
    let custom: Vec<Value> = versions(&definitions)
        .iter()
        .map(|(group, version)| openapi::crd_document(group, version, &all))
        .chain([openapi::metrics::document()])
        .collect();
    openapi::v2::document(&custom, super::VERSION)
}

/// `/openapi/v3`.
pub(super) fn openapi_index(engine: &Engine) -> Value {
    let definitions = definitions(engine);
    let all: Vec<&Value> = definitions.iter().collect();
    let custom: Vec<(String, String)> = versions(&definitions)
        .into_iter()
        .map(|(group, version)| {
            let document = openapi::crd_document(&group, &version, &all).to_string();
            (
                format!("apis/{group}/{version}"),
                openapi::hash(document.as_bytes()),
            )
        })
        .chain([(
            openapi::metrics::PATH.to_owned(),
            openapi::hash(openapi::metrics::document().to_string().as_bytes()),
        )])
        .collect();
    openapi::index(&custom)
}

/// `/openapi/v3/api/v1` and `/openapi/v3/apis/GROUP/VERSION`.
pub(super) fn openapi_document(engine: &Engine, group: &str, version: &str) -> Option<Vec<u8>> {
    let path = if group.is_empty() {
        format!("api/{version}")
    } else {
        format!("apis/{group}/{version}")
    };
    if let Some(document) = openapi::builtin_document(&path) {
        return Some(document);
    }
    if path == openapi::metrics::PATH {
        return Some(openapi::metrics::document().to_string().into_bytes());
    }
    let catalog = engine.registry.catalog();
    let _served = catalog.types(group, version)?;
    let definitions = definitions(engine);
    let all: Vec<&Value> = definitions.iter().collect();
    Some(
        openapi::crd_document(group, version, &all)
            .to_string()
            .into_bytes(),
    )
}
