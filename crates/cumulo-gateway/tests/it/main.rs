//! The gateway over real connections, with model servers that the tests play.

mod demand;
mod failures;
mod fake;
mod hold;
mod promotion;
mod watching;
