//! The search: devices of one node for all requests of a pod's claims.
//!
//! Depth first over the requests in their order, over the alternatives of each,
//! and over the devices of each alternative, those first whose loss takes least
//! from others. The number of steps is bounded: a search that ends there has
//! found nothing, and says so.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::cel::{Compiled, Evaluator, Expressions};
use super::gpu;
use super::in_use::{InUse, qualified};
use super::inventory::{Attribute, Inventory};
use super::result::Given;
use super::wish::{Alternative, Class, Wish};
use crate::scheduling::node::Node;

/// Most devices that one claim gets (Kubernetes' bound).
const MOST_DEVICES: usize = 32;
/// Most steps of one search.
const MOST_STEPS: usize = 20_000;
/// Most free devices that are compared with each other.
const MOST_COMPARED: usize = 64;

/// Why a node cannot serve some claims.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// Never, whatever is free: a class is missing, or an expression is not understood.
    NotUnderstood(String),
    /// The node has too few such devices, used or not.
    Lacks(String),
    /// Others have them.
    Busy(String),
}

impl Refusal {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::NotUnderstood(text) | Self::Lacks(text) | Self::Busy(text) => text,
        }
    }
}

/// Which devices expressions select, remembered for one inventory.
pub(crate) struct Matcher<'a> {
    pub(crate) inventory: &'a Inventory,
    pub(crate) classes: &'a HashMap<String, Class>,
    evaluator: Evaluator,
    expressions: &'a mut Expressions,
    /// By expression and device.
    known: HashMap<String, (Arc<Compiled>, Vec<Option<bool>>)>,
    /// The last expression that failed on a device.
    failure: Option<String>,
}

impl<'a> Matcher<'a> {
    pub(crate) fn new(
        inventory: &'a Inventory,
        classes: &'a HashMap<String, Class>,
        expressions: &'a mut Expressions,
    ) -> Self {
        Self {
            inventory,
            classes,
            evaluator: expressions.evaluator(),
            expressions,
            known: HashMap::new(),
            failure: None,
        }
    }

    /// Why some claims cannot be understood at all.
    pub(crate) fn check(&mut self, wish: &Wish) -> Result<(), Refusal> {
        for request in &wish.requests {
            let classed = request.alternatives.iter();
            for alternative in classed.filter(|alternative| alternative.gpu.is_none()) {
                let Some(class) = self.classes.get(&alternative.class) else {
                    return Err(Refusal::NotUnderstood(format!(
                        "waits for DeviceClass {}",
                        alternative.class
                    )));
                };
                for text in class.selectors.iter().chain(&alternative.selectors) {
                    self.expressions
                        .compile(text)
                        .map_err(Refusal::NotUnderstood)?;
                }
            }
        }
        Ok(())
    }

    /// Whether an expression selects a device. One that fails selects none.
    fn selects(&mut self, text: &str, device: usize) -> bool {
        if !self.known.contains_key(text) {
            let Ok(compiled) = self.expressions.compile(text) else {
                return false;
            };
            let unknown = vec![None; self.inventory.devices.len()];
            self.known.insert(text.to_owned(), (compiled, unknown));
        }
        let Some((compiled, known)) = self.known.get_mut(text) else {
            return false;
        };
        if let Some(selected) = known[device] {
            return selected;
        }
        let selected = self
            .evaluator
            .selects(compiled, &self.inventory.devices[device]);
        let selected = selected.unwrap_or_else(|why| {
            self.failure = Some(why);
            false
        });
        known[device] = Some(selected);
        selected
    }

    /// Devices that a class selects, used or not.
    pub(crate) fn of_class(&mut self, class: &str, reached: &[usize]) -> Vec<usize> {
        let Some(class) = self.classes.get(class) else {
            return Vec::new();
        };
        let mut found = reached.to_vec();
        found.retain(|at| class.selectors.iter().all(|text| self.selects(text, *at)));
        found
    }

