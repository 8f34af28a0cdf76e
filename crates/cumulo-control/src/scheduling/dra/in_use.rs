//! What claims have of the devices.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::api::resource::v1::AllocationResult;

use super::inventory::{DeviceId, Inventory};
use super::result::Given;
use crate::scheduling::quantity::nano;

/// What is taken of devices and of the counters that they share.
#[derive(Debug, Clone, Default)]
pub(crate) struct InUse {
    /// By device, how many have it and what they have of its capacity.
    devices: HashMap<usize, (u32, BTreeMap<String, i128>)>,
    /// Of each of the inventory's counters.
    counters: HashMap<usize, i128>,
}

impl InUse {
    /// Takes in what an allocation gives. What it gives of devices that are gone,
    /// and for administration, takes nothing from anybody.
    pub(crate) fn add_allocation(&mut self, inventory: &Inventory, allocation: &AllocationResult) {
        for given in allocated(inventory, allocation) {
            self.add(inventory, &given);
        }
    }

    /// Takes one device, or a part of one.
    pub(crate) fn add(&mut self, inventory: &Inventory, given: &Given) {
        if given.admin {
            return;
        }
        let (count, consumed) = self.devices.entry(given.device).or_default();
        *count += 1;
        for (name, amount) in &given.consumed {
            *consumed.entry(name.clone()).or_default() += amount;
        }
        if *count == 1 {
            self.count(inventory, given.device, 1);
        }
    }

    /// Gives it back.
    pub(crate) fn remove(&mut self, inventory: &Inventory, given: &Given) {
        if given.admin {
            return;
        }
        let Some((count, consumed)) = self.devices.get_mut(&given.device) else {
            return;
        };
        *count -= 1;
        for (name, amount) in &given.consumed {
            *consumed.entry(name.clone()).or_default() -= amount;
        }
        if *count == 0 {
            self.devices.remove(&given.device);
            self.count(inventory, given.device, -1);
        }
    }

    fn count(&mut self, inventory: &Inventory, device: usize, sign: i128) {
        for (counter, amount) in inventory.devices[device].takes.iter().flatten() {
            *self.counters.entry(*counter).or_default() += sign * amount;
        }
    }

    /// How many have a device.
    pub(crate) fn holders(&self, device: usize) -> u32 {
        self.devices.get(&device).map_or(0, |(count, _)| *count)
    }

    /// What is taken of a capacity of a device.
    pub(crate) fn consumed(&self, device: usize, capacity: &str) -> i128 {
        let consumed = self.devices.get(&device);
        consumed
            .and_then(|(_, consumed)| consumed.get(capacity).copied())
            .unwrap_or(0)
    }

    /// Whether a device could be had as far as others of its pool and its holders go.
    pub(crate) fn free(&self, inventory: &Inventory, at: usize) -> bool {
        let device = &inventory.devices[at];
        let holders = self.holders(at);
        if holders > 0 {
            return device.shared;
        }
        device.takes.as_ref().is_some_and(|takes| {
            takes.iter().all(|(counter, amount)| {
                let used = self.counters.get(counter).copied().unwrap_or(0);
                used + amount <= inventory.counters[*counter].capacity
            })
        })
    }
}

/// What an allocation gives of devices that are there.
pub(crate) fn allocated(inventory: &Inventory, allocation: &AllocationResult) -> Vec<Given> {
    let results = allocation.devices.iter();
    let results = results.flat_map(|devices| devices.results.iter().flatten());
    results
        .filter_map(|result| {
            let device = inventory.find(&DeviceId {
                driver: result.driver.clone(),
                pool: result.pool.clone(),
                device: result.device.clone(),
            })?;
            Some(Given {
                request: result.request.clone(),
                device,
                admin: result.admin_access == Some(true),
                consumed: result
                    .consumed_capacity
                    .iter()
                    .flatten()
                    .filter_map(|(name, amount)| {
                        Some((qualified(&result.driver, name), nano(&amount.0)?))
                    })
                    .collect(),
                tolerations: Vec::new(),
            })
        })
        .collect()
}

/// A capacity's name with its domain.
pub(super) fn qualified(driver: &str, name: &str) -> String {
    if name.contains('/') {
        name.to_owned()
    } else {
        format!("{driver}/{name}")
    }
}
