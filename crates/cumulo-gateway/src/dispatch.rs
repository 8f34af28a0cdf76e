//! Which replica gets a request, who waits, who is refused: pure.
//!
//! One dispatcher belongs to one service. Its caller tells it what happens (a
//! request came, one finished, the replicas changed) with the time, and does
//! what it answers. Places are counted here and nowhere else, so the numbers
//! that autoscaling sees are exact.

use std::collections::VecDeque;
use std::time::Duration;

use crate::window::Window;

/// A replica, numbered by the caller. One that left never comes back under its
/// old number.
pub type ReplicaId = u64;
/// A waiting request.
pub type Ticket = u64;

/// How long a replica that could not be reached is passed over.
pub const PENALTY: Duration = Duration::from_millis(100);

/// What happens to a request that comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// It has a place at this replica.
    Granted(ReplicaId),
    /// It waits; a later call grants its ticket.
    Queued(Ticket),
    /// The queue is full.
    Full {
        /// Whether there is any replica to wait for.
        replicas: usize,
    },
}

/// A ticket that got its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// Whose turn it is.
    pub ticket: Ticket,
    /// Where.
    pub replica: ReplicaId,
}

#[derive(Debug, Clone, Copy)]
struct Slot {
    id: ReplicaId,
    in_flight: usize,
    penalised_until: Duration,
}

/// A service's places and queue.
#[derive(Debug)]
pub struct Dispatcher {
    concurrency_per_replica: usize,
    queue_limit: usize,
    slots: Vec<Slot>,
    queue: VecDeque<Ticket>,
    next_ticket: Ticket,
    /// Where the search for the least busy replica starts, so that equally busy
    /// ones take turns.
    turn: usize,
    /// Requests at replicas that left the table and are still working.
    departed: usize,
    requests: u64,
    window: Window,
}

/// Counts at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Requests at a replica.
    pub in_flight: usize,
    /// Requests that wait for one.
    pub queued: usize,
    /// Requests that ever came.
    pub requests: u64,
    /// Replicas that may take requests.
    pub replicas: usize,
}

impl Dispatcher {
    /// A dispatcher with no replica.
    pub fn new(concurrency_per_replica: usize, queue_limit: usize) -> Self {
        Self {
            concurrency_per_replica: concurrency_per_replica.max(1),
            queue_limit,
            slots: Vec::new(),
            queue: VecDeque::new(),
            next_ticket: 0,
            turn: 0,
            departed: 0,
            requests: 0,
            window: Window::default(),
        }
    }

    /// A new request.
    pub fn admit(&mut self, now: Duration) -> Admission {
        self.requests += 1;
        self.window.count(now);
        self.place(now, false)
    }

    /// A request that was admitted before and whose replica failed it: it goes
    /// to the front of the queue when it must wait, and is never refused.
    pub fn readmit(&mut self, now: Duration) -> Admission {
        self.place(now, true)
    }

    fn place(&mut self, now: Duration, again: bool) -> Admission {
        // Those who wait already go first.
        if (again || self.queue.is_empty())
            && let Some(id) = self.take(now)
        {
            self.account(now);
            return Admission::Granted(id);
        }
        if !again && self.queue.len() >= self.queue_limit {
            return Admission::Full {
                replicas: self.slots.len(),
            };
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if again {
            self.queue.push_front(ticket);
        } else {
            self.queue.push_back(ticket);
        }
        self.account(now);
        Admission::Queued(ticket)
    }

    /// Takes a place at the least busy replica that has one.
    fn take(&mut self, now: Duration) -> Option<ReplicaId> {
        let count = self.slots.len();
        if count == 0 {
            return None;
        }
        let mut best: Option<usize> = None;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let slot = &self.slots[index];
            if slot.in_flight < self.concurrency_per_replica
                && slot.penalised_until <= now
                && best.is_none_or(|best| slot.in_flight < self.slots[best].in_flight)
            {
                best = Some(index);
            }
        }
        let index = best?;
        self.turn = (index + 1) % count;
        self.slots[index].in_flight += 1;
        Some(self.slots[index].id)
    }

    fn grant(&mut self, now: Duration) -> Vec<Grant> {
        let mut grants = Vec::new();
        while !self.queue.is_empty() {
            let Some(replica) = self.take(now) else { break };
            if let Some(ticket) = self.queue.pop_front() {
                grants.push(Grant { ticket, replica });
            }
        }
        self.account(now);
        grants
    }

    /// A request left its replica.
    pub fn release(&mut self, now: Duration, replica: ReplicaId) -> Vec<Grant> {
        match self.slots.iter_mut().find(|slot| slot.id == replica) {
            Some(slot) => slot.in_flight = slot.in_flight.saturating_sub(1),
            None => self.departed = self.departed.saturating_sub(1),
        }
        self.grant(now)
    }

    /// The replica could not be reached: pass it over for a moment.
    pub fn failed(&mut self, now: Duration, replica: ReplicaId) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == replica) {
            slot.penalised_until = now + PENALTY;
        }
    }

    /// Whether a replica is passed over at this moment, so that somebody who
    /// waits should ask again soon.
    pub fn penalised(&self, now: Duration) -> bool {
        self.slots.iter().any(|slot| slot.penalised_until > now)
    }

    /// A waiting request gave up. False: its place was granted already.
    pub fn cancel(&mut self, now: Duration, ticket: Ticket) -> bool {
        let before = self.queue.len();
        self.queue.retain(|waiting| *waiting != ticket);
        self.account(now);
        self.queue.len() < before
    }

    /// The replicas are now these.
    pub fn set_replicas(&mut self, now: Duration, ids: &[ReplicaId]) -> Vec<Grant> {
        for slot in &self.slots {
            if !ids.contains(&slot.id) {
                self.departed += slot.in_flight;
            }
        }
        self.slots = ids
            .iter()
            .map(|id| {
                let known = self.slots.iter().find(|slot| slot.id == *id);
                known.copied().unwrap_or(Slot {
                    id: *id,
                    in_flight: 0,
                    penalised_until: Duration::ZERO,
                })
            })
            .collect();
        self.grant(now)
    }

    /// The counts of this moment.
    pub fn counts(&self) -> Counts {
        Counts {
            in_flight: self.departed + self.slots.iter().map(|slot| slot.in_flight).sum::<usize>(),
            queued: self.queue.len(),
            requests: self.requests,
            replicas: self.slots.len(),
        }
    }

    /// The concurrency of the last minutes.
    pub fn window(&mut self) -> &mut Window {
        &mut self.window
    }

    fn account(&mut self, now: Duration) {
        let counts = self.counts();
        self.window.set(now, counts.in_flight + counts.queued);
    }
}

#[cfg(test)]
#[path = "dispatch_tests.rs"]
mod tests;
