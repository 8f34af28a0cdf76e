//! The watch over memory, and energy, on a recording with processes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::tests::recorded;
use super::watch::{CONTEXT, Response, Uses, Watchdog, excesses, uses};
use super::{Held, Holder, Meter, Method, Process, Snapshot};

const GIBIBYTE: u64 = 1 << 30;

/// Number of a process, GiB of memory, percent of the computing.
type Working = (u32, u64, Option<u32>);

/// One GPU with processes.
fn busy(processes: &[Working]) -> Snapshot {
    let mut snapshot = recorded("h100-8");
    snapshot.gpus.truncate(1);
    let gpu = &mut snapshot.gpus[0];
    gpu.processes = processes
        .iter()
        .map(|(pid, memory, utilization)| Process {
            pid: *pid,
            memory: Some(memory * GIBIBYTE),
            utilization: *utilization,
            ..Process::default()
        })
        .collect();
    gpu.memory.used = gpu
        .processes
        .iter()
        .filter_map(|process| process.memory)
        .sum();
    snapshot
}

/// Pods `a` with processes 10 and 11 and 0.3 of the GPU, `b` with 20 and 0.5.
fn pods(snapshot: &Snapshot) -> (BTreeMap<String, BTreeSet<i32>>, BTreeMap<String, Holder>) {
    let members = BTreeMap::from([
        ("a".to_owned(), BTreeSet::from([10, 11])),
        ("b".to_owned(), BTreeSet::from([20])),
    ]);
    let holders = [("a", 300, 24), ("b", 500, 40)].map(|(name, milli, gibibytes)| {
        let held = Held {
            gpu: snapshot.gpus[0].uuid.clone(),
            instance: None,
            milli,
            memory: gibibytes * GIBIBYTE,
            claim: None,
        };
        let holder = Holder {
            namespace: "default".to_owned(),
            pod: name.to_owned(),
            held: vec![held],
            energy: None,
        };
        (name.to_owned(), holder)
    });
    (members, BTreeMap::from(holders))
}

fn used(snapshot: &Snapshot) -> (Uses, BTreeMap<String, Holder>) {
    let (members, holders) = pods(snapshot);
    (uses(snapshot, &members, |pid| pid < 1000), holders)
}

#[test]
fn all_processes_of_a_pod_count_together() {
    let snapshot = busy(&[(10, 20, None), (11, 10, None), (20, 40, None)]);
    let (uses, holders) = used(&snapshot);
    let found = excesses(&holders, &uses);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a"]);
    assert_eq!(found["a"].used, 30 * GIBIBYTE);
    insta::assert_snapshot!(found["a"], @"uses 30Gi of the memory of GPU-afc5fa13-90d4-5667-b511-b66d018addc1, its share is 24Gi; ask for a larger share or use less");
}

#[test]
fn what_the_driver_takes_for_a_process_is_not_its_fault() {
    let mut snapshot = busy(&[(10, 12, None), (11, 12, None)]);
    snapshot.gpus[0].processes[0].memory = Some(12 * GIBIBYTE + 2 * CONTEXT);
    let (uses, holders) = used(&snapshot);
    assert!(excesses(&holders, &uses).is_empty());
    snapshot.gpus[0].processes[0].memory = Some(12 * GIBIBYTE + 2 * CONTEXT + 1);
    let (uses, holders) = used(&snapshot);
    assert_eq!(excesses(&holders, &uses).len(), 1);
}

/// `a` and `b` have the GPU's parts of 24 GiB by one claim.
fn sharing(snapshot: &Snapshot) -> (Uses, BTreeMap<String, Holder>) {
    let (uses, mut holders) = used(snapshot);
    let mut held = holders["a"].held[0].clone();
    held.claim = Some("claim".to_owned());
    for holder in holders.values_mut() {
        holder.held = vec![held.clone()];
    }
    (uses, holders)
}

#[test]
fn pods_that_share_a_claim_have_its_memory_together() {
    let (alone, holders) = sharing(&busy(&[(10, 20, None)]));
    assert!(excesses(&holders, &alone).is_empty());
    let (both, holders) = sharing(&busy(&[(10, 20, None), (20, 10, None)]));
    let found = excesses(&holders, &both);
    assert_eq!(found.keys().collect::<Vec<_>>(), ["a", "b"]);
    insta::assert_snapshot!(found["b"], @"uses 30Gi of the memory of GPU-afc5fa13-90d4-5667-b511-b66d018addc1 with the pods that share its claim, its share is 24Gi; ask for a larger share or use less");
    // The one that uses less goes only if it is not enough that the other does.
    let mut watchdog = Watchdog::default();
    let looks: Vec<_> = (0..3)
        .map(|_| watchdog.look(found.clone(), Response::End))
        .collect();
    assert!(looks[2]["a"].end && !looks[2]["b"].end);
}

