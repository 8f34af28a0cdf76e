//! Settings of the node agent.

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use crate::address::Range;
use crate::devices::mig::MigInstances;
use crate::devices::watch::Response;
use crate::devices::{RECORDING_VARIABLE, sharing};
use crate::sandbox::{RoleAccess, software};

/// Settings of the node agent and its pod engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Name of the Node object.
    pub node_name: String,
    /// Folder that holds the pods.
    pub root: PathBuf,
    /// Folder for Python environments and downloads, shared between pods;
    /// pods find it as `CUMULO_CACHE`.
    pub cache: PathBuf,
    /// What `cumulo` means in a container of the runtime image.
    pub executable: PathBuf,
    /// Command that starts the container supervisor; the attempt's folder is
    /// appended to it.
    pub supervisor: Vec<OsString>,
    /// Image repositories that mean "this binary", whatever their tag.
    pub runtime_images: Vec<String>,
    /// The node's own address.
    pub host_ip: Ipv4Addr,
    /// Where pods get their addresses from.
    pub pod_addresses: Range,
    /// Port of the server that answers the API server for pods, if there is one.
    pub kubelet_port: Option<u16>,
    /// Further labels of the Node object.
    pub labels: Vec<(String, String)>,
    /// Keep pods away that do not tolerate the taint `cumulo.dev/runtime`.
    pub tainted: bool,
    /// Most pods at a time.
    pub max_pods: usize,
    /// `hostPath` volumes are allowed below these folders only.
    pub host_path_roots: Vec<PathBuf>,
    /// A container's log is rotated at this size; one rotated file is kept.
    pub log_max_bytes: u64,
    /// The wait before the second restart of a container.
    pub restart_base: Duration,
    /// The longest wait before a restart.
    pub restart_max: Duration,
    /// A container that ran this long starts over with its back-off.
    pub restart_reset: Duration,
    /// How often memory use is sampled where a limit is set.
    pub memory_interval: Duration,
    /// Most open files of one process in a container.
    pub open_files: Option<u64>,
    /// Most threads and processes of one container.
    pub max_tasks: Option<u64>,
    /// How often the size of folders is measured where a limit is set.
    pub disk_interval: Duration,
    /// A recording of devices to use instead of the machine's own.
    pub devices: Option<PathBuf>,
    /// How often the devices are looked at.
    pub device_interval: Duration,
    /// The program `nvidia-cuda-mps-control`, through which pods share a GPU; by turns
    /// without it.
    pub mps: Option<PathBuf>,
    /// How often what pods do with devices is looked at, while one has some.
    pub watch_interval: Duration,
    /// What happens to a pod that uses more memory of a GPU than its share.
    pub over_memory: Response,
    /// Whether MIG instances are made for pods, on GPUs that are in MIG mode.
    pub mig_instances: MigInstances,
    /// What containers may reach.
    pub sandbox: SandboxOptions,
    /// Variables that every container gets before those that it declares:
    /// its search path, and what Python's installers and TLS need to know
    /// about this machine.
    pub base_environment: Vec<(String, String)>,
}

/// What containers may reach beside their own folders and the system's.
#[derive(Debug, Clone, Default)]
pub struct SandboxOptions {
    /// Run containers without any sandbox; their pods say so.
    pub disabled: bool,
    /// Folders that no wider rule opens: the platform's state, credentials.
    pub withheld: Vec<PathBuf>,
    /// Folders with programs and libraries.
    pub software: Vec<PathBuf>,
    /// What Cumulo's own commands need.
    pub roles: Vec<RoleAccess>,
}

/// Folders below a home that hold credentials.
const PRIVATE: &[&str] = &[
    ".cumulo",
    ".kube",
    ".ssh",
    ".aws",
    ".gnupg",
    ".config/gcloud",
];

/// Variables of the platform's own environment that containers inherit when
/// they are set. They say how this machine reaches its package index and
/// which certificates it trusts; nothing else of the platform leaks.
const INHERITED: &[&str] = &[
    "PATH",
    "LD_LIBRARY_PATH",
    "LANG",
    "LC_ALL",
    "TZ",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "REQUESTS_CA_BUNDLE",
    "CURL_CA_BUNDLE",
    "NIX_LD",
    "PIP_CERT",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "PIP_NO_INDEX",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "CUMULO_UV",
    "CUMULO_ONNXRUNTIME",
];

