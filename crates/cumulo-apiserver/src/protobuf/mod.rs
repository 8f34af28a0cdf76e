//! Kubernetes' protobuf: request bodies to JSON values, and answers from them.
//!
//! Everything behind this module works on JSON values. Typed Go clients (what
//! `kubectl create namespace` is made of, and every operator that is built on
//! controller-runtime) send built-in kinds as protobuf, so their bodies are
//! turned into the JSON that the same client would have sent, and the answers
//! of those that accept nothing else are turned back.
//!
//! ```text
//! k8s\0 ─ Unknown{typeMeta, raw} ─ decode ─┐                    ┌─ encode ─ Unknown ─ k8s\0
//!                                          ├─ JSON ─ … ─ JSON ──┤
//!                         table: messages ─┘                    └─ WatchEvent, with its length before it
//! ```
//!
//! One transcoder walks over a table of messages ([`table`]); there is no code
//! per kind. The wire format is small enough to be read here ([`wire`]): a
//! library's canonical JSON for protobuf is not Kubernetes' (64-bit integers
//! would be text, names camel-cased, structs not inlined, quantities objects),
//! so that little more than these hundred lines could be shared with one.
//!
//! Custom resources have no messages; a client that sends or accepts only
//! protobuf for them is refused with 415 and 406, as by Kubernetes.

mod decode;
mod encode;
mod forms;
#[cfg(test)]
mod served;
mod table;
#[cfg(test)]
mod tests;
mod wire;

use bytes::{BufMut, BytesMut};
use serde_json::Value;

use self::table::Table;
use self::wire::WireError;
use crate::decode::Path;

/// The media type, as Kubernetes names it.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";

/// The media type of a stream of watch events.
pub const WATCH_MEDIA: &str = "application/vnd.kubernetes.protobuf;stream=watch";

/// What every body begins with.
const PREFIX: [u8; 4] = *b"k8s\0";

/// Most messages within messages: as many as the JSON parser allows levels.
const MAX_DEPTH: usize = 128;

/// Most values in one body. Protobuf says in two bytes what may be a kilobyte
/// in memory, so the limit on the body's size is not enough.
const MAX_VALUES: usize = 500_000;

/// A body that cannot be read, or a value that has no protobuf form.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum ProtobufError {
    /// The body does not begin as it has to.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Prefix,
    /// Nothing comes after the beginning.
    #[error("empty body")]
    Empty,
    /// The envelope names no kind or no version.
    #[error("Object 'Kind' or 'apiVersion' is missing in the envelope")]
    MissingKind,
    /// The kind is not in the table: a custom resource, or none that is served.
    #[error("no kind \"{kind}\" is registered for version \"{version}\"")]
    UnknownKind {
        /// For example `Pod`.
        kind: String,
        /// For example `apps/v1`.
        version: String,
    },
    /// Something is wrong with one field.
    #[error("{}: {problem}", if path.is_empty() { "the object" } else { path })]
    Field {
        /// Which, for example `spec.containers[0].name`; empty for the object.
        path: String,
        /// What.
        problem: Problem,
    },
}

/// What can be wrong with one field.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Problem {
    /// The bytes are no message: where they break, in the wire format's terms.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The field is of another type than was sent.
    #[error("wrong wire type {found}")]
    WireType {
        /// The number of the type that was sent.
        found: u8,
    },
    /// Text that is not UTF-8.
    #[error("invalid UTF-8")]
    Utf8,
    /// Embedded JSON that is none.
    #[error("{0}")]
    Json(String),
    /// A number that JSON does not have.
    #[error("not a finite number")]
    Number,
    /// A moment outside of the years 0 to 9999.
    #[error("not a time between the years 0 and 9999")]
    Time,
    /// Compressed content.
    #[error("content encoding \"{0}\" is not supported")]
    ContentEncoding(String),
    /// Messages within messages.
    #[error("nested more than {MAX_DEPTH} levels deep")]
    TooDeep,
    /// Messages, fields and items.
    #[error("the object has more than {MAX_VALUES} values")]
    TooMany,
    /// A JSON value of another type than the message's field.
    #[error("{0} was expected")]
    Expected(&'static str),
}

impl Problem {
    fn at(self, path: &Path<'_>) -> ProtobufError {
        ProtobufError::Field {
            path: path.to_string(),
            problem: self,
        }
    }
}

/// Reads a body: the object as JSON, with `apiVersion` and `kind`. Fields that
/// the table does not know are dropped, as Kubernetes drops them.
///
/// # Errors
///
/// When the bytes are no such body, or of no kind that the table has.
pub fn decode(body: &[u8]) -> Result<Value, ProtobufError> {
    decode::Decoder::new(Table::get()).envelope(body, 0, &Path::Root)
}

/// Writes an object that has `apiVersion` and `kind`. Fields that the table
/// does not know are left out.
///
/// # Errors
///
/// When the table does not have the kind, or a field is of another type.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtobufError> {
    let mut out = Vec::new();
    encode::Encoder(Table::get()).envelope(object, &Path::Root, &mut out)?;
    Ok(out)
}

/// Whether the table has the kind of an object.
pub fn has_kind(object: &Value) -> bool {
    let text = |key: &str| object[key].as_str().unwrap_or_default();
    Table::get()
        .kind(text("apiVersion"), text("kind"))
        .is_some()
}

/// Appends one event to a watch stream: the length in four bytes, then a bare
/// `WatchEvent` with the object as a body of its own inside.
///
/// # Errors
///
/// As [`encode`].
pub fn watch_event(kind: &str, object: &Value, out: &mut BytesMut) -> Result<(), ProtobufError> {
    let body = encode(object)?;
    let mut extension = Vec::with_capacity(body.len() + 8);
    wire::put_bytes(&mut extension, 1, &body);
    let mut event = Vec::with_capacity(extension.len() + 24);
    wire::put_bytes(&mut event, 1, kind.as_bytes());
    wire::put_bytes(&mut event, 2, &extension);
    let length = u32::try_from(event.len())
        .map_err(|_| Problem::Expected("an object of less than 4 GiB").at(&Path::Root))?;
    out.put_u32(length);
    out.put_slice(&event);
    Ok(())
}
