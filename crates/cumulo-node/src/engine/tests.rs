//! Tests of what is decided and reported.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use proptest::prelude::*;
use serde_json::json;

use super::lifecycle::{self, BackOff, Failure, Plan, RestartPolicy, Role, State, View, plan};
use super::status::{Observed, ObservedPod, Present, Terminated, phase, pod_status, restore};

const BACK_OFF: BackOff = BackOff {
    base: SignedDuration::from_secs(10),
    max: SignedDuration::from_secs(300),
    reset: SignedDuration::from_secs(600),
};

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn view<'a>(containers: &'a [(Role, State)], policy: RestartPolicy) -> View<'a> {
    View {
        containers,
        policy,
        started_at: at(0),
        deadline: None,
        failure: None,
        deleting: false,
        back_off: BACK_OFF,
    }
}

const WAITING: State = State::Waiting { not_before: None };
const RUNNING: State = State::Running {
    started: true,
    stopping: false,
};

fn ended(exit_code: i32, second: i64, ends: u32) -> State {
    State::Terminated {
        exit_code,
        finished_at: at(second),
        ends,
    }
}

#[test]
fn back_off_doubles_from_the_second_restart_to_its_limit() {
    let delays: Vec<i64> = (0..10).map(|ends| BACK_OFF.delay(ends).as_secs()).collect();
    assert_eq!(delays, [0, 0, 10, 20, 40, 80, 160, 300, 300, 300]);
    assert_eq!(BACK_OFF.delay(u32::MAX), BACK_OFF.max);
    assert_eq!(BACK_OFF.ends(7, SignedDuration::from_secs(600)), 1);
    assert_eq!(BACK_OFF.ends(7, SignedDuration::from_secs(599)), 8);
}

#[test]
fn containers_start_in_their_order() {
    use Role::{Init, Regular, Sidecar};
    let policy = RestartPolicy::Never;
    let start = |states: &[(Role, State)]| plan(&view(states, policy), at(1)).start;
    let roles = [Init, Sidecar, Init, Regular, Regular];
    let with =
        |states: [State; 5]| -> Vec<(Role, State)> { roles.into_iter().zip(states).collect() };
    let sidecar_starting = State::Running {
        started: false,
        stopping: false,
    };
    let w = WAITING;
    assert_eq!(
        start(&with([
            w.clone(),
            w.clone(),
            w.clone(),
            w.clone(),
            w.clone()
        ])),
        [0]
    );
    assert_eq!(
        start(&with([
            ended(0, 0, 1),
            w.clone(),
            w.clone(),
            w.clone(),
            w.clone()
        ])),
        [1]
    );
    assert!(
        start(&with([
            ended(0, 0, 1),
            sidecar_starting,
            w.clone(),
            w.clone(),
            w.clone()
        ]))
        .is_empty()
    );
    assert_eq!(
        start(&with([
            ended(0, 0, 1),
            RUNNING,
            w.clone(),
            w.clone(),
            w.clone()
        ])),
        [2]
    );
    assert_eq!(
        start(&with([
            ended(0, 0, 1),
            RUNNING,
            ended(0, 0, 1),
            w.clone(),
            w.clone()
        ])),
        [3, 4]
    );
    // The sidecar ends after the others, and is not started again for them.
    let done = with([
        ended(0, 0, 1),
        RUNNING,
        ended(0, 0, 1),
        ended(0, 0, 1),
        ended(3, 0, 1),
    ]);
    let over = plan(&view(&done, policy), at(1));
    assert_eq!((over.stop, over.finished), (vec![1], false));
    let done = with([
        ended(0, 0, 1),
        ended(143, 0, 1),
        ended(0, 0, 1),
        ended(0, 0, 1),
        ended(3, 0, 1),
    ]);
    assert!(plan(&view(&done, policy), at(1)).finished);
}

#[test]
fn a_failed_init_container_fails_the_pod_or_is_tried_again() {
    let states = [(Role::Init, ended(1, 0, 2)), (Role::Regular, WAITING)];
    let never = plan(&view(&states, RestartPolicy::Never), at(1));
    assert!(never.finished && never.start.is_empty());
    let always = plan(&view(&states, RestartPolicy::Always), at(1));
    assert_eq!((always.start, always.wake_at), (vec![], Some(at(10))));
}

