//! Entering a sandbox: everything is made before the fork, and what is left
//! for the moment between fork and exec only makes system calls.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use landlock::RulesetCreated;
use nix::libc;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};
use nix::unistd::Pid;
use seccompiler::BpfProgram;

use super::error::SandboxError;
use super::files;
use super::policy::{Limits, Policy};
use super::support::{Status, Support};
use super::syscalls::{self, Wanted};
use super::thread_names::Names;

/// A sandbox that is ready to be entered, once.
pub struct Prepared {
    ruleset: Option<RulesetCreated>,
    filters: Vec<BpfProgram>,
    processors: Option<CpuSet>,
    limits: Limits,
    status: Status,
    thread_names: bool,
    names: Option<Names>,
}

impl std::fmt::Debug for Prepared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Prepared")
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

/// Makes a sandbox of a policy, as far as the running kernel can enforce it.
///
/// # Errors
/// When the kernel refuses what it says it can do. Whoever started something
/// nevertheless would start it unconfined.
pub fn prepare(policy: &Policy) -> Result<Prepared, SandboxError> {
    prepare_for(policy, Support::of_the_kernel())
}

/// As [`prepare`], with no more of the kernel than `support` says.
pub fn prepare_for(policy: &Policy, support: Support) -> Result<Prepared, SandboxError> {
    let limits = policy.limits.clone();
    let mut processors = None;
    if !limits.processors.is_empty() {
        let mut set = CpuSet::new();
        for processor in &limits.processors {
            set.set(*processor).map_err(io::Error::from)?;
        }
        processors = Some(set);
    }
    Ok(Prepared {
        ruleset: files::ruleset(policy, support)?,
        filters: syscalls::filters(Wanted {
            tcp_only: policy.egress.ports().is_some(),
            pinned: processors.is_some(),
            support,
        })?,
        processors,
        limits,
        status: support.status(&policy.egress),
        thread_names: policy.thread_names,
        names: None,
    })
}

/// Confines the calling thread for good, for a process that is about to
/// execute another program.
///
/// # Errors
/// As [`prepare`]; and when the kernel refuses the last step.
pub fn enter(policy: &Policy) -> Result<Status, SandboxError> {
    let mut prepared = prepare(policy)?;
    prepared.apply()?;
    Ok(prepared.status)
}

impl Prepared {
    /// What the sandbox is worth on this kernel.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// Has the command enter the sandbox before it executes its program. It
    /// can be started once. This process has to live as long as the command's:
    /// a thread of it may answer them (see [`Policy::thread_names`]).
    ///
    /// # Errors
    /// When that thread cannot be started.
    pub fn confine(mut self, command: &mut Command) -> Result<(), SandboxError> {
        if self.thread_names {
            self.names = Some(Names::attended()?);
        }
        #[expect(
            unsafe_code,
            reason = "a sandbox is entered between fork and exec, so that the parent stays outside"
        )]
        // SAFETY: `apply` makes system calls on what was made before the fork;
        // it allocates nothing, takes no lock and calls back nothing.
        unsafe {
            command.pre_exec(move || self.apply());
        }
        Ok(())
    }

    /// The steps, each needing what a later one takes away.
    fn apply(&mut self) -> io::Result<()> {
        // What is open already is open whatever the rules say.
        leave_behind(Inherited::AtExec);
        let Limits {
            file_bytes,
            open_files,
            ..
        } = &self.limits;
        lower(Resource::RLIMIT_FSIZE, *file_bytes)?;
        lower(Resource::RLIMIT_NOFILE, *open_files)?;
        if let Some(processors) = &self.processors {
            sched_setaffinity(Pid::from_raw(0), processors)?;
        }
        drop_capabilities()?;
        nix::sys::prctl::set_no_new_privs()?;
        if let Some(ruleset) = self.ruleset.take() {
            ruleset
                .restrict_self()
                .map_err(|_| io::Error::last_os_error())?;
        }
        syscalls::own_process(&mut self.filters, std::process::id());
        for filter in &self.filters {
            seccompiler::apply_filter(filter).map_err(|_| io::Error::last_os_error())?;
        }
        if let Some(names) = &self.names {
            names.report()?;
        }
        Ok(())
    }
}

/// When open files that a process inherited are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Inherited {
    /// At once.
    Now,
    /// By the program that is executed next.
    AtExec,
}

/// Closes every file but standard input, output and error. Ours are closed by
/// themselves; whoever started the platform may have left it others.
pub(crate) fn leave_behind(when: Inherited) {
    const FIRST: libc::c_uint = 3;
    const CLOSE_RANGE_CLOEXEC: libc::c_uint = 4;
    let flags = match when {
        Inherited::Now => 0,
        Inherited::AtExec => CLOSE_RANGE_CLOEXEC,
    };
    #[expect(unsafe_code, reason = "no crate of the workspace wraps close_range")]
    // SAFETY: the call takes numbers only. `Now` is for the start of a
    // process, when no file of ours is open yet. It fails before Linux 5.11,
    // where files are inherited as they are.
    unsafe {
        libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, flags);
    }
}

/// Lowers a limit for good.
fn lower(resource: Resource, limit: Option<u64>) -> io::Result<()> {
    let Some(limit) = limit else { return Ok(()) };
    let (_, hard) = getrlimit(resource)?;
    let limit = (limit as rlim_t).min(hard);
    Ok(setrlimit(resource, limit, limit)?)
}

/// Capabilities that a process of root keeps, as files and ports need them
/// and Landlock limits them.
const KEPT: u64 = bit(0 /* CAP_CHOWN */)
    | bit(1 /* CAP_DAC_OVERRIDE */)
    | bit(3 /* CAP_FOWNER */)
    | bit(4 /* CAP_FSETID */)
    | bit(10 /* CAP_NET_BIND_SERVICE */);

const fn bit(capability: u32) -> u64 {
    1 << capability
}

/// Drops all other capabilities, also for programs that it executes. Without
/// any there is nothing to do.
fn drop_capabilities() -> io::Result<()> {
    /// `struct __user_cap_header_struct`, version 3.
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    /// `struct __user_cap_data_struct`: the low and the high 32 bits.
    #[repr(C)]
    #[derive(Clone, Copy, Default)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    const VERSION_3: u32 = 0x2008_0522;
    const LAST: u32 = 63;
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut data = [Data::default(); 2];
    #[expect(
        unsafe_code,
        reason = "no crate of the workspace wraps capset, and dropping has to be possible between fork and exec"
    )]
    // SAFETY: the pointers are to structures of the layout that version 3 of
    // the interface names; prctl takes numbers only.
    unsafe {
        if libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        if data.iter().all(|half| half.permitted == 0) {
            return Ok(());
        }
        for capability in 0..=LAST {
            if KEPT & bit(capability) == 0 {
                // Fails for numbers that the kernel does not know.
                libc::prctl(
                    libc::PR_CAPBSET_DROP,
                    libc::c_ulong::from(capability),
                    0,
                    0,
                    0,
                );
            }
        }
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        );
        for (half, kept) in data.iter_mut().zip([KEPT as u32, (KEPT >> 32) as u32]) {
            half.effective &= kept;
            half.permitted &= kept;
            half.inheritable = 0;
        }
        if libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
