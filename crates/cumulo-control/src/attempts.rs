//! One request, carried out by a pod that runs to its end, tried again with
//! back-off when it fails: shared by dataset builds, jobs and evaluations.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt;

use crate::options::Retry;
use crate::outcome::{Failure, PodOutcome, outcome};
use crate::pods::{REQUEST, attempt, deleting, ended_at, finished, label, rank};

/// How long after its grace period a pod that is being deleted counts as lost.
const LOST: Duration = Duration::from_secs(15);

/// Where a request stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Progress {
    /// Make the pod of this attempt.
    Start(u32),
    /// The pod has not begun; the sentence says what it waits for.
    Waiting {
        attempt: u32,
        pod: String,
        message: Option<String>,
        /// Look again after this long though nothing was told.
        again: Option<Duration>,
    },
    /// The pod runs.
    Running { attempt: u32, pod: String },
    /// Failed, and will be tried again after the wait.
    BackOff {
        attempt: u32,
        pod: String,
        failure: Failure,
        wait: Duration,
    },
    /// It ended well and left this message.
    Succeeded {
        attempt: u32,
        pod: String,
        message: String,
    },
    /// It failed for good.
    Failed {
        attempt: u32,
        pod: String,
        failure: Failure,
    },
}

/// Looks at the pods of a request: those of other requests are not its own.
pub(crate) fn progress(
    request: &str,
    pods: &[Arc<Pod>],
    retry: &Retry,
    now: Timestamp,
) -> Progress {
    let Some(pod) = newest(request, pods).into_iter().next() else {
        return Progress::Start(1);
    };
    let attempt = attempt(pod);
    let name = pod.name_any();
    match outcome(pod) {
        PodOutcome::Succeeded(message) => Progress::Succeeded {
            attempt,
            pod: name,
            message,
        },
        PodOutcome::Failed(failure) => after_failure(pod, failure, retry, now),
        // Its node should have ended it by now and is lost, most likely: the
        // object stays until the node comes back or is deleted.
        PodOutcome::Running | PodOutcome::Waiting(_) if lost(pod, now) => {
            Progress::Start(attempt.saturating_add(1))
        }
        // Deleted by hand before its end: that attempt is lost, not failed.
        PodOutcome::Running | PodOutcome::Waiting(_) if deleting(pod) => Progress::Waiting {
            attempt,
            pod: name,
            message: Some("the pod is being deleted and will be made again".to_owned()),
            again: until_lost(pod, now),
        },
        PodOutcome::Running => Progress::Running { attempt, pod: name },
        PodOutcome::Waiting(message) => Progress::Waiting {
            attempt,
            pod: name,
            message,
            again: None,
        },
    }
}

/// As [`progress`], for a request that `size` pods carry out together: they end
/// well together, and the first that fails ends the attempt of all.
pub(crate) fn progress_together(
    request: &str,
    pods: &[Arc<Pod>],
    size: usize,
    retry: &Retry,
    now: Timestamp,
) -> Progress {
    if size <= 1 {
        return progress(request, pods, retry, now);
    }
    let members = newest(request, pods);
    let Some(first) = members.first() else {
        return Progress::Start(1);
    };
    let attempt = attempt(first);
    let outcomes: Vec<(&Pod, PodOutcome)> = members
        .iter()
        .map(|pod| (pod.as_ref(), outcome(pod)))
        .collect();
    let failed = outcomes.iter().filter_map(|(pod, outcome)| match outcome {
        PodOutcome::Failed(failure) => Some((*pod, failure)),
        _ => None,
    });
    if let Some((pod, failure)) = failed.min_by_key(|(pod, _)| ended_at(pod)) {
        return after_failure(pod, failure.clone(), retry, now);
    }
    let pod = first.name_any();
    if outcomes.iter().any(|(pod, _)| lost(pod, now)) {
        return Progress::Start(attempt.saturating_add(1));
    }
    let ended = |outcome: &PodOutcome| matches!(outcome, PodOutcome::Succeeded(_));
    let unfinished = outcomes.iter().filter(|(_, outcome)| !ended(outcome));
    if let Some((gone, _)) = unfinished.clone().find(|(pod, _)| deleting(pod)) {
        return Progress::Waiting {
            attempt,
            pod,
            message: Some(format!(
                "pod {} is being deleted; all {size} will be made again",
                gone.name_any()
            )),
            again: until_lost(gone, now),
        };
    }
    let waits = |outcome: &PodOutcome| matches!(outcome, PodOutcome::Waiting(_));
    if outcomes.len() < size {
        // Those that are missing are made, as long as nobody has begun without them.
        let begun = outcomes.iter().any(|(_, outcome)| !waits(outcome));
        return Progress::Start(attempt.saturating_add(u32::from(begun)));
    }
    let waiting = outcomes.iter().find_map(|(_, outcome)| match outcome {
        PodOutcome::Waiting(message) => Some(message.clone()),
        _ => None,
    });
    if let Some(message) = waiting {
        return Progress::Waiting {
            attempt,
            pod,
            message,
            again: None,
        };
    }
    match &outcomes[0].1 {
        PodOutcome::Succeeded(message) if unfinished.clone().next().is_none() => {
            Progress::Succeeded {
                attempt,
                pod,
                message: message.clone(),
            }
        }
        _ => Progress::Running { attempt, pod },
    }
}

