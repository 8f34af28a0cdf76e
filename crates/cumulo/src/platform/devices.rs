//! `/gpus`: the node's devices as of now. What changes from second to second is
//! kept out of Kubernetes' objects; the ResourceSlices hold the rest.

use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use cumulo_node::Handle;
use http::StatusCode;

/// The route.
pub fn router(node: Handle) -> Router {
    Router::new().route("/gpus", get(move || answer(node.clone())))
}

async fn answer(node: Handle) -> Response {
    match node.devices().await {
        Ok(inventory) => Json(inventory).into_response(),
        // As Kubernetes says it, so that its clients show the sentence.
        Err(error) => (
            StatusCode::SERVICE_UNAVAILABLE,
            Json(serde_json::json!({
                "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503,
                "reason": "ServiceUnavailable", "message": error.to_string(),
            })),
        )
            .into_response(),
    }
}
