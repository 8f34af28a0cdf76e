//! Which objects are looked at when another changes.

use std::sync::Arc;

use cumulo_api::{Dataset, InferenceService, Model, TrainJob, labels};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::watcher;
use kube::{Api, ResourceExt};

use crate::cache::follow;
use crate::context::{Context, Key};
use crate::inference_service;
use crate::key::{ObjectKey, registered_name};

/// Keeps all caches, and turns what happens into work, for as long as it is polled.
pub(crate) async fn run(context: &Arc<Context>) {
    let client = || context.client.clone();
    let all = watcher::Config::default;
    let datasets = follow(
        Api::<Dataset>::all(client()),
        all(),
        context.datasets.clone(),
        |dataset| dataset_changed(context, dataset),
    );
    let jobs = follow(
        Api::<TrainJob>::all(client()),
        all(),
        context.train_jobs.clone(),
        |job| job_changed(context, job),
    );
    let models = follow(
        Api::<Model>::all(client()),
        all(),
        context.models.clone(),
        |model| model_changed(context, model),
    );
    let services = follow(
        Api::<InferenceService>::all(client()),
        all(),
        context.services.clone(),
        |service| {
            context
                .queue
                .add(Key::InferenceService(ObjectKey::of(service)))
        },
    );
    let selection = all().labels(&format!("{}={}", labels::MANAGED_BY, labels::MANAGER));
    let pods = follow(
        Api::<Pod>::all(client()),
        selection,
        context.pods.clone(),
        |pod| {
            pod_changed(context, pod);
        },
    );
    let registry = async {
        let mut changes = context.registry.changes();
        while let Some(model) = changes.next().await {
            registry_changed(context, &model);
        }
        tracing::warn!("the registry's stream of changes ended");
    };
    let demand = async {
        let mut changes = context.demand.changes();
        while let Some(service) = changes.next().await {
            match service {
                Some(service) => context.queue.add(Key::InferenceService(service)),
                None => {
                    for service in inference_service::following(context, "") {
                        context.queue.add(Key::InferenceService(service));
                    }
                }
            }
        }
        tracing::warn!("the gateway's stream of changes ended");
    };
    tokio::join!(datasets, jobs, models, services, pods, registry, demand);
}

/// Waits until every cache is whole.
pub(crate) async fn synced(context: &Context) {
    tokio::join!(
        context.datasets.synced(),
        context.train_jobs.synced(),
        context.models.synced(),
        context.services.synced(),
        context.pods.synced(),
    );
}

/// Looks at everything, once, after a start.
pub(crate) fn everything(context: &Context) {
    for dataset in context.datasets.select(|_| true) {
        context
            .queue
            .add(Key::Dataset(ObjectKey::of(dataset.as_ref())));
    }
    for job in context.train_jobs.select(|_| true) {
        context
            .queue
            .add(Key::TrainJob(ObjectKey::of(job.as_ref())));
    }
    for model in context.models.select(|_| true) {
        context.queue.add(Key::Model(ObjectKey::of(model.as_ref())));
    }
    for service in context.services.select(|_| true) {
        context
            .queue
            .add(Key::InferenceService(ObjectKey::of(service.as_ref())));
    }
}

fn dataset_changed(context: &Context, dataset: &Dataset) {
    let key = ObjectKey::of(dataset);
    let same = |namespace: Option<String>| namespace.unwrap_or_default() == key.namespace;
    let jobs = context.train_jobs.select(|job| {
        same(job.namespace())
            && job
                .spec
                .inputs
                .values()
                .any(|input| input.dataset == key.name)
    });
    for job in jobs {
        context
            .queue
            .add(Key::TrainJob(ObjectKey::of(job.as_ref())));
    }
    let models = context
        .models
        .select(|model| same(model.namespace()) && model.spec.dataset == key.name);
    for model in models {
        context.queue.add(Key::Model(ObjectKey::of(model.as_ref())));
    }
    context.queue.add(Key::Dataset(key));
}

fn job_changed(context: &Context, job: &TrainJob) {
    let key = ObjectKey::of(job);
    owner_changed(context, job, &key.namespace);
    context.queue.add(Key::TrainJob(key));
}

fn model_changed(context: &Context, model: &Model) {
    let key = ObjectKey::of(model);
    // What a service waits for is told by the Model's condition.
    let waiting =
        inference_service::following(context, &registered_name(&key.namespace, &key.name));
    for service in waiting {
        context.queue.add(Key::InferenceService(service));
    }
    context.queue.add(Key::Model(key));
}

fn pod_changed(context: &Context, pod: &Pod) {
    owner_changed(context, pod, &pod.namespace().unwrap_or_default());
}

fn owner_changed(context: &Context, object: &impl ResourceExt, namespace: &str) {
    let owner = object.owner_references().iter().find(|owner| {
        owner.controller == Some(true) && owner.api_version.starts_with(cumulo_api::GROUP)
    });
    if let Some(owner) = owner {
        let key = ObjectKey::new(namespace, &owner.name);
        match owner.kind.as_str() {
            "Dataset" => context.queue.add(Key::Dataset(key)),
            "TrainJob" => context.queue.add(Key::TrainJob(key)),
            "Model" => context.queue.add(Key::Model(key)),
            "InferenceService" => context.queue.add(Key::InferenceService(key)),
            _ => {}
        }
    }
}

fn registry_changed(context: &Context, model: &str) {
    let models = context.models.select(|known| {
        let namespace = known.namespace().unwrap_or_default();
        model.is_empty() || registered_name(&namespace, &known.name_any()) == model
    });
    for model in models {
        context.queue.add(Key::Model(ObjectKey::of(model.as_ref())));
    }
    for service in inference_service::following(context, model) {
        context.queue.add(Key::InferenceService(service));
    }
}
