//! The decision itself: each waiting job in its turn is placed, or room is made
//! for it, or it waits and the reason is known.

use std::collections::{BTreeMap, HashMap};

use super::engine::{Engine, Put, Work};
use super::explain::{Sentence, explain};
use super::model::Model;
use super::order::{Patience, Turn, Turns};
use super::place::Rules;
use super::preempt::{Plan, needs};
use super::problem::Seconds;
use super::reserve::Held;
use super::solution::{Action, Cause, JobRef, Solution, Wait, duration};
use super::value::NodeValue;

/// Jobs of the same kind fare the same while nothing becomes free.
#[derive(PartialEq, Eq, Hash)]
struct Kind {
    queue: Option<usize>,
    priority: i32,
    members: Vec<(usize, u32)>,
    topology: super::work::Topology,
    /// Matters only to what a reservation holds back.
    end: Option<Seconds>,
}

pub(super) struct Decision<'p> {
    model: &'p Model<'p>,
    value: &'p dyn NodeValue,
    engine: Engine<'p>,
    /// The cluster without running work, once it is needed.
    hollow: Option<Engine<'p>>,
    solution: Solution,
    held: Vec<Held>,
    /// By queue, the job that waited past the bound for its quota.
    overdue: BTreeMap<usize, usize>,
    blocked: HashMap<Kind, (Cause, Sentence)>,
    preemptions: usize,
    moves: usize,
}

impl<'p> Decision<'p> {
    pub fn new(model: &'p Model<'p>, value: &'p dyn NodeValue) -> Self {
        let options = &model.problem.options;
        Self {
            model,
            value,
            engine: Engine::new(model, value),
            hollow: None,
            solution: Solution::default(),
            held: Vec::new(),
            overdue: BTreeMap::new(),
            blocked: HashMap::new(),
            preemptions: options.preemption_attempts,
            moves: options.moves,
        }
    }

    pub fn run(mut self) -> Solution {
        let mut turns = Turns::new(self.model, &self.engine.tree);
        while let Some(job) = turns.next(&self.engine.tree) {
            if let Err((cause, sentence)) = self.attempt(job) {
                let Sentence { reason, remedy } = sentence;
                self.solution.waits.push(Wait {
                    job,
                    place: 0,
                    cause,
                    reason,
                    remedy,
                });
            }
        }
        self.again();
        self.grow();
        self.number();
        self.solution
    }

    /// Looks once more at what waits if room was made since: ending a gang may
    /// free more than the place it was ended for.
    fn again(&mut self) {
        let made = |action: &Action| matches!(action, Action::Preempt { .. } | Action::Move { .. });
        if !self.solution.actions.iter().any(made) {
            return;
        }
        self.preemptions = 0;
        self.blocked.clear();
        self.overdue.clear();
        for wait in std::mem::take(&mut self.solution.waits) {
            let kept = self
                .solution
                .reservations
                .iter()
                .any(|reservation| reservation.job == wait.job);
            if kept || wait.cause == Cause::Infeasible {
                self.solution.waits.push(wait);
            } else if let Err((cause, Sentence { reason, remedy })) = self.attempt(wait.job) {
                self.solution.waits.push(Wait {
                    job: wait.job,
                    place: 0,
                    cause,
                    reason,
                    remedy,
                });
            }
        }
    }

    fn attempt(&mut self, job: usize) -> Result<(), (Cause, Sentence)> {
        let waiting = JobRef::Waiting(job);
        for end in [None, Some(self.engine.end(waiting))] {
            if self.blocked.is_empty() {
                break;
            }
            if let Some(known) = self.kind(job, end).and_then(|kind| self.blocked.get(&kind)) {
                return Err(known.clone());
            }
        }
        let counts = self.engine.minimum(waiting);
        let behind = self
            .model
            .queue(waiting)
            .and_then(|queue| self.overdue.get(&queue).copied());
        if behind.is_none()
            && let Some(puts) = self.engine.place(waiting, &counts, &[], Rules::ALL)
        {
            self.bind(job, puts, None);
            return Ok(());
        }
        let cause = match behind {
            Some(ahead) if self.limited(job) => Cause::Behind(ahead),
            _ => match self.cause(job, &counts, behind.is_none()) {
                Ok(cause) => cause,
                Err(puts) => {
                    self.bind(job, puts, None);
                    return Ok(());
                }
            },
        };
        let may_preempt = self.model.job(waiting).preempts && self.preemptions > 0;
        if matches!(cause, Cause::Quota | Cause::Capacity) && may_preempt {
            self.preemptions -= usize::from(!self.model.problem.running.is_empty());
            if let Some(plan) = self.engine.preempt(job, self.moves) {
                self.make_room(job, plan);
                return Ok(());
            }
        }
        let mut reservation = None;
        match cause {
            Cause::Capacity
                if self.solution.reservations.len() < self.model.problem.options.reservations =>
            {
                if let Some((kept, held)) = self.engine.reserve(job) {
                    reservation = Some(kept.clone());
                    self.solution.reservations.push(kept);
                    self.held.extend(held);
                }
            }
            Cause::Quota if matches!(Turn::of(self.model, job).patience, Patience::Starved(_)) => {
                if let Some(queue) = self.model.queue(waiting) {
                    self.overdue.insert(queue, job);
                }
            }
            _ => {}
        }
        let sentence = explain(&self.engine, job, cause, reservation.as_ref());
        let answer = (cause, sentence);
        // A reservation is this job's own; the next of its kind may get another.
        let end = matches!(cause, Cause::Reserved(_)).then(|| self.engine.end(waiting));
        if reservation.is_none()
            && let Some(kind) = self.kind(job, end)
        {
            self.blocked.insert(kind, answer.clone());
        }
        Err(answer)
    }

