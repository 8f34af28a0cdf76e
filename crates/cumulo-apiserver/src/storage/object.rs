//! What the store holds: an object as the bytes that are answered, and the few
//! facts about it that reads, selectors and garbage collection ask for.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Address of an object: resource (`group/plural`), namespace (empty when
/// cluster-scoped), name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Storage name of the resource, for example `apps/deployments` or `/pods`.
    pub resource: Arc<str>,
    /// Namespace and name.
    pub id: ObjectId,
}

/// Namespace and name of an object inside its resource. Ordered as lists are.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectId {
    /// Namespace, empty when cluster-scoped.
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl ObjectId {
    /// An id from its parts.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl Key {
    /// A key from its parts.
    pub fn new(resource: &Arc<str>, namespace: &str, name: &str) -> Self {
        Self {
            resource: resource.clone(),
            id: ObjectId::new(namespace, name),
        }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{}/{}/{}",
            self.resource, self.id.namespace, self.id.name
        )
    }
}

/// An entry of `metadata.ownerReferences`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OwnerReference {
    /// Group and version of the owner.
    #[serde(default)]
    pub api_version: String,
    /// Kind of the owner.
    #[serde(default)]
    pub kind: String,
    /// Name of the owner.
    #[serde(default)]
    pub name: String,
    /// Uid of the owner.
    #[serde(default)]
    pub uid: String,
    /// Whether a foreground deletion of the owner waits for this object.
    #[serde(default)]
    pub block_owner_deletion: Option<bool>,
}

/// The parsed part of `metadata`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Identity across deletions and re-creations.
    #[serde(default)]
    pub uid: String,
    /// Labels.
    #[serde(default)]
    pub labels: Option<BTreeMap<String, String>>,
    /// Set when deletion was asked for.
    #[serde(default)]
    pub deletion_timestamp: Option<String>,
    /// What must happen before the object may go.
    #[serde(default)]
    pub finalizers: Option<Vec<String>>,
    /// Owners.
    #[serde(default)]
    pub owner_references: Option<Vec<OwnerReference>>,
}

impl Meta {
    /// Owners, empty when there are none.
    pub fn owners(&self) -> &[OwnerReference] {
        self.owner_references.as_deref().unwrap_or_default()
    }

    /// Finalizers, empty when there are none.
    pub fn finalizers(&self) -> &[String] {
        self.finalizers.as_deref().unwrap_or_default()
    }
}

/// What labels are there, in 64 bits that may be shared (a Bloom filter): tells
/// of most objects that they do not have a label without looking at them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelBits(u64);

impl LabelBits {
    /// Those of labels: each key, and each key with its value.
    pub fn of(labels: Option<&BTreeMap<String, String>>) -> Self {
        labels
            .into_iter()
            .flatten()
            .map(|(key, value)| Self::key(key).and(Self::label(key, value)))
            .fold(Self::default(), Self::and)
    }

    /// That of a key, with whatever value.
    pub fn key(key: &str) -> Self {
        Self::one(key)
    }

    /// That of a key with this value.
    pub fn label(key: &str, value: &str) -> Self {
        Self::one((key, value))
    }

    /// These and others.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// False when something of `wanted` is certainly not there.
    pub fn holds(self, wanted: Self) -> bool {
        self.0 & wanted.0 == wanted.0
    }

    fn one(what: impl Hash) -> Self {
        let mut hasher = DefaultHasher::new();
        what.hash(&mut hasher);
        Self(1 << (hasher.finish() % 64))
    }
}

/// A version of an object that was stored. Immutable.
#[derive(Debug)]
pub struct Object {
    /// Namespace and name.
    pub id: ObjectId,
    /// Its `metadata.resourceVersion`.
    pub version: u64,
    /// The JSON, `resourceVersion` included.
    pub bytes: Bytes,
    /// Parsed facts.
    pub meta: Meta,
    version_at: usize,
    fields: OnceLock<Box<[String]>>,
    checked: AtomicU64,
}

const VERSION_KEY: &[u8] = b"\"resourceVersion\":\"";

/// Why stored bytes are not an object.
#[derive(Debug, thiserror::Error)]
pub enum ObjectError {
    /// No `metadata.resourceVersion` where every stored object has it.
    #[error("stored object {0} has no resource version")]
    NoVersion(String),
    /// Not JSON, or metadata of the wrong shape.
    #[error("stored object {0} cannot be read: {1}")]
    Json(String, serde_json::Error),
}

impl Object {
    /// Reads an object back from the database.
    pub fn parse(id: ObjectId, version: u64, bytes: Bytes) -> Result<Self, ObjectError> {
        #[derive(Deserialize)]
        struct Head {
            #[serde(default)]
            metadata: Meta,
        }
        let shown = || format!("{}/{}", id.namespace, id.name);
        let version_at = find(&bytes, VERSION_KEY)
            .map(|at| at + VERSION_KEY.len())
            .ok_or_else(|| ObjectError::NoVersion(shown()))?;
        let head: Head =
            serde_json::from_slice(&bytes).map_err(|e| ObjectError::Json(shown(), e))?;
        Ok(Self {
            id,
            version,
            bytes,
            meta: head.metadata,
            version_at,
            fields: OnceLock::new(),
            checked: AtomicU64::new(0),
        })
    }

