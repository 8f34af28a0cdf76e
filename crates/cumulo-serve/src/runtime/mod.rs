//! What runs a model.

mod inline;
mod lightgbm;
mod onnx;
mod python;

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;

pub use onnx::OnnxError;
pub use python::PythonError;

use crate::mlmodel::{self, Field, FolderError, Plan};
use crate::options::Options;
use crate::tensor::{Datatype, Tensor};

/// Why there is no prediction.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InferError {
    /// The request doesn't fit the model; the client can mend it.
    #[error("{0}")]
    Input(String),
    /// The model can't be used now and nothing was tried.
    #[error("{0}")]
    Unavailable(String),
    /// Too many wait.
    #[error("{0}")]
    Busy(String),
    /// The model failed.
    #[error("{0}")]
    Model(String),
    /// The model takes too long.
    #[error("{0}")]
    Slow(String),
}

/// A tensor that a model takes or gives, for its metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorInfo {
    /// Its name.
    pub name: String,
    /// Its type.
    pub datatype: Datatype,
    /// Its shape; -1 for any length.
    pub shape: Vec<i64>,
}

/// What a model says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// What runs it, as in the protocol's `platform`.
    pub platform: String,
    /// What it takes.
    pub inputs: Vec<TensorInfo>,
    /// What it gives.
    pub outputs: Vec<TensorInfo>,
}

/// A loaded model. The smallest interface that serves.
#[async_trait]
pub trait Model: Send + Sync {
    /// What it takes and gives.
    fn metadata(&self) -> Metadata;
    /// Predicts. May be called from many tasks at once.
    async fn infer(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError>;
    /// Why it can't be asked at this moment, if so.
    fn unready(&self) -> Option<String> {
        None
    }
    /// Ends what belongs to the model.
    async fn close(&self) {}
}

/// A model that can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The folder isn't servable.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The AutoML model is broken.
    #[error("the AutoML model in {} cannot be loaded: {source}", .path.display())]
    Lightgbm {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: cumulo_learn::model::ModelError,
    },
    /// The ONNX model is broken or needs what isn't there.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The Python worker does not start.
    #[error(transparent)]
    Python(#[from] PythonError),
    /// Loading was broken off.
    #[error("loading the model was broken off: {0}")]
    Aborted(String),
}

/// Loads the model that the options name.
pub async fn open(options: &Options) -> Result<Arc<dyn Model>, LoadError> {
    let path = options.model.clone();
    let choice = options.runtime;
    let folder = blocking(move || mlmodel::inspect(&path, choice)).await??;
    let model: Arc<dyn Model> = match folder.plan {
        Plan::Lightgbm(path) => {
            let load = move || lightgbm::Lightgbm::open(&path);
            Arc::new(inline::InProcess::new(blocking(load).await??, None))
        }
        Plan::Onnx(path) => {
            let options = options.clone();
            let signature = folder.signature;
            let load = move || onnx::open(&path, &options, &signature);
            Arc::new(inline::InProcess::new(blocking(load).await??, Some(1)))
        }
        Plan::Python(path) => {
            Arc::new(python::Python::start(path, options, folder.signature).await?)
        }
    };
    Ok(model)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, LoadError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| LoadError::Aborted(error.to_string()))
}

/// A signature's columns as tensors of any length.
fn columns(fields: &[Field]) -> Vec<TensorInfo> {
    let info = |field: &Field| TensorInfo {
        name: field.name.clone(),
        datatype: match field.kind.as_str() {
            "boolean" => Datatype::Bool,
            "integer" => Datatype::Int32,
            "long" => Datatype::Int64,
            "float" => Datatype::Fp32,
            "double" => Datatype::Fp64,
            _ => Datatype::Bytes,
        },
        shape: vec![-1],
    };
    fields.iter().map(info).collect()
}

/// A sentence that names missing columns and what may have been meant.
fn missing_columns(missing: &[&str], given: &[&str]) -> String {
    let mut message = match missing {
        [one] => format!("column `{one}` is missing"),
        many => {
            let shown: Vec<String> = many
                .iter()
                .take(20)
                .map(|name| format!("`{name}`"))
                .collect();
            format!("{} columns are missing: {}", many.len(), shown.join(", "))
        }
    };
    let mut hints = Vec::new();
    for name in missing.iter().take(5) {
        let nearest = given
            .iter()
            .map(|given| {
                (
                    strsim::jaro_winkler(&given.to_lowercase(), &name.to_lowercase()),
                    given,
                )
            })
            .filter(|(score, _)| *score > 0.8)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        if let Some((_, given)) = nearest {
            hints.push(format!("is `{given}` meant to be `{name}`?"));
        }
    }
    if hints.is_empty() {
        let shown: Vec<String> = given
            .iter()
            .take(20)
            .map(|name| format!("`{name}`"))
            .collect();
        message.push_str(&format!("; given were {}", shown.join(", ")));
    } else {
        message.push_str(&format!("; {}", hints.join(" ")));
    }
    message
}
