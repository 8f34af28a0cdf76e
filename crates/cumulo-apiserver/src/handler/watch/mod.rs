//! Writing watches: a stream of events, one per line, or each with its length.

mod direct;
mod encode;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{Stream, StreamExt};
use http::{HeaderValue, header};

pub(crate) use self::direct::Fanout;

use self::encode::Encoder;
use super::accept::Format;
use super::respond::View;
use crate::connection::SharedStream;
use crate::operation::WatchEvents;
use crate::protobuf;

/// Events put into one frame at most.
const FRAME: usize = 128;

/// The answer of a watch. `fanout` writes events straight to `connection`, where
/// the request came over one that can be written to beside HTTP.
pub(super) fn respond(
    events: WatchEvents,
    view: View,
    fanout: &Fanout,
    connection: Option<SharedStream>,
) -> Response {
    let body = match connection {
        Some(connection) => Body::from_stream(succeed(fanout.watch(events, view, connection))),
        None => Body::from_stream(succeed(frames(events, view))),
    };
    let media = match view.accept.format {
        Format::Protobuf => protobuf::WATCH_MEDIA,
        Format::Json | Format::Yaml => "application/json",
    };
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    response.headers_mut().insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, private"),
    );
    response
}

fn succeed(
    frames: impl Stream<Item = Bytes>,
) -> impl Stream<Item = Result<Bytes, std::convert::Infallible>> {
    frames.map(Ok)
}

fn frames(events: WatchEvents, view: View) -> impl Stream<Item = Bytes> {
    struct Running {
        events: WatchEvents,
        encoder: Encoder,
    }
    let encoder = Encoder::new(events.cursor(), view);
    // In a box, as it moves into each step and out of it.
    let running = Box::new(Running { events, encoder });
    futures::stream::unfold(running, |mut running| async move {
        let events = running.events.next(FRAME).await?;
        let frame = running.encoder.frame(&events);
        Some((frame, running))
    })
}
