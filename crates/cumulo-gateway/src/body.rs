//! Bodies on their way through.

use std::error::Error as StdError;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;

/// Any error of a body.
pub(crate) type BodyError = Box<dyn StdError + Send + Sync>;

/// Most that is read and thrown away of a body that is refused.
const DISCARD_LIMIT: u64 = 256 << 20;

/// The body that goes to a replica.
pub(crate) enum Outgoing {
    /// Read before; can be sent again.
    Whole(Full<Bytes>),
    /// Passed on as it comes, up to so many more bytes.
    Stream {
        /// What the client sends.
        body: Body,
        /// Bytes that may still come.
        left: u64,
        /// Bytes that came beyond and were thrown away, so that the client gets
        /// to see the answer.
        over: u64,
    },
}

/// The client sent more than is allowed.
#[derive(Debug, thiserror::Error)]
#[error("the request body is larger than the limit")]
pub(crate) struct TooLarge;

impl HttpBody for Outgoing {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Whole(body) => Pin::new(body)
                .poll_frame(context)
                .map_err(|never| match never {}),
            Self::Stream { body, left, over } => loop {
                let frame = std::task::ready!(Pin::new(&mut *body).poll_frame(context));
                let length = match &frame {
                    Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
                    _ => 0,
                };
                if *over > 0 || length > *left {
                    *over += length;
                    if length == 0 || *over > DISCARD_LIMIT {
                        return Poll::Ready(Some(Err(Box::new(TooLarge))));
                    }
                    continue;
                }
                *left -= length;
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            },
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => body.size_hint(),
            Self::Stream { body, .. } => body.size_hint(),
        }
    }
}

/// Whether an error, or what caused it, is [`TooLarge`].
pub(crate) fn is_too_large(error: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<TooLarge>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// Reads a refused body to its end, within bounds, so that a client that first
/// sends everything and only then reads gets to see the answer.
pub(crate) async fn discard(mut body: Body) {
    let mut read = 0;
    let reading = async {
        while let Some(Ok(frame)) =
            std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            read += frame.data_ref().map_or(0, |data| data.len() as u64);
            if read > DISCARD_LIMIT {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(10), reading).await;
}
