//! Reporting a pod's state.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::Worker;
use crate::engine::lifecycle::{self, Due, RestartPolicy, Role};
use crate::engine::start::mark;
use crate::engine::status::{self, Observed, ObservedPod, Present};
use crate::engine::{ContainerSnapshot, Desired, Snapshot};
use crate::sandbox;

impl Worker {
    pub(super) fn publish(&mut self, wanted: &Desired, ending: bool) {
        let mut pod = Pod::clone(&wanted.pod);
        // Earlier transition times are those that were published last, which
        // may not have come back from the API yet.
        let there = pod
            .status
            .get_or_insert_default()
            .conditions
            .get_or_insert_default();
        status::restore(there, &self.published);
        let deleting = ending || self.record.failure.is_some();
        let observed: Vec<Observed> = (0..self.runs.len())
            .map(|index| self.observed(index, deleting))
            .collect();
        let status = status::pod_status(
            &ObservedPod {
                pod: &pod,
                containers: &observed,
                started_at: self.record.started_at,
                ip: self.record.ip.map(|ip| ip.to_string()),
                host_ip: self.shared.options.host_ip.to_string(),
                failure: self.record.failure.as_ref(),
                deleting: ending,
                finished: self.record.finished,
                sandbox: sandbox::Status::of_pod(
                    self.runs
                        .iter()
                        .filter_map(|run| run.live.as_ref())
                        .map(|live| live.started.sandbox.as_ref()),
                ),
                devices: (!self.record.finished).then_some(&wanted.devices),
            },
            Timestamp::now(),
        );
        self.keep_published(status.conditions.clone().unwrap_or_default());
        let containers = self
            .runs
            .iter()
            .zip(&observed)
            .map(|(run, observed)| ContainerSnapshot {
                name: run.declared.name.clone(),
                attempt: run.record.attempt,
                running: run.live.as_ref().map(|live| live.started.clone()),
                exec: run.live.as_ref().map(|live| live.target.exec.clone()),
                waiting: match &observed.present {
                    Present::Waiting { reason, .. } => reason.clone(),
                    _ => String::new(),
                },
            })
            .collect();
        let snapshot = Snapshot {
            status,
            deleted: wanted.pod.metadata.deletion_timestamp.is_some()
                && self.record.finished
                && !self.any_live(),
            finished: self.record.finished,
            containers,
        };
        self.snapshot.send_if_modified(|current| {
            let changed = current.as_ref() != Some(&snapshot);
            *current = Some(snapshot);
            changed
        });
    }

    fn observed(&self, index: usize, ending: bool) -> Observed {
        let run = &self.runs[index];
        let policy = RestartPolicy::of(&self.spec);
        let waiting = |reason: &str, message: Option<String>| Present::Waiting {
            reason: reason.to_owned(),
            message,
        };
        let will_start = !ending && !self.record.finished;
        let (present, last) = match (&run.live, &run.record.ended) {
            (Some(live), _) => (
                Present::Running {
                    started_at: live.started.started_at,
                },
                run.record.last.clone(),
            ),
            (None, Some(ended)) => {
                let back_off = self.back_off();
                match lifecycle::due_at(run.role, &run.state(), policy, &back_off) {
                    Due::Never => (Present::Terminated(ended.clone()), run.record.last.clone()),
                    _ if !will_start => {
                        (Present::Terminated(ended.clone()), run.record.last.clone())
                    }
                    _ => {
                        let wait = back_off.delay(run.record.ends);
                        let present = match &run.trouble {
                            Some((reason, message)) => waiting(reason, Some(message.clone())),
                            None => waiting(
                                "CrashLoopBackOff",
                                Some(format!(
                                    "back-off {} s restarting failed container={} pod={}_{}",
                                    wait.as_secs(),
                                    run.declared.name,
                                    self.name,
                                    self.namespace
                                )),
                            ),
                        };
                        (present, Some(ended.clone()))
                    }
                }
            }
            (None, None) => {
                let initializing = run.role == Role::Regular
                    && self.runs.iter().any(|other| match other.role {
                        Role::Init => other
                            .record
                            .ended
                            .as_ref()
                            .is_none_or(|ended| ended.exit_code != 0),
                        Role::Sidecar => !other.live.as_ref().is_some_and(|live| live.started_ok),
                        Role::Regular => false,
                    });
                let present = match (&run.trouble, &self.trouble) {
                    (Some((reason, message)), _) => waiting(reason, Some(message.clone())),
                    (None, Some(message)) => waiting("CreateContainerError", Some(message.clone())),
                    (None, None) => match &self.record.failure {
                        Some(failure) if self.record.finished => {
                            waiting(&failure.reason, Some(failure.message.clone()))
                        }
                        _ if initializing => waiting("PodInitializing", None),
                        _ => waiting("ContainerCreating", None),
                    },
                };
                (present, run.record.last.clone())
            }
        };
        Observed {
            role: run.role,
            present,
            last,
            restarts: run.record.restarts,
            started: run.live.as_ref().is_some_and(|live| live.started_ok),
            ready: run.live.as_ref().is_some_and(|live| live.ready),
            id: run.record.attempt.map(|attempt| {
                format!("process://{}", mark(&self.uid, &run.declared.name, attempt))
            }),
        }
    }
}
