//! Starting one attempt of a container: environment, folder, supervisor.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use nix::sys::stat::Mode;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

use super::Shared;
use super::container_environment::{self, ConfigError, Downward};
use super::limits;
use super::volumes;
use crate::devices::{Held, reach, sharing};
use crate::process::CONTAINER_ID_VARIABLE;
use crate::record::{AttemptDir, Input, LaunchSpec, Report, write_json};
use crate::sandbox::{EGRESS_ANNOTATION, Egress, POLICY_VARIABLE, Place, Policy, Support};
use crate::variables;

/// A supervisor answers within this time, or the machine is in trouble.
const SUPERVISOR_PATIENCE: Duration = Duration::from_secs(30);

/// The default `terminationMessagePath`, which needs no link.
const DEFAULT_TERMINATION_PATH: &str = "/dev/termination-log";

/// Why an attempt did not get as far as a process.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The manifest asks for something that is not there (yet).
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The node's own part failed.
    #[error("{what}: {error}")]
    Node {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        error: io::Error,
    },
}

impl StartError {
    /// The waiting reason that the kubelet uses.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Config(ConfigError::Io { .. }) | Self::Node { .. } => "CreateContainerError",
            Self::Config(_) => "CreateContainerConfigError",
        }
    }
}

fn node(what: &'static str) -> impl FnOnce(io::Error) -> StartError {
    move |error| StartError::Node { what, error }
}

/// What an attempt is started with.
pub(super) struct Launch {
    pub spec: LaunchSpec,
    /// What the container's own code may reach, and whatever else is started
    /// in it; `None` without a sandbox.
    pub policy: Option<Policy>,
}

/// Identity and place of an attempt.
pub(super) struct Attempt<'a> {
    pub shared: &'a Shared,
    pub pod: &'a Pod,
    pub uid: &'a str,
    pub ip: Ipv4Addr,
    pub container: &'a Container,
    pub number: u32,
    /// What the pod has of the node's devices.
    pub devices: &'a [Held],
}

