//! From the tensors of a request to those that a graph takes: pure.
//!
//! A graph takes either the request's tensors by name (a column `[n]` where it
//! wants `[n, 1]` is reshaped), or one matrix, which is made of the request's
//! columns in the order of the model's signature.

use crate::runtime::{InferError, missing_columns};
use crate::tensor::{Data, Datatype, Tensor};

/// An input of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ModelInput {
    pub(super) name: String,
    pub(super) datatype: Datatype,
    /// Lengths; none where any will do.
    pub(super) shape: Vec<Option<usize>>,
}

/// The tensors in the order of the graph's inputs.
pub(super) fn arrange(
    wanted: &[ModelInput],
    mut given: Vec<Tensor>,
    columns: &[String],
) -> Result<Vec<Tensor>, InferError> {
    if given.iter().any(|tensor| tensor.data.is_empty()) {
        return Err(InferError::Input("there are no rows to predict".into()));
    }
    let find = |given: &[Tensor], name: &str| given.iter().position(|tensor| tensor.name == name);
    let missing: Vec<&str> = wanted
        .iter()
        .map(|input| input.name.as_str())
        .filter(|name| find(&given, name).is_none())
        .collect();
    if missing.is_empty() {
        let mut arranged = Vec::with_capacity(wanted.len());
        for input in wanted {
            if let Some(position) = find(&given, &input.name) {
                arranged.push(fit(input, given.swap_remove(position))?);
            }
        }
        return Ok(arranged);
    }
    match wanted {
        [input] if input.shape.len() == 2 && input.datatype != Datatype::Bytes => {
            Ok(vec![fit(input, matrix(input, &given, columns)?)?])
        }
        _ => {
            let names: Vec<&str> = given.iter().map(|tensor| tensor.name.as_str()).collect();
            Err(InferError::Input(missing_columns(&missing, &names)))
        }
    }
}

/// One matrix of numeric columns.
fn matrix(input: &ModelInput, given: &[Tensor], columns: &[String]) -> Result<Tensor, InferError> {
    let names: Vec<&str> = given.iter().map(|tensor| tensor.name.as_str()).collect();
    let missing: Vec<&str> = columns
        .iter()
        .map(String::as_str)
        .filter(|name| !names.contains(name))
        .collect();
    if !missing.is_empty() {
        return Err(InferError::Input(missing_columns(&missing, &names)));
    }
    let order: Vec<&Tensor> = match columns {
        [] => given.iter().collect(),
        columns => columns
            .iter()
            .filter_map(|name| given.iter().find(|tensor| tensor.name == *name))
            .collect(),
    };
    let width = order.len();
    if let Some(Some(wanted)) = input.shape.get(1)
        && *wanted != width
    {
        return Err(InferError::Input(format!(
            "the model takes one input `{}` of {wanted} columns, but the request has {width}: {}",
            input.name,
            names.join(", ")
        )));
    }
    let rows = order.first().map_or(0, |tensor| tensor.data.len());
    let mut values = vec![0.0; rows * width];
    for (position, tensor) in order.iter().enumerate() {
        if !tensor.is_column() || tensor.data.len() != rows {
            return Err(InferError::Input(format!(
                "column `{}` has shape {:?}; all columns must have the same number of rows, {rows}",
                tensor.name, tensor.shape
            )));
        }
        let Some(column) = tensor.data.to_f64() else {
            return Err(InferError::Input(format!(
                "column `{}` must hold numbers, but holds {}",
                tensor.name,
                tensor.data.kind()
            )));
        };
        for (row, value) in column.into_iter().enumerate() {
            values[row * width + position] = value;
        }
    }
    Ok(Tensor {
        name: input.name.clone(),
        datatype: Datatype::Fp64,
        shape: vec![rows, width],
        data: Data::F64(values),
    })
}

/// Checks and adapts a tensor's shape.
fn fit(input: &ModelInput, mut tensor: Tensor) -> Result<Tensor, InferError> {
    if tensor.shape.len() == 1 && input.shape.len() == 2 && matches!(input.shape[1], None | Some(1))
    {
        tensor.shape.push(1);
    }
    if tensor.shape.len() == 2 && tensor.shape[1] == 1 && input.shape.len() == 1 {
        tensor.shape.pop();
    }
    let fits = input.shape.is_empty()
        || (input.shape.len() == tensor.shape.len()
            && input
                .shape
                .iter()
                .zip(&tensor.shape)
                .all(|(wanted, given)| wanted.is_none_or(|wanted| wanted == *given)));
    if !fits {
        let wanted: Vec<i64> = input
            .shape
            .iter()
            .map(|length| length.map_or(-1, |length| length as i64))
            .collect();
        return Err(InferError::Input(format!(
            "input `{}` must have shape {wanted:?} (-1: any length), but has {:?}",
            input.name, tensor.shape
        )));
    }
    let text = matches!(tensor.data, Data::Text(_));
    if text != (input.datatype == Datatype::Bytes) {
        return Err(InferError::Input(format!(
            "input `{}` must hold {}, but holds {}",
            input.name,
            if text { "numbers" } else { "text" },
            tensor.data.kind()
        )));
    }
    Ok(tensor)
}

