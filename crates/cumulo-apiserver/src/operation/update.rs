//! Changes: one loop for `PUT`, patches, apply and subresources. It reads what
//! is there, asks for what should be there, checks that, and stores it unless
//! something else was stored in between.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{RETRIES, Target, WriteOptions, Written, metadata_text, rules, write_error};
use crate::admission::{Operation, Write};
use crate::convert;
use crate::engine::Engine;
use crate::merge;
use crate::resource::ResourceType;
use crate::status::{ApiError, Cause};
use crate::storage::{Action, Draft, Expected, Object, WriteError};
use crate::{strategy, validation};

/// Who writes `managedFields` of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tracking {
    /// Compare old and new, and give the manager what changed.
    Update,
    /// The change has done it itself (server-side apply).
    Done,
}

impl Engine {
    /// Replaces an object, or its part behind a subresource.
    pub async fn update(
        &self,
        target: &Target,
        subresource: Option<&str>,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let mut object = object;
        let resource = &target.resource;
        rules::check_shape(resource, &mut object)?;
        rules::settle_namespace(resource, &target.namespace, &mut object)?;
        let own = metadata_text(&object, "name");
        if own != target.name {
            return Err(ApiError::bad_request(format!(
                "the name of the object ({own}) does not match the name on the URL ({})",
                target.name
            )));
        }
        let warnings = rules::unknown_fields(resource, &mut object, options)?;
        if self.store.get(&target.key()).is_none() {
            if resource.create_on_update && subresource.is_none() {
                self.authorize_create(target, options).await?;
                strategy::object_at(&mut object, &["metadata"]).remove("resourceVersion");
                return self
                    .create(resource, &target.namespace, &target.name, object, options)
                    .await;
            }
            return Err(ApiError::not_found(resource, &target.name));
        }
        if metadata_text(&object, "resourceVersion").is_empty() && !resource.unconditional_update {
            return Err(ApiError::invalid(
                resource,
                &target.name,
                vec![Cause::invalid(
                    "metadata.resourceVersion",
                    &json!(0),
                    "must be specified for an update",
                )],
            ));
        }
        let quiet = WriteOptions {
            duplicates: Vec::new(),
            ..options.clone()
        };
        let mut written = self
            .change(target, subresource, &quiet, Tracking::Update, |_| {
                Ok(object.clone())
            })
            .await?;
        written.warnings.splice(0..0, warnings);
        Ok(written)
    }

    /// Changes an object by a function of what it is, trying again when another
    /// write comes in between.
    pub(super) async fn change(
        &self,
        target: &Target,
        subresource: Option<&str>,
        options: &WriteOptions,
        tracking: Tracking,
        mut wanted: impl FnMut(&Value) -> Result<Value, ApiError>,
    ) -> Result<Written, ApiError> {
        for _ in 0..RETRIES {
            let current = self.get(target)?;
            let old = convert::present_value(&target.resource, &current);
            let new = wanted(&old)?;
            match self
                .replace(target, subresource, options, tracking, &current, &old, new)
                .await
            {
                Err(Retry::Again) => {}
                Err(Retry::Refused(error)) => return Err(error),
                Ok(written) => return Ok(written),
            }
        }
        Err(ApiError::stale(&target.resource, &target.name))
    }

    /// Changes an object without a look at schemas: for controllers and
    /// subresources that set fields they know.
    pub async fn adjust(
        &self,
        target: &Target,
        manager: &str,
        mut adjust: impl FnMut(&mut Value) -> Result<(), ApiError>,
    ) -> Result<Written, ApiError> {
        let options = WriteOptions {
            field_manager: manager.to_owned(),
            ..WriteOptions::default()
        };
        self.change(target, Some("adjust"), &options, Tracking::Update, |old| {
            let mut new = old.clone();
            adjust(&mut new)?;
            Ok(new)
        })
        .await
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "one step of the loop above, with all that the loop knows"
    )]
    async fn replace(
        &self,
        target: &Target,
        subresource: Option<&str>,
        options: &WriteOptions,
        tracking: Tracking,
        current: &Arc<Object>,
        old: &Value,
        mut new: Value,
    ) -> Result<Written, Retry> {
        let resource = &target.resource;
        let name = &target.name;
        rules::check_shape(resource, &mut new)?;
        check_identity(resource, name, current, &new)?;
        let now = self.clock.timestamp();
        let mut warnings = rules::unknown_fields(resource, &mut new, options)?;
        rules::default(resource, &mut new);
        keep_system_fields(&mut new, old);
        strategy::prepare_update(resource, &mut new, old, subresource);
        set_generation(resource, &mut new, old);
        let mut causes = validation::metadata(resource, &new, Some(old));
        causes.extend(rules::schema(resource, &new, Some(old)));
        causes.extend(strategy::validate(resource, &new, Some(old), subresource));
        if !causes.is_empty() {
            return Err(rules::refuse(resource, name, causes).into());
        }
        self.check_grant(target, Some(old), &new, options).await?;
        let mut admitted = self
            .admit(Write {
                operation: Operation::Update,
                target,
                subresource,
                object: Some(&new),
                old: Some(old),
                options,
            })
            .await?;
        warnings.append(&mut admitted.warnings);
        let unchanged = || Written {
            object: current.clone(),
            created: false,
            warnings: warnings.clone(),
        };
        if tracking == Tracking::Update {
            if same_but_for_versions(&new, old) {
                return Ok(unchanged());
            }
            let subresource = subresource.filter(|s| *s != "adjust");
            rules::track(resource, Some(old), &mut new, options, subresource, &now);
        } else if merge::is_noop(old, &new) {
            return Ok(unchanged());
        }
        let release =
            !new["metadata"]["deletionTimestamp"].is_null() && is_released(resource, &new);
        convert::to_stored(resource, &mut new);
        let draft = Draft::new(&new).map_err(ApiError::internal)?;
        if draft.same_as(current) {
            return Ok(unchanged());
        }
        if options.dry_run {
            let object = draft.finish(current.id.clone(), current.version);
            return Ok(Written {
                object: Arc::new(object),
                created: false,
                warnings,
            });
        }
        let action = if release {
            Action::Delete
        } else {
            Action::Put(draft)
        };
        let expected = Expected::Version(current.version);
        match self.store.write(target.key(), expected, action).await {
            Ok(object) => Ok(Written {
                object,
                created: false,
                warnings,
            }),
            Err(WriteError::Stale) => Err(Retry::Again),
            Err(error) => Err(write_error(target, error).into()),
        }
    }
}

