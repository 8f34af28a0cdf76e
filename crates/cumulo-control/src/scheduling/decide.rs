//! What is to be done about the pods that wait. Pure.
//!
//! The solver decides on a translation of what is there; each of its decisions
//! then passes the exact check of [`Room`] and the search for devices, on what
//! was decided before it. What does not pass is put to the solver again without
//! that node, a few times; so nothing is bound that Kubernetes' rules forbid,
//! whatever the translation could not say.

pub(super) mod devices;
mod settle;
mod why;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use cumulo_api::labels;
use cumulo_schedule::solver::{Action, Cause, JobRef, Placed, Resources, Solution, solve};
use k8s_openapi::api::resource::v1::AllocationResult;

use super::assumed::Annotations;
use super::dra::{Expressions, Given, InUse, Matcher, Wish, allocate, allocation, gpu, results};
use super::nearby::Nearby;
use super::pod::Pod;
use super::room::Room;
use super::translate::{Settled, Situation, Translation, translate};
use super::view::{Intake, View, Waiting, no_claim};
use crate::key::ObjectKey;

/// How often the solver is asked in one decision.
const MOST_ROUNDS: usize = 8;

/// What is to be done.
#[derive(Debug, Default)]
pub(crate) struct Decision {
    pub(crate) binds: Vec<Bind>,
    pub(crate) preemptions: Vec<Preemption>,
    /// Pods whose promised place is none any more.
    pub(crate) unpromised: Vec<Arc<Pod>>,
    /// Claims whose devices nobody can use where they are.
    pub(crate) release: Vec<ObjectKey>,
    pub(crate) waits: Vec<Wait>,
}

/// A pod gets its place.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) pod: Arc<Pod>,
    pub(crate) node: String,
    /// Claims that get devices with it.
    pub(crate) allocations: Vec<(ObjectKey, AllocationResult)>,
    /// Claims that have devices, which it uses.
    pub(crate) allocated: Vec<ObjectKey>,
    /// What is written on it.
    pub(crate) annotations: Annotations,
}

/// Pods that end so that others have their place.
#[derive(Debug)]
pub(crate) struct Preemption {
    /// Who gets the place, each with its node.
    pub(crate) beneficiaries: Vec<(Arc<Pod>, String)>,
    pub(crate) victims: Vec<Arc<Pod>>,
    pub(crate) reason: String,
}

/// A pod that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wait {
    pub(crate) pod: ObjectKey,
    pub(crate) uid: String,
    /// Its Queue; empty when it is in none.
    pub(crate) queue: String,
    /// Its place in it; 1 is next. 0: its turn has not come to be looked at.
    pub(crate) place: usize,
    pub(crate) reason: String,
    /// What would let it run.
    pub(crate) remedy: String,
    /// The message that its condition had.
    pub(crate) before: Option<String>,
}

impl Wait {
    /// All of it as one message.
    pub(crate) fn message(&self) -> String {
        let mut message = self.reason.clone();
        if !self.queue.is_empty() && self.place > 0 {
            message.push_str(&format!("; number {} in queue {}", self.place, self.queue));
        }
        if !self.remedy.is_empty() {
            message.push_str(&format!("; would help: {}", self.remedy));
        }
        message
    }
}

/// Decides about all pods that wait.
pub(crate) fn decide(view: &View, expressions: &mut Expressions) -> Decision {
    let Intake {
        bound,
        mut waiting,
        held_back,
    } = view.intake();
    let mut decision = Decision::default();
    for (pod, sentence) in held_back {
        decision.waits.push(Wait::of(&pod, sentence, "", 0, ""));
    }
    if waiting.is_empty() {
        return decision;
    }
    let mut nearby = Nearby::default();
    for one in &waiting {
        nearby.ask(&one.pod);
    }
    for (pod, _) in &bound {
        nearby.heed(pod);
    }
    let mut room = Room::new(view.nodes.clone(), nearby, Arc::clone(&view.namespaces));
    for (pod, at) in &bound {
        room.add(pod, *at);
    }
    let mut in_use = InUse::default();
    for claim in view.claims.values() {
        let status = claim.object.status.as_ref();
        if let Some(allocation) = status.and_then(|status| status.allocation.as_ref()) {
            in_use.add_allocation(&view.inventory, allocation);
        }
    }
    for (pod, _) in &bound {
        if let Some(given) = gpu::given(pod) {
            in_use.add_allocation(&view.inventory, &given);
        }
    }
    let endable = view.endable(&bound);
    let (leaving, settled): (Vec<_>, Vec<_>) =
        bound.into_iter().partition(|(pod, _)| pod.deleting());
    let settled = settled
        .into_iter()
        .map(|(pod, node)| Settled {
            node,
            priority: view.priority(&pod).0,
            endable: endable.contains(pod.uid()),
            queue: settle::queue(&pod),
            gang: super::view::gang(&pod).ok().flatten(),
            wishes: settle::wishes(view, &pod),
            pod,
        })
        .collect();
    let mut matcher = Matcher::new(&view.inventory, &view.classes, expressions);
    if view.ours.default_scheduler {
        waiting
            .iter_mut()
            .for_each(|one| forgo_impossible(view, &mut matcher, one));
    }
    let mut state = State {
        view,
        matcher,
        room,
        in_use,
        settled,
        leaving,
        promised: BTreeMap::new(),
        waiting: &waiting,
        excluded: HashMap::new(),
        refusals: HashMap::new(),
        decision,
    };
    let mut open = state.promises();
    for round in 0..MOST_ROUNDS {
        if open.is_empty() {
            break;
        }
        open = match state.round(&open, round + 1 == MOST_ROUNDS) {
            Some(left) => left,
            None => break,
        };
    }
    state.decision
}

