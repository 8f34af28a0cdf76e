//! What is decided, as Kubernetes documents it.

mod dra;
mod predicates;
mod priority;
mod properties;
