//! Tests of the whole: the binary, driven as a user would drive it.

mod access;
mod architecture;
mod clients;
mod examples;
mod kubectl;
mod limits;
mod mistakes;
mod support;
mod training;
