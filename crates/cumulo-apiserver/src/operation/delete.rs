//! Deletion: at once, gracefully, or when finalizers let go.

use std::sync::Arc;

use chrono::TimeDelta;
use serde_json::{Value, json};

use super::{ListOptions, RETRIES, Target, WriteOptions, metadata_text, write_error};
use crate::admission::{Operation, Write};
use crate::auth::UserInfo;
use crate::engine::{Engine, timestamp};
use crate::resource::ResourceType;
use crate::status::ApiError;
use crate::storage::{Action, Draft, Expected, FOREGROUND, ORPHAN, Object, WriteError};
use crate::strategy;

/// What becomes of dependents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// They go after the owner.
    Background,
    /// The owner goes after them.
    Foreground,
    /// They stay, without the owner.
    Orphan,
}

impl Propagation {
    /// Reads `propagationPolicy`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Background" => Some(Self::Background),
            "Foreground" => Some(Self::Foreground),
            "Orphan" => Some(Self::Orphan),
            _ => None,
        }
    }
}

/// `DeleteOptions`.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    /// Seconds of grace, for kinds that have grace.
    pub grace_period: Option<i64>,
    /// What becomes of dependents.
    pub propagation: Option<Propagation>,
    /// Uid that the object must have.
    pub uid: Option<String>,
    /// Version that the object must have.
    pub version: Option<String>,
    /// Do everything but store.
    pub dry_run: bool,
    /// Who deletes; none for the server's own controllers.
    pub user: Option<UserInfo>,
}

/// What a deletion did.
#[derive(Debug)]
pub enum Deleted {
    /// The object is gone; its last state.
    Gone(Arc<Object>),
    /// The object waits for its finalizers or its grace.
    Pending(Arc<Object>),
}

impl Engine {
    /// Deletes an object.
    pub async fn delete(
        &self,
        target: &Target,
        options: &DeleteOptions,
    ) -> Result<Deleted, ApiError> {
        let resource = &target.resource;
        if resource.is("", "namespaces")
            && crate::control::PROTECTED.contains(&target.name.as_str())
        {
            return Err(ApiError::forbidden(format!(
                "namespaces \"{}\" is forbidden: this namespace may not be deleted",
                target.name
            ))
            .about(resource, &target.name));
        }
        for _ in 0..RETRIES {
            let current = self.get(target)?;
            check_preconditions(target, &current, options)?;
            let value = current.value();
            let write = WriteOptions {
                dry_run: options.dry_run,
                user: options.user.clone(),
                ..WriteOptions::default()
            };
            let _admitted = self
                .admit(Write {
                    operation: Operation::Delete,
                    target,
                    subresource: None,
                    object: None,
                    old: Some(&value),
                    options: &write,
                })
                .await?;
            let step = next_step(resource, &value, options, self.clock.now());
            let action = match step {
                Step::Nothing => return Ok(Deleted::Pending(current)),
                Step::Remove if options.dry_run => return Ok(Deleted::Gone(current)),
                Step::Remove => Action::Delete,
                Step::Mark(marked) => {
                    let draft = Draft::new(&marked).map_err(ApiError::internal)?;
                    if options.dry_run {
                        let object = draft.finish(current.id.clone(), current.version);
                        return Ok(Deleted::Pending(Arc::new(object)));
                    }
                    Action::Put(draft)
                }
            };
            let removing = matches!(action, Action::Delete);
            let expected = Expected::Version(current.version);
            match self.store.write(target.key(), expected, action).await {
                Ok(object) if removing => return Ok(Deleted::Gone(object)),
                Ok(object) => return Ok(Deleted::Pending(object)),
                Err(WriteError::Stale) => {}
                Err(error) => return Err(write_error(target, error)),
            }
        }
        Err(ApiError::stale(resource, &target.name))
    }

    /// Deletes what a list selects, and returns it.
    pub async fn delete_collection(
        &self,
        resource: &Arc<ResourceType>,
        list: &ListOptions,
        options: &DeleteOptions,
    ) -> Result<(Vec<Arc<Object>>, u64), ApiError> {
        let listed = self.list(resource, list).await?;
        for object in &listed.objects {
            let target = Target::new(resource, &object.id.namespace, &object.id.name);
            match self.delete(&target, options).await {
                Ok(_) => {}
                Err(error) if error.code == http::StatusCode::NOT_FOUND => {}
                Err(error) => return Err(error),
            }
        }
        Ok((listed.objects, listed.version))
    }
}

fn check_preconditions(
    target: &Target,
    current: &Object,
    options: &DeleteOptions,
) -> Result<(), ApiError> {
    let conflict = |what: &str, wanted: &str, found: &str| {
        Err(ApiError::conflict(
            &target.resource,
            &target.name,
            format!(
                "Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {found}"
            ),
        ))
    };
    match (&options.uid, &options.version) {
        (Some(uid), _) if *uid != current.meta.uid => conflict("UID", uid, &current.meta.uid),
        (_, Some(version)) if *version != current.version.to_string() => {
            conflict("ResourceVersion", version, &current.version.to_string())
        }
        _ => Ok(()),
    }
}

