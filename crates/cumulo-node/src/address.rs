//! An address for every pod.
//!
//! Linux answers on all of 127.0.0.0/8, so each pod gets an address of its own
//! out of 127.64.0.0/10 (or another range) and keeps the ports that its manifest
//! names. The address follows from the pod's uid; only a collision moves it.
//!
//! Other machines reach pods in a range that is routed to this one and that its
//! kernel takes for its own (`ip route add local RANGE dev lo`).

use std::collections::BTreeSet;
use std::fmt;
use std::net::{Ipv4Addr, TcpListener};
use std::str::FromStr;

use sha2::{Digest, Sha256};

/// How many addresses are tried before the pod is refused one.
const ATTEMPTS: u32 = 64;

/// A range of addresses for pods: `127.64.0.0/10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    base: u32,
    prefix: u8,
}

/// Why a text is no range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no range of addresses for pods: expected something like 127.64.0.0/10 or 10.9.3.0/24, with 8 to 28 bits"
)]
pub struct RangeError(String);

impl Range {
    /// Where pods are unless told otherwise.
    pub const LOOPBACK: Self = Self {
        base: 0x7f40_0000,
        prefix: 10,
    };

    fn hosts(self) -> u32 {
        u32::MAX >> self.prefix
    }

    /// Whether an address lies in it.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & !self.hosts() == self.base
    }
}

impl FromStr for Range {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let wrong = || RangeError(text.to_owned());
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = address.parse().map_err(|_| wrong())?;
        let prefix: u8 = prefix.parse().map_err(|_| wrong())?;
        if !(8..=28).contains(&prefix) {
            return Err(wrong());
        }
        let base = u32::from(address);
        let range = Self { base, prefix };
        if base & range.hosts() == 0 {
            Ok(range)
        } else {
            Err(wrong())
        }
    }
}

impl fmt::Display for Range {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", Ipv4Addr::from(self.base), self.prefix)
    }
}

/// The candidates for a pod in the order in which they are tried.
pub fn candidates(uid: &str, range: Range) -> impl Iterator<Item = Ipv4Addr> + use<> {
    let uid = uid.to_owned();
    (0..ATTEMPTS).map(move |attempt| {
        let digest = Sha256::digest(format!("{uid}/{attempt}"));
        let host = u32::from_be_bytes([0, digest[0], digest[1], digest[2]]) & range.hosts();
        // Neither network nor broadcast addresses, which look odd in a list.
        let last = match host & 0xff {
            0 => 1,
            255 => 254,
            other if other == range.hosts() => other - 1,
            other => other,
        };
        Ipv4Addr::from(range.base | (host & 0xffff_ff00) | last)
    })
}

/// Chooses the pod's address: not taken by another pod, and with its ports
/// free on the machine.
pub fn choose(
    uid: &str,
    range: Range,
    taken: &BTreeSet<Ipv4Addr>,
    is_free: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    candidates(uid, range).find(|address| !taken.contains(address) && is_free(*address))
}

/// Whether nobody on the machine listens on any of the ports at the address.
pub fn ports_are_free(address: Ipv4Addr, ports: &[u16]) -> bool {
    ports
        .iter()
        .all(|port| match TcpListener::bind((address, *port)) {
            Ok(_) => true,
            Err(error) => error.kind() != std::io::ErrorKind::AddrInUse,
        })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_taken_port_moves_the_pod() {
        let first = candidates("a", Range::LOOPBACK).next().unwrap();
        let listener = TcpListener::bind((first, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!ports_are_free(first, &[port]));
        let chosen = choose("a", Range::LOOPBACK, &BTreeSet::new(), |ip| {
            ports_are_free(ip, &[port])
        })
        .unwrap();
        assert_ne!(chosen, first);
    }

    #[test]
    fn ranges_are_read() {
        assert_eq!("127.64.0.0/10".parse(), Ok(Range::LOOPBACK));
        assert_eq!(Range::LOOPBACK.to_string(), "127.64.0.0/10");
        for wrong in [
            "",
            "127.0.0.1",
            "127.0.0.1/24",
            "10.0.0.0/31",
            "10.0.0.0/7",
            "a/8",
        ] {
            assert!(wrong.parse::<Range>().is_err(), "{wrong}");
        }
    }

    proptest! {
        #[test]
        fn addresses_are_distinct_and_in_range(uids in proptest::collection::btree_set("[a-z0-9]{1,8}", 1..200)) {
            let mut taken = BTreeSet::new();
            for uid in uids {
                let address = choose(&uid, Range::LOOPBACK, &taken, |_| true).unwrap();
                prop_assert!(address.octets()[0] == 127 && (64..128).contains(&address.octets()[1]));
                let range: Range = "10.9.3.16/28".parse().unwrap();
                let narrow = candidates(&uid, range).next().unwrap();
                prop_assert!(range.contains(narrow) && (17..31).contains(&narrow.octets()[3]));
                prop_assert!(taken.insert(address));
            }
        }
    }
}
