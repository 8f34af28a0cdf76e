//! What is decided, as Kubernetes documents it.

mod dra;
mod gpu;
mod predicates;
mod priority;
mod properties;
