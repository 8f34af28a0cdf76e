//! Why no node takes a pod, as a sentence over all nodes.

use std::collections::{BTreeMap, HashMap};

use crate::scheduling::dra::{InUse, Matcher, Wish, allocate};
use crate::scheduling::quantity::show;
use crate::scheduling::room::{No, Room};
use crate::scheduling::view::Waiting;

/// Most nodes that are named one by one.
const MOST_NAMED: usize = 3;
/// Most different sentences of one decision; the rest is said in general.
const MOST_SENTENCES: usize = 64;

/// Sentences, made once for pods that ask the same.
#[derive(Default)]
pub(super) struct Told {
    known: HashMap<String, Option<String>>,
}

/// Nodes that refuse for the same reason.
struct Same {
    count: usize,
    example: String,
    /// The most that is free of what is short, and where.
    most: Option<(u64, String)>,
}

impl Told {
    /// Why no node takes a pod now; `None` when one would, and it is not for
    /// want of room that it waits.
    pub(super) fn sentence(
        &mut self,
        waiting: &Waiting,
        room: &Room,
        matcher: &mut Matcher<'_>,
        in_use: &mut InUse,
    ) -> Option<String> {
        let spec = &waiting.pod.spec;
        let wishes: Vec<&Wish> = waiting.wishes.iter().map(|(_, wish)| wish).collect();
        let key = format!(
            "{:?}{:?}{:?}{:?}{:?}{:?}{wishes:?}",
            spec.requests, waiting.demand, spec.ports, spec.near, spec.apart, spec.spread
        );
        if let Some(known) = self.known.get(&key) {
            return known.clone();
        }
        if self.known.len() >= MOST_SENTENCES {
            return None;
        }
        let sentence = sentence(waiting, &wishes, room, matcher, in_use);
        self.known.insert(key, sentence.clone());
        sentence
    }
}

fn sentence(
    waiting: &Waiting,
    wishes: &[&Wish],
    room: &Room,
    matcher: &mut Matcher<'_>,
    in_use: &mut InUse,
) -> Option<String> {
    let requests = &waiting.pod.spec.requests;
    let mut asked = vec![show("cpu", requests.cpu), show("memory", requests.memory)];
    let gpus = wishes.iter().flat_map(|wish| &wish.requests);
    let gpus = gpus.flat_map(|request| &request.alternatives);
    asked.extend(gpus.filter_map(|one| Some(one.gpu.as_ref()?.to_string())));
    let last = asked.pop().unwrap_or_default();
    let asked = format!("{} and {last}", asked.join(", "));
    let nodes = room.nodes.len();
    if nodes == 0 {
        return Some(format!("no node has room for {asked}: there are no nodes"));
    }
    let mut reasons: BTreeMap<String, Same> = BTreeMap::new();
    for (at, node) in room.nodes.iter().enumerate() {
        let no = match room.check(&waiting.pod, &waiting.demand, at) {
            Err(no) => no,
            Ok(()) if wishes.is_empty() => return None,
            Ok(()) => match allocate(matcher, in_use, wishes, node) {
                Ok(_) => return None,
                Err(refusal) => No::Others(refusal.text().to_owned()),
            },
        };
        let (kind, free) = match &no {
            No::Short {
                resource,
                free,
                asked,
                ..
            } => (
                format!("lack {resource} ({} asked", show(resource, *asked)),
                Some(*free),
            ),
            other => (other.text(), None),
        };
        let same = reasons.entry(kind).or_insert(Same {
            count: 0,
            example: format!("{} {}", node.name, no.text()),
            most: None,
        });
        same.count += 1;
        if let Some(free) = free
            && same.most.as_ref().is_none_or(|(most, _)| free > *most)
        {
            same.most = Some((free, node.name.clone()));
        }
    }
    let mut parts: Vec<(usize, String)> = reasons
        .into_iter()
        .map(|(kind, same)| {
            let text = match same.most {
                _ if same.count == 1 && nodes <= MOST_NAMED => same.example,
                Some((most, node)) => {
                    let resource = kind.split(' ').nth(1).unwrap_or_default();
                    format!(
                        "{} nodes {kind}; most free: {} on {node})",
                        same.count,
                        show(resource, most)
                    )
                }
                None if same.count == 1 => same.example,
                None => format!("{} nodes: each {kind}", same.count),
            };
            (same.count, text)
        })
        .collect();
    parts.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let shown: Vec<String> = parts.iter().take(6).map(|(_, text)| text.clone()).collect();
    Some(format!(
        "no node has room for {asked}: {}",
        shown.join(", ")
    ))
}
