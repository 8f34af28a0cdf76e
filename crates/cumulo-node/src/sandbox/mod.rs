//! The sandbox around what runs in pods.
//!
//! ```text
//!  node agent ──► shim ──fork──► [container's sandbox] ──exec──► program
//!  (no sandbox)   (no sandbox,          │ a role of ours: `cumulo exec`
//!                  signals, waits)      └──fork──► [and the user's] ──exec──► python train.py
//! ```
//!
//! Linux, without root, mounts or namespaces: **Landlock** limits files,
//! connections, signals and abstract sockets; **seccomp** refuses the system
//! calls that reach around it (see `syscalls`); capabilities are dropped and
//! `no_new_privs` is set. All of it is inherited and cannot be undone, so what
//! a container starts is confined as it is, and adopted containers stay so.
//!
//! A [`Policy`] is data that follows from what the node knows of a container
//! ([`Place`]). The container's process gets it between fork and exec
//! ([`Prepared::confine`]); so do `exec`, probes and hooks. A container whose
//! command is one of Cumulo's own ([`RoleAccess`]) is confined more widely:
//! it builds environments in the shared cache and reads the artifact store.
//! Before it starts the user's program it confines that by the policy that a
//! container of user code has, and what it was asked to use
//! (`CUMULO_SANDBOX` carries it; rules only ever add up to less).
//!
//! # What user code can do
//!
//! - read and execute programs and libraries of the machine (`/usr`, `/opt`,
//!   the search path, its environment and Python), a list of settings in
//!   `/etc`, `/proc` and processors in `/sys`;
//! - read and write its working folder, its `TMPDIR`, its volumes (those of
//!   ConfigMaps and Secrets, and mounts with `readOnly`, it only reads), use
//!   `/dev/null` and its like, and shared memory whose name it knows;
//! - connect anywhere, or where `cumulo.dev/egress` says (see [`egress`]);
//! - signal and trace nothing but its own;
//! - with a GPU, name its threads (see `thread_names`).
//!
//! # Why was something refused?
//!
//! The program sees `PermissionError` (`EACCES` for files and connections,
//! `EPERM` for system calls and signals). `kubectl describe pod` shows the
//! condition `cumulo.dev/Sandboxed` with what is enforced on this kernel. With
//! auditing on, kernels from 6.15 name the path and the right:
//! `ausearch -m LANDLOCK_ACCESS` or `journalctl -k | grep landlock`. Usual
//! causes: `/tmp` instead of `tempfile` (use `$TMPDIR`), files beside the
//! project (name them in the manifest), folders of the machine (mount them as
//! `hostPath` below one of the owner's `allowedRoots`).
//!
//! # What it is not
//!
//! - Pods share the kernel, the network and the process table: names and
//!   command lines of processes show in `/proc`, their contents do not.
//! - Hosts in `cumulo.dev/egress` are advice; ports are enforced.
//! - Sockets with a path can be connected to by whoever may write them, as
//!   Landlock covers that from Linux 7.1 only: a container engine's socket is
//!   as open to user code as to the person who runs the platform.
//! - Building packages from source runs their build scripts, in the role's
//!   sandbox, not in the user's: they can write the shared cache.
//! - A process that `exec` starts has a sandbox of its own with the same
//!   rules, so it cannot signal or trace what the container started.

pub mod egress;
mod enter;
mod error;
mod files;
mod policy;
pub mod software;
mod support;
mod syscalls;
mod system;
mod thread_names;

#[cfg(test)]
mod tests;

pub use egress::{EGRESS_ANNOTATION, Egress, EgressError};
pub(crate) use enter::{Inherited, leave_behind};
pub use enter::{Prepared, enter, prepare, prepare_for};
pub use error::SandboxError;
pub use policy::{Access, FileRule, Limits, Place, Policy, RoleAccess};
pub use support::{CONDITION, Status, Support};

/// Variable in which a role finds the policy for the user's code.
pub const POLICY_VARIABLE: &str = "CUMULO_SANDBOX";
