//! The devices that ResourceSlices publish.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use k8s_openapi::api::resource::v1 as api;

use crate::scheduling::known::Known;
use crate::scheduling::node::Node;
use crate::scheduling::pod::Taint;
use crate::scheduling::quantity::nano;
use crate::scheduling::selector::{NodeTerm, node_terms, selects};

/// What names a device.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct DeviceId {
    pub(crate) driver: String,
    pub(crate) pool: String,
    pub(crate) device: String,
}

impl fmt::Display for DeviceId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// An attribute of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Attribute {
    Bool(bool),
    Int(i64),
    Text(String),
    Version(String),
}

/// A capacity of a device, in billionths.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Capacity {
    pub(crate) value: i128,
    pub(crate) policy: Option<Policy>,
}

/// How an amount of a capacity is rounded.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Policy {
    /// What a claim has that names no amount.
    pub(crate) usual: Option<i128>,
    pub(crate) rule: Rule,
}

/// Which amounts there are.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Rule {
    Any,
    Values(Vec<i128>),
    Range {
        least: i128,
        most: Option<i128>,
        step: Option<i128>,
    },
}

/// What a device takes of a set of counters that devices of its pool share.
#[derive(Debug, Clone, PartialEq)]
struct Consumption {
    set: String,
    counters: BTreeMap<String, i128>,
}

/// From which nodes a device can be reached.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Reach {
    Node(String),
    Nodes(Vec<NodeTerm>, Box<k8s_openapi::api::core::v1::NodeSelector>),
    Everywhere,
}

/// A device.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Device {
    pub(crate) id: DeviceId,
    /// By `domain/name`.
    pub(crate) attributes: BTreeMap<String, Attribute>,
    /// By `domain/name`.
    pub(crate) capacity: BTreeMap<String, Capacity>,
    consumes: Vec<Consumption>,
    /// What it takes of which of [`Inventory::counters`]; `None` while one of them is not
    /// published, and then nobody can have it.
    pub(crate) takes: Option<Vec<(usize, i128)>>,
    /// Whether several claims may have it at the same time.
    pub(crate) shared: bool,
    pub(crate) taints: Vec<Taint>,
    pub(crate) reach: Reach,
}

/// What cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unusable {
    pub(crate) what: String,
    pub(crate) why: String,
}

/// A counter that devices share.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    pub(crate) capacity: i128,
    takers: Vec<usize>,
}

/// Positions of counters by driver, pool and set, and by name.
type Counters = HashMap<(String, String, String), BTreeMap<String, usize>>;

/// All devices, and the counters that they share.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    pub(crate) devices: Vec<Device>,
    by_id: HashMap<DeviceId, usize>,
    by_node: HashMap<String, Vec<usize>>,
    /// Devices that more than one node may reach.
    wide: Vec<usize>,
    /// What there is of each counter, and which devices take of it.
    pub(crate) counters: Vec<Counted>,
    /// Pools whose slices are not all there yet, by driver and pool.
    pub(crate) incomplete: BTreeSet<(String, String)>,
    pub(crate) unusable: Vec<Unusable>,
}

impl Inventory {
    /// The devices of the newest generation of each pool.
    pub(crate) fn of(slices: &[Arc<Known<api::ResourceSlice>>]) -> Self {
        let mut inventory = Self::default();
        let mut counters = Counters::new();
        let mut pools: BTreeMap<(&str, &str), Vec<&Known<api::ResourceSlice>>> = BTreeMap::new();
        for slice in slices {
            let spec = &slice.object.spec;
            pools
                .entry((&spec.driver, &spec.pool.name))
                .or_default()
                .push(slice);
        }
        for ((driver, pool), mut slices) in pools {
            let generation = |slice: &&Known<api::ResourceSlice>| slice.object.spec.pool.generation;
            let newest = slices.iter().map(generation).max().unwrap_or(0);
            slices.retain(|slice| generation(slice) == newest);
            slices.sort_by(|a, b| a.object.metadata.name.cmp(&b.object.metadata.name));
            let expected = slices[0].object.spec.pool.resource_slice_count;
            if i64::try_from(slices.len()).ok() != Some(expected) {
                inventory
                    .incomplete
                    .insert((driver.to_owned(), pool.to_owned()));
            }
            for slice in slices {
                inventory.add(slice, &mut counters);
            }
        }
        inventory.resolve(&counters);
        for (at, device) in inventory.devices.iter().enumerate() {
            match &device.reach {
                Reach::Node(node) => inventory.by_node.entry(node.clone()).or_default().push(at),
                Reach::Nodes(..) | Reach::Everywhere => inventory.wide.push(at),
            }
        }
        inventory
    }

