use std::sync::Arc;

use cumulo_api::{InferenceService, InferenceServiceStatus};
use cumulo_scale::{Decision, Reason};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::plan::{Observed, Pointer, Reference, Resolved, plan, policy};
use crate::action::{Action, Plan};
use crate::testing::{at, made, object, options, phase, shown};

struct World {
    service: InferenceService,
    pods: Vec<Arc<Pod>>,
    model: Resolved,
    replicas: u32,
    second: i64,
}

impl World {
    fn new(spec: Value) -> Self {
        let mut all = json!({"model": "models:/late-flights@champion"});
        for (name, value) in spec.as_object().unwrap() {
            all[name] = value.clone();
        }
        Self {
            service: object(json!({
                "apiVersion": "cumulo.dev/v1alpha1", "kind": "InferenceService",
                "metadata": {"name": "flights", "namespace": "default", "uid": "u", "generation": 1},
                "spec": all,
            })),
            pods: Vec::new(),
            model: version("1"),
            replicas: 1,
            second: 0,
        }
    }

    /// Plans and carries out, as the I/O does.
    fn step(&mut self) -> Plan<InferenceServiceStatus> {
        self.second += 1;
        let observed = Observed {
            service: &self.service,
            pods: &self.pods,
            model: self.model.clone(),
            scale: Decision {
                replicas: self.replicas,
                reason: Reason::Demand,
                next_check: None,
            },
        };
        let plan = plan(&observed, &options(), at(self.second));
        for action in &plan.actions {
            match action {
                Action::CreatePod(pod) => {
                    assert!(
                        self.pods
                            .iter()
                            .all(|known| known.metadata.name != pod.metadata.name)
                    );
                    self.pods.push(Arc::new(Pod::clone(pod)));
                }
                Action::DeletePod(name) => {
                    self.pods
                        .retain(|pod| pod.metadata.name.as_ref() != Some(name));
                }
                _ => {}
            }
        }
        self.service.status = Some(plan.status.clone());
        plan
    }

    /// All pods become ready.
    fn start(&mut self) {
        for pod in &mut self.pods {
            *pod = phase(Pod::clone(pod), "Running", true);
        }
    }

    fn serving(spec: Value) -> Self {
        let mut world = Self::new(spec);
        world.step();
        world.start();
        world.step();
        world.step();
        world
    }

    fn active(&self) -> Option<String> {
        self.service.status.as_ref()?.active_revision.clone()
    }

    fn conditions(&self) -> String {
        let conditions = &self.service.status.as_ref().unwrap().conditions;
        let lines: Vec<_> = conditions
            .iter()
            .map(|one| {
                format!(
                    "{}={} {}: {}",
                    one.type_, one.status, one.reason, one.message
                )
            })
            .collect();
        lines.join("\n")
    }
}

fn version(version: &str) -> Resolved {
    Resolved::Version {
        model: "late-flights".into(),
        version: version.into(),
    }
}

#[test]
fn references() {
    let alias = Reference::parse("models:/late-flights@champion").unwrap();
    assert_eq!(alias.model, "late-flights");
    assert_eq!(alias.pointer, Pointer::Alias("champion".into()));
    let version = Reference::parse("models:/late-flights/3").unwrap();
    assert_eq!(version.pointer, Pointer::Version("3".into()));
    for bad in [
        "late-flights",
        "models:/x",
        "models:/x@",
        "models:/@y",
        "models:/x/1/2",
        "s3://b",
    ] {
        assert_eq!(Reference::parse(bad), None, "{bad}");
    }
}

