//! The elements of a tensor: flat or nested JSON arrays of the tensor's type.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use crate::tensor::{Data, Datatype};

/// Arrays may be nested this deep.
const MAX_DEPTH: usize = 16;

/// Takes elements in, checking each against the type.
pub(crate) struct Elements {
    datatype: Datatype,
    range: Option<(i128, i128)>,
    data: Data,
}

impl Elements {
    pub(crate) fn new(datatype: Datatype, capacity: usize) -> Self {
        // A shape may lie; what isn't there yet isn't reserved beyond reason.
        let capacity = capacity.min(1 << 16);
        let data = match datatype {
            Datatype::Bool => Data::Bool(Vec::with_capacity(capacity)),
            Datatype::Uint64 => Data::U64(Vec::with_capacity(capacity)),
            Datatype::Fp16 | Datatype::Fp32 => Data::F32(Vec::with_capacity(capacity)),
            Datatype::Fp64 => Data::F64(Vec::with_capacity(capacity)),
            Datatype::Bytes => Data::Text(Vec::with_capacity(capacity)),
            _ => Data::I64(Vec::with_capacity(capacity)),
        };
        Self {
            datatype,
            range: datatype.range(),
            data,
        }
    }

    pub(crate) fn finish(self) -> Data {
        self.data
    }

    fn wrong<E: Error>(&self, found: impl fmt::Display) -> E {
        let position = self.data.len();
        E::custom(format!(
            "element {position} is {found}, which is no {}",
            self.datatype
        ))
    }

    fn integer<E: Error>(&mut self, value: i128) -> Result<(), E> {
        if let Some((least, greatest)) = self.range
            && !(least..=greatest).contains(&value)
        {
            return Err(self.wrong(value));
        }
        match &mut self.data {
            Data::I64(values) => match i64::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return Err(self.wrong(value)),
            },
            Data::U64(values) => match u64::try_from(value) {
                Ok(value) => values.push(value),
                Err(_) => return Err(self.wrong(value)),
            },
            Data::F32(values) => values.push(value as f32),
            Data::F64(values) => values.push(value as f64),
            Data::Bool(values) if value == 0 || value == 1 => values.push(Some(value == 1)),
            Data::Bool(_) | Data::Text(_) => return Err(self.wrong(value)),
        }
        Ok(())
    }

    fn float<E: Error>(&mut self, value: f64) -> Result<(), E> {
        if self.range.is_some() || matches!(self.data, Data::Bool(_)) {
            // 3.0 is an integer to pandas and JavaScript.
            return match value.fract() == 0.0 && value.abs() < 9.0e15 {
                true => self.integer(value as i128),
                false => Err(self.wrong(value)),
            };
        }
        match &mut self.data {
            Data::F32(values) => values.push(value as f32),
            Data::F64(values) => values.push(value),
            _ => return Err(self.wrong(value)),
        }
        Ok(())
    }

    fn missing(&mut self) {
        match &mut self.data {
            Data::Bool(values) => values.push(None),
            Data::Text(values) => values.push(None),
            Data::F32(values) => values.push(f32::NAN),
            Data::F64(values) => values.push(f64::NAN),
            // Integers with gaps become floating-point numbers, as in pandas.
            Data::I64(values) => {
                let mut values: Vec<f64> = values.iter().map(|value| *value as f64).collect();
                values.push(f64::NAN);
                self.data = Data::F64(values);
            }
            Data::U64(values) => {
                let mut values: Vec<f64> = values.iter().map(|value| *value as f64).collect();
                values.push(f64::NAN);
                self.data = Data::F64(values);
            }
        }
    }
}

/// One value: an element, or an array of them.
pub(crate) struct Nested<'a> {
    pub(crate) elements: &'a mut Elements,
    pub(crate) depth: usize,
}

impl<'de> DeserializeSeed<'de> for Nested<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Nested<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array of {}", self.elements.datatype)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        if self.depth >= MAX_DEPTH {
            return Err(A::Error::custom("the data is nested too deep"));
        }
        let depth = self.depth + 1;
        while seq
            .next_element_seed(Nested {
                elements: &mut *self.elements,
                depth,
            })?
            .is_some()
        {}
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match &mut self.elements.data {
            Data::Bool(values) => {
                values.push(Some(value));
                Ok(())
            }
            _ => Err(self.elements.wrong(value)),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.elements.integer(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.elements.integer(value.into())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.elements.float(value)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        match &mut self.elements.data {
            Data::Text(values) => {
                values.push(Some(value.to_owned()));
                Ok(())
            }
            _ => {
                let shown: String = value.chars().take(40).collect();
                Err(self.elements.wrong(format_args!("the text {shown:?}")))
            }
        }
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.elements.missing();
        Ok(())
    }
}
