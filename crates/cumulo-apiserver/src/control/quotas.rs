//! Keeps the status of ResourceQuotas: what their namespaces use.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Backoff, MANAGER};
use crate::admission::quota_used;
use crate::engine::Engine;
use crate::operation::Target;
use crate::status::ApiError;
use crate::strategy::object_at;

const QUOTAS: &str = "/resourcequotas";
/// Time in which changes are gathered before they are counted.
const GATHER: Duration = Duration::from_millis(200);

pub(super) async fn run(engine: &Engine) {
    let storage: Arc<str> = QUOTAS.into();
    let mut quotas = engine.store.subscribe(&storage);
    let mut written = engine.store.written();
    let mut backoff = Backoff::new();
    loop {
        quotas.mark_unchanged();
        written.mark_unchanged();
        let all = engine.store.all(QUOTAS, None);
        let catalog = engine.registry.catalog();
        let Some(resource) = catalog.by_storage(QUOTAS) else {
            return;
        };
        let mut failed = false;
        for quota in &all {
            let target = Target::new(resource, &quota.id.namespace, &quota.id.name);
            if let Err(error) = settle(engine, &target, &quota.value()).await {
                failed = true;
                tracing::warn!(quota = %target.name, namespace = %target.namespace, %error, "a quota was not counted, it is tried again");
            }
        }
        if failed {
            backoff.wait().await;
            continue;
        }
        backoff.reset();
        // Any write can change what is used, but only where there is a quota.
        let changed = if all.is_empty() {
            quotas.changed().await
        } else {
            written.changed().await
        };
        if changed.is_err() {
            return;
        }
        tokio::time::sleep(GATHER).await;
    }
}

async fn settle(engine: &Engine, target: &Target, quota: &Value) -> Result<(), ApiError> {
    let used: Value = quota_used(engine, quota, &target.namespace)
        .into_iter()
        .map(|(name, amount)| (name, json!(amount.to_string())))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let hard = &quota["spec"]["hard"];
    let same = |a: &Value, b: &Value| crate::quota::amounts(a) == crate::quota::amounts(b);
    if same(&quota["status"]["used"], &used) && same(&quota["status"]["hard"], hard) {
        return Ok(());
    }
    let result = engine
        .adjust(target, MANAGER, |object| {
            let hard = object["spec"]["hard"].clone();
            let status = object_at(object, &["status"]);
            status.insert("hard".into(), hard);
            status.insert("used".into(), used.clone());
            Ok(())
        })
        .await;
    match result {
        Err(error) if error.code != http::StatusCode::NOT_FOUND => Err(error),
        _ => Ok(()),
    }
}
