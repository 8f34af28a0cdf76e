//! Artifacts over HTTP: streamed both ways.

use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use futures::StreamExt;
use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use serde::Deserialize;
use serde_json::{Value, json};

use super::payload::Payload;
use crate::artifacts::{ArtifactPath, Part};
use crate::error::{Error, Result};
use crate::handle::Handle;
use crate::validate::required;
use crate::wire::{Empty, FileInfo, lenient};

pub(super) fn router() -> Router<Handle> {
    let files = Router::new()
        .route(
            "/artifacts/{*path}",
            get(download).put(upload).delete(remove),
        )
        .route("/mpu/part/{id}/{number}", put(upload_part))
        // Streamed to disk with a limit of their own.
        .layer(DefaultBodyLimit::disable());
    Router::new()
        .route("/artifacts", get(list))
        .route("/mpu/create/{*path}", post(create_parts))
        .route("/mpu/complete/{*path}", post(complete_parts))
        .route("/mpu/abort/{*path}", post(abort_parts))
        .merge(files)
}

#[derive(Debug, Deserialize)]
struct ListRequest {
    path: Option<String>,
}

async fn list(
    State(handle): State<Handle>,
    Payload(request): Payload<ListRequest>,
) -> Result<Json<Value>> {
    let path = ArtifactPath::parse(request.path.as_deref().unwrap_or_default())?;
    let files: Vec<FileInfo> = handle.artifacts().list(&path).await?;
    Ok(Json(json!({"files": files})))
}

/// The path of the URL, decoded once by the router.
fn parse(path: &str) -> Result<ArtifactPath> {
    ArtifactPath::parse(path)
}

async fn download(
    State(handle): State<Handle>,
    Path(path): Path<String>,
    headers: HeaderMap,
) -> Result<Response> {
    let path = parse(&path)?;
    let opened = handle.artifacts().read(&path).await?;
    let asked = headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok());
    let range = asked.and_then(|asked| range(asked, opened.bytes));
    let total = opened.bytes;
    let bytes = match range {
        Some((start, length)) => start..start.saturating_add(length),
        None => 0..total,
    };
    let content = opened.stream(Some(bytes.clone())).await?;
    let mut response = Response::new(Body::from_stream(content));
    if range.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let value = format!(
            "bytes {}-{}/{total}",
            bytes.start,
            bytes.end.saturating_sub(1)
        );
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    let length = bytes.end.saturating_sub(bytes.start);
    response
        .headers_mut()
        .insert(header::CONTENT_LENGTH, length.into());
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/octet-stream"),
    );
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // What users upload must not run as a page of ours.
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment"),
    );
    Ok(response)
}

/// `bytes=start-end`, `bytes=start-`, `bytes=-last`: start and length. Others are
/// ignored, which HTTP allows.
fn range(text: &str, size: u64) -> Option<(u64, u64)> {
    let (start, end) = text.strip_prefix("bytes=")?.split_once('-')?;
    let last = size.checked_sub(1)?;
    let (start, end) = match (start.parse::<u64>(), end.parse::<u64>()) {
        (Ok(start), Ok(end)) => (start, end.min(last)),
        (Ok(start), Err(_)) if end.is_empty() => (start, last),
        (Err(_), Ok(suffix)) if start.is_empty() && suffix > 0 => {
            (size.saturating_sub(suffix), last)
        }
        _ => return None,
    };
    let length = end.checked_sub(start)?.checked_add(1)?;
    Some((start, length))
}

/// Bytes of a refused upload that are read and thrown away.
const DISCARD_LIMIT: usize = 256 << 20;

/// The result, once the client can hear of a refusal: it reads no answer while it
/// sends, and a connection closed before takes the answer with it.
async fn heard<T>(result: Result<T>, mut rest: BodyDataStream) -> Result<T> {
    if result.is_err() {
        let mut read = 0;
        let discard = async {
            while let Some(Ok(bytes)) = rest.next().await {
                read += bytes.len();
                if read > DISCARD_LIMIT {
                    return;
                }
            }
        };
        // Whoever sends no further may wait for the answer now.
        let _ = tokio::time::timeout(Duration::from_secs(10), discard).await;
    }
    result
}

