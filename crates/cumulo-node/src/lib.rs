//! The node agent: runs a pod's containers as processes.
//!
//! - [`engine`] runs pods: it knows files and processes, no API.
//! - [`agent`] connects the engine to a Kubernetes API server: the Node
//!   object, its lease, the watch on pods, their statuses.
//! - [`devices`] reads the GPUs and decides what of them a pod gets.
//! - [`shim`] is the small process that supervises one container and outlives
//!   the platform.
//! - [`environment`] resolves, locks and builds Python environments with uv.
//! - [`sandbox`] limits what pods reach, with Landlock and seccomp.
//!
//! Deliberately absent: container images and engines, mounts, users, control
//! groups and namespaces. A pod whose image is not the runtime image is refused with a
//! message.

pub mod address;
pub mod agent;
pub mod devices;
pub mod engine;
pub mod environment;
pub mod options;
pub mod process;
pub mod quantity;
pub mod record;
pub mod sandbox;
pub mod shim;
pub mod variables;

pub use agent::{Agent, AgentError, Handle};
pub use engine::attach::Attached;
pub use engine::exec::{ExecProcess, ExecSession, Input, Output};
pub use engine::logs::LogOptions;
pub use engine::measure::{ContainerUsage, NodeUsage, Usage};
pub use engine::terminal::Terminal;
pub use engine::{Engine, EngineError};
pub use options::Options;
pub use shim::OutputStream;
