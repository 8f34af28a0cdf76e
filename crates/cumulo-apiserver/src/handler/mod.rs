//! HTTP: one handler for every type. It reads the request, finds out who asks
//! and whether they may, calls the operation, and writes the answer.
//!
//! ```text
//! request ─ route ─ authenticate ─ authorize ─ operation ─ respond
//! ```

mod accept;
mod access;
mod api_services;
mod call;
mod discovery;
mod eviction;
mod impersonate;
mod information;
mod metrics;
mod pods;
mod request;
mod respond;
mod reviews;
mod table_view;
mod watch;

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use http::{HeaderMap, Method, Request, header};

pub use discovery::VERSION;
pub(crate) use watch::Fanout;

use self::request::{Query, Route};
use crate::audit::{Event, SourceAddress};
use crate::auth::{Attributes, Decision, UserInfo};
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
    let mut record = Record::new(&engine, &request);
    let response = match dispatch(&engine, request, &mut record).await {
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
    record.close(&engine, path, response.status().as_u16());
    response
}

/// What the audit log is told of a request.
#[derive(Debug, Default)]
struct Record {
    /// From this process, or not worth a line.
    inside: bool,
    user: Option<UserInfo>,
    impersonated: Option<UserInfo>,
    attributes: Attributes,
    decision: Option<Decision>,
    source: Option<IpAddr>,
    agent: String,
    received: DateTime<Utc>,
}

impl Record {
    fn new(engine: &Engine, request: &Request<Body>) -> Self {
        if engine.audit.is_none() {
            return Self::default();
        }
        let agent = request.headers().get(header::USER_AGENT);
        Self {
            attributes: Attributes {
                verb: request.method().as_str().to_lowercase(),
                ..Attributes::default()
            },
            source: request
                .extensions()
                .get()
                .map(|from: &SourceAddress| from.0),
            agent: agent
                .and_then(|agent| agent.to_str().ok())
                .unwrap_or_default()
                .to_owned(),
            received: engine.clock.now(),
            ..Self::default()
        }
    }

    fn close(self, engine: &Engine, path: String, code: u16) {
        let Some(audit) = &engine.audit else {
            return;
        };
        if self.inside {
            return;
        }
        audit.record(Event {
            user: self.user,
            impersonated: self.impersonated,
            attributes: self.attributes,
            path,
            source: self.source,
            agent: self.agent,
            code,
            decision: self.decision,
            received: self.received,
            completed: engine.clock.now(),
        });
    }
}

/// What the operations need to know of a request.
struct Context {
    user: UserInfo,
    query: Query,
    headers: HeaderMap,
}

async fn dispatch(
    engine: &Arc<Engine>,
    mut request: Request<Body>,
    record: &mut Record,
) -> Result<Response, ApiError> {
    let route = request::route(request.uri().path());
    if let Route::Health(path) = &route {
        // Asked for every few seconds, by whoever watches the process.
        record.inside = true;
        return health(path);
    }
    let mut user = access::authenticate(engine, &mut request, record).await?;
    if let Some(other) = impersonate::impersonate(engine, &user, request.headers()).await? {
        record.impersonated = Some(other.clone());
        user = other;
    }
    let context = Context {
        user,
        query: Query::parse(request.uri().query()),
        headers: request.headers().clone(),
    };
    match route {
        Route::Resource(path) => call::answer(engine, context, path, request, record).await,
        route => {
            let attributes = Attributes {
                verb: request.method().as_str().to_lowercase(),
                path: request.uri().path().to_owned(),
                ..Attributes::default()
            };
            access::authorize(engine, &context.user, &attributes, record).await?;
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
