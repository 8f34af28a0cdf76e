//! Creation.

use std::sync::Arc;

use rand::Rng;
use serde_json::{Value, json};

use super::update::Tracking;
use super::{Target, WriteOptions, Written, metadata_text, rules, write_error};
use crate::admission::{Operation, Write};
use crate::convert;
use crate::engine::Engine;
use crate::resource::ResourceType;
use crate::status::{ApiError, Cause};
use crate::storage::{Action, Draft, Expected, Key, WriteError};
use crate::{strategy, validation};

/// Random part of a generated name, as Kubernetes makes it.
const SUFFIX: usize = 5;
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest base of a generated name.
const BASE: usize = 63 - SUFFIX;
/// Names tried before generation gives up.
const NAME_TRIES: usize = 8;

fn generated(base: &str) -> String {
    let mut end = base.len().min(BASE);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = base[..end].to_owned();
    let mut random = rand::rng();
    for _ in 0..SUFFIX {
        let at = random.random_range(0..SUFFIX_LETTERS.len());
        name.push(char::from(SUFFIX_LETTERS[at]));
    }
    name
}

impl Engine {
    /// Creates an object. `name` and `namespace` are what the path says; an empty
    /// name leaves it to the object.
    pub async fn create(
        &self,
        resource: &Arc<ResourceType>,
        namespace: &str,
        name: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let mut object = object;
        rules::check_shape(resource, &mut object)?;
        rules::settle_namespace(resource, namespace, &mut object)?;
        if !name.is_empty() {
            let own = metadata_text(&object, "name");
            if own.is_empty() {
                object["metadata"]["name"] = json!(name);
            } else if own != name {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({own}) does not match the name on the URL ({name})"
                )));
            }
        }
        if !metadata_text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let base = metadata_text(&object, "generateName").to_owned();
        let generate = metadata_text(&object, "name").is_empty() && !base.is_empty();
        if !generate {
            return self
                .create_named(resource, namespace, object, options, Tracking::Update)
                .await;
        }
        let mut tries = 0;
        loop {
            let mut attempt = object.clone();
            attempt["metadata"]["name"] = json!(generated(&base));
            tries += 1;
            match self
                .create_named(resource, namespace, attempt, options, Tracking::Update)
                .await
            {
                Err(error) if error.reason == "AlreadyExists" && tries < NAME_TRIES => {}
                other => return other,
            }
        }
    }

    /// Creates what server-side apply made.
    pub(super) async fn create_applied(
        &self,
        target: &Target,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let (resource, namespace) = (&target.resource, &target.namespace);
        self.create_named(resource, namespace, object, options, Tracking::Done)
            .await
    }

    async fn create_named(
        &self,
        resource: &Arc<ResourceType>,
        namespace: &str,
        mut object: Value,
        options: &WriteOptions,
        tracking: Tracking,
    ) -> Result<Written, ApiError> {
        let name = metadata_text(&object, "name").to_owned();
        let now = self.clock.timestamp();
        let mut warnings = rules::unknown_fields(resource, &mut object, options)?;
        if resource.namespaced {
            self.check_namespace(resource, namespace, &name)?;
        }
        rules::default(resource, &mut object);
        {
            let metadata = strategy::object_at(&mut object, &["metadata"]);
            for field in [
                "selfLink",
                "deletionTimestamp",
                "deletionGracePeriodSeconds",
                "generation",
            ] {
                metadata.remove(field);
            }
            metadata.insert("uid".into(), json!(uuid::Uuid::new_v4().to_string()));
            metadata.insert("creationTimestamp".into(), json!(now));
            if resource.generation {
                metadata.insert("generation".into(), json!(1));
            }
        }
        strategy::prepare_create(resource, &mut object);
        strategy::sign(resource, &mut object, options.user.as_ref());
        let target = Target::new(resource, namespace, &name);
        self.admit_defaults(&target, &mut object)?;
        let mut causes = validation::metadata(resource, &object, None);
        causes.extend(rules::schema(resource, &object, None));
        causes.extend(strategy::validate(resource, &object, None, None));
        if !causes.is_empty() {
            return Err(rules::refuse(resource, &name, causes));
        }
        self.check_grant(&target, None, &object, options).await?;
        let mut admitted = self
            .admit(Write {
                operation: Operation::Create,
                target: &target,
                subresource: None,
                object: Some(&object),
                old: None,
                options,
            })
            .await?;
        warnings.append(&mut admitted.warnings);
        if tracking == Tracking::Update {
            rules::track(resource, None, &mut object, options, None, &now);
        }
        convert::to_stored(resource, &mut object);
        let draft = Draft::new(&object).map_err(ApiError::internal)?;
        let object = if options.dry_run {
            if self.store.get(&target.key()).is_some() {
                return Err(ApiError::already_exists(resource, &name));
            }
            Arc::new(draft.finish(target.key().id, 0))
        } else {
            self.store
                .write(target.key(), Expected::Absent, Action::Put(draft))
                .await
                .map_err(|e| match e {
                    WriteError::Stale => ApiError::already_exists(resource, &name),
                    e => write_error(&target, e),
                })?
        };
        Ok(Written {
            object,
            created: true,
            warnings,
        })
    }

    /// A namespace must be there, and not on its way out, for something to be
    /// created in it.
    fn check_namespace(
        &self,
        resource: &ResourceType,
        namespace: &str,
        name: &str,
    ) -> Result<(), ApiError> {
        let catalog = self.registry.catalog();
        let Some(namespaces) = catalog.find("", "v1", "namespaces") else {
            return Ok(());
        };
        let found = self
            .store
            .get(&Key::new(&namespaces.storage, "", namespace))
            .ok_or_else(|| ApiError::not_found(namespaces, namespace))?;
        if found.meta.deletion_timestamp.is_some() {
            return Err(ApiError::forbidden(format!(
                "{} \"{name}\" is forbidden: unable to create new content in namespace {namespace} because it is being terminated",
                resource.qualified()
            ))
            .about(resource, name)
            .cause(Cause::new(
                "NamespaceTerminating",
                format!("namespace {namespace} is being terminated"),
                "metadata.namespace",
            )));
        }
        Ok(())
    }
}
