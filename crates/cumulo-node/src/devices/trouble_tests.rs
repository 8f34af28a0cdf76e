//! The troubles that users of other systems report about sharing devices, one test each.
//!
//! | reported | test |
//! | --- | --- |
//! | HAMi #2125, #1777: limits in a variable are bypassed | `limits_do_not_live_in_the_environment` |
//! | HAMi #1181: accounting underflows | `accounting_never_underflows` |
//! | HAMi #1074: a profile equal to the device never schedules | `a_profile_equal_to_the_device_is_given` |
//! | KAI #416: 24 × 2000 MiB on 46068 MiB | `twenty_four_times_2000_mib_do_not_fit_46068_mib` |
//! | KAI #2212: the driver's reserve is given away | `the_drivers_reserve_is_nobodys` |
//!
//! Those about gangs, quotas and preemption are with the solver
//! (`crates/cumulo-schedule/tests/solver_troubles.rs` and `troubles.rs`).

use std::collections::{BTreeMap, BTreeSet};

use super::mig::{Managed, MigInstances, plan};
use super::reach::{self, reach};
use super::sharing::limits::{self, commands, environment, wanted};
use super::sharing::{Means, worth};
use super::tests::recorded;
use super::watch::{CONTEXT, Response, Watchdog, excesses, uses};
use super::{Held, Holder, Mig, Process, Refusal, Snapshot, decide};

const MEBIBYTE: u64 = 1 << 20;

/// One GPU with this much memory in MiB, of which the driver keeps some.
fn gpu(total: u64, reserved: u64) -> Snapshot {
    let mut snapshot = recorded("a100-8");
    snapshot.gpus.truncate(1);
    let memory = &mut snapshot.gpus[0].memory;
    memory.total = total * MEBIBYTE;
    memory.reserved = reserved * MEBIBYTE;
    snapshot
}

fn give(snapshot: &Snapshot, holders: &mut Vec<Holder>, wish: &str) -> Result<Vec<Held>, Refusal> {
    let ask = wish.parse::<cumulo_api::Gpu>().unwrap().ask().unwrap();
    let others: Vec<&Holder> = holders.iter().collect();
    let held = decide(snapshot, &others, &ask)?;
    holders.push(Holder {
        namespace: "default".to_owned(),
        pod: format!("pod-{}", holders.len()),
        held: held.clone(),
        energy: None,
    });
    Ok(held)
}

/// How often a wish is fulfilled, and the bytes that were given.
fn admitted(snapshot: &Snapshot, wish: &str, times: usize) -> (usize, u64) {
    let mut holders = Vec::new();
    let given = (0..times).filter(|_| give(snapshot, &mut holders, wish).is_ok());
    let count = given.count();
    let held = holders.iter().flat_map(|holder| &holder.held);
    (count, held.map(|held| held.memory).sum())
}

/// HAMi #2125, #1777: a pod that sets or unsets a variable had the whole GPU. Here the
/// variables of a manifest are taken away, the server has the limits of the ledger, and
/// who uses more all the same is found by what the driver says.
#[test]
fn limits_do_not_live_in_the_environment() {
    let mut snapshot = recorded("h100-8");
    snapshot.gpus.truncate(1);
    let uuid = snapshot.gpus[0].uuid.clone();
    let mut holders = Vec::new();
    let held = give(&snapshot, &mut holders, "0.3").unwrap();

    // None of what a program could set stays a manifest's.
    let own = environment(&held[0], "/pipes");
    for (name, _) in &own {
        assert!(limits::VARIABLES.contains(&name.as_str()), "{name}");
    }
    for (name, _) in &reach(&snapshot, &held, true).environment {
        assert!(reach::VARIABLES.contains(name), "{name}");
    }

    // The server's limits are those of the share.
    let server = wanted(&snapshot, &holders)[&uuid];
    let mebibytes = held[0].memory / MEBIBYTE;
    assert_eq!((server.percentage, server.mebibytes), (30, mebibytes));
    let told = commands(server, &[7]);
    assert!(told.contains(&format!("set_device_pinned_mem_limit 7 0 {mebibytes}M")));

    // Nor does the status promise more than there is.
    let means = Means::Mps(server);
    assert!(
        !worth(&held, snapshot.gpus.first(), &means)
            .unwrap()
            .enforced
    );

    // A process outside MPS, with as much as it likes.
    let members = BTreeMap::from([("uid".to_owned(), BTreeSet::from([10]))]);
    let owners = BTreeMap::from([("uid".to_owned(), holders.remove(0))]);
    let mut ends = |memory: u64| {
        snapshot.gpus[0].processes = vec![Process {
            pid: 10,
            memory: Some(memory),
            ..Process::default()
        }];
        let mut watchdog = Watchdog::default();
        (0..3).any(|_| {
            let found = excesses(&owners, &uses(&snapshot, &members, |_| true));
            let verdicts = watchdog.look(found, Response::End);
            verdicts.get("uid").is_some_and(|verdict| verdict.end)
        })
    };
    assert!(ends(held[0].memory + CONTEXT + 1));
    assert!(!ends(held[0].memory + CONTEXT));
}

