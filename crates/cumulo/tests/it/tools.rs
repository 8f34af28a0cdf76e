//! kubectl's tools for running pods and for nodes: port-forward, attach, cp,
//! logs, top, drain; and what it asks of the API beside.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::{Child, Stdio};
use std::time::Duration;

use crate::support::{Platform, Text, wait_for};

/// A child that ends with the test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Platform {
    /// Applies a manifest and waits until its pods are ready.
    fn run_pods(&self, manifest: &str, pods: &[&str]) {
        self.kubectl_with(&["apply", "-f", "-"], Some(manifest))
            .success();
        for pod in pods {
            let pod = format!("pod/{pod}");
            self.kubectl(&["wait", "--for=condition=Ready", &pod, "--timeout=60s"])
                .success();
        }
    }

    /// One field of an object.
    fn field(&self, object: &str, path: &str) -> String {
        self.kubectl(&["get", object, "-o", &format!("jsonpath={path}")])
            .out()
    }
}

/// Answers each connection with what it said, when it has said everything.
const ECHO: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: echo}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    ports: [{containerPort: 8080}]
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
    command:
    - python3
    - -c
    - |
      import os, socketserver
      class Echo(socketserver.StreamRequestHandler):
          def handle(self):
              self.wfile.write(self.rfile.read())
      socketserver.ThreadingTCPServer.allow_reuse_address = True
      socketserver.ThreadingTCPServer((os.environ["POD_IP"], 8080), Echo).serve_forever()
"#;

#[test]
fn kubectl_forwards_ports_over_both_protocols() {
    let platform = Platform::start();
    platform.run_pods(ECHO, &["echo"]);
    // What kubectl does by itself, and what it falls back to.
    for websockets in ["true", "false"] {
        let mut forward = Ends(
            platform
                .kubectl_command(&["port-forward", "pod/echo", ":8080", ":9"])
                .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websockets)
                .spawn()
                .unwrap(),
        );
        let mut lines = BufReader::new(forward.0.stdout.take().unwrap()).lines();
        let mut local = |remote: u16| -> u16 {
            let wanted = format!("-> {remote}");
            let line = lines
                .by_ref()
                .map(Result::unwrap)
                .find(|line| line.ends_with(&wanted) && line.contains("127.0.0.1:"))
                .unwrap();
            let address = line.split(' ').nth(2).unwrap();
            address.rsplit_once(':').unwrap().1.parse().unwrap()
        };
        let (echo, silent) = (local(8080), local(9));

        // Two at a time, each more than any buffer on the way.
        let sent: Vec<Vec<u8>> = [7u8, 9]
            .iter()
            .map(|seed| {
                (0..2_000_000u32)
                    .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed)
                    .collect()
            })
            .collect();
        let received: Vec<Vec<u8>> = std::thread::scope(|scope| {
            let threads: Vec<_> = sent
                .iter()
                .map(|sent| {
                    scope.spawn(move || {
                        let mut stream = TcpStream::connect(("127.0.0.1", echo)).unwrap();
                        stream
                            .set_read_timeout(Some(Duration::from_secs(30)))
                            .unwrap();
                        stream.write_all(sent).unwrap();
                        stream.shutdown(Shutdown::Write).unwrap();
                        let mut received = Vec::new();
                        stream.read_to_end(&mut received).unwrap();
                        received
                    })
                })
                .collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(received == sent, "websockets {websockets}");

        // Where nobody listens kubectl says so, and ends as it does on Kubernetes.
        let mut stream = TcpStream::connect(("127.0.0.1", silent)).unwrap();
        let mut nothing = Vec::new();
        let _ = stream.read_to_end(&mut nothing);
        assert!(nothing.is_empty());
        let mut said = String::new();
        forward
            .0
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut said)
            .unwrap();
        assert!(
            said.contains("pod echo does not answer on port 9 of its address 127."),
            "{said}"
        );
    }
}

#[test]
fn kubectl_attaches_to_what_runs() {
    let platform = Platform::start();
    platform.run_pods(
        "
apiVersion: v1
kind: Pod
metadata: {name: asks}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    stdin: true
    command: [sh, -c, 'while read word; do echo got $word; echo and $word >&2; done']
---
apiVersion: v1
kind: Pod
metadata: {name: once}
spec:
  restartPolicy: Never
  containers:
  - name: main
    image: cumulo.dev/runtime
    stdin: true
    stdinOnce: true
    command: [sh, -c, 'wc -c']
---
apiVersion: v1
kind: Pod
metadata: {name: ticks}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sh, -c, 'while sleep 0.2; do echo tick; done']
",
        &["asks", "once", "ticks"],
    );

    // Input reaches the process, both outputs come back apart. It stays open
    // for the next client.
    for word in ["one", "two"] {
        let mut attach = Ends(
            platform
                .kubectl_command(&["attach", "-i", "asks"])
                .stdin(Stdio::piped())
                .spawn()
                .unwrap(),
        );
        let mut stdin = attach.0.stdin.take().unwrap();
        writeln!(stdin, "{word}").unwrap();
        let line = |stream: &mut dyn Read| {
            let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
            lines.find(|line| line.ends_with(word)).unwrap()
        };
        assert_eq!(
            line(attach.0.stdout.as_mut().unwrap()),
            format!("got {word}")
        );
        assert_eq!(
            line(attach.0.stderr.as_mut().unwrap()),
            format!("and {word}")
        );
    }

    // With stdinOnce the first client's end of input is the process's.
    let text = "x".repeat(100_000);
    let counted = platform.kubectl_with(&["attach", "-i", "once"], Some(&text));
    assert!(counted.success().contains("100000"));
    wait_for("the pod to end", Duration::from_secs(20), || {
        platform.field("pod/once", "{.status.phase}") == "Succeeded"
    });

    // Without input it is a look at what is written from now on.
    let mut attach = Ends(
        platform
            .kubectl_command(&["attach", "ticks"])
            .spawn()
            .unwrap(),
    );
    let mut lines = BufReader::new(attach.0.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "tick");

    let refused = platform
        .kubectl_with(&["attach", "-i", "ticks"], Some("x"))
        .failure();
    assert!(refused.contains("set stdin: true"), "{refused}");
    let ended = platform.kubectl(&["attach", "once"]).failure();
    assert!(ended.contains("Succeeded"), "{ended}");
}

