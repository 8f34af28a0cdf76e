//! What user code cannot do: each escape is tried from Python inside a pod.

use std::path::Path;
use std::sync::LazyLock;

use cumulo_node::LogOptions;
use cumulo_node::sandbox::RoleAccess;
use nix::libc;
use serde_json::{Value, json};

use crate::bench::{Bench, container, eventually, pids_in, shell};

/// The interpreter itself: what is in the search path may be a script.
static PYTHON: LazyLock<String> = LazyLock::new(|| {
    let output = std::process::Command::new("python3")
        .args(["-c", "import sys; print(sys.executable)"])
        .output()
        .expect("there is a python3");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
});

/// `attempt(what, function)` prints what became of it; `call` makes a system
/// call by its number.
const PRELUDE: &str = r#"
import ctypes, os, signal, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    result = libc.syscall(ctypes.c_long(number), *[
        ctypes.c_long(value) if isinstance(value, int) else value for value in arguments])
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result
def attempt(what, function):
    try:
        function()
        print(what + ": done", flush=True)
    except OSError as error:
        print(what + ": " + type(error).__name__ + " " + error.strerror, flush=True)
"#;

pub fn python(name: &str, policy: &str, script: &str) -> Value {
    let mut pod = shell(name, policy, "");
    pod["spec"]["containers"][0]["command"] =
        json!([PYTHON.as_str(), "-c", format!("{PRELUDE}\n{script}")]);
    pod
}

/// Runs a pod to its end; gives its log.
pub async fn output(bench: &Bench, pod: Value) -> String {
    let uid = pod["metadata"]["uid"].as_str().unwrap().to_owned();
    let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
    bench.apply(pod);
    bench.until(&uid, |snapshot| snapshot.finished).await;
    bench.log(&name, "main", LogOptions::default()).await
}

fn files(attempts: &[(&str, &Path)]) -> String {
    attempts
        .iter()
        .map(|(what, path)| format!("attempt({what:?}, lambda: open({path:?}).read())\n"))
        .collect()
}

