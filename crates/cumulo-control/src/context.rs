//! What all controllers share, and the writes that they make.

use std::collections::{HashMap, HashSet};
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use cumulo_api::{Dataset, InferenceService, Model, TrainJob, labels};
use k8s_openapi::api::core::v1::{Event, EventSource, Pod, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::time::Instant;

use crate::action::{Action, Note};
use crate::cache::Cache;
use crate::conditions::whole_second;
use crate::demand::DemandSource;
use crate::key::{ObjectKey, hash, limited};
use crate::options::Options;
use crate::queue::Queue;
use crate::registry::{ModelRegistry, RegistryError};

/// The longest message that an event may carry.
const LONGEST_NOTE: usize = 1024;

/// Why a step could not be taken; it is tried again with back-off.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused or could not be reached.
    #[error("{doing}: {error}")]
    Api {
        /// What was being done.
        doing: String,
        /// What the API client said.
        #[source]
        error: Box<kube::Error>,
    },
    /// The registry could not answer.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A request that could not be built.
    #[error("{0}")]
    Internal(String),
}

/// Names what was being done when the API failed.
pub(crate) fn doing(doing: impl Into<String>) -> impl FnOnce(kube::Error) -> Error {
    let doing = doing.into();
    move |error| Error::Api {
        doing,
        error: Box::new(error),
    }
}

/// What a reconciliation is about.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    Dataset(ObjectKey),
    TrainJob(ObjectKey),
    Model(ObjectKey),
    InferenceService(ObjectKey),
}

pub(crate) struct Context {
    pub(crate) client: Client,
    pub(crate) options: Options,
    pub(crate) registry: Arc<dyn ModelRegistry>,
    pub(crate) demand: Arc<dyn DemandSource>,
    pub(crate) datasets: Arc<Cache<Dataset>>,
    pub(crate) train_jobs: Arc<Cache<TrainJob>>,
    pub(crate) models: Arc<Cache<Model>>,
    pub(crate) services: Arc<Cache<InferenceService>>,
    pub(crate) pods: Arc<Cache<Pod>>,
    pub(crate) queue: Queue<Key>,
    /// The memory of each service's scaling.
    pub(crate) scales: Mutex<HashMap<ObjectKey, cumulo_scale::State>>,
    /// Namespaces in which the tracking Secret was seen to.
    secrets: Mutex<HashSet<String>>,
    /// The origin of the times that scaling is given.
    pub(crate) started: Instant,
}

impl Context {
    pub(crate) fn new(
        client: Client,
        options: Options,
        registry: Arc<dyn ModelRegistry>,
        demand: Arc<dyn DemandSource>,
    ) -> Self {
        Self {
            client,
            options,
            registry,
            demand,
            datasets: Arc::new(Cache::new()),
            train_jobs: Arc::new(Cache::new()),
            models: Arc::new(Cache::new()),
            services: Arc::new(Cache::new()),
            pods: Arc::new(Cache::new()),
            queue: Queue::new(),
            scales: Mutex::default(),
            secrets: Mutex::default(),
            started: Instant::now(),
        }
    }

    /// Takes a plan's steps, in order.
    pub(crate) async fn carry_out<K>(
        &self,
        object: &K,
        manager: &'static str,
        actions: Vec<Action>,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = ()>,
    {
        let namespace = object.namespace().unwrap_or_default();
        for action in actions {
            match action {
                Action::CreatePod(pod) => self.create_pod(&namespace, manager, *pod).await?,
                Action::DeletePod(name) => self.delete_pod(&namespace, &name).await?,
                Action::CreateTrainJob(job) => {
                    let api: Api<TrainJob> = Api::namespaced(self.client.clone(), &namespace);
                    create(&api, manager, &job, &self.train_jobs).await?;
                }
                Action::DeleteTrainJob(name) => {
                    let api: Api<TrainJob> = Api::namespaced(self.client.clone(), &namespace);
                    let deleted = api.delete(&name, &DeleteParams::background()).await;
                    ignore_missing(deleted.map(drop))
                        .map_err(doing(format!("deleting TrainJob {namespace}/{name}")))?;
                }
                Action::SetAlias {
                    model,
                    alias,
                    version,
                } => {
                    self.registry.set_alias(&model, alias, &version).await?;
                    tracing::info!(model, alias, version, "alias set");
                }
                Action::Event(note) => self.tell(object, manager, note).await,
            }
        }
        Ok(())
    }

    async fn create_pod(
        &self,
        namespace: &str,
        manager: &'static str,
        pod: Pod,
    ) -> Result<(), Error> {
        self.keep_secret(namespace).await?;
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        create(&api, manager, &pod, &self.pods).await
    }

    async fn delete_pod(&self, namespace: &str, name: &str) -> Result<(), Error> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        match api.delete(name, &DeleteParams::default()).await {
            Ok(outcome) => {
                // Gone at once, the watch tells; ending gracefully, it is marked.
                if let Some(pod) = outcome.left()
                    && pod.metadata.deletion_timestamp.is_some()
                {
                    self.pods.offer(pod);
                }
                Ok(())
            }
            Err(error) => ignore_missing(Err(error))
                .map_err(doing(format!("deleting pod {namespace}/{name}"))),
        }
    }

