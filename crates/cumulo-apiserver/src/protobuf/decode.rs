//! Messages to JSON values, as Go's JSON of the same object would be: a struct
//! is shown when nothing is in it, a pointer when it is set, and nulls are left
//! out, which mean the same to everything that reads the value.

use std::borrow::Cow;

use base64::Engine as _;
use serde_json::{Map, Number, Value, json};

use super::forms;
use super::table::{Field, Form, Kind, Label, MessageId, Shown, Table};
use super::wire::{Reader, Wire};
use super::{MAX_DEPTH, MAX_VALUES, PREFIX, Problem, ProtobufError};
use crate::decode::Path;

/// Reads messages, and counts what it makes of them.
pub(super) struct Decoder {
    table: &'static Table,
    values: usize,
}

/// What the wire has of one field.
enum Slot<'a> {
    Empty,
    Scalar(Value),
    /// A message sent in parts is the parts one after the other.
    Message(Cow<'a, [u8]>),
    List(Vec<Value>),
    Map(Map<String, Value>),
}

impl Decoder {
    pub fn new(table: &'static Table) -> Self {
        Self { table, values: 0 }
    }

    /// A body with its prefix: `runtime.Unknown`, which holds the object.
    pub fn envelope(
        &mut self,
        body: &[u8],
        depth: usize,
        path: &Path<'_>,
    ) -> Result<Value, ProtobufError> {
        let body = body
            .strip_prefix(PREFIX.as_slice())
            .ok_or(ProtobufError::Prefix)?;
        if body.is_empty() {
            return Err(ProtobufError::Empty);
        }
        let (mut version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
        let mut reader = Reader(body);
        while let Some((number, wire)) = reader.next().map_err(|e| Problem::from(e).at(path))? {
            match number {
                1 => {
                    let mut types = Reader(bytes(wire, path)?);
                    while let Some((number, wire)) =
                        types.next().map_err(|e| Problem::from(e).at(path))?
                    {
                        match number {
                            1 => version = text(wire, path)?.to_owned(),
                            2 => kind = text(wire, path)?.to_owned(),
                            _ => {}
                        }
                    }
                }
                2 => raw = bytes(wire, path)?,
                3 => match text(wire, path)? {
                    "" => {}
                    other => return Err(Problem::ContentEncoding(other.to_owned()).at(path)),
                },
                _ => {}
            }
        }
        if version.is_empty() || kind.is_empty() {
            return Err(ProtobufError::MissingKind);
        }
        let Some(id) = self.table.kind(&version, &kind) else {
            return Err(ProtobufError::UnknownKind { kind, version });
        };
        let mut object = Map::new();
        object.insert("apiVersion".into(), json!(version));
        object.insert("kind".into(), json!(kind));
        let fields = &self.table.message(id).fields;
        self.fields(fields, raw, depth + 1, path, &mut object)?;
        Ok(Value::Object(object))
    }

    /// A message in the form that it has in JSON; null when it is nothing there.
    fn value(
        &mut self,
        id: MessageId,
        bytes: &[u8],
        depth: usize,
        path: &Path<'_>,
    ) -> Result<Value, ProtobufError> {
        let message = self.table.message(id);
        if message.form == Form::Json {
            return self.json(bytes, depth, path);
        }
        if let Some(value) = forms::decode(message.form, bytes) {
            return value.map_err(|problem| problem.at(path));
        }
        let mut object = Map::new();
        self.fields(&message.fields, bytes, depth + 1, path, &mut object)?;
        let mut take = |key: &str| object.shift_remove(key).unwrap_or_default();
        Ok(match message.form {
            Form::List => match take("items") {
                Value::Null => json!([]),
                items => items,
            },
            Form::SchemaOrSchemas => match take("jSONSchemas") {
                Value::Null => take("schema"),
                schemas => schemas,
            },
            Form::SchemaOrStrings => match take("property") {
                Value::Null => take("schema"),
                names => names,
            },
            Form::SchemaOrBool => match take("schema") {
                Value::Null => json!(take("allows") == json!(true)),
                schema => schema,
            },
            _ => Value::Object(object),
        })
    }

    /// Bytes that are JSON, or a body within the body.
    fn json(
        &mut self,
        message: &[u8],
        depth: usize,
        path: &Path<'_>,
    ) -> Result<Value, ProtobufError> {
        let mut raw = &[][..];
        let mut reader = Reader(message);
        while let Some((number, wire)) = reader.next().map_err(|e| Problem::from(e).at(path))? {
            if number == 1 {
                raw = bytes(wire, path)?;
            }
        }
        if raw.is_empty() {
            return Ok(Value::Null);
        }
        if raw.starts_with(&PREFIX) {
            self.deeper(depth + 1, path)?;
            return self.envelope(raw, depth + 1, path);
        }
        serde_json::from_slice(raw).map_err(|e| Problem::Json(e.to_string()).at(path))
    }

    /// Adds a message's fields to an object.
    fn fields(
        &mut self,
        fields: &[Field],
        message: &[u8],
        depth: usize,
        path: &Path<'_>,
        out: &mut Map<String, Value>,
    ) -> Result<(), ProtobufError> {
        self.deeper(depth, path)?;
        let mut slots: Vec<Slot<'_>> = fields.iter().map(|_| Slot::Empty).collect();
        let mut reader = Reader(message);
        while let Some((number, wire)) = reader.next().map_err(|e| Problem::from(e).at(path))? {
            let Ok(index) = fields.binary_search_by_key(&number, |field| field.number) else {
                continue;
            };
            let field = &fields[index];
            let below = Path::Key(path, &field.json);
            let here = if field.json.is_empty() { path } else { &below };
            self.receive(field, wire, depth, here, &mut slots[index])?;
        }
        for (field, slot) in fields.iter().zip(slots) {
            let value = match slot {
                Slot::Scalar(value) if field.shown == Shown::Nonzero && is_zero(&value) => continue,
                Slot::Scalar(value) => value,
                Slot::List(items) => Value::Array(items),
                Slot::Map(entries) => Value::Object(entries),
                Slot::Message(bytes) => match self.part(field, &bytes, depth, path, out)? {
                    Some(value) => value,
                    None => continue,
                },
                Slot::Empty if field.label != Label::One || field.shown != Shown::Always => {
                    continue;
                }
                // What is not there is zero, and a zero is shown here.
                Slot::Empty => match self.part(field, &[], depth, path, out)? {
                    Some(value) => value,
                    None => continue,
                },
            };
            self.count(path)?;
            out.insert(field.json.to_string(), value);
        }
        Ok(())
    }

    /// A single field's value from its bytes; none when it shows nothing, or
    /// has shown itself in the outer object.
    fn part(
        &mut self,
        field: &Field,
        bytes: &[u8],
        depth: usize,
        path: &Path<'_>,
        out: &mut Map<String, Value>,
    ) -> Result<Option<Value>, ProtobufError> {
        let Kind::Message(id) = field.kind else {
            return Ok(Some(zero(field.kind)));
        };
        if field.json.is_empty() {
            let fields = &self.table.message(id).fields;
            self.fields(fields, bytes, depth + 1, path, out)?;
            return Ok(None);
        }
        let value = self.value(id, bytes, depth, &Path::Key(path, &field.json))?;
        Ok(Some(value).filter(|value| !value.is_null()))
    }

    /// Takes one value of a field from the wire.
    fn receive<'a>(
        &mut self,
        field: &Field,
        wire: Wire<'a>,
        depth: usize,
        path: &Path<'_>,
        slot: &mut Slot<'a>,
    ) -> Result<(), ProtobufError> {
        match (field.label, field.kind) {
            (Label::One, Kind::Message(_)) => {
                let part = bytes(wire, path)?;
                match slot {
                    Slot::Message(whole) => whole.to_mut().extend_from_slice(part),
                    _ => *slot = Slot::Message(Cow::Borrowed(part)),
                }
            }
            (Label::One, kind) => *slot = Slot::Scalar(scalar(kind, wire, path)?),
            (Label::List, kind) => {
                if !matches!(slot, Slot::List(_)) {
                    *slot = Slot::List(Vec::new());
                }
                let Slot::List(items) = slot else {
                    return Ok(());
                };
                let packed = matches!(kind, Kind::Bool | Kind::Int32 | Kind::Int64);
                if let (true, Wire::Bytes(packed)) = (packed, wire) {
                    let mut reader = Reader(packed);
                    while !reader.0.is_empty() {
                        let here = Path::Index(path, items.len());
                        let number = reader.varint().map_err(|e| Problem::from(e).at(&here))?;
                        self.count(&here)?;
                        items.push(scalar(kind, Wire::Varint(number), &here)?);
                    }
                    return Ok(());
                }
                let here = Path::Index(path, items.len());
                let item = self.item(kind, wire, depth, &here)?;
                items.push(item);
            }
            (Label::Map, kind) => {
                let (mut key, mut value) = ("", None);
                let mut entry = Reader(bytes(wire, path)?);
                while let Some((number, wire)) =
                    entry.next().map_err(|e| Problem::from(e).at(path))?
                {
                    match number {
                        1 => key = text(wire, path)?,
                        2 => value = Some(wire),
                        _ => {}
                    }
                }
                let here = Path::Key(path, key);
                let value = match (value, kind) {
                    (Some(wire), _) => self.item(kind, wire, depth, &here)?,
                    (None, Kind::Message(_)) => self.item(kind, Wire::Bytes(&[]), depth, &here)?,
                    (None, kind) => zero(kind),
                };
                if !matches!(slot, Slot::Map(_)) {
                    *slot = Slot::Map(Map::new());
                }
                if let Slot::Map(entries) = slot {
                    entries.insert(key.to_owned(), value);
                }
            }
        }
        Ok(())
    }

