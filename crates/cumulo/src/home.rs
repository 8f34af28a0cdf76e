//! The platform's folder: where everything lies, and who may talk to it.
//!
//! ```text
//! ~/.cumulo
//!   kubeconfig          mode 0600: for kubectl and this command line
//!   credentials.json    mode 0600: the bearer tokens
//!   users.json          mode 0600: users and the hashes of their tokens
//!   config.yaml         what the person who owns the folder allows
//!   platform.json       address and process of the running platform
//!   platform.lock       held by the running platform
//!   apiserver/ tracking.db artifacts/ node/ cache/ pki/ logs/
//! ```

use std::fs;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rand::Rng;
use serde::{Deserialize, Serialize};

/// The address that `cumulo up` listens on unless told otherwise.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:8700";

/// The folder that holds all of the platform's state.
#[derive(Clone, Debug)]
pub struct Home {
    root: PathBuf,
}

/// The bearer tokens of the platform.
#[derive(Clone, Serialize, Deserialize)]
pub struct Credentials {
    /// May do everything; in the kubeconfig.
    pub admin: String,
    /// May use tracking, artifacts and inference, nothing else; given to pods.
    pub workload: String,
}

/// What the owner of the folder allows. A missing file means the defaults.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Config {
    /// Folders that Datasets may read with absolute paths. None by default:
    /// `cumulo apply` uploads what a manifest names.
    pub allowed_roots: Vec<PathBuf>,
    /// Hosts (`example.org` or `example.org:8443`) that Datasets may read from.
    pub allowed_hosts: Vec<String>,
    /// What happens to a pod that uses more memory of a GPU than its share: `report`,
    /// `throttle` or `end`.
    pub gpu_memory_exceeded: cumulo_node::devices::watch::Response,
    /// Whether MIG instances stay as they are (`keep`) or are made for pods that ask for
    /// them (`manage`), on GPUs that are in MIG mode.
    pub mig_instances: cumulo_node::devices::mig::MigInstances,
}

/// Where the running platform is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Running {
    /// `ADDRESS:PORT`.
    pub address: String,
    /// Its process.
    pub pid: u32,
    /// The binary's version.
    pub version: String,
}

impl Running {
    /// The base URL for plain HTTP clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Home {
    /// The folder named by `CUMULO_HOME`, or `~/.cumulo`.
    pub fn find() -> Result<Self> {
        let root = match std::env::var_os("CUMULO_HOME") {
            Some(path) if !path.is_empty() => PathBuf::from(path),
            _ => match std::env::var_os("HOME") {
                Some(home) if !home.is_empty() => PathBuf::from(home).join(".cumulo"),
                _ => bail!(
                    "neither CUMULO_HOME nor HOME is set: set CUMULO_HOME to the folder that should hold the platform's state"
                ),
            },
        };
        let root = std::path::absolute(&root)
            .with_context(|| format!("the folder {} has no absolute path", root.display()))?;
        Ok(Self { root })
    }

    /// A folder for a test.
    #[cfg(test)]
    pub fn at(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// A path below the folder.
    pub fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The kubeconfig that `cumulo up` writes.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    /// The URL of the artifact store.
    pub fn artifacts_url(&self) -> Result<String> {
        let path = self.path("artifacts");
        url::Url::from_directory_path(&path)
            .map(|url| url.to_string().trim_end_matches('/').to_owned())
            .map_err(|()| anyhow::anyhow!("{} cannot be written as a URL", path.display()))
    }

    /// Makes the folder, readable by its owner only.
    pub fn create(&self) -> Result<()> {
        fs::create_dir_all(&self.root)
            .and_then(|()| fs::set_permissions(&self.root, fs::Permissions::from_mode(0o700)))
            .with_context(|| {
                format!(
                    "cannot make the platform's folder {}: choose another with CUMULO_HOME",
                    self.root.display()
                )
            })
    }

    /// The configuration, or the defaults where there is none.
    pub fn config(&self) -> Result<Config> {
        let path = self.path("config.yaml");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().is_empty() => Ok(Config::default()),
            Ok(text) => serde_saphyr::from_str(&text)
                .with_context(|| format!("{} cannot be read", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Config::default()),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Where the tokens lie (mode 0600).
    pub fn credentials_path(&self) -> PathBuf {
        self.path("credentials.json")
    }

    /// The tokens; made at the first call.
    pub fn credentials(&self) -> Result<Credentials> {
        let path = self.credentials_path();
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                format!(
                    "{} is damaged: remove it and run `cumulo up` again",
                    path.display()
                )
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let credentials = Credentials {
                    admin: random_token(),
                    workload: random_token(),
                };
                write_private(&path, &serde_json::to_vec_pretty(&credentials)?)?;
                Ok(credentials)
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    /// Where the platform runs, as it wrote itself; it may have died since.
    pub fn running(&self) -> Option<Running> {
        let text = fs::read(self.path("platform.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Where the platform runs, or a sentence that says how to start it.
    pub fn require_running(&self) -> Result<Running> {
        self.running().with_context(|| {
            format!(
                "no platform runs on {}: start it with `cumulo up`",
                self.root.display()
            )
        })
    }

    /// Writes the kubeconfig for the address, with the certificate authority and the admin token.
    pub fn write_kubeconfig(&self, address: &str, authority: &str, token: &str) -> Result<()> {
        let text = kubeconfig(address, authority, ("cumulo", token), "default")?;
        // Not written again: a platform must start on a full disk, to delete things there.
        if fs::read(self.kubeconfig()).is_ok_and(|old| old == text.as_bytes()) {
            return Ok(());
        }
        write_private(&self.kubeconfig(), text.as_bytes())
    }

    /// The certificate authority (PEM) that clients must trust; made by the first start.
    pub fn authority_path(&self) -> PathBuf {
        self.path("pki/authority.crt")
    }

    /// Writes where the platform runs.
    ///
    /// On a full disk the file of the last start is written over, which needs no room.
    pub fn write_running(&self, running: &Running) -> Result<()> {
        let path = self.path("platform.json");
        let text = serde_json::to_vec_pretty(running)?;
        write_private(&path, &text).or_else(|error| {
            let file = fs::OpenOptions::new().write(true).open(&path);
            let over = |mut file: fs::File| -> std::io::Result<()> {
                file.write_all(&text)?;
                file.set_len(text.len() as u64)
            };
            file.and_then(over).map_err(|_| error)
        })
    }
}

/// The text of a kubeconfig: where the platform is, whom to trust, user and token.
pub fn kubeconfig(
    address: &str,
    authority: &str,
    (user, token): (&str, &str),
    namespace: &str,
) -> Result<String> {
    use base64::Engine as _;
    let kubeconfig = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "cumulo",
        "clusters": [{"name": "cumulo", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority-data": base64::engine::general_purpose::STANDARD.encode(authority),
        }}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "cumulo", "context": {"cluster": "cumulo", "user": user, "namespace": namespace}}],
    });
    Ok(serde_saphyr::to_string(&kubeconfig)?)
}

/// Writes a file that only its owner reads, in one step.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("{}.new", std::process::id()));
    let write = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write()
        .inspect_err(|_| {
            let _ = fs::remove_file(&temporary);
        })
        .with_context(|| format!("cannot write {}", path.display()))
}

/// A new bearer token: 256 random bits.
pub fn random_token() -> String {
    let bytes: [u8; 32] = rand::rng().random();
    hex::encode(bytes)
}
