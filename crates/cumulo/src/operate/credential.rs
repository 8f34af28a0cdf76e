//! The bearer token by which one role asks another.

use std::path::PathBuf;

use secrecy::{ExposeSecret, SecretString};

/// Where the token comes from. A file is read each time: tokens of service
/// accounts are replaced while a process runs.
#[derive(Clone)]
pub struct Credential {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Nothing,
    Fixed(SecretString),
    File(PathBuf),
}

impl Credential {
    /// The token in the file, or the one that the API server is asked with.
    pub fn new(file: Option<&PathBuf>, config: &kube::Config) -> Self {
        let own = &config.auth_info;
        let source = match (file, &own.token_file, &own.token) {
            (Some(file), _, _) => Source::File(file.clone()),
            (None, Some(file), _) => Source::File(file.into()),
            (None, None, Some(token)) => Source::Fixed(token.clone()),
            (None, None, None) => Source::Nothing,
        };
        Self { source }
    }

    /// None at all.
    #[cfg(test)]
    pub fn none() -> Self {
        let source = Source::Nothing;
        Self { source }
    }

    /// The token as of now; `None` where there is none.
    pub fn token(&self) -> Option<String> {
        match &self.source {
            Source::Nothing => None,
            Source::Fixed(token) => Some(token.expose_secret().to_owned()),
            Source::File(path) => match std::fs::read_to_string(path) {
                Ok(text) => Some(text.trim().to_owned()),
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "the token cannot be read");
                    None
                }
            },
        }
    }

    /// Whether there is any.
    pub fn is_some(&self) -> bool {
        !matches!(self.source, Source::Nothing)
    }
}
