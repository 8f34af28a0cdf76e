//! The gateway: the one way in for inference.
//!
//! ```text
//!             InferenceServices, Pods (watch)
//!                        │ events
//!                        ▼
//!                 table (pure reducer) ──► route per service
//!                                              │
//!  request ─► routes ─► proxy ─► service (dispatcher: places, queue, demand)
//!                         │                    │
//!                         └──► pool ──► model server
//! ```
//!
//! - [`table`] turns watch events into the replicas that each service may use.
//! - [`dispatch`] decides, per service, which replica gets a request, who waits
//!   and who is refused. It is pure and counts exactly what is in flight.
//! - [`window`] remembers the concurrency of the last minutes, with no timer.
//! - [`Handle`] is what the rest of the platform holds: the router, the demand
//!   signal for autoscaling, and the metrics.
//!
//! Nothing here runs periodically: an idle gateway uses no CPU.

mod body;
pub mod dispatch;
mod handle;
mod metrics;
mod options;
mod pool;
mod proxy;
mod refusal;
mod routes;
mod service;
pub mod table;
mod watch;
pub mod window;

pub use handle::{Demand, Gateway, Handle};
pub use options::Options;
pub use refusal::Refusal;
pub use table::{Event, PodRecord, ServiceKey, ServiceRecord};

/// The label that says which InferenceService a pod belongs to.
pub const SERVICE_LABEL: &str = cumulo_api::labels::INFERENCE_SERVICE;
/// The label that says which revision of its service a pod runs.
pub const REVISION_LABEL: &str = cumulo_api::labels::REVISION;
/// The annotation that overrides the port a pod serves inference on.
pub const PORT_ANNOTATION: &str = "cumulo.dev/port";
/// A model server sets this header on a 503 that it gave before doing any work,
/// so that the request may go to another replica.
pub const RETRY_HEADER: &str = "x-cumulo-retry";
