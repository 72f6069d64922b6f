//! What goes between the user's terminal and a container: exec, attach, logs, port-forward, cp, watches. With the
//! kubectl of this machine and with every other that lies beside it (they speak different protocols: SPDY,
//! WebSocket channels, SPDY inside WebSocket; JSON and protobuf bodies).

use pintle_tests::{Lab, Said, eventually, kubectl_bin, run};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: box, labels: {app: box}}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "echo started; while read line; do echo got $line; done; sleep 100000"]
    stdin: true
  - name: web
    image: busybox:1
    command: [sh, -c, "echo hello > /var/www/index.html; httpd -f -p 8080 -h /var/www"]
---
apiVersion: v1
kind: Pod
metadata: {name: crasher}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: main
    image: busybox:1
    command: [sh, -c, "for i in 1 2 3 4 5; do echo line $i; done; [ -e /mark/x ] && sleep 100000; touch /mark/x; exit 1"]
    volumeMounts: [{name: mark, mountPath: /mark}]
  volumes: [{name: mark, emptyDir: {}}]
"#;

fn lab(what: &str) -> Lab {
    let lab = Lab::up(what, &[]);
    lab.import_busybox();
    lab.apply(PODS).ok();
    lab.k("wait --for=condition=Ready pod/box pod/crasher --timeout=60s").ok();
    lab
}

/// Every kubectl that lies beside the one in use, that one first.
fn kubectls() -> Vec<PathBuf> {
    let found =
        run(Command::new("sh")
            .args(["-c", &format!("readlink -f $(command -v {})", kubectl_bin())]));
    let own = PathBuf::from(found.ok().trim());
    let folder = own.parent().expect("a folder").to_path_buf();
    let mut all: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("its folder")
        .flatten()
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("kubectl.1.")))
        .collect();
    all.sort();
    all.insert(0, own);
    eprintln!("kubectls: {all:?}");
    all
}

/// Runs a program of the laboratory with bytes on its standard input.
fn feed(command: &mut Command, input: &[u8]) -> Said {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let said = child.wait_with_output().expect("it ends").into();
    // A program that ended early has closed its input; what it said tells why.
    let _ = writer.join();
    said
}

/// A program that runs until it is dropped.
struct Running(Child);

impl Running {
    fn start(command: &mut Command) -> Running {
        Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts"))
    }

