//! The Kubernetes API, embedded: one generic handler over a table of resource
//! types, objects in memory and in SQLite, watches, patches, server-side apply,
//! custom resources, and the controllers that belong to an API server.
//!
//! ```text
//! handler    HTTP: route, authenticate, authorize, answer
//! operation  create, get, list, watch, change, delete, without HTTP
//! admission  classes, policies, quotas: what other objects say of a write
//! strategy   what is particular to single kinds      ─┐
//! validation names, labels, metadata                  │ pure
//! cel, policy expressions of rules and policies        │
//! schema, merge, table, openapi, selector, resource,   │
//! rbac       roles: who may do what                   ─┘
//! storage    objects, versions, history; one writer, group commit
//! audit      who did what, a line each
//! tokens     signed tokens of service accounts
//! control    garbage collection, namespaces, definitions, old events
//! listener   one port for TLS and plain HTTP, for whatever router
//! connection one over TLS, written to by HTTP and, for watches, beside it
//! ```
//!
//! The crate knows nothing of Cumulo's own kinds: to it they are custom
//! resources. It opens no socket; [`Handle::router`] is served by whoever wires
//! it, on a socket of theirs ([`listener::serve`]), and [`Handle::client_service`] needs no socket at all.

mod admission;
pub mod audit;
pub mod auth;
mod cel;
mod client;
mod connection;
mod control;
mod convert;
mod decode;
mod engine;
mod handler;
mod kubelet;
pub mod listener;
pub mod merge;
pub mod openapi;
mod operation;
mod policy;
mod protobuf;
mod quantity;
mod quota;
pub mod rbac;
mod resource;
mod roles;
pub mod schema;
mod selector;
mod server;
mod status;
mod storage;
mod strategy;
pub mod table;
mod tokens;
mod validation;

pub use client::ClientService;
pub use engine::{Clock, Settings};
pub use handler::VERSION;
pub use kubelet::{ContainerUsage, KubeletProxy, NodeUsage, PodStream, PodTarget, Usage};
pub use server::{Error, Handle, Options, Server};
pub use status::{ApiError, Cause, Failure};
pub use storage::{DatabaseError, HistoryLimits, LockError, PersistError, WriteError};
pub use tokens::{ISSUER, KeyError, TokenKey};
