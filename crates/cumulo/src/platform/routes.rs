//! Which part of the platform answers a path.

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Request, StatusCode, header};
use tower::ServiceExt;

use super::guard::Guard;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The Kubernetes API, which checks credentials itself.
    Api,
    /// Tracking, registry and artifacts.
    Tracking,
    /// Inference and its metrics.
    Gateway,
    /// The node's devices.
    Devices,
    /// A copy of everything.
    Backup,
    /// Nobody.
    Nobody,
}

fn part(path: &str, headers: &HeaderMap) -> Part {
    let first = path
        .trim_start_matches('/')
        .split('/')
        .next()
        .unwrap_or_default();
    let tracks = ["/api/2.0/", "/api/3.0/", "/ajax-api/"];
    if tracks.iter().any(|prefix| path.starts_with(prefix)) {
        return Part::Tracking;
    }
    match first {
        // Kubernetes and MLflow both ask for /version; only MLflow wants a plain text.
        "version" if is_mlflow(headers) => Part::Tracking,
        "api" | "apis" | "openapi" | "version" | "livez" | "readyz" | "healthz" | "openid"
        | ".well-known" => Part::Api,
        "health" | "server-info" => Part::Tracking,
        "gpus" => Part::Devices,
        "backup" => Part::Backup,
        "v2" | "namespaces" | "metrics" => Part::Gateway,
        _ => Part::Nobody,
    }
}

fn is_mlflow(headers: &HeaderMap) -> bool {
    headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok())
        .is_some_and(|agent| agent.starts_with("mlflow"))
}

/// One router for everything. The guard stands before every part but the API
/// server, which asks for itself.
pub fn router(
    api: Router,
    tracking: Router,
    gateway: Router,
    devices: Router,
    backup: Router,
    guard: Guard,
) -> Router {
    Router::new().fallback(move |request: Request<Body>| {
        let (api, tracking, gateway, devices, backup, guard) = (
            api.clone(),
            tracking.clone(),
            gateway.clone(),
            devices.clone(),
            backup.clone(),
            guard.clone(),
        );
        async move {
            let part = part(request.uri().path(), request.headers());
            let router = match part {
                Part::Api => return answer(api, request).await,
                Part::Nobody => return nobody(request.uri().path()),
                Part::Tracking => tracking,
                Part::Gateway => gateway,
                Part::Devices => devices,
                Part::Backup => backup,
            };
            // Taken apart, because a body cannot be shared while the guard asks.
            let (head, body) = request.into_parts();
            let event = match guard.check(part, &head).await {
                Ok(event) => event,
                Err(refusal) => return refusal,
            };
            let response = answer(router, Request::from_parts(head, body)).await;
            if let Some(event) = event {
                guard.answered(event, response.status());
            }
            response
        }
    })
}

async fn answer(router: Router, request: Request<Body>) -> Response {
    match router.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

fn nobody(path: &str) -> Response {
    if path == "/" {
        let text = concat!(
            "Cumulo ",
            env!("CARGO_PKG_VERSION"),
            "\n\n/api, /apis     the Kubernetes API (kubectl --kubeconfig)\n/v2/models      inference, Open Inference Protocol\n/api/2.0/mlflow tracking and registry, MLflow REST API\n/metrics        Prometheus metrics\n"
        );
        return text.into_response();
    }
    let body =
        serde_json::json!({"error": format!("nothing is served at {path}: / lists what there is")});
    (
        StatusCode::NOT_FOUND,
        [(header::CONTENT_TYPE, "application/json")],
        body.to_string(),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn paths_reach_their_part() {
        let none = HeaderMap::new();
        assert_eq!(part("/api/v1/pods", &none), Part::Api);
        assert_eq!(part("/apis", &none), Part::Api);
        assert_eq!(part("/api/2.0/mlflow/runs/get", &none), Part::Tracking);
        assert_eq!(
            part("/api/2.0/mlflow-artifacts/artifacts/a", &none),
            Part::Tracking
        );
        assert_eq!(part("/v2/models/m/infer", &none), Part::Gateway);
        assert_eq!(part("/version", &none), Part::Api);
        assert_eq!(part("/gpus", &none), Part::Devices);
        assert_eq!(part("/backup", &none), Part::Backup);
        assert_eq!(part("/", &none), Part::Nobody);
        assert_eq!(part("/v2x", &none), Part::Nobody);
        let mut mlflow = HeaderMap::new();
        mlflow.insert(
            header::USER_AGENT,
            HeaderValue::from_static("mlflow-python-client/3.0"),
        );
        assert_eq!(part("/version", &mlflow), Part::Tracking);
    }
}
