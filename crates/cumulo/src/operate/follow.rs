//! Reads another role's stream of lines, for as long as it lasts.

use std::time::Duration;

use futures::StreamExt;

use super::credential::Credential;

/// A longer line is nothing that a role of ours sends.
const LONGEST_LINE: usize = 16 << 20;
/// A role that says nothing for so long is gone: it sends empty lines in between.
const SILENCE: Duration = Duration::from_secs(30);

/// A client for such streams.
///
/// # Errors
/// When it cannot be made.
pub fn http() -> reqwest::Result<reqwest::Client> {
    reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(Duration::from_secs(5))
        .read_timeout(SILENCE)
        // Roles serve certificates that they sign themselves, unless told otherwise.
        .danger_accept_invalid_certs(true)
        .build()
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
    text
}
