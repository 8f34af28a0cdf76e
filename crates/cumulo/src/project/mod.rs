//! A project: a folder of manifests and scripts.

pub mod apply;
pub mod files;
pub mod follow;
pub mod load;
pub mod step;
