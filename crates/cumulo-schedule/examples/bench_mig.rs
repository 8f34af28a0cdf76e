//! Mixed MIG requests on 64 H100s: how many are placed before the first refusal,
//! and how many at 95% offered load, beside how others place them. Run by
//! `bench/run mig`.
//!
//! Requests are one instance each, of these profiles at these odds: 1g.10gb 40,
//! 1g.20gb 10, 2g.20gb 20, 3g.40gb 15, 4g.40gb 10, 7g.80gb 5. In the second half
//! they come as a Poisson stream, run for exponential times, and whoever finds no
//! place goes away; the load is counted in memory slices (of this mix, compute slices
//! give the same). The peers:
//!
//! - first fit: the first GPU with room, the lowest place on it;
//! - driver's order: the first GPU with room, the place that the driver takes when
//!   none is named, the upper half first, as the listings in NVIDIA's MIG User
//!   Guide show (4, 5, 6, 0, 1, 2, 3);
//! - all-balanced: each GPU cut beforehand into 2 × 1g.10gb, 1 × 2g.20gb and
//!   1 × 3g.40gb, the GPU operator's mixed strategy; a request takes an instance
//!   of its profile or of the smallest larger one that is idle.
//!
//! First fit and driver's order make and remove instances at will, as ours does,
//! never under a running pod.

use cumulo_schedule::solver::{
    Action, Ask, Device, DeviceRequest, Job, Node, Part, Placed, Pod, Problem, Queue, Resources,
    Running, Sharing, geometry, solve,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const GPUS: usize = 64;
const PER_NODE: usize = 8;
const SEEDS: u64 = 10;
const LOAD: f64 = 0.95;
/// In mean lifetimes.
const WARM_UP: f64 = 3.0;
const MEASURED: f64 = 20.0;
const MODEL: &str = "H100-80GB";
const MIX: [(&str, u32); 6] = [
    ("1g.10gb", 40),
    ("1g.20gb", 10),
    ("2g.20gb", 20),
    ("3g.40gb", 15),
    ("4g.40gb", 10),
    ("7g.80gb", 5),
];
const BALANCED: [(&str, u32); 4] = [
    ("3g.40gb", 4),
    ("2g.20gb", 2),
    ("1g.10gb", 0),
    ("1g.10gb", 1),
];

/// Takes requests and gives places back.
trait Placer {
    /// A ticket for the place, or none.
    fn place(&mut self, profile: usize) -> Option<u64>;
    fn leave(&mut self, ticket: u64);
}

fn geometry() -> &'static geometry::Geometry {
    &geometry::builtin()[MODEL]
}

/// First fit with an order of the places on a GPU.
struct FirstFit {
    used: Vec<Vec<u32>>,
    tickets: Vec<Option<(usize, usize, usize)>>,
    order: fn(&mut [(u32, usize)]),
}

impl FirstFit {
    fn new(order: fn(&mut [(u32, usize)])) -> Self {
        Self {
            used: vec![vec![0; geometry().counters.len()]; GPUS],
            tickets: Vec::new(),
            order,
        }
    }
}

impl Placer for FirstFit {
    fn place(&mut self, profile: usize) -> Option<u64> {
        let slots = &geometry().profiles[profile].slots;
        let mut order: Vec<(u32, usize)> = slots
            .iter()
            .enumerate()
            .map(|(at, slot)| (slot.start, at))
            .collect();
        (self.order)(&mut order);
        for (gpu, used) in self.used.iter_mut().enumerate() {
            for (_, slot) in &order {
                if geometry().fits(&slots[*slot], used) {
                    for (used, uses) in used.iter_mut().zip(&slots[*slot].uses) {
                        *used += uses;
                    }
                    self.tickets.push(Some((gpu, profile, *slot)));
                    return Some(self.tickets.len() as u64 - 1);
                }
            }
        }
        None
    }

    fn leave(&mut self, ticket: u64) {
        if let Some((gpu, profile, slot)) = self.tickets[ticket as usize].take() {
            let uses = &geometry().profiles[profile].slots[slot].uses;
            for (used, uses) in self.used[gpu].iter_mut().zip(uses) {
                *used -= uses;
            }
        }
    }
}

/// Instances made beforehand.
struct Balanced {
    /// Profile and whether it is idle.
    instances: Vec<(usize, bool)>,
}

