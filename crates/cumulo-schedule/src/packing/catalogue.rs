//! Models, kinds of node and shapes of pod, each a small number.

use rustc_hash::FxHashMap;

use super::Error;
use super::state::{MAX_GPUS, NodeState, WHOLE};

/// A node as a trace describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSpec {
    /// Its name; ties between equal nodes go to the first name.
    pub name: String,
    /// CPU in thousandths of a core.
    pub cpu: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// Number of GPUs.
    pub gpus: u32,
    /// The model of its GPUs; empty without any.
    pub model: String,
}

/// A pod as a trace describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodSpec {
    /// Its name.
    pub name: String,
    /// CPU in thousandths of a core.
    pub cpu: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// Number of GPUs.
    pub gpus: u32,
    /// Thousandths of each of those GPUs, 1 to 1000; 0 without GPUs.
    pub milli: u32,
    /// Models it may run on; empty allows all.
    pub models: Vec<String>,
}

/// A set of GPU models; the empty set allows every node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ModelSet(u64);

impl ModelSet {
    /// Whether a node of this model may run a pod that allows this set.
    pub fn allows(self, model: Option<u8>) -> bool {
        self.0 == 0 || model.is_some_and(|model| self.0 >> model & 1 == 1)
    }
}

/// What a pod asks for; pods that ask for the same are one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Shape {
    /// CPU in thousandths of a core.
    pub cpu: u32,
    /// Thousandths of each GPU.
    pub milli: u16,
    /// Number of GPUs.
    pub gpus: u8,
    /// Models it may run on.
    pub models: ModelSet,
    /// Memory in MiB.
    pub memory: u32,
}

impl Shape {
    /// Thousandths of a GPU in all.
    pub fn gpu_total(&self) -> u32 {
        u32::from(self.gpus) * u32::from(self.milli)
    }

    /// Whether it asks for a part of one GPU.
    pub fn is_fraction(&self) -> bool {
        self.gpus == 1 && self.milli < WHOLE
    }

    /// The class that results are reported by.
    pub fn class(&self) -> Class {
        match self.gpus {
            0 => Class::Cpu,
            1 if self.milli < WHOLE => Class::Fraction,
            1 => Class::One,
            _ => Class::Many,
        }
    }
}

/// Classes of pods. A policy that rejects large pods can raise the allocation
/// rate, so every result counts these apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Class {
    /// No GPU.
    Cpu,
    /// A part of one GPU.
    Fraction,
    /// One whole GPU.
    One,
    /// Several GPUs.
    Many,
}

impl Class {
    /// All of them, in the order of reports.
    pub const ALL: [Self; 4] = [Self::Cpu, Self::Fraction, Self::One, Self::Many];

    /// The word in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "CPU",
            Self::Fraction => "fraction",
            Self::One => "one",
            Self::Many => "many",
        }
    }
}

/// The number of a shape in its catalogue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShapeId(pub u32);

/// What nodes have in common that were bought together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// CPU in thousandths of a core.
    pub cpu: u32,
    /// Memory in MiB.
    pub memory: u32,
    /// Number of GPUs.
    pub gpus: u8,
    /// The model of its GPUs.
    pub model: Option<u8>,
}

impl Kind {
    /// The state of a node of this kind that runs nothing.
    pub fn empty(&self, kind: u16) -> NodeState {
        let mut gpus = [0; MAX_GPUS];
        gpus[..usize::from(self.gpus)].fill(WHOLE);
        NodeState {
            cpu: self.cpu,
            memory: self.memory,
            kind,
            tags: 0,
            count: self.gpus,
            gpus,
        }
    }
}

/// The vocabulary of one problem.
#[derive(Clone, Debug, Default)]
pub struct Catalogue {
    models: Vec<String>,
    kinds: Vec<Kind>,
    shapes: Vec<Shape>,
    numbers: FxHashMap<Shape, ShapeId>,
}

impl Catalogue {
    fn model(&mut self, name: &str) -> Result<u8, Error> {
        if let Some(at) = self.models.iter().position(|known| known == name) {
            return Ok(at as u8);
        }
        if self.models.len() == 64 {
            return Err(Error::TooManyModels(name.to_owned()));
        }
        self.models.push(name.to_owned());
        Ok((self.models.len() - 1) as u8)
    }

    /// The kind of a node.
    ///
    /// # Errors
    ///
    /// Too many GPUs on the node, or too many models in all.
    pub fn kind(&mut self, node: &NodeSpec) -> Result<u16, Error> {
        if node.gpus as usize > MAX_GPUS {
            return Err(Error::TooManyGpus {
                node: node.name.clone(),
                gpus: node.gpus,
            });
        }
        let model = match node.model.as_str() {
            "" => None,
            name => Some(self.model(name)?),
        };
        let kind = Kind {
            cpu: node.cpu,
            memory: node.memory,
            gpus: node.gpus as u8,
            model,
        };
        let at = self.kinds.iter().position(|known| *known == kind);
        Ok(at.unwrap_or_else(|| {
            self.kinds.push(kind);
            self.kinds.len() - 1
        }) as u16)
    }

    /// The shape of a pod.
    ///
    /// # Errors
    ///
    /// A request that means nothing, or too many models in all.
    pub fn shape(&mut self, pod: &PodSpec) -> Result<ShapeId, Error> {
        let bad = |problem: String| Error::BadPod {
            pod: pod.name.clone(),
            problem,
        };
        if pod.gpus as usize > MAX_GPUS {
            return Err(bad(format!(
                "asks for {} GPUs; at most {MAX_GPUS} fit one node",
                pod.gpus
            )));
        }
        if pod.gpus > 0 && !(1..=u32::from(WHOLE)).contains(&pod.milli) {
            return Err(bad(format!(
                "asks for {} thousandths of a GPU; expected 1 to {WHOLE}",
                pod.milli
            )));
        }
        let mut models = ModelSet::default();
        for name in &pod.models {
            models.0 |= 1 << self.model(name)?;
        }
        let shape = Shape {
            cpu: pod.cpu,
            memory: pod.memory,
            gpus: pod.gpus as u8,
            milli: if pod.gpus == 0 { 0 } else { pod.milli as u16 },
            models,
        };
        Ok(*self.numbers.entry(shape).or_insert_with(|| {
            self.shapes.push(shape);
            ShapeId(self.shapes.len() as u32 - 1)
        }))
    }

    /// The shape of this number.
    pub fn get(&self, id: ShapeId) -> &Shape {
        &self.shapes[id.0 as usize]
    }

    /// All shapes, by number.
    pub fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// All kinds of node, by number.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// Whether a state has room for a shape.
    pub fn fits(&self, state: &NodeState, shape: &Shape) -> bool {
        shape
            .models
            .allows(self.kinds[usize::from(state.kind)].model)
            && state.has_room(shape)
    }
}
