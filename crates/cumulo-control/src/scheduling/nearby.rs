//! Which pods run near which nodes, as far as some pod asks: affinity,
//! anti-affinity and topology spread, counted once for equal terms. Pure.

use std::collections::{BTreeMap, HashMap};

use super::node::Node;
use super::pod::{Pod, PodTerm, Spread};
use super::selector::Labels;

/// Pods that all of some terms speak of, counted by the domains of one label.
/// A pod counts for affinity only if it fulfils every term of the asking pod.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Group {
    pub(crate) terms: Vec<PodTerm>,
    pub(crate) topology: String,
}

#[derive(Debug, Default, Clone)]
struct Counts {
    by_node: BTreeMap<usize, i64>,
    by_domain: HashMap<String, i64>,
}

impl Counts {
    fn add(&mut self, node: usize, domain: Option<&str>, by: i64) {
        *self.by_node.entry(node).or_default() += by;
        if let Some(domain) = domain {
            *self.by_domain.entry(domain.to_owned()).or_default() += by;
        }
    }

    fn at(&self, domain: &str) -> i64 {
        self.by_domain.get(domain).copied().unwrap_or(0)
    }
}

/// Counts of pods by group.
#[derive(Debug, Default, Clone)]
pub(crate) struct Nearby {
    groups: Vec<Group>,
    index: HashMap<Group, usize>,
    /// Pods that the group speaks of.
    there: Vec<Counts>,
    /// Pods that must be apart from what the group speaks of.
    averse: Vec<Counts>,
}

impl Nearby {
    /// Gets ready to count what a waiting pod asks about.
    pub(crate) fn ask(&mut self, pod: &Pod) {
        for group in asked(pod) {
            self.register(group);
        }
    }

    /// Gets ready for those that a running pod must be apart from.
    pub(crate) fn heed(&mut self, pod: &Pod) {
        for term in &pod.spec.apart {
            self.register(single(term));
        }
    }

    fn register(&mut self, group: Group) -> usize {
        if let Some(known) = self.index.get(&group) {
            return *known;
        }
        let at = self.groups.len();
        self.index.insert(group.clone(), at);
        self.groups.push(group);
        self.there.push(Counts::default());
        self.averse.push(Counts::default());
        at
    }

    /// The groups, in the order of their numbers.
    pub(crate) fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The number of a group that was asked about.
    pub(crate) fn number(&self, group: &Group) -> Option<usize> {
        self.index.get(group).copied()
    }

    /// Whether a group speaks of a pod.
    pub(crate) fn speaks_of(
        &self,
        group: usize,
        pod: &Pod,
        namespaces: &HashMap<String, Labels>,
    ) -> bool {
        speaks_of(&self.groups[group], pod, namespaces)
    }

    /// Counts a pod on a node, or takes it back. Ask about all pods before.
    pub(crate) fn count(
        &mut self,
        pod: &Pod,
        at: usize,
        node: &Node,
        namespaces: &HashMap<String, Labels>,
        by: i64,
    ) {
        for number in 0..self.groups.len() {
            if speaks_of(&self.groups[number], pod, namespaces) {
                let domain = node.labels.get(&self.groups[number].topology);
                self.there[number].add(at, domain.map(String::as_str), by);
            }
        }
        for term in &pod.spec.apart {
            let Some(number) = self.number(&single(term)) else {
                continue;
            };
            let domain = node.labels.get(&term.topology);
            self.averse[number].add(at, domain.map(String::as_str), by);
        }
    }

    /// Why a pod may not come to a node because of pods that are near it.
    pub(crate) fn refuses(
        &self,
        pod: &Pod,
        node: &Node,
        namespaces: &HashMap<String, Labels>,
    ) -> Option<String> {
        self.too_far(pod, node, namespaces)
            .or_else(|| self.too_near(pod, node, namespaces))
    }