impl Balanced {
    fn new() -> Self {
        let profiles = BALANCED.map(|(name, _)| geometry().profile(name).expect("a profile"));
        Self {
            instances: (0..GPUS)
                .flat_map(|_| profiles.map(|profile| (profile, true)))
                .collect(),
        }
    }
}

impl Placer for Balanced {
    fn place(&mut self, profile: usize) -> Option<u64> {
        let wanted = &geometry().profiles[profile];
        let at = (0..self.instances.len())
            .filter(|at| {
                let (has, idle) = self.instances[*at];
                let has = &geometry().profiles[has];
                idle && has.compute >= wanted.compute && has.memory >= wanted.memory
            })
            .min_by_key(|at| (self.instances[*at].0, *at))?;
        self.instances[at].1 = false;
        Some(at as u64)
    }

    fn leave(&mut self, ticket: u64) {
        self.instances[ticket as usize].1 = true;
    }
}

/// All slices as one large GPU: what no placing can exceed.
struct Pool {
    used: [u32; 2],
    tickets: Vec<[u32; 2]>,
}

impl Pool {
    fn new() -> Self {
        Self {
            used: [0; 2],
            tickets: Vec::new(),
        }
    }
}

impl Placer for Pool {
    fn place(&mut self, profile: usize) -> Option<u64> {
        let gpus = GPUS as u32;
        let compute = geometry().profiles[profile].compute * 7;
        let asks = [(share(profile) * 8.0) as u32, compute.div_ceil(1000)];
        let fits = self.used[0] + asks[0] <= 8 * gpus && self.used[1] + asks[1] <= 7 * gpus;
        fits.then(|| {
            self.used[0] += asks[0];
            self.used[1] += asks[1];
            self.tickets.push(asks);
            self.tickets.len() as u64 - 1
        })
    }

    fn leave(&mut self, ticket: u64) {
        let asks = self.tickets[ticket as usize];
        self.used[0] -= asks[0];
        self.used[1] -= asks[1];
    }
}

/// The solver, asked for one request after another.
struct Ours {
    problem: Problem,
    count: u64,
}

impl Ours {
    fn new() -> Self {
        let node = |at: usize| Node {
            name: format!("node-{at}"),
            capacity: Resources::new(192_000, 2048 << 30),
            devices: (0..PER_NODE)
                .map(|device| Device {
                    sharing: Sharing::Partitioned {
                        geometry: MODEL.to_owned(),
                        instances: Vec::new(),
                    },
                    ..Device::whole(&format!("gpu-{device}"), "H100", 80 << 30)
                })
                .collect(),
            ..Node::default()
        };
        Self {
            problem: Problem {
                nodes: (0..GPUS / PER_NODE).map(node).collect(),
                geometries: geometry::builtin().clone(),
                queues: vec![Queue::new("q")],
                ..Problem::default()
            },
            count: 0,
        }
    }

    fn pod(profile: usize) -> Pod {
        let name = geometry().profiles[profile].name.clone();
        Pod::new(1000, 1 << 30).with(DeviceRequest::one(Ask::Profile(name)))
    }
}

impl Placer for Ours {
    fn place(&mut self, profile: usize) -> Option<u64> {
        let ticket = self.count;
        self.count += 1;
        let job = Job::pod(&ticket.to_string(), "q", Self::pod(profile));
        self.problem.waiting = vec![job.clone()];
        let solution = solve(&self.problem).expect("a problem that makes sense");
        let mut bound: Option<Placed> = None;
        for action in solution.actions {
            match action {
                Action::Bind { pod, .. } => bound = Some(pod),
                Action::Repartition {
                    node,
                    device,
                    remove,
                    create,
                    ..
                } => {
                    let sharing = &mut self.problem.nodes[node].devices[device].sharing;
                    if let Sharing::Partitioned { instances, .. } = sharing {
                        instances.retain(|instance| !remove.contains(instance));
                        instances.extend(create);
                    }
                }
                other => panic!("a request alone needs no {other:?}"),
            }
        }
        let placed = bound?;
        assert!(
            placed
                .placement
                .devices
                .iter()
                .all(|part| matches!(part.part, Part::Partition { .. })),
            "a request for an instance gets one"
        );
        self.problem.running.push(Running {
            job,
            pods: vec![placed],
            start: 0,
            checkpoint: None,
        });
        Some(ticket)
    }

    fn leave(&mut self, ticket: u64) {
        let name = ticket.to_string();
        self.problem
            .running
            .retain(|running| running.job.name != name);
    }
}

