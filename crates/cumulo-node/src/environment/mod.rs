//! Python environments: resolved and locked by uv, addressed by the lock's
//! hash, built once and shared between pods that agree.
//!
//! ```text
//! $CUMULO_CACHE/
//!   environments/requests/<hash>.json   what was asked for → the lock it got
//!   environments/<hash16>/              one environment, never changed once
//!   environments/<hash16>.lock            its `ready` file is written
//!   uv/                                 uv's own cache
//!   tools/                              uv itself, where the machine has none
//! ```
//!
//! A request that was resolved before needs neither resolver nor network: its
//! lock is known, and with it the folder. Whoever builds holds a file lock, so
//! two pods that start together build once. A folder without its `ready` file
//! was left half built, and is removed by the next who wants it.

mod error;
mod uv;

pub use error::EnvironmentError;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::record::{read_json, write_atomic, write_json};
use crate::sandbox::software;
use uv::Uv;

/// The oldest Python that is chosen without being asked for.
const OLDEST_PYTHON: (u32, u32) = (3, 10);

/// The most text that requirements or a lock may have.
const MAX_TEXT: usize = 1 << 20;

/// What an environment shall hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct EnvironmentSpec {
    /// Python version, for example `3.11`; the newest that is installed
    /// unless given.
    pub python: Option<String>,
    /// Requirements, one each.
    pub packages: Vec<String>,
    /// Content of a `requirements.txt`.
    pub requirements: Option<String>,
    /// A finished lock (pinned requirements, as `uv pip compile` writes it);
    /// then nothing is resolved.
    pub lock: Option<String>,
}

/// Where environments are kept and how progress is told.
#[derive(Clone)]
pub struct EnvironmentOptions {
    /// The shared cache folder.
    pub cache: PathBuf,
    /// The uv program; searched for unless given.
    pub uv: Option<PathBuf>,
    /// Gets one line of progress at a time.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
}

impl EnvironmentOptions {
    /// A cache folder, with progress on standard error.
    pub fn new(cache: impl Into<PathBuf>) -> Self {
        Self {
            cache: cache.into(),
            uv: std::env::var_os("CUMULO_UV").map(PathBuf::from),
            progress: Arc::new(|line| eprintln!("{line}")),
        }
    }

    fn say(&self, line: &str) {
        (self.progress)(line);
    }
}

/// A finished environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// Its interpreter.
    pub python: PathBuf,
    /// Its folder of programs.
    pub bin: PathBuf,
    /// Hash that names it: lock, Python version and platform.
    pub lock_hash: String,
    /// The lock: every package with its version and hashes.
    pub lock_text: String,
}

impl Environment {
    /// What programs in it read: its folder, and Python's.
    pub fn folders(&self) -> Vec<PathBuf> {
        software::python(self.bin.parent().unwrap_or(&self.bin))
    }

    /// Has the modules compiled beside what runs in the environment, which can
    /// read it only and would compile them anew each time. Costs the start of
    /// an interpreter, and once done nothing.
    pub fn compile_aside(&self) {
        let folder = self.bin.parent().unwrap_or(&self.bin);
        if folder.join(COMPILED).exists() {
            return;
        }
        // Without `site`, no code of the packages runs here. The first process
        // leaves at once: its child is nobody's that might wait for it.
        let started = std::process::Command::new(&self.python)
            .args(["-I", "-S", "-c", COMPILE])
            .arg(folder)
            .arg(folder.join(COMPILED))
            .env_clear()
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status();
        if let Err(error) = started {
            tracing::debug!(%error, "modules are not compiled");
        }
    }

