//! ONNX by ONNX Runtime, loaded from a library file at run time.

use std::path::{Path, PathBuf};

use ort::environment::Environment;
use ort::session::{Session, SessionInputValue};
use ort::value::{DynMapValueType, DynValue, Tensor as OrtTensor, TensorElementType, ValueType};
use parking_lot::Mutex;

use super::arrange::{ModelInput, floats, integers};
use super::{Engine, OnnxError};
use crate::runtime::{InferError, TensorInfo};
use crate::tensor::{Data, Datatype, Tensor};

/// The library can be loaded once per process.
static ENVIRONMENT: Mutex<Option<(PathBuf, Environment)>> = Mutex::new(None);

fn environment(library: &Path) -> Result<Environment, OnnxError> {
    let mut loaded = ENVIRONMENT.lock();
    if let Some((_, environment)) = &*loaded {
        return Ok(environment.clone());
    }
    let wrong = |reason: String| OnnxError::Library {
        path: library.into(),
        reason,
    };
    let environment = ort::init_from(library)
        .map_err(|error| wrong(error.to_string()))?
        .with_name("cumulo")
        .with_telemetry(false)
        .build()
        .map_err(|error| wrong(error.to_string()))?;
    *loaded = Some((library.into(), environment.clone()));
    Ok(environment)
}

pub(super) struct OnnxRuntime {
    /// Running needs exclusive access.
    session: Mutex<Session>,
    types: Vec<TensorElementType>,
    inputs: Vec<ModelInput>,
    outputs: Vec<TensorInfo>,
}

fn protocol(ty: TensorElementType) -> Option<Datatype> {
    Some(match ty {
        TensorElementType::Bool => Datatype::Bool,
        TensorElementType::Uint8 => Datatype::Uint8,
        TensorElementType::Uint16 => Datatype::Uint16,
        TensorElementType::Uint32 => Datatype::Uint32,
        TensorElementType::Uint64 => Datatype::Uint64,
        TensorElementType::Int8 => Datatype::Int8,
        TensorElementType::Int16 => Datatype::Int16,
        TensorElementType::Int32 => Datatype::Int32,
        TensorElementType::Int64 => Datatype::Int64,
        TensorElementType::Float32 => Datatype::Fp32,
        TensorElementType::Float64 => Datatype::Fp64,
        TensorElementType::String => Datatype::Bytes,
        _ => return None,
    })
}

impl OnnxRuntime {
    pub(super) fn open(path: &Path, library: &Path, threads: usize) -> Result<Self, OnnxError> {
        let environment = environment(library)?;
        let wrong = |reason: String| OnnxError::OnnxRuntime {
            path: path.into(),
            reason,
        };
        let mut builder =
            Session::builder(&environment).map_err(|error| wrong(error.to_string()))?;
        if threads > 0 {
            builder = builder
                .with_intra_threads(threads)
                .map_err(|error| wrong(error.to_string()))?;
        }
        // Threads that spin for work would burn a core while nothing is asked.
        let mut builder = builder
            .with_config_entry("session.intra_op.allow_spinning", "0")
            .map_err(|error| wrong(error.to_string()))?;
        let session = builder
            .commit_from_file(path)
            .map_err(|error| wrong(error.to_string()))?;
        let (mut inputs, mut types) = (Vec::new(), Vec::new());
        for input in session.inputs() {
            let ValueType::Tensor { ty, shape, .. } = input.dtype() else {
                return Err(wrong(format!("input `{}` is no tensor", input.name())));
            };
            let Some(datatype) = protocol(*ty) else {
                return Err(wrong(format!(
                    "input `{}` is of type {ty}, which is not supported",
                    input.name()
                )));
            };
            types.push(*ty);
            inputs.push(ModelInput {
                name: input.name().into(),
                datatype,
                shape: shape
                    .iter()
                    .map(|length| usize::try_from(*length).ok())
                    .collect(),
            });
        }
        let outputs = session.outputs().iter().map(|output| {
            let (datatype, shape) = match output.dtype() {
                ValueType::Tensor { ty, shape, .. } => {
                    (protocol(*ty).unwrap_or(Datatype::Fp32), shape.to_vec())
                }
                // A probability per class and row.
                _ => (Datatype::Fp32, vec![-1, -1]),
            };
            TensorInfo {
                name: output.name().into(),
                datatype,
                shape,
            }
        });
        Ok(Self {
            outputs: outputs.collect(),
            types,
            inputs,
            session: Mutex::new(session),
        })
    }
}

fn failed(error: ort::Error) -> InferError {
    InferError::Model(format!("ONNX Runtime: {error}"))
}

fn value(tensor: Tensor, ty: TensorElementType) -> Result<DynValue, InferError> {
    let shape: Vec<i64> = tensor.shape.iter().map(|length| *length as i64).collect();
    macro_rules! made {
        ($data:expr) => {
            OrtTensor::from_array((shape, $data))
                .map(|tensor| tensor.into_dyn())
                .map_err(failed)
        };
    }
    match ty {
        TensorElementType::Float32 => made!(floats(tensor.data)),
        TensorElementType::Float64 => made!(tensor.data.to_f64().unwrap_or_default()),
        TensorElementType::Int8 => made!(integers::<i8>(&tensor)?),
        TensorElementType::Int16 => made!(integers::<i16>(&tensor)?),
        TensorElementType::Int32 => made!(integers::<i32>(&tensor)?),
        TensorElementType::Int64 => made!(integers::<i64>(&tensor)?),
        TensorElementType::Uint8 => made!(integers::<u8>(&tensor)?),
        TensorElementType::Uint16 => made!(integers::<u16>(&tensor)?),
        TensorElementType::Uint32 => made!(integers::<u32>(&tensor)?),
        TensorElementType::Uint64 => made!(integers::<u64>(&tensor)?),
        TensorElementType::Bool => {
            made!(
                integers::<i64>(&tensor)?
                    .into_iter()
                    .map(|value| value != 0)
                    .collect::<Vec<bool>>()
            )
        }
        TensorElementType::String => {
            let Data::Text(values) = tensor.data else {
                return Err(InferError::Input(format!(
                    "input `{}` must hold text",
                    tensor.name
                )));
            };
            let values: Vec<String> = values.into_iter().map(Option::unwrap_or_default).collect();
            OrtTensor::from_string_array((shape, &values[..]))
                .map(|tensor| tensor.into_dyn())
                .map_err(failed)
        }
        other => Err(InferError::Model(format!(
            "the model's input type {other} is not supported"
        ))),
    }
}