    /// Devices of a node that an alternative may have, used or not.
    pub(crate) fn matching(&mut self, alternative: &Alternative, reached: &[usize]) -> Vec<usize> {
        if let Some(ask) = &alternative.gpu {
            let mut found = reached.to_vec();
            found.retain(|at| gpu::serves(&self.inventory.devices[*at], ask));
            return found;
        }
        let Some(class) = self.classes.get(&alternative.class) else {
            return Vec::new();
        };
        let mut found = Vec::new();
        for at in reached {
            let device = &self.inventory.devices[*at];
            let tolerated = device.taints.iter().all(|taint| {
                taint.effect == "None"
                    || alternative.tolerations.iter().any(|one| one.covers(taint))
            });
            let suffices = alternative.capacity.iter().all(|(name, asked)| {
                let name = qualified(&device.id.driver, name);
                let capacity = device.capacity.get(&name);
                capacity.is_some_and(|capacity| capacity.value >= *asked)
            });
            if tolerated
                && suffices
                && class.selectors.iter().all(|text| self.selects(text, *at))
                && alternative
                    .selectors
                    .iter()
                    .all(|text| self.selects(text, *at))
            {
                found.push(*at);
            }
        }
        found
    }
}

/// What each of the claims gets on a node.
///
/// # Errors
/// Why it gets nothing.
pub(crate) fn allocate(
    matcher: &mut Matcher<'_>,
    in_use: &mut InUse,
    wishes: &[&Wish],
    node: &Node,
) -> Result<Vec<Vec<Given>>, Refusal> {
    for wish in wishes {
        matcher.check(wish)?;
    }
    let reached = matcher.inventory.reached(node);
    let mut asked = Vec::new();
    for (claim, wish) in wishes.iter().enumerate() {
        for (request, given) in wish.requests.iter().enumerate() {
            let mut choices = Vec::new();
            let mut lacking = None;
            for alternative in &given.alternatives {
                let mut devices = matcher.matching(alternative, &reached);
                let whole = devices
                    .iter()
                    .all(|at| matcher.inventory.complete(&matcher.inventory.devices[*at]));
                devices.retain(|at| matcher.inventory.complete(&matcher.inventory.devices[*at]));
                // Of a pool that is not whole, nobody knows what all devices are.
                let enough = match alternative.count {
                    Some(count) => devices.len() >= count,
                    None => whole && !devices.is_empty(),
                };
                if enough || alternative.count.is_some_and(|_| shared(matcher, &devices)) {
                    choices.push((alternative, devices));
                } else {
                    lacking = Some((alternative, devices.len()));
                }
            }
            if choices.is_empty() {
                let (alternative, found) = match lacking {
                    Some(lacking) => lacking,
                    None => continue,
                };
                return Err(Refusal::Lacks(lacks(matcher, alternative, found)));
            }
            asked.push(Asked {
                claim,
                request,
                choices,
            });
        }
    }
    let (found, steps) = search(matcher.inventory, wishes, &asked, in_use);
    if let Some(given) = found {
        return Ok(given);
    }
    if steps >= MOST_STEPS {
        return Err(Refusal::Busy(
            "has no devices for its claims that were found in time".to_owned(),
        ));
    }
    // As if nobody had any: is it the others, or the wish?
    let requests = wishes.iter().flat_map(|wish| &wish.requests);
    let first = requests.flat_map(|request| &request.alternatives).next();
    let class = first.map_or("", |alternative| alternative.class.as_str());
    let gpu = first.and_then(|alternative| alternative.gpu.as_ref());
    let alone = search(matcher.inventory, wishes, &asked, &mut InUse::default());
    if let Some(ask) = gpu {
        return Err(match alone.0 {
            Some(_) => Refusal::Busy(format!("has not enough free for {ask}")),
            None => Refusal::Lacks(format!("never has {ask}")),
        });
    }
    if alone.0.is_some() {
        Err(Refusal::Busy(format!(
            "has too few free devices of class {class}"
        )))
    } else {
        Err(Refusal::Lacks(format!(
            "has no devices of class {class} that fulfil the claim's constraints"
        )))
    }
}

