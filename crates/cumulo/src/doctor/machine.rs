//! What `cumulo up` needs of a machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use cumulo_node::devices::{RECORDING_VARIABLE, reader};
use cumulo_node::sandbox::{Egress, Support};
use nix::sys::statvfs::statvfs;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use super::Finding;
use crate::commands::up::answering;
use crate::home::Home;

/// The longest that a program may take to answer.
const PROGRAM: Duration = Duration::from_secs(10);
/// The longest that the package index may take.
const INDEX: Duration = Duration::from_secs(20);
/// The package that the index is asked for: every index has it.
const KNOWN_PACKAGE: &str = "pip";
const GIBIBYTE: u64 = 1 << 30;

/// All checks of this machine.
pub async fn check(home: &Home) -> Vec<Finding> {
    let mut findings = vec![folder(home), platform(home)];
    let uv = find_uv(home);
    let (uv, python, index) = tokio::join!(uv_works(uv.clone()), python(), index(uv));
    findings.extend([uv, python, index]);
    findings.extend([
        landlock(),
        seccomp(),
        gpus().await,
        openmp(),
        onnx_runtime(),
    ]);
    findings
}

/// The folder can be written, and has room.
fn folder(home: &Home) -> Finding {
    const CHECK: &str = "folder";
    // It may not be there yet: what counts is where it would be made.
    let root = home.root();
    let there = root
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"));
    if nix::unistd::access(there, nix::unistd::AccessFlags::W_OK).is_err() {
        return Finding::fail(
            CHECK,
            format!("{} cannot be written", there.display()),
            "choose another folder with the variable CUMULO_HOME",
        );
    }
    match statvfs(there) {
        Ok(stat) => {
            #[allow(
                clippy::useless_conversion,
                reason = "blocks are counted in 32 bits on some systems"
            )]
            let free = u64::from(stat.blocks_available()).saturating_mul(stat.fragment_size());
            room(&root.display().to_string(), free)
        }
        Err(error) => Finding::warn(
            CHECK,
            format!(
                "the free space of {} cannot be told: {error}",
                there.display()
            ),
            "look at it with df -h",
        ),
    }
}

/// Whether the free space is enough.
fn room(folder: &str, free: u64) -> Finding {
    const CHECK: &str = "folder";
    let found = format!("{folder}, {:.1} GiB free", free as f64 / GIBIBYTE as f64);
    if free < GIBIBYTE {
        Finding::fail(
            CHECK,
            found,
            "make room: a Python environment alone takes about 1 GiB; or choose another disk with CUMULO_HOME",
        )
    } else if free < 10 * GIBIBYTE {
        Finding::warn(
            CHECK,
            found,
            "environments with PyTorch take 5 GiB and more: make room, or choose another disk with CUMULO_HOME",
        )
    } else {
        Finding::ok(CHECK, found)
    }
}

fn platform(home: &Home) -> Finding {
    match (answering(home), home.running()) {
        (Some(running), _) => Finding::ok("platform", format!("up at {}", running.url())),
        (None, Some(running)) => Finding::warn(
            "platform",
            format!(
                "process {} at {} does not answer",
                running.pid, running.address
            ),
            "start it with `cumulo up`",
        ),
        (None, None) => Finding::ok("platform", "not started"),
    }
}

