//! The channels of exec and attach: messages of a websocket that begin with the
//! number of a stream (`remotecommand` of Kubernetes).

use std::future::Future;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Subprotocols, the newest first.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];
/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// How it ended, as a Status.
pub const ERROR: u8 = 3;
/// The size of the client's terminal.
pub const RESIZE: u8 = 4;
/// v5, from the client only: the second byte names a channel that it closes.
const CLOSE: u8 = 255;
/// How much is read of a process at once.
const PIECE: usize = 16 << 10;

/// Carries streams until `work` has come to its end, which says how it went, and
/// everything has been sent; or until the client leaves. `output` are messages
/// as [`framed`] makes them, and ends with the work.
pub async fn carry<W, E>(
    socket: WebSocket,
    mut input: Option<W>,
    mut resize: impl FnMut(u16, u16),
    mut output: mpsc::Receiver<Bytes>,
    work: E,
) where
    W: AsyncWrite + Unpin,
    E: Future<Output = Value>,
{
    let (mut sink, mut source) = socket.split();
    let client = async {
        while let Some(Ok(message)) = source.next().await {
            let data = match message {
                Message::Binary(data) => data,
                Message::Close(_) => return,
                _ => continue,
            };
            match (data.first(), &mut input) {
                (Some(&STDIN), Some(pipe)) => {
                    let written = match pipe.write_all(&data[1..]).await {
                        Ok(()) => pipe.flush().await,
                        Err(error) => Err(error),
                    };
                    if written.is_err() {
                        input = None;
                    }
                }
                (Some(&RESIZE), _) => {
                    if let Some((columns, rows)) = size(&data[1..]) {
                        resize(columns, rows);
                    }
                }
                (Some(&CLOSE), _) if data.get(1) == Some(&STDIN) => input = None,
                _ => {}
            }
        }
    };
    let served = async {
        let send = async {
            while let Some(data) = output.recv().await {
                if sink.send(Message::Binary(data)).await.is_err() {
                    return;
                }
            }
        };
        let (end, ()) = tokio::join!(work, send);
        let message = framed(ERROR, end.to_string().as_bytes());
        let _ = sink.send(Message::Binary(message)).await;
        let close = CloseFrame {
            code: close_code::NORMAL,
            reason: "".into(),
        };
        let _ = sink.send(Message::Close(Some(close))).await;
    };
    tokio::select! {
        () = served => {}
        () = client => {}
    }
}

/// Columns and rows of a terminal, as a client tells them.
pub fn size(data: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(data).ok()?;
    let of = |name: &str| u16::try_from(size[name].as_u64()?).ok();
    Some((of("Width")?, of("Height")?))
}

/// A message for a channel.
pub fn framed(channel: u8, data: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(data.len() + 1);
    frame.put_u8(channel);
    frame.put_slice(data);
    frame.freeze()
}

/// Sends what a stream says to a channel, until it ends.
pub async fn pump<R: AsyncRead + Unpin>(
    channel: u8,
    stream: Option<R>,
    sender: mpsc::Sender<Bytes>,
) {
    let Some(mut stream) = stream else { return };
    loop {
        let mut frame = BytesMut::with_capacity(PIECE);
        frame.put_u8(channel);
        match stream.read_buf(&mut frame).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if sender.send(frame.freeze()).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The Status that says that all went well.
pub fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

/// The Status of a command's exit code.
pub fn exit_status(code: Result<i32, String>) -> Value {
    match code {
        Ok(0) => success(),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "reason": "NonZeroExitCode",
            "message": format!("command terminated with non-zero exit code: exit status {code}"),
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(message) => {
            json!({"metadata": {}, "status": "Failure", "reason": "InternalError", "message": message})
        }
    }
}