impl Options {
    /// The usual settings, with all state below `home`.
    pub fn new(home: impl Into<PathBuf>, executable: impl Into<PathBuf>) -> Self {
        let home = home.into();
        let executable = executable.into();
        let base_environment = inherited_environment(std::env::vars());
        let person = std::env::var_os("HOME").map(PathBuf::from);
        let devices = std::env::var_os(RECORDING_VARIABLE)
            .filter(|path| !path.is_empty())
            .map(PathBuf::from);
        let withheld = PRIVATE
            .iter()
            .filter_map(|name| Some(person.as_ref()?.join(name)))
            .chain([home.clone()])
            .collect();
        Self {
            node_name: host_name(),
            root: home.join("node"),
            cache: home.join("cache"),
            supervisor: vec![executable.clone().into_os_string(), "__shim".into()],
            executable,
            runtime_images: vec!["cumulo.dev/runtime".to_owned()],
            host_ip: Ipv4Addr::LOCALHOST,
            pod_addresses: Range::LOOPBACK,
            kubelet_port: None,
            labels: Vec::new(),
            tainted: false,
            max_pods: 110,
            host_path_roots: Vec::new(),
            log_max_bytes: 10 << 20,
            restart_base: Duration::from_secs(10),
            restart_max: Duration::from_secs(300),
            restart_reset: Duration::from_secs(600),
            memory_interval: Duration::from_millis(250),
            open_files: None,
            max_tasks: Some(4096),
            disk_interval: Duration::from_secs(2),
            // No daemon can serve a GPU that is only recorded.
            mps: devices.is_none().then(sharing::find_program).flatten(),
            devices,
            device_interval: Duration::from_secs(30),
            watch_interval: Duration::from_secs(5),
            over_memory: Response::default(),
            mig_instances: MigInstances::default(),
            sandbox: SandboxOptions {
                disabled: false,
                withheld,
                software: software::folders(&base_environment, person.as_deref()),
                roles: Vec::new(),
            },
            base_environment,
        }
    }
}

/// What containers inherit out of an environment; `UV_*` settings are the
/// user's choice of package index and come along as well.
pub fn inherited_environment(
    variables: impl IntoIterator<Item = (String, String)>,
) -> Vec<(String, String)> {
    let mut kept = Vec::new();
    let mut home = None;
    for (name, value) in variables {
        if name == "HOME" {
            home = Some(value);
        } else if INHERITED.contains(&name.as_str()) || name.starts_with("UV_") {
            kept.push((name, value));
        }
    }
    // The container's HOME is its own folder, where uv would not find the
    // settings that the user made.
    if let Some(home) = home
        && !kept.iter().any(|(name, _)| name == "UV_CONFIG_FILE")
    {
        let file = PathBuf::from(home).join(".config/uv/uv.toml");
        if file.is_file()
            && let Some(file) = file.to_str()
        {
            kept.push(("UV_CONFIG_FILE".to_owned(), file.to_owned()));
        }
    }
    for (name, value) in [
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("LANG", "C.UTF-8"),
    ] {
        if !kept.iter().any(|(other, _)| other == name) {
            kept.push((name.to_owned(), value.to_owned()));
        }
    }
    kept
}

/// The machine's name as a Kubernetes object name.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let name: String = name
        .chars()
        .map(|character| match character {
            'a'..='z' | '0'..='9' | '.' | '-' => character,
            _ => '-',
        })
        .collect();
    let name = name.trim_matches(['-', '.']);
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_platforms_secrets_stay_behind() {
        let kept = inherited_environment(
            [
                ("MLFLOW_TRACKING_TOKEN", "secret"),
                ("AWS_SECRET_ACCESS_KEY", "secret"),
                ("UV_INDEX_URL", "index"),
                ("PATH", "/bin"),
                ("HOME", "/nowhere"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned())),
        );
        let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["UV_INDEX_URL", "PATH", "LANG"]);
    }
}
