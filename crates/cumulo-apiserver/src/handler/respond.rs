//! Writing answers: objects, lists, tables, metadata alone, watch streams.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::accept::{Accept, Form, Format};
use super::table_view;
use crate::convert;
use crate::engine::Engine;
use crate::operation::{Listed, WatchEvent, WatchEvents};
use crate::protobuf;
use crate::resource::ResourceType;
use crate::status::ApiError;
use crate::storage::Object;
use crate::table::IncludeObject;

/// How an answer is to look.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct View {
    pub accept: Accept,
    pub include: IncludeObject,
}

/// Events put into one frame of a watch at most.
const FRAME: usize = 128;
/// Bytes of an event around its object, about.
const ENVELOPE: usize = 64;

/// An answer in the format that is accepted.
pub(super) fn value(status: StatusCode, view: View, value: &Value) -> Response {
    let written = match view.accept.format {
        Format::Yaml => serde_saphyr::to_string(value)
            .map(|text| ("application/yaml", Bytes::from(text)))
            .map_err(ApiError::internal),
        // The version and the OpenAPI documents are JSON whatever is accepted.
        Format::Protobuf if protobuf::has_kind(value) => protobuf::encode(value)
            .map(|body| (protobuf::MEDIA, Bytes::from(body)))
            .map_err(ApiError::internal),
        Format::Json | Format::Protobuf => Ok(("application/json", Bytes::from(value.to_string()))),
    };
    match written {
        Ok((media, body)) => bytes(status, media, body),
        Err(error) => error.into_response(),
    }
}

/// An error, for a client that accepts nothing but protobuf. What is said in
/// the headers is the same.
pub(super) fn protobuf_error(error: ApiError) -> Response {
    let status = protobuf::encode(&error.to_status());
    let mut response = error.into_response();
    if let Ok(body) = status {
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static(protobuf::MEDIA),
        );
        *response.body_mut() = Body::from(body);
    }
    response
}

/// An answer of bytes.
pub(super) fn bytes(status: StatusCode, media: &'static str, body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

/// Adds a `Warning` header per message.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    for warning in warnings.iter().take(32) {
        let quoted: String = warning
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{quoted}\"").as_bytes()) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
}

fn partial(object: &Value) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

/// One object.
pub(super) fn object(
    engine: &Engine,
    resource: &ResourceType,
    object: &Object,
    status: StatusCode,
    view: View,
) -> Response {
    match view.accept.form {
        Form::Plain if view.accept.format == Format::Json => bytes(
            status,
            "application/json",
            convert::present(resource, object),
        ),
        Form::Plain => value(status, view, &convert::present_value(resource, object)),
        Form::Partial => value(
            status,
            view,
            &partial(&convert::present_value(resource, object)),
        ),
        Form::Table => {
            let shown = convert::present_value(resource, object);
            let metadata = json!({"resourceVersion": object.version.to_string()});
            let table = table_view::render(engine, resource, &[shown], view.include, &metadata);
            value(status, view, &table)
        }
    }
}

/// A list.
pub(super) fn list(
    engine: &Engine,
    resource: &ResourceType,
    listed: &Listed,
    view: View,
) -> Response {
    let mut metadata = json!({"resourceVersion": listed.version.to_string()});
    if let Some(token) = &listed.continue_token {
        metadata["continue"] = json!(token);
    }
    if let Some(remaining) = listed.remaining {
        metadata["remainingItemCount"] = json!(remaining);
    }
    let values = || -> Vec<Value> {
        listed
            .objects
            .iter()
            .map(|o| convert::present_value(resource, o))
            .collect()
    };
    match view.accept.form {
        Form::Plain if view.accept.format == Format::Json => {
            let size: usize = listed.objects.iter().map(|o| o.bytes.len() + 1).sum();
            let mut body = BytesMut::with_capacity(size + 256);
            body.put_slice(b"{\"kind\":");
            body.put_slice(json!(resource.list_kind).to_string().as_bytes());
            body.put_slice(b",\"apiVersion\":");
            body.put_slice(json!(resource.api_version()).to_string().as_bytes());
            body.put_slice(b",\"metadata\":");
            body.put_slice(metadata.to_string().as_bytes());
            body.put_slice(b",\"items\":[");
            for (n, object) in listed.objects.iter().enumerate() {
                if n > 0 {
                    body.put_u8(b',');
                }
                body.put_slice(&convert::present(resource, object));
            }
            body.put_slice(b"]}");
            bytes(StatusCode::OK, "application/json", body.freeze())
        }
        Form::Plain => value(
            StatusCode::OK,
            view,
            &json!({
                "kind": resource.list_kind,
                "apiVersion": resource.api_version(),
                "metadata": metadata,
                "items": values(),
            }),
        ),
        Form::Partial => {
            let items: Vec<Value> = values().iter().map(partial).collect();
            value(
                StatusCode::OK,
                view,
                &json!({
                    "kind": "PartialObjectMetadataList",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": metadata,
                    "items": items,
                }),
            )
        }
        Form::Table => {
            let table = table_view::render(engine, resource, &values(), view.include, &metadata);
            value(StatusCode::OK, view, &table)
        }
    }
}

