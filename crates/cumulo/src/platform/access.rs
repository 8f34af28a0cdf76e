//! Who may do what. Two tokens: the owner's, which may do everything, and the
//! one that pods get, which may track, store artifacts and ask for predictions.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cumulo_apiserver::auth::{Attributes, Authorizer, Decision, StaticTokens, UserInfo};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};

use crate::home::{Credentials, Home};

/// The group of pods.
const WORKLOADS: &str = "cumulo:workloads";

/// Options of the API server: its folder, the tokens, and what they allow.
pub fn api_options(home: &Home, credentials: &Credentials) -> cumulo_apiserver::Options {
    let tokens = StaticTokens::default()
        .with(
            &credentials.admin,
            UserInfo::new("admin", &["system:masters"]),
        )
        .with(
            &credentials.workload,
            UserInfo::new("cumulo:workload", &[WORKLOADS]),
        );
    let mut options = cumulo_apiserver::Options::new(home.path("apiserver"));
    options.authenticator = std::sync::Arc::new(tokens);
    options.authorizer = std::sync::Arc::new(OwnerOnly);
    options
}

/// The Kubernetes API is the owner's: pods have no business with it.
#[derive(Debug)]
struct OwnerOnly;

#[async_trait::async_trait]
impl Authorizer for OwnerOnly {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.groups.iter().any(|group| group == "system:masters") {
            Decision::Allow("the user owns the platform".to_owned())
        } else {
            Decision::Deny(attributes.refusal(user))
        }
    }
}

/// The tokens that may use tracking, artifacts and inference. Only hashes are
/// kept, so that comparing takes no time that depends on how much of a guess is right.
#[derive(Clone)]
pub struct Access {
    known: [[u8; 32]; 2],
}

impl Access {
    /// Both tokens.
    pub fn new(credentials: &Credentials) -> Self {
        Self {
            known: [hash(&credentials.admin), hash(&credentials.workload)],
        }
    }

    /// The refusal that a request without a known token gets.
    #[expect(
        clippy::result_large_err,
        reason = "the error is the response that is sent"
    )]
    pub fn check(&self, headers: &HeaderMap) -> Result<(), Response> {
        let token = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, token)| token.trim());
        match token {
            Some(token) if self.known.contains(&hash(token)) => Ok(()),
            Some(_) => Err(refuse("the token is not one of this platform's")),
            None => Err(refuse(
                "a bearer token is needed: it stands in the kubeconfig that `cumulo up` wrote",
            )),
        }
    }
}

fn refuse(why: &str) -> Response {
    let body = serde_json::json!({"error": why, "error_code": "UNAUTHENTICATED", "message": why});
    let mut response = (StatusCode::UNAUTHORIZED, Body::from(body.to_string())).into_response();
    response.headers_mut().insert(
        header::WWW_AUTHENTICATE,
        HeaderValue::from_static("Bearer realm=\"cumulo\""),
    );
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: Option<&str>) -> u16 {
        let access = Access::new(&Credentials {
            admin: "a".to_owned(),
            workload: "w".to_owned(),
        });
        let mut headers = HeaderMap::new();
        if let Some(value) = value {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).unwrap());
        }
        access
            .check(&headers)
            .err()
            .map_or(200, |response| response.status().as_u16())
    }

    #[test]
    fn only_known_bearer_tokens_pass() {
        assert_eq!(check(Some("Bearer a")), 200);
        assert_eq!(check(Some("bearer w")), 200);
        assert_eq!(check(None), 401);
        assert_eq!(check(Some("Bearer")), 401);
        assert_eq!(check(Some("Bearer ")), 401);
        assert_eq!(check(Some("Bearer b")), 401);
        assert_eq!(check(Some("Basic a")), 401);
    }
}
