//! Who sends a request, and whether they may, asked of the cluster's API server
//! (TokenReview, SubjectAccessReview).
//!
//! Answers are kept for seconds. What was served goes on being served while the
//! API server is away: then an answer counts for minutes.

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use cumulo_apiserver::audit::Event;
use cumulo_apiserver::auth::{Attributes, Decision, UserInfo};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{
    NonResourceAttributes, ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec,
};
use kube::api::{Api, PostParams};
use sha2::{Digest, Sha256};

use crate::platform::{Access, Unavailable};

/// An answer this young is given again without asking.
const FRESH: Duration = Duration::from_secs(10);
/// From here on nobody is answered before the API server was asked again.
const OLD: Duration = Duration::from_secs(20);
/// As long as the API server does not answer, what it said counts for so long.
const STALE: Duration = Duration::from_secs(600);
/// How long one question may take.
const ASK: Duration = Duration::from_secs(5);
/// Answers that are kept of each kind.
const KEPT: usize = 8192;
/// Longer tokens than this are none that an API server issues.
const LONGEST_TOKEN: usize = 16 << 10;

/// Asks the API server, and remembers.
pub struct Reviews {
    client: kube::Client,
    users: Arc<Memory<[u8; 32], Option<UserInfo>>>,
    decisions: Arc<Memory<[u8; 32], Decision>>,
}

impl Reviews {
    /// Asks with this client, which needs `create` of `tokenreviews` and
    /// `subjectaccessreviews` (the role `system:auth-delegator`).
    pub fn new(client: kube::Client) -> Self {
        Self {
            client,
            users: Arc::default(),
            decisions: Arc::default(),
        }
    }
}

#[async_trait::async_trait]
impl Access for Reviews {
    async fn authenticate(&self, token: &str) -> Result<Option<UserInfo>, Unavailable> {
        if token.len() > LONGEST_TOKEN {
            return Ok(None);
        }
        // The token itself is kept nowhere.
        let key: [u8; 32] = Sha256::digest(token).into();
        let (client, token) = (self.client.clone(), token.to_owned());
        self.users
            .answer(key, move || review_token(client, token))
            .await
    }

    async fn authorize(
        &self,
        user: &UserInfo,
        attributes: &Attributes,
    ) -> Result<Decision, Unavailable> {
        let mut digest = Sha256::new();
        digest.update(format!("{user:?}\n{attributes:?}"));
        let key: [u8; 32] = digest.finalize().into();
        let (client, user, attributes) = (self.client.clone(), user.clone(), attributes.clone());
        self.decisions
            .answer(key, move || review_access(client, user, attributes))
            .await
    }

    /// The cluster's audit log has the reviews; what is done here is in this log.
    fn record(&self, event: Event) {
        tracing::info!(
            user = event.user.as_ref().map_or("", |user| user.name.as_str()),
            verb = event.attributes.verb,
            resource = event.attributes.resource,
            subresource = event.attributes.subresource,
            path = event.path,
            code = event.code,
            "audit"
        );
    }

    fn where_tokens_are(&self) -> &'static str {
        "`kubectl create token ACCOUNT` issues one for a service account"
    }
}

async fn review_token(
    client: kube::Client,
    token: String,
) -> Result<Option<UserInfo>, Unavailable> {
    let review = TokenReview {
        spec: TokenReviewSpec {
            token: Some(token),
            audiences: None,
        },
        ..TokenReview::default()
    };
    let api: Api<TokenReview> = Api::all(client);
    let answer = api
        .create(&PostParams::default(), &review)
        .await
        .map_err(|error| unavailable("tokenreviews", &error))?;
    let status = answer.status.unwrap_or_default();
    if status.authenticated != Some(true) {
        return Ok(None);
    }
    Ok(status.user.map(|user| UserInfo {
        name: user.username.unwrap_or_default(),
        uid: user.uid.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        extra: user.extra.unwrap_or_default(),
    }))
}

async fn review_access(
    client: kube::Client,
    user: UserInfo,
    attributes: Attributes,
) -> Result<Decision, Unavailable> {
    let text = |text: String| (!text.is_empty()).then_some(text);
    let by_path = attributes.resource.is_empty();
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: text(user.name),
            uid: text(user.uid),
            groups: (!user.groups.is_empty()).then_some(user.groups),
            extra: (!user.extra.is_empty()).then_some(user.extra),
            non_resource_attributes: by_path.then(|| NonResourceAttributes {
                path: text(attributes.path.clone()),
                verb: text(attributes.verb.clone()),
            }),
            resource_attributes: (!by_path).then(|| ResourceAttributes {
                verb: text(attributes.verb.clone()),
                group: text(attributes.group),
                version: text(attributes.version),
                resource: text(attributes.resource),
                subresource: text(attributes.subresource),
                namespace: text(attributes.namespace),
                name: text(attributes.name),
                ..ResourceAttributes::default()
            }),
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client);
    let answer = api
        .create(&PostParams::default(), &review)
        .await
        .map_err(|error| unavailable("subjectaccessreviews", &error))?;
    let status = answer.status.unwrap_or_default();
    let reason = status.reason.unwrap_or_default();
    Ok(if status.allowed && status.denied != Some(true) {
        Decision::Allow(reason)
    } else {
        Decision::Deny(reason)
    })
}

fn unavailable(what: &str, error: &kube::Error) -> Unavailable {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            let sentence = format!(
                "this role may not create {what}: bind the ClusterRole system:auth-delegator to its service account"
            );
            tracing::error!(%error, sentence);
            Unavailable(sentence)
        }
        error => Unavailable(format!("the API server did not answer: {error}")),
    }
}

