//! The container supervisor: one small process per container.
//!
//! It starts the container's process, pumps its output into a rotated log,
//! waits for the end and writes it to `exit.json`. It lives in a session of
//! its own and outlives the platform, so running containers are adopted after
//! a restart and what ended meanwhile is known.
//!
//! The protocol, in the order that makes every crash harmless:
//!
//! 1. The engine makes the attempt's folder and the FIFO `alive`, starts the
//!    supervisor and sends a [`LaunchSpec`] over its standard input.
//! 2. The supervisor takes `lock` for life. Failing that, or finding
//!    `exit.json`, somebody decided that this attempt is over: it leaves.
//! 3. It opens `alive`, starts the process, writes `started.json`, answers
//!    with a [`Report`].
//! 4. When the process has ended, it kills what the process left behind,
//!    empties the output, writes `exit.json` and leaves, which frees `lock`
//!    and ends `alive`.
//!
//! The process is killed when its supervisor dies (parent-death signal), so
//! nothing ever runs unsupervised. It enters its sandbox between fork and exec
//! (see [`crate::sandbox`]); the supervisor stays outside, to signal it and to
//! write what became of it.

mod log;
mod stdin;

pub use log::{MAX_LINE as MAX_LOG_LINE, Stream as OutputStream};

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::process;
use crate::record::{AttemptDir, Exit, Input, LaunchSpec, Report, Started, write_json};
use crate::sandbox;

/// Exit code of a container that could not be started, as container runtimes
/// report it.
pub const START_ERROR_CODE: i32 = 128;

/// A launch specification is at most this long.
const MAX_LAUNCH_BYTES: u64 = 8 << 20;

/// The supervisor's `main`: `args` are what follows the subcommand's name,
/// namely the attempt's folder. Call it before anything else starts threads.
pub fn shim_main(args: impl IntoIterator<Item = OsString>) -> ! {
    let Some(folder) = args.into_iter().next() else {
        eprintln!("the container supervisor is started by the node agent, not by hand");
        std::process::exit(2)
    };
    let attempt = AttemptDir(PathBuf::from(folder));
    match supervise(&attempt) {
        Ok(()) => std::process::exit(0),
        Err(error) => {
            report(&Report::Failed(error.to_string()));
            std::process::exit(1)
        }
    }
}

fn supervise(attempt: &AttemptDir) -> io::Result<()> {
    // It lives on when whoever started the platform waits for what it gave it.
    sandbox::leave_behind(sandbox::Inherited::Now);
    // A session of its own: signals of the platform's terminal stay away.
    let _ = nix::unistd::setsid();
    // Whoever ends the platform may send these to all its processes; the
    // container ends by its own rules, and the supervisor after it.
    let mut blocked = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        blocked.add(signal);
    }
    blocked.thread_block()?;
    // Orphans of the container come to us instead of to init.
    nix::sys::prctl::set_child_subreaper(true)?;

    let mut text = Vec::new();
    io::stdin()
        .lock()
        .take(MAX_LAUNCH_BYTES)
        .read_to_end(&mut text)?;
    let launch: LaunchSpec = serde_json::from_slice(&text).map_err(io::Error::other)?;

    let lock = File::create(attempt.lock())?;
    if lock.try_lock().is_err() || attempt.exit().exists() {
        return Err(io::Error::other("this attempt was given up"));
    }
    let _alive = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(attempt.alive())?;

    set_limits(&launch);
    let log = Arc::new(Mutex::new(log::RotatedLog::open(
        attempt.log(),
        attempt.rotated_log(),
        launch.log_max_bytes,
    )));
    let (mut child, sandbox) = match spawn(&launch) {
        Ok(spawned) => spawned,
        Err(message) => {
            let exit = Exit {
                exit_code: START_ERROR_CODE,
                signal: None,
                finished_at: Timestamp::now(),
                start_error: Some(message.clone()),
                unknown: false,
            };
            write_json(&attempt.exit(), &exit)?;
            report(&Report::Failed(message));
            return Ok(());
        }
    };
    let pid = child.id() as i32;
    let started = Started {
        pid,
        start_ticks: process::start_ticks(pid).unwrap_or_default(),
        supervisor: std::process::id() as i32,
        boot_id: process::boot_id(),
        started_at: Timestamp::now(),
        sandbox,
    };
    if let Err(error) = write_json(&attempt.started(), &started) {
        let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
        return Err(error);
    }
    report(&Report::Started(started));
    drop(text);
    let input = launch.input;
    drop(launch);
    close_standard_streams();

    let (finished, pumps) = mpsc::channel();
    let mut running = 0;
    if let Some(output) = child.stdout.take() {
        running += pump(output, log::Stream::Stdout, &log, &finished);
    }
    if let Some(output) = child.stderr.take() {
        running += pump(output, log::Stream::Stderr, &log, &finished);
    }

    if let Some(pipe) = child.stdin.take() {
        stdin::feed(pipe, attempt.stdin(), input == Input::Once);
    }

    let (exit_code, signal) = wait_for(pid);
    kill_leftovers(pid);
    let deadline = Instant::now() + Duration::from_secs(2);
    for _ in 0..running {
        let left = deadline.saturating_duration_since(Instant::now());
        if pumps.recv_timeout(left).is_err() {
            break;
        }
    }
    let exit = Exit {
        exit_code,
        signal,
        finished_at: Timestamp::now(),
        start_error: None,
        unknown: false,
    };
    // On a full disk the exit is not lost: the supervisor stays and tries on,
    // and the lock tells that it is still there.
    while let Err(error) = write_json(&attempt.exit(), &exit) {
        if error.kind() == io::ErrorKind::NotFound {
            return Err(error);
        }
        thread::sleep(Duration::from_secs(1));
    }
    drop(lock);
    Ok(())
}

