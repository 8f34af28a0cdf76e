//! The uv program: finding it and running its steps.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::{EnvironmentError, EnvironmentOptions, lock};

/// A step may take this long: large wheels over a slow line.
const STEP_LIMIT: Duration = Duration::from_secs(30 * 60);
/// Lines of uv's messages that are kept for an error.
const KEPT_LINES: usize = 60;
/// The most output that a step may have.
const MAX_OUTPUT: u64 = 16 << 20;

/// Variables that would lead uv into another environment.
const REMOVED: &[&str] = &[
    "VIRTUAL_ENV",
    "CONDA_PREFIX",
    "PYTHONHOME",
    "PYTHONPATH",
    "UV_PYTHON",
    "UV_PROJECT_ENVIRONMENT",
];

/// An interpreter on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interpreter {
    pub path: PathBuf,
    pub version: String,
}

/// One entry of `uv python list --output-format json`.
#[derive(Debug, Deserialize)]
struct Listed {
    version: String,
    path: Option<PathBuf>,
    implementation: String,
    #[serde(default)]
    variant: String,
}

/// The uv program.
pub(super) struct Uv<'a> {
    program: PathBuf,
    options: &'a EnvironmentOptions,
}

impl<'a> Uv<'a> {
    /// Finds uv, or installs it into the cache.
    pub async fn find(options: &'a EnvironmentOptions) -> Result<Self, EnvironmentError> {
        let program = match options.uv.clone().or_else(|| search("uv")) {
            Some(program) => program,
            None => install(options).await?,
        };
        Ok(Self { program, options })
    }

    /// The interpreter that a version means; without one, the newest.
    pub async fn interpreter(
        &self,
        wanted: Option<&str>,
        oldest: (u32, u32),
    ) -> Result<Interpreter, EnvironmentError> {
        let installed = self.installed().await?;
        if let Some(wanted) = wanted {
            if let Some(found) = matching(&installed, wanted) {
                return Ok(found);
            }
            return self.find_or_install(wanted, &installed).await;
        }
        match newest(&installed, oldest) {
            Some(found) => Ok(found),
            None => {
                self.find_or_install(&format!(">={}.{}", oldest.0, oldest.1), &installed)
                    .await
            }
        }
    }

    async fn installed(&self) -> Result<Vec<Interpreter>, EnvironmentError> {
        let text = self
            .run(
                "list the installed Pythons",
                &[
                    "python",
                    "list",
                    "--only-installed",
                    "--output-format",
                    "json",
                ],
                None,
                false,
            )
            .await?;
        let listed: Vec<Listed> = serde_json::from_str(&text).unwrap_or_default();
        Ok(listed
            .into_iter()
            .filter(|entry| {
                entry.implementation == "cpython"
                    && matches!(entry.variant.as_str(), "" | "default")
            })
            .filter_map(|entry| {
                Some(Interpreter {
                    path: entry.path?,
                    version: entry.version,
                })
            })
            .collect())
    }

    /// uv knows richer requests than `3.11`, and can download interpreters
    /// where its settings allow.
    async fn find_or_install(
        &self,
        wanted: &str,
        installed: &[Interpreter],
    ) -> Result<Interpreter, EnvironmentError> {
        let find = || async {
            let step = "find the Python";
            let path = self
                .run(
                    step,
                    &["python", "find", "--no-project", wanted],
                    None,
                    false,
                )
                .await?;
            let path = PathBuf::from(path.trim());
            let script = "import platform; print(platform.python_version())";
            let version = Command::new(&path)
                .args(["-I", "-c", script])
                .stdin(Stdio::null())
                .output()
                .await
                .map_err(|error| EnvironmentError::io(&path, error))?;
            Ok::<_, EnvironmentError>(Interpreter {
                path,
                version: String::from_utf8_lossy(&version.stdout).trim().to_owned(),
            })
        };
        if let Ok(found) = find().await {
            return Ok(found);
        }
        self.options
            .say(&format!("environment: installing Python {wanted}"));
        let step = "install the Python";
        match self
            .run(step, &["python", "install", wanted], None, true)
            .await
        {
            Ok(_) => find().await,
            Err(error) => Err(EnvironmentError::NoPython {
                wanted: format!("Python {wanted}"),
                reason: match error {
                    EnvironmentError::Uv { reason, .. } => reason,
                    other => other.to_string(),
                },
                installed: describe(installed),
            }),
        }
    }

    /// Resolves requirements; gives the lock.
    pub async fn compile(
        &self,
        requirements: &str,
        interpreter: &Path,
    ) -> Result<String, EnvironmentError> {
        let interpreter = interpreter.as_os_str();
        let arguments = [
            OsStr::new("pip"),
            OsStr::new("compile"),
            OsStr::new("--generate-hashes"),
            OsStr::new("--no-header"),
            OsStr::new("--no-annotate"),
            OsStr::new("--python"),
            interpreter,
            OsStr::new("-"),
        ];
        self.run(
            "resolve the environment",
            &arguments,
            Some(requirements),
            false,
        )
        .await
        .map_err(|error| match error {
            EnvironmentError::Uv { reason, .. } => EnvironmentError::Unresolvable(reason),
            other => other,
        })
    }

