//! Starting a container's next attempt.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::Worker;
use super::adopt::give_up;
use super::devices::{UNAVAILABLE, WAITING};
use crate::devices::Refusal;
use crate::engine::start::Attempt;
use crate::record::{Exit, Report};

/// Waits between attempts to get what a container needs: doubled up to the last.
const CONFIG_RETRY: (SignedDuration, SignedDuration) = (
    SignedDuration::from_millis(500),
    SignedDuration::from_secs(10),
);
impl Worker {
    /// Starts a container's next attempt.
    pub(super) async fn start(&mut self, index: usize) {
        let pod = Arc::clone(&self.desired.borrow().pod);
        let Some(ip) = self.record.ip else { return };
        let declared = self.runs[index].declared.clone();
        let number = self.runs[index]
            .record
            .attempt
            .map_or(0, |attempt| attempt.saturating_add(1));
        let shared = Arc::clone(&self.shared);
        let uid = self.uid.clone();
        let devices = match self.devices(&pod).await {
            Ok(devices) => devices,
            Err(Refusal::Busy(message)) => return self.in_trouble(index, WAITING, message),
            Err(Refusal::Never(message)) => return self.fail(UNAVAILABLE, message).await,
        };
        let attempt = Attempt {
            shared: &shared,
            pod: &pod,
            uid: &uid,
            ip,
            container: &declared,
            number,
            devices: &devices,
        };
        let launch = match attempt.prepare(&self.spec).await {
            Ok(launch) => launch,
            Err(error) => return self.in_trouble(index, error.reason(), error.to_string()),
        };
        // Written before the start, so that nothing runs unknown.
        {
            let record = &mut self.runs[index].record;
            if let Some(ended) = record.ended.take() {
                record.last = Some(ended);
                record.restarts = record.restarts.saturating_add(1);
            }
            record.attempt = Some(number);
            record.kill = None;
        }
        if let Err(error) = self.try_save().await {
            let record = &mut self.runs[index].record;
            if let Some(last) = record.last.take() {
                record.ended = Some(last);
                record.restarts = record.restarts.saturating_sub(1);
            }
            record.attempt = number.checked_sub(1);
            let message = format!("cannot write the pod's state: {error}");
            return self.in_trouble(index, "CreateContainerError", message);
        }
        match attempt.launch(&launch).await {
            Ok(Report::Started(started)) => {
                self.runs[index].trouble = None;
                self.runs[index].tries = 0;
                self.runs[index].not_before = None;
                let message = format!(
                    "started container {} (process {})",
                    declared.name, started.pid
                );
                self.notice(Some(&declared.name), false, "Started", message);
                let policy = launch.policy.map(Arc::new);
                self.went_live(index, number, started, launch.spec.env, policy, false);
            }
            Ok(Report::Failed(message)) => {
                let exit = Exit {
                    exit_code: crate::shim::START_ERROR_CODE,
                    signal: None,
                    finished_at: Timestamp::now(),
                    start_error: Some(message.clone()),
                    unknown: false,
                };
                self.notice(Some(&declared.name), true, "Failed", message.clone());
                self.ended(index, None, exit, Some(message));
                self.save().await;
            }
            Err(error) => {
                let folder = attempt.attempt_dir();
                give_up(&folder);
                let message = error.to_string();
                let exit = Exit {
                    exit_code: crate::shim::START_ERROR_CODE,
                    signal: None,
                    finished_at: Timestamp::now(),
                    start_error: Some(message.clone()),
                    unknown: false,
                };
                self.ended(index, None, exit, Some(message));
                self.save().await;
            }
        }
    }

    /// What a container needs is not there: waits and tries again.
    fn in_trouble(&mut self, index: usize, reason: &'static str, message: String) {
        let run = &mut self.runs[index];
        let factor = 1i32.checked_shl(run.tries).filter(|factor| *factor > 0);
        let wait = factor
            .and_then(|factor| CONFIG_RETRY.0.checked_mul(factor))
            .map_or(CONFIG_RETRY.1, |wait| wait.min(CONFIG_RETRY.1));
        run.tries = run.tries.saturating_add(1).min(30);
        run.not_before = Timestamp::now().saturating_add(wait).ok();
        let told = run
            .trouble
            .as_ref()
            .is_some_and(|(_, before)| *before == message);
        run.trouble = Some((reason, message.clone()));
        if !told {
            let name = run.declared.name.clone();
            self.notice(Some(&name), true, "Failed", message);
        }
    }
}