fn report(report: &Report) {
    let mut line = serde_json::to_vec(report).unwrap_or_default();
    line.push(b'\n');
    let mut out = io::stdout();
    let _ = out.write_all(&line);
    let _ = out.flush();
}

fn close_standard_streams() {
    if let Ok(null) = fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")
    {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

/// Limits are set on the supervisor and inherited: no core files, and the
/// wanted number of open files as far as the hard limit allows.
fn set_limits(launch: &LaunchSpec) {
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    if let (Some(wanted), Ok((_, hard))) = (launch.open_files, getrlimit(Resource::RLIMIT_NOFILE)) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, wanted.min(hard), hard);
    }
}

fn spawn(launch: &LaunchSpec) -> Result<(std::process::Child, Option<sandbox::Status>), String> {
    let Some((name, arguments)) = launch.command.split_first() else {
        return Err("the container has no command".to_owned());
    };
    let search_path = launch
        .env
        .iter()
        .rev()
        .find(|(variable, _)| variable == "PATH")
        .map_or("", |(_, value)| value.as_str());
    if !launch.work_dir.is_dir() {
        return Err(format!(
            "the working directory {} does not exist",
            launch.work_dir.display()
        ));
    }
    let program = find_program(name, &launch.work_dir, search_path)?;
    let prepared = launch
        .sandbox
        .as_ref()
        .map(sandbox::prepare)
        .transpose()
        .map_err(|error| error.to_string())?;
    let status = prepared.as_ref().map(|prepared| prepared.status().clone());
    let supervisor = std::process::id();
    let mut command = Command::new(&program);
    command
        .arg0(name)
        .args(arguments)
        .env_clear()
        .envs(launch.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&launch.work_dir)
        .stdin(match launch.input {
            Input::None => Stdio::null(),
            Input::Kept | Input::Once => Stdio::piped(),
        })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    #[expect(
        unsafe_code,
        reason = "the parent-death signal can only be set between fork and exec; the closure makes only async-signal-safe system calls"
    )]
    // SAFETY: prctl, sigprocmask and getppid are async-signal-safe and allocate
    // nothing.
    unsafe {
        command.pre_exec(move || {
            nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
            // What the supervisor blocks, its child must not inherit.
            SigSet::empty().thread_set_mask()?;
            if nix::unistd::getppid().as_raw() as u32 != supervisor {
                return Err(io::Error::from(Errno::ESRCH));
            }
            Ok(())
        });
    }
    if let Some(prepared) = prepared {
        prepared
            .confine(&mut command)
            .map_err(|error| error.to_string())?;
    }
    command
        .spawn()
        .map(|child| (child, status))
        .map_err(|error| format!("cannot start {name:?} ({}): {error}", program.display()))
}

/// Finds a program as a shell does, with an error that says where it looked.
pub(crate) fn find_program(
    name: &str,
    work_dir: &Path,
    search_path: &str,
) -> Result<PathBuf, String> {
    if name.contains('/') {
        let path = work_dir.join(name);
        return if path.is_file() {
            Ok(path)
        } else {
            Err(format!("cannot start {name:?}: no such file"))
        };
    }
    std::env::split_paths(OsStr::new(search_path))
        .map(|folder| folder.join(name))
        .find(|path| is_executable(path))
        .ok_or_else(|| {
            format!("cannot start {name:?}: not found in the container's PATH ({search_path})")
        })
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path)
        .is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

fn pump(
    mut output: impl Read + Send + 'static,
    stream: log::Stream,
    log: &Arc<Mutex<log::RotatedLog>>,
    finished: &mpsc::Sender<()>,
) -> usize {
    let log = Arc::clone(log);
    let finished = finished.clone();
    let spawned = thread::Builder::new().stack_size(64 << 10).spawn(move || {
        let mut lines = log::Lines::new(stream);
        let mut buffer = vec![0; 16 << 10];
        loop {
            match output.read(&mut buffer) {
                Ok(0) => break,
                Ok(length) => {
                    let text = lines.push(&buffer[..length], Timestamp::now());
                    if let Ok(mut log) = log.lock() {
                        log.write(&text);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        let rest = lines.finish(Timestamp::now());
        if let Ok(mut log) = log.lock() {
            log.write(&rest);
        }
        let _ = finished.send(());
    });
    usize::from(spawned.is_ok())
}

/// Waits for the container's process, reaping orphans on the way.
fn wait_for(pid: i32) -> (i32, Option<i32>) {
    loop {
        match waitpid(Pid::from_raw(-1), None) {
            Ok(WaitStatus::Exited(who, code)) if who.as_raw() == pid => return (code, None),
            Ok(WaitStatus::Signaled(who, signal, _)) if who.as_raw() == pid => {
                return (128 + signal as i32, Some(signal as i32));
            }
            Ok(_) | Err(Errno::EINTR) => {}
            // The child vanished without a status; nothing better is known.
            Err(_) => return (255, None),
        }
    }
}

/// As with the first process of a container, everything that it started ends
/// with it.
fn kill_leftovers(pid: i32) {
    let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
    let me = std::process::id() as i32;
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        process::kill_descendants(me);
        loop {
            match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Err(Errno::ECHILD) => return,
                Ok(WaitStatus::StillAlive) | Err(_) => break,
                Ok(_) => {}
            }
        }
        thread::sleep(Duration::from_millis(2));
    }
}
