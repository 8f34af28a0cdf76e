//! Autoscaling as a pure function: from what a service was asked to do to how
//! many replicas it should have. No clock, no I/O, no randomness: time comes in
//! as a [`Duration`] since any fixed origin, demand as a snapshot.
//!
//! [`decide`] is the whole of it. The README beside this crate tells the
//! problem, the idea and a worked example.

mod policy;
mod state;
#[cfg(test)]
mod tests;

pub use policy::{Policy, PolicyError, Target};
pub use state::State;

use std::time::Duration;

/// What the gateway knows of one service at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Demand {
    /// Requests being answered by a replica now.
    pub in_flight: u32,
    /// Requests held because no replica can take them now.
    pub queued: u32,
    /// Requests that ever arrived; never falls while the source lives.
    pub requests_total: u64,
    /// How long ago the last request arrived or ended; `None` when none ever did.
    pub idle_for: Option<Duration>,
    /// Integral of (in flight + queued) over time since the source started, in
    /// request-seconds. With it the averages are exact whatever happened between
    /// two looks; without it they are made of the moments looked at.
    pub concurrency_seconds: Option<f64>,
}

impl Demand {
    /// Requests that are in the system now.
    #[must_use]
    pub fn concurrency(&self) -> u32 {
        self.in_flight.saturating_add(self.queued)
    }
}

/// How many replicas a service should have, why, and when to ask again.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Wanted replicas, always inside the policy's bounds.
    pub replicas: u32,
    /// Why this number.
    pub reason: Reason,
    /// Ask again after this long even if no demand change is reported; `None`
    /// when nothing can change without new demand.
    pub next_check: Option<Duration>,
}

/// Why a [`Decision`] says what it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Requests wait and there was no replica.
    WakeUp,
    /// Demand over the panic window is far above what the replicas can take.
    Burst,
    /// Demand over the stable window sets the number.
    Demand,
    /// Fewer would do, but the number was needed a moment ago.
    Stabilising,
    /// One replica is kept until the service was idle for long enough.
    KeptWarm,
    /// No request for the policy's whole idle time.
    Idle,
    /// The policy's minimum.
    Minimum,
    /// Demand wants more than the policy's maximum.
    Maximum,
}

impl Reason {
    /// The reason as a sentence part for events and status messages.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::WakeUp => "requests are waiting for the first replica",
            Self::Burst => "a burst of requests",
            Self::Demand => "demand over the window",
            Self::Stabilising => "waiting before scaling down",
            Self::KeptWarm => "kept until the service was idle for long enough",
            Self::Idle => "no request for the whole idle time",
            Self::Minimum => "the minimum",
            Self::Maximum => "the maximum; demand wants more",
        }
    }
}

/// Decides how many replicas a service should have.
///
/// `current` is the number of replicas that are wanted now (ready or starting),
/// `now` the time since any fixed origin; it must not run backwards between two
/// calls with the same `state`. The call records the snapshot in `state`, whose
/// size is bounded.
pub fn decide(
    state: &mut State,
    demand: &Demand,
    policy: &Policy,
    current: u32,
    now: Duration,
) -> Decision {
    state.observe(demand, policy, now);

    let stable = policy.replicas_for(state.rate(policy, policy.stable_window, now));
    let panic = policy.replicas_for(state.rate(policy, policy.panic_window, now));
    // What is in the system this moment needs room this moment: averages over a
    // window that has only begun say too little.
    let instant = policy.replicas_at(demand);

    let busy = demand.concurrency() > 0;
    let idle = policy.min == 0 && !busy && state.idle_for(now) >= policy.scale_to_zero_after;

    let needed = stable.max(panic).max(instant);
    let panicking = state.panicking(needed, current, policy, now);
    let (asked, why) = if current == 0 && demand.queued > 0 {
        (needed.max(1), Reason::WakeUp)
    } else if panicking {
        (needed.max(current), Reason::Burst)
    } else {
        (stable, Reason::Demand)
    };
    // The idle time is itself the wait before zero; all other ways down go only
    // to what was the most asked for lately, and never while requests wait.
    let recent = state.recent_most(asked, policy, now);
    let (wanted, reason) = if idle {
        (0, Reason::Idle)
    } else if asked < current && demand.queued > 0 {
        (current, Reason::Stabilising)
    } else if asked < current && recent > asked {
        (recent.min(current), Reason::Stabilising)
    } else if asked == 0 && busy {
        (1, Reason::Demand)
    } else if asked == 0 && current > 0 && policy.min == 0 {
        (1, Reason::KeptWarm)
    } else {
        (asked, why)
    };
    let (wanted, reason) = if wanted > policy.max {
        (policy.max, Reason::Maximum)
    } else if wanted < policy.min {
        (policy.min, Reason::Minimum)
    } else {
        (wanted, reason)
    };

    let next_check = next_check(state, policy, wanted, busy, now);
    Decision {
        replicas: wanted,
        reason,
        next_check,
    }
}

/// The least time after which the same demand could lead to another decision.
fn next_check(
    state: &State,
    policy: &Policy,
    wanted: u32,
    busy: bool,
    now: Duration,
) -> Option<Duration> {
    if policy.min == policy.max {
        return None;
    }
    if busy {
        return Some(policy.tick());
    }
    if wanted <= policy.min {
        return None;
    }
    if wanted > 1 {
        // The averages fall while nothing happens.
        return Some(policy.tick());
    }
    let left = policy
        .scale_to_zero_after
        .saturating_sub(state.idle_for(now));
    Some(left.max(Duration::from_millis(10)))
}