    fn add(&mut self, slice: &Known<api::ResourceSlice>, counters: &mut Counters) {
        let spec = &slice.object.spec;
        let (driver, pool) = (&spec.driver, &spec.pool.name);
        if !slice.unknown.is_empty() {
            self.unusable.push(Unusable {
                what: slice.object.metadata.name.clone().unwrap_or_default(),
                why: format!("the slice has {}", slice.unknown.join(", ")),
            });
            return;
        }
        for set in spec.shared_counters.iter().flatten() {
            let known = counters.entry((driver.clone(), pool.clone(), set.name.clone()));
            let known = known.or_default();
            for (name, counter) in &set.counters {
                let Some(capacity) = nano(&counter.value.0) else {
                    continue;
                };
                known.insert(name.clone(), self.counters.len());
                self.counters.push(Counted {
                    capacity,
                    takers: Vec::new(),
                });
            }
        }
        for given in spec.devices.iter().flatten() {
            match device(spec, given) {
                Ok(device) if self.by_id.contains_key(&device.id) => {
                    self.unusable.push(Unusable {
                        what: device.id.to_string(),
                        why: "two devices of its pool have this name".to_owned(),
                    });
                }
                Ok(device) => {
                    self.by_id.insert(device.id.clone(), self.devices.len());
                    self.devices.push(device);
                }
                Err(why) => self.unusable.push(Unusable {
                    what: format!("{driver}/{pool}/{}", given.name),
                    why,
                }),
            }
        }
    }

    /// Finds the counters that devices name: they may be in any slice of the pool.
    fn resolve(&mut self, counters: &Counters) {
        for (at, device) in self.devices.iter_mut().enumerate() {
            let id = &device.id;
            let known = |set: &String, name: &String| {
                let key = (id.driver.clone(), id.pool.clone(), set.clone());
                counters.get(&key)?.get(name).copied()
            };
            let mut takes = Some(Vec::new());
            for one in &device.consumes {
                for (name, amount) in &one.counters {
                    match (known(&one.set, name), &mut takes) {
                        (Some(counter), Some(takes)) => takes.push((counter, *amount)),
                        _ => takes = None,
                    }
                }
            }
            for (counter, _) in takes.iter().flatten() {
                self.counters[*counter].takers.push(at);
            }
            device.takes = takes;
        }
    }

    /// The devices that take of the same counters as one, which is among them.
    pub(crate) fn rivals(&self, at: usize) -> Vec<usize> {
        let takes = self.devices[at].takes.iter().flatten();
        let takers = takes.flat_map(|(counter, _)| &self.counters[*counter].takers);
        let mut rivals: Vec<usize> = takers.copied().collect();
        rivals.sort_unstable();
        rivals.dedup();
        rivals
    }

