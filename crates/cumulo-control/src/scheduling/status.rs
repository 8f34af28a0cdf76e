//! Saying why something waits: conditions of pods, events, the status of Queues.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cumulo_api::queue::{DEFAULT_FLAVOR, QueueStatus};
use cumulo_api::{Queue, labels};
use cumulo_schedule::solver::Resources;
use futures::StreamExt;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::MANAGER;
use super::carry_out::parameters;
use super::decide::Wait;
use super::dra::gpu;
use super::pod::Pod;
use super::room::add;
use super::stores::Stores;
use super::view::View;
use crate::conditions::{Saying, set, whole_second};
use crate::key::{ObjectKey, hash, limited};

/// How soon a pod's or Queue's saying may change again.
const AGAIN: Duration = Duration::from_secs(10);
/// Most sayings that are written after one decision; the rest follow.
const MOST_WRITES: usize = 256;
/// Sayings written at the same time.
const AT_ONCE: usize = 16;
/// Notes that wait to be told; more are not told.
const MOST_NOTES: usize = 2048;
/// Notes told at the same time.
const NOTES_AT_ONCE: usize = 4;
/// Longest message of an event.
const LONGEST_NOTE: usize = 1024;

/// An event to be told.
pub(crate) struct Note {
    pod: ObjectReference,
    reason: &'static str,
    message: String,
    warning: bool,
}

impl Note {
    pub(crate) fn of(pod: &Pod, reason: &'static str, message: String, warning: bool) -> Self {
        Self::about(&pod.key(), pod.uid(), reason, message, warning)
    }

    fn about(
        key: &ObjectKey,
        uid: &str,
        reason: &'static str,
        message: String,
        warning: bool,
    ) -> Self {
        Self {
            pod: ObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: Some(key.name.clone()),
                namespace: Some(key.namespace.clone()),
                uid: Some(uid.to_owned()),
                ..ObjectReference::default()
            },
            reason,
            message,
            warning,
        }
    }
}

/// Tells events, a few at a time. One that cannot be told holds nothing up.
pub(crate) struct Events {
    client: kube::Client,
    notes: mpsc::Receiver<Note>,
}

impl Events {
    pub(crate) fn channel(client: kube::Client) -> (mpsc::Sender<Note>, Self) {
        let (sender, notes) = mpsc::channel(MOST_NOTES);
        (sender, Self { client, notes })
    }

    /// Tells what comes, until nobody can send more.
    pub(crate) async fn run(self) {
        let Self { client, notes } = self;
        let stream = futures::stream::unfold(notes, |mut notes| async {
            notes.recv().await.map(|note| (note, notes))
        });
        stream
            .for_each_concurrent(NOTES_AT_ONCE, |note| tell(&client, note))
            .await;
    }
}

