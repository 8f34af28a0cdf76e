//! The garbage collector: dependents follow their owners.
//!
//! The store keeps an index from owners to dependents and notes what changed in
//! a way that matters here. So there is no second graph to keep in step, and
//! nothing to walk when nothing happens.

use serde_json::{Value, json};

use super::{BACKOFF, MANAGER};
use crate::engine::Engine;
use crate::operation::{DeleteOptions, Propagation, Target};
use crate::resource::split_api_version;
use crate::status::ApiError;
use crate::storage::{FOREGROUND, Key, ORPHAN, Object, OwnerReference, Suspect};
use crate::strategy::object_at;

pub(super) async fn run(engine: &Engine) {
    loop {
        let suspects = engine.store.suspects().await;
        let mut failed = Vec::new();
        for suspect in suspects {
            if let Err(error) = look_at(engine, &suspect).await {
                tracing::warn!(?suspect, %error, "garbage collection of an object failed, it is tried again");
                failed.push(suspect);
            }
        }
        if !failed.is_empty() {
            tokio::time::sleep(BACKOFF * 5).await;
            for suspect in failed {
                engine.store.suspect(suspect);
            }
        }
    }
}

async fn look_at(engine: &Engine, suspect: &Suspect) -> Result<(), ApiError> {
    match suspect {
        Suspect::Owner(uid) => {
            for key in engine.store.dependents(uid) {
                look_at_dependent(engine, &key).await?;
            }
            Ok(())
        }
        Suspect::Object(key) => {
            look_at_dependent(engine, key).await?;
            look_at_waiting(engine, key).await
        }
    }
}

/// What an owner reference points at.
enum Owner {
    Alive,
    /// It goes once those that block it have gone.
    WaitsForDependents,
    Gone,
}

fn owner_state(engine: &Engine, dependent: &Object, owner: &OwnerReference) -> Owner {
    let catalog = engine.registry.catalog();
    match engine.store.by_uid(&owner.uid) {
        Some((key, object)) => {
            // An owner in another namespace is no owner.
            let reachable =
                key.id.namespace.is_empty() || key.id.namespace == dependent.id.namespace;
            let (group, _) = split_api_version(&owner.api_version);
            let same = *key.id.name == *owner.name
                && catalog
                    .by_storage(&key.resource)
                    .is_none_or(|r| r.group == group && r.kind == owner.kind);
            if !reachable || !same {
                return Owner::Gone;
            }
            let waits = object.meta.deletion_timestamp.is_some()
                && object.meta.finalizers().iter().any(|f| f == FOREGROUND);
            if waits {
                Owner::WaitsForDependents
            } else {
                Owner::Alive
            }
        }
        // A kind that is not served may exist elsewhere; what cannot be looked
        // up is not taken for gone.
        None if catalog.by_kind(&owner.api_version, &owner.kind).is_none() => Owner::Alive,
        None => Owner::Gone,
    }
}

/// Deletes a dependent whose owners are gone, or takes the gone ones off it.
async fn look_at_dependent(engine: &Engine, key: &Key) -> Result<(), ApiError> {
    let Some(object) = engine.store.get(key) else {
        return Ok(());
    };
    if object.meta.owners().is_empty() {
        return Ok(());
    }
    let mut alive = 0;
    let mut waiting = 0;
    let mut lost: Vec<String> = Vec::new();
    let mut blocks = false;
    for owner in object.meta.owners() {
        match owner_state(engine, &object, owner) {
            Owner::Alive => alive += 1,
            Owner::WaitsForDependents => {
                waiting += 1;
                blocks |= owner.block_owner_deletion == Some(true);
                lost.push(owner.uid.clone());
            }
            Owner::Gone => lost.push(owner.uid.clone()),
        }
    }
    let catalog = engine.registry.catalog();
    let Some(target) = Target::of_key(&catalog, key) else {
        return Ok(());
    };
    if alive > 0 {
        if lost.is_empty() {
            return Ok(());
        }
        return drop_owners(engine, &target, &lost).await;
    }
    if object.meta.deletion_timestamp.is_some() {
        return Ok(());
    }
    // A dependent that has dependents itself is deleted in the foreground when
    // its owner waits for it, so that the owner really goes last.
    let has_dependents = !engine.store.dependents(&object.meta.uid).is_empty();
    let propagation = if waiting > 0 && blocks && has_dependents {
        unblock_circle(engine, &target, &object).await?;
        Some(Propagation::Foreground)
    } else {
        None
    };
    let options = DeleteOptions {
        uid: Some(object.meta.uid.clone()),
        propagation,
        ..DeleteOptions::default()
    };
    tracing::debug!(%key, "deleting an object whose owners are gone");
    ignore_gone(engine.delete(&target, &options).await.map(|_| ()))
}

