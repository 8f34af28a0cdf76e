//! Who may say that a certificate is to be signed: writing to a request is not
//! enough, the signer has to be theirs to use.

use super::{Operation, Write};
use crate::auth::{Attributes, Decision};
use crate::engine::Engine;
use crate::status::ApiError;

const GROUP: &str = "certificates.k8s.io";

/// Approving needs the verb `approve` on the signer, handing a certificate over
/// needs `sign`.
pub(super) async fn check(engine: &Engine, write: &Write<'_>) -> Result<(), ApiError> {
    let resource = &write.target.resource;
    if write.operation != Operation::Update || !resource.is(GROUP, "certificatesigningrequests") {
        return Ok(());
    }
    let (Some(user), Some(old), Some(new)) = (&write.options.user, write.old, write.object) else {
        return Ok(());
    };
    let verb = match write.subresource {
        Some("approval") => "approve",
        Some("status") if old["status"]["certificate"] != new["status"]["certificate"] => "sign",
        _ => return Ok(()),
    };
    let signer = old["spec"]["signerName"].as_str().unwrap_or_default();
    let domain = signer.split('/').next().unwrap_or_default();
    for name in [signer.to_owned(), format!("{domain}/*")] {
        let attributes = Attributes {
            verb: verb.to_owned(),
            group: GROUP.to_owned(),
            version: "*".to_owned(),
            resource: "signers".to_owned(),
            name,
            ..Attributes::default()
        };
        if matches!(
            engine.authorizer.authorize(user, &attributes).await,
            Decision::Allow(_)
        ) {
            return Ok(());
        }
    }
    Err(ApiError::forbidden(format!(
        "{} \"{}\" is forbidden: user not permitted to {verb} requests with signerName \"{signer}\"",
        resource.qualified(),
        write.target.name
    ))
    .about(resource, &write.target.name))
}