#[test]
fn the_deadline_fails_what_runs() {
    let states = [(Role::Regular, RUNNING)];
    let mut limited = view(&states, RestartPolicy::Always);
    limited.deadline = Some(SignedDuration::from_secs(5));
    assert_eq!(plan(&limited, at(4)).wake_at, Some(at(5)));
    let late = plan(&limited, at(5));
    insta::assert_snapshot!(late.fail.unwrap().message, @"the pod was active longer than its activeDeadlineSeconds of 5");
    assert_eq!(late.stop, [0]);
    let states = [(Role::Regular, ended(0, 1, 1))];
    limited.containers = &states;
    limited.policy = RestartPolicy::Never;
    assert_eq!(plan(&limited, at(9)).fail, None);
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Init), Just(Role::Sidecar)]
}

fn policy() -> impl Strategy<Value = RestartPolicy> {
    prop_oneof![
        Just(RestartPolicy::Always),
        Just(RestartPolicy::OnFailure),
        Just(RestartPolicy::Never),
    ]
}

/// Applies a plan to simulated containers, checking what must always hold.
fn apply(
    states: &mut [(Role, State)],
    plan: &Plan,
    policy: RestartPolicy,
) -> Result<(), TestCaseError> {
    for index in &plan.start {
        let (role, state) = states[*index].clone();
        let restart = match state {
            State::Waiting { .. } => false,
            State::Terminated { exit_code, .. } => {
                prop_assert!(
                    policy.restarts(role, exit_code),
                    "restarted against the policy"
                );
                true
            }
            State::Running { .. } => return Err(TestCaseError::fail("started twice")),
        };
        if role == Role::Regular && !restart {
            for (other, state) in states.iter() {
                match (other, state) {
                    (Role::Init, State::Terminated { exit_code: 0, .. }) | (Role::Regular, _) => {}
                    (Role::Init, _) => {
                        return Err(TestCaseError::fail(
                            "started before an init container was done",
                        ));
                    }
                    (Role::Sidecar, State::Waiting { .. }) => {
                        return Err(TestCaseError::fail("started before a sidecar"));
                    }
                    (Role::Sidecar, _) => {}
                }
            }
        }
        states[*index].1 = RUNNING;
    }
    for index in &plan.stop {
        match &mut states[*index].1 {
            State::Running { stopping, .. } => {
                prop_assert!(!*stopping, "stopped twice");
                *stopping = true;
            }
            _ => return Err(TestCaseError::fail("stopped what does not run")),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_pod_lives_by_its_rules(
        before in proptest::collection::vec(role(), 0..4),
        regular in 1usize..4,
        policy in policy(),
        exits in proptest::collection::vec((0usize..8, prop_oneof![2 => Just(0), 1 => Just(1)]), 1..60),
        delete_after in proptest::option::of(0usize..40),
    ) {
        let mut states: Vec<(Role, State)> = before.into_iter().map(|role| (role, WAITING)).collect();
        states.extend(std::iter::repeat_n((Role::Regular, WAITING), regular));
        let mut now = at(0);
        let mut finished = false;
        for (step, (who, code)) in exits.into_iter().enumerate() {
            let deleting = delete_after.is_some_and(|after| step >= after);
            let decided = {
                let mut seen = view(&states, policy);
                seen.deleting = deleting;
                plan(&seen, now)
            };
            let running = states.iter().any(|(_, state)| matches!(state, State::Running { .. }));
            if decided.finished {
                prop_assert!(!running && decided.start.is_empty());
                finished = true;
                break;
            }
            if deleting {
                prop_assert!(decided.start.is_empty(), "started while being deleted");
            }
            apply(&mut states, &decided, policy)?;
            if let Some(time) = decided.wake_at {
                prop_assert!(time > now, "would wake at once, forever");
                now = time;
            }
            let alive: Vec<usize> = (0..states.len())
                .filter(|index| matches!(states[*index].1, State::Running { .. }))
                .collect();
            // Something happens or will: a pod never hangs.
            prop_assert!(!alive.is_empty() || decided.wake_at.is_some() || !decided.start.is_empty());
            if let Some(index) = alive.get(who % alive.len().max(1)) {
                states[*index].1 = State::Terminated { exit_code: code, finished_at: now, ends: 2 };
            }
        }
        if finished && delete_after.is_none() && policy == RestartPolicy::Always {
            return Err(TestCaseError::fail("a pod that always restarts has finished"));
        }
    }
}

fn pod(policy: &str) -> Pod {
    serde_json::from_value(json!({
        "metadata": {"name": "p", "namespace": "default", "uid": "u", "generation": 2},
        "spec": {
            "restartPolicy": policy,
            "initContainers": [{"name": "first", "image": "cumulo.dev/runtime"}],
            "containers": [{"name": "main", "image": "cumulo.dev/runtime:1"}],
        },
        "status": {"conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2023-11-14T22:00:00Z"},
            {"type": "example.com/mine", "status": "True"},
        ]},
    }))
    .unwrap()
}