    /// The JSON as a value.
    pub fn value(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or(Value::Null)
    }

    /// The same content under another version: what a `DELETED` event shows.
    pub fn with_version(&self, version: u64) -> Self {
        let end = self.bytes[self.version_at..]
            .iter()
            .position(|&b| b == b'"')
            .map_or(self.version_at, |n| self.version_at + n);
        let text = version.to_string();
        let mut bytes = Vec::with_capacity(self.bytes.len() + text.len());
        bytes.extend_from_slice(&self.bytes[..self.version_at]);
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(&self.bytes[end..]);
        Self {
            id: self.id.clone(),
            version,
            bytes: bytes.into(),
            meta: self.meta.clone(),
            version_at: self.version_at,
            fields: OnceLock::new(),
            checked: AtomicU64::new(0),
        }
    }

    /// Whether the bytes are known to hold all that a schema would default.
    pub fn is_checked(&self, schema: u64) -> bool {
        self.checked.load(Ordering::Relaxed) == schema
    }

    /// Remembers that a schema has nothing to add.
    pub fn set_checked(&self, schema: u64) {
        self.checked.store(schema, Ordering::Relaxed);
    }

    /// Values of the fields at `pointers`, computed once. The caller passes the
    /// same pointers for the same resource each time.
    pub fn fields(&self, pointers: &[String]) -> &[String] {
        self.fields.get_or_init(|| {
            let value = self.value();
            pointers.iter().map(|p| field_text(&value, p)).collect()
        })
    }
}

/// A field as field selectors compare it: scalars as text, everything else empty.
/// Of several pointers, joined by `|`, the first that is not empty counts.
pub fn field_text(value: &Value, pointers: &str) -> String {
    pointers
        .split('|')
        .map(|pointer| one_text(value, pointer))
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

fn one_text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Bool(b)) => b.to_string(),
        Some(Value::Number(n)) => n.to_string(),
        _ => String::new(),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|w| w == needle)
}

/// An object about to be stored: all but its version, which only the writer knows.
#[derive(Debug)]
pub struct Draft {
    head: Vec<u8>,
    tail: Vec<u8>,
    meta: Meta,
}

impl Draft {
    /// Serialises an object so that its version can be put in later without
    /// looking at it again. `resourceVersion` in the input is dropped.
    pub fn new(value: &Value) -> Result<Self, serde_json::Error> {
        let empty = Map::new();
        let object = value.as_object().unwrap_or(&empty);
        let metadata = object
            .get("metadata")
            .and_then(Value::as_object)
            .unwrap_or(&empty);
        let mut head = Vec::with_capacity(128);
        head.extend_from_slice(b"{\"apiVersion\":");
        write(&mut head, object.get("apiVersion"))?;
        head.extend_from_slice(b",\"kind\":");
        write(&mut head, object.get("kind"))?;
        head.extend_from_slice(b",\"metadata\":{\"name\":");
        write(&mut head, metadata.get("name"))?;
        head.extend_from_slice(b",");
        head.extend_from_slice(VERSION_KEY);

        let mut tail = Vec::with_capacity(1024);
        tail.push(b'"');
        for (key, value) in metadata {
            if key != "name" && key != "resourceVersion" {
                write_entry(&mut tail, key, value)?;
            }
        }
        tail.push(b'}');
        for (key, value) in object {
            if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                write_entry(&mut tail, key, value)?;
            }
        }
        tail.push(b'}');
        let meta = Meta::deserialize(Value::Object(
            metadata
                .iter()
                .filter(|(k, _)| {
                    matches!(
                        k.as_str(),
                        "uid" | "labels" | "deletionTimestamp" | "finalizers" | "ownerReferences"
                    )
                })
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect(),
        ))?;
        Ok(Self { head, tail, meta })
    }

    /// Bytes that the object will take, but for its version.
    pub fn size(&self) -> usize {
        self.head.len() + self.tail.len()
    }

    /// The object under its version.
    pub fn finish(&self, id: ObjectId, version: u64) -> Object {
        let text = version.to_string();
        let mut bytes = Vec::with_capacity(self.size() + text.len());
        bytes.extend_from_slice(&self.head);
        bytes.extend_from_slice(text.as_bytes());
        bytes.extend_from_slice(&self.tail);
        Object {
            id,
            version,
            bytes: bytes.into(),
            meta: self.meta.clone(),
            version_at: self.head.len(),
            fields: OnceLock::new(),
            checked: AtomicU64::new(0),
        }
    }

    /// True when storing this over `current` would change nothing.
    pub fn same_as(&self, current: &Object) -> bool {
        let digits = current.version.to_string().len();
        current.bytes.len() == self.size() + digits
            && current.version_at == self.head.len()
            && current.bytes[..self.head.len()] == self.head[..]
            && current.bytes[self.head.len() + digits..] == self.tail[..]
    }
}

fn write(out: &mut Vec<u8>, value: Option<&Value>) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, value.unwrap_or(&Value::Null))
}

fn write_entry(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), serde_json::Error> {
    out.push(b',');
    serde_json::to_writer(&mut *out, key)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value)
}
