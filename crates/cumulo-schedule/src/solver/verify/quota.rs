//! Quotas from the leaves up: what each queue uses, and what of it reaches its
//! parent.

use std::collections::BTreeMap;

use super::super::problem::{Problem, Sharing, WHOLE};
use super::super::queue::{DEVICE_QUOTA, Queue, Quota};
use super::super::work::Part;
use super::asked::find;
use super::ledger::Live;

/// Use by queue, flavor and resource.
pub type Usage = BTreeMap<(String, String, String), i128>;

/// What the queues use directly.
pub fn usage(problem: &Problem, live: &[&Live]) -> Usage {
    let mut usage = Usage::new();
    for live in live {
        let Some(job) = super::job_of(problem, live.job) else {
            continue;
        };
        let node = &problem.nodes[live.placed.placement.node];
        let mut add = |resource: &str, amount: u64| {
            let key = (job.queue.clone(), node.flavor.clone(), resource.to_owned());
            *usage.entry(key).or_default() += i128::from(amount);
        };
        let resources = &job.members[live.placed.member].pod.resources;
        add("cpu", resources.cpu);
        add("memory", resources.memory);
        for (name, amount) in &resources.other {
            add(name, *amount);
        }
        for part in &live.placed.placement.devices {
            let milli = match (&part.part, &node.devices[part.device].sharing) {
                (Part::Whole, _) => WHOLE,
                (Part::Share { milli, .. }, _) => *milli,
                (Part::Slots { slots, .. }, Sharing::TimeSliced { slots: round }) => {
                    slots * WHOLE / round
                }
                (Part::Partition { profile, start }, Sharing::Partitioned { geometry, .. }) => {
                    find(&problem.geometries[geometry], profile, *start)
                        .map_or(0, |(profile, _)| profile.share)
                }
                _ => 0,
            };
            add(DEVICE_QUOTA, u64::from(milli));
        }
    }
    usage
}

struct Sums {
    /// What the queue has: its own and what children lend.
    has: i128,
    /// Of it, what it does not lend.
    keeps: i128,
    /// What it uses of its own and its parent's.
    uses: i128,
}

/// What exceeds a quota after, and did not before.
pub fn exceeded(problem: &Problem, before: &Usage, after: &Usage) -> Vec<String> {
    let mut found = Vec::new();
    let limits: std::collections::BTreeSet<(&String, &String)> = problem
        .queues
        .iter()
        .flat_map(|queue| &queue.quotas)
        .flat_map(|(flavor, quotas)| quotas.keys().map(move |resource| (flavor, resource)))
        .collect();
    for (flavor, resource) in limits {
        for root in problem.queues.iter().filter(|queue| queue.parent.is_none()) {
            if covered(problem, root, flavor, resource) {
                let mut visit = Visit {
                    problem,
                    before,
                    after,
                    flavor,
                    resource,
                    found: &mut found,
                };
                visit.queue(root);
            }
        }
    }
    found
}

struct Visit<'a> {
    problem: &'a Problem,
    before: &'a Usage,
    after: &'a Usage,
    flavor: &'a String,
    resource: &'a String,
    found: &'a mut Vec<String>,
}

impl Visit<'_> {
    /// The sums before and after.
    fn queue(&mut self, queue: &Queue) -> (Sums, Sums) {
        let quota = quota(queue, self.flavor, self.resource);
        let nominal = quota.map_or(0, |quota| i128::from(quota.nominal));
        let key = (
            queue.name.clone(),
            self.flavor.clone(),
            self.resource.clone(),
        );
        let direct = |usage: &Usage| usage.get(&key).copied().unwrap_or(0);
        let mut has = nominal;
        let (mut used_before, mut used_after) = (direct(self.before), direct(self.after));
        let children: Vec<&Queue> = self
            .problem
            .queues
            .iter()
            .filter(|child| child.parent.as_ref() == Some(&queue.name))
            .collect();
        for child in children {
            let (before, after) = self.queue(child);
            has += after.has - after.keeps;
            used_before += (before.uses - before.keeps).max(0);
            used_after += (after.uses - after.keeps).max(0);
        }
        let keeps = match quota.and_then(|quota| quota.lending) {
            Some(lending) => (has - i128::from(lending)).max(0),
            None => 0,
        };
        let most = match (&queue.parent, quota.and_then(|quota| quota.borrowing)) {
            (None, _) => Some(has),
            (Some(_), Some(borrowing)) => Some(has + i128::from(borrowing)),
            (Some(_), None) => None,
        };
        if most.is_some_and(|most| used_after > most && used_after > used_before) {
            self.found.push(format!(
                "{} uses {used_after} {} of {}, may use {most:?}",
                queue.name, self.resource, self.flavor
            ));
        }
        (
            Sums {
                has,
                keeps,
                uses: used_before,
            },
            Sums {
                has,
                keeps,
                uses: used_after,
            },
        )
    }
}

fn quota<'q>(queue: &'q Queue, flavor: &String, resource: &String) -> Option<&'q Quota> {
    queue
        .quotas
        .get(flavor)
        .and_then(|quotas| quotas.get(resource))
}

/// Whether any queue of the tree under `root` has a quota for this.
fn covered(problem: &Problem, root: &Queue, flavor: &String, resource: &String) -> bool {
    quota(root, flavor, resource).is_some()
        || problem
            .queues
            .iter()
            .filter(|child| child.parent.as_ref() == Some(&root.name))
            .any(|child| covered(problem, child, flavor, resource))
}
