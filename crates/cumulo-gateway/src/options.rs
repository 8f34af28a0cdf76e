//! What can be set.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The gateway's limits. Each has a default that suits a laptop.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    /// Largest request body in bytes; a larger one is answered 413.
    pub body_limit: u64,
    /// Bodies of a known length up to this many bytes are read before a replica is
    /// chosen, so that they can be sent again to another replica. Larger ones
    /// are streamed.
    pub replay_limit: u64,
    /// Requests one replica may work on at once; more wait in the queue.
    pub concurrency_per_replica: usize,
    /// Requests of one service that may wait at once.
    pub queue_limit: usize,
    /// How long a request may wait for a replica, in seconds.
    pub hold_seconds: u64,
    /// How long a model server may take to begin its answer, in seconds.
    pub response_seconds: u64,
    /// How long connecting to a replica may take, in milliseconds.
    pub connect_milliseconds: u64,
    /// Idle connections kept per replica.
    pub idle_connections: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            body_limit: 32 << 20,
            replay_limit: 1 << 20,
            concurrency_per_replica: 256,
            queue_limit: 1_000,
            hold_seconds: 60,
            response_seconds: 300,
            connect_milliseconds: 2_000,
            idle_connections: 256,
        }
    }
}

impl Options {
    pub(crate) fn hold(&self) -> Duration {
        Duration::from_secs(self.hold_seconds)
    }

    pub(crate) fn response(&self) -> Duration {
        Duration::from_secs(self.response_seconds)
    }

    pub(crate) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_milliseconds)
    }
}