/// What follows from the failure of an attempt.
fn after_failure(pod: &Pod, failure: Failure, retry: &Retry, now: Timestamp) -> Progress {
    let attempt = attempt(pod);
    let name = pod.name_any();
    if failure.permanent() || attempt >= retry.attempts {
        return Progress::Failed {
            attempt,
            pod: name,
            failure,
        };
    }
    let wait = retry.wait_after(attempt);
    let since = ended_at(pod).map_or(wait, |ended| elapsed(ended, now));
    if since >= wait {
        return Progress::Start(attempt + 1);
    }
    Progress::BackOff {
        attempt,
        pod: name,
        failure,
        wait: wait - since,
    }
}

/// The pods of the newest attempt at a request, in the order of their ranks.
pub(crate) fn newest<'a>(request: &str, pods: &'a [Arc<Pod>]) -> Vec<&'a Arc<Pod>> {
    let own = || {
        pods.iter()
            .filter(|pod| label(pod.as_ref(), REQUEST) == Some(request))
    };
    let Some(last) = own().map(|pod| attempt(pod)).max() else {
        return Vec::new();
    };
    let mut members: Vec<_> = own().filter(|pod| attempt(pod) == last).collect();
    members.sort_by_key(|pod| rank(pod));
    members
}

/// Whether a pod that is being deleted is still there long after its grace
/// period, which ends at its deletion timestamp.
fn lost(pod: &Pod, now: Timestamp) -> bool {
    let end = pod.metadata.deletion_timestamp.as_ref();
    end.is_some_and(|end| elapsed(end.0, now) >= LOST)
}

/// When a pod that is being deleted will count as lost.
fn until_lost(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let end = pod.metadata.deletion_timestamp.as_ref()?;
    let left = LOST.saturating_add(elapsed(now, end.0));
    Some(left.saturating_sub(elapsed(end.0, now)))
}

/// Pods to delete: all but those of the newest attempt at the request (kept for
/// their logs), and while there is none yet, the newest of all that ended.
pub(crate) fn leftovers(request: &str, pods: &[Arc<Pod>]) -> Vec<String> {
    let mut kept = newest(request, pods);
    if kept.is_empty() {
        let ended = pods.iter().filter(|pod| finished(pod));
        kept.extend(ended.max_by_key(|pod| (ended_at(pod), attempt(pod))));
    }
    pods.iter()
        .filter(|pod| !deleting(pod) && !kept.iter().any(|one| Arc::ptr_eq(one, pod)))
        .map(|pod| pod.name_any())
        .collect()
}

/// Time from one moment to a later one; zero when clocks disagree.
pub(crate) fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::try_from(to.duration_since(from)).unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{at, object};
    use serde_json::json;

    #[test]
    fn a_pod_on_a_lost_node_is_given_up() {
        let pod: Arc<Pod> = Arc::new(object(json!({
            "metadata": {
                "name": "p-2", "labels": {REQUEST: "r", crate::pods::ATTEMPT: "2"},
                "deletionTimestamp": at(30).to_string(),
            },
            "status": {"phase": "Running"},
        })));
        let seen = |second| {
            progress(
                "r",
                std::slice::from_ref(&pod),
                &Retry::default(),
                at(second),
            )
        };
        assert!(matches!(
            seen(0),
            Progress::Waiting { again: Some(wait), .. } if wait == Duration::from_secs(45)
        ));
        assert!(matches!(
            seen(40),
            Progress::Waiting { again: Some(wait), .. } if wait == Duration::from_secs(5)
        ));
        assert_eq!(seen(45), Progress::Start(3));
    }
}
