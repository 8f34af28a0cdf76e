//! The scheduler: which node, and which devices, each pod gets.
//!
//! ```text
//! watches ─► caches ─► View ─► decide (pure) ─► claims, bindings, evictions,
//!               ▲                               conditions, status of Queues
//!               └──── own writes ────────────────────────────┘
//! ```
//!
//! A decision is about everything that waits at the time. What was decided is
//! assumed at once ([`assumed`]) and written by many requests side by side; a write
//! that the server refuses, because somebody was faster, takes the assumption back.
//! Two schedulers at the same time bind no pod twice and give no claim devices
//! twice; that they do not give one device to two claims takes the election.

mod assumed;
mod carry_out;
mod claims;
mod decide;
mod dra;
mod known;
mod nearby;
mod node;
mod pod;
mod quantity;
mod rehearsal;
mod room;
mod selector;
mod status;
mod stores;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod translate;
mod view;
mod volumes;

pub use rehearsal::{Rehearsal, RehearsalError, Rehearsed};

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::leader::while_leader;
use crate::options::SchedulerOptions;
use carry_out::Carrier;
use dra::Expressions;
use stores::Stores;

/// The scheduler's name in pods that ask for it.
pub const NAME: &str = "cumulo";
pub(crate) const MANAGER: &str = "cumulo-scheduler";

/// Longest pause between two decisions while there is work.
const LONGEST_PAUSE: Duration = Duration::from_millis(200);
/// How long to wait after a decision that failed as a whole.
const AFTER_FAILURE: Duration = Duration::from_secs(5);

/// Schedules pods until `shutdown`; where the options name a Lease, while this
/// process leads.
pub async fn run(client: kube::Client, options: SchedulerOptions, shutdown: CancellationToken) {
    match options.leader.clone() {
        None => schedule(client, &options, shutdown).await,
        Some(leader) => {
            let work = |token| schedule(client.clone(), &options, token);
            while_leader(client.clone(), leader, shutdown, work).await;
        }
    }
}

async fn schedule(client: kube::Client, options: &SchedulerOptions, shutdown: CancellationToken) {
    let stores = Arc::new(Stores::new());
    let carrier = Carrier::new(client.clone(), Arc::clone(&stores), options.requests);
    let claims = async {
        if options.claim_controller {
            claims::run(client.clone(), Arc::clone(&stores)).await;
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = stores.follow(client.clone()) => {}
        () = claims => {}
        () = decisions(&stores, &carrier, options) => {}
    }
    // What is under way ends between two writes; the next start goes on from there.
    carrier.stop();
}

/// Decides whenever something changed.
async fn decisions(stores: &Arc<Stores>, carrier: &Carrier, options: &SchedulerOptions) {
    stores.synced().await;
    tracing::info!("scheduler started");
    let mut expressions = Expressions::new();
    let mut memory = stores::Memory::default();
    let mut again = None;
    loop {
        let began = Instant::now();
        let view = stores.view(options, &mut memory);
        let decided = tokio::task::spawn_blocking(move || {
            let decision = decide::decide(&view, &mut expressions);
            (view, decision, expressions)
        })
        .await;
        match decided {
            Ok((view, decision, kept)) => {
                expressions = kept;
                let took = began.elapsed();
                if !decision.binds.is_empty() {
                    tracing::debug!(
                        binds = decision.binds.len(),
                        waits = decision.waits.len(),
                        milliseconds = took.as_millis() as u64,
                        "decided"
                    );
                }
                let wake = carrier.carry_out(&view, decision).await;
                again = wake.map(|wake| Instant::now() + wake);
                // Changes come in crowds: one decision about many takes less than many.
                if stores.changed() {
                    tokio::time::sleep(took.min(LONGEST_PAUSE)).await;
                }
            }
            Err(error) => {
                // A panic: said, and tried again with what is there then.
                tracing::error!(%error, "a scheduling decision failed");
                expressions = Expressions::new();
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
        stores.next_change(again).await;
    }
}