/// Where this is the only scheduler and no node could ever give a pod the GPUs it
/// asks for, it goes to some node, which says so and fails it: no other nodes come.
fn forgo_impossible(view: &View, matcher: &mut Matcher<'_>, waiting: &mut Waiting) {
    let own = no_claim(&waiting.pod);
    let Some((_, wish)) = waiting.wishes.iter().find(|(key, _)| *key == own) else {
        return;
    };
    let possible = view
        .nodes
        .iter()
        .any(|node| allocate(matcher, &mut InUse::default(), &[wish], node).is_ok());
    if !possible {
        waiting.wishes.retain(|(key, _)| *key != own);
    }
}

/// What a decision has come to so far.
struct State<'v> {
    view: &'v View,
    matcher: Matcher<'v>,
    /// With all that runs, leaves, and was given its place.
    room: Room,
    in_use: InUse,
    settled: Vec<Settled>,
    /// Pods on their way out.
    leaving: Vec<(Arc<Pod>, usize)>,
    /// What is promised on each node to pods that cannot be bound yet.
    promised: BTreeMap<usize, Resources>,
    waiting: &'v [Waiting],
    excluded: HashMap<usize, BTreeSet<usize>>,
    /// The last sentence about a pod for which devices were not found.
    refusals: HashMap<usize, String>,
    decision: Decision,
}

/// What a pod was given of its claims.
struct Place {
    waiting: usize,
    node: usize,
    given: Vec<Vec<Given>>,
}

