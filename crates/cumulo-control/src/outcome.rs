//! What became of a pod that runs to its end.

use k8s_openapi::api::core::v1::{ContainerStateTerminated, Pod};
use k8s_openapi::jiff::Timestamp;
use serde::Deserialize;

/// Where a pod stands.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PodOutcome {
    /// Not started; the sentence says what for, if anything is known.
    Waiting(Option<String>),
    /// It runs.
    Running,
    /// It ended well and left this message.
    Succeeded(String),
    /// It failed.
    Failed(Failure),
}

/// How a pod failed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Failure {
    /// One CamelCase word.
    pub(crate) reason: String,
    /// A sentence: what, where, what to do.
    pub(crate) message: String,
    /// The whole message that the pod left, if it was JSON.
    pub(crate) detail: Option<serde_json::Value>,
    /// When.
    pub(crate) finished: Option<Timestamp>,
}

/// Reasons that trying again cannot change: the same input gives the same answer.
const PERMANENT: &[&str] = &[
    "CheckError",
    "CheckFailed",
    "CheckInvalid",
    "CommandInvalid",
    "DeadlineExceeded",
    "EnvironmentUnresolvable",
    "GpuUnavailable",
    "ModelInvalid",
    "QueryFailed",
    "QueryInvalid",
    "RequestInvalid",
    "RuntimeInvalid",
    "SourceForbidden",
    "SourceInvalid",
    "SourceMissing",
    "TargetInvalid",
];

impl Failure {
    /// Whether trying again makes no sense.
    pub(crate) fn permanent(&self) -> bool {
        PERMANENT.contains(&self.reason.as_str())
    }
}

/// A failed pod's message, when it is JSON: a word and a sentence.
#[derive(Deserialize)]
struct Told {
    reason: String,
    message: String,
}

/// Reads a pod's status.
pub(crate) fn outcome(pod: &Pod) -> PodOutcome {
    let Some(status) = &pod.status else {
        return PodOutcome::Waiting(None);
    };
    let terminated = container_states(pod).find_map(|state| state.0);
    match status.phase.as_deref() {
        Some("Succeeded") => {
            let message = terminated.and_then(|ended| ended.message.clone());
            PodOutcome::Succeeded(message.unwrap_or_default())
        }
        Some("Failed") => PodOutcome::Failed(failure(
            status.reason.as_deref(),
            status.message.as_deref(),
            terminated,
        )),
        Some("Running") => PodOutcome::Running,
        _ => PodOutcome::Waiting(waiting(pod)),
    }
}

/// What a pod that has not started waits for.
fn waiting(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let scheduled = status.conditions.iter().flatten();
    let unscheduled = scheduled
        .filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
        .find_map(|condition| condition.message.clone());
    unscheduled.or_else(|| {
        container_states(pod)
            .filter_map(|state| state.1)
            .find(|waiting| {
                !matches!(waiting.0, "ContainerCreating" | "PodInitializing")
                    && !waiting.1.is_empty()
            })
            .map(|(reason, message)| format!("{reason}: {message}"))
    })
}

/// Why a container that should run keeps ending, if one does.
pub(crate) fn crashing(pod: &Pod) -> Option<Failure> {
    let status = pod.status.as_ref()?;
    status
        .container_statuses
        .iter()
        .flatten()
        .filter(|container| !container.ready)
        .find_map(|container| {
            let now = container
                .state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            let before = container
                .last_state
                .as_ref()
                .and_then(|state| state.terminated.as_ref());
            let running = container
                .state
                .as_ref()
                .is_some_and(|state| state.running.is_some());
            if let Some(ended) = now.or(before.filter(|_| container.restart_count > 0 && !running))
            {
                return Some(failure(None, None, Some(ended)));
            }
            // Cannot even start: a foreign image, a missing Secret.
            let waiting = container.state.as_ref()?.waiting.as_ref()?;
            let reason = waiting.reason.as_deref()?;
            if matches!(reason, "ContainerCreating" | "PodInitializing") {
                return None;
            }
            Some(Failure {
                reason: reason.to_owned(),
                message: waiting.message.clone().unwrap_or_default(),
                detail: None,
                finished: None,
            })
        })
}

type Waiting<'a> = (&'a str, &'a str);

/// Ends and waits of all containers, init containers first.
fn container_states(
    pod: &Pod,
) -> impl Iterator<Item = (Option<&ContainerStateTerminated>, Option<Waiting<'_>>)> {
    let status = pod.status.as_ref();
    let init = status.and_then(|status| status.init_container_statuses.as_ref());
    let main = status.and_then(|status| status.container_statuses.as_ref());
    // An init container that ended well says nothing of the pod.
    let init = init.into_iter().flatten().filter(|container| {
        container
            .state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .is_none_or(|ended| ended.exit_code != 0)
    });
    init.chain(main.into_iter().flatten()).map(|container| {
        let state = container.state.as_ref();
        let waiting = state
            .and_then(|state| state.waiting.as_ref())
            .and_then(|waiting| {
                Some((
                    waiting.reason.as_deref()?,
                    waiting.message.as_deref().unwrap_or_default(),
                ))
            });
        (state.and_then(|state| state.terminated.as_ref()), waiting)
    })
}

