//! Usage and quotas over the tree of queues, and what each is owed.
//!
//! A queue guarantees itself what it does not lend; usage beyond that is the
//! parent's. So the rules are Kueue's hierarchical cohorts (KEP-79).

use super::model::Model;
use super::queue::Quota;

/// An amount of one flavor's resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Charge {
    /// Flavor times resources plus resource.
    pub at: usize,
    pub amount: u64,
}

struct Member {
    parent: Option<usize>,
    children: Vec<usize>,
    weight: u64,
    /// By flavor and resource: its own and what its children lend it.
    subtree: Vec<i64>,
    /// What nobody else may use.
    guaranteed: Vec<i64>,
    borrowing: Vec<Option<i64>>,
    /// What it and its children use of `subtree` and beyond.
    usage: Vec<i64>,
    /// What all below it use, by resource.
    used: Vec<u64>,
}

/// The tree of queues with what is used.
pub(super) struct Tree {
    members: Vec<Member>,
    roots: Vec<usize>,
    /// By queue's root: what its tree has a quota for.
    covered: Vec<Vec<bool>>,
    /// What the cluster has, by resource.
    totals: Vec<u64>,
    resources: usize,
    undo: Vec<(usize, Charge, Step)>,
}

#[derive(Clone, Copy)]
enum Step {
    Charged,
    Refunded,
}

/// A queue's dominant share by its weight, in billionths.
pub(super) type Share = u128;

fn signed(amount: u64) -> i64 {
    i64::try_from(amount).unwrap_or(i64::MAX).min(i64::MAX / 64)
}

impl Tree {
    pub fn new(model: &Model<'_>) -> Self {
        let resources = model.resources.len();
        let size = model.flavors.len() * resources;
        let queues = &model.problem.queues;
        let find = |name: &String| queues.iter().position(|queue| queue.name == *name);
        let mut members: Vec<Member> = Vec::with_capacity(queues.len());
        let mut covered = vec![vec![false; size]; queues.len()];
        for queue in queues {
            let mut member = Member {
                parent: queue.parent.as_ref().and_then(find),
                children: Vec::new(),
                weight: u64::from(queue.weight.max(1)),
                subtree: vec![0; size],
                guaranteed: vec![0; size],
                borrowing: vec![None; size],
                usage: vec![0; size],
                used: vec![0; resources],
            };
            for (flavor, quotas) in &queue.quotas {
                for (resource, quota) in quotas {
                    if let Some(at) = position(model, flavor, resource) {
                        member.subtree[at] = signed(quota.nominal);
                        member.borrowing[at] = quota.borrowing.map(signed);
                        covered[members.len()][at] = true;
                    }
                }
            }
            members.push(member);
        }
        for at in 0..members.len() {
            if let Some(parent) = members[at].parent {
                members[parent].children.push(at);
            }
        }
        let roots = (0..members.len())
            .filter(|at| members[*at].parent.is_none())
            .collect();
        let totals = totals(model);
        let mut tree = Self {
            members,
            roots,
            covered,
            totals,
            resources,
            undo: Vec::new(),
        };
        for root in 0..tree.members.len() {
            if tree.members[root].parent.is_none() {
                tree.gather(model, root);
                tree.cover(root);
            }
        }
        tree
    }

    fn gather(&mut self, model: &Model<'_>, at: usize) {
        let unlimited = Quota::default();
        for child in self.members[at].children.clone() {
            self.gather(model, child);
            for entry in 0..self.members[at].subtree.len() {
                let lent =
                    self.members[child].subtree[entry] - self.members[child].guaranteed[entry];
                self.members[at].subtree[entry] =
                    self.members[at].subtree[entry].saturating_add(lent);
            }
        }
        for entry in 0..self.members[at].subtree.len() {
            let (flavor, resource) = (entry / self.resources, entry % self.resources);
            let quota = model.problem.queues[at]
                .quotas
                .get(&model.flavors[flavor])
                .and_then(|quotas| quotas.get(&model.resources[resource]))
                .unwrap_or(&unlimited);
            if let Some(lending) = quota.lending {
                let kept = self.members[at].subtree[entry] - signed(lending);
                self.members[at].guaranteed[entry] = kept.max(0);
            }
        }
    }

