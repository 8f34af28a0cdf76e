//! The types that are served now. Readers take a snapshot; a change to the
//! CustomResourceDefinitions puts a new one in its place.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;

use super::{ResourceType, builtin_types, split_api_version};

/// A snapshot of the served types.
#[derive(Debug, Default)]
pub struct Catalog {
    /// group → version → plural → type
    groups: BTreeMap<String, BTreeMap<String, BTreeMap<String, Arc<ResourceType>>>>,
    by_storage: HashMap<Arc<str>, Arc<ResourceType>>,
    by_kind: HashMap<(String, String), Arc<ResourceType>>,
}

impl Catalog {
    fn of(types: impl IntoIterator<Item = Arc<ResourceType>>) -> Self {
        let mut catalog = Self::default();
        for resource in types {
            catalog.by_kind.insert(
                (resource.api_version(), resource.kind.clone()),
                resource.clone(),
            );
            // Reviews, bindings and metrics are answered, not stored.
            if resource.has_verb("get") && !resource.storage.is_empty() {
                let stored = resource.api_version() == resource.stored_api_version;
                if stored || !catalog.by_storage.contains_key(&resource.storage) {
                    catalog
                        .by_storage
                        .insert(resource.storage.clone(), resource.clone());
                }
            }
            catalog
                .groups
                .entry(resource.group.clone())
                .or_default()
                .entry(resource.version.clone())
                .or_default()
                .insert(resource.plural.clone(), resource);
        }
        catalog
    }

    /// The type at a path.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Arc<ResourceType>> {
        self.groups.get(group)?.get(version)?.get(plural)
    }

    /// The type of an `apiVersion` and kind.
    pub fn by_kind(&self, api_version: &str, kind: &str) -> Option<&Arc<ResourceType>> {
        self.by_kind
            .get(&(api_version.to_owned(), kind.to_owned()))
            .or_else(|| {
                // An owner reference may name a version that is no longer served.
                let (group, _) = split_api_version(api_version);
                self.groups
                    .get(group)?
                    .values()
                    .flat_map(BTreeMap::values)
                    .find(|r| r.kind == kind)
            })
    }

    /// The type whose objects are in a table of the store.
    pub fn by_storage(&self, storage: &str) -> Option<&Arc<ResourceType>> {
        self.by_storage.get(storage)
    }

    /// Every table of the store, with the type of its objects.
    pub fn stored(&self) -> impl Iterator<Item = &Arc<ResourceType>> {
        self.by_storage.values()
    }

    /// Groups, the core group (empty) first.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str)
    }

    /// Versions of a group, the preferred one first.
    pub fn versions(&self, group: &str) -> Vec<&str> {
        let mut versions: Vec<&str> = self
            .groups
            .get(group)
            .into_iter()
            .flat_map(BTreeMap::keys)
            .map(String::as_str)
            .collect();
        versions.sort_by(|a, b| version_priority(a, b));
        versions
    }

    /// Types of a group and version, by plural.
    pub fn types(
        &self,
        group: &str,
        version: &str,
    ) -> Option<impl Iterator<Item = &Arc<ResourceType>>> {
        Some(self.groups.get(group)?.get(version)?.values())
    }
}

/// Kubernetes' order of versions: stable before beta before alpha, higher first,
/// anything else after them by name.
pub fn version_priority(a: &str, b: &str) -> Ordering {
    fn parts(version: &str) -> Option<(u8, u64, u64)> {
        let rest = version.strip_prefix('v')?;
        let digits = rest
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(rest.len());
        let major = rest[..digits].parse().ok()?;
        let stage = &rest[digits..];
        if stage.is_empty() {
            return Some((2, major, 0));
        }
        let (rank, minor) = match stage.strip_prefix("beta") {
            Some(minor) => (1, minor),
            None => (0, stage.strip_prefix("alpha")?),
        };
        Some((rank, major, minor.parse().ok()?))
    }
    match (parts(a), parts(b)) {
        (Some(a), Some(b)) => b.cmp(&a),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => a.cmp(b),
    }
}

/// The current catalog, replaceable.
#[derive(Debug)]
pub struct Registry {
    builtin: Vec<Arc<ResourceType>>,
    current: RwLock<Arc<Catalog>>,
}

impl Default for Registry {
    fn default() -> Self {
        let builtin = builtin_types();
        let current = RwLock::new(Arc::new(Catalog::of(builtin.iter().cloned())));
        Self { builtin, current }
    }
}

impl Registry {
    /// The catalog as it is now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.current.read().clone()
    }

    /// Serves these custom types besides the built-in ones.
    pub fn set_custom(&self, custom: Vec<Arc<ResourceType>>) {
        let catalog = Catalog::of(self.builtin.iter().cloned().chain(custom));
        *self.current.write() = Arc::new(catalog);
    }

    /// True when a built-in type has this group.
    pub fn is_builtin_group(&self, group: &str) -> bool {
        self.builtin.iter().any(|r| r.group == group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_in_kubernetes_order() {
        let mut versions = vec![
            "v1",
            "v10",
            "v2",
            "v1beta1",
            "v3alpha1",
            "foo1",
            "v11beta2",
            "v11alpha2",
            "foo10",
            "v12alpha1",
            "v3beta1",
            "v10beta3",
        ];
        versions.sort_by(|a, b| version_priority(a, b));
        assert_eq!(
            versions,
            [
                "v10",
                "v2",
                "v1",
                "v11beta2",
                "v10beta3",
                "v3beta1",
                "v1beta1",
                "v12alpha1",
                "v11alpha2",
                "v3alpha1",
                "foo1",
                "foo10"
            ]
        );
    }

    #[test]
    fn every_row_is_found_by_path_and_kind() {
        let registry = Registry::default();
        let catalog = registry.catalog();
        for row in builtin_types() {
            assert!(
                catalog
                    .find(&row.group, &row.version, &row.plural)
                    .is_some()
            );
            assert!(catalog.by_kind(&row.api_version(), &row.kind).is_some());
        }
        let events = catalog.by_storage("/events").expect("events");
        assert_eq!(events.group, "");
    }
}
