//! Lives of pods, one rule of Kubernetes a test.

use super::world::World;
use crate::probe::Kind;
use crate::work::What;
use serde_json::{Value, json};
use std::time::Duration;

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

fn container(name: &str) -> Value {
    json!({"name": name, "image": "img"})
}

fn policy(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [container("c")]})
}

#[test]
fn a_pod_starts_with_one_job_and_one_status() {
    let mut w = World::new();
    w.apply("a", policy("Always"));
    assert_eq!(w.log, ["sandbox uid-a.0", "volumes uid-a", "start c"]);
    let s = w.status("a");
    assert_eq!((s["phase"].as_str(), s["podIP"].as_str()), (Some("Running"), Some("10.244.0.2")));
    assert_eq!(
        (s["hostIP"].as_str(), s["qosClass"].as_str()),
        (Some("10.0.0.1"), Some("BestEffort"))
    );
    assert!(w.condition("a", "Ready") && w.condition("a", "PodReadyToStartContainers"));
    assert_eq!(
        w.events,
        [
            "a: Pulled: Container image \"img\" already present on machine",
            "a: Created: Created container: c",
            "a: Started: Started container c",
        ]
    );
    assert_eq!(w.pod("a")["metadata"]["resourceVersion"], "3", "one patch");
    w.pass(seconds(3600));
    assert_eq!(w.pod("a")["metadata"]["resourceVersion"], "3", "and no more in an hour");
}

#[test]
fn init_containers_run_in_order_and_sidecars_outlive_the_rest() {
    let mut w = World::new();
    let side = |name: &str| json!({"name": name, "image": "img", "restartPolicy": "Always"});
    w.apply(
        "a",
        json!({"restartPolicy": "Always",
        "initContainers": [container("i1"), side("s1"), container("i2"), side("s2")],
        "containers": [container("m1"), container("m2")]}),
    );
    assert_eq!(w.running(), ["i1"]);
    assert_eq!(w.state("a", "m1"), "waiting PodInitializing");
    assert_eq!(w.status("a")["phase"], "Pending");
    w.exit("i1", 0);
    assert_eq!(w.running(), ["s1", "i2"]);
    assert!(!w.condition("a", "Initialized"));
    w.exit("s1", 1);
    assert_eq!(w.running(), ["i2", "s1"], "a sidecar is restarted also before the main containers");
    w.exit("i2", 0);
    assert_eq!(w.running(), ["s1", "s2", "m1", "m2"]);
    assert!(w.condition("a", "Initialized") && w.condition("a", "Ready"));
    w.log.clear();
    w.stubborn.insert("m2".into());
    w.delete("a", 30);
    assert_eq!(w.running(), ["s1", "s2", "m2"], "sidecars wait for the last main container");
    w.exit("m2", 0);
    let at = |what: &str| w.log.iter().position(|l| l == what).expect(what);
    assert!(at("m2 ends 0") < at("signal 15 to s2"));
    assert!(at("s2 ends 143") < at("signal 15 to s1"), "the last one first");
    assert!(at("s1 ends 143") < at("remove uid-a.0") && at("remove uid-a.0") < at("delete a"));
    assert!(w.pod("a").is_null() && w.kubelet.all_pods().count() == 0);
}

#[test]
fn a_pod_ends_with_its_last_sidecar() {
    let mut w = World::new();
    w.stubborn.insert("s".into());
    let side = json!({"name": "s", "image": "img", "restartPolicy": "Always"});
    w.apply(
        "a",
        json!({"restartPolicy": "Never", "initContainers": [side], "containers": [container("c")]}),
    );
    w.exit("c", 0);
    assert_eq!(w.status("a")["phase"], "Running", "the sidecar still runs");
    assert!(!w.condition("a", "Ready") && w.log.contains(&"signal 15 to s".to_string()));
    w.exit("s", 1);
    assert_eq!(w.status("a")["phase"], "Succeeded", "a sidecar's exit code does not matter");
}

#[test]
fn a_failed_init_container_ends_the_pod_or_is_tried_again() {
    for (policy, phase, state) in [
        ("Never", "Failed", "exit 1"),
        ("OnFailure", "Pending", "running"),
        ("Always", "Pending", "running"),
    ] {
        let mut w = World::new();
        let spec = json!({"restartPolicy": policy, "initContainers": [container("i")],
            "containers": [container("c")]});
        w.apply("a", spec);
        w.exit("i", 1);
        assert_eq!(
            (w.status("a")["phase"].as_str(), w.state("a", "i").as_str()),
            (Some(phase), state)
        );
    }
}