/// The elements as integers between `least` and `greatest`.
pub(super) fn integers<T: TryFrom<i64>>(tensor: &Tensor) -> Result<Vec<T>, InferError> {
    let wrong = |value: f64| {
        InferError::Input(format!(
            "input `{}` must hold whole numbers in the range of the model's type, but has {value}",
            tensor.name
        ))
    };
    let one = |value: i64| T::try_from(value).map_err(|_| wrong(value as f64));
    match &tensor.data {
        Data::I64(values) => values.iter().map(|value| one(*value)).collect(),
        Data::U64(values) => values
            .iter()
            .map(|value| one(i64::try_from(*value).map_err(|_| wrong(*value as f64))?))
            .collect(),
        Data::Bool(values) => values
            .iter()
            .map(|value| one(i64::from(value.ok_or_else(|| wrong(f64::NAN))?)))
            .collect(),
        Data::F32(_) | Data::F64(_) => tensor
            .data
            .to_f64()
            .unwrap_or_default()
            .into_iter()
            .map(|value| match value.fract() == 0.0 && value.abs() < 9.0e15 {
                true => one(value as i64),
                false => Err(wrong(value)),
            })
            .collect(),
        Data::Text(_) => Err(wrong(f64::NAN)),
    }
}

/// The elements as FP32.
pub(super) fn floats(data: Data) -> Vec<f32> {
    match data {
        Data::F32(values) => values,
        other => other
            .to_f64()
            .unwrap_or_default()
            .into_iter()
            .map(|value| value as f32)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, shape: &[Option<usize>]) -> ModelInput {
        ModelInput {
            name: name.into(),
            datatype: Datatype::Fp32,
            shape: shape.to_vec(),
        }
    }

    fn column(name: &str, values: &[f64]) -> Tensor {
        Tensor::column(name, Data::F64(values.to_vec()))
    }

    fn message(wanted: &[ModelInput], given: Vec<Tensor>, columns: &[String]) -> String {
        arrange(wanted, given, columns)
            .expect_err("a mistake")
            .to_string()
    }

    #[test]
    fn columns_become_the_matrix_in_the_order_of_the_signature() {
        let wanted = [input("x", &[None, Some(2)])];
        let given = || vec![column("b", &[3.0, 4.0]), column("a", &[1.0, 2.0])];
        let order = ["a".to_owned(), "b".to_owned()];
        let matrix = &arrange(&wanted, given(), &order).expect("a matrix")[0];
        assert_eq!(matrix.shape, [2, 2]);
        assert_eq!(matrix.data, Data::F64(vec![1.0, 3.0, 2.0, 4.0]));
        let as_sent = &arrange(&wanted, given(), &[]).expect("a matrix")[0];
        assert_eq!(as_sent.data, Data::F64(vec![3.0, 1.0, 4.0, 2.0]));
        let mut one = given();
        one.truncate(1);
        insta::assert_snapshot!(message(&wanted, one, &order), @"column `a` is missing; given were `b`");
    }

    #[test]
    fn tensors_by_name_are_reshaped_and_checked() {
        let wanted = [input("b", &[None, Some(1)]), input("a", &[None])];
        let given = vec![
            column("a", &[1.0]),
            column("b", &[2.0]),
            column("other", &[3.0]),
        ];
        let arranged = arrange(&wanted, given, &[]).expect("both");
        assert_eq!(arranged[0].shape, [1, 1]);
        assert_eq!(arranged[1].name, "a");
        let wanted = [
            input("distance", &[None, Some(1)]),
            input("hour", &[None, Some(1)]),
        ];
        let given = vec![column("distanse", &[1.0]), column("hour", &[1.0])];
        insta::assert_snapshot!(message(&wanted, given, &[]), @"column `distance` is missing; is `distanse` meant to be `distance`?");
        let image = [input("image", &[None, Some(3), None, None])];
        insta::assert_snapshot!(message(&image, vec![column("image", &[1.0])], &[]), @"input `image` must have shape [-1, 3, -1, -1] (-1: any length), but has [1]");
        let text = vec![Tensor::column("x", Data::Text(vec![None]))];
        insta::assert_snapshot!(message(&[input("x", &[None])], text, &[]), @"input `x` must hold numbers, but holds text");
        insta::assert_snapshot!(message(&[input("x", &[None])], vec![column("x", &[])], &[]), @"there are no rows to predict");
    }
}