fn failure(
    pod_reason: Option<&str>,
    pod_message: Option<&str>,
    ended: Option<&ContainerStateTerminated>,
) -> Failure {
    let left = ended
        .and_then(|ended| ended.message.as_deref())
        .map(str::trim);
    let left = left.filter(|text| !text.is_empty());
    let detail: Option<serde_json::Value> = left.and_then(|text| serde_json::from_str(text).ok());
    let told: Option<Told> = detail
        .clone()
        .and_then(|detail| serde_json::from_value(detail).ok());
    let finished = ended
        .and_then(|ended| ended.finished_at.as_ref())
        .map(|time| time.0);
    let word = |reason: &str, message: String| Failure {
        reason: crate::conditions::reason_word(reason),
        message,
        detail: detail.clone(),
        finished,
    };
    // The reasons that the platform itself ended it for come before what it says.
    if let Some(reason) = pod_reason {
        let message = match (reason, pod_message.or(left)) {
            ("DeadlineExceeded", said) => {
                let said = said.map(|said| format!(" ({said})")).unwrap_or_default();
                format!(
                    "it ran longer than its deadline{said}: give it more time with spec.deadline"
                )
            }
            (_, Some(said)) => said.to_owned(),
            (_, None) => "the pod failed".to_owned(),
        };
        return word(reason, message);
    }
    if let Some(ended) = ended
        && ended.reason.as_deref() == Some("OOMKilled")
    {
        let message = left.map_or_else(
            || {
                "it used more memory than it may: give it more with spec.resources.memory"
                    .to_owned()
            },
            str::to_owned,
        );
        return word("OOMKilled", message);
    }
    if let Some(told) = told {
        return word(&told.reason, told.message);
    }
    match (ended, left) {
        (Some(ended), Some(text)) if ended.exit_code == 1 => word("Failed", text.to_owned()),
        (Some(ended), left) => {
            let how = match ended.signal {
                Some(signal) => format!("it was ended by signal {signal}"),
                None => format!("it ended with exit code {}", ended.exit_code),
            };
            let message = left.map_or(how.clone(), |text| format!("{how}: {text}"));
            let known = ended.reason.as_deref();
            let known = known.filter(|reason| !matches!(*reason, "Error" | "Completed"));
            word(known.unwrap_or("ExitCode"), message)
        }
        (None, _) => word(
            "PodFailed",
            "the pod failed before its container ran; `cumulo describe pod` says more".to_owned(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(status: serde_json::Value) -> PodOutcome {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"name": "p"}, "status": status})).unwrap();
        outcome(&pod)
    }

    fn failed(reason: &str, code: i32, message: &str) -> Failure {
        let outcome = check(json!({"phase": "Failed", "containerStatuses": [{
            "name": "main", "ready": false, "restartCount": 0, "image": "", "imageID": "",
            "state": {"terminated": {"exitCode": code, "reason": reason, "message": message,
                "finishedAt": "2026-01-01T00:00:00Z"}}}]}));
        let PodOutcome::Failed(failure) = outcome else {
            panic!("{outcome:?}")
        };
        failure
    }

    #[test]
    fn failures_read_well() {
        let shown = |failure: Failure| format!("{}: {}", failure.reason, failure.message);
        insta::assert_snapshot!(shown(failed("Error", 3, "")), @"ExitCode: it ended with exit code 3");
        insta::assert_snapshot!(
            shown(failed("Error", 1, r#"{"reason":"QueryInvalid","message":"line 3, column 8: no column \"orign\"; did you mean \"origin\"?"}"#)),
            @r#"QueryInvalid: line 3, column 8: no column "orign"; did you mean "origin"?"#
        );
        insta::assert_snapshot!(
            shown(failed("OOMKilled", 137, "")),
            @"OOMKilled: it used more memory than it may: give it more with spec.resources.memory"
        );
        insta::assert_snapshot!(
            shown(failed("Error", 1, "ValueError: no such column")),
            @"Failed: ValueError: no such column"
        );
        assert!(failed("Error", 1, r#"{"reason":"CheckFailed","message":"m"}"#).permanent());
        assert!(!failed("OOMKilled", 137, "").permanent());
    }

    #[test]
    fn a_pod_without_a_place_says_so() {
        let outcome = check(json!({"phase": "Pending", "conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node has room"}]}));
        assert_eq!(
            outcome,
            PodOutcome::Waiting(Some("no node has room".into()))
        );
        assert_eq!(
            check(json!({"phase": "Pending"})),
            PodOutcome::Waiting(None)
        );
        assert_eq!(check(json!({"phase": "Running"})), PodOutcome::Running);
    }

    #[test]
    fn a_deadline_is_named() {
        let outcome = check(json!({"phase": "Failed", "reason": "DeadlineExceeded"}));
        let PodOutcome::Failed(failure) = outcome else {
            panic!()
        };
        assert_eq!(failure.reason, "DeadlineExceeded");
        assert!(failure.permanent());
    }
}
