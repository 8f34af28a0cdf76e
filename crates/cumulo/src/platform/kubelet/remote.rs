//! Exec and attach over SPDY: what an API server speaks to a node whatever its
//! own client speaks. The client opens a stream each for errors, standard input,
//! output and error output; the end is a Status on the error stream.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cumulo_node::{Attached, ExecSession, OutputStream};
use futures::future::BoxFuture;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::channels;
use super::connection::WAITING;
use super::spdy::{self, Frame, FrameReader, FrameWriter, Refusal, SpdyError};

/// Names of the protocol, the newest first.
pub const PROTOCOLS: [&str; 1] = ["v4.channel.k8s.io"];
/// How long a client may take to open its streams.
const OPEN: Duration = Duration::from_secs(30);
/// How long a client that was told the end may take to leave.
const LEAVE: Duration = Duration::from_secs(10);
/// How much is read of a process at once.
const PIECE: usize = 16 << 10;

/// Which streams a client asks for beside that for errors.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Error output.
    pub stderr: bool,
}

/// A command or a container, as its streams.
pub struct Remote {
    stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    output: mpsc::Receiver<(OutputStream, Bytes)>,
    /// Runs beside the output and says how it ended.
    end: BoxFuture<'static, Value>,
}

impl Remote {
    /// A command that was started; dropped, it is killed.
    pub fn command(session: ExecSession) -> Self {
        let (stdin, stdout, stderr, mut process) = session.into_parts();
        let (sender, output) = mpsc::channel(WAITING);
        let other = sender.clone();
        let end = async move {
            tokio::join!(
                pump(OutputStream::Stdout, stdout, sender),
                pump(OutputStream::Stderr, stderr, other),
            );
            channels::exit_status(process.wait().await.map_err(|error| error.to_string()))
        };
        Self {
            stdin: stdin.map(|pipe| Box::new(pipe) as Box<dyn AsyncWrite + Send + Unpin>),
            output,
            end: Box::pin(end),
        }
    }

    /// A container that runs.
    pub fn attached(attached: Attached) -> Self {
        let Attached { stdin, output } = attached;
        Self {
            stdin: stdin.map(|pipe| Box::new(pipe) as Box<dyn AsyncWrite + Send + Unpin>),
            output,
            end: Box::pin(std::future::ready(channels::success())),
        }
    }
}

async fn pump<R: AsyncRead + Unpin>(
    stream: OutputStream,
    source: Option<R>,
    sender: mpsc::Sender<(OutputStream, Bytes)>,
) {
    let Some(mut source) = source else { return };
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        match source.read_buf(&mut piece).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if sender.send((stream, piece.freeze())).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// What a stream is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Purpose {
    Error,
    Stdin,
    Stdout,
    Stderr,
    /// Of a terminal, which there is none of.
    Resize,
}

fn purpose(headers: &[(String, String)]) -> Option<Purpose> {
    let kind = headers.iter().find(|(name, _)| name == "streamtype")?;
    Some(match kind.1.as_str() {
        "error" => Purpose::Error,
        "stdin" => Purpose::Stdin,
        "stdout" => Purpose::Stdout,
        "stderr" => Purpose::Stderr,
        "resize" => Purpose::Resize,
        _ => return None,
    })
}

/// Serves one client until the work has come to its end or the client leaves.
/// `out` takes the frames for it.
pub async fn serve<R>(reader: R, out: mpsc::Sender<Bytes>, wanted: Wanted, remote: Remote)
where
    R: AsyncRead + Unpin,
{
    let (opened, streams) = mpsc::channel(WAITING);
    let (input, received) = mpsc::channel(WAITING);
    let reading = async {
        if let Err(error) = read(reader, &out, opened, input).await {
            tracing::debug!(%error, "a stream to a container broke");
        }
    };
    let working = work(&out, wanted, remote, streams, received);
    tokio::pin!(reading);
    tokio::select! {
        () = &mut reading => {}
        () = working => {
            // What was sent is on its way: the client leaves when it has it.
            let _ = tokio::time::timeout(LEAVE, reading).await;
        }
    }
}

