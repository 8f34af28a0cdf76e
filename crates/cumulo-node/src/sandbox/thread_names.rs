//! Naming threads through `/proc`, which CUDA cannot do without.
//!
//! NVIDIA's driver library names the threads that it makes by writing
//! `/proc/self/task/TID/comm`, and gives up (`CUDA_ERROR_OPERATING_SYSTEM`)
//! where it may not. Landlock cannot allow just that: its rules are for files
//! that are there when they are made, so a rule for a process's own folder is
//! none for its children's, and one for all of `/proc` opens the machine's
//! settings to a platform that root runs.
//!
//! So a filter reports each call that opens a file by its path for writing to a
//! thread outside the sandbox. It opens the name of a thread of the very
//! process that asks, puts it into that process and lets every other call go
//! on to the rules, unchanged. What it reads of the process may change under
//! its eyes without harm: all that it ever opens is that one kind of file,
//! which the kernel lets none but the process itself write.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::thread;

use nix::libc;

/// Longest path that is looked at: `/proc/4194304/task/4194304/comm` and its
/// end fit.
const MAX_PATH: usize = 48;

/// Reports `openat` from the current folder with a right to write; see
/// [`Names::report`]. On other architectures calls have other numbers and pass.
const FILTER: [libc::sock_filter; 11] = {
    const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
    const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
    const JUMP_IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
    const RETURN: u16 = 0x06; // BPF_RET | BPF_K
    /// Offsets in `struct seccomp_data`, little-endian.
    const NUMBER: u32 = 0;
    const ARCHITECTURE: u32 = 4;
    const FOLDER: u32 = 16;
    const FLAGS: u32 = 32;
    const OURS: u32 = if cfg!(target_arch = "x86_64") {
        0xc000_003e // AUDIT_ARCH_X86_64
    } else {
        0xc000_00b7 // AUDIT_ARCH_AARCH64
    };
    const fn step(code: u16, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
        libc::sock_filter { code, jt, jf, k }
    }
    [
        step(LOAD, 0, 0, ARCHITECTURE),
        step(JUMP_IF_EQUAL, 0, 7, OURS),
        step(LOAD, 0, 0, NUMBER),
        step(JUMP_IF_EQUAL, 0, 5, libc::SYS_openat as u32),
        step(LOAD, 0, 0, FOLDER),
        step(JUMP_IF_EQUAL, 0, 3, libc::AT_FDCWD as u32),
        step(LOAD, 0, 0, FLAGS),
        step(AND, 0, 0, libc::O_ACCMODE as u32),
        // Reading only goes on.
        step(JUMP_IF_EQUAL, 0, 1, libc::O_RDONLY as u32),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
        step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
    ]
};

/// The sandboxed process's end.
pub(super) struct Names {
    to_attendant: UnixStream,
}

/// A control message that carries one open file.
#[repr(C)]
struct Rights {
    header: libc::cmsghdr,
    file: RawFd,
}

impl Names {
    /// Starts the thread that answers, which ends with the last process of the
    /// sandbox, or at once when there never is one.
    pub(super) fn attended() -> io::Result<Self> {
        let (to_attendant, from_process) = UnixStream::pair()?;
        thread::Builder::new()
            .name("thread-names".to_owned())
            .stack_size(128 << 10)
            .spawn(move || {
                if let Some(listener) = receive(&from_process) {
                    drop(from_process);
                    attend(&listener);
                }
            })?;
        Ok(Self { to_attendant })
    }

    /// Installs the filter. Allocates nothing, as it runs between fork and exec.
    pub(super) fn report(&self) -> io::Result<()> {
        let program = libc::sock_fprog {
            len: FILTER.len() as u16,
            filter: FILTER.as_ptr().cast_mut(),
        };
        #[expect(
            unsafe_code,
            reason = "no crate of the workspace wraps seccomp's listeners"
        )]
        // SAFETY: the kernel copies the program, which outlives the call.
        let listener = unsafe {
            libc::syscall(
                libc::SYS_seccomp,
                libc::SECCOMP_SET_MODE_FILTER,
                libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
                &raw const program,
            )
        };
        if listener < 0 {
            // A process has one listener at most: inside a container's sandbox
            // its own answers already. Before Linux 5.0 there is none.
            return Ok(());
        }
        // It is closed by the program that is executed next.
        send(&self.to_attendant, listener as RawFd)
    }
}