impl State<'_> {
    /// One question to the solver. Returns who is to be asked about again; none
    /// when the answer was final.
    fn round(&mut self, open: &[usize], last: bool) -> Option<Vec<usize>> {
        let leaving = self.leaving_beyond_promises();
        let open = self.one_for_each_claim(open);
        let situation = Situation {
            view: self.view,
            room: &self.room,
            settled: &self.settled,
            leaving: &leaving,
            waiting: self.waiting,
            open: &open,
            excluded: &self.excluded,
        };
        let translation = translate(&situation, &mut self.matcher, &mut self.in_use);
        let solution = match solve(&translation.problem) {
            Ok(solution) => solution,
            Err(error) => {
                // A mistake of the translation: nothing is bound on its word.
                tracing::error!(%error, "the scheduling problem makes no sense");
                for at in open {
                    let pod = &self.waiting[at].pod;
                    let sentence = format!("cannot be decided about: {error}");
                    self.decision.waits.push(Wait::of(pod, sentence, "", 0, ""));
                }
                return None;
            }
        };
        let outcome = self.carry_out(&translation, &solution);
        let again: Vec<usize> = open
            .iter()
            .copied()
            .filter(|at| !outcome.placed.contains(at))
            .collect();
        if outcome.rejected && !last {
            return Some(again);
        }
        self.explain(&translation, &solution, &again);
        None
    }

    /// Of pods that share a claim without devices, the first: the others go where it goes.
    fn one_for_each_claim(&mut self, open: &[usize]) -> Vec<usize> {
        let mut taken: BTreeSet<&ObjectKey> = BTreeSet::new();
        let mut kept = Vec::new();
        let waiting = self.waiting;
        for at in open {
            let keys: Vec<&ObjectKey> = waiting[*at].wishes.iter().map(|(key, _)| key).collect();
            if keys.iter().any(|key| taken.contains(*key)) {
                let name = &keys[0].name;
                let sentence =
                    format!("waits for ResourceClaim {name} to get its devices with another pod");
                let wait = Wait::of(&waiting[*at].pod, sentence, "", 0, "");
                if !self.decision.waits.contains(&wait) {
                    self.decision.waits.push(wait);
                }
                continue;
            }
            taken.extend(keys);
            kept.push(*at);
        }
        kept
    }

    /// Takes a solution's places as far as they hold.
    fn carry_out(&mut self, translation: &Translation, solution: &Solution) -> Outcome {
        let mut outcome = Outcome::default();
        let mut places: BTreeMap<usize, Vec<&Placed>> = BTreeMap::new();
        let mut order = Vec::new();
        let mut ended: BTreeMap<usize, (Vec<usize>, Vec<String>)> = BTreeMap::new();
        for action in &solution.actions {
            match action {
                Action::Bind {
                    job: JobRef::Waiting(job),
                    pod,
                    ..
                } => {
                    if !places.contains_key(job) {
                        order.push(*job);
                    }
                    places.entry(*job).or_default().push(pod);
                }
                Action::Preempt {
                    job,
                    pods,
                    beneficiary,
                    reason,
                } => {
                    let (victims, reasons) = ended.entry(*beneficiary).or_default();
                    victims.extend(pods.iter().map(|pod| translation.running[*job][*pod]));
                    reasons.push(reason.clone());
                }
                // Moving and partitioning are never asked for.
                Action::Bind { .. } | Action::Move { .. } | Action::Repartition { .. } => {}
            }
        }
        let mut gone = BTreeSet::new();
        for job in order {
            let pods = self.concrete(&translation.jobs[job], &places[&job]);
            if let Some((victims, reasons)) = ended.remove(&job) {
                // Who was placed after it may stand where the victims still are.
                outcome.rejected = true;
                let chosen = victims.len();
                let Some(victims) = self.victims_for_devices(&pods, &victims) else {
                    for (at, node) in pods {
                        self.excluded.entry(at).or_default().insert(node);
                    }
                    continue;
                };
                let mut reason = reasons.join("; ");
                if victims.len() > chosen {
                    let more = victims.len() - chosen;
                    reason.push_str(&format!("; {more} more for devices that it needs"));
                }
                self.preempt(&pods, &victims, reason);
                gone.extend(victims);
                outcome.placed.extend(pods.iter().map(|(at, _)| *at));
                continue;
            }
            match self.place(&pods) {
                Ok(places) => {
                    for place in places {
                        outcome.placed.insert(place.waiting);
                        self.accept(place);
                    }
                }
                Err(()) => outcome.rejected = true,
            }
        }
        if !gone.is_empty() {
            let mut at = 0;
            let leaving = &mut self.leaving;
            self.settled.retain(|settled| {
                at += 1;
                let left = gone.contains(&(at - 1));
                if left {
                    leaving.push((Arc::clone(&settled.pod), settled.node));
                }
                !left
            });
        }
        outcome
    }

    /// Which of a job's pods stand where.
    fn concrete(&self, groups: &[Vec<usize>], places: &[&Placed]) -> Vec<(usize, usize)> {
        let mut next = vec![0; groups.len()];
        let mut pods = Vec::new();
        for placed in places {
            let group = placed.member;
            if let Some(at) = groups
                .get(group)
                .and_then(|group_pods| group_pods.get(next[group]))
            {
                next[group] += 1;
                pods.push((*at, placed.placement.node));
            }
        }
        pods
    }

    /// Puts pods in their places, all or none of them.
    fn place(&mut self, pods: &[(usize, usize)]) -> Result<Vec<Place>, ()> {
        let mut places: Vec<Place> = Vec::new();
        for (at, node) in pods {
            let waiting = &self.waiting[*at];
            let found = self
                .room
                .check(&waiting.pod, &waiting.demand, *node)
                .map_err(|no| no.text())
                .and_then(|()| self.devices(waiting, *node));
            match found {
                Ok(given) => {
                    self.room.add(&waiting.pod, *node);
                    for given in given.iter().flatten() {
                        self.in_use.add(&self.view.inventory, given);
                    }
                    places.push(Place {
                        waiting: *at,
                        node: *node,
                        given,
                    });
                }
                Err(text) => {
                    let node_name = &self.room.nodes[*node].name;
                    self.refusals.insert(*at, format!("{node_name} {text}"));
                    self.excluded.entry(*at).or_default().insert(*node);
                    for place in places {
                        let pod = &self.waiting[place.waiting].pod;
                        self.room.remove(pod, place.node);
                        for given in place.given.iter().flatten() {
                            self.in_use.remove(&self.view.inventory, given);
                        }
                    }
                    return Err(());
                }
            }
        }
        Ok(places)
    }

    fn devices(&mut self, waiting: &Waiting, node: usize) -> Result<Vec<Vec<Given>>, String> {
        if waiting.wishes.is_empty() {
            return Ok(Vec::new());
        }
        let wishes: Vec<&Wish> = waiting.wishes.iter().map(|(_, wish)| wish).collect();
        let node = Arc::clone(&self.room.nodes[node]);
        allocate(&mut self.matcher, &mut self.in_use, &wishes, &node)
            .map_err(|refusal| refusal.text().to_owned())
    }

    /// A pod has its place for good.
    fn accept(&mut self, place: Place) {
        let waiting = &self.waiting[place.waiting];
        let node = &self.room.nodes[place.node].name;
        let allocations = waiting.wishes.iter().zip(&place.given);
        let allocations = allocations.filter_map(|((key, wish), given)| {
            let view = self.view;
            let claim = &view.claims.get(key)?.object;
            let result = allocation(&view.inventory, &view.classes, claim, wish, given, node);
            Some((key.clone(), result))
        });
        let own = no_claim(&waiting.pod);
        let mut unclaimed = waiting.wishes.iter().zip(&place.given);
        let unclaimed = unclaimed.find(|((key, _), _)| *key == own);
        let unclaimed = unclaimed.filter(|(_, given)| !given.is_empty());
        let annotations = unclaimed.and_then(|(_, given)| {
            let given = results(&self.view.inventory, waiting.pod.uid(), given);
            let given = serde_json::to_string(&given).ok()?;
            Some((labels::GPU_DEVICES.to_owned(), given))
        });
        self.decision.binds.push(Bind {
            pod: Arc::clone(&waiting.pod),
            node: node.clone(),
            allocations: allocations.collect(),
            allocated: waiting.allocated.clone(),
            annotations: annotations.into_iter().collect(),
        });
        self.settle(place.waiting, place.node);
    }

    fn preempt(&mut self, pods: &[(usize, usize)], victims: &[usize], reason: String) {
        let victims = victims.iter().map(|at| Arc::clone(&self.settled[*at].pod));
        let beneficiaries = pods.iter().map(|(at, node)| {
            let pod = Arc::clone(&self.waiting[*at].pod);
            (pod, self.room.nodes[*node].name.clone())
        });
        self.decision.preemptions.push(Preemption {
            beneficiaries: beneficiaries.collect(),
            victims: victims.collect(),
            reason: reason.clone(),
        });
        for (at, node) in pods {
            self.promise(*at, *node);
            let name = &self.room.nodes[*node].name;
            let pod = &self.waiting[*at].pod;
            let sentence = format!("waits for room on {name}: {reason}");
            let queue = self.waiting[*at].queue.clone();
            self.decision
                .waits
                .push(Wait::of(pod, sentence, &queue, 0, ""));
        }
    }

    fn explain(&mut self, translation: &Translation, solution: &Solution, left: &[usize]) {
        let mut waits: HashMap<usize, (usize, Cause, &str, &str)> = HashMap::new();
        for wait in &solution.waits {
            for at in translation.jobs[wait.job].iter().flatten() {
                waits.insert(*at, (wait.place, wait.cause, &wait.reason, &wait.remedy));
            }
        }
        let mut told = why::Told::default();
        for at in left {
            let waiting = &self.waiting[*at];
            let known = waits.get(at).copied();
            let (place, remedy) = known.map_or((0, ""), |(place, _, _, remedy)| (place, remedy));
            let refusal = self.refusals.get(at).map(String::as_str);
            let reason = match known {
                Some((_, cause @ (Cause::Capacity | Cause::Infeasible), reason, _))
                    if waiting.gang.is_none() =>
                {
                    let queue = &waiting.queue;
                    told.sentence(waiting, &self.room, &mut self.matcher, &mut self.in_use)
                        .unwrap_or_else(|| match cause {
                            Cause::Infeasible if !queue.is_empty() => format!(
                                "the quota of queue {queue} never holds it, with all that it may borrow"
                            ),
                            _ => reason.to_owned(),
                        })
                }
                Some((_, _, reason, _)) => reason.to_owned(),
                None => refusal.map_or_else(
                    || "its turn has not come yet".to_owned(),
                    |refusal| format!("no node has room: {refusal}"),
                ),
            };
            let release = settle::stuck(self.view, waiting, &self.room);
            self.decision.release.extend(release);
            let wait = Wait::of(&waiting.pod, reason, &waiting.queue, place, remedy);
            self.decision.waits.push(wait);
        }
    }
}

/// What came of a solution.
#[derive(Default)]
struct Outcome {
    /// Positions of pods that have, or are promised, their place.
    placed: BTreeSet<usize>,
    /// Whether the solver is to be asked again.
    rejected: bool,
}

impl Wait {
    fn of(pod: &Pod, reason: String, queue: &str, place: usize, remedy: &str) -> Self {
        Self {
            pod: pod.key(),
            uid: pod.uid().to_owned(),
            queue: queue.to_owned(),
            place,
            reason,
            remedy: remedy.to_owned(),
            before: pod.status.refusal.clone(),
        }
    }
}