async fn upload(
    State(handle): State<Handle>,
    Path(path): Path<String>,
    body: Body,
) -> Result<Json<Empty>> {
    let path = parse(&path)?;
    let mut content = body.into_data_stream();
    let written = handle.artifacts().write(&path, &mut content).await;
    let bytes = heard(written, content).await?;
    tracing::debug!(%path, bytes, "artifact stored");
    Ok(Json(Empty {}))
}

async fn remove(State(handle): State<Handle>, Path(path): Path<String>) -> Result<Json<Empty>> {
    handle.artifacts().delete(&parse(&path)?).await?;
    Ok(Json(Empty {}))
}

#[derive(Debug, Deserialize)]
struct PartsRequest {
    path: Option<String>,
    #[serde(default, deserialize_with = "lenient::integer")]
    num_parts: Option<i64>,
    upload_id: Option<String>,
    #[serde(default, deserialize_with = "lenient::list")]
    parts: Vec<Part>,
}

/// The folder of the URL and the name of the client's local file.
fn destination(folder: &str, request: &PartsRequest) -> Result<ArtifactPath> {
    let local = required(request.path.clone(), "path")?;
    let name = local.rsplit(['/', '\\']).next().unwrap_or_default();
    let name = ArtifactPath::parse(name)?;
    if name.is_root() {
        return Err(Error::missing("path"));
    }
    Ok(parse(folder)?.join(&name))
}

async fn create_parts(
    State(handle): State<Handle>,
    Path(folder): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    Payload(request): Payload<PartsRequest>,
) -> Result<Response> {
    let path = destination(&folder, &request)?;
    let parts = request.num_parts.unwrap_or(1);
    let id = handle.artifacts().start_parts(&path, parts).await?;
    let text = |name| {
        headers
            .get(name)
            .and_then(|value: &HeaderValue| value.to_str().ok())
    };
    let scheme = text(header::HeaderName::from_static("x-forwarded-proto")).unwrap_or("http");
    let authority = uri.authority().map(ToString::to_string);
    let host = text(header::HOST)
        .map(str::to_owned)
        .or(authority)
        .unwrap_or_default();
    // The client sends parts with these headers only, so its own credential comes
    // back to it here, and nowhere else.
    let mut with = serde_json::Map::new();
    if let Some(credential) = text(header::AUTHORIZATION) {
        with.insert("Authorization".to_owned(), credential.into());
    }
    let credentials: Vec<Value> = (1..=parts)
        .map(|number| {
            json!({
                "url": format!("{scheme}://{host}/api/2.0/mlflow-artifacts/mpu/part/{id}/{number}"),
                "part_number": number,
                "headers": with,
            })
        })
        .collect();
    Ok(Json(json!({"upload_id": id, "credentials": credentials})).into_response())
}

async fn upload_part(
    State(handle): State<Handle>,
    Path((id, number)): Path<(String, i64)>,
    body: Body,
) -> Result<Response> {
    let mut content = body.into_data_stream();
    let written = handle
        .artifacts()
        .write_part(&id, number, &mut content)
        .await;
    let tag = heard(written, content).await?;
    Ok(([(header::ETAG, format!("\"{tag}\""))], Json(Empty {})).into_response())
}

async fn complete_parts(
    State(handle): State<Handle>,
    Path(folder): Path<String>,
    Payload(request): Payload<PartsRequest>,
) -> Result<Json<Empty>> {
    let path = destination(&folder, &request)?;
    let id = required(request.upload_id, "upload_id")?;
    handle
        .artifacts()
        .complete_parts(&path, &id, request.parts)
        .await?;
    Ok(Json(Empty {}))
}

async fn abort_parts(
    State(handle): State<Handle>,
    Path(folder): Path<String>,
    Payload(request): Payload<PartsRequest>,
) -> Result<Json<Empty>> {
    destination(&folder, &request)?;
    let id = required(request.upload_id, "upload_id")?;
    handle.artifacts().abort_parts(&id).await?;
    Ok(Json(Empty {}))
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn ranges_are_within_the_file() {
        assert_eq!(range("bytes=0-3", 10), Some((0, 4)));
        assert_eq!(range("bytes=5-", 10), Some((5, 5)));
        assert_eq!(range("bytes=5-99", 10), Some((5, 5)));
        assert_eq!(range("bytes=-3", 10), Some((7, 3)));
        assert_eq!(range("bytes=20-30", 10), None);
        assert_eq!(range("bytes=0-0", 0), None);
        assert_eq!(range("lines=0-3", 10), None);
    }
}
