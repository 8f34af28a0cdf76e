//! Checks a solution from scratch. Nothing here shares code with the solver:
//! usage is added up anew from the placements, quotas from the leaves, and what
//! waits is tried by brute force.

mod asked;
mod brute;
mod ledger;
mod quota;

use std::collections::BTreeMap;

use super::problem::{Problem, Seconds};
use super::solution::{Action, Cause, JobRef, Solution};
use super::work::{AffinityRule, Job, Placed};
use ledger::{Ledger, Live};

/// A rule that a solution breaks, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{rule:?}: {what}")]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// Where and how.
    pub what: String,
}

/// What always holds of a solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rule {
    /// Actions name what is there; every waiting job has one outcome.
    Accounted,
    /// No resource, device, counter or instance is given twice.
    NotOvercommitted,
    /// A pod gets what it asks where it may go.
    AsAsked,
    /// A gang has at least its minimum, or nothing.
    GangWhole,
    /// Required topology, affinity and spread hold.
    Near,
    /// Quotas are kept by what is bound.
    QuotaKept,
    /// Nothing ends but for work that is then bound, and that may displace it.
    PreemptionUsed,
    /// Instances in use are not repartitioned.
    RepartitionIdle,
    /// Nothing waits that fits.
    WorkConserving,
    /// What is bound does not delay a reservation.
    ReservationKept,
}

/// Checks a solution.
///
/// # Errors
///
/// All rules that it breaks.
pub fn verify(problem: &Problem, solution: &Solution) -> Result<(), Vec<Violation>> {
    let mut check = Check {
        problem,
        solution,
        found: Vec::new(),
        ledger: Ledger::new(problem),
    };
    check.accounted();
    check.replay();
    check.gangs();
    check.quotas();
    check.reservations();
    check.waits();
    if check.found.is_empty() {
        Ok(())
    } else {
        Err(check.found)
    }
}

struct Check<'p> {
    problem: &'p Problem,
    solution: &'p Solution,
    found: Vec<Violation>,
    ledger: Ledger<'p>,
}

fn job_of(problem: &Problem, job: JobRef) -> Option<&Job> {
    match job {
        JobRef::Running(at) => problem.running.get(at).map(|running| &running.job),
        JobRef::Waiting(at) => problem.waiting.get(at),
    }
}

