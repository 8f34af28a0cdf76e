//! An embedded API server with the controllers on it, and the parts that the
//! test plays.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use cumulo_api::{TrainJob, labels};
use cumulo_control::{
    Demand, DemandSource, ModelRegistry, ObjectKey, Options, RegisteredVersion, RegistryError,
    Retry, RunSummary, SchedulerOptions, TRAIN_KEY_TAG, Token, TrackingSecret,
};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::NamespaceResourceScope;
use kube::{Client, Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long anything may take.
const DEADLINE: Duration = Duration::from_secs(30);

pub struct Platform {
    pub client: Client,
    pub registry: Arc<Registry>,
    pub demand: Arc<Gateway>,
    server: cumulo_apiserver::Handle,
    shutdown: CancellationToken,
    serving: JoinHandle<()>,
    controllers: Option<(CancellationToken, JoinHandle<()>)>,
    _folder: tempfile::TempDir,
}

impl Platform {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let options = cumulo_apiserver::Options::new(folder.path());
        let (server, handle) = cumulo_apiserver::Server::open(options).await.unwrap();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.run(shutdown.clone()));
        let client = Client::new(handle.client_service(), "default");
        let crds: Api<CustomResourceDefinition> = Api::all(client.clone());
        for crd in cumulo_api::crds() {
            crds.create(&PostParams::default(), &crd).await.unwrap();
        }
        let mut platform = Self {
            client,
            registry: Arc::default(),
            demand: Arc::default(),
            server: handle,
            shutdown,
            serving,
            controllers: None,
            _folder: folder,
        };
        platform.node("laptop", "2").await;
        platform.resume();
        platform
    }

    /// A node that is ready.
    pub async fn node(&self, name: &str, cpu: &str) {
        let api: Api<Node> = Api::all(self.client.clone());
        let node = serde_json::from_value(json!({"metadata": {"name": name}})).unwrap();
        api.create(&PostParams::default(), &node).await.unwrap();
        let status = json!({"status": {
            "allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "110"},
            "conditions": [{"type": "Ready", "status": "True"}]}});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&status))
            .await
            .unwrap();
    }

    /// Starts the controllers.
    pub fn resume(&mut self) {
        let options = Options {
            tracking_secret: Some(TrackingSecret {
                name: "cumulo-tracking".into(),
                key: "token".into(),
                token: Some(Token::new("secret")),
            }),
            scheduler: Some(SchedulerOptions {
                default_scheduler: true,
                claim_controller: true,
                ..SchedulerOptions::default()
            }),
            retry: Retry {
                base: Duration::from_millis(10),
                ..Retry::default()
            },
            ..Options::new("http://127.0.0.1:8700", "file:///artifacts")
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(cumulo_control::run(
            self.client.clone(),
            options,
            self.registry.clone(),
            self.demand.clone(),
            stop.clone(),
        ));
        self.controllers = Some((stop, running));
    }

    /// Stops the controllers.
    pub async fn halt(&mut self) {
        if let Some((stop, running)) = self.controllers.take() {
            stop.cancel();
            running.await.unwrap();
        }
    }

    pub async fn restart(&mut self) {
        self.halt().await;
        self.resume();
    }

    pub async fn stop(mut self) {
        self.halt().await;
        self.shutdown.cancel();
        self.serving.await.unwrap();
    }

    pub fn version(&self) -> u64 {
        self.server.version()
    }

    /// Waits until nothing was written for a while.
    pub async fn settled(&self) {
        let mut version = self.version();
        let mut quiet = 0;
        let deadline = Instant::now() + DEADLINE;
        while quiet < 10 {
            assert!(Instant::now() < deadline, "writes never end");
            tokio::time::sleep(Duration::from_millis(50)).await;
            quiet = if self.version() == version {
                quiet + 1
            } else {
                0
            };
            version = self.version();
        }
    }

    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::default_namespaced(self.client.clone())
    }

    pub async fn create<K>(&self, object: Value)
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + Serialize
            + DeserializeOwned,
    {
        let object: K = serde_json::from_value(object).unwrap();
        self.api()
            .create(&PostParams::default(), &object)
            .await
            .unwrap();
    }

    pub async fn get<K>(&self, name: &str) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api().get_opt(name).await.unwrap()
    }

    pub async fn list<K>(&self) -> Vec<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        self.api().list(&ListParams::default()).await.unwrap().items
    }

    /// The only object of a kind.
    pub async fn only<K>(&self) -> Option<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>
            + Clone
            + Debug
            + DeserializeOwned,
    {
        let mut all = self.list().await;
        if all.len() == 1 { all.pop() } else { None }
    }

    /// Polls until there is an answer.
    pub async fn until<T>(&self, what: &str, ask: impl AsyncFn(&Platform) -> Option<T>) -> T {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(answer) = ask(self).await {
                return answer;
            }
            if Instant::now() > deadline {
                let mut state = String::new();
                for pod in self.list::<Pod>().await {
                    state.push_str(&format!("\npod {} {:?}", pod.name_any(), pod.status));
                }
                panic!("not within {DEADLINE:?}: {what}{state}");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The name of the pod that has not ended and whose name begins so.
    pub async fn pod(&self, prefix: &str) -> String {
        self.until(&format!("pod {prefix}…"), async |platform: &Platform| {
            let pods: Vec<Pod> = platform.list().await;
            let mut found = pods.into_iter().filter(|pod| {
                let phase = pod
                    .status
                    .as_ref()
                    .and_then(|status| status.phase.as_deref());
                pod.name_any().starts_with(prefix)
                    && pod.metadata.deletion_timestamp.is_none()
                    && !matches!(phase, Some("Succeeded" | "Failed"))
            });
            found.next().map(|pod| pod.name_any())
        })
        .await
    }

    /// The name of the pod of a service that runs a command.
    pub async fn pod_of(&self, service: &str, command: &str) -> String {
        self.until(
            &format!("a pod of {service}"),
            async |platform: &Platform| {
                let pods: Vec<Pod> = platform.list().await;
                let mut found = pods.into_iter().filter(|pod| {
                    pod.labels()
                        .get(labels::INFERENCE_SERVICE)
                        .is_some_and(|name| name == service)
                        && pod.metadata.deletion_timestamp.is_none()
                        && pod.spec.as_ref().is_some_and(|spec| {
                            spec.containers[0]
                                .command
                                .iter()
                                .flatten()
                                .any(|word| word == command)
                        })
                });
                found.next().map(|pod| pod.name_any())
            },
        )
        .await
    }

    /// Waits until a pod has a node.
    pub async fn bound(&self, name: &str) {
        self.until(
            &format!("pod {name} is bound"),
            async |platform: &Platform| {
                let pod: Pod = platform.get(name).await?;
                pod.spec?.node_name
            },
        )
        .await;
    }

    async fn status(&self, name: &str, status: Value) {
        let api: Api<Pod> = self.api();
        let patch = json!({"status": status});
        api.patch_status(name, &PatchParams::default(), &Patch::Merge(&patch))
            .await
            .unwrap();
    }

    /// The pod runs.
    pub async fn run(&self, name: &str, ready: bool) {
        let ready = if ready { "True" } else { "False" };
        self.status(
            name,
            json!({"phase": "Running", "podIP": "127.1.0.1",
                "conditions": [{"type": "Ready", "status": ready}]}),
        )
        .await;
    }

    /// The pod ends.
    pub async fn end(&self, name: &str, code: i32, message: &str) {
        let (phase, reason) = if code == 0 {
            ("Succeeded", "Completed")
        } else {
            ("Failed", "Error")
        };
        self.status(
            name,
            json!({"phase": phase, "containerStatuses": [{
                "name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"terminated": {"exitCode": code, "reason": reason, "message": message,
                    "finishedAt": "2026-01-01T00:00:00Z"}}}]}),
        )
        .await;
    }

    /// Waits until a pod is to be deleted and ends it as the node agent does.
    pub async fn end_deleted(&self, name: &str) {
        self.until(
            &format!("pod {name} is deleted"),
            async |platform: &Platform| match platform.get::<Pod>(name).await {
                None => Some(()),
                Some(pod) => pod.metadata.deletion_timestamp.map(|_| ()),
            },
        )
        .await;
        let api: Api<Pod> = self.api();
        let at_once = DeleteParams {
            grace_period_seconds: Some(0),
            ..DeleteParams::default()
        };
        if let Err(error) = api.delete(name, &at_once).await {
            assert!(
                matches!(&error, kube::Error::Api(status) if status.code == 404),
                "{error}"
            );
        }
    }
}

