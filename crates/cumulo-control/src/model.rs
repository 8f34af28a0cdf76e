//! Models: a training for every version that is due, an evaluation against the
//! champion on the same rows, and the aliases that follow from it.

mod decide;
mod plan;
#[cfg(test)]
mod tests;

use std::time::Duration;

use k8s_openapi::jiff::Timestamp;

use crate::context::{Context, Error};
use crate::key::{ObjectKey, registered_name};
use crate::pods::owned_by;
use crate::registry::{CANDIDATE, CHAMPION};

pub(crate) const MANAGER: &str = "cumulo-model-controller";

/// Brings one Model a step further.
pub(crate) async fn reconcile(
    context: &Context,
    key: &ObjectKey,
) -> Result<Option<Duration>, Error> {
    let Some(model) = context.models.get(key) else {
        return Ok(None);
    };
    if model.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let uid = model.metadata.uid.as_deref();
    let registered = registered_name(&key.namespace, &key.name);
    let alias = async |alias: &str| -> Result<Option<String>, Error> {
        let found = context.registry.by_alias(&registered, alias).await?;
        Ok(found.map(|version| version.version))
    };
    let champion = alias(CHAMPION).await?;
    let candidate = alias(CANDIDATE).await?;
    let versions = context.registry.versions(&registered).await?;
    let observed = plan::Observed {
        model: &model,
        registered: &registered,
        dataset: &|name| context.datasets.get(&ObjectKey::new(&key.namespace, name)),
        jobs: &context.train_jobs.select(|job| owned_by(job, uid)),
        pods: &context.pods.select(|pod| owned_by(pod, uid)),
        versions: &versions,
        champion,
        candidate,
    };
    let plan = plan::plan(&observed, &context.options, Timestamp::now());
    let moved = plan
        .actions
        .iter()
        .any(|action| matches!(action, crate::action::Action::SetAlias { .. }));
    context.carry_out(&*model, MANAGER, plan.actions).await?;
    if model.status.as_ref() != Some(&plan.status) {
        context
            .write_status(&*model, MANAGER, &plan.status, &context.models)
            .await?;
    }
    // Aliases are observed, not assumed: look at once at what was just set.
    Ok(if moved {
        Some(Duration::ZERO)
    } else {
        plan.again
    })
}
