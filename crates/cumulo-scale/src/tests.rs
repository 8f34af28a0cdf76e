//! What must always hold, and the stories of single services.

use super::*;
use proptest::prelude::*;

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn policy(min: u32, max: u32) -> Policy {
    Policy {
        min,
        max,
        ..Policy::default()
    }
}

/// A service driven second by second: what it carries each second → replicas.
fn drive(policy: &Policy, start: u32, load: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let mut state = State::new(Duration::ZERO);
    let mut current = start;
    let mut total = 0;
    let mut last = None;
    let mut area = 0.0;
    load.into_iter()
        .enumerate()
        .map(|(second, concurrency)| {
            let now = seconds(second as u64);
            total += u64::from(concurrency);
            if concurrency > 0 {
                last = Some(now);
            }
            let demand = Demand {
                in_flight: concurrency.min(current * 10),
                queued: concurrency - concurrency.min(current * 10),
                requests_total: total,
                idle_for: last.map(|last| now - last),
                concurrency_seconds: Some(area),
            };
            area += f64::from(concurrency);
            current = decide(&mut state, &demand, policy, current, now).replicas;
            current
        })
        .collect()
}

#[test]
fn a_waiting_request_wakes_at_once() {
    let mut state = State::new(Duration::ZERO);
    let demand = Demand {
        queued: 1,
        requests_total: 1,
        ..Demand::default()
    };
    let decision = decide(&mut state, &demand, &policy(0, 8), 0, seconds(500));
    assert_eq!((decision.replicas, decision.reason), (1, Reason::WakeUp));
}

#[test]
fn a_burst_from_zero_gets_what_carries_it() {
    let mut state = State::new(Duration::ZERO);
    let demand = Demand {
        queued: 45,
        requests_total: 45,
        ..Demand::default()
    };
    let decision = decide(&mut state, &demand, &policy(0, 8), 0, seconds(500));
    assert_eq!(decision.replicas, 5);
    let decision = decide(&mut state, &demand, &policy(0, 3), 0, seconds(501));
    assert_eq!((decision.replicas, decision.reason), (3, Reason::Maximum));
}

#[test]
fn sleeps_after_the_idle_time_and_not_before() {
    let replicas = drive(&policy(0, 8), 1, std::iter::once(1).chain([0; 70]));
    assert_eq!(replicas[59], 1);
    assert_eq!(replicas[60], 0);
    assert!(replicas[61..].iter().all(|n| *n == 0));
}

#[test]
fn the_next_check_is_the_moment_of_sleep_and_none_afterwards() {
    let mut state = State::new(Duration::ZERO);
    let policy = policy(0, 8);
    let quiet = Demand {
        requests_total: 1,
        idle_for: Some(seconds(10)),
        concurrency_seconds: Some(0.1),
        ..Demand::default()
    };
    let decision = decide(&mut state, &quiet, &policy, 1, seconds(10));
    assert_eq!((decision.replicas, decision.reason), (1, Reason::KeptWarm));
    assert_eq!(decision.next_check, Some(seconds(50)));
    let quiet = Demand {
        idle_for: Some(seconds(60)),
        ..quiet
    };
    let decision = decide(&mut state, &quiet, &policy, 1, seconds(60));
    assert_eq!((decision.replicas, decision.reason), (0, Reason::Idle));
    assert_eq!(decision.next_check, None);
}

#[test]
fn a_minimum_never_sleeps_nor_is_looked_at_in_vain() {
    let mut state = State::new(Duration::ZERO);
    let decision = decide(
        &mut state,
        &Demand::default(),
        &policy(1, 4),
        1,
        seconds(900),
    );
    assert_eq!(
        decision,
        Decision {
            replicas: 1,
            reason: Reason::Minimum,
            next_check: None
        }
    );
}

#[test]
fn a_burst_grows_at_once_and_shrinks_after_the_window() {
    let load = std::iter::repeat_n(5, 60)
        .chain(std::iter::repeat_n(70, 20))
        .chain(std::iter::repeat_n(5, 150));
    let replicas = drive(&policy(0, 8), 1, load);
    assert_eq!(replicas[59], 1);
    assert_eq!(replicas[60], 7, "{replicas:?}");
    assert_eq!(replicas[79], 7);
    assert_eq!(replicas[100], 7, "not down while the burst may come back");
    assert_eq!(*replicas.last().unwrap(), 1);
}

#[test]
fn a_rate_target_counts_arrivals() {
    let policy = Policy {
        target: Target::RequestsPerSecond(20.0),
        ..policy(1, 8)
    };
    let mut state = State::new(Duration::ZERO);
    let mut current = 1;
    for second in 0..120 {
        let demand = Demand {
            in_flight: 1,
            requests_total: second * 100,
            idle_for: Some(Duration::ZERO),
            ..Demand::default()
        };
        current = decide(&mut state, &demand, &policy, current, seconds(second)).replicas;
    }
    assert_eq!(current, 5);
}

