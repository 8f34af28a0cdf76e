//! Every namespace has the certificate authority of this server in a ConfigMap,
//! as programs in pods expect it.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::namespaces::options;
use super::{Backoff, MANAGER};
use crate::engine::Engine;
use crate::operation::Target;
use crate::status::ApiError;
use crate::storage::Key;
use crate::strategy::object_at;

const NAME: &str = "kube-root-ca.crt";
const FIELD: &str = "ca.crt";
/// Time after which changes of ConfigMaps are looked at: there may be many, and
/// few concern this one.
const GATHER: Duration = Duration::from_secs(1);

pub(super) async fn run(engine: &Engine) {
    let Some(authority) = engine.authority.clone() else {
        return;
    };
    let namespaces: Arc<str> = "/namespaces".into();
    let mut changed = engine.store.subscribe(&namespaces);
    let mut maps = engine.store.subscribe(&"/configmaps".into());
    let mut backoff = Backoff::new();
    loop {
        changed.mark_unchanged();
        maps.mark_unchanged();
        let mut failed = false;
        for namespace in engine.store.all(&namespaces, None) {
            if namespace.meta.deletion_timestamp.is_some() {
                continue;
            }
            if let Err(error) = publish(engine, &namespace.id.name, &authority).await {
                failed = true;
                tracing::warn!(namespace = %namespace.id.name, %error, "the certificate authority was not published, it is tried again");
            }
        }
        if failed {
            backoff.wait().await;
            continue;
        }
        backoff.reset();
        let later = async {
            let end = maps.changed().await;
            tokio::time::sleep(GATHER).await;
            end
        };
        let end = tokio::select! {
            end = changed.changed() => end,
            end = later => end,
        };
        if end.is_err() {
            return;
        }
    }
}

async fn publish(engine: &Engine, namespace: &str, authority: &str) -> Result<(), ApiError> {
    let catalog = engine.registry.catalog();
    let Some(maps) = catalog.find("", "v1", "configmaps") else {
        return Ok(());
    };
    let target = Target::new(maps, namespace, NAME);
    let found = engine
        .store
        .get(&Key::new(&maps.storage, namespace, NAME))
        .map(|object| object.value());
    let result = match found {
        Some(found) if found["data"][FIELD] == authority => return Ok(()),
        Some(_) => engine
            .adjust(&target, MANAGER, |object| {
                object_at(object, &["data"]).insert(FIELD.into(), json!(authority));
                Ok(())
            })
            .await
            .map(|_| ()),
        None => {
            let about = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters.";
            let object: Value = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": NAME, "annotations": {"kubernetes.io/description": about}},
                "data": {FIELD: authority},
            });
            engine
                .create(maps, namespace, NAME, object, &options())
                .await
                .map(|_| ())
        }
    };
    match result {
        // Taken, or the namespace goes: both are fine.
        Err(error) if !error.code.is_client_error() => Err(error),
        _ => Ok(()),
    }
}
