//! ONNX models: ONNX Runtime where it is installed (1.6 to 3 times faster),
//! RTen otherwise (nothing to install).

mod arrange;
mod onnxruntime;
mod rten;

use std::path::{Path, PathBuf};

use super::inline::Compute;
use super::{InferError, Metadata};
use crate::mlmodel::Signature;
use crate::options::Options;
use crate::tensor::Tensor;
use arrange::ModelInput;

/// An ONNX model that can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum OnnxError {
    /// RTen refuses it.
    #[error("RTen cannot load {}: {reason}; ONNX Runtime knows all operators: `uv pip install onnxruntime` and set CUMULO_ONNXRUNTIME to its libonnxruntime.so", .path.display())]
    Rten {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// ONNX Runtime refuses it.
    #[error("ONNX Runtime cannot load {}: {reason}", .path.display())]
    OnnxRuntime {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The library isn't one.
    #[error("{} is no usable ONNX Runtime library: {reason}", .path.display())]
    Library {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// One of the two engines.
trait Engine: Send + Sync + 'static {
    fn platform(&self) -> &'static str;
    fn inputs(&self) -> &[ModelInput];
    fn outputs(&self) -> &[super::TensorInfo];
    /// Runs on tensors that are in the order of `inputs`.
    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError>;
}

pub(super) struct Onnx {
    engine: Box<dyn Engine>,
    /// Columns in the order in which a matrix is made of them.
    columns: Vec<String>,
}

/// Loads an ONNX file.
pub(super) fn open(
    path: &Path,
    options: &Options,
    signature: &Signature,
) -> Result<Onnx, OnnxError> {
    let variable = |name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    let library = options
        .onnxruntime
        .clone()
        .or_else(|| variable("CUMULO_ONNXRUNTIME"))
        .or_else(|| variable("ORT_DYLIB_PATH"));
    let engine: Box<dyn Engine> = match library {
        Some(library) => Box::new(onnxruntime::OnnxRuntime::open(
            path,
            &library,
            options.threads,
        )?),
        None => Box::new(rten::Rten::open(path, options.threads)?),
    };
    tracing::info!(platform = engine.platform(), model = %path.display(), "onnx model loaded");
    let columns = signature
        .inputs
        .iter()
        .map(|field| field.name.clone())
        .collect();
    Ok(Onnx { engine, columns })
}

impl Compute for Onnx {
    fn metadata(&self) -> Metadata {
        let input = |input: &ModelInput| super::TensorInfo {
            name: input.name.clone(),
            datatype: input.datatype,
            shape: input
                .shape
                .iter()
                .map(|length| length.map_or(-1, |length| length as i64))
                .collect(),
        };
        Metadata {
            platform: self.engine.platform().into(),
            inputs: self.engine.inputs().iter().map(input).collect(),
            outputs: self.engine.outputs().to_vec(),
        }
    }

    fn compute(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        let inputs = arrange::arrange(self.engine.inputs(), inputs, &self.columns)?;
        self.engine.run(inputs)
    }
}
