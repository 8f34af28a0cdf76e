//! Tests of the whole: the binary, driven as a user would drive it.

mod access;
mod administration;
mod architecture;
mod backup;
mod clients;
mod contexts;
mod examples;
mod gpus;
mod helm;
mod kubectl;
mod limits;
mod mistakes;
mod streams;
mod support;
mod tools;
mod training;
