//! The bearer token that tracking and the gateway are shown: the kubeconfig's
//! own, or one that the API server issues for a service account.

use anyhow::{Context as _, Result, bail};
use http::{HeaderMap, Request, Response, header};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::{Api, PostParams};
use kube::client::{Body, ConfigExt};
use kube::{Client, Config};
use tower::{ServiceBuilder, ServiceExt};

use crate::project::apply::api_error;

/// How long an issued token is good for, in seconds: a command may follow a project for long.
const LIFETIME: i64 = 6 * 3600;

/// The kubeconfig's token: as it stands there, from a file, or from the program
/// that the kubeconfig names. `None` when its credential is another (a client
/// certificate, a password).
pub async fn own_token(config: &Config) -> Result<Option<String>> {
    let Some(layer) = config.auth_layer().context("the kubeconfig's credential")? else {
        return Ok(None);
    };
    // The library tells a token only to a request that it is to be put on.
    let echo = tower::service_fn(|request: Request<Body>| async move {
        Ok::<_, tower::BoxError>(Response::new(request.headers().clone()))
    });
    let answer: Response<HeaderMap> = ServiceBuilder::new()
        .layer(layer)
        .service(echo)
        .oneshot(Request::new(Body::empty()))
        .await
        .map_err(|error| anyhow::anyhow!("the kubeconfig's credential: {error}"))?;
    let token = answer
        .body()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(str::to_owned);
    Ok(token)
}

/// A token of a service account (`NAME`, in the namespace).
///
/// # Errors
/// When the API server refuses: the sentence says which permission is missing.
pub async fn issued_token(client: &Client, namespace: &str, account: &str) -> Result<String> {
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), namespace);
    let request = TokenRequest {
        spec: TokenRequestSpec {
            expiration_seconds: Some(LIFETIME),
            ..TokenRequestSpec::default()
        },
        ..TokenRequest::default()
    };
    let answer = accounts
        .create_token_request(account, &PostParams::default(), &request)
        .await
        .map_err(|error| api_error(&error))
        .with_context(|| {
            format!(
                "the kubeconfig holds no bearer token, and none is issued for service account {namespace}/{account}"
            )
        })?;
    match answer.status {
        Some(status) => Ok(status.token),
        None => bail!("the API server issued no token for {namespace}/{account}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::config::{KubeConfigOptions, Kubeconfig};

    async fn token(user: serde_json::Value) -> Option<String> {
        let kubeconfig = serde_json::json!({
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:1"}}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        let kubeconfig = Kubeconfig::from_yaml(&kubeconfig.to_string()).unwrap();
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
            .await
            .unwrap();
        own_token(&config).await.unwrap()
    }

    #[tokio::test]
    async fn tokens_are_found_wherever_a_kubeconfig_keeps_them() {
        let plain = token(serde_json::json!({"token": "abc"})).await;
        assert_eq!(plain.as_deref(), Some("abc"));
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, "from-a-file").unwrap();
        let file = token(serde_json::json!({"tokenFile": file})).await;
        assert_eq!(file.as_deref(), Some("from-a-file"));
        let answer = r#"{"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": {"token": "from-a-program"}}"#;
        let program = serde_json::json!({"exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "echo",
            "args": [answer],
            "interactiveMode": "Never",
        }});
        assert_eq!(token(program).await.as_deref(), Some("from-a-program"));
        // A password is no token: one is asked for then.
        let password = serde_json::json!({"username": "u", "password": "p"});
        assert_eq!(token(password).await, None);
    }
}
