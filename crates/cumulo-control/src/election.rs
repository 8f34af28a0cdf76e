//! Which of several replicas works: the holder of a Lease.
//!
//! As in client-go, nobody trusts another machine's clock: a lease is over when
//! it was not renewed for its whole duration as seen from here, and a holder
//! that could not renew for some time stops before that.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, ObjectMeta, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How long what a leader ran may take to stop.
const STOP: Duration = Duration::from_secs(5);

/// Settings of an election.
#[derive(Debug, Clone)]
pub struct ElectionOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Who this replica is; no other may have the same name.
    pub identity: String,
    /// How long a lease holds that is not renewed.
    pub lease: Duration,
    /// A leader that could not renew for this long stops; less than `lease`.
    pub deadline: Duration,
    /// How often the leader renews.
    pub renew: Duration,
    /// How often others look, and the leader tries again after a failure.
    pub retry: Duration,
}

impl ElectionOptions {
    /// The usual times.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        identity: impl Into<String>,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            renew: Duration::from_secs(5),
            retry: Duration::from_secs(2),
        }
    }
}

/// What others may know of this replica's part in an election.
#[derive(Debug, Default)]
pub struct Leadership {
    leads: AtomicBool,
    terms: AtomicU64,
}

impl Leadership {
    /// Whether this replica holds the lease.
    pub fn leads(&self) -> bool {
        self.leads.load(Ordering::Relaxed)
    }

    /// How often it became the leader.
    pub fn terms(&self) -> u64 {
        self.terms.load(Ordering::Relaxed)
    }
}

/// A lease as last seen, and since when it looks like that.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    holder: String,
    version: String,
    since: Instant,
}

/// What a lease means for a replica.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    /// It is ours: renew it.
    Ours,
    /// Nobody holds it any more: take it.
    Free,
    /// Somebody else holds it.
    Theirs,
}

/// Judges a lease: `seen` is since when it was seen unchanged.
fn judge(spec: &LeaseSpec, identity: &str, unchanged: Duration) -> Claim {
    let holder = spec.holder_identity.as_deref().unwrap_or_default();
    if holder == identity {
        return Claim::Ours;
    }
    let seconds = spec.lease_duration_seconds.unwrap_or(0).max(1);
    let lease = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
    if holder.is_empty() || unchanged >= lease {
        Claim::Free
    } else {
        Claim::Theirs
    }
}

/// The lease as this replica writes it.
fn claimed(before: Option<&LeaseSpec>, options: &ElectionOptions, now: Timestamp) -> LeaseSpec {
    let seconds = i32::try_from(options.lease.as_secs()).unwrap_or(i32::MAX);
    let held = before.is_some_and(|spec| spec.holder_identity.as_ref() == Some(&options.identity));
    let transitions = before.and_then(|spec| spec.lease_transitions).unwrap_or(0);
    let acquired = before.and_then(|spec| spec.acquire_time.clone());
    LeaseSpec {
        holder_identity: Some(options.identity.clone()),
        lease_duration_seconds: Some(seconds),
        acquire_time: acquired.filter(|_| held).or(Some(MicroTime(now))),
        renew_time: Some(MicroTime(now)),
        lease_transitions: Some(match (before, held) {
            (None, _) => 0,
            (Some(_), true) => transitions,
            (Some(_), false) => transitions.saturating_add(1),
        }),
        ..LeaseSpec::default()
    }
}