#[test]
fn restart_policies() {
    for (how, code, phase, runs) in [
        ("Always", 0, "Running", true),
        ("Always", 1, "Running", true),
        ("OnFailure", 0, "Succeeded", false),
        ("OnFailure", 1, "Running", true),
        ("Never", 0, "Succeeded", false),
        ("Never", 1, "Failed", false),
    ] {
        let mut w = World::new();
        w.apply("a", policy(how));
        w.exit("c", code);
        assert_eq!(w.status("a")["phase"], phase, "{how} {code}");
        assert_eq!(!w.running().is_empty(), runs, "{how} {code}");
        assert_eq!(w.sandboxes.is_empty(), !runs, "a finished pod keeps no sandbox");
        if !runs {
            let said = &w.status("a")["containerStatuses"][0]["state"]["terminated"]["message"];
            assert_eq!(said, &json!(format!("said {code}")));
            let before = w.pod("a");
            w.restart_kubelet();
            w.pass(seconds(600));
            assert_eq!(w.pod("a"), before, "and stays finished");
        }
    }
}

#[test]
fn crash_loop_waits_ten_seconds_and_doubles_to_five_minutes() {
    let mut w = World::new();
    w.apply("a", policy("Always"));
    w.exit("c", 1);
    assert_eq!(w.state("a", "c"), "running", "the first restart is at once");
    for (n, pause) in [10, 20, 40, 80, 160, 300, 300].into_iter().enumerate() {
        w.exit("c", 1);
        assert_eq!(w.state("a", "c"), "waiting CrashLoopBackOff");
        w.pass(Duration::from_millis(pause * 1000 - 10));
        assert_eq!(w.state("a", "c"), "waiting CrashLoopBackOff", "{pause}");
        w.pass(Duration::from_millis(10));
        assert_eq!(w.state("a", "c"), "running", "{pause}");
        assert_eq!(w.restarts("a"), n as i64 + 2);
    }
    let last = &w.status("a")["containerStatuses"][0]["lastState"]["terminated"];
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(1), &json!("Error")));
    w.pass(seconds(601));
    w.exit("c", 1);
    assert_eq!(w.state("a", "c"), "running", "ten good minutes are forgiven");
    let kept: usize = w.sandboxes.values().map(|s| s.containers.len()).sum();
    assert_eq!(kept, 2, "the running one and the one before");
}

#[test]
fn back_off_survives_a_restart_of_the_kubelet() {
    let mut w = World::new();
    w.apply("a", policy("Always"));
    for _ in 0..3 {
        w.exit("c", 1);
        w.pass(seconds(40));
    }
    w.exit("c", 1);
    w.restart_kubelet();
    assert_eq!(w.state("a", "c"), "waiting CrashLoopBackOff");
    w.pass(seconds(39));
    assert_eq!(w.state("a", "c"), "waiting CrashLoopBackOff");
    w.pass(seconds(1));
    assert_eq!((w.state("a", "c").as_str(), w.restarts("a")), ("running", 4));
}

#[test]
fn a_new_kubelet_disturbs_nothing() {
    let mut w = World::new();
    let probe = json!({"periodSeconds": 5, "failureThreshold": 3, "tcpSocket": {"port": 80}});
    w.apply(
        "a",
        json!({"restartPolicy": "Always", "containers": [
        {"name": "c", "image": "img", "readinessProbe": probe, "startupProbe": probe}]}),
    );
    w.answer(What::Probe(Kind::Startup), true);
    w.answer(What::Probe(Kind::Readiness), true);
    assert!(w.condition("a", "Ready"));
    let (before, log) = (w.pod("a"), w.log.clone());
    w.checks.clear();
    w.restart_kubelet();
    w.log.retain(|l| !l.starts_with("volumes"));
    let log: Vec<String> = log.into_iter().filter(|l| !l.starts_with("volumes")).collect();
    assert_eq!((w.pod("a"), &w.log), (before, &log));
    w.apply("b", policy("Always"));
    assert_eq!(w.status("b")["podIP"], "10.244.0.3", "addresses in use stay in use");
}

#[test]
fn what_is_gone_from_the_api_goes_from_the_node() {
    let mut w = World::new();
    w.apply("a", policy("Always"));
    w.vanish("a");
    assert!(w.sandboxes.is_empty() && w.log.contains(&"clean uid-a".to_string()));
    w.apply("b", policy("Always"));
    w.caches.remove(0, "ns/b");
    w.restart_kubelet();
    assert!(w.sandboxes.is_empty(), "also when it went while no kubelet was there");
    assert_eq!(w.kubelet.all_pods().count(), 0);
}

