//! What a plan asks for besides the status.

use std::time::Duration;

use cumulo_api::TrainJob;
use k8s_openapi::api::core::v1::Pod;

/// One step that a plan asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Action {
    /// Make a pod, unless one of that name exists.
    CreatePod(Box<Pod>),
    /// Delete a pod; it may end gracefully.
    DeletePod(String),
    /// Make a TrainJob, unless one of that name exists.
    CreateTrainJob(Box<TrainJob>),
    /// Delete a TrainJob.
    DeleteTrainJob(String),
    /// Point an alias of the planned Model to a version.
    SetAlias {
        model: String,
        alias: &'static str,
        version: String,
    },
    /// Tell it in an event on the planned object.
    Event(Note),
}

/// An event's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Note {
    /// Something that should be looked at.
    pub(crate) warning: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Action {
    pub(crate) fn note(reason: &str, message: impl Into<String>) -> Self {
        Self::Event(Note {
            warning: false,
            reason: reason.to_owned(),
            message: message.into(),
        })
    }

    pub(crate) fn warn(reason: &str, message: impl Into<String>) -> Self {
        Self::Event(Note {
            warning: true,
            reason: reason.to_owned(),
            message: message.into(),
        })
    }
}

/// What should be done about an object: steps in order, then the status as it
/// should be, and when to look again if nothing else happens.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Plan<S> {
    pub(crate) actions: Vec<Action>,
    pub(crate) status: S,
    pub(crate) again: Option<Duration>,
}
