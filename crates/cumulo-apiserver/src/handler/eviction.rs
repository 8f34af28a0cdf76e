//! `pods/eviction`: a deletion that respects disruption budgets.

use http::StatusCode;
use serde_json::Value;

use super::pods::success;
use crate::control::{Budget, budgets_of_pod};
use crate::engine::Engine;
use crate::operation::{DeleteOptions, Target};
use crate::status::{ApiError, Cause};
use crate::storage::Object;

/// Evicts a pod.
pub(super) async fn evict(
    engine: &Engine,
    target: &Target,
    options: &DeleteOptions,
) -> Result<Value, ApiError> {
    let _one_at_a_time = engine.evictions.lock().await;
    let pod = engine.get(target)?;
    let value = pod.value();
    // Nothing is disrupted when these go.
    let idle = matches!(
        value["status"]["phase"].as_str(),
        Some("Succeeded" | "Failed" | "Pending")
    );
    if !idle && pod.meta.deletion_timestamp.is_none() {
        check_budgets(engine, &pod, &value)?;
    }
    engine.delete(target, options).await?;
    Ok(success())
}

fn check_budgets(engine: &Engine, pod: &Object, value: &Value) -> Result<(), ApiError> {
    let budgets = budgets_of_pod(engine, pod);
    let budget = match budgets.as_slice() {
        [] => return Ok(()),
        [budget] => budget,
        _ => {
            return Err(ApiError::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "InternalError",
                "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
            ));
        }
    };
    if budget.allowed() > 0 || may_go_unready(budget, value) {
        return Ok(());
    }
    Err(ApiError::new(
        StatusCode::TOO_MANY_REQUESTS,
        "TooManyRequests",
        "Cannot evict pod as it would violate the pod's disruption budget.",
    )
    .cause(Cause::new(
        "DisruptionBudget",
        format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            budget.name, budget.desired, budget.current
        ),
        "",
    )))
}

/// A pod that is not ready takes nothing away from those that are, which is
/// enough for `AlwaysAllow`, and otherwise when there are enough of them.
fn may_go_unready(budget: &Budget, pod: &Value) -> bool {
    !Budget::is_ready(pod)
        && (budget.always_unready || (budget.desired > 0 && budget.current >= budget.desired))
}
