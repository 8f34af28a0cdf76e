//! One event, as `audit.k8s.io/v1` writes it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use crate::auth::{Attributes, Decision, UserInfo};

/// Characters of a path or user agent that are kept.
const LONGEST: usize = 1024;

/// Where a connection comes from; the listener puts it into a request's extensions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SourceAddress(pub IpAddr);

/// What is known of a request that was answered.
#[derive(Debug, Clone)]
pub struct Event {
    /// Who asked; none when the credential is not known.
    pub user: Option<UserInfo>,
    /// Whom the request was answered as, when that is somebody else.
    pub impersonated: Option<UserInfo>,
    /// What was asked for.
    pub attributes: Attributes,
    /// The path, without its query.
    pub path: String,
    /// Where from.
    pub source: Option<IpAddr>,
    /// The user agent.
    pub agent: String,
    /// HTTP status of the answer.
    pub code: u16,
    /// What the authorizer said, if it was asked.
    pub decision: Option<Decision>,
    /// When the request came.
    pub received: DateTime<Utc>,
    /// When the answer began.
    pub completed: DateTime<Utc>,
}

/// The fields of a line, in Kubernetes' order.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    kind: &'static str,
    api_version: &'static str,
    level: &'static str,
    #[serde(rename = "auditID")]
    audit_id: String,
    stage: &'static str,
    #[serde(rename = "requestURI")]
    request_uri: &'a str,
    verb: &'a str,
    user: User<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    impersonated_user: Option<User<'a>>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Option::is_none")]
    source_ips: Option<[IpAddr; 1]>,
    #[serde(skip_serializing_if = "str::is_empty")]
    user_agent: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    object_ref: Option<ObjectRef<'a>>,
    response_status: Status,
    request_received_timestamp: String,
    stage_timestamp: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<Annotations<'a>>,
}

#[derive(Serialize, Default)]
struct User<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    extra: Option<&'a BTreeMap<String, Vec<String>>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ObjectRef<'a> {
    resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_group: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    api_version: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    subresource: &'a str,
}

#[derive(Serialize)]
struct Status {
    metadata: Empty,
    code: u16,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
struct Annotations<'a> {
    #[serde(rename = "authorization.k8s.io/decision")]
    decision: &'static str,
    #[serde(rename = "authorization.k8s.io/reason")]
    reason: &'a str,
}

impl Event {
    /// The event as a line of JSON, without its end.
    pub(super) fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::Micros, true);
        let attributes = &self.attributes;
        serde_json::to_vec(&Line {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: "Metadata",
            audit_id: uuid::Uuid::new_v4().to_string(),
            stage: "ResponseComplete",
            request_uri: short(&self.path),
            verb: &attributes.verb,
            user: self.user.as_ref().map(user).unwrap_or_default(),
            impersonated_user: self.impersonated.as_ref().map(user),
            source_ips: self.source.map(|source| [source]),
            user_agent: short(&self.agent),
            object_ref: (!attributes.resource.is_empty()).then(|| ObjectRef {
                resource: short(&attributes.resource),
                namespace: short(&attributes.namespace),
                name: short(&attributes.name),
                api_group: short(&attributes.group),
                api_version: short(&attributes.version),
                subresource: short(&attributes.subresource),
            }),
            response_status: Status {
                metadata: Empty {},
                code: self.code,
            },
            request_received_timestamp: time(self.received),
            stage_timestamp: time(self.completed),
            annotations: self.decision.as_ref().map(|decision| {
                let (decision, reason) = match decision {
                    Decision::Allow(reason) => ("allow", reason),
                    Decision::Deny(reason) => ("forbid", reason),
                };
                Annotations { decision, reason }
            }),
        })
    }
}

fn user(user: &UserInfo) -> User<'_> {
    User {
        username: &user.name,
        uid: &user.uid,
        groups: &user.groups,
        extra: (!user.extra.is_empty()).then_some(&user.extra),
    }
}

fn short(text: &str) -> &str {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
