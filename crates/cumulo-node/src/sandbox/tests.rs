//! Policies as data, and the sandbox around a plain process.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::files::opened;
use super::*;

fn place() -> Place {
    Place {
        work: "/pods/u/containers/main/work".into(),
        temporary: "/pods/u/tmp".into(),
        termination: "/pods/u/containers/main/attempts/0/termination".into(),
        volumes: vec![
            ("/pods/u/volumes/cache".into(), true),
            ("/pods/u/volumes/settings".into(), false),
        ],
        software: vec!["/home/me/.pyenv".into()],
        executable: "/usr/local/bin/cumulo".into(),
        ..Place::default()
    }
}

/// The rules but for the system's.
fn told(policy: &Policy) -> String {
    let system = system::rules();
    policy
        .files
        .iter()
        .filter(|rule| !system.contains(rule))
        .map(|rule| format!("{:?} {}\n", rule.access, rule.path.display()))
        .collect()
}

#[test]
fn a_container_gets_its_own_folders_and_the_machines_software() {
    insta::assert_snapshot!(told(&place().policy()), @r"
    Read /home/me/.pyenv
    Read /usr/local/bin/cumulo
    Write /pods/u/containers/main/work
    Write /pods/u/tmp
    Use /pods/u/containers/main/attempts/0/termination
    Write /pods/u/volumes/cache
    Read /pods/u/volumes/settings
    ");
}

#[test]
fn a_role_gets_more_folders_and_connects_anywhere() {
    let mut place = place();
    place.egress = Egress::parse(Some("none")).unwrap();
    let role = RoleAccess {
        words: vec!["data".to_owned(), "build".to_owned()],
        read: vec!["/home/me/.cumulo/artifacts".into()],
        write: vec!["/home/me/.cumulo/artifacts/datasets".into()],
    };
    let policy = place.role_policy(&role);
    assert_eq!(policy.egress, Egress::Any);
    assert!(
        told(&policy).ends_with(
            "Read /home/me/.cumulo/artifacts\nWrite /home/me/.cumulo/artifacts/datasets\n"
        )
    );
    let command = |text: &str| -> Vec<String> { text.split(' ').map(str::to_owned).collect() };
    assert!(role.is(&command("cumulo data build")));
    for other in [
        "cumulo data",
        "cumulo up",
        "sh data build",
        "/bin/cumulo data build",
    ] {
        assert!(!role.is(&command(other)), "{other}");
    }
}

#[test]
fn nothing_of_the_system_is_written() {
    for rule in system::rules() {
        assert!(
            matches!(rule.access, Access::Read | Access::Use | Access::Share),
            "{rule:?}"
        );
        assert!(rule.path != Path::new("/") && rule.path != Path::new("/etc"));
    }
}

#[test]
fn a_policy_survives_the_environment() {
    let mut policy = place().policy();
    policy.egress = Egress::parse(Some("a:1,b:2")).unwrap();
    policy.limits.processors = vec![1];
    let text = policy.to_text();
    assert_eq!(serde_json::from_str::<Policy>(&text).unwrap(), policy);
    assert!(text.len() < 16 << 10, "{}", text.len());
}

#[test]
fn withheld_folders_are_left_out_of_wider_ones() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().canonicalize().unwrap();
    for name in ["a", "b/state/pods/own", "b/tools"] {
        std::fs::create_dir_all(root.join(name)).unwrap();
    }
    std::os::unix::fs::symlink(root.join("b/state"), root.join("link")).unwrap();
    let rule = |path: PathBuf, access| FileRule { path, access };
    let rules = [
        rule(root.clone(), Access::Read),
        rule(root.join("b/state"), Access::Write),
        rule(root.join("link"), Access::Write),
        rule(root.join("b/state/pods/own"), Access::Write),
        rule(root.join("missing"), Access::Write),
    ];
    let told: String = opened(&rules, &[root.join("b/state")])
        .unwrap()
        .iter()
        .map(|(path, access)| {
            format!(
                "{access:?} {}\n",
                path.strip_prefix(&root).unwrap().display()
            )
        })
        .collect();
    insta::assert_snapshot!(told, @r"
    Read a
    Write b/state/pods/own
    Read b/tools
    ");
}

#[test]
fn destinations_are_read() {
    let ports = |text: &str| Egress::parse(Some(text)).map(|egress| egress.ports());
    assert_eq!(Egress::parse(None).unwrap().ports(), None);
    assert_eq!(ports("none").unwrap(), Some(vec![]));
    assert_eq!(ports("").unwrap(), Some(vec![]));
    assert_eq!(ports("127.0.0.1:5432").unwrap(), Some(vec![5432]));
    assert_eq!(ports("[::1]:80, localhost:81").unwrap(), Some(vec![80, 81]));
    assert_eq!(
        ports("https://pypi.org/simple").unwrap(),
        Some(vec![53, 443])
    );
    assert_eq!(
        ports("postgres://me:secret@db.example.org/x").unwrap(),
        Some(vec![53, 5432])
    );
    for bad in [
        "somewhere",
        "host:0",
        "host:99999",
        ":80",
        "ftp://x",
        "none,a:1",
    ] {
        assert!(ports(bad).is_err(), "{bad}");
    }
    let mut egress = Egress::parse(Some("none")).unwrap();
    egress.also("http://127.0.0.1:8700");
    egress.also("http://127.0.0.1:8700");
    egress.also("file:///var/lib");
    assert_eq!(egress.ports(), Some(vec![8700]));
}

#[test]
fn what_a_kernel_cannot_do_is_told() {
    let egress = Egress::parse(Some("db:5432")).unwrap();
    let told: String = [7, 5, 3, 0]
        .map(|abi| {
            let status = Support::with_abi(abi).status(&egress);
            format!(
                "{abi}: {} {}: {}\n",
                status.sandboxed, status.reason, status.message
            )
        })
        .concat();
    insta::assert_snapshot!(told, @r"
    7: true Enforced: files by Landlock 7; system calls are filtered; TCP to the ports of db:5432 (by port; hosts are advice), no UDP
    5: false Partial: files by Landlock 5; system calls are filtered; TCP to the ports of db:5432 (by port; hosts are advice), no UDP; not enforced: abstract sockets of other programs can be reached, and signals, even to own child processes, are refused instead of being limited to the container (needs Linux 6.12)
    3: false Partial: files by Landlock 3; system calls are filtered; not enforced: connections: the declared egress is not enforced (needs Linux 6.7); abstract sockets of other programs can be reached, and signals, even to own child processes, are refused instead of being limited to the container (needs Linux 6.12)
    0: false LandlockMissing: system calls are filtered; not enforced: files: this kernel has no Landlock (it needs Linux 5.13 with landlock among its security modules), so user code reaches every file that the platform's user does; connections: the declared egress is not enforced (needs Linux 6.7); abstract sockets of other programs can be reached, and signals, even to own child processes, are refused instead of being limited to the container (needs Linux 6.12)
    ");
}

#[test]
fn the_least_sandbox_of_a_pod_is_told() {
    let status = |sandboxed| Status {
        sandboxed,
        reason: "R".to_owned(),
        message: String::new(),
    };
    let of = |all: &[Option<Status>]| {
        Status::of_pod(all.iter().map(Option::as_ref)).map(|status| status.sandboxed)
    };
    assert_eq!(of(&[]), None);
    assert_eq!(of(&[Some(status(true))]), Some(true));
    assert_eq!(of(&[Some(status(true)), None]), Some(false));
}

/// Runs a shell in the sandbox of an older kernel.
fn run(abi: i32, script: &str) -> (Option<i32>, String) {
    let folder = tempfile::tempdir().unwrap();
    let mut policy = place().policy();
    policy.allow(folder.path(), Access::Write);
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", script])
        .current_dir(folder.path())
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .process_group(0);
    prepare_for(&policy, Support::with_abi(abi))
        .unwrap()
        .confine(&mut command)
        .unwrap();
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr),
    )
}

