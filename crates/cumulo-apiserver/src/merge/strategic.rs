//! Strategic merge patch, after
//! `k8s.io/apimachinery/pkg/util/strategicpatch`.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Cursor, Schema};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_PRIMITIVES: &str = "$deleteFromPrimitiveList/";

pub(super) fn patch(schema: &Schema, target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let (Value::Object(target), Value::Object(patch)) = (target, patch) else {
        return Err(malformed("a strategic merge patch must be an object"));
    };
    merge_map(Some(schema.cursor()), target, patch).map(Value::Object)
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

/// What happens to the list or map under one key of a patch.
struct Place<'a> {
    cursor: Option<Cursor<'a>>,
}

impl<'a> Place<'a> {
    fn under(cursor: Option<Cursor<'a>>, key: &str) -> Self {
        Self {
            cursor: cursor.and_then(|c| c.under(key)),
        }
    }

    fn merges(&self) -> bool {
        self.cursor.is_some_and(|c| c.patch_strategy().merge)
    }

    fn replaces(&self) -> bool {
        self.cursor.is_some_and(|c| c.patch_strategy().replace)
    }

    fn key(&self) -> Option<&'a str> {
        self.cursor.and_then(Cursor::patch_merge_key)
    }
}

fn merge_map(
    cursor: Option<Cursor<'_>>,
    target: &Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, PatchError> {
    let mut target = target.clone();
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            let mut whole = patch.clone();
            whole.shift_remove(DIRECTIVE);
            return Ok(strip_map(whole));
        }
        Some("delete") => return Ok(Map::new()),
        Some(other) => {
            return Err(malformed(format!(
                "unknown patch type found: {other:?}; $patch takes merge, replace or delete"
            )));
        }
    }
    if let Some(keep) = patch.get(RETAIN_KEYS) {
        let keep = keep
            .as_array()
            .ok_or_else(|| malformed("$retainKeys must be a list of field names"))?;
        for key in patch.keys().filter(|key| !key.starts_with('$')) {
            if !keep.iter().any(|kept| kept == key.as_str()) {
                return Err(malformed(format!(
                    "$retainKeys does not list {key:?}, which the patch sets"
                )));
            }
        }
        target.retain(|key, _| keep.iter().any(|kept| kept == key.as_str()));
    }
    for (key, values) in patch {
        let Some(field) = key.strip_prefix(DELETE_PRIMITIVES) else {
            continue;
        };
        let values = values
            .as_array()
            .ok_or_else(|| malformed(format!("{key} must be a list")))?;
        if let Some(list) = target.get_mut(field).and_then(Value::as_array_mut) {
            list.retain(|item| !values.contains(item));
        }
    }
    for (key, change) in patch {
        if key.starts_with('$') {
            continue;
        }
        if change.is_null() {
            target.shift_remove(key);
            continue;
        }
        let place = Place::under(cursor, key);
        let merged = match (target.get(key), change) {
            (Some(Value::Object(old)), Value::Object(new)) if !place.replaces() => {
                Value::Object(merge_map(place.cursor, old, new)?)
            }
            (Some(Value::Array(old)), Value::Array(new)) if place.merges() => {
                Value::Array(merge_list(&place, old, new)?)
            }
            (_, Value::Array(new)) if place.merges() => Value::Array(merge_list(&place, &[], new)?),
            (_, new) => strip(new.clone()),
        };
        target.insert(key.clone(), merged);
    }
    for (key, order) in patch {
        let Some(field) = key.strip_prefix(SET_ORDER) else {
            continue;
        };
        let order = order
            .as_array()
            .ok_or_else(|| malformed(format!("{key} must be a list")))?;
        let place = Place::under(cursor, field);
        if let Some(list) = target.get_mut(field).and_then(Value::as_array_mut) {
            set_order(list, order, place.key());
        }
    }
    Ok(target)
}

fn merge_list(place: &Place<'_>, old: &[Value], new: &[Value]) -> Result<Vec<Value>, PatchError> {
    // `$patch: replace` as an element means: the other elements are the list.
    if new
        .iter()
        .any(|item| item.get(DIRECTIVE) == Some(&Value::from("replace")))
    {
        return Ok(new
            .iter()
            .filter(|item| item.get(DIRECTIVE).is_none())
            .cloned()
            .map(strip)
            .collect());
    }
    let mut result = old.to_vec();
    let Some(key) = place.key() else {
        for item in new {
            if !result.contains(item) {
                result.push(item.clone());
            }
        }
        return Ok(result);
    };
    let element = place.cursor.and_then(Cursor::items);
    for item in new {
        let Value::Object(change) = item else {
            return Err(malformed(format!(
                "list elements must be objects with a {key:?}"
            )));
        };
        let Some(identity) = change.get(key) else {
            return Err(malformed(format!(
                "map: {item} does not contain declared merge key: {key}"
            )));
        };
        let same = |candidate: &Value| candidate.get(key) == Some(identity);
        match change
            .get(DIRECTIVE)
            .map(|d| d.as_str().unwrap_or_default())
        {
            Some("delete") => result.retain(|candidate| !same(candidate)),
            None | Some("merge") => {
                let at = result.iter().position(same);
                match at.and_then(|at| result[at].as_object().map(|before| (at, before.clone()))) {
                    Some((at, before)) => {
                        let mut change = change.clone();
                        change.shift_remove(DIRECTIVE);
                        result[at] = Value::Object(merge_map(element, &before, &change)?);
                    }
                    None => result.push(strip(item.clone())),
                }
            }
            Some(other) => return Err(malformed(format!("unknown patch type found: {other:?}"))),
        }
    }
    Ok(result)
}

/// Puts the elements that `order` names into its order; the others keep their
/// place relative to what stood before them.
fn set_order(list: &mut Vec<Value>, order: &[Value], key: Option<&str>) {
    let rank = |item: &Value| {
        order.iter().position(|wanted| match key {
            Some(key) => wanted.get(key) == item.get(key),
            None => wanted == item,
        })
    };
    let mut named: Vec<(usize, Value)> = Vec::new();
    let mut others: Vec<(usize, Value)> = Vec::new();
    for (at, item) in list.drain(..).enumerate() {
        match rank(&item) {
            Some(rank) => named.push((rank, item)),
            None => others.push((at, item)),
        }
    }
    named.sort_by_key(|(rank, _)| *rank);
    *list = named.into_iter().map(|(_, item)| item).collect();
    for (at, item) in others {
        let at = at.min(list.len());
        list.insert(at, item);
    }
}

/// A value that is new has nothing to merge with: directives are dropped, and
/// so are nulls, which ask for the absence of a field.
fn strip(value: Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(strip_map(map)),
        Value::Array(items) => Value::Array(
            items
                .into_iter()
                .filter(|item| item.get(DIRECTIVE) != Some(&Value::from("delete")))
                .map(strip)
                .collect(),
        ),
        other => other,
    }
}

fn strip_map(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .filter(|(key, value)| !value.is_null() && !is_directive(key))
        .map(|(key, value)| (key, strip(value)))
        .collect()
}

fn is_directive(key: &str) -> bool {
    key == DIRECTIVE
        || key == RETAIN_KEYS
        || key.starts_with(SET_ORDER)
        || key.starts_with(DELETE_PRIMITIVES)
}
