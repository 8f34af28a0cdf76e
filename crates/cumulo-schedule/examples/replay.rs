//! Replays a trace under policies and prints the table.

use std::time::Instant;

use cumulo_schedule::packing::{Moving, Policy, Settings, Trained};
use cumulo_schedule::replay::trace::{File, Trace};
use cumulo_schedule::replay::{Arrivals, replay, upper_bound};
use rayon::prelude::*;

fn set(settings: &mut Settings, pair: &str) {
    let (name, value) = pair.split_once('=').expect("NAME=VALUE");
    let float: f64 = value.parse().expect("a number");
    match name {
        "rollouts" => settings.rollouts = float as usize,
        "draws" => settings.draws = float as usize,
        "misses" => settings.misses = float as u32,
        "tightness" => settings.tightness = float,
        "large" => settings.large = float,
        "seed" => settings.seed = float as u64,
        _ => panic!("no setting {name}"),
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let read = |path: &str| std::fs::read_to_string(path).expect("readable");
    let (nodes, pods) = (read(&arguments[0]), read(&arguments[1]));
    let trace = Trace::parse(
        File {
            name: &arguments[0],
            text: &nodes,
        },
        File {
            name: &arguments[1],
            text: &pods,
        },
    )
    .unwrap_or_else(|error| panic!("{error}"));
    let seeds: u64 = arguments[2].parse().expect("a number");
    let mut settings = Settings::default();
    let mut policies = Vec::new();
    let mut moving = None;
    for word in &arguments[3..] {
        if let Some(gain) = word.strip_prefix("moving=") {
            moving = Some(Moving {
                gain: gain.parse().unwrap(),
                ..Moving::default()
            });
        } else if word.contains('=') {
            set(&mut settings, word);
        } else {
            policies.push(
                *Policy::ALL
                    .iter()
                    .find(|p| p.name() == word)
                    .expect("a policy"),
            );
        }
    }
    println!("{settings:?}");
    if policies.is_empty() {
        let arrivals = Arrivals::inflate(&trace, 1.3, 42);
        let share = |ratio: f64| (arrivals.pods.len() as f64 * ratio / 1.3) as usize;
        for (came, kept) in [
            (1.0, 0.0),
            (1.3, 0.0),
            (1.0, 0.94),
            (1.3, 0.94),
            (1.0, 0.955),
            (1.3, 0.955),
        ] {
            let start = Instant::now();
            let bound = upper_bound(&trace, &arrivals.pods[..share(came)], share(kept));
            println!(
                "bound at {came} with {kept} kept: {bound:?} in {:.1}s",
                start.elapsed().as_secs_f64()
            );
        }
    }
    for policy in policies {
        let start = Instant::now();
        let trained = (policy == Policy::Ours).then(|| {
            Trained::learn(
                &trace.catalogue,
                &trace.nodes,
                &trace.pods,
                settings.clone(),
            )
            .unwrap()
        });
        let learned = start.elapsed().as_secs_f64();
        let start = Instant::now();
        let outcomes: Vec<_> = (42..42 + seeds)
            .into_par_iter()
            .map(|seed| {
                let arrivals = Arrivals::inflate(&trace, 1.3, seed);
                replay(
                    &trace,
                    &arrivals,
                    policy,
                    trained.as_ref(),
                    moving.as_ref(),
                    seed,
                )
            })
            .collect();
        let wall = start.elapsed().as_secs_f64();
        let mean = |at: usize| outcomes.iter().filter_map(|o| o.at(at)).sum::<f64>() / seeds as f64;
        let decisions: u64 = outcomes.iter().map(|o| o.decisions()).sum();
        let admitted = |upto: usize| -> Vec<f64> {
            (0..4)
                .map(|c| {
                    outcomes
                        .iter()
                        .map(|o| o.admitted[upto][c] as f64)
                        .sum::<f64>()
                        / seeds as f64
                })
                .collect()
        };
        println!(
            "{:10} 100% {:.2}  130% {:.2}  {:.0}/s learn {learned:.1}s moved {} {:?} {:?}",
            policy.name(),
            mean(100),
            mean(130),
            decisions as f64 / wall,
            outcomes.iter().map(|o| o.moved).sum::<u64>() / seeds,
            admitted(0),
            admitted(1),
        );
    }
}
