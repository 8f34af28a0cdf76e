//! The servers that are asked, each in a folder of its own on free ports of
//! this machine, and gone when the value is dropped.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(120);
/// The node that the suite sees. No pod fits on it, so that pods stay as they
/// are made, as they do without a scheduler.
const NODE: &str = "conformance";
/// What of the controller manager works on objects that `cumulo up` looks after
/// itself, or on nodes that somebody keeps alive.
const OURS: [&str; 11] = [
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "root-ca-certificate-publisher-controller",
    "resourcequota-controller",
    "disruption-controller",
    "clusterrole-aggregation-controller",
    "node-lifecycle-controller",
    "certificatesigningrequest-signing-controller",
    "certificatesigningrequest-approving-controller",
    "kube-apiserver-serving-clustertrustbundle-publisher-controller",
];

/// A running server.
#[derive(Debug)]
pub(super) struct Server {
    name: &'static str,
    kubeconfig: PathBuf,
    children: Vec<Child>,
    /// Ends `cumulo up`, which runs by itself.
    end: Option<Command>,
}

impl Server {
    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// `cumulo up`, and with a folder of programs the stock controller manager
    /// beside it. When it is measured, pods find no node.
    pub(super) fn cumulo(
        program: &Path,
        home: &Path,
        kubectl: &Path,
        manager: Option<&Path>,
        measured: bool,
    ) -> Result<Self> {
        if !program.exists() {
            bail!("{} is not there: run `make build` first", program.display());
        }
        let command = |arguments: &[&str]| {
            let mut command = Command::new(program);
            command.args(arguments).env("CUMULO_HOME", home);
            command
        };
        let address = format!("127.0.0.1:{}", free_port()?);
        let up = command(&["up", "--quiet", "--listen", &address]).status()?;
        if !up.success() {
            bail!("`cumulo up` failed: {up}");
        }
        let mut server = Self {
            name: "cumulo up",
            kubeconfig: home.join("kubeconfig"),
            children: Vec::new(),
            end: Some(command(&["down"])),
        };
        let client = Client {
            kubectl,
            kubeconfig: &server.kubeconfig,
        };
        client.wait_ready()?;
        client.wait_node()?;
        if measured {
            client.settle_nodes()?;
            client.add_service()?;
        }
        if let Some(programs) = manager {
            server.name = "cumulo up with kube-controller-manager";
            let log = home.join("controller-manager.log");
            let controllers: Vec<String> = std::iter::once("*".to_owned())
                .chain(OURS.iter().map(|name| format!("-{name}")))
                .collect();
            let mut command = Command::new(programs.join("kube-controller-manager"));
            command
                .arg(format!("--kubeconfig={}", server.kubeconfig.display()))
                .arg(format!("--controllers={}", controllers.join(",")));
            server.children.push(manage(&mut command, &log)?);
        }
        Ok(server)
    }

    /// etcd, kube-apiserver and kube-controller-manager.
    pub(super) fn real(programs: &Path, home: &Path, kubectl: &Path) -> Result<Self> {
        let key = home.join("key.pem");
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .stderr(Stdio::null())
            .status()
            .context("cannot run openssl")?;
        if !made.success() {
            bail!("openssl made no key");
        }
        let kubeconfig = home.join("kubeconfig");
        let (client, peer, secure) = (free_port()?, free_port()?, free_port()?);
        std::fs::write(home.join("tokens.csv"), "secret,admin,1,system:masters\n")?;
        std::fs::write(&kubeconfig, real_kubeconfig(secure).to_string())?;
        let at = |port: u16| format!("http://127.0.0.1:{port}");
        let mut etcd = Command::new(programs.join("etcd"));
        etcd.arg(format!("--data-dir={}", home.join("etcd").display()))
            .arg("--unsafe-no-fsync")
            .arg(format!("--listen-client-urls={}", at(client)))
            .arg(format!("--advertise-client-urls={}", at(client)))
            .arg(format!("--listen-peer-urls={}", at(peer)))
            .arg(format!("--initial-advertise-peer-urls={}", at(peer)))
            .arg(format!("--initial-cluster=default={}", at(peer)));
        let mut api = Command::new(programs.join("kube-apiserver"));
        api.arg(format!("--etcd-servers={}", at(client)))
            .arg(format!("--secure-port={secure}"))
            .arg(format!(
                "--cert-dir={}",
                home.join("certificates").display()
            ))
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!(
                "--service-account-signing-key-file={}",
                key.display()
            ))
            .arg(format!(
                "--token-auth-file={}",
                home.join("tokens.csv").display()
            ))
            .args([
                "--bind-address=127.0.0.1",
                "--service-account-issuer=https://localhost",
                "--authorization-mode=RBAC",
                "--service-cluster-ip-range=10.0.0.0/24",
            ]);
        let mut server = Self {
            name: "etcd, kube-apiserver and kube-controller-manager",
            kubeconfig,
            children: Vec::new(),
            end: None,
        };
        server
            .children
            .push(start(&mut etcd, &home.join("etcd.log"))?);
        server
            .children
            .push(start(&mut api, &home.join("apiserver.log"))?);
        let client = Client {
            kubectl,
            kubeconfig: &server.kubeconfig,
        };
        client.wait_ready()?;
        let mut manager = Command::new(programs.join("kube-controller-manager"));
        manager
            .arg(format!("--kubeconfig={}", server.kubeconfig.display()))
            .arg(format!(
                "--service-account-private-key-file={}",
                key.display()
            ))
            .arg(format!(
                "--root-ca-file={}",
                home.join("certificates/apiserver.crt").display()
            ))
            .arg("--controllers=*,-node-lifecycle-controller");
        client.settle_nodes()?;
        let log = home.join("controller-manager.log");
        server.children.push(manage(&mut manager, &log)?);
        Ok(server)
    }
}

