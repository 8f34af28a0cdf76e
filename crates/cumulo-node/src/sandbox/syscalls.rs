//! The system calls that are refused: a table, and the filters made of it.
//!
//! What is refused gives `EPERM` (Python: `PermissionError`), so that a
//! program says what it tried. Two answers differ, for programs that have
//! another way: `clone3` gives `ENOSYS`, as its flags lie in memory where no
//! filter sees them, and C libraries go on with `clone`; so do system calls of
//! the x32 numbering, which would pass a table of the usual numbers.

use std::collections::BTreeMap;

use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, sock_filter,
};

use super::error::SandboxError;
use super::support::Support;

/// What the filters depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted {
    /// Nothing but TCP leaves the pod.
    pub tcp_only: bool,
    /// The processors are chosen and stay so.
    pub pinned: bool,
    /// What the kernel does by itself.
    pub support: Support,
}

/// Refused whatever the arguments.
const REFUSED: &[libc::c_long] = &[
    // Mounts and roots of the file system.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_quotactl,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_fanotify_init,
    // Files by handle, past every check of the path.
    libc::SYS_open_by_handle_at,
    // The kernel itself.
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_syslog,
    // Work that the kernel does for a process without asking the filter.
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Keys of the session.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Other processes.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    // Other namespaces, and what the machine is called and what time it is.
    libc::SYS_setns,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    // Memory and queues that all programs of the machine share by number.
    libc::SYS_shmget,
    libc::SYS_shmat,
    libc::SYS_shmctl,
    libc::SYS_msgget,
    libc::SYS_msgsnd,
    libc::SYS_msgrcv,
    libc::SYS_msgctl,
    libc::SYS_semget,
    libc::SYS_semop,
    libc::SYS_semtimedop,
    libc::SYS_semctl,
    libc::SYS_mq_open,
    libc::SYS_mq_unlink,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_iopl,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_ioperm,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_modify_ldt,
];

/// Namespaces that `clone` and `unshare` must not make.
const NAMESPACES: &[libc::c_int] = &[
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWCGROUP,
];
/// For `unshare` only: in `clone` the bit belongs to the exit signal.
const NEW_TIME_NAMESPACE: u64 = 0x80;

/// Stands for the process's own id in a filter that is made before there is a
/// process; see [`own_process`].
const OWN: u32 = 0x7fc0_0de1;

/// The bits of a socket's type that are no flags.
const TYPE: u64 = 0xf;
/// The old way to a packet socket.
const SOCK_PACKET: i32 = 10;
/// Multipath TCP, which Landlock's rules for TCP do not see.
const IPPROTO_MPTCP: i32 = 262;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Conditions = Vec<SeccompCondition>;

/// The filters, in the order in which they are installed.
pub(super) fn filters(wanted: Wanted) -> Result<Vec<BpfProgram>, SandboxError> {
    let mut filters = Vec::new();
    if cfg!(target_arch = "x86_64") {
        filters.push(other_numbering());
    }
    let missing = Rules::from([(libc::SYS_clone3, Vec::new())]);
    filters.push(compile(missing, libc::ENOSYS)?);
    filters.push(compile(refused(wanted)?, libc::EPERM)?);
    Ok(filters)
}

/// Puts the process's own id into the filters. Allocates nothing, as it runs
/// between fork and exec.
pub(super) fn own_process(filters: &mut [BpfProgram], pid: u32) {
    for instruction in filters.iter_mut().flatten() {
        // Only comparisons hold it, and only those with it or its negative.
        if instruction.k == OWN {
            instruction.k = pid;
        } else if instruction.k == OWN.wrapping_neg() {
            instruction.k = pid.wrapping_neg();
        }
    }
}

fn compile(rules: Rules, errno: i32) -> Result<BpfProgram, SandboxError> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)
        .map_err(|_| SandboxError::Architecture(std::env::consts::ARCH))?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::Allow,
        SeccompAction::Errno(errno.unsigned_abs()),
        architecture,
    )?;
    Ok(BpfProgram::try_from(filter)?)
}

/// `ENOSYS` for every number of the x32 numbering.
fn other_numbering() -> BpfProgram {
    const LOAD_NUMBER: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const JUMP_IF_AT_LEAST: u16 = 0x35; // BPF_JMP | BPF_JGE | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    const X32: u32 = 0x4000_0000;
    let step = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    vec![
        step(LOAD_NUMBER, 0, 0, 0),
        step(JUMP_IF_AT_LEAST, 0, 1, X32),
        step(
            RETURN,
            0,
            0,
            u32::from(SeccompAction::Errno(libc::ENOSYS.unsigned_abs())),
        ),
        step(RETURN, 0, 0, u32::from(SeccompAction::Allow)),
    ]
}

fn refused(wanted: Wanted) -> Result<Rules, SandboxError> {
    let mut rules: Rules = REFUSED.iter().map(|number| (*number, Vec::new())).collect();
    let mut refuse = |number: libc::c_long, conditions: Conditions| -> Result<(), SandboxError> {
        rules
            .entry(number)
            .or_default()
            .push(SeccompRule::new(conditions)?);
        Ok(())
    };
    for flag in NAMESPACES {
        let flag = u64::from(flag.unsigned_abs());
        refuse(libc::SYS_clone, vec![has(0, flag)?])?;
        refuse(libc::SYS_unshare, vec![has(0, flag)?])?;
    }
    refuse(libc::SYS_unshare, vec![has(0, NEW_TIME_NAMESPACE)?])?;
    // Typing into the terminal of another.
    for request in [libc::TIOCSTI, 0x541c /* TIOCLINUX */] {
        refuse(libc::SYS_ioctl, vec![is(1, request)?])?;
    }
    sockets(wanted.tcp_only, &mut refuse)?;
    if wanted.pinned {
        refuse(libc::SYS_sched_setaffinity, vec![differs(2, 0)?])?;
    }
    if !wanted.support.truncation() {
        rules.insert(libc::SYS_truncate, Vec::new());
    }
    if !wanted.support.scopes() {
        own_signals_only(&mut rules)?;
    }
    Ok(rules)
}

