//! Client certificates: whoever holds one that this platform's authority has
//! signed is the user that its subject names. The authority signs what was
//! asked for with a CertificateSigningRequest and approved.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cumulo_apiserver::auth::{MASTERS, UserInfo};
use futures::TryStreamExt;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use rcgen::{
    CertificateSigningRequestParams, DnType, DnValue, ExtendedKeyUsagePurpose, Issuer, KeyPair,
    KeyUsagePurpose, SerialNumber,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The signer that this is.
const SIGNER: &str = "kubernetes.io/kube-apiserver-client";
const MANAGER: &str = "cumulo-signer";
/// Longest and usual life of a certificate.
const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);
/// How far before now a certificate begins: clocks differ.
const BEFORE: Duration = Duration::from_secs(5 * 60);
/// Pause after the watch broke.
const PAUSE: Duration = Duration::from_secs(5);

/// Who holds a certificate: `CN` is the name, `O` the groups. None for a
/// certificate without a name.
pub fn user_of(certificate: &[u8]) -> Option<UserInfo> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let subject = parsed.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?;
    let groups: Vec<&str> = subject
        .iter_organization()
        .filter_map(|group| group.as_str().ok())
        .collect();
    (!name.is_empty()).then(|| UserInfo::new(name, &groups))
}

/// Why a request is not signed.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the request is not base64 of a PEM certificate request: {0}")]
    Unreadable(String),
    #[error("the subject has no common name, so it names no user")]
    NoName,
    #[error("the group {MASTERS} may do everything, and is not given by certificates")]
    Masters,
    #[error(
        "the usages of a client certificate are \"digital signature\", \"key encipherment\" and \"client auth\", the last of which must be there"
    )]
    Usages,
    #[error("the certificate was not made: {0}")]
    Signing(#[from] rcgen::Error),
}