    /// Makes an empty environment.
    pub async fn venv(&self, folder: &Path, interpreter: &Path) -> Result<(), EnvironmentError> {
        let arguments = [
            OsStr::new("venv"),
            OsStr::new("--no-project"),
            OsStr::new("--python"),
            interpreter.as_os_str(),
            folder.as_os_str(),
        ];
        let step = "make the environment";
        self.run(step, &arguments, None, false).await.map(drop)
    }

    /// Installs a lock.
    pub async fn sync(&self, python: &Path, lock: &Path) -> Result<(), EnvironmentError> {
        let arguments = [
            OsStr::new("pip"),
            OsStr::new("sync"),
            OsStr::new("--python"),
            python.as_os_str(),
            lock.as_os_str(),
        ];
        let step = "install the environment's packages";
        self.run(step, &arguments, None, true).await.map(drop)
    }

    /// Runs a step; gives its standard output. Its messages are passed on as
    /// progress when `loud`, and become the reason when it fails.
    async fn run(
        &self,
        step: &'static str,
        arguments: &[impl AsRef<OsStr>],
        input: Option<&str>,
        loud: bool,
    ) -> Result<String, EnvironmentError> {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .env("NO_COLOR", "1")
            .env("UV_NO_PROGRESS", "1")
            .kill_on_drop(true);
        for name in REMOVED {
            command.env_remove(name);
        }
        let cache = &self.options.cache;
        for (name, folder) in [("UV_CACHE_DIR", "uv"), ("UV_PYTHON_INSTALL_DIR", "python")] {
            if std::env::var_os(name).is_none() {
                command.env(name, cache.join(folder));
            }
        }
        let program = &self.program;
        let mut child = command
            .spawn()
            .map_err(|error| EnvironmentError::io(program, error))?;
        let (stdin, stdout, stderr) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let work = async {
            let write = async {
                if let (Some(mut stdin), Some(input)) = (stdin, input) {
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            let read = async {
                let mut output = String::new();
                if let Some(stdout) = stdout {
                    let _ = stdout.take(MAX_OUTPUT).read_to_string(&mut output).await;
                }
                output
            };
            let listen = async {
                let mut kept = VecDeque::new();
                if let Some(stderr) = stderr {
                    let mut lines = BufReader::new(stderr.take(MAX_OUTPUT)).lines();
                    while let Ok(Some(line)) = lines.next_line().await {
                        if loud && !line.trim().is_empty() {
                            self.options.say(&format!("environment: {}", line.trim()));
                        }
                        if kept.len() == KEPT_LINES {
                            kept.pop_front();
                        }
                        kept.push_back(line);
                    }
                }
                kept
            };
            let ((), output, messages, status) = tokio::join!(write, read, listen, child.wait());
            (output, messages, status)
        };
        let Ok((output, messages, status)) = tokio::time::timeout(STEP_LIMIT, work).await else {
            return Err(EnvironmentError::Timeout {
                step,
                minutes: STEP_LIMIT.as_secs() / 60,
            });
        };
        match status {
            Ok(status) if status.success() => Ok(output),
            Ok(_) => Err(EnvironmentError::Uv {
                step,
                reason: reason(messages.into()),
            }),
            Err(error) => Err(EnvironmentError::io(program, error)),
        }
    }
}

/// uv's message as one sentence: without warnings, frames and prefixes.
fn reason(lines: Vec<String>) -> String {
    let begin = lines
        .iter()
        .position(|line| line.starts_with("error:") || line.trim_start().starts_with('×'))
        .unwrap_or(0);
    let mut sentence = String::new();
    for line in &lines[begin..] {
        let text = line
            .trim()
            .trim_start_matches(['×', '╰', '─', '▶', '│', '├', '·'])
            .trim();
        let text = text.strip_prefix("error:").unwrap_or(text).trim();
        let text = text.strip_prefix("cause:").unwrap_or(text).trim();
        let text = text.strip_prefix("Caused by:").unwrap_or(text).trim();
        if text.is_empty() || text.starts_with("warning:") {
            continue;
        }
        if !sentence.is_empty() {
            sentence.push(' ');
        }
        sentence.push_str(text);
    }
    if sentence.is_empty() {
        sentence.push_str("it gave no reason");
    }
    let limit = 2000;
    if sentence.len() > limit {
        let end = (0..=limit)
            .rev()
            .find(|end| sentence.is_char_boundary(*end))
            .unwrap_or(0);
        sentence.truncate(end);
        sentence.push('…');
    }
    sentence.trim_end_matches('.').to_owned()
}

/// Numbers of a released version; `None` for previews such as `3.15.0a1`.
fn numbers(version: &str) -> Option<Vec<u32>> {
    version.split('.').map(|part| part.parse().ok()).collect()
}

fn newest(installed: &[Interpreter], oldest: (u32, u32)) -> Option<Interpreter> {
    let mut best: Option<(Vec<u32>, &Interpreter)> = None;
    for interpreter in installed {
        let Some(version) = numbers(&interpreter.version) else {
            continue;
        };
        let new_enough = version.as_slice() >= [oldest.0, oldest.1].as_slice();
        // The first of equals comes first in the search path.
        if new_enough && best.as_ref().is_none_or(|(other, _)| version > *other) {
            best = Some((version, interpreter));
        }
    }
    best.map(|(_, interpreter)| interpreter.clone())
}

/// The newest installed patch release of a plain version such as `3.11`.
fn matching(installed: &[Interpreter], wanted: &str) -> Option<Interpreter> {
    let wanted = numbers(wanted)?;
    let fitting: Vec<Interpreter> = installed
        .iter()
        .filter(|interpreter| {
            numbers(&interpreter.version).is_some_and(|version| version.starts_with(&wanted))
        })
        .cloned()
        .collect();
    newest(&fitting, (0, 0))
}

fn describe(installed: &[Interpreter]) -> String {
    let mut versions: Vec<&str> = installed
        .iter()
        .map(|interpreter| interpreter.version.as_str())
        .collect();
    versions.sort_unstable();
    versions.dedup();
    if versions.is_empty() {
        "none is installed".to_owned()
    } else {
        versions.join(", ")
    }
}

/// Finds a program in the search path.
fn search(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(|program| program.is_file())
}

/// Installs uv into the cache, for a machine that has none.
async fn install(options: &EnvironmentOptions) -> Result<PathBuf, EnvironmentError> {
    let tools = options.cache.join("tools");
    let program = tools.join("bin/uv");
    if program.is_file() {
        return Ok(program);
    }
    std::fs::create_dir_all(&options.cache)
        .map_err(|error| EnvironmentError::io(&options.cache, error))?;
    let _guard = lock(&options.cache.join("tools.lock")).await?;
    if program.is_file() {
        return Ok(program);
    }
    let python = search("python3")
        .ok_or_else(|| EnvironmentError::NoUv("there is no python3".to_owned()))?;
    options.say("environment: uv was not found, installing it with pip");
    // Made beside its place: what is there is complete.
    let fresh = options.cache.join("tools.new");
    let _ = std::fs::remove_dir_all(&fresh);
    run_plain(Command::new(&python).args(["-m", "venv"]).arg(&fresh)).await?;
    run_plain(Command::new(fresh.join("bin/python")).args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "uv",
    ]))
    .await?;
    // uv is a native program; it does not mind being moved.
    let _ = std::fs::remove_dir_all(&tools);
    std::fs::rename(&fresh, &tools).map_err(|error| EnvironmentError::io(&tools, error))?;
    Ok(program)
}

