//! InferenceServices: replicas that follow a model's alias and the demand.

mod plan;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use cumulo_api::InferenceService;
use k8s_openapi::jiff::Timestamp;

use crate::context::{Context, Error};
use crate::key::{ObjectKey, registered_name};
use crate::pods::owned_by;
use crate::registry::RegistryError;

pub(crate) use plan::{Reference, policy};

pub(crate) const MANAGER: &str = "cumulo-inferenceservice-controller";

/// Brings one InferenceService a step further.
pub(crate) async fn reconcile(
    context: &Context,
    key: &ObjectKey,
) -> Result<Option<Duration>, Error> {
    let Some(service) = context.services.get(key) else {
        let mut scales = context
            .scales
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        scales.remove(key);
        return Ok(None);
    };
    if service.metadata.deletion_timestamp.is_some() {
        return Ok(None);
    }
    let uid = service.metadata.uid.as_deref();
    let pods = context.pods.select(|pod| owned_by(pod, uid));
    let model = resolve(context, &service, key).await;
    let decision = decide(context, &service, key, &pods);
    let observed = plan::Observed {
        service: &service,
        pods: &pods,
        model,
        scale: decision,
    };
    let plan = plan::plan(&observed, &context.options, Timestamp::now());
    // Pods first: what a held request waits for comes before what is told of it.
    context.carry_out(&*service, MANAGER, plan.actions).await?;
    let mut again = plan.again;
    if service.status.as_ref() != Some(&plan.status) {
        let switched = service
            .status
            .as_ref()
            .and_then(|status| status.active_revision.as_ref())
            != plan.status.active_revision.as_ref();
        context
            .write_status(&*service, MANAGER, &plan.status, &context.services)
            .await?;
        if switched {
            // The gateway has been told; now the replicas of before may go.
            touch(context, key);
            again = Some(Duration::ZERO);
        }
    }
    Ok(again)
}

/// Finds the model version that is asked for. An unreachable registry keeps
/// what runs as it is.
async fn resolve(context: &Context, service: &InferenceService, key: &ObjectKey) -> plan::Resolved {
    let Some(reference) = Reference::parse(&service.spec.model) else {
        return plan::Resolved::Invalid(format!(
            "spec.model {:?} must be models:/NAME@ALIAS or models:/NAME/VERSION",
            service.spec.model
        ));
    };
    // A Model of the same namespace comes before one of the registry at large.
    let of_namespace = ObjectKey::new(&key.namespace, &reference.model);
    let model = if context.models.get(&of_namespace).is_some() {
        registered_name(&key.namespace, &reference.model)
    } else {
        reference.model.clone()
    };
    let found = match &reference.pointer {
        plan::Pointer::Alias(alias) => context.registry.by_alias(&model, alias).await,
        plan::Pointer::Version(version) if version == "latest" => context
            .registry
            .versions(&model)
            .await
            .map(|mut versions| versions.pop()),
        plan::Pointer::Version(version) => context.registry.by_version(&model, version).await,
    };
    match found {
        Ok(Some(version)) => plan::Resolved::Version {
            model,
            version: version.version,
        },
        Ok(None) => plan::Resolved::Missing(waits_for(context, service, &reference, &of_namespace)),
        Err(RegistryError(message)) => plan::Resolved::Unknown(message),
    }
}

/// What a service without a model waits for, with what is known of that.
fn waits_for(
    context: &Context,
    service: &InferenceService,
    reference: &Reference,
    model: &ObjectKey,
) -> String {
    let wanted = &service.spec.model;
    let Some(model) = context.models.get(model) else {
        return format!(
            "waits for {wanted}: nothing is registered as {:?} yet",
            reference.model
        );
    };
    let ready = model
        .status
        .as_ref()
        .and_then(|status| crate::conditions::find(&status.conditions, "Ready"));
    match ready {
        Some(ready) => format!("waits for {wanted}: {}", ready.message),
        None => format!("waits for {wanted}"),
    }
}

fn decide(
    context: &Context,
    service: &InferenceService,
    key: &ObjectKey,
    pods: &[std::sync::Arc<k8s_openapi::api::core::v1::Pod>],
) -> cumulo_scale::Decision {
    let now = context.started.elapsed();
    let demand = context.demand.demand(key);
    let current = plan::live(service, pods);
    let mut scales = context
        .scales
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let state = scales
        .entry(key.clone())
        .or_insert_with(|| cumulo_scale::State::new(now));
    cumulo_scale::decide(state, &demand, &policy(&service.spec), current, now)
}

/// A new revision counts as used, so that it is not put to sleep at once.
fn touch(context: &Context, key: &ObjectKey) {
    let now = context.started.elapsed();
    let mut scales = context
        .scales
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(state) = scales.get_mut(key) {
        state.touch(now);
    }
}

/// The services of a set that follow a registered model, by its registered name.
pub(crate) fn following(context: &Context, model: &str) -> BTreeSet<ObjectKey> {
    let services = context.services.select(|service| {
        model.is_empty()
            || Reference::parse(&service.spec.model).is_some_and(|reference| {
                let namespace = service.metadata.namespace.as_deref().unwrap_or_default();
                reference.model == model || registered_name(namespace, &reference.model) == model
            })
    });
    services
        .iter()
        .map(|service| ObjectKey::of(service.as_ref()))
        .collect()
}
