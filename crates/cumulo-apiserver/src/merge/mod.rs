//! Changing a part of an object: patches, server-side apply, and who owns which
//! field.
//!
//! Everything here is a function from values to values. What lists and maps are
//! (one value, a set, elements told apart by keys) is data in the [`Schema`]:
//! there is no code per kind.
//!
//! - [`json_patch`], [`json_merge_patch`], [`strategic_merge_patch`]: the patch
//!   formats.
//! - [`apply`]: server-side apply, after
//!   <https://kubernetes.io/docs/reference/using-api/server-side-apply/> and
//!   the reference implementation, structured-merge-diff v6.
//! - [`track_update`]: upkeep of `metadata.managedFields` for all other writes.
//!
//! ```text
//! typed     values beside a schema: their field set, merge, compare, remove
//! fieldset  sets of field paths (FieldsV1) and their algebra
//! managed   metadata.managedFields as sets by manager, and back
//! apply     the rules of ownership on top of the three
//! ```

mod apply;
mod fieldset;
mod managed;
mod patch;
mod strategic;
#[cfg(test)]
mod tests;
mod typed;

use std::fmt;

use serde_json::{Value, json};

use crate::schema::Schema;

/// Why a patch cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not what its content type says: 400.
    #[error("{0}")]
    Malformed(String),
    /// The patch does not fit the object: 422.
    #[error("the server rejected our request due to an error in our request: {0}")]
    Unprocessable(String),
}

/// Carries out a JSON patch (RFC 6902).
///
/// # Errors
///
/// When the patch is malformed, a path does not exist, or a test fails.
pub fn json_patch(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    patch::json_patch(target, patch)
}

/// Carries out a JSON merge patch (RFC 7396).
pub fn json_merge_patch(target: &Value, patch: &Value) -> Value {
    patch::json_merge_patch(target, patch)
}

/// Carries out a strategic merge patch: a merge patch in which lists are merged
/// by the keys that the schema names, with the directives `$patch`,
/// `$retainKeys`, `$setElementOrder/…` and `$deleteFromPrimitiveList/…`.
///
/// # Errors
///
/// When a directive is malformed or a list element lacks its merge key.
pub fn strategic_merge_patch(
    schema: &Schema,
    target: &Value,
    patch: &Value,
) -> Result<Value, PatchError> {
    strategic::patch(schema, target, patch)
}

/// Who writes, where and when.
#[derive(Debug, Clone, Copy)]
pub struct Writer<'a> {
    /// The field manager: the query parameter, or the user agent up to its `/`.
    pub manager: &'a str,
    /// The subresource written through; empty for the object itself.
    pub subresource: &'a str,
    /// The version that the object is written in: `apps/v1`.
    pub api_version: &'a str,
    /// The time, in RFC 3339 to the second.
    pub now: &'a str,
    /// Dotted paths that this endpoint does not write, and whose fields its
    /// writers therefore never own: `status` for the object itself, `spec` for
    /// its status.
    pub ignored: &'a [&'a str],
}

/// Carries out a server-side apply of `applied`. Without `live` the object is
/// new. The result carries up-to-date `managedFields`; it is not yet defaulted
/// or validated.
///
/// Both objects must be in the version that [`Writer::api_version`] names.
///
/// # Errors
///
/// When other managers own fields that would change (and `force` is not set),
/// and when `applied` is not an object of the schema's shape.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    apply::apply(schema, live, applied, writer, force)
}

/// Why an apply is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that would change: 409, reason `Conflict`.
    #[error("{}", summarize(.0))]
    Conflicts(Vec<Conflict>),
    /// The applied object cannot be read: 400.
    #[error("{0}")]
    Invalid(String),
}

/// One field that somebody else owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it.
    pub manager: String,
    /// The field: `.data.key`.
    pub field: String,
    /// The cause's sentence: `conflict with "kubectl-create" using v1`.
    pub message: String,
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.message, self.field)
    }
}

/// Kubernetes' sentence about conflicts: one on a line, several as a list.
fn summarize(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: {one}");
    }
    let mut text = format!("Apply failed with {} conflicts: ", conflicts.len());
    let mut owner = None;
    for conflict in conflicts {
        if owner != Some(&conflict.message) {
            if owner.is_some() {
                text.push('\n');
            }
            text.push_str(&conflict.message.replacen("conflict", "conflicts", 1));
            text.push(':');
            owner = Some(&conflict.message);
        }
        text.push_str("\n- ");
        text.push_str(&conflict.field);
    }
    text
}

/// The conflicts as `status.details.causes`.
pub fn conflict_causes(conflicts: &[Conflict]) -> Value {
    conflicts
        .iter()
        .map(|conflict| {
            json!({
                "reason": "FieldManagerConflict",
                "message": conflict.message,
                "field": conflict.field,
            })
        })
        .collect()
}

/// Brings `new.metadata.managedFields` up to date after a create, an update or
/// a patch other than apply. Call it on the defaulted object, before storing.
///
/// `managedFields` that the client sent stand where they are valid: `[]` or
/// `[{}]` forgets all owners, left out keeps those of `old`.
pub fn track_update(schema: &Schema, old: Option<&Value>, new: &mut Value, writer: &Writer<'_>) {
    apply::track_update(schema, old, new, writer);
}

/// Whether a write changes nothing that anybody asked for: the objects are the
/// same but for resourceVersion, generation and the times of managedFields.
pub fn is_noop(old: &Value, new: &Value) -> bool {
    apply::is_noop(old, new)
}
