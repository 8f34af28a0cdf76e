//! Making room: which running work to end or to move so that a job has its
//! place. Everything is simulated first; nothing ends that is not needed.

use std::collections::BTreeMap;

use super::engine::{Engine, Put};
use super::place::Rules;
use super::quota::Charge;
use super::solution::JobRef;
use super::work::{Ask, Job};

/// Pods of one running job that end or move together.
#[derive(Debug, Clone)]
struct Unit {
    running: usize,
    /// Positions in the job's work.
    pods: Vec<usize>,
    fate: Fate,
    cost: UnitCost,
}

/// What may be done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It may end, and is moved instead where it can be.
    EndOrMove,
    /// It may end.
    End,
    /// It must be moved.
    Move,
}

/// How bad it is to end a unit; the least first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct UnitCost {
    priority: i32,
    pods: usize,
    lost: u64,
}

/// How bad a plan is; earlier fields decide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    /// Pods that end.
    ended: usize,
    /// Highest priority that ends.
    priority: i32,
    /// Work that is done again: device-seconds since the last checkpoint.
    lost: u64,
    /// Pods that move.
    moved: usize,
}

/// Room made for one job.
pub(super) struct Plan {
    /// Running jobs and the positions of their pods that end.
    pub ended: Vec<(usize, Vec<usize>)>,
    /// Running jobs, the position of their pod, and its new place.
    pub moved: Vec<(usize, usize, Put)>,
    /// The job's place.
    pub puts: Vec<Put>,
}

/// Most units on one node of which every pair is tried.
const PAIRS: usize = 16;

