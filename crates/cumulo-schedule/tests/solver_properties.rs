//! What always holds, over random problems and histories, as checked from
//! scratch by `solver::verify`.

mod solver_common;

use std::collections::BTreeMap;

use cumulo_schedule::solver::{
    Action, Affinity, AffinityRule, Ask, Availability, Device, DeviceRequest, Health, Job, JobRef,
    Locality, Node, Pod, Problem, Queue, Quota, Sharing, Solution, Spread, Taint, TaintEffect,
    Topology, solve,
};
use proptest::prelude::*;
use solver_common::{GIB, after, gpus, mig, node, problem, profile, shared, solved};

/// A number from which something random is built; small ones are simple.
type Die = u8;

fn any_node(at: usize, die: Die) -> Node {
    let name = format!("n{at}");
    let mut node = match die % 7 {
        0 => node(&name, Vec::new()),
        1 => node(&name, gpus("A100", 4, 2)),
        2 => node(
            &name,
            vec![shared("s0", 40 * GIB, GIB), shared("s1", 24 * GIB, 0)],
        ),
        3 => node(
            &name,
            vec![
                mig("m0", &[]),
                mig("m1", &[("2g.20gb", 0), ("1g.10gb", 2), ("3g.40gb", 4)]),
            ],
        ),
        4 => {
            let sharing = Sharing::TimeSliced { slots: 4 };
            node(
                &name,
                vec![Device {
                    sharing,
                    ..Device::whole("t0", "T4", 16 * GIB)
                }],
            )
        }
        5 => node(&name, gpus("V100", 8, 4)),
        _ => {
            let sharing = Sharing::Mps {
                clients: 3,
                overhead: GIB / 2,
            };
            let mut devices = gpus("A100", 2, 2);
            devices[1].health = Health::Broken;
            devices.push(Device {
                sharing,
                ..Device::whole("s0", "A40", 46 * GIB)
            });
            node(&name, devices)
        }
    };
    node.capacity.cpu = if die.is_multiple_of(3) { 8_000 } else { 32_000 };
    node.capacity.memory = 64 * GIB;
    node.capacity.other.insert(
        "pods".to_owned(),
        if die.is_multiple_of(5) { 3 } else { 16 },
    );
    node.topology
        .insert("rack".to_owned(), format!("r{}", at / 2));
    if !die.is_multiple_of(11) {
        node.topology
            .insert("block".to_owned(), format!("b{}", at / 4));
    }
    node.labels.insert(
        "disk".to_owned(),
        if die.is_multiple_of(2) { "ssd" } else { "hdd" }.to_owned(),
    );
    node.region = if at.is_multiple_of(3) { "eu" } else { "us" }.to_owned();
    node.flavor = if die % 4 == 3 { "spot" } else { "standard" }.to_owned();
    if die % 13 == 12 {
        node.taints.push(Taint {
            key: "k".to_owned(),
            value: String::new(),
            effect: TaintEffect::NoSchedule,
        });
    }
    if die % 17 == 16 {
        node.availability = Availability::Closed;
    }
    node
}

fn any_request(die: Die) -> Option<DeviceRequest> {
    let share = |milli, memory| DeviceRequest::one(Ask::Share { milli, memory });
    let linked = |count| DeviceRequest {
        within: Some(Locality::Link),
        ..DeviceRequest::whole(count)
    };
    Some(match die % 16 {
        0 | 1 => return None,
        2 => DeviceRequest::whole(1),
        3 => DeviceRequest::whole(2),
        4 => linked(2),
        5 => DeviceRequest {
            models: vec!["V100".to_owned(), "A100".to_owned()],
            ..linked(4)
        },
        6 => share(300, None),
        7 => share(500, Some(10 * GIB)),
        8 => share(1000, None),
        9 => DeviceRequest::one(Ask::Memory(7 * GIB)),
        10 => profile("1g.10gb"),
        11 => profile("2g.20gb"),
        12 => profile("3g.40gb"),
        13 => profile("7g.80gb"),
        14 => DeviceRequest {
            count: 3,
            ..profile("1g.10gb")
        },
        _ => DeviceRequest {
            count: 2,
            ..share(200, None)
        },
    })
}

type JobDice = (Die, Die, Die, Die, u16);

fn any_job(at: usize, (shape, gang, manners, queue, times): JobDice) -> Job {
    let mut pod = Pod::new(
        500 * (1 + u64::from(shape / 16 % 8)),
        GIB * (1 + u64::from(shape / 64)),
    );
    pod.resources.other.insert("pods".to_owned(), 1);
    pod.devices.extend(any_request(shape));
    if manners % 16 == 1 {
        pod.regions.push("eu".to_owned());
    }
    let (min, max) = match gang % 8 {
        0..4 => (1, 1),
        4 => (2, 2),
        5 => (4, 4),
        6 => (1, 3),
        _ => (2, 5),
    };
    let queue = ["a", "b", "c", "c", ""][usize::from(queue % 5)];
    let mut job = Job::gang(&format!("j{at}"), queue, pod, min, max);
    job.priority = i32::from(manners / 16 % 3);
    job.preemptible = manners.is_multiple_of(2);
    job.preempts = manners % 8 != 7;
    job.movable = manners.is_multiple_of(3);
    job.arrival = u64::from(times / 4);
    job.estimate = (!times.is_multiple_of(4)).then(|| 50 + u64::from(times % 512));
    job.deadline = (times % 16 == 15).then(|| 20_000 + u64::from(times));
    job.topology = match gang / 8 % 8 {
        1 => Topology {
            required: Some("rack".to_owned()),
            preferred: None,
        },
        2 => Topology {
            required: None,
            preferred: Some("rack".to_owned()),
        },
        3 => Topology {
            required: Some("block".to_owned()),
            preferred: Some("rack".to_owned()),
        },
        4 => Topology {
            required: Some("node".to_owned()),
            preferred: None,
        },
        _ => Topology::default(),
    };
    let labels = BTreeMap::from([("app".to_owned(), format!("x{}", gang / 64))]);
    match manners / 32 {
        5 => {
            let rule = AffinityRule::Apart;
            job.affinity.push(Affinity {
                labels: labels.clone(),
                level: "node".to_owned(),
                rule,
            });
        }
        6 => {
            let rule = if gang.is_multiple_of(2) {
                AffinityRule::Near
            } else {
                AffinityRule::PreferApart
            };
            job.affinity.push(Affinity {
                labels: labels.clone(),
                level: "rack".to_owned(),
                rule,
            });
        }
        7 => job.spread.push(Spread {
            labels: labels.clone(),
            level: "rack".to_owned(),
            max_skew: 1,
        }),
        _ => {}
    }
    job.labels = labels;
    job
}

