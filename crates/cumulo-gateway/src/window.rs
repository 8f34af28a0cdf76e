//! The concurrency of the last minutes, in one-second buckets, with no timer.
//!
//! Between two events the concurrency is constant, so its integral is known
//! exactly whenever somebody asks: an event or a question first accounts for the
//! time since the last one.

use std::time::Duration;

/// Seconds that are remembered; longer windows are cut to this.
pub const REMEMBERED_SECONDS: u64 = 600;

#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    /// Integral of the concurrency over this second, in request-seconds.
    busy: f64,
    /// Requests that came in this second.
    requests: u32,
}

/// A ring of one-second buckets. Times are durations since any fixed start.
#[derive(Debug)]
pub struct Window {
    buckets: Vec<Bucket>,
    level: usize,
    last: Duration,
    total: f64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            buckets: vec![Bucket::default(); REMEMBERED_SECONDS as usize],
            level: 0,
            last: Duration::ZERO,
            total: 0.0,
        }
    }
}

impl Window {
    fn bucket(&mut self, second: u64) -> &mut Bucket {
        &mut self.buckets[(second % REMEMBERED_SECONDS) as usize]
    }

    /// Accounts for the time until `now`. Time that goes backwards counts as none.
    fn advance(&mut self, now: Duration) {
        if now <= self.last {
            return;
        }
        let level = self.level as f64;
        self.total += level * (now - self.last).as_secs_f64();
        let (first, end) = (self.last.as_secs(), now.as_secs());
        if end - first >= REMEMBERED_SECONDS {
            // Everything remembered is older than what is accounted for here.
            let full = Bucket {
                busy: level,
                requests: 0,
            };
            self.buckets.fill(full);
            self.bucket(end).busy = level * (now - Duration::from_secs(end)).as_secs_f64();
        } else if first == end {
            self.bucket(end).busy += level * (now - self.last).as_secs_f64();
        } else {
            let rest = Duration::from_secs(first + 1) - self.last;
            self.bucket(first).busy += level * rest.as_secs_f64();
            for second in first + 1..=end {
                let share = if second == end {
                    (now - Duration::from_secs(end)).as_secs_f64()
                } else {
                    1.0
                };
                *self.bucket(second) = Bucket {
                    busy: level * share,
                    requests: 0,
                };
            }
        }
        self.last = now;
    }

    /// The concurrency is `level` from `now` on.
    pub fn set(&mut self, now: Duration, level: usize) {
        self.advance(now);
        self.level = level;
    }

    /// A request came.
    pub fn count(&mut self, now: Duration) {
        self.advance(now);
        let second = self.last.as_secs();
        let bucket = self.bucket(second);
        bucket.requests = bucket.requests.saturating_add(1);
    }

    /// Average concurrency and requests per second over the last `window`, to
    /// the second: the oldest second counts in part.
    pub fn over(&mut self, now: Duration, window: Duration) -> (f64, f64) {
        self.advance(now);
        let now = self.last;
        let window = window.clamp(
            Duration::from_secs(1),
            Duration::from_secs(REMEMBERED_SECONDS - 1),
        );
        let start = now.saturating_sub(window);
        let (mut busy, mut requests) = (0.0, 0.0);
        for second in start.as_secs()..=now.as_secs() {
            let share = if second == start.as_secs() {
                1.0 - start.subsec_nanos() as f64 / 1e9
            } else {
                1.0
            };
            let bucket = *self.bucket(second);
            busy += bucket.busy * share;
            requests += f64::from(bucket.requests) * share;
        }
        let seconds = window.as_secs_f64();
        (busy / seconds, requests / seconds)
    }

    /// The integral of the concurrency since the start, in request-seconds: the
    /// average between two readings is their difference over the time between.
    pub fn total(&mut self, now: Duration) -> f64 {
        self.advance(now);
        self.total
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn constant_concurrency_is_its_own_average() {
        let mut window = Window::default();
        window.set(at(0.5), 3);
        let (average, _) = window.over(at(120.5), at(60.0));
        assert!((average - 3.0).abs() < 1e-9, "{average}");
        window.set(at(120.5), 0);
        let (average, _) = window.over(at(150.5), at(60.0));
        assert!((average - 1.5).abs() < 1e-9, "{average}");
        let (average, _) = window.over(at(100_000.0), at(60.0));
        assert_eq!(average, 0.0);
    }

    #[test]
    fn requests_are_counted_per_second() {
        let mut window = Window::default();
        for step in 0..600 {
            window.count(at(f64::from(step) / 10.0));
        }
        let (_, rate) = window.over(at(60.0), at(30.0));
        assert!((rate - 10.0).abs() < 0.5, "{rate}");
    }

    proptest! {
        /// The buckets hold exactly the integral, whatever the steps.
        #[test]
        fn nothing_is_lost(steps in proptest::collection::vec((0u64..400_000, 0usize..50), 1..60)) {
            let mut window = Window::default();
            let (mut now, mut level, mut total) = (Duration::ZERO, 0usize, 0.0f64);
            let mut history = Vec::new();
            for (milliseconds, next) in steps {
                let later = now + Duration::from_millis(milliseconds);
                total += level as f64 * (later - now).as_secs_f64();
                history.push((now, later, level));
                window.set(later, next);
                (now, level) = (later, next);
            }
            prop_assert!((window.total(now) - total).abs() < 1e-6 * total.max(1.0));
            // Against the definition, over a whole number of seconds.
            let now = Duration::from_secs(now.as_secs() + 1);
            history.push((history.last().map_or(Duration::ZERO, |step| step.1), now, level));
            let start = now.saturating_sub(Duration::from_secs(60));
            let exact: f64 = history.iter().map(|(from, to, level)| {
                let (from, to) = ((*from).max(start), (*to).min(now));
                to.saturating_sub(from).as_secs_f64() * *level as f64
            }).sum::<f64>() / 60.0;
            let (average, _) = window.over(now, Duration::from_secs(60));
            prop_assert!((average - exact).abs() < 1e-6, "{average} {exact}");
        }
    }
}
