//! One connection of a port-forward: between a client's streams and a port of
//! the pod's own address.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::channels::framed;
use super::spdy;

/// Pieces of data that wait for a pod which does not read.
pub const WAITING: usize = 16;
/// How long a pod may take to answer.
const CONNECT: Duration = Duration::from_secs(10);
/// How much is read of a pod at once.
const PIECE: usize = 32 << 10;

/// The pod that connections go to.
#[derive(Debug, Clone)]
pub struct Destination {
    /// Its name, for messages.
    pub pod: String,
    /// Its own address.
    pub address: IpAddr,
}

/// How a connection's two streams are told apart on the way to the client.
#[derive(Debug, Clone, Copy)]
pub enum Framing {
    /// Streams of SPDY.
    Spdy {
        /// For a sentence about what went wrong.
        error: u32,
        /// For the data.
        data: u32,
    },
    /// Channels of a websocket.
    Channels {
        /// For a sentence about what went wrong.
        error: u8,
        /// For the data.
        data: u8,
    },
}

impl Framing {
    fn data(self, bytes: &[u8]) -> Bytes {
        match self {
            Self::Spdy { data, .. } => spdy::data(data, bytes, false),
            Self::Channels { data, .. } => framed(data, bytes),
        }
    }

    /// What tells the client that the connection is over, and why if it broke.
    fn end(self, problem: &str) -> Vec<Bytes> {
        match self {
            Self::Spdy { error, data } => vec![
                spdy::data(error, problem.as_bytes(), true),
                spdy::data(data, &[], true),
            ],
            Self::Channels { .. } if problem.is_empty() => Vec::new(),
            Self::Channels { error, .. } => vec![framed(error, problem.as_bytes())],
        }
    }
}

/// One connection to the pod.
pub struct Connection {
    /// Where it goes.
    pub destination: Destination,
    /// The port there.
    pub port: u16,
    /// How the client gets what the pod says.
    pub framing: Framing,
    /// Takes what goes to the client.
    pub out: mpsc::Sender<Bytes>,
}

impl Connection {
    /// Carries both directions until the pod has said everything. `received` is
    /// what the client says.
    pub async fn run(self, received: mpsc::Receiver<Bytes>) {
        let problem = match self.connect().await {
            Ok(stream) => self.copy(stream, received).await.err().map(|error| {
                format!(
                    "the connection to port {} of pod {} broke: {error}",
                    self.port, self.destination.pod
                )
            }),
            Err(error) => Some(format!(
                "pod {} does not answer on port {} of its address {}: {error}; a program in a pod has to listen on $POD_IP or on all addresses",
                self.destination.pod, self.port, self.destination.address
            )),
        };
        for frame in self.framing.end(&problem.unwrap_or_default()) {
            // A client that is gone needs no end.
            let _ = self.out.send(frame).await;
        }
    }

    async fn connect(&self) -> io::Result<TcpStream> {
        let connect = TcpStream::connect((self.destination.address, self.port));
        let stream = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// That the client has said everything ends nothing.
    async fn copy(
        &self,
        mut stream: TcpStream,
        mut received: mpsc::Receiver<Bytes>,
    ) -> io::Result<()> {
        let (mut from_pod, mut to_pod) = stream.split();
        let upload = async {
            while let Some(data) = received.recv().await {
                // A pod that reads no more may still have something to say.
                if to_pod.write_all(&data).await.is_err() {
                    received.close();
                    break;
                }
            }
            let _ = to_pod.shutdown().await;
            std::future::pending::<()>().await;
        };
        let download = async {
            let mut buffer = BytesMut::with_capacity(PIECE);
            loop {
                buffer.clear();
                if from_pod.read_buf(&mut buffer).await? == 0 {
                    return Ok(());
                }
                if self.out.send(self.framing.data(&buffer)).await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            result = download => result,
            () = upload => Ok(()),
        }
    }
}
