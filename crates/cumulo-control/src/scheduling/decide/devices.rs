//! Devices that are taken, and who would have to end for them to be free.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::State;
use crate::scheduling::dra::{Given, InUse, Wish, allocate, allocated, gpu};
use crate::scheduling::pod::Pod;
use crate::scheduling::view::View;

/// What is free again when a pod has ended: what no other pod uses with it.
pub(crate) fn freed_with(view: &View, pod: &Pod) -> Vec<Given> {
    let mut freed = Vec::new();
    for key in view.claims_of(pod).unwrap_or_default() {
        let status = view
            .claims
            .get(&key)
            .and_then(|claim| claim.object.status.as_ref());
        let Some(status) = status else {
            continue;
        };
        let users = status.reserved_for.iter().flatten();
        if users.clone().all(|user| user.uid == pod.uid())
            && let Some(allocation) = &status.allocation
        {
            freed.extend(allocated(&view.inventory, allocation));
        }
    }
    if let Some(given) = gpu::given(pod) {
        freed.extend(allocated(&view.inventory, &given));
    }
    freed
}

/// What claims have whose pods are all over: whoever frees them has not done so yet.
fn orphaned(view: &View) -> Vec<Given> {
    let living: BTreeSet<&str> = view
        .pods
        .iter()
        .filter(|pod| !pod.finished())
        .map(|pod| pod.uid())
        .collect();
    let mut orphaned = Vec::new();
    for claim in view.claims.values() {
        let Some(status) = &claim.object.status else {
            continue;
        };
        let mut users = status.reserved_for.iter().flatten().peekable();
        if users.peek().is_some()
            && users.all(|user| user.resource == "pods" && !living.contains(user.uid.as_str()))
            && let Some(allocation) = &status.allocation
        {
            orphaned.extend(allocated(&view.inventory, allocation));
        }
    }
    orphaned
}

impl State<'_> {
    /// Whether a pod has its devices on a node once those who leave have left them.
    pub(super) fn devices_after_leaving(&mut self, at: usize, node: usize) -> bool {
        if self.waiting[at].wishes.is_empty() {
            return true;
        }
        let mut in_use = self.in_use.clone();
        let leaving = self.leaving.iter().filter(|(_, there)| *there == node);
        let leaving = leaving.flat_map(|(pod, _)| freed_with(self.view, pod));
        for given in leaving.chain(orphaned(self.view)) {
            in_use.remove(&self.view.inventory, &given);
        }
        self.all_served(&[(at, node)], &mut in_use)
    }

    /// Whether claims that nobody uses any more are still to be freed.
    pub(super) fn devices_are_being_freed(&self) -> bool {
        !orphaned(self.view).is_empty()
    }

    /// Who must end so that these pods have their devices, too: those that were chosen
    /// for the room, and the least important others that it takes. `None` when
    /// even that does not do.
    pub(super) fn victims_for_devices(
        &mut self,
        pods: &[(usize, usize)],
        chosen: &[usize],
    ) -> Option<Vec<usize>> {
        if pods
            .iter()
            .all(|(at, _)| self.waiting[*at].wishes.is_empty())
        {
            return Some(chosen.to_vec());
        }
        let mut victims = chosen.to_vec();
        if self.served_without(pods, &victims) {
            return Some(victims);
        }
        let nodes: BTreeSet<usize> = pods.iter().map(|(_, node)| *node).collect();
        let mut others: Vec<usize> = (0..self.settled.len())
            .filter(|at| {
                let settled = &self.settled[*at];
                let lower = |(waiting, _): &(usize, usize)| {
                    let waiting = &self.waiting[*waiting];
                    waiting.priority > settled.priority && waiting.queue == settled.queue
                };
                settled.endable
                    && settled.gang.is_none()
                    && nodes.contains(&settled.node)
                    && !chosen.contains(at)
                    && pods.iter().all(lower)
                    && !freed_with(self.view, &settled.pod).is_empty()
            })
            .collect();
        others.sort_by_key(|at| {
            let settled = &self.settled[*at];
            (settled.priority, std::cmp::Reverse(settled.pod.created()))
        });
        let enough = others.into_iter().any(|other| {
            victims.push(other);
            self.served_without(pods, &victims)
        });
        if !enough {
            return None;
        }
        // Whoever turns out not to be needed is left to run.
        let mut at = chosen.len();
        while at < victims.len() {
            let kept = victims.remove(at);
            if !self.served_without(pods, &victims) {
                victims.insert(at, kept);
                at += 1;
            }
        }
        Some(victims)
    }

    fn served_without(&mut self, pods: &[(usize, usize)], victims: &[usize]) -> bool {
        let mut in_use = self.in_use.clone();
        for at in victims {
            let pod = Arc::clone(&self.settled[*at].pod);
            for given in freed_with(self.view, &pod) {
                in_use.remove(&self.view.inventory, &given);
            }
        }
        self.all_served(pods, &mut in_use)
    }

    fn all_served(&mut self, pods: &[(usize, usize)], in_use: &mut InUse) -> bool {
        pods.iter().all(|(at, node)| {
            let wishes: Vec<&Wish> = self.waiting[*at]
                .wishes
                .iter()
                .map(|(_, wish)| wish)
                .collect();
            if wishes.is_empty() {
                return true;
            }
            let node = Arc::clone(&self.room.nodes[*node]);
            let Ok(given) = allocate(&mut self.matcher, in_use, &wishes, &node) else {
                return false;
            };
            for given in given.iter().flatten() {
                in_use.add(&self.view.inventory, given);
            }
            true
        })
    }
}
