//! Watches: a cursor over the history of a resource, filtered by selectors.
//!
//! A watcher holds no queue. It reads from the shared ring what came after its
//! cursor, so a slow one costs nothing, and one that falls off the ring's end is
//! told so with 410.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

use crate::engine::Engine;
use crate::resource::ResourceType;
use crate::selector::{FieldSelector, LabelSelector};
use crate::status::ApiError;
use crate::storage::{Change, ChangeKind, Object, TooOld};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
    cursor: WatchCursor,
    changed: tokio::sync::watch::Receiver<u64>,
    /// Whether there may be changes after the cursor.
    behind: bool,
    alarm: WatchAlarm,
}

/// How far a watch came, and what it is to tell of.
#[derive(Debug)]
pub struct WatchCursor {
    engine: Arc<Engine>,
    resource: Arc<ResourceType>,
    options: WatchOptions,
    pending: VecDeque<WatchEvent>,
    version: u64,
    ended: bool,
}

/// When a watch has to say something though nothing changed.
#[derive(Debug)]
pub struct WatchAlarm {
    deadline: Instant,
    bookmarks: Option<Duration>,
    next_bookmark: Instant,
    // The earlier of both, kept from one wait to the next: with many watchers on one
    // resource, what is set up and looked at for every event is much of what it costs.
    timer: Pin<Box<Sleep>>,
}

/// What an alarm says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alarm {
    /// It is time to say how far everything came.
    Bookmark,
    /// The watch's time is over.
    Over,
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
        let bookmarks = options.bookmarks.then_some(self.settings.bookmark_interval);
        Ok(WatchEvents {
            cursor: WatchCursor {
                engine: self.clone(),
                resource: resource.clone(),
                options,
                pending,
                version: cursor,
                ended: false,
            },
            changed,
            behind: true,
            alarm: WatchAlarm::new(timeout, bookmarks),
        })
    }
}

impl WatchAlarm {
    fn new(timeout: Duration, bookmarks: Option<Duration>) -> Self {
        let now = Instant::now();
        let deadline = now + timeout;
        let next_bookmark = bookmarks.map_or(deadline, |interval| now + interval);
        Self {
            deadline,
            bookmarks,
            next_bookmark,
            timer: Box::pin(sleep_until(deadline.min(next_bookmark))),
        }
    }

    /// Waits for the next; safe to be given up.
    pub async fn ring(&mut self) -> Alarm {
        self.timer.as_mut().await;
        let now = Instant::now();
        let Some(interval) = self.bookmarks.filter(|_| now < self.deadline) else {
            return Alarm::Over;
        };
        self.next_bookmark = now + interval;
        let next = self.deadline.min(self.next_bookmark);
        self.timer.as_mut().reset(next);
        Alarm::Bookmark
    }
}

impl WatchEvents {
    /// How far it came.
    pub fn cursor(&self) -> &WatchCursor {
        &self.cursor
    }

    /// For who learns otherwise when to look.
    pub fn into_parts(self) -> (WatchCursor, WatchAlarm) {
        (self.cursor, self.alarm)
    }

    /// The next events, at most so many; none when the watch is over.
    pub async fn next(&mut self, most: usize) -> Option<Vec<WatchEvent>> {
        loop {
            let is_behind = self.behind || self.changed.has_changed().unwrap_or(false);
            if is_behind && self.cursor.pending.is_empty() {
                // Marked before it is looked, so that nothing falls between.
                self.changed.mark_unchanged();
                self.behind = self.cursor.read();
            }
            let events = self.cursor.take(most);
            if !events.is_empty() {
                return Some(events);
            }
            if self.cursor.ended {
                return None;
            }
            tokio::select! {
                changed = self.changed.changed() => match changed {
                    Ok(()) => self.behind = true,
                    Err(_) => self.cursor.end(),
                },
                alarm = self.alarm.ring() => self.cursor.rung(alarm),
            }
        }
    }
}

impl WatchCursor {
    /// Where it reads.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// The type that is watched.
    pub fn resource(&self) -> &Arc<ResourceType> {
        &self.resource
    }

    /// Whether nothing will follow what is there already.
    pub fn is_ended(&self) -> bool {
        self.ended
    }

    /// Nothing follows what is there already.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether something is there already.
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Takes of what is there already.
    pub fn take(&mut self, most: usize) -> Vec<WatchEvent> {
        let count = self.pending.len().min(most);
        self.pending.drain(..count).collect()
    }

    /// Does what an alarm asks for. Before its time is over, too, a watch says how far it came.
    pub fn rung(&mut self, alarm: Alarm) {
        if self.options.bookmarks {
            // Other resources move the version on, of which nobody is told here.
            while self.read() {}
            if !self.ended {
                self.pending.push_back(WatchEvent::Bookmark {
                    version: self.version,
                    initial: false,
                });
            }
        }
        self.ended |= alarm == Alarm::Over;
    }

    /// Reads on until something is selected or nothing is left; whether there may be more.
    pub fn read(&mut self) -> bool {
        while !self.ended {
            match self.changes() {
                Ok(changes) => {
                    for change in &changes.changes {
                        if let Some(kind) = self.selects(change) {
                            let object = change.shown(kind);
                            self.pending.push_back(WatchEvent::Object(kind, object));
                        }
                    }
                    self.pass(&changes);
                    if !changes.more || !self.pending.is_empty() {
                        return changes.more;
                    }
                }
                Err(error) => {
                    self.ended = true;
                    self.pending
                        .push_back(WatchEvent::Error(ApiError::expired(error.to_string())));
                }
            }
        }
        false
    }

    /// The changes that follow.
    pub fn changes(&self) -> Result<Changes, TooOld> {
        let storage = &self.resource.storage;
        let (changes, newest) = self.engine.store.changes(storage, self.version, BATCH)?;
        let more = changes.len() == BATCH;
        let until = match changes.last() {
            Some(last) if more => last.version,
            _ => self.version.max(newest),
        };
        Ok(Changes {
            after: self.version,
            until,
            changes,
            more,
        })
    }

    /// Whether these are the changes that follow: those of another watch of the same
    /// resource, that came as far.
    pub fn is_followed_by(&self, changes: &Changes) -> bool {
        self.version == changes.after
    }

    /// Goes on behind changes that were told, as far as they are selected.
    pub fn pass(&mut self, changes: &Changes) {
        self.version = changes.until;
    }

    /// As what a change is told of, if it is.
    pub fn selects(&self, change: &Change) -> Option<WatchedKind> {
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
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(WatchedKind::Added),
            (true, true) => Some(WatchedKind::Modified),
            (true, false) => Some(WatchedKind::Deleted),
        }
    }
}

/// Changes of one resource, one after the other.
#[derive(Debug)]
pub struct Changes {
    /// The version that they follow.
    after: u64,
    /// The version up to which they are complete.
    until: u64,
    /// What changed.
    pub changes: Vec<Arc<Change>>,
    /// Whether there may be more behind them.
    pub more: bool,
}

impl Change {
    /// The object as watches are shown it.
    pub fn shown(&self, kind: WatchedKind) -> Arc<Object> {
        match &self.previous {
            // It is there still, but not selected any more: its last state that was.
            Some(last) if kind == WatchedKind::Deleted && self.kind != ChangeKind::Deleted => {
                Arc::new(last.with_version(self.version))
            }
            _ => self.object.clone(),
        }
    }
}