#[test]
fn deletion_is_graceful_and_then_not() {
    let mut w = World::new();
    w.stubborn.insert("c".into());
    w.apply("a", policy("Always"));
    w.log.clear();
    w.delete("a", 5);
    assert_eq!(w.log, ["signal 15 to c"]);
    w.pass(Duration::from_millis(4990));
    assert_eq!(w.log, ["signal 15 to c"]);
    w.pass(Duration::from_millis(20));
    assert_eq!(
        w.log,
        [
            "signal 15 to c",
            "signal 9 to c",
            "c ends 137",
            "remove uid-a.0",
            "clean uid-a",
            "delete a"
        ]
    );
    assert!(w.events.contains(&"a: Killing: Stopping container c".to_string()));
}

#[test]
fn hooks() {
    let mut w = World::new();
    let hook = json!({"exec": {"command": ["x"]}});
    let spec = json!({"restartPolicy": "Always", "terminationGracePeriodSeconds": 10, "containers": [
        {"name": "c", "image": "img", "lifecycle": {"postStart": hook, "preStop": hook}}]});
    w.apply("a", spec);
    assert!(!w.condition("a", "Ready"), "not before its postStart hook is over");
    w.answer(What::PostStart, true);
    assert!(w.condition("a", "Ready"));
    w.log.clear();
    w.delete("a", 10);
    assert_eq!(w.log, [""; 0], "no signal before the preStop hook is over");
    w.answer(What::PreStop, true);
    assert_eq!(w.log[0], "signal 15 to c");

    let spec = json!({"restartPolicy": "Never", "containers": [
        {"name": "d", "image": "img", "lifecycle": {"postStart": hook}}]});
    w.apply("b", spec);
    w.answer(What::PostStart, false);
    assert_eq!(w.status("b")["phase"], "Failed", "a failed postStart hook ends the container");
    assert!(w.events.iter().any(|e| e.contains("FailedPostStartHook")));
}

#[test]
fn probes_decide_by_their_thresholds() {
    let mut w = World::new();
    let probe = |n: i64| {
        json!({"periodSeconds": 10, "failureThreshold": n, "successThreshold": 1,
        "tcpSocket": {"port": 80}})
    };
    w.apply(
        "a",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img",
        "readinessProbe": probe(2), "livenessProbe": probe(3)}]}),
    );
    let (ready, live) = (What::Probe(Kind::Readiness), What::Probe(Kind::Liveness));
    assert!(!w.condition("a", "Ready"));
    w.answer(ready, true);
    w.answer(live, true);
    assert!(w.condition("a", "Ready"));
    w.pass(seconds(10));
    w.answer(ready, false);
    w.answer(live, false);
    assert!(w.condition("a", "Ready"), "once is not enough");
    w.pass(seconds(10));
    w.answer(ready, false);
    w.answer(live, false);
    assert!(!w.condition("a", "Ready"));
    assert_eq!(w.restarts("a"), 0);
    w.pass(seconds(10));
    w.answer(ready, true);
    assert!(w.condition("a", "Ready"));
    w.answer(live, false);
    assert_eq!(w.restarts("a"), 1, "three liveness failures restart it");
    assert!(!w.condition("a", "Ready"), "readiness starts over");
    let killed = "a: Killing: Container c failed liveness probe, will be restarted".to_string();
    assert!(
        w.events.contains(&killed)
            && w.events.contains(&"a: Unhealthy: Liveness probe failed: said so".to_string())
    );
}

#[test]
fn a_missing_image_is_looked_for_with_growing_pauses() {
    let mut w = World::new();
    w.apply(
        "a",
        json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "other"}]}),
    );
    assert_eq!(w.state("a", "c"), "waiting ErrImagePull");
    w.pass(seconds(10));
    assert_eq!(w.state("a", "c"), "waiting ImagePullBackOff");
    w.images.insert("other".into());
    w.kubelet.images_changed();
    w.settle();
    assert_eq!(w.state("a", "c"), "running", "an import is noticed at once");
    let never = json!({"name": "d", "image": "nope", "imagePullPolicy": "Never"});
    w.apply("b", json!({"restartPolicy": "Always", "containers": [never]}));
    assert_eq!(w.state("b", "d"), "waiting ErrImageNeverPull");
}

