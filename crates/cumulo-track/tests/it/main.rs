//! The service as its users meet it: over HTTP, on a free port, with real files.

mod artifacts;
mod client;
mod protocol;
mod registry;
mod search;
mod server;
mod stock_client;
