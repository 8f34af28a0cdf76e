//! Quotas: a write that would use more than a namespace may is refused. What is
//! used is counted from the objects themselves, not read from the quota's
//! status, which comes a moment later.

use std::collections::BTreeSet;

use serde_json::Value;
use tokio::sync::OwnedMutexGuard;

use super::{Operation, Write};
use crate::engine::Engine;
use crate::quantity::Quantity;
use crate::quota::{self, Amounts};
use crate::resource::ResourceType;
use crate::status::ApiError;

/// Changes that can use more: a pod's resources are fixed, sizes and types are not.
const CHANGED: [&str; 2] = ["persistentvolumeclaims", "services"];

/// Refuses what exceeds a quota. What it returns is to be held until the object
/// is stored.
pub(super) async fn charge(
    engine: &Engine,
    write: &Write<'_>,
) -> Result<Option<OwnedMutexGuard<()>>, ApiError> {
    let resource = &write.target.resource;
    let counts = match write.operation {
        Operation::Create => true,
        Operation::Update => {
            write.subresource.is_none()
                && resource.group.is_empty()
                && CHANGED.contains(&resource.plural.as_str())
        }
        Operation::Delete => false,
    };
    let Some(object) = write.object.filter(|_| counts && resource.namespaced) else {
        return Ok(None);
    };
    let namespace = &write.target.namespace;
    if engine
        .store
        .all("/resourcequotas", Some(namespace))
        .is_empty()
    {
        return Ok(None);
    }
    let guard = engine.quotas.clone().lock_owned().await;
    let before = write.old.map(|old| quota::usage(resource, old));
    let mut more = quota::usage(resource, object);
    for (name, amount) in before.iter().flatten() {
        let after = more.entry(name.clone()).or_insert(Quantity::ZERO);
        *after = after.minus(amount);
    }
    more.retain(|_, amount| *amount > Quantity::ZERO);
    for quota in engine.store.all("/resourcequotas", Some(namespace)) {
        let quota = quota.value();
        if quota::is_about(&quota, resource, object) {
            check(engine, write, &quota, object, &more)?;
        }
    }
    Ok(Some(guard))
}

fn check(
    engine: &Engine,
    write: &Write<'_>,
    quota: &Value,
    object: &Value,
    more: &Amounts,
) -> Result<(), ApiError> {
    let target = write.target;
    let name = quota["metadata"]["name"].as_str().unwrap_or_default();
    let refuse = |why: String| {
        Err(ApiError::forbidden(format!(
            "{} \"{}\" is forbidden: {why}",
            target.resource.qualified(),
            target.name
        ))
        .about(&target.resource, &target.name))
    };
    let hard = quota::hard(quota);
    if target.resource.is("", "pods") && write.operation == Operation::Create {
        let unsaid = quota::unsaid(&hard, object);
        if !unsaid.is_empty() {
            return refuse(format!("failed quota: {name}: must specify {unsaid}"));
        }
    }
    let asked: Amounts = more
        .iter()
        .filter(|(name, _)| hard.contains_key(*name))
        .map(|(name, amount)| (name.clone(), *amount))
        .collect();
    if asked.is_empty() {
        return Ok(());
    }
    let used = sum(engine, &target.resource, quota, &target.namespace);
    let (mut requested, mut taken, mut limited) = (Amounts::new(), Amounts::new(), Amounts::new());
    for (name, amount) in asked {
        let now = used.get(&name).copied().unwrap_or(Quantity::ZERO);
        let most = hard.get(&name).copied().unwrap_or(Quantity::ZERO);
        if now.plus(&amount) > most {
            requested.insert(name.clone(), amount);
            taken.insert(name.clone(), now);
            limited.insert(name, most);
        }
    }
    if requested.is_empty() {
        return Ok(());
    }
    refuse(format!(
        "exceeded quota: {name}, requested: {}, used: {}, limited: {}",
        quota::shown(&requested),
        quota::shown(&taken),
        quota::shown(&limited)
    ))
}

/// What the objects of a type in a namespace use of a quota.
fn sum(engine: &Engine, resource: &ResourceType, quota: &Value, namespace: &str) -> Amounts {
    let mut total = Amounts::new();
    for object in engine.store.all(&resource.storage, Some(namespace)) {
        let value = object.value();
        if !quota::is_about(quota, resource, &value) {
            continue;
        }
        for (name, amount) in quota::usage(resource, &value) {
            let sum = total.entry(name).or_insert(Quantity::ZERO);
            *sum = sum.plus(&amount);
        }
    }
    total
}

/// What a namespace uses of what a quota limits.
pub(crate) fn used(engine: &Engine, quota: &Value, namespace: &str) -> Amounts {
    let hard = quota::hard(quota);
    let catalog = engine.registry.catalog();
    let types: BTreeSet<(&str, &str)> = hard
        .keys()
        .filter_map(|name| quota::counted(name))
        .collect();
    let mut total: Amounts = hard
        .keys()
        .map(|name| (name.clone(), Quantity::ZERO))
        .collect();
    for (group, plural) in types {
        let storage = format!("{group}/{plural}");
        let Some(resource) = catalog.by_storage(&storage) else {
            continue;
        };
        for (name, amount) in sum(engine, resource, quota, namespace) {
            if let Some(sum) = total.get_mut(&name) {
                *sum = sum.plus(&amount);
            }
        }
    }
    total
}
