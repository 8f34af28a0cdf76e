//! Who asks, and whether they may: two traits that the wiring fills.

use async_trait::async_trait;
use std::collections::BTreeMap;

use crate::rbac::PolicyRule;

/// The group whose members may do everything.
pub const MASTERS: &str = "system:masters";

/// Who a request comes from. Put into a request's extensions, it is trusted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UserInfo {
    /// Name, for example `system:admin`.
    pub name: String,
    /// Uid, where the source of the name has one.
    pub uid: String,
    /// Groups.
    pub groups: Vec<String>,
    /// Whatever else the source says.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in `system:authenticated` and in these groups.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let mut groups: Vec<String> = groups.iter().map(|g| (*g).to_owned()).collect();
        groups.push("system:authenticated".to_owned());
        Self {
            name: name.to_owned(),
            groups,
            ..Self::default()
        }
    }

    /// The platform itself: a member of `system:masters`.
    pub fn platform() -> Self {
        Self::new("system:cumulo", &[MASTERS])
    }

    /// Whether the user is in the group whose members may do everything.
    pub fn is_master(&self) -> bool {
        self.groups.iter().any(|group| group == MASTERS)
    }
}

/// The user whose client certificate a connection was made with: put into a
/// request's extensions by who checked the certificate. Unlike a bare
/// [`UserInfo`] it is somebody outside of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateUser(pub UserInfo);

/// A user, and the audiences that the token is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authenticated {
    /// The user.
    pub user: UserInfo,
    /// The audiences, of those that were accepted.
    pub audiences: Vec<String>,
}

/// What a request wants to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes {
    /// Verb, for example `list`, or the lower-case HTTP method for paths.
    pub verb: String,
    /// API group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural of the resource; empty when a path is asked for.
    pub resource: String,
    /// Subresource.
    pub subresource: String,
    /// Namespace.
    pub namespace: String,
    /// Name of the object.
    pub name: String,
    /// Path, when no resource is asked for.
    pub path: String,
}

impl Attributes {
    /// `pods/log` and the like.
    fn resource_path(&self) -> String {
        let mut text = self.resource.clone();
        if !self.subresource.is_empty() {
            text = format!("{text}/{}", self.subresource);
        }
        text
    }

    /// Kubernetes' sentence for a refusal.
    pub fn refusal(&self, user: &UserInfo) -> String {
        if self.resource.is_empty() {
            return format!(
                "forbidden: User \"{}\" cannot {} path \"{}\"",
                user.name, self.verb, self.path
            );
        }
        let scope = if self.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", self.namespace)
        };
        let subject = if self.group.is_empty() {
            self.resource.clone()
        } else {
            format!("{}.{}", self.resource, self.group)
        };
        let name = if self.name.is_empty() {
            String::new()
        } else {
            format!(" \"{}\"", self.name)
        };
        format!(
            "{subject}{name} is forbidden: User \"{}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
            user.name,
            self.verb,
            self.resource_path(),
            self.group
        )
    }
}

/// The answer to [`Attributes`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Allowed, with the reason.
    Allow(String),
    /// Denied, with the reason.
    Deny(String),
}

/// Turns a bearer token into a user.
#[async_trait]
pub trait Authenticator: Send + Sync + std::fmt::Debug {
    /// The token's user, or none for a token that is not known.
    async fn authenticate(&self, token: &str) -> Option<UserInfo>;
}

/// Decides what a user may do.
#[async_trait]
pub trait Authorizer: Send + Sync + std::fmt::Debug {
    /// Decides one request.
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision;

    /// The rules that a user has in a namespace, where the authorizer has rules.
    async fn rules(&self, _user: &UserInfo, _namespace: &str) -> Option<Vec<PolicyRule>> {
        None
    }
}

/// Who decides.
#[derive(Debug, Clone)]
pub enum Authorization {
    /// This authorizer.
    Custom(std::sync::Arc<dyn Authorizer>),
    /// The roles and bindings among the objects, as in Kubernetes. Besides
    /// Kubernetes' own defaults these roles and bindings are made at start.
    Roles(Vec<serde_json::Value>),
}

/// A fixed set of tokens.
#[derive(Default)]
pub struct StaticTokens {
    by_hash: std::collections::HashMap<[u8; 32], UserInfo>,
}

impl std::fmt::Debug for StaticTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "StaticTokens({} tokens)", self.by_hash.len())
    }
}

fn hash(token: &str) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(token.as_bytes()).into()
}

impl StaticTokens {
    /// Adds a token. Only its hash is kept, so comparing takes no time that
    /// depends on how much of a guess is right.
    #[must_use]
    pub fn with(mut self, token: &str, user: UserInfo) -> Self {
        self.by_hash.insert(hash(token), user);
        self
    }
}

#[async_trait]
impl Authenticator for StaticTokens {
    async fn authenticate(&self, token: &str) -> Option<UserInfo> {
        self.by_hash.get(&hash(token)).cloned()
    }
}

/// Allows whoever is authenticated: right for a platform that has one user.
#[derive(Debug, Clone, Copy, Default)]
pub struct AllowAuthenticated;

#[async_trait]
impl Authorizer for AllowAuthenticated {
    async fn authorize(&self, user: &UserInfo, _: &Attributes) -> Decision {
        if user.groups.iter().any(|g| g == "system:authenticated") {
            Decision::Allow("the user is authenticated".into())
        } else {
            Decision::Deny("the user is anonymous".into())
        }
    }
}
