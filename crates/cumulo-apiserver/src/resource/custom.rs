//! CustomResourceDefinitions: their defaults, what is wrong with one, and the
//! rows that it adds to the table. Pure.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use serde_json::{Value, json};

use super::builtin::STORED_VERBS;
use super::{
    Conversion, CustomType, NameRule, ResourceType, ScalePaths, SelectableField, Subresource,
    api_version, dotted_to_pointer,
};
use crate::schema::Schema;
use crate::status::Cause;
use crate::table::Printer;
use crate::validation::{is_dns_label, is_dns_subdomain};

/// Fills in what a definition leaves out.
pub fn default(definition: &mut Value) {
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else {
        return;
    };
    if let Some(names) = spec.get_mut("names").and_then(Value::as_object_mut) {
        let kind = names
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if !kind.is_empty() {
            names
                .entry("singular")
                .or_insert_with(|| json!(kind.to_lowercase()));
            names
                .entry("listKind")
                .or_insert_with(|| json!(format!("{kind}List")));
        }
    }
    spec.entry("conversion")
        .or_insert_with(|| json!({"strategy": "None"}));
    for version in spec
        .get_mut("versions")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
    {
        for column in version
            .get_mut("additionalPrinterColumns")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            if let Some(column) = column.as_object_mut() {
                column.retain(|key, value| !(key == "priority" && value == &json!(0)));
            }
        }
    }
}