/// Owners that wait for each other would wait for ever: a dependent that has a
/// waiting dependent itself no longer blocks its owners.
async fn unblock_circle(engine: &Engine, target: &Target, object: &Object) -> Result<(), ApiError> {
    let circle = engine.store.dependents(&object.meta.uid).iter().any(|key| {
        engine.store.get(key).is_some_and(|o| {
            o.meta.deletion_timestamp.is_some()
                && o.meta.finalizers().iter().any(|f| f == FOREGROUND)
        })
    });
    if !circle {
        return Ok(());
    }
    let result = engine
        .adjust(target, MANAGER, |object| {
            let owners = object_at(object, &["metadata"])
                .get_mut("ownerReferences")
                .and_then(Value::as_array_mut);
            for owner in owners.into_iter().flatten() {
                object_at(owner, &[]).insert("blockOwnerDeletion".into(), json!(false));
            }
            Ok(())
        })
        .await;
    ignore_gone(result.map(|_| ()))
}

/// Lets an owner go that waited for its dependents, or for being rid of them.
async fn look_at_waiting(engine: &Engine, key: &Key) -> Result<(), ApiError> {
    let Some(object) = engine.store.get(key) else {
        return Ok(());
    };
    if object.meta.deletion_timestamp.is_none() {
        return Ok(());
    }
    let catalog = engine.registry.catalog();
    let Some(target) = Target::of_key(&catalog, key) else {
        return Ok(());
    };
    let uid = &object.meta.uid;
    if object.meta.finalizers().iter().any(|f| f == ORPHAN) {
        for dependent in engine.store.dependents(uid) {
            if let Some(dependent) = Target::of_key(&catalog, &dependent) {
                drop_owners(engine, &dependent, std::slice::from_ref(uid)).await?;
            }
        }
        return remove_finalizer(engine, &target, ORPHAN).await;
    }
    if object.meta.finalizers().iter().any(|f| f == FOREGROUND) {
        let mut blocking = 0;
        for dependent in engine.store.dependents(uid) {
            look_at_dependent(engine, &dependent).await?;
            let blocks = engine.store.get(&dependent).is_some_and(|o| {
                o.meta
                    .owners()
                    .iter()
                    .any(|r| r.uid == *uid && r.block_owner_deletion == Some(true))
            });
            if blocks {
                blocking += 1;
            }
        }
        if blocking == 0 {
            return remove_finalizer(engine, &target, FOREGROUND).await;
        }
    }
    Ok(())
}

async fn drop_owners(engine: &Engine, target: &Target, lost: &[String]) -> Result<(), ApiError> {
    let result = engine
        .adjust(target, MANAGER, |object| {
            let metadata = object_at(object, &["metadata"]);
            let left: Vec<Value> = metadata
                .get("ownerReferences")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|o| !lost.iter().any(|uid| o["uid"] == json!(uid)))
                .cloned()
                .collect();
            if left.is_empty() {
                metadata.remove("ownerReferences");
            } else {
                metadata.insert("ownerReferences".into(), Value::Array(left));
            }
            Ok(())
        })
        .await;
    ignore_gone(result.map(|_| ()))
}

async fn remove_finalizer(
    engine: &Engine,
    target: &Target,
    finalizer: &str,
) -> Result<(), ApiError> {
    let result = engine
        .adjust(target, MANAGER, |object| {
            let metadata = object_at(object, &["metadata"]);
            let left: Vec<Value> = metadata
                .get("finalizers")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter(|f| **f != json!(finalizer))
                .cloned()
                .collect();
            if left.is_empty() {
                metadata.remove("finalizers");
            } else {
                metadata.insert("finalizers".into(), Value::Array(left));
            }
            Ok(())
        })
        .await;
    ignore_gone(result.map(|_| ()))
}

fn ignore_gone(result: Result<(), ApiError>) -> Result<(), ApiError> {
    match result {
        Err(error)
            if error.code == http::StatusCode::NOT_FOUND
                || error.code == http::StatusCode::CONFLICT =>
        {
            Ok(())
        }
        other => other,
    }
}
