//! What goes in and out of containers: logs, exec, attach, and where their
//! ports are.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::attach::{self, Attached};
use super::exec::{self, ExecSession};
use super::logs::{self, LogOptions};
use super::{ContainerSnapshot, Engine, EngineError, Snapshot};
use crate::process;
use crate::record::AttemptDir;

/// The run of a container that is attached to.
struct Attachment {
    container: String,
    attempt: u32,
    folder: AttemptDir,
    snapshot: watch::Receiver<Option<Snapshot>>,
}

impl Engine {
    /// Reads a container's log. With an empty container name the pod's only
    /// (or first) container is meant.
    pub fn logs(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        options: LogOptions,
    ) -> Result<ReceiverStream<io::Result<Bytes>>, EngineError> {
        let (uid, view, snapshot) = self.container(namespace, pod, container)?;
        let Some(attempt) = view.attempt else {
            return Err(EngineError::NotStarted {
                pod: pod.to_owned(),
                container: view.name,
                reason: view.waiting,
            });
        };
        // While a container waits to be started again, the present attempt is
        // the one that ended: Kubernetes calls it the previous one then.
        let waits = view.running.is_none() && !view.waiting.is_empty();
        let number = if options.previous && !waits {
            attempt.checked_sub(1)
        } else {
            Some(attempt)
        };
        let container_folder = self.shared.container_folder(&uid, &view.name);
        let folder = number
            .map(|number| AttemptDir(container_folder.join("attempts").join(number.to_string())))
            .filter(|folder| !options.previous || folder.0.exists())
            .ok_or_else(|| EngineError::NoPrevious {
                pod: pod.to_owned(),
                container: view.name.clone(),
            })?;
        let permit = Arc::clone(&self.shared.readers)
            .try_acquire_owned()
            .map_err(|_| EngineError::TooManyReaders)?;
        let (sender, receiver) = mpsc::channel(16);
        let previous = options.previous;
        let over = self.is_over(view.name, attempt, snapshot);
        self.shared.tracker.spawn_blocking(move || {
            let _permit = permit;
            let over = || previous || sender.is_closed() || over();
            logs::read(&folder, &options, &sender, over);
        });
        Ok(ReceiverStream::new(receiver))
    }

    /// Says whether an attempt will write nothing more, or nobody asks any more.
    fn is_over(
        &self,
        container: String,
        attempt: u32,
        snapshot: watch::Receiver<Option<Snapshot>>,
    ) -> impl Fn() -> bool + Send + use<> {
        let shutdown = self.shared.shutdown.clone();
        move || {
            let current = snapshot.borrow();
            let now = current
                .as_ref()
                .and_then(|now| now.containers.iter().find(|other| other.name == container));
            shutdown.is_cancelled()
                || now.is_none_or(|now| now.attempt != Some(attempt) || now.running.is_none())
        }
    }

    /// Whether a container can be attached to, with its standard input if asked.
    pub fn attachable(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        stdin: bool,
    ) -> Result<(), EngineError> {
        self.attachment(namespace, pod, container, stdin).map(drop)
    }

    /// Attaches to a running container.
    pub async fn attach(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        stdin: bool,
    ) -> Result<Attached, EngineError> {
        let place = self.attachment(namespace, pod, container, stdin)?;
        // Before the process can be told anything, so that no answer is missed.
        let begin = attach::end_of(&place.folder);
        let stdin = match stdin {
            false => None,
            true => match attach::open_stdin(&place.folder).await {
                Ok(sender) => Some(sender),
                Err(error) => {
                    return Err(EngineError::StdinClosed {
                        pod: pod.to_owned(),
                        container: place.container,
                        error,
                    });
                }
            },
        };
        let permit = Arc::clone(&self.shared.readers)
            .try_acquire_owned()
            .map_err(|_| EngineError::TooManyReaders)?;
        let (sender, output) = mpsc::channel(16);
        let over = self.is_over(place.container, place.attempt, place.snapshot);
        let folder = place.folder;
        self.shared.tracker.spawn_blocking(move || {
            let _permit = permit;
            attach::follow(&folder, begin, &sender, || sender.is_closed() || over());
        });
        Ok(Attached { stdin, output })
    }