    fn too_far(
        &self,
        pod: &Pod,
        node: &Node,
        namespaces: &HashMap<String, Labels>,
    ) -> Option<String> {
        let near = near_groups(pod);
        let counts: Vec<_> = near
            .iter()
            .map(|group| self.number(group).map(|number| &self.there[number]))
            .collect();
        // The first of pods that want to be near their like finds none.
        let nobody = counts.iter().all(|counts| {
            counts.is_none_or(|counts| counts.by_domain.values().all(|count| *count <= 0))
        });
        let first = nobody && near.iter().all(|group| speaks_of(group, pod, namespaces));
        for (group, counts) in near.iter().zip(counts) {
            let Some(domain) = node.labels.get(&group.topology) else {
                return Some(format!(
                    "lacks the label {} of its pod affinity",
                    group.topology
                ));
            };
            let there = counts.is_some_and(|counts| counts.at(domain) > 0);
            if !there && !first {
                return Some("runs none of the pods of its pod affinity nearby".to_owned());
            }
        }
        None
    }

    fn too_near(
        &self,
        pod: &Pod,
        node: &Node,
        namespaces: &HashMap<String, Labels>,
    ) -> Option<String> {
        for term in &pod.spec.apart {
            let Some(number) = self.number(&single(term)) else {
                continue;
            };
            let domain = node.labels.get(&term.topology);
            if domain.is_some_and(|domain| self.there[number].at(domain) > 0) {
                return Some("runs pods of its anti-affinity nearby".to_owned());
            }
        }
        for (number, counts) in self.averse.iter().enumerate() {
            if counts.by_node.is_empty() {
                continue;
            }
            let domain = node.labels.get(&self.groups[number].topology);
            if domain.is_some_and(|domain| counts.at(domain) > 0)
                && speaks_of(&self.groups[number], pod, namespaces)
            {
                return Some("runs pods nearby whose anti-affinity keeps it off".to_owned());
            }
        }
        None
    }

    /// Why a spread constraint keeps a pod off a node; `counted` says which nodes'
    /// pods and domains count.
    pub(crate) fn uneven(
        &self,
        spread: &Spread,
        pod: &Pod,
        node: &Node,
        nodes: &[std::sync::Arc<Node>],
        counted: impl Fn(&Node) -> bool,
        namespaces: &HashMap<String, Labels>,
    ) -> Option<String> {
        let key = &spread.term.topology;
        let Some(own) = node.labels.get(key) else {
            return Some(format!("lacks the label {key} of its topology spread"));
        };
        let group = single(&spread.term);
        let counts = self
            .number(&group)
            .map(|number| &self.there[number].by_node);
        let mut domains: HashMap<&str, i64> = HashMap::new();
        for (at, other) in nodes.iter().enumerate() {
            let Some(domain) = other.labels.get(key) else {
                continue;
            };
            if counted(other) {
                let count = counts
                    .and_then(|counts| counts.get(&at).copied())
                    .unwrap_or(0);
                *domains.entry(domain).or_default() += count;
            }
        }
        let mut fewest = domains.values().copied().min().unwrap_or(0);
        if domains.len() < spread.min_domains {
            fewest = 0;
        }
        let itself = i64::from(speaks_of(&group, pod, namespaces));
        let there = domains.get(own.as_str()).copied().unwrap_or(0);
        (there + itself - fewest > spread.max_skew)
            .then(|| format!("would exceed the skew of {} over {key}", spread.max_skew))
    }
}

fn speaks_of(group: &Group, pod: &Pod, namespaces: &HashMap<String, Labels>) -> bool {
    group
        .terms
        .iter()
        .all(|term| term.matches(pod.namespace(), pod.labels(), |name| namespaces.get(name)))
}

/// A term alone.
pub(crate) fn single(term: &PodTerm) -> Group {
    Group {
        terms: vec![term.clone()],
        topology: term.topology.clone(),
    }
}

/// What a pod wants to be near, by topology.
pub(crate) fn near_groups(pod: &Pod) -> Vec<Group> {
    let mut groups: Vec<Group> = pod
        .spec
        .near
        .iter()
        .map(|term| Group {
            terms: pod.spec.near.clone(),
            topology: term.topology.clone(),
        })
        .collect();
    groups.sort();
    groups.dedup();
    groups
}

fn asked(pod: &Pod) -> Vec<Group> {
    let spec = &pod.spec;
    let mut groups = near_groups(pod);
    groups.extend(spec.apart.iter().map(single));
    groups.extend(spec.preferred_pods.iter().map(|(_, term)| single(term)));
    groups.extend(spec.spread.iter().map(|spread| single(&spread.term)));
    groups
}