/// Starts a controller manager.
fn manage(command: &mut Command, log: &Path) -> Result<Child> {
    command.args([
        "--leader-elect=false",
        "--kube-api-content-type=application/json",
        "--bind-address=127.0.0.1",
    ]);
    command.arg(format!("--secure-port={}", free_port()?));
    start(command, log)
}

impl Drop for Server {
    fn drop(&mut self) {
        for child in self.children.iter_mut().rev() {
            // Asked first: etcd and the API server close what they have open.
            let asked = Command::new("kill").arg(child.id().to_string()).status();
            let end = Instant::now() + Duration::from_secs(10);
            while asked.is_ok() && Instant::now() < end && matches!(child.try_wait(), Ok(None)) {
                std::thread::sleep(Duration::from_millis(50));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        if let Some(end) = &mut self.end {
            let _ = end.stdout(Stdio::null()).status();
        }
    }
}

fn start(command: &mut Command, log: &Path) -> Result<Child> {
    let log = std::fs::File::create(log)?;
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

fn real_kubeconfig(port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "real",
        "contexts": [{"name": "real", "context": {"cluster": "real", "user": "admin"}}],
        "clusters": [{"name": "real", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
        }}],
        "users": [{"name": "admin", "user": {"token": "secret"}}],
    })
}

/// kubectl on a server.
pub(super) struct Client<'a> {
    pub(super) kubectl: &'a Path,
    pub(super) kubeconfig: &'a Path,
}

impl Client<'_> {
    /// Runs kubectl to its end; what it printed.
    pub(super) fn run(&self, arguments: &[&str], input: Option<&Value>) -> Result<String> {
        let mut child = Command::new(self.kubectl)
            .arg("--kubeconfig")
            .arg(self.kubeconfig)
            .args(arguments)
            .stdin(if input.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        if let (Some(input), Some(mut pipe)) = (input, child.stdin.take()) {
            pipe.write_all(input.to_string().as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "kubectl {} failed: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn wait_ready(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        loop {
            match self.run(&["get", "--raw", "/readyz"], None) {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Adds the Service that the suite looks up before it begins. Nobody routes to
    /// it: pods here are given the address of the server itself.
    fn add_service(&self) -> Result<()> {
        let service = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"name": "https", "port": 443}]},
        });
        self.run(&["create", "-f", "-"], Some(&service))?;
        Ok(())
    }

    /// Waits until the machine is a node.
    fn wait_node(&self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.run(&["get", "nodes", "-o", "name"], None)?.is_empty() {
            if Instant::now() > end {
                bail!("no node has appeared");
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    /// Cordons the nodes that are there, and adds the one that the suite sees.
    fn settle_nodes(&self) -> Result<()> {
        for node in self.run(&["get", "nodes", "-o", "name"], None)?.lines() {
            self.run(&["cordon", node], None)?;
        }
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": NODE}});
        self.run(&["create", "-f", "-"], Some(&node))?;
        let status = json!({"status": {
            "capacity": {"cpu": "4", "memory": "8Gi", "pods": "0"},
            "allocatable": {"cpu": "4", "memory": "8Gi", "pods": "0"},
            "conditions": [{"type": "Ready", "status": "True", "reason": "Conformance"}],
        }});
        self.run(
            &[
                "patch",
                "node",
                NODE,
                "--subresource=status",
                "--type=merge",
                "-p",
                &status.to_string(),
            ],
            None,
        )?;
        let taints = json!({"spec": {"taints": null}}).to_string();
        self.run(
            &["patch", "node", NODE, "--type=merge", "-p", &taints],
            None,
        )?;
        Ok(())
    }
}
