//! HTTP: one handler for every type. It reads the request, finds out who asks
//! and whether they may, calls the operation, and writes the answer.
//!
//! ```text
//! request ─ route ─ authenticate ─ authorize ─ operation ─ respond
//! ```

mod accept;
mod access;
mod call;
mod discovery;
mod eviction;
mod information;
mod metrics;
mod pods;
mod request;
mod respond;
mod reviews;
mod table_view;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, Request, header};

pub use discovery::VERSION;

use self::request::{Query, Route};
use crate::auth::{Attributes, UserInfo};
use crate::engine::Engine;
use crate::status::ApiError;

/// The routes of the server. The fallback answers 404 with a `Status`, so a
/// router that others are merged into keeps that for every path nobody serves.
pub fn router(engine: Arc<Engine>) -> Router {
    let mut router = Router::new();
    for path in [
        "/api",
        "/api/",
        "/api/v1",
        "/api/v1/",
        "/api/v1/{*path}",
        "/apis",
        "/apis/",
        "/apis/{*path}",
        "/openapi/{*path}",
        "/version",
        "/version/",
        "/livez",
        "/livez/{*path}",
        "/readyz",
        "/readyz/{*path}",
        "/healthz",
        "/healthz/{*path}",
    ] {
        router = router.route(path, axum::routing::any(handle));
    }
    router.fallback(handle).with_state(engine)
}

async fn handle(State(engine): State<Arc<Engine>>, request: Request<Body>) -> Response {
    let started = std::time::Instant::now();
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    let protobuf = accept::only_protobuf(request.headers());
    let response = match dispatch(&engine, request).await {
        Ok(response) => response,
        Err(error) => {
            if error.code.is_server_error() {
                tracing::error!(%method, path, code = error.code.as_u16(), error = %error, "request failed");
            }
            if protobuf {
                respond::protobuf_error(error)
            } else {
                error.into_response()
            }
        }
    };
    tracing::debug!(
        %method, path, code = response.status().as_u16(),
        micros = started.elapsed().as_micros(), "request"
    );
    response
}

/// What the operations need to know of a request.
struct Context {
    user: UserInfo,
    query: Query,
    headers: HeaderMap,
}

async fn dispatch(engine: &Arc<Engine>, mut request: Request<Body>) -> Result<Response, ApiError> {
    let route = request::route(request.uri().path());
    if let Route::Health(path) = &route {
        return health(path);
    }
    let user = access::authenticate(engine, &mut request).await?;
    let context = Context {
        user,
        query: Query::parse(request.uri().query()),
        headers: request.headers().clone(),
    };
    match route {
        Route::Resource(path) => call::answer(engine, context, path, request).await,
        route => {
            let attributes = Attributes {
                verb: request.method().as_str().to_lowercase(),
                path: request.uri().path().to_owned(),
                ..Attributes::default()
            };
            access::authorize(engine, &context.user, &attributes).await?;
            if !matches!(*request.method(), Method::GET | Method::HEAD) {
                return Err(match route {
                    Route::Unknown => ApiError::no_such_path(),
                    _ => ApiError::method_not_allowed(),
                });
            }
            information::answer(engine, &context, route)
        }
    }
}

fn health(path: &str) -> Result<Response, ApiError> {
    match path.split_once('/') {
        None | Some((_, "ping")) => {
            let mut response = Response::new(Body::from("ok"));
            response.headers_mut().insert(
                header::CONTENT_TYPE,
                http::HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            Ok(response)
        }
        Some(_) => Err(ApiError::no_such_path()),
    }
}
