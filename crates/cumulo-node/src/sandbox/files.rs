//! From a policy's rules to Landlock's ruleset.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    Access as _, AccessFs, AccessNet, BitFlags, NetPort, PathBeneath, PathFd, Ruleset, RulesetAttr,
    RulesetCreated, RulesetCreatedAttr, Scope, make_bitflags,
};

use super::error::SandboxError;
use super::policy::{Access, FileRule, Policy};
use super::support::Support;

/// Opens what the policy names and makes the ruleset; `None` on a kernel
/// without Landlock.
pub(super) fn ruleset(
    policy: &Policy,
    support: Support,
) -> Result<Option<RulesetCreated>, SandboxError> {
    if !support.files() {
        return Ok(None);
    }
    let handled = AccessFs::from_all(support.abi());
    let mut ruleset = Ruleset::default().handle_access(handled)?;
    let ports = policy.egress.ports().filter(|_| support.connections());
    if ports.is_some() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    if support.scopes() {
        ruleset = ruleset.scope(Scope::Signal | Scope::AbstractUnixSocket)?;
    }
    let mut ruleset = ruleset.create()?;
    if support.log() {
        // The program is another than the one that enters: without this the
        // kernel's audit log would say nothing of what is refused.
        ruleset = ruleset.log_new_exec(true)?;
    }
    for (path, access) in opened(&policy.files, &policy.withheld)? {
        let Ok(fd) = PathFd::new(&path) else {
            // Gone since it was looked at.
            continue;
        };
        let rights = rights(access, path.is_dir()) & handled;
        ruleset = ruleset.add_rule(PathBeneath::new(fd, rights))?;
    }
    for port in ports.into_iter().flatten() {
        ruleset = ruleset.add_rule(NetPort::new(port, AccessNet::ConnectTcp))?;
    }
    Ok(Some(ruleset))
}

/// What Landlock is asked for on a kernel that knows every right.
fn rights(access: Access, folder: bool) -> BitFlags<AccessFs> {
    let read = make_bitflags!(AccessFs::{ReadFile | ReadDir | Execute});
    let change = make_bitflags!(AccessFs::{
        WriteFile | Truncate | MakeReg | MakeDir | MakeSym | MakeFifo | MakeSock
            | RemoveFile | RemoveDir | Refer
    });
    let of_files = make_bitflags!(AccessFs::{ReadFile | Execute | WriteFile | Truncate | IoctlDev});
    let wanted = match access {
        Access::Read => read,
        Access::Use => make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | IoctlDev}),
        Access::Share => {
            make_bitflags!(AccessFs::{ReadFile | WriteFile | Truncate | MakeReg | RemoveFile})
        }
        Access::Write => read | change,
    };
    if folder { wanted } else { wanted & of_files }
}

/// The real paths that are opened: links are followed, and a folder above a
/// withheld one is replaced by its other entries.
pub(super) fn opened(
    rules: &[FileRule],
    withheld: &[PathBuf],
) -> Result<Vec<(PathBuf, Access)>, SandboxError> {
    let withheld: Vec<PathBuf> = withheld
        .iter()
        .filter_map(|path| path.canonicalize().ok())
        .collect();
    let mut opened = Vec::new();
    for rule in rules {
        match rule.path.canonicalize() {
            Ok(path) => open(path, rule.access, &withheld, &mut opened)?,
            Err(error) if is_absent(&error) => {}
            Err(error) => {
                return Err(SandboxError::Path {
                    path: rule.path.clone(),
                    error,
                });
            }
        }
    }
    opened.sort();
    opened.dedup();
    Ok(opened)
}

/// What is not there, or out of the platform's own reach, is nothing that a
/// container could be given.
fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::PermissionDenied
    )
}

fn open(
    path: PathBuf,
    access: Access,
    withheld: &[PathBuf],
    opened: &mut Vec<(PathBuf, Access)>,
) -> Result<(), SandboxError> {
    if withheld.contains(&path) {
        return Ok(());
    }
    if !withheld.iter().any(|other| other.starts_with(&path)) {
        opened.push((path, access));
        return Ok(());
    }
    for entry in entries(&path)? {
        // A link would lead past what is withheld.
        let link = fs::symlink_metadata(&entry).is_ok_and(|metadata| metadata.is_symlink());
        if !link {
            open(entry, access, withheld, opened)?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, SandboxError> {
    let read = || -> io::Result<Vec<PathBuf>> {
        fs::read_dir(folder)?
            .map(|entry| entry.map(|entry| entry.path()))
            .collect()
    };
    match read() {
        Ok(entries) => Ok(entries),
        Err(error) if is_absent(&error) => Ok(Vec::new()),
        Err(error) => Err(SandboxError::Path {
            path: folder.to_owned(),
            error,
        }),
    }
}
