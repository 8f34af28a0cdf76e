//! A connection over TLS that can be written to beside HTTP's machinery, while
//! that waits for more of an answer.

use std::io::{self, IoSlice, Write};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

/// The connection. HTTP reads and writes it as any other; the answer's body may
/// lend it, which takes effect when HTTP has written all that the body gave before.
#[derive(Debug, Clone)]
pub(crate) struct SharedStream(Arc<Mutex<Wire>>);

#[derive(Debug)]
struct Wire {
    stream: TlsStream<TcpStream>,
    turn: Turn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// HTTP writes.
    Http,
    /// The body has nothing more for now; HTTP may still have bytes of it.
    Lent,
    /// HTTP has none left.
    Free,
    /// A write went wrong half way: nothing that could follow would be understood.
    Broken,
}

/// The connection while HTTP has nothing to write.
#[derive(Debug)]
pub(crate) struct Idle<'a>(MutexGuard<'a, Wire>);

impl SharedStream {
    /// Most bytes that are taken at once: what TLS buffers when the socket takes nothing
    /// (64 KiB in rustls) holds it.
    pub const AT_ONCE: usize = 32 << 10;

    pub fn new(stream: TlsStream<TcpStream>) -> Self {
        Self(Arc::new(Mutex::new(Wire {
            stream,
            turn: Turn::Http,
        })))
    }

    /// The body has nothing more to say, until it says [`SharedStream::reclaim`].
    pub fn lend(&self) {
        self.turn(Turn::Lent);
    }

    /// Whoever wrote beside HTTP has done so, and does no more.
    pub fn reclaim(&self) {
        self.turn(Turn::Http);
    }

    /// The connection, where it is lent and HTTP has written all it had.
    pub fn idle(&self) -> Option<Idle<'_>> {
        let wire = self.0.lock();
        (wire.turn == Turn::Free).then(|| Idle(wire))
    }

    fn turn(&self, turn: Turn) {
        let mut wire = self.0.lock();
        if wire.turn != Turn::Broken {
            wire.turn = turn;
        }
    }

    fn poll<T>(
        &self,
        does: impl FnOnce(Pin<&mut TlsStream<TcpStream>>, &mut Turn) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let wire = &mut *self.0.lock();
        if wire.turn == Turn::Broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        does(Pin::new(&mut wire.stream), &mut wire.turn)
    }
}

impl Idle<'_> {
    /// Writes parts of an answer, [`SharedStream::AT_ONCE`] bytes at most, as one. False
    /// when the socket did not take them all: HTTP's next flush writes the rest.
    pub fn write(mut self, parts: &[Bytes]) -> bool {
        let wire = &mut *self.0;
        let (socket, session) = wire.stream.get_mut();
        let length: usize = parts.iter().map(Bytes::len).sum();
        let taken = match parts {
            [part] => session.writer().write(part),
            parts => {
                let slices: Vec<_> = parts.iter().map(|part| IoSlice::new(part)).collect();
                session.writer().write_vectored(&slices)
            }
        };
        if !taken.is_ok_and(|taken| taken == length) {
            wire.turn = Turn::Broken;
            return false;
        }
        while session.wants_write() {
            match session.write_tls(&mut AtOnce(socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    wire.turn = match error.kind() {
                        io::ErrorKind::WouldBlock => Turn::Http,
                        _ => Turn::Broken,
                    };
                    return false;
                }
            }
        }
        true
    }
}

/// A socket, as one writes to it without waiting.
struct AtOnce<'a>(&'a TcpStream);

impl Write for AtOnce<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            // The system's way is shorter.
            [slice] => self.0.try_write(slice),
            slices => self.0.try_write_vectored(slices),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll(|stream, _| stream.poll_read(context, buffer))
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream, _| stream.poll_write(context, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll(|stream, _| stream.poll_write_vectored(context, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.0.lock().stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream, turn| {
            let flushed = stream.poll_flush(context);
            // HTTP flushes what is below it when it has no bytes left itself.
            if *turn == Turn::Lent && matches!(flushed, Poll::Ready(Ok(()))) {
                *turn = Turn::Free;
            }
            flushed
        })
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll(|stream, _| stream.poll_shutdown(context))
    }
}
