//! The platform's own certificate authority and the server certificate it signs.

use std::fs;
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use rustls::server::WebPkiClientVerifier;

use crate::home::{Home, write_private};

/// A TLS configuration and the authority that clients must trust (PEM).
pub struct Tls {
    /// For the listener.
    pub config: Arc<rustls::ServerConfig>,
    /// For the kubeconfig.
    pub authority: String,
    /// Signs client certificates.
    pub issuer: Arc<Issuer<'static, KeyPair>>,
}

/// Loads the authority from `pki/` (made at the first call) and signs a
/// certificate for the address that is listened on.
pub fn load(home: &Home, address: IpAddr) -> Result<Tls> {
    let folder = home.path("pki");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let key_path = folder.join("authority.key");
    let certificate_path = folder.join("authority.crt");
    if !key_path.exists() || !certificate_path.exists() {
        let key = KeyPair::generate()?;
        let certificate = authority_parameters().self_signed(&key)?;
        write_private(&certificate_path, certificate.pem().as_bytes())?;
        write_private(&key_path, key.serialize_pem().as_bytes())?;
    }
    let authority = fs::read_to_string(&certificate_path)
        .with_context(|| format!("cannot read {}", certificate_path.display()))?;
    let key = KeyPair::from_pem(
        &fs::read_to_string(&key_path)
            .with_context(|| format!("cannot read {}", key_path.display()))?,
    )
    .with_context(|| {
        format!(
            "{} is damaged: remove {} and run `cumulo up` again",
            key_path.display(),
            folder.display()
        )
    })?;
    let issuer = Issuer::new(authority_parameters(), key);

    let server_key = KeyPair::generate()?;
    let mut parameters = CertificateParams::new(vec![
        "localhost".to_owned(),
        "kubernetes".to_owned(),
        "kubernetes.default.svc".to_owned(),
    ])?;
    let loopback: IpAddr = [127, 0, 0, 1].into();
    parameters
        .subject_alt_names
        .push(SanType::IpAddress(loopback));
    if address != loopback && !address.is_unspecified() {
        parameters
            .subject_alt_names
            .push(SanType::IpAddress(address));
    }
    parameters
        .distinguished_name
        .push(DnType::CommonName, "cumulo");
    let certificate = parameters.signed_by(&server_key, &issuer)?;

    let chain = vec![
        certificate.der().clone(),
        CertificateDer::from_pem_slice(authority.as_bytes())?,
    ];
    let private = PrivateKeyDer::try_from(server_key.serialize_der())
        .map_err(|error| anyhow::anyhow!("the server key is not usable: {error}"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Who has a certificate may show it; most clients have a token instead.
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.as_bytes())?)?;
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()?;
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, private)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Tls {
        config: Arc::new(config),
        authority,
        issuer: Arc::new(issuer),
    })
}

/// The same parameters every time, so that the stored key and certificate stay a pair.
fn authority_parameters() -> CertificateParams {
    let mut parameters = CertificateParams::default();
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    parameters
        .distinguished_name
        .push(DnType::CommonName, "cumulo authority");
    parameters
}
