//! A work queue: each key at most once, never worked on twice at the same time,
//! with delays and a back-off after failures.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The wait after the first failure.
const FIRST_WAIT: Duration = Duration::from_millis(200);
/// The longest wait after failures.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// The queue. Its size is bounded by the number of distinct keys.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`.
    waiting: HashSet<K>,
    /// Keys that somebody works on; true: came in again meanwhile.
    working: HashMap<K, bool>,
    /// The earliest moment asked for, by key; entries of `timers` that differ are void.
    due: HashMap<K, Instant>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    timer_keys: HashMap<u64, K>,
    sequence: u64,
    failures: HashMap<K, u32>,
}

impl<K: Clone + Eq + Hash> Queue<K> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State::new()),
            changed: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks for a key to be worked on now.
    pub(crate) fn add(&self, key: K) {
        if self.lock().add(key) {
            self.changed.notify_one();
        }
    }

    /// The next key; the caller must call [`Queue::done`] with it.
    pub(crate) async fn next(&self) -> K {
        loop {
            let wake = {
                let mut state = self.lock();
                if let Some(key) = state.take(Instant::now()) {
                    if !state.ready.is_empty() || !state.timers.is_empty() {
                        // Another worker takes the rest, or minds the timers.
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.timers.peek().map(|Reverse((at, _))| *at)
            };
            match wake {
                None => self.changed.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = self.changed.notified() => {}
                        () = tokio::time::sleep_until(at) => {}
                    }
                }
            }
        }
    }

    /// Says that the work on a key ended: well, to be looked at again after a
    /// while, or failed (then it comes again with a growing delay, which is returned).
    pub(crate) fn done(&self, key: K, outcome: Outcome) -> Option<Duration> {
        let mut state = self.lock();
        let delay = state.done(key, outcome, Instant::now());
        drop(state);
        self.changed.notify_one();
        delay
    }
}

/// How the work on a key ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Well; look again after this long, if given.
    Done(Option<Duration>),
    /// It failed and should be tried again.
    Failed,
}

impl<K: Clone + Eq + Hash> State<K> {
    fn new() -> Self {
        Self {
            ready: VecDeque::new(),
            waiting: HashSet::new(),
            working: HashMap::new(),
            due: HashMap::new(),
            timers: BinaryHeap::new(),
            timer_keys: HashMap::new(),
            sequence: 0,
            failures: HashMap::new(),
        }
    }

    /// Returns whether this comes before what was asked for until now.
    fn add_at(&mut self, key: K, at: Instant) -> bool {
        if self.due.get(&key).is_some_and(|before| *before <= at) {
            return false;
        }
        self.due.insert(key.clone(), at);
        self.timers.push(Reverse((at, self.sequence)));
        self.timer_keys.insert(self.sequence, key);
        self.sequence += 1;
        true
    }

    fn take(&mut self, now: Instant) -> Option<K> {
        self.fire(now);
        let key = self.ready.pop_front()?;
        self.waiting.remove(&key);
        self.working.insert(key.clone(), false);
        Some(key)
    }

    fn done(&mut self, key: K, outcome: Outcome, now: Instant) -> Option<Duration> {
        if self.working.remove(&key).unwrap_or(false) {
            self.add(key.clone());
        }
        let delay = match outcome {
            Outcome::Done(after) => {
                self.failures.remove(&key);
                after
            }
            Outcome::Failed => {
                let failures = self.failures.entry(key.clone()).or_insert(0);
                let wait = FIRST_WAIT
                    .saturating_mul(1 << (*failures).min(10))
                    .min(LONGEST_WAIT);
                *failures += 1;
                Some(wait)
            }
        };
        if let Some(delay) = delay {
            self.add_at(key, now + delay);
        }
        delay
    }

    /// Returns whether a worker has something new to do.
    fn add(&mut self, key: K) -> bool {
        if let Some(again) = self.working.get_mut(&key) {
            *again = true;
            return false;
        }
        if !self.waiting.insert(key.clone()) {
            return false;
        }
        self.ready.push_back(key);
        true
    }

    fn fire(&mut self, now: Instant) {
        while let Some(Reverse((at, sequence))) = self.timers.peek().copied() {
            let Some(key) = self.timer_keys.get(&sequence) else {
                self.timers.pop();
                continue;
            };
            // A later timer whose key was asked for earlier since.
            let void = self.due.get(key) != Some(&at);
            if !void && at > now {
                return;
            }
            self.timers.pop();
            if let Some(key) = self.timer_keys.remove(&sequence)
                && !void
            {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[tokio::test]
    async fn a_key_is_given_once_however_often_it_was_added() {
        let queue = Queue::new();
        queue.add("a");
        queue.add("a");
        queue.add("b");
        assert_eq!(queue.next().await, "a");
        assert_eq!(queue.next().await, "b");
        // Added while in work: again afterwards, not before.
        queue.add("a");
        assert_eq!(queue.lock().take(Instant::now()), None);
        queue.done("a", Outcome::Done(None));
        assert_eq!(queue.next().await, "a");
    }

    #[tokio::test]
    async fn who_waits_is_woken_by_a_timer() {
        let queue = Queue::new();
        queue
            .lock()
            .add_at("a", Instant::now() + Duration::from_millis(20));
        assert_eq!(queue.next().await, "a");
    }

    #[test]
    fn the_earliest_delay_counts() {
        let mut state = State::new();
        let start = Instant::now();
        for delay in [50, 5, 20] {
            state.add_at("a", start + seconds(delay));
        }
        assert_eq!(state.take(start + seconds(4)), None);
        assert_eq!(state.take(start + seconds(5)), Some("a"));
        state.done("a", Outcome::Done(None), start);
        assert_eq!(
            state.take(start + seconds(100)),
            None,
            "the void timers do nothing"
        );
        assert!(state.timers.is_empty() && state.timer_keys.is_empty());
    }

    #[test]
    fn failures_wait_longer_and_longer() {
        let mut state = State::new();
        let mut now = Instant::now();
        state.add("a");
        let mut waits = Vec::new();
        for _ in 0..12 {
            let key = state.take(now).unwrap();
            let wait = state.done(key, Outcome::Failed, now).unwrap();
            now += wait;
            waits.push(wait);
        }
        assert!(waits.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(waits[0], FIRST_WAIT);
        assert_eq!(waits[11], LONGEST_WAIT);
        let key = state.take(now).unwrap();
        assert_eq!(state.done(key, Outcome::Done(None), now), None);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_and_nothing_worked_on_twice(
            steps in prop::collection::vec((0u8..4, 0u8..5, 0u64..10), 0..200),
        ) {
            let mut state = State::new();
            let mut now = Instant::now();
            let mut working: Vec<u8> = Vec::new();
            let mut wanted: HashSet<u8> = HashSet::new();
            for (step, key, delay) in steps {
                match step {
                    0 => { state.add(key); wanted.insert(key); }
                    1 => { state.add_at(key, now + seconds(delay)); wanted.insert(key); }
                    2 => if let Some(key) = state.take(now) {
                        prop_assert!(!working.contains(&key));
                        wanted.remove(&key);
                        working.push(key);
                    },
                    _ => if let Some(key) = working.pop() {
                        state.done(key, Outcome::Done(None), now);
                    },
                }
                now += seconds(delay % 3);
            }
            for key in working {
                state.done(key, Outcome::Done(None), now);
            }
            now += seconds(100);
            let mut given = HashSet::new();
            while let Some(key) = state.take(now) {
                given.insert(key);
                state.done(key, Outcome::Done(None), now);
            }
            prop_assert!(given.is_superset(&wanted), "{given:?} {wanted:?}");
        }
    }
}
