//! Deciding what runs where. Pure: no clock, no input or output, no
//! Kubernetes; whoever calls passes seeds and reads results.
//!
//! [`packing`] places one pod after another so that as much GPU as possible
//! can be used; [`replay`] measures such policies on traces of real clusters;
//! [`solver`] decides whole problems: gangs, partitions, queues, preemption.

pub mod packing;
pub mod replay;
pub mod solver;
