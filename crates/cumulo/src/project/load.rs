//! Reads a project's manifests.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use kube::api::DynamicObject;
use serde_json::Value;

/// A project as it lies on disk.
#[derive(Debug)]
pub struct Project {
    /// The folder's or file's name.
    pub name: String,
    /// Every object, in the order of the files and of the documents in them.
    pub objects: Vec<Manifest>,
}

/// One object of a project.
#[derive(Debug)]
pub struct Manifest {
    /// The object.
    pub object: DynamicObject,
    /// The file it stands in; relative paths start at its folder.
    pub file: PathBuf,
}

impl Manifest {
    /// The folder that relative paths start from.
    pub fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("."))
    }

    /// `Kind/name` for messages.
    pub fn title(&self) -> String {
        title(&self.object)
    }
}

/// `Kind/name` of an object.
pub fn title(object: &DynamicObject) -> String {
    let kind = object
        .types
        .as_ref()
        .map_or("?", |types| types.kind.as_str());
    let name = object.metadata.name.as_deref().unwrap_or("?");
    format!("{kind}/{name}")
}

/// Reads one file, or all `.yaml`, `.yml` and `.json` files of a folder in the order of their names.
///
/// # Errors
/// When a file cannot be read, is not YAML, or holds something that is not a Kubernetes object.
pub fn load(path: &Path) -> Result<Project> {
    let path = std::path::absolute(path)?;
    let metadata = fs::metadata(&path).with_context(|| {
        format!(
            "{} is not there: name a project's folder or a manifest",
            path.display()
        )
    })?;
    let files = if metadata.is_dir() {
        manifests_in(&path)?
    } else {
        vec![path.clone()]
    };
    if files.is_empty() {
        bail!(
            "{} holds no manifest: a project has at least one .yaml file, such as examples/flights/flights.yaml",
            path.display()
        );
    }
    let mut objects = Vec::new();
    for file in files {
        let text =
            fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        objects.extend(parse(&text, &file)?);
    }
    let name = path
        .file_stem()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    Ok(Project { name, objects })
}

/// Reads the objects of one text, which may hold several YAML documents or a `List`.
pub fn parse(text: &str, file: &Path) -> Result<Vec<Manifest>> {
    let documents: Vec<Value> = serde_saphyr::from_multiple(text)
        .map_err(|error| anyhow::anyhow!("{} is not YAML: {error}", file.display()))?;
    let mut objects = Vec::new();
    for (index, document) in documents.into_iter().enumerate() {
        let items = match document {
            Value::Null => continue,
            Value::Object(mut fields)
                if fields
                    .get("kind")
                    .and_then(Value::as_str)
                    .is_some_and(|kind| kind.ends_with("List"))
                    && fields.contains_key("items") =>
            {
                match fields.remove("items") {
                    Some(Value::Array(items)) => items,
                    _ => bail!("{}: the items of a List must be a list", file.display()),
                }
            }
            other => vec![other],
        };
        for item in items {
            for field in ["apiVersion", "kind"] {
                if item.get(field).and_then(Value::as_str).is_none() {
                    bail!(
                        "{}, document {}: {field} is missing: every object names its apiVersion (such as cumulo.dev/v1alpha1) and kind",
                        file.display(),
                        index + 1
                    );
                }
            }
            if item["metadata"]["name"].as_str().is_none()
                && item["metadata"]["generateName"].as_str().is_none()
            {
                bail!(
                    "{}, document {} ({}): metadata.name is missing",
                    file.display(),
                    index + 1,
                    item["kind"].as_str().unwrap_or("?")
                );
            }
            let object: DynamicObject = serde_json::from_value(item)
                .with_context(|| format!("{}, document {}", file.display(), index + 1))?;
            objects.push(Manifest {
                object,
                file: file.to_owned(),
            });
        }
    }
    Ok(objects)
}

fn manifests_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry?.path();
        let is_manifest = path
            .extension()
            .and_then(|extension| extension.to_str())
            .is_some_and(|extension| matches!(extension, "yaml" | "yml" | "json"));
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if is_manifest && !hidden && path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> String {
        match parse(text, Path::new("p.yaml")) {
            Ok(objects) => objects
                .iter()
                .map(Manifest::title)
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => format!("{error:#}"),
        }
    }

    #[test]
    fn documents_and_lists() {
        insta::assert_snapshot!(check("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n---\n---\napiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Secret, metadata: {name: b}}\n"), @"ConfigMap/a Secret/b");
    }

    #[test]
    fn mistakes_say_where() {
        insta::assert_snapshot!(check("kind: ConfigMap\n"), @"p.yaml, document 1: apiVersion is missing: every object names its apiVersion (such as cumulo.dev/v1alpha1) and kind");
        insta::assert_snapshot!(check("apiVersion: v1\nkind: ConfigMap\n"), @"p.yaml, document 1 (ConfigMap): metadata.name is missing");
        assert!(check("a: [").starts_with("p.yaml is not YAML"));
    }
}
