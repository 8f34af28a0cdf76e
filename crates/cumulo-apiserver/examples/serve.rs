//! The API server alone, over plain HTTP on this machine, for whoever asks:
//! to measure it or to try something without the platform around it.
//!
//! Usage: serve FOLDER ADDRESS:PORT

use cumulo_apiserver::auth::UserInfo;
use cumulo_apiserver::{Options, Server};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(address)) = (arguments.next(), arguments.next()) else {
        return Err("usage: serve FOLDER ADDRESS:PORT".into());
    };
    std::fs::create_dir_all(&folder)?;
    let mut options = Options::new(folder);
    options.authority = Some("none: plain HTTP".into());
    let (server, handle) = Server::open(options).await?;
    let stop = CancellationToken::new();
    let running = tokio::spawn(server.run(stop.clone()));
    let router = handle.router().layer(axum::middleware::map_request(
        async |mut request: axum::extract::Request| {
            request.extensions_mut().insert(UserInfo::platform());
            request
        },
    ));
    let listener = tokio::net::TcpListener::bind(address).await?;
    axum::serve(listener, router).await?;
    stop.cancel();
    running.await?;
    Ok(())
}