    /// Variables under which programs run in it; `path` is the search path
    /// that its programs come before.
    pub fn variables(&self, path: &str) -> Vec<(String, String)> {
        let folder = self.bin.parent().unwrap_or(&self.bin);
        [
            ("PATH", format!("{}:{path}", self.bin.display())),
            ("VIRTUAL_ENV", folder.display().to_string()),
            ("PYTHONNOUSERSITE", "1".to_owned()),
            ("PYTHONUNBUFFERED", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }
}

/// What a request was resolved to, and what an environment was built from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Resolved {
    lock_hash: String,
    lock_text: String,
    interpreter: PathBuf,
    python_version: String,
}

const READY: &str = "ready";
/// Marks an environment whose modules are all compiled.
const COMPILED: &str = "compiled";
/// Compiles the modules below a folder with the least priority. Whoever else
/// does so already is left to it; what was interrupted goes on next time.
const COMPILE: &str = r#"
import compileall, fcntl, os, sys
if os.fork():
    os._exit(0)
folder, done = sys.argv[1:]
lock = open(folder + "/compiling", "w")
try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
except OSError:
    os._exit(0)
os.nice(19)
compileall.compile_dir(folder + "/lib", quiet=2)
open(done, "w").close()
"#;

/// Provides an environment: from the cache, or resolved and built now.
pub async fn prepare(
    spec: &EnvironmentSpec,
    options: &EnvironmentOptions,
) -> Result<Environment, EnvironmentError> {
    check(spec)?;
    let root = options.cache.join("environments");
    let requests = root.join("requests");
    fs::create_dir_all(&requests).map_err(|error| EnvironmentError::io(&requests, error))?;
    let request = requests.join(format!("{}.json", request_hash(spec)));

    if let Some(resolved) = read_json::<Resolved>(&request).ok().flatten() {
        if let Some(environment) = finished(&root, &resolved) {
            return Ok(environment);
        }
        // The environment was removed, or its interpreter was; the lock holds.
        if resolved.interpreter.exists() {
            return build(&root, &resolved, options).await;
        }
    }
    // Two pods with the same request resolve it once.
    let _guard = lock(&request.with_extension("lock")).await?;
    if let Some(resolved) = read_json::<Resolved>(&request).ok().flatten()
        && let Some(environment) = finished(&root, &resolved)
    {
        return Ok(environment);
    }
    let resolved = resolve(spec, options).await?;
    write_json(&request, &resolved).map_err(|error| EnvironmentError::io(&request, error))?;
    build(&root, &resolved, options).await
}

fn check(spec: &EnvironmentSpec) -> Result<(), EnvironmentError> {
    for package in &spec.packages {
        let text = package.trim();
        if text.is_empty() || text.starts_with('-') || package.contains(['\n', '\r']) {
            return Err(EnvironmentError::Package(package.clone()));
        }
    }
    if let Some(python) = &spec.python {
        let shape = |character: char| {
            character.is_ascii_alphanumeric()
                || matches!(
                    character,
                    '.' | '=' | '<' | '>' | ',' | '*' | '!' | '~' | '@'
                )
        };
        if python.is_empty() || !python.chars().all(shape) {
            return Err(EnvironmentError::PythonVersion(python.clone()));
        }
    }
    for text in [&spec.requirements, &spec.lock].into_iter().flatten() {
        if text.len() > MAX_TEXT {
            return Err(EnvironmentError::TooLong);
        }
    }
    if spec.lock.is_some() && (!spec.packages.is_empty() || spec.requirements.is_some()) {
        return Err(EnvironmentError::LockAndPackages);
    }
    Ok(())
}

fn request_hash(spec: &EnvironmentSpec) -> String {
    let mut packages = spec.packages.clone();
    packages.sort();
    let normal = EnvironmentSpec {
        packages,
        ..spec.clone()
    };
    let text = serde_json::to_vec(&normal).unwrap_or_default();
    short_hash(&text)
}

fn short_hash(content: &[u8]) -> String {
    hex::encode(Sha256::digest(content))[..16].to_owned()
}

/// Python's minor version and the platform change what a lock installs.
fn lock_hash(lock_text: &str, python_version: &str) -> String {
    let minor = python_version
        .splitn(3, '.')
        .take(2)
        .collect::<Vec<_>>()
        .join(".");
    let platform = format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH);
    short_hash(format!("{platform}\npython {minor}\n{}", lock_text.trim()).as_bytes())
}

async fn resolve(
    spec: &EnvironmentSpec,
    options: &EnvironmentOptions,
) -> Result<Resolved, EnvironmentError> {
    let uv = Uv::find(options).await?;
    let interpreter = uv
        .interpreter(spec.python.as_deref(), OLDEST_PYTHON)
        .await?;
    let lock_text = match &spec.lock {
        Some(lock) => lock.clone(),
        None => {
            let mut wanted = spec.packages.join("\n");
            if let Some(requirements) = &spec.requirements {
                wanted.push('\n');
                wanted.push_str(requirements);
            }
            if wanted.trim().is_empty() {
                String::new()
            } else {
                options.say("environment: resolving");
                uv.compile(&wanted, &interpreter.path).await?
            }
        }
    };
    Ok(Resolved {
        lock_hash: lock_hash(&lock_text, &interpreter.version),
        lock_text,
        interpreter: interpreter.path,
        python_version: interpreter.version,
    })
}

