//! Watches: a cursor over the history of a resource, filtered by selectors.
//!
//! A watcher holds no queue. It reads from the shared ring what came after its
//! cursor, so a slow one costs nothing, and one that falls off the ring's end is
//! told so with 410.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

use crate::engine::Engine;
use crate::resource::ResourceType;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::ApiError;
use crate::storage::{Change, ChangeKind, Object};

use super::read::version_match_forbidden;
use super::{ListOptions, VersionMatch};

/// What to watch.
#[derive(Debug, Clone, Default)]
pub struct WatchOptions {
    /// Namespace; none for all, and for cluster-scoped types.
    pub namespace: Option<String>,
    /// Labels wanted.
    pub labels: LabelSelector,
    /// Fields wanted.
    pub fields: FieldSelector,
    /// `resourceVersion` to go on from; none or zero: from now, with what is there.
    pub version: Option<u64>,
    /// How `version` is meant.
    pub version_match: Option<VersionMatch>,
    /// Whether bookmarks are wanted.
    pub bookmarks: bool,
    /// `sendInitialEvents`.
    pub initial_events: Option<bool>,
    /// How long to watch.
    pub timeout: Option<Duration>,
}

/// Kind of an event, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchedKind {
    /// New, or newly selected.
    Added,
    /// Changed.
    Modified,
    /// Gone, or no longer selected.
    Deleted,
}

