//! What can be wrong with a source, in words that name it.

use std::path::Path;

/// A source that cannot be read. Every message names the source, the file, and
/// what to do.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is no such file.
    #[error("source {source_name:?}: {uri} does not exist: {looked}")]
    Missing {
        /// The source.
        source_name: String,
        /// As given.
        uri: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A glob that matches nothing.
    #[error("source {source_name:?}: no file matches {pattern}: {looked}")]
    NoMatch {
        /// The source.
        source_name: String,
        /// The glob.
        pattern: String,
        /// Where it was looked for.
        looked: String,
    },
    /// A path that may not be read.
    #[error("source {source_name:?}: {path} is outside the folders that may be read ({roots})")]
    Outside {
        /// The source.
        source_name: String,
        /// The path.
        path: String,
        /// The allowed folders.
        roots: String,
    },
    /// A URI of a kind that is not read.
    #[error(
        "source {source_name:?}: {uri} is not a place that can be read: give a path, a glob, file://, http(s):// or cumulo:"
    )]
    Scheme {
        /// The source.
        source_name: String,
        /// As given.
        uri: String,
    },
    /// A host that is not on the allow-list.
    #[error("source {source_name:?}: {url}: {problem}")]
    Host {
        /// The source.
        source_name: String,
        /// The URL, without credentials.
        url: String,
        /// Why it is refused and what to do.
        problem: String,
    },
    /// A download that failed.
    #[error("source {source_name:?}: downloading {url} failed: {problem}")]
    Download {
        /// The source.
        source_name: String,
        /// The URL, without credentials.
        url: String,
        /// What happened.
        problem: String,
    },
    /// A download beyond the limit.
    #[error(
        "source {source_name:?}: {url} is larger than {limit} bytes, the most that is downloaded"
    )]
    TooLarge {
        /// The source.
        source_name: String,
        /// The URL, without credentials.
        url: String,
        /// The limit.
        limit: u64,
    },
    /// More files than a source may have.
    #[error(
        "source {source_name:?} has {found} files, more than the {limit} that one source may have: join them or narrow the glob"
    )]
    TooManyFiles {
        /// The source.
        source_name: String,
        /// How many there are.
        found: usize,
        /// The limit.
        limit: usize,
    },
    /// A file without content.
    #[error("source {source_name:?}: {file} is empty")]
    Empty {
        /// The source.
        source_name: String,
        /// The file.
        file: String,
    },
    /// No format given and none to be seen from the extension.
    #[error(
        "source {source_name:?}: the format of {file} cannot be told from its name: give `format: parquet`, `csv`, `json` or `arrow`"
    )]
    UnknownFormat {
        /// The source.
        source_name: String,
        /// The file.
        file: String,
    },
    /// Files of several formats in one source.
    #[error(
        "source {source_name:?} mixes formats: {first} and {second}: make them two sources, or give `format`"
    )]
    MixedFormats {
        /// The source.
        source_name: String,
        /// One file and its format.
        first: String,
        /// Another.
        second: String,
    },
    /// A file that is not what its extension or the `format` field says.
    #[error("source {source_name:?}: {file} {claim} but looks like {looks}: {advice}")]
    Mismatch {
        /// The source.
        source_name: String,
        /// The file.
        file: String,
        /// "says .parquet" or "should be Parquet".
        claim: String,
        /// What the first bytes say.
        looks: String,
        /// What to do.
        advice: String,
    },
    /// A file that ends too early.
    #[error("source {source_name:?}: {file} is truncated: {problem}; get the file again")]
    Truncated {
        /// The source.
        source_name: String,
        /// The file.
        file: String,
        /// How that shows.
        problem: String,
    },
    /// A file whose content is wrong.
    #[error("source {source_name:?}: {file}{}: {problem}", line.map(|line| format!(", line {line}")).unwrap_or_default())]
    Malformed {
        /// The source.
        source_name: String,
        /// The file.
        file: String,
        /// The line, where the format has lines, counted from one.
        line: Option<u64>,
        /// What is wrong.
        problem: String,
    },
    /// Files of one source with different columns.
    #[error(
        "source {source_name:?}: {file} has other columns than {first}: {difference}; make them two sources, or bring them into one shape"
    )]
    ColumnsDiffer {
        /// The source.
        source_name: String,
        /// The file that differs.
        file: String,
        /// The file it was compared with.
        first: String,
        /// How.
        difference: String,
    },
    /// The artifact store failed.
    #[error("source {source_name:?}: {problem}")]
    Store {
        /// The source.
        source_name: String,
        /// What the store said.
        problem: String,
    },
    /// A background task ended without a result.
    #[error("source {source_name:?}: reading was stopped: {problem}")]
    Stopped {
        /// The source.
        source_name: String,
        /// Why.
        problem: String,
    },
    /// The file system failed.
    #[error("source {source_name:?}: cannot read {path}: {source}")]
    Io {
        /// The source.
        source_name: String,
        /// The path.
        path: String,
        /// What the system said.
        source: std::io::Error,
    },
}

impl SourceError {
    pub(crate) fn io(source_name: &str, path: &Path, source: std::io::Error) -> Self {
        Self::Io {
            source_name: source_name.to_owned(),
            path: path.display().to_string(),
            source,
        }
    }

    /// A word for a condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Missing { .. } | Self::NoMatch { .. } => "SourceMissing",
            Self::Outside { .. } | Self::Scheme { .. } | Self::Host { .. } => "SourceForbidden",
            Self::Download { .. } | Self::TooLarge { .. } => "SourceDownloadFailed",
            Self::Store { .. } | Self::Stopped { .. } | Self::Io { .. } => "SourceUnreadable",
            Self::TooManyFiles { .. }
            | Self::Empty { .. }
            | Self::UnknownFormat { .. }
            | Self::MixedFormats { .. }
            | Self::Mismatch { .. }
            | Self::Truncated { .. }
            | Self::Malformed { .. }
            | Self::ColumnsDiffer { .. } => "SourceInvalid",
        }
    }

    /// Whether trying again later may help with nothing changed.
    pub fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Download { .. } | Self::Store { .. } | Self::Stopped { .. } | Self::Io { .. }
        )
    }
}
