//! JSON values to messages.

use base64::Engine as _;
use serde_json::{Map, Value};

use super::forms;
use super::table::{Field, Form, Kind, Label, MessageId, Shown, Table};
use super::wire::{put_bytes, put_double, put_integer};
use super::{PREFIX, Problem, ProtobufError};
use crate::decode::Path;

/// Writes messages.
#[derive(Clone, Copy)]
pub(super) struct Encoder(pub &'static Table);

impl Encoder {
    /// An object as a body with its prefix.
    pub fn envelope(
        self,
        object: &Value,
        path: &Path<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtobufError> {
        let text = |key: &str| object[key].as_str().unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        let id = self
            .0
            .kind(version, kind)
            .ok_or_else(|| ProtobufError::UnknownKind {
                kind: kind.to_owned(),
                version: version.to_owned(),
            })?;
        let raw = self.value(id, object, path)?;
        let mut types = Vec::new();
        put_bytes(&mut types, 1, version.as_bytes());
        put_bytes(&mut types, 2, kind.as_bytes());
        out.reserve(raw.len() + types.len() + 24);
        out.extend_from_slice(&PREFIX);
        put_bytes(out, 1, &types);
        put_bytes(out, 2, &raw);
        // Neither compressed nor of another type: Go writes both.
        put_bytes(out, 3, &[]);
        put_bytes(out, 4, &[]);
        Ok(())
    }

    /// The message of a value.
    fn value(
        self,
        id: MessageId,
        value: &Value,
        path: &Path<'_>,
    ) -> Result<Vec<u8>, ProtobufError> {
        let message = self.0.message(id);
        let mut out = Vec::new();
        if let Some(written) = forms::encode(message.form, value, &mut out) {
            written.map_err(|problem| problem.at(path))?;
            return Ok(out);
        }
        // The schema forms are written as the objects that they are in Go.
        let (name, value) = match (message.form, value) {
            (Form::Struct, value) => {
                let object = value
                    .as_object()
                    .ok_or_else(|| Problem::Expected("an object").at(path))?;
                self.fields(&message.fields, object, path, &mut out)?;
                return Ok(out);
            }
            (Form::Json, Value::Null) => return Ok(out),
            (Form::Json, value) => {
                put_bytes(&mut out, 1, value.to_string().as_bytes());
                return Ok(out);
            }
            (Form::List, value) => ("items", value),
            (Form::SchemaOrSchemas, Value::Array(_)) => ("jSONSchemas", value),
            (Form::SchemaOrStrings, Value::Array(_)) => ("property", value),
            (Form::SchemaOrBool, Value::Bool(_)) => ("allows", value),
            (Form::SchemaOrBool, value) => {
                put_integer(&mut out, 1, 1);
                ("schema", value)
            }
            (_, value) => ("schema", value),
        };
        for field in message.fields.iter().filter(|field| *field.json == *name) {
            self.field(field, value, path, &mut out)?;
        }
        Ok(out)
    }

    fn fields(
        self,
        fields: &[Field],
        object: &Map<String, Value>,
        path: &Path<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtobufError> {
        for field in fields {
            if let (true, Kind::Message(id)) = (field.json.is_empty(), field.kind) {
                let mut part = Vec::new();
                self.fields(&self.0.message(id).fields, object, path, &mut part)?;
                if !part.is_empty() || field.shown == Shown::Always {
                    put_bytes(out, field.number, &part);
                }
                continue;
            }
            match object.get(&*field.json) {
                None | Some(Value::Null) => {}
                Some(value) => self.field(field, value, &Path::Key(path, &field.json), out)?,
            }
        }
        Ok(())
    }

    fn field(
        self,
        field: &Field,
        value: &Value,
        path: &Path<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtobufError> {
        match field.label {
            Label::One => self.item(field.number, field.kind, value, path, out)?,
            Label::List => {
                let items = value
                    .as_array()
                    .ok_or_else(|| Problem::Expected("a list").at(path))?;
                for (n, item) in items.iter().enumerate() {
                    let here = Path::Index(path, n);
                    self.item(field.number, field.kind, item, &here, out)?;
                }
            }
            Label::Map => {
                let entries = value
                    .as_object()
                    .ok_or_else(|| Problem::Expected("an object").at(path))?;
                for (key, value) in entries {
                    let mut entry = Vec::new();
                    put_bytes(&mut entry, 1, key.as_bytes());
                    self.item(2, field.kind, value, &Path::Key(path, key), &mut entry)?;
                    put_bytes(out, field.number, &entry);
                }
            }
        }
        Ok(())
    }

    fn item(
        self,
        number: u32,
        kind: Kind,
        value: &Value,
        path: &Path<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), ProtobufError> {
        let expected = |what: &'static str| Problem::Expected(what).at(path);
        match kind {
            Kind::Message(id) => put_bytes(out, number, &self.value(id, value, path)?),
            Kind::Text => {
                let text = value.as_str().ok_or_else(|| expected("a string"))?;
                put_bytes(out, number, text.as_bytes());
            }
            Kind::Bytes => {
                let bytes = value
                    .as_str()
                    .and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok())
                    .ok_or_else(|| expected("base64"))?;
                put_bytes(out, number, &bytes);
            }
            Kind::Bool => {
                let yes = value.as_bool().ok_or_else(|| expected("a boolean"))?;
                put_integer(out, number, yes.into());
            }
            Kind::Int32 | Kind::Int64 => {
                let integer = whole(value).ok_or_else(|| expected("an integer"))?;
                put_integer(out, number, integer);
            }
            Kind::Double => {
                let double = value.as_f64().ok_or_else(|| expected("a number"))?;
                put_double(out, number, double);
            }
        }
        Ok(())
    }
}

/// An integer, also when it is written `1.0`.
fn whole(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| {
        value
            .as_f64()
            .filter(|float| float.fract() == 0.0 && float.abs() < 9e15)
            .map(|float| float as i64)
    })
}
