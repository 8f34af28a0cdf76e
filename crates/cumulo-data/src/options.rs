//! What a build may reach and how much it may use.

use std::path::PathBuf;
use std::time::Duration;

/// Limits and permissions of a build. Nothing outside them is touched.
#[derive(Clone, Debug)]
pub struct Options {
    /// Folders below which local files may be read (symbolic links resolved).
    /// Relative paths are looked up in each, in order. Empty: no local file
    /// may be read, only the artifact store and allowed hosts.
    pub roots: Vec<PathBuf>,
    /// Hosts that `http(s)` sources may come from: `data.example.org`,
    /// `*.example.org`, `127.0.0.1:8000`, or `*` for any public host.
    /// Loopback and private addresses are refused unless listed literally.
    pub allowed_hosts: Vec<String>,
    /// The largest file that is downloaded, in bytes.
    pub max_download_bytes: u64,
    /// How long one download may take.
    pub download_timeout: Duration,
    /// The most files that one source may have.
    pub max_files: usize,
    /// How many files are hashed or looked into at once, and into how many pieces
    /// the scans of an answer are cut. Zero: as many as the machine has cores.
    /// What a snapshot holds does not depend on it.
    pub threads: usize,
    /// Memory that a query's joins, sorts and groups may hold, in bytes; beyond it
    /// they spill to disk or the query is refused. `None`: unlimited.
    pub memory_limit: Option<usize>,
    /// Where downloads and spills go. `None`: the system's temporary folder.
    pub temporary_folder: Option<PathBuf>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            roots: Vec::new(),
            allowed_hosts: Vec::new(),
            max_download_bytes: 16 << 30,
            download_timeout: Duration::from_secs(3600),
            max_files: 10_000,
            threads: 0,
            memory_limit: None,
            temporary_folder: None,
        }
    }
}

impl Options {
    /// `threads`, or the number of cores.
    pub fn effective_threads(&self) -> usize {
        if self.threads > 0 {
            self.threads
        } else {
            std::thread::available_parallelism().map_or(1, usize::from)
        }
    }

    /// A fresh folder for downloads, removed when dropped.
    pub(crate) fn temporary_directory(&self) -> std::io::Result<tempfile::TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("cumulo-data-");
        match &self.temporary_folder {
            Some(folder) => {
                std::fs::create_dir_all(folder)?;
                builder.tempdir_in(folder)
            }
            None => builder.tempdir(),
        }
    }
}