enum Retry {
    Again,
    Refused(ApiError),
}

impl From<ApiError> for Retry {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

/// Whether nothing holds a deleted object any more.
fn is_released(resource: &ResourceType, object: &Value) -> bool {
    let none = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    let namespace_done = !resource.is("", "namespaces") || none(&object["spec"]["finalizers"]);
    let grace = object["metadata"]["deletionGracePeriodSeconds"]
        .as_i64()
        .unwrap_or(0);
    none(&object["metadata"]["finalizers"]) && namespace_done && grace == 0
}

fn check_identity(
    resource: &ResourceType,
    name: &str,
    current: &Object,
    new: &Value,
) -> Result<(), ApiError> {
    let version = metadata_text(new, "resourceVersion");
    if !version.is_empty() {
        let version: u64 = version.parse().map_err(|_| {
            ApiError::invalid(
                resource,
                name,
                vec![Cause::invalid(
                    "metadata.resourceVersion",
                    &json!(version),
                    "must be an unsigned integer",
                )],
            )
        })?;
        if version != 0 && version != current.version {
            return Err(ApiError::stale(resource, name));
        }
    }
    let uid = metadata_text(new, "uid");
    if !uid.is_empty() && uid != current.meta.uid {
        return Err(ApiError::conflict(
            resource,
            name,
            format!(
                "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                current.meta.uid
            ),
        ));
    }
    let own = metadata_text(new, "name");
    if own != name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({own}) does not match the name on the URL ({name})"
        )));
    }
    Ok(())
}

/// Puts back what only the server writes.
fn keep_system_fields(new: &mut Value, old: &Value) {
    let metadata = strategy::object_at(new, &["metadata"]);
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "namespace",
        "resourceVersion",
    ] {
        match old["metadata"].get(field) {
            Some(value) => {
                metadata.insert(field.into(), value.clone());
            }
            None => {
                metadata.remove(field);
            }
        }
    }
    metadata.remove("selfLink");
}

fn set_generation(resource: &ResourceType, new: &mut Value, old: &Value) {
    if !resource.generation {
        return;
    }
    let has_status = resource.custom.is_none() || resource.has_subresource("status");
    let spec = |object: &Value| -> Vec<(String, Value)> {
        let mut fields: Vec<_> = object
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| {
                let kept_apart = has_status && *key == "status";
                !kept_apart && !matches!(key.as_str(), "metadata" | "apiVersion" | "kind")
            })
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        fields.sort_by(|a, b| a.0.cmp(&b.0));
        fields
    };
    if spec(new) != spec(old) {
        let generation = old["metadata"]["generation"].as_i64().unwrap_or(0) + 1;
        strategy::object_at(new, &["metadata"]).insert("generation".into(), json!(generation));
    }
}

/// Equal in everything that a person would call a change.
fn same_but_for_versions(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else {
        return new == old;
    };
    let top = |object: &serde_json::Map<String, Value>| {
        object.keys().filter(|k| *k != "metadata").count()
    };
    if top(new) != top(old)
        || new
            .iter()
            .any(|(key, value)| key != "metadata" && old.get(key) != Some(value))
    {
        return false;
    }
    let fields = |object: &serde_json::Map<String, Value>| -> serde_json::Map<String, Value> {
        object
            .get("metadata")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(key, _)| !matches!(key.as_str(), "managedFields" | "resourceVersion"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect()
    };
    let (new_fields, old_fields) = (fields(new), fields(old));
    // Emptying `managedFields` is a request of its own.
    let reset = new["metadata"]["managedFields"] == json!([])
        || new["metadata"]["managedFields"] == json!([{}]);
    new_fields == old_fields && !reset
}
