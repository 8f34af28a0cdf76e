//! For each shape of pod the classes of nodes that it fits, best first, kept up
//! to date by looking only at classes that are new since the last question.

use std::collections::BTreeSet;
use std::rc::Rc;

use rustc_hash::FxHashMap;

use super::fit::{Fit, Score, fit};
use super::model::Model;
use super::state::Cluster;
use super::value::{NodeValue, NodeView};

#[derive(Default)]
struct Ranking {
    /// How much of [`Cluster::filled`] has been looked at.
    seen: usize,
    best: BTreeSet<(Score, usize)>,
    fits: FxHashMap<usize, Option<Rc<Fit>>>,
}

/// What is placed: a shape, by worth or by what it is charged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asking {
    pub shape: usize,
    /// Least charge to the quota first, worth second.
    pub thrifty: bool,
}

impl Asking {
    fn ranking(self) -> usize {
        self.shape * 2 + usize::from(self.thrifty)
    }
}

/// The rankings of all shapes, each by worth and by charge.
pub(super) struct Index<'p> {
    value: &'p dyn NodeValue,
    values: Vec<Option<i64>>,
    rankings: Vec<Ranking>,
}

impl<'p> Index<'p> {
    pub fn new(model: &Model<'_>, value: &'p dyn NodeValue) -> Self {
        let rankings = (0..2 * model.shapes.len())
            .map(|_| Ranking::default())
            .collect();
        Self {
            value,
            values: Vec::new(),
            rankings,
        }
    }

    /// How a pod fits nodes of a class; computed once.
    pub fn fit(
        &mut self,
        model: &Model<'_>,
        cluster: &Cluster,
        asking: Asking,
        class: usize,
        node: usize,
    ) -> Option<Rc<Fit>> {
        if let Some(known) = self.rankings[asking.ranking()].fits.get(&class) {
            return known.clone();
        }
        let state = &cluster.classes[class].state;
        if self.values.len() <= class {
            self.values.resize(class + 1, None);
        }
        let value = self.value;
        let before = *self.values[class]
            .get_or_insert_with(|| value.value(&NodeView::new(model, node, state)));
        let found = fit(model, value, asking, node, state, before).map(Rc::new);
        self.rankings[asking.ranking()]
            .fits
            .insert(class, found.clone());
        found
    }

    /// How a pod fits a node in a state that is not its present one.
    pub fn fit_state(
        &self,
        model: &Model<'_>,
        asking: Asking,
        node: usize,
        state: &super::state::NodeState,
    ) -> Option<Rc<Fit>> {
        let before = self.value.value(&NodeView::new(model, node, state));
        fit(model, self.value, asking, node, state, before).map(Rc::new)
    }

    /// The best node for a pod among those that `allowed` lets pass.
    pub fn best(
        &mut self,
        model: &Model<'_>,
        cluster: &Cluster,
        asking: Asking,
        mut allowed: impl FnMut(usize, &Fit) -> bool,
    ) -> Option<(usize, Rc<Fit>)> {
        while self.rankings[asking.ranking()].seen < cluster.filled.len() {
            let class = cluster.filled[self.rankings[asking.ranking()].seen];
            self.rankings[asking.ranking()].seen += 1;
            let Some(node) = cluster.classes[class].nodes.first().copied() else {
                continue;
            };
            if let Some(fit) = self.fit(model, cluster, asking, class, node) {
                self.rankings[asking.ranking()]
                    .best
                    .insert((fit.score, class));
            }
        }
        let ranking = &mut self.rankings[asking.ranking()];
        let mut empty = Vec::new();
        let mut found = None;
        'classes: for entry in &ranking.best {
            let class = entry.1;
            let nodes = &cluster.classes[class].nodes;
            if nodes.is_empty() {
                empty.push(*entry);
                continue;
            }
            let Some(Some(fit)) = ranking.fits.get(&class) else {
                continue;
            };
            for node in nodes {
                if allowed(*node, fit) {
                    found = Some((*node, Rc::clone(fit)));
                    break 'classes;
                }
            }
        }
        for entry in empty {
            ranking.best.remove(&entry);
        }
        found
    }
}
