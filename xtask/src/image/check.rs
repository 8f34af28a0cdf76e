//! Runs what pods run inside of the image: its files are unpacked, and a program
//! gets them as its root, read-only, as the image's user, with two folders to
//! write to. That is what a hardened container has.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{STATE, USER};

/// The longest that something may take until it answers.
const READY: Duration = Duration::from_secs(60);
/// Mounts what a container has, then becomes the program.
const ENTER: &str = r#"
set -e
root=$1; state=$2; user=$3; shift 3
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount --rbind /dev "$root/dev"
mount --rbind /proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount --bind "$state" "$root/var/lib/cumulo"
export PATH="$IMAGE_PATH"; unset IMAGE_PATH
exec /usr/sbin/chroot $user "$root" "$@"
"#;
const PROJECT: &str = "apiVersion: cumulo.dev/v1alpha1
kind: Dataset
metadata: {name: trips}
spec:
  sources: {t: {uri: t.csv}}
  query: SELECT * FROM t
---
apiVersion: cumulo.dev/v1alpha1
kind: Model
metadata: {name: late}
spec:
  dataset: trips
  target: late
  task: classification
  train: {automl: {budget: 2s}}
";

/// An unpacked image.
struct Unpacked {
    _folder: tempfile::TempDir,
    root: PathBuf,
    state: PathBuf,
    environment: Vec<String>,
}

/// Checks an archive.
pub fn run(archive: &Path, digest: &str) -> Result<()> {
    let image = unpack(archive, digest)?;
    let told = image.output(&["cumulo", "--version"])?;
    say("cumulo --version", &told);
    let expected = format!("cumulo {}", env!("CARGO_PKG_VERSION"));
    if told != expected {
        bail!("the image's binary says {told:?}, not {expected:?}");
    }
    say("uv --version", &image.output(&["uv", "--version"])?);
    say("python3", &image.output(&["python3", "-c", "import ssl, sqlite3, zoneinfo, sys, os; zoneinfo.ZoneInfo('Europe/Oslo'); ssl.create_default_context(); print(sys.version.split()[0], 'as user', os.getuid())"])?);
    let refused = image.output(&["sh", "-c", "echo x > /usr/x"]);
    match refused {
        Err(error) if error.to_string().contains("Read-only") => say("writing to /usr", "refused"),
        other => bail!("writing to /usr was not refused: {other:?}"),
    }
    platform(&image)
}

/// A platform in the image makes a model; a server and a job are started as a
/// cluster's pods are.
fn platform(image: &Unpacked) -> Result<()> {
    let project = image.state.join("project");
    std::fs::create_dir(&project)?;
    std::fs::write(project.join("project.yaml"), PROJECT)?;
    std::fs::write(project.join("t.csv"), rows())?;
    let port = free_port()?;
    let listen = format!("127.0.0.1:{port}");
    let _up = image.start(&["cumulo", "up", "--foreground", "--listen", &listen], &[])?;
    wait(&listen, "GET /readyz HTTP/1.1", "")?;
    let done = image.output(&[
        "cumulo",
        "run",
        &format!("{STATE}/project"),
        "--timeout",
        "5m",
    ])?;
    say("cumulo run", done.lines().last().unwrap_or_default());

    let credentials = std::fs::read(image.state.join("credentials.json"))?;
    let credentials: Value = serde_json::from_slice(&credentials)?;
    let token = credentials["workload"]
        .as_str()
        .context("no token for pods")?;
    let pod = [
        format!("MLFLOW_TRACKING_URI=http://{listen}"),
        format!("MLFLOW_TRACKING_TOKEN={token}"),
        format!("CUMULO_ARTIFACTS=file://{STATE}/artifacts"),
    ];

    let task = json!({
        "name": "check", "uid": "check", "experiment": "check",
        "environment": {"packages": []},
        "command": ["python", "-c", "import sys; print('hello from', sys.prefix != sys.base_prefix)"],
    });
    let mut job: Vec<String> = pod.to_vec();
    job.push(format!("CUMULO_EXEC={task}"));
    let told = image.output_with(&["cumulo", "exec"], &job)?;
    if !told.contains("hello from True") {
        bail!("the job did not run in an environment of its own: {told}");
    }
    say(
        "cumulo exec (a TrainJob's command)",
        "ran in its own environment",
    );

    let address = format!("127.0.0.1:{}", free_port()?);
    let arguments = [
        "cumulo",
        "serve",
        "--name",
        "late",
        "--model-uri",
        "models:/late/1",
        "--address",
        &address,
    ];
    let _serve = image.start(&arguments, &pod)?;
    wait(&address, "GET /v2/health/ready HTTP/1.1", "")?;
    let question = json!({"inputs": [
        {"name": "x", "datatype": "FP64", "shape": [1], "data": [9.5]},
        {"name": "city", "datatype": "BYTES", "shape": [1], "data": ["Oslo"]},
    ]});
    let answer = wait(
        &address,
        "POST /v2/models/late/infer HTTP/1.1",
        &question.to_string(),
    )?;
    let answer: Value = serde_json::from_str(&answer).context("the prediction is not JSON")?;
    let outputs = answer["outputs"]
        .as_array()
        .context("the prediction has no outputs")?;
    let told: Vec<String> = outputs
        .iter()
        .map(|output| {
            format!(
                "{} {}",
                output["name"].as_str().unwrap_or("?"),
                output["data"]
            )
        })
        .collect();
    if told.is_empty() {
        bail!("the prediction is empty: {answer}");
    }
    say("cumulo serve, one prediction", &told.join(", "));
    image.output(&["cumulo", "down"])?;
    Ok(())
}

