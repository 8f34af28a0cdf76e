//! Where this machine's programs are: what containers may read beside the
//! system's own folders.

use std::path::{Path, PathBuf};

/// Variables that name files and folders which programs read by themselves.
const NAMED: &[&str] = &[
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "PIP_CERT",
    "NIX_LD",
    "UV_PYTHON_INSTALL_DIR",
];

/// Folders of programs, from the variables that containers inherit and the
/// home folder of whoever runs the platform.
///
/// For `/x/bin` in the search path these are `/x/bin` and `/x/lib` with its
/// like, not `/x`: beside `~/.cargo/bin` lie credentials. `/x/shims` is how
/// version managers (pyenv, asdf, mise) work, which need all of `/x`.
pub fn folders(environment: &[(String, String)], home: Option<&Path>) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (name, value) in environment {
        if name == "PATH" {
            for entry in std::env::split_paths(value).filter(|entry| entry.is_absolute()) {
                beside(&entry, home, &mut found);
            }
        } else if NAMED.contains(&name.as_str()) {
            found.extend(std::env::split_paths(value).filter(|path| path.is_absolute()));
        }
    }
    if let Some(home) = home {
        // Interpreters that uv installed, and where it links them.
        found.push(home.join(".local/share/uv/python"));
    }
    let mut unique: Vec<PathBuf> = Vec::new();
    for path in found {
        if !unique.contains(&path) {
            unique.push(path);
        }
    }
    unique
}

/// Names of files and folders, however a role uses them: what the platform's
/// environment points at.
pub fn named_paths(environment: &[(String, String)]) -> Vec<PathBuf> {
    environment
        .iter()
        .filter(|(name, _)| name != "PATH")
        .flat_map(|(_, value)| std::env::split_paths(value).collect::<Vec<_>>())
        .filter(|path| path.is_absolute() && path.parent().is_some())
        .collect()
}

/// An entry of a search path, and what belongs to it.
fn beside(entry: &Path, home: Option<&Path>, found: &mut Vec<PathBuf>) {
    found.push(entry.to_owned());
    let Some(prefix) = entry.parent() else { return };
    // `~/bin` and `/bin` say nothing of what is beside them.
    if prefix.parent().is_none() || home == Some(prefix) {
        return;
    }
    match entry.file_name().and_then(|name| name.to_str()) {
        Some("shims") => found.push(prefix.to_owned()),
        Some("bin" | "sbin") => installation(prefix, found),
        _ => {}
    }
}

/// The parts of an installation that hold no data of anybody.
fn installation(prefix: &Path, found: &mut Vec<PathBuf>) {
    for part in [
        "lib",
        "lib64",
        "libexec",
        "include",
        "share/terminfo",
        "pyvenv.cfg",
    ] {
        found.push(prefix.join(part));
    }
}

/// What a Python environment consists of: its folder, and the installation
/// that its interpreter belongs to.
pub fn python(folder: &Path) -> Vec<PathBuf> {
    let mut found = vec![folder.to_owned()];
    if let Ok(real) = folder.join("bin/python").canonicalize()
        && let Some(bin) = real.parent()
    {
        found.push(real.clone());
        if let Some(prefix) = bin.parent().filter(|prefix| prefix.parent().is_some()) {
            found.push(bin.to_owned());
            installation(prefix, &mut found);
        }
    }
    found
}
