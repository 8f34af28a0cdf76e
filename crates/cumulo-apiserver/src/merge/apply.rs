//! The rules of ownership: server-side apply, and upkeep for other writes.
//!
//! After `merge/update.go` of structured-merge-diff and
//! `k8s.io/apimachinery/pkg/util/managedfields`. All owners are held to the
//! same version of the kind: what differs between versions of one kind here is
//! at most its name.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::fieldset::{FieldSet, PathElement};
use super::managed::{Managers, Operation, Owned, Owner};
use super::typed::{self, Comparison};
use super::{ApplyError, Conflict, Writer};
use crate::schema::{Cursor, Schema};

/// Fields that nobody owns: the server writes them, or they name the object.
const UNOWNED: &[&[&str]] = &[
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "creationTimestamp"],
    &["metadata", "selfLink"],
    &["metadata", "uid"],
    &["metadata", "generation"],
    &["metadata", "managedFields"],
    &["metadata", "resourceVersion"],
];

/// Who owns what an object had before anybody kept account.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

/// The annotation in which client-side apply keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

fn path(names: &[&str]) -> Vec<PathElement> {
    names.iter().map(|name| PathElement::field(name)).collect()
}

fn ignored(writer: &Writer<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    for dotted in writer.ignored {
        set.insert(&path(&dotted.split('.').collect::<Vec<_>>()));
    }
    set
}

/// Takes away what nobody owns.
fn strip(set: &FieldSet) -> FieldSet {
    let mut unowned = FieldSet::default();
    for names in UNOWNED {
        unowned.insert(&path(names));
    }
    let mut itself = FieldSet::default();
    itself.insert(&path(&["metadata"]));
    set.recursive_difference(&unowned).difference(&itself)
}

fn without_managed_fields(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("managedFields");
    }
    object
}

/// An object of the same kind with nothing in it.
fn empty_like(object: &Value) -> Value {
    let mut empty = Map::new();
    for key in ["apiVersion", "kind"] {
        if let Some(value) = object.get(key) {
            empty.insert(key.into(), value.clone());
        }
    }
    empty.insert("metadata".into(), Value::Object(Map::new()));
    Value::Object(empty)
}

pub(super) fn apply(
    schema: &Schema,
    live: Option<&Value>,
    applied: &Value,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if !applied.is_object() {
        return Err(ApplyError::Invalid(
            "an apply patch must be an object".into(),
        ));
    }
    let has_managed_fields = applied
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array)
        .is_some_and(|list| !list.is_empty());
    if has_managed_fields {
        return Err(ApplyError::Invalid(
            "metadata.managedFields must be nil".into(),
        ));
    }
    let applied = without_managed_fields(applied);
    let before = live.map_or_else(|| empty_like(&applied), without_managed_fields);
    let mut managers = live.and_then(Managers::of).unwrap_or_default();
    if let Some(live) = live
        && managers.owners.is_empty()
    {
        // Nobody kept account of this object: what is there belongs to somebody
        // unknown, and is not lost when the applier leaves it out.
        let nothing = Writer {
            manager: BEFORE_FIRST_APPLY,
            subresource: "",
            ..*writer
        };
        record_update(
            schema.cursor(),
            &empty_like(live),
            &before,
            &mut managers,
            &nothing,
        );
    }
    let mut attempt = attempt(schema.cursor(), &before, &applied, &managers, writer, force);
    if let Err(ApplyError::Conflicts(_)) = &attempt
        && writer.manager == "kubectl"
        && let Some(live) = live
    {
        attempt = take_over(
            schema.cursor(),
            live,
            &before,
            &applied,
            &managers,
            writer,
            attempt,
        );
    }
    let (mut object, mut managers) = attempt?;
    managers.cap();
    managers.write(&mut object);
    Ok(object)
}

type Applied = (Value, Managers);

