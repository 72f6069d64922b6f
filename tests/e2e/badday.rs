//! What a bad day looks like: daemons die, everything dies, the user errs.

use pintle_tests::{Lab, Load, eventually, pintle_bin, root, run};
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

fn kill(pid: i32) {
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL)
        .expect("kill");
}

fn demo(lab: &Lab) -> String {
    lab.import_web();
    let manifest = root().join("examples/web.yaml");
    lab.kubectl(&["apply", "-f", manifest.to_str().expect("path")]).ok();
    lab.k("rollout status deployment/web --timeout=60s").ok();
    lab.get("service web")["spec"]["clusterIP"].as_str().expect("clusterIP").to_owned()
}

/// Container ids by pod: a container that was restarted has another one.
fn containers(lab: &Lab) -> BTreeMap<String, String> {
    let pods = lab.get("pods -l app=web");
    let pods = pods["items"].as_array().expect("items");
    pods.iter()
        .map(|p| {
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            (
                text(&p["metadata"]["name"]),
                text(&p["status"]["containerStatuses"][0]["containerID"]),
            )
        })
        .collect()
}

fn nginx_pids(lab: &Lab) -> Vec<String> {
    // Only this laboratory's: in a cgroup of its cluster.
    let mut pids: Vec<String> = Vec::new();
    let ours: Vec<String> = lab
        .daemons()
        .iter()
        .filter(|d| d["name"] == "kubelet")
        .map(|d| std::fs::read_to_string(format!("/proc/{}/cmdline", d["pid"])).expect("cmdline"))
        .collect();
    let root = ours[0]
        .split('\0')
        .skip_while(|a| *a != "--cgroup-root")
        .nth(1)
        .expect("cgroup root")
        .to_owned();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let comm = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        let cgroup = std::fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
        if comm.trim() == "nginx" && cgroup.contains(&root) {
            pids.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    pids.sort();
    pids
}

#[test]
fn every_daemon_may_die_and_nobody_notices() {
    let mut lab = Lab::up("kill", &[]);
    let ip = demo(&lab);
    let before = (containers(&lab), nginx_pids(&lab));
    assert_eq!(before.1.len(), 6, "a master and a worker in each of three pods");
    let mut replicas = 3;
    for daemon in ["kubelet", "proxy", "dns", "scheduler", "controllers", "apiserver", "store"] {
        let load = Load::start(&lab, &format!("http://{ip}/"), 20);
        let old = lab.pid(daemon);
        kill(old);
        let new = eventually(&format!("{daemon} to be back"), SOON, || {
            let d = lab.daemons().into_iter().find(|d| d["name"] == daemon)?;
            (d["ready"] == true && d["pid"] != old && d["pid"] != 0).then(|| d["pid"].clone())
        });
        // What is asked now happens, whoever has just died.
        replicas += 1;
        let scaled = format!("scale deployment/web --replicas={replicas}");
        eventually(&format!("the API to take a change after {daemon} died"), SOON, || {
            (lab.k(&scaled).code == 0).then_some(())
        });
        lab.k("rollout status deployment/web --timeout=60s").ok();
        load.wait_for(40);
        let (all, failed) = load.stop();
        assert!(
            failed.is_empty(),
            "{} of {all} requests failed while {daemon} ({old} to {new}) was replaced: {failed:?}",
            failed.len()
        );
    }
    let after = (containers(&lab), nginx_pids(&lab));
    for (pod, id) in &before.0 {
        assert_eq!(after.0.get(pod), Some(id), "the container of {pod} must not be restarted");
    }
    for pid in &before.1 {
        assert!(after.1.contains(pid), "process {pid} must live on");
    }
    lab.down();
}

#[test]
fn everything_may_die_at_once() {
    let mut lab = Lab::up("killall", &[]);
    let ip = demo(&lab);
    let before: Value = lab.get("deployment,service,configmap,pod -A");
    let version = |v: &Value| {
        v["metadata"]["resourceVersion"]
            .as_str()
            .and_then(|s| s.parse::<u64>().ok())
            .expect("version")
    };
    let supervisor: i32 = std::fs::read_to_string(lab.dir.join("run/supervisor.pid"))
        .expect("pid")
        .trim()
        .parse()
        .expect("pid");
    kill(supervisor);
    for d in lab.daemons() {
        kill(i32::try_from(d["pid"].as_i64().expect("pid")).expect("pid"));
    }
    lab.pintle_up(&[]).ok();
    let after = lab.get("deployment,service,configmap,pod -A");
    for old in before["items"].as_array().expect("items") {
        let same = |new: &&Value| {
            new["kind"] == old["kind"] && new["metadata"]["uid"] == old["metadata"]["uid"]
        };
        let new = after["items"].as_array().expect("items").iter().find(same);
        let new =
            new.unwrap_or_else(|| panic!("{} {} is lost", old["kind"], old["metadata"]["name"]));
        assert!(
            version(new) >= version(old),
            "{} went back from {} to {}",
            old["metadata"]["name"],
            version(old),
            version(new)
        );
    }
    lab.k("rollout status deployment/web --timeout=60s").ok();
    lab.k("wait --for=condition=Ready pod -l app=web --timeout=60s").ok();
    eventually("the service to answer", SOON, || {
        (lab.sh(&format!("curl -sSf --max-time 5 http://{ip}/")).code == 0).then_some(())
    });
    lab.down();
}

#[test]
fn down_works_after_a_crash_and_twice() {
    let mut lab = Lab::up("crash", &["--nodes", "2"]);
    lab.import_busybox();
    lab.kubectl(&[
        "create",
        "deployment",
        "sleepers",
        "--image=busybox:1",
        "--replicas=4",
        "--",
        "sleep",
        "1000",
    ])
    .ok();
    lab.k("rollout status deployment/sleepers --timeout=60s").ok();
    let supervisor: i32 = std::fs::read_to_string(lab.dir.join("run/supervisor.pid"))
        .expect("pid")
        .trim()
        .parse()
        .expect("pid");
    kill(supervisor);
    lab.down();
    lab.pintle(&["down"]).ok();
    // A second life on the same data.
    lab.pintle_up(&[]).ok();
    lab.k("rollout status deployment/sleepers --timeout=60s").ok();
    assert_eq!(lab.get("nodes")["items"].as_array().map(Vec::len), Some(2));
    lab.down();
}

#[test]
fn user_errors_are_one_clear_line() {
    let lab = Lab::new("errors");
    let one_line = |said: pintle_tests::Said, words: &[&str]| {
        let err = said.failed();
        let lines: Vec<&str> = err.lines().filter(|l| !l.starts_with('[')).collect();
        assert_eq!(lines.len(), 1, "one line: {err}");
        for w in words {
            assert!(err.contains(w), "{w:?} is missing in: {err}");
        }
    };
    // Not root.
    let bin = lab.dir.join("pintle");
    std::fs::copy(pintle_bin(), &bin).expect("copy");
    let as_nobody = |args: &[&str]| {
        run(Command::new("setpriv")
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(&bin)
            .args(args))
    };
    run(Command::new("chmod").arg("755").arg(&lab.dir).arg(&bin)).ok();
    one_line(as_nobody(&["up", "--data-dir", "/tmp/pt-nobody"]), &["root", "sudo"]);
    assert!(!std::path::Path::new("/tmp/pt-nobody").exists(), "nothing half made");
    // Port in use.
    let mut listener =
        lab.command("busybox").args(["nc", "-l", "-p", "6443"]).spawn().expect("listener");
    eventually("the port to be taken", SOON, || {
        lab.sh("busybox netstat -ltn | grep -q :6443")
            .out
            .is_empty()
            .then_some(())
            .filter(|()| lab.sh("busybox netstat -ltn | grep :6443").code == 0)
    });
    one_line(lab.pintle_up(&[]), &["6443", "in use", "--api-port"]);
    listener.kill().expect("kill");
    listener.wait().expect("wait");
    assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
    // No room on the disk.
    let small = lab.dir.join("small");
    std::fs::create_dir(&small).expect("folder");
    run(Command::new("mount").args(["-t", "tmpfs", "-o", "size=10m", "none"]).arg(&small)).ok();
    let said = run(lab.command(pintle_bin()).arg("up").arg("--data-dir").arg(small.join("d")));
    run(Command::new("umount").arg(&small)).ok();
    one_line(said, &["free", "--data-dir"]);
    // A kernel feature is missing: here the cgroups, which `ip netns exec` hides behind a new /sys.
    let mut hidden = Command::new("ip");
    hidden
        .args(["netns", "exec", &lab.netns])
        .arg(pintle_bin())
        .arg("up")
        .arg("--data-dir")
        .arg(&lab.dir);
    one_line(run(&mut hidden), &["cgroup v2", "mount"]);
    assert!(lab.leftovers().is_empty(), "{:?}", lab.leftovers());
    // Nothing there, and nonsense.
    one_line(lab.pintle(&["status"]), &["pintle up"]);
    one_line(lab.pintle(&["get", "pods"]), &["pintle up"]);
    let nodes = lab.pintle_up(&["--nodes", "0"]).failed();
    assert!(nodes.contains("--nodes"), "{nodes}");
    let image = lab.pintle(&["image", "import", "/does/not/exist", "--name", "x:1"]).failed();
    assert!(image.contains("/does/not/exist"), "{image}");
}

#[test]
fn wrong_kubeconfig_and_malformed_input() {
    let mut lab = Lab::up("malformed", &[]);
    lab.import_busybox();
    // A certificate of another authority.
    let other = Lab::new("other");
    other.pintle_up(&["--components", "store,apiserver"]).ok();
    let wrong = run(lab.command(pintle_tests::kubectl_bin()).args([
        "--kubeconfig",
        other.dir.join("admin.kubeconfig").to_str().expect("path"),
        "get",
        "pods",
    ]));
    let text = wrong.failed();
    assert!(text.contains("certificate") || text.contains("Unauthorized"), "{text}");
    drop(other);
    // Through the API: what is wrong is named, and nothing is made.
    let cases = [
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: [{name: c, image: b, bogus: 1}]}\n",
            "unknown field \"spec.containers[0].bogus\"",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: X_}\nspec: {containers: [{name: c, image: b}]}\n",
            "metadata.name: Invalid value",
        ),
        (
            "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {containers: []}\n",
            "spec.containers: Required value",
        ),
        (
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata: {a: [1]}\n",
            "cannot unmarshal",
        ),
    ];
    for (manifest, words) in cases {
        let err = lab.apply(manifest).failed();
        assert!(err.contains(words), "{words:?} is missing in: {err}");
    }
    // An unknown kind. (kubectl would look for it in OpenAPI v2 first, which is not served yet.)
    let gremlin = lab.dir.join("gremlin.yaml");
    std::fs::write(&gremlin, "apiVersion: nowhere/v1\nkind: Gremlin\nmetadata: {name: x}\n")
        .expect("file");
    let gremlin = gremlin.to_str().expect("path");
    let err = lab.kubectl(&["apply", "--validate=false", "-f", gremlin]).failed();
    assert!(err.contains("no matches for kind"), "{err}");
    let big = "x".repeat(4 << 20);
    let url = "https://127.0.0.1:6443/api/v1/namespaces/default/configmaps";
    let pki = lab.dir.join("pki");
    let curl = |args: &str| {
        lab.sh(&format!("curl -sS --max-time 20 --cacert {0}/ca.crt --cert {0}/admin.crt --key {0}/admin.key {args}", pki.display()))
    };
    std::fs::write(lab.dir.join("big"), format!("{{\"data\":{{\"a\":\"{big}\"}}}}")).expect("file");
    let code = curl(&format!("-o /dev/null -w '%{{http_code}}' -H 'Content-Type: application/json' --data-binary @{} {url}", lab.dir.join("big").display())).ok();
    assert_eq!(code, "413");
    for body in ["{", "[]", "null", "{\"kind\":1}", "\\xff"] {
        let code = curl(&format!("-o /dev/null -w '%{{http_code}}' -H 'Content-Type: application/json' --data-binary '{body}' {url}")).ok();
        assert_eq!(code, "400", "{body}");
    }
    // Bytes that are no protocol at all, on every door.
    for port in [6443, 6444] {
        lab.sh(&format!(
            "head -c 100000 /dev/urandom | busybox nc -w 2 127.0.0.1 {port} >/dev/null"
        ))
        .out
        .clear();
    }
    for socket in ["store", "apiserver"] {
        let path = lab.dir.join("run").join(format!("{socket}.sock"));
        use std::io::Write;
        let mut s = std::os::unix::net::UnixStream::connect(path).expect("connect");
        let _ = s.write_all(&[0xff; 100_000]);
    }
    // A client that stops reading: a watch whose socket nobody drains, while a thousand changes happen.
    let mut lazy = lab
        .command("sh")
        .args(["-c", &format!("curl -sS -N --cacert {0}/ca.crt --cert {0}/admin.crt --key {0}/admin.key '{url}?watch=true' | sleep 60", pki.display())])
        .spawn()
        .expect("watcher");
    for i in 0..50 {
        lab.kubectl(&[
            "create",
            "configmap",
            &format!("c{i}"),
            &format!("--from-literal=a={}", "y".repeat(100_000)),
        ])
        .ok();
    }
    let rss = |name: &str| {
        lab.daemons()
            .iter()
            .find(|d| d["name"] == name)
            .and_then(|d| d["pss_bytes"].as_u64())
            .expect("pss")
    };
    assert!(rss("apiserver") < 120 << 20, "the API server holds {} MB", rss("apiserver") >> 20);
    let _ = lazy.kill();
    let _ = lazy.wait();
    assert!(
        lab.daemons().iter().all(|d| d["restarts"] == 0 && d["ready"] == true),
        "{:?}",
        lab.daemons()
    );
    assert_eq!(lab.get("configmaps")["items"].as_array().map(Vec::len), Some(51));
    lab.down();
}
