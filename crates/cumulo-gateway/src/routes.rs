//! The paths of the Open Inference Protocol, and whose they are.

use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json, Router};
use http::uri::PathAndQuery;
use http::{Method, Request, StatusCode};
use serde_json::json;

use crate::handle::Handle;
use crate::proxy;
use crate::refusal::Refusal;

/// The namespace of `/v2/…`.
const DEFAULT_NAMESPACE: &str = "default";

/// Whose a path is.
#[derive(Debug, PartialEq, Eq)]
enum Path<'a> {
    /// `/v2`
    Server,
    /// `/v2/health/live`
    Live,
    /// `/v2/health/ready`
    Ready,
    /// `/v2/models`, `/v2/repository/index`
    Index,
    /// `/v2/models/{service}` and below
    Service {
        name: &'a str,
        /// What follows the name, without slash.
        rest: &'a str,
    },
    Unknown,
}

/// The namespace, the rest of the path from `/v2` on, and what that is.
fn parse(path: &str) -> (&str, &str, Path<'_>) {
    let scoped = path
        .strip_prefix("/namespaces/")
        .and_then(|rest| rest.split_once('/'))
        .map(|(namespace, rest)| (namespace, &path[path.len() - rest.len() - 1..]));
    let (namespace, path) = scoped.unwrap_or((DEFAULT_NAMESPACE, path));
    let Some(rest) = path.strip_prefix("/v2") else {
        return (namespace, path, Path::Unknown);
    };
    let parsed = match rest {
        "" | "/" => Path::Server,
        "/health/live" => Path::Live,
        "/health/ready" => Path::Ready,
        "/models" | "/models/" | "/repository/index" => Path::Index,
        _ => match rest.strip_prefix("/models/") {
            Some(rest) => {
                let (name, rest) = rest.split_once('/').unwrap_or((rest, ""));
                Path::Service { name, rest }
            }
            None => Path::Unknown,
        },
    };
    (namespace, path, parsed)
}

pub(crate) fn router(handle: Handle) -> Router {
    Router::new()
        .route("/v2", axum::routing::any(answer))
        .route("/v2/", axum::routing::any(answer))
        .route("/v2/{*rest}", axum::routing::any(answer))
        .route("/namespaces/{namespace}/v2", axum::routing::any(answer))
        .route(
            "/namespaces/{namespace}/v2/{*rest}",
            axum::routing::any(answer),
        )
        .with_state(handle)
}

async fn answer(State(handle): State<Handle>, request: Request<Body>) -> Response {
    // A request can't be borrowed while something is waited for; its URI is cheap to clone.
    let uri = request.uri().clone();
    let (namespace, path, parsed) = parse(uri.path());
    match parsed {
        Path::Server => Json(json!({
            "name": "cumulo",
            "version": env!("CARGO_PKG_VERSION"),
            "extensions": ["model_repository"],
        }))
        .into_response(),
        Path::Live => Json(json!({ "live": true })).into_response(),
        Path::Ready => Json(json!({ "ready": true })).into_response(),
        Path::Index => index(&handle, namespace, path.ends_with("index")),
        Path::Unknown => Refusal::UnknownPath { path: path.into() }.into_response(),
        Path::Service { name, rest } => {
            let service = match handle.service(namespace, name).await {
                Ok(service) => service,
                Err(refusal) => return refusal.into_response(),
            };
            if rest == "ready" && request.method() == Method::GET {
                return ready(name, service.readiness());
            }
            let upstream = match uri.query() {
                // Without a prefix the path can be taken as it is.
                _ if path.len() == uri.path().len() => uri.path_and_query().cloned(),
                Some(query) => PathAndQuery::try_from(format!("{path}?{query}")).ok(),
                None => PathAndQuery::try_from(path).ok(),
            };
            match upstream {
                Some(upstream) => {
                    proxy::forward(&handle.0.options, service, request, upstream).await
                }
                None => Refusal::UnknownPath { path: path.into() }.into_response(),
            }
        }
    }
}

fn ready(name: &str, readiness: Result<(), String>) -> Response {
    match readiness {
        Ok(()) => Json(json!({ "name": name, "ready": true })).into_response(),
        Err(waiting_for) => {
            let body = json!({
                "name": name,
                "ready": false,
                "error": format!("it waits for: {waiting_for}"),
            });
            (StatusCode::SERVICE_UNAVAILABLE, Json(body)).into_response()
        }
    }
}

/// The services of a namespace: `{"models": […]}`, or the bare list that the
/// model repository extension asks for.
fn index(handle: &Handle, namespace: &str, bare: bool) -> Response {
    let services = handle.services().into_iter();
    let models: Vec<serde_json::Value> = services
        .filter(|service| service.key.namespace == namespace)
        .map(|service| {
            let (state, reason) = match service.readiness() {
                Ok(()) => ("READY", String::new()),
                Err(waiting_for) => ("UNAVAILABLE", waiting_for),
            };
            json!({
                "name": service.key.name,
                "version": service.model_version().unwrap_or_default(),
                "state": state,
                "reason": reason,
            })
        })
        .collect();
    if bare {
        Json(models).into_response()
    } else {
        Json(json!({ "models": models })).into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let service = |name, rest| Path::Service { name, rest };
        let cases = [
            ("/v2", "default", "/v2", Path::Server),
            ("/v2/models", "default", "/v2/models", Path::Index),
            ("/v2/models/a", "default", "/v2/models/a", service("a", "")),
            (
                "/v2/models/a/infer",
                "default",
                "/v2/models/a/infer",
                service("a", "infer"),
            ),
            (
                "/namespaces/team/v2/models/a/versions/3/infer",
                "team",
                "/v2/models/a/versions/3/infer",
                service("a", "versions/3/infer"),
            ),
            ("/namespaces/team/v2", "team", "/v2", Path::Server),
            (
                "/namespaces/team",
                "default",
                "/namespaces/team",
                Path::Unknown,
            ),
            ("/v2/unknown", "default", "/v2/unknown", Path::Unknown),
            ("/", "default", "/", Path::Unknown),
        ];
        for (path, namespace, upstream, parsed) in cases {
            assert_eq!(parse(path), (namespace, upstream, parsed), "{path}");
        }
    }
}