enum Step {
    /// It waits already.
    Nothing,
    /// It can go.
    Remove,
    /// It has to wait: as it then is.
    Mark(Value),
}

fn next_step(
    resource: &ResourceType,
    object: &Value,
    options: &DeleteOptions,
    now: chrono::DateTime<chrono::Utc>,
) -> Step {
    let before: Vec<String> = object["metadata"]["finalizers"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    let mut finalizers = before.clone();
    if let Some(propagation) = options.propagation {
        let wanted = match propagation {
            Propagation::Foreground => Some(FOREGROUND),
            Propagation::Orphan => Some(ORPHAN),
            Propagation::Background => None,
        };
        finalizers.retain(|f| (f != FOREGROUND && f != ORPHAN) || Some(f.as_str()) == wanted);
        if let Some(wanted) = wanted
            && !finalizers.iter().any(|f| f == wanted)
        {
            finalizers.push(wanted.to_owned());
        }
    }
    if resource.is("apiextensions.k8s.io", "customresourcedefinitions")
        && metadata_text(object, "deletionTimestamp").is_empty()
    {
        finalizers.push(crate::control::DEFINITION_FINALIZER.to_owned());
    }
    let held = !finalizers.is_empty()
        || (resource.is("", "namespaces")
            && object["spec"]["finalizers"]
                .as_array()
                .is_some_and(|f| !f.is_empty()));
    let deleting = !metadata_text(object, "deletionTimestamp").is_empty();
    let running = object["metadata"]["deletionGracePeriodSeconds"].as_i64();
    let mut grace = strategy::grace_period(resource, object, options.grace_period);
    if deleting && let Some(running) = running {
        // A second deletion may shorten the grace, not lengthen it; and only one
        // that names a period does.
        grace = match options.grace_period {
            Some(_) => grace.min(running),
            None => running,
        };
    }
    if !held && grace == 0 {
        return Step::Remove;
    }
    if deleting && Some(grace) == running && finalizers == before {
        return Step::Nothing;
    }
    let mut marked = object.clone();
    let metadata = strategy::object_at(&mut marked, &["metadata"]);
    if !deleting || Some(grace) != running {
        let end = now + TimeDelta::seconds(grace);
        metadata.insert("deletionTimestamp".into(), json!(timestamp(end)));
        metadata.insert("deletionGracePeriodSeconds".into(), json!(grace));
    }
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    if !deleting && resource.generation {
        let generation = metadata
            .get("generation")
            .and_then(Value::as_i64)
            .unwrap_or(0);
        metadata.insert("generation".into(), json!(generation + 1));
    }
    if resource.is("", "namespaces") {
        strategy::object_at(&mut marked, &["status"]).insert("phase".into(), json!("Terminating"));
    }
    Step::Mark(marked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(metadata: Value, node: &str) -> Value {
        json!({"metadata": metadata, "spec": {"nodeName": node, "terminationGracePeriodSeconds": 30}, "status": {"phase": "Running"}})
    }

    fn step(object: &Value, options: &DeleteOptions) -> String {
        let registry = crate::resource::Registry::default();
        let catalog = registry.catalog();
        let pods = catalog.find("", "v1", "pods").expect("pods");
        let now = chrono::DateTime::from_timestamp(1_700_000_000, 0).expect("a time");
        match next_step(pods, object, options, now) {
            Step::Nothing => "nothing".into(),
            Step::Remove => "remove".into(),
            Step::Mark(value) => value["metadata"].to_string(),
        }
    }

    #[test]
    fn grace_and_finalizers() {
        let plain = DeleteOptions::default();
        let now = DeleteOptions {
            grace_period: Some(0),
            ..DeleteOptions::default()
        };
        let foreground = DeleteOptions {
            propagation: Some(Propagation::Foreground),
            grace_period: Some(0),
            ..DeleteOptions::default()
        };
        let running = pod(json!({"name": "p"}), "n");
        insta::assert_snapshot!(
            [
                step(&running, &plain),
                step(&running, &now),
                step(&running, &foreground),
                step(&pod(json!({"name": "p"}), ""), &plain),
                step(&pod(json!({"name": "p", "deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}), "n"), &plain),
                step(&pod(json!({"name": "p", "deletionTimestamp": "t", "deletionGracePeriodSeconds": 30}), "n"), &now),
                step(&pod(json!({"name": "p", "finalizers": ["a/b"], "deletionTimestamp": "t", "deletionGracePeriodSeconds": 0}), "n"), &now),
            ]
            .join("\n"),
            @r#"
            {"name":"p","deletionTimestamp":"2023-11-14T22:13:50Z","deletionGracePeriodSeconds":30,"generation":1}
            remove
            {"name":"p","deletionTimestamp":"2023-11-14T22:13:20Z","deletionGracePeriodSeconds":0,"finalizers":["foregroundDeletion"],"generation":1}
            remove
            nothing
            remove
            nothing
            "#
        );
    }
}
