//! What a model folder holds: MLflow's `MLmodel` file, or a bare ONNX file.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::options::RuntimeChoice;

/// A model folder that can't be served.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// There is nothing.
    #[error("there is no model at {}: {source}", .path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Neither `MLmodel` nor ONNX.
    #[error("{} holds neither an `MLmodel` file nor one `.onnx` file; give the folder that `mlflow` wrote", .0.display())]
    Unknown(PathBuf),
    /// The file isn't what it should be.
    #[error("{} is no MLmodel file: {reason}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The wanted runtime doesn't fit.
    #[error("{} cannot be run by `{runtime}`: {reason}", .path.display())]
    Unfit {
        /// The folder.
        path: PathBuf,
        /// The runtime that was asked for.
        runtime: &'static str,
        /// What is missing.
        reason: String,
    },
}

/// A column or tensor of the model's signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// MLflow's type: `double`, `string`, …
    pub kind: String,
    /// Whether it must be given.
    pub required: bool,
}

/// Columns in and out, as the model's signature says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signature {
    /// Columns in, in order.
    pub inputs: Vec<Field>,
    /// Columns out.
    pub outputs: Vec<Field>,
}

/// What runs the model, and from which file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// A folder that Cumulo's AutoML wrote.
    Lightgbm(PathBuf),
    /// An ONNX file.
    Onnx(PathBuf),
    /// Any MLflow model.
    Python(PathBuf),
}

/// A model that can be served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folder {
    /// What runs it.
    pub plan: Plan,
    /// Its signature, where it has one.
    pub signature: Signature,
}

/// Looks at a model folder or file and decides what runs it.
pub fn inspect(path: &Path, choice: RuntimeChoice) -> Result<Folder, FolderError> {
    let metadata = std::fs::metadata(path).map_err(|source| FolderError::Missing {
        path: path.into(),
        source,
    })?;
    if metadata.is_file() {
        return bare(path.into(), path, choice);
    }
    let file = path.join("MLmodel");
    if !file.exists() {
        let file = only_onnx(path).ok_or_else(|| FolderError::Unknown(path.into()))?;
        return bare(file, path, choice);
    }
    let invalid = |reason: String| FolderError::Invalid {
        path: file.clone(),
        reason,
    };
    let text = std::fs::read_to_string(&file).map_err(|error| invalid(error.to_string()))?;
    let model: Value = serde_saphyr::from_str(&text).map_err(|error| invalid(error.to_string()))?;
    if !model["flavors"].is_object() {
        return Err(invalid("it has no `flavors`".into()));
    }
    let signature = signature(&model).map_err(invalid)?;
    let plan = choose(path, &model, choice)?;
    Ok(Folder { plan, signature })
}

fn bare(file: PathBuf, path: &Path, choice: RuntimeChoice) -> Result<Folder, FolderError> {
    let runtime = match choice {
        RuntimeChoice::Auto | RuntimeChoice::Onnx => {
            return Ok(Folder {
                plan: Plan::Onnx(file),
                signature: Signature::default(),
            });
        }
        RuntimeChoice::Lightgbm => "lightgbm",
        RuntimeChoice::Python => "python",
    };
    Err(FolderError::Unfit {
        path: path.into(),
        runtime,
        reason: "it is an ONNX file without an MLmodel; use the runtime `onnx`".into(),
    })
}

fn only_onnx(folder: &Path) -> Option<PathBuf> {
    let mut files = std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "onnx")
        });
    let first = files.next()?;
    files.next().is_none().then_some(first)
}

fn choose(path: &Path, model: &Value, choice: RuntimeChoice) -> Result<Plan, FolderError> {
    let flavors = &model["flavors"];
    let trees = flavors["cumulo"]["format"] == "lightgbm";
    // The file's name is the model's; it stays inside the folder.
    let onnx = flavors["onnx"]["data"]
        .as_str()
        .filter(|data| {
            Path::new(data)
                .components()
                .all(|part| matches!(part, std::path::Component::Normal(_)))
        })
        .map(|data| path.join(data))
        .map(|data| {
            if data.is_dir() {
                data.join("model.onnx")
            } else {
                data
            }
        });
    let python = flavors["python_function"].is_object();
    let unfit = |runtime, reason: &str| {
        Err(FolderError::Unfit {
            path: path.into(),
            runtime,
            reason: reason.into(),
        })
    };
    match (choice, onnx) {
        (RuntimeChoice::Auto | RuntimeChoice::Lightgbm, _) if trees => {
            Ok(Plan::Lightgbm(path.into()))
        }
        (RuntimeChoice::Lightgbm, _) => unfit(
            "lightgbm",
            "it was not made by Cumulo's AutoML; use the runtime `python`",
        ),
        (RuntimeChoice::Auto | RuntimeChoice::Onnx, Some(file)) => Ok(Plan::Onnx(file)),
        (RuntimeChoice::Onnx, None) => unfit("onnx", "it has no `onnx` flavor"),
        (RuntimeChoice::Auto | RuntimeChoice::Python, _) if python => Ok(Plan::Python(path.into())),
        (RuntimeChoice::Python, _) => unfit("python", "it has no `python_function` flavor"),
        (RuntimeChoice::Auto, None) => unfit(
            "auto",
            "none of its flavors is lightgbm (AutoML), onnx or python_function",
        ),
    }
}