async fn run_plain(command: &mut Command) -> Result<(), EnvironmentError> {
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(STEP_LIMIT, output)
        .await
        .map_err(|_| EnvironmentError::NoUv("it took too long".to_owned()))?
        .map_err(|error| EnvironmentError::NoUv(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let last = text.lines().rev().find(|line| !line.trim().is_empty());
    Err(EnvironmentError::NoUv(
        last.unwrap_or("it failed").trim().to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python(version: &str) -> Interpreter {
        Interpreter {
            path: PathBuf::from(format!("/python{version}")),
            version: version.to_owned(),
        }
    }

    #[test]
    fn the_newest_release_is_chosen() {
        let installed = ["3.9.1", "3.11.7", "3.11.10", "3.15.0a1", "3.11.2"].map(python);
        assert_eq!(newest(&installed, (3, 10)), Some(python("3.11.10")));
        assert_eq!(newest(&installed[..1], (3, 10)), None);
        assert_eq!(matching(&installed, "3.9"), Some(python("3.9.1")));
        assert_eq!(matching(&installed, "3.11.2"), Some(python("3.11.2")));
        assert_eq!(matching(&installed, "3.1"), None);
        assert_eq!(matching(&installed, ">=3.9"), None);
    }

    #[test]
    fn messages_become_a_sentence() {
        let text = "warning: something\nerror: No solution found when resolving dependencies\n  cause: Because a==1 depends on b, it fails.\n";
        let other = "  × No solution found when resolving dependencies:\n  ╰─▶ Because there is no version of six==9\n      and you require six==9, it fails.\n";
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
        insta::assert_snapshot!(reason(lines(text)), @"No solution found when resolving dependencies Because a==1 depends on b, it fails");
        insta::assert_snapshot!(reason(lines(other)), @"No solution found when resolving dependencies: Because there is no version of six==9 and you require six==9, it fails");
        assert_eq!(reason(Vec::new()), "it gave no reason");
    }
}
