//! The general solver: a [`Problem`] in, a [`Solution`] out.
//!
//! [`solve`] takes each waiting job in its turn (dominant-resource fairness
//! over the tree of queues, an ordered key inside a queue), puts all of its pods
//! where the least worth is lost for other work, else makes room by ending or
//! moving what it may displace, else keeps the earliest place for it and fills
//! the gaps with what does not delay it. What waits is told why and what would
//! help. [`verify`] checks a solution from scratch with none of that code.

mod decide;
mod engine;
mod explain;
mod fit;
pub mod geometry;
mod index;
mod model;
mod nearby;
mod order;
mod place;
mod preempt;
mod problem;
mod queue;
mod quota;
mod reserve;
mod solution;
mod state;
mod validate;
mod value;
pub mod verify;
mod work;

pub use problem::{
    Availability, Device, Health, Instance, Node, Options, Problem, Resources, Seconds, Sharing,
    Taint, TaintEffect, WHOLE,
};
pub use queue::{DEVICE_QUOTA, Queue, Quota};
pub use solution::{Action, Cause, JobRef, Reservation, Solution, Wait};
pub use validate::{ProblemError, validate};
pub use value::{DeviceView, Division, Fragmentation, NodeValue, NodeView};
pub use work::{
    Affinity, AffinityRule, Ask, Condition, DevicePart, DeviceRequest, Job, Locality, Members,
    Part, Placed, Placement, Pod, Preference, Requirement, Running, Spread, Toleration, Topology,
};

/// Decides what runs where, with [`Fragmentation`] as the worth of free room.
///
/// # Errors
///
/// When the problem makes no sense; nothing is decided then.
pub fn solve(problem: &Problem) -> Result<Solution, ProblemError> {
    solve_with(problem, &Fragmentation::of(problem))
}

/// Decides what runs where. The same problem and value give the same solution.
///
/// # Errors
///
/// When the problem makes no sense; nothing is decided then.
pub fn solve_with(problem: &Problem, value: &dyn NodeValue) -> Result<Solution, ProblemError> {
    validate(problem)?;
    let model = model::Model::new(problem);
    Ok(decide::Decision::new(&model, value).run())
}
