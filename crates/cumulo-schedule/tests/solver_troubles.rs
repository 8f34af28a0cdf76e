//! The troubles that users of other schedulers report, one test each.

mod solver_common;

use cumulo_schedule::solver::{
    Action, Ask, Cause, DevicePart, DeviceRequest, Instance, Job, JobRef, Locality, Part, Placed,
    Placement, Queue, Quota, Running, Sharing, solve,
};
use solver_common::{
    GIB, MIB, after, asking, gpus, mig, node, problem, profile, racks, running, runs, shared,
    solved,
};

fn linked(count: u32) -> DeviceRequest {
    DeviceRequest {
        models: vec!["A100".to_owned()],
        within: Some(Locality::Link),
        ..DeviceRequest::whole(count)
    }
}

/// HAMi #1074: a request of the whole device's profile never scheduled.
#[test]
fn a_profile_equal_to_the_device_is_one_whole_device() {
    for ask in [
        Ask::Profile("7g.80gb".to_owned()),
        Ask::Whole,
        Ask::Memory(81_920 * MIB),
    ] {
        let job = Job::pod("job", "", asking(DeviceRequest::one(ask)));
        let solution = solved(&problem(vec![node("n", vec![mig("gpu", &[])])], vec![job]));
        let part = &solution
            .bound(JobRef::Waiting(0))
            .next()
            .expect("it fits")
            .placement
            .devices[0]
            .part;
        assert_eq!(
            *part,
            Part::Partition {
                profile: "7g.80gb".to_owned(),
                start: 0
            }
        );
    }
    let job = Job::pod(
        "job",
        "",
        asking(DeviceRequest::one(Ask::Share {
            milli: 1000,
            memory: Some(80 * GIB),
        })),
    );
    let solution = solved(&problem(
        vec![node("n", vec![shared("gpu", 80 * GIB, 0)])],
        vec![job],
    ));
    let part = &solution
        .bound(JobRef::Waiting(0))
        .next()
        .expect("it fits")
        .placement
        .devices[0]
        .part;
    assert_eq!(*part, Part::Whole);
}

/// KAI #416: 24 × 2000 MiB were admitted on 46068 MiB.
#[test]
fn twenty_four_times_2000_mib_do_not_fit_46068_mib() {
    let job = |at| {
        Job::pod(
            &format!("j{at}"),
            "",
            asking(DeviceRequest::one(Ask::Memory(2000 * MIB))),
        )
    };
    let device = shared("gpu", 46_068 * MIB, 0);
    let solution = solved(&problem(
        vec![node("n", vec![device])],
        (0..24).map(job).collect(),
    ));
    assert_eq!((0..24).filter(|at| runs(&solution, *at)).count(), 23);
    assert_eq!(solution.waits[0].cause, Cause::Capacity);
}

/// KAI #2212: what the driver keeps for itself was given away.
#[test]
fn the_drivers_reserved_memory_is_counted() {
    let job = |at| {
        Job::pod(
            &format!("j{at}"),
            "",
            asking(DeviceRequest::one(Ask::Memory(2000 * MIB))),
        )
    };
    let device = shared("gpu", 46_068 * MIB, 600 * MIB);
    let solution = solved(&problem(
        vec![node("n", vec![device])],
        (0..24).map(job).collect(),
    ));
    assert_eq!((0..24).filter(|at| runs(&solution, *at)).count(), 22);

    let whole = Job::pod(
        "whole",
        "",
        asking(DeviceRequest::one(Ask::Memory(46_068 * MIB))),
    );
    let device = shared("gpu", 46_068 * MIB, 600 * MIB);
    let solution = solved(&problem(vec![node("n", vec![device])], vec![whole]));
    assert_eq!(solution.waits[0].cause, Cause::Infeasible);
}

/// Each MPS client's context takes memory beside what its pod asks.
#[test]
fn contexts_of_shared_devices_are_counted() {
    let job = |at| {
        Job::pod(
            &format!("j{at}"),
            "",
            asking(DeviceRequest::one(Ask::Memory(10 * GIB))),
        )
    };
    let mut device = shared("gpu", 40 * GIB, 0);
    device.sharing = Sharing::Mps {
        clients: 48,
        overhead: 500 * MIB,
    };
    let solution = solved(&problem(
        vec![node("n", vec![device])],
        (0..4).map(job).collect(),
    ));
    assert_eq!((0..4).filter(|at| runs(&solution, *at)).count(), 3);
}

