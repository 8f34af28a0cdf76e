//! The API server through its clients: kube in process, plain HTTP through the
//! router, everything with a real database in a temporary folder.

mod access;
mod accounts;
mod admission;
mod basics;
mod connections;
mod definitions;
mod deletion;
mod durability;
mod kinds;
mod patches;
mod protocol;
mod support;
mod watches;
