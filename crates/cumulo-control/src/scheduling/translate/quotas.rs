//! Queues with their quotas.

use cumulo_api::queue::DEFAULT_FLAVOR;
use cumulo_schedule::solver::{Queue, Quota};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::scheduling::dra::gpu;
use crate::scheduling::quantity::asked;
use crate::scheduling::view::View;

/// The Queues that can be used. One whose parent is missing is left out, with all below it.
pub(super) fn queues(view: &View) -> Vec<Queue> {
    let rooted = |name: &String| {
        let mut at = view.queues.get(name);
        for _ in 0..=view.queues.len() {
            match at.map(|queue| &queue.spec.parent) {
                Some(Some(parent)) => at = view.queues.get(parent),
                Some(None) => return true,
                None => return false,
            }
        }
        false
    };
    let known = view.queues.iter().filter(|(name, _)| rooted(name));
    known
        .map(|(name, queue)| {
            let spec = &queue.spec;
            let mut solver = Queue::new(name);
            solver.parent = spec.parent.clone();
            solver.weight = u32::try_from(spec.weight.unwrap_or(1)).unwrap_or(1).max(1);
            for quotas in &spec.quotas {
                let flavor = quotas.flavor.as_deref().unwrap_or(DEFAULT_FLAVOR);
                for (resource, quota) in &quotas.resources {
                    let read = |amount: &IntOrString| amount_of(resource, amount);
                    let quota = Quota {
                        // What is not understood gives nothing away.
                        nominal: read(&quota.nominal).unwrap_or(0),
                        borrowing: quota
                            .borrowing_limit
                            .as_ref()
                            .map(|limit| read(limit).unwrap_or(0)),
                        lending: quota
                            .lending_limit
                            .as_ref()
                            .map(|limit| read(limit).unwrap_or(0)),
                    };
                    let counted = if resource == gpu::DRIVER {
                        gpu::COUNTED
                    } else {
                        resource
                    };
                    solver = solver.quota(flavor, counted, quota);
                }
            }
            solver
        })
        .collect()
}

/// An amount of a resource as a manifest has it.
fn amount_of(resource: &str, amount: &IntOrString) -> Option<u64> {
    match amount {
        IntOrString::Int(number) => asked(resource, &number.to_string()),
        IntOrString::String(text) => asked(resource, text),
    }
}