fn container(role: Role, present: Present) -> Observed {
    Observed {
        role,
        present,
        last: None,
        restarts: 0,
        started: true,
        ready: true,
        id: Some("process://u/main/0".to_owned()),
    }
}

fn end(exit_code: i32) -> Terminated {
    Terminated {
        exit_code,
        signal: None,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.to_owned(),
        message: None,
        started_at: Some(at(1)),
        finished_at: at(2),
    }
}

fn observed<'a>(pod: &'a Pod, containers: &'a [Observed], finished: bool) -> ObservedPod<'a> {
    ObservedPod {
        pod,
        containers,
        started_at: at(0),
        ip: Some("127.64.0.1".to_owned()),
        host_ip: "127.0.0.1".to_owned(),
        failure: None,
        deleting: false,
        finished,
        sandbox: None,
        devices: None,
    }
}

#[test]
fn a_running_pod_is_reported_as_the_kubelet_does() {
    let pod = pod("Always");
    let containers = [
        container(Role::Init, Present::Terminated(end(0))),
        container(Role::Regular, Present::Running { started_at: at(3) }),
    ];
    let status = pod_status(&observed(&pod, &containers, false), at(4));
    insta::assert_yaml_snapshot!(status, @r#"
    conditions:
      - lastTransitionTime: "2023-11-14T22:13:24Z"
        observedGeneration: 2
        status: "True"
        type: PodReadyToStartContainers
      - lastTransitionTime: "2023-11-14T22:13:24Z"
        observedGeneration: 2
        status: "True"
        type: Initialized
      - lastTransitionTime: "2023-11-14T22:13:24Z"
        observedGeneration: 2
        status: "True"
        type: ContainersReady
      - lastTransitionTime: "2023-11-14T22:13:24Z"
        observedGeneration: 2
        status: "True"
        type: Ready
      - lastTransitionTime: "2023-11-14T22:00:00Z"
        status: "True"
        type: PodScheduled
      - status: "True"
        type: example.com/mine
    containerStatuses:
      - containerID: "process://u/main/0"
        image: "cumulo.dev/runtime:1"
        imageID: "cumulo.dev/runtime:1"
        name: main
        ready: true
        restartCount: 0
        started: true
        state:
          running:
            startedAt: "2023-11-14T22:13:23Z"
    hostIP: 127.0.0.1
    hostIPs:
      - ip: 127.0.0.1
    initContainerStatuses:
      - containerID: "process://u/main/0"
        image: cumulo.dev/runtime
        imageID: cumulo.dev/runtime
        name: first
        ready: true
        restartCount: 0
        started: false
        state:
          terminated:
            containerID: "process://u/main/0"
            exitCode: 0
            finishedAt: "2023-11-14T22:13:22Z"
            reason: Completed
            startedAt: "2023-11-14T22:13:21Z"
    observedGeneration: 2
    phase: Running
    podIP: 127.64.0.1
    podIPs:
      - ip: 127.64.0.1
    qosClass: BestEffort
    startTime: "2023-11-14T22:13:20Z"
    "#);
}

#[test]
fn what_was_published_stands_but_for_what_others_say() {
    let condition = |kind: &str, second: i64| PodCondition {
        type_: kind.to_owned(),
        status: "True".to_owned(),
        last_transition_time: Some(Time(at(second))),
        ..PodCondition::default()
    };
    let published = [
        condition("Ready", 1),
        condition("PodScheduled", 1),
        condition("example.com/Gate", 1),
        condition("example.com/Gone", 1),
    ];
    let mut there = vec![condition("Ready", 9), condition("example.com/Gate", 9)];
    restore(&mut there, &published);
    let expected = [
        condition("Ready", 1),
        condition("example.com/Gate", 9),
        condition("PodScheduled", 1),
    ];
    assert_eq!(there, expected);
}

#[test]
fn transition_times_stay_until_something_changes() {
    let mut pod = pod("Always");
    let containers = [
        container(Role::Init, Present::Terminated(end(0))),
        container(Role::Regular, Present::Running { started_at: at(3) }),
    ];
    let first = pod_status(&observed(&pod, &containers, false), at(4));
    pod.status = Some(first.clone());
    let second = pod_status(&observed(&pod, &containers, false), at(100));
    assert_eq!(first, second);
    let mut unready = containers.clone();
    unready[1].ready = false;
    let third = pod_status(&observed(&pod, &unready, false), at(100));
    let changed: Vec<String> = third
        .conditions
        .unwrap()
        .into_iter()
        .filter(|condition| {
            condition
                .last_transition_time
                .as_ref()
                .is_some_and(|time| time.0 == at(100))
        })
        .map(|condition| {
            format!(
                "{}: {}",
                condition.type_,
                condition.message.unwrap_or_default()
            )
        })
        .collect();
    insta::assert_snapshot!(changed.join("\n"), @r"
    ContainersReady: containers with unready status: [main]
    Ready: containers with unready status: [main]
    ");
}

#[test]
fn phases_follow_the_kubelet() {
    let waiting = || Present::Waiting {
        reason: "PodInitializing".to_owned(),
        message: None,
    };
    let running = || Present::Running { started_at: at(3) };
    let crashed = |present| Observed {
        last: Some(end(1)),
        ..container(Role::Regular, present)
    };
    let done = container(Role::Init, Present::Terminated(end(0)));
    let check = |policy: &str, init: Observed, main: Observed, finished: bool| {
        phase(&observed(&pod(policy), &[init, main], finished))
    };
    let main = |present| container(Role::Regular, present);
    assert_eq!(
        check(
            "Always",
            container(Role::Init, running()),
            main(waiting()),
            false
        ),
        "Pending"
    );
    assert_eq!(
        check("Always", done.clone(), main(waiting()), false),
        "Pending"
    );
    assert_eq!(
        check("Always", done.clone(), main(running()), false),
        "Running"
    );
    assert_eq!(
        check("Always", done.clone(), crashed(waiting()), false),
        "Running"
    );
    assert_eq!(
        check(
            "Never",
            done.clone(),
            main(Present::Terminated(end(0))),
            true
        ),
        "Succeeded"
    );
    assert_eq!(
        check(
            "Never",
            done.clone(),
            main(Present::Terminated(end(1))),
            true
        ),
        "Failed"
    );
    assert_eq!(
        check(
            "Never",
            container(Role::Init, Present::Terminated(end(1))),
            main(waiting()),
            true
        ),
        "Failed"
    );
    let failure = Failure {
        reason: "DeadlineExceeded".to_owned(),
        message: String::new(),
    };
    let pod = pod("Never");
    let containers = [done, main(Present::Terminated(end(0)))];
    let mut failed = observed(&pod, &containers, true);
    failed.failure = Some(&failure);
    assert_eq!(phase(&failed), "Failed");
}

#[test]
fn roles_come_from_the_manifest() {
    let pod: Pod = serde_json::from_value(json!({
        "spec": {
            "initContainers": [{"name": "a"}, {"name": "b", "restartPolicy": "Always"}],
            "containers": [{"name": "c"}],
        },
    }))
    .unwrap();
    let roles: Vec<Role> = lifecycle::containers(&pod.spec.unwrap())
        .map(|(role, _)| role)
        .collect();
    assert_eq!(roles, [Role::Init, Role::Sidecar, Role::Regular]);
}