/// What is wrong with a definition, beyond its own schema.
pub fn validate(definition: &Value, old: Option<&Value>) -> Vec<Cause> {
    let mut causes = Vec::new();
    let spec = &definition["spec"];
    let group = spec["group"].as_str().unwrap_or_default();
    let plural = spec["names"]["plural"].as_str().unwrap_or_default();
    let name = definition["metadata"]["name"].as_str().unwrap_or_default();
    if group.is_empty() {
        causes.push(Cause::required("spec.group", ""));
    } else if !is_dns_subdomain(group) || !group.contains('.') {
        causes.push(Cause::invalid(
            "spec.group",
            &spec["group"],
            "should be a domain with at least one dot",
        ));
    }
    if plural.is_empty() {
        causes.push(Cause::required("spec.names.plural", ""));
    } else if !is_dns_label(plural) {
        causes.push(Cause::invalid(
            "spec.names.plural",
            &spec["names"]["plural"],
            "a lowercase RFC 1123 label is wanted",
        ));
    }
    for field in ["singular", "kind", "listKind"] {
        if spec["names"][field].as_str().unwrap_or_default().is_empty() {
            causes.push(Cause::required(format!("spec.names.{field}"), ""));
        }
    }
    if !group.is_empty() && !plural.is_empty() && name != format!("{plural}.{group}") {
        causes.push(Cause::invalid(
            "metadata.name",
            &definition["metadata"]["name"],
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    match spec["scope"].as_str() {
        Some("Cluster" | "Namespaced") => {}
        None | Some("") => causes.push(Cause::required("spec.scope", "")),
        Some(_) => causes.push(Cause::unsupported(
            "spec.scope",
            &spec["scope"],
            &["Cluster", "Namespaced"],
        )),
    }
    versions(spec, &mut causes);
    if spec["conversion"]["strategy"] == json!("Webhook") {
        causes.push(Cause::unsupported(
            "spec.conversion.strategy",
            &spec["conversion"]["strategy"],
            &["None"],
        ));
    }
    if let Some(old) = old {
        let established = condition_is_true(old, "Established");
        for field in [
            "/spec/group",
            "/spec/names/plural",
            "/spec/scope",
            "/spec/names/kind",
        ] {
            let fixed = established || field.ends_with("group") || field.ends_with("plural");
            if fixed && definition.pointer(field) != old.pointer(field) {
                causes.push(Cause::invalid(
                    field.trim_start_matches('/').replace('/', "."),
                    definition.pointer(field).unwrap_or(&Value::Null),
                    "field is immutable",
                ));
            }
        }
    }
    causes
}

fn versions(spec: &Value, causes: &mut Vec<Cause>) {
    let versions = spec["versions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    if versions.is_empty() {
        causes.push(Cause::required("spec.versions", ""));
        return;
    }
    let stored = versions
        .iter()
        .filter(|v| v["storage"] == json!(true))
        .count();
    if stored != 1 {
        causes.push(Cause::invalid(
            "spec.versions",
            &spec["versions"],
            "must have exactly one version marked as storage version",
        ));
    }
    for (n, version) in versions.iter().enumerate() {
        let path = format!("spec.versions[{n}]");
        let name = version["name"].as_str().unwrap_or_default();
        if !is_dns_label(name) {
            causes.push(Cause::invalid(
                format!("{path}.name"),
                &version["name"],
                "a lowercase RFC 1123 label is wanted",
            ));
        }
        if versions[..n].iter().any(|v| v["name"] == version["name"]) {
            causes.push(Cause::invalid(
                format!("{path}.name"),
                &version["name"],
                "must be unique",
            ));
        }
        if version["schema"]["openAPIV3Schema"].is_null() {
            causes.push(Cause::required(
                format!("{path}.schema.openAPIV3Schema"),
                "schemas are required",
            ));
        } else if let Err(error) = Schema::from_crd_version(version) {
            causes.push(Cause::invalid(
                format!("{path}.schema.openAPIV3Schema"),
                &json!("object"),
                error.to_string(),
            ));
        }
        if let Err(error) = Printer::from_crd_version(version) {
            causes.push(Cause::invalid(
                format!("{path}.additionalPrinterColumns[{}].jsonPath", error.index),
                &json!(error.path),
                error.message,
            ));
        }
    }
}

/// Whether a condition of an object has status `True`.
pub fn condition_is_true(object: &Value, kind: &str) -> bool {
    object["status"]["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .any(|c| c["type"] == json!(kind) && c["status"] == json!("True"))
}

/// The rows of a definition: one per served version. A version whose schema
/// cannot be used is left out, with the reason.
pub fn rows(definition: &Value) -> (Vec<Arc<ResourceType>>, Vec<String>) {
    let mut rows = Vec::new();
    let mut problems = Vec::new();
    let spec = &definition["spec"];
    let versions = spec["versions"]
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default();
    let storage_version = versions
        .iter()
        .find(|v| v["storage"] == json!(true))
        .and_then(|v| v["name"].as_str())
        .unwrap_or_default();
    for entry in versions.iter().filter(|v| v["served"] == json!(true)) {
        match row(definition, entry, storage_version) {
            Ok(row) => rows.push(Arc::new(row)),
            Err(problem) => problems.push(problem),
        }
    }
    (rows, problems)
}

fn row(definition: &Value, entry: &Value, storage_version: &str) -> Result<ResourceType, String> {
    let spec = &definition["spec"];
    let names = &spec["names"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let texts = |value: &Value| -> Vec<String> {
        value
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let group = text(&spec["group"]);
    let version = text(&entry["name"]);
    let kind = text(&names["kind"]);
    let plural = text(&names["plural"]);
    let schema = Schema::from_crd_version(entry)
        .map_err(|e| format!("version {version} of {plural}.{group}: {e}"))?;
    let printer = Printer::from_crd_version(entry)
        .map_err(|e| format!("version {version} of {plural}.{group}: {e}"))?;
    let verbs = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
    let mut subresources = Vec::new();
    let scale = entry["subresources"].get("scale").filter(|s| s.is_object());
    if scale.is_some() {
        subresources.push(Subresource {
            name: "scale".into(),
            group: "autoscaling".into(),
            version: "v1".into(),
            kind: "Scale".into(),
            verbs: verbs(&["get", "patch", "update"]),
        });
    }
    if entry["subresources"]
        .get("status")
        .is_some_and(|s| !s.is_null())
    {
        subresources.push(Subresource {
            name: "status".into(),
            group: group.clone(),
            version: version.clone(),
            kind: kind.clone(),
            verbs: verbs(&["get", "patch", "update"]),
        });
    }
    let fields: Vec<SelectableField> = entry["selectableFields"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|f| f["jsonPath"].as_str())
        .map(|path| SelectableField {
            label: path.trim_start_matches('.').to_owned(),
            pointer: dotted_to_pointer(path),
            default: String::new(),
        })
        .collect();
    // What is on its way out takes nothing new in.
    let mut allowed = verbs(&STORED_VERBS);
    if !definition["metadata"]["deletionTimestamp"].is_null() {
        allowed.retain(|verb| verb != "create");
    }
    Ok(ResourceType {
        list_kind: text(&names["listKind"]),
        singular: text(&names["singular"]),
        short_names: texts(&names["shortNames"]),
        categories: texts(&names["categories"]),
        namespaced: spec["scope"] == json!("Namespaced"),
        verbs: allowed,
        subresources,
        scale: scale.map(|s| ScalePaths {
            spec_replicas: dotted_to_pointer(s["specReplicasPath"].as_str().unwrap_or_default()),
            status_replicas: dotted_to_pointer(
                s["statusReplicasPath"].as_str().unwrap_or_default(),
            ),
            selector: s["labelSelectorPath"].as_str().map(dotted_to_pointer),
        }),
        field_pointers: fields.iter().map(|f| f.pointer.clone()).collect(),
        fields,
        name_rule: NameRule::Subdomain,
        generation: true,
        create_on_update: false,
        unconditional_update: false,
        storage: format!("{group}/{plural}").into(),
        conversion: Conversion::ApiVersion,
        stored_api_version: api_version(&group, storage_version),
        custom: Some(Arc::new(CustomType {
            definition: text(&definition["metadata"]["name"]),
            epoch: epoch(entry),
            schema: Arc::new(schema),
            printer,
        })),
        group,
        version,
        kind,
        plural,
    })
}

/// Identifies a schema: equal for equal entries, and never zero.
fn epoch(entry: &Value) -> u64 {
    let mut hasher = DefaultHasher::new();
    entry["schema"].to_string().hash(&mut hasher);
    hasher.finish() | 1
}
