//! Cumulo's controllers: a reconciler for each kind, and the scheduler of pods.
//!
//! ```text
//!   watches ──► caches ──► queue ──► reconcile(key)
//!                 ▲                    │  observed ──► plan (pure) ──► actions, status
//!                 └──── own writes ────┘
//! ```
//!
//! Every reconciler is level-triggered: it looks at what is, a pure `plan` says
//! what follows, and thin code carries it out. A write happens only when
//! something changes; names of what is made follow from the request's hash, so
//! a restart at any moment finds its pods again and makes nothing twice.
//! Nothing runs while nothing changes.
//!
//! This crate knows no tracking protocol, no model format, and no HTTP route:
//! the registry and the gateway come in as [`ModelRegistry`] and [`DemandSource`].

mod action;
mod attempts;
mod cache;
mod conditions;
mod context;
mod dataset;
mod demand;
mod inference_service;
mod key;
mod leader;
mod metrics;
mod model;
mod options;
mod outcome;
mod pods;
mod queue;
mod registry;
mod scheduling;
mod secrets;
#[cfg(test)]
mod testing;
mod train_job;
mod triggers;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tracing::Instrument;

pub use context::Error;
pub use demand::{Demand, DemandSource};
pub use key::{ObjectKey, registered_name};
pub use leader::{LeaderOptions, while_leader};
pub use metrics::Metrics;
pub use options::{
    ARTIFACTS_SECRET, Options, Retry, SchedulerOptions, Token, TokenSource, TrackingSecret,
};
pub use registry::{
    CANDIDATE, CHAMPION, ModelRegistry, RegisteredVersion, RegistryError, RunSummary, TRAIN_KEY_TAG,
};
pub use scheduling::{
    NAME as SCHEDULER_NAME, Rehearsal, RehearsalError, Rehearsed, run as run_scheduler,
};

pub(crate) use dataset::uri as dataset_uri;

use context::{Context, Key};
use queue::Outcome;

/// Runs all controllers until `shutdown`.
///
/// Reconciliations under way at the shutdown are ended between two writes; they
/// are taken up again by the next start.
pub async fn run(
    client: kube::Client,
    options: Options,
    registry: Arc<dyn ModelRegistry>,
    demand: Arc<dyn DemandSource>,
    shutdown: CancellationToken,
) {
    let workers = options.workers.max(1);
    let scheduler = options.scheduler.clone();
    let scheduling = {
        let (client, shutdown) = (client.clone(), shutdown.clone());
        async move {
            match scheduler {
                Some(options) => scheduling::run(client, options, shutdown).await,
                None => std::future::pending().await,
            }
        }
    };
    let context = Arc::new(Context::new(client, options, registry, demand));
    let working = async {
        triggers::synced(&context).await;
        tracing::info!(workers, "controllers started");
        triggers::everything(&context);
        let workers = futures::future::join_all((0..workers).map(|_| work(&context)));
        tokio::join!(workers, secrets::renew(&context));
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = triggers::run(&context) => {}
        () = scheduling => {}
        () = working => {}
    }
    tracing::info!("controllers stopped");
}

/// One worker: a key at a time, for good.
async fn work(context: &Arc<Context>) {
    loop {
        let key = context.queue.next().await;
        let span = tracing::debug_span!("reconcile", ?key);
        let started = std::time::Instant::now();
        let result = reconcile(context, &key).instrument(span).await;
        let metrics = &context.options.metrics;
        metrics.record(key.kind(), result.is_err(), started.elapsed());
        let outcome = match result {
            Ok(again) => Outcome::Done(again),
            Err(error) => {
                tracing::warn!(?key, %error, "reconciliation failed and is tried again");
                Outcome::Failed
            }
        };
        context.queue.done(key, outcome);
    }
}

async fn reconcile(context: &Context, key: &Key) -> Result<Option<std::time::Duration>, Error> {
    match key {
        Key::Dataset(key) => dataset::reconcile(context, key).await,
        Key::TrainJob(key) => train_job::reconcile(context, key).await,
        Key::Model(key) => model::reconcile(context, key).await,
        Key::InferenceService(key) => inference_service::reconcile(context, key).await,
    }
}
