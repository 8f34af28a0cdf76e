//! What comes in: counted, bounded, hashed.

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use sha2::{Digest, Sha256};

use super::path::ArtifactPath;
use crate::error::{Error, Result};

/// The content of an upload as it arrives.
pub(super) struct Intake<'a> {
    path: &'a ArtifactPath,
    content: BoxStream<'a, Result<Bytes, String>>,
    max_bytes: u64,
    /// The SHA-256 that the content must have.
    expected: Option<String>,
    hasher: Sha256,
    bytes: u64,
}

/// What arrived.
#[derive(Debug, Clone)]
pub(super) struct Taken {
    pub(super) bytes: u64,
    /// SHA-256, in hexadecimal digits.
    pub(super) digest: String,
}

impl<'a> Intake<'a> {
    pub(super) fn new(
        path: &'a ArtifactPath,
        content: BoxStream<'a, Result<Bytes, String>>,
        max_bytes: u64,
    ) -> Result<Self> {
        Ok(Self {
            expected: path.required_digest()?.map(str::to_owned),
            path,
            content,
            max_bytes,
            hasher: Sha256::new(),
            bytes: 0,
        })
    }

    /// The next bytes, until there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>> {
        let Some(chunk) = self.content.next().await else {
            return Ok(None);
        };
        let chunk = chunk.map_err(|error| {
            Error::invalid(format!(
                "The upload of '{}' broke off after {} bytes ({error}): nothing was stored, send \
                 it again.",
                self.path, self.bytes
            ))
        })?;
        self.bytes = self.bytes.saturating_add(chunk.len() as u64);
        if self.bytes > self.max_bytes {
            return Err(Error::invalid(format!(
                "'{}' is larger than {} bytes, the limit of the artifact store: nothing was \
                 stored.",
                self.path, self.max_bytes
            )));
        }
        self.hasher.update(&chunk);
        Ok(Some(chunk))
    }

    /// To be called when all is there and before any of it is published.
    pub(super) fn finish(self) -> Result<Taken> {
        let digest = hex::encode(self.hasher.finalize());
        if let Some(expected) = self.expected
            && expected != digest
        {
            return Err(Error::invalid(format!(
                "The content of '{}' has SHA-256 {digest}, not {expected} as its path says: \
                 nothing was stored.",
                self.path
            )));
        }
        Ok(Taken {
            bytes: self.bytes,
            digest,
        })
    }
}