/// What is found, and in how many steps; `in_use` is left as it was.
fn search(
    inventory: &Inventory,
    wishes: &[&Wish],
    asked: &[Asked<'_>],
    in_use: &mut InUse,
) -> (Option<Vec<Vec<Given>>>, usize) {
    let mut search = Search {
        inventory,
        wishes,
        asked,
        in_use,
        given: wishes.iter().map(|_| Vec::new()).collect(),
        steps: 0,
    };
    let found = search.request(0);
    let Search {
        given,
        steps,
        in_use,
        ..
    } = search;
    if !found {
        return (None, steps);
    }
    for one in given.iter().flatten() {
        in_use.remove(inventory, one);
    }
    (Some(given), steps)
}

fn shared(matcher: &Matcher<'_>, devices: &[usize]) -> bool {
    !devices.is_empty()
        && devices
            .iter()
            .all(|at| matcher.inventory.devices[*at].shared)
}

fn lacks(matcher: &mut Matcher<'_>, alternative: &Alternative, found: usize) -> String {
    if let Some(ask) = &alternative.gpu {
        return match found {
            0 => format!("has no GPU that could serve {ask}"),
            _ => format!(
                "has {found} of {} GPUs or partitions that could serve {ask}",
                ask.count
            ),
        };
    }
    let class = &alternative.class;
    let wanted = alternative.count.unwrap_or(1);
    let mut text =
        format!("has {found} of {wanted} devices of class {class} that the claim selects");
    if let Some(failure) = matcher.failure.take() {
        text = format!("{text} ({failure})");
    }
    text
}

/// A request with the devices that each alternative may have.
struct Asked<'w> {
    claim: usize,
    request: usize,
    choices: Vec<(&'w Alternative, Vec<usize>)>,
}

struct Search<'s, 'w> {
    inventory: &'s Inventory,
    wishes: &'s [&'w Wish],
    asked: &'s [Asked<'w>],
    in_use: &'s mut InUse,
    given: Vec<Vec<Given>>,
    steps: usize,
}

impl Search<'_, '_> {
    /// Fulfils the requests from `at` on.
    fn request(&mut self, at: usize) -> bool {
        let Some(asked) = self.asked.get(at) else {
            return true;
        };
        for (alternative, devices) in &asked.choices {
            let found = match alternative.count {
                None => self.all(at, alternative, devices),
                Some(count) => {
                    let order = self.order(alternative, devices);
                    self.pick(at, alternative, &order, 0, count)
                }
            };
            if found {
                return true;
            }
            if self.steps >= MOST_STEPS {
                return false;
            }
        }
        false
    }

    /// Every device that matches.
    fn all(&mut self, at: usize, alternative: &Alternative, devices: &[usize]) -> bool {
        let mut taken = 0;
        let complete = devices.iter().all(|device| {
            let took = self.take(at, alternative, *device);
            taken += usize::from(took);
            took
        });
        if complete && self.request(at + 1) {
            return true;
        }
        for _ in 0..taken {
            self.give_back(at);
        }
        false
    }

    /// `count` more devices, from `from` on in the order.
    fn pick(
        &mut self,
        at: usize,
        alternative: &Alternative,
        order: &[usize],
        from: usize,
        count: usize,
    ) -> bool {
        if count == 0 {
            return self.request(at + 1);
        }
        for next in from..order.len() {
            self.steps += 1;
            if self.steps >= MOST_STEPS {
                return false;
            }
            if self.take(at, alternative, order[next]) {
                if self.pick(at, alternative, order, next + 1, count - 1) {
                    return true;
                }
                self.give_back(at);
            }
        }
        false
    }

    /// The devices whose loss takes least from others come first: shared ones
    /// that are in use, then the smallest that does where a GPU is asked for, then
    /// those that make the fewest free devices of their pool unavailable.
    fn order(&mut self, alternative: &Alternative, devices: &[usize]) -> Vec<usize> {
        let free = |in_use: &InUse, at: &usize| in_use.free(self.inventory, *at);
        let (mut order, busy): (Vec<usize>, Vec<usize>) = devices
            .iter()
            .copied()
            .partition(|at| free(self.in_use, at));
        let sized = alternative.gpu.is_some();
        let rank = |at: usize| {
            let device = &self.inventory.devices[at];
            let extent = if sized { gpu::extent(device) } else { 0 };
            (self.in_use.holders(at) == 0, extent)
        };
        order.sort_by_key(|at| (rank(*at), *at));
        let ranks: Vec<_> = order
            .iter()
            .take(MOST_COMPARED)
            .map(|at| rank(*at))
            .collect();
        // Those of equal rank change places among themselves only.
        let mut compared: Vec<_> = ranks
            .into_iter()
            .zip(order.clone())
            .map(|(rank, at)| (rank, self.blocks(at), at))
            .collect();
        compared.sort_unstable();
        for (place, (_, _, at)) in order.iter_mut().zip(compared) {
            *place = at;
        }
        // Devices in use may still be looked at for administration.
        order.extend(busy);
        order
    }

