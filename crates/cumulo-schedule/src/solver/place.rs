//! Finding a place for a whole job: all of its pods, near each other as it asks.

use std::collections::BTreeMap;
use std::rc::Rc;

use super::engine::{Engine, Put};
use super::fit::{Fit, Score};
use super::index::Asking;
use super::problem::Seconds;
use super::solution::JobRef;
use super::work::{AffinityRule, Ask};

/// What a place must respect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules<'a> {
    /// The queue's quota.
    pub quota: bool,
    /// Places reserved for others.
    pub reserved: bool,
    /// Where other work runs.
    pub nearby: bool,
    /// Only these nodes, in ascending order.
    pub only: Option<&'a [usize]>,
    /// Not these nodes.
    pub except: &'a [usize],
    /// Where the quota is charged least, instead of where the least worth is lost.
    pub thrifty: bool,
}

impl Rules<'_> {
    /// Everything.
    pub const ALL: Self = Self {
        quota: true,
        reserved: true,
        nearby: true,
        only: None,
        except: &[],
        thrifty: false,
    };
}

/// The nodes that a job's pods must share, if any.
type Group = Option<Vec<usize>>;

impl Engine<'_> {
    /// Puts `counts` pods of each member group of `job`, beside the pods it has
    /// already; either all or none. Where the quota does not reach for the best
    /// places, it is tried with the places that are charged least: a share of a
    /// smaller device, or one of a coarser division, counts for more.
    pub fn place(
        &mut self,
        job: JobRef,
        counts: &[u32],
        have: &[Put],
        rules: Rules<'_>,
    ) -> Option<Vec<Put>> {
        let found = self.place_near(job, counts, have, rules);
        if found.is_some() || !rules.quota || !self.charged_by_place(job) {
            return found;
        }
        let thrifty = Rules {
            thrifty: true,
            ..rules
        };
        self.place_near(job, counts, have, thrifty)
    }

    /// Whether a quota limits the job and what it is charged depends on its place.
    fn charged_by_place(&self, job: JobRef) -> bool {
        let limited = |queue| self.tree.has_quota(queue);
        let varies = |shape: &usize| {
            let requests = &self.model.shapes[*shape].requests;
            requests.iter().any(|request| *request.ask != Ask::Whole)
        };
        self.model.queue(job).is_some_and(limited) && self.model.shapes_of(job).iter().any(varies)
    }

    fn place_near(
        &mut self,
        job: JobRef,
        counts: &[u32],
        have: &[Put],
        rules: Rules<'_>,
    ) -> Option<Vec<Put>> {
        let asked = self.model.job(job);
        let near = asked.topology.required.is_some() || asked.topology.preferred.is_some();
        if !near {
            return self.place_in(job, counts, have, None, rules);
        }
        for group in self.groups(job, have, rules) {
            if let Some(puts) = self.place_in(job, counts, have, group.as_deref(), rules) {
                return Some(puts);
            }
        }
        None
    }

    /// How many pods of each group a job starts with.
    pub fn minimum(&self, job: JobRef) -> Vec<u32> {
        self.model
            .job(job)
            .members
            .iter()
            .map(|members| members.min)
            .collect()
    }

    /// Groups of nodes to try, nearest and fullest first.
    fn groups(&self, job: JobRef, have: &[Put], rules: Rules<'_>) -> Vec<Group> {
        let topology = &self.model.job(job).topology;
        let levels = &self.model.levels;
        let required = topology
            .required
            .as_ref()
            .map(|name| self.model.level(name));
        let preferred = topology
            .preferred
            .as_ref()
            .map(|name| self.model.level(name));
        let narrowest = preferred.into_iter().chain(required).max().unwrap_or(0);
        let widest = required.unwrap_or(0);
        let allowed = |node: usize| {
            rules
                .only
                .is_none_or(|only| only.binary_search(&node).is_ok())
                && required.is_none_or(|required| {
                    let domain = &levels[required].domain;
                    have.iter().all(|put| domain[put.node] == domain[node])
                })
        };
        let mut groups = Vec::new();
        for level in (widest..=narrowest).rev() {
            let mut ranked = Vec::new();
            for nodes in &levels[level].nodes {
                // A narrower domain may reach over several required ones.
                let mut inside: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
                for node in nodes.iter().filter(|node| allowed(**node)) {
                    let domain =
                        required.map_or(Some(0), |required| levels[required].domain[*node]);
                    if let Some(domain) = domain {
                        inside.entry(domain).or_default().push(*node);
                    }
                }
                ranked.extend(inside.into_values().map(|nodes| (self.free(&nodes), nodes)));
            }
            ranked.sort();
            groups.extend(ranked.into_iter().map(|(_, nodes)| Some(nodes)));
        }
        if required.is_none() {
            groups.push(None);
        }
        groups
    }

    /// Thousandths of devices, then of CPU, that are free on some nodes.
    fn free(&self, nodes: &[usize]) -> (u64, u64) {
        let mut free = (0u64, 0u64);
        for node in nodes {
            let state = self.cluster.state(*node);
            let devices = state
                .devices
                .iter()
                .map(|device| u64::from(1000u32.saturating_sub(device.share)));
            free.0 = free.0.saturating_add(devices.sum());
            let cpu = self.model.nodes[*node].capacity[0].saturating_sub(state.used[0]);
            free.1 = free.1.saturating_add(cpu);
        }
        free
    }

    fn place_in(
        &mut self,
        job: JobRef,
        counts: &[u32],
        have: &[Put],
        group: Option<&[usize]>,
        rules: Rules<'_>,
    ) -> Option<Vec<Put>> {
        let mark = self.mark();
        let mut puts: Vec<Put> = Vec::new();
        // What asks the most chooses first.
        let mut order: Vec<usize> = (0..counts.len()).collect();
        let shapes = self.model.shapes_of(job).to_vec();
        let weight = |member: usize| {
            let pod = &self.model.shapes[shapes[member]].pod;
            let devices: u32 = pod.devices.iter().map(|request| request.count).sum();
            (devices, pod.resources.cpu, pod.resources.memory)
        };
        order.sort_by_key(|member| std::cmp::Reverse(weight(*member)));
        for member in order {
            for _ in 0..counts[member] {
                let Some((node, fit)) = self.node(job, shapes[member], have, &puts, group, rules)
                else {
                    self.rollback(mark);
                    return None;
                };
                let changes = self.changes(node, &fit.take);
                let put = Put {
                    member,
                    node,
                    take: fit.take.clone(),
                    changes,
                    origin: None,
                };
                self.put(job, &put);
                puts.push(put);
            }
        }
        Some(puts)
    }

    /// The best node for one more pod of a job: first where the queue's own
    /// quota reaches, then where it must borrow.
    fn node(
        &mut self,
        job: JobRef,
        shape: usize,
        have: &[Put],
        puts: &[Put],
        group: Option<&[usize]>,
        rules: Rules<'_>,
    ) -> Option<(usize, Rc<Fit>)> {
        let queue = if rules.quota {
            self.model.queue(job)
        } else {
            None
        };
        match queue {
            Some(queue) if !self.model.problem.queues.is_empty() => self
                .node_within(job, shape, (have, puts), group, rules, Some((queue, true)))
                .or_else(|| {
                    self.node_within(job, shape, (have, puts), group, rules, Some((queue, false)))
                }),
            _ => self.node_within(job, shape, (have, puts), group, rules, None),
        }
    }

    fn node_within(
        &mut self,
        job: JobRef,
        shape: usize,
        pods: (&[Put], &[Put]),
        group: Option<&[usize]>,
        rules: Rules<'_>,
        quota: Option<(usize, bool)>,
    ) -> Option<(usize, Rc<Fit>)> {
        let asked = self.model.job(job);
        let near = if rules.nearby && !(asked.affinity.is_empty() && asked.spread.is_empty()) {
            Some(self.near(job, shape, pods))
        } else {
            None
        };
        let asking = Asking {
            shape,
            thrifty: rules.thrifty,
        };
        let end = self.end(job);
        let listed = group.or(rules.only);
        let mut best: Option<(u32, Score, usize, Rc<Fit>)> = None;
        let mut offer = |penalty: u32, node: usize, fit: &Rc<Fit>| {
            let key = (penalty, fit.score, node);
            if best
                .as_ref()
                .is_none_or(|best| key < (best.0, best.1, best.2))
            {
                best = Some((penalty, fit.score, node, Rc::clone(fit)));
            }
        };
        if listed.is_none() && near.is_none() {
            let (model, tree, shadows) = (self.model, &self.tree, &self.shadows);
            let reserved =
                |node| rules.reserved && shadows.get(&node).is_some_and(|shadow| end > shadow.at);
            let found = self.index.best(model, &self.cluster, asking, |node, fit| {
                !reserved(node)
                    && !rules.except.contains(&node)
                    && affords(model, tree, quota, node, fit)
            });
            if let Some((node, fit)) = found {
                offer(0, node, &fit);
            }
            if rules.reserved {
                for node in self.shadowed(end) {
                    if !rules.except.contains(&node)
                        && let Some(fit) = self.fit_beside(asking, node)
                        && affords(self.model, &self.tree, quota, node, &fit)
                    {
                        offer(0, node, &fit);
                    }
                }
            }
        } else {
            let everything: Vec<usize>;
            let nodes = match listed {
                Some(nodes) => nodes,
                None => {
                    everything = (0..self.model.nodes.len()).collect();
                    &everything
                }
            };
            for node in nodes {
                let penalty = match &near {
                    Some(near) => match near[*node] {
                        Some(penalty) => penalty,
                        None => continue,
                    },
                    None => 0,
                };
                if rules.except.contains(node) {
                    continue;
                }
                let shadowed = self.shadows.get(node).is_some_and(|shadow| end > shadow.at);
                let fit = if rules.reserved && shadowed {
                    self.fit_beside(asking, *node)
                } else {
                    let class = self.cluster.class_of[*node];
                    self.index
                        .fit(self.model, &self.cluster, asking, class, *node)
                };
                if let Some(fit) = fit
                    && affords(self.model, &self.tree, quota, *node, &fit)
                {
                    offer(penalty, *node, &fit);
                }
            }
        }
        best.map(|(_, _, node, fit)| (node, fit))
    }

    fn shadowed(&self, end: Seconds) -> Vec<usize> {
        let ahead = self.shadows.iter().filter(|(_, shadow)| end > shadow.at);
        ahead.map(|(node, _)| *node).collect()
    }

    /// How a pod fits a reserved node both now and at the reserved moment.
    fn fit_beside(&self, asking: Asking, node: usize) -> Option<Rc<Fit>> {
        let both = self
            .cluster
            .state(node)
            .either(&self.shadows.get(&node)?.state);
        self.index.fit_state(self.model, asking, node, &both)
    }

    /// By node: whether affinity and spread let a pod come, and how unwelcome it is.
    fn near(&self, job: JobRef, shape: usize, pods: (&[Put], &[Put])) -> Vec<Option<u32>> {
        let asked = self.model.job(job);
        let mut welcome: Vec<Option<u32>> = vec![Some(0); self.model.nodes.len()];
        for (rule, affinity) in asked.affinity.iter().enumerate() {
            let (level, counts) = self.nearby.of(job, rule);
            // The first of pods that want to be near their like finds none.
            let first = counts.iter().all(|count| *count == 0) && self.nearby.own(job, rule);
            for (node, welcome) in welcome.iter_mut().enumerate() {
                let domain = self.model.levels[level].domain[node];
                let there = domain.is_some_and(|domain| counts[domain] > 0);
                let (banned, penalty) = match affinity.rule {
                    AffinityRule::Near => (!(there || first && domain.is_some()), 0),
                    AffinityRule::Apart => (there, 0),
                    AffinityRule::PreferNear => (false, u32::from(!there)),
                    AffinityRule::PreferApart => (false, u32::from(there)),
                };
                *welcome = if banned {
                    None
                } else {
                    welcome.map(|so_far| so_far + penalty)
                };
            }
        }
        for (rule, spread) in asked.spread.iter().enumerate() {
            let (level, counts) = self.nearby.of(job, asked.affinity.len() + rule);
            let level = &self.model.levels[level];
            let mut counts = counts.to_vec();
            if spread.labels.is_empty() {
                for put in pods.0.iter().chain(pods.1) {
                    if let Some(domain) = level.domain[put.node] {
                        counts[domain] += 1;
                    }
                }
            }
            let admits = &self.model.shapes[shape].admits;
            let eligible = |domain: &usize| {
                level.nodes[*domain]
                    .iter()
                    .any(|node| admits[self.model.nodes[*node].class].is_some())
            };
            let fewest = (0..counts.len())
                .filter(eligible)
                .map(|domain| counts[domain])
                .min()
                .unwrap_or(0);
            let itself = i64::from(
                spread.labels.is_empty() || self.nearby.own(job, asked.affinity.len() + rule),
            );
            for (node, welcome) in welcome.iter_mut().enumerate() {
                let even = level.domain[node].is_some_and(|domain| {
                    counts[domain] + itself - fewest <= i64::from(spread.max_skew)
                });
                if !even {
                    *welcome = None;
                }
            }
        }
        welcome
    }
}

/// Whether a queue has quota for a pod on a node, own or also borrowed.
fn affords(
    model: &super::model::Model<'_>,
    tree: &super::quota::Tree,
    quota: Option<(usize, bool)>,
    node: usize,
    fit: &Fit,
) -> bool {
    let Some((queue, own)) = quota else {
        return true;
    };
    let charges = super::engine::charges(model, node, &fit.take);
    tree.lacking(queue, &charges).is_none() && (!own || tree.within_own(queue, &charges))
}
