//! `cumulo up` and `cumulo down`: the platform as a background process.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cumulo_node::devices::RECORDING_VARIABLE;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cli::{DownArgs, UpArgs};
use crate::home::{DEFAULT_LISTEN, Home, Running};
use crate::platform;

/// How long the background process may take until it is ready.
const READY: Duration = Duration::from_secs(30);
/// How long `down` waits; pods have 30 s to end by themselves.
const STOPPED: Duration = Duration::from_secs(60);

/// Runs `cumulo up`.
pub fn up(home: &Home, arguments: &UpArgs) -> Result<()> {
    home.create()?;
    if arguments.foreground {
        return platform::run(home, arguments.listen, arguments.api_only);
    }
    if let Some(running) = answering(home) {
        let wanted = arguments.listen.to_string();
        if running.address != wanted && wanted != DEFAULT_LISTEN {
            bail!(
                "a platform already runs on {} at {} (process {}): `cumulo down` stops it, CUMULO_HOME names another folder",
                home.root().display(),
                running.address,
                running.pid
            );
        }
        println!(
            "cumulo is already up at {} (process {}, folder {})",
            running.url(),
            running.pid,
            home.root().display()
        );
        return Ok(());
    }
    start(home, arguments)?;
    if !arguments.quiet && arguments.api_only {
        println!(
            "the Kubernetes API is up at {}\n  kubeconfig  {}",
            home.require_running()?.url(),
            home.kubeconfig().display()
        );
    } else if !arguments.quiet {
        let started = home.require_running()?;
        println!(
            "cumulo is up at {}\n  kubeconfig  {}\n  logs        {}\n\nnext:\n  cumulo run examples/flights\n  kubectl --kubeconfig {} get cumulo -A",
            started.url(),
            home.kubeconfig().display(),
            home.path("logs/platform.log").display(),
            home.kubeconfig().display()
        );
    }
    Ok(())
}

fn start(home: &Home, arguments: &UpArgs) -> Result<()> {
    let logs = home.path("logs");
    fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let path = logs.join("platform.log");
    rotate(&path);
    let log = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(&path)
        .with_context(|| format!("cannot write {}", path.display()))?;
    let before = log.metadata()?.len();
    let executable = std::env::current_exe().context("cannot tell where this program lies")?;
    let mut command = Command::new(executable);
    // The platform's own folder is another than this one.
    if let Some(recording) = std::env::var_os(RECORDING_VARIABLE).filter(|path| !path.is_empty()) {
        command.env(RECORDING_VARIABLE, std::path::absolute(recording)?);
    }
    if arguments.api_only {
        command.arg("up").arg("--api-only");
    } else {
        command.arg("up");
    }
    let mut child = command
        .args(["--foreground", "--listen", &arguments.listen.to_string()])
        .env("CUMULO_HOME", home.root())
        .current_dir(home.root())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the platform's process")?;
    let started = Instant::now();
    loop {
        if home
            .running()
            .is_some_and(|running| running.pid == child.id())
            && answering(home).is_some()
        {
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            let text = fs::read(&path).unwrap_or_default();
            let new =
                String::from_utf8_lossy(text.get(usize::try_from(before)?..).unwrap_or_default())
                    .into_owned();
            let reason = new
                .lines()
                .rev()
                .find_map(|line| line.strip_prefix("error: "))
                .map_or_else(
                    || format!("it ended with {status}; see {}", path.display()),
                    str::to_owned,
                );
            bail!("the platform did not start: {reason}");
        }
        if started.elapsed() > READY {
            let _ = child.kill();
            bail!(
                "the platform was not ready within {} s; see {}",
                READY.as_secs(),
                path.display()
            );
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Keeps one older log, so that the folder does not grow with every start.
fn rotate(path: &std::path::Path) {
    if fs::metadata(path).is_ok_and(|metadata| metadata.len() > 16 << 20) {
        let _ = fs::rename(path, path.with_extension("log.1"));
    }
}

/// The running platform, when it answers its readiness probe.
pub fn answering(home: &Home) -> Option<Running> {
    let running = home.running()?;
    let address: SocketAddr = running.address.parse().ok()?;
    ready(address).then_some(running)
}

/// Asks `/readyz` once, over plain HTTP and without a client's weight.
fn ready(address: SocketAddr) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500))
    else {
        return false;
    };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let mut answer = [0_u8; 12];
    stream.write_all(request.as_bytes()).is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && &answer == b"HTTP/1.1 200"
}

/// Runs `cumulo down`.
pub fn down(home: &Home, arguments: &DownArgs) -> Result<()> {
    let Some(running) = home.running() else {
        println!("no platform runs on {}", home.root().display());
        return Ok(());
    };
    let pid = Pid::from_raw(i32::try_from(running.pid)?);
    if !is_ours(running.pid) {
        let _ = fs::remove_file(home.path("platform.json"));
        println!(
            "no platform runs on {} (the last one ended without `cumulo down`)",
            home.root().display()
        );
        return Ok(());
    }
    // SIGTERM ends pods too; SIGINT leaves them for the next start.
    let signal = if arguments.keep_pods {
        Signal::SIGINT
    } else {
        Signal::SIGTERM
    };
    kill(pid, signal).with_context(|| format!("cannot stop process {pid}"))?;
    let started = Instant::now();
    while is_ours(running.pid) {
        if started.elapsed() > STOPPED {
            bail!(
                "process {pid} did not end within {} s; see {}",
                STOPPED.as_secs(),
                home.path("logs/platform.log").display()
            );
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("cumulo is down");
    Ok(())
}

/// Whether the process is a `cumulo up`, not another that got its number.
fn is_ours(pid: u32) -> bool {
    let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else {
        return false;
    };
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = state
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.trim_start().starts_with('Z'));
    !zombie
        && arguments
            .split(|byte| *byte == 0)
            .any(|argument| argument == b"up")
}