/// The environment, when it is complete.
fn finished(root: &Path, resolved: &Resolved) -> Option<Environment> {
    let folder = root.join(&resolved.lock_hash);
    let bin = folder.join("bin");
    let python = bin.join("python");
    // The interpreter is a link; where it points may be gone.
    (folder.join(READY).exists() && python.exists()).then(|| Environment {
        python,
        bin,
        lock_hash: resolved.lock_hash.clone(),
        lock_text: resolved.lock_text.clone(),
    })
}

async fn build(
    root: &Path,
    resolved: &Resolved,
    options: &EnvironmentOptions,
) -> Result<Environment, EnvironmentError> {
    let folder = root.join(&resolved.lock_hash);
    let _guard = lock(&root.join(format!("{}.lock", resolved.lock_hash))).await?;
    if let Some(environment) = finished(root, resolved) {
        return Ok(environment);
    }
    let uv = Uv::find(options).await?;
    match fs::remove_dir_all(&folder) {
        Ok(()) => options.say("environment: removed one that was left half built"),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(EnvironmentError::io(&folder, error)),
    }
    let packages = resolved
        .lock_text
        .lines()
        .filter(|line| line.contains("==") && !line.trim_start().starts_with(['#', '-']))
        .count();
    options.say(&format!(
        "environment: building {} (Python {}, {packages} packages)",
        resolved.lock_hash, resolved.python_version
    ));
    let built = async {
        uv.venv(&folder, &resolved.interpreter).await?;
        let lock_file = folder.join("requirements.lock");
        write_atomic(&lock_file, resolved.lock_text.as_bytes())
            .map_err(|error| EnvironmentError::io(&lock_file, error))?;
        if packages > 0 || !resolved.lock_text.trim().is_empty() {
            uv.sync(&folder.join("bin/python"), &lock_file).await?;
        }
        let ready = folder.join(READY);
        write_json(&ready, resolved).map_err(|error| EnvironmentError::io(&ready, error))
    };
    if let Err(error) = built.await {
        let _ = fs::remove_dir_all(&folder);
        return Err(error);
    }
    options.say(&format!("environment: {} is ready", resolved.lock_hash));
    finished(root, resolved).ok_or_else(|| {
        EnvironmentError::io(
            &folder,
            io::Error::other("the environment was removed while it was built"),
        )
    })
}

/// Waits for a file lock; it is held as long as the file is open.
async fn lock(path: &Path) -> Result<File, EnvironmentError> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let file = File::create(&path).map_err(|error| EnvironmentError::io(&path, error))?;
        file.lock()
            .map_err(|error| EnvironmentError::io(&path, error))?;
        Ok(file)
    })
    .await
    .map_err(|error| EnvironmentError::io(Path::new("lock"), io::Error::other(error)))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_packages_does_not_matter() {
        let spec = |packages: &[&str]| EnvironmentSpec {
            packages: packages.iter().map(|text| (*text).to_owned()).collect(),
            ..EnvironmentSpec::default()
        };
        assert_eq!(
            request_hash(&spec(&["a", "b"])),
            request_hash(&spec(&["b", "a"]))
        );
        assert_ne!(request_hash(&spec(&["a"])), request_hash(&spec(&["b"])));
    }

    #[test]
    fn the_patch_version_of_python_does_not_matter() {
        assert_eq!(lock_hash("x==1\n", "3.11.2"), lock_hash("x==1", "3.11.7"));
        assert_ne!(lock_hash("x==1", "3.11.2"), lock_hash("x==1", "3.12.2"));
    }

    #[test]
    fn options_cannot_be_smuggled_in_as_packages() {
        let spec = EnvironmentSpec {
            packages: vec!["--index-url=http://elsewhere".to_owned()],
            ..EnvironmentSpec::default()
        };
        assert!(matches!(check(&spec), Err(EnvironmentError::Package(_))));
    }
}