/// An output as tensors: one, or for a sequence of maps (what classifiers of
/// scikit-learn give) a matrix with a column per class.
fn tensor(name: &str, value: &DynValue) -> Result<Tensor, InferError> {
    let unsupported = || {
        InferError::Model(format!(
            "output `{name}` is of a type that is not supported"
        ))
    };
    let make = |shape: &[i64], datatype: Datatype, data: Data| Tensor {
        name: name.into(),
        datatype,
        shape: shape.iter().map(|length| *length as usize).collect(),
        data,
    };
    macro_rules! whole {
        ($type:ty, $datatype:expr) => {{
            let (shape, values) = value.try_extract_tensor::<$type>().map_err(failed)?;
            Ok(make(
                shape,
                $datatype,
                Data::I64(values.iter().map(|value| i64::from(*value)).collect()),
            ))
        }};
    }
    match value.dtype() {
        ValueType::Tensor { ty, .. } => match ty {
            TensorElementType::Float32 => {
                let (shape, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
                Ok(make(shape, Datatype::Fp32, Data::F32(values.to_vec())))
            }
            TensorElementType::Float64 => {
                let (shape, values) = value.try_extract_tensor::<f64>().map_err(failed)?;
                Ok(make(shape, Datatype::Fp64, Data::F64(values.to_vec())))
            }
            TensorElementType::Int8 => whole!(i8, Datatype::Int8),
            TensorElementType::Int16 => whole!(i16, Datatype::Int16),
            TensorElementType::Int32 => whole!(i32, Datatype::Int32),
            TensorElementType::Int64 => whole!(i64, Datatype::Int64),
            TensorElementType::Uint8 => whole!(u8, Datatype::Uint8),
            TensorElementType::Uint16 => whole!(u16, Datatype::Uint16),
            TensorElementType::Uint32 => whole!(u32, Datatype::Uint32),
            TensorElementType::Uint64 => {
                let (shape, values) = value.try_extract_tensor::<u64>().map_err(failed)?;
                Ok(make(shape, Datatype::Uint64, Data::U64(values.to_vec())))
            }
            TensorElementType::Bool => {
                let (shape, values) = value.try_extract_tensor::<bool>().map_err(failed)?;
                Ok(make(
                    shape,
                    Datatype::Bool,
                    Data::Bool(values.iter().copied().map(Some).collect()),
                ))
            }
            TensorElementType::String => {
                let (shape, values) = value.try_extract_strings().map_err(failed)?;
                Ok(make(
                    shape,
                    Datatype::Bytes,
                    Data::Text(values.into_iter().map(Some).collect()),
                ))
            }
            _ => Err(unsupported()),
        },
        ValueType::Sequence(_) => {
            let sequence = value
                .view()
                .downcast::<ort::value::DynSequenceValueType>()
                .map_err(|_| unsupported())?;
            let maps = sequence
                .try_extract_sequence::<DynMapValueType>()
                .map_err(failed)?;
            let (mut width, mut values) = (0, Vec::new());
            for map in &maps {
                let row = map_values(map).map_err(|_| unsupported())?;
                width = row.len();
                values.extend(row);
            }
            Ok(make(
                &[maps.len() as i64, width as i64],
                Datatype::Fp32,
                Data::F32(values),
            ))
        }
        _ => Err(unsupported()),
    }
}

/// A map's values in the order of its keys.
fn map_values(map: &ort::value::DynMap) -> ort::Result<Vec<f32>> {
    match map.dtype() {
        ValueType::Map {
            key: TensorElementType::String,
            ..
        } => {
            let mut pairs = map.try_extract_key_values::<String, f32>()?;
            pairs.sort_by(|a, b| a.0.cmp(&b.0));
            Ok(pairs.into_iter().map(|(_, value)| value).collect())
        }
        _ => {
            let mut pairs = map.try_extract_key_values::<i64, f32>()?;
            pairs.sort_by_key(|(key, _)| *key);
            Ok(pairs.into_iter().map(|(_, value)| value).collect())
        }
    }
}

impl Engine for OnnxRuntime {
    fn platform(&self) -> &'static str {
        "onnx_onnxruntime"
    }

    fn inputs(&self) -> &[ModelInput] {
        &self.inputs
    }

    fn outputs(&self) -> &[TensorInfo] {
        &self.outputs
    }

    fn run(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        let mut values: Vec<(String, SessionInputValue<'_>)> = Vec::with_capacity(inputs.len());
        for (tensor, ty) in inputs.into_iter().zip(&self.types) {
            values.push((tensor.name.clone(), value(tensor, *ty)?.into()));
        }
        let mut session = self.session.lock();
        let outputs = session.run(values).map_err(failed)?;
        self.outputs
            .iter()
            .filter_map(|info| Some((info, outputs.get(&info.name)?)))
            .map(|(info, value)| tensor(&info.name, value))
            .collect()
    }
}