impl Engine<'_> {
    /// Makes room for a waiting job and puts it there, if ending or moving
    /// work that it may displace lets it have its place.
    pub fn preempt(&mut self, job: usize, moves: usize) -> Option<Plan> {
        let units = self.units(job, moves);
        if units.is_empty() {
            return None;
        }
        let asked = self.model.job(JobRef::Waiting(job));
        let single = asked.members.iter().map(|members| members.min).sum::<u32>() == 1;
        let limit = self.model.problem.options.preemption_domains;
        let mut best: Option<(Cost, Plan)> = None;
        let mut offer = |found: Option<(Cost, Plan)>| {
            if let Some(found) = found
                && best.as_ref().is_none_or(|best| found.0 < best.0)
            {
                best = Some(found);
            }
        };
        if single && asked.topology.required.is_none() {
            let mut by_node: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
            for (at, unit) in units.iter().enumerate() {
                for pod in &unit.pods {
                    let there = by_node
                        .entry(self.work[unit.running].puts[*pod].node)
                        .or_default();
                    if there.last() != Some(&at) {
                        there.push(at);
                    }
                }
            }
            for (node, there) in by_node.into_iter().take(limit) {
                offer(self.fewest(job, &units, &there, Some(&[node]), moves));
            }
        } else if let Some(level) = &asked.topology.required {
            let domains = &self.model.levels[self.model.level(level)].nodes;
            for nodes in domains.iter().take(limit) {
                let touches = |unit: &Unit| {
                    let puts = &self.work[unit.running].puts;
                    unit.pods
                        .iter()
                        .any(|pod| nodes.binary_search(&puts[*pod].node).is_ok())
                };
                let there: Vec<usize> =
                    (0..units.len()).filter(|at| touches(&units[*at])).collect();
                offer(self.fewest(job, &units, &there, Some(nodes), moves));
            }
        }
        if best.is_none() {
            // Quota may be held anywhere, and a gang may lie anywhere.
            let everything: Vec<usize> = (0..units.len()).collect();
            best = self.fewest(job, &units, &everything, None, moves);
        }
        let (_, mut plan) = best?;
        // The solution names pods as the problem does.
        let named = |running: usize, pod: usize| self.work[running].puts[pod].origin.unwrap_or(pod);
        let ended: Vec<(usize, Vec<usize>)> = plan
            .ended
            .iter()
            .map(|(running, pods)| {
                (
                    *running,
                    pods.iter().map(|pod| named(*running, *pod)).collect(),
                )
            })
            .collect();
        let moved: Vec<usize> = plan
            .moved
            .iter()
            .map(|(running, pod, _)| named(*running, *pod))
            .collect();
        self.carry_out(job, &plan);
        plan.ended = ended;
        for (moved, pod) in plan.moved.iter_mut().zip(moved) {
            moved.1 = pod;
        }
        Some(plan)
    }

    /// What the job may displace, the cheapest first.
    fn units(&self, job: usize, moves: usize) -> Vec<Unit> {
        let asked = self.model.job(JobRef::Waiting(job));
        // Who looks at where others run could come to rest on one that then moves.
        let alone = |job: &&Job| job.affinity.is_empty() && job.spread.is_empty();
        let mut units = Vec::new();
        for running in 0..self.model.problem.running.len() {
            let work = &self.work[running];
            // What already made room in this solution is left alone.
            if work.puts.is_empty() || work.puts.iter().any(|put| put.origin.is_none()) {
                continue;
            }
            let may_end = self.may_end(job, running);
            let victim = self.model.job(JobRef::Running(running));
            let may_move = moves > 0
                && victim.movable
                && work.puts.len() == 1
                && [asked, victim].iter().all(alone);
            let fate = match (may_end, may_move) {
                (true, true) => Fate::EndOrMove,
                (true, false) => Fate::End,
                (false, true) => Fate::Move,
                (false, false) => continue,
            };
            let priority = victim.priority;
            let surplus = self.surplus(running);
            for pod in surplus.iter().filter(|_| may_end) {
                let pods = vec![*pod];
                let cost = UnitCost {
                    priority,
                    pods: 1,
                    lost: self.lost(running, &pods),
                };
                units.push(Unit {
                    running,
                    pods,
                    fate: Fate::End,
                    cost,
                });
            }
            let pods: Vec<usize> = (0..work.puts.len()).collect();
            let cost = UnitCost {
                priority,
                pods: pods.len(),
                lost: self.lost(running, &pods),
            };
            units.push(Unit {
                running,
                pods,
                fate,
                cost,
            });
        }
        units.sort_by_key(|unit| (unit.cost, unit.running));
        units
    }

    /// Positions of the pods that a job has above its minimum.
    fn surplus(&self, running: usize) -> Vec<usize> {
        let job = self.model.job(JobRef::Running(running));
        let mut kept = vec![0u32; job.members.len()];
        let mut surplus = Vec::new();
        for (at, put) in self.work[running].puts.iter().enumerate() {
            kept[put.member] += 1;
            if kept[put.member] > job.members[put.member].min {
                surplus.push(at);
            }
        }
        surplus
    }

    /// Device-seconds (thousandths) since the last checkpoint; of pods without
    /// devices, seconds.
    fn lost(&self, running: usize, pods: &[usize]) -> u64 {
        let run = &self.model.problem.running[running];
        let saved = run.checkpoint.unwrap_or(run.start).max(run.start);
        let elapsed = self.model.problem.now.saturating_sub(saved);
        let weight = |pod: &usize| self.work[running].puts[*pod].take.device_milli().max(1);
        pods.iter()
            .map(|pod| elapsed.saturating_mul(weight(pod)))
            .fold(0, u64::saturating_add)
    }

    fn may_end(&self, job: usize, running: usize) -> bool {
        let (taker, giver) = (JobRef::Waiting(job), JobRef::Running(running));
        let victim = self.model.job(giver);
        let lower = victim.priority < self.model.job(taker).priority;
        victim.preemptible
            && match (self.model.queue(taker), self.model.queue(giver)) {
                (Some(to), Some(from)) if to != from => {
                    let node = self.work[running].puts.first().map_or(0, |put| put.node);
                    let needs = needs(
                        self.model.job(taker),
                        self.model,
                        self.model.nodes[node].flavor,
                    );
                    self.tree.may_reclaim(to, from, &needs)
                }
                // Between work of one queue, and where no quota gives a right:
                // by priority alone, as Kubernetes does.
                _ => lower,
            }
    }

    /// The least that makes room inside some nodes.
    fn fewest(
        &mut self,
        job: usize,
        units: &[Unit],
        there: &[usize],
        only: Option<&[usize]>,
        moves: usize,
    ) -> Option<(Cost, Plan)> {
        let mut tries: Vec<Vec<usize>> = there.iter().map(|at| vec![*at]).collect();
        if there.len() <= PAIRS {
            for (at, first) in there.iter().enumerate() {
                tries.extend(there[at + 1..].iter().map(|second| vec![*first, *second]));
            }
        }
        // All at once tells whether it is worth looking for less.
        let mut best = self.simulate(job, units, there, only, moves);
        if best.is_none() && !there.iter().any(|at| units[*at].fate == Fate::Move) {
            return None;
        }
        for chosen in tries.iter().filter(|_| there.len() <= 4 * PAIRS) {
            if let Some(found) = self.simulate(job, units, chosen, only, moves)
                && best.as_ref().is_none_or(|best| found.0 < best.0)
            {
                best = Some(found);
            }
        }
        if best
            .as_ref()
            .is_some_and(|best| best.0.ended + best.0.moved <= 2)
            || best.is_none()
        {
            return best;
        }
        // The cheapest that suffice when taken in order, then one by one back.
        let (mut low, mut high) = (1, there.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self
                .simulate(job, units, &there[..middle], only, moves)
                .is_some()
            {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        let mut chosen: Vec<usize> = there[..low.min(there.len())].to_vec();
        let mut least = self.simulate(job, units, &chosen, only, moves);
        if let Some((_, plan)) = &least {
            let nodes: Vec<usize> = plan.puts.iter().map(|put| put.node).collect();
            let touches = |at: &usize| {
                let puts = &self.work[units[*at].running].puts;
                units[*at]
                    .pods
                    .iter()
                    .any(|pod| nodes.contains(&puts[*pod].node))
            };
            let near: Vec<usize> = chosen.iter().copied().filter(touches).collect();
            if let Some(found) = self.simulate(job, units, &near, only, moves) {
                chosen = near;
                least = Some(found);
            }
        }
        for unit in chosen.clone().into_iter().rev().take(4 * PAIRS) {
            let without: Vec<usize> = chosen.iter().copied().filter(|at| *at != unit).collect();
            if let Some(found) = self.simulate(job, units, &without, only, moves) {
                chosen = without;
                least = Some(found);
            }
        }
        [best, least]
            .into_iter()
            .flatten()
            .min_by_key(|found| found.0)
    }

    /// What it would cost to displace these units, if the job then has its place.
    fn simulate(
        &mut self,
        job: usize,
        units: &[Unit],
        chosen: &[usize],
        only: Option<&[usize]>,
        moves: usize,
    ) -> Option<(Cost, Plan)> {
        let mark = self.mark();
        let found = self.displace(job, units, chosen, only, moves);
        self.rollback(mark);
        found
    }

    fn displace(
        &mut self,
        job: usize,
        units: &[Unit],
        chosen: &[usize],
        only: Option<&[usize]>,
        moves: usize,
    ) -> Option<(Cost, Plan)> {
        let mut gone: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut fates: BTreeMap<usize, (Fate, i32)> = BTreeMap::new();
        let mut left: Vec<usize> = Vec::new();
        for at in chosen {
            let unit = &units[*at];
            // A queue that no longer uses more than its own keeps the rest.
            if unit.fate != Fate::Move && !self.may_end(job, unit.running) {
                continue;
            }
            let already = gone.entry(unit.running).or_default();
            for pod in unit
                .pods
                .iter()
                .filter(|pod| !already.contains(pod))
                .copied()
                .collect::<Vec<_>>()
            {
                let put = self.work[unit.running].puts[pod].clone();
                self.lift(JobRef::Running(unit.running), &put);
                left.push(put.node);
                gone.entry(unit.running).or_default().push(pod);
            }
            fates.insert(unit.running, (unit.fate, unit.cost.priority));
        }
        let waiting = JobRef::Waiting(job);
        let counts = self.minimum(waiting);
        let puts = self.place(waiting, &counts, &[], Rules { only, ..Rules::ALL })?;
        left.extend(puts.iter().map(|put| put.node));
        let mut plan = Plan {
            ended: Vec::new(),
            moved: Vec::new(),
            puts,
        };
        let mut cost = Cost {
            ended: 0,
            lost: 0,
            moved: 0,
            priority: i32::MIN,
        };
        for (running, mut pods) in gone {
            pods.sort_unstable();
            let (fate, priority) = fates[&running];
            let again = if fate == Fate::End || plan.moved.len() >= moves {
                None
            } else {
                let put = &self.work[running].puts[pods[0]];
                let mut counts = vec![0; self.model.job(JobRef::Running(running)).members.len()];
                counts[put.member] = 1;
                let rules = Rules {
                    except: &left,
                    ..Rules::ALL
                };
                self.place(JobRef::Running(running), &counts, &[], rules)
                    .and_then(|mut puts| puts.pop())
            };
            match (again, fate) {
                (Some(put), _) => {
                    cost.moved += 1;
                    plan.moved.push((running, pods[0], put));
                }
                (None, Fate::Move) => return None,
                (None, Fate::End | Fate::EndOrMove) => {
                    cost.ended += pods.len();
                    cost.lost = cost.lost.saturating_add(self.lost(running, &pods));
                    cost.priority = cost.priority.max(priority);
                    plan.ended.push((running, pods));
                }
            }
        }
        Some((cost, plan))
    }

    /// Does what was simulated.
    fn carry_out(&mut self, job: usize, plan: &Plan) {
        for (running, pods) in &plan.ended {
            for pod in pods {
                let put = self.work[*running].puts[*pod].clone();
                self.lift(JobRef::Running(*running), &put);
            }
        }
        for (running, pod, _) in &plan.moved {
            let put = self.work[*running].puts[*pod].clone();
            self.lift(JobRef::Running(*running), &put);
        }
        for put in &plan.puts {
            self.put(JobRef::Waiting(job), put);
        }
        for (running, pod, put) in &plan.moved {
            self.put(JobRef::Running(*running), put);
            self.work[*running].puts[*pod] = put.clone();
        }
        for (running, pods) in &plan.ended {
            let mut at = 0;
            self.work[*running].puts.retain(|_| {
                at += 1;
                !pods.contains(&(at - 1))
            });
        }
    }
}

/// What a job would be charged for its minimum in one flavor, at least.
pub(super) fn needs(job: &Job, model: &super::model::Model<'_>, flavor: usize) -> Vec<Charge> {
    let base = flavor * model.resources.len();
    let mut sums = vec![0u64; model.resources.len()];
    for members in &job.members {
        let count = u64::from(members.min);
        let resources = &members.pod.resources;
        for (at, name) in model.resources.iter().enumerate() {
            let amount = match at {
                super::model::CPU => resources.cpu,
                super::model::MEMORY => resources.memory,
                _ => resources.other.get(name).copied().unwrap_or(0),
            };
            sums[at] = sums[at].saturating_add(amount.saturating_mul(count));
        }
        for request in &members.pod.devices {
            let milli = match &request.ask {
                Ask::Whole => 1000,
                Ask::Share { milli, .. } => u64::from(*milli),
                Ask::Memory(_) | Ask::Profile(_) => 1,
            };
            let last = sums.len() - 1;
            sums[last] = sums[last].saturating_add(milli * u64::from(request.count) * count);
        }
    }
    let needs = sums
        .into_iter()
        .enumerate()
        .filter(|(_, amount)| *amount > 0);
    needs
        .map(|(at, amount)| Charge {
            at: base + at,
            amount,
        })
        .collect()
}
