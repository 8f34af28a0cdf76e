//! Tokens of service accounts: signed claims (JWT, RFC 7519) that anybody with
//! the public key can check, and that hold only while the account is there.
//!
//! [`jwt`] signs and checks, pure but for randomness; this module says what the
//! claims mean: whom they name, and whether that one is still there.

pub mod jwt;

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

pub use jwt::{Claims, KeyError, Reference, TokenKey};

use crate::auth::{Authenticated, UserInfo};
use crate::engine::Engine;
use crate::operation::Target;
use crate::rbac::account_user;
use crate::status::{ApiError, Cause};
use crate::storage::{Key, Object};

/// Who signs, unless it is said otherwise: Kubernetes' own default.
pub const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";
/// Seconds that a token lasts unless it is said otherwise.
const LIFETIME: i64 = 3600;
/// Shortest life that may be asked for.
const SHORTEST: i64 = 600;
/// Longest life that is given.
const LONGEST: i64 = 1 << 32;
/// Seconds that clocks may differ.
const LEEWAY: i64 = 10;

/// What was asked for in the `spec` of a `TokenRequest`.
struct Wanted {
    audiences: Vec<String>,
    seconds: i64,
    pod: Option<(String, String)>,
}

impl Wanted {
    fn read(target: &Target, spec: &Value) -> Result<Self, ApiError> {
        let invalid = |cause| {
            Err(ApiError::invalid(
                &target.resource,
                &target.name,
                vec![cause],
            ))
        };
        let seconds = &spec["expirationSeconds"];
        let seconds = match seconds.as_i64() {
            None => LIFETIME,
            Some(n) if n < SHORTEST => {
                return invalid(Cause::invalid(
                    "spec.expirationSeconds",
                    seconds,
                    "may not specify a duration less than 10 minutes",
                ));
            }
            Some(n) if n > LONGEST => {
                return invalid(Cause::invalid(
                    "spec.expirationSeconds",
                    seconds,
                    "may not specify a duration larger than 2^32 seconds",
                ));
            }
            Some(n) => n,
        };
        let audiences: Vec<String> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let bound = &spec["boundObjectRef"];
        let text = |field: &str| bound[field].as_str().unwrap_or_default().to_owned();
        let pod = match (bound.is_object(), text("kind").as_str()) {
            (false, _) => None,
            (true, "Pod") => Some((text("name"), text("uid"))),
            (true, kind) => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to a {kind:?} object: only to a Pod"
                )));
            }
        };
        Ok(Self {
            audiences: if audiences.is_empty() {
                vec![ISSUER.to_owned()]
            } else {
                audiences
            },
            seconds,
            pod,
        })
    }
}

impl Engine {
    /// Answers a `TokenRequest` for a service account.
    pub fn issue_token(&self, target: &Target, mut request: Value) -> Result<Value, ApiError> {
        let Some(key) = &self.token_key else {
            return Err(ApiError::new(
                http::StatusCode::NOT_IMPLEMENTED,
                "NotImplemented",
                "this server has no key to sign service account tokens with",
            ));
        };
        let account = self.get(target)?;
        let wanted = Wanted::read(target, &request["spec"])?;
        let pod = match &wanted.pod {
            None => None,
            Some((name, uid)) => Some(self.bound_pod(target, name, uid)?),
        };
        let now = self.clock.now();
        let claims = Claims {
            issuer: ISSUER.to_owned(),
            subject: account_user(&target.namespace, &target.name),
            audiences: wanted.audiences.clone(),
            issued: now.timestamp(),
            not_before: now.timestamp(),
            expires: now.timestamp() + wanted.seconds,
            id: uuid::Uuid::new_v4().to_string(),
            namespace: target.namespace.clone(),
            account: Reference {
                name: target.name.clone(),
                uid: account.meta.uid.clone(),
            },
            pod,
        };
        let token = key.sign(&claims).map_err(ApiError::internal)?;
        let end = now + TimeDelta::seconds(wanted.seconds);
        let bound = request["spec"]["boundObjectRef"].take();
        Ok(json!({
            "kind": "TokenRequest",
            "apiVersion": "authentication.k8s.io/v1",
            "metadata": {
                "name": target.name,
                "namespace": target.namespace,
                "creationTimestamp": self.clock.timestamp(),
            },
            "spec": {
                "audiences": wanted.audiences,
                "expirationSeconds": wanted.seconds,
                "boundObjectRef": bound,
            },
            "status": {"token": token, "expirationTimestamp": crate::engine::timestamp(end)},
        }))
    }

