//! Downloads over HTTP(S), only from hosts that are allowed.
//!
//! The name is resolved once, the addresses are judged, and the connection goes
//! to exactly these addresses, so that a name cannot point elsewhere between
//! the check and the use. Every redirect is judged anew. A proxy of the
//! environment is not used: behind one the check would say nothing.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use tokio::io::AsyncWriteExt;
use url::{Host, Url};

use super::error::SourceError;
use crate::build::Progress;
use crate::options::Options;

const MAX_REDIRECTS: usize = 5;
const ATTEMPTS: usize = 3;

/// Downloads one file into `folder` and says where it is.
pub(super) async fn download(
    source_name: &str,
    url: Url,
    options: &Options,
    folder: &Path,
    index: usize,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<PathBuf, SourceError> {
    let shown = show(&url);
    let path = folder.join(format!("{index:06}-download"));
    let mut attempt = 1;
    let work = async {
        loop {
            match fetch(source_name, url.clone(), options, &path, progress).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Transient(problem)) if attempt < ATTEMPTS => {
                    tracing::warn!(
                        source = source_name,
                        url = shown,
                        problem,
                        attempt,
                        "download failed, trying again"
                    );
                    tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                    attempt += 1;
                }
                Err(Failure::Transient(problem)) => {
                    return Err(SourceError::Download {
                        source_name: source_name.to_owned(),
                        url: shown.clone(),
                        problem: format!("{problem} (tried {ATTEMPTS} times)"),
                    });
                }
            }
        }
    };
    match tokio::time::timeout(options.download_timeout, work).await {
        Ok(result) => result.map(|()| path),
        Err(_) => Err(SourceError::Download {
            source_name: source_name.to_owned(),
            url: shown.clone(),
            problem: format!(
                "it took longer than {} s",
                options.download_timeout.as_secs()
            ),
        }),
    }
}

enum Failure {
    /// Worth another try.
    Transient(String),
    Final(SourceError),
}

async fn fetch(
    source_name: &str,
    mut url: Url,
    options: &Options,
    path: &Path,
    progress: &(dyn Fn(Progress) + Send + Sync),
) -> Result<(), Failure> {
    let failed = |url: &Url, problem: String| {
        Failure::Final(SourceError::Download {
            source_name: source_name.to_owned(),
            url: show(url),
            problem,
        })
    };
    let mut redirects = 0;
    let response = loop {
        let addresses = permitted(source_name, &url, options).await?;
        let mut builder = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .read_timeout(Duration::from_secs(60));
        if let Some(host) = url.host_str() {
            builder = builder.resolve_to_addrs(host, &addresses);
        }
        let client = builder
            .build()
            .map_err(|error| failed(&url, reqwest_problem(&error)))?;
        let response = client
            .get(url.clone())
            .send()
            .await
            .map_err(|error| Failure::Transient(reqwest_problem(&error)))?;
        let status = response.status();
        if status.is_redirection() {
            redirects += 1;
            if redirects > MAX_REDIRECTS {
                return Err(failed(&url, format!("more than {MAX_REDIRECTS} redirects")));
            }
            let target = response
                .headers()
                .get(reqwest::header::LOCATION)
                .and_then(|value| value.to_str().ok())
                .and_then(|location| url.join(location).ok());
            match target {
                Some(target) if matches!(target.scheme(), "http" | "https") => url = target,
                _ => {
                    return Err(failed(
                        &url,
                        format!("{status} without a place to go on to"),
                    ));
                }
            }
            continue;
        }
        if status.is_server_error() || status == reqwest::StatusCode::TOO_MANY_REQUESTS {
            return Err(Failure::Transient(format!("the server answered {status}")));
        }
        if !status.is_success() {
            return Err(failed(&url, format!("the server answered {status}")));
        }
        break response;
    };
    let total = response.content_length();
    let too_large = |url: &Url| {
        Failure::Final(SourceError::TooLarge {
            source_name: source_name.to_owned(),
            url: show(url),
            limit: options.max_download_bytes,
        })
    };
    if total.is_some_and(|total| total > options.max_download_bytes) {
        return Err(too_large(&url));
    }
    let io = |error| Failure::Final(SourceError::io(source_name, path, error));
    let mut file = tokio::fs::File::create(path).await.map_err(io)?;
    let mut stream = response.bytes_stream();
    let mut received = 0u64;
    let mut reported = 0u64;
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|error| {
            Failure::Transient(format!(
                "the transfer broke off after {received} bytes: {}",
                reqwest_problem(&error)
            ))
        })?;
        received += chunk.len() as u64;
        if received > options.max_download_bytes {
            return Err(too_large(&url));
        }
        file.write_all(&chunk).await.map_err(io)?;
        if received - reported >= 1 << 20 || Some(received) == total {
            reported = received;
            progress(Progress::Downloading {
                name: source_name.to_owned(),
                received,
                total,
            });
        }
    }
    file.flush().await.map_err(io)?;
    Ok(())
}

