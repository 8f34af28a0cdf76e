//! Reviews: questions about who somebody is and what they may do, answered by
//! the same traits that guard the requests.

use serde_json::{Value, json};

use crate::auth::{Attributes, Decision, UserInfo};
use crate::engine::Engine;
use crate::rbac::PolicyRule;
use crate::resource::ResourceType;
use crate::status::{ApiError, Cause};

/// Whether the type is in a group of reviews.
pub(super) fn may_be_review(resource: &ResourceType) -> bool {
    matches!(
        resource.group.as_str(),
        "authentication.k8s.io" | "authorization.k8s.io"
    )
}

/// Answers a review; none when the type is no review.
pub(super) async fn answer(
    engine: &Engine,
    user: &UserInfo,
    resource: &ResourceType,
    namespace: &str,
    mut review: Value,
) -> Option<Result<Value, ApiError>> {
    if !may_be_review(resource) {
        return None;
    }
    if !review.is_object() {
        return Some(Err(ApiError::bad_request("the review has to be an object")));
    }
    review["apiVersion"] = json!(resource.api_version());
    review["kind"] = json!(resource.kind);
    let status = match resource.plural.as_str() {
        "selfsubjectreviews" => Ok(json!({"userInfo": user_value(user)})),
        "tokenreviews" => token(engine, &review["spec"]).await,
        "selfsubjectaccessreviews" => access(engine, user, &review["spec"]).await,
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let local = resource.plural.starts_with("local");
            subject(engine, resource, namespace, local, &review["spec"]).await
        }
        "selfsubjectrulesreviews" => Ok(rules(engine, user, &review["spec"]).await),
        _ => return None,
    };
    Some(status.map(|status| {
        review["status"] = status;
        review
    }))
}

fn user_value(user: &UserInfo) -> Value {
    let mut value = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        value["uid"] = json!(user.uid);
    }
    if !user.extra.is_empty() {
        value["extra"] = json!(user.extra);
    }
    value
}

async fn token(engine: &Engine, spec: &Value) -> Result<Value, ApiError> {
    let token = spec["token"].as_str().unwrap_or_default();
    if token.is_empty() {
        return Err(ApiError::bad_request(
            "token is required for TokenReview in authentication",
        ));
    }
    let audiences = texts(&spec["audiences"]);
    Ok(match engine.authenticate(token, &audiences).await {
        Some(found) => json!({
            "authenticated": true,
            "user": user_value(&found.user),
            "audiences": found.audiences,
        }),
        None => json!({"authenticated": false, "error": "the token is not known"}),
    })
}

async fn access(engine: &Engine, user: &UserInfo, spec: &Value) -> Result<Value, ApiError> {
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    let attributes = match (resource.is_object(), path.is_object()) {
        (true, false) => Attributes {
            verb: text(resource, "verb"),
            group: text(resource, "group"),
            version: text(resource, "version"),
            resource: text(resource, "resource"),
            subresource: text(resource, "subresource"),
            namespace: text(resource, "namespace"),
            name: text(resource, "name"),
            path: String::new(),
        },
        (false, true) => Attributes {
            verb: text(path, "verb"),
            path: text(path, "path"),
            ..Attributes::default()
        },
        _ => {
            return Err(ApiError::bad_request(
                "spec: exactly one of resourceAttributes or nonResourceAttributes has to be given",
            )
            .cause(Cause::required("spec.resourceAttributes", "")));
        }
    };
    let (allowed, reason) = match engine.authorizer.authorize(user, &attributes).await {
        Decision::Allow(reason) => (true, reason),
        Decision::Deny(reason) => (false, reason),
    };
    let mut status = json!({"allowed": allowed});
    if !reason.is_empty() {
        status["reason"] = json!(reason);
    }
    Ok(status)
}

async fn subject(
    engine: &Engine,
    resource: &ResourceType,
    namespace: &str,
    local: bool,
    spec: &Value,
) -> Result<Value, ApiError> {
    let groups = texts(&spec["groups"]);
    let name = spec["user"].as_str().unwrap_or_default();
    if name.is_empty() && groups.is_empty() {
        let cause = Cause::required(
            "spec.user",
            "at least one of user or group must be specified",
        );
        return Err(ApiError::invalid(resource, "", vec![cause]));
    }
    if local && spec["resourceAttributes"]["namespace"] != json!(namespace) {
        let cause = Cause::invalid(
            "spec.resourceAttributes.namespace",
            &spec["resourceAttributes"]["namespace"],
            "must match metadata.namespace",
        );
        return Err(ApiError::invalid(resource, "", vec![cause]));
    }
    let user = UserInfo {
        name: name.to_owned(),
        uid: spec["uid"].as_str().unwrap_or_default().to_owned(),
        groups,
        extra: spec["extra"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, values)| (key.clone(), texts(values)))
            .collect(),
    };
    access(engine, &user, spec).await
}

fn texts(value: &Value) -> Vec<String> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// What a user may do in a namespace.
async fn rules(engine: &Engine, user: &UserInfo, spec: &Value) -> Value {
    let namespace = spec["namespace"].as_str().unwrap_or("default");
    let rules = match engine.authorizer.rules(user, namespace).await {
        Some(rules) => rules,
        None => probed(engine, user, namespace).await,
    };
    let (paths, resources): (Vec<_>, Vec<_>) = rules
        .iter()
        .partition(|rule| !rule.non_resource_urls.is_empty());
    let values =
        |rules: Vec<&PolicyRule>| rules.iter().map(|rule| rule.to_value()).collect::<Vec<_>>();
    json!({
        "resourceRules": values(resources),
        "nonResourceRules": values(paths),
        "incomplete": false,
    })
}

/// The rules of an authorizer that has none, found by asking for each type and verb.
async fn probed(engine: &Engine, user: &UserInfo, namespace: &str) -> Vec<PolicyRule> {
    let catalog = engine.registry.catalog();
    let mut rules = Vec::new();
    for resource in catalog.stored() {
        let mut verbs = Vec::new();
        for verb in &resource.verbs {
            let attributes = Attributes {
                verb: verb.clone(),
                group: resource.group.clone(),
                version: resource.version.clone(),
                resource: resource.plural.clone(),
                namespace: namespace.to_owned(),
                ..Attributes::default()
            };
            let decision = engine.authorizer.authorize(user, &attributes).await;
            if matches!(decision, Decision::Allow(_)) {
                verbs.push(verb.clone());
            }
        }
        if !verbs.is_empty() {
            rules.push(PolicyRule {
                verbs,
                api_groups: vec![resource.group.clone()],
                resources: vec![resource.plural.clone()],
                ..PolicyRule::default()
            });
        }
    }
    rules
}
