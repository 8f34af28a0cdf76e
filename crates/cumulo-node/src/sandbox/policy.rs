//! What a process may reach: plain data, and how it follows from what the
//! node knows of a container. Nothing here touches the system.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::egress::Egress;
use super::system;

/// What a process may reach. Everything that it does not name is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Policy {
    /// Files and folders.
    pub files: Vec<FileRule>,
    /// Folders that no rule above them opens: a rule for `/opt` leaves out
    /// `/opt/cumulo` when that is named here. A rule for a path inside one,
    /// such as a pod's own folder in the platform's, counts.
    pub withheld: Vec<PathBuf>,
    /// Where it may connect.
    pub egress: Egress,
    /// How much it may use.
    pub limits: Limits,
}

/// One path and what may be done below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRule {
    /// A file, or a folder with all that is in it. What does not exist when
    /// the process starts is left out.
    pub path: PathBuf,
    /// What may be done.
    pub access: Access,
}

/// What may be done below a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Access {
    /// Read, list and execute.
    Read,
    /// Read and write what is there: devices, the termination message.
    Use,
    /// Make, open and remove files by their names, without seeing the names
    /// of others: shared memory.
    Share,
    /// Everything but devices.
    Write,
}

/// Limits that the kernel keeps by itself, from before the program starts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Limits {
    /// Largest file that it may write, in bytes.
    pub file_bytes: Option<u64>,
    /// Most open files of one process.
    pub open_files: Option<u64>,
    /// The processors that it runs on; all when empty.
    pub processors: Vec<usize>,
}

/// What one of Cumulo's own commands needs beside its container's folder.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleAccess {
    /// The words after `cumulo`, such as `data build`; a container's command
    /// that begins with them is this role.
    pub words: Vec<String>,
    /// Folders that it reads.
    pub read: Vec<PathBuf>,
    /// Folders that it writes.
    pub write: Vec<PathBuf>,
}

impl RoleAccess {
    /// Whether a container's command is this role.
    pub fn is(&self, command: &[String]) -> bool {
        command
            .split_first()
            .is_some_and(|(program, rest)| program == "cumulo" && rest.starts_with(&self.words))
    }
}

/// What the node knows of a container that is about to start.
#[derive(Debug, Clone, Default)]
pub struct Place {
    /// Its folder.
    pub work: PathBuf,
    /// The pod's folder for temporary files.
    pub temporary: PathBuf,
    /// The file for its termination message.
    pub termination: PathBuf,
    /// The folders of its volume mounts, and whether it may write them.
    pub volumes: Vec<(PathBuf, bool)>,
    /// Device files that it was given, and their folders below `/sys`.
    pub devices: Vec<PathBuf>,
    /// Folders of sockets that it talks to services of the node through.
    pub sockets: Vec<PathBuf>,
    /// Folders with programs and libraries of this machine.
    pub software: Vec<PathBuf>,
    /// The program that `cumulo` means.
    pub executable: PathBuf,
    /// See [`Policy::withheld`].
    pub withheld: Vec<PathBuf>,
    /// Where the container may connect.
    pub egress: Egress,
    /// See [`Policy::limits`].
    pub limits: Limits,
}

impl Place {
    /// The policy of the container's own code.
    pub fn policy(&self) -> Policy {
        let mut files = system::rules();
        let mut add = |path: &Path, access: Access| {
            files.push(FileRule {
                path: path.to_owned(),
                access,
            });
        };
        for path in self.software.iter().chain([&self.executable]) {
            add(path, Access::Read);
        }
        add(&self.work, Access::Write);
        add(&self.temporary, Access::Write);
        add(&self.termination, Access::Use);
        for path in &self.devices {
            let access = if path.starts_with("/sys") {
                Access::Read
            } else {
                Access::Use
            };
            add(path, access);
        }
        for path in &self.sockets {
            add(path, Access::Use);
            add(path, Access::Read);
        }
        if !self.devices.is_empty() {
            // Where the driver learns how the devices hang together.
            add(Path::new("/sys/bus/pci/devices"), Access::Read);
            add(Path::new("/sys/module/nvidia"), Access::Read);
        }
        for (path, writable) in &self.volumes {
            add(
                path,
                if *writable {
                    Access::Write
                } else {
                    Access::Read
                },
            );
        }
        Policy {
            files,
            withheld: self.withheld.clone(),
            egress: self.egress.clone(),
            limits: self.limits.clone(),
        }
    }

    /// The policy of a role of this program: more folders, and connections to
    /// anywhere, as package indexes and sources may be anywhere. It confines
    /// the user's code further before it starts it.
    pub fn role_policy(&self, role: &RoleAccess) -> Policy {
        let mut policy = self.policy();
        policy.egress = Egress::Any;
        for path in &role.read {
            policy.allow(path, Access::Read);
        }
        for path in &role.write {
            policy.allow(path, Access::Write);
        }
        policy
    }
}

impl Policy {
    /// Adds a rule.
    pub fn allow(&mut self, path: impl Into<PathBuf>, access: Access) {
        self.files.push(FileRule {
            path: path.into(),
            access,
        });
    }

    /// As text for a variable of the environment.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The policy for user code that the node agent left in the environment
    /// of a role (`CUMULO_SANDBOX`); `None` for a command that runs by hand.
    ///
    /// # Errors
    /// When the text is not a policy: then nothing must be started.
    pub fn from_environment() -> Result<Option<Self>, serde_json::Error> {
        match std::env::var(super::POLICY_VARIABLE) {
            Ok(text) => serde_json::from_str(&text).map(Some),
            Err(_) => Ok(None),
        }
    }
}
