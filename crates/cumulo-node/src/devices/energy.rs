//! How much energy pods use. Pure.
//!
//! A GPU tells one figure for all: the energy since its driver was loaded, or, where it
//! has no such counter, the power at a moment. Of what it used between two looks each pod
//! is given the part that its processes had of the computing, where the driver tells
//! that, and else the part of the GPU that it holds. What nobody holds is nobody's.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::decide::{Held, Holder};
use super::snapshot::{Gpu, Snapshot};
use super::watch::Uses;

/// Thousandths of a GPU.
const WHOLE: u128 = 1000;

/// What a pod has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Energy {
    /// Since it was given its devices, or since the node agent was started.
    pub millijoules: u64,
    /// Over the time between the last two looks.
    pub milliwatts: u64,
    /// How it was told apart from that of others.
    pub method: Method,
}

/// How a GPU's energy is divided among pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// By the part of the GPU that each holds.
    #[default]
    Share,
    /// By the part of the computing that each one's processes had.
    Utilization,
    /// By one in some looks, by the other in others.
    ShareAndUtilization,
}

/// Adds up over looks.
#[derive(Debug, Default)]
pub struct Meter {
    /// The counter of each GPU at the last look.
    counters: BTreeMap<String, u64>,
    /// Who was there at the last look: who came since has used none of it.
    present: BTreeSet<String>,
    pods: BTreeMap<String, Energy>,
}

impl Meter {
    /// Adds what was used since the last look, which was `elapsed` ago.
    pub fn add(
        &mut self,
        snapshot: &Snapshot,
        elapsed: Duration,
        holders: &BTreeMap<String, Holder>,
        uses: &Uses,
    ) {
        self.pods.retain(|uid, _| holders.contains_key(uid));
        let mut used: BTreeMap<&str, u64> = BTreeMap::new();
        let mut methods: BTreeMap<&str, Method> = BTreeMap::new();
        for gpu in &snapshot.gpus {
            let Some(energy) = self.since_last(gpu, elapsed) else {
                continue;
            };
            let (method, parts) = parts(&gpu.identity(), holders, uses);
            for (uid, (part, whole)) in parts {
                if !self.present.contains(uid) {
                    continue;
                }
                let own = u128::from(energy) * part / whole.max(1);
                let sum = used.entry(uid).or_default();
                *sum = sum.saturating_add(u64::try_from(own).unwrap_or(u64::MAX));
                methods
                    .entry(uid)
                    .and_modify(|known| *known = known.with(method))
                    .or_insert(method);
            }
        }
        for (uid, energy) in used {
            let method = methods.get(uid).copied().unwrap_or_default();
            let known = self.pods.entry(uid.to_owned()).or_insert(Energy {
                method,
                ..Energy::default()
            });
            known.method = known.method.with(method);
            known.millijoules = known.millijoules.saturating_add(energy);
            known.milliwatts = power(energy, elapsed);
        }
        self.present = holders.keys().cloned().collect();
    }

    /// What a pod has used.
    pub fn of(&self, uid: &str) -> Option<Energy> {
        self.pods.get(uid).copied()
    }

    /// Millijoules of a GPU since the last look; `None` at the first.
    fn since_last(&mut self, gpu: &Gpu, elapsed: Duration) -> Option<u64> {
        match gpu.energy_millijoules {
            Some(now) => {
                let before = self.counters.insert(gpu.identity(), now)?;
                // The counter begins anew when the driver is loaded again.
                Some(now.saturating_sub(before))
            }
            None => {
                let power = u128::from(gpu.power_milliwatts?);
                u64::try_from(power * elapsed.as_millis() / 1000).ok()
            }
        }
    }
}

impl Method {
    fn with(self, other: Self) -> Self {
        if self == other {
            self
        } else {
            Self::ShareAndUtilization
        }
    }
}

fn power(millijoules: u64, elapsed: Duration) -> u64 {
    let milliwatts = u128::from(millijoules) * 1000 / elapsed.as_millis().max(1);
    u64::try_from(milliwatts).unwrap_or(u64::MAX)
}

/// A pod's part, as a numerator and a denominator.
type Parts<'a> = BTreeMap<&'a str, (u128, u128)>;

fn parts<'a>(gpu: &str, holders: &'a BTreeMap<String, Holder>, uses: &Uses) -> (Method, Parts<'a>) {
    let busy: BTreeMap<&str, u32> = uses
        .pods
        .iter()
        .filter(|((_, on), _)| on == gpu)
        .filter_map(|((uid, _), used)| Some((uid.as_str(), used.utilization?)))
        .collect();
    let all: u128 = busy.values().map(|percent| u128::from(*percent)).sum();
    // With processes of others on it, how much they computed is not known here.
    let alone = !uses.others.contains_key(gpu) && !uses.blind.contains(gpu);
    // Of what pods have together each is given an equal part.
    let sharers = |held: &Held| {
        let same = |other: &&Holder| other.held.iter().any(|part| part.claim == held.claim);
        match &held.claim {
            Some(_) => holders.values().filter(same).count().max(1) as u128,
            None => 1,
        }
    };
    let on_gpu = holders.iter().filter_map(|(uid, holder)| {
        let held = holder.held.iter().filter(|held| held.gpu == gpu);
        let part = |held: &Held| u128::from(held.milli) / sharers(held);
        let milli = held.map(part).sum::<u128>();
        (milli > 0).then_some((uid.as_str(), milli))
    });
    if all > 0 && alone {
        let parts = on_gpu.map(|(uid, _)| {
            let own = busy.get(uid).copied().unwrap_or(0);
            (uid, (u128::from(own), all))
        });
        return (Method::Utilization, parts.collect());
    }
    let parts = on_gpu.map(|(uid, milli)| (uid, (milli.min(WHOLE), WHOLE)));
    (Method::Share, parts.collect())
}
