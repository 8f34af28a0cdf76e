//! `cargo xtask protobuf`: makes the table by which the embedded API server
//! reads and writes Kubernetes' protobuf.
//!
//! Sources are the Go modules of Kubernetes' API types (Apache-2.0). A message
//! is described twice there, and both are needed: `generated.proto` has the
//! numbers and the types with every Go alias resolved; the tags of the Go
//! structs have the JSON names, which parts are inlined in JSON, and whether a
//! zero is shown. What the two say twice has to agree.
//!
//! Two zstd-compressed JSON files are written below `crates/cumulo-apiserver/`:
//!
//! - `schemas/protobuf.json.zst`: the table, pruned to what is reachable from
//!   the kinds of `schemas/definitions.json.zst`;
//! - `tests/samples/protobuf.json.zst`: Kubernetes' own samples of those kinds,
//!   in JSON and in protobuf, which the tests hold the transcoder against.

mod golang;
mod proto;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use serde_json::{Map, Value, json};

use self::golang::Tag;
use self::proto::{Label, Message};

/// The modules, and what the names of their messages begin with.
const MODULES: &[(&str, &str)] = &[
    (API, "k8s.io.api."),
    ("k8s.io/apimachinery@v0.35.4", "k8s.io.apimachinery."),
    (
        "k8s.io/apiextensions-apiserver@v0.35.4",
        "k8s.io.apiextensions_apiserver.",
    ),
    ("k8s.io/kube-aggregator@v0.35.4", "k8s.io.kube_aggregator."),
];

/// The module that has the samples.
const API: &str = "k8s.io/api@v0.35.4";

/// Kinds that are answered and that no OpenAPI document has.
const ALSO: &[(&str, &str)] = &[
    (
        "meta.k8s.io/v1/PartialObjectMetadata",
        "PartialObjectMetadata",
    ),
    (
        "meta.k8s.io/v1/PartialObjectMetadataList",
        "PartialObjectMetadataList",
    ),
    ("v1/APIGroup", "APIGroup"),
    ("v1/APIGroupList", "APIGroupList"),
    ("v1/APIResourceList", "APIResourceList"),
    ("v1/APIVersions", "APIVersions"),
];

const META: &str = "k8s.io.apimachinery.pkg.apis.meta.v1.";

/// Messages that are no JSON objects: their Go types marshal themselves.
const FORMS: &[(&str, &str)] = &[
    ("k8s.io.apimachinery.pkg.api.resource.Quantity", "quantity"),
    (
        "k8s.io.apimachinery.pkg.util.intstr.IntOrString",
        "intOrString",
    ),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.Time", "time"),
    (
        "k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime",
        "microTime",
    ),
    ("k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1", "json"),
    ("k8s.io.apimachinery.pkg.runtime.RawExtension", "json"),
    (
        "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON",
        "json",
    ),
    (
        "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray",
        "schemaOrSchemas",
    ),
    (
        "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool",
        "schemaOrBool",
    ),
    (
        "k8s.io.apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        "schemaOrStrings",
    ),
];

/// The most that the table may take, in bytes: it is part of the binary.
const SIZE_LIMIT: usize = 60_000;

const COMPRESSION_LEVEL: i32 = 22;

/// Runs the command. With `--check` nothing is written, and what is committed
/// has to be what would be.
///
/// # Errors
///
/// When a module cannot be had, when a source is not as this program knows
/// such files, when the table is too large, and with `--check` on drift.
pub fn run(args: &[String]) -> Result<()> {
    let check = match args {
        [] => false,
        [one] if one == "--check" => true,
        other => bail!("unknown arguments {other:?}; known is --check"),
    };
    let target = super::root().join("crates/cumulo-apiserver");
    let definitions =
        zstd::decode_all(std::fs::read(target.join("schemas/definitions.json.zst"))?.as_slice())?;
    let definitions: Map<String, Value> = serde_json::from_slice(&definitions)?;
    let sources = Sources::download()?;
    let kinds = kinds(&definitions, &sources.messages)?;
    let table = table(&sources, &kinds)?;
    compare(&table, &definitions)?;
    let samples = samples(&sources, &kinds)?;
    for (name, content) in [
        ("schemas/protobuf.json.zst", table),
        ("tests/samples/protobuf.json.zst", samples),
    ] {
        let path = target.join(name);
        let json = serde_json::to_vec(&content)?;
        if check {
            let committed = std::fs::read(&path)
                .with_context(|| format!("{name} is missing; run `cargo xtask protobuf`"))?;
            if zstd::decode_all(committed.as_slice())? != json {
                bail!("{name} has drifted; run `cargo xtask protobuf`");
            }
            continue;
        }
        let compressed = zstd::encode_all(json.as_slice(), COMPRESSION_LEVEL)?;
        if compressed.len() > SIZE_LIMIT {
            bail!("{name} takes more than {SIZE_LIMIT} bytes");
        }
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, &compressed).with_context(|| format!("cannot write {name}"))?;
        println!("{:>8} {:>9} {name}", compressed.len(), json.len());
    }
    if check {
        println!("2 files are up to date");
    }
    Ok(())
}

