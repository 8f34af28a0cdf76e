//! The Debian packages of the image: which, where from, and what of them.
//!
//! apt resolves them as for a machine that has nothing installed, downloads them
//! and checks their signatures; the scripts in them are not run.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use super::tree::Tree;

/// What is asked for: what the binary links, Python for user code, and what TLS and times need.
const WANTED: &[&str] = &[
    "base-files",
    "ca-certificates",
    "dash",
    "libc6",
    "libgcc-s1",
    "libgomp1",
    "libstdc++6",
    "python3",
    "tzdata",
];
/// What only the packages' own scripts would need.
const LEFT_OUT: &[&str] = &[
    "debconf",
    "debianutils",
    "dpkg",
    "libmd0",
    "libpcre2-8-0",
    "libselinux1",
    "libacl1",
    "mawk",
    "openssl",
    "perl-base",
    "readline-common",
    "tar",
];
/// Folders that nobody reads in a container; copyright files stay.
const CUT: &[&str] = &[
    "usr/share/bug/",
    "usr/share/info/",
    "usr/share/lintian/",
    "usr/share/locale/",
    "usr/share/man/",
];

/// Unpacks all packages; says which they are, `NAME_VERSION_ARCHITECTURE`.
pub fn unpack(tree: &mut Tree, cache: &Path) -> Result<Vec<String>> {
    for link in ["bin", "lib", "lib64", "sbin"] {
        tree.folder(&format!("/usr/{link}"), 0o755, 0)?;
        tree.symlink(&format!("/{link}"), &format!("usr/{link}"))?;
    }
    let archives = cache.join("packages");
    std::fs::create_dir_all(archives.join("partial"))
        .with_context(|| format!("cannot make {}", archives.display()))?;
    let files = resolve(&archives)?;
    if files.iter().any(|file| !archives.join(file).is_file()) {
        eprintln!("==> fetching {} Debian packages", files.len());
        apt(&archives, &["--download-only"], false)?;
    }
    let mut installed = Vec::new();
    for file in &files {
        let mut child = Command::new("dpkg-deb")
            .arg("--fsys-tarfile")
            .arg(archives.join(file))
            .stdout(Stdio::piped())
            .spawn()
            .context("dpkg-deb cannot be run: the image is made of Debian packages, on Debian")?;
        let stream = child.stdout.take().context("dpkg-deb has no output")?;
        tree.unpack(stream, keep).with_context(|| file.clone())?;
        if !child.wait()?.success() {
            bail!("dpkg-deb cannot unpack {file}");
        }
        let name = file.trim_end_matches(".deb").replace("%3a", ":");
        installed.push(name);
    }
    installed.sort();
    Ok(installed)
}

/// The files of the packages that are needed, in apt's order.
fn resolve(archives: &Path) -> Result<Vec<String>> {
    let text = apt(archives, &["--print-uris"], true)?;
    let mut files = Vec::new();
    // 'ADDRESS' FILE SIZE HASH
    for line in text.lines().filter(|line| line.starts_with('\'')) {
        let Some(file) = line.split_whitespace().nth(1) else {
            continue;
        };
        let package = file.split('_').next().unwrap_or_default();
        if !LEFT_OUT.contains(&package) {
            files.push(file.to_owned());
        }
    }
    if files.is_empty() {
        bail!("apt knows none of the packages: run apt-get update");
    }
    Ok(files)
}

/// Asks apt about [`WANTED`], as on a machine without any package.
fn apt(archives: &Path, options: &[&str], fresh: bool) -> Result<String> {
    let mut command = Command::new("apt-get");
    command
        .args(["-qq", "-y", "--no-install-recommends"])
        .args([
            "-o",
            "Dir::State::status=/dev/null",
            "-o",
            "Debug::NoLocking=1",
        ])
        // A user may read what root downloads.
        .args(["-o", "APT::Sandbox::User="])
        .arg("-o");
    if fresh {
        // What is downloaded already would not be told.
        let nothing = tempfile::tempdir()?;
        std::fs::create_dir(nothing.path().join("partial"))?;
        command.arg(format!("Dir::Cache::archives={}", nothing.path().display()));
        return finish(command, options);
    }
    command.arg(format!("Dir::Cache::archives={}", archives.display()));
    finish(command, options)
}

fn finish(mut command: Command, options: &[&str]) -> Result<String> {
    let output = command
        .args(options)
        .arg("install")
        .args(WANTED)
        .stdin(Stdio::null())
        .output()
        .context("apt-get cannot be run: the image is made of Debian packages, on Debian")?;
    if !output.status.success() {
        bail!(
            "apt-get cannot find the packages (run apt-get update): {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a file of a package goes into the image.
fn keep(path: &str) -> bool {
    if CUT.iter().any(|cut| path.starts_with(cut)) {
        return false;
    }
    !path.starts_with("usr/share/doc/") || path.ends_with("/copyright")
}