    /// An item of a list, or a value of a map.
    fn item(
        &mut self,
        kind: Kind,
        wire: Wire<'_>,
        depth: usize,
        path: &Path<'_>,
    ) -> Result<Value, ProtobufError> {
        self.count(path)?;
        match kind {
            Kind::Message(id) => self.value(id, bytes(wire, path)?, depth, path),
            kind => scalar(kind, wire, path),
        }
    }

    fn count(&mut self, path: &Path<'_>) -> Result<(), ProtobufError> {
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Problem::TooMany.at(path));
        }
        Ok(())
    }

    fn deeper(&self, depth: usize, path: &Path<'_>) -> Result<(), ProtobufError> {
        if depth > MAX_DEPTH {
            return Err(Problem::TooDeep.at(path));
        }
        Ok(())
    }
}

fn bytes<'a>(wire: Wire<'a>, path: &Path<'_>) -> Result<&'a [u8], ProtobufError> {
    match wire {
        Wire::Bytes(bytes) => Ok(bytes),
        other => Err(Problem::WireType {
            found: other.kind(),
        }
        .at(path)),
    }
}

fn text<'a>(wire: Wire<'a>, path: &Path<'_>) -> Result<&'a str, ProtobufError> {
    std::str::from_utf8(bytes(wire, path)?).map_err(|_| Problem::Utf8.at(path))
}

