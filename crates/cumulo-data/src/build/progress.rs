//! What a build tells while it works.

/// What a build is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Progress {
    /// A source comes over the network.
    Downloading {
        /// The source.
        name: String,
        /// Bytes so far.
        received: u64,
        /// Bytes in all, if the server says.
        total: Option<u64>,
    },
    /// A source's files are here and hashed.
    SourceReady {
        /// The source.
        name: String,
        /// How many files.
        files: usize,
        /// Their size.
        bytes: u64,
    },
    /// The same query over the same sources was built before.
    UpToDate {
        /// The version.
        version: String,
    },
    /// The query runs.
    Querying {
        /// Rows written so far.
        rows: u64,
    },
    /// A sample of a source misled; its files are read whole and the query starts again.
    Rereading,
    /// The checks run.
    Checking {
        /// How many checks were asked for.
        checks: usize,
    },
    /// The snapshot is in the store.
    Published {
        /// The version.
        version: String,
        /// Its rows.
        rows: u64,
    },
}

impl std::fmt::Display for Progress {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Downloading {
                name,
                received,
                total: Some(total),
            } => write!(
                formatter,
                "downloading {name}: {} of {}",
                size(*received),
                size(*total)
            ),
            Self::Downloading { name, received, .. } => {
                write!(formatter, "downloading {name}: {}", size(*received))
            }
            Self::SourceReady { name, files, bytes } => {
                let s = if *files == 1 { "" } else { "s" };
                write!(
                    formatter,
                    "source {name}: {files} file{s}, {}",
                    size(*bytes)
                )
            }
            Self::UpToDate { version } => {
                write!(formatter, "version {version} is there already")
            }
            Self::Querying { rows: 0 } => formatter.write_str("querying"),
            Self::Querying { rows } => write!(formatter, "querying: {rows} rows written"),
            Self::Rereading => formatter.write_str(
                "a value beyond the sample does not fit its column's type; reading the sources whole",
            ),
            Self::Checking { checks } => {
                let s = if *checks == 1 { "" } else { "s" };
                write!(formatter, "running {checks} check{s}")
            }
            Self::Published { version, rows } => {
                write!(formatter, "published version {version}: {rows} rows")
            }
        }
    }
}

/// A size for a person.
fn size(bytes: u64) -> String {
    match bytes {
        0..=9_999 => format!("{bytes} bytes"),
        10_000..=999_999 => format!("{} kB", bytes / 1000),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}