fn say(what: &str, found: &str) {
    println!("ok  {what}: {found}");
}

/// Rows whose target follows from the columns.
fn rows() -> String {
    let mut text = String::from("x,city,late\n");
    for row in 0..2000_u32 {
        let x = f64::from(row.wrapping_mul(2_654_435_761) % 1000) / 100.0;
        let city = ["Rome", "Oslo", "Lima"][(row % 3) as usize];
        let late = i32::from(x + 3.0 * f64::from(u8::from(city == "Oslo")) > 7.0);
        text.push_str(&format!("{x},{city},{late}\n"));
    }
    text
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Asks until the answer is 200; its body.
fn wait(address: &str, request: &str, body: &str) -> Result<String> {
    let started = Instant::now();
    loop {
        let last = match ask(address, request, body) {
            Ok(answer) if answer.starts_with("HTTP/1.1 200") => {
                let body = answer.split_once("\r\n\r\n").map(|(_, body)| body);
                return Ok(body.unwrap_or_default().to_owned());
            }
            Ok(answer) => answer.lines().next().unwrap_or_default().to_owned(),
            Err(error) => error.to_string(),
        };
        if started.elapsed() > READY {
            bail!("{request} at {address} was not answered with 200: {last}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn ask(address: &str, request: &str, body: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{request}\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Unpacks an archive, and holds every blob against its digest.
fn unpack(archive: &Path, digest: &str) -> Result<Unpacked> {
    let folder = tempfile::Builder::new().prefix("cumulo-image-").tempdir()?;
    let layout = folder.path().join("layout");
    tar::Archive::new(std::fs::File::open(archive)?).unpack(&layout)?;
    let blob = |descriptor: &Value| -> Result<Vec<u8>> {
        let digest = descriptor["digest"].as_str().unwrap_or_default();
        let content = std::fs::read(layout.join("blobs").join(digest.replace(':', "/")))?;
        if format!("sha256:{}", hex::encode(Sha256::digest(&content))) != digest {
            bail!("blob {digest} has another content");
        }
        Ok(content)
    };
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json"))?)?;
    let manifest = &index["manifests"][0];
    if manifest["digest"] != digest {
        bail!("the index names another manifest than {digest}");
    }
    let manifest: Value = serde_json::from_slice(&blob(manifest)?)?;
    let configuration: Value = serde_json::from_slice(&blob(&manifest["config"])?)?;
    let root = folder.path().join("root");
    for layer in manifest["layers"].as_array().into_iter().flatten() {
        let packed = blob(layer)?;
        let mut layer = tar::Archive::new(flate2::read::GzDecoder::new(packed.as_slice()));
        layer.set_preserve_permissions(true);
        layer.unpack(&root)?;
    }
    let state = folder.path().join("state");
    for path in [&root.join("dev"), &root.join("proc"), &state] {
        std::fs::create_dir_all(path)?;
    }
    if is_root() {
        std::os::unix::fs::chown(&state, Some(USER), Some(USER))?;
        // The user inside has to get there.
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open)?;
    }
    let environment = configuration["config"]["Env"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    Ok(Unpacked {
        _folder: folder,
        root,
        state,
        environment,
    })
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self")
        .is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

/// A program that is ended when this is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It ends by itself once it is asked to; nothing of it may be left.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(20) {
            if matches!(self.0.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Unpacked {
    /// A program in the image: by chroot as root, in a user namespace otherwise.
    fn command(&self, arguments: &[&str], variables: &[String]) -> Command {
        let mut command = Command::new("unshare");
        let user = if is_root() {
            command.args(["--mount", "--"]);
            format!("--userspec={USER}:{USER}")
        } else {
            command.args(["--mount", "--map-root-user", "--"]);
            String::new()
        };
        command
            .args(["sh", "-c", ENTER, "sh"])
            .args([&self.root, &self.state])
            .arg(user)
            .args(arguments)
            .env_clear();
        for variable in self.environment.iter().chain(variables) {
            if let Some((name, value)) = variable.split_once('=') {
                // The mounts are made with this machine's programs.
                let name = if name == "PATH" { "IMAGE_PATH" } else { name };
                command.env(name, value);
            }
        }
        command
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .stdin(Stdio::null());
        command
    }

    fn start(&self, arguments: &[&str], variables: &[String]) -> Result<Running> {
        let child = self
            .command(arguments, variables)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("unshare cannot be run")?;
        Ok(Running(child))
    }

    fn output(&self, arguments: &[&str]) -> Result<String> {
        self.output_with(arguments, &[])
    }

    fn output_with(&self, arguments: &[&str], variables: &[String]) -> Result<String> {
        let output = self
            .command(arguments, variables)
            .output()
            .context("unshare cannot be run")?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            bail!(
                "{} failed in the image: {text} {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(text)
    }
}
