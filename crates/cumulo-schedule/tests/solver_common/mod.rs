//! Problems for the solver's tests: built by hand, at random, and as histories.
#![allow(dead_code, reason = "each test file uses its part")]

use cumulo_schedule::solver::{
    Action, Ask, Device, DevicePart, DeviceRequest, Instance, Job, JobRef, Node, Part, Placed,
    Placement, Pod, Problem, Resources, Running, Sharing, Solution, geometry, solve,
    verify::verify,
};

pub const GIB: u64 = 1 << 30;
pub const MIB: u64 = 1 << 20;

/// A node with 64 cores and 512 GiB.
pub fn node(name: &str, devices: Vec<Device>) -> Node {
    Node {
        name: name.to_owned(),
        capacity: Resources::new(64_000, 512 * GIB),
        devices,
        flavor: "standard".to_owned(),
        ..Node::default()
    }
}

/// `count` whole GPUs, `linked` of them in each NVLink domain.
pub fn gpus(model: &str, count: u32, linked: u32) -> Vec<Device> {
    (0..count)
        .map(|at| Device {
            link: Some(format!("link-{}", at / linked)),
            numa: Some(at / linked),
            ..Device::whole(&format!("gpu-{at}"), model, 80 * GIB)
        })
        .collect()
}

/// A GPU shared by MPS.
pub fn shared(name: &str, memory: u64, reserved: u64) -> Device {
    Device {
        reserved,
        sharing: Sharing::Mps {
            clients: 48,
            overhead: 0,
        },
        ..Device::whole(name, "A40", memory)
    }
}

/// A GPU in MIG mode.
pub fn mig(name: &str, instances: &[(&str, u32)]) -> Device {
    let instances = instances.iter().map(|(profile, start)| Instance {
        profile: (*profile).to_owned(),
        start: *start,
    });
    Device {
        sharing: Sharing::Partitioned {
            geometry: "H100-80GB".to_owned(),
            instances: instances.collect(),
        },
        ..Device::whole(name, "H100", 81_920 * MIB)
    }
}

/// A pod that asks a little CPU and memory and one device request.
pub fn asking(request: DeviceRequest) -> Pod {
    Pod::new(1000, GIB).with(request)
}

/// One partition of a profile.
pub fn profile(name: &str) -> DeviceRequest {
    DeviceRequest::one(Ask::Profile(name.to_owned()))
}

/// A problem of these nodes and this waiting work, without queues.
pub fn problem(nodes: Vec<Node>, waiting: Vec<Job>) -> Problem {
    let mut problem = Problem {
        now: 10_000,
        nodes,
        waiting,
        ..Problem::default()
    };
    problem.geometries.clone_from(geometry::builtin());
    problem
}

/// Solves, and checks the solution from scratch.
///
/// # Panics
///
/// When the solution breaks a rule.
pub fn solved(problem: &Problem) -> Solution {
    let solution = solve(problem).expect("a problem that makes sense");
    if let Err(found) = verify(problem, &solution) {
        let broken: Vec<String> = found.iter().map(ToString::to_string).collect();
        panic!("{}", broken.join("\n"));
    }
    solution
}

/// Whether a waiting job got its place.
pub fn runs(solution: &Solution, job: usize) -> bool {
    solution.bound(JobRef::Waiting(job)).next().is_some()
}

/// The problem after a solution was carried out and `seconds` went by; work
/// past its estimate is gone.
pub fn after(problem: &Problem, solution: &Solution, seconds: u64) -> Problem {
    let mut next = problem.clone();
    let mut gone: Vec<(usize, usize)> = Vec::new();
    let mut started: Vec<Option<Running>> = vec![None; problem.waiting.len()];
    let mut ended: Vec<Job> = Vec::new();
    for action in &solution.actions {
        match action {
            Action::Bind {
                job: JobRef::Running(at),
                pod,
                ..
            } => next.running[*at].pods.push(pod.clone()),
            Action::Bind {
                job: JobRef::Waiting(at),
                pod,
                ..
            } => started[*at]
                .get_or_insert_with(|| Running {
                    job: problem.waiting[*at].clone(),
                    pods: Vec::new(),
                    start: problem.now,
                    checkpoint: None,
                })
                .pods
                .push(pod.clone()),
            Action::Preempt { job, pods, .. } => gone.extend(pods.iter().map(|pod| (*job, *pod))),
            Action::Move { job, pod, to, .. } => {
                next.running[*job].pods[*pod].placement = to.clone()
            }
            Action::Repartition {
                node,
                device,
                remove,
                create,
                ..
            } => {
                if let Sharing::Partitioned { instances, .. } =
                    &mut next.nodes[*node].devices[*device].sharing
                {
                    instances.retain(|instance| !remove.contains(instance));
                    instances.extend(create.iter().cloned());
                }
            }
        }
    }
    for (at, running) in next.running.iter_mut().enumerate() {
        let mut pod = 0;
        running.pods.retain(|_| {
            pod += 1;
            !gone.contains(&(at, pod - 1))
        });
        if running.pods.is_empty() {
            ended.push(running.job.clone());
        }
    }
    next.running.retain(|running| !running.pods.is_empty());
    let mut at = 0;
    next.waiting.retain(|_| {
        at += 1;
        started[at - 1].is_none()
    });
    next.waiting.extend(ended);
    next.running.extend(started.into_iter().flatten());
    next.now += seconds;
    let now = next.now;
    next.running.retain(|running| {
        running
            .job
            .estimate
            .is_none_or(|estimate| running.start + estimate > now)
    });
    next
}

/// A running pod with whole devices of a node.
pub fn running(name: &str, queue: &str, priority: i32, node: usize, devices: &[usize]) -> Running {
    let count = u32::try_from(devices.len()).expect("few devices");
    let mut job = Job::pod(name, queue, asking(DeviceRequest::whole(count)));
    job.priority = priority;
    job.preemptible = true;
    let devices = devices.iter().map(|device| DevicePart {
        request: 0,
        device: *device,
        part: Part::Whole,
    });
    let placement = Placement {
        node,
        devices: devices.collect(),
    };
    Running {
        job,
        pods: vec![Placed {
            member: 0,
            placement,
        }],
        start: 0,
        checkpoint: None,
    }
}

/// Nodes of linked A100s, two to a rack.
pub fn racks(count: usize, devices: u32) -> Vec<Node> {
    (0..count)
        .map(|at| {
            let mut node = node(&format!("n{at}"), gpus("A100", devices, devices));
            node.topology
                .insert("rack".to_owned(), format!("r{}", at / 2));
            node
        })
        .collect()
}