/// Answers by question, for a while.
struct Memory<K, V> {
    entries: Mutex<HashMap<K, Entry<V>>>,
}

impl<K, V> Default for Memory<K, V> {
    fn default() -> Self {
        Self {
            entries: Mutex::default(),
        }
    }
}

struct Entry<V> {
    value: V,
    told: Instant,
    /// Somebody asks again since then.
    asked: Option<Instant>,
    /// The last question got no answer.
    failed: bool,
}

/// What to do about a question whose answer is known.
#[derive(Debug, PartialEq, Eq)]
enum Use {
    /// Give it.
    Give,
    /// Give it, and ask again behind.
    GiveAndAsk,
    /// Ask, and give it only if nobody answers.
    Ask,
    /// It is too old for anything.
    Forget,
}

/// Decides by age, whether somebody is asking already, and whether the last
/// question failed.
fn judge(age: Duration, asking: bool, failed: bool) -> Use {
    if age >= STALE {
        Use::Forget
    } else if age < FRESH || (asking && (age < OLD || failed)) {
        Use::Give
    } else if age < OLD || failed {
        Use::GiveAndAsk
    } else {
        Use::Ask
    }
}

impl<K, V> Memory<K, V>
where
    K: Copy + Eq + Hash + Send + 'static,
    V: Clone + Send + 'static,
{
    fn lock(&self) -> MutexGuard<'_, HashMap<K, Entry<V>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer<F, R>(self: &Arc<Self>, key: K, ask: F) -> Result<V, Unavailable>
    where
        F: FnOnce() -> R,
        R: Future<Output = Result<V, Unavailable>> + Send + 'static,
    {
        let mut known = None;
        {
            let mut entries = self.lock();
            if let Some(entry) = entries.get_mut(&key) {
                let asking = entry.asked.is_some_and(|since| since.elapsed() < ASK);
                match judge(entry.told.elapsed(), asking, entry.failed) {
                    Use::Give => return Ok(entry.value.clone()),
                    Use::GiveAndAsk => {
                        entry.asked = Some(Instant::now());
                        let value = entry.value.clone();
                        drop(entries);
                        let (memory, question) = (self.clone(), ask());
                        tokio::spawn(async move { memory.ask(key, question).await });
                        return Ok(value);
                    }
                    Use::Ask => {
                        entry.asked = Some(Instant::now());
                        known = Some(entry.value.clone());
                    }
                    Use::Forget => {
                        entries.remove(&key);
                    }
                }
            }
        }
        match (self.ask(key, ask()).await, known) {
            (Ok(value), _) => Ok(value),
            (Err(error), Some(known)) => {
                tracing::debug!(%error, "an older answer counts");
                Ok(known)
            }
            (Err(error), None) => Err(error),
        }
    }

    async fn ask<R>(&self, key: K, question: R) -> Result<V, Unavailable>
    where
        R: Future<Output = Result<V, Unavailable>>,
    {
        let answer = tokio::time::timeout(ASK, question)
            .await
            .unwrap_or_else(|_| {
                Err(Unavailable(format!(
                    "the API server did not answer within {} s",
                    ASK.as_secs()
                )))
            });
        let mut entries = self.lock();
        match &answer {
            Ok(value) => {
                make_room(&mut entries);
                entries.insert(
                    key,
                    Entry {
                        value: value.clone(),
                        told: Instant::now(),
                        asked: None,
                        failed: false,
                    },
                );
            }
            Err(_) => {
                if let Some(entry) = entries.get_mut(&key) {
                    entry.failed = true;
                }
            }
        }
        answer
    }
}

/// Old answers go first, and then any: they can be asked for again.
fn make_room<K: Copy + Eq + Hash, V>(entries: &mut HashMap<K, Entry<V>>) {
    if entries.len() < KEPT {
        return;
    }
    entries.retain(|_, entry| entry.told.elapsed() < OLD);
    if entries.len() >= KEPT {
        let some: Vec<K> = entries.keys().take(KEPT / 4).copied().collect();
        for key in some {
            entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_grows_old() {
        let seconds = Duration::from_secs;
        assert_eq!(judge(seconds(9), false, false), Use::Give);
        assert_eq!(judge(seconds(11), false, false), Use::GiveAndAsk);
        assert_eq!(judge(seconds(11), true, false), Use::Give);
        // A token that was taken back counts for this long at most.
        assert_eq!(judge(seconds(20), false, false), Use::Ask);
        assert_eq!(judge(seconds(20), true, false), Use::Ask);
        // Nobody answered: nobody else waits.
        assert_eq!(judge(seconds(60), false, true), Use::GiveAndAsk);
        assert_eq!(judge(seconds(60), true, true), Use::Give);
        assert_eq!(judge(seconds(600), true, true), Use::Forget);
    }

    #[tokio::test]
    async fn an_answer_is_asked_for_once() {
        let memory: Arc<Memory<u8, u8>> = Arc::default();
        let first = memory.answer(1, || async { Ok(7) }).await;
        assert_eq!(first.unwrap(), 7);
        let second = memory.answer(1, || async { Err(Unavailable(String::new())) });
        assert_eq!(second.await.unwrap(), 7);
        let other = memory.answer(2, || async { Err(Unavailable("away".to_owned())) });
        assert_eq!(other.await.unwrap_err().to_string(), "away");
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let memory: Arc<Memory<usize, ()>> = Arc::default();
        for key in 0..KEPT + 10 {
            memory.answer(key, || async { Ok(()) }).await.unwrap();
        }
        assert!(memory.lock().len() <= KEPT);
    }
}
