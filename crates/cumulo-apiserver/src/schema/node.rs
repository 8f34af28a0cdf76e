//! Schemas as an arena of nodes, and a cursor that walks them beside a value.

use std::collections::HashMap;

use serde_json::Value;

/// A place in an [`Arena`].
pub(crate) type NodeId = u32;

/// Nodes that refer to each other by number; definitions may be recursive.
#[derive(Debug, Default)]
pub(crate) struct Arena {
    pub(super) nodes: Vec<Node>,
    /// Named definitions of built-in kinds.
    pub(super) names: HashMap<Box<str>, NodeId>,
    /// Built-in kinds: "group/version/kind" to the definition.
    pub(super) kinds: HashMap<Box<str>, NodeId>,
    /// Defaulting that depends on other fields, by definition.
    pub(super) hooks: HashMap<NodeId, super::builtin::Hook>,
}

impl Arena {
    pub(super) fn add(&mut self, node: Node) -> NodeId {
        let id = NodeId::try_from(self.nodes.len()).unwrap_or(NodeId::MAX);
        self.nodes.push(node);
        id
    }
}

/// The type that a schema demands of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// Not said: anything goes.
    #[default]
    Any,
    Object,
    Array,
    String,
    Integer,
    Number,
    Boolean,
    IntOrString,
    /// A Kubernetes quantity such as `500m`: a string, or a number as shorthand.
    Quantity,
}

impl Kind {
    /// The type's name in messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Any => "any",
            Kind::Object => "object",
            Kind::Array => "array",
            Kind::String | Kind::Quantity => "string",
            Kind::Integer => "integer",
            Kind::Number => "number",
            Kind::Boolean => "boolean",
            Kind::IntOrString => "integer,string",
        }
    }
}

/// How the elements of a list are told apart.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) enum ListType {
    /// The list is one value.
    #[default]
    Atomic,
    /// Elements are scalars, each at most once.
    Set,
    /// Elements are objects, told apart by these fields.
    Map(Box<[Box<str>]>),
}

/// What a strategic merge patch does with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct PatchStrategy {
    /// List elements are merged rather than the list replaced.
    pub merge: bool,
    /// A map is replaced rather than merged.
    pub replace: bool,
    /// `$retainKeys` may say which keys stay.
    pub retain_keys: bool,
}

/// A schema.
#[derive(Debug, Default)]
pub(crate) struct Node {
    pub kind: Kind,
    pub format: Option<Box<str>>,
    pub nullable: bool,
    /// Unknown fields are kept.
    pub preserve_unknown: bool,
    /// The object has apiVersion, kind and metadata of its own.
    pub embedded: bool,
    /// A map that is one value to its owner.
    pub atomic_map: bool,
    /// Sorted by name.
    pub properties: Vec<(Box<str>, Edge)>,
    pub required: Vec<Box<str>>,
    pub additional: Option<Box<Edge>>,
    pub items: Option<Box<Edge>>,
    pub list: ListType,
    pub constraints: Option<Box<Constraints>>,
}

impl Node {
    pub(super) fn property(&self, name: &str) -> Option<&Edge> {
        self.properties
            .binary_search_by(|(known, _)| known.as_ref().cmp(name))
            .ok()
            .map(|at| &self.properties[at].1)
    }
}

/// The way from a schema to the schema of a part, with what is said about that
/// part at this place only.
#[derive(Debug, Clone, Default)]
pub(crate) struct Edge {
    pub node: NodeId,
    pub default: Option<Box<Value>>,
    /// Go would write this field even when nobody set it (a struct that is not
    /// a pointer, a list without omitempty), so it counts as always there.
    pub always_present: bool,
    /// Overrides the node's kind of map.
    pub atomic_map: Option<bool>,
    pub patch: PatchStrategy,
    pub patch_merge_key: Option<Box<str>>,
}

/// What is asked of a value besides its type.
#[derive(Debug, Default)]
pub(crate) struct Constraints {
    pub allowed: Vec<Value>,
    pub pattern: Option<super::format::Pattern>,
    pub minimum: Option<f64>,
    pub maximum: Option<f64>,
    pub exclusive_minimum: bool,
    pub exclusive_maximum: bool,
    pub multiple_of: Option<f64>,
    pub min_length: Option<u64>,
    pub max_length: Option<u64>,
    pub min_items: Option<u64>,
    pub max_items: Option<u64>,
    pub min_properties: Option<u64>,
    pub max_properties: Option<u64>,
    pub all_of: Vec<NodeId>,
    pub any_of: Vec<NodeId>,
    pub one_of: Vec<NodeId>,
    pub not: Option<NodeId>,
    /// Validation rules.
    pub rules: Vec<super::rules::Rule>,
}

/// A place in a schema.
#[derive(Clone, Copy)]
pub(crate) struct Cursor<'a> {
    pub(super) arena: &'a Arena,
    pub(super) edge: &'a Edge,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(arena: &'a Arena, edge: &'a Edge) -> Self {
        Self { arena, edge }
    }

    pub(super) fn node(self) -> &'a Node {
        &self.arena.nodes[self.edge.node as usize]
    }

    pub(super) fn follow(self, edge: &'a Edge) -> Self {
        Self {
            arena: self.arena,
            edge,
        }
    }

    /// The schema of a field that is named in the schema.
    pub(crate) fn field(self, name: &str) -> Option<Cursor<'a>> {
        self.node().property(name).map(|edge| self.follow(edge))
    }

    /// The schema of what is under `key`, named field or map value.
    pub(crate) fn under(self, key: &str) -> Option<Cursor<'a>> {
        self.field(key).or_else(|| {
            let edge = self.node().additional.as_deref()?;
            Some(self.follow(edge))
        })
    }

    /// The schema of list elements.
    pub(crate) fn items(self) -> Option<Cursor<'a>> {
        self.node().items.as_deref().map(|edge| self.follow(edge))
    }

    /// The format of text here, where one is said.
    pub(crate) fn format(self) -> Option<&'a str> {
        self.node().format.as_deref()
    }

    /// Whether numbers here may have fractions.
    pub(crate) fn is_number(self) -> bool {
        self.node().kind == Kind::Number
    }

    /// How the elements of this list are told apart.
    pub(crate) fn list_type(self) -> &'a ListType {
        &self.node().list
    }

    /// Whether a map at this place is one value to its owner.
    pub(crate) fn is_atomic_map(self) -> bool {
        self.edge.atomic_map.unwrap_or(self.node().atomic_map)
    }

    /// Whether the field counts as there even when it is left out.
    pub(crate) fn is_always_present(self) -> bool {
        self.edge.always_present
    }

    /// What is filled in when the field is left out.
    pub(crate) fn default_value(self) -> Option<&'a Value> {
        self.edge.default.as_deref()
    }

    /// What a strategic merge patch does here.
    pub(crate) fn patch_strategy(self) -> PatchStrategy {
        self.edge.patch
    }

    /// The key by which a strategic merge patch tells elements apart.
    pub(crate) fn patch_merge_key(self) -> Option<&'a str> {
        self.edge.patch_merge_key.as_deref()
    }
}
