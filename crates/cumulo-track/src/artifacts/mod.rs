//! The artifact store: a folder or a bucket, reached only through sanitised paths.
//!
//! ```text
//! blobs/sha256/<hex>/<file>                  content-addressed, verified on upload
//! datasets/<namespace>/<name>/<version>/     snapshots
//! experiments/<id>/<run>/artifacts/…         artifacts of runs
//! experiments/<id>/models/<model>/artifacts/…  files of logged models
//! .uploads/                                  uploads under way
//! ```

mod bucket;
mod folder;
mod intake;
mod multipart;
mod path;
mod store;

pub(crate) use multipart::Part;
pub use path::ArtifactPath;
pub use store::ArtifactStore;
