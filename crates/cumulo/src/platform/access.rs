//! Who the API server knows, and who decides: the two tokens of the platform
//! itself, the users of `cumulo user`, service accounts; roles and bindings.

use std::fs;
use std::sync::Arc;

use anyhow::{Context, Result};
use cumulo_apiserver::TokenKey;
use cumulo_apiserver::audit::AuditOptions;
use cumulo_apiserver::auth::{Authenticator, Authorization, MASTERS, StaticTokens, UserInfo};
use rcgen::KeyPair;

use crate::home::{Credentials, Home, write_private};
use crate::users::UserTokens;

/// The group of pods that carry the platform's token for them.
const WORKLOADS: &str = "cumulo:workloads";
/// Roles on Cumulo's kinds.
const ROLES: &str = include_str!("roles.yaml");

/// Options of the API server: its folder, who is known, and who decides.
pub fn api_options(home: &Home, credentials: &Credentials) -> Result<cumulo_apiserver::Options> {
    let mut options = cumulo_apiserver::Options::new(home.path("apiserver"));
    options.authenticator = Arc::new(Tokens {
        own: StaticTokens::default()
            .with(&credentials.admin, UserInfo::new("admin", &[MASTERS]))
            .with(&credentials.workload, workload()),
        users: UserTokens::new(home),
    });
    options.authorization = Authorization::Roles(roles()?);
    options.token_key = Some(Arc::new(token_key(home)?));
    let logs = home.path("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    options.audit = Some(AuditOptions::new(logs.join("audit.log")));
    Ok(options)
}

/// Pods that carry the platform's token: what they may do stands in the role
/// `cumulo:workload` and nowhere else, so they are not in `system:authenticated`,
/// which may discover the API.
fn workload() -> UserInfo {
    UserInfo {
        name: "cumulo:workload".to_owned(),
        groups: vec![WORKLOADS.to_owned()],
        ..UserInfo::default()
    }
}

fn roles() -> Result<Vec<serde_json::Value>> {
    serde_saphyr::from_str(ROLES).context("the roles on Cumulo's kinds cannot be read")
}

/// The key that signs service account tokens; made at the first call.
fn token_key(home: &Home) -> Result<TokenKey> {
    let folder = home.path("pki");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let path = folder.join("service-accounts.key");
    if !path.exists() {
        write_private(&path, KeyPair::generate()?.serialize_pem().as_bytes())?;
    }
    let damaged = || {
        format!(
            "{} is damaged: remove it and run `cumulo up` again; tokens of service accounts have to be issued again then",
            path.display()
        )
    };
    let text =
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let pair = KeyPair::from_pem(&text).with_context(damaged)?;
    TokenKey::from_pkcs8(&pair.serialize_der()).with_context(damaged)
}

/// The platform's own tokens and those of its users.
#[derive(Debug)]
struct Tokens {
    own: StaticTokens,
    users: UserTokens,
}

#[async_trait::async_trait]
impl Authenticator for Tokens {
    async fn authenticate(&self, token: &str) -> Option<UserInfo> {
        match self.own.authenticate(token).await {
            Some(user) => Some(user),
            None => self.users.user(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_are_roles() {
        let roles = roles().unwrap();
        assert!(roles.iter().all(|role| {
            role["apiVersion"] == "rbac.authorization.k8s.io/v1"
                && role["metadata"]["name"].is_string()
        }));
    }

    #[test]
    fn the_key_is_kept() {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::at(folder.path());
        token_key(&home).unwrap();
        let path = folder.path().join("pki/service-accounts.key");
        let before = fs::read(&path).unwrap();
        token_key(&home).unwrap();
        assert_eq!(fs::read(&path).unwrap(), before);
        fs::write(&path, "no key").unwrap();
        assert!(token_key(&home).is_err());
    }
}
