//! Data preparation: SQL over files of any format, versioned snapshots, and
//! the checks that guard them.
//!
//! ```text
//! BuildRequest ─► source (find, download, hash, sniff, schema)
//!                   │
//!                   ├─► snapshot::version ── already there? ─► done
//!                   ▼
//!                 query (parse, plan, explain mistakes)
//!                   ▼
//!                 snapshot (Parquet + statistics in one pass)
//!                   ▼
//!                 check ── broken? ─► refused, nothing is published
//!                   ▼
//!                 store: datasets/<namespace>/<name>/<version>/
//! ```
//!
//! [`build()`] does all of it. [`query_tables`] answers SQL over snapshots, and
//! [`read_snapshot`] hands a snapshot's rows to a trainer.
//!
//! Deliberately absent: Kubernetes, clocks in anything that decides a version,
//! and any reach to a path or a host that [`Options`] does not allow.

pub mod build;
pub mod check;
pub mod fetch;
pub mod files;
pub mod format;
pub mod options;
pub mod query;
pub mod read;
pub mod request;
pub mod snapshot;
pub mod source;
pub mod sql;
pub mod store;

pub use build::{BuildError, BuildOutcome, Progress, build};
pub use check::CheckResult;
pub use fetch::{FetchError, fetch_snapshot, snapshot_names};
pub use format::{to_csv, to_json, to_table};
pub use options::Options;
pub use query::QueryError;
pub use read::{ReadError, read_snapshot, snapshot_files, snapshot_schema};
pub use request::{BuildRequest, Check, Range, SourceOptions, SourceSpec};
pub use snapshot::manifest::{ColumnSummary, Manifest};
pub use source::SourceError;
pub use sql::{QueryResult, SqlError, SqlLimits, SqlTable, query_tables};
pub use store::{ArtifactStore, StoreError};