/// Takes part in an election until `shutdown`: whenever this replica leads,
/// `lead` runs; its token is cancelled when it leads no longer.
pub async fn elect<F, R>(
    client: kube::Client,
    options: ElectionOptions,
    leadership: Arc<Leadership>,
    shutdown: CancellationToken,
    lead: F,
) where
    F: Fn(CancellationToken) -> R + Send + Sync,
    R: Future<Output = ()> + Send + 'static,
{
    let mut replica = Replica {
        api: Api::namespaced(client, &options.namespace),
        options,
        seen: None,
    };
    let mut told = String::new();
    loop {
        match replica.attempt().await {
            Ok(true) => {
                told.clear();
                tracing::info!(identity = replica.options.identity, "leading");
                leadership.terms.fetch_add(1, Ordering::Relaxed);
                leadership.leads.store(true, Ordering::Relaxed);
                let stop = shutdown.child_token();
                let mut work = tokio::spawn(lead(stop.clone()));
                tokio::select! {
                    () = replica.hold() => tracing::warn!("the lease is lost: others may lead now"),
                    () = shutdown.cancelled() => {}
                    _ = &mut work => {}
                }
                stop.cancel();
                if !work.is_finished() && tokio::time::timeout(STOP, &mut work).await.is_err() {
                    work.abort();
                }
                leadership.leads.store(false, Ordering::Relaxed);
                if shutdown.is_cancelled() {
                    replica.release().await;
                    return;
                }
            }
            Ok(false) => told.clear(),
            Err(error) => {
                // Said once as long as it stays the same.
                let error = replica.explain(&error);
                if told != error {
                    tracing::warn!(error, "the election's lease cannot be had, trying again");
                    told = error;
                }
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = tokio::time::sleep(replica.options.retry) => {}
        }
    }
}

struct Replica {
    api: Api<Lease>,
    options: ElectionOptions,
    seen: Option<Seen>,
}

impl Replica {
    /// Looks at the lease and takes or renews it if it may; `true` when it is ours now.
    async fn attempt(&mut self) -> Result<bool, kube::Error> {
        let limit = self.options.deadline.min(Duration::from_secs(5));
        tokio::time::timeout(limit, self.attempt_once())
            .await
            .unwrap_or_else(|_| Err(timed_out()))
    }

    async fn attempt_once(&mut self) -> Result<bool, kube::Error> {
        let parameters = PostParams::default();
        let Some(mut lease) = self.api.get_opt(&self.options.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.options.name.clone()),
                    namespace: Some(self.options.namespace.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(claimed(None, &self.options, Timestamp::now())),
            };
            return won(self.api.create(&parameters, &lease).await);
        };
        let spec = lease.spec.take().unwrap_or_default();
        let unchanged = self.look(&lease, &spec);
        if judge(&spec, &self.options.identity, unchanged) == Claim::Theirs {
            return Ok(false);
        }
        // The version that was read guards against another who writes now.
        lease.spec = Some(claimed(Some(&spec), &self.options, Timestamp::now()));
        won(self
            .api
            .replace(&self.options.name, &parameters, &lease)
            .await)
    }

    /// Since when the lease has been seen as it is.
    fn look(&mut self, lease: &Lease, spec: &LeaseSpec) -> Duration {
        let holder = spec.holder_identity.clone().unwrap_or_default();
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        match &self.seen {
            Some(seen) if seen.holder == holder && seen.version == version => seen.since.elapsed(),
            _ => {
                self.seen = Some(Seen {
                    holder,
                    version,
                    since: Instant::now(),
                });
                Duration::ZERO
            }
        }
    }

    /// Renews until that fails for too long or somebody else has the lease.
    async fn hold(&mut self) {
        let mut renewed = Instant::now();
        let mut wait = self.options.renew;
        loop {
            tokio::time::sleep(wait).await;
            match self.attempt().await {
                Ok(true) => {
                    renewed = Instant::now();
                    wait = self.options.renew;
                }
                Ok(false) => return,
                Err(error) => {
                    if renewed.elapsed() >= self.options.deadline {
                        return;
                    }
                    tracing::warn!(%error, "the lease cannot be renewed, trying again");
                    wait = self.options.retry;
                }
            }
        }
    }

    /// Gives the lease back, so that another need not wait for its end.
    async fn release(&mut self) {
        let work = async {
            let Some(mut lease) = self.api.get_opt(&self.options.name).await? else {
                return Ok(());
            };
            let Some(spec) = &mut lease.spec else {
                return Ok(());
            };
            if spec.holder_identity.as_ref() == Some(&self.options.identity) {
                spec.holder_identity = None;
                let parameters = PostParams::default();
                self.api
                    .replace(&self.options.name, &parameters, &lease)
                    .await?;
            }
            Ok(())
        };
        let given: Result<(), kube::Error> = tokio::time::timeout(self.options.retry, work)
            .await
            .unwrap_or_else(|_| Err(timed_out()));
        if let Err(error) = given {
            tracing::debug!(%error, "the lease is not given back and will run out");
        }
    }

    fn explain(&self, error: &kube::Error) -> String {
        let namespace = &self.options.namespace;
        match error {
            kube::Error::Api(status) if status.code == 404 => format!(
                "there is no namespace {namespace} for the lease: make it, or name another with --namespace"
            ),
            kube::Error::Api(status) if status.code == 403 => {
                format!(
                    "{}: the operator's role needs get, create and update of leases in {namespace}",
                    status.message
                )
            }
            other => other.to_string(),
        }
    }
}

/// A conflict means that another was faster.
fn won(result: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match result {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn timed_out() -> kube::Error {
    kube::Error::Service(std::io::Error::from(std::io::ErrorKind::TimedOut).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: Option<&str>) -> LeaseSpec {
        LeaseSpec {
            holder_identity: holder.map(str::to_owned),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(2),
            acquire_time: Some(MicroTime(Timestamp::UNIX_EPOCH)),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_is_judged_by_the_own_clock() {
        let seconds = Duration::from_secs;
        let judged = |holder, unchanged| judge(&lease(holder), "me", seconds(unchanged));
        assert_eq!(judged(Some("me"), 100), Claim::Ours);
        assert_eq!(judged(Some("other"), 14), Claim::Theirs);
        assert_eq!(judged(Some("other"), 15), Claim::Free);
        assert_eq!(judged(Some(""), 0), Claim::Free);
        assert_eq!(judged(None, 0), Claim::Free);
    }

    #[test]
    fn terms_are_counted() {
        let options = ElectionOptions::new("n", "l", "me");
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let first = claimed(None, &options, now);
        assert_eq!(first.lease_transitions, Some(0));
        let renewed = claimed(Some(&lease(Some("me"))), &options, now);
        assert_eq!(renewed.lease_transitions, Some(2));
        assert_eq!(
            renewed.acquire_time,
            Some(MicroTime(Timestamp::UNIX_EPOCH)),
            "a renewal is no new term"
        );
        let taken = claimed(Some(&lease(Some("other"))), &options, now);
        assert_eq!(taken.lease_transitions, Some(3));
        assert_eq!(taken.acquire_time, Some(MicroTime(now)));
        assert!(options.renew < options.deadline && options.deadline < options.lease);
    }
}
