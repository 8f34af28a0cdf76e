//! Who asks, and whether they may.

use axum::body::Body;
use http::{HeaderMap, Request, header};

use super::Record;
use crate::auth::{Attributes, CertificateUser, UserInfo};
use crate::engine::{Engine, permit};
use crate::status::ApiError;

pub(super) async fn authenticate(
    engine: &Engine,
    request: &mut Request<Body>,
    record: &mut Record,
) -> Result<UserInfo, ApiError> {
    if let Some(user) = request.extensions_mut().remove::<UserInfo>() {
        record.inside = true;
        return Ok(user);
    }
    if let Some(CertificateUser(user)) = request.extensions_mut().remove() {
        if engine.audit.is_some() {
            record.user = Some(user.clone());
        }
        return Ok(user);
    }
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|v| v.to_str().ok())
        .and_then(|v| {
            let (scheme, token) = v.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        })
        .map(str::to_owned)
        .or_else(|| websocket_token(request.headers()));
    let token = token.ok_or_else(ApiError::unauthorized)?;
    let authenticated = engine.authenticate(&token, &[]).await;
    let user = authenticated.ok_or_else(ApiError::unauthorized)?.user;
    if engine.audit.is_some() {
        record.user = Some(user.clone());
    }
    Ok(user)
}

/// Browsers cannot set headers on a websocket; Kubernetes takes the token as a
/// subprotocol from them.
fn websocket_token(headers: &HeaderMap) -> Option<String> {
    use base64::Engine as _;
    let encoded = headers
        .get(header::SEC_WEBSOCKET_PROTOCOL)?
        .to_str()
        .ok()?
        .split(',')
        .find_map(|p| {
            p.trim()
                .strip_prefix("base64url.bearer.authorization.k8s.io.")
        })?;
    let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(encoded)
        .ok()?;
    String::from_utf8(bytes).ok()
}

/// Asks the authorizer, and keeps what it says for the audit log.
pub(super) async fn authorize(
    engine: &Engine,
    user: &UserInfo,
    attributes: &Attributes,
    record: &mut Record,
) -> Result<(), ApiError> {
    let decision = engine.authorizer.authorize(user, attributes).await;
    let result = permit(user, attributes, &decision);
    if engine.audit.is_some() && !record.inside {
        record.attributes = attributes.clone();
        record.decision = Some(decision);
    }
    result
}
