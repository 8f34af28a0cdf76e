//! Where to put one pod: node states, policies and what a placement costs.
//!
//! ```text
//!   Catalogue   models, kinds of node, shapes of pod: all text becomes numbers once
//!       │
//!   NodeState   what is free on one node; two nodes in equal states are one choice
//!       │
//!   Cluster     nodes grouped by state, with an index of who runs where
//!       │
//!   Packer ──── Scorer: random · dot-product · clustering · packing · best-fit · FGD · default · ours
//! ```
//!
//! A scorer sees one state and one shape and says how good that choice is. The
//! packer remembers the answer for the pair, so a cluster of thousands of
//! nodes costs as much as its distinct states.

mod baseline;
mod catalogue;
mod cluster;
mod fgd;
mod migrate;

mod ours;
mod packer;
mod price;
mod state;
mod value;

pub use catalogue::{Catalogue, Class, Kind, ModelSet, NodeSpec, PodSpec, Shape, ShapeId};
pub use cluster::{Cluster, PodId, Running};
pub use fgd::{Fragmentation, Typical};
pub use migrate::Moving;

pub use ours::{Settings, Trained};
pub use packer::{Packer, Placed, Policy};
pub use state::{Choice, MAX_GPUS, NodeState, WHOLE};

/// Why a cluster or a workload cannot be described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A node has more devices than a state holds.
    #[error("node {node} has {gpus} GPUs; at most {MAX_GPUS} per node are supported")]
    TooManyGpus {
        /// The node.
        node: String,
        /// Its devices.
        gpus: u32,
    },
    /// More models than a set of models holds.
    #[error("the trace names more than 64 GPU models; model {0:?} is one too many")]
    TooManyModels(String),
    /// A pod asks for something that means nothing.
    #[error("pod {pod}: {problem}")]
    BadPod {
        /// The pod.
        pod: String,
        /// What is wrong with it.
        problem: String,
    },
    /// There is nothing to place pods on.
    #[error("the cluster has no nodes")]
    NoNodes,
    /// There is nothing to place.
    #[error("the workload has no pods")]
    NoPods,
}