    /// Spreads what any queue of a tree has a quota for to all of them.
    fn cover(&mut self, root: usize) {
        let mut below = vec![root];
        let mut next = 0;
        while next < below.len() {
            below.extend(self.members[below[next]].children.clone());
            next += 1;
        }
        for entry in 0..self.covered[root].len() {
            if below.iter().any(|at| self.covered[*at][entry]) {
                for at in &below {
                    self.covered[*at][entry] = true;
                }
            }
        }
    }

    /// What a queue may still use of one flavor's resource; none: no limit.
    fn available(&self, queue: usize, at: usize) -> Option<i64> {
        self.covered[queue][at].then(|| self.room(queue, at))
    }

    fn room(&self, queue: usize, at: usize) -> i64 {
        let member = &self.members[queue];
        let Some(parent) = member.parent else {
            return member.subtree[at] - member.usage[at];
        };
        let own = (member.guaranteed[at] - member.usage[at]).max(0);
        let mut beyond = self.room(parent, at);
        if let Some(borrowing) = member.borrowing[at] {
            let stored = member.subtree[at] - member.guaranteed[at];
            let taken = (member.usage[at] - member.guaranteed[at]).max(0);
            beyond = beyond.min((stored - taken).saturating_add(borrowing));
        }
        own.saturating_add(beyond)
    }

    /// The first charge that the queue has no quota for.
    pub fn lacking(&self, queue: usize, charges: &[Charge]) -> Option<(Charge, i64)> {
        charges.iter().find_map(|charge| {
            let available = self.available(queue, charge.at)?;
            (charge.amount > 0 && signed(charge.amount) > available).then_some((*charge, available))
        })
    }

    /// Whether the charges stay within what is the queue's own.
    pub fn within_own(&self, queue: usize, charges: &[Charge]) -> bool {
        let member = &self.members[queue];
        charges.iter().all(|charge| {
            !self.covered[queue][charge.at]
                || member.usage[charge.at].saturating_add(signed(charge.amount))
                    <= member.subtree[charge.at]
        })
    }

    /// Whether any queue of this one's tree has a quota for one of the charges.
    pub fn limits(&self, queue: usize, charges: &[Charge]) -> bool {
        charges
            .iter()
            .any(|charge| charge.amount > 0 && self.covered[queue][charge.at])
    }

    /// Whether any queue of this one's tree has any quota.
    pub fn has_quota(&self, queue: usize) -> bool {
        self.covered[queue].iter().any(|covered| *covered)
    }

    pub fn charge(&mut self, queue: usize, charges: &[Charge]) {
        for charge in charges {
            self.add(queue, *charge);
            self.undo.push((queue, *charge, Step::Charged));
        }
    }

    pub fn refund(&mut self, queue: usize, charges: &[Charge]) {
        for charge in charges {
            self.remove(queue, *charge);
            self.undo.push((queue, *charge, Step::Refunded));
        }
    }

    pub fn mark(&self) -> usize {
        self.undo.len()
    }

