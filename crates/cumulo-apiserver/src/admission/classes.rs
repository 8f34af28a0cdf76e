//! Classes that pods name: priorities and runtimes.

use serde_json::{Value, json};

use crate::engine::Engine;
use crate::operation::Target;
use crate::status::ApiError;
use crate::storage::Key;
use crate::strategy::object_at;

/// Checks the classes of a new pod, and fills in what they say.
pub(super) fn settle(engine: &Engine, target: &Target, pod: &mut Value) -> Result<(), ApiError> {
    priority(engine, target, pod)?;
    runtime(engine, target, pod)
}

fn refuse(target: &Target, why: &str) -> ApiError {
    ApiError::forbidden(format!("pods \"{}\" is forbidden: {why}", target.name))
        .about(&target.resource, &target.name)
}

fn object(engine: &Engine, storage: &str, name: &str) -> Option<Value> {
    let key = Key::new(&storage.into(), "", name);
    engine.store.get(&key).map(|object| object.value())
}

fn priority(engine: &Engine, target: &Target, pod: &mut Value) -> Result<(), ApiError> {
    const CLASSES: &str = "scheduling.k8s.io/priorityclasses";
    let named = pod["spec"]["priorityClassName"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned);
    let class = match &named {
        Some(name) => Some(object(engine, CLASSES, name).ok_or_else(|| {
            refuse(
                target,
                &format!("no PriorityClass with name {name} was found"),
            )
        })?),
        // Of several that want to be the default the smallest is.
        None => engine
            .store
            .all(CLASSES, None)
            .iter()
            .map(|object| object.value())
            .filter(|class| class["globalDefault"] == true)
            .min_by_key(|class| class["value"].as_i64()),
    };
    let value = class
        .as_ref()
        .and_then(|class| class["value"].as_i64())
        .unwrap_or(0);
    let asked = pod["spec"]["priority"].as_i64();
    if asked.is_some_and(|asked| asked != value) {
        return Err(refuse(
            target,
            &format!(
                "the integer value of priority ({}) must not be provided in pod spec; priority admission controller computed {value} from the given PriorityClass name",
                asked.unwrap_or_default()
            ),
        ));
    }
    let policy = class
        .as_ref()
        .and_then(|class| class["preemptionPolicy"].as_str())
        .unwrap_or("PreemptLowerPriority")
        .to_owned();
    let spec = object_at(pod, &["spec"]);
    if named.is_none()
        && let Some(class) = &class
    {
        spec.insert(
            "priorityClassName".into(),
            class["metadata"]["name"].clone(),
        );
    }
    spec.insert("priority".into(), json!(value));
    spec.entry("preemptionPolicy").or_insert(json!(policy));
    Ok(())
}

fn runtime(engine: &Engine, target: &Target, pod: &mut Value) -> Result<(), ApiError> {
    let Some(name) = pod["spec"]["runtimeClassName"]
        .as_str()
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
    else {
        return Ok(());
    };
    let class = object(engine, "node.k8s.io/runtimeclasses", &name).ok_or_else(|| {
        refuse(
            target,
            &format!("pod rejected: RuntimeClass \"{name}\" not found"),
        )
    })?;
    let spec = object_at(pod, &["spec"]);
    if let Some(overhead) = class["overhead"].get("podFixed") {
        spec.insert("overhead".into(), overhead.clone());
    }
    for (label, value) in class["scheduling"]["nodeSelector"]
        .as_object()
        .into_iter()
        .flatten()
    {
        let own = object_at(spec.entry("nodeSelector").or_insert(Value::Null), &[])
            .entry(label.clone())
            .or_insert_with(|| value.clone());
        if own != value {
            return Err(refuse(
                target,
                &format!(
                    "conflict: runtimeClass.scheduling.nodeSelector[{label}] = {value}; pod.spec.nodeSelector[{label}] = {own}"
                ),
            ));
        }
    }
    if let Some(more) = class["scheduling"]["tolerations"].as_array() {
        let list = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.extend(
                more.iter()
                    .filter(|t| !pod_has(list, t))
                    .cloned()
                    .collect::<Vec<_>>(),
            );
        }
    }
    Ok(())
}

fn pod_has(list: &[Value], toleration: &Value) -> bool {
    list.contains(toleration)
}
