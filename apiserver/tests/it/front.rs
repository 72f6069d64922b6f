//! HTTP and wire clients against front and core: routing, forms of answers, watches, who may do what.

use crate::web::{Daemon, Web, unchunk};
use pintle_apiserver::front::Peer;
use pintle_wire::msg::api::{self, Verb};
use pintle_wire::msg::{self, Info, Open};
use pintle_wire::{Event, ResetCode, StreamId};
use serde_json::Value;
use std::time::Duration;

const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

fn configmap(name: &str, value: &str) -> String {
    format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}"}},"data":{{"k":"{value}"}}}}"#
    )
}

#[test]
fn objects_are_made_read_changed_and_deleted_over_one_connection() {
    let mut web = Web::new();
    let mut c = web.admin();
    let made = web.send(&mut c, "POST", CONFIGMAPS, &configmap("a", "1"));
    assert_eq!(made.code, 201, "{made:?}");
    assert!(made.head.contains("Content-Type: application/json"), "{made:?}");
    let one = format!("{CONFIGMAPS}/a");
    assert_eq!(web.send(&mut c, "GET", &one, "").json()["data"]["k"], "1");
    let head = format!("PATCH {one} HTTP/1.1\r\nContent-Type: application/merge-patch+json");
    assert_eq!(web.ask(&mut c, &head, r#"{"data":{"k":"2"}}"#).json()["data"]["k"], "2");
    let yaml = format!("GET {one} HTTP/1.1\r\nAccept: application/yaml");
    assert!(web.ask(&mut c, &yaml, "").body.starts_with("apiVersion: v1\n"));
    let gone = web.send(&mut c, "DELETE", &one, "");
    assert_eq!((gone.code, gone.json()["status"].as_str()), (200, Some("Success")));
    let missing = web.send(&mut c, "GET", &one, "");
    assert_eq!(missing.json()["message"], "configmaps \"a\" not found");
    assert_eq!(web.send(&mut c, "PUT", CONFIGMAPS, "{}").code, 405);
    assert_eq!(web.send(&mut c, "GET", "/api/v1/nosuch", "").code, 404);
}

#[test]
fn strangers_get_401_and_the_anonymous_what_rbac_gives_them() {
    let mut web = Web::new();
    let mut nobody = web.nobody();
    let refused = web.send(&mut nobody, "GET", CONFIGMAPS, "");
    assert_eq!(refused.code, 403);
    assert!(refused.body.contains("User \\\"system:anonymous\\\" cannot list"), "{refused:?}");
    assert_eq!(web.send(&mut nobody, "GET", "/version", "").code, 200);
    assert_eq!(web.send(&mut nobody, "GET", "/metrics", "").code, 403);
    let bad = format!("GET {CONFIGMAPS} HTTP/1.1\r\nAuthorization: Bearer nonsense");
    assert_eq!(web.ask(&mut nobody, &bad, "").json()["reason"], "Unauthorized");
    // The 403 comes before what is wrong with the request.
    let mut alice = web.client("alice", "devs");
    let odd = format!("POST {CONFIGMAPS} HTTP/1.1\r\nContent-Type: text/plain");
    assert_eq!(web.ask(&mut alice, &odd, "x").code, 403);
    let mut other = Web::new();
    let mut mallory = other.admin();
    let chain = {
        // A certificate of another cluster's authority.
        let _ = other.send(&mut mallory, "GET", "/version", "");
        vec![vec![0x30, 0x00]]
    };
    let mut strange = web.front.accept_http(Peer { chain, ..Peer::default() }, web.now);
    assert_eq!(web.send(&mut strange, "GET", "/version", "").code, 401);
}

#[test]
fn impersonation_needs_the_right() {
    let mut web = Web::new();
    let mut c = web.admin();
    let as_bob = format!("GET {CONFIGMAPS} HTTP/1.1\r\nImpersonate-User: bob");
    let refused = web.ask(&mut c, &as_bob, "");
    assert!(refused.body.contains("User \\\"bob\\\" cannot list"), "{refused:?}");
    let mut alice = web.client("alice", "devs");
    let refused = web.ask(&mut alice, &as_bob, "");
    assert!(refused.body.contains("User \\\"alice\\\" cannot impersonate-on"), "{refused:?}");
}

#[test]
fn discovery_has_an_etag_that_spares_the_body() {
    let mut web = Web::new();
    let mut c = web.admin();
    let accept = "Accept: application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let first = web.ask(&mut c, &format!("GET /apis HTTP/1.1\r\n{accept}"), "");
    assert_eq!(first.json()["kind"], "APIGroupDiscoveryList");
    let etag = first.head.lines().find_map(|l| l.strip_prefix("ETag: ")).expect("an etag");
    let again = format!("GET /apis HTTP/1.1\r\n{accept}\r\nIf-None-Match: {etag}");
    let second = web.ask(&mut c, &again, "");
    assert_eq!((second.code, second.body.as_str()), (304, ""));
    let doc = web.send(&mut c, "GET", "/openapi/v3/apis/apps/v1", "");
    assert!(doc.body.contains("fieldValidation"), "kubectl looks for this before it writes");
}

#[test]
fn a_watch_sends_changes_and_ends_in_time() {
    let mut web = Web::new();
    let (mut c, w) = (web.admin(), web.admin());
    let rv = web.send(&mut c, "GET", CONFIGMAPS, "").json()["metadata"]["resourceVersion"].clone();
    let rv = rv.as_str().expect("a version");
    let path = format!("{CONFIGMAPS}?watch=1&resourceVersion={rv}&timeoutSeconds=30");
    web.write(w, format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
    let head = String::from_utf8(web.read(w)).expect("ascii");
    assert!(head.starts_with("HTTP/1.1 200 OK"), "the head comes before the first event: {head}");
    web.send(&mut c, "POST", CONFIGMAPS, &configmap("a", "1"));
    web.send(&mut c, "DELETE", &format!("{CONFIGMAPS}/a"), "");
    let lines = unchunk(&String::from_utf8(web.read(w)).expect("ascii"));
    let types: Vec<Value> = lines
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("one object a line")["type"].clone())
        .collect();
    assert_eq!(types, ["ADDED", "DELETED"]);
    web.pass(Duration::from_secs(31));
    assert!(web.read(w).ends_with(b"0\r\n\r\n"), "the watch ends when its time is over");
}

#[test]
fn a_server_that_ends_lets_answers_finish_and_ends_watches() {
    let mut web = Web::new();
    let (idle, watch, asking) = (web.admin(), web.admin(), web.admin());
    let mut cli = Daemon::connect(&mut web, "cli", "");
    let request = api::Request::new(Verb::Watch, "", "v1", "nodes");
    cli.conn.request(&msg::encode(&Open::Api(Box::new(request)))).expect("room");
    cli.turn(&mut web);
    web.write(watch, format!("GET {CONFIGMAPS}?watch=1 HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
    let body = configmap("a", "1");
    let head = format!("POST {CONFIGMAPS} HTTP/1.1\r\nHost: h\r\nContent-Length: {}", body.len());
    // Its answer waits for the store when the end comes.
    web.front.handle_input(asking, format!("{head}\r\n\r\n{body}").as_bytes(), web.now);
    web.front.drain(web.now);
    assert!(web.front.is_done(idle) && web.front.is_done(cli.id));
    assert!(web.read(watch).ends_with(b"0\r\n\r\n") && web.front.is_done(watch));
    assert!(!web.front.is_done(asking));
    web.settle();
    let answer = crate::web::parse(&web.read(asking));
    assert!(answer.code == 201 && answer.head.contains("Connection: close"), "{answer:?}");
    assert!(web.front.is_done(asking));
}

#[test]
fn pipelined_requests_of_a_client_that_does_not_read_wait() {
    let mut web = Web::new();
    let (mut c, greedy) = (web.admin(), web.admin());
    let big = configmap("big", &"x".repeat(500 << 10));
    assert_eq!(web.send(&mut c, "POST", CONFIGMAPS, &big).code, 201);
    let one = format!("GET {CONFIGMAPS}/big HTTP/1.1\r\nHost: h\r\n\r\n");
    web.write(greedy, one.repeat(100).as_bytes());
    let mut all = Vec::new();
    while all.len() < 100 * (500 << 10) {
        assert!(web.front.output_len(greedy) < 1 << 20, "one answer at a time");
        let got = web.read_some(greedy, 300 << 10);
        assert!(!got.is_empty(), "an answer is missing after {}", all.len());
        all.extend(got);
    }
    assert_eq!(all.windows(12).filter(|w| *w == b"HTTP/1.1 200").count(), 100);
}

#[test]
fn a_client_that_stops_reading_costs_a_bounded_buffer_and_misses_nothing() {
    let mut web = Web::new();
    let (mut c, w) = (web.admin(), web.admin());
    let path = format!("{CONFIGMAPS}?watch=1&timeoutSeconds=300");
    web.write(w, format!("GET {path} HTTP/1.1\r\nHost: h\r\n\r\n").as_bytes());
    web.read(w);
    let big = "x".repeat(40 << 10);
    for i in 0..40 {
        let made = web.send(&mut c, "POST", CONFIGMAPS, &configmap(&format!("c{i}"), &big));
        assert_eq!(made.code, 201, "others are not stalled");
        assert!(web.front.output_len(w) < 512 << 10);
    }
    let mut waiting = Vec::new();
    let first = web.read_some(w, 1);
    waiting.extend_from_slice(&first);
    // Now the client reads again: everything comes, in order.
    waiting.extend(web.read(w));
    let text = String::from_utf8(waiting).expect("ascii");
    let text = unchunk(&text);
    let names: Vec<String> = text
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("whole lines"))
        .filter(|e| e["type"] == "ADDED")
        .map(|e| e["object"]["metadata"]["name"].as_str().expect("a name").to_string())
        .collect();
    let want: Vec<String> = (0..40).map(|i| format!("c{i}")).collect();
    assert_eq!(names, want);
}

#[test]
fn bodies_over_the_limit_are_413() {
    let mut web = Web::new();
    let mut c = web.admin();
    let large = configmap("a", &"x".repeat(3 << 20));
    let refused = web.send(&mut c, "POST", CONFIGMAPS, &large);
    assert_eq!(refused.json()["message"], "Request entity too large: limit is 3145728");
    assert_eq!(web.send(&mut c, "GET", CONFIGMAPS, "").code, 200, "and the connection goes on");
}

#[test]
fn a_store_that_does_not_answer_is_not_waited_for_longer_than_a_minute() {
    let mut web = Web::new();
    let c = web.admin();
    web.silent = true;
    let body = configmap("a", "1");
    let head = format!("POST {CONFIGMAPS} HTTP/1.1\r\nHost: h\r\nContent-Length: {}", body.len());
    web.write(c, format!("{head}\r\n\r\n{body}").as_bytes());
    web.pass(Duration::from_secs(59));
    assert!(web.read(c).is_empty());
    web.pass(Duration::from_secs(2));
    let answer = crate::web::parse(&web.read(c));
    assert_eq!((answer.code, answer.json()["reason"].as_str()), (504, Some("Timeout")));
}

#[test]
fn daemons_are_served_by_who_they_are() {
    let mut web = Web::new();
    let mut cli = Daemon::connect(&mut web, "cli", "");
    let (code, list) = cli.ask(&mut web, api::Request::new(Verb::List, "", "v1", "namespaces"));
    assert_eq!((code, list["kind"].as_str()), (200, Some("NamespaceList")));
    let mut dns = Daemon::connect(&mut web, "dns", "n");
    let (code, refused) = dns.ask(&mut web, api::Request::new(Verb::List, "", "v1", "secrets"));
    assert_eq!(code, 403, "{refused}");
    dns.conn.request(&msg::encode(&Open::Info)).expect("room");
    let events = dns.turn(&mut web);
    let Some(Event::Message(_, bytes)) = events.first() else { panic!("{events:?}") };
    let info: Info = msg::decode(bytes).expect("an info");
    assert!(info.ready && info.daemon == "apiserver", "{info:?}");
    // Who it is follows from the socket, not from its words.
    let mut other = Daemon::connect(&mut web, "stranger", "");
    let list = api::Request::new(Verb::List, "", "v1", "namespaces");
    other.conn.request(&msg::encode(&Open::Api(Box::new(list)))).expect("room");
    let events = other.turn(&mut web);
    assert!(matches!(events.as_slice(), [Event::Reset(_, ResetCode::Forbidden)]), "{events:?}");
}

#[test]
fn a_daemon_that_stops_reading_its_watch_misses_nothing() {
    let mut web = Web::new();
    let mut c = web.admin();
    let mut cli = Daemon::connect(&mut web, "cli", "");
    let mut watch = api::Request::new(Verb::Watch, "", "v1", "configmaps");
    watch.namespace = "default".into();
    cli.conn.request(&msg::encode(&Open::Api(Box::new(watch)))).expect("room");
    cli.turn(&mut web);
    let big = "x".repeat(100 << 10);
    let (mut names, mut unread) = (Vec::new(), Vec::new());
    for i in 0..30 {
        web.send(&mut c, "POST", CONFIGMAPS, &configmap(&format!("c{i:02}"), &big));
        take(cli.turn(&mut web), &mut names, &mut unread);
    }
    assert!(names.len() < 30, "credit holds some back");
    for _ in 0..60 {
        for (stream, n) in std::mem::take(&mut unread) {
            cli.conn.consumed(stream, n);
        }
        take(cli.turn(&mut web), &mut names, &mut unread);
    }
    let want: Vec<String> = (0..30).map(|i| format!("c{i:02}")).collect();
    assert_eq!(names, want);
}

/// Names of what was added, and how many bytes of which stream were received.
fn take(events: Vec<Event>, names: &mut Vec<String>, unread: &mut Vec<(StreamId, usize)>) {
    for event in events {
        let Event::Message(stream, bytes) = event else { continue };
        unread.push((stream, bytes.len()));
        if let Ok(api::Reply::Event { kind: api::EventType::Added, body, .. }) = msg::decode(&bytes)
        {
            let v: Value = serde_json::from_slice(&body).expect("JSON");
            names.push(v["metadata"]["name"].as_str().expect("a name").to_string());
        }
    }
}
