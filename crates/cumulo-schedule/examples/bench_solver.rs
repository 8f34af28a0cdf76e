//! How many pods a second the solver binds in process, on 5,000 nodes and
//! 10,000 pods. Run by `bench/run solver`.

use std::time::Instant;

use cumulo_schedule::solver::{
    Ask, Device, DeviceRequest, Job, Node, Pod, Problem, Queue, Quota, Resources, Sharing, solve,
};

const GIB: u64 = 1 << 30;

fn node(at: usize) -> Node {
    let model = ["A100", "H100", "L4"][at % 3];
    let devices = (0..8).map(|device| Device {
        link: Some(format!("link-{}", device / 4)),
        sharing: Sharing::Mps {
            clients: 48,
            overhead: 0,
        },
        ..Device::whole(&format!("gpu-{device}"), model, 80 * GIB)
    });
    let mut node = Node {
        name: format!("node-{at}"),
        capacity: Resources::new(96_000, 768 * GIB),
        devices: devices.collect(),
        flavor: model.to_lowercase(),
        ..Node::default()
    };
    node.topology
        .insert("rack".to_owned(), format!("rack-{}", at / 16));
    node.labels
        .insert("kubernetes.io/hostname".to_owned(), node.name.clone());
    node
}

/// Pods of `shapes` different sizes; every tenth is a gang of four where asked.
fn problem(nodes: usize, pods: usize, shapes: u64, gangs: bool) -> Problem {
    let mut problem = Problem {
        now: 1000,
        levels: vec!["rack".to_owned()],
        ..Problem::default()
    };
    problem.nodes = (0..nodes).map(node).collect();
    let quota = Quota::nominal(20_000_000);
    let limited = Queue::new("b")
        .quota("a100", "gpu", quota)
        .quota("h100", "gpu", quota);
    problem.queues = vec![Queue::new("a"), limited.quota("l4", "gpu", quota)];
    let mut count = 0;
    let mut at = 0u64;
    while count < pods {
        let size = at % shapes;
        let mut pod = Pod::new(500 + 25 * size, GIB + size * (64 << 20));
        pod.devices.extend(match at % 5 {
            0 => None,
            1 => Some(DeviceRequest::whole(1)),
            2 => Some(DeviceRequest::one(Ask::Share {
                milli: 100 + 50 * u32::try_from(size % 12).unwrap_or(0),
                memory: None,
            })),
            3 => Some(DeviceRequest {
                models: vec!["A100".to_owned(), "H100".to_owned()],
                ..DeviceRequest::whole(2)
            }),
            _ => Some(DeviceRequest::one(Ask::Memory((4 + size % 16) * GIB))),
        });
        let queue = if at.is_multiple_of(2) { "a" } else { "b" };
        let size = if gangs && at % 10 == 1 { 4 } else { 1 };
        let mut job = Job::gang(&format!("job-{at}"), queue, pod, size, size);
        if size > 1 {
            job.topology.required = Some("rack".to_owned());
        }
        job.arrival = at % 1000;
        problem.waiting.push(job);
        count += size as usize;
        at += 1;
    }
    problem
}

fn main() {
    println!("| nodes | pods | shapes | gangs | bound | seconds | binds/s |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (nodes, pods, shapes, gangs) in [
        (5000, 10_000, 10, false),
        (5000, 10_000, 100, false),
        (5000, 10_000, 100, true),
        (1000, 10_000, 100, false),
    ] {
        let problem = problem(nodes, pods, shapes, gangs);
        let start = Instant::now();
        let solution = match solve(&problem) {
            Ok(solution) => solution,
            Err(error) => return println!("{error}"),
        };
        let seconds = start.elapsed().as_secs_f64();
        let binds = solution.actions.len();
        println!(
            "| {nodes} | {pods} | {shapes} | {gangs} | {binds} | {seconds:.2} | {:.0} |",
            binds as f64 / seconds
        );
    }
}
