//! Commands in pods over every protocol that clients speak, with and without a
//! terminal; and users who show a certificate instead of a token.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::support::{Platform, Text, kubectl, repository, wait_for};

const POD: &str = "
apiVersion: v1
kind: Pod
metadata: {name: shell}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: main
    image: cumulo.dev/runtime
    command: [sh, -c, 'exec sleep 1000']
";

#[test]
fn kubectl_runs_commands_with_and_without_a_terminal() {
    let platform = Platform::start();
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(POD))
        .success();
    platform
        .kubectl(&[
            "wait",
            "--for=condition=Ready",
            "pod/shell",
            "--timeout=60s",
        ])
        .success();
    for websockets in ["true", "false"] {
        let run = |arguments: &[&str], input: &str| {
            let mut all = vec!["exec", "-i", "shell", "--"];
            all.extend(arguments);
            let mut command = platform.kubectl_command(&all);
            command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
            command.stdin(std::process::Stdio::piped());
            let mut child = command.spawn().unwrap();
            std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
            child.wait_with_output().unwrap()
        };
        let long = "0123456789\n".repeat(20_000);
        assert_eq!(
            run(&["wc", "-c"], &long).success(),
            "220000",
            "{websockets}"
        );
        let both = run(&["sh", "-c", "cat; echo wrong >&2; exit 7"], "typed");
        assert_eq!(both.status.code(), Some(7), "{websockets}");
        assert_eq!(both.out(), "typed");
        assert!(both.err().contains("wrong"), "{}", both.err());

        let mut terminal = Command::new("python3");
        terminal
            .arg(repository().join("tests/peers/terminal.py"))
            .arg(kubectl())
            .arg("shell")
            .env("KUBECONFIG", platform.kubeconfig())
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets);
        let said = terminal.output().unwrap().success();
        assert_eq!(said, "33 111\n44 88\nafter2\n3", "{websockets}");
    }
}

#[test]
fn a_signed_certificate_is_a_user() {
    let platform = Platform::start();
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = Command::new("openssl")
        .args([
            "req",
            "-new",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            "/O=team/CN=jane",
        ])
        .args(["-keyout", &path("key"), "-out", &path("request")])
        .output()
        .unwrap();
    made.success();
    let encoded = {
        let output = Command::new("base64")
            .args(["-w0", &path("request")])
            .output();
        output.unwrap().success()
    };
    let request = format!(
        "
apiVersion: certificates.k8s.io/v1
kind: CertificateSigningRequest
metadata: {{name: jane}}
spec:
  signerName: kubernetes.io/kube-apiserver-client
  usages: [client auth]
  expirationSeconds: 3600
  request: {encoded}
"
    );
    platform
        .kubectl_with(&["apply", "-f", "-"], Some(&request))
        .success();
    platform
        .kubectl(&["certificate", "approve", "jane"])
        .success();
    let signed = || {
        let path = "jsonpath={.status.certificate}";
        platform.kubectl(&["get", "csr", "jane", "-o", path]).out()
    };
    wait_for("the certificate", Duration::from_secs(20), || {
        !signed().is_empty()
    });
    fs::write(path("encoded"), signed()).unwrap();
    let decoded = Command::new("base64")
        .args(["-d", &path("encoded")])
        .output();
    fs::write(path("certificate"), decoded.unwrap().stdout).unwrap();

    let jane = |arguments: &[&str]| {
        let mut command = Command::new(kubectl());
        command
            .args(["--server", &format!("https://{}", platform.address())])
            .args(["--insecure-skip-tls-verify", "--kubeconfig", "/dev/null"])
            .args(["--client-certificate", &path("certificate")])
            .args(["--client-key", &path("key")])
            .args(arguments);
        command.output().unwrap()
    };
    let known = jane(&["auth", "whoami"]).success();
    assert!(known.contains("jane") && known.contains("team"), "{known}");
    let refused = jane(&["get", "pods"]).failure();
    assert!(refused.contains("User \"jane\" cannot list"), "{refused}");
    let bind = [
        "create",
        "rolebinding",
        "team",
        "--clusterrole=view",
        "--group=team",
    ];
    platform.kubectl(&bind).success();
    jane(&["get", "pods"]).success();
}