/// Volcano #5805: half a gang held its place for good.
#[test]
fn half_a_gang_is_never_placed() {
    let gang = Job::gang("gang", "", asking(DeviceRequest::whole(1)), 5, 5);
    let small = Job::pod("small", "", asking(DeviceRequest::whole(4)));
    let solution = solved(&problem(racks(1, 4), vec![gang, small]));
    assert!(!runs(&solution, 0));
    assert!(runs(&solution, 1), "what the gang cannot use is not held");

    // Elastic: as many as there are, from the minimum on.
    let gang = Job::gang("gang", "", asking(DeviceRequest::whole(1)), 2, 9);
    let solution = solved(&problem(racks(1, 4), vec![gang]));
    assert_eq!(solution.bound(JobRef::Waiting(0)).count(), 4);
}

/// Kueue #10815: preemption freed scattered GPUs and the job still waited.
#[test]
fn preemption_frees_gpus_in_one_domain() {
    let mut nodes = vec![node("a", gpus("A100", 4, 2)), node("b", gpus("A100", 4, 2))];
    nodes[1].devices[3].model = "V100".to_owned();
    // One link domain holds two jobs of two; the others one device each.
    let mut work = vec![
        running("a0", "", 0, 0, &[0]),
        running("a2", "", 0, 0, &[2]),
        running("a3", "", 0, 0, &[3]),
        running("b0", "", 0, 1, &[0]),
        running("b2", "", 0, 1, &[2]),
        running("b1", "", 5, 1, &[1]),
        running("a1", "", 5, 0, &[1]),
    ];
    for (at, running) in work.iter_mut().enumerate() {
        running.start = 1000 * u64::try_from(at).expect("few");
    }
    let mut job = Job::pod("job", "", asking(linked(2)));
    job.priority = 3;
    let mut asked = problem(nodes, vec![job]);
    asked.running = work;
    let solution = solved(&asked);
    assert!(runs(&solution, 0));
    let ended: Vec<&str> = solution
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Preempt { job, .. } => Some(asked.running[*job].job.name.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(
        ended,
        ["a2", "a3"],
        "the only domain that lower priorities hold alone"
    );
}

#[test]
fn nothing_ends_when_that_would_not_help() {
    let mut asked = problem(vec![node("a", gpus("A100", 4, 2))], Vec::new());
    asked.running = vec![
        running("a0", "", 0, 0, &[0]),
        running("a1", "", 9, 0, &[1]),
        running("a2", "", 0, 0, &[2]),
        running("a3", "", 9, 0, &[3]),
    ];
    let mut job = Job::pod("job", "", asking(linked(2)));
    job.priority = 5;
    asked.waiting.push(job);
    let solution = solved(&asked);
    assert!(solution.actions.is_empty());
    assert_eq!(solution.waits[0].cause, Cause::Capacity);
}

#[test]
fn the_fewest_pods_with_the_least_lost_work_end() {
    let mut asked = problem(vec![node("a", gpus("A100", 4, 4))], Vec::new());
    asked.running = vec![
        running("long", "", 0, 0, &[0]),
        running("saved", "", 0, 0, &[1]),
        running("young", "", 0, 0, &[2]),
        running("two", "", 0, 0, &[3]),
    ];
    asked.running[1].checkpoint = Some(9_990);
    asked.running[2].start = 9_900;
    let mut job = Job::pod("job", "", asking(DeviceRequest::whole(1)));
    job.priority = 5;
    asked.waiting.push(job);
    let solution = solved(&asked);
    let Action::Preempt { job, reason, .. } = &solution.actions[0] else {
        panic!("{:?}", solution.actions)
    };
    assert_eq!(asked.running[*job].job.name, "saved");
    assert_eq!(
        reason,
        "ending 1 pod of saved (priority 0, 10 s since its last checkpoint) lets job (priority 5) run"
    );
}

/// Kueue #4329: work was admitted that fits the quota but no node.
#[test]
fn quota_without_a_node_admits_nothing() {
    let job = Job::pod("job", "q", asking(DeviceRequest::whole(8)));
    let mut asked = problem(racks(4, 4), vec![job]);
    asked.queues = vec![Queue::new("q").quota("standard", "gpu", Quota::nominal(32_000))];
    let solution = solved(&asked);
    assert_eq!(solution.waits[0].cause, Cause::Infeasible);
    assert_eq!(
        solution.waits[0].reason,
        "needs 8 GPU on one node; free: 16, at most 4 on one node; \
         no set of nodes would hold it even if nothing ran"
    );
}

/// HAMi #1181: accounting went below zero and the device took no more work.
#[test]
fn shares_that_are_given_back_do_not_underflow() {
    let share = |milli| {
        DeviceRequest::one(Ask::Share {
            milli,
            memory: None,
        })
    };
    let job = |at, milli| {
        let mut job = Job::pod(&format!("j{at}"), "", asking(share(milli)));
        job.estimate = Some(100);
        job
    };
    // Three thirds, rounded down, and what is left.
    let nodes = vec![node("n", vec![shared("gpu", 46_069 * MIB + 1, 0)])];
    let mut asked = problem(
        nodes,
        vec![job(0, 333), job(1, 333), job(2, 333), job(3, 1), job(4, 1)],
    );
    for round in 0..5 {
        let solution = solved(&asked);
        let started = asked.waiting.len() - solution.waits.len();
        assert_eq!(started, if round == 0 { 4 } else { 1 });
        asked = after(&asked, &solution, 50);
        let name = 10 * (round + 1);
        asked.waiting.push(job(name, 1));
        asked = after(
            &asked,
            &solve(&problem(Vec::new(), Vec::new())).expect("empty"),
            60,
        );
        asked.waiting.truncate(1);
    }
    // A node that shrank under its work is full, not nearly endless.
    let mut over = problem(
        vec![node("n", vec![shared("gpu", 10 * GIB, 0)])],
        vec![job(9, 100)],
    );
    let part = Part::Share {
        milli: 900,
        memory: 12 * GIB,
    };
    let placement = Placement {
        node: 0,
        devices: vec![DevicePart {
            request: 0,
            device: 0,
            part,
        }],
    };
    over.running = vec![Running {
        job: Job::pod("big", "", asking(share(900))),
        pods: vec![Placed {
            member: 0,
            placement,
        }],
        start: 0,
        checkpoint: None,
    }];
    assert_eq!(solved(&over).waits[0].cause, Cause::Capacity);
}

#[test]
fn what_is_scattered_is_told_as_such() {
    let mut asked = problem(vec![node("a", gpus("A100", 6, 2))], Vec::new());
    asked.running = (0..3)
        .map(|at| running(&format!("r{at}"), "", 9, 0, &[2 * at]))
        .collect();
    asked.waiting.push(Job::pod("job", "", asking(linked(2))));
    let solution = solved(&asked);
    assert_eq!(
        solution.waits[0].reason,
        "needs 2 A100 in one NVLink domain; free: 3, in 3"
    );
    assert!(
        solution.waits[0]
            .remedy
            .starts_with("a place is kept for it, free in ")
    );
}

#[test]
fn a_pod_under_which_a_device_is_repartitioned_is_never() {
    // 1g at 0 runs; an idle 3g at 4 must go for a 2g, but 4g cannot come.
    let mut asked = problem(
        vec![node(
            "n",
            vec![mig(
                "gpu",
                &[("1g.10gb", 0), ("3g.40gb", 4), ("1g.10gb", 1)],
            )],
        )],
        Vec::new(),
    );
    let part = Part::Partition {
        profile: "1g.10gb".to_owned(),
        start: 0,
    };
    let placement = Placement {
        node: 0,
        devices: vec![DevicePart {
            request: 0,
            device: 0,
            part,
        }],
    };
    asked.options.reservations = 0;
    asked.running = vec![Running {
        job: Job::pod("small", "", asking(profile("1g.10gb"))),
        pods: vec![Placed {
            member: 0,
            placement,
        }],
        start: 0,
        checkpoint: None,
    }];
    asked.waiting = vec![
        Job::pod("four", "", asking(profile("4g.40gb"))),
        Job::pod("one", "", asking(profile("1g.10gb"))),
        Job::pod("two", "", asking(profile("2g.20gb"))),
        Job::pod("another", "", asking(profile("2g.20gb"))),
    ];
    let solution = solved(&asked);
    assert!(!runs(&solution, 0));
    let one = solution
        .bound(JobRef::Waiting(1))
        .next()
        .expect("an idle instance");
    assert_eq!(
        one.placement.devices[0].part,
        Part::Partition {
            profile: "1g.10gb".to_owned(),
            start: 1
        }
    );
    // The first 2g has room at 2; only the second needs the idle 3g's.
    let removed: Vec<&Instance> = solution
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Repartition { remove, .. } => Some(remove),
            _ => None,
        })
        .flatten()
        .collect();
    assert_eq!(
        removed,
        [&Instance {
            profile: "3g.40gb".to_owned(),
            start: 4
        }]
    );
    assert!(runs(&solution, 2) && runs(&solution, 3));
}
