//! The container supervisor as a program of its own.
//!
//! The `cumulo` binary carries the same supervisor behind a hidden
//! subcommand; this small program serves the tests, and machines where the
//! supervisor's memory matters more than having a single file.

fn main() {
    cumulo_node::shim::shim_main(std::env::args_os().skip(1))
}
