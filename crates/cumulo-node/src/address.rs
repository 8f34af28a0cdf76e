//! A loopback address for every pod.
//!
//! Linux answers on all of 127.0.0.0/8, so each pod gets an address of its own
//! out of 127.64.0.0/10 and keeps the ports that its manifest names. The
//! address follows from the pod's uid; only a collision moves it.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener};

use sha2::{Digest, Sha256};

/// How many addresses are tried before the pod is refused one.
const ATTEMPTS: u32 = 64;

/// The candidates for a pod in the order in which they are tried.
pub fn candidates(uid: &str) -> impl Iterator<Item = Ipv4Addr> + use<> {
    let uid = uid.to_owned();
    (0..ATTEMPTS).map(move |attempt| {
        let digest = Sha256::digest(format!("{uid}/{attempt}"));
        let host = u32::from_be_bytes([0, digest[0], digest[1], digest[2]]) & 0x003f_ffff;
        // Neither network nor broadcast addresses, which look odd in a list.
        let last = match host & 0xff {
            0 => 1,
            255 => 254,
            other => other,
        };
        Ipv4Addr::from(0x7f40_0000 | (host & 0xffff_ff00) | last)
    })
}

/// Chooses the pod's address: not taken by another pod, and with its ports
/// free on the machine.
pub fn choose(
    uid: &str,
    taken: &BTreeSet<Ipv4Addr>,
    is_free: impl Fn(Ipv4Addr) -> bool,
) -> Option<Ipv4Addr> {
    candidates(uid).find(|address| !taken.contains(address) && is_free(*address))
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
        let first = candidates("a").next().unwrap();
        let listener = TcpListener::bind((first, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(!ports_are_free(first, &[port]));
        let chosen = choose("a", &BTreeSet::new(), |ip| ports_are_free(ip, &[port])).unwrap();
        assert_ne!(chosen, first);
    }

    proptest! {
        #[test]
        fn addresses_are_distinct_and_in_range(uids in proptest::collection::btree_set("[a-z0-9]{1,8}", 1..200)) {
            let mut taken = BTreeSet::new();
            for uid in uids {
                let address = choose(&uid, &taken, |_| true).unwrap();
                prop_assert!(address.octets()[0] == 127 && (64..128).contains(&address.octets()[1]));
                prop_assert!(taken.insert(address));
            }
        }
    }
}
