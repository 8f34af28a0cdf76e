//! Writing pod statuses back, a task per pod.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{answered, limited};
use crate::engine::{Engine, Snapshot};

/// Waits between attempts to write: doubled up to the last.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// The tasks that write statuses.
pub(super) struct Syncs {
    pub client: Client,
    pub engine: Engine,
    pub running: Mutex<BTreeSet<String>>,
    /// What the API has of each pod.
    pub written: Mutex<BTreeMap<String, PodStatus>>,
    pub tracker: TaskTracker,
    pub shutdown: CancellationToken,
}

impl Syncs {
    /// Makes sure that a pod's status is written.
    pub fn follow(self: &Arc<Self>, uid: &str) {
        let Some(receiver) = self.engine.subscribe(uid) else {
            return;
        };
        let Some((namespace, name)) = self.engine.name_of(uid) else {
            return;
        };
        if !self.running.lock().insert(uid.to_owned()) {
            return;
        }
        let syncs = Arc::clone(self);
        let uid = uid.to_owned();
        self.tracker.spawn(async move {
            tokio::select! {
                () = syncs.shutdown.cancelled() => {}
                () = syncs.run(&namespace, &name, &uid, receiver) => {}
            }
            syncs.running.lock().remove(&uid);
            syncs.written.lock().remove(&uid);
        });
    }

    /// Waits until the API has the status of every pod that there is.
    pub async fn told_everything(&self) {
        loop {
            let told = self.engine.pods().iter().all(|uid| {
                let snapshot = self.engine.subscribe(uid);
                let status =
                    snapshot.and_then(|snapshot| Some(snapshot.borrow().as_ref()?.status.clone()));
                status.is_none() || status.as_ref() == self.written.lock().get(uid)
            });
            if told {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn run(
        &self,
        namespace: &str,
        name: &str,
        uid: &str,
        mut receiver: watch::Receiver<Option<Snapshot>>,
    ) {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let mut written = None;
        let mut wait = RETRY.0;
        loop {
            let snapshot = receiver.borrow_and_update().clone();
            let mut again = false;
            if let Some(snapshot) = snapshot {
                if written.as_ref() != Some(&snapshot.status) {
                    let patch = json!({"metadata": {"uid": uid}, "status": snapshot.status});
                    let patch = Patch::Merge(&patch);
                    let parameters = PatchParams::default();
                    match limited(api.patch_status(name, &parameters, &patch)).await {
                        Ok(_) => {
                            let known = (uid.to_owned(), snapshot.status.clone());
                            self.written.lock().extend([known]);
                            written = Some(snapshot.status);
                            wait = RETRY.0;
                        }
                        // Gone, or another pod has the name now.
                        Err(error) if answered(&error, 404) || answered(&error, 409) => {
                            if self.is_gone(&api, name, uid).await {
                                self.engine.remove(uid);
                                written = Some(snapshot.status);
                            } else {
                                again = true;
                            }
                        }
                        Err(error) => {
                            tracing::warn!(namespace, pod = name, %error, "cannot write the pod's status, trying again");
                            again = true;
                        }
                    }
                }
                if snapshot.deleted && !again {
                    if delete(&self.client, namespace, name, uid).await {
                        self.engine.remove(uid);
                    } else {
                        again = true;
                    }
                }
            }
            if again {
                tokio::select! {
                    changed = receiver.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(RETRY.1);
            } else if receiver.changed().await.is_err() {
                return;
            }
        }
    }

    async fn is_gone(&self, api: &Api<Pod>, name: &str, uid: &str) -> bool {
        match limited(api.get_opt(name)).await {
            Ok(None) => true,
            Ok(Some(pod)) => pod.metadata.uid.as_deref() != Some(uid),
            Err(_) => false,
        }
    }
}

/// Removes a pod's object at once; true when it is gone.
pub(super) async fn delete(client: &Client, namespace: &str, name: &str, uid: &str) -> bool {
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let parameters = DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    match limited(api.delete(name, &parameters)).await {
        Ok(_) => true,
        Err(error) if answered(&error, 404) || answered(&error, 409) => true,
        Err(error) => {
            tracing::warn!(namespace, pod = name, %error, "cannot delete the pod, trying again");
            false
        }
    }
}
