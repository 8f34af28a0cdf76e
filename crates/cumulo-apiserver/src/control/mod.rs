//! The controllers that are part of an API server: what deletion, namespaces
//! and custom resource definitions need to come to their end.

mod authority;
mod budgets;
mod definitions;
mod events;
mod garbage;
mod namespaces;
mod quotas;
mod roles;
mod service_ranges;

use std::time::Duration;

pub(crate) use budgets::{Budget, of_pod as budgets_of_pod};
pub(crate) use definitions::{DEFINITION_FINALIZER, install};
pub(crate) use namespaces::{PROTECTED, ensure_default_namespaces};
pub(crate) use roles::ensure_default_roles;
pub(crate) use service_ranges::ensure_default_service_range;

use crate::engine::Engine;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Field manager of these controllers.
const MANAGER: &str = "cumulo-apiserver";
/// First wait before something that failed is tried again; doubles up to a minute.
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_MOST: Duration = Duration::from_secs(60);

/// Runs them all until `stop`.
pub(crate) async fn run(engine: Arc<Engine>, stop: CancellationToken) {
    let all = async {
        tokio::join!(
            authority::run(&engine),
            garbage::run(&engine),
            namespaces::run(&engine),
            definitions::run(&engine),
            events::run(&engine),
            roles::run(&engine),
            budgets::run(&engine),
            quotas::run(&engine),
        )
    };
    tokio::select! {
        _ = all => {}
        () = stop.cancelled() => {}
    }
}

/// Waits that grow while things go wrong.
#[derive(Debug)]
struct Backoff(Duration);

impl Backoff {
    fn new() -> Self {
        Self(BACKOFF)
    }

    fn reset(&mut self) {
        self.0 = BACKOFF;
    }

    async fn wait(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 2).min(BACKOFF_MOST);
    }
}