/// A program on the search path.
fn search(name: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// uv from the search path, or the one that Cumulo installed for itself.
fn find_uv(home: &Home) -> Option<PathBuf> {
    search("uv").or_else(|| {
        let own = home.path("cache/tools/bin/uv");
        own.is_file().then_some(own)
    })
}

async fn uv_works(program: Option<PathBuf>) -> Finding {
    let Some(program) = program else {
        return Finding::warn(
            "uv",
            "not on the search path; Cumulo installs it with pip when it first makes an environment",
            "install it: pip install uv",
        );
    };
    match answer(Command::new(&program).arg("--version"), PROGRAM, "").await {
        Ok(text) => Finding::ok("uv", format!("{} ({})", text.trim(), program.display())),
        Err(why) => Finding::fail(
            "uv",
            format!("{} {why}", program.display()),
            "install it again: pip install --upgrade uv",
        ),
    }
}

async fn python() -> Finding {
    const FIX: &str = "install Python 3.10 or newer with venv, such as Debian's packages python3 and python3-venv";
    let Some(program) = search("python3") else {
        return Finding::warn(
            "python",
            "no python3 on the search path; uv may download one",
            FIX,
        );
    };
    let code = "import ensurepip, sys, venv; print('%d.%d.%d' % sys.version_info[:3])";
    match answer(Command::new(&program).args(["-c", code]), PROGRAM, "").await {
        Ok(version) => python_version(version.trim(), &program),
        Err(why) => Finding::warn("python", format!("{} {why}", program.display()), FIX),
    }
}

fn python_version(version: &str, program: &Path) -> Finding {
    let mut parts = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    let number = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    let found = format!("{version} ({})", program.display());
    if number >= (3, 10) {
        Finding::ok("python", found)
    } else {
        Finding::warn(
            "python",
            found,
            "scripts that name no version need Python 3.10 or newer: install one, or uv may download it",
        )
    }
}

/// Asks the index that uv is configured with, as Cumulo does when it resolves an environment.
async fn index(uv: Option<PathBuf>) -> Finding {
    const CHECK: &str = "package index";
    let Some(uv) = uv else {
        return Finding::warn(
            CHECK,
            "not asked, because there is no uv",
            "install uv first",
        );
    };
    let mut command = Command::new(uv);
    command
        .args([
            "pip",
            "compile",
            "--quiet",
            "--no-header",
            "--no-deps",
            "--no-cache",
            "-",
        ])
        .env("UV_HTTP_TIMEOUT", "10")
        .env("UV_HTTP_RETRIES", "0");
    match answer(&mut command, INDEX, KNOWN_PACKAGE).await {
        Ok(_) => Finding::ok(CHECK, "answers"),
        Err(why) => Finding::warn(
            CHECK,
            format!("uv {why}"),
            "name an index that can be reached with the variable UV_DEFAULT_INDEX (a proxy with HTTPS_PROXY); environments that are made already go on working",
        ),
    }
}

/// A program's output, or what is wrong with it.
async fn answer(command: &mut Command, limit: Duration, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot be run: {error}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that reads nothing is no mistake.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = tokio::time::timeout(limit, child.wait_with_output())
        .await
        .map_err(|_| format!("does not answer within {} s", limit.as_secs()))?
        .map_err(|error| error.to_string())?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let line = said
        .lines()
        .find(|line| !line.trim().is_empty())
        .unwrap_or_default();
    Err(format!(
        "failed: {}",
        line.trim().chars().take(200).collect::<String>()
    ))
}

fn landlock() -> Finding {
    let status = Support::of_the_kernel().status(&Egress::Any);
    if status.sandboxed {
        Finding::ok("sandbox", status.message)
    } else {
        Finding::warn(
            "sandbox",
            status.message,
            "run a newer kernel (Linux 6.12 has everything), with landlock in the parameter lsm=; docs/sandbox.md says what follows",
        )
    }
}

fn seccomp() -> Finding {
    match std::fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail") {
        Ok(actions) if actions.split_whitespace().any(|action| action == "errno") => {
            Finding::ok("seccomp", "system calls can be filtered")
        }
        _ => Finding::fail(
            "seccomp",
            "this kernel filters no system calls, and pods are not started without that",
            "run a kernel with CONFIG_SECCOMP_FILTER, as all distributions have it",
        ),
    }
}

async fn gpus() -> Finding {
    const CHECK: &str = "gpu";
    let recording = std::env::var_os(RECORDING_VARIABLE)
        .filter(|path| !path.is_empty())
        .map(PathBuf::from);
    let read = tokio::task::spawn_blocking(move || reader(recording.as_deref()).read());
    match tokio::time::timeout(PROGRAM, read).await {
        Ok(Ok(Ok(snapshot))) => match (&snapshot.driver, snapshot.gpus.len()) {
            (None, _) => Finding::ok(CHECK, "no NVIDIA driver; everything runs on the CPU"),
            (Some(driver), count) => Finding::ok(CHECK, format!("{count} with driver {driver}")),
        },
        Ok(Ok(Err(error))) => Finding::warn(
            CHECK,
            error.to_string(),
            "see whether nvidia-smi works; a driver that was updated wants a restart",
        ),
        Ok(Err(error)) => Finding::warn(CHECK, error.to_string(), "see whether nvidia-smi works"),
        Err(_) => Finding::warn(
            CHECK,
            format!("the driver does not answer within {} s", PROGRAM.as_secs()),
            "see whether nvidia-smi works",
        ),
    }
}