async fn tell(client: &kube::Client, note: Note) {
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
    let namespace = note.pod.namespace.clone().unwrap_or_default();
    let mark = hash(&(note.reason, &message, now.as_nanosecond().to_string()));
    let name = note.pod.name.clone().unwrap_or_default();
    let event = Event {
        metadata: ObjectMeta {
            name: Some(limited(&name, &format!(".{mark}"))),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: note.pod,
        reason: Some(note.reason.to_owned()),
        message: Some(message),
        type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
        count: Some(1),
        first_timestamp: Some(time.clone()),
        last_timestamp: Some(time),
        source: Some(EventSource {
            component: Some(MANAGER.to_owned()),
            host: None,
        }),
        reporting_component: Some(MANAGER.to_owned()),
        ..Event::default()
    };
    let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
    if let Err(error) = api.create(&PostParams::default(), &event).await {
        tracing::debug!(%error, reason = note.reason, "event not written");
    }
}

/// Says why pods wait, and how Queues stand; nothing is written without a change.
pub(crate) struct Sayings {
    client: kube::Client,
    stores: Arc<Stores>,
    /// When something was last said, by pod or Queue.
    said: HashMap<String, Instant>,
}

impl Sayings {
    pub(crate) fn new(client: kube::Client, stores: Arc<Stores>) -> Self {
        Self {
            client,
            stores,
            said: HashMap::new(),
        }
    }

    /// Says what differs from what is said. Returns when to look again for what
    /// was said too recently.
    pub(crate) async fn say(
        &mut self,
        view: &View,
        waits: Vec<Wait>,
        events: &mpsc::Sender<Note>,
    ) -> Option<Duration> {
        let now = Instant::now();
        self.said.retain(|_, at| now.duration_since(*at) < AGAIN);
        let mut later = self.queues(view, &waits, now).await;
        let mut due = Vec::new();
        for wait in waits {
            let message = wait.message();
            if wait.before.as_deref() == Some(message.as_str()) {
                continue;
            }
            let recent = self.said.contains_key(&wait.uid);
            if due.len() >= MOST_WRITES || (recent && wait.before.is_some()) {
                later = true;
                continue;
            }
            self.said.insert(wait.uid.clone(), now);
            if wait.before.is_none() {
                let note = Note::about(
                    &wait.pod,
                    &wait.uid,
                    "FailedScheduling",
                    message.clone(),
                    true,
                );
                let _ = events.try_send(note);
            }
            due.push((wait, message));
        }
        let more = due.len() >= MOST_WRITES;
        futures::stream::iter(due)
            .for_each_concurrent(AT_ONCE, |(wait, message)| {
                condition(&self.client, &self.stores, wait, message)
            })
            .await;
        match (later, more) {
            (_, true) => Some(Duration::from_millis(50)),
            (true, false) => Some(AGAIN),
            (false, false) => None,
        }
    }

    async fn queues(&mut self, view: &View, waits: &[Wait], now: Instant) -> bool {
        let mut later = false;
        for (name, queue) in &view.queues {
            let status = queue_status(view, queue, name, waits);
            if queue.status.as_ref() == Some(&status) {
                continue;
            }
            let key = format!("queue/{name}");
            if self.said.contains_key(&key) {
                later = true;
                continue;
            }
            self.said.insert(key, now);
            let api: Api<Queue> = Api::all(self.client.clone());
            let patch = json!({
                "apiVersion": "cumulo.dev/v1alpha1", "kind": "Queue",
                "metadata": {"name": name}, "status": status,
            });
            let parameters = PatchParams::apply(MANAGER).force();
            match api
                .patch_status(name, &parameters, &Patch::Apply(&patch))
                .await
            {
                Ok(written) => self.stores.queues.offer(written),
                Err(error) => tracing::debug!(queue = name, %error, "status not written"),
            }
        }
        later
    }
}

/// How a Queue stands.
fn queue_status(view: &View, queue: &Queue, name: &str, waits: &[Wait]) -> QueueStatus {
    let flavors: HashMap<&str, &str> = view
        .nodes
        .iter()
        .map(|node| {
            let flavor = node
                .labels
                .get(labels::FLAVOR)
                .map_or(DEFAULT_FLAVOR, String::as_str);
            (node.name.as_str(), flavor)
        })
        .collect();
    let mut used: BTreeMap<&str, Resources> = BTreeMap::new();
    let (mut admitted, mut pending) = (0, 0);
    for pod in &view.pods {
        if pod.finished() || pod.labels().get(labels::QUEUE).map(String::as_str) != Some(name) {
            continue;
        }
        match pod.node.as_deref() {
            Some(node) => {
                admitted += 1;
                let flavor = flavors.get(node).copied().unwrap_or(DEFAULT_FLAVOR);
                let used = used.entry(flavor).or_default();
                add(used, &pod.spec.requests);
                let gpus = gpu::of_pod(&view.inventory, pod);
                if gpus > 0 {
                    *used.other.entry(gpu::DRIVER.to_owned()).or_default() += gpus;
                }
            }
            None => pending += 1,
        }
    }
    let first = waits
        .iter()
        .filter(|wait| wait.queue == name && wait.place > 0)
        .min_by_key(|wait| (wait.place, &wait.pod));
    let message = first.map(|first| format!("{} is next: {}", first.pod, first.reason));
    let known = queue.status.clone().unwrap_or_default();
    let mut conditions = known.conditions;
    let rooted = rooted(view, queue);
    let saying = match rooted {
        Ok(()) => Saying::yes("Usable", "the queue can be used"),
        Err(sentence) => Saying::no("ParentMissing", sentence),
    };
    set(
        &mut conditions,
        "Ready",
        saying,
        queue.metadata.generation,
        view.now,
    );
    QueueStatus {
        admitted: Some(admitted),
        pending: Some(pending),
        usage: used
            .into_iter()
            .map(|(flavor, used)| (flavor.to_owned(), amounts(&used)))
            .collect(),
        message,
        observed_generation: queue.metadata.generation,
        conditions,
    }
}

fn rooted(view: &View, queue: &Queue) -> Result<(), String> {
    let mut at = queue.clone();
    for _ in 0..=view.queues.len() {
        let Some(parent) = &at.spec.parent else {
            return Ok(());
        };
        match view.queues.get(parent) {
            Some(found) => at = Queue::clone(found),
            None => {
                return Err(format!(
                    "its parent {parent} does not exist: {}",
                    queue.name_any()
                ));
            }
        }
    }
    Err("it lies under itself".to_owned())
}

fn amounts(used: &Resources) -> BTreeMap<String, String> {
    let divided = |thousandths: u64| match thousandths.is_multiple_of(1000) {
        true => (thousandths / 1000).to_string(),
        false => format!("{thousandths}m"),
    };
    let memory = super::quantity::canonical(i128::from(used.memory) * super::quantity::UNIT);
    let other = used.other.iter();
    let other = other.map(|(name, amount)| match name.as_str() {
        gpu::DRIVER => (name.clone(), divided(*amount)),
        _ => (name.clone(), amount.to_string()),
    });
    [
        ("cpu".to_owned(), divided(used.cpu)),
        ("memory".to_owned(), memory),
    ]
    .into_iter()
    .chain(other)
    .collect()
}

/// Writes why a pod waits.
async fn condition(client: &kube::Client, stores: &Stores, wait: Wait, message: String) {
    let now = whole_second(Timestamp::now());
    let mut condition = json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message,
    });
    if wait.before.is_none() {
        condition["lastTransitionTime"] = json!(now.to_string());
    }
    let api: Api<Pod> = Api::namespaced(client.clone(), &wait.pod.namespace);
    // A strategic merge: conditions of other types are their owners'.
    let patch = json!({"metadata": {"uid": wait.uid}, "status": {"conditions": [condition]}});
    match api
        .patch_status(&wait.pod.name, &parameters(), &Patch::Strategic(&patch))
        .await
    {
        Ok(written) => stores.pods.offer(written),
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
        Err(error) => tracing::warn!(pod = %wait.pod, %error, "why it waits could not be said"),
    }
}
