//! `kubectl port-forward`: for each connection that the client takes, it opens
//! an error stream and a data stream with the same request id; the data goes to
//! a port of the pod's own address, and nowhere else.

use std::collections::HashMap;

use bytes::Bytes;
use tokio::io::AsyncRead;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::connection::{Connection, Destination, Framing, WAITING};
use super::spdy::{self, Frame, FrameReader, FrameWriter, Refusal, SpdyError};

/// The protocol's name, the only one that Kubernetes has for this.
pub const PROTOCOL: &str = "portforward.k8s.io";
/// Connections of one client at a time.
const MAX_CONNECTIONS: usize = 256;
/// The client's half of a data stream.
struct Upload {
    data: mpsc::Sender<Bytes>,
    /// Cancelled when the client gives the stream up.
    abandoned: CancellationToken,
}

/// A connection of which not both streams are there yet.
#[derive(Default)]
struct Half {
    error: Option<u32>,
    data: Option<(u32, mpsc::Receiver<Bytes>, CancellationToken)>,
}

/// Serves one client until it leaves: `reader` is what it sends, `out` takes the
/// frames for it.
///
/// # Errors
/// When what the client sends is not SPDY.
pub async fn serve<R>(
    reader: R,
    out: mpsc::Sender<Bytes>,
    destination: &Destination,
) -> Result<(), SpdyError>
where
    R: AsyncRead + Unpin,
{
    let mut reader = FrameReader::new(reader);
    let mut writer = FrameWriter::default();
    let mut uploads: HashMap<u32, Upload> = HashMap::new();
    let mut halves: HashMap<String, Half> = HashMap::new();
    // Dropped, and with it all connections, when the client is gone.
    let mut connections = JoinSet::new();
    while let Some(frame) = reader.next().await? {
        let answer = match frame {
            Frame::Open { stream, headers } => {
                while connections.try_join_next().is_some() {}
                uploads.retain(|_, upload| !upload.data.is_closed());
                let full = connections.len() >= MAX_CONNECTIONS || halves.len() >= MAX_CONNECTIONS;
                match Request::read(&headers) {
                    _ if full => Some(spdy::refuse(stream, Refusal::Refused)),
                    None => Some(spdy::refuse(stream, Refusal::Protocol)),
                    Some(request) => {
                        let half = halves.entry(request.id.clone()).or_default();
                        match request.purpose {
                            Purpose::Error => half.error = Some(stream),
                            Purpose::Data => {
                                let (data, received) = mpsc::channel(WAITING);
                                let abandoned = CancellationToken::new();
                                half.data = Some((stream, received, abandoned.clone()));
                                uploads.insert(stream, Upload { data, abandoned });
                            }
                        }
                        if let Some(error) = half.error
                            && let Some((data, received, abandoned)) = half.data.take()
                        {
                            halves.remove(&request.id);
                            let connection = Connection {
                                destination: destination.clone(),
                                port: request.port,
                                framing: Framing::Spdy { error, data },
                                out: out.clone(),
                            };
                            connections.spawn(async move {
                                tokio::select! {
                                    () = connection.run(received) => {}
                                    () = abandoned.cancelled() => {}
                                }
                            });
                        }
                        Some(writer.accept(stream))
                    }
                }
            }
            Frame::Data { stream, data, last } => {
                if let Some(upload) = uploads.get(&stream) {
                    // Waits for a pod that does not read; a client that leaves
                    // meanwhile is noticed when the pod reads or ends.
                    let over = !data.is_empty() && upload.data.send(data).await.is_err();
                    if last || over {
                        uploads.remove(&stream);
                    }
                }
                None
            }
            Frame::Reset { stream } => {
                if let Some(upload) = uploads.remove(&stream) {
                    upload.abandoned.cancel();
                }
                None
            }
            Frame::Ping { id } => spdy::pong(id),
            Frame::GoAway => return Ok(()),
        };
        if let Some(answer) = answer
            && out.send(answer).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Error,
    Data,
}

/// The headers of a stream.
#[derive(Debug, PartialEq, Eq)]
struct Request {
    id: String,
    port: u16,
    purpose: Purpose,
}

impl Request {
    fn read(headers: &[(String, String)]) -> Option<Self> {
        let text = |name: &str| {
            headers
                .iter()
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.as_str())
        };
        Some(Self {
            id: text("requestid")?.to_owned(),
            port: text("port")?.parse().ok().filter(|port| *port > 0)?,
            purpose: match text("streamtype")? {
                "error" => Purpose::Error,
                "data" => Purpose::Data,
                _ => return None,
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_say_what_they_are_for() {
        let read = |port: &str, purpose: &str| {
            Request::read(&[
                ("port".to_owned(), port.to_owned()),
                ("requestid".to_owned(), "3".to_owned()),
                ("streamtype".to_owned(), purpose.to_owned()),
            ])
        };
        assert_eq!(
            read("80", "data"),
            Some(Request {
                id: "3".to_owned(),
                port: 80,
                purpose: Purpose::Data
            })
        );
        for (port, purpose) in [
            ("0", "data"),
            ("65536", "data"),
            ("x", "data"),
            ("80", "more"),
        ] {
            assert_eq!(read(port, purpose), None, "{port} {purpose}");
        }
        assert_eq!(Request::read(&[]), None);
    }
}
