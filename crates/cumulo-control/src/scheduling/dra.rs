//! Dynamic Resource Allocation (`resource.k8s.io/v1`): which devices a pod's
//! ResourceClaims get on a node. Pure.
//!
//! ```text
//! ResourceSlices ─► Inventory ─┐
//! DeviceClasses, claim ─► Wish ┼─► allocate ─► what each request gets
//! claims with devices ─► InUse ┘
//! ```

mod allocate;
mod cel;
pub(crate) mod gpu;
mod in_use;
mod inventory;
mod result;
mod wish;

pub(crate) use allocate::{Matcher, allocate, room};
pub(crate) use cel::Expressions;
pub(crate) use in_use::{InUse, allocated};
pub(crate) use inventory::Inventory;
pub(crate) use result::{Given, allocation, results};
pub(crate) use wish::{Class, Wish};
