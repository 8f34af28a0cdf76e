//! What the running kernel can do, and how that is told.

use std::sync::OnceLock;

use nix::libc;
use serde::{Deserialize, Serialize};

use super::egress::Egress;

/// The newest version of Landlock's interface that the rules are written for.
const NEWEST: i32 = 7;

/// What the kernel offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// Version of Landlock's interface; 0 where there is none.
    abi: i32,
}

impl Support {
    /// What the running kernel offers.
    pub fn of_the_kernel() -> Self {
        static FOUND: OnceLock<i32> = OnceLock::new();
        Self::with_abi(*FOUND.get_or_init(kernel_abi))
    }

    /// A kernel with this version of Landlock's interface.
    pub fn with_abi(abi: i32) -> Self {
        Self {
            abi: abi.clamp(0, NEWEST),
        }
    }

    /// Landlock's version, as [`landlock`] names it.
    pub(super) fn abi(self) -> landlock::ABI {
        landlock::ABI::from(self.abi)
    }

    /// Access to files is limited at all.
    pub fn files(self) -> bool {
        self.abi >= 1
    }

    /// Truncating by name is limited.
    pub(super) fn truncation(self) -> bool {
        self.abi >= 3
    }

    /// Connections are limited.
    pub(super) fn connections(self) -> bool {
        self.abi >= 4
    }

    /// Signals and abstract sockets reach only the container's own.
    pub(super) fn scopes(self) -> bool {
        self.abi >= 6
    }

    /// What the kernel writes into its audit log.
    pub(super) fn log(self) -> bool {
        self.abi >= 7
    }

    /// What holds of a policy on this kernel.
    pub fn status(self, egress: &Egress) -> Status {
        let mut missing = Vec::new();
        if !self.files() {
            missing.push("files: this kernel has no Landlock (it needs Linux 5.13 with landlock among its security modules), so user code reaches every file that the platform's user does");
        }
        if !self.connections() && egress.ports().is_some() {
            missing.push("connections: the declared egress is not enforced (needs Linux 6.7)");
        }
        if !self.scopes() {
            missing.push("abstract sockets of other programs can be reached, and signals, even to own child processes, are refused instead of being limited to the container (needs Linux 6.12)");
        }
        let mut notes = vec!["system calls are filtered".to_owned()];
        if self.files() {
            notes.insert(0, format!("files by Landlock {}", self.abi));
        }
        if let (Egress::Only(destinations), true) = (egress, self.connections()) {
            notes.push(if destinations.is_empty() {
                "connections nowhere".to_owned()
            } else {
                let told: Vec<String> = destinations
                    .iter()
                    .map(|to| format!("{}:{}", to.host, to.port))
                    .collect();
                format!(
                    "TCP to the ports of {} (by port; hosts are advice), no UDP",
                    told.join(", ")
                )
            });
        }
        if missing.is_empty() {
            return Status {
                sandboxed: true,
                reason: "Enforced".to_owned(),
                message: notes.join("; "),
            };
        }
        Status {
            sandboxed: false,
            reason: if self.files() {
                "Partial"
            } else {
                "LandlockMissing"
            }
            .to_owned(),
            message: format!("{}; not enforced: {}", notes.join("; "), missing.join("; ")),
        }
    }
}

/// What a container's sandbox is worth: becomes the pod's condition
/// [`CONDITION`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Everything that the policy says is enforced.
    pub sandboxed: bool,
    /// For programs, in CamelCase.
    pub reason: String,
    /// For people.
    pub message: String,
}

impl Status {
    /// What a pod's sandboxes are worth, from those of its containers that
    /// run (`None` for one that was started without): the least of them.
    pub fn of_pod<'a>(containers: impl IntoIterator<Item = Option<&'a Self>>) -> Option<Self> {
        containers
            .into_iter()
            .map(|status| {
                status.cloned().unwrap_or_else(|| Self {
                    sandboxed: false,
                    reason: "Unconfined".to_owned(),
                    message: "a container was started without a sandbox: the node's settings say so, or an earlier version of the platform started it".to_owned(),
                })
            })
            .min_by_key(|status| status.sandboxed)
    }
}

/// The condition of a pod that tells its sandbox.
pub const CONDITION: &str = "cumulo.dev/Sandboxed";

/// Asks the kernel for its version of Landlock's interface.
fn kernel_abi() -> i32 {
    const VERSION: libc::c_uint = 1; // LANDLOCK_CREATE_RULESET_VERSION
    #[expect(
        unsafe_code,
        reason = "the landlock crate keeps the version to itself, and what it cannot enforce has to be told"
    )]
    // SAFETY: with this flag the call takes no pointer and makes nothing.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            std::ptr::null::<libc::c_void>(),
            0usize,
            VERSION,
        )
    };
    i32::try_from(answer).unwrap_or(0).max(0)
}
