//! ONNX by RTen: pure Rust, nothing to install.

use std::path::Path;
use std::sync::Arc;

use rten::{DataType, Dimension, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueType};
use rten_tensor::prelude::*;

use super::arrange::{ModelInput, floats, integers};
use super::{Engine, OnnxError};
use crate::runtime::{InferError, TensorInfo};
use crate::tensor::{Data, Datatype, Tensor};

pub(super) struct Rten {
    model: rten::Model,
    ids: Vec<NodeId>,
    types: Vec<DataType>,
    inputs: Vec<ModelInput>,
    outputs: Vec<TensorInfo>,
    threads: Option<Arc<ThreadPool>>,
}

fn datatype(dtype: Option<ValueType>) -> DataType {
    match dtype {
        Some(ValueType::Tensor(dtype) | ValueType::Sequence(dtype)) => dtype,
        _ => DataType::Float,
    }
}

fn protocol(dtype: DataType) -> Datatype {
    match dtype {
        DataType::Int32 => Datatype::Int32,
        DataType::Int8 => Datatype::Int8,
        DataType::UInt8 => Datatype::Uint8,
        // RTen 0.27 has no others.
        _ => Datatype::Fp32,
    }
}

impl Rten {
    pub(super) fn open(path: &Path, threads: usize) -> Result<Self, OnnxError> {
        let model = rten::Model::load_file(path).map_err(|error| OnnxError::Rten {
            path: path.into(),
            reason: error.to_string(),
        })?;
        let (mut inputs, mut types) = (Vec::new(), Vec::new());
        for id in model.input_ids() {
            let info = model.node_info(*id);
            let dtype = datatype(info.as_ref().and_then(|info| info.dtype()));
            let shape = info
                .as_ref()
                .and_then(|info| info.shape())
                .unwrap_or_default();
            types.push(dtype);
            inputs.push(ModelInput {
                name: info
                    .and_then(|info| info.name().map(String::from))
                    .unwrap_or_default(),
                datatype: protocol(dtype),
                shape: shape
                    .into_iter()
                    .map(|length| match length {
                        Dimension::Fixed(length) => Some(length),
                        Dimension::Symbolic(_) => None,
                    })
                    .collect(),
            });
        }
        let outputs = model.output_ids().iter().map(|id| {
            let info = model.node_info(*id);
            let shape = info
                .as_ref()
                .and_then(|info| info.shape())
                .unwrap_or_default();
            TensorInfo {
                datatype: protocol(datatype(info.as_ref().and_then(|info| info.dtype()))),
                name: info
                    .and_then(|info| info.name().map(String::from))
                    .unwrap_or_default(),
                shape: shape
                    .into_iter()
                    .map(|length| match length {
                        Dimension::Fixed(length) => length as i64,
                        Dimension::Symbolic(_) => -1,
                    })
                    .collect(),
            }
        });
        Ok(Self {
            ids: model.input_ids().to_vec(),
            types,
            inputs,
            outputs: outputs.collect(),
            threads: (threads > 0).then(|| Arc::new(ThreadPool::with_num_threads(threads))),
            model,
        })
    }
}

/// A value from elements that were checked to be as many as the shape says.
fn value<T>(name: &str, shape: &[usize], data: Vec<T>) -> Result<Value, InferError>
where
    Value: From<rten_tensor::Tensor<T>>,
{
    Value::from_shape(shape, data)
        .map_err(|error| InferError::Input(format!("input `{name}`: {error}")))
}

impl Engine for Rten {
    fn platform(&self) -> &'static str {
        "onnx_rten"
    }

    fn inputs(&self) -> &[ModelInput] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        let mut values: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(inputs.len());
        for ((tensor, id), dtype) in inputs.into_iter().zip(&self.ids).zip(&self.types) {
            let (name, shape) = (&tensor.name, &tensor.shape);
            let value = match dtype {
                DataType::Int32 => value(name, shape, integers::<i32>(&tensor)?)?,
                DataType::Int8 => value(name, shape, integers::<i8>(&tensor)?)?,
                DataType::UInt8 => value(name, shape, integers::<u8>(&tensor)?)?,
                // Float, and there is no other in this version.
                _ => value(name, shape, floats(tensor.data))?,
            };
            values.push((*id, value.into()));
        }
        let options = self.threads.clone().map(|threads| {
            let mut options = RunOptions::default();
            options.thread_pool = Some(threads);
            options
        });
        let results = self
            .model
            .run(values, self.model.output_ids(), options)
            .map_err(|error| InferError::Model(format!("RTen: {error}")))?;
        self.outputs
            .iter()
            .zip(results)
            .map(|(info, value)| {
                let whole = |values: Vec<i64>| Data::I64(values);
                let (datatype, shape, data) = match value {
                    Value::FloatTensor(tensor) => (
                        Datatype::Fp32,
                        tensor.shape().to_vec(),
                        Data::F32(tensor.to_vec()),
                    ),
                    Value::Int32Tensor(tensor) => {
                        let values = tensor.iter().map(|value| i64::from(*value)).collect();
                        (Datatype::Int32, tensor.shape().to_vec(), whole(values))
                    }
                    Value::Int8Tensor(tensor) => {
                        let values = tensor.iter().map(|value| i64::from(*value)).collect();
                        (Datatype::Int8, tensor.shape().to_vec(), whole(values))
                    }
                    Value::UInt8Tensor(tensor) => {
                        let values = tensor.iter().map(|value| i64::from(*value)).collect();
                        (Datatype::Uint8, tensor.shape().to_vec(), whole(values))
                    }
                    _ => {
                        return Err(InferError::Model(format!(
                            "output `{}` is of a type that is not supported over this protocol",
                            info.name
                        )));
                    }
                };
                Ok(Tensor {
                    name: info.name.clone(),
                    datatype,
                    shape,
                    data,
                })
            })
            .collect()
    }
}
