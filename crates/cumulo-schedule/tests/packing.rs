//! What must always hold, over random clusters and workloads.

use cumulo_schedule::packing::{
    Catalogue, Moving, NodeSpec, Packer, PodId, PodSpec, Policy, Settings, ShapeId, Trained,
};
use cumulo_schedule::replay::trace::Trace;
use cumulo_schedule::replay::{Arrivals, replay, upper_bound};
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Problem {
    nodes: Vec<NodeSpec>,
    pods: Vec<PodSpec>,
}

fn node() -> impl Strategy<Value = NodeSpec> {
    (1u32..=8, 1u32..=8, 0u32..=4, 0usize..3).prop_map(|(cpu, memory, gpus, model)| NodeSpec {
        name: String::new(),
        cpu: cpu * 8_000,
        memory: memory * 32_768,
        gpus,
        model: if gpus == 0 {
            ""
        } else {
            ["T4", "A100", "H100"][model]
        }
        .to_owned(),
    })
}

fn pod() -> impl Strategy<Value = PodSpec> {
    let gpu = prop_oneof![
        3 => (1u32..=1000).prop_map(|milli| (1, milli)),
        3 => Just((1, 1000)),
        1 => (2u32..=4).prop_map(|gpus| (gpus, 1000)),
        1 => Just((0, 0)),
    ];
    let models = prop_oneof![
        4 => Just(Vec::new()),
        1 => Just(vec!["T4".to_owned()]),
        1 => Just(vec!["A100".to_owned(), "H100".to_owned()]),
    ];
    (1u32..=16, 1u32..=8, gpu, models).prop_map(|(cpu, memory, (gpus, milli), models)| PodSpec {
        name: String::new(),
        cpu: cpu * 1_000,
        memory: memory * 4_096,
        gpus,
        milli,
        models: if gpus == 0 { Vec::new() } else { models },
    })
}

fn problem() -> impl Strategy<Value = Problem> {
    let nodes = proptest::collection::vec(node(), 1..8);
    let pods = proptest::collection::vec(pod(), 1..60);
    (nodes, pods).prop_map(|(nodes, pods)| Problem { nodes, pods })
}

struct Described {
    catalogue: Catalogue,
    nodes: Vec<u16>,
    pods: Vec<ShapeId>,
    trained: Trained,
}

fn describe(problem: &Problem) -> Described {
    let mut catalogue = Catalogue::default();
    let nodes = problem
        .nodes
        .iter()
        .map(|node| catalogue.kind(node).unwrap());
    let nodes: Vec<u16> = nodes.collect();
    let pods = problem.pods.iter().map(|pod| catalogue.shape(pod).unwrap());
    let pods: Vec<ShapeId> = pods.collect();
    let settings = Settings {
        rollouts: 4,
        draws: 32,
        ..Settings::default()
    };
    let trained = Trained::learn(&catalogue, &nodes, &pods, settings).unwrap();
    Described {
        catalogue,
        nodes,
        pods,
        trained,
    }
}

