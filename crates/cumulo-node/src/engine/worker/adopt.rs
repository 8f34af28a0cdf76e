//! Taking over what an earlier engine started.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{Worker, falls_back};
use crate::engine::start::mark;
use crate::engine::tasks;
use crate::process;
use crate::record::{AttemptDir, Exit, Started, lock_is_held, read_json, write_json};
use crate::sandbox::Policy;

/// How long an adopting engine waits for a supervisor that was just starting.
const ADOPTION_PATIENCE: Duration = Duration::from_secs(10);

impl Worker {
    /// Finds out what became of a container that an earlier engine started.
    pub(super) async fn adopt(&mut self, index: usize) {
        let run = &self.runs[index];
        let (Some(number), None) = (run.record.attempt, &run.record.ended) else {
            return;
        };
        let attempt = self.attempt_dir(index, number);
        let deadline = Instant::now() + ADOPTION_PATIENCE;
        let started = loop {
            match read_json::<Started>(&attempt.started()) {
                Ok(Some(started)) => break Some(started),
                _ if attempt.exit().exists() || Instant::now() >= deadline => break None,
                _ => {}
            }
            // Taking the lock decides that a supervisor which has not started
            // yet never will.
            if give_up(&attempt) {
                break None;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let running = lock_is_held(&attempt.lock());
        match started {
            Some(started) if running => {
                tracing::info!(pod = %self.name, container = %self.runs[index].declared.name, pid = started.pid, "adopted running container");
                let env = environment_of(&started).await;
                let policy = policy_of(&attempt, &started);
                self.went_live(index, number, started, env, policy, true);
            }
            Some(started) => {
                let mark = mark(&self.uid, &self.runs[index].declared.name, number);
                let fall_back = falls_back(&self.runs[index].declared);
                let begun = started.started_at;
                let read = tokio::task::spawn_blocking(move || {
                    tasks::read_exit(&attempt, Some(&started), &mark, fall_back)
                });
                if let Ok((exit, message)) = read.await {
                    self.ended(index, Some(begun), exit, message);
                }
            }
            None => {
                let exit = read_json::<Exit>(&attempt.exit()).ok().flatten();
                match exit {
                    Some(exit) if exit.start_error.is_some() => {
                        let message = exit.start_error.clone();
                        self.ended(index, None, exit, message);
                    }
                    // Never started: the next attempt gets the next number.
                    _ => {
                        let record = &mut self.runs[index].record;
                        record.ended = record.last.take();
                        if record.ended.is_none() {
                            record.restarts = 0;
                        } else {
                            record.restarts = record.restarts.saturating_sub(1);
                        }
                    }
                }
            }
        }
    }
}

/// Decides that an attempt without a process never gets one: true when the
/// decision was made, here or before.
pub(super) fn give_up(attempt: &AttemptDir) -> bool {
    let Ok(lock) = std::fs::File::create(attempt.lock()) else {
        return true;
    };
    if lock.try_lock().is_err() {
        return false;
    }
    if attempt.exit().exists() || attempt.started().exists() {
        return true;
    }
    let exit = Exit {
        exit_code: 137,
        signal: None,
        finished_at: Timestamp::now(),
        start_error: None,
        unknown: true,
    };
    write_json(&attempt.exit(), &exit).is_ok()
}

/// What else runs in a container that has a sandbox gets the same. Without the
/// file nothing is known of it, and nothing is allowed.
fn policy_of(attempt: &AttemptDir, started: &Started) -> Option<Arc<Policy>> {
    started.sandbox.as_ref()?;
    let policy = read_json::<Policy>(&attempt.policy()).ok().flatten();
    Some(Arc::new(policy.unwrap_or_default()))
}

/// The environment that a container was started with. A process that is just
/// executing another program shows none for a moment.
async fn environment_of(started: &Started) -> Vec<(String, String)> {
    for _ in 0..10 {
        if let Some(env) = process::environment(started.pid)
            && !env.is_empty()
        {
            return env;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Vec::new()
}
