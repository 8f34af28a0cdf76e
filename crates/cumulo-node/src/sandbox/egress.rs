//! Where a pod may connect: the annotation `cumulo.dev/egress`.
//!
//! ```text
//! (absent)                              anywhere, as on a cluster without network policies
//! none                                  only what Cumulo itself needs (tracking, artifacts)
//! db.example.org:5432, https://pypi.org that, and these
//! ```
//!
//! Landlock knows ports, not hosts: a declared `db.example.org:5432` opens
//! port 5432 of every host, so the host's name is advice. What the declaration
//! closes for good is every other port, and everything that is not TCP.

use serde::{Deserialize, Serialize};

/// The annotation of a pod that declares where it connects.
pub const EGRESS_ANNOTATION: &str = "cumulo.dev/egress";

/// The most destinations of one pod.
const MOST: usize = 64;

/// Where a process may connect.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Egress {
    /// Anywhere.
    #[default]
    Any,
    /// By TCP to these, and nowhere else.
    Only(Vec<Destination>),
}

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Destination {
    /// Name or address; advice, see the module.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// An annotation that is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// Neither `HOST:PORT` nor a URL.
    #[error(
        "annotation {EGRESS_ANNOTATION}: {0:?} is no destination; write HOST:PORT or a URL, several separated by commas, or none"
    )]
    Destination(String),
    /// Too long a list.
    #[error("annotation {EGRESS_ANNOTATION} names more than {MOST} destinations")]
    TooMany,
}

impl Egress {
    /// Reads the annotation; `None` when the pod has none.
    pub fn parse(annotation: Option<&str>) -> Result<Self, EgressError> {
        let Some(text) = annotation else {
            return Ok(Self::Any);
        };
        let words: Vec<&str> = text
            .split([',', ' ', '\n', '\t'])
            .filter(|word| !word.is_empty())
            .collect();
        if words.len() > MOST {
            return Err(EgressError::TooMany);
        }
        if words == ["none"] {
            return Ok(Self::Only(Vec::new()));
        }
        words
            .into_iter()
            .map(|word| destination(word).ok_or_else(|| EgressError::Destination(word.to_owned())))
            .collect::<Result<_, _>>()
            .map(Self::Only)
    }

    /// Adds a destination that the container needs whatever it declares, given
    /// as a URL; what is no address of a host is left out.
    pub fn also(&mut self, url: &str) {
        if let Self::Only(destinations) = self
            && let Some(destination) = destination(url)
            && !destinations.contains(&destination)
        {
            destinations.push(destination);
        }
    }

    /// The ports that may be connected to; `None` for all. A host by its name
    /// needs the name service, over TCP as everything.
    pub fn ports(&self) -> Option<Vec<u16>> {
        const NAME_SERVICE: u16 = 53;
        let Self::Only(destinations) = self else {
            return None;
        };
        let mut ports: Vec<u16> = destinations.iter().map(|other| other.port).collect();
        if self.needs_names() {
            ports.push(NAME_SERVICE);
        }
        ports.sort_unstable();
        ports.dedup();
        Some(ports)
    }

    /// Whether a declared host has to be looked up.
    pub fn needs_names(&self) -> bool {
        let Self::Only(destinations) = self else {
            return false;
        };
        destinations.iter().any(|destination| {
            destination.host != "localhost" && destination.host.parse::<std::net::IpAddr>().is_err()
        })
    }
}

/// `HOST:PORT`, `[ADDRESS]:PORT`, or a URL of a scheme with a known port.
fn destination(text: &str) -> Option<Destination> {
    let (rest, usual) = match text.split_once("://") {
        Some((scheme, rest)) => {
            let usual = match scheme {
                "http" => Some(80),
                "https" | "s3" | "gs" => Some(443),
                "postgres" | "postgresql" => Some(5432),
                _ => None,
            };
            (rest, usual)
        }
        None => (text, None),
    };
    let authority = rest.split(['/', '?', '#']).next()?;
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let (host, port) = match authority.rsplit_once(':') {
        // The colons of an address in brackets are not the port's.
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (authority, usual?),
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let plain = |character: char| {
        character.is_ascii_alphanumeric() || matches!(character, '.' | '-' | ':' | '_' | '*')
    };
    (!host.is_empty() && host.chars().all(plain) && port != 0).then(|| Destination {
        host: host.to_owned(),
        port,
    })
}