/// A random profile.
fn draw(random: &mut ChaCha8Rng) -> usize {
    let total: u32 = MIX.iter().map(|(_, odds)| odds).sum();
    let mut at = random.random_range(0..total);
    for (name, odds) in MIX {
        if at < odds {
            return geometry().profile(name).expect("a profile");
        }
        at -= odds;
    }
    unreachable!("the odds sum up to the total")
}

/// Memory slices of a profile, as a share of a GPU.
fn share(profile: usize) -> f64 {
    let geometry = geometry();
    let memory = |counter: &geometry::Counter| counter.name.starts_with("memory-slice");
    let slices = geometry.counters.iter().filter(|counter| memory(counter));
    let uses = geometry
        .counters
        .iter()
        .zip(&geometry.profiles[profile].slots[0].uses);
    let used: u32 = uses
        .filter(|(counter, _)| memory(counter))
        .map(|(_, uses)| uses)
        .sum();
    f64::from(used) / slices.count() as f64
}

/// Requests placed, and the percentage of the GPUs that they hold, before the first refusal.
fn until_refused(placer: &mut dyn Placer, seed: u64) -> (f64, f64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut count, mut held) = (0.0, 0.0);
    loop {
        let profile = draw(&mut random);
        if placer.place(profile).is_none() {
            return (count, held / GPUS as f64 * 100.0);
        }
        count += 1.0;
        held += share(profile);
    }
}

/// Percent of the requests placed, and of the load carried, at the offered load.
fn under_load(placer: &mut dyn Placer, seed: u64) -> (f64, f64) {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let total: u32 = MIX.iter().map(|(_, odds)| odds).sum();
    let mean: f64 = MIX
        .iter()
        .map(|(name, odds)| {
            let profile = geometry().profile(name).expect("a profile");
            share(profile) * f64::from(*odds) / f64::from(total)
        })
        .sum();
    let rate = LOAD * GPUS as f64 / mean;
    let exponential = |random: &mut ChaCha8Rng| -(1.0 - random.random::<f64>()).ln();
    let (mut now, mut came, mut placed) = (0.0, 0.0, 0.0);
    let (mut offered, mut carried) = (0.0, 0.0);
    let mut ends: Vec<(f64, u64)> = Vec::new();
    while now < WARM_UP + MEASURED {
        now += exponential(&mut random) / rate;
        let lifetime = exponential(&mut random);
        let profile = draw(&mut random);
        ends.retain(|(at, ticket)| {
            let stays = *at > now;
            if !stays {
                placer.leave(*ticket);
            }
            stays
        });
        let ticket = placer.place(profile);
        if let Some(ticket) = ticket {
            ends.push((now + lifetime, ticket));
        }
        if now >= WARM_UP {
            came += 1.0;
            offered += share(profile) * lifetime;
            if ticket.is_some() {
                placed += 1.0;
                carried += share(profile) * lifetime;
            }
        }
    }
    (placed / came * 100.0, carried / offered * 100.0)
}

/// Makes a placer of an idle cluster.
type Make = fn() -> Box<dyn Placer>;

fn upper_half_first(order: &mut [(u32, usize)]) {
    order.sort_by_key(|(start, _)| (*start < 4, *start));
}

fn main() {
    println!(
        "| placing | placed before the first refusal | memory slices held then | placed at {:.0}% load | load carried |",
        LOAD * 100.0
    );
    println!("| --- | --- | --- | --- | --- |");
    let policies: [(&str, Make); 5] = [
        ("limit: one pool", || Box::new(Pool::new())),
        ("all-balanced", || Box::new(Balanced::new())),
        ("first fit", || Box::new(FirstFit::new(|_| ()))),
        ("driver's order", || {
            Box::new(FirstFit::new(upper_half_first))
        }),
        ("ours", || Box::new(Ours::new())),
    ];
    for (name, make) in policies {
        let mut sums = [0.0; 4];
        for seed in 0..SEEDS {
            let (count, held) = until_refused(make().as_mut(), seed);
            let (placed, carried) = under_load(make().as_mut(), seed);
            for (sum, value) in sums.iter_mut().zip([count, held, placed, carried]) {
                *sum += value / SEEDS as f64;
            }
        }
        println!(
            "| {name} | {:.1} | {:.1}% | {:.2}% | {:.2}% |",
            sums[0], sums[1], sums[2], sums[3]
        );
    }
}
