//! What [`decide`](crate::decide) remembers between two calls.

use std::collections::VecDeque;
use std::time::Duration;

use crate::{Demand, Policy, Target};

/// Most samples kept; older ones are thinned out, never only cut off.
const MOST_SAMPLES: usize = 256;

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Sample {
    at: Duration,
    concurrency: u32,
    /// Integral of the concurrency since the state began.
    area: f64,
    requests: u64,
}

/// The memory of one service's scaling: samples over the stable window, what
/// was wanted lately, and when a burst began. Bounded in size; losing it (a
/// restart) costs nothing but a window without history.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    samples: VecDeque<Sample>,
    /// Last reading of the source's own integral and request count.
    reading: Option<(f64, u64)>,
    /// Falling maxima of what was wanted: (when last wanted, how many).
    wanted: VecDeque<(Duration, u32)>,
    last_activity: Duration,
    panic_until: Option<Duration>,
}

impl State {
    /// A state that begins at `now`; the service counts as used at this moment,
    /// so that a service just made is not put to sleep before it was tried.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            samples: VecDeque::new(),
            reading: None,
            wanted: VecDeque::new(),
            last_activity: now,
            panic_until: None,
        }
    }

    /// How long ago the service was last used.
    #[must_use]
    pub fn idle_for(&self, now: Duration) -> Duration {
        now.saturating_sub(self.last_activity)
    }

    /// Counts the service as used at `now` (it became ready, its model changed).
    pub fn touch(&mut self, now: Duration) {
        self.last_activity = self.last_activity.max(now);
    }

    pub(crate) fn observe(&mut self, demand: &Demand, policy: &Policy, now: Duration) {
        let concurrency = demand.concurrency();
        let (area, requests) = match self.samples.back() {
            None => (0.0, 0),
            Some(last) => {
                let elapsed = now.saturating_sub(last.at).as_secs_f64();
                // Without the source's integral: the mean of both ends.
                let guess = elapsed * (f64::from(last.concurrency) + f64::from(concurrency)) / 2.0;
                let grown = match (self.reading, demand.concurrency_seconds) {
                    // A source that began anew has a smaller reading.
                    (Some((before, _)), Some(reading)) if reading >= before => reading - before,
                    _ => guess,
                };
                let arrived = self.reading.map_or(0, |(_, before)| {
                    demand.requests_total.saturating_sub(before)
                });
                (last.area + grown, last.requests + arrived)
            }
        };
        let arrived = self
            .samples
            .back()
            .is_some_and(|last| requests > last.requests);
        self.reading = Some((
            demand.concurrency_seconds.unwrap_or(0.0),
            demand.requests_total,
        ));
        if concurrency > 0 || (arrived && demand.idle_for.is_none()) {
            self.last_activity = self.last_activity.max(now);
        } else if let Some(idle) = demand.idle_for {
            self.last_activity = self.last_activity.max(now.saturating_sub(idle));
        }

        let sample = Sample {
            at: now,
            concurrency,
            area,
            requests,
        };
        match self.samples.back_mut() {
            // Many notifications in one moment are one sample.
            Some(last) if last.at == now => *last = sample,
            _ => self.samples.push_back(sample),
        }
        // One sample at or before the window's start is kept: the average needs it.
        let start = now.saturating_sub(policy.stable_window.max(policy.panic_window));
        while self.samples.len() > 2 && self.samples[1].at <= start {
            self.samples.pop_front();
        }
        if self.samples.len() > MOST_SAMPLES {
            let last = self.samples.len() - 1;
            let mut index = 0;
            self.samples.retain(|_| {
                let keep = index % 2 == 0 || index == last;
                index += 1;
                keep
            });
        }
    }

    /// Demand in the target's unit, averaged over the window that ends at `now`.
    pub(crate) fn rate(&self, policy: &Policy, window: Duration, now: Duration) -> f64 {
        let (Some(first), Some(last)) = (self.samples.front(), self.samples.back()) else {
            return 0.0;
        };
        let start = now.saturating_sub(window);
        let begin = self
            .samples
            .iter()
            .rev()
            .find(|sample| sample.at <= start)
            .unwrap_or(first);
        let span = last.at.saturating_sub(begin.at).as_secs_f64();
        if span <= 0.0 {
            return match policy.target {
                Target::Concurrency(_) => f64::from(last.concurrency),
                Target::RequestsPerSecond(_) => 0.0,
            };
        }
        match policy.target {
            Target::Concurrency(_) => (last.area - begin.area) / span,
            Target::RequestsPerSecond(_) => {
                // A window that has only begun must not turn one request into a
                // rate of thousands.
                (last.requests - begin.requests) as f64
                    / span.max(policy.panic_window.as_secs_f64())
            }
        }
    }

    /// Whether a burst is on: it starts when the demand is far above what
    /// `current` can carry and lasts until a stable window has passed without.
    pub(crate) fn panicking(
        &mut self,
        wanted: u32,
        current: u32,
        policy: &Policy,
        now: Duration,
    ) -> bool {
        if current > 0 && f64::from(wanted) >= policy.panic_threshold * f64::from(current) {
            self.panic_until = Some(now + policy.stable_window);
        }
        match self.panic_until {
            Some(until) if now < until => true,
            _ => {
                self.panic_until = None;
                false
            }
        }
    }

    /// The most that was wanted inside the scale-down delay, `wanted` included.
    pub(crate) fn recent_most(&mut self, wanted: u32, policy: &Policy, now: Duration) -> u32 {
        while self.wanted.back().is_some_and(|(_, most)| *most <= wanted) {
            self.wanted.pop_back();
        }
        self.wanted.push_back((now, wanted));
        let start = now.saturating_sub(policy.scale_down_delay);
        // What was wanted holds for the delay and not a moment longer.
        while self.wanted.len() > 1 && self.wanted.front().is_some_and(|(at, _)| *at <= start) {
            self.wanted.pop_front();
        }
        self.wanted.front().map_or(wanted, |(_, most)| *most)
    }

    /// How many entries are held; for the test that they are bounded.
    #[cfg(test)]
    pub(crate) fn remembered(&self) -> usize {
        self.samples.len() + self.wanted.len()
    }
}
