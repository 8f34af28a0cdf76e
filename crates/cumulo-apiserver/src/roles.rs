//! The authorizer that reads roles and bindings from the store: an index in
//! memory, built again when one of them has changed. No request waits for a disk.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::auth::{Attributes, Authorizer, Decision, UserInfo};
use crate::rbac::{Binding, GROUP, Index, PolicyRule, Role};
use crate::storage::{ObjectId, Store};

/// Names of the store's tables: roles, then bindings.
const TABLES: [&str; 4] = [
    "clusterroles",
    "roles",
    "clusterrolebindings",
    "rolebindings",
];

/// A table of the store and its newest version.
struct Table {
    name: Arc<str>,
    changed: watch::Receiver<u64>,
}

/// Parsed objects with the versions that they were parsed from.
type Parsed<T> = HashMap<ObjectId, (u64, Arc<T>)>;

#[derive(Default)]
struct Snapshot {
    seen: [u64; 4],
    roles: Parsed<Role>,
    bindings: Parsed<Binding>,
    index: Arc<Index>,
}

/// Decides by the roles and bindings in the store.
pub struct RoleAuthorizer {
    store: Store,
    tables: [Table; 4],
    current: RwLock<Snapshot>,
}

impl std::fmt::Debug for RoleAuthorizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RoleAuthorizer")
    }
}

impl RoleAuthorizer {
    pub(crate) fn new(store: &Store) -> Self {
        let tables = TABLES.map(|plural| {
            let name: Arc<str> = format!("{GROUP}/{plural}").into();
            Table {
                changed: store.subscribe(&name),
                name,
            }
        });
        let authorizer = Self {
            store: store.clone(),
            tables,
            current: RwLock::default(),
        };
        let seen = authorizer.versions();
        authorizer.build(seen, &mut authorizer.current.write());
        authorizer
    }

    fn versions(&self) -> [u64; 4] {
        self.tables.each_ref().map(|table| *table.changed.borrow())
    }

    /// The index of what is stored now. A write is in it before it is acknowledged.
    pub(crate) fn index(&self) -> Arc<Index> {
        let seen = self.versions();
        {
            let current = self.current.read();
            if current.seen == seen {
                return current.index.clone();
            }
        }
        let mut current = self.current.write();
        // Another request may have built it meanwhile.
        let seen = self.versions();
        if current.seen != seen {
            self.build(seen, &mut current);
        }
        current.index.clone()
    }

    /// Parses what is new and indexes all. The versions were read before the
    /// objects, so the index is never older than it says.
    fn build(&self, seen: [u64; 4], snapshot: &mut Snapshot) {
        let [cluster_roles, roles, cluster_bindings, bindings] = &self.tables;
        snapshot.roles = self.parse([cluster_roles, roles], &snapshot.roles, Role::read);
        snapshot.bindings = self.parse(
            [cluster_bindings, bindings],
            &snapshot.bindings,
            Binding::read,
        );
        snapshot.index = Arc::new(Index::new(
            snapshot.roles.values().map(|(_, role)| role.clone()),
            snapshot
                .bindings
                .values()
                .map(|(_, binding)| binding.clone()),
        ));
        snapshot.seen = seen;
    }

    fn parse<T>(
        &self,
        tables: [&Table; 2],
        known: &Parsed<T>,
        read: impl Fn(&serde_json::Value) -> T,
    ) -> Parsed<T> {
        tables
            .iter()
            .flat_map(|table| self.store.all(&table.name, None))
            .map(|object| {
                let parsed = match known.get(&object.id) {
                    Some((version, parsed)) if *version == object.version => parsed.clone(),
                    _ => Arc::new(read(&object.value())),
                };
                (object.id.clone(), (object.version, parsed))
            })
            .collect()
    }
}

#[async_trait]
impl Authorizer for RoleAuthorizer {
    async fn authorize(&self, user: &UserInfo, attributes: &Attributes) -> Decision {
        self.index().decide(user, attributes)
    }

    async fn rules(&self, user: &UserInfo, namespace: &str) -> Option<Vec<PolicyRule>> {
        Some(self.index().rules(user, namespace))
    }
}