    fn lines(&mut self) -> impl Iterator<Item = String> + use<> {
        BufReader::new(self.0.stdout.take().expect("piped")).lines().map_while(Result::ok)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn exec_carries_streams_and_exit_codes() {
    let mut lab = lab("exec");
    let out = lab.kubectl(&[
        "exec",
        "box",
        "-c",
        "main",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ]);
    assert_eq!((out.code, out.out.as_str()), (7, "out\n"));
    assert!(out.err.contains("err\n") && out.err.contains("exit code 7"), "{out:?}");

    // More than any window on the way, in both directions at once, unchanged.
    let big: Vec<u8> = (0..8_000_000u32).map(|i| (i ^ (i >> 8)) as u8).collect();
    let path = lab.dir.join("big");
    std::fs::write(&path, &big).expect("file");
    let said = lab.sh(&format!(
        "{} exec -i box -c main -- cat < {p} | cmp - {p} && echo same",
        kubectl_bin(),
        p = path.display()
    ));
    assert_eq!(said.out.trim(), "same", "{said:?}");
    lab.kubectl(&["cp", path.to_str().expect("path"), "box:/tmp/big", "-c", "main"]).ok();
    let back = lab.dir.join("back");
    lab.kubectl(&["cp", "box:/tmp/big", back.to_str().expect("path"), "-c", "main"]).ok();
    assert!(std::fs::read(&back).expect("copied back") == big);

    // A terminal.
    let tty = feed(
        lab.command(kubectl_bin())
            .args(["exec", "-i", "box", "-c", "main", "--", "sh", "-c", "cat; tty"]),
        b"x\n",
    );
    assert!(tty.out.starts_with("x\n"), "{tty:?}");

    let wrong = lab.k("exec box -c nope -- true").failed();
    assert!(wrong.contains("container nope is not valid for pod box"), "{wrong}");
    let wrong = lab.k("exec nobody -- true").failed();
    assert!(wrong.contains("pods \"nobody\" not found"), "{wrong}");
    let wrong = lab.k("exec box -c main -- /no/such/program").failed();
    assert!(wrong.contains("/no/such/program"), "{wrong}");
    lab.down();
}

#[test]
fn logs_are_cut_followed_and_remembered() {
    let mut lab = lab("logs");
    assert_eq!(lab.k("logs crasher --tail=2").ok(), "line 4\nline 5\n");
    assert_eq!(lab.k("logs crasher --limit-bytes=6").ok(), "line 1");
    assert_eq!(lab.k("logs crasher --previous").ok().lines().count(), 5);
    let stamped = lab.k("logs crasher --timestamps --tail=1").ok();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z line 5\n"), "{stamped}");
    let none = lab.k("logs box -c web --previous").failed();
    assert!(
        none.contains("previous terminated container \"web\" in pod \"box\" not found"),
        "{none}"
    );
    let both = lab.k("logs -l app=box --all-containers --prefix").ok();
    assert!(both.contains("[pod/box/main] started"), "{both}");

    // Follow, while somebody speaks to the container by attach.
    let mut follow =
        Running::start(lab.command(kubectl_bin()).args(["logs", "-f", "box", "-c", "main"]));
    let mut lines = follow.lines();
    assert_eq!(lines.next().as_deref(), Some("started"));
    let mut attach = lab.command(kubectl_bin());
    attach.args(["attach", "-i", "box", "-c", "main"]).stdin(Stdio::piped());
    let mut attach = Running::start(&mut attach);
    let mut input = attach.0.stdin.take().expect("piped");
    input.write_all(b"one\n").expect("attach reads");
    assert_eq!(lines.next().as_deref(), Some("got one"));
    let mut echoed = attach.lines().filter(|l| l.starts_with("got"));
    assert_eq!(echoed.next().as_deref(), Some("got one"), "attach shows the output too");
    drop(input);
    drop((attach, follow));
    lab.down();
}

#[test]
fn watches_show_what_happens_while_it_happens() {
    let mut lab = lab("watch");
    let mut watch =
        Running::start(lab.command(kubectl_bin()).args(["get", "pods", "-w", "--no-headers"]));
    let mut lines = watch.lines();
    let first: Vec<String> = lines.by_ref().take(2).collect();
    assert!(first[0].starts_with("box") && first[1].starts_with("crasher"), "{first:?}");
    lab.k("run late --image=busybox:1 --restart=Never --command -- sleep 1000").ok();
    let seen = lines.find(|l| l.contains("Running") && l.starts_with("late"));
    assert!(seen.is_some_and(|l| l.contains("1/1")));
    lab.k("delete pod late --now").ok();
    drop(watch);
    lab.down();
}

#[test]
fn every_kubectl_can_exec_log_and_forward() {
    let mut lab = lab("kubectls");
    for (i, kubectl) in kubectls().iter().enumerate() {
        let k = |line: &str| run(lab.command(kubectl).args(line.split(' ')));
        let name = kubectl.display();
        assert_eq!(k("exec box -c main -- echo hi").ok(), "hi\n", "{name}");
        let piped = feed(
            lab.command(kubectl).args(["exec", "-i", "box", "-c", "main", "--", "cat"]),
            b"in and out",
        );
        assert_eq!(piped.ok(), "in and out", "{name}");
        let exit = lab
            .command(kubectl)
            .args(["exec", "box", "-c", "main", "--", "sh", "-c", "exit 3"])
            .status();
        assert_eq!(exit.expect("it runs").code(), Some(3), "{name}");
        assert!(k("logs crasher --tail=1").ok().contains("line 5"), "{name}");
        k(&format!("create configmap c{i} --from-literal=a=b")).ok();
        assert_eq!(k(&format!("get configmap c{i} -o jsonpath={{.data.a}}")).ok(), "b", "{name}");
        assert!(k("get pods").ok().contains("1/1"), "{name}: the server prints the columns");

        let port = 18_080 + i;
        let forward = Running::start(lab.command(kubectl).args([
            "port-forward",
            "pod/box",
            &format!("{port}:8080"),
        ]));
        let url = format!("http://127.0.0.1:{port}/");
        let answer = eventually("port-forward", Duration::from_secs(20), || {
            let said = lab.sh(&format!("curl -sS --max-time 5 {url}"));
            (said.code == 0).then_some(said.out)
        });
        assert_eq!(answer, "hello\n", "{name}");
        let many =
            lab.sh(&format!("for i in $(seq 20); do curl -sS --max-time 10 {url} & done; wait"));
        assert_eq!(many.out, "hello\n".repeat(20), "{name}: connections at the same time");
        drop(forward);
    }
    lab.down();
}
