//! What no policy can exceed: a linear program that lets pods be split.
//!
//! Variables are how many pods of each shape run on each kind of node. CPU,
//! memory and GPU of a kind are added up over its nodes, as if they were one
//! large node; CPU pods may all be refused. What is kept of the devices is how
//! fractions share them: an arc-flow model, in which a device is a path from
//! empty to full and each step is a fraction that it takes.

use good_lp::{
    Expression, ProblemVariables, Solution, SolverModel, Variable, constraint, variable,
};

use super::trace::Trace;
use crate::packing::{Shape, ShapeId};

/// Steps of a device that the model tells apart; finer sizes are rounded down,
/// which can only raise the bound.
const STEPS: u16 = 100;

/// Percent of the cluster's GPUs that can be allocated at most when these pods
/// came and all of at most one GPU among the first `kept` were admitted; none
/// if the program could not be solved.
///
/// With 0 kept, nobody can do better. With as many as a policy admits before
/// it refuses the first, no policy that refuses only who has no room, and does
/// so no earlier, can do better: it has taken what came first as it came.
pub fn upper_bound(trace: &Trace, came: &[ShapeId], kept: usize) -> Option<f64> {
    let capacity = trace.capacity() as f64;
    if capacity == 0.0 {
        return None;
    }
    let mut demand = vec![0u64; trace.catalogue.shapes().len()];
    let mut least = demand.clone();
    for (number, id) in came.iter().enumerate() {
        demand[id.0 as usize] += 1;
        let asked = trace.catalogue.get(*id).gpus;
        least[id.0 as usize] += u64::from(number < kept && asked <= 1);
    }
    let mut nodes = vec![0u64; trace.catalogue.kinds().len()];
    for kind in &trace.nodes {
        nodes[usize::from(*kind)] += 1;
    }
    let mut variables = ProblemVariables::new();
    let mut uses = vec![[const { Vec::new() }; 3]; nodes.len()];
    let mut asked: Vec<(Vec<Variable>, u64, u64)> = Vec::new();
    let mut fractions: Vec<Vec<Variable>> = vec![Vec::new(); usize::from(STEPS) + 1];
    let mut whole = Vec::new();
    let mut total = Vec::new();
    for (number, shape) in trace.catalogue.shapes().iter().enumerate() {
        let (count, least) = (demand[number], least[number]);
        if count == 0 || (shape.gpus == 0 && least == 0) {
            continue;
        }
        let mut places = Vec::new();
        for (at, kind) in trace.catalogue.kinds().iter().enumerate() {
            let per_node = per_node(trace, shape, at);
            if per_node == 0 {
                continue;
            }
            let most = (per_node * nodes[at]).min(count) as f64;
            let placed = variables.add(variable().min(0.0).max(most));
            uses[at][0].push((f64::from(shape.cpu) / f64::from(kind.cpu.max(1)), placed));
            uses[at][1].push((
                f64::from(shape.memory) / f64::from(kind.memory.max(1)),
                placed,
            ));
            uses[at][2].push((f64::from(shape.gpu_total()) / 1000.0, placed));
            total.push((f64::from(shape.gpu_total()) / 1000.0, placed));
            if shape.gpus == 0 {
                places.push(placed);
                continue;
            }
            if shape.is_fraction() {
                let step = usize::from(shape.milli) * usize::from(STEPS) / 1000;
                // Below one step it is rounded down to nothing and only counts in
                // the sums of its kind of node.
                if step > 0 {
                    fractions[step].push(placed);
                }
            } else {
                whole.push((f64::from(shape.gpus), placed));
            }
            places.push(placed);
        }
        asked.push((places, count, least));
    }
    let sum = |terms: &[(f64, Variable)]| -> Expression {
        terms
            .iter()
            .map(|(weight, variable)| *weight * *variable)
            .sum()
    };
    let flow = Flow::new(&mut variables, &fractions);
    let mut problem = variables.maximise(sum(&total)).using(good_lp::microlp);
    for (at, kind) in trace.catalogue.kinds().iter().enumerate() {
        let count = nodes[at] as f64;
        for (uses, most) in uses[at].iter().zip([1.0, 1.0, f64::from(kind.gpus)]) {
            if !uses.is_empty() {
                problem = problem.with(constraint!(sum(uses) <= most * count));
            }
        }
    }
    for (places, count, least) in asked {
        let placed: Expression = places.into_iter().sum();
        if least > 0 {
            problem = problem.with(constraint!(placed.clone() >= least as f64));
        }
        problem = problem.with(constraint!(placed <= count as f64));
    }
    let devices = capacity / 1000.0;
    for at in 0..usize::from(STEPS) {
        let into = flow.entering(at);
        let out = flow.leaving(at);
        problem = match at {
            0 => problem.with(constraint!(out + sum(&whole) <= devices)),
            _ => problem.with(constraint!(out <= into)),
        };
    }
    for (step, placed) in fractions
        .iter()
        .enumerate()
        .filter(|(_, placed)| !placed.is_empty())
    {
        let placed: Expression = placed.iter().sum();
        problem = problem.with(constraint!(placed <= flow.taking(step)));
    }
    let solution = problem.solve().ok()?;
    let allocated: f64 = total
        .iter()
        .map(|(weight, placed)| weight * solution.value(*placed))
        .sum();
    Some(allocated / devices * 100.0)
}

/// How many pods of a shape one node of a kind can hold.
fn per_node(trace: &Trace, shape: &Shape, kind: usize) -> u64 {
    let kind = &trace.catalogue.kinds()[kind];
    if !shape.models.allows(kind.model) || shape.gpus > kind.gpus {
        return 0;
    }
    let by = |all: u32, each: u32| all.checked_div(each).unwrap_or(u32::MAX);
    let share = u32::from(1000 / shape.milli.max(1));
    let devices = by(u32::from(kind.gpus) * share, u32::from(shape.gpus));
    u64::from(
        devices
            .min(by(kind.cpu, shape.cpu))
            .min(by(kind.memory, shape.memory)),
    )
}

/// Paths of devices from empty to full.
struct Flow {
    /// From, step, how many devices.
    arcs: Vec<(usize, usize, Variable)>,
}

impl Flow {
    fn new(variables: &mut ProblemVariables, fractions: &[Vec<Variable>]) -> Self {
        let last = usize::from(STEPS);
        let steps: Vec<usize> = (1..=last)
            .filter(|step| !fractions[*step].is_empty())
            .collect();
        let mut reachable = vec![false; last + 1];
        reachable[0] = true;
        let mut arcs = Vec::new();
        for at in 0..last {
            if !reachable[at] {
                continue;
            }
            for step in steps.iter().filter(|step| at + **step <= last) {
                reachable[at + step] = true;
                arcs.push((at, *step, variables.add(variable().min(0.0))));
            }
        }
        Self { arcs }
    }

    fn leaving(&self, at: usize) -> Expression {
        let arcs = self.arcs.iter().filter(|(from, _, _)| *from == at);
        arcs.map(|(_, _, count)| *count).sum()
    }

    fn entering(&self, at: usize) -> Expression {
        let arcs = self.arcs.iter().filter(|(from, step, _)| from + step == at);
        arcs.map(|(_, _, count)| *count).sum()
    }

    fn taking(&self, wanted: usize) -> Expression {
        let arcs = self.arcs.iter().filter(|(_, step, _)| *step == wanted);
        arcs.map(|(_, _, count)| *count).sum()
    }
}
