//! Role-based access control (`rbac.authorization.k8s.io/v1`), pure: roles and
//! bindings in, a decision out.
//!
//! ```text
//! subject ─ binding ─ role ─ rules
//! ```
//!
//! A ClusterRoleBinding gives the rules of a ClusterRole everywhere, a
//! RoleBinding gives those of a Role or ClusterRole in its own namespace. There
//! are no rules that deny. Semantics follow Kubernetes' RBAC authorizer.

pub mod aggregate;
pub mod defaults;
mod rule;
#[cfg(test)]
mod tests;
pub mod validate;

use std::collections::HashMap;
use std::sync::Arc;

use serde_json::Value;

pub use rule::{PolicyRule, missing, shown};

use crate::auth::{Attributes, Decision, MASTERS, UserInfo};

/// The API group of roles and bindings.
pub const GROUP: &str = "rbac.authorization.k8s.io";

/// A Role, or a ClusterRole when it has no namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Role {
    /// Namespace, empty for a ClusterRole.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Rules.
    pub rules: Vec<PolicyRule>,
}

/// What a binding refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleRef {
    /// Whether it is a ClusterRole.
    pub cluster: bool,
    /// Its name.
    pub name: String,
}

/// Who gets a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A user.
    User(String),
    /// Everybody in a group.
    Group(String),
    /// A service account.
    ServiceAccount {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
    },
}

/// A RoleBinding, or a ClusterRoleBinding when it has no namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// Namespace, empty for a ClusterRoleBinding.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// The role.
    pub role: RoleRef,
    /// Who gets it.
    pub subjects: Vec<Subject>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

impl Role {
    /// Reads a Role or ClusterRole.
    pub fn read(object: &Value) -> Self {
        Self {
            namespace: text(&object["metadata"]["namespace"]),
            name: text(&object["metadata"]["name"]),
            rules: PolicyRule::read_all(&object["rules"]),
        }
    }
}

impl RoleRef {
    /// Reads a `roleRef`.
    pub fn read(value: &Value) -> Self {
        Self {
            cluster: value["kind"] == "ClusterRole",
            name: text(&value["name"]),
        }
    }

    /// Plural of the resource that it names.
    pub fn plural(&self) -> &'static str {
        if self.cluster {
            "clusterroles"
        } else {
            "roles"
        }
    }

    /// Kubernetes' sentence when the role is not there.
    pub fn not_found(&self) -> String {
        let kind = if self.cluster { "clusterrole" } else { "role" };
        format!("{kind}.{GROUP} {:?} not found", self.name)
    }
}

impl Subject {
    fn read(value: &Value) -> Option<Self> {
        let name = text(&value["name"]);
        match value["kind"].as_str()? {
            "User" => Some(Self::User(name)),
            "Group" => Some(Self::Group(name)),
            "ServiceAccount" => Some(Self::ServiceAccount {
                namespace: text(&value["namespace"]),
                name,
            }),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::User(name) => format!("User {name:?}"),
            Self::Group(name) => format!("Group {name:?}"),
            Self::ServiceAccount { namespace, name } => {
                format!("ServiceAccount \"{name}/{namespace}\"")
            }
        }
    }
}

impl Binding {
    /// Reads a RoleBinding or ClusterRoleBinding. A service account without a
    /// namespace is one of the binding's own.
    pub fn read(object: &Value) -> Self {
        let own = text(&object["metadata"]["namespace"]);
        let subjects = object["subjects"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Subject::read)
            .map(|subject| match subject {
                Subject::ServiceAccount { namespace, name } if namespace.is_empty() => {
                    Subject::ServiceAccount {
                        namespace: own.clone(),
                        name,
                    }
                }
                subject => subject,
            })
            .collect();
        Self {
            namespace: own,
            name: text(&object["metadata"]["name"]),
            role: RoleRef::read(&object["roleRef"]),
            subjects,
        }
    }
}

