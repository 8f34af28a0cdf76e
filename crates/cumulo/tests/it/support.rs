//! A platform of its own for a test: a temporary folder, a free port, and the
//! clients that users have.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary under test.
pub const CUMULO: &str = env!("CARGO_BIN_EXE_cumulo");

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// A folder that survives test runs: what takes long to fetch is fetched once.
pub fn cache() -> PathBuf {
    let folder = repository().join(".build/peers");
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Output as text, for messages and comparisons.
pub trait Text {
    /// Standard output, trimmed.
    fn out(&self) -> String;
    /// Standard error, trimmed.
    fn err(&self) -> String;
    /// Standard output of a success; panics with everything otherwise.
    fn success(self) -> String;
    /// Standard error of a failure; panics with everything otherwise.
    fn failure(self) -> String;
}

impl Text for Output {
    fn out(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    fn err(&self) -> String {
        String::from_utf8_lossy(&self.stderr).trim().to_owned()
    }

    #[track_caller]
    fn success(self) -> String {
        assert!(
            self.status.success(),
            "failed ({}):\n{}\n{}",
            self.status,
            self.out(),
            self.err()
        );
        self.out()
    }

    #[track_caller]
    fn failure(self) -> String {
        assert!(
            !self.status.success(),
            "succeeded:\n{}\n{}",
            self.out(),
            self.err()
        );
        self.err()
    }
}

/// A running platform.
pub struct Platform {
    home: tempfile::TempDir,
    port: u16,
    token: OnceLock<String>,
}

impl Platform {
    /// Starts one on a fresh folder.
    pub fn start() -> Self {
        let platform = Self::prepare();
        platform.up().success();
        platform
    }

    /// Makes the folder and finds a port, without starting.
    pub fn prepare() -> Self {
        Self {
            home: tempfile::Builder::new()
                .prefix("cumulo-test-")
                .tempdir()
                .unwrap(),
            port: free_port(),
            token: OnceLock::new(),
        }
    }

    /// `cumulo up` on this platform's port.
    pub fn up(&self) -> Output {
        self.cumulo(&["up", "--listen", &self.address()])
    }

    /// `ADDRESS:PORT`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The folder.
    pub fn home(&self) -> &Path {
        self.home.path()
    }

    /// The kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.home().join("kubeconfig")
    }

    /// The owner's token.
    pub fn token(&self) -> &str {
        self.token.get_or_init(|| {
            let text = fs::read(self.home().join("credentials.json")).unwrap();
            let value: Value = serde_json::from_slice(&text).unwrap();
            value["admin"].as_str().unwrap().to_owned()
        })
    }

    /// The platform's process.
    pub fn pid(&self) -> i32 {
        let text = fs::read(self.home().join("platform.json")).unwrap();
        let value: Value = serde_json::from_slice(&text).unwrap();
        i32::try_from(value["pid"].as_i64().unwrap()).unwrap()
    }

    /// A `cumulo` command against this platform, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(CUMULO);
        command
            .args(arguments)
            .env("CUMULO_HOME", self.home())
            // Environments are the same for all tests: built once.
            .stdin(Stdio::null())
            .current_dir(repository());
        command
    }

    /// Runs a `cumulo` command to its end.
    pub fn cumulo(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs kubectl to its end.
    pub fn kubectl(&self, arguments: &[&str]) -> Output {
        self.kubectl_with(arguments, None)
    }

    /// kubectl on this platform, its output piped, not yet started.
    pub fn kubectl_command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(kubectl());
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .arg("--cache-dir")
            .arg(self.home().join("kubectl-cache"))
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs kubectl with a text as standard input.
    pub fn kubectl_with(&self, arguments: &[&str], input: Option<&str>) -> Output {
        use std::io::Write;
        let mut command = self.kubectl_command(arguments);
        if input.is_some() {
            command.stdin(Stdio::piped());
        }
        let mut child = command.spawn().unwrap();
        if let (Some(mut stdin), Some(input)) = (child.stdin.take(), input) {
            stdin.write_all(input.as_bytes()).unwrap();
        }
        child.wait_with_output().unwrap()
    }

    /// Runs Helm to its end.
    pub fn helm(&self, arguments: &[&str]) -> Output {
        Command::new(kubectl().with_file_name("helm"))
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(arguments)
            // Its settings and caches are nobody else's.
            .env("HELM_CACHE_HOME", self.home().join("helm-cache"))
            .env("HELM_CONFIG_HOME", self.home().join("helm-config"))
            .env("HELM_DATA_HOME", self.home().join("helm-data"))
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    /// Ends the platform's process as a crash would.
    pub fn kill(&self) {
        let pid = nix::unistd::Pid::from_raw(self.pid());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        wait_for(
            "the killed platform to be gone",
            Duration::from_secs(10),
            || nix::sys::signal::kill(pid, None).is_err() || is_zombie(pid.as_raw()),
        );
    }

    /// A POST of JSON with the owner's token: status and answer.
    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let answer = http()
            .post(format!("{}{path}", self.url()))
            .bearer_auth(self.token())
            .json(body)
            .send()
            .unwrap();
        (answer.status().as_u16(), answer.json().unwrap_or_default())
    }

    /// Runs a Python script with packages from the index, against this platform.
    pub fn python(&self, packages: &[&str], script: &Path, arguments: &[&str]) -> Output {
        let mut command = Command::new("uv");
        command.args(["run", "--quiet", "--no-project"]);
        for package in packages {
            command.args(["--with", package]);
        }
        command
            .arg(script)
            .args(arguments)
            .env("MLFLOW_TRACKING_URI", self.url())
            .env("MLFLOW_TRACKING_TOKEN", self.token())
            .env("KUBECONFIG", self.kubeconfig())
            .env_remove("OPENBLAS_CORETYPE")
            .output()
            .unwrap_or_else(|error| {
                panic!(
                    "uv cannot be run ({error}): run the tests with `make test`, which installs it"
                )
            })
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        let down = self.cumulo(&["down"]);
        if std::thread::panicking() {
            let log = fs::read_to_string(self.home().join("logs/platform.log")).unwrap_or_default();
            let start = log.len().saturating_sub(6_000);
            eprintln!(
                "--- the platform's log ends with ---\n{}",
                log.get(start..).unwrap_or_default()
            );
        } else {
            assert!(down.status.success(), "cumulo down failed: {}", down.err());
        }
    }
}

/// Waits for a condition; panics with what was waited for.
#[track_caller]
pub fn wait_for(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "waited {limit:?} for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One client for all requests of the tests, with kept connections.
pub fn http() -> &'static reqwest::blocking::Client {
    static CLIENT: OnceLock<reqwest::blocking::Client> = OnceLock::new();
    CLIENT.get_or_init(|| {
        reqwest::blocking::Client::builder()
            .timeout(Duration::from_secs(90))
            .build()
            .unwrap()
    })
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// A current kubectl; Helm lies beside it.
pub fn kubectl() -> &'static Path {
    static KUBECTL: OnceLock<PathBuf> = OnceLock::new();
    KUBECTL.get_or_init(|| {
        let output = Command::new("python3")
            .arg(repository().join("tests/peers/kubectl.py"))
            .arg(cache().join("kubectl-1.35"))
            .output()
            .unwrap();
        PathBuf::from(output.success())
    })
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}
