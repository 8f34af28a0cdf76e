//! Port-forward as Kubernetes' older websocket protocol has it, which the
//! clients for Python and Rust speak: for each port that the query names a
//! channel for data and one for errors, and one connection.

use axum::extract::ws::{Message, WebSocket};
use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use tokio::sync::mpsc;

use super::channels::framed;
use super::connection::{Connection, Destination, Framing, WAITING};

/// The subprotocol.
pub const PROTOCOL: &str = "v4.channel.k8s.io";
/// Ports of one request; channels are numbered in a byte.
const MAX_PORTS: usize = 64;

/// The ports that a query asks for: `ports=80&ports=81` or `ports=80,81`.
pub fn ports(pairs: &[(String, String)]) -> Option<Vec<u16>> {
    let ports: Option<Vec<u16>> = pairs
        .iter()
        .filter(|(name, _)| name == "ports" || name == "port")
        .flat_map(|(_, value)| value.split(','))
        .map(|port| port.trim().parse().ok().filter(|port| *port > 0))
        .collect();
    ports.filter(|ports| !ports.is_empty() && ports.len() <= MAX_PORTS)
}

/// Serves one client until all its connections are over or it leaves.
pub async fn serve(socket: WebSocket, ports: &[u16], destination: &Destination) {
    let (mut sink, mut source) = socket.split();
    let (out, mut frames) = mpsc::channel::<Bytes>(WAITING);
    let mut uploads = Vec::new();
    let mut connections = Vec::new();
    for (index, port) in (0u8..).zip(ports) {
        let (data, error) = (2 * index, 2 * index + 1);
        let (upload, received) = mpsc::channel(WAITING);
        uploads.push(upload);
        let connection = Connection {
            destination: destination.clone(),
            port: *port,
            framing: Framing::Channels { error, data },
            out: out.clone(),
        };
        connections.push(async move {
            // Each channel begins with its port.
            for channel in [data, error] {
                let first = framed(channel, &connection.port.to_le_bytes());
                let _ = connection.out.send(first).await;
            }
            connection.run(received).await;
        });
    }
    drop(out);
    let write = async {
        while let Some(frame) = frames.recv().await {
            if sink.send(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    let read = async {
        while let Some(Ok(message)) = source.next().await {
            let mut data = match message {
                Message::Binary(data) if !data.is_empty() => data,
                Message::Close(_) => return,
                _ => continue,
            };
            let channel = usize::from(data.split_to(1)[0]);
            if channel.is_multiple_of(2)
                && !data.is_empty()
                && let Some(upload) = uploads.get(channel / 2)
            {
                // A connection that is over takes nothing more.
                let _ = upload.send(data).await;
            }
        }
    };
    let served = async {
        tokio::join!(futures::future::join_all(connections), write);
    };
    tokio::select! {
        () = served => {}
        () = read => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_numbers_in_a_list_or_one_by_one() {
        let read = |query: &str| ports(&super::super::proxy::pairs(Some(query)));
        assert_eq!(read("ports=80&ports=81"), Some(vec![80, 81]));
        assert_eq!(read("ports=80,81"), Some(vec![80, 81]));
        for wrong in ["", "ports=0", "ports=x", "ports=70000", "ports="] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }
}
