//! Parsing an inference request.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_json::value::RawValue;

use super::elements::{Elements, Nested};
use crate::tensor::{DATATYPES, Datatype, Tensor};

/// An inference request.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// The client's name for it, given back in the answer.
    pub id: Option<String>,
    /// The tensors: columns, mostly.
    pub inputs: Vec<Tensor>,
    /// The outputs that are wanted; none means all.
    pub outputs: Vec<String>,
}

/// What is wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// It isn't JSON, or not of this shape.
    #[error(
        "the request is no inference request: {0}; expected {{\"inputs\": [{{\"name\", \"shape\", \"datatype\", \"data\"}}, …]}}"
    )]
    Json(String),
    /// There is nothing in it.
    #[error("the request has no inputs; send each column as a tensor in `inputs`")]
    NoInputs,
    /// A type that the protocol hasn't got.
    #[error(
        "input `{name}`: `{datatype}` is no datatype; choose one of {}",
        datatypes()
    )]
    Datatype {
        /// The tensor.
        name: String,
        /// What it says.
        datatype: String,
    },
    /// An element of another type.
    #[error("input `{name}`: {reason}")]
    Data {
        /// The tensor.
        name: String,
        /// What is wrong, with the element's position.
        reason: String,
    },
    /// The shape and the data differ.
    #[error("input `{name}`: shape {shape:?} means {expected} elements, but data has {found}")]
    Shape {
        /// The tensor.
        name: String,
        /// What it says.
        shape: Vec<usize>,
        /// Its product.
        expected: u128,
        /// What there is.
        found: usize,
    },
    /// A tensor that is given twice.
    #[error("input `{0}` is given twice")]
    Twice(String),
    /// Data in a form that isn't taken.
    #[error(
        "input `{0}` has no `data`; binary tensors are not supported, send the elements as JSON"
    )]
    NoData(String),
}

fn datatypes() -> String {
    DATATYPES.map(|(_, name)| name).join(", ")
}

#[derive(Deserialize)]
struct RawRequest<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inputs: Vec<RawTensor<'a>>,
    #[serde(borrow, default)]
    outputs: Option<Vec<RawOutput<'a>>>,
}

#[derive(Deserialize)]
struct RawTensor<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(default)]
    shape: Option<Vec<usize>>,
    #[serde(borrow)]
    datatype: Cow<'a, str>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct RawOutput<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

/// serde_json's message, with a hint for the commonest mistake.
fn json_error(error: &serde_json::Error, body: &[u8]) -> ParseError {
    let mut message = error.to_string();
    if error.is_syntax() && body.windows(3).any(|window| window == b"NaN") {
        message.push_str(" (JSON has no NaN: write null for a missing value)");
    }
    ParseError::Json(message)
}

/// Parses the body of an `infer` request.
pub fn parse(body: &[u8]) -> Result<Request, ParseError> {
    let raw: RawRequest<'_> =
        serde_json::from_slice(body).map_err(|error| json_error(&error, body))?;
    if raw.inputs.is_empty() {
        return Err(ParseError::NoInputs);
    }
    let mut inputs: Vec<Tensor> = Vec::with_capacity(raw.inputs.len());
    for tensor in raw.inputs {
        inputs.push(parse_tensor(tensor)?);
    }
    if let Some(name) = repeated(&inputs) {
        return Err(ParseError::Twice(name));
    }
    Ok(Request {
        id: raw.id.map(Cow::into_owned),
        inputs,
        outputs: raw
            .outputs
            .unwrap_or_default()
            .into_iter()
            .map(|output| output.name.into_owned())
            .collect(),
    })
}

fn repeated(inputs: &[Tensor]) -> Option<String> {
    let mut names: Vec<&str> = inputs.iter().map(|tensor| tensor.name.as_str()).collect();
    names.sort_unstable();
    let twice = names.windows(2).find(|pair| pair[0] == pair[1])?;
    Some(twice[0].to_owned())
}

fn parse_tensor(raw: RawTensor<'_>) -> Result<Tensor, ParseError> {
    let name = raw.name.into_owned();
    let Some(datatype) = Datatype::parse(&raw.datatype) else {
        return Err(ParseError::Datatype {
            name,
            datatype: raw.datatype.into_owned(),
        });
    };
    let Some(data) = raw.data else {
        return Err(ParseError::NoData(name));
    };
    let wanted: Option<u128> = raw
        .shape
        .as_ref()
        .map(|shape| shape.iter().map(|length| *length as u128).product());
    let capacity = wanted.and_then(|wanted| usize::try_from(wanted).ok());
    let mut elements = Elements::new(datatype, capacity.unwrap_or(1));
    if !data.get().starts_with('[') {
        return Err(ParseError::Data {
            name,
            reason: "`data` must be an array".into(),
        });
    }
    let mut deserializer = serde_json::Deserializer::from_str(data.get());
    let nested = Nested {
        elements: &mut elements,
        depth: 0,
    };
    if let Err(error) = nested.deserialize(&mut deserializer) {
        // The position is within the data, which tells the client nothing.
        let reason = error.to_string();
        let reason = reason
            .split(" at line ")
            .next()
            .unwrap_or(&reason)
            .to_owned();
        return Err(ParseError::Data { name, reason });
    }
    let data = elements.finish();
    let shape = raw.shape.unwrap_or_else(|| vec![data.len()]);
    match wanted {
        Some(expected) if expected != data.len() as u128 => Err(ParseError::Shape {
            name,
            shape,
            expected,
            found: data.len(),
        }),
        _ => Ok(Tensor {
            name,
            datatype,
            shape,
            data,
        }),
    }
}

/// Parses a bare array of tensors.
pub(crate) fn parse_tensors(text: &str) -> Result<Vec<Tensor>, ParseError> {
    let raw: Vec<RawTensor<'_>> =
        serde_json::from_str(text).map_err(|error| ParseError::Json(error.to_string()))?;
    raw.into_iter().map(parse_tensor).collect()
}
