//! The pods that controllers make, all from one mould.

use std::collections::BTreeMap;

use cumulo_api::labels;
use cumulo_api::shared::Resources;
use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvFromSource, EnvVar, EnvVarSource, HTTPGetAction,
    ObjectFieldSelector, Pod, PodSpec, Probe, ResourceRequirements, SecretEnvSource,
    SecretKeySelector, Toleration,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::{Resource, ResourceExt};

use crate::options::{ARTIFACTS_SECRET, Options};
use crate::outcome::{PodOutcome, outcome};

/// On pods: the hash of the request that the pod carries out.
pub(crate) const REQUEST: &str = "cumulo.dev/request";
/// On pods: which attempt at the request this is, counted from 1.
pub(crate) const ATTEMPT: &str = "cumulo.dev/attempt";
/// On the owners of pods and on the pods: where their code may connect (see
/// the node agent's sandbox).
const EGRESS: &str = "cumulo.dev/egress";
/// The name of the one container.
pub(crate) const CONTAINER: &str = "main";
/// The port that model servers listen on, on their own address.
pub(crate) const SERVE_PORT: i32 = 8080;

/// Seconds that pods stay bound to a node that does not answer.
const LOST_AFTER: i64 = 30;

/// What differs between the pods.
pub(crate) struct Mould<'a> {
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) owner: Option<OwnerReference>,
    pub(crate) labels: BTreeMap<String, String>,
    /// See [`carried`].
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    /// Command line; the first word is `cumulo`.
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) resources: Option<&'a Resources>,
    /// Requests where the owner gave none.
    pub(crate) default_requests: [(&'static str, &'static str); 2],
    pub(crate) runs: Runs,
}

/// How long a pod runs.
pub(crate) enum Runs {
    /// To its end, once; at most this long.
    Once { deadline_seconds: Option<i64> },
    /// For good, as a model server.
    Serving,
}

/// Makes a pod.
pub(crate) fn cast(mould: Mould<'_>, options: &Options) -> Pod {
    let serving = matches!(mould.runs, Runs::Serving);
    let quantities = |pairs: BTreeMap<String, String>| -> BTreeMap<String, Quantity> {
        pairs
            .into_iter()
            .map(|(name, amount)| (name, Quantity(amount)))
            .collect()
    };
    let given = mould
        .resources
        .map(Resources::quantities)
        .unwrap_or_default();
    let mut requests: BTreeMap<String, String> = mould
        .default_requests
        .iter()
        .map(|(name, amount)| ((*name).to_owned(), (*amount).to_owned()))
        .collect();
    requests.extend(given.clone());
    // CPU beyond the request may be used while nobody else wants it; memory may not.
    let limits: BTreeMap<String, String> = given
        .into_iter()
        .filter(|(name, _)| name == "memory")
        .collect();

    let mut annotations = mould.annotations;
    // No quantity says "this model or that": the node agent reads the wish itself.
    if let Some(gpu) = mould.resources.and_then(|resources| resources.gpu.as_ref()) {
        annotations
            .get_or_insert_default()
            .insert(labels::GPU.to_owned(), gpu.text());
    }
    let mut labels = mould.labels;
    labels.insert(labels::MANAGED_BY.to_owned(), labels::MANAGER.to_owned());
    let container = Container {
        name: CONTAINER.to_owned(),
        image: Some(options.runtime_image.clone()),
        command: Some(mould.command),
        env: Some(environment(mould.env, options)),
        // Where the artifact store needs credentials; what `env` says counts more.
        env_from: Some(vec![EnvFromSource {
            secret_ref: Some(SecretEnvSource {
                name: ARTIFACTS_SECRET.to_owned(),
                optional: Some(true),
            }),
            ..EnvFromSource::default()
        }]),
        ports: serving.then(|| {
            vec![ContainerPort {
                name: Some("http".to_owned()),
                container_port: SERVE_PORT,
                ..ContainerPort::default()
            }]
        }),
        readiness_probe: serving.then(|| Probe {
            http_get: Some(HTTPGetAction {
                path: Some("/v2/health/ready".to_owned()),
                port: IntOrString::String("http".to_owned()),
                ..HTTPGetAction::default()
            }),
            period_seconds: Some(1),
            timeout_seconds: Some(5),
            failure_threshold: Some(3),
            ..Probe::default()
        }),
        resources: Some(ResourceRequirements {
            requests: Some(quantities(requests)),
            limits: (!limits.is_empty()).then(|| quantities(limits)),
            ..ResourceRequirements::default()
        }),
        ..Container::default()
    };
    let (restart_policy, deadline) = match mould.runs {
        Runs::Once { deadline_seconds } => ("Never", deadline_seconds),
        Runs::Serving => ("Always", None),
    };
    Pod {
        metadata: ObjectMeta {
            name: Some(mould.name),
            namespace: Some(mould.namespace),
            labels: Some(labels),
            annotations,
            owner_references: mould.owner.map(|owner| vec![owner]),
            ..ObjectMeta::default()
        },
        spec: Some(PodSpec {
            containers: vec![container],
            restart_policy: Some(restart_policy.to_owned()),
            active_deadline_seconds: deadline,
            scheduler_name: options.scheduler_name.clone(),
            termination_grace_period_seconds: Some(30),
            // Nothing of ours talks to the API from inside a pod.
            automount_service_account_token: Some(false),
            enable_service_links: Some(false),
            tolerations: Some(tolerations()),
            ..PodSpec::default()
        }),
        status: None,
    }
}

