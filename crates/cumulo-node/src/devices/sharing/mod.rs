//! Sharing a GPU that is not partitioned: with NVIDIA's Multi-Process Service (MPS)
//! where it is there, by turns where it is not.

mod daemon;
pub mod limits;

#[cfg(test)]
mod tests;

pub use daemon::{Daemons, MpsError, find_program};
pub use limits::{CONDITION, Limits, Means, Worth, worth};
