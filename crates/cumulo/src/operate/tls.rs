//! The certificates that roles serve, and client certificates that they trust.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;

use crate::cli::TlsArgs;

/// The TLS settings of a listener: with the given certificate, or one that this
/// process signs itself for `names` and `addresses`. Clients may show a
/// certificate if there are authorities for them.
pub fn settings(
    arguments: &TlsArgs,
    names: &[String],
    addresses: &[IpAddr],
    client_authorities: Option<&Path>,
) -> Result<Arc<rustls::ServerConfig>> {
    let (chain, key) = match (&arguments.tls_cert_file, &arguments.tls_private_key_file) {
        (Some(certificate), Some(key)) => read(certificate, key)?,
        _ => sign(names, addresses)?,
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?;
    let builder = match client_authorities {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).with_context(|| {
                    format!("{} holds no certificate authority", path.display())
                })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .with_context(|| format!("{} cannot be used", path.display()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder
        .with_single_cert(chain, key)
        .context("the certificate and its key do not fit together")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn read(certificate: &Path, key: &Path) -> Result<Identity> {
    let private = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| anyhow::anyhow!("{} holds no private key: {error}", key.display()))?;
    Ok((certificates(certificate)?, private))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let all: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| {
            anyhow::anyhow!("cannot read certificates in {}: {error}", path.display())
        })?;
    anyhow::ensure!(!all.is_empty(), "{} holds no certificate", path.display());
    Ok(all)
}

fn sign(names: &[String], addresses: &[IpAddr]) -> Result<Identity> {
    let key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(names.to_vec())?;
    for address in addresses.iter().filter(|address| !address.is_unspecified()) {
        parameters
            .subject_alt_names
            .push(SanType::IpAddress(*address));
    }
    parameters.distinguished_name.push(
        DnType::CommonName,
        names.first().map_or("cumulo", String::as_str),
    );
    let certificate = parameters.self_signed(&key)?;
    let private = PrivateKeyDer::try_from(key.serialize_der())
        .map_err(|error| anyhow::anyhow!("the new key is not usable: {error}"))?;
    Ok((vec![certificate.der().clone()], private))
}
