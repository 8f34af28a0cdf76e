//! Values beside their schema: which fields they have, how two are merged,
//! where they differ, and what is left without some fields.
//!
//! After structured-merge-diff v6, package `typed`. Where the schema says
//! nothing, maps are merged by key and lists are one value.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::fieldset::{FieldSet, PathElement};
use crate::schema::{Cursor, ListType};

type Place<'a> = Option<Cursor<'a>>;

/// What a value is to its owners.
enum Shape<'v, 'a> {
    /// One value.
    Leaf,
    Map(&'v Map<String, Value>),
    List(&'v [Value], Elements<'a>),
}

/// How the elements of a list are told apart.
#[derive(Clone, Copy)]
enum Elements<'a> {
    Set,
    Keys(&'a [Box<str>]),
}

fn shape<'v, 'a>(place: Place<'a>, value: &'v Value) -> Shape<'v, 'a> {
    match value {
        Value::Object(map) if !place.is_some_and(Cursor::is_atomic_map) => Shape::Map(map),
        Value::Array(items) => match place.map(Cursor::list_type) {
            Some(ListType::Set) => Shape::List(items, Elements::Set),
            Some(ListType::Map(keys)) => Shape::List(items, Elements::Keys(keys)),
            Some(ListType::Atomic) | None => Shape::Leaf,
        },
        _ => Shape::Leaf,
    }
}

/// Where a map key leads, and whether it is a field that the schema names.
fn under<'a>(place: Place<'a>, key: &str) -> (Place<'a>, bool) {
    let Some(cursor) = place else {
        return (None, false);
    };
    match cursor.field(key) {
        Some(field) => (Some(field), true),
        None => (cursor.under(key), false),
    }
}