    /// Pods find the tracking token in a Secret of their own namespace.
    async fn keep_secret(&self, namespace: &str) -> Result<(), Error> {
        let Some(secret) = &self.options.tracking_secret else {
            return Ok(());
        };
        let Some(token) = &secret.token else {
            return Ok(());
        };
        if self.lock_secrets().contains(namespace) {
            return Ok(());
        }
        let api: Api<Secret> = Api::namespaced(self.client.clone(), namespace);
        let wanted = json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "name": secret.name,
                "namespace": namespace,
                "labels": {labels::MANAGED_BY: labels::MANAGER},
            },
            "stringData": {secret.key.as_str(): token.reveal()},
        });
        let parameters = PatchParams::apply("cumulo-control").force();
        api.patch(&secret.name, &parameters, &Patch::Apply(&wanted))
            .await
            .map_err(doing(format!("keeping Secret {namespace}/{}", secret.name)))?;
        self.lock_secrets().insert(namespace.to_owned());
        Ok(())
    }

    fn lock_secrets(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.secrets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes an object's status, whole.
    pub(crate) async fn write_status<K>(
        &self,
        object: &K,
        manager: &'static str,
        status: &impl Serialize,
        cache: &Cache<K>,
    ) -> Result<(), Error>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let namespace = object.namespace().unwrap_or_default();
        let name = object.name_any();
        let api: Api<K> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": {"name": name, "namespace": namespace},
            "status": status,
        });
        let parameters = PatchParams::apply(manager).force();
        match api
            .patch_status(&name, &parameters, &Patch::Apply(&patch))
            .await
        {
            Ok(written) => {
                cache.offer(written);
                Ok(())
            }
            Err(error) => ignore_missing(Err(error)).map_err(doing(format!(
                "writing the status of {} {namespace}/{name}",
                K::kind(&())
            ))),
        }
    }

    /// Tells a step in an event. One that cannot be told holds nothing up.
    async fn tell<K>(&self, object: &K, manager: &'static str, note: Note)
    where
        K: Resource<DynamicType = ()>,
    {
        let namespace = object.namespace().unwrap_or_default();
        let now = Timestamp::now();
        let time = Time(whole_second(now));
        let mut message = note.message;
        if message.len() > LONGEST_NOTE {
            let mut end = LONGEST_NOTE - 3;
            while !message.is_char_boundary(end) {
                end -= 1;
            }
            message.truncate(end);
            message.push('…');
        }
        let mark = hash(&(&note.reason, &message, now.as_millisecond()));
        let event = Event {
            metadata: ObjectMeta {
                name: Some(limited(&object.name_any(), &format!(".{mark}"))),
                namespace: Some(namespace.clone()),
                ..ObjectMeta::default()
            },
            involved_object: object.object_ref(&()),
            reason: Some(crate::conditions::reason_word(&note.reason)),
            message: Some(message),
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            count: Some(1),
            first_timestamp: Some(time.clone()),
            last_timestamp: Some(time),
            source: Some(EventSource {
                component: Some(manager.to_owned()),
                host: None,
            }),
            reporting_component: Some(manager.to_owned()),
            ..Event::default()
        };
        let api: Api<Event> = Api::namespaced(self.client.clone(), &namespace);
        if let Err(error) = api.create(&PostParams::default(), &event).await {
            tracing::debug!(%error, reason = note.reason, "event not written");
        }
    }
}

/// Makes an object unless one of that name exists; either way the cache has it.
async fn create<K>(
    api: &Api<K>,
    manager: &'static str,
    object: &K,
    cache: &Cache<K>,
) -> Result<(), Error>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = object.name_any();
    let kind = K::kind(&());
    let parameters = PostParams {
        field_manager: Some(manager.to_owned()),
        ..PostParams::default()
    };
    match api.create(&parameters, object).await {
        Ok(made) => {
            tracing::info!(%kind, name, "made");
            cache.offer(made);
            Ok(())
        }
        Err(kube::Error::Api(status)) if status.reason == "AlreadyExists" => {
            let known = api.get_opt(&name).await;
            if let Some(known) = known.map_err(doing(format!("reading {kind} {name}")))? {
                cache.offer(known);
            }
            Ok(())
        }
        Err(error) => Err(doing(format!("making {kind} {name}"))(error)),
    }
}

/// An object that is gone needs nothing more.
fn ignore_missing(result: Result<(), kube::Error>) -> Result<(), kube::Error> {
    match result {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        other => other,
    }
}