fn send(socket: &UnixStream, file: RawFd) -> io::Result<()> {
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut rights = Rights {
        header: libc::cmsghdr {
            cmsg_len: (mem::offset_of!(Rights, file) + size_of::<RawFd>()) as _,
            cmsg_level: libc::SOL_SOCKET,
            cmsg_type: libc::SCM_RIGHTS,
        },
        file,
    };
    let sent = message(&mut part, &mut rights, |message| {
        #[expect(unsafe_code, reason = "std cannot send open files")]
        // SAFETY: what the message points to outlives the call.
        unsafe {
            libc::sendmsg(socket.as_raw_fd(), message, libc::MSG_NOSIGNAL)
        }
    });
    if sent == 1 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// The listener, or nothing where the process needs none.
fn receive(socket: &UnixStream) -> Option<OwnedFd> {
    let mut byte = 0u8;
    let mut part = libc::iovec {
        iov_base: (&raw mut byte).cast(),
        iov_len: 1,
    };
    let mut rights = Rights {
        header: libc::cmsghdr {
            cmsg_len: 0,
            cmsg_level: 0,
            cmsg_type: 0,
        },
        file: -1,
    };
    let received = message(&mut part, &mut rights, |message| {
        loop {
            #[expect(unsafe_code, reason = "std cannot receive open files")]
            // SAFETY: what the message points to outlives the call.
            let received =
                unsafe { libc::recvmsg(socket.as_raw_fd(), message, libc::MSG_CMSG_CLOEXEC) };
            if received >= 0 || io::Error::last_os_error().kind() != io::ErrorKind::Interrupted {
                return received;
            }
        }
    });
    if received != 1 || rights.header.cmsg_type != libc::SCM_RIGHTS || rights.file < 0 {
        return None;
    }
    #[expect(unsafe_code, reason = "a received file is a bare number")]
    // SAFETY: the kernel has just made the number, for nobody else.
    Some(unsafe { OwnedFd::from_raw_fd(rights.file) })
}

/// Calls with a message of one part and one control message.
fn message(
    part: &mut libc::iovec,
    rights: &mut Rights,
    call: impl FnOnce(*mut libc::msghdr) -> isize,
) -> isize {
    let mut message = libc::msghdr {
        msg_name: std::ptr::null_mut(),
        msg_namelen: 0,
        msg_iov: part,
        msg_iovlen: 1,
        msg_control: (&raw mut *rights).cast(),
        msg_controllen: size_of::<Rights>() as _,
        msg_flags: 0,
    };
    call(&raw mut message)
}

/// Answers until no process is left that could ask.
fn attend(listener: &OwnedFd) {
    loop {
        match next(listener) {
            Ok(Some(asked)) => {
                let given = name_of(&asked).is_some_and(|file| give(listener, &asked, &file));
                if !given {
                    go_on(listener, asked.id);
                }
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

/// What is asked next; `None` when who asked is gone meanwhile.
fn next(listener: &OwnedFd) -> io::Result<Option<libc::seccomp_notif>> {
    let mut ready = libc::pollfd {
        fd: listener.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    #[expect(
        unsafe_code,
        reason = "no crate of the workspace wraps seccomp's listeners"
    )]
    // SAFETY: both calls write into structures of ours of the layout that they
    // name; one of zeros is what the second asks for.
    let (asked, answer) = unsafe {
        let polled = libc::poll(&raw mut ready, 1, -1);
        if polled >= 0 && ready.revents & libc::POLLIN == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        let mut asked: libc::seccomp_notif = mem::zeroed();
        let answer = if polled < 0 {
            polled
        } else {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                &raw mut asked,
            )
        };
        (asked, answer)
    };
    if answer >= 0 {
        return Ok(Some(asked));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EINTR | libc::ENOENT) => Ok(None),
        _ => Err(error),
    }
}

/// The file, opened as asked, if it is the name of one of the asking process's
/// own threads.
fn name_of(asked: &libc::seccomp_notif) -> Option<File> {
    let memory = File::open(format!("/proc/{}/mem", asked.pid)).ok()?;
    let mut text = [0; MAX_PATH];
    let length = memory.read_at(&mut text, asked.data.args[1]).ok()?;
    let path = text[..length].split(|byte| *byte == 0).next()?;
    // Most paths are others: nothing more is read for them.
    let (owner, thread) = owner_and_thread(path)?;
    let status = fs::read_to_string(format!("/proc/{}/status", asked.pid)).ok()?;
    let process: u32 = status
        .lines()
        .find_map(|line| line.strip_prefix("Tgid:"))?
        .trim()
        .parse()
        .ok()?;
    if owner.is_some_and(|owner| owner != process) {
        return None;
    }
    let reads = asked.data.args[2] as i32 & libc::O_ACCMODE == libc::O_RDWR;
    OpenOptions::new()
        .read(reads)
        .write(true)
        .open(format!("/proc/{process}/task/{thread}/comm"))
        .ok()
}

/// The process (`None`: the one that asks) and the thread whose name a path is.
fn owner_and_thread(path: &[u8]) -> Option<(Option<u32>, u32)> {
    let path = std::str::from_utf8(path).ok()?.strip_prefix("/proc/")?;
    let (owner, rest) = path.split_once("/task/")?;
    let owner = match owner {
        "self" => None,
        number => Some(number_of(number)?),
    };
    Some((owner, number_of(rest.strip_suffix("/comm")?)?))
}

/// Digits only, as the kernel names them.
fn number_of(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

/// Puts the file into the process, as the answer of its call. Fails when the
/// process is gone, and with it what was read of it is void.
fn give(listener: &OwnedFd, asked: &libc::seccomp_notif, file: &File) -> bool {
    let given = libc::seccomp_notif_addfd {
        id: asked.id,
        flags: libc::SECCOMP_ADDFD_FLAG_SEND as u32,
        srcfd: file.as_raw_fd() as u32,
        newfd: 0,
        newfd_flags: asked.data.args[2] as u32 & libc::O_CLOEXEC as u32,
    };
    #[expect(
        unsafe_code,
        reason = "no crate of the workspace wraps seccomp's listeners"
    )]
    // SAFETY: the structure outlives the call.
    let answer = unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_ADDFD,
            &raw const given,
        )
    };
    answer >= 0
}

