//! Gangs, backfill, queues, moves and refusals, one example each.

mod solver_common;

use cumulo_schedule::solver::{
    Action, Ask, Cause, Device, DeviceRequest, Job, JobRef, Problem, Queue, Quota, Topology, solve,
};
use solver_common::{asking, gpus, mig, node, problem, racks, running, runs, solved};

#[test]
fn a_gang_lies_in_one_rack_or_waits() {
    let mut gang = Job::gang("gang", "", asking(DeviceRequest::whole(1)), 8, 8);
    gang.topology = Topology {
        required: Some("rack".to_owned()),
        preferred: None,
    };
    let mut asked = problem(racks(4, 4), vec![gang.clone()]);
    asked.levels = vec!["rack".to_owned()];
    asked.running = vec![running("other", "", 9, 0, &[0])];
    let solution = solved(&asked);
    let nodes: Vec<usize> = solution
        .bound(JobRef::Waiting(0))
        .map(|pod| pod.placement.node)
        .collect();
    assert_eq!(nodes.len(), 8);
    assert!(nodes.iter().all(|node| *node >= 2));

    asked.running.push(running("another", "", 9, 3, &[0]));
    assert!(!runs(&solved(&asked), 0));
    // Preferred: rather two racks than waiting.
    asked.waiting[0].topology = Topology {
        required: None,
        preferred: Some("rack".to_owned()),
    };
    assert!(runs(&solved(&asked), 0));
}

#[test]
fn backfill_never_delays_the_head() {
    let mut asked = problem(vec![node("a", gpus("A100", 4, 4))], Vec::new());
    asked.running = vec![running("r", "", 9, 0, &[0, 1])];
    asked.running[0].start = asked.now;
    asked.running[0].job.estimate = Some(1000);
    let mut head = Job::pod("head", "", asking(DeviceRequest::whole(4)));
    head.priority = 5;
    let backfill = |name: &str, estimate| {
        let mut job = Job::pod(name, "", asking(DeviceRequest::whole(1)));
        job.estimate = estimate;
        job
    };
    asked.waiting = vec![
        head,
        backfill("long", Some(1001)),
        backfill("endless", None),
        backfill("short", Some(1000)),
    ];
    let solution = solved(&asked);
    let started: Vec<bool> = (0..4).map(|at| runs(&solution, at)).collect();
    assert_eq!(started, [false, false, false, true]);
    assert_eq!(solution.waits[1].cause, Cause::Reserved(0));
    assert_eq!(
        solution.waits[1].reason,
        "what is free is kept for head, which starts in 16 min"
    );
    assert_eq!(solution.reservations[0].at, asked.now + 1000);
}

#[test]
fn borrowed_quota_is_reclaimed_and_own_is_not() {
    let mut asked = problem(racks(2, 4), Vec::new());
    let quota = || Quota::nominal(4000);
    asked.queues = vec![
        Queue::new("all"),
        Queue::new("a")
            .under("all")
            .quota("standard", "gpu", quota()),
        Queue::new("b")
            .under("all")
            .quota("standard", "gpu", quota()),
    ];
    asked.running = (0..8)
        .map(|at| running(&format!("r{at}"), "a", 9, at / 4, &[at % 4]))
        .collect();
    asked.waiting = (0..6)
        .map(|at| Job::pod(&format!("w{at}"), "b", asking(DeviceRequest::whole(1))))
        .collect();
    let solution = solved(&asked);
    assert_eq!(
        (0..6).filter(|at| runs(&solution, *at)).count(),
        4,
        "b has its four back, and no more"
    );
    let preempted = solution
        .actions
        .iter()
        .filter(|action| matches!(action, Action::Preempt { .. }));
    assert_eq!(preempted.count(), 4);
    assert_eq!(solution.waits[0].cause, Cause::Quota);
    assert_eq!(
        solution.waits[0].reason,
        "the quota of queue b does not reach: needs 1.000 gpu of standard, may still use 0.000"
    );
}

#[test]
fn a_movable_pod_is_moved_rather_than_ended() {
    let mut asked = problem(racks(2, 4), Vec::new());
    asked.options.moves = 2;
    asked.running = vec![running("a", "", 9, 0, &[0]), running("b", "", 9, 1, &[0])];
    asked.running[0].job.movable = true;
    asked.waiting = vec![Job::pod("job", "", asking(DeviceRequest::whole(4)))];
    let solution = solved(&asked);
    assert!(runs(&solution, 0));
    assert!(matches!(&solution.actions[0], Action::Move { job: 0, to, .. } if to.node == 1));
}

#[test]
fn what_waited_past_the_bound_goes_first() {
    let mut asked = problem(vec![node("a", gpus("A100", 1, 1))], Vec::new());
    asked.now = 100_000;
    let mut young = Job::pod("young", "", asking(DeviceRequest::whole(1)));
    young.priority = 100;
    young.arrival = 99_000;
    let old = Job::pod("old", "", asking(DeviceRequest::whole(1)));
    asked.waiting = vec![young, old];
    let solution = solved(&asked);
    assert!(runs(&solution, 1) && !runs(&solution, 0));
}

#[test]
fn queues_share_by_dominant_resource_and_weight() {
    let mut asked = problem(racks(3, 4), Vec::new());
    asked.queues = vec![
        Queue::new("a"),
        Queue {
            weight: 2,
            ..Queue::new("b")
        },
    ];
    for at in 0..12 {
        asked.waiting.push(Job::pod(
            &format!("a{at}"),
            "a",
            asking(DeviceRequest::whole(1)),
        ));
        asked.waiting.push(Job::pod(
            &format!("b{at}"),
            "b",
            asking(DeviceRequest::whole(1)),
        ));
    }
    let solution = solved(&asked);
    let given = |queue: &str| {
        (0..24)
            .filter(|at| asked.waiting[*at].queue == queue && runs(&solution, *at))
            .count()
    };
    assert_eq!((given("a"), given("b")), (4, 8));
}

#[test]
fn a_bad_problem_is_refused_with_what_and_where() {
    let check = |problem: &Problem, expected: &str| {
        assert_eq!(
            solve(problem).expect_err("a bad problem").to_string(),
            expected
        );
    };
    let job = Job::pod("job", "nowhere", asking(DeviceRequest::whole(1)));
    check(
        &problem(racks(1, 1), vec![job]),
        "job is in queue nowhere, which does not exist",
    );
    let job = Job::pod(
        "job",
        "",
        asking(DeviceRequest::one(Ask::Share {
            milli: 1001,
            memory: None,
        })),
    );
    check(
        &problem(racks(1, 1), vec![job]),
        "job: a device share must be between 1 and 1000 thousandths",
    );
    let job = Job::gang("job", "", asking(DeviceRequest::whole(1)), 3, 2);
    check(
        &problem(racks(1, 1), vec![job]),
        "job: a group of its pods has a maximum below its minimum",
    );
    let device = Device {
        name: "gpu".to_owned(),
        ..mig("gpu", &[("3g.40gb", 1)])
    };
    check(
        &problem(vec![node("n", vec![device])], Vec::new()),
        "device gpu of node n: 3g.40gb cannot lie at 1",
    );
}
