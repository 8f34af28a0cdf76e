//! The types that the server knows, as data: a row each. The handler is one for
//! all; what differs between types is a column here.

mod builtin;
mod catalog;
pub mod custom;
mod rows;

use std::sync::Arc;

pub use builtin::builtin_types;
pub use catalog::{Catalog, Registry};

use crate::schema::Schema;
use crate::table::Printer;

/// What names a type accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NameRule {
    /// RFC 1123 subdomain.
    Subdomain,
    /// RFC 1123 label.
    Label,
    /// RFC 1035 label.
    Label1035,
    /// Anything that fits in one path segment.
    PathSegment,
    /// An IP address as it is usually written.
    Address,
}

/// How stored objects of a type become the version that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conversion {
    /// Only `apiVersion` differs.
    ApiVersion,
    /// `events.k8s.io/v1` over stored `v1` events.
    Events,
    /// `autoscaling/v1` over stored `autoscaling/v2` autoscalers.
    Autoscalers,
}

/// A field that field selectors can name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelectableField {
    /// As in the selector, for example `spec.nodeName`.
    pub label: String,
    /// JSON pointer to it.
    pub pointer: String,
    /// Value that an absent field has.
    pub default: String,
}

/// A subresource, as discovery lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subresource {
    /// Path segment, for example `status`.
    pub name: String,
    /// Group of what it takes and gives.
    pub group: String,
    /// Version of what it takes and gives.
    pub version: String,
    /// Kind of what it takes and gives.
    pub kind: String,
    /// Verbs.
    pub verbs: Vec<String>,
}

/// JSON pointers of the `scale` subresource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Wanted replicas.
    pub spec_replicas: String,
    /// Observed replicas.
    pub status_replicas: String,
    /// Where the selector is, if anywhere.
    pub selector: Option<String>,
}

/// What only types from a CustomResourceDefinition have.
#[derive(Debug)]
pub struct CustomType {
    /// Name of the definition.
    pub definition: String,
    /// Schema of this version.
    pub schema: Arc<Schema>,
    /// Columns of its tables.
    pub printer: Printer,
    /// Identifies the schema, so that an object is looked over once per schema.
    pub epoch: u64,
}

/// One version of one type.
#[derive(Debug)]
pub struct ResourceType {
    /// API group, empty for the core group.
    pub group: String,
    /// Version.
    pub version: String,
    /// Kind.
    pub kind: String,
    /// Kind of lists.
    pub list_kind: String,
    /// Path segment.
    pub plural: String,
    /// Singular name.
    pub singular: String,
    /// Short names.
    pub short_names: Vec<String>,
    /// Categories, such as `all`.
    pub categories: Vec<String>,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Verbs.
    pub verbs: Vec<String>,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// Where `scale` finds its numbers.
    pub scale: Option<ScalePaths>,
    /// What field selectors can name.
    pub fields: Vec<SelectableField>,
    /// Pointers of `fields`, in the same order.
    pub field_pointers: Vec<String>,
    /// Names accepted.
    pub name_rule: NameRule,
    /// Whether `metadata.generation` is kept.
    pub generation: bool,
    /// Whether a `PUT` of what does not exist creates it.
    pub create_on_update: bool,
    /// Whether an update without `resourceVersion` is accepted.
    pub unconditional_update: bool,
    /// Name of the store's table, `group/plural`; empty for what is measured when
    /// it is asked for.
    pub storage: Arc<str>,
    /// How stored objects become this version.
    pub conversion: Conversion,
    /// `apiVersion` of stored objects.
    pub stored_api_version: String,
    /// Set for types from a CustomResourceDefinition.
    pub custom: Option<Arc<CustomType>>,
}

impl ResourceType {
    /// `group/version`, or the version alone in the core group.
    pub fn api_version(&self) -> String {
        api_version(&self.group, &self.version)
    }

    /// `plural.group`, or the plural alone in the core group.
    pub fn qualified(&self) -> String {
        if self.group.is_empty() {
            self.plural.clone()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }

    /// Whether it has a subresource.
    pub fn has_subresource(&self, name: &str) -> bool {
        self.subresources.iter().any(|s| s.name == name)
    }

    /// Whether it has a verb.
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.iter().any(|v| v == verb)
    }

    /// Its schema, where one is known.
    pub fn schema(&self) -> Option<Arc<Schema>> {
        match &self.custom {
            Some(custom) => Some(custom.schema.clone()),
            None => crate::schema::for_builtin(&self.group, &self.version, &self.kind),
        }
    }

    /// True for the type of this group and plural, whatever its version.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        self.group == group && self.plural == plural
    }
}

/// `group/version`, or the version alone for the core group.
pub fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    }
}

/// Splits an `apiVersion` into group and version.
pub fn split_api_version(api_version: &str) -> (&str, &str) {
    api_version.split_once('/').unwrap_or(("", api_version))
}

/// Turns a dotted path as CustomResourceDefinitions write it (`.spec.replicas`)
/// into a JSON pointer.
pub fn dotted_to_pointer(path: &str) -> String {
    path.trim_start_matches('.')
        .split('.')
        .filter(|part| !part.is_empty())
        .fold(String::new(), |pointer, part| {
            format!("{pointer}/{}", part.replace('~', "~0").replace('/', "~1"))
        })
}
