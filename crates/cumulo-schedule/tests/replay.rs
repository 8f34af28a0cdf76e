//! Traces as text, the protocol, the bound and a cluster in motion.

use cumulo_schedule::packing::{Moving, Policy, Settings};
use cumulo_schedule::replay::trace::{File, Trace};
use cumulo_schedule::replay::{Arrivals, MotionOptions, Options, run, upper_bound};

const NODES: &str = "sn,cpu_milli,memory_mib,gpu,model\n\
    a,32000,131072,4,T4\n\
    b,32000,131072,4,A100\n\
    c,64000,131072,0,\n";

const PODS: &str = "name,cpu_milli,memory_mib,num_gpu,gpu_milli,gpu_spec,qos\n\
    p0,4000,8192,1,1000,,LS\n\
    p1,4000,8192,1,500,T4|A100,LS\n\
    p2,8000,8192,2,1000,A100,LS\n\
    p3,8000,8192,0,0,,BE\n";

fn parse(nodes: &str, pods: &str) -> Result<Trace, String> {
    let nodes = File {
        name: "nodes.csv",
        text: nodes,
    };
    let pods = File {
        name: "pods.csv",
        text: pods,
    };
    Trace::parse(nodes, pods).map_err(|error| error.to_string())
}

#[test]
fn a_trace_is_read_and_mistakes_name_file_and_line() {
    let trace = parse(NODES, PODS).unwrap();
    assert_eq!(
        (trace.nodes.len(), trace.pods.len(), trace.capacity()),
        (3, 4, 8000)
    );

    let plain = "gpu,name,memory_mib,cpu_milli\n8,n,1024,2000\n";
    assert_eq!(parse(plain, PODS).unwrap().capacity(), 8000);

    let told = |nodes: &str, pods: &str| parse(nodes, pods).unwrap_err();
    assert_eq!(
        told(NODES, &PODS.replace("8000,8192,0", "eight,8192,0")),
        "pods.csv:5: cpu_milli is \"eight\"; expected a whole number that is not negative"
    );
    assert_eq!(
        told("sn,cpu_milli,gpu\na,1,1\n", PODS),
        "nodes.csv:1: no column memory_mib; the header has sn, cpu_milli, gpu"
    );
    assert_eq!(
        told(NODES, &PODS.replace("2,1000,A100", "2,1500,A100")),
        "pods.csv:4: pod p2: asks for 1500 thousandths of a GPU; expected 1 to 1000"
    );
    assert_eq!(
        told(&NODES.replace("4,A100", "99,A100"), PODS),
        "nodes.csv:3: node b has 99 GPUs; at most 16 per node are supported"
    );
    assert_eq!(
        told(NODES, &format!("{PODS}p4,1\n")),
        "pods.csv:6: 2 columns; the header has 7"
    );
    assert_eq!(
        told("name,cpu_milli,memory_mib,gpu\n", PODS),
        "nodes.csv: no rows after the header"
    );
}

#[test]
fn demand_is_inflated_to_what_was_asked_and_the_same_for_a_seed() {
    let trace = parse(NODES, PODS).unwrap();
    let demand = |arrivals: &Arrivals| -> u32 {
        arrivals
            .pods
            .iter()
            .map(|id| trace.catalogue.get(*id).gpu_total())
            .sum()
    };
    let arrivals = Arrivals::inflate(&trace, 1.3, 42);
    assert!(
        (8_400..=10_400).contains(&demand(&arrivals)),
        "{}",
        demand(&arrivals)
    );
    assert_eq!(arrivals.pods, Arrivals::inflate(&trace, 1.3, 42).pods);
}

#[test]
fn a_report_has_all_policies_and_none_exceeds_the_bound() {
    let trace = parse(NODES, PODS).unwrap();
    let options = Options {
        seeds: vec![1, 2],
        inflation: 2.0,
        moving: Some(Moving {
            share: 0.5,
            ..Moving::default()
        }),
        motion: Some(MotionOptions {
            hours: 50.0,
            lifetime: 5.0,
            ..MotionOptions::default()
        }),
        settings: Settings {
            rollouts: 8,
            ..Settings::default()
        },
        ..Options::default()
    };
    let report = run(&trace, &options, &|_| {}).unwrap();
    let again = run(&trace, &options, &|_| {}).unwrap();
    assert_eq!(report.table(), again.table());
    assert_eq!(report.rows.len(), Policy::ALL.len() + 1);
    for (seed, number) in [(1, 0), (2, 1)] {
        let arrivals = Arrivals::inflate(&trace, 2.0, seed);
        let bound = upper_bound(&trace, &arrivals.pods, 0).unwrap();
        for row in &report.rows {
            let reached = row.outcomes[number].curve.last().unwrap().allocated;
            assert!(reached <= bound + 1e-6, "{}: {reached} > {bound}", row.name);
            let kept = row.outcomes[number].before_refusal as usize;
            let admitting = upper_bound(&trace, &arrivals.pods, kept).unwrap();
            assert!(
                reached <= admitting + 1e-6 && admitting <= bound + 1e-6,
                "{}: {reached} > {admitting} for who admits {kept}",
                row.name
            );
        }
    }
    for row in &report.motion {
        assert!((0.0..=100.0).contains(&row.motion.utilisation));
        assert!(row.motion.fairness > 0.0 && row.motion.fairness <= 1.0 + 1e-9);
    }
    for svg in [report.plot(), report.plot_end()] {
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"));
        assert_eq!(svg.matches("<polyline").count(), report.rows.len() + 2);
    }
    assert!(report.csv().lines().count() > 100);
}
