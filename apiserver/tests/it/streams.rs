//! Exec, logs and port-forward between a client made of bytes and a node made of frames.

use crate::web::{Daemon, Web, frames, parse};
use pintle_apiserver::front::ConnId;
use pintle_wire::msg::node::{Frame, Request};
use pintle_wire::{Event, ResetCode, SendError};
use std::time::Duration;

/// A cluster of one node and one pod with one container on it, and the node's kubelet.
fn cluster() -> (Web, ConnId, Daemon) {
    let mut web = Web::new();
    let mut c = web.admin();
    let node = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"}}"#;
    assert_eq!(web.send(&mut c, "POST", "/api/v1/nodes", node).code, 201);
    let pod = r#"{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"},"spec":{"nodeName":"n1",
        "automountServiceAccountToken":false,"containers":[{"name":"c","image":"i"}]}}"#;
    let made = web.send(&mut c, "POST", "/api/v1/namespaces/default/pods", pod);
    assert_eq!(made.code, 201, "{made:?}");
    let kubelet = Daemon::connect(&mut web, "kubelet", "n1");
    (web, c, kubelet)
}

const POD: &str = "/api/v1/namespaces/default/pods/p";

fn upgrade(path: &str, protocol: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    )
}

fn masked(payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0x82];
    match payload.len() {
        n @ 0..=125 => out.push(0x80 | n as u8),
        n => {
            out.push(0xfe);
            out.extend_from_slice(&(n as u16).to_be_bytes());
        }
    }
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

fn data(channel: u8, bytes: &[u8]) -> Frame {
    Frame::Data { channel, bytes: bytes.to_vec() }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}

