//! Writing answers: objects, lists, tables, metadata alone, watch streams.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderValue, StatusCode, header};
use serde_json::{Value, json};

use super::accept::{Accept, Form, Format};
use super::table_view;
use crate::convert;
use crate::engine::Engine;
use crate::operation::Listed;
use crate::protobuf;
use crate::resource::ResourceType;
use crate::status::ApiError;
use crate::storage::Object;
use crate::table::IncludeObject;

/// How an answer is to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct View {
    pub accept: Accept,
    pub include: IncludeObject,
}

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

pub(super) fn partial(object: &Value) -> Value {
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
