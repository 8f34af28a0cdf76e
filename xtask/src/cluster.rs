//! `cargo xtask cluster`: the examples and faults on a whole cluster, beside a
//! control plane as it is published (etcd, kube-apiserver,
//! kube-controller-manager, kube-scheduler, built from their Go modules).

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Builds what is missing and runs `tests/peers/cluster/run.py` with these
/// arguments (`--faults`, `--only-faults`, `--keep`).
///
/// # Errors
/// When a program is missing, or something checked does not hold.
pub fn run(root: &Path, binary: &Path, arguments: &[String]) -> Result<()> {
    let peers = root.join(".build/peers/kubernetes");
    let build = root.join("tests/peers/kubernetes/build.sh");
    finish(
        Command::new(&build)
            .arg(&peers)
            .args(["kube-controller-manager", "kube-scheduler"]),
        "the control plane was not built",
    )?;
    let kubectl = Command::new("python3")
        .arg(root.join("tests/peers/kubectl.py"))
        .arg(root.join(".build/peers/kubectl-1.35"))
        .output()
        .context("python3 cannot be run")?;
    if !kubectl.status.success() {
        bail!(
            "kubectl could not be fetched: {}",
            String::from_utf8_lossy(&kubectl.stderr)
        );
    }
    let kubectl = String::from_utf8(kubectl.stdout).context("kubectl's path is not UTF-8")?;
    finish(
        Command::new("python3")
            .arg(root.join("tests/peers/cluster/run.py"))
            .arg(binary)
            .arg(&peers)
            .arg(kubectl.trim())
            .args(arguments),
        "not everything holds",
    )
}

fn finish(command: &mut Command, otherwise: &str) -> Result<()> {
    let status = command
        .status()
        .with_context(|| format!("{} cannot be run", command.get_program().to_string_lossy()))?;
    if !status.success() {
        bail!("{otherwise} ({status})");
    }
    Ok(())
}