#[test]
fn a_gpu_that_was_not_given_is_all_too_much() {
    let mut snapshot = busy(&[(10, 20, None)]);
    snapshot.gpus[0].uuid = "GPU-other".to_owned();
    let (members, _) = pods(&snapshot);
    let uses = uses(&snapshot, &members, |_| true);
    let found = excesses(&BTreeMap::new(), &uses);
    insta::assert_snapshot!(found["a"], @"uses 20Gi of the memory of GPU-other, a GPU that it was not given");
}

#[test]
fn others_and_what_cannot_be_seen_are_told_apart() {
    let name = recorded("h100-8").gpus[0].uuid.clone();
    let (known, _) = used(&busy(&[(30, 5, None)]));
    assert_eq!(known.others[&name], [30]);
    assert!(known.blind.is_empty());
    // A number that this machine does not know is of another's process table.
    let (unknown, _) = used(&busy(&[(4000, 5, None)]));
    assert!(unknown.others.is_empty());
    assert!(unknown.blind.contains(&name));
    // Memory that nobody has.
    let mut silent = busy(&[]);
    silent.gpus[0].memory.used = 5 * GIBIBYTE;
    assert!(used(&silent).0.blind.contains(&name));
}

#[test]
fn too_much_is_reported_slowed_or_ended_as_configured() {
    let (over, holders) = used(&busy(&[(10, 30, None)]));
    let too_much = excesses(&holders, &over);
    let mut told = Vec::new();
    for response in [Response::Report, Response::Throttle, Response::End] {
        let mut watchdog = Watchdog::default();
        let mut line = format!("{response:?}:");
        for look in 0..5 {
            // At the last look it is well again.
            let now = if look < 4 {
                too_much.clone()
            } else {
                BTreeMap::new()
            };
            let verdicts = watchdog.look(now, response);
            line.push_str(match verdicts.get("a") {
                None => " -",
                Some(verdict) if verdict.end => " end",
                Some(verdict) if verdict.paused => " pause",
                Some(_) => " report",
            });
        }
        told.push(line);
    }
    insta::assert_snapshot!(told.join("\n"), @r"
    Report: report report report report -
    Throttle: report pause report pause -
    End: report report end end -
    ");
}

/// Looks with the counter at these joules, a second apart.
fn metered(looks: &[(u64, &[Working])]) -> Meter {
    let mut meter = Meter::default();
    for (joules, processes) in looks {
        let mut snapshot = busy(processes);
        snapshot.gpus[0].energy_millijoules = Some(joules * 1000);
        let (uses, holders) = used(&snapshot);
        meter.add(&snapshot, Duration::from_secs(1), &holders, &uses);
    }
    meter
}

#[test]
fn energy_goes_by_share_until_it_is_known_who_computes() {
    let meter = metered(&[(1000, &[]), (1100, &[])]);
    let a = meter.of("a").unwrap();
    assert_eq!((a.millijoules, a.milliwatts), (30_000, 30_000));
    assert_eq!(a.method, Method::Share);
    assert_eq!(meter.of("b").unwrap().millijoules, 50_000);

    let both: &[_] = &[(10, 1, Some(20)), (20, 1, Some(60))];
    let meter = metered(&[(1000, both), (1400, both)]);
    assert_eq!(meter.of("a").unwrap().millijoules, 100_000);
    assert_eq!(meter.of("b").unwrap().millijoules, 300_000);
    assert_eq!(meter.of("b").unwrap().method, Method::Utilization);

    let meter = metered(&[(1000, &[]), (1100, &[]), (1500, both)]);
    assert_eq!(meter.of("a").unwrap().method, Method::ShareAndUtilization);
    assert_eq!(meter.of("a").unwrap().millijoules, 130_000);

    // With a stranger's process on it, nobody knows how much of it is whose.
    let stranger: &[_] = &[(10, 1, Some(20)), (30, 1, Some(60))];
    let meter = metered(&[(1000, stranger), (1100, stranger)]);
    assert_eq!(meter.of("a").unwrap().method, Method::Share);
    // The driver was loaded again.
    let meter = metered(&[(1000, &[]), (10, &[])]);
    assert_eq!(meter.of("a").unwrap().millijoules, 0);
}

#[test]
fn energy_of_a_shared_claim_is_divided() {
    let mut meter = Meter::default();
    for joules in [1000, 1100] {
        let mut snapshot = busy(&[]);
        snapshot.gpus[0].energy_millijoules = Some(joules * 1000);
        let (uses, holders) = sharing(&snapshot);
        meter.add(&snapshot, Duration::from_secs(1), &holders, &uses);
    }
    for pod in ["a", "b"] {
        assert_eq!(meter.of(pod).unwrap().millijoules, 15_000);
    }
}

#[test]
fn without_a_counter_power_is_added_up() {
    let mut snapshot = busy(&[]);
    snapshot.gpus[0].power_milliwatts = Some(200_000);
    let (uses, holders) = used(&snapshot);
    let mut meter = Meter::default();
    for _ in 0..3 {
        meter.add(&snapshot, Duration::from_secs(5), &holders, &uses);
    }
    assert_eq!(meter.of("a").unwrap().millijoules, 600_000);
    assert_eq!(meter.of("a").unwrap().milliwatts, 60_000);
}
