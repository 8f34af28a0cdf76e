//! The service as its users meet it: over HTTP, on a free port, with real files. The
//! same tests run on each kind of database and store.

mod folder;
mod migrations;
#[path = "../../../../tests/peers/peer.rs"]
mod peer;
mod replicas;
mod server;

/// SQLite and a folder, as on a laptop.
#[allow(clippy::duplicate_mod, reason = "the same tests, elsewhere")]
#[path = "suite.rs"]
mod on_a_laptop;

/// PostgreSQL and S3, as on a cluster.
#[allow(clippy::duplicate_mod, reason = "the same tests, elsewhere")]
#[path = "suite.rs"]
mod on_a_cluster;