/// Status, reason and message of a condition.
pub fn condition(conditions: &[Condition], type_: &str) -> Option<(String, String, String)> {
    let found = conditions
        .iter()
        .find(|condition| condition.type_ == type_)?;
    Some((
        found.status.clone(),
        found.reason.clone(),
        found.message.clone(),
    ))
}

/// The registry, with one model.
pub struct Registry {
    state: Mutex<(Vec<RegisteredVersion>, BTreeMap<String, String>)>,
    changes: broadcast::Sender<String>,
}

const MODEL: &str = "late-flights";

impl Default for Registry {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changes: broadcast::channel(64).0,
        }
    }
}

impl Registry {
    /// A job registers what it trained.
    pub fn train(&self, job: &TrainJob, version: &str) {
        let key = job.labels()["cumulo.dev/train-key"].clone();
        self.state.lock().unwrap().0.push(RegisteredVersion {
            version: version.into(),
            source: String::new(),
            tags: BTreeMap::from([(TRAIN_KEY_TAG.into(), key)]),
        });
        self.touch();
    }

    /// A champion from somewhere else.
    pub fn register(&self, version: &str) {
        let mut state = self.state.lock().unwrap();
        state.0.push(RegisteredVersion {
            version: version.into(),
            ..RegisteredVersion::default()
        });
        state.1.insert("champion".into(), version.into());
        drop(state);
        self.touch();
    }