impl Described {
    fn packer(&self, policy: Policy) -> Packer<'_> {
        let trained = Some(&self.trained);
        Packer::new(&self.catalogue, &self.nodes, policy, trained, &self.pods, 7)
    }

    /// Adds up who runs where from the pods alone and compares with the nodes.
    fn check(&self, packer: &Packer<'_>, kinds: &[u16], running: &[PodId]) {
        let mut cpu = vec![0; kinds.len()];
        let mut memory = vec![0; kinds.len()];
        let mut devices = vec![[0u32; 16]; kinds.len()];
        let mut allocated = 0;
        for pod in running {
            let place = packer.cluster().running(*pod).expect("it runs");
            let shape = self.catalogue.get(place.shape);
            let node = place.node as usize;
            let kind = &self.catalogue.kinds()[usize::from(kinds[node])];
            assert!(
                shape.models.allows(kind.model),
                "a model that was not asked for"
            );
            assert_eq!(
                place.devices.count_ones(),
                u32::from(shape.gpus),
                "as many devices as asked"
            );
            cpu[node] += shape.cpu;
            memory[node] += shape.memory;
            allocated += u64::from(shape.gpu_total());
            for (device, used) in devices[node].iter_mut().enumerate() {
                if place.devices >> device & 1 == 1 {
                    *used += u32::from(shape.milli);
                }
            }
        }
        assert_eq!(allocated, packer.cluster().allocated());
        for (node, kind) in kinds.iter().enumerate() {
            let kind = &self.catalogue.kinds()[usize::from(*kind)];
            let state = packer.cluster().state(node as u32);
            assert_eq!(state.cpu + cpu[node], kind.cpu, "CPU adds up");
            assert_eq!(state.memory + memory[node], kind.memory, "memory adds up");
            let count = usize::from(kind.gpus);
            let mut free: Vec<u32> = devices[node][..count]
                .iter()
                .map(|used| 1000 - used)
                .collect();
            free.sort_unstable();
            let seen: Vec<u32> = state
                .devices()
                .iter()
                .map(|free| u32::from(*free))
                .collect();
            assert_eq!(seen, free, "devices add up");
            assert!(
                devices[node][count..].iter().all(|used| *used == 0),
                "no device that is not there"
            );
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_overcommitted_and_nothing_waits_that_fits(problem in problem()) {
        let described = describe(&problem);
        for policy in Policy::ALL {
            let mut packer = described.packer(policy);
            let mut running = Vec::new();
            for (number, id) in described.pods.iter().enumerate() {
                let shape = described.catalogue.get(*id);
                let nodes = 0..described.nodes.len() as u32;
                let fits = nodes.into_iter().any(|node| {
                    described.catalogue.fits(packer.cluster().state(node), shape)
                });
                let placed = packer.place(*id);
                prop_assert_eq!(placed.is_some(), fits, "{} is work-conserving", policy.name());
                running.extend(placed.map(|placed| placed.pod));
                if number % 5 == 4 && !running.is_empty() {
                    let gone = running.swap_remove(number % running.len());
                    packer.stop(gone);
                }
                described.check(&packer, &described.nodes, &running);
            }
        }
    }

    #[test]
    fn moves_keep_everything_running(problem in problem()) {
        let described = describe(&problem);
        let moving = Moving { share: 1.0, gain: 1, tries: 8 };
        for policy in [Policy::BestFit, Policy::Fgd, Policy::Ours] {
            let mut packer = described.packer(policy);
            let mut running = Vec::new();
            for id in &described.pods {
                if let Some((placed, moved)) = packer.place_moving(*id, 3, &moving) {
                    prop_assert!(moved.len() <= 3);
                    prop_assert!(moved.iter().all(|pod| running.contains(pod)));
                    running.push(placed.pod);
                }
                described.check(&packer, &described.nodes, &running);
            }
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_places(problem in problem()) {
        let described = describe(&problem);
        let again = describe(&problem);
        for policy in Policy::ALL {
            let mut first = described.packer(policy);
            let mut second = again.packer(policy);
            for id in &described.pods {
                prop_assert_eq!(first.place(*id), second.place(*id));
            }
        }
    }

    #[test]
    fn a_new_node_unplaces_nobody(problem in problem(), added in node()) {
        let mut described = describe(&problem);
        let added = described.catalogue.kind(&added).unwrap();
        let (nodes, pods) = (described.nodes.clone(), described.pods.clone());
        let settings = Settings { rollouts: 4, draws: 32, ..Settings::default() };
        described.trained = Trained::learn(&described.catalogue, &nodes, &pods, settings).unwrap();
        for policy in Policy::ALL {
            let mut packer = described.packer(policy);
            let half = described.pods.len() / 2;
            let placed = described.pods[..half].iter().filter_map(|id| packer.place(*id));
            let placed: Vec<_> = placed.collect();
            packer.add_node(added);
            let mut running: Vec<PodId> = placed.iter().map(|placed| placed.pod).collect();
            for before in &placed {
                let now = packer.cluster().running(before.pod).expect("it still runs");
                prop_assert_eq!((now.node, now.devices), (before.node, before.devices));
            }
            running.extend(described.pods[half..].iter().filter_map(|id| packer.place(*id)).map(|placed| placed.pod));
            let mut kinds = described.nodes.clone();
            kinds.push(added);
            described.check(&packer, &kinds, &running);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn no_policy_exceeds_its_bounds(problem in problem()) {
        let described = describe(&problem);
        let trace = Trace {
            catalogue: described.catalogue.clone(),
            nodes: described.nodes.clone(),
            pods: described.pods.clone(),
        };
        prop_assume!(trace.capacity() > 0);
        let arrivals = Arrivals { pods: described.pods.clone() };
        let refusing = upper_bound(&trace, &arrivals.pods, 0).expect("nobody need be admitted");
        let trained = Some(&described.trained);
        let moving = Moving { share: 1.0, gain: 1, tries: 8 };
        for (policy, moving) in Policy::ALL.into_iter().flat_map(|policy| [(policy, None), (policy, Some(&moving))]) {
            let outcome = replay(&trace, &arrivals, policy, trained, moving, 7);
            let held = outcome.curve.iter().map(|point| point.allocated).fold(0.0, f64::max);
            let kept = outcome.before_refusal as usize;
            let admitting = upper_bound(&trace, &arrivals.pods, kept).expect("a policy admitted them");
            prop_assert!(
                held <= admitting + 1e-6 && admitting <= refusing + 1e-6,
                "{} holds {held}, the bounds are {admitting} and {refusing}",
                policy.name()
            );
        }
    }
}

#[test]
fn the_worked_example_of_the_readme() {
    let pod = |number: usize, milli: u32| PodSpec {
        name: number.to_string(),
        cpu: 1_000,
        memory: 1_024,
        gpus: 1,
        milli,
        models: Vec::new(),
    };
    let node = |name: &str| NodeSpec {
        name: name.to_owned(),
        cpu: 64_000,
        memory: 65_536,
        gpus: 1,
        model: "T4".to_owned(),
    };
    let usual = [500, 500, 500, 500, 500, 300, 300, 300, 1000, 1000];
    let mut catalogue = Catalogue::default();
    let nodes = ["A", "B"].map(|name| catalogue.kind(&node(name)).unwrap());
    let pods: Vec<_> = usual.iter().enumerate().collect();
    let pods = pods.iter().map(|(number, milli)| pod(*number, **milli));
    let pods: Vec<ShapeId> = pods.map(|pod| catalogue.shape(&pod).unwrap()).collect();
    let trained = Trained::learn(&catalogue, &nodes, &pods, Settings::default()).unwrap();
    for (next, place) in [(0, 0), (5, 1)] {
        let trained = Some(&trained);
        let mut packer = Packer::new(&catalogue, &nodes, Policy::Ours, trained, &pods, 1);
        assert_eq!(packer.place(pods[0]).unwrap().node, 0, "half of A is used");
        assert_eq!(packer.place(pods[next]).unwrap().node, place);
    }
}
