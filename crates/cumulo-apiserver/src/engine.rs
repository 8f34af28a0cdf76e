//! What every operation works on: the store, the table of types, the clock, and
//! who decides about access.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use parking_lot::RwLock;

use crate::audit::AuditLog;
use crate::auth::{Attributes, Authenticator, Authorizer, Decision, UserInfo};
use crate::handler::Fanout;
use crate::kubelet::KubeletProxy;
use crate::resource::Registry;
use crate::roles::RoleAuthorizer;
use crate::status::ApiError;
use crate::storage::Store;
use crate::tokens::TokenKey;

/// Where the time comes from.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>);

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self(Arc::new(Utc::now))
    }
}

impl Clock {
    /// A clock of one's own.
    pub fn new(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Now.
    pub fn now(&self) -> DateTime<Utc> {
        (self.0)()
    }

    /// Now, as Kubernetes writes times.
    pub fn timestamp(&self) -> String {
        timestamp(self.now())
    }
}

/// A time as Kubernetes writes it: RFC 3339 to the second.
pub fn timestamp(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Limits and intervals.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Most bytes of a request body.
    pub body_limit: usize,
    /// Time between bookmarks of a watch that has nothing else to say.
    pub bookmark_interval: Duration,
    /// How long a watch lasts that names no time.
    pub watch_timeout: Duration,
    /// How long events are kept.
    pub event_lifetime: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            body_limit: 3 << 20,
            bookmark_interval: Duration::from_secs(60),
            watch_timeout: Duration::from_secs(30 * 60),
            event_lifetime: Duration::from_secs(60 * 60),
        }
    }
}

/// The state that handlers and controllers share.
#[derive(Debug)]
pub struct Engine {
    /// The objects.
    pub store: Store,
    /// The types.
    pub registry: Registry,
    /// The time.
    pub clock: Clock,
    /// Limits and intervals.
    pub settings: Settings,
    /// Who asks.
    pub authenticator: Arc<dyn Authenticator>,
    /// Who may.
    pub authorizer: Arc<dyn Authorizer>,
    /// The authorizer, when roles decide: grants are checked against it.
    pub roles: Option<Arc<RoleAuthorizer>>,
    /// Takes what was asked for and how it was answered.
    pub audit: Option<AuditLog>,
    /// Signs the tokens of service accounts.
    pub token_key: Option<Arc<TokenKey>>,
    /// The certificates that clients trust this server by.
    pub authority: Option<Arc<str>>,
    /// Who answers for pods: logs, exec, attach, port-forward.
    pub kubelet: RwLock<Option<Arc<dyn KubeletProxy>>>,
    /// Held while an eviction is decided and carried out, so that two do not use
    /// the same disruption that a budget allows.
    pub evictions: tokio::sync::Mutex<()>,
    /// Held while a write that a quota counts is decided and carried out.
    pub quotas: Arc<tokio::sync::Mutex<()>>,
    /// Admission policies, compiled.
    pub(crate) policies: crate::admission::PolicyCache,
    /// Tells watches of changes, past HTTP.
    pub(crate) fanout: Fanout,
}

impl Engine {
    /// Refuses with 403 what a user may not do, in Kubernetes' words.
    pub async fn authorize(
        &self,
        user: &UserInfo,
        attributes: &Attributes,
    ) -> Result<(), ApiError> {
        let decision = self.authorizer.authorize(user, attributes).await;
        permit(user, attributes, &decision)
    }
}

/// The decision as a result: a denial is Kubernetes' refusal, 403.
pub fn permit(
    user: &UserInfo,
    attributes: &Attributes,
    decision: &Decision,
) -> Result<(), ApiError> {
    let Decision::Deny(reason) = decision else {
        return Ok(());
    };
    let mut message = attributes.refusal(user);
    if !reason.is_empty() {
        message = format!("{message}: {reason}");
    }
    let mut error = ApiError::forbidden(message);
    error.group = attributes.group.clone();
    error.kind = attributes.resource.clone();
    error.name = attributes.name.clone();
    Err(error)
}