impl Attempt<'_> {
    pub fn downward(&self) -> Downward<'_> {
        Downward {
            pod: self.pod,
            pod_ip: self.ip,
            host_ip: self.shared.options.host_ip,
            node_name: &self.shared.options.node_name,
            node_capacity: self.shared.capacity,
        }
    }

    fn folder(&self) -> PathBuf {
        self.shared.container_folder(self.uid, &self.container.name)
    }

    pub fn attempt_dir(&self) -> AttemptDir {
        AttemptDir(self.folder().join("attempts").join(self.number.to_string()))
    }

    /// The value that marks all processes of the attempt.
    pub fn mark(&self) -> String {
        mark(self.uid, &self.container.name, self.number)
    }

    /// Works out everything that the supervisor needs.
    pub async fn prepare(&self, spec: &PodSpec) -> Result<Launch, StartError> {
        let options = &self.shared.options;
        let source = self.shared.source.as_ref();
        let downward = self.downward();
        let pod_folder = options.root.join("pods").join(self.uid);
        let work = self.folder().join("work");
        let volumes = volumes::provide(
            spec,
            &downward,
            source,
            &pod_folder.join("volumes"),
            &options.host_path_roots,
        )
        .await?;

        let mut base = options.base_environment.clone();
        let bin = options.root.join("bin");
        let path = match variables::lookup(&base, "PATH") {
            Some(path) => format!("{}:{path}", bin.display()),
            None => bin.display().to_string(),
        };
        variables::set(&mut base, "PATH", path);
        let temporary = pod_folder.join("tmp");
        for (name, value) in [
            ("HOME", work.display().to_string()),
            ("TMPDIR", temporary.display().to_string()),
            (
                "HOSTNAME",
                self.pod.metadata.name.clone().unwrap_or_default(),
            ),
            ("CUMULO_CACHE", options.cache.display().to_string()),
            (
                "POD_NAME",
                self.pod.metadata.name.clone().unwrap_or_default(),
            ),
            (
                "POD_NAMESPACE",
                self.pod.metadata.namespace.clone().unwrap_or_default(),
            ),
            ("POD_IP", self.ip.to_string()),
        ] {
            variables::set(&mut base, name, value);
        }
        let mut env =
            container_environment::resolve(self.container, &downward, source, base).await?;
        let mounted = volumes::mount(self.container, spec, &volumes, &work, &env)?;
        let attempt = self.attempt_dir();
        for (name, value) in mounted.variables.iter().cloned().chain([
            (
                "CUMULO_TERMINATION_LOG".to_owned(),
                attempt.termination().display().to_string(),
            ),
            (CONTAINER_ID_VARIABLE.to_owned(), self.mark()),
        ]) {
            variables::set(&mut env, &name, value);
        }
        // In every container, whatever its manifest says: one that was given no device
        // shall not find any.
        let confined = !options.sandbox.disabled && Support::of_the_kernel().files();
        let reach = self.shared.devices.reach(self.devices, confined).await;
        env.retain(|(name, _)| !reach::VARIABLES.contains(&name.as_str()));
        for (name, value) in reach.environment {
            variables::set(&mut env, name, value);
        }
        // Nobody joins another's daemon or widens a limit by a line in a manifest.
        env.retain(|(name, _)| !sharing::limits::VARIABLES.contains(&name.as_str()));
        let joined = self
            .shared
            .keeper
            .join(&self.shared.devices, self.devices)
            .await;
        for (name, value) in joined.environment {
            variables::set(&mut env, &name, value);
        }

        fs::create_dir_all(&temporary).map_err(node("cannot make the pod's temporary folder"))?;
        if let Some(path) = self
            .container
            .termination_message_path
            .as_deref()
            .filter(|path| *path != DEFAULT_TERMINATION_PATH)
        {
            let relative = volumes::safe_relative(path)?;
            volumes::link_inside(
                &work,
                &relative,
                &attempt.termination(),
                std::slice::from_ref(&work),
            )?;
        }
        let expand = |text: &String| variables::expand(text, |name| variables::lookup(&env, name));
        let mut command: Vec<String> = match &self.container.command {
            Some(command) if !command.is_empty() => command.iter().map(expand).collect(),
            // The runtime image's entry point.
            _ => vec!["cumulo".to_owned()],
        };
        command.extend(self.container.args.iter().flatten().map(expand));
        let place = Place {
            work,
            temporary,
            termination: attempt.termination(),
            volumes: mounted.targets,
            devices: reach.files,
            sockets: joined.folders.into_iter().chain(reach.listed).collect(),
            ..self.place(&env)?
        };
        let (policy, sandbox) = self.policies(&place, &command, &mut env);
        if let Some(program) = command.first_mut()
            && program == "cumulo"
        {
            *program = options.executable.display().to_string();
        }
        Ok(Launch {
            spec: LaunchSpec {
                command,
                env,
                work_dir: mounted.start,
                open_files: options.open_files,
                log_max_bytes: options.log_max_bytes,
                sandbox,
                input: input(self.container),
            },
            policy,
        })
    }

    /// What is known of the container whatever its folders are.
    fn place(&self, env: &[(String, String)]) -> Result<Place, ConfigError> {
        let options = &self.shared.options;
        let annotation = self
            .pod
            .metadata
            .annotations
            .as_ref()
            .and_then(|annotations| annotations.get(EGRESS_ANNOTATION));
        let mut egress = Egress::parse(annotation.map(String::as_str))?;
        for variable in ["MLFLOW_TRACKING_URI", "CUMULO_ARTIFACTS"] {
            if let Some(url) = variables::lookup(env, variable) {
                egress.also(url);
            }
        }
        // A bucket is reached at its service's address: Amazon's unless another is said.
        if variables::lookup(env, "CUMULO_ARTIFACTS").is_some_and(|url| url.starts_with("s3:")) {
            let endpoint = ["CUMULO_AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL"]
                .iter()
                .find_map(|name| variables::lookup(env, name));
            egress.also(endpoint.unwrap_or("https://s3.amazonaws.com"));
        }
        Ok(Place {
            software: options.sandbox.software.clone(),
            executable: options.executable.clone(),
            withheld: options.sandbox.withheld.clone(),
            egress,
            limits: limits::kernel_limits(self.container, options.open_files, self.uid),
            ..Place::default()
        })
    }

    /// The policy of the container's own code, and the one that it starts
    /// under, which is wider for Cumulo's own commands: these find the former
    /// in their environment.
    fn policies(
        &self,
        place: &Place,
        command: &[String],
        env: &mut Vec<(String, String)>,
    ) -> (Option<Policy>, Option<Policy>) {
        let options = &self.shared.options;
        if place.egress.needs_names() && variables::lookup(env, "RES_OPTIONS").is_none() {
            // Names are looked up over TCP, as nothing else leaves the pod.
            variables::set(env, "RES_OPTIONS", "use-vc".to_owned());
        }
        if options.sandbox.disabled {
            return (None, None);
        }
        let own = place.policy();
        let Some(role) = options.sandbox.roles.iter().find(|role| role.is(command)) else {
            return (Some(own.clone()), Some(own));
        };
        // The loader must not bring other code into a role.
        env.retain(|(name, _)| !name.starts_with("LD_"));
        for (name, value) in &options.base_environment {
            if name.starts_with("LD_") {
                variables::set(env, name, value.clone());
            }
        }
        variables::set(env, POLICY_VARIABLE, own.to_text());
        (Some(own), Some(place.role_policy(role)))
    }

    /// Starts the supervisor and waits for its answer.
    pub async fn launch(&self, launch: &Launch) -> Result<Report, StartError> {
        let spec = &launch.spec;
        let attempt = self.attempt_dir();
        fs::create_dir_all(&attempt.0).map_err(node("cannot make the container's folder"))?;
        // It must be there to be opened to the container.
        fs::File::create(attempt.termination())
            .map_err(node("cannot make the container's folder"))?;
        if let Some(policy) = &launch.policy {
            write_json(&attempt.policy(), policy)
                .map_err(node("cannot make the container's folder"))?;
        }
        let stdin = (spec.input != Input::None).then(|| attempt.stdin());
        for fifo in [attempt.alive()].into_iter().chain(stdin) {
            match nix::unistd::mkfifo(&fifo, Mode::S_IRUSR | Mode::S_IWUSR) {
                Ok(()) | Err(nix::errno::Errno::EEXIST) => {}
                Err(error) => return Err(node("cannot make a FIFO")(io::Error::from(error))),
            }
        }
        self.remove_old_attempts();
        let supervisor = &self.shared.options.supervisor;
        let (program, arguments) = supervisor.split_first().ok_or_else(|| {
            node("cannot start the container supervisor")(io::Error::other("no command is set"))
        })?;
        let mut command = tokio::process::Command::new(program);
        command
            .args(arguments)
            .arg(&attempt.0)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        // The loader may need it to find the platform's own libraries.
        if let Some(path) = std::env::var_os("LD_LIBRARY_PATH") {
            command.env("LD_LIBRARY_PATH", path);
        }
        let mut child = command
            .spawn()
            .map_err(node("cannot start the container supervisor"))?;
        let talk = async {
            let text = serde_json::to_vec(spec).map_err(io::Error::other)?;
            if let Some(mut stdin) = child.stdin.take() {
                stdin.write_all(&text).await?;
            }
            let mut line = String::new();
            if let Some(stdout) = child.stdout.take() {
                BufReader::new(stdout).read_line(&mut line).await?;
            }
            serde_json::from_str(&line)
                .map_err(|_| io::Error::other("the container supervisor ended without an answer"))
        };
        let answer = tokio::time::timeout(SUPERVISOR_PATIENCE, talk)
            .await
            .unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)));
        if answer.is_err() {
            let _ = child.start_kill();
        }
        // Reaped when it ends; it is not killed when the engine goes.
        self.shared.tracker.spawn({
            let shutdown = self.shared.shutdown.clone();
            async move {
                tokio::select! {
                    _ = child.wait() => {}
                    () = shutdown.cancelled() => {}
                }
            }
        });
        answer.map_err(node("cannot start the container supervisor"))
    }

    /// The logs of the present and the previous attempt are kept.
    fn remove_old_attempts(&self) {
        let Ok(entries) = fs::read_dir(self.folder().join("attempts")) else {
            return;
        };
        for entry in entries.flatten() {
            let number = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok());
            if number.is_some_and(|number| number.saturating_add(1) < self.number) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

/// What a container reads as its standard input.
fn input(container: &Container) -> Input {
    match (container.stdin, container.stdin_once) {
        (Some(true), Some(true)) => Input::Once,
        (Some(true), _) => Input::Kept,
        _ => Input::None,
    }
}

/// The value that marks all processes of an attempt.
pub(super) fn mark(uid: &str, container: &str, attempt: u32) -> String {
    format!("{uid}/{container}/{attempt}")
}
