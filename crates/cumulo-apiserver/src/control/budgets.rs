//! Disruption budgets: how many of a budget's pods have to be there, how many
//! are, and how many may go. Written into their status when it changes, and
//! worked out anew for each eviction.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::{Backoff, MANAGER};
use crate::engine::Engine;
use crate::operation::Target;
use crate::selector::LabelSelector;
use crate::status::ApiError;
use crate::storage::{Key, Object};
use crate::strategy::object_at;

const BUDGETS: &str = "policy/poddisruptionbudgets";
const PODS: &str = "/pods";

/// What a budget says at this moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Budget {
    /// Its name.
    pub name: String,
    /// Pods that are ready and not on their way out.
    pub current: i64,
    /// Pods that have to be ready.
    pub desired: i64,
    /// Pods that there should be.
    pub expected: i64,
    /// Pods that are not ready may always go.
    pub always_unready: bool,
}

impl Budget {
    /// How many pods may go now.
    pub fn allowed(&self) -> i64 {
        if self.expected <= 0 {
            return 0;
        }
        (self.current - self.desired).max(0)
    }

    /// Whether a pod is ready.
    pub fn is_ready(pod: &Value) -> bool {
        let conditions = pod["status"]["conditions"].as_array();
        conditions
            .into_iter()
            .flatten()
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    }

    fn of(engine: &Engine, budget: &Object) -> Self {
        let value = budget.value();
        let pods: Vec<Value> = match selector(&value) {
            Some(selector) => engine
                .store
                .all(PODS, Some(&budget.id.namespace))
                .iter()
                .filter(|pod| selector.matches(pod.meta.labels.as_ref()))
                .map(|pod| pod.value())
                .filter(|pod| {
                    !matches!(
                        pod["status"]["phase"].as_str(),
                        Some("Succeeded" | "Failed")
                    )
                })
                .collect(),
            None => Vec::new(),
        };
        let current = pods
            .iter()
            .filter(|pod| pod["metadata"]["deletionTimestamp"].is_null() && Self::is_ready(pod))
            .count();
        let expected = expected(engine, &budget.id.namespace, &pods);
        let spec = &value["spec"];
        let desired = match (&spec["maxUnavailable"], &spec["minAvailable"]) {
            (Value::Null, least) => share(least, expected),
            (most, _) => (expected - share(most, expected)).max(0),
        };
        Self {
            name: budget.id.name.to_string(),
            current: i64::try_from(current).unwrap_or(i64::MAX),
            desired,
            expected,
            always_unready: spec["unhealthyPodEvictionPolicy"] == "AlwaysAllow",
        }
    }
}

/// The budgets that a pod falls under.
pub(crate) fn of_pod(engine: &Engine, pod: &Object) -> Vec<Budget> {
    engine
        .store
        .all(BUDGETS, Some(&pod.id.namespace))
        .iter()
        .filter(|budget| {
            selector(&budget.value()).is_some_and(|s| s.matches(pod.meta.labels.as_ref()))
        })
        .map(|budget| Budget::of(engine, budget))
        .collect()
}

/// A budget without a selector has no pods; with an empty one it has all.
fn selector(budget: &Value) -> Option<LabelSelector> {
    let selector = &budget["spec"]["selector"];
    selector
        .is_object()
        .then(|| LabelSelector::from_object(selector).ok())
        .flatten()
}

/// A number, or a percentage of `all`, rounded up.
fn share(amount: &Value, all: i64) -> i64 {
    match amount {
        Value::Number(number) => number.as_i64().unwrap_or(0),
        Value::String(text) => {
            let percent = text
                .strip_suffix('%')
                .and_then(|text| text.parse::<i64>().ok());
            percent.map_or(0, |percent| {
                let hundredths = all.saturating_mul(percent);
                hundredths / 100 + i64::from(hundredths % 100 > 0)
            })
        }
        _ => 0,
    }
}

