//! What a pod can ask of a node, each on real containers: order of starting and ending, environment, volumes,
//! probes, security, failures, access, and a kubelet that dies.

use pintle_tests::{Lab, eventually};
use serde_json::Value;
use std::time::Duration;

const WITHIN: Duration = Duration::from_secs(20);

fn lab(what: &str) -> Lab {
    let lab = Lab::up(what, &[]);
    lab.import_busybox();
    lab
}

fn pod(lab: &Lab, name: &str, spec: &str) {
    lab.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec: {spec}\n"))
        .ok();
}

fn ready(lab: &Lab, name: &str) {
    lab.k(&format!("wait --for=condition=Ready pod/{name} --timeout=20s")).ok();
}

fn phase(lab: &Lab, name: &str, phase: &str) {
    lab.k(&format!("wait --for=jsonpath={{.status.phase}}={phase} pod/{name} --timeout=20s")).ok();
}

fn in_pod(lab: &Lab, name: &str, script: &str) -> String {
    lab.kubectl(&["exec", name, "-c", "c", "--", "sh", "-c", script]).ok()
}

fn statuses(pod: &Value) -> impl Iterator<Item = &Value> {
    let lists = ["initContainerStatuses", "containerStatuses"];
    lists.into_iter().filter_map(|l| pod["status"][l].as_array()).flatten()
}