/// A scalar. Integers that are too long lose their upper bits, as everywhere
/// in protobuf.
fn scalar(kind: Kind, wire: Wire<'_>, path: &Path<'_>) -> Result<Value, ProtobufError> {
    Ok(match (kind, wire) {
        (Kind::Text, wire) => Value::from(text(wire, path)?),
        (Kind::Bytes, wire) => {
            Value::from(base64::engine::general_purpose::STANDARD.encode(bytes(wire, path)?))
        }
        (Kind::Bool, Wire::Varint(value)) => Value::from(value != 0),
        (Kind::Int32, Wire::Varint(value)) => Value::from(value as i32),
        (Kind::Int64, Wire::Varint(value)) => Value::from(value.cast_signed()),
        (Kind::Double, Wire::Fixed64(value)) => Number::from_f64(f64::from_bits(value))
            .map(Value::Number)
            .ok_or_else(|| Problem::Number.at(path))?,
        (_, wire) => return Err(Problem::WireType { found: wire.kind() }.at(path)),
    })
}

fn zero(kind: Kind) -> Value {
    match kind {
        Kind::Text | Kind::Bytes => json!(""),
        Kind::Bool => json!(false),
        Kind::Int32 | Kind::Int64 => json!(0),
        Kind::Double => json!(0.0),
        Kind::Message(_) => Value::Null,
    }
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(yes) => !yes,
        Value::Number(number) => number.as_f64() == Some(0.0),
        _ => false,
    }
}
