//! The model server: one model behind the Open Inference Protocol.
//!
//! ```text
//!  HTTP ─► http ─► protocol (JSON ─► tensors) ─► runtime ─► tensors ─► JSON
//!                                                  │
//!                        lightgbm (in process) ◄───┼───► onnx (ONNX Runtime or RTen)
//!                                                  └───► python (a worker process, any MLflow pyfunc)
//! ```
//!
//! Give [`run`] its [`Options`] and a token that ends it. The server listens at
//! once, is ready when the model is loaded, and on shutdown stops being ready,
//! goes on answering for a short while, finishes what it has begun, and ends.

mod http;
mod metrics;
pub mod mlmodel;
mod options;
pub mod protocol;
pub mod runtime;
mod scoring;
mod server;
pub mod tensor;

pub use options::{Options, RuntimeChoice};
pub use runtime::{InferError, Model};
pub use server::{Error, Server, run};
pub use tensor::{Data, Datatype, Tensor};

/// Set on an answer that was given before any work was done, so that a gateway
/// may send the request to another replica.
pub const RETRY_HEADER: &str = "x-cumulo-retry";
