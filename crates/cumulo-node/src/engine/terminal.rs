//! Terminals: what `exec -t` gives a command instead of pipes.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::pin::Pin;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};
use nix::pty::{Winsize, openpty};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The side of a terminal that is not the program's: what is written to it is
/// typed, what is read from it is shown. Clones are the same terminal.
#[derive(Debug, Clone)]
pub struct Terminal(Arc<AsyncFd<OwnedFd>>);

impl Terminal {
    /// Makes a terminal and gives a command its other side, as the terminal that
    /// controls a session of its own.
    ///
    /// # Errors
    /// When the system has no terminal left.
    pub(super) fn open(command: &mut Command) -> io::Result<Self> {
        let pair = openpty(None, None)?;
        // Not for the program: it would keep its own terminal open.
        fcntl(&pair.master, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(&pair.slave, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        fcntl(&pair.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        command
            .stdin(Stdio::from(pair.slave.try_clone()?))
            .stdout(Stdio::from(pair.slave.try_clone()?))
            .stderr(Stdio::from(pair.slave));
        #[expect(
            unsafe_code,
            reason = "only setsid and ioctl are called between fork and exec, both allowed there"
        )]
        // SAFETY: the closure allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                Errno::result(nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0))?;
                Ok(())
            });
        }
        #[expect(
            unsafe_code,
            reason = "the one way to watch a descriptor that is neither a socket nor a pipe"
        )]
        // SAFETY: the descriptor is owned, so it stays open and the same while it is registered.
        let master = unsafe { AsyncFd::register(pair.master) }?;
        Ok(Self(Arc::new(master)))
    }

    /// Tells the program how large its window is; zeros are no size.
    pub fn resize(&self, columns: u16, rows: u16) {
        if columns == 0 || rows == 0 {
            return;
        }
        let size = Winsize {
            ws_row: rows,
            ws_col: columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        #[expect(unsafe_code, reason = "nix has no wrapper that is safe")]
        // SAFETY: the descriptor is open and the size outlives the call.
        let set = Errno::result(unsafe {
            nix::libc::ioctl(self.0.as_raw_fd(), nix::libc::TIOCSWINSZ, &raw const size)
        });
        if let Err(error) = set {
            tracing::debug!(%error, "the size of a terminal was not set");
        }
    }
}

impl AsyncRead for Terminal {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.poll_read_ready(context))?;
            let room = buffer.initialize_unfilled();
            match guard.try_io(|fd| Ok(nix::unistd::read(fd.as_fd(), room)?)) {
                Ok(Ok(length)) => {
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                // Nobody has the other side open any more: the end.
                Ok(Err(error)) if error.raw_os_error() == Some(nix::libc::EIO) => {
                    return Poll::Ready(Ok(()));
                }
                Ok(Err(error)) => return Poll::Ready(Err(error)),
                Err(_would_block) => {}
            }
        }
    }
}

impl AsyncWrite for Terminal {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.poll_write_ready(context))?;
            match guard.try_io(|fd| Ok(nix::unistd::write(fd.get_ref(), data)?)) {
                Ok(result) => return Poll::Ready(result),
                Err(_would_block) => {}
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
