//! Logs: rotation, tails, times, following.

use futures::StreamExt;

use crate::bench::{Bench, shell};
use cumulo_node::LogOptions;

#[tokio::test]
async fn a_rotated_log_is_read_as_one() {
    let bench = Bench::with(|options| options.log_max_bytes = 20_000);
    let script = "i=0; while [ $i -lt 2000 ]; do echo line $i; i=$((i+1)); done";
    bench.apply(shell("chatty", "Never", script));
    bench.until_phase("uid-chatty", "Succeeded").await;
    let attempt = bench
        .options
        .root
        .join("pods/uid-chatty/containers/main/attempts/0");
    for file in ["log", "log.1"] {
        assert!(
            std::fs::metadata(attempt.join(file)).unwrap().len() <= 20_000,
            "{file}"
        );
    }
    let log = bench.log("chatty", "main", LogOptions::default()).await;
    let numbers: Vec<u32> = log.lines().map(|line| line[5..].parse().unwrap()).collect();
    assert_eq!(numbers.last(), Some(&1999));
    assert!(numbers.len() > 300 && numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));

    let tail = |lines| LogOptions {
        tail_lines: Some(lines),
        ..LogOptions::default()
    };
    assert_eq!(
        bench.log("chatty", "main", tail(2)).await,
        "line 1998\nline 1999\n"
    );
    assert_eq!(bench.log("chatty", "main", tail(0)).await, "");
    assert_eq!(bench.log("chatty", "main", tail(1_000_000)).await, log);
    let limited = LogOptions {
        limit_bytes: Some(7),
        ..tail(1)
    };
    assert_eq!(bench.log("chatty", "main", limited).await, "line 19");
    bench.end().await;
}

#[tokio::test]
async fn times_are_shown_and_asked_for() {
    let bench = Bench::new();
    bench.apply(shell("timed", "Never", "echo one; sleep 0.4; echo two"));
    bench.until_phase("uid-timed", "Succeeded").await;
    let timestamps = LogOptions {
        timestamps: true,
        ..LogOptions::default()
    };
    let log = bench.log("timed", "main", timestamps).await;
    let times: Vec<jiff::Timestamp> = log
        .lines()
        .map(|line| line.split_once(' ').unwrap().0.parse().unwrap())
        .collect();
    assert!(log.ends_with(" two\n") && times.len() == 2 && times[0] < times[1]);
    let since = LogOptions {
        since: Some(times[1]),
        tail_lines: Some(5),
        ..LogOptions::default()
    };
    assert_eq!(bench.log("timed", "main", since).await, "two\n");
    bench.end().await;
}

#[tokio::test]
async fn a_long_line_comes_out_whole() {
    let bench = Bench::new();
    let script = "head -c 50000 /dev/zero | tr '\\0' x; echo; printf end";
    bench.apply(shell("long", "Never", script));
    bench.until_phase("uid-long", "Succeeded").await;
    let log = bench.log("long", "main", LogOptions::default()).await;
    assert_eq!(log, format!("{}\nend\n", "x".repeat(50_000)));
    bench.end().await;
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() {
    let bench = Bench::with(|options| options.log_max_bytes = 2_000);
    let script = "i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); sleep 0.02; done";
    bench.apply(shell("followed", "Never", script));
    bench.until_phase("uid-followed", "Running").await;
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let log = bench.log("followed", "main", follow).await;
    let expected: String = (0..60).map(|number| format!("line {number}\n")).collect();
    assert_eq!(log, expected, "through rotations");
    bench.end().await;
}

#[tokio::test]
async fn a_reader_that_leaves_frees_its_place() {
    let bench = Bench::new();
    bench.apply(shell("open", "Always", "echo here; exec sleep 1000"));
    bench.until_ready("uid-open").await;
    let follow = LogOptions {
        follow: true,
        ..LogOptions::default()
    };
    let open = |options: &LogOptions, count: usize| {
        (0..count)
            .map(|_| {
                bench
                    .engine
                    .logs("default", "open", "main", options.clone())
            })
            .collect::<Result<Vec<_>, _>>()
    };
    let mut readers = open(&follow, 60).unwrap();
    for stream in &mut readers {
        assert_eq!(stream.next().await.unwrap().unwrap(), "here\n");
    }
    let refused = open(&follow, 10).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "64 logs are being read already; try again when one has ended"
    );
    drop(readers);
    crate::bench::eventually("the readers left", || {
        open(&LogOptions::default(), 60).is_ok()
    })
    .await;
    bench.end().await;
}