/// The addresses of a URL's host, if the host is allowed and they are too.
async fn permitted(
    source_name: &str,
    url: &Url,
    options: &Options,
) -> Result<Vec<SocketAddr>, Failure> {
    let refused = |problem: String| {
        Failure::Final(SourceError::Host {
            source_name: source_name.to_owned(),
            url: show(url),
            problem,
        })
    };
    let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
        return Err(refused("the URL has no host".to_owned()));
    };
    let name = bare(&host);
    let permission = permission(&name, port, &options.allowed_hosts);
    if permission == Permission::No {
        return Err(refused(format!(
            "the host {name} is not among the hosts that may be downloaded from ({}): add it to the allowed hosts (CUMULO_ALLOWED_HOSTS)",
            if options.allowed_hosts.is_empty() {
                "none".to_owned()
            } else {
                options.allowed_hosts.join(", ")
            }
        )));
    }
    let addresses: Vec<SocketAddr> = match host {
        Host::Ipv4(address) => vec![SocketAddr::new(IpAddr::V4(address), port)],
        Host::Ipv6(address) => vec![SocketAddr::new(IpAddr::V6(address), port)],
        Host::Domain(domain) => tokio::net::lookup_host((domain, port))
            .await
            .map_err(|error| Failure::Transient(format!("{domain} is not found: {error}")))?
            .collect(),
    };
    if permission != Permission::Literal
        && let Some(address) = addresses.iter().find(|address| !is_public(address.ip()))
    {
        return Err(refused(format!(
            "{name} is the address {}, which is not a public one: list the host literally to allow it",
            address.ip()
        )));
    }
    if addresses.is_empty() {
        return Err(Failure::Transient(format!("{name} has no address")));
    }
    Ok(addresses)
}

fn bare(host: &Host<&str>) -> String {
    match host {
        Host::Domain(domain) => domain.trim_end_matches('.').to_ascii_lowercase(),
        Host::Ipv4(address) => address.to_string(),
        Host::Ipv6(address) => format!("[{address}]"),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Permission {
    No,
    /// By `*` or `*.domain`: public addresses alone.
    Wildcard,
    /// By its name: any address.
    Literal,
}

/// Whether the allow-list has a host; an entry with a port is for that port alone.
fn permission(host: &str, port: u16, allowed: &[String]) -> Permission {
    let mut best = Permission::No;
    for entry in allowed {
        let entry = entry.trim().to_ascii_lowercase();
        let (name, only) = match entry.rsplit_once(':') {
            Some((name, digits)) if !entry.ends_with(']') => match digits.parse::<u16>() {
                Ok(port) => (name.to_owned(), Some(port)),
                Err(_) => (entry.clone(), None),
            },
            _ => (entry.clone(), None),
        };
        if only.is_some_and(|only| only != port) {
            continue;
        }
        if name == host {
            return Permission::Literal;
        }
        let wildcard = name == "*"
            || name
                .strip_prefix('*')
                .is_some_and(|suffix| suffix.starts_with('.') && host.ends_with(suffix));
        if wildcard {
            best = Permission::Wildcard;
        }
    }
    best
}

/// Whether an address is one of the public internet.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            !(v4.is_private()
                || v4.is_loopback()
                || v4.is_link_local()
                || v4.is_unspecified()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4.is_documentation()
                || a == 0
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b == 18 || b == 19))
                || a >= 240)
        }
        IpAddr::V6(v6) => {
            if let Some(v4) = v6.to_ipv4_mapped() {
                return is_public(IpAddr::V4(v4));
            }
            // Global unicast alone; 6to4 and NAT64 carry IPv4 addresses inside.
            let first = v6.segments()[0];
            (0x2000..0x4000).contains(&first)
                && first != 0x2002
                && !(first == 0x2001 && v6.segments()[1] == 0xdb8)
        }
    }
}

/// The URL for a message: without user, password and query, which may be secrets.
fn show(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url.set_query(None);
    url.set_fragment(None);
    url.to_string()
}

/// What went wrong, without the URL (it may hold secrets) and with the cause.
fn reqwest_problem(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "the server took too long to answer".to_owned();
    }
    let mut deepest: &dyn std::error::Error = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    if error.is_connect() {
        format!("no connection: {deepest}")
    } else {
        deepest.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allow_list_is_read_literally_or_by_suffix() {
        let allowed: Vec<String> = [
            "data.example.org",
            "*.Example.com",
            "127.0.0.1:8000",
            "[::1]",
        ]
        .map(str::to_owned)
        .to_vec();
        let check = |host, port| permission(host, port, &allowed);
        assert_eq!(check("data.example.org", 443), Permission::Literal);
        assert_eq!(check("evil-data.example.org", 443), Permission::No);
        assert_eq!(check("a.example.com", 80), Permission::Wildcard);
        assert_eq!(check("example.com", 80), Permission::No);
        assert_eq!(check("127.0.0.1", 8000), Permission::Literal);
        assert_eq!(check("127.0.0.1", 8001), Permission::No);
        assert_eq!(check("[::1]", 80), Permission::Literal);
        assert_eq!(permission("x", 1, &["*".to_owned()]), Permission::Wildcard);
    }

    #[test]
    fn private_addresses_are_not_public() {
        for text in [
            "127.0.0.1",
            "10.1.2.3",
            "192.168.0.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "::1",
            "fe80::1",
            "fd00::1",
            "::ffff:127.0.0.1",
            "2002:7f00:1::",
        ] {
            assert!(!is_public(text.parse().expect("an address")), "{text}");
        }
        for text in ["1.1.1.1", "2606:4700::1111"] {
            assert!(is_public(text.parse().expect("an address")), "{text}");
        }
    }

    #[test]
    fn shown_urls_hold_no_secrets() {
        let url = Url::parse("https://user:pw@x.org/a.csv?sig=secret#f").expect("a URL");
        assert_eq!(show(&url), "https://x.org/a.csv");
    }
}