    /// How many free devices a device makes unavailable, by the counters that it
    /// takes from: so a small partition lies where most large ones remain possible.
    fn blocks(&mut self, at: usize) -> usize {
        let device = &self.inventory.devices[at];
        if device.takes.as_ref().is_none_or(Vec::is_empty) || self.in_use.holders(at) > 0 {
            return 0;
        }
        let rivals = self.inventory.rivals(at);
        let free = |in_use: &InUse| {
            let free = rivals
                .iter()
                .filter(|other| in_use.free(self.inventory, **other));
            free.count()
        };
        let taken = Given {
            request: String::new(),
            device: at,
            admin: false,
            consumed: BTreeMap::new(),
            tolerations: Vec::new(),
        };
        let before = free(self.in_use);
        self.in_use.add(self.inventory, &taken);
        let lost = before - free(self.in_use);
        self.in_use.remove(self.inventory, &taken);
        lost
    }

    /// Takes a device if it can be had beside what is taken already.
    fn take(&mut self, at: usize, alternative: &Alternative, device: usize) -> bool {
        let asked = &self.asked[at];
        let wish = self.wishes[asked.claim];
        let request = &wish.requests[asked.request];
        let facts = &self.inventory.devices[device];
        let own = &self.given[asked.claim];
        if own.len() >= MOST_DEVICES {
            return false;
        }
        let mut consumed = BTreeMap::new();
        if !alternative.admin {
            if !self.in_use.free(self.inventory, device) {
                return false;
            }
            if facts.shared {
                for (name, capacity) in &facts.capacity {
                    let short = name
                        .split_once('/')
                        .map_or(name.as_str(), |(_, short)| short);
                    let asked = alternative.capacity.get(name).or_else(|| {
                        name.starts_with(&format!("{}/", facts.id.driver))
                            .then(|| alternative.capacity.get(short))?
                    });
                    let amount = match &alternative.gpu {
                        Some(ask) => gpu::takes(facts, ask, name),
                        None => capacity.granted(asked.copied()),
                    };
                    let Some(amount) = amount else {
                        return false;
                    };
                    if self.in_use.consumed(device, name) + amount > capacity.value {
                        return false;
                    }
                    consumed.insert(name.clone(), amount);
                }
            }
        }
        // One claim has a device for one of its requests only.
        if own
            .iter()
            .any(|given| given.device == device && given.admin == alternative.admin)
            && !facts.shared
        {
            return false;
        }
        let name = |alternative: Option<&str>| match alternative {
            Some(sub) => format!("{}/{sub}", request.name),
            None => request.name.clone(),
        };
        let full = name(alternative.name.as_deref());
        for constraint in &wish.constraints {
            if !constraint.covers(&request.name, alternative.name.as_deref()) {
                continue;
            }
            let Some(value) = self.attribute(device, &constraint.attribute) else {
                return false;
            };
            let others = own.iter().filter(|given| {
                let (request, sub) = match given.request.split_once('/') {
                    Some((request, sub)) => (request, Some(sub)),
                    None => (given.request.as_str(), None),
                };
                constraint.covers(request, sub)
            });
            let mut values =
                others.map(|given| self.attribute(given.device, &constraint.attribute));
            let holds = if constraint.same {
                values.all(|other| other == Some(value))
            } else {
                values.all(|other| other != Some(value))
            };
            if !holds {
                return false;
            }
        }
        let given = Given {
            request: full,
            device,
            admin: alternative.admin,
            consumed,
            tolerations: alternative.tolerations.clone(),
        };
        self.in_use.add(self.inventory, &given);
        let claim = asked.claim;
        self.given[claim].push(given);
        true
    }

    fn give_back(&mut self, at: usize) {
        if let Some(given) = self.given[self.asked[at].claim].pop() {
            self.in_use.remove(self.inventory, &given);
        }
    }

    fn attribute(&self, device: usize, name: &str) -> Option<&Attribute> {
        let device = &self.inventory.devices[device];
        device.attributes.get(&qualified(&device.id.driver, name))
    }
}

/// How often a claim could be allocated on a node, one after the other; at most `limit`.
pub(crate) fn room(
    matcher: &mut Matcher<'_>,
    in_use: &mut InUse,
    wishes: &[&Wish],
    node: &Node,
    limit: u64,
) -> u64 {
    let mut taken: Vec<Given> = Vec::new();
    let mut count = 0;
    while count < limit {
        let Ok(given) = allocate(matcher, in_use, wishes, node) else {
            break;
        };
        // Administration takes nothing: there is room for any number.
        if given.iter().flatten().all(|given| given.admin) {
            count = limit;
            break;
        }
        for given in given.into_iter().flatten() {
            in_use.add(matcher.inventory, &given);
            taken.push(given);
        }
        count += 1;
    }
    for given in &taken {
        in_use.remove(matcher.inventory, given);
    }
    count
}
