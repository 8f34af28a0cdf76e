//! Whom a role trusts when it calls another one over TLS.

use std::path::Path;

use anyhow::{Context, Result};

/// Authorities besides the machine's own. A certificate that a role signed for
/// itself is trusted when it stands here itself.
#[derive(Clone, Default)]
pub struct Trust {
    /// As in the file: PEM.
    text: Option<String>,
    certificates: Vec<reqwest::Certificate>,
}

impl Trust {
    /// Those in a file.
    ///
    /// # Errors
    /// When it cannot be read, or holds no certificate.
    pub fn read(file: Option<&Path>) -> Result<Self> {
        let Some(file) = file else {
            return Ok(Self::default());
        };
        let shown = file.display();
        let text = std::fs::read_to_string(file)
            .with_context(|| format!("cannot read --certificate-authority {shown}"))?;
        let certificates = reqwest::Certificate::from_pem_bundle(text.as_bytes())
            .with_context(|| format!("--certificate-authority {shown} is not PEM"))?;
        anyhow::ensure!(
            !certificates.is_empty(),
            "--certificate-authority {shown} holds no certificate"
        );
        Ok(Self {
            text: Some(text),
            certificates,
        })
    }

    /// A client that trusts them.
    pub fn client(&self) -> reqwest::ClientBuilder {
        self.certificates
            .iter()
            .cloned()
            .fold(reqwest::Client::builder(), |builder, certificate| {
                builder.add_root_certificate(certificate)
            })
    }

    /// As PEM; none when only the machine's own count.
    pub fn text(&self) -> Option<&str> {
        self.text.as_deref()
    }
}