/// Local sockets, TCP and UDP, and the one netlink protocol that lists the
/// machine's addresses; no raw ones and no other families.
fn sockets(
    tcp_only: bool,
    refuse: &mut impl FnMut(libc::c_long, Conditions) -> Result<(), SandboxError>,
) -> Result<(), SandboxError> {
    const SOCKET: libc::c_long = libc::SYS_socket;
    let internet = [libc::AF_INET, libc::AF_INET6].map(value);
    let (local, netlink) = (value(libc::AF_UNIX), value(libc::AF_NETLINK));
    let mut foreign = Vec::new();
    for family in internet.into_iter().chain([local, netlink]) {
        foreign.push(differs(0, family)?);
    }
    refuse(SOCKET, foreign)?;
    refuse(
        SOCKET,
        vec![is(0, netlink)?, differs(2, value(libc::NETLINK_ROUTE))?],
    )?;
    for family in internet {
        for kind in [libc::SOCK_RAW, SOCK_PACKET] {
            refuse(SOCKET, vec![is(0, family)?, masked(1, TYPE, value(kind))?])?;
        }
        if !tcp_only {
            continue;
        }
        for kind in [
            libc::SOCK_DGRAM,
            libc::SOCK_RDM,
            libc::SOCK_SEQPACKET,
            libc::SOCK_DCCP,
        ] {
            refuse(SOCKET, vec![is(0, family)?, masked(1, TYPE, value(kind))?])?;
        }
        refuse(
            SOCKET,
            vec![
                is(0, family)?,
                differs(2, 0)?,
                differs(2, value(libc::IPPROTO_TCP))?,
            ],
        )?;
        refuse(SOCKET, vec![is(0, family)?, is(2, value(IPPROTO_MPTCP))?])?;
    }
    if tcp_only {
        // Connecting by sending, which no rule for connecting sees.
        let fast_open = value(libc::MSG_FASTOPEN);
        refuse(libc::SYS_sendto, vec![has(3, fast_open)?])?;
        refuse(libc::SYS_sendmsg, vec![has(2, fast_open)?])?;
        refuse(libc::SYS_sendmmsg, vec![has(3, fast_open)?])?;
    }
    Ok(())
}

/// Without Landlock's scope: signals to the process itself and its group.
/// Its children are out of reach as well, as a filter knows no families.
fn own_signals_only(rules: &mut Rules) -> Result<(), SandboxError> {
    rules.insert(libc::SYS_pidfd_send_signal, Vec::new());
    let own = u64::from(OWN);
    let own_group = u64::from(OWN.wrapping_neg());
    // Signal 0 only asks whether a process is there.
    let kill = vec![
        differs(0, 0)?,
        differs(0, own)?,
        differs(0, own_group)?,
        differs(1, 0)?,
    ];
    rules.insert(libc::SYS_kill, vec![SeccompRule::new(kill)?]);
    for number in [
        libc::SYS_tkill,
        libc::SYS_tgkill,
        libc::SYS_rt_sigqueueinfo,
        libc::SYS_rt_tgsigqueueinfo,
    ] {
        rules.insert(number, vec![SeccompRule::new(vec![differs(0, own)?])?]);
    }
    Ok(())
}

fn value(constant: i32) -> u64 {
    u64::from(constant.unsigned_abs())
}

/// The kernel takes these arguments as 32 bits, so the others must not count.
fn condition(
    argument: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompCondition, SandboxError> {
    Ok(SeccompCondition::new(
        argument,
        SeccompCmpArgLen::Dword,
        operator,
        value,
    )?)
}

fn is(argument: u8, value: u64) -> Result<SeccompCondition, SandboxError> {
    condition(argument, SeccompCmpOp::Eq, value)
}

fn differs(argument: u8, value: u64) -> Result<SeccompCondition, SandboxError> {
    condition(argument, SeccompCmpOp::Ne, value)
}

fn has(argument: u8, flag: u64) -> Result<SeccompCondition, SandboxError> {
    masked(argument, flag, flag)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, SandboxError> {
    condition(argument, SeccompCmpOp::MaskedEq(mask), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_fit_the_kernels_limit_in_every_form() {
        for abi in 0..=7 {
            for (tcp_only, pinned) in [(false, false), (true, true)] {
                let filters = filters(Wanted {
                    tcp_only,
                    pinned,
                    support: Support::with_abi(abi),
                })
                .unwrap();
                assert_eq!(
                    filters.len(),
                    if cfg!(target_arch = "x86_64") { 3 } else { 2 }
                );
                assert!(filters.iter().all(|filter| filter.len() < 4096));
            }
        }
    }

    #[test]
    fn without_scopes_only_the_process_itself_is_reached() {
        let wanted = |abi| Wanted {
            tcp_only: false,
            pinned: false,
            support: Support::with_abi(abi),
        };
        let holds = |filters: &[BpfProgram], value: u32| {
            filters.iter().flatten().any(|step| step.k == value)
        };
        assert!(!holds(&filters(wanted(6)).unwrap(), OWN));
        let mut old = filters(wanted(5)).unwrap();
        assert!(holds(&old, OWN) && holds(&old, OWN.wrapping_neg()));
        own_process(&mut old, 4711);
        assert!(!holds(&old, OWN) && !holds(&old, OWN.wrapping_neg()));
        assert!(holds(&old, 4711) && holds(&old, 4711u32.wrapping_neg()));
    }
}