/// A watch, as a stream of events: one per line, or each with its length.
pub(super) fn watch(engine: Arc<Engine>, events: WatchEvents, view: View) -> Response {
    struct Running {
        engine: Arc<Engine>,
        events: WatchEvents,
        view: View,
        first: bool,
    }
    // In a box, as it moves into each step and out of it.
    let running = Box::new(Running {
        engine,
        events,
        view,
        first: true,
    });
    let stream = futures::stream::unfold(running, |mut running| async move {
        let event = running.events.next().await?;
        let mut frame = BytesMut::new();
        let mut batch = vec![event];
        batch.extend(running.events.ready(FRAME));
        let size = batch.iter().map(|event| match event {
            WatchEvent::Object(_, object) => object.bytes.len() + ENVELOPE,
            WatchEvent::Bookmark { .. } | WatchEvent::Error(_) => ENVELOPE,
        });
        frame.reserve(size.sum());
        for event in batch {
            let resource = running.events.resource();
            encode(
                &running.engine,
                resource,
                &event,
                running.view,
                running.first,
                &mut frame,
            );
            running.first = false;
        }
        Some((Ok::<_, std::convert::Infallible>(frame.freeze()), running))
    });
    let media = match view.accept.format {
        Format::Protobuf => protobuf::WATCH_MEDIA,
        Format::Json | Format::Yaml => "application/json",
    };
    let mut response = Response::new(Body::from_stream(stream));
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

fn encode(
    engine: &Engine,
    resource: &ResourceType,
    event: &WatchEvent,
    view: View,
    first: bool,
    out: &mut BytesMut,
) {
    match event {
        WatchEvent::Object(kind, object) => {
            frame(view, out, kind.as_str(), |out| match view.accept.form {
                Form::Plain => out.put_slice(&convert::present(resource, object)),
                Form::Partial => {
                    let shown = partial(&convert::present_value(resource, object));
                    out.put_slice(shown.to_string().as_bytes());
                }
                Form::Table => {
                    let shown = convert::present_value(resource, object);
                    let metadata = json!({"resourceVersion": object.version.to_string()});
                    let mut table =
                        table_view::render(engine, resource, &[shown], view.include, &metadata);
                    if !first {
                        table["columnDefinitions"] = Value::Null;
                    }
                    out.put_slice(table.to_string().as_bytes());
                }
            });
        }
        WatchEvent::Bookmark { version, initial } => {
            let mut metadata =
                json!({"resourceVersion": version.to_string(), "creationTimestamp": null});
            if *initial {
                metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
            }
            let (kind, api_version) = match view.accept.form {
                Form::Partial => ("PartialObjectMetadata", "meta.k8s.io/v1".to_owned()),
                _ => (resource.kind.as_str(), resource.api_version()),
            };
            let bookmark = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
            frame(view, out, "BOOKMARK", |out| {
                out.put_slice(bookmark.to_string().as_bytes());
            });
        }
        WatchEvent::Error(error) => frame(view, out, "ERROR", |out| {
            out.put_slice(error.to_status().to_string().as_bytes());
        }),
    }
}

fn frame(view: View, out: &mut BytesMut, kind: &str, object: impl FnOnce(&mut BytesMut)) {
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