#[test]
fn init_containers_sidecars_and_the_end_of_a_pod() {
    let mut lab = lab("init");
    pod(
        &lab,
        "a",
        r#"
  restartPolicy: Never
  initContainers:
  - {name: i1, image: "busybox:1", command: [sh, -c, "echo one > /w/f"], volumeMounts: [{name: w, mountPath: /w}]}
  - {name: side, image: "busybox:1", restartPolicy: Always, command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait; done']}
  - {name: i2, image: "busybox:1", command: [sh, -c, "echo two >> /w/f"], volumeMounts: [{name: w, mountPath: /w}]}
  containers:
  - {name: c, image: "busybox:1", command: [sh, -c, "cat /w/f; echo the end > /dev/termination-log; exit 3"], volumeMounts: [{name: w, mountPath: /w}]}
  volumes: [{name: w, emptyDir: {}}]"#,
    );
    phase(&lab, "a", "Failed");
    assert_eq!(lab.k("logs a -c c").ok(), "one\ntwo\n");
    let object = lab.get("pod a");
    let ended: Vec<(String, i64)> = statuses(&object)
        .map(|c| {
            let name = c["name"].as_str().expect("name").to_owned();
            (name, c["state"]["terminated"]["exitCode"].as_i64().expect("exit code"))
        })
        .collect();
    let expected = [("i1", 0), ("side", 0), ("i2", 0), ("c", 3)].map(|(n, c)| (n.to_owned(), c));
    assert_eq!(ended, expected);
    let message = &object["status"]["containerStatuses"][0]["state"]["terminated"]["message"];
    assert_eq!(message, "the end\n");
    lab.down();
}

#[test]
fn environment_volumes_and_security() {
    let mut lab = lab("volumes");
    lab.k("create configmap cm --from-literal=a=1 --from-literal=b=two").ok();
    lab.k("create secret generic sec --from-literal=pw=hunter2").ok();
    pod(
        &lab,
        "a",
        r#"
  terminationGracePeriodSeconds: 0
  hostAliases: [{ip: 1.2.3.4, hostnames: [foo.test]}]
  securityContext: {runAsUser: 1000, runAsGroup: 1001, fsGroup: 2000, runAsNonRoot: true}
  containers:
  - name: c
    image: busybox:1
    command: [sleep, "100000"]
    resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
    env:
    - {name: BASE, value: base}
    - {name: MINE, value: "x-$(BASE)-$(NOPE)-$$(BASE)"}
    - {name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
    - {name: MIB, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}
    - {name: PW, valueFrom: {secretKeyRef: {name: sec, key: pw}}}
    envFrom: [{prefix: PRE_, configMapRef: {name: cm}}]
    volumeMounts:
    - {name: cm, mountPath: /v/cm}
    - {name: sec, mountPath: /v/sec}
    - {name: dw, mountPath: /v/dw}
    - {name: ed, mountPath: /v/ed}
    - {name: mem, mountPath: /v/mem}
    - {name: cm, mountPath: /v/one, subPath: b}
    - {name: ed, mountPath: /v/deep, subPath: de/ep}
  volumes:
  - {name: cm, configMap: {name: cm}}
  - {name: sec, secret: {secretName: sec, defaultMode: 0400}}
  - {name: dw, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: ed, emptyDir: {}}
  - {name: mem, emptyDir: {medium: Memory, sizeLimit: 1Mi}}"#,
    );
    ready(&lab, "a");
    let ip = lab.get("pod a")["status"]["podIP"].as_str().expect("podIP").to_owned();
    for (script, said) in [
        ("id -u; id -g; id -G", "1000\n1001\n1001 2000\n".to_owned()),
        (
            "echo $MINE $IP $MIB $PW $PRE_a $PRE_b",
            format!("x-base-$(NOPE)-$(BASE) {ip} 64 hunter2 1 two\n"),
        ),
        ("cat /v/cm/a /v/one /v/sec/pw /v/dw/labels", "1twohunter2app=\"a\"".to_owned()),
        (
            "touch /v/ed/x /v/mem/x /v/deep/x && stat -c '%u %g' /v/ed/x /v/deep/x",
            "1000 2000\n1000 2000\n".to_owned(),
        ),
        (
            "dd if=/dev/zero of=/v/mem/big bs=1M count=2 2>/dev/null || echo full",
            "full\n".to_owned(),
        ),
        (
            "touch /v/cm/x 2>/dev/null || echo no; touch /x 2>/dev/null || echo no",
            "no\nno\n".to_owned(),
        ),
        (
            "grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status",
            "CapEff:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n".to_owned(),
        ),
        (
            "cat /etc/hostname; grep -c foo.test /etc/hosts; grep -c ndots:5 /etc/resolv.conf",
            "a\n1\n1\n".to_owned(),
        ),
        (
            "test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token",
            "token\n".to_owned(),
        ),
    ] {
        assert_eq!(in_pod(&lab, "a", script), said, "{script}");
    }
    lab.down();
}

#[test]
fn probes_and_hooks() {
    let mut lab = lab("probes");
    pod(
        &lab,
        "a",
        r#"
  terminationGracePeriodSeconds: 5
  containers:
  - name: c
    image: busybox:1
    command: [sh, -c, 'mkdir /www; echo ok > /www/ok; sleep 1; httpd -p 80 -h /www; trap "exit 0" TERM; while :; do sleep 1 & wait; done']
    startupProbe: {tcpSocket: {port: 80}, periodSeconds: 1, failureThreshold: 30}
    readinessProbe: {httpGet: {path: /ok, port: 80}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {exec: {command: [test, "!", -e, /tmp/dead]}, periodSeconds: 1, failureThreshold: 2}
    lifecycle:
      postStart: {exec: {command: [touch, /tmp/started]}}
      preStop: {exec: {command: [sh, -c, "echo stopping > /proc/1/fd/1"]}}"#,
    );
    ready(&lab, "a");
    in_pod(&lab, "a", "test -e /tmp/started");
    in_pod(&lab, "a", "mv /www/ok /www/gone");
    lab.k("wait --for=condition=Ready=false pod/a --timeout=20s").ok();
    in_pod(&lab, "a", "mv /www/gone /www/ok");
    ready(&lab, "a");
    in_pod(&lab, "a", "touch /tmp/dead");
    lab.k("wait --for=jsonpath={.status.containerStatuses[0].restartCount}=1 pod/a --timeout=20s")
        .ok();
    ready(&lab, "a");
    let events = lab.k("get events --field-selector involvedObject.name=a").ok();
    for wanted in [
        "Readiness probe failed: HTTP probe failed with statuscode: 404",
        "failed liveness probe, will be restarted",
    ] {
        assert!(events.contains(wanted), "{wanted:?} is not in:\n{events}");
    }
    assert!(lab.k("logs a --previous").ok().contains("stopping"), "preStop runs before the end");
    lab.down();
}

#[test]
fn failures_say_what_is_wrong_and_heal_when_it_is_there() {
    let mut lab = lab("fail");
    pod(
        &lab,
        "crash",
        r#"{containers: [{name: c, image: "busybox:1", command: [sh, -c, "echo boom; exit 3"]}]}"#,
    );
    pod(
        &lab,
        "image",
        r#"{containers: [{name: c, image: "later:1", command: [sleep, "100000"]}], terminationGracePeriodSeconds: 0}"#,
    );
    pod(&lab, "never", r#"{containers: [{name: c, image: "nope:1", imagePullPolicy: Never}]}"#);
    pod(&lab, "nocmd", r#"{containers: [{name: c, image: "busybox:1", command: [/nope]}]}"#);
    pod(
        &lab,
        "env",
        r#"{containers: [{name: c, image: "busybox:1", command: [sleep, "100000"], envFrom: [{configMapRef: {name: cm}}]}], terminationGracePeriodSeconds: 0}"#,
    );
    pod(
        &lab,
        "volume",
        r#"{containers: [{name: c, image: "busybox:1", command: [sleep, "100000"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, configMap: {name: cm}}], terminationGracePeriodSeconds: 0}"#,
    );
    pod(
        &lab,
        "root",
        r#"{containers: [{name: c, image: "busybox:1", securityContext: {runAsNonRoot: true}}]}"#,
    );
    for (name, reason) in [
        ("crash", "CrashLoopBackOff"),
        ("image", "ErrImagePull"),
        ("never", "ErrImageNeverPull"),
        ("nocmd", "CrashLoopBackOff"),
        ("env", "CreateContainerConfigError"),
        ("volume", "ContainerCreating"),
        ("root", "CreateContainerConfigError"),
    ] {
        eventually(&format!("{name} to be in {reason}"), WITHIN, || {
            let object = lab.get(&format!("pod {name}"));
            let mut all = statuses(&object);
            all.any(|c| c["state"]["waiting"]["reason"] == reason).then_some(())
        });
    }
    let events = lab.k("get events").ok();
    for wanted in [
        "Back-off restarting failed container c in pod crash_default(",
        "MountVolume.SetUp failed for volume \"v\" : configmap \"cm\" not found",
        "Error: configmap \"cm\" not found",
        "pintle image import",
        "container has runAsNonRoot and image will run as root",
    ] {
        assert!(events.contains(wanted), "{wanted:?} is not in:\n{events}");
    }
    lab.k("create configmap cm --from-literal=a=1").ok();
    let rootfs = pintle_tests::busybox();
    let path = rootfs.to_str().expect("path");
    lab.pintle(&["image", "import", path, "--name", "later:1"]).ok();
    for name in ["image", "env", "volume"] {
        ready(&lab, name);
    }
    lab.down();
}

#[test]
fn a_config_map_reaches_a_running_container() {
    let mut lab = lab("update");
    lab.k("create configmap cm --from-literal=a=old").ok();
    pod(
        &lab,
        "a",
        r#"{containers: [{name: c, image: "busybox:1", command: [sleep, "100000"], volumeMounts: [{name: v, mountPath: /v}]}], volumes: [{name: v, configMap: {name: cm}}], terminationGracePeriodSeconds: 0}"#,
    );
    ready(&lab, "a");
    assert_eq!(in_pod(&lab, "a", "cat /v/a"), "old");
    lab.kubectl(&["patch", "configmap", "cm", "-p", r#"{"data": {"a": "new", "b": "more"}}"#]).ok();
    eventually("the new content", WITHIN, || {
        (in_pod(&lab, "a", "cat /v/a /v/b 2>/dev/null; true") == "newmore").then_some(())
    });
    lab.down();
}

#[test]
fn logs_exec_attach_and_port_forward() {
    let mut lab = lab("access");
    pod(
        &lab,
        "a",
        r#"
  terminationGracePeriodSeconds: 0
  containers:
  - name: c
    image: busybox:1
    stdin: true
    command: [sh, -c, 'mkdir /www; echo hi > /www/index.html; httpd -p 80 -h /www; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done; while read l; do echo got $l; done; sleep 100000']"#,
    );
    ready(&lab, "a");
    eventually("all lines", WITHIN, || {
        (lab.k("logs a").ok().lines().count() == 3000).then_some(())
    });
    assert_eq!(lab.k("logs a --tail=2").ok(), "line 2998\nline 2999\n");
    assert_eq!(lab.k("logs a --limit-bytes=9").ok(), "line 0\nli");
    let stamped = lab.k("logs a --tail=1 --timestamps").ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 2999\n"), "{stamped}");
    assert!(lab.k("logs a --previous").failed().contains("previous terminated container"));

    let said = lab.kubectl(&["exec", "a", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.code, said.out.as_str()), (7, "out\n"));
    assert!(said.err.starts_with("err\n"), "{}", said.err);
    let script = "head -c 3000000 /dev/urandom > $HOME/blob; kubectl exec -i a -- sh -c 'cat > /tmp/blob' < $HOME/blob; \
                  kubectl exec a -- cat /tmp/blob | cmp - $HOME/blob && echo same";
    assert_eq!(lab.sh(script).ok(), "same\n");
    lab.sh("(echo typed; sleep 1) | timeout 5 kubectl attach -i a -c c").out.clear();
    eventually("what was typed", WITHIN, || {
        lab.k("logs a --tail=1").ok().contains("got typed").then_some(())
    });

    let script = "kubectl port-forward pod/a 18080:80 >$HOME/pf 2>&1 & p=$!; \
                  until grep -q Forwarding $HOME/pf; do sleep 0.05; done; \
                  curl -s --max-time 5 http://127.0.0.1:18080/; kill $p";
    assert_eq!(lab.sh(script).ok(), "hi\n");
    lab.down();
}

#[test]
fn a_kubelet_that_dies_disturbs_no_container() {
    let mut lab = lab("restart");
    lab.k("create deployment d --image=busybox:1 --replicas=10 -- sleep 100000").ok();
    lab.k("rollout status deployment/d --timeout=60s").ok();
    let seen = |lab: &Lab| -> Vec<(String, String, i64)> {
        let pods = lab.get("pods -l app=d");
        let mut all: Vec<_> = pods["items"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|p| {
                let c = &p["status"]["containerStatuses"][0];
                let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
                let count = c["restartCount"].as_i64().unwrap_or(-1);
                (text(&p["metadata"]["name"]), text(&c["containerID"]), count)
            })
            .collect();
        all.sort();
        all
    };
    let before = seen(&lab);
    assert_eq!(before.len(), 10);
    for round in 0..10 {
        let pid = lab.pid("kubelet");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
            .expect("kill");
        lab.k(&format!("scale deployment/d --replicas={}", 11 + round)).ok();
        eventually("a new kubelet", WITHIN, || {
            let all = lab.daemons();
            let new = all.iter().find(|d| d["name"] == "kubelet")?;
            (new["pid"].as_i64() != Some(i64::from(pid)) && new["ready"] == true).then_some(())
        });
    }
    lab.k("rollout status deployment/d --timeout=60s").ok();
    let after = seen(&lab);
    assert_eq!(after.len(), 20);
    for pod in &before {
        assert!(after.contains(pod), "{pod:?} was disturbed");
    }
    let pods = lab.get("pods -l app=d");
    let items = pods["items"].as_array().into_iter().flatten();
    let addresses: std::collections::BTreeSet<&str> =
        items.filter_map(|p| p["status"]["podIP"].as_str()).collect();
    assert_eq!(addresses.len(), 20, "every pod has an address of its own");
    lab.down();
}
