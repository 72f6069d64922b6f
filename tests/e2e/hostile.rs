//! Clients that break the rules of HTTP, TLS, JSON, YAML or the wire protocol, or do not read: each gets an error
//! as Kubernetes gives it (or its connection closed), and nobody else notices.

use pintle_tests::{Lab, kubectl_bin};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::time::Duration;

const CONFIGMAPS: &str = "https://127.0.0.1:6443/api/v1/namespaces/default/configmaps";

/// curl as the administrator; gives body and status code.
fn curl(lab: &Lab, args: &str) -> (String, String) {
    let pki = lab.dir.join("pki");
    let said = lab.sh(&format!(
        "curl -sS --max-time 20 --cacert {p}/ca.crt --cert {p}/admin.crt --key {p}/admin.key -w '\\n%{{http_code}}' {args}",
        p = pki.display()
    ));
    let text = said.ok();
    let (body, code) = text.rsplit_once('\n').expect("a code");
    (body.to_string(), code.to_string())
}

/// Posts a file that holds `body`.
fn post(lab: &Lab, content_type: &str, body: &[u8]) -> (String, String) {
    let path = lab.dir.join("body");
    fs::write(&path, body).expect("body");
    curl(
        lab,
        &format!(
            "-H 'Content-Type: {content_type}' --data-binary @{} {CONFIGMAPS}",
            path.display()
        ),
    )
}

fn pss_kib(pid: i32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the process lives");
    let line = text.lines().find(|l| l.starts_with("Pss:")).expect("Pss");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number")
}

#[test]
fn hostile_clients_hurt_only_themselves() {
    let mut lab = Lab::up("hostile", &[]);
    let pid = lab.pid("apiserver");

    bodies(&lab);
    bytes(&lab);
    does_not_read(&lab, pid);

    assert_eq!(lab.pid("apiserver"), pid, "the same process serves on");
    lab.k("get --raw /readyz").ok();
    lab.down();
}

fn bodies(lab: &Lab) {
    let named = |name: &str, value: &str| {
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"{value}"}}}}"#
        )
    };
    let (body, code) = post(lab, "application/json", named("big", &"x".repeat(4 << 20)).as_bytes());
    assert_eq!(code, "413", "{body}");
    assert!(body.contains("Request entity too large: limit is 3145728"), "{body}");
    let (body, code) = post(lab, "text/plain", b"{}");
    assert_eq!(code, "415", "{body}");
    let mut bomb = String::from(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bomb}\na0: &a0 [x, x, x, x, x, x, x, x, x, x]\n",
    );
    for i in 1..12 {
        let refs = vec![format!("*a{}", i - 1); 10].join(", ");
        bomb.push_str(&format!("a{i}: &a{i} [{refs}]\n"));
    }
    for (kind, text) in [
        ("application/json", "{".to_string()),
        ("application/json", "[".repeat(100_000)),
        ("application/json", "\u{0}".into()),
        (
            "application/json",
            r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":7}}"#.into(),
        ),
        ("application/json", r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x"}}"#.into()),
        ("application/yaml", "a: [".into()),
        ("application/yaml", bomb),
        ("application/vnd.kubernetes.protobuf", "k8s\u{0}\u{7f}\u{7f}\u{7f}".into()),
    ] {
        let (body, code) = post(lab, kind, text.as_bytes());
        assert_eq!(code, "400", "{kind} {:.60} -> {body}", text);
        assert!(body.contains("\"kind\":\"Status\""), "{kind} {:.60} -> {body}", text);
    }
    let (body, code) = curl(
        lab,
        &format!(
            "-H 'Content-Type: application/json-patch+json' -X PATCH -d '[{{\"op\":\"odd\"}}]' {CONFIGMAPS}/kube-root-ca.crt"
        ),
    );
    assert!(code.starts_with('4'), "{code} {body}");
}

fn bytes(lab: &Lab) {
    // What is no TLS, and what is nothing at all, on both ports.
    lab.sh(
        "for port in 6443 6444; do \
           head -c 300000 /dev/urandom | timeout 5 bash -c \"cat > /dev/tcp/127.0.0.1/$port\" 2>/dev/null; \
           printf 'GET / HTTP/1.1\\r\\n\\r\\n' | timeout 5 bash -c \"cat > /dev/tcp/127.0.0.1/$port\" 2>/dev/null; \
         done; true",
    )
    .ok();
    let mut silent = lab.command("bash");
    silent
        .args(["-c", "for i in $(seq 100); do exec {fd}<>/dev/tcp/127.0.0.1/6443; done; sleep 60"]);
    let mut silent = silent.spawn().expect("bash");
    // Bytes that are no frames, on the daemons' socket: the connection ends, the daemons' own go on.
    for seed in 0..20u8 {
        let mut socket = UnixStream::connect(lab.dir.join("run/apiserver.sock")).expect("socket");
        socket.set_read_timeout(Some(Duration::from_secs(20))).expect("timeout");
        let junk: Vec<u8> =
            (0..5000u32).map(|i| (i as u8).wrapping_mul(31).wrapping_add(seed)).collect();
        // It may be closed before all is written.
        let _ = socket.write_all(&junk);
        let mut rest = Vec::new();
        let ended = socket.read_to_end(&mut rest);
        assert!(
            ended.is_ok() || ended.is_err_and(|e| e.kind() != std::io::ErrorKind::WouldBlock),
            "the server closes the connection of a peer that speaks nonsense"
        );
    }
    lab.k("get nodes").ok();
    lab.k("create configmap after --from-literal=a=b").ok();
    silent.kill().expect("it ran");
    silent.wait().expect("it ends");
}

fn does_not_read(lab: &Lab, pid: i32) {
    let pki = lab.dir.join("pki");
    let mut watch = lab.command("curl");
    watch.args(["-sN", "--limit-rate", "1", "--cacert"]).arg(pki.join("ca.crt"));
    watch.arg("--cert").arg(pki.join("admin.crt")).arg("--key").arg(pki.join("admin.key"));
    watch.arg(format!("{CONFIGMAPS}?watch=1&timeoutSeconds=300")).stdout(Stdio::null());
    let mut watchers: Vec<_> = (0..5).map(|_| watch.spawn().expect("curl")).collect();
    let path = lab.dir.join("value");
    fs::write(&path, "x".repeat(900_000)).expect("value");
    let before = pss_kib(pid);
    for i in 0..10 {
        lab.sh(&format!(
            "{k} delete configmap big --ignore-not-found >/dev/null; {k} create configmap big --from-literal=n={i} --from-file={p} >/dev/null",
            k = kubectl_bin(),
            p = path.display()
        ))
        .ok();
    }
    let grown = pss_kib(pid).saturating_sub(before);
    // 5 watchers times 20 events of 0.9 MB would be 90 MB.
    assert!(grown < 40 << 10, "apiserver grew by {grown} KiB");
    lab.k("delete configmap big after").ok();
    for w in &mut watchers {
        w.kill().expect("it still watches");
        w.wait().expect("it ends");
    }
}
