//! Patches in the four formats.

use http::StatusCode;
use serde_json::{Value, json};

use super::update::Tracking;
use super::{RETRIES, Target, WriteOptions, Written, rules};
use crate::decode;
use crate::engine::Engine;
use crate::merge::{self, ApplyError, PatchError};
use crate::resource::ResourceType;
use crate::status::{ApiError, Cause};

/// A patch that was read.
#[derive(Debug, Clone, PartialEq)]
pub enum Patch {
    /// `application/json-patch+json` (RFC 6902).
    Json(Value),
    /// `application/merge-patch+json` (RFC 7396).
    Merge(Value),
    /// `application/strategic-merge-patch+json`.
    Strategic(Value),
    /// `application/apply-patch+yaml`: server-side apply.
    Apply(Value),
}

const ACCEPTED: &str = "application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml";

impl Patch {
    /// Reads a patch, and the keys that it gives twice.
    pub fn read(media: &str, body: &[u8]) -> Result<(Self, Vec<String>), ApiError> {
        let unreadable = |e: String| ApiError::bad_request(format!("error decoding patch: {e}"));
        let json = || decode::json(body).map_err(|e| unreadable(e.to_string()));
        let object = |decoded: decode::Decoded| {
            if decoded.value.is_object() {
                Ok(decoded)
            } else {
                Err(unreadable("an object is wanted".into()))
            }
        };
        let (patch, decoded): (fn(Value) -> Self, _) = match media {
            "application/json-patch+json" => (Self::Json, json()?),
            "application/merge-patch+json" => (Self::Merge, object(json()?)?),
            "application/strategic-merge-patch+json" => (Self::Strategic, object(json()?)?),
            "application/apply-patch+yaml" => {
                // JSON is YAML, and much faster read as what it is.
                let decoded = match body.iter().find(|b| !b.is_ascii_whitespace()) {
                    Some(b'{') => decode::json(body)
                        .or_else(|_| decode::yaml(body).map_err(|e| unreadable(e.to_string()))),
                    _ => decode::yaml(body).map_err(unreadable),
                };
                (Self::Apply, object(decoded?)?)
            }
            other => {
                return Err(ApiError::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "UnsupportedMediaType",
                    format!(
                        "the body of the request was in an unknown format \"{other}\" - accepted media types include: {ACCEPTED}"
                    ),
                ));
            }
        };
        Ok((patch(decoded.value), decoded.duplicates))
    }

    /// Applies the patch to a value that has no schema (a `Scale`).
    pub fn plain(&self, value: &Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(patch) => merge::json_patch(value, patch).map_err(patch_error),
            Self::Merge(patch) | Self::Strategic(patch) | Self::Apply(patch) => {
                Ok(merge::json_merge_patch(value, patch))
            }
        }
    }
}

/// A JSON patch names places, so it is applied to an object as Kubernetes writes
/// it: with a status, be it empty.
fn json_patch(resource: &ResourceType, old: &Value, patch: &Value) -> Result<Value, ApiError> {
    let lacks_status = resource.custom.is_none()
        && resource.has_subresource("status")
        && old.get("status").is_none();
    if !lacks_status {
        return merge::json_patch(old, patch).map_err(patch_error);
    }
    let mut written = old.clone();
    written["status"] = json!({});
    let mut new = merge::json_patch(&written, patch).map_err(patch_error)?;
    if new.get("status") == Some(&json!({}))
        && let Some(object) = new.as_object_mut()
    {
        object.shift_remove("status");
    }
    Ok(new)
}

fn patch_error(error: PatchError) -> ApiError {
    match error {
        PatchError::Malformed(message) => ApiError::bad_request(message),
        PatchError::Unprocessable(message) => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", message)
        }
    }
}

