//! Label and field selectors: parsing and matching. Pure.

mod field;
mod label;

pub use field::FieldSelector;
pub use label::{LabelSelector, Operator};

/// Why a selector cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unable to parse requirement: {0}")]
pub struct SelectorError(pub String);