/// MLflow writes the columns as JSON in a string.
fn signature(model: &Value) -> Result<Signature, String> {
    let fields = |part: &str| -> Result<Vec<Field>, String> {
        let fields: Value = match &model["signature"][part] {
            Value::String(text) => serde_json::from_str(text)
                .map_err(|error| format!("`signature.{part}` is no JSON: {error}"))?,
            other => other.clone(),
        };
        let fields = fields.as_array().cloned().unwrap_or_default();
        let fields = fields.iter().filter_map(|field| {
            Some(Field {
                name: field["name"].as_str()?.to_owned(),
                kind: field["type"].as_str().unwrap_or("any").to_owned(),
                required: field["required"].as_bool().unwrap_or(true),
            })
        });
        Ok(fields.collect())
    };
    Ok(Signature {
        inputs: fields("inputs")?,
        outputs: fields("outputs")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(mlmodel: &str, choice: RuntimeChoice) -> String {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("MLmodel"), mlmodel).expect("written");
        let place = folder.path().display().to_string();
        match inspect(folder.path(), choice) {
            Ok(found) => format!("{:?}", found.plan).replace(&place, "MODEL"),
            Err(error) => error.to_string().replace(&place, "MODEL"),
        }
    }

    #[test]
    fn flavors_decide() {
        let automl = "flavors:\n  cumulo: {format: lightgbm}\n  python_function: {loader_module: cumulo_automl}\n";
        let onnx = "flavors:\n  onnx: {data: model.onnx}\n  python_function: {loader_module: mlflow.onnx}\n";
        let python =
            "flavors:\n  python_function: {loader_module: mlflow.sklearn}\n  sklearn: {}\n";
        let auto = RuntimeChoice::Auto;
        insta::assert_snapshot!(check(automl, auto), @r#"Lightgbm("MODEL")"#);
        insta::assert_snapshot!(check(automl, RuntimeChoice::Python), @r#"Python("MODEL")"#);
        insta::assert_snapshot!(check(onnx, auto), @r#"Onnx("MODEL/model.onnx")"#);
        insta::assert_snapshot!(check(python, auto), @r#"Python("MODEL")"#);
        insta::assert_snapshot!(check(python, RuntimeChoice::Onnx), @"MODEL cannot be run by `onnx`: it has no `onnx` flavor");
        insta::assert_snapshot!(check("flavors: {spark: {}}", auto), @"MODEL cannot be run by `auto`: none of its flavors is lightgbm (AutoML), onnx or python_function");
        insta::assert_snapshot!(check("flavors: {onnx: {data: ../../etc/passwd}}", auto), @"MODEL cannot be run by `auto`: none of its flavors is lightgbm (AutoML), onnx or python_function");
        assert!(check("a: [", auto).starts_with("MODEL/MLmodel is no MLmodel file: "));
    }

    #[test]
    fn signature_is_json_in_yaml() {
        let folder = tempfile::tempdir().expect("a folder");
        let text = r#"
flavors: {python_function: {}}
signature:
  inputs: '[{"type": "double", "name": "x", "required": false}, {"type": "string", "name": "y", "required": true}]'
  outputs: null
"#;
        std::fs::write(folder.path().join("MLmodel"), text).expect("written");
        let signature = inspect(folder.path(), RuntimeChoice::Auto)
            .expect("a model")
            .signature;
        let names: Vec<_> = signature
            .inputs
            .iter()
            .map(|field| (&field.name[..], field.required))
            .collect();
        assert_eq!(names, [("x", false), ("y", true)]);
    }

    #[test]
    fn a_bare_onnx_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let missing = inspect(&folder.path().join("nothing"), RuntimeChoice::Auto);
        assert!(matches!(missing, Err(FolderError::Missing { .. })));
        assert!(matches!(
            inspect(folder.path(), RuntimeChoice::Auto),
            Err(FolderError::Unknown(_))
        ));
        let file = folder.path().join("some.onnx");
        std::fs::write(&file, "").expect("written");
        for path in [folder.path(), file.as_path()] {
            let found = inspect(path, RuntimeChoice::Auto).expect("a model");
            assert_eq!(found.plan, Plan::Onnx(file.clone()));
        }
    }
}
