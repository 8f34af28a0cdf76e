//! Who has a place, who is promised one, and whose devices are of no use.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cumulo_api::labels;
use cumulo_schedule::solver::Resources;

use super::State;
use crate::key::ObjectKey;
use crate::scheduling::dra::{self, Wish};
use crate::scheduling::pod::Pod;
use crate::scheduling::room::{Room, add, subtract};
use crate::scheduling::translate::Settled;
use crate::scheduling::view::{Gang, View, Waiting};

/// The Queue that a pod is in.
pub(super) fn queue(pod: &Pod) -> String {
    pod.labels().get(labels::QUEUE).cloned().unwrap_or_default()
}

/// What the claims of a pod that runs asked for.
pub(super) fn wishes(view: &View, pod: &Pod) -> Vec<Wish> {
    if pod.spec.claims.is_empty() {
        return dra::gpu::wish(pod).ok().flatten().into_iter().collect();
    }
    let keys = view.claims_of(pod).unwrap_or_default();
    let claims = keys.iter().filter_map(|key| view.claims.get(key));
    claims.filter_map(|claim| Wish::of(claim).ok()).collect()
}

/// Claims whose devices lie where their only user cannot go: to be given back,
/// so that others are found.
pub(super) fn stuck(view: &View, waiting: &Waiting, room: &Room) -> Vec<ObjectKey> {
    if waiting.allocated.is_empty() {
        return Vec::new();
    }
    let alone = |key: &&ObjectKey| {
        let status = view
            .claims
            .get(*key)
            .and_then(|claim| claim.object.status.as_ref());
        let users = status.and_then(|status| status.reserved_for.as_ref());
        users.is_none_or(|users| users.iter().all(|user| user.uid == waiting.pod.uid()))
    };
    let reached =
        (0..room.nodes.len()).any(|at| room.check(&waiting.pod, &waiting.demand, at).is_ok());
    if reached {
        return Vec::new();
    }
    waiting
        .allocated
        .iter()
        .filter(alone)
        .take(1)
        .cloned()
        .collect()
}

impl State<'_> {
    /// Looks at the pods that were promised a place: who can be bound there is,
    /// who still waits for others to leave keeps the promise. Returns the rest.
    pub(super) fn promises(&mut self) -> Vec<usize> {
        let mut open = Vec::new();
        // Those that start together are looked at together.
        let mut units: BTreeMap<(std::cmp::Reverse<i32>, usize), Vec<usize>> = BTreeMap::new();
        let mut gangs: HashMap<&Gang, (std::cmp::Reverse<i32>, usize)> = HashMap::new();
        for (at, waiting) in self.waiting.iter().enumerate() {
            if waiting.pod.status.nominated.is_none() {
                open.push(at);
                continue;
            }
            let mut key = (std::cmp::Reverse(waiting.priority), at);
            if let Some(gang) = &waiting.gang {
                key = *gangs.entry(gang).or_insert(key);
            }
            units.entry(key).or_default().push(at);
        }
        for unit in units.into_values() {
            let places: Option<Vec<(usize, usize)>> = unit
                .iter()
                .map(|at| {
                    let nominated = self.waiting[*at].pod.status.nominated.as_ref()?;
                    Some((*at, self.room.find(nominated)?))
                })
                .collect();
            let kept = match places {
                Some(places) => self.keep_promises(&places),
                None => false,
            };
            if !kept {
                for at in unit {
                    let pod = Arc::clone(&self.waiting[at].pod);
                    self.decision.unpromised.push(pod);
                    open.push(at);
                }
            }
        }
        open.sort_unstable();
        open
    }

    /// Binds pods where they were promised a place, or keeps the place for them;
    /// false when it will never be theirs.
    fn keep_promises(&mut self, places: &[(usize, usize)]) -> bool {
        if let Ok(found) = self.place(places) {
            found.into_iter().for_each(|place| self.accept(place));
            return true;
        }
        for (at, node) in places {
            self.excluded.remove(at);
            self.refusals.remove(at);
            let waiting = &self.waiting[*at];
            let fits = waiting.demand.unmet(&self.room.nodes[*node]).is_none();
            if !fits
                || !self.freed_by_leaving(*at, *node)
                || !self.devices_after_leaving(*at, *node)
            {
                return false;
            }
        }
        for (at, node) in places {
            self.promise(*at, *node);
            let waiting = &self.waiting[*at];
            let name = &self.room.nodes[*node].name;
            let sentence = format!("waits for pods on {name} to end, whose room it gets");
            let wait = super::Wait::of(&waiting.pod, sentence, &waiting.queue, 0, "");
            self.decision.waits.push(wait);
        }
        true
    }

    /// Whether those who leave a node make room for a pod beside what was promised.
    fn freed_by_leaving(&self, at: usize, node: usize) -> bool {
        let here: Vec<_> = self
            .leaving
            .iter()
            .filter(|(_, there)| *there == node)
            .collect();
        // Of a gang, some may have their place at once.
        let devices = !self.waiting[at].wishes.is_empty() && self.devices_are_being_freed();
        if here.is_empty() && self.waiting[at].gang.is_none() && !devices {
            return false;
        }
        let mut used = self.room.sites[node].used.clone();
        for (pod, _) in here {
            subtract(&mut used, &pod.spec.requests);
        }
        if let Some(promised) = self.promised.get(&node) {
            add(&mut used, promised);
        }
        add(&mut used, &self.waiting[at].pod.spec.requests);
        let all = &self.room.nodes[node].capacity;
        used.cpu <= all.cpu
            && used.memory <= all.memory
            && used
                .other
                .iter()
                .all(|(name, amount)| *amount <= all.other.get(name).copied().unwrap_or(0))
    }

    /// Promises a pod the room that others leave.
    pub(super) fn promise(&mut self, at: usize, node: usize) {
        let requests = &self.waiting[at].pod.spec.requests;
        add(self.promised.entry(node).or_default(), requests);
        self.settle(at, node);
    }

    /// Counts a pod among those that have their place.
    pub(super) fn settle(&mut self, at: usize, node: usize) {
        let waiting = &self.waiting[at];
        self.settled.push(Settled {
            pod: Arc::clone(&waiting.pod),
            node,
            priority: waiting.priority,
            endable: false,
            queue: waiting.queue.clone(),
            gang: waiting.gang.clone(),
            wishes: waiting
                .wishes
                .iter()
                .map(|(_, wish)| wish.clone())
                .collect(),
        });
    }

    /// By node, what those who leave still take beyond what is promised of it.
    pub(super) fn leaving_beyond_promises(&self) -> BTreeMap<usize, Resources> {
        let mut sums: BTreeMap<usize, Resources> = BTreeMap::new();
        for (pod, node) in &self.leaving {
            add(sums.entry(*node).or_default(), &pod.spec.requests);
        }
        for (node, promised) in &self.promised {
            if let Some(sum) = sums.get_mut(node) {
                subtract(sum, promised);
            }
        }
        sums
    }
}