fn items(place: Place<'_>) -> Place<'_> {
    place.and_then(Cursor::items)
}

/// What tells a list element apart. An element without any of its keys is told
/// apart by having none.
fn identify(element: Place<'_>, elements: Elements<'_>, item: &Value) -> PathElement {
    match (elements, item) {
        (Elements::Keys(keys), Value::Object(object)) => {
            PathElement::key(keys.iter().filter_map(|key| {
                let default = || {
                    element
                        .and_then(|e| e.field(key))
                        .and_then(Cursor::default_value)
                };
                let value = object
                    .get(key.as_ref())
                    .filter(|v| !v.is_null())
                    .or_else(default)?;
                Some((key.as_ref(), value))
            }))
        }
        _ => PathElement::value(item),
    }
}

/// The set of fields that a value has.
pub(super) fn field_set(place: Place<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    collect(place, value, &mut Vec::new(), &mut set);
    set
}

fn collect(place: Place<'_>, value: &Value, path: &mut Vec<PathElement>, set: &mut FieldSet) {
    match shape(place, value) {
        Shape::Leaf => set.insert(path),
        Shape::Map(map) => {
            for (key, child) in map {
                let (below, named) = under(place, key);
                path.push(PathElement::field(key));
                collect(below, child, path, set);
                let hollow = child.is_null() || child.as_object().is_some_and(Map::is_empty);
                if hollow || !named {
                    set.insert(path);
                }
                path.pop();
            }
        }
        Shape::List(list, elements) => {
            let below = items(place);
            for item in list {
                path.push(identify(below, elements, item));
                collect(below, item, path, set);
                set.insert(path);
                path.pop();
            }
        }
    }
}

/// `new` laid over `old`: what only `old` has stays.
pub(super) fn merge(place: Place<'_>, old: &Value, new: &Value) -> Value {
    match (shape(place, old), shape(place, new)) {
        (Shape::Map(old), Shape::Map(new)) => {
            let mut result = old.clone();
            for (key, after) in new {
                let merged = match old.get(key) {
                    Some(before) => merge(under(place, key).0, before, after),
                    None => after.clone(),
                };
                result.insert(key.clone(), merged);
            }
            Value::Object(result)
        }
        (Shape::List(old, elements), Shape::List(new, _)) => {
            Value::Array(merge_lists(items(place), elements, old, new))
        }
        _ => new.clone(),
    }
}

/// Merges lists whose elements have identities. The order is that of `new`,
/// with what only `old` has after the element that it followed. The walk is
/// `mergingWalker.visitListItems` of structured-merge-diff.
fn merge_lists(
    element: Place<'_>,
    elements: Elements<'_>,
    old: &[Value],
    new: &[Value],
) -> Vec<Value> {
    let identities = |list: &[Value]| -> Vec<PathElement> {
        list.iter()
            .map(|item| identify(element, elements, item))
            .collect()
    };
    let (old_ids, new_ids) = (identities(old), identities(new));
    let old_at: HashMap<&PathElement, usize> = old_ids
        .iter()
        .enumerate()
        .rev()
        .map(|(at, id)| (id, at))
        .collect();
    let new_at: HashMap<&PathElement, usize> = new_ids
        .iter()
        .enumerate()
        .rev()
        .map(|(at, id)| (id, at))
        .collect();
    let merged = |id: &PathElement, item: &Value| match old_at.get(id) {
        Some(at) => merge(element, &old[*at], item),
        None => item.clone(),
    };
    let mut shared = new_ids
        .iter()
        .filter(|id| old_at.contains_key(id))
        .peekable();
    let mut taken: std::collections::HashSet<&PathElement> = std::collections::HashSet::new();
    let mut result = Vec::with_capacity(old.len().max(new.len()));
    let (mut l, mut r) = (0, 0);
    while l < old.len() || r < new.len() {
        if l < old.len() && r < new.len() {
            if old_ids[l] == new_ids[r] {
                result.push(merged(&new_ids[r], &new[r]));
                taken.insert(&new_ids[r]);
                l += 1;
                r += 1;
                shared.next();
                continue;
            }
            // Both have it, but it is not its turn.
            if new_at.contains_key(&old_ids[l])
                && shared.peek().is_some_and(|next| **next != old_ids[l])
            {
                l += 1;
                continue;
            }
        }
        if l < old.len() {
            if !new_at.contains_key(&old_ids[l]) {
                result.push(old[l].clone());
                l += 1;
                continue;
            }
            if taken.contains(&old_ids[l]) || r >= new.len() {
                l += 1;
                continue;
            }
        }
        if r < new.len() {
            result.push(merged(&new_ids[r], &new[r]));
            taken.insert(&new_ids[r]);
            if shared.peek().is_some_and(|next| **next == new_ids[r]) {
                shared.next();
            }
            r += 1;
        }
    }
    result
}

/// Where two values differ.
#[derive(Debug, Default)]
pub(super) struct Comparison {
    pub(super) added: FieldSet,
    pub(super) modified: FieldSet,
    pub(super) removed: FieldSet,
}

impl Comparison {
    /// Everything that the new value sets anew.
    pub(super) fn written(&self) -> FieldSet {
        self.added.union(&self.modified)
    }

    /// Without some fields and all below them.
    pub(super) fn without(self, ignored: &FieldSet) -> Self {
        Self {
            added: self.added.recursive_difference(ignored),
            modified: self.modified.recursive_difference(ignored),
            removed: self.removed.recursive_difference(ignored),
        }
    }
}

pub(super) fn compare(place: Place<'_>, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_at(
        place,
        Some(old),
        Some(new),
        &mut Vec::new(),
        &mut comparison,
    );
    comparison
}

fn compare_at(
    place: Place<'_>,
    old: Option<&Value>,
    new: Option<&Value>,
    path: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    if old == new {
        return;
    }
    // An absent or null side takes the form of the other.
    let old_form = old
        .filter(|value| !value.is_null())
        .map(|value| shape(place, value));
    let new_form = new
        .filter(|value| !value.is_null())
        .map(|value| shape(place, value));
    let is_map = |form: &Option<Shape<'_, '_>>| matches!(form, None | Some(Shape::Map(_)));
    let is_list = |form: &Option<Shape<'_, '_>>| matches!(form, None | Some(Shape::List(..)));
    let some = old_form.is_some() || new_form.is_some();
    let mut descended = false;
    if some && is_map(&old_form) && is_map(&new_form) {
        let empty = Map::new();
        let (old_map, new_map) = match (&old_form, &new_form) {
            (Some(Shape::Map(old)), Some(Shape::Map(new))) => (*old, *new),
            (Some(Shape::Map(old)), _) => (*old, &empty),
            (_, Some(Shape::Map(new))) => (&empty, *new),
            _ => (&empty, &empty),
        };
        if !(old_map.is_empty() && new_map.is_empty()) {
            descended = true;
            compare_maps(place, old.map(|_| old_map), new.map(|_| new_map), path, out);
        }
    } else if some && is_list(&old_form) && is_list(&new_form) {
        let (old_list, new_list, elements) = match (old_form, new_form) {
            (Some(Shape::List(old, elements)), Some(Shape::List(new, _))) => (old, new, elements),
            (Some(Shape::List(old, elements)), _) => (old, &[][..], elements),
            (_, Some(Shape::List(new, elements))) => (&[][..], new, elements),
            _ => (&[][..], &[][..], Elements::Set),
        };
        if !(old_list.is_empty() && new_list.is_empty()) {
            descended = true;
            compare_lists(items(place), elements, old_list, new_list, path, out);
        }
    }
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        _ if !descended => out.modified.insert(path),
        _ => {}
    }
}

