//! What the controllers need of the gateway; filled by the wiring.

use futures::stream::BoxStream;

pub use cumulo_scale::Demand;

use crate::key::ObjectKey;

/// What services are asked to do.
pub trait DemandSource: Send + Sync + 'static {
    /// Demand of one service now; all zeros when it was never asked.
    fn demand(&self, service: &ObjectKey) -> Demand;

    /// Services whose demand changed in a way that scaling should look at: at
    /// once when a request waits for the first replica, and when demand begins
    /// or grows. `None` means that changes were missed and all should be looked at.
    fn changes(&self) -> BoxStream<'static, Option<ObjectKey>>;
}
