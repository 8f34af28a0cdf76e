//! Lists: pages that belong together, at one version.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::resource::ResourceType;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::{ApiError, Cause};
use crate::storage::{Object, ObjectId, TooOld};

/// How exactly `resourceVersion` is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    /// At least as new.
    NotOlderThan,
    /// Precisely this one.
    Exact,
}

/// What to list.
#[derive(Debug, Clone, Default)]
pub struct ListOptions {
    /// Namespace; none for all, and for cluster-scoped types.
    pub namespace: Option<String>,
    /// Labels wanted.
    pub labels: LabelSelector,
    /// Fields wanted.
    pub fields: FieldSelector,
    /// Most objects of a page, 0 for all.
    pub limit: usize,
    /// Token of the page before.
    pub continue_token: Option<String>,
    /// `resourceVersion`; none when unset.
    pub version: Option<u64>,
    /// How `version` is meant.
    pub version_match: Option<VersionMatch>,
}

/// A page.
#[derive(Debug)]
pub struct Listed {
    /// The objects.
    pub objects: Vec<Arc<Object>>,
    /// The version that the list shows.
    pub version: u64,
    /// Token for the next page, when there is one.
    pub continue_token: Option<String>,
    /// Objects after this page, when it is known.
    pub remaining: Option<usize>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Token {
    /// Version of the list; 0 in a token that gives up consistency.
    rv: u64,
    ns: String,
    name: String,
}

impl Token {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok())
            .ok_or_else(|| ApiError::bad_request("continue key is not valid"))
    }
}

/// Objects looked at between two looks at the lock.
const CHUNK: usize = 500;
/// How long a read waits for a version that is yet to come.
const VERSION_PATIENCE: Duration = Duration::from_secs(3);

impl Engine {
    /// Lists objects.
    pub async fn list(
        &self,
        resource: &ResourceType,
        options: &ListOptions,
    ) -> Result<Listed, ApiError> {
        options
            .fields
            .check(resource)
            .map_err(|e| ApiError::bad_request(e.0))?;
        if options.version_match.is_some() && options.version.is_none() {
            return Err(version_match_forbidden(
                "resourceVersionMatch is forbidden unless resourceVersion is provided",
            ));
        }
        let (at, after) = match &options.continue_token {
            Some(text) => {
                if options.version.is_some_and(|v| v != 0) {
                    return Err(ApiError::bad_request(
                        "specifying resource version is not allowed when using continue",
                    ));
                }
                let token = Token::decode(text)?;
                let after = ObjectId::new(&token.ns, &token.name);
                ((token.rv != 0).then_some(token.rv), Some(after))
            }
            None => {
                if let Some(version) = options.version {
                    self.wait_for_version(version).await?;
                }
                let exact = options.version_match == Some(VersionMatch::Exact);
                if exact && options.version == Some(0) {
                    return Err(version_match_forbidden(
                        "resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
                    ));
                }
                (options.version.filter(|_| exact), None)
            }
        };
        // A selector that fixes the name needs no walk.
        if let (Some(name), Some(namespace), None, None) = (
            options.fields.name(),
            options
                .namespace
                .as_deref()
                .or((!resource.namespaced).then_some("")),
            at,
            &after,
        ) {
            let key = crate::storage::Key::new(&resource.storage, namespace, name);
            let (object, version) = self.store.get_and_version(&key);
            let objects = object
                .filter(|o| matches(resource, options, o))
                .into_iter()
                .collect();
            return Ok(Listed {
                objects,
                version,
                continue_token: None,
                remaining: None,
            });
        }
        self.walk(resource, options, at, after)
    }

    fn walk(
        &self,
        resource: &ResourceType,
        options: &ListOptions,
        at: Option<u64>,
        after: Option<ObjectId>,
    ) -> Result<Listed, ApiError> {
        let selecting = !options.labels.is_empty() || !options.fields.is_empty();
        let namespace = options.namespace.as_deref();
        let limit = options.limit;
        let wanted = options.labels.label_bits();
        let mut at = at;
        let mut cursor = after;
        let mut objects: Vec<Arc<Object>> = Vec::new();
        loop {
            let take = match limit {
                0 => 0,
                _ if selecting => CHUNK.max(limit),
                _ => limit,
            };
            let page = self
                .store
                .page(
                    &resource.storage,
                    namespace,
                    at,
                    cursor.as_ref(),
                    take,
                    wanted,
                )
                .map_err(|e| expired(e, cursor.as_ref()))?;
            at = Some(page.version);
            let last = page.objects.last().map(|o| o.id.clone());
            let mut left = page.objects.len() + page.remaining;
            for object in page.objects {
                if limit != 0 && objects.len() == limit {
                    break;
                }
                left -= 1;
                if matches(resource, options, &object) {
                    objects.push(object);
                }
            }
            let full = limit != 0 && objects.len() == limit;
            if left == 0 {
                return Ok(Listed {
                    objects,
                    version: page.version,
                    continue_token: None,
                    remaining: None,
                });
            }
            if full {
                let token = objects.last().map(|o| {
                    Token {
                        rv: page.version,
                        ns: o.id.namespace.to_string(),
                        name: o.id.name.to_string(),
                    }
                    .encode()
                });
                return Ok(Listed {
                    objects,
                    version: page.version,
                    continue_token: token,
                    remaining: (!selecting).then_some(left),
                });
            }
            cursor = last;
        }
    }

    /// Waits a little for a version that a client has seen elsewhere.
    pub(super) async fn wait_for_version(&self, version: u64) -> Result<(), ApiError> {
        let mut written = self.store.written();
        let reached = written.wait_for(|&now| now >= version);
        match tokio::time::timeout(VERSION_PATIENCE, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ if self.store.version() >= version => Ok(()),
            _ => Err(ApiError::new(
                http::StatusCode::GATEWAY_TIMEOUT,
                "Timeout",
                format!(
                    "Too large resource version: {version}, current: {}",
                    self.store.version()
                ),
            )
            .cause(Cause::new(
                "ResourceVersionTooLarge",
                "Too large resource version",
                "",
            ))
            .retry_after(1)),
        }
    }
}

pub(super) fn version_match_forbidden(why: &str) -> ApiError {
    let cause = Cause::forbidden("resourceVersionMatch", why);
    let mut error = ApiError::new(
        http::StatusCode::UNPROCESSABLE_ENTITY,
        "Invalid",
        format!(
            "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: {}",
            cause.message
        ),
    );
    error.group = "meta.k8s.io".into();
    error.kind = "ListOptions".into();
    error.causes.push(cause);
    error
}

fn matches(resource: &ResourceType, options: &ListOptions, object: &Object) -> bool {
    options.labels.matches(object.meta.labels.as_ref()) && options.fields.matches(resource, object)
}

fn expired(error: TooOld, cursor: Option<&ObjectId>) -> ApiError {
    let Some(cursor) = cursor else {
        return ApiError::expired(error.to_string());
    };
    let mut status = ApiError::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.continue_token = Some(
        Token {
            rv: 0,
            ns: cursor.namespace.to_string(),
            name: cursor.name.to_string(),
        }
        .encode(),
    );
    status
}
