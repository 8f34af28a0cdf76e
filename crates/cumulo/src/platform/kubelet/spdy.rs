//! The part of SPDY/3.1 that Kubernetes' port-forward speaks: a client opens
//! streams, both sides send data and close their halves. There is no flow
//! control: Kubernetes' library (`moby/spdystream`) has none either.
//!
//! ```text
//! control frame  1 | version 3 (15) | type (16) | flags (8) | length (24) | …
//! data frame     0 | stream (31)                | flags (8) | length (24) | …
//! ```
//!
//! <https://www.chromium.org/spdy/spdy-protocol/spdy-protocol-draft3-1/>

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::headers::{HeaderReader, HeaderWriter, HeadersError};

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
/// Flag: the sender sends nothing more on the stream.
const FIN: u8 = 1;
/// Control frames are small; a longer one is no honest client's.
const MAX_CONTROL: usize = 64 << 10;
/// Data is handed on in pieces of this size at most, however long its frame is.
const PIECE: usize = 32 << 10;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum SpdyError {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A block of headers that cannot be read; the compression's state is lost with it.
    #[error(transparent)]
    Headers(#[from] HeadersError),
    /// A frame that the protocol does not know.
    #[error("a frame is not SPDY/3.1: {0}")]
    Malformed(&'static str),
}

/// Why one stream is given up (`RST_STREAM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The request makes no sense.
    Protocol = 1,
    /// There are too many streams.
    Refused = 3,
}

/// What a client sent.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A stream begins.
    Open {
        /// Its number.
        stream: u32,
        /// Names (in lower case) and values.
        headers: Vec<(String, String)>,
    },
    /// Bytes of a stream; a long frame comes in several pieces.
    Data {
        /// The stream.
        stream: u32,
        /// The bytes.
        data: Bytes,
        /// Nothing more comes from the client.
        last: bool,
    },
    /// The client wants nothing more of a stream.
    Reset {
        /// The stream.
        stream: u32,
    },
    /// To be answered with the same number.
    Ping {
        /// The number.
        id: u32,
    },
    /// The client opens no more streams.
    GoAway,
}

/// Reads frames.
pub struct FrameReader<R> {
    source: R,
    headers: HeaderReader,
    /// The data frame that is being read: stream, bytes to come, whether it is the last.
    pending: Option<(u32, usize, bool)>,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// Reads from the beginning of a connection.
    pub fn new(source: R) -> Self {
        Self {
            source,
            headers: HeaderReader::new(),
            pending: None,
        }
    }

