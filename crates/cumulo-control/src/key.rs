//! Names: keys of objects, hashes of requests, and names made from both.

use std::fmt;

use kube::{Resource, ResourceExt};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// The longest name that is also a label's value and a host name.
const LONGEST_NAME: usize = 63;

/// Namespace and name of an object.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// The namespace; empty for cluster-wide objects.
    pub namespace: String,
    /// The name.
    pub name: String,
}

impl ObjectKey {
    /// A key from its two parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }

    /// The key of an object.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self::new(object.namespace().unwrap_or_default(), object.name_any())
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.namespace, self.name)
    }
}

/// The first 16 hex digits of a hash over a value's JSON.
pub(crate) fn hash(value: &impl Serialize) -> String {
    // Our own types: maps have text keys and no float is NaN. Should one ever
    // fail, its error's text still makes a stable key.
    let text = serde_json::to_vec(value).unwrap_or_else(|error| error.to_string().into_bytes());
    hex::encode(&Sha256::digest(text)[..8])
}

/// A name made of a base and a suffix that fits where names must: a base that
/// is too long is cut, and a hash of all of it keeps it apart from its like.
pub(crate) fn limited(base: &str, suffix: &str) -> String {
    let room = LONGEST_NAME.saturating_sub(suffix.len());
    if base.len() <= room {
        return format!("{base}{suffix}");
    }
    let mark = &hash(&base)[..8];
    let mut end = room.saturating_sub(mark.len() + 1);
    while !base.is_char_boundary(end) {
        end -= 1;
    }
    let short = base[..end].trim_end_matches(['-', '.']);
    format!("{short}-{mark}{suffix}")
}

/// A name as a label's value.
pub(crate) fn label_value(name: &str) -> String {
    limited(name, "")
}

/// The name under which the registry knows a Model: registries have one flat
/// space of names, so Models outside the namespace `default` carry their
/// namespace before the name.
#[must_use]
pub fn registered_name(namespace: &str, name: &str) -> String {
    if namespace.is_empty() || namespace == "default" {
        name.to_owned()
    } else {
        format!("{namespace}.{name}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_stay_readable() {
        assert_eq!(limited("flights", "-3fb2-0"), "flights-3fb2-0");
        assert_eq!(registered_name("default", "late"), "late");
        assert_eq!(registered_name("team-a", "late"), "team-a.late");
    }

    proptest! {
        #[test]
        fn names_fit_and_stay_apart(a in "[a-z][a-z0-9-]{0,250}", b in "[a-z][a-z0-9-]{0,250}") {
            let (x, y) = (limited(&a, "-0123456789abcdef-10"), limited(&b, "-0123456789abcdef-10"));
            prop_assert!(x.len() <= LONGEST_NAME && y.len() <= LONGEST_NAME);
            prop_assert_eq!(x == y, a == b);
        }
    }
}