fn compare_maps(
    place: Place<'_>,
    old: Option<&Map<String, Value>>,
    new: Option<&Map<String, Value>>,
    path: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    let keys = old.into_iter().flat_map(Map::keys);
    let only_new = new
        .into_iter()
        .flat_map(Map::keys)
        .filter(|key| !old.is_some_and(|old| old.contains_key(*key)));
    for key in keys.chain(only_new) {
        let (below, _) = under(place, key);
        // A field that is written even when it is unset is there already,
        // empty, wherever the object around it is.
        let always = below.is_some_and(Cursor::is_always_present);
        let unset = always.then_some(&Value::Null);
        let before = old.and_then(|map| map.get(key).or(unset));
        let after = new.and_then(|map| map.get(key).or(unset));
        path.push(PathElement::field(key));
        compare_at(below, before, after, path, out);
        path.pop();
    }
}

fn compare_lists(
    element: Place<'_>,
    elements: Elements<'_>,
    old: &[Value],
    new: &[Value],
    path: &mut Vec<PathElement>,
    out: &mut Comparison,
) {
    let by_identity = |list: &[Value]| -> Vec<PathElement> {
        list.iter()
            .map(|item| identify(element, elements, item))
            .collect()
    };
    let (old_ids, new_ids) = (by_identity(old), by_identity(new));
    let old_at: HashMap<&PathElement, usize> = old_ids
        .iter()
        .enumerate()
        .rev()
        .map(|(at, id)| (id, at))
        .collect();
    let new_at: HashMap<&PathElement, usize> = new_ids
        .iter()
        .enumerate()
        .rev()
        .map(|(at, id)| (id, at))
        .collect();
    for (id, at) in &old_at {
        path.push((*id).clone());
        let after = new_at.get(*id).map(|at| &new[*at]);
        compare_at(element, Some(&old[*at]), after, path, out);
        path.pop();
    }
    for (id, at) in &new_at {
        if !old_at.contains_key(*id) {
            path.push((*id).clone());
            compare_at(element, None, Some(&new[*at]), path, out);
            path.pop();
        }
    }
}

/// The value without the fields of a set.
pub(super) fn remove(place: Place<'_>, value: &Value, set: &FieldSet) -> Value {
    match shape(place, value) {
        Shape::Leaf => value.clone(),
        Shape::Map(map) => {
            let kept = map.iter().filter_map(|(key, child)| {
                let element = PathElement::field(key);
                if set.has(&element) {
                    return None;
                }
                let child = match set.below(&element) {
                    Some(below) => remove(under(place, key).0, child, below),
                    None => child.clone(),
                };
                Some((key.clone(), child))
            });
            Value::Object(kept.collect())
        }
        Shape::List(list, elements) => {
            let below = items(place);
            let kept = list.iter().filter_map(|item| {
                let element = identify(below, elements, item);
                if set.has(&element) {
                    return None;
                }
                Some(match set.below(&element) {
                    Some(set) => remove(below, item, set),
                    None => item.clone(),
                })
            });
            Value::Array(kept.collect())
        }
    }
}

/// Makes members of the named fields that have members below them, so that
/// removing all of a struct's fields removes the struct.
pub(super) fn with_named_fields(place: Place<'_>, set: &FieldSet) -> FieldSet {
    set.with_members(
        place,
        &|place: Place<'_>, element: &PathElement| match element.field_name() {
            Some(name) => {
                let (below, named) = under(place, name);
                (named, below)
            }
            None => (false, items(place)),
        },
    )
}
