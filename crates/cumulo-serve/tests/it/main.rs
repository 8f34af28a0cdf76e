//! The server with real models, over real connections.

mod automl;
mod lifecycle;
mod onnx;
mod python;
mod support;