/// The modules' folders, and every message in them.
struct Sources {
    folders: BTreeMap<&'static str, PathBuf>,
    messages: BTreeMap<String, Message>,
}

impl Sources {
    fn download() -> Result<Self> {
        let mut sources = Self {
            folders: BTreeMap::new(),
            messages: BTreeMap::new(),
        };
        for (module, prefix) in MODULES {
            let folder = download(module)?;
            for file in files(&folder, "generated.proto")? {
                let text = std::fs::read_to_string(&file)?;
                let read = proto::parse(&text).with_context(|| format!("in {}", file.display()))?;
                sources.messages.extend(read);
            }
            sources.folders.insert(prefix, folder);
        }
        Ok(sources)
    }

    /// The tags of a message's Go struct, none when it is no struct.
    fn tags(&self, message: &str) -> Result<Option<Vec<Tag>>> {
        let (prefix, folder) = self
            .folders
            .iter()
            .find(|(prefix, _)| message.starts_with(**prefix))
            .with_context(|| format!("{message} is of no module"))?;
        let (package, name) = message[prefix.len()..]
            .rsplit_once('.')
            .with_context(|| format!("{message} has no package"))?;
        golang::tags(&folder.join(package.replace('.', "/")), name)
    }
}

/// Asks Go's module cache for a module's folder.
fn download(module: &str) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", module])
        .current_dir(std::env::temp_dir())
        .output()
        .context("cannot run `go`; install Go")?;
    let answer: Value =
        serde_json::from_slice(&output.stdout).context("`go mod download` gave no JSON")?;
    let folder = answer["Dir"]
        .as_str()
        .with_context(|| format!("`go mod download {module}` failed: {}", answer["Error"]))?;
    Ok(PathBuf::from(folder))
}

/// All files of that name in a folder and below, sorted.
fn files(folder: &Path, name: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().is_some_and(|n| n == name) {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Fails when the objects that the table makes are not those of the OpenAPI
/// documents: both have to name the same properties, inlined ones among them.
fn compare(table: &Value, definitions: &Map<String, Value>) -> Result<()> {
    // These are in the envelope, but for a few types that have them as fields.
    let envelope = |name: &&str| !matches!(*name, "apiVersion" | "kind");
    for (name, schema) in definitions {
        let message = message_name(name);
        let described = &table["messages"][&message];
        let Some(properties) = schema["properties"].as_object() else {
            continue;
        };
        if described.is_null() || !described["form"].is_null() {
            continue;
        }
        let expected: BTreeSet<&str> = properties
            .keys()
            .map(String::as_str)
            .filter(envelope)
            .collect();
        let found: BTreeSet<&str> = names(table, &message)
            .into_iter()
            .filter(envelope)
            .collect();
        if expected != found {
            let differ: Vec<_> = expected.symmetric_difference(&found).collect();
            bail!("{message} and the OpenAPI schema {name} differ in {differ:?}");
        }
    }
    Ok(())
}

/// The names that a message's fields have in JSON.
fn names<'a>(table: &'a Value, message: &str) -> Vec<&'a str> {
    table["messages"][message]["fields"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|field| match field["json"].as_str() {
            Some("") => names(table, field["type"].as_str().unwrap_or_default()),
            name => Vec::from_iter(name),
        })
        .collect()
}

/// The message that an OpenAPI schema is of.
fn message_name(schema: &str) -> String {
    schema
        .replacen("io.k8s.", "k8s.io.", 1)
        .replace("apiextensions-apiserver", "apiextensions_apiserver")
        .replace("kube-aggregator", "kube_aggregator")
}

/// `apps/v1/Deployment`, in the core group `v1/Pod`, and the message of each.
fn kinds(
    definitions: &Map<String, Value>,
    messages: &BTreeMap<String, Message>,
) -> Result<BTreeMap<String, String>> {
    let mut kinds = BTreeMap::new();
    for (name, schema) in definitions {
        let message = message_name(name);
        for kind in schema["x-kubernetes-group-version-kind"]
            .as_array()
            .into_iter()
            .flatten()
        {
            let text = |key: &str| kind[key].as_str().unwrap_or_default();
            let full = format!("{}/{}/{}", text("group"), text("version"), text("kind"));
            if !messages.contains_key(&message) {
                bail!("{full}: no message {message}");
            }
            kinds.insert(full.trim_start_matches('/').to_owned(), message.clone());
        }
    }
    for (kind, message) in ALSO {
        kinds.insert((*kind).to_owned(), format!("{META}{message}"));
    }
    Ok(kinds)
}

