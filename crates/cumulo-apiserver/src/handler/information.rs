//! What the server tells about itself: discovery, version and schemas.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderMap, StatusCode, header};

use super::accept::{aggregated_discovery, negotiate};
use super::request::Route;
use super::respond::{self, View};
use super::{Context, discovery, table_view};
use crate::engine::Engine;
use crate::status::ApiError;

/// Answers a route that names no resource.
pub(super) fn answer(
    engine: &Engine,
    context: &Context,
    route: Route,
) -> Result<Response, ApiError> {
    let catalog = engine.registry.catalog();
    let core = matches!(route, Route::CoreVersions);
    if matches!(route, Route::CoreVersions | Route::Groups)
        && let Some(version) = aggregated_discovery(&context.headers)
    {
        let body = discovery::aggregated(&catalog, core, version)
            .to_string()
            .into_bytes();
        let media = match version {
            "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        };
        return Ok(tagged(&context.headers, media, body));
    }
    let view = View {
        accept: negotiate(&context.headers, false)?,
        ..View::default()
    };
    let host = context
        .headers
        .get(header::HOST)
        .and_then(|v| v.to_str().ok())
        .unwrap_or_default();
    let answer = match &route {
        Route::Version => Some(discovery::version()),
        Route::CoreVersions => Some(discovery::core_versions(host)),
        Route::Groups => Some(discovery::groups(&catalog)),
        Route::Group(group) => discovery::group(&catalog, group, true),
        Route::Resources(group, version) => discovery::resources(&catalog, group, version),
        Route::OpenApiIndex => Some(table_view::openapi_index(engine)),
        Route::PublicKeys => {
            let keys = engine
                .public_keys()
                .ok_or_else(ApiError::no_such_path)?
                .to_string();
            let media = "application/jwk-set+json";
            return Ok(respond::bytes(StatusCode::OK, media, keys.into()));
        }
        Route::Issuer => engine.issuer_metadata(host),
        Route::OpenApiVersion2 => {
            // Making it takes a moment, saying that it is the same does not.
            let tag = table_view::openapi_version(engine);
            return Ok(if is_known(&context.headers, &tag) {
                unchanged(&tag)
            } else {
                let body = table_view::openapi_version2(engine);
                named(
                    &tag,
                    respond::bytes(StatusCode::OK, "application/json", body.into()),
                )
            });
        }
        Route::OpenApiDocument(group, version) => {
            return table_view::openapi_document(engine, group, version)
                .map(|body| tagged(&context.headers, "application/json", body))
                .ok_or_else(ApiError::no_such_path);
        }
        Route::Health(_) | Route::Resource(_) | Route::Unknown => None,
    };
    let answer = answer.ok_or_else(ApiError::no_such_path)?;
    Ok(respond::value(StatusCode::OK, view, &answer))
}

/// An answer that the client may have already: its hash is its `ETag`.
fn tagged(headers: &HeaderMap, media: &'static str, body: Vec<u8>) -> Response {
    use sha2::Digest;
    let hash = hex::encode(&sha2::Sha256::digest(&body)[..16]).to_uppercase();
    let tag = format!("\"{hash}\"");
    if is_known(headers, &tag) {
        unchanged(&tag)
    } else {
        named(&tag, respond::bytes(StatusCode::OK, media, body.into()))
    }
}

fn is_known(headers: &HeaderMap, tag: &str) -> bool {
    headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .any(|v| v.split(',').any(|t| t.trim() == tag || t.trim() == "*"))
}

fn unchanged(tag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    named(tag, response)
}

fn named(tag: &str, mut response: Response) -> Response {
    if let Ok(tag) = tag.parse() {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
        .headers_mut()
        .insert(header::VARY, http::HeaderValue::from_static("Accept"));
    response
}
