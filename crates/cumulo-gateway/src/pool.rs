//! Connections to one replica.
//!
//! A connection isn't a task: whoever uses it drives it, in its own task. A
//! request through the gateway therefore never waits for another task to be
//! scheduled, which is most of what a proxy costs. While a connection is idle
//! nobody drives it; that its peer closed it shows when it is taken out.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;

use crate::body::{BodyError, Outgoing};

/// Why a replica couldn't be reached.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("connecting took longer than {0:?}")]
    TimedOut(Duration),
    #[error("{0}")]
    Refused(#[from] std::io::Error),
    #[error("{0}")]
    Handshake(#[from] hyper::Error),
}

/// Why there is no answer from a replica that was connected.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SendError {
    #[error("it closed the connection before it answered")]
    Closed,
    #[error("{0}")]
    Protocol(#[from] hyper::Error),
}

/// One HTTP/1.1 connection.
pub(crate) struct Connection {
    sender: http1::SendRequest<Outgoing>,
    driver: Pin<Box<http1::Connection<TokioIo<TcpStream>, Outgoing>>>,
    closed: bool,
}

impl Connection {
    /// Lets the connection do what it can do now.
    fn drive(&mut self, context: &mut Context<'_>) {
        if !self.closed && self.driver.as_mut().poll(context).is_ready() {
            self.closed = true;
        }
    }

    /// Whether the connection can take a request, after a look at the socket.
    async fn usable(&mut self) -> bool {
        std::future::poll_fn(|context| {
            self.drive(context);
            Poll::Ready(
                !self.closed && matches!(self.sender.poll_ready(context), Poll::Ready(Ok(()))),
            )
        })
        .await
    }

    /// Sends a request and waits for the head of the answer.
    pub(crate) async fn send(
        &mut self,
        request: Request<Outgoing>,
    ) -> Result<Response<Incoming>, SendError> {
        let mut answer = pin!(self.sender.send_request(request));
        let (driver, closed) = (&mut self.driver, &mut self.closed);
        std::future::poll_fn(|context| {
            if !*closed && driver.as_mut().poll(context).is_ready() {
                *closed = true;
            }
            match answer.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(result.map_err(SendError::from)),
                Poll::Pending if *closed => Poll::Ready(Err(SendError::Closed)),
                Poll::Pending => Poll::Pending,
            }
        })
        .await
    }

    /// The next frame of the answer's body, driving the connection.
    fn poll_body(
        &mut self,
        body: &mut Incoming,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let ready @ Poll::Ready(_) = Pin::new(&mut *body).poll_frame(context) {
            return ready;
        }
        self.drive(context);
        Pin::new(body).poll_frame(context)
    }

    /// Reads a whole body of a known, small length.
    pub(crate) async fn collect(&mut self, mut body: Incoming) -> Result<Bytes, hyper::Error> {
        let mut whole = Bytes::new();
        let mut more: Option<bytes::BytesMut> = None;
        while !body.is_end_stream() {
            let frame = std::future::poll_fn(|context| self.poll_body(&mut body, context)).await;
            let Some(frame) = frame else { break };
            let Ok(data) = frame?.into_data() else {
                continue;
            };
            match &mut more {
                Some(more) => more.extend_from_slice(&data),
                None if whole.is_empty() => whole = data,
                None => {
                    let mut buffer = bytes::BytesMut::from(whole.as_ref());
                    buffer.extend_from_slice(&data);
                    more = Some(buffer);
                }
            }
        }
        Ok(more.map_or(whole, bytes::BytesMut::freeze))
    }
}

/// The idle connections to one address.
pub(crate) struct Pool {
    address: SocketAddr,
    limit: usize,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(crate) fn new(address: SocketAddr, limit: usize) -> Self {
        Self {
            address,
            limit,
            idle: Mutex::new(Vec::new()),
        }
    }

    /// An idle connection, or a new one.
    pub(crate) async fn take(&self, timeout: Duration) -> Result<Connection, ConnectError> {
        loop {
            let idle = self.idle.lock().pop();
            let Some(mut connection) = idle else { break };
            if connection.usable().await {
                return Ok(connection);
            }
        }
        let stream = tokio::time::timeout(timeout, TcpStream::connect(self.address))
            .await
            .map_err(|_| ConnectError::TimedOut(timeout))??;
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        Ok(Connection {
            sender,
            driver: Box::pin(driver),
            closed: false,
        })
    }

    /// Takes a connection back whose answer was read to its end.
    pub(crate) fn put(&self, mut connection: Connection, context: Option<&mut Context<'_>>) {
        match context {
            Some(context) => connection.drive(context),
            None => connection.drive(&mut Context::from_waker(std::task::Waker::noop())),
        }
        if connection.closed || connection.sender.is_closed() {
            return;
        }
        let mut idle = self.idle.lock();
        if idle.len() < self.limit {
            idle.push(connection);
        }
    }
}

/// An answer's body that drives its connection, and returns it when it is read.
/// `G` is held until then.
pub(crate) struct Answer<G> {
    body: Incoming,
    live: Option<(Connection, G)>,
    finish: fn(Connection, G, &mut Context<'_>),
}

impl<G> Answer<G> {
    pub(crate) fn new(
        connection: Connection,
        body: Incoming,
        guard: G,
        finish: fn(Connection, G, &mut Context<'_>),
    ) -> Self {
        Self {
            body,
            live: Some((connection, guard)),
            finish,
        }
    }
}

impl<G: Unpin> HttpBody for Answer<G> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let Some((connection, _)) = &mut this.live else {
            return Poll::Ready(None);
        };
        let frame = std::task::ready!(connection.poll_body(&mut this.body, context));
        let ended = frame.is_none() || this.body.is_end_stream();
        if matches!(frame, Some(Err(_))) {
            this.live = None;
        } else if ended && let Some((connection, guard)) = this.live.take() {
            (this.finish)(connection, guard, context);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.live.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
