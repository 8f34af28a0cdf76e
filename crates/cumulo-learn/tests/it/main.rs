//! The public way, with real parts: training, the folder, stock MLflow.

mod python;
mod roundtrip;
mod sample;
