//! TrainJobs: one run of a script or of a built-in trainer, tracked, retried,
//! bounded in time.

mod plan;
#[cfg(test)]
mod tests;

use std::time::Duration;

use cumulo_api::TrainJob;
use cumulo_api::train_job::Phase;
use k8s_openapi::jiff::Timestamp;

use crate::context::{Context, Error};
use crate::key::ObjectKey;
use crate::pods::owned_by;

pub(crate) use plan::{DatasetLookup, TRAIN_KEY, current_version};

pub(crate) const MANAGER: &str = "cumulo-trainjob-controller";

/// Brings one TrainJob a step further.
pub(crate) async fn reconcile(
    context: &Context,
    key: &ObjectKey,
) -> Result<Option<Duration>, Error> {
    let Some(job) = context.train_jobs.get(key) else {
        return Ok(None);
    };
    if job.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let uid = job.metadata.uid.as_deref();
    let observed = plan::Observed {
        job: &job,
        pods: &context.pods.select(|pod| owned_by(pod, uid)),
        dataset: &|name| context.datasets.get(&ObjectKey::new(&key.namespace, name)),
        run: if running(&job) {
            // What is shown while it runs; the end is told by the pod itself.
            context
                .registry
                .run_of_job(uid.unwrap_or_default())
                .await
                .unwrap_or_default()
        } else {
            None
        },
    };
    let plan = plan::plan(&observed, &context.options, Timestamp::now());
    context.carry_out(&*job, MANAGER, plan.actions).await?;
    if job.status.as_ref() != Some(&plan.status) {
        context
            .write_status(&*job, MANAGER, &plan.status, &context.train_jobs)
            .await?;
    }
    Ok(plan.again)
}

fn running(job: &TrainJob) -> bool {
    job.status.as_ref().and_then(|status| status.phase) == Some(Phase::Running)
}