/// LightGBM's library, which is embedded, links this one.
fn openmp() -> Finding {
    const NAME: &str = "libgomp.so.1";
    let folders = ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib"]
        .into_iter()
        .map(PathBuf::from);
    let with_triplet = folders.flat_map(|folder| {
        let triplet = folder.join(format!("{}-linux-gnu", std::env::consts::ARCH));
        [folder, triplet]
    });
    let named = std::env::var_os("LD_LIBRARY_PATH").unwrap_or_default();
    let found = with_triplet
        .chain(std::env::split_paths(&named))
        .map(|folder| folder.join(NAME))
        .find(|path| path.is_file());
    match found {
        Some(path) => Finding::ok("lightgbm", format!("embedded; {}", path.display())),
        None => Finding::fail(
            "lightgbm",
            format!("{NAME} is not there, and AutoML needs it"),
            "install it, such as Debian's package libgomp1",
        ),
    }
}

fn onnx_runtime() -> Finding {
    const CHECK: &str = "onnx runtime";
    let named = ["CUMULO_ONNXRUNTIME", "ORT_DYLIB_PATH"]
        .into_iter()
        .find_map(|variable| {
            let path = std::env::var_os(variable).filter(|path| !path.is_empty())?;
            Some((variable, PathBuf::from(path)))
        });
    match named {
        Some((_, path)) if path.is_file() => Finding::ok(CHECK, path.display().to_string()),
        Some((variable, path)) => Finding::warn(
            CHECK,
            format!("{variable} names {}, which is not there", path.display()),
            "name the libonnxruntime.so of the Python package onnxruntime, or leave the variable out",
        ),
        None => Finding::ok(
            CHECK,
            "none is named (CUMULO_ONNXRUNTIME); ONNX models run with RTen, which is built in",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Verdict;

    #[test]
    fn room_is_judged_by_what_environments_take() {
        assert_eq!(room("/f", GIBIBYTE - 1).verdict, Verdict::Fail);
        assert_eq!(room("/f", 5 * GIBIBYTE).verdict, Verdict::Warn);
        let plenty = room("/f", 100 * GIBIBYTE);
        assert_eq!(plenty.verdict, Verdict::Ok);
        assert_eq!(plenty.found, "/f, 100.0 GiB free");
    }

    #[test]
    fn python_must_be_new_enough() {
        let program = Path::new("/usr/bin/python3");
        assert_eq!(python_version("3.9.2", program).verdict, Verdict::Warn);
        assert_eq!(python_version("3.10.0", program).verdict, Verdict::Ok);
        assert_eq!(python_version("4.0.0", program).verdict, Verdict::Ok);
        assert_eq!(python_version("what", program).verdict, Verdict::Warn);
    }

    #[tokio::test]
    async fn a_program_that_does_not_answer_holds_nobody_up() {
        let limit = Duration::from_millis(50);
        let slow = answer(Command::new("sleep").arg("60"), limit, "").await;
        assert_eq!(slow, Err("does not answer within 0 s".to_owned()));
        let script = ["-c", "echo >&2; echo it is broken >&2; exit 3"];
        let broken = answer(Command::new("sh").args(script), PROGRAM, "").await;
        assert_eq!(broken, Err("failed: it is broken".to_owned()));
        let echo = answer(&mut Command::new("cat"), PROGRAM, "hello").await;
        assert_eq!(echo, Ok("hello".to_owned()));
    }

    #[tokio::test]
    async fn an_index_that_nobody_serves_is_told_and_without_uv_it_is_not_asked() {
        assert_eq!(index(None).await.verdict, Verdict::Warn);
        let folder = tempfile::tempdir().unwrap();
        let uv = folder.path().join("uv");
        std::fs::write(
            &uv,
            "#!/bin/sh\necho 'error: no route to host' >&2\nexit 2\n",
        )
        .unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&uv, std::fs::Permissions::from_mode(0o755)).unwrap();
        let finding = index(Some(uv)).await;
        assert_eq!(finding.found, "uv failed: error: no route to host");
    }
}
