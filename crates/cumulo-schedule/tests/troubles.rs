//! Troubles of other schedulers' users that `solver_troubles.rs` does not have.
//!
//! | reported | test |
//! | --- | --- |
//! | Volcano #4643: gangs are never reclaimed | `a_gang_does_not_block_reclaim` |
//! | Volcano #5805: half a gang is stranded | `solver_troubles.rs`, `half_a_gang_is_never_placed` |
//! | Kueue #10815: scattered preemption | `solver_troubles.rs`, `preemption_frees_gpus_in_one_domain` |
//! | Kueue #4329: quota without a node | `solver_troubles.rs`, `quota_without_a_node_admits_nothing` |
//!
//! Those about memory and profiles are with the node agent's devices
//! (`crates/cumulo-node/src/devices/trouble_tests.rs`).

mod solver_common;

use std::collections::BTreeMap;

use cumulo_schedule::solver::{
    Action, Cause, DevicePart, DeviceRequest, Job, Part, Placed, Placement, Problem, Queue, Quota,
    Running,
};
use solver_common::{asking, problem, racks, running, runs, solved};

/// Two nodes of four GPUs, of which each of two queues owns four.
fn two_queues() -> Problem {
    let mut asked = problem(racks(2, 4), Vec::new());
    let owned = |name| {
        let queue = Queue::new(name).under("all");
        queue.quota("standard", "gpu", Quota::nominal(4000))
    };
    asked.queues = vec![Queue::new("all"), owned("lender"), owned("borrower")];
    asked
}

/// A running gang with a GPU for each pod: `(node, device)`.
fn gang(name: &str, queue: &str, places: &[(usize, usize)]) -> Running {
    let count = u32::try_from(places.len()).expect("few");
    let mut job = Job::gang(name, queue, asking(DeviceRequest::whole(1)), count, count);
    job.preemptible = true;
    job.priority = 9;
    let pods = places.iter().map(|(node, device)| Placed {
        member: 0,
        placement: Placement {
            node: *node,
            devices: vec![DevicePart {
                request: 0,
                device: *device,
                part: Part::Whole,
            }],
        },
    });
    Running {
        job,
        pods: pods.collect(),
        start: 0,
        checkpoint: None,
    }
}

/// Volcano #4643: a gang with no pod above its minimum was never reclaimed, so that the
/// owner of the quota waited for good. It ends whole, and only where it must.
#[test]
fn a_gang_does_not_block_reclaim() {
    let mut asked = two_queues();
    // What the borrower owns and nobody may end, and beyond that a gang of four.
    asked.running = (0..4)
        .map(|at| running(&format!("own-{at}"), "borrower", 9, 0, &[at]))
        .collect();
    for own in &mut asked.running {
        own.job.preemptible = false;
    }
    let borrowed = gang("gang", "borrower", &[(1, 0), (1, 1), (1, 2), (1, 3)]);
    asked.running.push(borrowed);
    asked.waiting = vec![Job::pod("job", "lender", asking(DeviceRequest::whole(4)))];
    let solution = solved(&asked);
    assert!(runs(&solution, 0), "{:?}", solution.waits);
    let mut ended: BTreeMap<&str, usize> = BTreeMap::new();
    for action in &solution.actions {
        if let Action::Preempt { job, pods, .. } = action {
            *ended.entry(&asked.running[*job].job.name).or_default() += pods.len();
        }
    }
    assert_eq!(ended, BTreeMap::from([("gang", 4)]));

    // The gang is within what its queue owns: then it is left alone.
    let mut asked = two_queues();
    asked.running = vec![
        gang("gang", "borrower", &[(1, 0), (1, 1), (1, 2), (1, 3)]),
        running("lent", "lender", 9, 0, &[0]),
    ];
    asked.waiting = vec![Job::pod("job", "lender", asking(DeviceRequest::whole(4)))];
    let solution = solved(&asked);
    assert!(!runs(&solution, 0));
    assert!(solution.actions.is_empty());
    assert_eq!(solution.waits[0].cause, Cause::Quota);
}
