//! Builds snapshots from real files, over a real loopback server, into a real store.

mod bad_input;
mod checks;
mod download;
mod fixture;
mod formats;
mod snapshots;
mod sql;
