//! ValidatingAdmissionPolicies are asked about what users write.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::{Value, json};

use super::Write;
use crate::engine::Engine;
use crate::policy::{self, Facts, Policy, Refusal, Subject};
use crate::selector::LabelSelector;
use crate::status::{ApiError, Cause};
use crate::storage::{Key, Object};

const GROUP: &str = "admissionregistration.k8s.io";
const POLICIES: &str = "admissionregistration.k8s.io/validatingadmissionpolicies";
const BINDINGS: &str = "admissionregistration.k8s.io/validatingadmissionpolicybindings";
/// Most parameter objects of one binding.
const PARAMETERS: usize = 100;

/// Compiled policies, by name, with the version that they were compiled from.
#[derive(Debug, Default)]
pub(crate) struct PolicyCache(RwLock<HashMap<String, (u64, Arc<Policy>)>>);

impl PolicyCache {
    fn get(&self, object: &Object) -> Option<Arc<Policy>> {
        let name: &str = &object.id.name;
        if let Some((version, policy)) = self.0.read().get(name)
            && *version == object.version
        {
            return Some(policy.clone());
        }
        // What does not compile was refused when it was written.
        let policy = Arc::new(Policy::compile(&object.value()).ok()?);
        let mut known = self.0.write();
        known.insert(name.to_owned(), (object.version, policy.clone()));
        Some(policy)
    }
}

/// Refuses what a bound policy denies; returns what bindings only warn of.
pub(super) fn check(engine: &Engine, write: &Write<'_>) -> Result<Vec<String>, ApiError> {
    // Nobody is to be kept from mending a policy by that policy.
    if write.target.resource.group == GROUP {
        return Ok(Vec::new());
    }
    let bindings = engine.store.all(BINDINGS, None);
    if bindings.is_empty() {
        return Ok(Vec::new());
    }
    let target = write.target;
    let namespace = match target.namespace.as_str() {
        "" => Value::Null,
        name => engine
            .store
            .get(&Key::new(&"/namespaces".into(), "", name))
            .map_or(Value::Null, |object| object.value()),
    };
    let null = Value::Null;
    let (object, old) = (write.object.unwrap_or(&null), write.old.unwrap_or(&null));
    let subject = Subject {
        operation: write.operation.as_str(),
        resource: &target.resource,
        subresource: write.subresource,
        name: &target.name,
        objects: [object, old],
        namespace: &namespace,
    };
    let request = request(write);
    let facts = Facts {
        object,
        old,
        request: &request,
        namespace: &namespace,
    };
    let mut warnings = Vec::new();
    for binding in bindings {
        let binding_name = binding.id.name.to_string();
        let binding = binding.value();
        let name = binding["spec"]["policyName"].as_str().unwrap_or_default();
        let Some(found) = engine.store.get(&Key::new(&POLICIES.into(), "", name)) else {
            continue;
        };
        let Some(policy) = engine.policies.get(&found) else {
            continue;
        };
        if !policy::matches(&policy.constraints, &subject)
            || !policy::matches(&binding["spec"]["matchResources"], &subject)
        {
            continue;
        }
        let refusals = match parameters(engine, &policy, &binding, &target.namespace) {
            Ok(all) => all
                .iter()
                .flat_map(|parameters| policy.judge(&facts, parameters))
                .collect(),
            Err(why) if policy.fails_closed => vec![Refusal {
                message: why,
                reason: "Invalid",
                code: http::StatusCode::UNPROCESSABLE_ENTITY,
            }],
            Err(_) => Vec::new(),
        };
        let Some(first) = refusals.first() else {
            continue;
        };
        let does = |action: &str| {
            binding["spec"]["validationActions"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|item| item == action)
        };
        let said = format!(
            "ValidatingAdmissionPolicy '{name}' with binding '{binding_name}' denied request: {}",
            first.message
        );
        if does("Deny") {
            return Err(denied(write, first, said));
        }
        if does("Warn") {
            warnings.extend(refusals.iter().map(|refusal| {
                format!(
                    "Validation failed for ValidatingAdmissionPolicy '{name}' with binding '{binding_name}': {}",
                    refusal.message
                )
            }));
        }
    }
    Ok(warnings)
}

fn denied(write: &Write<'_>, refusal: &Refusal, said: String) -> ApiError {
    let target = write.target;
    let message = format!(
        "{} \"{}\" is forbidden: {said}",
        target.resource.qualified(),
        target.name
    );
    ApiError::new(refusal.code, refusal.reason, message)
        .about(&target.resource, &target.name)
        .cause(Cause::new("", said, ""))
}

/// The objects that a binding gives the policy as `params`; one null where the
/// policy has none.
fn parameters(
    engine: &Engine,
    policy: &Policy,
    binding: &Value,
    namespace: &str,
) -> Result<Vec<Value>, String> {
    let Some((api_version, kind)) = &policy.parameters else {
        return Ok(vec![Value::Null]);
    };
    let reference = &binding["spec"]["paramRef"];
    if reference.is_null() {
        return Ok(vec![Value::Null]);
    }
    let catalog = engine.registry.catalog();
    let resource = catalog.by_kind(api_version, kind).ok_or_else(|| {
        format!("failed to find resource referenced by paramKind: '{api_version}, Kind={kind}'")
    })?;
    let own = reference["namespace"].as_str().filter(|n| !n.is_empty());
    let place = if resource.namespaced {
        own.or_else(|| (!namespace.is_empty()).then_some(namespace))
            .ok_or_else(|| "cannot use namespaced paramRef in policy binding that matches cluster-scoped resources".to_owned())?
    } else {
        ""
    };
    let found: Vec<Value> = match reference["name"].as_str().filter(|n| !n.is_empty()) {
        Some(name) => {
            let key = Key::new(&resource.storage, place, name);
            let object = engine.store.get(&key);
            object.iter().map(|object| object.value()).collect()
        }
        None => {
            let labels =
                LabelSelector::from_object(&reference["selector"]).map_err(|error| error.0)?;
            engine
                .store
                .all(&resource.storage, resource.namespaced.then_some(place))
                .iter()
                .filter(|object| labels.matches(object.meta.labels.as_ref()))
                .take(PARAMETERS)
                .map(|object| object.value())
                .collect()
        }
    };
    if found.is_empty() && reference["parameterNotFoundAction"] != "Allow" {
        return Err(
            "no params found for policy binding with `Deny` parameterNotFoundAction".into(),
        );
    }
    Ok(found)
}

/// `request`, as an `AdmissionRequest` has it.
fn request(write: &Write<'_>) -> Value {
    let resource = &write.target.resource;
    let user = write.options.user.clone().unwrap_or_default();
    let kind = json!({"group": resource.group, "version": resource.version, "kind": resource.kind});
    let of =
        json!({"group": resource.group, "version": resource.version, "resource": resource.plural});
    let subresource = write.subresource.unwrap_or_default();
    json!({
        "kind": kind,
        "resource": of,
        "subResource": subresource,
        "requestKind": kind,
        "requestResource": of,
        "requestSubResource": subresource,
        "name": write.target.name,
        "namespace": write.target.namespace,
        "operation": write.operation.as_str(),
        "userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra},
        "dryRun": write.options.dry_run,
        "options": {"fieldManager": write.options.field_manager},
    })
}
