use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const NOW: Duration = Duration::from_secs(1);

#[test]
fn least_busy_first_and_equal_ones_take_turns() {
    let mut dispatcher = Dispatcher::new(10, 10);
    dispatcher.set_replicas(NOW, &[1, 2]);
    let taken: Vec<Admission> = (0..4).map(|_| dispatcher.admit(NOW)).collect();
    assert_eq!(taken, [1, 2, 1, 2].map(Admission::Granted));
    dispatcher.release(NOW, 2);
    dispatcher.release(NOW, 2);
    assert_eq!(dispatcher.admit(NOW), Admission::Granted(2));
}

#[test]
fn waits_without_replica_and_is_granted_in_order() {
    let mut dispatcher = Dispatcher::new(1, 2);
    assert_eq!(dispatcher.admit(NOW), Admission::Queued(0));
    assert_eq!(dispatcher.admit(NOW), Admission::Queued(1));
    assert_eq!(dispatcher.admit(NOW), Admission::Full { replicas: 0 });
    let first = Grant {
        ticket: 0,
        replica: 7,
    };
    assert_eq!(dispatcher.set_replicas(NOW, &[7]), [first]);
    let second = Grant {
        ticket: 1,
        replica: 7,
    };
    assert_eq!(dispatcher.release(NOW, 7), [second]);
    assert!(dispatcher.release(NOW, 7).is_empty());
    assert_eq!(dispatcher.counts().in_flight, 0);
}

#[test]
fn an_unreachable_replica_is_passed_over_for_a_moment() {
    let mut dispatcher = Dispatcher::new(10, 10);
    dispatcher.set_replicas(NOW, &[1]);
    assert_eq!(dispatcher.admit(NOW), Admission::Granted(1));
    dispatcher.failed(NOW, 1);
    dispatcher.release(NOW, 1);
    assert!(matches!(dispatcher.readmit(NOW), Admission::Queued(_)));
    assert!(dispatcher.penalised(NOW));
    let later = NOW + PENALTY;
    assert!(!dispatcher.penalised(later));
    assert_eq!(dispatcher.readmit(later), Admission::Granted(1));
}

#[derive(Debug, Clone)]
enum Step {
    Admit,
    Release(usize),
    Cancel(usize),
    Replicas(Vec<ReplicaId>),
    Fail(ReplicaId),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let replicas = proptest::collection::btree_set(1u64..6, 0..5);
    let step = prop_oneof![
        6 => Just(Step::Admit),
        4 => (0usize..100).prop_map(Step::Release),
        1 => (0usize..100).prop_map(Step::Cancel),
        1 => replicas.prop_map(|ids| Step::Replicas(ids.into_iter().collect())),
        1 => (1u64..6).prop_map(Step::Fail),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    /// Whatever happens: no replica has more than its places, the queue keeps its
    /// bound, no ticket is granted twice, nobody waits while a place is free,
    /// and the counts are those of the model.
    #[test]
    fn places_are_exact(steps in steps()) {
        let (places, bound) = (3, 5);
        let mut dispatcher = Dispatcher::new(places, bound);
        let mut working: Vec<ReplicaId> = Vec::new();
        let mut waiting: BTreeSet<Ticket> = BTreeSet::new();
        let mut replicas: Vec<ReplicaId> = Vec::new();
        let mut now = NOW;
        let mut grants = Vec::new();
        let mut fresh: ReplicaId = 0;
        for step in steps {
            now += Duration::from_millis(10);
            match step {
                Step::Admit => match dispatcher.admit(now) {
                    Admission::Granted(id) => working.push(id),
                    Admission::Queued(ticket) => prop_assert!(waiting.insert(ticket)),
                    Admission::Full { .. } => prop_assert_eq!(waiting.len(), bound),
                },
                Step::Release(index) if !working.is_empty() => {
                    let id = working.swap_remove(index % working.len());
                    grants = dispatcher.release(now, id);
                }
                Step::Release(_) => {}
                Step::Cancel(index) => {
                    if let Some(ticket) = waiting.iter().nth(index % waiting.len().max(1)).copied() {
                        waiting.remove(&ticket);
                        prop_assert!(dispatcher.cancel(now, ticket));
                        prop_assert!(!dispatcher.cancel(now, ticket));
                    }
                }
                Step::Replicas(ids) => {
                    // A replica that left never comes back under its old number.
                    let mut next: Vec<ReplicaId> = Vec::new();
                    for id in ids {
                        let known = replicas.iter().find(|known| *known % 10 == id).copied();
                        next.push(known.unwrap_or_else(|| { fresh += 10; fresh + id }));
                    }
                    replicas = next;
                    grants = dispatcher.set_replicas(now, &replicas);
                }
                Step::Fail(id) => {
                    let id = replicas.iter().find(|known| *known % 10 == id).copied();
                    dispatcher.failed(now, id.unwrap_or_default());
                }
            }
            for grant in grants.drain(..) {
                prop_assert!(waiting.remove(&grant.ticket));
                prop_assert!(replicas.contains(&grant.replica));
                working.push(grant.replica);
            }
            let counts = dispatcher.counts();
            prop_assert_eq!(counts.in_flight, working.len());
            prop_assert_eq!(counts.queued, waiting.len());
            prop_assert!(waiting.len() <= bound);
            let mut busy: BTreeMap<ReplicaId, usize> = BTreeMap::new();
            for id in &working {
                *busy.entry(*id).or_default() += 1;
            }
            prop_assert!(busy.values().all(|count| *count <= places));
            if !waiting.is_empty() && !dispatcher.penalised(now) {
                // A penalty may just have run out; asking again then grants.
                let again = dispatcher.set_replicas(now, &replicas);
                for grant in again {
                    prop_assert!(waiting.remove(&grant.ticket));
                    working.push(grant.replica);
                }
                let free = dispatcher.slots.iter().any(|slot| slot.in_flight < places);
                prop_assert!(waiting.is_empty() || !free);
            }
            prop_assert!(dispatcher.slots.iter().all(|slot| slot.in_flight <= places));
        }
    }
}