    /// Why a job cannot be placed now; or, if no overdue job is in its way after
    /// all, its place.
    fn cause(&mut self, job: usize, counts: &[u32], tried: bool) -> Result<Cause, Vec<Put>> {
        let waiting = JobRef::Waiting(job);
        let mark = self.engine.mark();
        if !tried && let Some(puts) = self.engine.place(waiting, counts, &[], Rules::ALL) {
            return Err(puts);
        }
        for held in &self.held {
            self.engine.tree.refund(held.queue, &held.charges);
        }
        let unreserved = Rules {
            reserved: false,
            ..Rules::ALL
        };
        let found = self.engine.place(waiting, counts, &[], unreserved);
        let without_quota = found.is_none().then(|| {
            self.engine
                .place(
                    waiting,
                    counts,
                    &[],
                    Rules {
                        quota: false,
                        ..unreserved
                    },
                )
                .is_some()
        });
        self.engine.rollback(mark);
        if let Some(puts) = found {
            let shadows = &self.engine.shadows;
            let kept = puts
                .iter()
                .find_map(|put| shadows.get(&put.node))
                .map(|shadow| shadow.job);
            let queue = self.model.queue(waiting);
            let same = self
                .held
                .iter()
                .find(|held| Some(held.queue) == queue)
                .map(|held| held.job);
            let first = self
                .solution
                .reservations
                .first()
                .map_or(job, |first| first.job);
            return Ok(Cause::Reserved(kept.or(same).unwrap_or(first)));
        }
        if !self.feasible(job, counts) {
            return Ok(Cause::Infeasible);
        }
        let quota = without_quota == Some(true) || self.beyond_quota(job);
        Ok(if quota { Cause::Quota } else { Cause::Capacity })
    }

    /// Whether the quota does not reach in any flavor, whatever is free.
    fn beyond_quota(&self, job: usize) -> bool {
        let Some(queue) = self.model.queue(JobRef::Waiting(job)) else {
            return false;
        };
        (0..self.model.flavors.len()).all(|flavor| {
            let needs = needs(&self.model.problem.waiting[job], self.model, flavor);
            self.engine.tree.lacking(queue, &needs).is_some()
        })
    }

    /// Whether it would have its place if nothing ran.
    fn feasible(&mut self, job: usize, counts: &[u32]) -> bool {
        let (model, value) = (self.model, self.value);
        let hollow = self
            .hollow
            .get_or_insert_with(|| Engine::hollow(model, value));
        let mark = hollow.mark();
        let rules = Rules {
            nearby: false,
            ..Rules::ALL
        };
        let found = hollow
            .place(JobRef::Waiting(job), counts, &[], rules)
            .is_some();
        hollow.rollback(mark);
        found
    }

    /// Whether the job's queue has any quota.
    fn limited(&self, job: usize) -> bool {
        let queue = self.model.queue(JobRef::Waiting(job));
        queue.is_some_and(|queue| self.engine.tree.has_quota(queue))
    }

    /// None for jobs that look at where other work runs.
    fn kind(&self, job: usize, end: Option<Seconds>) -> Option<Kind> {
        let waiting = JobRef::Waiting(job);
        let asked = self.model.job(waiting);
        let alone = asked.affinity.is_empty() && asked.spread.is_empty();
        let shapes = self.model.shapes_of(waiting).iter().copied();
        alone.then(|| Kind {
            queue: self.model.queue(waiting),
            priority: asked.priority,
            members: shapes
                .zip(asked.members.iter().map(|members| members.min))
                .collect(),
            topology: asked.topology.clone(),
            end,
        })
    }

    fn bind(&mut self, job: usize, puts: Vec<Put>, why: Option<&str>) {
        let waiting = JobRef::Waiting(job);
        self.tell(waiting, &puts, why);
        let end = self.engine.end(waiting);
        self.engine.work.push(Work {
            job: waiting,
            puts,
            end,
        });
    }