#[test]
fn missing_config_maps_hold_a_container_back() {
    let mut w = World::new();
    let env = json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img",
        "envFrom": [{"configMapRef": {"name": "cm"}}]}]});
    w.apply("env", env);
    let volume = json!({"restartPolicy": "Always", "containers": [{"name": "v", "image": "img",
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "configMap": {"name": "cm"}}]});
    w.apply("vol", volume);
    assert_eq!(w.state("env", "c"), "waiting CreateContainerConfigError");
    assert_eq!(w.state("vol", "v"), "waiting ContainerCreating");
    let told =
        "vol: FailedMount: MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found";
    assert!(w.events.contains(&told.to_string()), "{:?}", w.events);
    let cm = |v: &str| json!({"data": {"k": v}});
    w.put_object("configmaps/ns/cm", cm("v"));
    assert_eq!((w.state("env", "c"), w.state("vol", "v")), ("running".into(), "running".into()));
    w.log.clear();
    w.put_object("configmaps/ns/cm", cm("new"));
    assert_eq!(w.log, ["volumes uid-vol"], "a change reaches the volume, and no other pod");
    w.end_watches();
    w.objects.insert("configmaps/ns/cm".into(), cm("newer"));
    w.pass(seconds(2));
    assert_eq!(w.log.len(), 2, "what changed while nobody watched is noticed");
    assert_eq!(w.watched(), 1);
    w.vanish("env");
    w.vanish("vol");
    assert_eq!(w.watched(), 0, "what nobody uses is not watched");
}

#[test]
fn claims_lead_to_their_volumes() {
    let mut w = World::new();
    let spec = json!({"restartPolicy": "Always", "containers": [{"name": "c", "image": "img",
        "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "pvc"}}]});
    w.objects.insert("persistentvolumeclaims/ns/pvc".into(), json!({"spec": {"volumeName": ""}}));
    w.apply("a", spec);
    assert_eq!(w.state("a", "c"), "waiting ContainerCreating");
    let told = "a: FailedMount: MountVolume.SetUp failed for volume \"v\" : persistentvolumeclaim \"pvc\" is not bound to a volume";
    assert!(w.events.contains(&told.to_string()), "{:?}", w.events);
    w.objects.insert("persistentvolumeclaims/ns/pvc".into(), json!({"spec": {"volumeName": "pv"}}));
    w.objects
        .insert("persistentvolumes//pv".into(), json!({"spec": {"hostPath": {"path": "/data"}}}));
    w.pass(seconds(130));
    assert_eq!(w.state("a", "c"), "running");
    assert!(w.mounted.contains(&"/data on /v".to_string()), "{:?}", w.mounted);
}

#[test]
fn a_broken_command_is_a_crash() {
    let mut w = World::new();
    w.broken.insert("c".into());
    w.apply("a", policy("Always"));
    assert_eq!(w.state("a", "c"), "waiting CrashLoopBackOff");
    let last = w.status("a")["containerStatuses"][0]["lastState"]["terminated"].clone();
    assert_eq!((&last["exitCode"], &last["reason"]), (&json!(128), &json!("StartError")));
    w.broken.insert("d".into());
    w.apply("b", json!({"restartPolicy": "Never", "containers": [container("d")]}));
    assert_eq!(w.status("b")["phase"], "Failed");
}

#[test]
fn the_deadline_of_a_pod() {
    let mut w = World::new();
    w.apply("a", json!({"restartPolicy": "Always", "activeDeadlineSeconds": 5, "containers": [container("c")]}));
    w.pass(seconds(4));
    assert_eq!(w.status("a")["phase"], "Running");
    w.pass(seconds(2));
    let s = w.status("a");
    assert_eq!((&s["phase"], &s["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
    assert!(w.sandboxes.is_empty());
}

#[test]
fn a_lost_sandbox_is_made_again_unless_the_pod_is_never_restarted() {
    let mut w = World::new();
    w.apply("a", policy("Always"));
    w.lose_sandbox("a");
    assert_eq!((w.state("a", "c").as_str(), w.restarts("a")), ("running", 1));
    assert_eq!(w.sandboxes.keys().collect::<Vec<_>>(), ["uid-a.1"]);
    w.apply("b", policy("Never"));
    w.lose_sandbox("b");
    assert_eq!(w.status("b")["phase"], "Failed");
}

#[test]
fn a_pod_deleted_before_it_starts_leaves_nothing() {
    let mut w = World::new();
    w.hold_jobs = true;
    w.apply("a", policy("Always"));
    assert_eq!(w.held.len(), 1);
    w.delete("a", 30);
    assert_eq!(w.held.len(), 1, "one job of a pod at a time");
    w.release();
    assert!(w.pod("a").is_null() && w.sandboxes.is_empty());
}
