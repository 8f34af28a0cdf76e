//! What a write must not do although its verb is allowed: create through an
//! update, or grant what the writer does not have.

use serde_json::Value;

use super::{Target, WriteOptions};
use crate::auth::{Attributes, Decision, UserInfo};
use crate::engine::Engine;
use crate::rbac::{self, PolicyRule, RoleRef, aggregate};
use crate::status::ApiError;

impl Engine {
    /// An update or a patch that creates needs the verb `create` besides its own.
    pub(super) async fn authorize_create(
        &self,
        target: &Target,
        options: &WriteOptions,
    ) -> Result<(), ApiError> {
        let Some(user) = &options.user else {
            return Ok(());
        };
        let attributes = attributes("create", target);
        self.authorize(user, &attributes).await
    }

    /// Nobody grants what they do not have: a role with rules that the writer
    /// lacks needs the verb `escalate`, a binding to such a role the verb `bind`.
    pub(super) async fn check_grant(
        &self,
        target: &Target,
        old: Option<&Value>,
        new: &Value,
        options: &WriteOptions,
    ) -> Result<(), ApiError> {
        let (Some(user), Some(roles)) = (&options.user, &self.roles) else {
            return Ok(());
        };
        if target.resource.group != rbac::GROUP
            || user.is_master()
            || old.is_some_and(|old| only_ownership_changed(old, new))
        {
            return Ok(());
        }
        let index = roles.index();
        let confirm = |namespace: &str, rules: &[PolicyRule], prefix: &str| {
            index
                .confirm_no_escalation(user, namespace, rules)
                .map_err(|escalation| {
                    ApiError::forbidden(format!(
                        "{} \"{}\" is forbidden: {prefix}{escalation}",
                        target.resource.qualified(),
                        target.name
                    ))
                    .about(&target.resource, &target.name)
                })
        };
        if matches!(target.resource.plural.as_str(), "roles" | "clusterroles") {
            if self.may(user, &attributes("escalate", target)).await {
                return Ok(());
            }
            let rules = PolicyRule::read_all(&new["rules"]);
            confirm(&target.namespace, &rules, "")?;
            if aggregate::is_aggregated(new) || old.is_some_and(aggregate::is_aggregated) {
                // What it will collect is not known yet.
                confirm(
                    "",
                    &PolicyRule::everything(),
                    "must have cluster-admin privileges to use an aggregationRule: ",
                )?;
            }
            return Ok(());
        }
        let reference = RoleRef::read(&new["roleRef"]);
        let bind = Attributes {
            verb: "bind".into(),
            group: rbac::GROUP.into(),
            version: target.resource.version.clone(),
            resource: reference.plural().into(),
            namespace: target.namespace.clone(),
            name: reference.name.clone(),
            ..Attributes::default()
        };
        if self.may(user, &bind).await {
            return Ok(());
        }
        let Some(role) = index.role(&reference, &target.namespace) else {
            return Err(ApiError::new(
                http::StatusCode::NOT_FOUND,
                "NotFound",
                reference.not_found(),
            ));
        };
        confirm(&target.namespace, &role.rules, "")
    }

    async fn may(&self, user: &UserInfo, attributes: &Attributes) -> bool {
        matches!(
            self.authorizer.authorize(user, attributes).await,
            Decision::Allow(_)
        )
    }
}

fn attributes(verb: &str, target: &Target) -> Attributes {
    Attributes {
        verb: verb.to_owned(),
        group: target.resource.group.clone(),
        version: target.resource.version.clone(),
        resource: target.resource.plural.clone(),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
        ..Attributes::default()
    }
}

/// Whether only what garbage collection needs has changed: that anybody who may
/// update may do.
fn only_ownership_changed(old: &Value, new: &Value) -> bool {
    let rest = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            for field in [
                "ownerReferences",
                "finalizers",
                "managedFields",
                "resourceVersion",
            ] {
                metadata.remove(field);
            }
        }
        object
    };
    rest(old) == rest(new)
}
