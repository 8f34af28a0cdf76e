//! The artifact store: a folder, reached only through sanitised paths.
//!
//! ```text
//! blobs/sha256/<hex>/<file>                  content-addressed, verified on upload
//! datasets/<namespace>/<name>/<version>/     snapshots
//! experiments/<id>/<run>/artifacts/…         artifacts of runs
//! experiments/<id>/models/<model>/artifacts/…  files of logged models
//! .uploads/                                  uploads under way
//! ```

mod folder;
mod multipart;
mod path;

pub use folder::ArtifactStore;
pub(crate) use multipart::Part;
pub use path::ArtifactPath;
