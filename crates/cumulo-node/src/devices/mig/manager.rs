//! Changes instances so that a crash at any moment loses none, doubles none and leaves
//! none without an owner.
//!
//! What is to be done is written to a journal before the first step, and the number of
//! each new GPU instance right after it is made. After a crash the next node agent
//! finishes what it finds there, or, where that is not possible, undoes it. Between the
//! driver's answer and that line in the journal lies one moment in which a new instance
//! has no owner: it has no compute instance yet, lies exactly where the journal says,
//! and is taken over by that. A complete instance at that place is somebody else's.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use super::{
    Change, Made, Managed, MigInstances, PartitionError, Partitions, Place, Present, present,
};
use crate::devices::{ReadError, Reader};
use crate::record::{read_json, write_json};

/// Where the kernel says which of its starts this is: no instance outlives one.
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// Why instances were not changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The devices cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Here is nothing that could change them.
    #[error("the instances of this machine cannot be changed")]
    Fixed,
    /// The journal cannot be read or written: nothing is done without it.
    #[error("{path}: {error}")]
    Journal {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        error: io::Error,
    },
    /// It is not the node agent's to remove.
    #[error("GPU instance {id} of {gpu} was not made by the node agent")]
    Foreign {
        /// UUID of the GPU.
        gpu: String,
        /// The driver's number.
        id: u32,
    },
    /// Somebody else's instance lies there.
    #[error("a {} at {} of {} is there already, made by somebody else", .0.profile, .0.start, .0.gpu)]
    Occupied(Place),
    /// The GPU does not answer.
    #[error("{0} does not answer")]
    Unreachable(String),
    /// The driver did not do a step.
    #[error("{what}: {error}")]
    Step {
        /// Which.
        what: String,
        /// Why.
        error: PartitionError,
    },
}

impl ChangeError {
    /// Whether trying the same again is of no use.
    fn is_final(&self) -> bool {
        let no_room = matches!(
            self,
            Self::Step {
                error: PartitionError::NoRoom | PartitionError::Unknown(_),
                ..
            }
        );
        no_room || matches!(self, Self::Occupied(_))
    }
}

/// What outlives the node agent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Journal {
    boot: String,
    made: Vec<Made>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    open: Option<Open>,
}

/// A change that has begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Open {
    change: Change,
    /// What was made so far.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    created: Vec<Made>,
    /// It undoes another: what cannot be had again is let go.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    undoes: bool,
}

/// The instances of this node that the node agent made. One change at a time.
pub struct Manager {
    reader: Arc<dyn Reader>,
    file: PathBuf,
    boot: String,
    instances: MigInstances,
    /// `None` until it was read, and what was open is closed.
    journal: Mutex<Option<Journal>>,
    /// As last written, for those who only look.
    known: Mutex<Vec<Made>>,
}

impl Manager {
    /// A manager with its journal in this file.
    pub fn new(reader: Arc<dyn Reader>, file: impl Into<PathBuf>, instances: MigInstances) -> Self {
        let boot = std::fs::read_to_string(BOOT).unwrap_or_default();
        Self::since(reader, file, instances, boot.trim())
    }

    /// A manager on a machine that started as `boot`.
    pub(super) fn since(
        reader: Arc<dyn Reader>,
        file: impl Into<PathBuf>,
        instances: MigInstances,
        boot: &str,
    ) -> Self {
        Self {
            reader,
            file: file.into(),
            boot: boot.to_owned(),
            instances,
            journal: Mutex::new(None),
            known: Mutex::default(),
        }
    }

    /// Whether instances are made, and which were.
    pub fn managed(&self) -> Managed {
        Managed {
            instances: self.instances,
            made: self.known.lock().clone(),
        }
    }

    /// Whether there is something to look after at all.
    pub fn is_needed(&self) -> bool {
        self.instances == MigInstances::Manage || self.file.exists()
    }

    /// Closes what an earlier node agent left open, and forgets instances that are gone.
    /// Blocks.
    ///
    /// # Errors
    /// When it cannot be closed now: nothing may be changed until it is.
    pub fn recover(&self) -> Result<(), ChangeError> {
        self.settled(&mut self.journal.lock()).map(|_| ())
    }