/// HAMi #1181: what was given back twice, or by more than there was, made numbers wrap,
/// and the device was full or endless from then on.
#[test]
fn accounting_never_underflows() {
    let snapshot = gpu(46_069, 601);
    let mut holders = Vec::new();
    for _ in 0..3 {
        give(&snapshot, &mut holders, "0.333").unwrap();
    }
    give(&snapshot, &mut holders, "0.001").unwrap();
    // Full to the last thousandth, and not one more.
    let refused = give(&snapshot, &mut holders, "0.001").unwrap_err();
    assert!(matches!(refused, Refusal::Busy(_)), "{refused}");
    holders.pop();
    give(&snapshot, &mut holders, "0.001").unwrap();
    // More is held than there is: the GPU shrank, or a pod came from an earlier engine.
    holders[0].held[0].memory = u64::MAX;
    holders[1].held[0].milli = u32::MAX;
    let refused = give(&snapshot, &mut holders, "0.01").unwrap_err();
    assert!(matches!(refused, Refusal::Busy(_)), "{refused}");
    // And all of it given back is all of it there.
    holders.clear();
    assert_eq!(give(&snapshot, &mut holders, "1").unwrap()[0].milli, 1000);
    // The driver counts more for nobody than it has in all.
    let mut snapshot = snapshot;
    snapshot.gpus[0].memory.reserved = snapshot.gpus[0].memory.total + 1;
    let refused = give(&snapshot, &mut Vec::new(), "10Gi").unwrap_err();
    assert!(matches!(refused, Refusal::Never(_)), "{refused}");
}

/// HAMi #1074: an instance of the profile that is the whole device was never found.
#[test]
fn a_profile_equal_to_the_device_is_given() {
    let mut snapshot = recorded("mixed-mig");
    snapshot.gpus.drain(..3);
    let managed = Managed {
        instances: MigInstances::Manage,
        ..Managed::default()
    };
    for wish in ["7g.80gb", "1", "0.999", "78Gi"] {
        let ask = wish.parse::<cumulo_api::Gpu>().unwrap().ask().unwrap();
        let plan = plan(&snapshot, &[], &ask, &managed).unwrap();
        assert_eq!(plan.changes[0].create[0].profile, "7g.80gb", "{wish}");
    }
    // One that is there, too.
    snapshot.gpus[0].mig = Some(Mig {
        enabled: true,
        instances: vec![super::Instance {
            uuid: "MIG-whole".to_owned(),
            profile: "7g.80gb".to_owned(),
            id: 0,
            start: Some(0),
            memory: super::Memory {
                total: 80_384 * MEBIBYTE,
                ..super::Memory::default()
            },
        }],
        ..Mig::default()
    });
    let held = give(&snapshot, &mut Vec::new(), "7g.80gb").unwrap();
    assert_eq!(held[0].instance.as_deref(), Some("MIG-whole"));
}

/// KAI #416: 24 pods of 2000 MiB were admitted on a GPU of 46068 MiB.
#[test]
fn twenty_four_times_2000_mib_do_not_fit_46068_mib() {
    let (count, bytes) = admitted(&gpu(46_068, 0), "2000Mi", 24);
    assert_eq!((count, bytes), (23, 46_000 * MEBIBYTE));
    assert_eq!(admitted(&gpu(48_000, 0), "2000Mi", 24).0, 24);
}

/// KAI #2212: the driver's reserve was counted as free.
#[test]
fn the_drivers_reserve_is_nobodys() {
    for reserved in [0, 600, 6_000] {
        let usable = 46_068 - reserved;
        let wish = |mebibytes: u64| admitted(&gpu(46_068, reserved), &format!("{mebibytes}Mi"), 1);
        assert_eq!(wish(usable).0, 1, "all that is usable");
        assert_eq!(wish(usable + 1).0, 0, "into the reserve of {reserved}");
        let (_, bytes) = admitted(&gpu(46_068, reserved), "0.25", 9);
        assert!(bytes <= usable * MEBIBYTE);
        let (_, whole) = admitted(&gpu(46_068, reserved), "1", 1);
        assert_eq!(whole, usable * MEBIBYTE);
    }
}