/// Pods may run on nodes that run nothing but them, and leave a node that is lost
/// sooner than after Kubernetes' five minutes.
fn tolerations() -> Vec<Toleration> {
    let exists = |key: &str, effect: &str, seconds: Option<i64>| Toleration {
        key: Some(key.to_owned()),
        operator: Some("Exists".to_owned()),
        effect: Some(effect.to_owned()),
        toleration_seconds: seconds,
        value: None,
    };
    vec![
        exists(labels::RUNTIME, "NoSchedule", None),
        exists(
            "node.kubernetes.io/not-ready",
            "NoExecute",
            Some(LOST_AFTER),
        ),
        exists(
            "node.kubernetes.io/unreachable",
            "NoExecute",
            Some(LOST_AFTER),
        ),
    ]
}

fn environment(own: Vec<(String, String)>, options: &Options) -> Vec<EnvVar> {
    let plain = |name: &str, value: &str| EnvVar {
        name: name.to_owned(),
        // None is an empty text, and what every API server keeps of one.
        value: (!value.is_empty()).then(|| value.to_owned()),
        value_from: None,
    };
    let field = |name: &str, path: &str| EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(ObjectFieldSelector {
                api_version: Some("v1".to_owned()),
                field_path: path.to_owned(),
            }),
            ..EnvVarSource::default()
        }),
    };
    let mut all = vec![
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("POD_IP", "status.podIP"),
        plain("CUMULO_ARTIFACTS", &options.artifacts_url),
        plain("MLFLOW_TRACKING_URI", &options.tracking_uri),
    ];
    if let Some(secret) = &options.tracking_secret {
        all.push(EnvVar {
            name: "MLFLOW_TRACKING_TOKEN".to_owned(),
            value: None,
            value_from: Some(EnvVarSource {
                secret_key_ref: Some(SecretKeySelector {
                    name: secret.name.clone(),
                    key: secret.key.clone(),
                    optional: Some(false),
                }),
                ..EnvVarSource::default()
            }),
        });
    }
    // What the owner sets counts last; a name given twice would be ambiguous.
    all.retain(|variable| own.iter().all(|(name, _)| *name != variable.name));
    all.extend(own.iter().map(|(name, value)| plain(name, value)));
    all
}