impl Check<'_> {
    fn report(&mut self, rule: Rule, what: impl Into<String>) {
        self.found.push(Violation {
            rule,
            what: what.into(),
        });
    }

    fn accounted(&mut self) {
        let mut outcomes = vec![0usize; self.problem.waiting.len()];
        let mut bound = vec![false; self.problem.waiting.len()];
        for action in &self.solution.actions {
            if let Action::Bind {
                job: JobRef::Waiting(at),
                ..
            } = action
            {
                match bound.get_mut(*at) {
                    Some(bound) => *bound = true,
                    None => return self.report(Rule::Accounted, format!("no waiting job {at}")),
                }
            }
        }
        for wait in &self.solution.waits {
            match outcomes.get_mut(wait.job) {
                Some(outcome) => *outcome += 1,
                None => {
                    return self.report(Rule::Accounted, format!("no waiting job {}", wait.job));
                }
            }
            if wait.reason.is_empty() || wait.remedy.is_empty() || wait.place == 0 {
                self.report(
                    Rule::Accounted,
                    format!("the wait of {} is not explained", wait.job),
                );
            }
        }
        for (at, bound) in bound.into_iter().enumerate() {
            if outcomes[at] + usize::from(bound) != 1 {
                self.report(
                    Rule::Accounted,
                    format!("job {at} has {} waits, bound: {bound}", outcomes[at]),
                );
            }
        }
        self.order();
    }

    /// Places in a queue follow the order that is documented.
    fn order(&mut self) {
        let key = |at: usize| {
            let job = &self.problem.waiting[at];
            let starved =
                self.problem.now.saturating_sub(job.arrival) > self.problem.options.starvation;
            let arrival = if starved { job.arrival } else { Seconds::MAX };
            let deadline = job.deadline.unwrap_or(Seconds::MAX);
            (
                !starved,
                arrival,
                std::cmp::Reverse(job.priority),
                deadline,
                job.arrival,
                at,
            )
        };
        let mut queues: BTreeMap<&String, Vec<(usize, usize)>> = BTreeMap::new();
        for wait in &self.solution.waits {
            let Some(job) = self.problem.waiting.get(wait.job) else {
                continue;
            };
            queues
                .entry(&job.queue)
                .or_default()
                .push((wait.place, wait.job));
        }
        let mut wrong = Vec::new();
        for (queue, mut waits) in queues {
            waits.sort_unstable();
            let ordered = waits.windows(2).all(|pair| key(pair[0].1) < key(pair[1].1));
            let numbered = waits
                .iter()
                .enumerate()
                .all(|(at, (place, _))| *place == at + 1);
            if !ordered || !numbered {
                wrong.push(format!("places in queue {queue}: {waits:?}"));
            }
        }
        for what in wrong {
            self.report(Rule::Accounted, what);
        }
    }

    /// Carries the actions out one by one.
    fn replay(&mut self) {
        for (step, action) in self.solution.actions.iter().enumerate() {
            let done = match action {
                Action::Bind { job, pod, .. } => self.bind(*job, pod),
                Action::Preempt {
                    job,
                    pods,
                    beneficiary,
                    ..
                } => self.preempt(step, *job, pods, *beneficiary),
                Action::Move {
                    job,
                    pod,
                    to,
                    beneficiary,
                    ..
                } => {
                    let movable = self
                        .problem
                        .running
                        .get(*job)
                        .is_some_and(|running| running.job.movable);
                    let member = self
                        .ledger
                        .origin(*job, *pod)
                        .map(|live| live.placed.member);
                    match member {
                        Some(member) if movable && self.bound_later(step, *beneficiary) => {
                            let pod_now = Placed {
                                member,
                                placement: to.clone(),
                            };
                            let moved =
                                self.ledger
                                    .bind(JobRef::Running(*job), &pod_now, Some(*pod));
                            moved.map(|()| self.ledger.end(*job, *pod))
                        }
                        _ => Err((
                            Rule::PreemptionUsed,
                            "a move of what may not move or for nothing".to_owned(),
                        )),
                    }
                }
                Action::Repartition {
                    node,
                    device,
                    remove,
                    create,
                    ..
                } => self.ledger.repartition(*node, *device, remove, create),
            };
            if let Err((rule, what)) = done {
                self.report(rule, format!("action {step}: {what}"));
            }
        }
    }

    fn bind(&mut self, job: JobRef, pod: &Placed) -> Result<(), (Rule, String)> {
        self.ledger.bind(job, pod, None)?;
        self.nearby(job, pod)
    }

    fn bound_later(&self, step: usize, beneficiary: usize) -> bool {
        self.solution.actions[step..]
            .iter()
            .any(|later| matches!(later, Action::Bind { job: JobRef::Waiting(at), .. } if *at == beneficiary))
    }

    fn preempt(
        &mut self,
        step: usize,
        job: usize,
        pods: &[usize],
        beneficiary: usize,
    ) -> Result<(), (Rule, String)> {
        let bad = |what: &str| Err((Rule::PreemptionUsed, what.to_owned()));
        let (Some(victim), Some(taker)) = (
            self.problem.running.get(job),
            self.problem.waiting.get(beneficiary),
        ) else {
            return bad("a preemption of or for nothing");
        };
        if !self.bound_later(step, beneficiary) {
            return bad("the beneficiary is not bound afterwards");
        }
        if !victim.job.preemptible {
            return bad("the victim is not preemptible");
        }
        if !taker.preempts {
            return bad("the beneficiary ends nobody");
        }
        let by_priority = victim.job.queue == taker.queue
            || victim.job.queue.is_empty()
            || taker.queue.is_empty();
        if by_priority && victim.job.priority >= taker.priority {
            return bad(
                "the victim is of the same queue, or one is in none, and not of lower priority",
            );
        }
        for pod in pods {
            if self.ledger.origin(job, *pod).is_none() {
                return bad("a pod that does not run is ended");
            }
            self.ledger.end(job, *pod);
        }
        Ok(())
    }

    /// Affinity and spread of a pod that was just bound.
    fn nearby(&self, job: JobRef, pod: &Placed) -> Result<(), (Rule, String)> {
        let Some(asked) = job_of(self.problem, job) else {
            return Ok(());
        };
        let domain = |level: &String, node: usize| {
            let node = &self.problem.nodes[node];
            if level == "node" {
                Some(&node.name)
            } else {
                node.topology.get(level)
            }
        };
        let has = |live: &Live, labels: &BTreeMap<String, String>| {
            job_of(self.problem, live.job).is_some_and(|job| {
                !labels.is_empty()
                    && labels
                        .iter()
                        .all(|(key, value)| job.labels.get(key) == Some(value))
            })
        };
        for rule in &asked.affinity {
            let here = domain(&rule.level, pod.placement.node);
            let others = |live: &&Live| has(live, &rule.labels);
            let all = self.ledger.live.iter().filter(others).count();
            let own = usize::from(
                rule.labels
                    .iter()
                    .all(|(key, value)| asked.labels.get(key) == Some(value)),
            );
            let there = self
                .ledger
                .live
                .iter()
                .filter(others)
                .filter(|live| {
                    here.is_some() && domain(&rule.level, live.placed.placement.node) == here
                })
                .count()
                .saturating_sub(own);
            let broken = match rule.rule {
                AffinityRule::Near => there == 0 && !(all == own && own == 1),
                AffinityRule::Apart => there > 0,
                AffinityRule::PreferNear | AffinityRule::PreferApart => false,
            };
            if broken {
                return Err((
                    Rule::Near,
                    format!("{}: {:?} {:?}", asked.name, rule.rule, rule.labels),
                ));
            }
        }
        for spread in &asked.spread {
            let counts = |live: &&Live| {
                if spread.labels.is_empty() {
                    live.job == job
                } else {
                    has(live, &spread.labels)
                }
            };
            let mut domains: BTreeMap<&String, u32> = BTreeMap::new();
            for (node, spec) in self.problem.nodes.iter().enumerate() {
                let open = asked::admits(&asked.members[pod.member].pod, spec).is_ok();
                if let Some(name) = domain(&spread.level, node).filter(|_| open) {
                    domains.entry(name).or_default();
                }
            }
            let fewest_of = domains.clone();
            for live in self.ledger.live.iter().filter(counts) {
                if let Some(name) = domain(&spread.level, live.placed.placement.node) {
                    *domains.entry(name).or_default() += 1;
                }
            }
            let own = u32::from(
                spread.labels.is_empty()
                    || spread
                        .labels
                        .iter()
                        .all(|(key, value)| asked.labels.get(key) == Some(value)),
            );
            let Some(here) = domain(&spread.level, pod.placement.node) else {
                return Err((
                    Rule::Near,
                    format!("{}: its node has no {}", asked.name, spread.level),
                ));
            };
            let before = |name: &&String| domains[*name] - if *name == here { own } else { 0 };
            let fewest = fewest_of.keys().map(before).min().unwrap_or(0);
            if domains[here] > fewest + spread.max_skew {
                return Err((
                    Rule::Near,
                    format!("{}: more than {} apart", asked.name, spread.max_skew),
                ));
            }
        }
        Ok(())
    }

    fn gangs(&mut self) {
        let waiting = (0..self.problem.waiting.len()).map(JobRef::Waiting);
        let running = (0..self.problem.running.len()).map(JobRef::Running);
        for job in running.chain(waiting) {
            let Some(asked) = job_of(self.problem, job) else {
                continue;
            };
            let live: Vec<&Live> = self
                .ledger
                .live
                .iter()
                .filter(|live| live.job == job)
                .collect();
            let touched = live.iter().any(|live| live.origin.is_none()) || self.ledger.ended(job);
            if live.is_empty() || !touched {
                continue;
            }
            let mut wrong = Vec::new();
            for (at, members) in asked.members.iter().enumerate() {
                let count = live.iter().filter(|live| live.placed.member == at).count();
                let kept = self.ledger.before(job, at);
                // A gang that came short keeps what it has.
                if count
                    < (members.min as usize).min(if matches!(job, JobRef::Running(_)) {
                        kept
                    } else {
                        usize::MAX
                    })
                    || count > (members.max as usize).max(kept)
                {
                    wrong.push(format!(
                        "{}: {count} of {}..{}",
                        asked.name, members.min, members.max
                    ));
                }
            }
            let mut near = None;
            if let Some(level) = &asked.topology.required {
                let domains: Vec<Option<&String>> = live
                    .iter()
                    .map(|live| {
                        let node = &self.problem.nodes[live.placed.placement.node];
                        if level == "node" {
                            Some(&node.name)
                        } else {
                            node.topology.get(level)
                        }
                    })
                    .collect();
                let bound = live.iter().any(|live| live.origin.is_none());
                if bound
                    && (domains.windows(2).any(|pair| pair[0] != pair[1]) || domains[0].is_none())
                {
                    near = Some(format!("{} does not lie in one {level}", asked.name));
                }
            }
            for what in wrong {
                self.report(Rule::GangWhole, what);
            }
            if let Some(what) = near {
                self.report(Rule::Near, what);
            }
        }
    }

    fn quotas(&mut self) {
        let before: Vec<&Live> = self
            .ledger
            .live
            .iter()
            .filter(|live| live.origin.is_some())
            .collect();
        let after: Vec<&Live> = self.ledger.live.iter().collect();
        let before = quota::usage(self.problem, &before);
        let after = quota::usage(self.problem, &after);
        for what in quota::exceeded(self.problem, &before, &after) {
            self.report(Rule::QuotaKept, what);
        }
    }

    /// Every reserved place is free by its moment, whatever was bound.
    fn reservations(&mut self) {
        for reservation in &self.solution.reservations {
            if self.solution.wait(reservation.job).is_none() {
                self.report(
                    Rule::ReservationKept,
                    "a place is kept for what does not wait",
                );
                continue;
            }
            let mut then = self.ledger.at(reservation.at);
            for other in &self.solution.reservations {
                for pod in &other.pods {
                    if other.job != reservation.job && other.at <= reservation.at {
                        // Reservations lie on different nodes.
                        let shared = reservation
                            .pods
                            .iter()
                            .any(|own| own.placement.node == pod.placement.node);
                        if shared {
                            self.report(Rule::ReservationKept, "two reservations share a node");
                        }
                    }
                }
            }
            for pod in &reservation.pods {
                then.make_instances(&pod.placement);
                if let Err((_, what)) = then.bind(JobRef::Waiting(reservation.job), pod, None) {
                    let name = &self.problem.waiting[reservation.job].name;
                    self.report(Rule::ReservationKept, format!("{name}: {what}"));
                }
            }
        }
    }

    fn waits(&mut self) {
        for wait in &self.solution.waits {
            let Some(job) = self.problem.waiting.get(wait.job) else {
                continue;
            };
            if !job.affinity.is_empty() || !job.spread.is_empty() {
                continue;
            }
            let fits = match wait.cause {
                Cause::Infeasible => brute::fits_empty(self.problem, wait.job),
                Cause::Behind(_) => false,
                Cause::Quota | Cause::Capacity | Cause::Reserved(_) => {
                    brute::fits(self.problem, self.solution, &self.ledger, wait.job)
                }
            };
            if fits {
                self.report(
                    Rule::WorkConserving,
                    format!("{} waits ({:?}) but fits", job.name, wait.cause),
                );
            }
        }
    }
}