    fn bound_pod(&self, account: &Target, name: &str, uid: &str) -> Result<Reference, ApiError> {
        let catalog = self.registry.catalog();
        let pods = catalog
            .find("", "v1", "pods")
            .ok_or_else(ApiError::no_such_path)?;
        let pod = self.get(&Target::new(pods, &account.namespace, name))?;
        if !uid.is_empty() && uid != pod.meta.uid {
            return Err(ApiError::conflict(
                pods,
                name,
                format!(
                    "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            ));
        }
        if pod.value()["spec"]["serviceAccountName"] != account.name.as_str() {
            return Err(ApiError::bad_request(format!(
                "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                account.name
            )));
        }
        Ok(Reference {
            name: name.to_owned(),
            uid: pod.meta.uid.clone(),
        })
    }

    /// Who a bearer token stands for. `audiences` are those that will do; none
    /// means the API itself.
    pub async fn authenticate(&self, token: &str, audiences: &[String]) -> Option<Authenticated> {
        let api = [ISSUER.to_owned()];
        let accepted = if audiences.is_empty() {
            &api[..]
        } else {
            audiences
        };
        let (user, own) = match &self.token_key {
            Some(key) if jwt::is_jwt(token) => {
                let claims = key.verify(token)?;
                (self.account_of(&claims)?, claims.audiences)
            }
            _ => (self.authenticator.authenticate(token).await?, api.to_vec()),
        };
        let audiences: Vec<String> = accepted
            .iter()
            .filter(|audience| own.contains(audience))
            .cloned()
            .collect();
        (!audiences.is_empty()).then_some(Authenticated { user, audiences })
    }

    /// The user of claims whose signature is good, if they hold now.
    fn account_of(&self, claims: &Claims) -> Option<UserInfo> {
        let time = self.clock.now();
        let now = time.timestamp();
        let name = &claims.account.name;
        let holds = claims.issuer == ISSUER
            && claims.expires > now
            && claims.not_before <= now + LEEWAY
            && claims.subject == account_user(&claims.namespace, name);
        if !holds {
            return None;
        }
        let there = |storage: &str, reference: &Reference| {
            let storage: Arc<str> = storage.into();
            self.store
                .get(&Key::new(&storage, &claims.namespace, &reference.name))
                .filter(|object| object.meta.uid == reference.uid && !is_gone(object, time))
        };
        there("/serviceaccounts", &claims.account)?;
        let mut user = UserInfo::new(
            &claims.subject,
            &[
                "system:serviceaccounts",
                &format!("system:serviceaccounts:{}", claims.namespace),
            ],
        );
        user.uid = claims.account.uid.clone();
        let mut say = |key: &str, value: String| {
            user.extra
                .insert(format!("authentication.kubernetes.io/{key}"), vec![value]);
        };
        say("credential-id", format!("JTI={}", claims.id));
        if let Some(pod) = &claims.pod {
            there("/pods", pod)?;
            say("pod-name", pod.name.clone());
            say("pod-uid", pod.uid.clone());
        }
        Some(user)
    }

    /// The keys that tokens are checked with, as `/openid/v1/jwks` tells them.
    pub fn public_keys(&self) -> Option<Value> {
        Some(json!({"keys": [self.token_key.as_ref()?.public()]}))
    }

    /// What `/.well-known/openid-configuration` tells.
    pub fn issuer_metadata(&self, host: &str) -> Option<Value> {
        self.token_key.as_ref()?;
        Some(json!({
            "issuer": ISSUER,
            "jwks_uri": format!("https://{host}/openid/v1/jwks"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        }))
    }
}

/// Whether an object is past the end of its deletion. (One that ends gracefully
/// is there until then.)
fn is_gone(object: &Object, now: DateTime<Utc>) -> bool {
    object
        .meta
        .deletion_timestamp
        .as_deref()
        .and_then(|end| DateTime::parse_from_rfc3339(end).ok())
        .is_some_and(|end| end < now)
}