    /// Changes instances: all of it, or, when a step fails, none of it. Blocks.
    ///
    /// # Errors
    /// When it was not done.
    pub fn change(&self, change: Change) -> Result<(), ChangeError> {
        let mut guard = self.journal.lock();
        let journal = self.settled(&mut guard)?;
        for made in &change.remove {
            if !journal.made.contains(made) {
                let (gpu, id) = (made.place.gpu.clone(), made.id);
                return Err(ChangeError::Foreign { gpu, id });
            }
        }
        for place in &change.create {
            let there = self.present(&change.gpu)?;
            if there.iter().any(|one| one.is_at(place)) {
                return Err(ChangeError::Occupied(place.clone()));
            }
        }
        journal.open = Some(Open {
            change,
            created: Vec::new(),
            undoes: false,
        });
        let done = self.save(journal).and_then(|()| self.go_on(journal));
        if let Err(error) = &done {
            tracing::warn!(%error, "cannot change mig instances, undoing what was done of it");
            if let Err(error) = self.undo(journal) {
                // Tried again before the next change, and by the next node agent.
                tracing::warn!(%error, "cannot undo a change of mig instances yet");
            }
            // What is written counts, whether or not the last line came to be.
            *guard = None;
        }
        done
    }

    /// The journal with nothing open.
    fn settled<'a>(&self, guard: &'a mut Option<Journal>) -> Result<&'a mut Journal, ChangeError> {
        if guard.is_none() {
            *guard = Some(self.read_and_close()?);
        }
        let fresh = || Journal {
            boot: self.boot.clone(),
            ..Journal::default()
        };
        let journal = guard.get_or_insert_with(fresh);
        self.forget_gone(journal)?;
        Ok(journal)
    }

    fn read_and_close(&self) -> Result<Journal, ChangeError> {
        let mut journal = match read_json::<Journal>(&self.file) {
            Ok(read) => read.unwrap_or_default(),
            // Then no instance is the node agent's, and none is ever removed.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::warn!(%error, "the journal of mig instances is no journal, beginning another");
                Journal::default()
            }
            Err(error) => return Err(self.failed(error)),
        };
        if journal.boot != self.boot {
            // Instances end with the machine: what is there now, another made.
            journal = Journal {
                boot: self.boot.clone(),
                ..Journal::default()
            };
        }
        self.known.lock().clone_from(&journal.made);
        let Some(open) = &journal.open else {
            return Ok(journal);
        };
        tracing::info!(gpu = %open.change.gpu, "finishing a change of mig instances that was interrupted");
        let undoes = open.undoes;
        self.take_over(&mut journal)?;
        match self.go_on(&mut journal) {
            Ok(()) => {}
            Err(error) if undoes => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "cannot finish it, undoing it");
                self.undo(&mut journal)?;
            }
        }
        Ok(journal)
    }

    /// What was made just before a crash, and not written down any more.
    fn take_over(&self, journal: &mut Journal) -> Result<(), ChangeError> {
        let Some(open) = &mut journal.open else {
            return Ok(());
        };
        let there = self.present(&open.change.gpu)?;
        for place in &open.change.create {
            let mut bare = there.iter().filter(|one| !one.is_complete());
            if let Some(one) = bare.find(|one| one.is_at(place)) {
                open.created.retain(|made| made.place != *place);
                open.created.push(Made {
                    id: one.id,
                    place: place.clone(),
                    uuid: None,
                });
            }
        }
        self.save(journal)
    }

    /// Does what is left of the open change.
    fn go_on(&self, journal: &mut Journal) -> Result<(), ChangeError> {
        let Some(open) = journal.open.clone() else {
            return Ok(());
        };
        for made in &open.change.remove {
            self.take_away(made, open.undoes)?;
        }
        for place in &open.change.create {
            match self.put(journal, place) {
                Err(error) if open.undoes && error.is_final() => {
                    tracing::warn!(%error, "an instance that was removed cannot be made again");
                }
                done => done?,
            }
        }
        let mut closed = journal.clone();
        let mut created = closed
            .open
            .take()
            .map_or_else(Vec::new, |open| open.created);
        let there = match created.is_empty() {
            true => Vec::new(),
            false => self.present(&open.change.gpu)?,
        };
        for made in &mut created {
            let one = there.iter().find(|one| one.is(made));
            made.uuid = one.and_then(|one| one.uuid.clone());
        }
        let removed = |made: &Made| open.change.remove.contains(made);
        closed.made.retain(|made| !removed(made));
        closed.made.extend(created);
        self.save(&closed)?;
        *journal = closed;
        Ok(())
    }

    /// Turns the open change around, and does that.
    fn undo(&self, journal: &mut Journal) -> Result<(), ChangeError> {
        let Some(open) = journal.open.clone() else {
            return Ok(());
        };
        let there = self.present(&open.change.gpu)?;
        let (mut back, mut created) = (Vec::new(), Vec::new());
        for made in &open.change.remove {
            match there.iter().find(|one| one.is(made)) {
                Some(one) if one.is_complete() => continue,
                Some(_) => created.push(Made {
                    uuid: None,
                    ..made.clone()
                }),
                None => {}
            }
            back.push(made.place.clone());
            journal.made.retain(|known| known != made);
        }
        // By what it is now: once it is gone, another may come to its place and number.
        let mut begun = open.created;
        begun.retain_mut(|made| {
            let one = there.iter().find(|one| one.is(made));
            made.uuid = one.and_then(|one| one.uuid.clone());
            one.is_some()
        });
        journal.open = Some(Open {
            change: Change {
                gpu: open.change.gpu,
                remove: begun,
                create: back,
            },
            created,
            undoes: true,
        });
        self.save(journal)?;
        self.go_on(journal)
    }

    fn take_away(&self, made: &Made, undoes: bool) -> Result<(), ChangeError> {
        let gpu = &made.place.gpu;
        let there = self.present(gpu)?;
        let Some(one) = there.iter().find(|one| one.is(made)) else {
            return Ok(());
        };
        // What is undone unfinished is never finished: this is another at its place.
        if undoes && made.uuid.is_none() && one.is_complete() {
            return Ok(());
        }
        let driver = self.driver()?;
        let step = |what, done: Result<(), PartitionError>| {
            done.map_err(|error| step(what, &made.place, error))
        };
        if one.is_complete() {
            step("cannot take apart", driver.dismantle(gpu, made.id))?;
        }
        step("cannot remove", driver.remove(gpu, made.id))
    }

    fn put(&self, journal: &mut Journal, place: &Place) -> Result<(), ChangeError> {
        let driver = self.driver()?;
        let there = self.present(&place.gpu)?;
        let at = there.iter().find(|one| one.is_at(place));
        let Some(open) = &mut journal.open else {
            return Ok(());
        };
        let own = |one: &Present| {
            let mut created = open.created.iter();
            created.any(|made| made.id == one.id && made.place == *place)
        };
        let (id, complete) = match at {
            Some(one) if own(one) => (one.id, one.is_complete()),
            Some(_) => return Err(ChangeError::Occupied(place.clone())),
            None => {
                open.created.retain(|made| made.place != *place);
                let made = driver.make(place);
                let id = made.map_err(|error| step("cannot make", place, error))?;
                open.created.push(Made {
                    id,
                    place: place.clone(),
                    uuid: None,
                });
                self.save(journal)?;
                (id, false)
            }
        };
        if !complete {
            let done = driver.complete(&place.gpu, id);
            done.map_err(|error| step("cannot complete", place, error))?;
        }
        Ok(())
    }

    /// An administrator may remove what the node agent made.
    fn forget_gone(&self, journal: &mut Journal) -> Result<(), ChangeError> {
        if journal.made.is_empty() {
            return Ok(());
        }
        let snapshot = self.reader.read()?;
        let before = journal.made.len();
        journal.made.retain(|made| {
            let gpu = snapshot
                .gpus
                .iter()
                .find(|gpu| gpu.identity() == made.place.gpu);
            // Of a GPU that does not answer nothing is known.
            let Some(gpu) = gpu.filter(|gpu| gpu.fault.is_none()) else {
                return true;
            };
            present(gpu).iter().any(|one| one.is(made))
        });
        if journal.made.len() != before {
            self.save(journal)?;
        }
        Ok(())
    }

    fn present(&self, gpu: &str) -> Result<Vec<Present>, ChangeError> {
        let snapshot = self.reader.read()?;
        let found = snapshot.gpus.iter().find(|one| one.identity() == gpu);
        match found {
            Some(found) if found.fault.is_none() => Ok(present(found)),
            _ => Err(ChangeError::Unreachable(gpu.to_owned())),
        }
    }

    fn driver(&self) -> Result<&dyn Partitions, ChangeError> {
        self.reader.partitions().ok_or(ChangeError::Fixed)
    }

    fn save(&self, journal: &Journal) -> Result<(), ChangeError> {
        write_json(&self.file, journal).map_err(|error| self.failed(error))?;
        self.known.lock().clone_from(&journal.made);
        Ok(())
    }

    fn failed(&self, error: io::Error) -> ChangeError {
        ChangeError::Journal {
            path: self.file.clone(),
            error,
        }
    }
}

fn step(what: &str, place: &Place, error: PartitionError) -> ChangeError {
    let Place {
        gpu,
        profile,
        start,
    } = place;
    ChangeError::Step {
        what: format!("{what} a {profile} at {start} of {gpu}"),
        error,
    }
}