#[test]
fn older_kernels_get_what_they_can() {
    // Signal 0 asks only; `kill -WINCH` of another is harmless should it pass.
    for abi in 0..=7 {
        let (code, told) = run(
            abi,
            "kill -WINCH $PPID 2>/dev/null && echo reached; kill -WINCH $$ && echo own; echo x > file && cat file",
        );
        assert_eq!((code, told.as_str()), (Some(0), "own\nx\n"), "{abi}");
        let (_, told) = run(abi, "chroot / true");
        assert!(told.contains("not permitted"), "{abi}: {told}");
        let (_, told) = run(
            abi,
            "cat /etc/shadow >/dev/null; echo x > /tmp/cumulo-sandbox-test",
        );
        assert_eq!(
            told.matches("ermission denied").count() == 2,
            abi > 0,
            "{abi}: {told}"
        );
    }
    let _ = std::fs::remove_file("/tmp/cumulo-sandbox-test");
}

#[test]
fn processes_with_a_gpu_name_their_own_threads_and_no_others() {
    const TRIES: &str = r#"
        tell() { cat /proc/$$/comm; }
        printf own > /proc/self/task/$$/comm; tell
        printf number > /proc/$$/task/$$/comm; tell
        sh -c 'printf child > /proc/self/task/$$/comm; cat /proc/$$/comm'
        echo other > /proc/$PPID/task/$PPID/comm
        echo other > /proc/self/task/$PPID/comm
        echo 500 > /proc/self/oom_score_adj
        echo file > file; cat file
    "#;
    let tried = |thread_names: bool, sandboxes: usize| {
        let folder = tempfile::tempdir().unwrap();
        let mut policy = place().policy();
        policy.allow(folder.path(), Access::Write);
        policy.thread_names = thread_names;
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", TRIES])
            .current_dir(folder.path())
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        for _ in 0..sandboxes {
            prepare(&policy).unwrap().confine(&mut command).unwrap();
        }
        let output = command.output().unwrap();
        (
            String::from_utf8(output.stdout).unwrap(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    if !Support::of_the_kernel().files() {
        return;
    }
    // One sandbox within another has the outer one's.
    for sandboxes in [1, 2] {
        let (told, errors) = tried(true, sandboxes);
        assert_eq!(told, "own\nnumber\nchild\nfile\n", "{errors}");
        assert_eq!(errors.lines().count(), 3, "{errors}");
    }
    let (told, errors) = tried(false, 1);
    assert_eq!(told, "sh\nsh\nsh\nfile\n", "{errors}");
}

#[test]
fn a_program_outside_the_policy_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("program");
    std::fs::copy("/bin/true", &program).unwrap();
    let mut command = Command::new(&program);
    prepare(&place().policy())
        .unwrap()
        .confine(&mut command)
        .unwrap();
    if Support::of_the_kernel().files() {
        let error = command.spawn().unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
    }
}