    fn make_room(&mut self, job: usize, plan: Plan) {
        let problem = self.model.problem;
        let name = &problem.waiting[job].name;
        for (running, pod, put) in &plan.moved {
            let (to, victim) = (
                self.engine.placed(put).placement,
                &problem.running[*running].job.name,
            );
            let node = &problem.nodes[to.node].name;
            let reason =
                format!("{victim} runs as well on {node}, and {name} fits only in its place");
            let action = Action::Move {
                job: *running,
                pod: *pod,
                to,
                beneficiary: job,
                reason,
            };
            self.repartition(put, victim);
            self.solution.actions.push(action);
        }
        for (running, pods) in plan.ended {
            let run = &problem.running[running];
            let saved = run.checkpoint.unwrap_or(run.start).max(run.start);
            let reason = format!(
                "ending {} pod{} of {} (priority {}, {} since its last checkpoint) lets {name} (priority {}) run",
                pods.len(),
                if pods.len() == 1 { "" } else { "s" },
                run.job.name,
                run.job.priority,
                duration(problem.now.saturating_sub(saved)),
                problem.waiting[job].priority,
            );
            let action = Action::Preempt {
                job: running,
                pods,
                beneficiary: job,
                reason,
            };
            self.solution.actions.push(action);
        }
        self.moves = self.moves.saturating_sub(plan.moved.len());
        self.bind(job, plan.puts, Some("room was made for it here"));
        // What was freed beyond need may serve others of a kind that waited.
        self.blocked.clear();
    }

    fn repartition(&mut self, put: &Put, name: &str) {
        for change in &put.changes {
            let device = &self.model.problem.nodes[put.node].devices[change.device].name;
            let gone = match change.remove.len() {
                0 => String::new(),
                count => format!(", {count} idle removed for it"),
            };
            let reason = format!("{name} needs a {} on {device}{gone}", change.create.profile);
            self.solution.actions.push(Action::Repartition {
                node: put.node,
                device: change.device,
                remove: change.remove.clone(),
                create: vec![change.create.clone()],
                reason,
            });
        }
    }

    fn tell(&mut self, job: JobRef, puts: &[Put], why: Option<&str>) {
        let problem = self.model.problem;
        for put in puts {
            self.repartition(put, &self.model.job(job).name);
            let node = &problem.nodes[put.node].name;
            let why = why.unwrap_or("it takes least there of what other work could use");
            let reason = format!("on {node}: {why}");
            let pod = self.engine.placed(put);
            self.solution
                .actions
                .push(Action::Bind { job, pod, reason });
        }
    }

    /// Gives elastic gangs, what was just bound and what runs, more of their
    /// pods from what nobody waits for, the least first.
    fn grow(&mut self) {
        let mut growing: Vec<usize> = (0..self.engine.work.len())
            .filter(|at| !self.engine.work[*at].puts.is_empty() && self.lacks(*at).is_some())
            .collect();
        while !growing.is_empty() {
            let mut next = Vec::new();
            for at in growing {
                let Some(member) = self.lacks(at) else {
                    continue;
                };
                let work = &self.engine.work[at];
                let (job, have) = (work.job, work.puts.clone());
                let mut counts = vec![0; self.model.job(job).members.len()];
                counts[member] = 1;
                if let Some(puts) = self.engine.place(job, &counts, &have, Rules::ALL) {
                    self.tell(job, &puts, Some("nobody else waits for it"));
                    self.engine.work[at].puts.extend(puts);
                    next.push(at);
                }
            }
            growing = next;
        }
    }

    /// The first member group of which a job has fewer pods than it could use.
    fn lacks(&self, at: usize) -> Option<usize> {
        let work = &self.engine.work[at];
        let members = &self.model.job(work.job).members;
        // What gave up pods in this solution does not get them back in it.
        if let JobRef::Running(running) = work.job
            && work.puts.len() < self.model.problem.running[running].pods.len()
        {
            return None;
        }
        (0..members.len()).find(|member| {
            let have = work.puts.iter().filter(|put| put.member == *member).count();
            have < members[*member].max as usize
        })
    }

    /// Numbers what waits in each queue.
    fn number(&mut self) {
        let mut order: Vec<(Option<usize>, Turn, usize)> =
            Vec::with_capacity(self.solution.waits.len());
        for (at, wait) in self.solution.waits.iter().enumerate() {
            let queue = self.model.queue(JobRef::Waiting(wait.job));
            order.push((queue, Turn::of(self.model, wait.job), at));
        }
        order.sort_unstable();
        let mut place = 0;
        let mut last = None;
        for (queue, _, at) in order {
            place = if last == Some(queue) { place + 1 } else { 1 };
            last = Some(queue);
            self.solution.waits[at].place = place;
        }
    }
}
