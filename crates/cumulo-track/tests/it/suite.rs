//! What must hold wherever state is. The module's name says where.

#[path = "artifacts.rs"]
mod artifacts;
#[path = "client.rs"]
mod client;
#[path = "protocol.rs"]
mod protocol;
#[path = "registry.rs"]
mod registry;
#[path = "search.rs"]
mod search;
#[path = "stock_client.rs"]
mod stock_client;

use crate::server::{Place, Server};

/// A service of its own.
async fn start() -> Server {
    let place = if module_path!().ends_with("on_a_cluster") {
        Place::Cluster
    } else {
        Place::Laptop
    };
    Server::start_at(place).await
}
