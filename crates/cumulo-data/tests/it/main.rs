//! Builds snapshots from real files, over a real loopback server, into a real store.

mod bad_input;
mod download;
mod fixture;
mod formats;
#[path = "../../../../tests/peers/peer.rs"]
mod peer;
mod sql;

/// What has to do with the store, in a folder.
#[allow(clippy::duplicate_mod, reason = "the same tests, elsewhere")]
#[path = "suite.rs"]
mod in_a_folder;

/// The same in a bucket of an S3 service.
#[allow(clippy::duplicate_mod, reason = "the same tests, elsewhere")]
#[path = "suite.rs"]
mod in_a_bucket;