    /// The position of a device.
    pub(crate) fn find(&self, id: &DeviceId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// Positions of the devices that a node reaches.
    pub(crate) fn reached(&self, node: &Node) -> Vec<usize> {
        let own = self.by_node.get(&node.name).into_iter().flatten().copied();
        let wide = self.wide.iter().copied();
        let wide = wide.filter(|at| match &self.devices[*at].reach {
            Reach::Nodes(terms, _) => selects(terms, &node.name, &node.labels),
            Reach::Everywhere => true,
            Reach::Node(_) => false,
        });
        own.chain(wide).collect()
    }

    /// Whether a device's pool is whole.
    pub(crate) fn complete(&self, device: &Device) -> bool {
        self.incomplete.is_empty()
            || !self
                .incomplete
                .contains(&(device.id.driver.clone(), device.id.pool.clone()))
    }
}

fn device(spec: &api::ResourceSliceSpec, given: &api::Device) -> Result<Device, String> {
    if given.binds_to_node == Some(true)
        || given
            .binding_conditions
            .as_ref()
            .is_some_and(|all| !all.is_empty())
    {
        return Err("it has binding conditions, which are not supported".to_owned());
    }
    let (all, name, selector) = if spec.per_device_node_selection == Some(true) {
        (given.all_nodes, &given.node_name, &given.node_selector)
    } else {
        (spec.all_nodes, &spec.node_name, &spec.node_selector)
    };
    let reach = match (all, name, selector) {
        (_, Some(node), _) if !node.is_empty() => Reach::Node(node.clone()),
        (_, _, Some(selector)) => Reach::Nodes(node_terms(selector)?, Box::new(selector.clone())),
        (Some(true), _, _) => Reach::Everywhere,
        _ => return Err("no node reaches it".to_owned()),
    };
    let qualified = |name: &String| match name.contains('/') {
        true => name.clone(),
        false => format!("{}/{name}", spec.driver),
    };
    let mut attributes = BTreeMap::new();
    for (name, value) in given.attributes.iter().flatten() {
        let value = match value {
            api::DeviceAttribute {
                bool: Some(value), ..
            } => Attribute::Bool(*value),
            api::DeviceAttribute {
                int: Some(value), ..
            } => Attribute::Int(*value),
            api::DeviceAttribute {
                string: Some(value),
                ..
            } => Attribute::Text(value.clone()),
            api::DeviceAttribute {
                version: Some(value),
                ..
            } => Attribute::Version(value.clone()),
            _ => return Err(format!("attribute {name} has a type that is not known")),
        };
        attributes.insert(qualified(name), value);
    }
    let mut capacity = BTreeMap::new();
    for (name, value) in given.capacity.iter().flatten() {
        let policy = value.request_policy.as_ref().map(policy).transpose()?;
        capacity.insert(
            qualified(name),
            Capacity {
                value: amount(&value.value.0)?,
                policy,
            },
        );
    }
    let mut consumes = Vec::new();
    for one in given.consumes_counters.iter().flatten() {
        let mut counters = BTreeMap::new();
        for (name, counter) in &one.counters {
            counters.insert(name.clone(), amount(&counter.value.0)?);
        }
        consumes.push(Consumption {
            set: one.counter_set.clone(),
            counters,
        });
    }
    Ok(Device {
        id: DeviceId {
            driver: spec.driver.clone(),
            pool: spec.pool.name.clone(),
            device: given.name.clone(),
        },
        attributes,
        capacity,
        consumes,
        takes: None,
        shared: given.allow_multiple_allocations == Some(true),
        taints: given
            .taints
            .iter()
            .flatten()
            .map(|taint| Taint {
                key: taint.key.clone(),
                value: taint.value.clone().unwrap_or_default(),
                effect: taint.effect.clone(),
            })
            .collect(),
        reach,
    })
}

fn policy(given: &api::CapacityRequestPolicy) -> Result<Policy, String> {
    let usual = given.default.as_ref().map(|amount| self::amount(&amount.0));
    let rule = match (&given.valid_values, &given.valid_range) {
        (Some(values), _) if !values.is_empty() => {
            let mut values: Vec<i128> = values
                .iter()
                .map(|value| amount(&value.0))
                .collect::<Result<_, _>>()?;
            values.sort_unstable();
            Rule::Values(values)
        }
        (_, Some(range)) => Rule::Range {
            least: amount(&range.min.0)?,
            most: range.max.as_ref().map(|most| amount(&most.0)).transpose()?,
            step: range
                .step
                .as_ref()
                .map(|step| amount(&step.0))
                .transpose()?,
        },
        _ => Rule::Any,
    };
    Ok(Policy {
        usual: usual.transpose()?,
        rule,
    })
}

fn amount(text: &str) -> Result<i128, String> {
    nano(text).ok_or_else(|| format!("{text:?} is no quantity"))
}

impl Capacity {
    /// What a claim has that asks for `asked`, rounded up as the policy says;
    /// `None` when there is no such amount.
    pub(crate) fn granted(&self, asked: Option<i128>) -> Option<i128> {
        let Some(policy) = &self.policy else {
            return Some(asked.unwrap_or(self.value));
        };
        let asked = match asked.or(policy.usual) {
            Some(asked) => asked,
            None => return Some(self.value),
        };
        match &policy.rule {
            Rule::Any => Some(asked),
            Rule::Values(values) => values.iter().copied().find(|value| *value >= asked),
            Rule::Range { least, most, step } => {
                let mut amount = asked.max(*least);
                if let Some(step) = step.filter(|step| *step > 0) {
                    let above = amount - least;
                    amount = least + (above / step + i128::from(above % step != 0)) * step;
                }
                most.is_none_or(|most| amount <= most).then_some(amount)
            }
        }
    }
}