fn attempt(
    root: Cursor<'_>,
    before: &Value,
    applied: &Value,
    managers: &Managers,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Applied, ApplyError> {
    let mut managers = managers.clone();
    let place = Some(root);
    let ignored = ignored(writer);
    let owner = Owner {
        operation: Operation::Apply,
        manager: writer.manager.into(),
        subresource: writer.subresource.into(),
        api_version: String::new(),
    };
    // What the endpoint does not write is left as it is.
    let applied = typed::remove(place, applied, &ignored);
    let set = strip(&typed::field_set(place, &applied)).recursive_difference(&ignored);
    let merged = typed::merge(place, before, &applied);
    let last = managers.owners.get(&owner).cloned();
    let mine = Owned {
        set,
        api_version: writer.api_version.into(),
        time: last.as_ref().and_then(|last| last.time.clone()),
    };
    managers.owners.insert(owner.clone(), mine);
    let after = match &last {
        Some(last) => prune(place, merged, &managers, &last.set),
        None => merged,
    };
    let comparison = typed::compare(place, before, &after).without(&ignored);
    settle(&mut managers, &comparison, Some(&owner), force)?;
    let changed = after != *before || last.is_none();
    if changed && let Some(mine) = managers.owners.get_mut(&owner) {
        mine.time = Some(writer.now.into());
    }
    managers.owners.retain(|_, owned| !owned.set.is_empty());
    Ok((after, managers))
}

/// kubectl moving from client-side to server-side apply: conflicts about values
/// that it last applied on the client side are its own, and are taken over.
fn take_over(
    root: Cursor<'_>,
    live: &Value,
    before: &Value,
    applied: &Value,
    managers: &Managers,
    writer: &Writer<'_>,
    refused: Result<Applied, ApplyError>,
) -> Result<Applied, ApplyError> {
    let annotation = live
        .pointer("/metadata/annotations")
        .and_then(|annotations| annotations.get(LAST_APPLIED))
        .and_then(Value::as_str)
        .and_then(|text| serde_json::from_str::<Value>(text).ok());
    let (Some(last_applied), Err(ApplyError::Conflicts(conflicts))) = (annotation, &refused) else {
        return refused;
    };
    let place = Some(root);
    // Allowed are the fields of the annotation whose live value is still it.
    let known = typed::field_set(place, &last_applied);
    let comparison = typed::compare(place, &last_applied, before);
    let allowed = known
        .difference(&comparison.written())
        .difference(&comparison.removed);
    let allowed = allowed.describe();
    let left: Vec<Conflict> = conflicts
        .iter()
        .filter(|c| !allowed.contains(&c.field))
        .cloned()
        .collect();
    if left.is_empty() {
        attempt(root, before, applied, managers, writer, true)
    } else {
        Err(ApplyError::Conflicts(left))
    }
}

/// Removes what the applier owned before, does not own any more, and nobody
/// else owns.
fn prune(place: Option<Cursor<'_>>, merged: Value, managers: &Managers, last: &FieldSet) -> Value {
    if last.is_empty() {
        return merged;
    }
    let named = |set: &FieldSet| typed::with_named_fields(place, set);
    let last = named(last);
    let fields = |value: &Value| named(&typed::field_set(place, value));
    let without_last = fields(&typed::remove(place, &merged, &last));
    let managed = managers
        .owners
        .values()
        .fold(FieldSet::default(), |all, owned| all.union(&owned.set));
    let all = fields(&merged);
    let with_owned = typed::remove(
        place,
        &merged,
        &all.difference(&without_last.union(&named(&managed))),
    );
    // Only what this applier owned may go; what nobody owns stays.
    let gone = all.difference(&fields(&with_owned)).intersection(&last);
    typed::remove(place, &merged, &gone)
}

/// Takes what was written away from the other owners. With `owner` set and
/// without `force`, fields that others own are conflicts instead.
fn settle(
    managers: &mut Managers,
    comparison: &Comparison,
    owner: Option<&Owner>,
    force: bool,
) -> Result<(), ApplyError> {
    let written = comparison.written();
    let mut conflicts = Vec::new();
    let mut kept = BTreeMap::new();
    for (other, owned) in &managers.owners {
        if Some(other) == owner {
            kept.insert(other.clone(), owned.clone());
            continue;
        }
        let contested = owned.set.intersection(&written);
        if !contested.is_empty() && !force {
            let message = describe_owner(other, owned);
            conflicts.extend(contested.describe().into_iter().map(|field| Conflict {
                manager: other.manager.clone(),
                field,
                message: message.clone(),
            }));
        }
        let set = owned
            .set
            .difference(&contested)
            .difference(&comparison.removed);
        kept.insert(
            other.clone(),
            Owned {
                set,
                ..owned.clone()
            },
        );
    }
    if !conflicts.is_empty() {
        conflicts.sort_by(|a, b| (&a.message, &a.field).cmp(&(&b.message, &b.field)));
        return Err(ApplyError::Conflicts(conflicts));
    }
    managers.owners = kept;
    Ok(())
}

fn describe_owner(owner: &Owner, owned: &Owned) -> String {
    let mut text = format!("conflict with {:?}", owner.manager);
    if !owner.subresource.is_empty() {
        text.push_str(&format!(" with subresource {:?}", owner.subresource));
    }
    if owner.operation == Operation::Update {
        text.push_str(&format!(" using {}", owned.api_version));
    }
    text
}

pub(super) fn track_update(
    schema: &Schema,
    old: Option<&Value>,
    new: &mut Value,
    writer: &Writer<'_>,
) {
    let sent = new
        .pointer("/metadata/managedFields")
        .and_then(Value::as_array);
    let reset = sent.is_some_and(|list| {
        list.is_empty() || (list.len() == 1 && list[0].as_object().is_some_and(Map::is_empty))
    });
    let kept = || old.and_then(Managers::of).unwrap_or_default();
    let mut managers = match sent {
        _ if reset => Managers::default(),
        Some(_) => Managers::of(new).unwrap_or_else(kept),
        None => kept(),
    };
    let after = without_managed_fields(new);
    let before = old.map_or_else(|| empty_like(&after), without_managed_fields);
    if !reset || old.is_none() {
        record_update(schema.cursor(), &before, &after, &mut managers, writer);
    }
    managers.cap();
    managers.write(new);
}

/// Gives the writer what it added and changed, and takes that, and what is
/// gone, from the others.
fn record_update(
    root: Cursor<'_>,
    before: &Value,
    after: &Value,
    managers: &mut Managers,
    writer: &Writer<'_>,
) {
    let comparison = typed::compare(Some(root), before, after).without(&ignored(writer));
    // An update forces: there are no conflicts to report.
    let _ = settle(managers, &comparison, None, true);
    let written = strip(&comparison.written());
    if !written.is_empty() {
        let owner = Owner {
            operation: Operation::Update,
            manager: writer.manager.into(),
            subresource: writer.subresource.into(),
            api_version: writer.api_version.into(),
        };
        let set = match managers.owners.get(&owner) {
            Some(owned) => owned.set.union(&written),
            None => written,
        };
        managers.owners.insert(
            owner,
            Owned {
                set,
                api_version: writer.api_version.into(),
                time: Some(writer.now.into()),
            },
        );
    }
    managers.owners.retain(|_, owned| !owned.set.is_empty());
}

pub(super) fn is_noop(old: &Value, new: &Value) -> bool {
    let essence = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.shift_remove("resourceVersion");
            metadata.shift_remove("generation");
            let entries = metadata
                .get_mut("managedFields")
                .and_then(Value::as_array_mut);
            for entry in entries.into_iter().flatten() {
                if let Some(entry) = entry.as_object_mut() {
                    entry.shift_remove("time");
                }
            }
        }
        object
    };
    essence(old) == essence(new)
}