fn any_queues(die: Die) -> Vec<Queue> {
    let gpu = |nominal: u64| Quota {
        nominal,
        borrowing: (die.is_multiple_of(3)).then_some(2000),
        lending: (die.is_multiple_of(5)).then_some(1000),
    };
    let a = Queue {
        weight: 2,
        ..Queue::new("a")
    }
    .under("root")
    .quota("standard", "gpu", gpu(3000));
    let b = Queue::new("b")
        .under("root")
        .quota("standard", "gpu", gpu(2000))
        .quota("spot", "cpu", Quota::nominal(20_000));
    let root = if die.is_multiple_of(2) {
        Queue::new("root")
    } else {
        Queue::new("root").quota("standard", "gpu", gpu(1000))
    };
    vec![root, a, b, Queue::new("c")]
}

/// What a random problem is built from; short to print.
#[derive(Debug, Clone)]
struct Dice {
    nodes: Vec<Die>,
    jobs: Vec<JobDice>,
    queues: Die,
    options: Die,
}

impl Dice {
    fn problem(&self) -> Problem {
        let nodes = self
            .nodes
            .iter()
            .enumerate()
            .map(|(at, die)| any_node(at, *die))
            .collect();
        let jobs = self
            .jobs
            .iter()
            .enumerate()
            .map(|(at, dice)| any_job(at, *dice))
            .collect();
        let mut problem = problem(nodes, jobs);
        problem.levels = vec!["block".to_owned(), "rack".to_owned()];
        problem.queues = any_queues(self.queues);
        problem.options.moves = usize::from(self.options % 4);
        problem.options.reservations = usize::from(self.options / 4 % 4);
        problem.options.starvation = if self.options % 32 == 31 {
            500
        } else {
            100_000
        };
        problem
    }
}

fn any_dice() -> impl Strategy<Value = Dice> {
    let nodes = prop::collection::vec(any::<Die>(), 1..8);
    let jobs = prop::collection::vec(any::<JobDice>(), 0..16);
    let dice = (nodes, jobs, any::<Die>(), any::<Die>());
    dice.prop_map(|(nodes, jobs, queues, options)| Dice {
        nodes,
        jobs,
        queues,
        options,
    })
}

/// Lets time pass: solutions are carried out, work ends, other work comes.
fn history(mut problem: Problem, arrivals: &[Vec<JobDice>], check: impl Fn(&Problem)) {
    let mut count = problem.waiting.len();
    for jobs in arrivals {
        check(&problem);
        let solution = solved(&problem);
        problem = after(&problem, &solution, 60);
        for dice in jobs {
            problem.waiting.push(any_job(count, *dice));
            count += 1;
        }
    }
    check(&problem);
    solved(&problem);
}

fn displaced(solution: &Solution) -> usize {
    let displaced =
        |action: &&Action| matches!(action, Action::Preempt { .. } | Action::Move { .. });
    solution.actions.iter().filter(displaced).count()
}

fn arrivals() -> impl Strategy<Value = Vec<Vec<JobDice>>> {
    prop::collection::vec(prop::collection::vec(any::<JobDice>(), 0..6), 1..5)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing overcommitted, gangs whole, quotas kept, no preemption without a
    /// placement, nothing waits that fits, reservations kept, order explained.
    #[test]
    fn a_solution_breaks_no_rule(dice in any_dice()) {
        solved(&dice.problem());
    }

    #[test]
    fn no_solution_of_a_history_breaks_a_rule(dice in any_dice(), arrivals in arrivals()) {
        history(dice.problem(), &arrivals, |_| ());
    }

    #[test]
    fn the_same_problem_has_the_same_solution(dice in any_dice(), arrivals in arrivals()) {
        history(dice.problem(), &arrivals, |problem| {
            assert_eq!(solve(problem), solve(&problem.clone()));
        });
    }

    /// A cluster in which nothing waits is left as it is when a node comes: what
    /// runs is neither ended nor moved for it.
    #[test]
    fn adding_a_node_never_unplaces_running_work(
        dice in any_dice(),
        arrivals in arrivals(),
        die in any::<Die>(),
    ) {
        history(dice.problem(), &arrivals, |problem| {
            let mut larger = after(problem, &solved(problem), 0);
            larger.waiting.clear();
            larger.nodes.push(any_node(problem.nodes.len(), die));
            let solution = solved(&larger);
            assert_eq!(displaced(&solution), 0);
            // Elastic work may grow into it.
            assert!(solution.actions.iter().all(|action| matches!(
                action,
                Action::Bind { job: JobRef::Running(_), .. } | Action::Repartition { .. }
            )));
        });
    }
}