/// Lets the call go on, to the sandbox's rules.
fn go_on(listener: &OwnedFd, id: u64) {
    let answer = libc::seccomp_notif_resp {
        id,
        val: 0,
        error: 0,
        flags: libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32,
    };
    #[expect(
        unsafe_code,
        reason = "no crate of the workspace wraps seccomp's listeners"
    )]
    // SAFETY: the structure outlives the call. It fails only when who asked is
    // gone.
    unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const answer,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::owner_and_thread;

    #[test]
    fn only_names_of_threads_are_told_apart() {
        let of = |path: &str| owner_and_thread(path.as_bytes());
        assert_eq!(of("/proc/self/task/42/comm"), Some((None, 42)));
        assert_eq!(of("/proc/7/task/42/comm"), Some((Some(7), 42)));
        for other in [
            "",
            "/proc/self/comm",
            "/proc/self/task/42/attr/current",
            "/proc/self/task/../../1/task/1/comm",
            "/proc/self/task/4/../5/comm",
            "/proc/sys/task/42/comm",
            "/proc/self/task/+4/comm",
            "/proc/self/task/04/comm",
            "/proc/self/task//comm",
            "/proc/self/task/99999999999/comm",
            "/proc/self/task/42/comm/",
            "proc/self/task/42/comm",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
