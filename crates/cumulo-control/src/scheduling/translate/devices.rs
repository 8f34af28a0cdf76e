//! Claims and devices in the problem's terms: how often which claims could be had
//! on each node, now and if others ended, and what quotas count of them.

use std::collections::BTreeMap;

use cumulo_schedule::solver::Resources;

use super::{Building, MOST_ROOM, Settled, wishes, work};
use crate::scheduling::decide::devices::freed_with;
use crate::scheduling::dra::{InUse, Matcher, Wish, gpu, room};

/// Most nodes on which it is looked what those free who might end.
const MOST_FREEING: usize = 256;

impl Building<'_> {
    /// How often each kind of claims could be had on each node.
    pub(super) fn claims(&mut self, matcher: &mut Matcher<'_>, in_use: &mut InUse) {
        let situation = self.situation;
        let mut counts: Vec<u64> = Vec::new();
        let mut kinds: Vec<Vec<Wish>> = Vec::new();
        for at in situation.open {
            let wishes = wishes(&situation.waiting[*at]);
            if wishes.is_empty() {
                continue;
            }
            let number = self.wishes.of(&wishes);
            if number == kinds.len() {
                kinds.push(wishes);
                counts.push(0);
            }
            counts[number] += 1;
            if let Some(ask) = self.asks.get_mut(at) {
                ask.resources.other.insert(format!("claim/{number}"), 1);
            }
        }
        for (number, wishes) in kinds.iter().enumerate() {
            let wishes: Vec<&Wish> = wishes.iter().collect();
            let name = format!("claim/{number}");
            let limit = counts[number].min(MOST_ROOM);
            let mut free = 0;
            for (node, given) in self.problem.nodes.iter_mut().zip(&situation.room.nodes) {
                let count = room(matcher, in_use, &wishes, given, limit);
                free += count;
                if count > 0 {
                    node.capacity.other.insert(name.clone(), count);
                }
            }
            if free < counts[number] {
                self.freeing(&name, &wishes, limit, matcher, in_use);
            }
        }
    }

    /// What would be free for some claims if those ended who have devices and may
    /// end: one after the other on each node, the least important first. Whether it
    /// takes those before, too, is found when somebody is to end for it.
    fn freeing(
        &mut self,
        name: &str,
        wishes: &[&Wish],
        limit: u64,
        matcher: &mut Matcher<'_>,
        in_use: &InUse,
    ) {
        let situation = self.situation;
        let mut holders: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (at, settled) in situation.settled.iter().enumerate() {
            if settled.endable && !settled.wishes.is_empty() {
                holders.entry(settled.node).or_default().push(at);
            }
        }
        for (node, mut there) in holders.into_iter().take(MOST_FREEING) {
            there.sort_by_key(|at| {
                let settled = &situation.settled[*at];
                (settled.priority, std::cmp::Reverse(settled.pod.created()))
            });
            let mut in_use = in_use.clone();
            let known = self.problem.nodes[node].capacity.other.get(name);
            let mut free = known.copied().unwrap_or(0);
            for at in there {
                for given in freed_with(situation.view, &situation.settled[at].pod) {
                    in_use.remove(matcher.inventory, &given);
                }
                let then = room(
                    matcher,
                    &mut in_use,
                    wishes,
                    &situation.room.nodes[node],
                    limit,
                );
                if then > free {
                    let freed = self.freeing.entry(at).or_default();
                    freed.insert(name.to_owned(), then - free);
                    free = then;
                }
            }
            if free > 0 {
                let other = &mut self.problem.nodes[node].capacity.other;
                other.insert(name.to_owned(), free);
            }
        }
    }

    /// Devices by their class, where a quota counts them.
    pub(super) fn count_devices(&mut self, matcher: &mut Matcher<'_>) {
        let situation = self.situation;
        let classes: Vec<String> = self
            .limited
            .iter()
            .filter(|name| *name == gpu::COUNTED || matcher.classes.contains_key(*name))
            .cloned()
            .collect();
        for class in classes {
            for (node, given) in self.problem.nodes.iter_mut().zip(&situation.room.nodes) {
                let count = work::devices_of(matcher, &class, given);
                node.capacity.other.insert(class.clone(), count);
            }
            for at in situation.open {
                let inventory = &situation.view.inventory;
                let asked = work::asked_of(&class, &wishes(&situation.waiting[*at]), inventory);
                if let (true, Some(ask)) = (asked > 0, self.asks.get_mut(at)) {
                    ask.resources.other.insert(class.clone(), asked);
                }
            }
        }
    }

    /// What a pod that has its place takes of what is counted here.
    pub(super) fn count_claims(&self, settled: &Settled, resources: &mut Resources) {
        for port in &settled.pod.spec.ports {
            let name = format!("port/{}/{}", port.protocol, port.port);
            resources.other.insert(name, 1);
        }
        for name in &self.limited {
            let inventory = &self.situation.view.inventory;
            let asked = work::asked_of(name, &settled.wishes, inventory);
            if asked > 0 {
                resources.other.insert(name.clone(), asked);
            }
        }
    }
}
