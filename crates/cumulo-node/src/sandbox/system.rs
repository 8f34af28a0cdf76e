//! The parts of the machine that any program needs: data, not code.

use super::policy::{Access, FileRule};

/// Programs, libraries, and what says how many processors there are.
///
/// All of `/proc` can be read, as a program's own children are there under
/// numbers that nobody knows yet: the names and command lines of other
/// processes show, but Landlock refuses what needs the right to trace them
/// (`environ`, `mem`, `maps`, `fd`, `root`).
const READ: &[&str] = &[
    "/usr",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/bin",
    "/sbin",
    "/opt",
    "/nix/store",
    "/gnu/store",
    "/run/current-system",
    "/proc",
    "/sys/devices/system",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    // Name resolution, where these replace /etc/resolv.conf.
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
];

/// Settings below `/etc`. Not the whole: with the platform run by root it
/// holds password hashes and private keys that root may read.
const SETTINGS: &[&str] = &[
    "alternatives",
    "bash.bashrc",
    "ca-certificates",
    "ca-certificates.conf",
    "crypto-policies",
    "debian_version",
    "default/locale",
    "fonts",
    "gai.conf",
    "group",
    "host.conf",
    "hostname",
    "hosts",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "locale.conf",
    "localtime",
    "magic",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "openssl",
    "os-release",
    "passwd",
    "pip.conf",
    "pki/ca-trust",
    "pki/tls/cert.pem",
    "pki/tls/certs",
    "pki/tls/openssl.cnf",
    "profile",
    "protocols",
    "resolv.conf",
    "rpc",
    "services",
    "shells",
    "ssl/cert.pem",
    "ssl/certs",
    "ssl/openssl.cnf",
    "static",
    "terminfo",
    "timezone",
    "uv",
];

/// Devices that hold nothing of anybody.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom"];

/// Rules that every container gets.
pub(super) fn rules() -> Vec<FileRule> {
    let rule = |path: String, access| FileRule {
        path: path.into(),
        access,
    };
    READ.iter()
        .map(|path| rule((*path).to_owned(), Access::Read))
        .chain(
            SETTINGS
                .iter()
                .map(|name| rule(format!("/etc/{name}"), Access::Read)),
        )
        .chain(
            DEVICES
                .iter()
                .map(|name| rule(format!("/dev/{name}"), Access::Use)),
        )
        // Semaphores and arrays of Python's multiprocessing; their names are
        // random, and cannot be listed.
        .chain([rule("/dev/shm".to_owned(), Access::Share)])
        .collect()
}