#[test]
fn kubectl_copies_files_both_ways() {
    let platform = Platform::start();
    platform.run_pods(
        "
apiVersion: v1
kind: Pod
metadata: {name: holds}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sh, -c, 'mkdir made; echo made > made/file; exec sleep 1000']
",
        &["holds"],
    );
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let content: Vec<u8> = (0..300_000u32).map(|n| (n % 251) as u8).collect();
    std::fs::create_dir(folder.path().join("given")).unwrap();
    std::fs::write(folder.path().join("given/data"), &content).unwrap();

    platform
        .kubectl(&["cp", &path("given"), "holds:taken"])
        .success();
    platform
        .kubectl(&["cp", &path("given/data"), "holds:single"])
        .success();
    let sizes = platform.kubectl(&["exec", "holds", "--", "wc", "-c", "taken/data", "single"]);
    assert!(sizes.success().contains("600000 total"));
    platform
        .kubectl(&["cp", "holds:taken/data", &path("back")])
        .success();
    assert!(std::fs::read(folder.path().join("back")).unwrap() == content);
    platform
        .kubectl(&["cp", "holds:made", &path("made")])
        .success();
    let made = std::fs::read_to_string(folder.path().join("made/file")).unwrap();
    assert_eq!(made, "made\n");
    // Outside of its own folders the pod writes nothing, and so does cp.
    let outside = format!("holds:{}", path("refused"));
    let refused = platform
        .kubectl(&["cp", &path("given/data"), &outside])
        .failure();
    assert!(refused.contains("Permission denied"), "{refused}");
}

#[test]
fn kubectl_reads_logs_in_all_ways() {
    let platform = Platform::start();
    platform.run_pods(
        "
apiVersion: v1
kind: Pod
metadata: {name: talks, labels: {app: talks}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: one
    image: cumulo.dev/runtime
    command: [sh, -c, 'for n in 1 2 3; do echo one $n; done; sleep 2; echo one late; exec sleep 1000']
  - name: two
    image: cumulo.dev/runtime
    command: [sh, -c, 'echo two; exec sleep 1000']
---
apiVersion: v1
kind: Pod
metadata: {name: other, labels: {app: talks}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sh, -c, 'echo other; exec sleep 1000']
",
        &["talks", "other"],
    );
    platform
        .kubectl_with(
            &["apply", "-f", "-"],
            Some(
                "
apiVersion: v1
kind: Pod
metadata: {name: again}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sh, -c, 'test -e was-here && { echo second; exec sleep 1000; }; touch was-here; echo first; exit 3']
",
            ),
        )
        .success();
    let logs = |arguments: &[&str]| {
        let all: Vec<&str> = ["logs"].iter().chain(arguments).copied().collect();
        platform.kubectl(&all).success()
    };
    wait_for("the late line", Duration::from_secs(20), || {
        logs(&["talks", "-c", "one"]).ends_with("one late")
    });
    assert_eq!(logs(&["talks", "-c", "two"]), "two");
    assert_eq!(logs(&["talks", "-c", "one", "--tail=2"]), "one 3\none late");
    assert_eq!(
        logs(&["talks", "-c", "one", "--limit-bytes=8"]),
        "one 1\non"
    );
    let stamped = logs(&["talks", "-c", "one", "--timestamps"]);
    let times: Vec<&str> = stamped
        .lines()
        .map(|line| line.split_once(' ').unwrap().0)
        .collect();
    // From the last line's own time on, which is seconds after the others.
    let since = format!("--since-time={}", times[3]);
    assert_eq!(logs(&["talks", "-c", "one", &since]), "one late");
    assert_eq!(
        logs(&["talks", "-c", "one", "--since=1h"]).lines().count(),
        4
    );
    wait_for(
        "the last second to be silent",
        Duration::from_secs(20),
        || logs(&["talks", "-c", "one", "--since=1s"]).is_empty(),
    );
    let all = logs(&["talks", "--all-containers", "--prefix"]);
    assert!(all.contains("[pod/talks/one] one 1"), "{all}");
    assert!(all.contains("[pod/talks/two] two"), "{all}");
    let selected = logs(&[
        "-l",
        "app=talks",
        "--all-containers",
        "--prefix",
        "--tail=1",
    ]);
    assert!(selected.contains("[pod/other/main] other"), "{selected}");
    assert!(selected.contains("[pod/talks/one] one late"), "{selected}");
    let unclear = platform
        .kubectl(&["logs", "talks", "-c", "three"])
        .failure();
    assert!(
        unclear.contains("three is not valid for pod talks"),
        "{unclear}"
    );

    // The run before this one, while it waits to be started again and after.
    wait_for("the first run to end", Duration::from_secs(20), || {
        !platform
            .field(
                "pod/again",
                "{.status.containerStatuses[0].lastState.terminated.exitCode}",
            )
            .is_empty()
    });
    assert_eq!(logs(&["again", "--previous"]), "first");
    wait_for("the second run", Duration::from_secs(40), || {
        logs(&["again"]) == "second"
    });
    assert_eq!(logs(&["again", "--previous"]), "first");
}