#[test]
fn exec_runs_from_upgrade_to_exit_code() {
    let (mut web, c, mut kubelet) = cluster();
    let path = format!("{POD}/exec?command=sh&stdin=true&stdout=true&stderr=true");
    web.write(c, upgrade(&path, "v5.channel.k8s.io").as_bytes());
    assert!(web.read(c).is_empty(), "nothing is said before the node has accepted");
    let (stream, request) = kubelet.opened(&mut web);
    let Request::Exec { target, command, io } = request else { panic!("{request:?}") };
    assert_eq!((target.pod.as_str(), target.container.as_str()), ("p", "c"));
    assert!(!target.uid.is_empty() && command == ["sh"] && io.stdin && !io.tty);
    kubelet.send(&mut web, stream, &Frame::Accepted);
    let head = web.read(c);
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    assert!(contains(&head, "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    web.write(c, &[masked(b"\x00hi"), masked(b"\xff\x00")].concat());
    let got = frames(&kubelet.turn(&mut web));
    assert_eq!(got, [data(0, b"hi"), Frame::CloseChannel { channel: 0 }]);
    kubelet.send(&mut web, stream, &data(1, b"out"));
    assert_eq!(web.read(c), b"\x82\x04\x01out");
    kubelet.send(&mut web, stream, &Frame::Exit { code: 3 });
    let end = web.read(c);
    assert!(contains(&end, r#""reason":"ExitCode""#) && end.ends_with(&[0x88, 2, 3, 0xe8]));
    assert!(web.front.is_done(c));
}

#[test]
fn what_the_node_refuses_is_an_answer_and_not_a_stream() {
    let (mut web, c, mut kubelet) = cluster();
    let path = format!("{POD}/exec?command=sh&stdout=true");
    web.write(c, upgrade(&path, "v5.channel.k8s.io").as_bytes());
    let (stream, _) = kubelet.opened(&mut web);
    let failed = Frame::Failed {
        code: 404,
        reason: "NotFound".into(),
        message: "container not found (\"c\")".into(),
    };
    kubelet.send(&mut web, stream, &failed);
    let answer = parse(&web.read(c));
    assert_eq!((answer.code, answer.json()["reason"].as_str()), (404, Some("NotFound")));
    // The same connection can ask again, and hears what is wrong before any node does.
    for (path, code, text) in [
        (
            format!("{POD}/exec?command=sh&stdout=true&container=x"),
            400,
            "container x is not valid for pod p",
        ),
        (format!("{POD}/exec?stdout=true"), 400, "at least one command"),
        (format!("{POD}x/exec?command=sh&stdout=true"), 404, "pods \\\"px\\\" not found"),
    ] {
        web.write(c, upgrade(&path, "v5.channel.k8s.io").as_bytes());
        let answer = parse(&web.read(c));
        assert!(answer.code == code && answer.body.contains(text), "{path}: {answer:?}");
    }
    let mut c = c;
    let plain = web.send(&mut c, "POST", &path, "");
    assert_eq!(plain.json()["message"], "Upgrade request required");
    let mut alice = web.client("alice", "devs");
    let refused = web.send(&mut alice, "POST", &path, "");
    assert!(refused.body.contains("cannot create resource \\\"pods/exec\\\""), "{refused:?}");
}

#[test]
fn a_node_that_goes_away_ends_its_streams() {
    let (mut web, c, mut kubelet) = cluster();
    let path = format!("{POD}/attach?stdout=true");
    web.write(c, upgrade(&path, "v4.channel.k8s.io").as_bytes());
    let (stream, _) = kubelet.opened(&mut web);
    kubelet.send(&mut web, stream, &Frame::Accepted);
    web.read(c);
    web.front.closed(kubelet.id, web.now);
    assert!(contains(&web.read(c), "the connection to the node is gone"));
    let other = web.admin();
    web.write(other, upgrade(&path, "v4.channel.k8s.io").as_bytes());
    let answer = parse(&web.read(other));
    assert!(
        answer.body.contains("node \\\\\\\"n1\\\\\\\" is not connected")
            || answer.body.contains("is not connected"),
        "{answer:?}"
    );
}

#[test]
fn a_client_that_goes_away_ends_the_command() {
    let (mut web, c, mut kubelet) = cluster();
    web.write(
        c,
        upgrade(&format!("{POD}/exec?command=sh&stdout=true"), "v5.channel.k8s.io").as_bytes(),
    );
    let (stream, _) = kubelet.opened(&mut web);
    kubelet.send(&mut web, stream, &Frame::Accepted);
    web.front.closed(c, web.now);
    let events = kubelet.turn(&mut web);
    assert!(
        matches!(events.as_slice(), [Event::Reset(s, ResetCode::Cancel)] if *s == stream),
        "{events:?}"
    );
}

#[test]
fn logs_stream_as_chunks_and_follow() {
    let (mut web, mut c, mut kubelet) = cluster();
    let path = format!("{POD}/log?follow=true&tailLines=10");
    web.write(c, format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
    let (stream, request) = kubelet.opened(&mut web);
    let Request::Logs { options, .. } = request else { panic!("{request:?}") };
    assert_eq!((options.follow, options.tail_lines), (true, Some(10)));
    kubelet.send(&mut web, stream, &Frame::Accepted);
    kubelet.send(&mut web, stream, &data(1, b"one\n"));
    let first = String::from_utf8(web.read(c)).expect("ascii");
    assert!(first.contains("Content-Type: text/plain") && first.ends_with("4\r\none\n\r\n"));
    kubelet.send(&mut web, stream, &data(1, b"two\n"));
    kubelet.send(&mut web, stream, &Frame::End);
    assert_eq!(web.read(c), b"4\r\ntwo\n\r\n0\r\n\r\n");
    assert_eq!(web.send(&mut c, "GET", "/version", "").code, 200, "the connection goes on");
}

#[test]
fn a_client_that_does_not_read_stalls_only_its_own_command() {
    let (mut web, c, mut kubelet) = cluster();
    web.write(
        c,
        upgrade(&format!("{POD}/exec?command=yes&stdout=true"), "v5.channel.k8s.io").as_bytes(),
    );
    let (stream, _) = kubelet.opened(&mut web);
    kubelet.send(&mut web, stream, &Frame::Accepted);
    web.read(c);
    let piece = pintle_wire::msg::encode(&data(1, &[b'y'; 32 << 10]));
    let mut sent = 0usize;
    for _ in 0..1000 {
        match kubelet.conn.send(stream, &piece, &[]) {
            Ok(()) => sent += 32 << 10,
            Err(SendError::Blocked) => break,
            Err(e) => panic!("{e:?}"),
        }
        kubelet.turn(&mut web);
    }
    assert!(sent < 4 << 20, "the node was stopped after {sent} bytes");
    let mut got = web.read(c).len();
    assert!(got <= sent + (64 << 10));
    // The client reads again, and the node may go on.
    kubelet.turn(&mut web);
    kubelet.conn.send(stream, &piece, &[]).expect("credit came back");
    kubelet.turn(&mut web);
    got += web.read(c).len();
    assert!(got > sent);
    // Others were served all the time.
    let mut other = web.admin();
    assert_eq!(web.send(&mut other, "GET", "/version", "").code, 200);
    web.pass(Duration::from_secs(1));
}

#[test]
fn input_waits_for_the_nodes_credit() {
    let (mut web, c, mut kubelet) = cluster();
    web.write(
        c,
        upgrade(&format!("{POD}/exec?command=cat&stdin=true"), "v5.channel.k8s.io").as_bytes(),
    );
    let (stream, _) = kubelet.opened(&mut web);
    kubelet.send(&mut web, stream, &Frame::Accepted);
    web.read(c);
    let message = masked(&[&[0u8][..], &[b'i'; 32 << 10]].concat());
    let mut unread = Vec::new();
    let mut sent = 0;
    while web.front.wants_input(c) {
        assert!(sent < 200, "the client is never told to wait");
        web.write(c, &message);
        sent += 1;
        unread.extend(kubelet.turn(&mut web));
    }
    for _ in 0..200 {
        for event in std::mem::take(&mut unread) {
            if let Event::Message(s, bytes) = event {
                kubelet.conn.consumed(s, bytes.len());
            }
        }
        unread = kubelet.turn(&mut web);
        if unread.is_empty() {
            break;
        }
    }
    assert!(web.front.wants_input(c), "and goes on when the node has read");
    assert!(sent > 32);
}

#[test]
fn port_forward_by_channels_reaches_the_node() {
    let (mut web, c, mut kubelet) = cluster();
    web.write(c, upgrade(&format!("{POD}/portforward?ports=80"), "v4.channel.k8s.io").as_bytes());
    let head = web.read(c);
    assert!(head.ends_with(&[0x82, 3, 0, 80, 0, 0x82, 3, 1, 80, 0]), "{head:?}");
    let (stream, request) = kubelet.opened(&mut web);
    assert!(matches!(request, Request::PortForward { port: 80, .. }), "{request:?}");
    kubelet.send(&mut web, stream, &Frame::Accepted);
    web.write(c, &masked(b"\x00GET /"));
    assert_eq!(frames(&kubelet.turn(&mut web)), [data(0, b"GET /")]);
    kubelet.send(&mut web, stream, &data(1, b"hello"));
    assert_eq!(web.read(c), b"\x82\x06\x00hello");
    kubelet.send(&mut web, stream, &Frame::End);
    assert!(web.read(c).ends_with(&[0x88, 2, 3, 0xe8]));
}

#[test]
fn a_nodes_own_pages_come_over_its_connection() {
    let (mut web, c, mut kubelet) = cluster();
    let path = "/api/v1/nodes/n1/proxy/stats/summary?only_cpu_and_memory=true";
    web.write(c, format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
    let (stream, request) = kubelet.opened(&mut web);
    let want = Request::Get { path: "/stats/summary?only_cpu_and_memory=true".into() };
    assert_eq!(request, want);
    kubelet.send(&mut web, stream, &Frame::Accepted);
    kubelet.send(&mut web, stream, &data(1, b"{}"));
    kubelet.send(&mut web, stream, &Frame::End);
    let answer = parse(&web.read(c));
    assert_eq!((answer.code, answer.body.as_str()), (200, "{}"));
    assert!(answer.head.contains("application/json"), "{answer:?}");
}
