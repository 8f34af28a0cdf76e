//! What happens where a resource ends: the disk, the size of a request.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{CUMULO, free_port, http, wait_for};

/// A platform whose folder is a small file system in a mount namespace of its
/// own. It is started again once when it is killed.
struct OnSmallDisk {
    shell: Child,
    folder: tempfile::TempDir,
    url: String,
}

impl OnSmallDisk {
    fn start(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let run = format!("{CUMULO} up --foreground --listen {address}");
        let script =
            format!("mount -t tmpfs -o size={size} tmpfs \"$CUMULO_HOME\" && {{ {run}; {run}; }}");
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let shell = command
            .args(["--mount", "sh", "-c", &script])
            .env("CUMULO_HOME", folder.path())
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("unshare (util-linux) runs");
        let platform = Self {
            shell,
            folder,
            url: format!("http://{address}"),
        };
        platform.wait_ready();
        platform
    }

    fn wait_ready(&self) {
        wait_for(
            "a platform on a small file system (needs the right to mount in a namespace)",
            Duration::from_secs(20),
            || {
                http()
                    .get(format!("{}/readyz", self.url))
                    .send()
                    .is_ok_and(|answer| answer.status() == 200)
            },
        );
    }

    /// The folder as the namespace sees it.
    fn home(&self) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.shell.id()))
            .join(self.folder.path().strip_prefix("/").unwrap())
    }

    fn read(&self, file: &str) -> Value {
        serde_json::from_slice(&std::fs::read(self.home().join(file)).unwrap()).unwrap()
    }

    fn send(&self, method: reqwest::Method, path: &str, body: Vec<u8>) -> (u16, Value) {
        let answer = http()
            .request(method, format!("{}{path}", self.url))
            .bearer_auth(self.read("credentials.json")["admin"].as_str().unwrap())
            .header("Content-Type", "application/json")
            .body(body)
            .send()
            .unwrap();
        (answer.status().as_u16(), answer.json().unwrap_or_default())
    }

    fn signal(&self, signal: nix::sys::signal::Signal) {
        let pid = self.read("platform.json")["pid"].as_i64().unwrap();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
        nix::sys::signal::kill(pid, signal).unwrap();
    }
}

impl Drop for OnSmallDisk {
    fn drop(&mut self) {
        // Each start ends by itself when asked to; the shell then runs the next or ends.
        while self.shell.try_wait().unwrap().is_none() {
            if self.home().join("platform.json").exists() {
                self.signal(nix::sys::signal::Signal::SIGTERM);
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn config_map(number: usize) -> Vec<u8> {
    json!({
        "metadata": {"name": format!("map-{number:03}")},
        "data": {"key": "x".repeat(500_000)},
    })
    .to_string()
    .into_bytes()
}

fn names(platform: &OnSmallDisk) -> Vec<String> {
    let (status, list) = platform.send(reqwest::Method::GET, MAPS, Vec::new());
    assert_eq!(status, 200);
    let items = list["items"].as_array().unwrap();
    items
        .iter()
        .map(|item| item["metadata"]["name"].as_str().unwrap().to_owned())
        .filter(|name| name.starts_with("map-"))
        .collect()
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let platform = OnSmallDisk::start("24m");
    let ballast = platform.home().join("ballast");
    std::fs::write(&ballast, vec![0; 2 << 20]).unwrap();
    let mut stored = Vec::new();
    let refusal = loop {
        let number = stored.len();
        assert!(number < 100, "24 MiB took {number} objects of 500 kB");
        match platform.send(reqwest::Method::POST, MAPS, config_map(number)) {
            (201, _) => stored.push(format!("map-{number:03}")),
            refused => break refused,
        }
    };
    assert_eq!(refusal.0, 507, "{}", refusal.1);
    let message = refusal.1["message"].as_str().unwrap();
    assert!(
        message.contains("full") && message.contains("Free some space"),
        "{message}"
    );
    assert!(stored.len() > 5, "{}", stored.len());
    assert_eq!(names(&platform), stored);

    // An artifact that does not fit leaves nothing behind.
    let artifacts = "/api/2.0/mlflow-artifacts/artifacts";
    let (status, body) = platform.send(
        reqwest::Method::PUT,
        &format!("{artifacts}/big/file.bin"),
        vec![7; 30 << 20],
    );
    assert_eq!(status, 507, "{body}");
    assert!(body["message"].as_str().unwrap().contains("full"), "{body}");
    let (_, list) = platform.send(
        reqwest::Method::GET,
        &format!("{artifacts}?path=big"),
        Vec::new(),
    );
    assert_eq!(list["files"], json!([]), "{list}");

    // Killed while full, it starts on the full disk, and everything acknowledged is there.
    platform.signal(nix::sys::signal::Signal::SIGKILL);
    wait_for("the platform to be gone", Duration::from_secs(10), || {
        http()
            .get(format!("{}/readyz", platform.url))
            .send()
            .is_err()
    });
    platform.wait_ready();
    assert_eq!(names(&platform), stored);
    std::fs::remove_file(&ballast).unwrap();

    // Space made, writes go on.
    let gone = stored.split_off(3);
    for name in gone {
        let (status, body) = platform.send(
            reqwest::Method::DELETE,
            &format!("{MAPS}/{name}"),
            Vec::new(),
        );
        assert_eq!(status, 200, "{body}");
    }
    wait_for("room for a write", Duration::from_secs(20), || {
        platform
            .send(reqwest::Method::POST, MAPS, config_map(900))
            .0
            == 201
    });
    stored.push("map-900".to_owned());
    assert_eq!(names(&platform), stored);
}
