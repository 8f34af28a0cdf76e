//! Parts of jobs.

use std::collections::{BTreeMap, HashSet};

use cumulo_api::{labels, parse_duration};
use cumulo_schedule::solver::{
    Affinity, AffinityRule, Condition, Job, Members, Pod as Ask, Preference, Requirement, Spread,
    TaintEffect, Toleration, Topology,
};

use crate::scheduling::dra::{Inventory, Matcher, Wish, gpu};
use crate::scheduling::nearby::{Group, near_groups, single};
use crate::scheduling::node::Node;
use crate::scheduling::pod::Pod;
use crate::scheduling::room::Room;

/// Pods that a device serves which several claims may have; only quotas count them.
const SHARED_DEVICE: u64 = 100;

pub(super) fn requirement(label: &str, present: bool) -> Requirement {
    Requirement {
        key: label.to_owned(),
        condition: if present {
            Condition::Exists
        } else {
            Condition::Absent
        },
    }
}

pub(super) fn preference(weight: u32, label: &str) -> Preference {
    Preference {
        weight,
        requirement: requirement(label, true),
    }
}

pub(super) fn toleration(key: String) -> Toleration {
    Toleration {
        key: Some(key),
        value: None,
        effect: Some(TaintEffect::PreferNoSchedule),
    }
}

pub(super) fn members(pod: Ask, min: usize, max: usize) -> Members {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    Members {
        pod,
        min: number(min),
        max: number(max),
    }
}

/// How long a pod is expected to run.
pub(super) fn estimate(pod: &Pod) -> Option<u64> {
    let text = pod.mark(labels::ESTIMATED_DURATION)?;
    parse_duration(text)
        .ok()
        .map(|duration| duration.as_secs().max(1))
}

/// How near the pods of a gang must be to each other.
pub(super) fn topology(pod: &Pod, levels: &[String]) -> Topology {
    let level = |name: &str| {
        let key = pod.mark(name)?.to_owned();
        levels.contains(&key).then_some(key)
    };
    Topology {
        required: level(labels::REQUIRED_TOPOLOGY),
        preferred: level(labels::PREFERRED_TOPOLOGY),
    }
}

/// What a job asks of the pods that run near its place.
pub(super) fn neighbours(job: &mut Job, pod: &Pod, room: &Room, averse: &HashSet<usize>) {
    let nearby = &room.nearby;
    let rule = |kind: &str, group: &Group, rule: AffinityRule| {
        Some(Affinity {
            labels: label(kind, nearby.number(group)?),
            level: level(&group.topology),
            rule,
        })
    };
    for group in near_groups(pod) {
        job.affinity
            .extend(rule("near", &group, AffinityRule::Near));
    }
    for term in &pod.spec.apart {
        job.affinity
            .extend(rule("near", &single(term), AffinityRule::Apart));
    }
    for number in averse {
        if nearby.speaks_of(*number, pod, &room.namespaces) {
            let group = &nearby.groups()[*number];
            job.affinity
                .extend(rule("averse", group, AffinityRule::Apart));
        }
    }
    for (weight, term) in &pod.spec.preferred_pods {
        let wish = if *weight > 0 {
            AffinityRule::PreferNear
        } else {
            AffinityRule::PreferApart
        };
        job.affinity.extend(rule("near", &single(term), wish));
    }
    for spread in &pod.spec.spread {
        let group = single(&spread.term);
        if !spread.required {
            job.affinity
                .extend(rule("near", &group, AffinityRule::PreferApart));
        } else if let Some(number) = nearby.number(&group) {
            job.spread.push(Spread {
                labels: label("near", number),
                level: level(&group.topology),
                max_skew: u32::try_from(spread.max_skew).unwrap_or(u32::MAX),
            });
        }
    }
    // The order of a set differs from run to run; decisions must not.
    job.affinity
        .sort_by(|a, b| (&a.level, &a.labels).cmp(&(&b.level, &b.labels)));
}

fn label(kind: &str, number: usize) -> BTreeMap<String, String> {
    BTreeMap::from([(format!("{kind}/{number}"), String::new())])
}

fn level(topology: &str) -> String {
    if topology.is_empty() {
        "node"
    } else {
        topology
    }
    .to_owned()
}

/// How many devices of a class there are on a node, used or not.
pub(super) fn devices_of(matcher: &mut Matcher<'_>, class: &str, node: &Node) -> u64 {
    let reached = matcher.inventory.reached(node);
    if class == gpu::COUNTED {
        let devices = reached.iter().map(|at| &matcher.inventory.devices[*at]);
        return devices.map(gpu::size).sum();
    }
    let found = matcher.of_class(class, &reached);
    let devices = found.iter().map(|at| &matcher.inventory.devices[*at]);
    devices
        .map(|device| if device.shared { SHARED_DEVICE } else { 1 })
        .sum()
}

/// How many devices of a class some claims ask for, in the first of their alternatives.
pub(super) fn asked_of(class: &str, wishes: &[Wish], inventory: &Inventory) -> u64 {
    let requests = wishes.iter().flat_map(|wish| &wish.requests);
    requests
        .filter_map(|request| request.alternatives.first())
        .filter(|alternative| match &alternative.gpu {
            Some(_) => class == gpu::COUNTED,
            None => alternative.class == class && !alternative.admin,
        })
        .map(|alternative| match &alternative.gpu {
            Some(ask) => gpu::thousandths(inventory, ask),
            None => alternative.count.unwrap_or(1) as u64,
        })
        .sum()
}