/// The user name of a service account.
pub fn account_user(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// A subject of a binding, with the role where it is there.
#[derive(Debug)]
struct Grant {
    binding: Arc<Binding>,
    role: Option<Arc<Role>>,
    subject: usize,
}

impl Grant {
    fn reaches(&self, namespace: &str) -> bool {
        self.binding.namespace.is_empty() || self.binding.namespace == namespace
    }

    fn reason(&self) -> String {
        let binding = &self.binding;
        let place = if binding.namespace.is_empty() {
            format!("ClusterRoleBinding {:?}", binding.name)
        } else {
            format!("RoleBinding \"{}/{}\"", binding.name, binding.namespace)
        };
        let kind = if binding.role.cluster {
            "ClusterRole"
        } else {
            "Role"
        };
        let subject = binding
            .subjects
            .get(self.subject)
            .map(Subject::shown)
            .unwrap_or_default();
        format!(
            "RBAC: allowed by {place} of {kind} {:?} to {subject}",
            binding.role.name
        )
    }
}

/// Roles and bindings, indexed by whom they are for. Immutable.
#[derive(Debug, Default)]
pub struct Index {
    roles: HashMap<(String, String), Arc<Role>>,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

impl Index {
    /// Indexes roles and bindings. Bindings for the whole cluster are asked first.
    pub fn new(
        roles: impl IntoIterator<Item = Arc<Role>>,
        bindings: impl IntoIterator<Item = Arc<Binding>>,
    ) -> Self {
        let mut index = Self {
            roles: roles
                .into_iter()
                .map(|role| ((role.namespace.clone(), role.name.clone()), role))
                .collect(),
            ..Self::default()
        };
        let mut bindings: Vec<Arc<Binding>> = bindings.into_iter().collect();
        bindings.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
        for binding in bindings {
            let role = index.role(&binding.role, &binding.namespace).cloned();
            for (n, subject) in binding.subjects.iter().enumerate() {
                let (map, key) = match subject {
                    Subject::User(name) => (&mut index.users, name.clone()),
                    Subject::Group(name) => (&mut index.groups, name.clone()),
                    // No namespace, no account.
                    Subject::ServiceAccount { namespace, .. } if namespace.is_empty() => continue,
                    Subject::ServiceAccount { namespace, name } => {
                        (&mut index.users, account_user(namespace, name))
                    }
                };
                map.entry(key).or_default().push(Grant {
                    binding: binding.clone(),
                    role: role.clone(),
                    subject: n,
                });
            }
        }
        index
    }

    /// The role that a reference in a namespace (empty: the cluster) means.
    pub fn role(&self, reference: &RoleRef, namespace: &str) -> Option<&Arc<Role>> {
        let namespace = match (reference.cluster, namespace) {
            (true, _) => "",
            // A ClusterRoleBinding cannot mean a Role.
            (false, "") => return None,
            (false, namespace) => namespace,
        };
        self.roles
            .get(&(namespace.to_owned(), reference.name.clone()))
    }

    fn grants<'a>(
        &'a self,
        user: &'a UserInfo,
        namespace: &'a str,
    ) -> impl Iterator<Item = &'a Grant> {
        let own = self.users.get(&user.name).into_iter().flatten();
        let through_groups = user
            .groups
            .iter()
            .filter_map(|group| self.groups.get(group))
            .flatten();
        own.chain(through_groups)
            .filter(move |grant| grant.reaches(namespace))
    }

    /// Decides one request.
    pub fn decide(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        if user.is_master() {
            return Decision::Allow(format!("RBAC: the user is in group {MASTERS:?}"));
        }
        // A path is asked for at the cluster scope only.
        let namespace = if attributes.resource.is_empty() {
            ""
        } else {
            &attributes.namespace
        };
        let mut problems = Vec::new();
        for grant in self.grants(user, namespace) {
            match &grant.role {
                Some(role) if role.rules.iter().any(|rule| rule.allows(attributes)) => {
                    return Decision::Allow(grant.reason());
                }
                Some(_) => {}
                None => problems.push(grant.binding.role.not_found()),
            }
        }
        Decision::Deny(match problems.as_slice() {
            [] => String::new(),
            [one] => format!("RBAC: {one}"),
            many => format!("RBAC: [{}]", many.join(", ")),
        })
    }

    /// All rules that a user has in a namespace (empty: at the cluster scope).
    pub fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
        if user.is_master() {
            return PolicyRule::everything();
        }
        let mut rules: Vec<PolicyRule> = Vec::new();
        for grant in self.grants(user, namespace) {
            for rule in grant.role.iter().flat_map(|role| &role.rules) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
        rules
    }

    /// Nobody grants what they do not have: the refusal, when `wanted` holds
    /// more than the user has in the namespace.
    pub fn confirm_no_escalation(
        &self,
        user: &UserInfo,
        namespace: &str,
        wanted: &[PolicyRule],
    ) -> Result<(), Escalation> {
        let missing = missing(&self.rules(user, namespace), wanted);
        if missing.is_empty() {
            return Ok(());
        }
        Err(Escalation {
            user: user.name.clone(),
            groups: rule::quoted(&user.groups),
            missing: shown(&missing),
        })
    }
}

/// Somebody grants more than they have. The sentence is Kubernetes' own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "user {user:?} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{missing}"
)]
pub struct Escalation {
    user: String,
    groups: String,
    missing: String,
}
