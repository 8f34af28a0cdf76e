//! Leader election by a Lease (`coordination.k8s.io/v1`): of several processes
//! that could do a work, one does it. After client-go's `leaderelection`.
//!
//! A process leads while it renews its Lease. Others take it over when they have
//! seen no renewal for the Lease's duration, by their own clock. Whoever cannot
//! renew in time stops its work before the others may begin: no two work at the
//! same time as long as clocks run at about the same speed.

use std::future::Future;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, PostParams};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Which Lease, and how it is kept.
#[derive(Debug, Clone)]
pub struct LeaderOptions {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease: what is to be done by one process only.
    pub name: String,
    /// Name of this process, different from every other's.
    pub identity: String,
    /// How long others wait after a renewal before they take over.
    pub duration: Duration,
    /// How long this process goes on after a renewal before it stops; less than `duration`.
    pub deadline: Duration,
    /// How long between two looks at the Lease.
    pub retry: Duration,
}

impl LeaderOptions {
    /// The usual times (those of Kubernetes' own components) for a Lease.
    pub fn new(
        namespace: impl Into<String>,
        name: impl Into<String>,
        identity: impl Into<String>,
    ) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            duration: Duration::from_secs(15),
            deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

/// Why a Lease could not be taken or renewed.
#[derive(Debug, thiserror::Error)]
enum LeaseError {
    #[error("{0}")]
    Api(#[from] kube::Error),
}

/// Does `work` whenever this process leads, until `shutdown`. The token that
/// `work` is given is cancelled when the lead is lost; `work` must then end.
pub async fn while_leader<F, W>(
    client: kube::Client,
    options: LeaderOptions,
    shutdown: CancellationToken,
    mut work: F,
) where
    F: FnMut(CancellationToken) -> W,
    W: Future<Output = ()>,
{
    let api: Api<Lease> = Api::namespaced(client, &options.namespace);
    let mut candidate = Candidate {
        api,
        options,
        seen: None,
    };
    while !shutdown.is_cancelled() {
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = candidate.acquire() => {}
        }
        let (lease, identity) = (&candidate.options.name, &candidate.options.identity);
        tracing::info!(lease, identity, "leading");
        let token = shutdown.child_token();
        let working = work(token.clone());
        tokio::pin!(working);
        let ended = tokio::select! {
            () = &mut working => true,
            () = candidate.renew() => false,
            () = shutdown.cancelled() => false,
        };
        token.cancel();
        if !ended {
            working.await;
        }
        if shutdown.is_cancelled() {
            candidate.release().await;
        } else {
            tracing::warn!(lease = candidate.options.name, "the lead is lost");
        }
    }
}

struct Candidate {
    api: Api<Lease>,
    options: LeaderOptions,
    /// The version of the Lease last seen, and when it was first seen.
    seen: Option<(String, Instant)>,
}

impl Candidate {
    async fn acquire(&mut self) {
        loop {
            match self.try_take().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(lease = self.options.name, %error, "the lease cannot be taken");
                }
            }
            tokio::time::sleep(self.options.retry).await;
        }
    }

    /// Renews until that did not succeed for the deadline.
    async fn renew(&mut self) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(self.options.retry).await;
            let began = Instant::now();
            let left = self.options.deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.try_take()).await {
                Ok(Ok(true)) => renewed = began,
                // Somebody else has it.
                Ok(Ok(false)) => return,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.options.name, %error, "the lease cannot be renewed");
                }
                Err(_) => return,
            }
            if renewed.elapsed() >= self.options.deadline {
                return;
            }
        }
    }

    /// Takes or renews the Lease; false when another has it.
    async fn try_take(&mut self) -> Result<bool, LeaseError> {
        let now = MicroTime(Timestamp::now());
        let Some(mut lease) = self.api.get_opt(&self.options.name).await? else {
            let lease = Lease {
                metadata: ObjectMeta {
                    name: Some(self.options.name.clone()),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    lease_transitions: Some(0),
                    ..self.spec(now.clone(), Some(now))
                }),
            };
            return taken(self.api.create(&PostParams::default(), &lease).await);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|(seen, _)| *seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let spec = lease.spec.take().unwrap_or_default();
        let holder = spec.holder_identity.as_deref().unwrap_or_default();
        let own = holder == self.options.identity;
        let duration = spec
            .lease_duration_seconds
            .and_then(|seconds| u64::try_from(seconds).ok());
        let duration = duration.map_or(self.options.duration, Duration::from_secs);
        let idle = self
            .seen
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() >= duration);
        if !own && !holder.is_empty() && !idle {
            return Ok(false);
        }
        let transitions = spec.lease_transitions.unwrap_or(0);
        let acquired = if own {
            spec.acquire_time
        } else {
            Some(now.clone())
        };
        lease.spec = Some(LeaseSpec {
            lease_transitions: Some(transitions + i32::from(!own)),
            ..self.spec(now, acquired)
        });
        // The version that was read goes along: of two who try, one is refused.
        let name = self.options.name.clone();
        taken(
            self.api
                .replace(&name, &PostParams::default(), &lease)
                .await,
        )
    }

    fn spec(&self, now: MicroTime, acquired: Option<MicroTime>) -> LeaseSpec {
        let seconds = self.options.duration.as_secs().max(1);
        LeaseSpec {
            holder_identity: Some(self.options.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(seconds).unwrap_or(i32::MAX)),
            acquire_time: acquired,
            renew_time: Some(now),
            ..LeaseSpec::default()
        }
    }

    /// Lets the next one begin at once.
    async fn release(&self) {
        let Ok(Some(mut lease)) = self.api.get_opt(&self.options.name).await else {
            return;
        };
        let own = lease
            .spec
            .as_mut()
            .filter(|spec| spec.holder_identity.as_deref() == Some(self.options.identity.as_str()));
        if let Some(spec) = own {
            spec.holder_identity = None;
            spec.lease_duration_seconds = Some(1);
            // Whoever took it meanwhile keeps it.
            let _ = self
                .api
                .replace(&self.options.name, &PostParams::default(), &lease)
                .await;
        }
    }
}

/// A refusal because another was faster is no error.
fn taken(written: Result<Lease, kube::Error>) -> Result<bool, LeaseError> {
    match written {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error.into()),
    }
}