    pub fn rollback(&mut self, mark: usize) {
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some((queue, charge, Step::Charged)) => self.remove(queue, charge),
                Some((queue, charge, Step::Refunded)) => self.add(queue, charge),
                None => return,
            }
        }
    }

    fn add(&mut self, queue: usize, charge: Charge) {
        self.count(queue, charge, u64::saturating_add);
        let (mut at, mut amount) = (Some(queue), signed(charge.amount));
        while let Some(member) = at {
            let member = &mut self.members[member];
            let own = (member.guaranteed[charge.at] - member.usage[charge.at]).max(0);
            member.usage[charge.at] = member.usage[charge.at].saturating_add(amount);
            amount -= own;
            at = if amount > 0 { member.parent } else { None };
        }
    }

    fn remove(&mut self, queue: usize, charge: Charge) {
        self.count(queue, charge, u64::saturating_sub);
        let (mut at, mut amount) = (Some(queue), signed(charge.amount));
        while let Some(member) = at {
            let member = &mut self.members[member];
            let beyond = member.usage[charge.at] - member.guaranteed[charge.at];
            member.usage[charge.at] -= amount;
            amount = amount.min(beyond);
            at = if amount > 0 { member.parent } else { None };
        }
    }

    fn count(&mut self, queue: usize, charge: Charge, apply: fn(u64, u64) -> u64) {
        let mut at = Some(queue);
        while let Some(member) = at {
            let used = &mut self.members[member].used[charge.at % self.resources];
            *used = apply(*used, charge.amount);
            at = self.members[member].parent;
        }
    }

    /// Dominant share of what all below a queue use, by its weight.
    pub fn share(&self, queue: usize) -> Share {
        self.share_with(queue, &[])
    }

    /// The same once it would also use `more`.
    fn share_with(&self, queue: usize, more: &[Charge]) -> Share {
        let member = &self.members[queue];
        let mut most = 0;
        for (resource, (used, total)) in member.used.iter().zip(&self.totals).enumerate() {
            let more = more
                .iter()
                .filter(|charge| charge.at % self.resources == resource);
            let used =
                u128::from(*used) + more.map(|charge| u128::from(charge.amount)).sum::<u128>();
            if *total > 0 {
                most =
                    most.max(used * 1_000_000_000 / u128::from(*total) / u128::from(member.weight));
            }
        }
        most
    }

    /// The queues under one, or the roots.
    pub fn children(&self, queue: Option<usize>) -> &[usize] {
        queue.map_or(&self.roots, |queue| &self.members[queue].children)
    }

    pub fn parent(&self, queue: usize) -> Option<usize> {
        self.members[queue].parent
    }

    /// Whether `taker` may have what `giver` uses: the giver's side of the tree
    /// uses more than its own of a resource that the taker needs and has a
    /// right to; where there are no quotas, when it has the greater share.
    pub fn may_reclaim(&self, taker: usize, giver: usize, needs: &[Charge]) -> bool {
        let (Some(taker), Some(giver)) = self.sides(taker, giver) else {
            return false;
        };
        if self.limits(taker, needs) {
            let limited = needs
                .iter()
                .filter(|need| self.covered[taker][need.at] && need.amount > 0);
            return self.within_own(taker, needs)
                && limited.clone().any(|need| {
                    self.members[giver].usage[need.at] > self.members[giver].subtree[need.at]
                });
        }
        // After the exchange the giver must not be the poorer one.
        self.share(giver) > self.share_with(taker, needs)
    }

    /// The two siblings (or roots) under which the two queues lie.
    fn sides(&self, a: usize, b: usize) -> (Option<usize>, Option<usize>) {
        let path = |from: usize| {
            let mut path = vec![from];
            while let Some(parent) = path.last().and_then(|at| self.members[*at].parent) {
                path.push(parent);
            }
            path.reverse();
            path
        };
        let (a, b) = (path(a), path(b));
        let split = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        (a.get(split).copied(), b.get(split).copied())
    }
}

fn position(model: &Model<'_>, flavor: &String, resource: &String) -> Option<usize> {
    let flavor = model.flavors.binary_search(flavor).ok()?;
    let resource = model.resources.iter().position(|known| known == resource)?;
    Some(flavor * model.resources.len() + resource)
}

fn totals(model: &Model<'_>) -> Vec<u64> {
    let mut totals = vec![0u64; model.resources.len()];
    for node in &model.nodes {
        for (total, capacity) in totals.iter_mut().zip(&node.capacity) {
            *total = total.saturating_add(*capacity);
        }
        let devices = u64::try_from(node.devices.len()).unwrap_or(0) * 1000;
        totals[model.device_quota()] = totals[model.device_quota()].saturating_add(devices);
    }
    totals
}
