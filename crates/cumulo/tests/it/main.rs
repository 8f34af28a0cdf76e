//! Tests of the whole: the binary, driven as a user would drive it.

mod architecture;
mod kubectl;
mod mistakes;
mod support;
mod training;