/// Reads what the client sends until it leaves.
async fn read<R: AsyncRead + Unpin>(
    reader: R,
    out: &mpsc::Sender<Bytes>,
    opened: mpsc::Sender<(Purpose, u32)>,
    input: mpsc::Sender<Bytes>,
) -> Result<(), SpdyError> {
    let mut reader = FrameReader::new(reader);
    let mut writer = FrameWriter::default();
    let mut stdin = None;
    let mut input = Some(input);
    while let Some(frame) = reader.next().await? {
        let answer = match frame {
            Frame::Open { stream, headers } => match purpose(&headers) {
                None => Some(spdy::refuse(stream, Refusal::Protocol)),
                Some(purpose) => {
                    if purpose == Purpose::Stdin {
                        stdin = Some(stream);
                    }
                    let accepted = writer.accept(stream);
                    if out.send(accepted).await.is_err() {
                        return Ok(());
                    }
                    // More streams than the work waits for are nobody's.
                    let _ = opened.try_send((purpose, stream));
                    None
                }
            },
            Frame::Data { stream, data, last } => {
                if Some(stream) == stdin
                    && let Some(sender) = &input
                {
                    let over = !data.is_empty() && sender.send(data).await.is_err();
                    if last || over {
                        input = None;
                    }
                }
                None
            }
            Frame::Reset { stream } => {
                if Some(stream) == stdin {
                    input = None;
                }
                None
            }
            Frame::Ping { id } => spdy::pong(id),
            Frame::GoAway => None,
        };
        if let Some(answer) = answer
            && out.send(answer).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

async fn work(
    out: &mpsc::Sender<Bytes>,
    wanted: Wanted,
    remote: Remote,
    mut opened: mpsc::Receiver<(Purpose, u32)>,
    received: mpsc::Receiver<Bytes>,
) {
    let Remote { stdin, output, end } = remote;
    let mut streams = BTreeMap::new();
    let all = async {
        while !complete(&streams, wanted) {
            let Some((purpose, stream)) = opened.recv().await else {
                return;
            };
            streams.insert(purpose, stream);
        }
    };
    if tokio::time::timeout(OPEN, all).await.is_err() || !complete(&streams, wanted) {
        tracing::debug!("a client did not open the streams that it asked for");
        return;
    }
    let (ended, ()) = tokio::select! {
        both = async { tokio::join!(end, say(out, &streams, output)) } => both,
        // Whether the command reads it is its own business.
        () = tell(stdin, received) => return,
    };
    let status = ended.to_string();
    for purpose in [Purpose::Stdout, Purpose::Stderr] {
        if let Some(stream) = streams.get(&purpose) {
            let _ = out.send(spdy::data(*stream, &[], true)).await;
        }
    }
    if let Some(stream) = streams.get(&Purpose::Error) {
        let _ = out.send(spdy::data(*stream, status.as_bytes(), true)).await;
    }
}

fn complete(streams: &BTreeMap<Purpose, u32>, wanted: Wanted) -> bool {
    [
        (Purpose::Error, true),
        (Purpose::Stdin, wanted.stdin),
        (Purpose::Stdout, wanted.stdout),
        (Purpose::Stderr, wanted.stderr),
    ]
    .into_iter()
    .all(|(purpose, wanted)| !wanted || streams.contains_key(&purpose))
}

/// Sends what it says to the client.
async fn say(
    out: &mpsc::Sender<Bytes>,
    streams: &BTreeMap<Purpose, u32>,
    mut output: mpsc::Receiver<(OutputStream, Bytes)>,
) {
    while let Some((stream, data)) = output.recv().await {
        let purpose = match stream {
            OutputStream::Stdout => Purpose::Stdout,
            OutputStream::Stderr => Purpose::Stderr,
        };
        if let Some(stream) = streams.get(&purpose)
            && out.send(spdy::data(*stream, &data, false)).await.is_err()
        {
            return;
        }
    }
}

/// Gives it what the client says; never ends.
async fn tell(
    mut stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    mut received: mpsc::Receiver<Bytes>,
) {
    while let Some(data) = received.recv().await {
        if let Some(pipe) = &mut stdin {
            let written = match pipe.write_all(&data).await {
                Ok(()) => pipe.flush().await,
                Err(error) => Err(error),
            };
            if written.is_err() {
                stdin = None;
            }
        }
    }
    drop(stdin);
    std::future::pending::<()>().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_streams_are_waited_for() {
        let wanted = Wanted {
            stdin: true,
            stdout: true,
            stderr: false,
        };
        let mut streams = BTreeMap::from([(Purpose::Error, 1), (Purpose::Stdout, 3)]);
        assert!(!complete(&streams, wanted));
        streams.insert(Purpose::Stdin, 5);
        assert!(complete(&streams, wanted));
    }

    #[test]
    fn streams_say_what_they_are_for() {
        let of = |kind: &str| purpose(&[("streamtype".to_owned(), kind.to_owned())]);
        assert_eq!(of("stderr"), Some(Purpose::Stderr));
        assert_eq!(of("data"), None);
        assert_eq!(purpose(&[]), None);
    }
}