    fn attachment(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        stdin: bool,
    ) -> Result<Attachment, EngineError> {
        let (uid, view, snapshot) = self.container(namespace, pod, container)?;
        let running = view.running.as_ref().is_some_and(process::is_running);
        let Some(attempt) = view.attempt.filter(|_| running) else {
            return Err(EngineError::NotRunning {
                pod: pod.to_owned(),
                container: view.name,
            });
        };
        let folder = AttemptDir(
            self.shared
                .container_folder(&uid, &view.name)
                .join("attempts")
                .join(attempt.to_string()),
        );
        if stdin && !folder.stdin().exists() {
            return Err(EngineError::NoStdin {
                pod: pod.to_owned(),
                container: view.name,
            });
        }
        Ok(Attachment {
            container: view.name,
            attempt,
            folder,
            snapshot,
        })
    }

    /// The address that a running pod has for itself.
    pub fn address(&self, namespace: &str, pod: &str) -> Result<IpAddr, EngineError> {
        let (_, _, snapshot) = self.container(namespace, pod, "")?;
        let snapshot = snapshot.borrow();
        snapshot
            .as_ref()
            .filter(|now| !now.finished)
            .and_then(|now| now.status.pod_ip.as_ref()?.parse().ok())
            .ok_or_else(|| EngineError::PodNotRunning {
                pod: pod.to_owned(),
            })
    }

    /// Runs a command in a running container, with its environment and in
    /// its folder.
    pub fn exec(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        command: &[String],
        stdin: bool,
        tty: bool,
    ) -> Result<ExecSession, EngineError> {
        let (_, view, _) = self.container(namespace, pod, container)?;
        let target = view
            .exec
            .filter(|_| view.running.as_ref().is_some_and(process::is_running))
            .ok_or_else(|| EngineError::NotRunning {
                pod: pod.to_owned(),
                container: view.name,
            })?;
        Ok(exec::start(&target, command, stdin, tty)?)
    }

    fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<(String, ContainerSnapshot, watch::Receiver<Option<Snapshot>>), EngineError> {
        let pods = self.shared.pods.lock();
        // A pod may have gone and come back under its name; the newer has
        // not finished or sorts last.
        let entry = pods
            .iter()
            .filter(|(_, entry)| entry.namespace == namespace && entry.name == pod)
            .max_by_key(|(_, entry)| {
                let desired = entry.desired.borrow();
                desired
                    .pod
                    .metadata
                    .creation_timestamp
                    .as_ref()
                    .map(|time| time.0)
            });
        let Some((uid, entry)) = entry else {
            return Err(EngineError::NoPod {
                namespace: namespace.to_owned(),
                name: pod.to_owned(),
            });
        };
        let snapshot = entry.snapshot.borrow();
        let containers = snapshot
            .as_ref()
            .map(|snapshot| snapshot.containers.as_slice())
            .unwrap_or_default();
        let desired = entry.desired.borrow();
        let default = desired
            .pod
            .spec
            .as_ref()
            .and_then(|spec| spec.containers.first())
            .map_or("", |container| container.name.as_str());
        let wanted = if container.is_empty() {
            default
        } else {
            container
        };
        match containers.iter().find(|view| view.name == wanted) {
            Some(view) => Ok((uid.clone(), view.clone(), entry.snapshot.clone())),
            None => Err(EngineError::NoContainer {
                pod: pod.to_owned(),
                container: wanted.to_owned(),
                known: containers
                    .iter()
                    .map(|view| view.name.as_str())
                    .collect::<Vec<_>>()
                    .join(", "),
            }),
        }
    }
}
