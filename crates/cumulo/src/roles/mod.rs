//! What pods run: each role reads its task from the environment, does it, and
//! leaves its result as the termination message.

pub mod data;
pub mod exec;
pub mod learn;
mod rendezvous;
pub mod scheduler;
pub mod serve;
mod task;
