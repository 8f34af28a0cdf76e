//! What is told of a container, and what follows from it.

use jiff::{SignedDuration, Timestamp};
use nix::sys::signal::Signal;

use super::{Worker, memory_limit};
use crate::engine::lifecycle::Failure;
use crate::engine::status::Terminated;
use crate::engine::tasks::{Event, What};
use crate::engine::usage::Excess;
use crate::engine::{Notice, limits};
use crate::record::Exit;
use crate::{process, quantity};

impl Worker {
    pub(super) async fn handle(&mut self, event: Event) {
        let index = event.container;
        if self.runs[index].record.attempt != Some(event.attempt) {
            return;
        }
        let name = self.runs[index].declared.name.clone();
        match event.what {
            What::Exited(exit, message) => {
                let begun = self.runs[index]
                    .live
                    .as_ref()
                    .map(|live| live.started.started_at);
                self.ended(index, begun, exit, message);
                self.save().await;
            }
            What::Started => {
                let no_readiness = self.runs[index].declared.readiness_probe.is_none();
                if let Some(live) = &mut self.runs[index].live {
                    live.started_ok = true;
                    live.ready = live.ready || no_readiness;
                }
            }
            What::Ready(ready, message) => {
                if let Some(live) = &mut self.runs[index].live {
                    live.ready = ready;
                }
                if let Some(message) = message {
                    let message = format!("readiness probe failed: {message}");
                    self.notice(Some(&name), true, "Unhealthy", message);
                }
            }
            What::Unhealthy {
                reason,
                message,
                grace,
            } => {
                self.notice(
                    Some(&name),
                    true,
                    "Unhealthy",
                    format!("{reason}: {message}"),
                );
                let wanted = self.desired.borrow().clone();
                let grace = grace.unwrap_or_else(|| self.grace(&wanted));
                let stopping = self.runs[index]
                    .live
                    .as_ref()
                    .is_some_and(|live| live.stop_deadline.is_some());
                if !stopping {
                    self.stop(index, grace);
                }
            }
            What::Excess(excess) => {
                let (reason, message) = self.told_excess(index, &name, &excess);
                self.runs[index].record.kill = Some(Failure {
                    reason: reason.to_owned(),
                    message: message.clone(),
                });
                self.save().await;
                if let Some(live) = &self.runs[index].live {
                    // Forking goes on while one is killed after the other.
                    if matches!(excess, Excess::Tasks(_)) {
                        let supervisor = live.started.supervisor;
                        let kill = move || process::kill_descendants(supervisor);
                        let _ = tokio::task::spawn_blocking(kill).await;
                    } else {
                        process::signal_group(&live.started, Signal::SIGKILL);
                    }
                }
                self.notice(Some(&name), true, reason, message);
            }
            What::OverDisk(message) => {
                // As the kubelet does: the pod ends, and its folder with it.
                let reason = "Evicted";
                self.record.failure = Some(Failure {
                    reason: reason.to_owned(),
                    message: message.clone(),
                });
                self.save().await;
                if let Some(live) = &self.runs[index].live {
                    process::signal_group(&live.started, Signal::SIGKILL);
                }
                self.notice(Some(&name), true, reason, message);
            }
        }
    }

    /// What was too much, and what to do about it.
    fn told_excess(&self, index: usize, name: &str, excess: &Excess) -> (&'static str, String) {
        match excess {
            Excess::Memory(used) => {
                let limit = memory_limit(&self.runs[index].declared).unwrap_or(0);
                let message = format!(
                    "container {name} used {} of memory, its limit is {}; raise resources.limits.memory or use less",
                    quantity::show_bytes(*used),
                    quantity::show_bytes(limit)
                );
                ("OOMKilled", message)
            }
            Excess::Tasks(count) => {
                let limit = self.shared.options.max_tasks.unwrap_or(0);
                let message = format!(
                    "container {name} ran {count} processes and threads at a time, this node allows {limit}; start fewer workers"
                );
                ("ProcessLimitExceeded", message)
            }
        }
    }

    /// Notes how a container's attempt ended.
    pub(super) fn ended(
        &mut self,
        index: usize,
        begun: Option<Timestamp>,
        exit: Exit,
        message: Option<String>,
    ) {
        let back_off = self.back_off();
        let run = &mut self.runs[index];
        if let Some(live) = run.live.take() {
            live.gone.cancel();
        }
        let killed = run.record.kill.take();
        let reason = match &killed {
            Some(kill) => kill.reason.clone(),
            None if exit.start_error.is_some() => "StartError".to_owned(),
            None if exit.signal == Some(Signal::SIGXFSZ as i32) => "FileTooLarge".to_owned(),
            None if exit.unknown => "ContainerStatusUnknown".to_owned(),
            None if exit.exit_code == 0 => "Completed".to_owned(),
            None => "Error".to_owned(),
        };
        let lasted = begun.map_or(SignedDuration::ZERO, |begun| {
            exit.finished_at.duration_since(begun)
        });
        run.record.ends = back_off.ends(run.record.ends, lasted);
        run.record.ended = Some(Terminated {
            exit_code: exit.exit_code,
            signal: exit.signal,
            reason,
            message: killed
                .map(|kill| kill.message)
                .or(message)
                .or_else(|| limits::told_by_signal(&run.declared, exit.signal)),
            started_at: begun,
            finished_at: exit.finished_at,
        });
    }

    pub(super) fn notice(
        &self,
        container: Option<&str>,
        warning: bool,
        reason: &'static str,
        message: String,
    ) {
        tracing::debug!(pod = %self.name, namespace = %self.namespace, container, reason, message, "pod notice");
        // Nobody may be listening.
        let _ = self.shared.notices.send(Notice {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            container: container.map(str::to_owned),
            warning,
            reason,
            message,
        });
    }
}
