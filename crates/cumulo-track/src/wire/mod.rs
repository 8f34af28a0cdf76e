//! MLflow's JSON: entities, requests and responses.
//!
//! Names and shapes are those of MLflow's protocol buffers in their JSON form
//! (`mlflow/protos/service.proto`, `model_registry.proto`). 64-bit integers are
//! written as JSON numbers, as MLflow's own server does, and read from numbers or
//! strings; doubles that JSON cannot hold are the strings `NaN`, `Infinity` and
//! `-Infinity`. Unknown fields are ignored, as there.

pub(crate) mod lenient;
mod logged_model;
mod registry;
mod tracking;

pub use logged_model::*;
pub use registry::*;
pub use tracking::*;

use serde::{Deserialize, Serialize};

/// A tag or parameter: of an experiment, run, logged model, registered model, version or input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct KeyValue {
    /// The key.
    #[serde(default, deserialize_with = "lenient::string")]
    pub key: String,
    /// The value.
    #[serde(default, deserialize_with = "lenient::string")]
    pub value: String,
}

impl KeyValue {
    /// A key and its value.
    pub fn new(key: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            value: value.into(),
        }
    }
}

/// The empty answer, `{}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
pub struct Empty {}

/// A page of a search: the items and the token of the next page.
#[derive(Debug, Clone, PartialEq)]
pub struct Page<T> {
    /// The items of this page.
    pub items: Vec<T>,
    /// What to send as `page_token` for the next page; `None` on the last one.
    pub next_page_token: Option<String>,
}
