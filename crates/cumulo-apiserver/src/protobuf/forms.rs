//! The few messages that are not objects in JSON and hold no other message:
//! quantities, times, and `IntOrString`.

use chrono::{DateTime, Datelike, Timelike};
use serde_json::{Value, json};

use super::Problem;
use super::table::Form;
use super::wire::{self, Reader, Wire};

/// The value of a message; none when the form is not one of this module. An
/// unset time is null, as in Go.
pub(super) fn decode(form: Form, message: &[u8]) -> Option<Result<Value, Problem>> {
    Some(match form {
        Form::Quantity => quantity(message),
        Form::IntOrString => int_or_string(message),
        Form::Time => time(message, "%Y-%m-%dT%H:%M:%SZ"),
        Form::MicroTime => time(message, "%Y-%m-%dT%H:%M:%S%.6fZ"),
        _ => return None,
    })
}

/// Writes the message of a value; none when the form is not one of this module.
pub(super) fn encode(form: Form, value: &Value, out: &mut Vec<u8>) -> Option<Result<(), Problem>> {
    Some(match form {
        Form::Quantity => put_quantity(value, out),
        Form::IntOrString => put_int_or_string(value, out),
        Form::Time => put_time(value, false, out),
        Form::MicroTime => put_time(value, true, out),
        _ => return None,
    })
}

fn text(wire: Wire<'_>) -> Result<&str, Problem> {
    match wire {
        Wire::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| Problem::Utf8),
        other => Err(Problem::WireType {
            found: other.kind(),
        }),
    }
}

fn integer(wire: Wire<'_>) -> Result<i64, Problem> {
    match wire {
        Wire::Varint(value) => Ok(value.cast_signed()),
        other => Err(Problem::WireType {
            found: other.kind(),
        }),
    }
}

fn quantity(message: &[u8]) -> Result<Value, Problem> {
    // Go's zero quantity.
    let mut value = "0";
    let mut reader = Reader(message);
    while let Some((number, wire)) = reader.next()? {
        if number == 1 {
            value = text(wire)?;
        }
    }
    Ok(json!(value))
}

fn put_quantity(value: &Value, out: &mut Vec<u8>) -> Result<(), Problem> {
    match value {
        Value::String(text) => wire::put_bytes(out, 1, text.as_bytes()),
        Value::Number(number) => wire::put_bytes(out, 1, number.to_string().as_bytes()),
        _ => return Err(Problem::Expected("a quantity")),
    }
    Ok(())
}

fn int_or_string(message: &[u8]) -> Result<Value, Problem> {
    let (mut kind, mut number_value, mut text_value) = (0, 0, "");
    let mut reader = Reader(message);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => kind = integer(wire)?,
            2 => number_value = integer(wire)? as i32,
            3 => text_value = text(wire)?,
            _ => {}
        }
    }
    Ok(if kind == 1 {
        json!(text_value)
    } else {
        json!(number_value)
    })
}

fn put_int_or_string(value: &Value, out: &mut Vec<u8>) -> Result<(), Problem> {
    let (kind, number, text) = match value {
        Value::String(text) => (1, 0, text.as_str()),
        value => {
            let number = value.as_i64().and_then(|n| i32::try_from(n).ok());
            let number = number.ok_or(Problem::Expected("a 32-bit integer or a string"))?;
            (0, i64::from(number), "")
        }
    };
    wire::put_integer(out, 1, kind);
    wire::put_integer(out, 2, number);
    wire::put_bytes(out, 3, text.as_bytes());
    Ok(())
}

fn time(message: &[u8], format: &str) -> Result<Value, Problem> {
    // The zero time is the empty message; the beginning of 1970 is not.
    if message.is_empty() {
        return Ok(Value::Null);
    }
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader(message);
    while let Some((number, wire)) = reader.next()? {
        match number {
            1 => seconds = integer(wire)?,
            2 => nanos = integer(wire)?,
            _ => {}
        }
    }
    u32::try_from(nanos)
        .ok()
        .and_then(|nanos| DateTime::from_timestamp(seconds, nanos))
        .filter(|time| (0..=9999).contains(&time.year()))
        .map(|time| json!(time.format(format).to_string()))
        .ok_or(Problem::Time)
}

fn put_time(value: &Value, micros: bool, out: &mut Vec<u8>) -> Result<(), Problem> {
    if value.is_null() {
        return Ok(());
    }
    let time = value
        .as_str()
        .and_then(|text| DateTime::parse_from_rfc3339(text).ok())
        .ok_or(Problem::Expected("a time"))?;
    let nanos = if micros { time.nanosecond() } else { 0 };
    wire::put_integer(out, 1, time.timestamp());
    wire::put_integer(out, 2, i64::from(nanos / 1000 * 1000));
    Ok(())
}
