//! Exec and attach over SPDY, for clients that do not speak websockets: the
//! streams of [`channels`](super::channels), each a stream of the connection
//! that the client opens and names in its headers.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::channels::{self, ERROR, RESIZE, STDERR, STDIN, STDOUT};
use super::connection::WAITING;
use super::spdy::{self, Frame, FrameReader, FrameWriter, Refusal, SpdyError};

/// The protocol's name: the newest that Kubernetes speaks over SPDY.
pub const PROTOCOL: &str = "v4.channel.k8s.io";
/// How long a client may take to open its streams.
const PATIENCE: Duration = Duration::from_secs(30);

/// The streams that a client will open.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// It has something to say.
    pub stdin: bool,
    /// It wants standard output.
    pub stdout: bool,
    /// It wants standard error.
    pub stderr: bool,
    /// It has a terminal.
    pub tty: bool,
}

impl Wanted {
    /// The channels that these are.
    fn channels(self) -> Vec<u8> {
        [
            (true, ERROR),
            (self.stdin, STDIN),
            (self.stdout, STDOUT),
            (self.stderr && !self.tty, STDERR),
            (self.tty, RESIZE),
        ]
        .into_iter()
        .filter_map(|(wanted, channel)| wanted.then_some(channel))
        .collect()
    }
}

/// Carries streams as [`channels::carry`] does.
pub async fn carry<C, W, E>(
    connection: C,
    wanted: Wanted,
    input: Option<W>,
    resize: impl FnMut(u16, u16),
    mut output: mpsc::Receiver<Bytes>,
    work: E,
) where
    C: AsyncRead + AsyncWrite,
    W: AsyncWrite + Unpin,
    E: Future<Output = Value>,
{
    let (reader, mut connection) = tokio::io::split(connection);
    let (out, mut frames) = mpsc::channel::<Bytes>(WAITING);
    let write = async move {
        while let Some(frame) = frames.recv().await {
            if connection.write_all(&frame).await.is_err() || connection.flush().await.is_err() {
                return;
            }
        }
        let _ = connection.shutdown().await;
    };
    let served = async move {
        let mut client = Client {
            reader: FrameReader::new(Box::pin(reader)),
            writer: FrameWriter::default(),
            streams: HashMap::new(),
            out: out.clone(),
        };
        let opened = tokio::time::timeout(PATIENCE, client.open(&wanted.channels())).await;
        if !matches!(opened, Ok(Ok(true))) {
            tracing::debug!(?wanted, "a client did not open its streams");
            return;
        }
        let stream = client.numbers();
        let answer = async {
            let send = async {
                while let Some(message) = output.recv().await {
                    let Some((channel, data)) = message.split_first() else {
                        continue;
                    };
                    if let Some(number) = stream.get(channel)
                        && out.send(spdy::data(*number, data, false)).await.is_err()
                    {
                        return;
                    }
                }
            };
            let (end, ()) = tokio::join!(work, send);
            for (channel, number) in &stream {
                let text = match *channel {
                    ERROR => end.to_string(),
                    _ => String::new(),
                };
                let _ = out.send(spdy::data(*number, text.as_bytes(), true)).await;
            }
        };
        tokio::select! {
            () = answer => {}
            result = client.listen(input, resize) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a client's connection broke");
                }
            }
        }
    };
    tokio::join!(served, write);
}

struct Client<R> {
    reader: FrameReader<R>,
    writer: FrameWriter,
    /// Numbers of streams and the channels that they are.
    streams: HashMap<u32, u8>,
    out: mpsc::Sender<Bytes>,
}

impl<R: AsyncRead + Unpin> Client<R> {
    /// Accepts streams until all channels have one; false when the client leaves.
    async fn open(&mut self, channels: &[u8]) -> Result<bool, SpdyError> {
        while channels
            .iter()
            .any(|channel| !self.streams.values().any(|known| known == channel))
        {
            let answer = match self.reader.next().await? {
                Some(Frame::Open { stream, headers }) => match channel(&headers) {
                    Some(channel) if channels.contains(&channel) => {
                        self.streams.insert(stream, channel);
                        Some(self.writer.accept(stream))
                    }
                    _ => Some(spdy::refuse(stream, Refusal::Protocol)),
                },
                Some(Frame::Ping { id }) => spdy::pong(id),
                Some(Frame::Data { .. } | Frame::Reset { .. }) => None,
                Some(Frame::GoAway) | None => return Ok(false),
            };
            if let Some(answer) = answer
                && self.out.send(answer).await.is_err()
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The number of each channel's stream.
    fn numbers(&self) -> HashMap<u8, u32> {
        self.streams
            .iter()
            .map(|(number, channel)| (*channel, *number))
            .collect()
    }

    /// Takes what the client says until it leaves.
    async fn listen<W: AsyncWrite + Unpin>(
        &mut self,
        mut input: Option<W>,
        mut resize: impl FnMut(u16, u16),
    ) -> Result<(), SpdyError> {
        while let Some(frame) = self.reader.next().await? {
            match frame {
                Frame::Data { stream, data, last } => match self.streams.get(&stream) {
                    Some(&STDIN) => {
                        if let Some(pipe) = &mut input
                            && (pipe.write_all(&data).await.is_err() || pipe.flush().await.is_err())
                        {
                            input = None;
                        }
                        if last {
                            input = None;
                        }
                    }
                    Some(&RESIZE) => {
                        if let Some((columns, rows)) = channels::size(&data) {
                            resize(columns, rows);
                        }
                    }
                    _ => {}
                },
                Frame::Ping { id } => {
                    if let Some(pong) = spdy::pong(id) {
                        let _ = self.out.send(pong).await;
                    }
                }
                Frame::Open { stream, .. } => {
                    let _ = self.out.send(spdy::refuse(stream, Refusal::Refused)).await;
                }
                Frame::Reset { .. } => {}
                Frame::GoAway => return Ok(()),
            }
        }
        Ok(())
    }
}

/// The channel that a stream's headers name.
fn channel(headers: &[(String, String)]) -> Option<u8> {
    let (_, name) = headers.iter().find(|(key, _)| key == "streamtype")?;
    Some(match name.as_str() {
        "error" => ERROR,
        "stdin" => STDIN,
        "stdout" => STDOUT,
        "stderr" => STDERR,
        "resize" => RESIZE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_has_no_standard_error() {
        let wanted = |tty: bool| Wanted {
            stdin: true,
            stdout: true,
            stderr: true,
            tty,
        };
        assert_eq!(wanted(false).channels(), [ERROR, STDIN, STDOUT, STDERR]);
        assert_eq!(wanted(true).channels(), [ERROR, STDIN, STDOUT, RESIZE]);
        let named = |name: &str| channel(&[("streamtype".to_owned(), name.to_owned())]);
        assert_eq!(named("resize"), Some(RESIZE));
        assert_eq!(named("data"), None);
        assert_eq!(channel(&[]), None);
    }
}
