//! `pintle`'s own verbs: a cluster without kubectl.

use pintle_tests::{Lab, pintle_bin, root, run};
use serde_json::Value;
use std::io::Write;
use std::process::{Command, Stdio};

#[test]
fn a_cluster_can_be_driven_without_kubectl() {
    let mut lab = Lab::up("verbs", &[]);
    lab.import_busybox();
    let images = lab.pintle(&["image", "ls"]).ok();
    assert!(images.contains("docker.io/library/busybox:1"), "{images}");

    let manifest = lab.dir.join("two.yaml");
    std::fs::write(
        &manifest,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: '1', b: '2'}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    \
         image: busybox:1\n    command: [sh, -c, 'echo one; echo two; exec sleep 1000']\n",
    )
    .expect("manifest");
    let path = manifest.to_str().expect("path");
    let made = lab.pintle(&["apply", "-f", path]).ok();
    assert_eq!(made, "configmap/settings created\npod/p created\n");
    assert_eq!(
        lab.pintle(&["apply", "-f", path]).ok(),
        "configmap/settings unchanged\npod/p unchanged\n"
    );
    // What the manifest no longer says goes; what others set stays.
    lab.k("annotate configmap settings other=here").ok();
    std::fs::write(
        &manifest,
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {a: '3'}\n",
    )
    .expect("manifest");
    assert_eq!(lab.pintle(&["apply", "-f", path]).ok(), "configmap/settings configured\n");
    let settings: Value =
        serde_json::from_str(&lab.pintle(&["get", "cm/settings", "-o", "json"]).ok())
            .expect("JSON");
    assert_eq!(settings["data"], serde_json::json!({"a": "3"}));
    assert_eq!(settings["metadata"]["annotations"]["other"], "here");

    lab.k("wait --for=condition=Ready pod/p --timeout=30s").ok();
    let table = lab.pintle(&["get", "pods", "-o", "wide"]).ok();
    assert!(
        table.lines().nth(1).is_some_and(|l| l.starts_with("p ") && l.contains("Running")),
        "{table}"
    );
    let text = lab.pintle(&["describe", "pod", "p"]).ok();
    assert!(text.contains("Scheduled") && text.contains("Started container c"), "{text}");
    assert_eq!(lab.pintle(&["logs", "p"]).ok(), "one\ntwo\n");
    assert_eq!(lab.pintle(&["logs", "p", "--tail", "1"]).ok(), "two\n");
    let said = lab.pintle(&["exec", "p", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((said.code, said.out.as_str(), said.err.as_str()), (7, "out\n", "err\n"));

    // A megabyte through standard input and back.
    let bytes: Vec<u8> = (0..1_000_000u32).map(|i| (i % 251) as u8).collect();
    let mut child = lab
        .command(pintle_bin())
        .args(["exec", "--data-dir", lab.dir.to_str().expect("path"), "-i", "p", "--", "cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("exec");
    let mut stdin = child.stdin.take().expect("stdin");
    let sent = bytes.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&sent));
    let out = child.wait_with_output().expect("output");
    writer.join().expect("writer").expect("written");
    assert!(out.status.success() && out.stdout == bytes, "{} bytes came back", out.stdout.len());

    for (args, words) in [
        (&["get", "gremlins"][..], "gremlins"),
        (&["get", "pod", "nobody"], "not found"),
        (&["logs", "nobody"], "not found"),
        (&["exec", "p", "-c", "x", "--", "true"], "x is not valid for pod p"),
        (&["apply", "-f", "/does/not/exist.yaml"], "/does/not/exist.yaml"),
    ] {
        let err = lab.pintle(args).failed();
        assert!(err.contains(words), "{args:?}: {err}");
    }
    lab.pintle(&["delete", "pod/p", "cm/settings", "--wait"]).ok();
    assert!(lab.pintle(&["get", "pods"]).ok().is_empty());
    assert!(lab.pintle(&["image", "rm", "busybox:1"]).ok().is_empty());
    lab.down();
}

#[test]
fn completion_and_help_need_no_cluster() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(Command::new(pintle_bin()).args(["completion", shell])).ok();
        assert!(script.contains("pintle") && script.contains("apply"), "{shell}");
    }
    let help = run(Command::new(pintle_bin()).arg("--help")).ok();
    for verb in
        ["up", "down", "status", "image", "get", "apply", "delete", "describe", "logs", "exec"]
    {
        assert!(help.contains(verb), "{verb} is missing in {help}");
    }
    let bash = run(Command::new(pintle_bin()).args(["completion", "bash"])).ok();
    let script = root().join("target/completion.bash");
    std::fs::write(&script, bash).expect("script");
    run(Command::new("bash").arg("-n").arg(&script)).ok();
}
