//! What `cumulo simulate` does, built from this crate alone, with the settings
//! of our policy open to trial:
//!
//! ```text
//! replay NODES.csv PODS.csv [seeds=42..51] [motion] [moved=0.01] [bound=0] [out=DIR]
//!        [fgd ours …] [rollouts=64 misses=30 tightness=0.003 large=0.3 …]
//! ```

use std::sync::Mutex;
use std::time::Instant;

use cumulo_schedule::packing::{Moving, Policy, Settings};
use cumulo_schedule::replay::trace::{File, Trace};
use cumulo_schedule::replay::{MotionOptions, Options, Progress, run};

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [nodes, pods, rest @ ..] = words.as_slice() else {
        panic!("expected NODES.csv PODS.csv");
    };
    let read = |path: &str| std::fs::read_to_string(path).expect("readable");
    let (node_text, pod_text) = (read(nodes), read(pods));
    let file = |name, text| File { name, text };
    let trace = Trace::parse(file(nodes, &node_text), file(pods, &pod_text));
    let trace = trace.unwrap_or_else(|error| panic!("{error}"));
    let mut options = Options {
        policies: Vec::new(),
        moving: None,
        ..Options::default()
    };
    let mut out = None;
    for word in rest {
        match word.split_once('=') {
            Some(("out", folder)) => out = Some(folder),
            Some((name, value)) => set(&mut options, name, value),
            None if word == "motion" => options.motion = Some(MotionOptions::default()),
            None => {
                let named = Policy::ALL.iter().find(|policy| policy.name() == word);
                options.policies.push(*named.expect("a policy"));
            }
        }
    }
    if options.policies.is_empty() {
        options.policies = Policy::ALL.to_vec();
    }
    let clock = Mutex::new((Instant::now(), Vec::new()));
    let report = run(&trace, &options, &|progress| {
        let mut clock = clock.lock().expect("no thread panicked");
        match progress {
            Progress::Started(_) => clock.0 = Instant::now(),
            Progress::Finished(stage, _) => {
                let seconds = clock.0.elapsed().as_secs_f64();
                clock.1.push((stage, seconds));
            }
            Progress::Steps(_) | Progress::Step => {}
        }
    });
    let mut report = report.unwrap_or_else(|error| panic!("{error}"));
    for (stage, seconds) in clock.into_inner().expect("no thread panicked").1 {
        report.took(&stage, seconds);
    }
    println!("{}", report.table());
    if let Some(folder) = out {
        std::fs::create_dir_all(folder).expect("a folder");
        for (name, text) in [
            ("table.txt", report.table()),
            ("allocation.svg", report.plot()),
            ("allocation-end.svg", report.plot_end()),
        ] {
            std::fs::write(format!("{folder}/{name}"), text).expect("writable");
        }
    }
}

fn set(options: &mut Options, name: &str, value: &str) {
    let settings: &mut Settings = &mut options.settings;
    let number = || value.parse::<f64>().expect("a number");
    match name {
        "seeds" => {
            let (first, last) = value.split_once("..").expect("FIRST..LAST");
            let [first, last] = [first, last].map(|seed| seed.parse().expect("a number"));
            options.seeds = (first..=last).collect();
        }
        "bound" => options.bound = number() > 0.0,
        "moved" => {
            options.moving = Some(Moving {
                share: number(),
                ..options.moving.unwrap_or_default()
            });
        }
        "gain" => {
            options.moving = Some(Moving {
                gain: number() as u32,
                ..options.moving.unwrap_or_default()
            });
        }
        "rollouts" => settings.rollouts = number() as usize,
        "draws" => settings.draws = number() as usize,
        "misses" => settings.misses = number() as u32,
        "tightness" => settings.tightness = number(),
        "tightness_in_motion" => settings.tightness_in_motion = number(),
        "large_in_motion" => settings.large_in_motion = number(),
        "load" => {
            options.motion = Some(MotionOptions {
                load: number(),
                ..options.motion.unwrap_or_default()
            });
        }
        "price" => settings.price = number(),
        "large" => settings.large = number(),
        "seed" => settings.seed = number() as u64,
        _ => panic!("no setting {name}"),
    }
}
