//! Datasets: one pod builds one snapshot for every request that is new.

mod plan;
#[cfg(test)]
mod tests;

use k8s_openapi::jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use plan::uri;

use crate::context::{Context, Error};
use crate::key::ObjectKey;
use crate::pods::owned_by;

pub(crate) const MANAGER: &str = "cumulo-dataset-controller";

/// Brings one Dataset a step further.
pub(crate) async fn reconcile(
    context: &Context,
    key: &ObjectKey,
) -> Result<Option<Duration>, Error> {
    let Some(dataset) = context.datasets.get(key) else {
        return Ok(None);
    };
    if dataset.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let uid = dataset.metadata.uid.as_deref();
    let pods = context.pods.select(|pod| owned_by(pod, uid));
    let plan = plan::plan(&dataset, &pods, &context.options, Timestamp::now());
    context.carry_out(&*dataset, MANAGER, plan.actions).await?;
    if dataset.status.as_ref() != Some(&plan.status) {
        let cache = Arc::clone(&context.datasets);
        context
            .write_status(&*dataset, MANAGER, &plan.status, &cache)
            .await?;
    }
    Ok(plan.again)
}
