//! The Open Inference Protocol's JSON: requests in, answers out.
//!
//! Source: kserve/open-inference-protocol, `specification/protocol/inference_rest.md`.

mod elements;
mod request;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub(crate) use request::parse_tensors;
pub use request::{ParseError, Request, parse};

use crate::tensor::Tensor;

/// An answer, as JSON.
#[derive(Serialize)]
struct Answer<'a> {
    model_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    model_version: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    outputs: &'a [Tensor],
}

/// Renders an answer.
pub fn render(
    model_name: &str,
    model_version: Option<&str>,
    id: Option<&str>,
    outputs: &[Tensor],
) -> Vec<u8> {
    let elements: usize = outputs.iter().map(|tensor| tensor.data.len()).sum();
    let mut text = Vec::with_capacity(256 + 20 * elements);
    let answer = Answer {
        model_name,
        model_version,
        id,
        outputs,
    };
    // Writing plain data to memory doesn't fail; were it to, the client sees a cut text.
    if let Err(error) = serde_json::to_writer(&mut text, &answer) {
        tracing::error!(%error, "answer could not be rendered");
    }
    text
}