impl WatchedKind {
    /// As in the event's `type`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One event of a watch.
#[derive(Debug)]
pub enum WatchEvent {
    /// Something happened to an object.
    Object(WatchedKind, Arc<Object>),
    /// All up to this version has been sent; `initial` ends the initial events.
    Bookmark {
        /// The version.
        version: u64,
        /// Whether this is the end of the initial events.
        initial: bool,
    },
    /// The watch cannot go on.
    Error(ApiError),
}

/// A running watch; ask it for one event after the other.
#[derive(Debug)]
pub struct WatchEvents {
    engine: Arc<Engine>,
    resource: Arc<ResourceType>,
    options: WatchOptions,
    changed: tokio::sync::watch::Receiver<u64>,
    pending: VecDeque<WatchEvent>,
    cursor: u64,
    /// Whether there may be changes after the cursor.
    behind: bool,
    deadline: Instant,
    next_bookmark: Instant,
    // The earlier of both, kept from one wait to the next: with many watchers on one
    // resource, what is set up and looked at for every event is much of what it costs.
    alarm: Pin<Box<Sleep>>,
    ended: bool,
}

/// Changes taken from history at once.
const BATCH: usize = 256;

impl Engine {
    /// Starts a watch.
    pub async fn watch(
        self: &Arc<Self>,
        resource: &Arc<ResourceType>,
        options: WatchOptions,
    ) -> Result<WatchEvents, ApiError> {
        options
            .fields
            .check(resource)
            .map_err(|e| ApiError::bad_request(e.0))?;
        match (options.initial_events, options.version_match) {
            (Some(_), Some(VersionMatch::NotOlderThan)) | (None, None) => {}
            (Some(_), _) => {
                return Err(version_match_forbidden(
                    "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                ));
            }
            (None, Some(_)) => {
                return Err(version_match_forbidden(
                    "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                ));
            }
        }
        let from = options.version.unwrap_or(0);
        let initial = options.initial_events.unwrap_or(from == 0);
        if initial {
            self.wait_for_version(from).await?;
        }
        // Subscribed before the first look, so that nothing falls between.
        let changed = self.store.subscribe(&resource.storage);
        let mut pending = VecDeque::new();
        let cursor = if initial {
            let listed = self
                .list(
                    resource,
                    &ListOptions {
                        namespace: options.namespace.clone(),
                        labels: options.labels.clone(),
                        fields: options.fields.clone(),
                        ..ListOptions::default()
                    },
                )
                .await?;
            for object in listed.objects {
                pending.push_back(WatchEvent::Object(WatchedKind::Added, object));
            }
            if options.initial_events == Some(true) && options.bookmarks {
                pending.push_back(WatchEvent::Bookmark {
                    version: listed.version,
                    initial: true,
                });
            }
            listed.version
        } else if from == 0 {
            self.store.version()
        } else {
            // A version too old is told of by the first event, as the stream's
            // clients expect, not by the answer's status.
            from
        };
        let timeout = options
            .timeout
            .filter(|t| !t.is_zero())
            .unwrap_or(self.settings.watch_timeout);
        let now = Instant::now();
        let mut events = WatchEvents {
            engine: self.clone(),
            resource: resource.clone(),
            changed,
            pending,
            cursor,
            behind: true,
            deadline: now + timeout,
            next_bookmark: now + self.settings.bookmark_interval,
            alarm: Box::pin(sleep(timeout)),
            ended: false,
            options,
        };
        events.set_alarm();
        Ok(events)
    }
}

impl WatchEvents {
    /// The type that is watched.
    pub fn resource(&self) -> &Arc<ResourceType> {
        &self.resource
    }

    /// Events that are there already; empty when the next must be waited for.
    pub fn ready(&mut self, most: usize) -> Vec<WatchEvent> {
        if self.pending.is_empty() && !self.ended && self.is_behind() {
            self.fill();
        }
        let count = self.pending.len().min(most);
        self.pending.drain(..count).collect()
    }

    /// The next event; none when the watch is over.
    pub async fn next(&mut self) -> Option<WatchEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            if self.ended {
                return None;
            }
            if self.is_behind() {
                self.fill();
                continue;
            }
            tokio::select! {
                changed = self.changed.changed() => match changed {
                    Ok(()) => self.behind = true,
                    Err(_) => self.ended = true,
                },
                () = self.alarm.as_mut() => {
                    let now = Instant::now();
                    if self.options.bookmarks {
                        // Other resources move the version on, of which nobody is told here.
                        self.fill();
                        if !self.ended {
                            self.bookmark();
                        }
                    }
                    self.ended |= now >= self.deadline;
                    self.next_bookmark = now + self.engine.settings.bookmark_interval;
                    self.set_alarm();
                }
            }
        }
    }

    fn is_behind(&self) -> bool {
        self.behind || self.changed.has_changed().unwrap_or(false)
    }

    fn set_alarm(&mut self) {
        let next = match self.options.bookmarks {
            true => self.deadline.min(self.next_bookmark),
            false => self.deadline,
        };
        self.alarm.as_mut().reset(next);
    }

    fn bookmark(&mut self) {
        self.pending.push_back(WatchEvent::Bookmark {
            version: self.cursor,
            initial: false,
        });
    }

    /// Reads on from the cursor until something is selected or nothing is left.
    fn fill(&mut self) {
        // Marked before it is looked, so that nothing falls between.
        self.changed.mark_unchanged();
        self.behind = false;
        loop {
            let storage = &self.resource.storage;
            match self.engine.store.changes(storage, self.cursor, BATCH) {
                Ok((changes, version)) => {
                    let more = changes.len() == BATCH;
                    self.cursor = match changes.last() {
                        Some(last) if more => last.version,
                        _ => self.cursor.max(version),
                    };
                    for change in &changes {
                        if let Some(event) = self.select(change) {
                            self.pending.push_back(event);
                        }
                    }
                    if !more || !self.pending.is_empty() {
                        self.behind = more;
                        return;
                    }
                }
                Err(error) => {
                    self.ended = true;
                    self.pending
                        .push_back(WatchEvent::Error(ApiError::expired(error.to_string())));
                    return;
                }
            }
        }
    }

    fn select(&self, change: &Change) -> Option<WatchEvent> {
        let wanted = |object: &Object| {
            self.options
                .namespace
                .as_deref()
                .is_none_or(|n| *object.id.namespace == *n)
                && self.options.labels.matches(object.meta.labels.as_ref())
                && self.options.fields.matches(&self.resource, object)
        };
        let before = change.previous.as_deref().is_some_and(wanted);
        let after = change.kind != ChangeKind::Deleted && wanted(&change.object);
        let event = |kind, object| Some(WatchEvent::Object(kind, object));
        match (before, after) {
            (false, false) => None,
            (false, true) => event(WatchedKind::Added, change.object.clone()),
            (true, true) => event(WatchedKind::Modified, change.object.clone()),
            (true, false) if change.kind == ChangeKind::Deleted => {
                event(WatchedKind::Deleted, change.object.clone())
            }
            (true, false) => {
                let last = change.previous.as_ref()?.with_version(change.version);
                event(WatchedKind::Deleted, Arc::new(last))
            }
        }
    }
}