#[tokio::test]
async fn the_platforms_state_is_out_of_reach() {
    let outside = tempfile::tempdir().unwrap();
    let person = outside.path().join("person");
    for folder in ["person/.cumulo", "person/tools"] {
        std::fs::create_dir_all(outside.path().join(folder)).unwrap();
    }
    std::fs::write(person.join(".cumulo/credentials.json"), "secret").unwrap();
    std::fs::write(person.join("tools/library"), "public").unwrap();
    let bench = Bench::with(|options| {
        // A rule that is too wide, with the state of a platform inside.
        options.sandbox.software.push(person.clone());
        options.sandbox.withheld.push(person.join(".cumulo"));
    });
    let home = bench.folder.path();
    for name in ["credentials.json", "kubeconfig", "tracking.db"] {
        std::fs::write(home.join(name), "secret").unwrap();
    }
    bench.apply(shell(
        "other",
        "Always",
        "echo secret > file; exec sleep 1000",
    ));
    bench.until_ready("uid-other").await;
    let pods = home.join("node/pods");
    let other = pods.join("uid-other/containers/main/work/file");
    eventually("the other pod wrote", || other.exists()).await;
    let script = files(&[
        ("credentials", &home.join("credentials.json")),
        ("kubeconfig", &home.join("kubeconfig")),
        ("database", &home.join("tracking.db")),
        ("another pod's file", &other),
        ("own manifest", &pods.join("uid-files/pod.json")),
        (
            "own log",
            &pods.join("uid-files/containers/main/attempts/0/log"),
        ),
        ("another's home", &person.join(".cumulo/credentials.json")),
        ("what is beside it", &person.join("tools/library")),
        ("passwords", Path::new("/etc/shadow")),
    ]) + &format!(
        r#"
attempt("pods", lambda: os.listdir({pods:?}))
attempt("shared memory's names", lambda: os.listdir("/dev/shm"))
attempt("a file of the system", lambda: open("/usr/lib/cumulo-test", "w"))
attempt("the log's place", lambda: os.unlink({log:?}))
attempt("emptying the database", lambda: os.truncate({database:?}, 0))
attempt("a link to the database", lambda: os.link({database:?}, "copy"))
attempt("a way by links", lambda: (os.symlink({database:?}, "link"), open("link").read()))
attempt("a device", lambda: os.mknod("disk", 0o60600, os.makedev(8, 0)))
attempt("temporary files of all", lambda: open("/tmp/cumulo-test", "w"))
attempt("its own folder", lambda: open("mine", "w").write("text"))
"#,
        log = pods.join("uid-files/containers/main/attempts/0/log"),
        database = home.join("tracking.db"),
    );
    insta::assert_snapshot!(output(&bench, python("files", "Never", &script)).await, @r#"
    credentials: PermissionError Permission denied
    kubeconfig: PermissionError Permission denied
    database: PermissionError Permission denied
    another pod's file: PermissionError Permission denied
    own manifest: PermissionError Permission denied
    own log: PermissionError Permission denied
    another's home: PermissionError Permission denied
    what is beside it: done
    passwords: PermissionError Permission denied
    pods: PermissionError Permission denied
    shared memory's names: PermissionError Permission denied
    a file of the system: PermissionError Permission denied
    the log's place: PermissionError Permission denied
    emptying the database: PermissionError Permission denied
    a link to the database: OSError Invalid cross-device link
    a way by links: PermissionError Permission denied
    a device: PermissionError Permission denied
    temporary files of all: PermissionError Permission denied
    its own folder: done
    "#);
    bench.end().await;
}

#[tokio::test]
async fn other_processes_are_out_of_reach() {
    let bench = Bench::new();
    bench.apply(shell("other", "Always", "echo $$ > pid; exec sleep 1000"));
    bench.until_ready("uid-other").await;
    eventually("the other pod began", || {
        pids_in(&bench, "other", "pid").len() == 1
    })
    .await;
    let other = pids_in(&bench, "other", "pid")[0];
    let listener = abstract_listener();
    let script = format!(
        r#"
other = {other}
attempt("is it there", lambda: os.kill(other, 0))
attempt("a signal", lambda: os.kill(other, signal.SIGTERM))
attempt("a signal to its group", lambda: os.killpg(other, signal.SIGTERM))
attempt("a signal by file", lambda: signal.pidfd_send_signal(os.pidfd_open(other), signal.SIGTERM))
attempt("a signal to the supervisor", lambda: os.kill(os.getppid(), signal.SIGKILL))
attempt("tracing", lambda: call({ptrace}, 16, other, 0, 0))
attempt("reading memory", lambda: call({readv}, other, 0, 0, 0, 0, 0))
attempt("writing memory", lambda: call({writev}, other, 0, 0, 0, 0, 0))
attempt("memory as a file", lambda: open(f"/proc/{{other}}/mem", "rb"))
attempt("its variables", lambda: open(f"/proc/{{other}}/environ").read())
attempt("its open files", lambda: os.readlink(f"/proc/{{other}}/fd/0"))
attempt("its folder", lambda: os.readlink(f"/proc/{{other}}/cwd"))
attempt("an abstract socket", lambda: socket.socket(socket.AF_UNIX).connect("\0{listener}"))
child = os.fork()
if child == 0:
    signal.pause()
attempt("a signal to its own child", lambda: os.kill(child, signal.SIGKILL))
os.waitpid(child, 0)
"#,
        ptrace = libc::SYS_ptrace,
        readv = libc::SYS_process_vm_readv,
        writev = libc::SYS_process_vm_writev,
        listener = listener.1,
    );
    insta::assert_snapshot!(output(&bench, python("signals", "Never", &script)).await, @r#"
    is it there: PermissionError Operation not permitted
    a signal: PermissionError Operation not permitted
    a signal to its group: PermissionError Operation not permitted
    a signal by file: PermissionError Operation not permitted
    a signal to the supervisor: PermissionError Operation not permitted
    tracing: PermissionError Operation not permitted
    reading memory: PermissionError Operation not permitted
    writing memory: PermissionError Operation not permitted
    memory as a file: PermissionError Permission denied
    its variables: PermissionError Permission denied
    its open files: PermissionError Permission denied
    its folder: PermissionError Permission denied
    an abstract socket: PermissionError Operation not permitted
    a signal to its own child: done
    "#);
    assert!(crate::bench::is_alive(other));
    bench.end().await;
}

/// A socket of this process, with its abstract name.
fn abstract_listener() -> (std::os::unix::net::UnixListener, String) {
    use std::os::linux::net::SocketAddrExt;
    let name = format!("cumulo-test-{}", std::process::id());
    let address = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    (
        std::os::unix::net::UnixListener::bind_addr(&address).unwrap(),
        name,
    )
}

#[tokio::test]
async fn the_kernel_is_not_asked_for_more() {
    let bench = Bench::new();
    // A file that whoever starts the platform leaves open is not passed on.
    let _open = nix::unistd::dup(std::fs::File::open("/dev/null").unwrap()).unwrap();
    let calls: String = [
        ("mount", libc::SYS_mount),
        ("umount2", libc::SYS_umount2),
        ("pivot_root", libc::SYS_pivot_root),
        ("chroot", libc::SYS_chroot),
        ("open_tree", libc::SYS_open_tree),
        ("fsopen", libc::SYS_fsopen),
        ("setns", libc::SYS_setns),
        ("init_module", libc::SYS_init_module),
        ("finit_module", libc::SYS_finit_module),
        ("delete_module", libc::SYS_delete_module),
        ("kexec_load", libc::SYS_kexec_load),
        ("reboot", libc::SYS_reboot),
        ("swapon", libc::SYS_swapon),
        ("bpf", libc::SYS_bpf),
        ("perf_event_open", libc::SYS_perf_event_open),
        ("keyctl", libc::SYS_keyctl),
        ("add_key", libc::SYS_add_key),
        ("open_by_handle_at", libc::SYS_open_by_handle_at),
        ("userfaultfd", libc::SYS_userfaultfd),
        ("io_uring_setup", libc::SYS_io_uring_setup),
        ("shmget", libc::SYS_shmget),
        ("clone3", libc::SYS_clone3),
    ]
    .iter()
    .map(|(name, number)| format!("attempt({name:?}, lambda: call({number}, 0, 0, 0, 0, 0, 0))\n"))
    .collect();
    let script = format!(
        r#"
print("open files", sorted(os.listdir("/proc/self/fd")))
{calls}
for name, flag in [("user", 0x10000000), ("mount", 0x20000), ("network", 0x40000000), ("pid", 0x20000000)]:
    attempt("unshare " + name, lambda: call({unshare}, flag))
    attempt("clone " + name, lambda: call({clone}, flag | 17, 0, 0, 0, 0))
attempt("raw socket", lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt("raw socket 6", lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, 58))
attempt("packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
attempt("old packet socket", lambda: socket.socket(socket.AF_INET, 10, 0x300))
attempt("audit socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 9))
attempt("crypto socket", lambda: socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET, 0))
try:
    open("/proc/kcore", "rb")
    print("kernel memory: done")
except OSError:
    pass  # refused, or not there
attempt("kernel settings", lambda: open("/proc/sys/kernel/core_pattern", "w"))
attempt("host name", lambda: socket.sethostname("x"))
attempt("becoming another", lambda: os.setuid(12345) if os.getuid() == 0 else os.setuid(0))
wanted = ("NoNewPrivs", "Seccomp:", "CapBnd", "CapEff")
status = dict(line.split(":\t") for line in open("/proc/self/status") if line.startswith(wanted))
print("new privileges refused", status["NoNewPrivs"].strip(), "filtered", status["Seccomp"].strip())
kept = 1 << 0 | 1 << 1 | 1 << 3 | 1 << 4 | 1 << 10
print("capabilities left", int(status["CapEff"], 16) & ~kept)
"#,
        unshare = libc::SYS_unshare,
        clone = libc::SYS_clone,
    );
    insta::assert_snapshot!(output(&bench, python("kernel", "Never", &script)).await, @r#"
    open files ['0', '1', '2', '3']
    mount: PermissionError Operation not permitted
    umount2: PermissionError Operation not permitted
    pivot_root: PermissionError Operation not permitted
    chroot: PermissionError Operation not permitted
    open_tree: PermissionError Operation not permitted
    fsopen: PermissionError Operation not permitted
    setns: PermissionError Operation not permitted
    init_module: PermissionError Operation not permitted
    finit_module: PermissionError Operation not permitted
    delete_module: PermissionError Operation not permitted
    kexec_load: PermissionError Operation not permitted
    reboot: PermissionError Operation not permitted
    swapon: PermissionError Operation not permitted
    bpf: PermissionError Operation not permitted
    perf_event_open: PermissionError Operation not permitted
    keyctl: PermissionError Operation not permitted
    add_key: PermissionError Operation not permitted
    open_by_handle_at: PermissionError Operation not permitted
    userfaultfd: PermissionError Operation not permitted
    io_uring_setup: PermissionError Operation not permitted
    shmget: PermissionError Operation not permitted
    clone3: OSError Function not implemented
    unshare user: PermissionError Operation not permitted
    clone user: PermissionError Operation not permitted
    unshare mount: PermissionError Operation not permitted
    clone mount: PermissionError Operation not permitted
    unshare network: PermissionError Operation not permitted
    clone network: PermissionError Operation not permitted
    unshare pid: PermissionError Operation not permitted
    clone pid: PermissionError Operation not permitted
    raw socket: PermissionError Operation not permitted
    raw socket 6: PermissionError Operation not permitted
    packet socket: PermissionError Operation not permitted
    old packet socket: PermissionError Operation not permitted
    audit socket: PermissionError Operation not permitted
    crypto socket: PermissionError Operation not permitted
    kernel settings: PermissionError Permission denied
    host name: PermissionError Operation not permitted
    becoming another: PermissionError Operation not permitted
    new privileges refused 1 filtered 2
    capabilities left 0
    "#);
    bench.end().await;
}

#[tokio::test]
async fn python_does_what_it_usually_does() {
    let bench = Bench::new();
    let script = r#"
import multiprocessing, sqlite3, ssl, subprocess, tempfile, threading
from multiprocessing import shared_memory
def square(x):
    return x * x
print(multiprocessing.get_context("fork").Pool(2).map(square, [1, 2, 3]))
memory = shared_memory.SharedMemory(create=True, size=10)
memory.close(); memory.unlink()
database = sqlite3.connect("data.db")
database.execute("create table t (a)"); database.commit()
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/x", "w").write("text")
    os.rename(folder + "/x", "x")
print(subprocess.run(["sh", "-c", "cat x; echo; head -c 0 /dev/urandom; ls /usr >/dev/null && echo listed"], capture_output=True, text=True).stdout)
thread = threading.Thread(target=lambda: print("thread")); thread.start(); thread.join()
ssl.create_default_context()
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close()
print(os.cpu_count() > 0, len(os.sched_getaffinity(0)) > 0, socket.gethostbyname("localhost"))
open(os.environ["CUMULO_TERMINATION_LOG"], "w").write("the end")
"#;
    let log = output(&bench, python("usual", "Never", script)).await;
    insta::assert_snapshot!(log, @r#"
    [1, 4, 9]
    text
    listed
    
    thread
    True True 127.0.0.1
    "#);
    let receiver = bench.engine.subscribe("uid-usual").unwrap();
    let snapshot = receiver.borrow().clone().unwrap();
    let end = container(&snapshot).state.unwrap().terminated.unwrap();
    assert_eq!(
        (end.exit_code, end.message.as_deref()),
        (0, Some("the end"))
    );
    let condition = snapshot
        .status
        .conditions
        .iter()
        .flatten()
        .find(|condition| condition.type_ == "cumulo.dev/Sandboxed")
        .cloned()
        .unwrap();
    assert_eq!(
        (condition.status.as_str(), condition.reason.as_deref()),
        ("True", Some("Enforced"))
    );
    bench.end().await;
}

#[tokio::test]
async fn a_node_without_sandbox_says_so() {
    let bench = Bench::with(|options| options.sandbox.disabled = true);
    bench.apply(shell("open", "Always", "exec sleep 1000"));
    let snapshot = bench.until_ready("uid-open").await;
    assert_eq!(
        crate::bench::condition(&snapshot, "cumulo.dev/Sandboxed"),
        "False"
    );
    bench.end().await;
}

#[tokio::test]
async fn connections_go_where_the_pod_declares() {
    let bench = Bench::new();
    let listen = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (declared, tracking, other) = (listen(), listen(), listen());
    let port = |listener: &std::net::TcpListener| listener.local_addr().unwrap().port();
    let script = format!(
        r#"
def to(port):
    return lambda: socket.create_connection(("127.0.0.1", port)).close()
attempt("declared", to({declared}))
attempt("tracking", to({tracking}))
attempt("other", to({other}))
attempt("datagrams", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
attempt("multipath", lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262))
def fast():
    socket.socket().sendto(b"x", 0x20000000, ("127.0.0.1", {other}))
attempt("fast open", fast)
attempt("listening", lambda: socket.create_server(("127.0.0.1", 0)).close())
"#,
        declared = port(&declared),
        tracking = port(&tracking),
        other = port(&other),
    );
    let mut pod = python("narrow", "Never", &script);
    let url = format!("http://127.0.0.1:{}", port(&tracking));
    pod["spec"]["containers"][0]["env"] = json!([{"name": "MLFLOW_TRACKING_URI", "value": url}]);
    pod["metadata"]["annotations"] =
        json!({"cumulo.dev/egress": format!("127.0.0.1:{}", port(&declared))});
    insta::assert_snapshot!(output(&bench, pod.clone()).await, @r#"
    declared: done
    tracking: done
    other: PermissionError Permission denied
    datagrams: PermissionError Operation not permitted
    multipath: PermissionError Operation not permitted
    fast open: PermissionError Operation not permitted
    listening: done
    "#);

    // Who declares nothing connects anywhere, as on a cluster.
    let mut free = python("free", "Never", &script);
    free["spec"]["containers"][0]["env"] = pod["spec"]["containers"][0]["env"].clone();
    let log = output(&bench, free).await;
    assert!(
        log.contains("other: done") && log.contains("datagrams: done"),
        "{log}"
    );

    let mut wrong = shell("wrong", "Never", "true");
    wrong["metadata"]["annotations"] = json!({"cumulo.dev/egress": "somewhere"});
    bench.apply(wrong);
    let snapshot = bench
        .until("uid-wrong", |snapshot| {
            let state = container(snapshot).state.unwrap();
            state
                .waiting
                .is_some_and(|waiting| waiting.message.is_some())
        })
        .await;
    let waiting = container(&snapshot).state.unwrap().waiting.unwrap();
    insta::assert_snapshot!(waiting.message.unwrap(), @r#"annotation cumulo.dev/egress: "somewhere" is no destination; write HOST:PORT or a URL, several separated by commas, or none"#);
    bench.end().await;
}

#[tokio::test]
async fn what_else_runs_in_a_container_is_confined_as_it_is() {
    let mut bench = Bench::new();
    let secret = bench.folder.path().join("credentials.json");
    std::fs::write(&secret, "secret").unwrap();
    // The forged variable must not count for what is started later.
    let mut pod = shell("host", "Always", "exec sleep 1000");
    pod["spec"]["containers"][0]["env"] = json!([{"name": "CUMULO_SANDBOX", "value": "{}"}]);
    bench.apply(pod);
    bench.until_ready("uid-host").await;
    let script = format!("{PRELUDE}\n{}", files(&[("credentials", &secret)]))
        + &format!("attempt('chroot', lambda: call({}, 0))\n", libc::SYS_chroot)
        + "attempt('its folder', lambda: open('mine', 'w'))\n";
    let command = [PYTHON.as_str(), "-c", &script].map(str::to_owned);
    for _ in 0..2 {
        let session = bench
            .engine
            .exec("default", "host", "main", &command, false, false)
            .unwrap();
        let cumulo_node::ExecSession {
            stdout,
            mut process,
            ..
        } = session;
        let mut told = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut stdout.unwrap(), &mut told)
            .await
            .unwrap();
        assert_eq!(process.wait().await.unwrap(), 0);
        assert_eq!(
            told,
            "credentials: PermissionError Permission denied\nchroot: PermissionError Operation not permitted\nits folder: done\n"
        );
        // The same after the platform was started again.
        bench.reopen().await;
        let snapshot = bench.until_ready("uid-host").await;
        assert_eq!(
            crate::bench::condition(&snapshot, "cumulo.dev/Sandboxed"),
            "True"
        );
    }
    bench.end().await;
}

#[tokio::test]
async fn a_role_has_its_folders_and_the_policy_for_user_code() {
    let program = tempfile::tempdir().unwrap();
    let executable = program.path().join("cumulo");
    std::fs::write(
        &executable,
        "#!/bin/sh\ncat \"$STORE/blob\"; echo built > \"$CUMULO_CACHE/built\" && echo written; cat \"$STORE/../credentials.json\" 2>&1 | grep -o 'Permission denied'; echo \"${CUMULO_SANDBOX:+told}\" $LD_PRELOAD\n",
    )
    .unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&executable, mode).unwrap();
    let bench = Bench::with(|options| {
        options.executable = executable.clone();
        let store = options.root.parent().unwrap().join("artifacts");
        std::fs::create_dir_all(&store).unwrap();
        std::fs::write(store.join("blob"), "a blob\n").unwrap();
        std::fs::write(store.join("../credentials.json"), "secret").unwrap();
        options.sandbox.roles = vec![RoleAccess {
            words: vec!["exec".to_owned()],
            read: vec![store],
            write: vec![options.cache.clone()],
        }];
    });
    let store = bench.folder.path().join("artifacts");
    let pod = |name: &str, words: &[&str]| {
        let mut pod = shell(name, "Never", "");
        pod["spec"]["containers"][0]["command"] = json!(words);
        pod["spec"]["containers"][0]["env"] = json!([
            {"name": "STORE", "value": store},
            {"name": "LD_PRELOAD", "value": "evil.so"},
        ]);
        pod
    };
    let log = output(&bench, pod("role", &["cumulo", "exec", "--", "true"])).await;
    assert_eq!(log, "a blob\nwritten\nPermission denied\ntold\n");
    let log = output(&bench, pod("plain", &["cumulo", "other"])).await;
    assert!(
        !log.contains("a blob") && !log.contains("written") && !log.contains("told"),
        "{log}"
    );
    bench.end().await;
}

#[tokio::test]
async fn links_in_a_containers_folder_do_not_lead_the_node_astray() {
    let bench = Bench::new();
    let target = bench.folder.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let script = format!(
        "rm -rf etc; ln -s {} etc; exit 1",
        bench.folder.path().join("target").display()
    );
    let mut pod = shell("links", "OnFailure", &script);
    pod["spec"]["volumes"] = json!([{"name": "settings", "emptyDir": {}}]);
    pod["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "settings", "mountPath": "/etc/inner/settings"}]);
    bench.apply(pod);
    let snapshot = bench
        .until("uid-links", |snapshot| {
            let state = container(snapshot).state.unwrap();
            state.waiting.is_some_and(|waiting| {
                waiting
                    .message
                    .is_some_and(|text| text.contains("leads out"))
            })
        })
        .await;
    assert!(container(&snapshot).restart_count < 2);
    // A folder may have been made before the link was noticed, no more.
    assert!(!target.join("inner/settings").exists());
    bench.end().await;
}