    /// The next frame that concerns a server; `None` at the end of the connection.
    ///
    /// # Errors
    /// When the connection breaks or what comes is not SPDY.
    pub async fn next(&mut self) -> Result<Option<Frame>, SpdyError> {
        loop {
            if let Some((stream, left, last)) = self.pending.take() {
                return self.piece(stream, left, last).await.map(Some);
            }
            let mut head = [0; 8];
            match self.source.read_exact(&mut head).await {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            let [a, b, c, d, flags, e, f, g] = head;
            let first = u32::from_be_bytes([a, b, c, d]);
            let length = u32::from_be_bytes([0, e, f, g]) as usize;
            if first & CONTROL == 0 {
                self.pending = Some((first, length, flags & FIN != 0));
                continue;
            }
            if u16::from_be_bytes([a & 0x7f, b]) != VERSION {
                return Err(SpdyError::Malformed("its version is not 3"));
            }
            if length > MAX_CONTROL {
                return Err(SpdyError::Malformed("it is too long"));
            }
            let mut body = vec![0; length];
            self.source.read_exact(&mut body).await?;
            if let Some(frame) = self.control(u16::from_be_bytes([c, d]), &body)? {
                return Ok(Some(frame));
            }
        }
    }

    async fn piece(&mut self, stream: u32, left: usize, last: bool) -> Result<Frame, SpdyError> {
        let length = left.min(PIECE);
        let mut data = vec![0; length];
        self.source.read_exact(&mut data).await?;
        let rest = left - length;
        if rest > 0 {
            self.pending = Some((stream, rest, last));
        }
        Ok(Frame::Data {
            stream,
            data: data.into(),
            last: last && rest == 0,
        })
    }

    fn control(&mut self, kind: u16, body: &[u8]) -> Result<Option<Frame>, SpdyError> {
        let number = || match body {
            [a, b, c, d, ..] => Ok(u32::from_be_bytes([*a, *b, *c, *d])),
            _ => Err(SpdyError::Malformed("it is too short")),
        };
        Ok(match kind {
            SYN_STREAM => {
                // Stream, associated stream, priority and slot, then the headers.
                let block = body
                    .get(10..)
                    .ok_or(SpdyError::Malformed("it is too short"))?;
                Some(Frame::Open {
                    stream: number()? & !CONTROL,
                    headers: self.headers.read(block)?,
                })
            }
            RST_STREAM => Some(Frame::Reset {
                stream: number()? & !CONTROL,
            }),
            PING => Some(Frame::Ping { id: number()? }),
            GOAWAY => Some(Frame::GoAway),
            // Read although nobody wants them: all blocks are compressed as one.
            SYN_REPLY | HEADERS => {
                let block = body
                    .get(4..)
                    .ok_or(SpdyError::Malformed("it is too short"))?;
                self.headers.read(block)?;
                None
            }
            // Settings and windows, which this side does not use.
            _ => None,
        })
    }
}

/// Writes frames.
#[derive(Default)]
pub struct FrameWriter {
    headers: HeaderWriter,
}

impl FrameWriter {
    /// Accepts a stream. Replies have to be sent in the order in which they are made.
    pub fn accept(&mut self, stream: u32) -> Bytes {
        let mut body = BytesMut::new();
        body.put_u32(stream);
        self.headers.write_none(&mut body);
        control(SYN_REPLY, &body)
    }
}

/// Bytes of a stream; `last` closes this side's half. Longer data than a frame
/// can hold is the caller's mistake and cut off.
pub fn data(stream: u32, data: &[u8], last: bool) -> Bytes {
    const MOST: usize = (1 << 24) - 1;
    let data = &data[..data.len().min(MOST)];
    let mut frame = BytesMut::with_capacity(data.len() + 8);
    frame.put_u32(stream & !CONTROL);
    frame.put_u8(if last { FIN } else { 0 });
    frame.put_uint(data.len() as u64, 3);
    frame.put_slice(data);
    frame.freeze()
}

/// Gives a stream up.
pub fn refuse(stream: u32, why: Refusal) -> Bytes {
    let mut body = BytesMut::new();
    body.put_u32(stream);
    body.put_u32(why as u32);
    control(RST_STREAM, &body)
}

/// Answers a ping; those with even numbers would be this side's own.
pub fn pong(id: u32) -> Option<Bytes> {
    (id % 2 == 1).then(|| control(PING, &id.to_be_bytes()))
}

fn control(kind: u16, body: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(body.len() + 8);
    frame.put_u16(0x8000 | VERSION);
    frame.put_u16(kind);
    frame.put_u8(0);
    frame.put_uint(body.len() as u64, 3);
    frame.put_slice(body);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Go's client sends when it opens the error stream of its first
    /// connection to port 8080: the block is its own compression.
    fn opened() -> Bytes {
        let block = super::super::headers::tests::BLOCK;
        let mut body = BytesMut::new();
        body.put_u32(1);
        body.put_u32(0);
        body.put_u16(0);
        body.put_slice(block);
        control(SYN_STREAM, &body)
    }

    async fn frames(bytes: &[u8]) -> Vec<Result<Frame, String>> {
        let mut reader = FrameReader::new(bytes);
        let mut found = Vec::new();
        loop {
            match reader.next().await {
                Ok(Some(frame)) => found.push(Ok(frame)),
                Ok(None) => return found,
                Err(error) => {
                    found.push(Err(error.to_string()));
                    return found;
                }
            }
        }
    }

    #[tokio::test]
    async fn a_stream_is_opened_used_and_closed() {
        let mut bytes = opened().to_vec();
        bytes.extend_from_slice(&data(1, b"hello", false));
        bytes.extend_from_slice(&data(1, b"", true));
        bytes.extend_from_slice(&control(PING, &7u32.to_be_bytes()));
        bytes.extend_from_slice(&refuse(1, Refusal::Protocol));
        // A settings frame is nothing to us.
        bytes.extend_from_slice(&control(4, &0u32.to_be_bytes()));
        let found: Vec<String> = frames(&bytes)
            .await
            .into_iter()
            .map(|frame| format!("{frame:?}"))
            .collect();
        insta::assert_snapshot!(found.join("\n"), @r#"
        Ok(Open { stream: 1, headers: [("port", "8080"), ("requestid", "0"), ("streamtype", "error")] })
        Ok(Data { stream: 1, data: b"hello", last: false })
        Ok(Data { stream: 1, data: b"", last: true })
        Ok(Ping { id: 7 })
        Ok(Reset { stream: 1 })
        "#);
    }

    #[tokio::test]
    async fn a_long_frame_comes_in_pieces() {
        let sent = vec![7; PIECE + 3];
        let found = frames(&data(5, &sent, true)).await;
        let lengths: Vec<(usize, bool)> = found
            .iter()
            .map(|frame| match frame {
                Ok(Frame::Data { data, last, .. }) => (data.len(), *last),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(lengths, [(PIECE, false), (3, true)]);
    }

    #[tokio::test]
    async fn what_is_not_spdy_is_refused() {
        assert!(
            matches!(&frames(b"\x80\x02\0\x01\0\0\0\0").await[..], [Err(text)] if text.contains("version"))
        );
        assert!(
            matches!(&frames(b"\x80\x03\0\x01\0\xff\xff\xff").await[..], [Err(text)] if text.contains("too long"))
        );
        assert!(
            matches!(&frames(b"\x80\x03\0\x01\0\0\0\x02ab").await[..], [Err(text)] if text.contains("too short"))
        );
        // Cut off in the middle of a frame.
        let cut = opened();
        assert!(frames(&cut[..cut.len() - 3]).await[0].is_err());
    }

    #[test]
    fn only_the_clients_pings_are_answered() {
        assert_eq!(
            pong(7).as_deref(),
            Some(&b"\x80\x03\0\x06\0\0\0\x04\0\0\0\x07"[..])
        );
        assert_eq!(pong(8), None);
    }
}
