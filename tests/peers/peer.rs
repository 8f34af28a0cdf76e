//! Servers that tests need, each started once by a script of this folder and ended
//! with the test program, however that ends: the script waits for the end of its
//! standard input.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// A running server.
pub struct Peer {
    /// What the script said about it: addresses and credentials.
    pub words: Vec<String>,
    // Fields are dropped in order: the input's end ends the script.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    script: Child,
}

impl Peer {
    /// Runs a script of this folder until it says that its server is ready.
    pub fn start(script: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut child = Command::new("python3")
            .arg(root.join("tests/peers").join(script))
            .arg(root.join(".build/peers"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("python3 cannot be run ({error})"));
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut peer = Self {
            words: Vec::new(),
            input: child.stdin.take(),
            output,
            script: child,
        };
        peer.wait_until_ready(script);
        peer
    }

    fn wait_until_ready(&mut self, script: &str) {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        let mut words = line.split_whitespace().map(str::to_owned);
        assert_eq!(
            words.next().as_deref(),
            Some("ready"),
            "{script} could not start its server: run the tests with `make test`, which installs \
             what it needs"
        );
        self.words = words.collect();
    }

    /// Gives the script a line, and waits until its server is ready again.
    #[allow(dead_code, reason = "not every user of this file restarts a server")]
    pub fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().unwrap();
        writeln!(input, "{line}").unwrap();
        self.wait_until_ready(line);
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        drop(self.input.take());
        drop(self.script.wait());
    }
}
