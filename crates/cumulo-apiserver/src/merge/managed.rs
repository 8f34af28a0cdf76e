//! `metadata.managedFields`: owners and their field sets.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::fieldset::FieldSet;

/// Most owners by update that are kept; the oldest are joined into one. The
/// number is Kubernetes'.
const MAX_UPDATERS: usize = 10;

/// The name under which old owners are joined.
const ANCIENT: &str = "ancient-changes";

/// How an owner writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Operation {
    Apply,
    Update,
}

/// Who owns fields. Appliers are the same whatever version they write in, so
/// their version is part of [`Owned`], not of the identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Owner {
    pub(super) operation: Operation,
    pub(super) manager: String,
    pub(super) subresource: String,
    /// Empty for appliers.
    pub(super) api_version: String,
}

/// What somebody owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Owned {
    pub(super) set: FieldSet,
    pub(super) api_version: String,
    pub(super) time: Option<String>,
}

/// All owners of an object.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Managers {
    pub(super) owners: BTreeMap<Owner, Owned>,
}

impl Managers {
    /// Reads `metadata.managedFields`. `None` when there is none, or when it is
    /// not what it should be.
    pub(super) fn of(object: &Value) -> Option<Self> {
        let list = object.pointer("/metadata/managedFields")?.as_array()?;
        let mut owners = BTreeMap::new();
        for entry in list {
            let text = |key: &str| entry.get(key).and_then(Value::as_str).unwrap_or_default();
            let operation = match text("operation") {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return None,
            };
            let fields = entry.get("fieldsV1").cloned().unwrap_or_else(|| json!({}));
            let owner = Owner {
                operation,
                manager: text("manager").into(),
                subresource: text("subresource").into(),
                api_version: match operation {
                    Operation::Apply => String::new(),
                    Operation::Update => text("apiVersion").into(),
                },
            };
            let owned = Owned {
                set: FieldSet::from_json(&fields)?,
                api_version: text("apiVersion").into(),
                time: entry.get("time").and_then(Value::as_str).map(Into::into),
            };
            owners.insert(owner, owned);
        }
        Some(Self { owners })
    }

    /// Joins the oldest updaters when there are too many, one pair at a time.
    pub(super) fn cap(&mut self) {
        loop {
            let mut updaters: Vec<(Option<String>, Owner)> = self
                .owners
                .iter()
                .filter(|(owner, _)| owner.operation == Operation::Update)
                .filter(|(owner, _)| owner.subresource.is_empty())
                .map(|(owner, owned)| (owned.time.clone(), owner.clone()))
                .collect();
            if updaters.len() <= MAX_UPDATERS {
                return;
            }
            updaters.sort();
            let mut joined: Option<Owned> = None;
            let mut version = String::new();
            for (_, owner) in updaters.into_iter().take(2) {
                let Some(owned) = self.owners.remove(&owner) else {
                    continue;
                };
                version = owned.api_version.clone();
                joined = Some(match joined {
                    None => owned,
                    Some(before) => Owned {
                        set: before.set.union(&owned.set),
                        ..owned
                    },
                });
            }
            let ancient = Owner {
                operation: Operation::Update,
                manager: ANCIENT.into(),
                subresource: String::new(),
                api_version: version,
            };
            if let Some(mut owned) = joined {
                if let Some(before) = self.owners.get(&ancient) {
                    owned.set = owned.set.union(&before.set);
                }
                self.owners.insert(ancient, owned);
            }
        }
    }

    /// Writes `metadata.managedFields`, appliers first, then by time.
    pub(super) fn write(&self, object: &mut Value) {
        let mut entries: Vec<(&Owner, &Owned)> = self
            .owners
            .iter()
            .filter(|(_, owned)| !owned.set.is_empty())
            .collect();
        entries.sort_by(|(a, x), (b, y)| {
            (
                a.operation,
                &x.time,
                &a.manager,
                &x.api_version,
                &a.subresource,
            )
                .cmp(&(
                    b.operation,
                    &y.time,
                    &b.manager,
                    &y.api_version,
                    &b.subresource,
                ))
        });
        let list: Vec<Value> = entries
            .into_iter()
            .map(|(owner, owned)| {
                let mut entry = Map::new();
                entry.insert("manager".into(), json!(owner.manager));
                entry.insert(
                    "operation".into(),
                    json!(match owner.operation {
                        Operation::Apply => "Apply",
                        Operation::Update => "Update",
                    }),
                );
                entry.insert("apiVersion".into(), json!(owned.api_version));
                if let Some(time) = &owned.time {
                    entry.insert("time".into(), json!(time));
                }
                entry.insert("fieldsType".into(), json!("FieldsV1"));
                entry.insert("fieldsV1".into(), owned.set.to_json());
                if !owner.subresource.is_empty() {
                    entry.insert("subresource".into(), json!(owner.subresource));
                }
                Value::Object(entry)
            })
            .collect();
        let Some(object) = object.as_object_mut() else {
            return;
        };
        let metadata = object.entry("metadata").or_insert_with(|| json!({}));
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.shift_remove("managedFields");
            if !list.is_empty() {
                metadata.insert("managedFields".into(), Value::Array(list));
            }
        }
    }
}
