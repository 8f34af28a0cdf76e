//! The pod engine with real processes, and Python environments with real uv.

mod adoption;
mod agent;
mod bench;
mod containers;
mod devices;
mod environments;
mod gpu_shares;
mod limits;
mod logs;
mod probes;
mod sandbox;
mod termination;
