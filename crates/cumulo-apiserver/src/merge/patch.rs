//! The two patch formats that need no schema.

use serde_json::{Map, Value};

use super::PatchError;

/// Most operations in one JSON patch, as in Kubernetes.
const MAX_OPERATIONS: usize = 10_000;

pub(super) fn json_patch(target: &Value, patch: &Value) -> Result<Value, PatchError> {
    let operations: json_patch::Patch = serde_json::from_value(patch.clone())
        .map_err(|e| PatchError::Malformed(format!("error decoding patch: {e}")))?;
    if operations.len() > MAX_OPERATIONS {
        return Err(PatchError::Malformed(format!(
            "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
            operations.len()
        )));
    }
    let mut result = target.clone();
    json_patch::patch(&mut result, &operations)
        .map_err(|e| PatchError::Unprocessable(e.to_string()))?;
    Ok(result)
}

pub(super) fn json_merge_patch(target: &Value, patch: &Value) -> Value {
    let Value::Object(patch) = patch else {
        return patch.clone();
    };
    let mut result = match target {
        Value::Object(target) => target.clone(),
        _ => Map::new(),
    };
    for (key, change) in patch {
        if change.is_null() {
            result.shift_remove(key);
        } else {
            let before = result.get(key).unwrap_or(&Value::Null);
            let after = json_merge_patch(before, change);
            result.insert(key.clone(), after);
        }
    }
    Value::Object(result)
}