#[test]
fn the_first_replica_comes_up() {
    let mut world =
        World::new(json!({"runtime": "onnx", "resources": {"cpu": 1, "memory": "1Gi"}}));
    let plan = world.step();
    insta::assert_snapshot!(shown(&plan), @r"
    create pod flights-4e3c4e72-0: cumulo serve --name flights --model-name late-flights --model-version 1 --model-uri models:/late-flights/1 --address $(POD_IP):8080 --runtime onnx
    Ready=False Starting: version 1 of late-flights is starting
    ");
    insta::assert_json_snapshot!(made(&plan)[0].spec, @r#"
    {
      "automountServiceAccountToken": false,
      "containers": [
        {
          "command": [
            "cumulo",
            "serve",
            "--name",
            "flights",
            "--model-name",
            "late-flights",
            "--model-version",
            "1",
            "--model-uri",
            "models:/late-flights/1",
            "--address",
            "$(POD_IP):8080",
            "--runtime",
            "onnx"
          ],
          "env": [
            {
              "name": "POD_NAME",
              "valueFrom": {
                "fieldRef": {
                  "apiVersion": "v1",
                  "fieldPath": "metadata.name"
                }
              }
            },
            {
              "name": "POD_NAMESPACE",
              "valueFrom": {
                "fieldRef": {
                  "apiVersion": "v1",
                  "fieldPath": "metadata.namespace"
                }
              }
            },
            {
              "name": "POD_IP",
              "valueFrom": {
                "fieldRef": {
                  "apiVersion": "v1",
                  "fieldPath": "status.podIP"
                }
              }
            },
            {
              "name": "CUMULO_ARTIFACTS",
              "value": "file:///artifacts"
            },
            {
              "name": "MLFLOW_TRACKING_URI",
              "value": "http://127.0.0.1:8700"
            }
          ],
          "envFrom": [
            {
              "secretRef": {
                "name": "cumulo-artifacts",
                "optional": true
              }
            }
          ],
          "image": "cumulo.dev/runtime",
          "name": "main",
          "ports": [
            {
              "containerPort": 8080,
              "name": "http"
            }
          ],
          "readinessProbe": {
            "failureThreshold": 3,
            "httpGet": {
              "path": "/v2/health/ready",
              "port": "http"
            },
            "periodSeconds": 1,
            "timeoutSeconds": 5
          },
          "resources": {
            "limits": {
              "memory": "1Gi"
            },
            "requests": {
              "cpu": "1",
              "memory": "1Gi"
            }
          }
        }
      ],
      "enableServiceLinks": false,
      "restartPolicy": "Always",
      "terminationGracePeriodSeconds": 30,
      "tolerations": [
        {
          "effect": "NoSchedule",
          "key": "cumulo.dev/runtime",
          "operator": "Exists"
        },
        {
          "effect": "NoExecute",
          "key": "node.kubernetes.io/not-ready",
          "operator": "Exists",
          "tolerationSeconds": 30
        },
        {
          "effect": "NoExecute",
          "key": "node.kubernetes.io/unreachable",
          "operator": "Exists",
          "tolerationSeconds": 30
        }
      ]
    }
    "#);
    assert_eq!(world.active(), None);
    world.start();
    insta::assert_snapshot!(shown(&world.step()), @r"
    event Switched: requests go to version 1 of late-flights now
    Ready=True Serving: version 1 answers
    ");
    insta::assert_json_snapshot!(world.service.status, @r#"
    {
      "url": "http://127.0.0.1:8700/v2/models/flights/infer",
      "replicas": 1,
      "readyReplicas": 1,
      "modelVersion": "1",
      "activeRevision": "4e3c4e72",
      "observedGeneration": 1,
      "conditions": [
        {
          "lastTransitionTime": "2027-01-15T08:00:02Z",
          "message": "version 1 answers",
          "observedGeneration": 1,
          "reason": "Serving",
          "status": "True",
          "type": "Ready"
        }
      ]
    }
    "#);
    world.step();
    let before = world.service.status.clone();
    assert!(world.step().actions.is_empty());
    assert_eq!(world.service.status, before);
}

#[test]
fn a_new_version_takes_over_once_it_is_ready() {
    let mut world = World::serving(json!({}));
    let old = world.active();
    world.model = version("2");
    insta::assert_snapshot!(shown(&world.step()), @r"
    create pod flights-974ebec7-0: cumulo serve --name flights --model-name late-flights --model-version 2 --model-uri models:/late-flights/2 --address $(POD_IP):8080
    Ready=True Serving: version 1 answers
    Progressing=True RollingOut: version 2 is starting, version 1 serves until it is ready
    ");
    assert_eq!(world.active(), old);
    assert_eq!(world.pods.len(), 2);
    world.start();
    // The switch is written before the old replica is touched.
    insta::assert_snapshot!(shown(&world.step()), @r"
    event Switched: requests go to version 2 of late-flights now
    Ready=True Serving: version 2 answers
    ");
    assert_eq!(world.pods.len(), 2);
    assert_ne!(world.active(), old);
    insta::assert_snapshot!(shown(&world.step()), @r"
    delete pod flights-75924729-0
    Ready=True Serving: version 2 answers
    ");
    assert_eq!(world.pods.len(), 1);
}

#[test]
fn a_new_version_brings_as_many_replicas_as_serve() {
    let mut world = World::serving(json!({}));
    world.replicas = 3;
    world.step();
    world.start();
    world.step();
    world.model = version("2");
    world.step();
    assert_eq!(world.pods.len(), 6);
    let one = world.pods.len() - 1;
    world.pods[one] = phase(Pod::clone(&world.pods[one]), "Running", true);
    let before = world.active();
    world.step();
    assert_eq!(world.active(), before, "one of three is not enough");
    world.start();
    world.step();
    assert_ne!(world.active(), before);
}

#[test]
fn a_version_that_cannot_start_leaves_the_old_one_serving() {
    let mut world = World::serving(json!({}));
    world.model = version("2");
    world.step();
    let mut pod = Pod::clone(&world.pods[1]);
    pod.status = Some(object(json!({"phase": "Running", "containerStatuses": [{
        "name": "main", "ready": false, "restartCount": 3, "image": "", "imageID": "",
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s"}},
        "lastState": {"terminated": {"exitCode": 1, "reason": "Error",
            "message": "{\"reason\":\"ModelUnreadable\",\"message\":\"model.lgb is truncated\"}"}}}]})));
    world.pods[1] = Arc::new(pod);
    world.step();
    insta::assert_snapshot!(world.conditions(), @r"
    Ready=True Serving: version 1 answers
    Progressing=False ReplicaFailing: version 2 cannot start, version 1 goes on serving: replica flights-974ebec7-0: ModelUnreadable: model.lgb is truncated
    ");
}

#[test]
fn sleeps_and_wakes() {
    let mut world = World::serving(json!({}));
    world.replicas = 0;
    insta::assert_snapshot!(shown(&world.step()), @r"
    delete pod flights-75924729-0
    event ScaledDown: to 0 replicas: demand over the window
    Ready=True Serving: version 1 answers
    ");
    world.step();
    insta::assert_snapshot!(world.conditions(), @"Ready=True Sleeping: version 1 answers; no replica is running, the next request wakes one");
    world.replicas = 1;
    let plan = world.step();
    assert!(
        matches!(plan.actions[..], [Action::CreatePod(_)]),
        "{:?}",
        plan.actions
    );
    // Even if the alias was deleted meanwhile.
    let mut world = World::serving(json!({}));
    world.replicas = 0;
    world.step();
    world.model = Resolved::Missing("waits for models:/late-flights@champion".into());
    world.replicas = 1;
    assert_eq!(made(&world.step()).len(), 1);
    world.start();
    world.step();
    insta::assert_snapshot!(world.conditions(), @r"
    Ready=True Serving: version 1 answers
    Progressing=False WaitingForModel: waits for models:/late-flights@champion
    ");
}

#[test]
fn what_is_waited_for_is_told() {
    let mut world = World::new(json!({}));
    world.model = Resolved::Missing(
        "waits for models:/late-flights@champion: nothing is registered yet".into(),
    );
    assert!(world.step().actions.is_empty());
    insta::assert_snapshot!(world.conditions(), @"Ready=False WaitingForModel: waits for models:/late-flights@champion: nothing is registered yet");
    world.model = version("1");
    world.step();
    let mut pod = Pod::clone(&world.pods[0]);
    pod.status = Some(object(
        json!({"phase": "Pending", "conditions": [{"type": "PodScheduled",
        "status": "False", "message": "no node has room"}]}),
    ));
    world.pods[0] = Arc::new(pod);
    world.step();
    insta::assert_snapshot!(world.conditions(), @"Ready=False Starting: version 1 of late-flights is starting; replica flights-75924729-0 waits: no node has room");
}

#[test]
fn the_policy_follows_the_spec() {
    let world = World::new(
        json!({"replicas": {"min": 0, "max": 8}, "objective": {"requestsPerSecond": 200}, "scaleToZeroAfter": "5m"}),
    );
    let policy = policy(&world.service.spec);
    assert_eq!((policy.min, policy.max), (0, 8));
    assert_eq!(
        policy.target,
        cumulo_scale::Target::RequestsPerSecond(200.0)
    );
    assert_eq!(policy.scale_to_zero_after.as_secs(), 300);
}

proptest! {
    /// Through any sequence of promotions, scalings and starts: while there is a
    /// ready replica of the active revision it is not taken away by a rollout,
    /// and at the end the newest version serves with the wanted replicas.
    #[test]
    fn a_rollout_never_leaves_nobody_ready(events in prop::collection::vec(0u8..8, 1..60)) {
        let mut world = World::serving(json!({}));
        let mut newest = 1;
        let is_ready = |world: &World| {
            let active = world.active();
            world.pods.iter().any(|pod| {
                crate::pods::ready(pod) && pod.metadata.labels.as_ref().unwrap().get("cumulo.dev/revision") == active.as_ref()
            })
        };
        for event in events {
            match event {
                0 => { newest += 1; world.model = version(&newest.to_string()); }
                1 => world.replicas = 1 + world.replicas % 3,
                2 => world.start(),
                3 => if let Some(last) = world.pods.pop() { world.pods.push(phase(Pod::clone(&last), "Running", true)); },
                _ => {}
            }
            prop_assert!(is_ready(&world));
            world.step();
            prop_assert!(is_ready(&world));
        }
        for _ in 0..6 {
            world.start();
            world.step();
        }
        prop_assert_eq!(world.service.status.as_ref().unwrap().model_version.clone(), Some(newest.to_string()));
        prop_assert_eq!(world.pods.len(), world.replicas as usize);
    }
}
