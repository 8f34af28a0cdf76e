//! The MLflow REST API over a [`Handle`].
//!
//! Every route is served below `/api/2.0` and, as MLflow's own pages call it,
//! below `/ajax-api/2.0`. Nothing here authenticates: the server around it does.

mod artifacts;
mod logged_models;
mod payload;
mod registry;
mod tracking;

use axum::extract::DefaultBodyLimit;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::{HeaderValue, Method, Uri, header};

use crate::error::{Error, ErrorCode};
use crate::handle::Handle;

/// The version that `/version` tells: clients choose endpoints by it.
const MLFLOW_VERSION: &str = "3.17.0";
/// Bytes of a JSON request at most. (Artifacts have their own limit.)
const MAX_JSON_BYTES: usize = 16 * 1024 * 1024;

impl Handle {
    /// All routes: `/api/2.0/mlflow/…`, `/api/2.0/mlflow-artifacts/…`, the same below
    /// `/ajax-api`, `/version`, `/health` and `/server-info`.
    ///
    /// **It does not authenticate**; put that in front of it.
    pub fn router(&self) -> Router {
        let api = Router::new()
            .nest(
                "/mlflow",
                tracking::router()
                    .merge(registry::router())
                    .merge(logged_models::router()),
            )
            .nest("/mlflow-artifacts", artifacts::router());
        Router::new()
            .nest("/api/2.0", api.clone())
            .nest("/ajax-api/2.0", api)
            .route("/version", get(version))
            .route("/health", get(|| async { "OK" }))
            .route("/server-info", get(server_info))
            .route("/api/3.0/mlflow/server-info", get(server_info))
            .route("/ajax-api/3.0/mlflow/server-info", get(server_info))
            .route("/api/3.0/{*rest}", axum::routing::any(no_such_endpoint))
            .route("/api/2.0/{*rest}", axum::routing::any(no_such_endpoint))
            .method_not_allowed_fallback(no_such_endpoint)
            .layer(DefaultBodyLimit::max(MAX_JSON_BYTES))
            .with_state(self.clone())
    }
}

async fn version() -> impl IntoResponse {
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    ([(header::CONTENT_TYPE, text)], MLFLOW_VERSION)
}

/// What MLflow's clients ask before they choose how to upload. Uploads in parts
/// work when a client insists, but one streamed request is simpler and as fast.
async fn server_info() -> Response {
    Json(serde_json::json!({
        "store_type": "SqlStore",
        "workspaces_enabled": false,
        "trace_archival_enabled": false,
        "multipart_uploads_enabled": false,
        "multipart_downloads_enabled": false,
        "presigned_upload_run_id_supported": false,
        "presigned_upload_model_id_supported": false,
        "features_enabled": {"gateway": false},
    }))
    .into_response()
}

async fn no_such_endpoint(method: Method, uri: Uri) -> Error {
    tracing::debug!(%method, path = uri.path(), "unknown endpoint asked for");
    Error::new(
        ErrorCode::EndpointNotFound,
        format!(
            "No API found for '{method} {}': this platform speaks MLflow's tracking, registry and \
             artifact API.",
            uri.path()
        ),
    )
}
