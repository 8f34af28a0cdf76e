//! What a node's state is worth: the GPU that is left over when it is filled.
//!
//! A rollout fills the node with pods drawn from the mix, one after another,
//! each on the tightest device, until nothing fits. All states of a kind see
//! the same draws (common random numbers), so that the difference between two
//! states is theirs and not the dice's.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustc_hash::FxHashMap;

use super::catalogue::{Catalogue, Shape};
use super::fgd::Typical;
use super::ours::Settings;
use super::state::{MAX_GPUS, NodeState};

/// Most values remembered.
const REMEMBERED: usize = 1 << 21;

/// How many patiences rollouts take turns in, each half as long as the one before.
const PATIENCES: usize = 4;

/// Memory is valued in steps of this many MiB: it binds seldom, and finer
/// steps would make equal states different.
const MEMORY_STEP: u32 = 8_192;

/// A pod of the mix, as the inner loop reads it.
#[derive(Clone, Copy, Debug)]
struct Draw {
    cpu: u32,
    memory: u32,
    milli: u16,
    gpus: u8,
}

/// The draws of one kind of node.
#[derive(Clone, Debug, Default)]
struct Draws {
    /// One sequence after another, each of `length`.
    all: Vec<Draw>,
    length: usize,
    /// A rollout ends after so many draws that found no room: pods that a node
    /// cannot take go elsewhere, and what fits its last hole may never come. How
    /// long a hole will wait nobody knows, so rollouts take turns in patience: all
    /// of these draws, a half, a quarter, an eighth.
    misses: u32,
    /// The least that a pod with a GPU asks for.
    least_cpu: u32,
    least_milli: u16,
}

/// Values of states by rollouts.
#[derive(Clone, Debug)]
pub(super) struct Rollouts {
    kinds: Vec<Draws>,
    known: FxHashMap<(u16, u32, u32, [u16; MAX_GPUS]), f64>,
}

impl Rollouts {
    /// For the kinds of node of a catalogue; a kind is filled with the pods of
    /// the mix that one of its nodes can hold.
    pub fn new(catalogue: &Catalogue, typical: &Typical, settings: &Settings) -> Self {
        let kinds = catalogue.kinds().iter().enumerate().map(|(number, kind)| {
            let empty = kind.empty(number as u16);
            let mut sum = 0.0;
            let mut cumulated = Vec::new();
            for (shape, share) in &typical.mix {
                if catalogue.fits(&empty, shape) {
                    sum += share;
                    cumulated.push((sum, shape));
                }
            }
            draws(&cumulated, sum, settings)
        });
        Self {
            kinds: kinds.collect(),
            known: FxHashMap::default(),
        }
    }

    /// Thousandths of GPU left over, on average.
    pub fn left_over(&mut self, state: &NodeState) -> f64 {
        if state.count == 0 {
            return 0.0;
        }
        let memory = state.memory / MEMORY_STEP;
        let key = (state.kind, state.cpu, memory, state.gpus);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let draws = &self.kinds[usize::from(state.kind)];
        let value = draws.value(state);
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        self.known.insert(key, value);
        value
    }
}

fn draws(cumulated: &[(f64, &Shape)], sum: f64, settings: &Settings) -> Draws {
    let with_gpu = || cumulated.iter().filter(|(_, shape)| shape.gpus > 0);
    let (Some(least_cpu), Some(least_milli)) = (
        with_gpu().map(|(_, shape)| shape.cpu).min(),
        with_gpu().map(|(_, shape)| shape.milli).min(),
    ) else {
        return Draws::default();
    };
    let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
    let all = (0..settings.rollouts * settings.draws).map(|_| {
        let at = random.random::<f64>() * sum;
        let index = cumulated.partition_point(|(upto, _)| *upto <= at);
        let shape = cumulated[index.min(cumulated.len() - 1)].1;
        Draw {
            cpu: shape.cpu,
            memory: shape.memory,
            milli: shape.milli,
            gpus: shape.gpus,
        }
    });
    Draws {
        all: all.collect(),
        length: settings.draws,
        misses: settings.misses,
        least_cpu,
        least_milli,
    }
}

impl Draws {
    fn value(&self, state: &NodeState) -> f64 {
        if self.length == 0 {
            return f64::from(state.gpu_free());
        }
        let mut sum = 0;
        let mut count = 0;
        for (number, sequence) in self.all.chunks_exact(self.length).enumerate() {
            let patience = (self.misses >> (number % PATIENCES)).max(self.misses.min(1));
            sum += self.fill(state, sequence, patience);
            count += 1;
        }
        f64::from(sum) / f64::from(count)
    }

    fn fill(&self, state: &NodeState, sequence: &[Draw], patience: u32) -> u32 {
        let mut cpu = state.cpu;
        let mut memory = state.memory / MEMORY_STEP * MEMORY_STEP;
        let mut gpus = state.gpus;
        let count = usize::from(state.count);
        let gpus = &mut gpus[..count];
        let mut misses = 0;
        for draw in sequence {
            let wanted = usize::from(draw.gpus);
            if draw.cpu > cpu
                || draw.memory > memory
                || wanted > count
                || (wanted > 0 && gpus[count - wanted] < draw.milli)
            {
                misses += 1;
                if misses == patience {
                    break;
                }
                continue;
            }
            if wanted > 0 {
                let mut at = count - wanted;
                while at > 0 && gpus[at - 1] >= draw.milli {
                    at -= 1;
                }
                for device in at..at + wanted {
                    let left = gpus[device] - draw.milli;
                    let mut place = device;
                    while place > 0 && gpus[place - 1] > left {
                        gpus[place] = gpus[place - 1];
                        place -= 1;
                    }
                    gpus[place] = left;
                }
                if gpus[count - 1] < self.least_milli {
                    break;
                }
            }
            cpu -= draw.cpu;
            memory -= draw.memory;
            if cpu < self.least_cpu {
                break;
            }
        }
        gpus.iter().map(|free| u32::from(*free)).sum()
    }
}