/// Signs approved requests until the shutdown.
pub async fn run(
    client: kube::Client,
    authority: Arc<Issuer<'static, KeyPair>>,
    shutdown: CancellationToken,
) {
    let requests: Api<CertificateSigningRequest> = Api::all(client);
    loop {
        let config = watcher::Config::default().fields(&format!("spec.signerName={SIGNER}"));
        let seen = watcher(requests.clone(), config)
            .default_backoff()
            .touched_objects()
            .try_for_each(|request| {
                let (requests, authority) = (requests.clone(), authority.clone());
                async move {
                    if let Err(error) = look_at(&requests, &authority, &request).await {
                        tracing::warn!(request = request.metadata.name, %error, "a certificate could not be handed over");
                    }
                    Ok(())
                }
            });
        tokio::select! {
            () = shutdown.cancelled() => return,
            result = seen => {
                if let Err(error) = result {
                    tracing::warn!(%error, "certificate requests could not be watched");
                }
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn look_at(
    requests: &Api<CertificateSigningRequest>,
    authority: &Issuer<'static, KeyPair>,
    request: &CertificateSigningRequest,
) -> Result<(), kube::Error> {
    let status = request.status.clone().unwrap_or_default();
    let has = |kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .any(|condition| condition.type_ == kind && condition.status == "True")
    };
    let waits = has("Approved") && !has("Failed") && !has("Denied") && status.certificate.is_none();
    let Some(name) = request.metadata.name.as_deref().filter(|_| waits) else {
        return Ok(());
    };
    let patch = match sign(authority, request) {
        Ok(pem) => {
            tracing::info!(
                request = name,
                user = request.spec.username,
                "client certificate signed"
            );
            json!({"status": {"certificate": STANDARD.encode(pem)}})
        }
        Err(refusal) => failed(request, &refusal),
    };
    let parameters = PatchParams {
        field_manager: Some(MANAGER.to_owned()),
        ..PatchParams::default()
    };
    match requests
        .patch_status(name, &parameters, &Patch::Merge(&patch))
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        result => result.map(|_| ()),
    }
}

fn failed(request: &CertificateSigningRequest, refusal: &Refusal) -> Value {
    let mut conditions = json!(
        request
            .status
            .as_ref()
            .and_then(|s| s.conditions.clone())
            .unwrap_or_default()
    );
    if let Some(list) = conditions.as_array_mut() {
        list.push(json!({
            "type": "Failed", "status": "True", "reason": "SignerValidationFailure",
            "message": refusal.to_string(),
        }));
    }
    json!({"status": {"conditions": conditions}})
}

/// The certificate, as PEM.
fn sign(
    authority: &Issuer<'static, KeyPair>,
    request: &CertificateSigningRequest,
) -> Result<String, Refusal> {
    let usages = request.spec.usages.clone().unwrap_or_default();
    let allowed = ["digital signature", "key encipherment", "client auth"];
    if !usages.iter().all(|usage| allowed.contains(&usage.as_str()))
        || !usages.iter().any(|usage| usage == "client auth")
    {
        return Err(Refusal::Usages);
    }
    let pem = String::from_utf8(request.spec.request.0.clone())
        .map_err(|error| Refusal::Unreadable(error.to_string()))?;
    let mut asked = CertificateSigningRequestParams::from_pem(&pem)
        .map_err(|error| Refusal::Unreadable(error.to_string()))?;
    let text = |value: &DnValue| match value {
        DnValue::Utf8String(text) => text.clone(),
        DnValue::PrintableString(text) => text.as_str().to_owned(),
        DnValue::Ia5String(text) => text.as_str().to_owned(),
        _ => String::new(),
    };
    let subject = &asked.params.distinguished_name;
    let of = |wanted: DnType| {
        subject
            .iter()
            .filter(|(kind, _)| **kind == wanted)
            .map(|(_, value)| text(value))
            .collect::<Vec<_>>()
    };
    if of(DnType::CommonName).iter().all(String::is_empty) {
        return Err(Refusal::NoName);
    }
    if of(DnType::OrganizationName)
        .iter()
        .any(|group| group == MASTERS)
    {
        return Err(Refusal::Masters);
    }
    let life = request
        .spec
        .expiration_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(LONGEST, Duration::from_secs)
        .min(LONGEST);
    let now = time::OffsetDateTime::now_utc();
    asked.params.not_before = now - BEFORE;
    asked.params.not_after = now + life;
    asked.params.subject_alt_names.clear();
    asked.params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    asked.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    asked.params.serial_number = Some(SerialNumber::from_slice(uuid::Uuid::new_v4().as_bytes()));
    Ok(asked.signed_by(authority)?.pem())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;
    use k8s_openapi::api::certificates::v1::CertificateSigningRequestSpec;
    use rcgen::CertificateParams;
    use rustls::pki_types::{CertificateDer, pem::PemObject};

    use super::*;

    fn authority() -> Issuer<'static, KeyPair> {
        Issuer::new(CertificateParams::default(), KeyPair::generate().unwrap())
    }

    fn request(name: &str, groups: &[&str], usages: &[&str]) -> CertificateSigningRequest {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        if !name.is_empty() {
            parameters.distinguished_name.push(DnType::CommonName, name);
        }
        for group in groups {
            parameters
                .distinguished_name
                .push(DnType::OrganizationName, *group);
        }
        let key = KeyPair::generate().unwrap();
        let pem = parameters.serialize_request(&key).unwrap().pem().unwrap();
        CertificateSigningRequest {
            spec: CertificateSigningRequestSpec {
                request: ByteString(pem.into_bytes()),
                usages: Some(usages.iter().map(|usage| (*usage).to_owned()).collect()),
                expiration_seconds: Some(3600),
                ..CertificateSigningRequestSpec::default()
            },
            ..CertificateSigningRequest::default()
        }
    }

    #[test]
    fn the_subject_is_the_user() {
        let request = request("jane", &["team"], &["client auth"]);
        let pem = sign(&authority(), &request).unwrap();
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let user = user_of(&certificate).unwrap();
        assert_eq!(user, UserInfo::new("jane", &["team"]));
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        let life =
            parsed.validity().not_after.timestamp() - parsed.validity().not_before.timestamp();
        assert_eq!(life, 3600 + 300);
        assert_eq!(user_of(b"no certificate"), None);
    }

    #[test]
    fn what_is_not_signed() {
        let refused = |request: &CertificateSigningRequest| {
            let refusal = sign(&authority(), request).unwrap_err();
            failed(request, &refusal)["status"]["conditions"][0]["message"]
                .as_str()
                .unwrap()
                .to_owned()
        };
        assert!(refused(&request("", &[], &["client auth"])).contains("common name"));
        assert!(refused(&request("jane", &[MASTERS], &["client auth"])).contains(MASTERS));
        assert!(refused(&request("jane", &[], &["server auth", "client auth"])).contains("usages"));
        let mut broken = request("jane", &[], &["client auth"]);
        broken.spec.request = ByteString(b"no request".to_vec());
        assert!(refused(&broken).contains("not base64 of a PEM"));
    }
}