/// The annotations of an object that count for what is made for it.
pub(crate) fn carried(object: &impl ResourceExt) -> Option<BTreeMap<String, String>> {
    let carried: BTreeMap<String, String> = [EGRESS, labels::ESTIMATED_DURATION]
        .into_iter()
        .filter_map(|name| Some((name.to_owned(), object.annotations().get(name)?.clone())))
        .collect();
    (!carried.is_empty()).then_some(carried)
}

/// Puts a pod into the Queue that its owner names.
pub(crate) fn enqueue(pod: &mut Pod, queue: Option<&str>, priority: Option<i32>) {
    let Some(queue) = queue.filter(|queue| !queue.is_empty()) else {
        return;
    };
    pod.labels_mut()
        .insert(labels::QUEUE.to_owned(), queue.to_owned());
    if let Some(priority) = priority {
        let priority = priority.to_string();
        pod.annotations_mut()
            .insert(labels::PRIORITY.to_owned(), priority);
    }
}

/// A reference to the owner of what a controller makes.
pub(crate) fn owner<K>(object: &K) -> Option<OwnerReference>
where
    K: Resource<DynamicType = ()>,
{
    object.controller_owner_ref(&())
}

/// Whether a pod (or any object) is made by the object with this UID.
pub(crate) fn owned_by(object: &impl ResourceExt, uid: Option<&str>) -> bool {
    uid.is_some()
        && object.owner_references().iter().any(|reference| {
            reference.controller == Some(true) && Some(reference.uid.as_str()) == uid
        })
}

/// A label's value.
pub(crate) fn label<'a>(object: &'a impl ResourceExt, name: &str) -> Option<&'a str> {
    object.labels().get(name).map(String::as_str)
}

/// Which attempt a pod is.
pub(crate) fn attempt(pod: &Pod) -> u32 {
    label(pod, ATTEMPT)
        .and_then(|text| text.parse().ok())
        .unwrap_or(1)
}

/// Which of the pods that run together a pod is.
pub(crate) fn rank(pod: &Pod) -> u32 {
    label(pod, labels::RANK)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

/// Whether a pod is on its way out.
pub(crate) fn deleting(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether a pod ended, well or not.
pub(crate) fn finished(pod: &Pod) -> bool {
    matches!(
        outcome(pod),
        PodOutcome::Succeeded(_) | PodOutcome::Failed(_)
    )
}

/// Whether a pod's `Ready` condition holds.
pub(crate) fn ready(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// When a pod that ended did so: as its containers say, or the moment it was made.
pub(crate) fn ended_at(pod: &Pod) -> Option<Timestamp> {
    let status = pod.status.as_ref()?;
    let ends = status.container_statuses.iter().flatten();
    let last = ends
        .filter_map(|container| {
            container
                .state
                .as_ref()?
                .terminated
                .as_ref()?
                .finished_at
                .as_ref()
        })
        .map(|time| time.0)
        .max();
    last.or_else(|| pod.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::options;

    #[test]
    fn a_wish_for_gpus_is_an_annotation() {
        let written = |gpu: serde_json::Value| {
            let resources: Resources =
                serde_json::from_value(json!({"cpu": 1, "gpu": gpu})).unwrap();
            let mould = Mould {
                name: "pod".to_owned(),
                namespace: "default".to_owned(),
                owner: None,
                labels: BTreeMap::new(),
                annotations: None,
                command: Vec::new(),
                env: Vec::new(),
                resources: Some(&resources),
                default_requests: [("cpu", "1"), ("memory", "1Gi")],
                runs: Runs::Serving,
            };
            let pod = cast(mould, &options());
            pod.annotations()["cumulo.dev/gpu"].clone()
        };
        assert_eq!(written(json!(0.3)), "0.3");
        assert_eq!(written(json!("1g.10gb")), "1g.10gb");
        assert_eq!(
            written(json!({"memory": "10Gi", "count": 2})),
            r#"{"memory":"10Gi","count":2}"#
        );
    }
}
