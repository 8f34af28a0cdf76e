//! Telling others in the process that the registry changed, whoever changed it.

use tokio::sync::broadcast;

/// Changes that a slow listener may be behind.
const BEHIND: usize = 1024;

/// What changed in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RegistryChange {
    /// Something about a registered model: a version, an alias, a tag, its name.
    Model {
        /// Its name (after a rename, once for each name).
        name: String,
    },
    /// Changes were missed, because the listener was slow or the database was away:
    /// look at everything anew.
    Missed,
}

/// A stream of registry changes, in the order in which they became durable.
#[derive(Debug)]
pub struct RegistryChanges(broadcast::Receiver<RegistryChange>);

impl RegistryChanges {
    /// The next change; `None` when the registry is gone.
    ///
    /// Never lies by omission: a listener that fell behind gets
    /// [`RegistryChange::Missed`] once.
    pub async fn next(&mut self) -> Option<RegistryChange> {
        match self.0.recv().await {
            Ok(change) => Some(change),
            Err(broadcast::error::RecvError::Lagged(_)) => Some(RegistryChange::Missed),
            Err(broadcast::error::RecvError::Closed) => None,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Events(broadcast::Sender<RegistryChange>);

impl Default for Events {
    fn default() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }
}

impl Events {
    pub(crate) fn changed(&self, name: &str) {
        // No listener is fine.
        drop(self.0.send(RegistryChange::Model {
            name: name.to_owned(),
        }));
    }

    /// Changes by other platforms were not heard for a while.
    pub(crate) fn missed(&self) {
        drop(self.0.send(RegistryChange::Missed));
    }

    pub(crate) fn subscribe(&self) -> RegistryChanges {
        RegistryChanges(self.0.subscribe())
    }
}