#[test]
fn nonsense_policies_are_refused_with_the_field() {
    assert_eq!(
        policy(3, 2).validate().unwrap_err().to_string(),
        "replicas.min is 3 but replicas.max is 2: min must not be above max"
    );
    assert_eq!(policy(0, 0).validate(), Err(PolicyError::NoReplicas));
    let nan = Policy {
        target: Target::Concurrency(f64::NAN),
        ..policy(0, 1)
    };
    assert!(nan.validate().is_err());
    assert_eq!(policy(0, 1).validate(), Ok(()));
}

fn policies() -> impl Strategy<Value = Policy> {
    (
        0u32..4,
        1u32..20,
        1u32..40,
        1u64..120,
        1u64..120,
        0u64..60,
        any::<bool>(),
    )
        .prop_map(|(min, more, target, window, idle, delay, rate)| Policy {
            min,
            max: min + more,
            target: if rate {
                Target::RequestsPerSecond(f64::from(target))
            } else {
                Target::Concurrency(f64::from(target))
            },
            stable_window: seconds(window),
            panic_window: Duration::from_millis(window * 100),
            scale_to_zero_after: seconds(idle),
            scale_down_delay: seconds(delay),
            ..Policy::default()
        })
}

/// Steps of (milliseconds since the last, in flight, queued, requests arrived).
fn histories() -> impl Strategy<Value = Vec<(u64, u32, u32, u64)>> {
    prop::collection::vec((0u64..20_000, 0u32..60, 0u32..60, 0u64..200), 1..60)
}

proptest! {
    #[test]
    fn always_inside_the_bounds_and_zero_only_when_idle(
        policy in policies(), history in histories(), mut current in 0u32..30,
    ) {
        let mut state = State::new(Duration::ZERO);
        let (mut now, mut total) = (Duration::ZERO, 0);
        for (milliseconds, in_flight, queued, arrived) in history {
            now += Duration::from_millis(milliseconds);
            total += arrived;
            let demand = Demand { in_flight, queued, requests_total: total, ..Demand::default() };
            let decision = decide(&mut state, &demand, &policy, current, now);
            prop_assert!(decision.replicas >= policy.min && decision.replicas <= policy.max);
            if decision.replicas == 0 {
                prop_assert_eq!(demand.concurrency(), 0);
                prop_assert!(current == 0 || state.idle_for(now) >= policy.scale_to_zero_after);
            }
            if queued > 0 {
                prop_assert!(decision.replicas >= current.clamp(policy.min, policy.max));
            }
            if demand.concurrency() > 0 && policy.min != policy.max {
                prop_assert!(decision.next_check.is_some());
            }
            prop_assert!(decision.next_check != Some(Duration::ZERO), "no busy loop");
            current = decision.replicas;
        }
    }

    #[test]
    fn more_demand_never_means_fewer_replicas(
        policy in policies(), history in histories(), current in 0u32..30,
        more in 0u32..40, requests in 0u64..100,
    ) {
        let mut low = State::new(Duration::ZERO);
        let mut high = low.clone();
        let (mut now, mut total) = (Duration::ZERO, 0);
        for (milliseconds, in_flight, queued, arrived) in history {
            now += Duration::from_millis(milliseconds);
            total += arrived;
            let demand = Demand { in_flight, queued, requests_total: total, ..Demand::default() };
            let bigger = Demand {
                in_flight: in_flight + more,
                requests_total: total + requests,
                ..demand
            };
            let less = decide(&mut low, &demand, &policy, current, now).replicas;
            let greater = decide(&mut high, &bigger, &policy, current, now).replicas;
            prop_assert!(greater >= less, "{greater} < {less}");
        }
    }

    #[test]
    fn constant_demand_settles_and_stays(
        policy in policies(), concurrency in 0u32..200, rate in 0u64..300,
    ) {
        let mut state = State::new(Duration::ZERO);
        let mut current = policy.min;
        let mut changes_after_settling = 0;
        for second in 0..600u64 {
            let ready = current * 10;
            let demand = Demand {
                in_flight: concurrency.min(ready),
                queued: concurrency.saturating_sub(ready),
                requests_total: rate * second,
                idle_for: (rate == 0).then(|| seconds(second)),
                concurrency_seconds: Some(f64::from(concurrency) * second as f64),
            };
            let before = current;
            current = decide(&mut state, &demand, &policy, current, seconds(second)).replicas;
            if second > 300 && before != current {
                changes_after_settling += 1;
            }
        }
        prop_assert_eq!(changes_after_settling, 0);
    }

    #[test]
    fn the_memory_is_bounded(steps in 1u64..3000) {
        let mut state = State::new(Duration::ZERO);
        let policy = policy(0, 4);
        for step in 0..steps {
            let demand = Demand { in_flight: 1, requests_total: step, ..Demand::default() };
            decide(&mut state, &demand, &policy, 1, Duration::from_millis(step));
        }
        prop_assert!(state.remembered() <= 600);
    }
}
