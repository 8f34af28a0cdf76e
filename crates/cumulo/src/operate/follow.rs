//! Reads another role's stream of lines, for as long as it lasts.

use std::net::SocketAddr;
use std::time::Duration;

use futures::StreamExt;

use super::credential::Credential;
use super::trust::Trust;

/// A longer line is nothing that a role of ours sends.
const LONGEST_LINE: usize = 16 << 20;
/// A role that says nothing for so long is gone: it sends empty lines in between.
const SILENCE: Duration = Duration::from_secs(30);

/// A client for such streams.
///
/// # Errors
/// When it cannot be made.
pub fn http(trust: &Trust) -> reqwest::Result<reqwest::Client> {
    settings(trust).build()
}

/// A client for the stream of one endpoint of a Service: it is reached at its own
/// address, and has to show a certificate for the Service's name.
///
/// # Errors
/// When it cannot be made.
pub fn http_at(trust: &Trust, name: &str, address: SocketAddr) -> reqwest::Result<reqwest::Client> {
    settings(trust).resolve(name, address).build()
}

fn settings(trust: &Trust) -> reqwest::ClientBuilder {
    trust
        .client()
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(SILENCE)
}

/// Hands each line to `take` until the stream ends; the answer says why it did.
/// Empty lines are kept back. `take` is given `None` once when the stream begins.
pub async fn follow(
    http: &reqwest::Client,
    url: &str,
    credential: &Credential,
    mut take: impl FnMut(Option<&[u8]>),
) -> String {
    let mut request = http.get(url);
    if let Some(token) = credential.token() {
        request = request.bearer_auth(token);
    }
    let answer = match request.send().await {
        Ok(answer) => answer,
        Err(error) => return cause(&error),
    };
    if !answer.status().is_success() {
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        let text: String = text.chars().take(300).collect();
        return format!("it answered {status}: {text}");
    }
    take(None);
    let mut stream = answer.bytes_stream();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(piece) = stream.next().await {
        match piece {
            Ok(piece) => rest.extend_from_slice(&piece),
            Err(error) => return cause(&error),
        }
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            if line.len() > 1 {
                take(Some(&line[..line.len() - 1]));
            }
        }
        if rest.len() > LONGEST_LINE {
            return "it sent a line without an end".to_owned();
        }
    }
    "it ended the stream".to_owned()
}

/// An error's innermost cause, which says what the matter is.
fn cause(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut next = std::error::Error::source(error);
    while let Some(error) = next {
        text = error.to_string();
        next = error.source();
    }
    if text.contains("peer certificate") {
        text.push_str(" (--certificate-authority names whom to trust for it)");
    }
    text
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::path::PathBuf;

    use axum::Router;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::cli::TlsArgs;
    use crate::operate::serve::open;
    use crate::platform::listen;

    /// A certificate that is its own authority, and a server of one line that shows it.
    async fn served(folder: &std::path::Path, name: &str) -> (PathBuf, SocketAddr) {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = rcgen::CertificateParams::new(vec![name.to_owned()])
            .and_then(|parameters| parameters.self_signed(&key))
            .unwrap();
        let files = ["pem", "key"].map(|end| folder.join(format!("{name}.{end}")));
        std::fs::write(&files[0], certificate.pem()).unwrap();
        std::fs::write(&files[1], key.serialize_pem()).unwrap();
        let [certificate, key] = files;
        let tls = TlsArgs {
            tls_cert_file: Some(certificate.clone()),
            tls_private_key_file: Some(key),
        };
        let (socket, tls) = open((Ipv4Addr::LOCALHOST, 0).into(), &tls).await.unwrap();
        let address = socket.local_addr().unwrap();
        let router = Router::new().fallback(|| async { "a line\n" });
        tokio::spawn(listen(socket, tls, router, CancellationToken::new()));
        (certificate, address)
    }

    async fn heard(http: reqwest::Client, url: String) -> String {
        let mut lines = Vec::new();
        let why = follow(&http, &url, &Credential::none(), |line| {
            lines.extend(line.map(<[u8]>::to_vec));
        })
        .await;
        format!("{} lines, {why}", lines.len())
    }

    #[tokio::test]
    async fn certificates_are_checked() {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, address) = served(folder.path(), "127.0.0.1").await;
        let trust = Trust::read(Some(&certificate)).unwrap();
        let url = format!("https://{address}");
        let unknown = heard(http(&Trust::default()).unwrap(), url.clone()).await;
        assert!(
            unknown.starts_with("0 lines, invalid peer certificate"),
            "{unknown}"
        );
        assert!(unknown.contains("--certificate-authority"), "{unknown}");
        let known = heard(http(&trust).unwrap(), url).await;
        assert_eq!(known, "1 lines, it ended the stream");

        // An endpoint of a Service, which shows the Service's certificate.
        let name = "gateway.system.svc";
        let (certificate, address) = served(folder.path(), name).await;
        let trust = Trust::read(Some(&certificate)).unwrap();
        let by_name = http_at(&trust, name, address).unwrap();
        let found = heard(by_name, format!("https://{name}:{}", address.port())).await;
        assert_eq!(found, "1 lines, it ended the stream");
        let other = http_at(&trust, "other.system.svc", address).unwrap();
        let other = heard(
            other,
            format!("https://other.system.svc:{}", address.port()),
        )
        .await;
        assert!(
            other.starts_with("0 lines, invalid peer certificate"),
            "{other}"
        );
    }
}
