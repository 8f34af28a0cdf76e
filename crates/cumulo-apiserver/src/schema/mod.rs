//! What an object may look like: validation, defaulting and pruning by schema.
//!
//! One engine serves built-in kinds (from Kubernetes' OpenAPI v3 documents) and
//! custom resources (from the structural schema in their CRD). Schemas are
//! parsed once into a compact arena; nothing here does I/O or reads a clock.
//!
//! ```text
//! definitions.json.zst ─┐                        ┌─ default  fill in what is left out
//!                       ├─ node::Arena ─ Schema ─┼─ prune    drop (and name) unknown fields
//! CRD openAPIV3Schema ──┘                        ├─ validate list what is wrong
//!                                                └─ Cursor   list and map kinds, for `merge`
//! ```
//!
//! Validation rules (`x-kubernetes-validations`) are read and compiled with the
//! schema, and evaluated when everything else about an object is right.

mod builtin;
mod default;
mod format;
mod node;
mod parse;
mod prune;
mod rules;
mod tables;
#[cfg(test)]
mod tests;
mod validate;

use std::fmt;
use std::sync::Arc;

use serde_json::Value;

pub(crate) use node::{Cursor, ListType};
pub use prune::UnknownField;

/// The schema of one kind. Cheap to share behind an [`Arc`].
pub struct Schema {
    arena: Arc<node::Arena>,
    root: node::Edge,
    builtin: bool,
}

impl fmt::Debug for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Schema")
            .field("builtin", &self.builtin)
            .finish_non_exhaustive()
    }
}

/// A CRD's schema that is not structural, or that contradicts itself.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct SchemaError {
    /// Where, below the CRD version: `schema.openAPIV3Schema.properties[spec].type`.
    pub path: String,
    /// What is wrong, in Kubernetes' words.
    pub message: String,
}

/// A CEL rule found in a CRD's schema.
#[derive(Debug, Clone, PartialEq)]
pub struct CollectedRule {
    /// Where the rule's `self` is: `.spec.sources[*]`.
    pub path: String,
    /// The CEL expression.
    pub rule: String,
    /// What to say when it does not hold.
    pub message: Option<String>,
}

impl Schema {
    /// Reads one entry of a CRD's `spec.versions`.
    ///
    /// # Errors
    ///
    /// When the schema is missing, not structural, or holds a pattern that does
    /// not compile.
    pub fn from_crd_version(version: &Value) -> Result<Schema, SchemaError> {
        parse::crd(version)
    }

    /// A schema that keeps and accepts everything, and knows `metadata` only.
    pub fn permissive() -> Schema {
        parse::permissive()
    }

    /// Whether this is a built-in kind. Only those can be patched with a
    /// strategic merge patch; others are answered with 415.
    pub fn is_builtin(&self) -> bool {
        self.builtin
    }

    /// The validation rules in the schema, with their places.
    pub fn rules(&self) -> Vec<CollectedRule> {
        rules::collect(self.cursor())
    }

    /// The root, for walking values along the schema.
    pub(crate) fn cursor(&self) -> Cursor<'_> {
        Cursor::new(&self.arena, &self.root)
    }
}

/// The schema of a built-in kind; `group` is empty for the core group. `None`
/// when no served group-version has the kind.
pub fn for_builtin(group: &str, version: &str, kind: &str) -> Option<Arc<Schema>> {
    builtin::schema(group, version, kind)
}

/// Everything that is wrong with `value`, which must have been defaulted.
/// Parts that are the same in `old` are not reported again, so that an object
/// stored under an earlier schema can still be updated.
pub fn validate(schema: &Schema, value: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let errors = validate::validate(schema, value, old);
    if !errors.is_empty() || schema.builtin {
        return errors;
    }
    rules::check(schema.cursor(), value, old)
}

/// Fills in defaults. For built-in kinds also brings the value into the form
/// that a server written in Go would give back: nulls dropped, quantities as
/// strings.
pub fn default(schema: &Schema, value: &mut Value) {
    default::default(schema, value);
}

/// Drops fields that the schema does not know and says so of each:
/// `unknown field "spec.qurey", did you mean "query"?`.
pub fn prune(schema: &Schema, value: &mut Value) -> Vec<UnknownField> {
    prune::prune(schema, value)
}

/// What a strict decoder answers for unknown and duplicate fields.
pub fn strict_decoding_error(messages: &[String]) -> String {
    format!("strict decoding error: {}", messages.join(", "))
}

/// One thing that is wrong with one field.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldError {
    /// What sort of mistake it is.
    pub kind: FieldErrorKind,
    /// The field: `spec.containers[0].name`.
    pub path: String,
    /// The sentence without the path: `Required value`.
    pub message: String,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}

/// Sorts of mistakes, as `status.details.causes` names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldErrorKind {
    /// A field that must be there is missing.
    Required,
    /// A value outside of what is allowed.
    Invalid,
    /// A value of the wrong type.
    TypeInvalid,
    /// A value that is not one of a fixed set.
    NotSupported,
    /// A list element that is there already.
    Duplicate,
    /// A field that may not be set.
    Forbidden,
    /// A string that is too long.
    TooLong,
    /// A list or map with too many elements.
    TooMany,
}

impl FieldErrorKind {
    /// The machine-readable reason in a Status.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Required => "FieldValueRequired",
            Self::Invalid => "FieldValueInvalid",
            Self::TypeInvalid => "FieldValueTypeInvalid",
            Self::NotSupported => "FieldValueNotSupported",
            Self::Duplicate => "FieldValueDuplicate",
            Self::Forbidden => "FieldValueForbidden",
            Self::TooLong => "FieldValueTooLong",
            Self::TooMany => "FieldValueTooMany",
        }
    }
}

/// All errors in one sentence, as Kubernetes prints them: alone as it is,
/// several in brackets, each sentence once.
pub fn aggregate(errors: &[FieldError]) -> String {
    let mut messages: Vec<String> = Vec::new();
    for error in errors {
        let message = error.to_string();
        if !messages.contains(&message) {
            messages.push(message);
        }
    }
    match messages.as_slice() {
        [one] => one.clone(),
        _ => format!("[{}]", messages.join(", ")),
    }
}

/// The errors as `status.details.causes`.
pub fn causes(errors: &[FieldError]) -> Value {
    errors
        .iter()
        .map(|error| {
            serde_json::json!({
                "reason": error.kind.reason(),
                "message": error.message,
                "field": error.path,
            })
        })
        .collect()
}
