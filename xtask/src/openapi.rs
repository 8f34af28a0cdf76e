//! `cargo xtask openapi`: makes the committed copies of Kubernetes' OpenAPI v3
//! documents that the embedded API server serves and validates with.
//!
//! The source is the Go module `k8s.io/kubernetes` (Apache-2.0), folder
//! `api/openapi-spec/v3`. Two things are written, both zstd-compressed JSON,
//! under `crates/cumulo-apiserver/schemas/`:
//!
//! - `openapi/<group-version>.json.zst`: a whole document, served as it is;
//! - `definitions.json.zst`: every schema of every document once, without its
//!   descriptions, which is what validation, defaulting and merging read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// The Kubernetes release that the documents come from.
const MODULE: &str = "k8s.io/kubernetes@v1.35.4";

/// The group-versions that are served, named as their files are.
const SERVED: &[&str] = &[
    "api__v1",
    "apis__admissionregistration.k8s.io__v1",
    "apis__apiextensions.k8s.io__v1",
    "apis__apiregistration.k8s.io__v1",
    "apis__apps__v1",
    "apis__authentication.k8s.io__v1",
    "apis__authorization.k8s.io__v1",
    "apis__autoscaling__v1",
    "apis__autoscaling__v2",
    "apis__batch__v1",
    "apis__certificates.k8s.io__v1",
    "apis__coordination.k8s.io__v1",
    "apis__discovery.k8s.io__v1",
    "apis__events.k8s.io__v1",
    "apis__flowcontrol.apiserver.k8s.io__v1",
    "apis__networking.k8s.io__v1",
    "apis__node.k8s.io__v1",
    "apis__policy__v1",
    "apis__rbac.authorization.k8s.io__v1",
    "apis__resource.k8s.io__v1",
    "apis__scheduling.k8s.io__v1",
    "apis__storage.k8s.io__v1",
];

/// The most that all written files may take together, in bytes: they are part
/// of the repository and of the binary.
const SIZE_LIMIT: usize = 800_000;

const COMPRESSION_LEVEL: i32 = 22;

/// Runs the command. Arguments: `--source DIR` reads the documents from a
/// folder instead of asking `go mod download`; `--check` writes nothing and
/// fails when what is committed differs.
///
/// # Errors
///
/// When the source cannot be read, when two documents disagree about a schema,
/// when the result is too large, and with `--check` when files have drifted.
pub fn run(args: Vec<String>) -> Result<()> {
    let mut source = None;
    let mut check = false;
    let mut args = args.into_iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--source" => {
                let folder = args.next().context("--source needs a folder")?;
                source = Some(PathBuf::from(folder));
            }
            "--check" => check = true,
            other => bail!("unknown argument {other:?}; known are --source DIR and --check"),
        }
    }
    let source = match source {
        Some(folder) => folder,
        None => download()?,
    };
    let target = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .context("xtask has no folder above it")?
        .join("crates/cumulo-apiserver/schemas");
    let files = generate(&source)?;
    let mut total = 0;
    for (name, json) in &files {
        let path = target.join(name);
        if check {
            let committed = std::fs::read(&path).with_context(|| {
                format!("{} is missing; run `cargo xtask openapi`", path.display())
            })?;
            if zstd::decode_all(committed.as_slice())? != *json {
                bail!("{} has drifted; run `cargo xtask openapi`", path.display());
            }
            continue;
        }
        let compressed = zstd::encode_all(json.as_slice(), COMPRESSION_LEVEL)?;
        total += compressed.len();
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, &compressed)
            .with_context(|| format!("cannot write {}", path.display()))?;
        println!("{:>8} {:>9} {name}", compressed.len(), json.len());
    }
    if total > SIZE_LIMIT {
        bail!("the documents take {total} bytes, more than {SIZE_LIMIT}");
    }
    if check {
        println!("{} files are up to date", files.len());
    } else {
        println!("{} files, {total} bytes", files.len());
    }
    Ok(())
}

/// Asks Go's module cache for the sources of Kubernetes.
fn download() -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", MODULE])
        .current_dir(std::env::temp_dir())
        .output()
        .context("cannot run `go`; install Go or give --source DIR")?;
    let answer: Value =
        serde_json::from_slice(&output.stdout).context("`go mod download` gave no JSON")?;
    let folder = answer["Dir"]
        .as_str()
        .with_context(|| format!("`go mod download {MODULE}` failed: {}", answer["Error"]))?;
    Ok(Path::new(folder).join("api/openapi-spec/v3"))
}

/// All files to write: name below the target folder, and uncompressed JSON.
fn generate(source: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut files = BTreeMap::new();
    let mut definitions: BTreeMap<String, Value> = BTreeMap::new();
    for name in SERVED {
        let path = source.join(format!("{name}_openapi.json"));
        let text =
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let document: Value = serde_json::from_slice(&text)
            .with_context(|| format!("{} is not JSON", path.display()))?;
        let schemas = document["components"]["schemas"]
            .as_object()
            .with_context(|| format!("{} has no components.schemas", path.display()))?;
        for (schema_name, schema) in schemas {
            let mut schema = schema.clone();
            strip_descriptions(&mut schema);
            if let Some(known) = definitions.get(schema_name) {
                if *known != schema {
                    bail!("{name} and an earlier document disagree about {schema_name}");
                }
            } else {
                definitions.insert(schema_name.clone(), schema);
            }
        }
        files.insert(
            format!("openapi/{name}.json.zst"),
            serde_json::to_vec(&document)?,
        );
    }
    let definitions: Map<String, Value> = definitions.into_iter().collect();
    files.insert(
        "definitions.json.zst".into(),
        serde_json::to_vec(&definitions)?,
    );
    Ok(files)
}

/// Removes what only a reader wants. A property *named* description stays.
fn strip_descriptions(schema: &mut Value) {
    let Some(object) = schema.as_object_mut() else {
        return;
    };
    object.remove("description");
    for (key, value) in object.iter_mut() {
        match (key.as_str(), value) {
            ("properties", Value::Object(properties)) => {
                properties.values_mut().for_each(strip_descriptions);
            }
            ("items" | "additionalProperties" | "not", child) => strip_descriptions(child),
            ("allOf" | "anyOf" | "oneOf", Value::Array(children)) => {
                children.iter_mut().for_each(strip_descriptions);
            }
            _ => {}
        }
    }
}
