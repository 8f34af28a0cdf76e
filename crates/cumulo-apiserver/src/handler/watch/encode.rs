//! Events as clients read them.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::convert;
use crate::engine::Engine;
use crate::handler::accept::{Form, Format};
use crate::handler::respond::{View, partial};
use crate::handler::table_view;
use crate::operation::{WatchCursor, WatchEvent, WatchedKind};
use crate::protobuf;
use crate::resource::ResourceType;
use crate::status::ApiError;
use crate::storage::Object;

/// Bytes of an event around its object, about.
const ENVELOPE: usize = 64;

/// Writes the events of one watch.
#[derive(Debug)]
pub(super) struct Encoder {
    engine: Arc<Engine>,
    pub resource: Arc<ResourceType>,
    pub view: View,
    /// Whether nothing was written yet: the first table names its columns.
    pub first: bool,
}

impl Encoder {
    pub fn new(cursor: &WatchCursor, view: View) -> Self {
        Self {
            engine: cursor.engine().clone(),
            resource: cursor.resource().clone(),
            view,
            first: true,
        }
    }

    /// Events, one after the other.
    pub fn frame(&mut self, events: &[WatchEvent]) -> Bytes {
        let size = events.iter().map(|event| match event {
            WatchEvent::Object(_, object) => size(object),
            WatchEvent::Bookmark { .. } | WatchEvent::Error(_) => ENVELOPE,
        });
        let mut frame = BytesMut::with_capacity(size.sum());
        for event in events {
            self.write(event, &mut frame);
            self.first = false;
        }
        frame.freeze()
    }

    fn write(&self, event: &WatchEvent, out: &mut BytesMut) {
        let view = self.view;
        match event {
            WatchEvent::Object(kind, object) => self.object(*kind, object, self.first, out),
            WatchEvent::Bookmark { version, initial } => {
                let mut metadata =
                    json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
                if *initial {
                    metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                }
                let (kind, api_version) = match view.accept.form {
                    Form::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
                    _ => (self.resource.kind.as_str(), self.resource.api_version()),
                };
                let bookmark =
                    json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
                envelope(view, out, "BOOKMARK", |out| {
                    out.put_slice(bookmark.to_string().as_bytes());
                });
            }
            WatchEvent::Error(error) => envelope(view, out, "ERROR", |out| {
                out.put_slice(error.to_status().to_string().as_bytes());
            }),
        }
    }

    /// What happened to an object; `first`: nothing was written before.
    pub fn object(&self, kind: WatchedKind, object: &Object, first: bool, out: &mut BytesMut) {
        let (view, resource) = (self.view, &self.resource);
        envelope(view, out, kind.as_str(), |out| match view.accept.form {
            Form::Plain => out.put_slice(&convert::present(resource, object)),
            Form::Partial => {
                let shown = partial(&convert::present_value(resource, object));
                out.put_slice(shown.to_string().as_bytes());
            }
            Form::Table => {
                let shown = convert::present_value(resource, object);
                let metadata = json!({"resourceVersion": object.version.to_string()});
                let mut table =
                    table_view::render(&self.engine, resource, &[shown], view.include, &metadata);
                if !first {
                    table["columnDefinitions"] = Value::Null;
                }
                out.put_slice(table.to_string().as_bytes());
            }
        });
    }
}

/// Bytes of an object's event, about.
pub(super) fn size(object: &Object) -> usize {
    object.bytes.len() + ENVELOPE
}

fn envelope(view: View, out: &mut BytesMut, kind: &str, object: impl FnOnce(&mut BytesMut)) {
    if view.accept.format == Format::Protobuf {
        let mut json = BytesMut::new();
        object(&mut json);
        let written = serde_json::from_slice(&json)
            .map_err(ApiError::internal)
            .and_then(|object| {
                protobuf::watch_event(kind, &object, out).map_err(ApiError::internal)
            });
        if let Err(error) = written {
            tracing::error!(%error, "an event of a watch has no protobuf form");
            // A `Status` has one.
            let _ = protobuf::watch_event("ERROR", &error.to_status(), out);
        }
        return;
    }
    out.put_slice(b"{\"type\":\"");
    out.put_slice(kind.as_bytes());
    out.put_slice(b"\",\"object\":");
    object(out);
    out.put_slice(b"}\n");
}
