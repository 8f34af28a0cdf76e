//! Settings of the controllers.

use std::time::Duration;

use crate::leader::LeaderOptions;

/// Settings of the controllers.
#[derive(Debug, Clone)]
pub struct Options {
    /// Root of the artifact store as pods see it, such as `file:///home/me/.cumulo/artifacts`.
    pub artifacts_url: String,
    /// The tracking server as pods see it, such as `http://127.0.0.1:8700`.
    pub tracking_uri: String,
    /// Where pods find the token for the tracking server.
    pub tracking_secret: Option<TrackingSecret>,
    /// Further variables of the pods that build Datasets: the folders and hosts
    /// that sources may come from (`CUMULO_ALLOWED_ROOTS`, `CUMULO_ALLOWED_HOSTS`).
    pub dataset_environment: Vec<(String, String)>,
    /// The gateway as users see it; services' URLs begin with it.
    pub gateway_url: String,
    /// Image of all pods that the controllers make.
    pub runtime_image: String,
    /// `spec.schedulerName` of those pods; the server's default when absent.
    pub scheduler_name: Option<String>,
    /// Place pods as well: the laptop has no scheduler of its own.
    pub scheduler: Option<SchedulerOptions>,
    /// How failed builds and evaluations are tried again.
    pub retry: Retry,
    /// How many objects are worked on at the same time.
    pub workers: usize,
}

impl Options {
    /// The usual settings for one address that serves everything.
    pub fn new(platform_url: impl Into<String>, artifacts_url: impl Into<String>) -> Self {
        let platform_url = platform_url.into();
        Self {
            artifacts_url: artifacts_url.into(),
            tracking_uri: platform_url.clone(),
            tracking_secret: None,
            dataset_environment: Vec::new(),
            gateway_url: platform_url,
            runtime_image: cumulo_api::RUNTIME_IMAGE.to_owned(),
            scheduler_name: None,
            scheduler: None,
            retry: Retry::default(),
            workers: 4,
        }
    }
}

/// The Secret that holds the token for the tracking server.
#[derive(Debug, Clone)]
pub struct TrackingSecret {
    /// Name of the Secret, in the namespace of each pod.
    pub name: String,
    /// Key in the Secret.
    pub key: String,
    /// The token. When given, the controllers keep the Secret in every namespace
    /// in which they make pods.
    pub token: Option<Token>,
}

/// A secret text that never shows in logs.
#[derive(Clone)]
pub struct Token(String);

impl Token {
    /// Wraps a secret text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, for the one place that needs it.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Token(…)")
    }
}

/// Settings of the scheduler.
#[derive(Debug, Clone)]
pub struct SchedulerOptions {
    /// `spec.schedulerName` of the pods that it places.
    pub name: String,
    /// Also place pods that name `default-scheduler` or none; for servers that
    /// have no other scheduler.
    pub default_scheduler: bool,
    /// Make ResourceClaims from templates and free those that nobody uses any
    /// more; for servers that have no controller for it.
    pub claim_controller: bool,
    /// The Lease that this process must hold; none: it is the only one.
    pub leader: Option<LeaderOptions>,
    /// Most pods that are being bound at the same time.
    pub requests: usize,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self {
            name: crate::scheduling::NAME.to_owned(),
            default_scheduler: false,
            claim_controller: false,
            leader: None,
            requests: 128,
        }
    }
}

/// Exponential back-off with a last attempt.
#[derive(Debug, Clone)]
pub struct Retry {
    /// The wait before the second attempt; each further one doubles it.
    pub base: Duration,
    /// The longest wait.
    pub max: Duration,
    /// Attempts in all.
    pub attempts: u32,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            base: Duration::from_secs(5),
            max: Duration::from_secs(300),
            attempts: 4,
        }
    }
}

impl Retry {
    /// The wait after failed attempt number `attempt` (counted from 1).
    #[must_use]
    pub fn wait_after(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(20);
        self.base.saturating_mul(1 << doublings).min(self.max)
    }
}
