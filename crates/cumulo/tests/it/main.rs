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
mod roles;
mod streams;
mod support;
mod together;
mod tools;
mod training;
