//! What the owner of a service asked for.

use std::time::Duration;

use crate::Demand;

/// What one replica is meant to carry.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// Requests at the same time.
    Concurrency(f64),
    /// Requests each second.
    RequestsPerSecond(f64),
}

impl Default for Target {
    fn default() -> Self {
        Self::Concurrency(10.0)
    }
}

/// Bounds, target and windows of one service's scaling.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Fewest replicas; zero lets an idle service sleep.
    pub min: u32,
    /// Most replicas.
    pub max: u32,
    /// What one replica is meant to carry.
    pub target: Target,
    /// Demand is averaged over this long in quiet times.
    pub stable_window: Duration,
    /// Demand is averaged over this long to notice a burst.
    pub panic_window: Duration,
    /// A burst is demand of this many times what the replicas can carry.
    pub panic_threshold: f64,
    /// A service without a request for this long goes to zero, if `min` allows.
    pub scale_to_zero_after: Duration,
    /// A number that was wanted is kept for this long before going lower.
    pub scale_down_delay: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            min: 1,
            max: 1,
            target: Target::default(),
            stable_window: Duration::from_secs(60),
            panic_window: Duration::from_secs(6),
            panic_threshold: 2.0,
            scale_to_zero_after: Duration::from_secs(60),
            scale_down_delay: Duration::from_secs(30),
        }
    }
}

/// Why a [`Policy`] cannot be followed.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum PolicyError {
    /// `min` above `max`.
    #[error("replicas.min is {min} but replicas.max is {max}: min must not be above max")]
    Bounds {
        /// The minimum.
        min: u32,
        /// The maximum.
        max: u32,
    },
    /// A maximum of zero would never answer anything.
    #[error("replicas.max is 0: give at least 1")]
    NoReplicas,
    /// A target that is not a positive number.
    #[error("the objective is {0} for each replica: give a number above 0")]
    Target(f64),
    /// A window of no length.
    #[error("{0} is 0 s: give at least 1 ms")]
    Window(&'static str),
}

impl Policy {
    /// Checks that the policy makes sense.
    ///
    /// # Errors
    /// Says which field is wrong and what it may be.
    pub fn validate(&self) -> Result<(), PolicyError> {
        if self.max == 0 {
            return Err(PolicyError::NoReplicas);
        }
        if self.min > self.max {
            return Err(PolicyError::Bounds {
                min: self.min,
                max: self.max,
            });
        }
        let (Target::Concurrency(target) | Target::RequestsPerSecond(target)) = self.target;
        if !target.is_finite() || target <= 0.0 {
            return Err(PolicyError::Target(target));
        }
        for (name, window) in [
            ("the stable window", self.stable_window),
            ("the panic window", self.panic_window),
        ] {
            if window < Duration::from_millis(1) {
                return Err(PolicyError::Window(name));
            }
        }
        Ok(())
    }

    /// How often to look while there is something to look at.
    pub(crate) fn tick(&self) -> Duration {
        (self.panic_window / 3).clamp(Duration::from_millis(100), Duration::from_secs(10))
    }

    /// Replicas that carry a demand measured in the target's unit.
    pub(crate) fn replicas_for(&self, demand: f64) -> u32 {
        let (Target::Concurrency(target) | Target::RequestsPerSecond(target)) = self.target;
        // A hair below the next integer is rounding, not a need for one more.
        let replicas = (demand / target - 1e-9).ceil();
        if replicas.is_nan() || replicas <= 0.0 {
            0
        } else if replicas >= f64::from(u32::MAX) {
            u32::MAX
        } else {
            replicas as u32
        }
    }

    /// Replicas for what is in the system at this moment: with a concurrency
    /// target as many as carry it, with a rate target one (a rate cannot be seen
    /// in a moment).
    pub(crate) fn replicas_at(&self, demand: &Demand) -> u32 {
        match self.target {
            Target::Concurrency(_) => self.replicas_for(f64::from(demand.concurrency())),
            Target::RequestsPerSecond(_) => u32::from(demand.concurrency() > 0),
        }
    }
}