    pub fn touch(&self) {
        let _ = self.changes.send(MODEL.into());
    }

    pub fn alias(&self, alias: &str) -> Option<String> {
        self.state.lock().unwrap().1.get(alias).cloned()
    }
}

#[async_trait]
impl ModelRegistry for Registry {
    async fn by_alias(
        &self,
        model: &str,
        alias: &str,
    ) -> Result<Option<RegisteredVersion>, RegistryError> {
        match self.alias(alias) {
            Some(version) => self.by_version(model, &version).await,
            None => Ok(None),
        }
    }

    async fn by_version(
        &self,
        model: &str,
        version: &str,
    ) -> Result<Option<RegisteredVersion>, RegistryError> {
        let versions = self.versions(model).await?;
        Ok(versions.into_iter().find(|known| known.version == version))
    }

    async fn versions(&self, model: &str) -> Result<Vec<RegisteredVersion>, RegistryError> {
        let state = self.state.lock().unwrap();
        Ok(if model == MODEL {
            state.0.clone()
        } else {
            Vec::new()
        })
    }

    async fn set_alias(&self, _: &str, alias: &str, version: &str) -> Result<(), RegistryError> {
        self.state
            .lock()
            .unwrap()
            .1
            .insert(alias.into(), version.into());
        self.touch();
        Ok(())
    }

    async fn run_of_job(&self, _: &str) -> Result<Option<RunSummary>, RegistryError> {
        Ok(None)
    }

    fn changes(&self) -> BoxStream<'static, String> {
        following(self.changes.subscribe(), |model| model, String::new)
    }
}

/// Requests that wait, all that came, and when the last came.
type Asked = (u32, u64, Option<Instant>);

/// The gateway's demand.
pub struct Gateway {
    state: Mutex<BTreeMap<ObjectKey, Asked>>,
    changes: broadcast::Sender<ObjectKey>,
}

impl Default for Gateway {
    fn default() -> Self {
        Self {
            state: Mutex::default(),
            changes: broadcast::channel(64).0,
        }
    }
}

impl Gateway {
    /// So many requests wait for a service.
    pub fn queue(&self, service: &str, queued: u32) {
        let key = ObjectKey::new("default", service);
        let mut state = self.state.lock().unwrap();
        let entry = state.entry(key.clone()).or_default();
        *entry = (queued, entry.1 + u64::from(queued), Some(Instant::now()));
        drop(state);
        let _ = self.changes.send(key);
    }
}

impl DemandSource for Gateway {
    fn demand(&self, service: &ObjectKey) -> Demand {
        let state = self.state.lock().unwrap();
        let (queued, total, last) = state.get(service).copied().unwrap_or_default();
        Demand {
            in_flight: 0,
            queued,
            requests_total: total,
            idle_for: last.map(|last| last.elapsed()),
            concurrency_seconds: None,
        }
    }

    fn changes(&self) -> BoxStream<'static, Option<ObjectKey>> {
        following(self.changes.subscribe(), Some, || None)
    }
}

/// A stream of what a broadcast says; `missed` stands for what was missed.
fn following<T: Clone + Send + 'static, U: Send + 'static>(
    receiver: broadcast::Receiver<T>,
    map: fn(T) -> U,
    missed: fn() -> U,
) -> BoxStream<'static, U> {
    stream::unfold(receiver, move |mut receiver| async move {
        match receiver.recv().await {
            Ok(item) => Some((map(item), receiver)),
            Err(broadcast::error::RecvError::Lagged(_)) => Some((missed(), receiver)),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    })
    .boxed()
}
