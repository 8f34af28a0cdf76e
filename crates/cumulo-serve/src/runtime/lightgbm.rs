//! AutoML models: the training's own feature code and trees, in process.

use std::path::Path;

use cumulo_learn::model::{OutputType, PredictError};
use cumulo_learn::{Column, Columns, LoadedModel};

use super::inline::Compute;
use super::{InferError, LoadError, Metadata, TensorInfo};
use crate::tensor::{Data, Datatype, Tensor};

pub(super) struct Lightgbm {
    model: LoadedModel,
}

impl Lightgbm {
    pub(super) fn open(path: &Path) -> Result<Self, LoadError> {
        let model = LoadedModel::open(path).map_err(|source| LoadError::Lightgbm {
            path: path.into(),
            source,
        })?;
        Ok(Self { model })
    }
}

fn column(tensor: Tensor) -> Result<(String, Column), InferError> {
    if !tensor.is_column() {
        return Err(InferError::Input(format!(
            "input `{}` has shape {:?}, but this model takes columns: send each as a tensor of shape [rows]",
            tensor.name, tensor.shape
        )));
    }
    let column = match tensor.data {
        Data::Bool(values) => Column::Bool(values),
        Data::I64(values) => Column::I64(values),
        Data::U64(values) => Column::F64(values.into_iter().map(|value| value as f64).collect()),
        Data::F32(values) => Column::F64(values.into_iter().map(f64::from).collect()),
        Data::F64(values) => Column::F64(values),
        Data::Text(values) => Column::Str(values),
    };
    Ok((tensor.name, column))
}

fn tensor((name, column): (String, Column)) -> Tensor {
    let data = match column {
        Column::Bool(values) => Data::Bool(values),
        Column::I64(values) => Data::I64(values),
        Column::F64(values) => Data::F64(values),
        Column::Str(values) => Data::Text(values),
        // No model predicts times; were one to, microseconds would do.
        Column::Timestamp(values) => Data::F64(
            values
                .into_iter()
                .map(|value| value.map_or(f64::NAN, |value| value as f64))
                .collect(),
        ),
    };
    Tensor::column(name, data)
}

impl Compute for Lightgbm {
    fn metadata(&self) -> Metadata {
        use cumulo_learn::features::InputType;
        let inputs = self.model.inputs().iter().map(|input| TensorInfo {
            name: input.name.clone(),
            datatype: match input.input_type {
                InputType::Double => Datatype::Fp64,
                InputType::Long => Datatype::Int64,
                InputType::Boolean => Datatype::Bool,
                InputType::String | InputType::Datetime => Datatype::Bytes,
            },
            shape: vec![-1],
        });
        let outputs = self.model.outputs().iter().map(|output| TensorInfo {
            name: output.name.clone(),
            datatype: match output.output_type {
                OutputType::Double => Datatype::Fp64,
                OutputType::Long => Datatype::Int64,
                OutputType::Boolean => Datatype::Bool,
                OutputType::String => Datatype::Bytes,
            },
            shape: vec![-1],
        });
        Metadata {
            platform: "cumulo_lightgbm".into(),
            inputs: inputs.collect(),
            outputs: outputs.collect(),
        }
    }

    fn compute(&self, inputs: Vec<Tensor>) -> Result<Vec<Tensor>, InferError> {
        let columns: Vec<(String, Column)> =
            inputs.into_iter().map(column).collect::<Result<_, _>>()?;
        let columns =
            Columns::new(columns).map_err(|error| InferError::Input(error.to_string()))?;
        let predictions = self.model.predict(&columns).map_err(|error| match error {
            PredictError::NoRows | PredictError::Columns(_) => InferError::Input(error.to_string()),
        })?;
        Ok(predictions.columns.into_iter().map(tensor).collect())
    }
}
