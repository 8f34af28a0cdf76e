//! The container's standard input: what `attach` writes into a FIFO goes on to
//! the process. The supervisor is between them because it outlives the
//! platform: the process must not find an end of file when that restarts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::ChildStdin;
use std::thread;

/// Feeds the process on a thread of its own, until it reads no more. With
/// `once`, its input ends when the first client that attached has gone.
pub(super) fn feed(mut process: ChildStdin, fifo: PathBuf, once: bool) {
    let work = move || {
        loop {
            // Opening waits for a client.
            let Ok(client) = File::open(&fifo) else {
                return;
            };
            let over = copy(client, &mut process).is_err();
            if over || once {
                return;
            }
        }
    };
    // Without the thread the process's input is at its end, which it can see.
    let _ = thread::Builder::new().stack_size(64 << 10).spawn(work);
}

/// Copies until the client closes its side; an error is the process's.
fn copy(mut client: File, process: &mut ChildStdin) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        match client.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => {
                process.write_all(&buffer[..length])?;
                process.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Ok(()),
        }
    }
}
