//! What a person types: each command is one module.

pub mod apply;
pub mod backup;
pub mod delete;
pub mod describe;
pub mod devices;
pub mod explain;
pub mod get;
pub mod gpus;
pub mod hints;
pub mod logs;
pub mod models;
pub mod predict;
pub mod print;
pub mod reference;
pub mod run;
pub mod simulate;
pub mod sql;
pub mod status;
pub mod train;
pub mod up;
pub mod user;
