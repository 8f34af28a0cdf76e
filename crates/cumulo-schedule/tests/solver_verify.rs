//! The verifier must be able to fail: each rule is broken once by hand.

mod solver_common;

use cumulo_schedule::solver::{
    Action, DeviceRequest, Instance, Job, Part, Placed, Problem, Queue, Quota, Solution, solve,
    verify::{Rule, verify},
};
use solver_common::{asking, gpus, mig, node, problem, profile};

/// The rules that a changed solution breaks.
fn broken(problem: &Problem, change: impl FnOnce(&mut Solution)) -> Vec<Rule> {
    let mut solution = solve(problem).expect("a problem that makes sense");
    assert_eq!(verify(problem, &solution), Ok(()));
    change(&mut solution);
    let found = verify(problem, &solution).expect_err("a broken rule");
    let mut rules: Vec<Rule> = found.into_iter().map(|violation| violation.rule).collect();
    rules.sort();
    rules.dedup();
    rules
}

fn placed(solution: &mut Solution, at: usize) -> &mut Placed {
    let binds = solution
        .actions
        .iter_mut()
        .filter_map(|action| match action {
            Action::Bind { pod, .. } => Some(pod),
            _ => None,
        });
    binds.into_iter().nth(at).expect("a bind")
}

fn two_jobs() -> Problem {
    let job = |name| Job::pod(name, "", asking(DeviceRequest::whole(1)));
    problem(
        vec![node("n", gpus("A100", 2, 2))],
        vec![job("a"), job("b")],
    )
}

#[test]
fn a_device_given_twice() {
    let rules = broken(&two_jobs(), |solution| {
        let device = placed(solution, 0).placement.devices[0].device;
        placed(solution, 1).placement.devices[0].device = device;
    });
    assert_eq!(rules, [Rule::NotOvercommitted]);
}

#[test]
fn less_than_was_asked() {
    let rules = broken(&two_jobs(), |solution| {
        placed(solution, 0).placement.devices.clear()
    });
    assert_eq!(rules, [Rule::AsAsked]);
}

#[test]
fn a_job_without_an_outcome() {
    let rules = broken(&two_jobs(), |solution| {
        solution.actions.pop();
    });
    assert_eq!(rules, [Rule::Accounted]);
}

#[test]
fn half_a_gang() {
    let gang = Job::gang("gang", "", asking(DeviceRequest::whole(1)), 2, 2);
    let rules = broken(
        &problem(vec![node("n", gpus("A100", 2, 2))], vec![gang]),
        |solution| {
            solution.actions.pop();
        },
    );
    assert_eq!(rules, [Rule::GangWhole]);
}

#[test]
fn something_that_waits_though_it_fits() {
    let big = Job::pod("big", "", asking(DeviceRequest::whole(3)));
    let mut asked = two_jobs();
    asked.waiting.push(big);
    let rules = broken(&asked, |solution| {
        let bind = solution.actions.pop();
        let mut wait = solution.waits[0].clone();
        if let Some(Action::Bind {
            job: cumulo_schedule::solver::JobRef::Waiting(job),
            ..
        }) = bind
        {
            wait.job = job;
        }
        solution.waits[0].place = 2;
        solution.waits.push(wait);
    });
    assert!(rules.contains(&Rule::WorkConserving), "{rules:?}");
}

#[test]
fn more_than_the_quota() {
    let mut asked = two_jobs();
    asked.queues = vec![Queue::new("q").quota("standard", "gpu", Quota::nominal(1000))];
    for job in &mut asked.waiting {
        job.queue = "q".to_owned();
    }
    let rules = broken(&asked, |solution| {
        let Action::Bind {
            job: _,
            pod,
            reason,
        } = solution.actions[0].clone()
        else {
            panic!("a bind")
        };
        let mut pod = pod;
        pod.placement.devices[0].device = 1 - pod.placement.devices[0].device;
        let job = cumulo_schedule::solver::JobRef::Waiting(solution.waits[0].job);
        solution.actions.push(Action::Bind { job, pod, reason });
        solution.waits.clear();
        solution.reservations.clear();
    });
    assert_eq!(rules, [Rule::QuotaKept]);
}

#[test]
fn an_instance_where_none_can_lie() {
    let jobs = vec![
        Job::pod("a", "", asking(profile("3g.40gb"))),
        Job::pod("b", "", asking(profile("3g.40gb"))),
    ];
    let asked = problem(vec![node("n", vec![mig("gpu", &[])])], jobs);
    let rules = broken(&asked, |solution| {
        for action in &mut solution.actions {
            match action {
                Action::Repartition { create, .. } => {
                    *create = vec![Instance {
                        profile: "3g.40gb".to_owned(),
                        start: 2,
                    }];
                }
                Action::Bind { pod, .. } => {
                    pod.placement.devices[0].part = Part::Partition {
                        profile: "3g.40gb".to_owned(),
                        start: 2,
                    };
                }
                _ => {}
            }
        }
    });
    assert!(
        rules.contains(&Rule::AsAsked) && rules.contains(&Rule::RepartitionIdle),
        "{rules:?}"
    );
    let rules = broken(&asked, |solution| {
        solution
            .actions
            .retain(|action| !matches!(action, Action::Repartition { .. }));
    });
    assert!(rules.contains(&Rule::NotOvercommitted), "{rules:?}");
}

#[test]
fn an_end_for_nothing() {
    let mut asked = two_jobs();
    let first = solve(&asked).expect("a problem that makes sense");
    asked = solver_common::after(&asked, &first, 10);
    asked.running[0].job.preemptible = true;
    asked.waiting = vec![Job::pod("c", "", asking(DeviceRequest::whole(3)))];
    let rules = broken(&asked, |solution| {
        let reason = String::new();
        solution.actions.push(Action::Preempt {
            job: 0,
            pods: vec![0],
            beneficiary: 0,
            reason,
        });
    });
    assert_eq!(rules, [Rule::PreemptionUsed]);
}

#[test]
fn a_reservation_that_is_delayed() {
    let mut asked = two_jobs();
    let first = solve(&asked).expect("a problem that makes sense");
    asked = solver_common::after(&asked, &first, 10);
    asked.running.truncate(1);
    let mut small = Job::pod("small", "", asking(DeviceRequest::whole(1)));
    small.arrival = 5;
    asked.waiting = vec![Job::pod("head", "", asking(DeviceRequest::whole(2))), small];
    let rules = broken(&asked, |solution| {
        let mut pod = asked.running[0].pods[0].clone();
        pod.placement.devices[0].device = 1 - pod.placement.devices[0].device;
        let job = cumulo_schedule::solver::JobRef::Waiting(1);
        solution.actions.push(Action::Bind {
            job,
            pod,
            reason: String::new(),
        });
        solution.waits.retain(|wait| wait.job == 0);
    });
    assert_eq!(rules, [Rule::ReservationKept]);
}
