//! Whether a place is one that a pod asked for and may have.

use std::collections::BTreeSet;

use super::super::geometry::{Geometry, Profile, Slot};
use super::super::problem::{
    Availability, Device, Health, Node, Problem, Sharing, TaintEffect, WHOLE,
};
use super::super::work::{Ask, DevicePart, DeviceRequest, Locality, Part, Placement, Pod};

/// Profile and slot by name and start.
pub fn find<'g>(
    geometry: &'g Geometry,
    profile: &str,
    start: u32,
) -> Option<(&'g Profile, &'g Slot)> {
    let profile = geometry
        .profiles
        .iter()
        .find(|known| known.name == profile)?;
    profile
        .slots
        .iter()
        .find(|slot| slot.start == start)
        .map(|slot| (profile, slot))
}

/// Whether a node takes a pod at all.
pub fn admits(pod: &Pod, node: &Node) -> Result<(), String> {
    if node.availability == Availability::Closed {
        return Err("the node is closed".to_owned());
    }
    if !pod.regions.is_empty() && !pod.regions.contains(&node.region) {
        return Err(format!(
            "region {} is not one of {:?}",
            node.region, pod.regions
        ));
    }
    for taint in node
        .taints
        .iter()
        .filter(|taint| taint.effect == TaintEffect::NoSchedule)
    {
        if !pod
            .tolerations
            .iter()
            .any(|toleration| toleration.covers(taint))
        {
            return Err(format!("taint {} is not tolerated", taint.key));
        }
    }
    match pod
        .selector
        .iter()
        .find(|requirement| !requirement.holds(&node.labels))
    {
        Some(requirement) => Err(format!("label {} does not match", requirement.key)),
        None => Ok(()),
    }
}

/// Whether a placement gives each request what it asks.
pub fn as_asked(
    problem: &Problem,
    pod: &Pod,
    node: &Node,
    placement: &Placement,
) -> Result<(), String> {
    if placement
        .devices
        .iter()
        .any(|part| part.request >= pod.devices.len())
    {
        return Err("it has a device that it did not ask".to_owned());
    }
    for (at, request) in pod.devices.iter().enumerate() {
        let parts: Vec<&DevicePart> = placement
            .devices
            .iter()
            .filter(|part| part.request == at)
            .collect();
        if parts.len() != request.count as usize {
            return Err(format!("{} devices of {}", parts.len(), request.count));
        }
        let mut domains = BTreeSet::new();
        let mut devices = BTreeSet::new();
        for part in parts {
            let device = node.devices.get(part.device).ok_or("no such device")?;
            serves(problem, request, device, &part.part)?;
            if !devices.insert(part.device) && !matches!(part.part, Part::Partition { .. }) {
                return Err("one device counts twice".to_owned());
            }
            domains.insert(match request.within {
                Some(Locality::Link) => device.link.clone(),
                Some(Locality::Numa) => device.numa.map(|numa| numa.to_string()),
                None => Some(String::new()),
            });
        }
        if domains.len() > 1 || (request.count > 1 && domains.contains(&None)) {
            return Err("its devices lie in several domains".to_owned());
        }
    }
    Ok(())
}

fn serves(
    problem: &Problem,
    request: &DeviceRequest,
    device: &Device,
    part: &Part,
) -> Result<(), String> {
    if device.health == Health::Broken {
        return Err(format!("{} is broken", device.name));
    }
    if !request.models.is_empty() && !request.models.contains(&device.model) {
        return Err(format!(
            "{} is not one of {:?}",
            device.model, request.models
        ));
    }
    let usable = device.memory.saturating_sub(device.reserved);
    let (milli, memory) = match &request.ask {
        Ask::Whole => (WHOLE, 0),
        Ask::Share { milli, memory } => (*milli, memory.unwrap_or(0)),
        Ask::Memory(memory) => (0, *memory),
        Ask::Profile(_) => (0, 0),
    };
    let enough = match (part, &device.sharing) {
        (Part::Partition { profile, start }, Sharing::Partitioned { geometry, .. }) => {
            let geometry = &problem.geometries[geometry];
            match (find(geometry, profile, *start), &request.ask) {
                (None, _) => false,
                (Some(_), Ask::Profile(name)) => name == profile,
                // Partitions of several devices have no fast link between them.
                (Some(_), Ask::Whole) if request.count > 1 => false,
                (Some((found, _)), _) => found.compute >= milli && found.memory >= memory,
            }
        }
        (_, Sharing::Partitioned { .. }) | (Part::Partition { .. }, _) => false,
        (Part::Whole, _) => milli == WHOLE && memory <= usable,
        (
            Part::Share {
                milli: given,
                memory: bytes,
            },
            Sharing::Mps { .. },
        ) => !matches!(request.ask, Ask::Profile(_)) && *given >= milli && *bytes >= memory,
        (
            Part::Slots {
                slots,
                memory: bytes,
            },
            Sharing::TimeSliced { slots: round },
        ) => {
            let turns = u64::from(*slots) * u64::from(WHOLE);
            !matches!(request.ask, Ask::Profile(_))
                && turns >= u64::from(milli) * u64::from(*round)
                && *bytes >= memory
        }
        _ => false,
    };
    if enough {
        Ok(())
    } else {
        Err(format!(
            "{part:?} of {} is not {:?}",
            device.name, request.ask
        ))
    }
}