impl Engine {
    /// Patches an object, or its part behind a subresource. Applying to what does
    /// not exist creates it.
    pub async fn patch(
        &self,
        target: &Target,
        subresource: Option<&str>,
        patch: &Patch,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let resource = &target.resource;
        match patch {
            Patch::Apply(applied) => self.apply(target, subresource, applied, options).await,
            Patch::Strategic(_) if resource.custom.is_some() => Err(ApiError::new(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "UnsupportedMediaType",
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml",
            )),
            _ => {
                self.change(
                    target,
                    subresource,
                    options,
                    Tracking::Update,
                    |old| match patch {
                        Patch::Json(patch) => json_patch(resource, old, patch),
                        Patch::Strategic(patch) => match resource.schema() {
                            Some(schema) => merge::strategic_merge_patch(&schema, old, patch)
                                .map_err(patch_error),
                            None => Ok(merge::json_merge_patch(old, patch)),
                        },
                        Patch::Merge(patch) | Patch::Apply(patch) => {
                            Ok(merge::json_merge_patch(old, patch))
                        }
                    },
                )
                .await
            }
        }
    }

    async fn apply(
        &self,
        target: &Target,
        subresource: Option<&str>,
        applied: &Value,
        options: &WriteOptions,
    ) -> Result<Written, ApiError> {
        let resource = &target.resource;
        let mut applied = applied.clone();
        rules::check_shape(resource, &mut applied)?;
        rules::settle_namespace(resource, &target.namespace, &mut applied)?;
        if applied["metadata"]
            .get("managedFields")
            .is_some_and(|f| f.as_array().is_none_or(|f| !f.is_empty()))
        {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        match applied["metadata"]["name"].as_str() {
            None | Some("") => applied["metadata"]["name"] = target.name.clone().into(),
            Some(name) if name == target.name => {}
            Some(name) => {
                return Err(ApiError::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    target.name
                )));
            }
        }
        rules::undeclared_fields(resource, &target.namespace, &mut applied)?;
        let warnings = rules::unknown_fields(resource, &mut applied, options)?;
        let quiet = WriteOptions {
            duplicates: Vec::new(),
            ..options.clone()
        };
        let schema = rules::schema_or_permissive(resource);
        for _ in 0..RETRIES {
            let now = self.clock.timestamp();
            let api_version = resource.api_version();
            let writer = rules::writer(resource, &api_version, options, subresource, &now);
            let mut result = if self.store.get(&target.key()).is_some() {
                self.change(target, subresource, &quiet, Tracking::Done, |old| {
                    merge::apply(&schema, Some(old), &applied, &writer, options.force)
                        .map_err(|e| apply_error(target, e))
                })
                .await
            } else if subresource.is_some() {
                Err(ApiError::not_found(resource, &target.name))
            } else {
                self.authorize_create(target, options).await?;
                let object = merge::apply(&schema, None, &applied, &writer, options.force)
                    .map_err(|e| apply_error(target, e))?;
                self.create_applied(target, object, &quiet).await
            };
            match &mut result {
                // Created or deleted by somebody else in between.
                Err(error) if error.reason == "AlreadyExists" => {}
                Err(error)
                    if error.reason == "NotFound"
                        && subresource.is_none()
                        && error.name == target.name
                        && error.kind == resource.plural => {}
                Err(_) => return result,
                Ok(written) => {
                    written.warnings.splice(0..0, warnings);
                    return result;
                }
            }
        }
        Err(ApiError::stale(resource, &target.name))
    }
}

fn apply_error(target: &Target, error: ApplyError) -> ApiError {
    match error {
        ApplyError::Conflicts(ref conflicts) => {
            let mut status = ApiError::new(StatusCode::CONFLICT, "Conflict", error.to_string());
            status.causes = conflicts
                .iter()
                .map(|c| Cause::new("FieldManagerConflict", c.message.clone(), c.field.clone()))
                .collect();
            status.about(&target.resource, &target.name)
        }
        ApplyError::Invalid(message) => ApiError::bad_request(message),
    }
}