/// How many pods there should be: what the owners that can be scaled want, and
/// of other pods those that are there.
fn expected(engine: &Engine, namespace: &str, pods: &[Value]) -> i64 {
    let catalog = engine.registry.catalog();
    let mut owners: BTreeMap<String, i64> = BTreeMap::new();
    let mut alone = 0;
    for pod in pods {
        let references = pod["metadata"]["ownerReferences"].as_array();
        let owner = references
            .into_iter()
            .flatten()
            .find(|reference| reference["controller"] == true);
        let wanted = owner.and_then(|owner| {
            let text = |field: &str| owner[field].as_str().unwrap_or_default();
            let resource = catalog.by_kind(text("apiVersion"), text("kind"))?;
            let paths = resource.scale.as_ref()?;
            let object = engine
                .store
                .get(&Key::new(&resource.storage, namespace, text("name")))?;
            let value = object.value();
            let number = |pointer: &str| value.pointer(pointer).and_then(Value::as_i64);
            // A service that scales by demand may have more than its least.
            let replicas = number(&paths.spec_replicas)?;
            let present = number(&paths.status_replicas).unwrap_or(0);
            Some((text("uid").to_owned(), replicas.max(present)))
        });
        match wanted {
            Some((uid, replicas)) => {
                owners.insert(uid, replicas);
            }
            None => alone += 1,
        }
    }
    owners.values().sum::<i64>() + alone
}

/// Keeps the statuses of all budgets.
pub(super) async fn run(engine: &Engine) {
    let mut budgets = engine.store.subscribe(&Arc::from(BUDGETS));
    let mut pods = engine.store.subscribe(&Arc::from(PODS));
    let mut backoff = Backoff::new();
    loop {
        budgets.mark_unchanged();
        pods.mark_unchanged();
        let mut failed = false;
        for budget in engine.store.all(BUDGETS, None) {
            if let Err(error) = write_status(engine, &budget).await {
                tracing::warn!(budget = %budget.id.name, %error, "the status of a disruption budget was not written, it is tried again");
                failed = true;
            }
        }
        if failed {
            backoff.wait().await;
            continue;
        }
        backoff.reset();
        let changed = tokio::select! {
            changed = budgets.changed() => changed,
            changed = pods.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

async fn write_status(engine: &Engine, budget: &Object) -> Result<(), ApiError> {
    let state = Budget::of(engine, budget);
    let value = budget.value();
    let wanted = [
        ("currentHealthy", json!(state.current)),
        ("desiredHealthy", json!(state.desired)),
        ("expectedPods", json!(state.expected)),
        ("disruptionsAllowed", json!(state.allowed())),
        (
            "observedGeneration",
            value["metadata"]["generation"].clone(),
        ),
    ];
    if wanted
        .iter()
        .all(|(field, wanted)| value["status"][*field] == *wanted)
    {
        return Ok(());
    }
    let catalog = engine.registry.catalog();
    let Some(resource) = catalog.by_storage(BUDGETS) else {
        return Ok(());
    };
    let target = Target::new(resource, &budget.id.namespace, &budget.id.name);
    let written = engine
        .adjust(&target, MANAGER, |budget| {
            let status = object_at(budget, &["status"]);
            for (field, wanted) in &wanted {
                status.insert((*field).to_owned(), wanted.clone());
            }
            Ok(())
        })
        .await;
    match written {
        Err(error) if error.code != http::StatusCode::NOT_FOUND => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(current: i64, desired: i64, expected: i64) -> Budget {
        Budget {
            name: "b".to_owned(),
            current,
            desired,
            expected,
            always_unready: false,
        }
    }

    #[test]
    fn shares_are_rounded_up() {
        assert_eq!(share(&json!(2), 5), 2);
        assert_eq!(share(&json!("50%"), 5), 3);
        assert_eq!(share(&json!("0%"), 5), 0);
        assert_eq!(share(&json!("100%"), 5), 5);
        assert_eq!(share(&json!("x"), 5), 0);
        assert_eq!(share(&Value::Null, 5), 0);
    }

    #[test]
    fn what_is_more_than_wanted_may_go() {
        assert_eq!(budget(3, 2, 3).allowed(), 1);
        assert_eq!(budget(1, 2, 3).allowed(), 0);
        assert_eq!(budget(0, 0, 0).allowed(), 0);
    }
}