/// The table: kinds, and the messages that are reachable from them.
fn table(sources: &Sources, kinds: &BTreeMap<String, String>) -> Result<Value> {
    let mut wanted: Vec<&str> = kinds.values().map(String::as_str).collect();
    let mut seen = BTreeSet::new();
    let mut written = Map::new();
    while let Some(name) = wanted.pop() {
        if !seen.insert(name) {
            continue;
        }
        let message = sources
            .messages
            .get(name)
            .with_context(|| format!("there is no message {name}"))?;
        let form = FORMS.iter().find(|(full, _)| *full == name);
        let described = match (form, sources.tags(name)?) {
            (Some((_, form)), _) => described_form(form, message),
            (None, Some(tags)) => {
                described_struct(message, &tags).with_context(|| format!("in {name}"))?
            }
            // A Go slice with a name, which protobuf needs a message for.
            (None, None) => match message.fields.as_slice() {
                [field] if field.name == "items" && field.label == Label::Repeated => {
                    json!({"form": "list", "fields": [{
                        "number": field.number, "json": "items", "type": field.kind, "label": "list",
                    }]})
                }
                _ => bail!("{name} is no struct in Go and has no form here"),
            },
        };
        written.insert(name.to_owned(), described);
        // Of what marshals itself only schemas hold other messages.
        if form.is_none_or(|(_, form)| form.starts_with("schema")) {
            for field in &message.fields {
                if field.kind.contains('.') {
                    wanted.push(&field.kind);
                }
            }
        }
    }
    written.sort_keys();
    Ok(json!({"kinds": kinds, "messages": written}))
}

fn described_form(form: &str, message: &Message) -> Value {
    let fields: Vec<Value> = message
        .fields
        .iter()
        .filter(|_| form.starts_with("schema"))
        .map(|field| {
            let mut described =
                json!({"number": field.number, "json": field.name, "type": field.kind});
            if field.label == Label::Repeated {
                described["label"] = json!("list");
            }
            described
        })
        .collect();
    json!({"form": form, "fields": fields})
}

fn described_struct(message: &Message, tags: &[Tag]) -> Result<Value> {
    let mut fields = Vec::new();
    for field in &message.fields {
        let tag = tags
            .iter()
            .find(|tag| tag.number == field.number)
            .with_context(|| format!("no Go field has the number of {}", field.name))?;
        // Where no name is given, gogo's generator makes one of the Go name.
        if !tag.name.is_empty() && tag.name != field.name {
            bail!("{} is called {} in Go", field.name, tag.name);
        }
        let mut described = json!({"number": field.number, "json": tag.json, "type": field.kind});
        match field.label {
            Label::Optional => {}
            Label::Repeated => described["label"] = json!("list"),
            Label::Map => described["label"] = json!("map"),
        }
        let scalar = !field.kind.contains('.');
        // A Go struct is always shown, unless it is to be left out when zero.
        let shown = match (field.label, tag.pointer) {
            (Label::Optional, false) if tag.omit_zero => "nonzero",
            (Label::Optional, false) if field.kind == "bytes" || scalar && tag.omit_empty => {
                "nonzero"
            }
            (Label::Optional, false) => "always",
            _ => "set",
        };
        if shown != "set" {
            described["shown"] = json!(shown);
        }
        fields.push(described);
    }
    Ok(json!({"fields": fields}))
}

/// Kubernetes' samples of the kinds that it has samples of.
fn samples(sources: &Sources, kinds: &BTreeMap<String, String>) -> Result<Value> {
    let folder = sources
        .folders
        .get("k8s.io.api.")
        .context("the module has no folder")?
        .join("testdata/HEAD");
    let mut samples = Map::new();
    for (kind, message) in kinds {
        // The options of each group's requests are one message.
        if message.starts_with(META) {
            continue;
        }
        let full = match kind.split('/').count() {
            2 => format!("core/{kind}"),
            _ => kind.clone(),
        };
        let file = folder.join(full.replace('/', "."));
        let with = |extension: &str| PathBuf::from(format!("{}.{extension}", file.display()));
        let Ok(bytes) = std::fs::read(with("pb")) else {
            continue;
        };
        let value: Value = serde_json::from_slice(&std::fs::read(with("json"))?)?;
        let encoded = base64::engine::general_purpose::STANDARD.encode(&bytes);
        samples.insert(kind.clone(), json!({"json": value, "protobuf": encoded}));
    }
    Ok(Value::Object(samples))
}
