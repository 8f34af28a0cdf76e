//! Tensors as the Open Inference Protocol has them.

use std::fmt;

use serde::ser::{Serialize, SerializeSeq, SerializeStruct, Serializer};

/// The protocol's element types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Datatype {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Fp32,
    Fp64,
    Bytes,
}

/// All types, for parsing and for messages.
pub const DATATYPES: [(Datatype, &str); 13] = [
    (Datatype::Bool, "BOOL"),
    (Datatype::Uint8, "UINT8"),
    (Datatype::Uint16, "UINT16"),
    (Datatype::Uint32, "UINT32"),
    (Datatype::Uint64, "UINT64"),
    (Datatype::Int8, "INT8"),
    (Datatype::Int16, "INT16"),
    (Datatype::Int32, "INT32"),
    (Datatype::Int64, "INT64"),
    (Datatype::Fp16, "FP16"),
    (Datatype::Fp32, "FP32"),
    (Datatype::Fp64, "FP64"),
    (Datatype::Bytes, "BYTES"),
];

impl Datatype {
    /// The protocol's name of the type.
    pub fn name(self) -> &'static str {
        DATATYPES
            .iter()
            .find(|(datatype, _)| *datatype == self)
            .map_or("", |(_, name)| name)
    }

    /// The type of that name.
    pub fn parse(name: &str) -> Option<Self> {
        DATATYPES
            .iter()
            .find(|(_, known)| *known == name)
            .map(|(datatype, _)| *datatype)
    }

    /// The least and the greatest value of an integer type.
    pub fn range(self) -> Option<(i128, i128)> {
        Some(match self {
            Self::Uint8 => (0, u8::MAX.into()),
            Self::Uint16 => (0, u16::MAX.into()),
            Self::Uint32 => (0, u32::MAX.into()),
            Self::Uint64 => (0, u64::MAX.into()),
            Self::Int8 => (i8::MIN.into(), i8::MAX.into()),
            Self::Int16 => (i16::MIN.into(), i16::MAX.into()),
            Self::Int32 => (i32::MIN.into(), i32::MAX.into()),
            Self::Int64 => (i64::MIN.into(), i64::MAX.into()),
            _ => return None,
        })
    }
}

impl fmt::Display for Datatype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The elements of a tensor, in row-major order.
#[derive(Debug, Clone, PartialEq)]
pub enum Data {
    /// Truth values; `None` is missing.
    Bool(Vec<Option<bool>>),
    /// Integers of all types but UINT64.
    I64(Vec<i64>),
    /// UINT64.
    U64(Vec<u64>),
    /// FP16 and FP32.
    F32(Vec<f32>),
    /// FP64; `NaN` is missing, also in what came as integers with gaps.
    F64(Vec<f64>),
    /// Text; `None` is missing.
    Text(Vec<Option<String>>),
}

impl Data {
    /// Number of elements.
    pub fn len(&self) -> usize {
        match self {
            Self::Bool(values) => values.len(),
            Self::I64(values) => values.len(),
            Self::U64(values) => values.len(),
            Self::F32(values) => values.len(),
            Self::F64(values) => values.len(),
            Self::Text(values) => values.len(),
        }
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as numbers, if they are some.
    pub fn to_f64(&self) -> Option<Vec<f64>> {
        Some(match self {
            Self::Bool(values) => values
                .iter()
                .map(|value| value.map_or(f64::NAN, |value| f64::from(u8::from(value))))
                .collect(),
            Self::I64(values) => values.iter().map(|value| *value as f64).collect(),
            Self::U64(values) => values.iter().map(|value| *value as f64).collect(),
            Self::F32(values) => values.iter().map(|value| f64::from(*value)).collect(),
            Self::F64(values) => values.clone(),
            Self::Text(_) => return None,
        })
    }

    /// The kind of elements in words a person uses.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Bool(_) => "truth values",
            Self::I64(_) | Self::U64(_) => "whole numbers",
            Self::F32(_) | Self::F64(_) => "numbers",
            Self::Text(_) => "text",
        }
    }
}

/// A named array.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    /// Its name: the column's, where tensors are columns.
    pub name: String,
    /// The type it came in or goes out as.
    pub datatype: Datatype,
    /// Its shape; the product is the number of elements.
    pub shape: Vec<usize>,
    /// Its elements.
    pub data: Data,
}

impl Tensor {
    /// A column: a tensor of shape `[n]`.
    pub fn column(name: impl Into<String>, data: Data) -> Self {
        let datatype = match &data {
            Data::Bool(_) => Datatype::Bool,
            Data::I64(_) => Datatype::Int64,
            Data::U64(_) => Datatype::Uint64,
            Data::F32(_) => Datatype::Fp32,
            Data::F64(_) => Datatype::Fp64,
            Data::Text(_) => Datatype::Bytes,
        };
        Self {
            name: name.into(),
            datatype,
            shape: vec![data.len()],
            data,
        }
    }

    /// Whether the tensor is one column: `[n]` or `[n, 1]`.
    pub fn is_column(&self) -> bool {
        matches!(self.shape[..], [_] | [_, 1])
    }
}

/// A float as JSON has it: what isn't finite is `null`.
fn float<S: SerializeSeq>(seq: &mut S, value: f64, whole: bool) -> Result<(), S::Error> {
    if !value.is_finite() {
        seq.serialize_element(&())
    } else if whole {
        // Integers that came with gaps go out as integers again.
        seq.serialize_element(&(value as i64))
    } else {
        seq.serialize_element(&value)
    }
}

struct Elements<'a>(&'a Tensor);

impl Serialize for Elements<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut seq = serializer.serialize_seq(Some(self.0.data.len()))?;
        match &self.0.data {
            Data::Bool(values) => values
                .iter()
                .try_for_each(|value| seq.serialize_element(value))?,
            Data::I64(values) => values
                .iter()
                .try_for_each(|value| seq.serialize_element(value))?,
            Data::U64(values) => values
                .iter()
                .try_for_each(|value| seq.serialize_element(value))?,
            Data::F32(values) => values.iter().try_for_each(|value| {
                match value.is_finite() {
                    // The shortest text that is this FP32, not its FP64 neighbour.
                    true => seq.serialize_element(value),
                    false => seq.serialize_element(&()),
                }
            })?,
            Data::F64(values) => {
                let whole = self.0.datatype.range().is_some();
                values
                    .iter()
                    .try_for_each(|value| float(&mut seq, *value, whole))?;
            }
            Data::Text(values) => values
                .iter()
                .try_for_each(|value| seq.serialize_element(value))?,
        }
        seq.end()
    }
}

impl Serialize for Tensor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tensor = serializer.serialize_struct("Tensor", 4)?;
        tensor.serialize_field("name", &self.name)?;
        tensor.serialize_field("shape", &self.shape)?;
        tensor.serialize_field("datatype", self.datatype.name())?;
        tensor.serialize_field("data", &Elements(self))?;
        tensor.end()
    }
}
