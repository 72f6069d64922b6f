//! Questions and answers, each answer read by hickory-proto as an independent witness.

use crate::forward::Output;
use crate::limits::*;
use crate::message::{Builder, Data, Name, Query, Rcode, Section};
use crate::{Dns, Step};
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query as HQuery, ResponseCode};
use hickory_proto::rr::{Name as HName, RData, RecordType};
use pintle_base::{Now, Prng, Time};
use pintle_client::{Caches, Daemon, Event, Object, Outbox};
use serde_json::{Value, json};
use std::str::FromStr;
use std::sync::Arc;

const UP: &str = "192.0.2.53:53";

fn at(ms: u64) -> Now {
    Now { mono: Time(ms * 1_000_000), ..Now::default() }
}

fn feed(dns: &mut Dns<u32>, spec: usize, key: &str, value: Option<Value>) {
    let new = value.map(|v| Object { value: Arc::new(v), revision: 1 });
    let event = Event::Changed { spec, key: key.into(), old: None, new };
    dns.handle(event, &Caches::default(), at(0), &mut Outbox::default());
}

fn service(spec: Value) -> Option<Value> {
    Some(json!({ "spec": spec }))
}

fn slice(service: &str, endpoints: Value) -> Option<Value> {
    Some(json!({
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints,
    }))
}

fn empty() -> Dns<u32> {
    let own = "10.96.0.10".parse().expect("address");
    Dns::new("cluster.local", own, vec![UP.parse().expect("address")], 7).expect("domain")
}

fn cluster() -> Dns<u32> {
    let mut dns = empty();
    for ns in ["default", "kube-system"] {
        feed(&mut dns, 2, ns, Some(json!({})));
    }
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"},
                       {"name": "dns", "port": 53, "protocol": "UDP"}]);
    feed(
        &mut dns,
        0,
        "default/web",
        service(json!({"clusterIP": "10.96.1.1", "clusterIPs": ["10.96.1.1"], "ports": ports})),
    );
    feed(
        &mut dns,
        0,
        "default/dual",
        service(json!({"clusterIPs": ["10.96.1.2", "fd00::2"], "ports": ports})),
    );
    feed(&mut dns, 0, "default/db", service(json!({"clusterIP": "None", "ports": ports})));
    feed(
        &mut dns,
        1,
        "default/db-1",
        slice(
            "db",
            json!([
                {"addresses": ["10.244.0.5"], "hostname": "db-0"},
                {"addresses": ["10.244.1.6"], "conditions": {"ready": true}},
                {"addresses": ["10.244.1.7"], "conditions": {"ready": false}},
            ]),
        ),
    );
    feed(&mut dns, 1, "default/web-1", slice("web", json!([{"addresses": ["10.244.0.9"]}])));
    for (name, target) in [
        ("ext", "www.example.com"),
        ("inner", "web.default.svc.cluster.local"),
        ("circle", "circle.default.svc.cluster.local"),
    ] {
        let key = format!("default/{name}");
        feed(&mut dns, 0, &key, service(json!({"type": "ExternalName", "externalName": target})));
    }
    dns.handle(Event::Synced, &Caches::default(), at(0), &mut Outbox::default());
    dns
}

fn question(name: &str, qtype: RecordType, edns: Option<u16>) -> Vec<u8> {
    let mut m = Message::new();
    m.set_id(77).set_message_type(MessageType::Query).set_op_code(OpCode::Query);
    m.set_recursion_desired(true);
    m.add_query(HQuery::query(HName::from_str(name).expect("name"), qtype));
    if let Some(bytes) = edns {
        let mut e = Edns::new();
        e.set_max_payload(bytes);
        m.set_edns(e);
    }
    m.to_vec().expect("encode")
}

fn read(bytes: &[u8]) -> Message {
    Message::from_vec(bytes).unwrap_or_else(|e| panic!("not a message: {e}: {bytes:?}"))
}

fn ask(dns: &mut Dns<u32>, name: &str, qtype: RecordType) -> Message {
    let mut out = Vec::new();
    let step = dns.handle_query(1, &question(name, qtype, None), false, at(0), &mut out);
    assert_eq!(step, Step::Answered, "{name}");
    let m = read(&out);
    assert_eq!((m.id(), m.message_type()), (77, MessageType::Response));
    assert!(m.recursion_desired() && m.recursion_available());
    m
}

/// "CODE owner TYPE data, ...", additional records behind " + ", the SOA in the authority section as "SOA".
fn say(m: &Message) -> String {
    let code = match m.response_code() {
        ResponseCode::NoError => "ok",
        ResponseCode::NXDomain => "nx",
        ResponseCode::ServFail => "fail",
        other => panic!("{other}"),
    };
    let mut out = code.to_owned();
    for (mark, records) in [(" ", m.answers()), (" + ", m.additionals())] {
        let mut all: Vec<String> = records
            .iter()
            .map(|r| format!("{} {} {}", r.name(), r.record_type(), r.data()))
            .collect();
        all.sort();
        if !all.is_empty() {
            out += mark;
            out += &all.join(", ");
        }
    }
    if m.name_servers().iter().any(|r| r.record_type() == SOA) {
        assert_eq!(m.name_servers()[0].name().to_string(), "cluster.local.");
        out += " SOA";
    }
    out
}

#[track_caller]
fn check(dns: &mut Dns<u32>, name: &str, qtype: RecordType, expected: &str) {
    let m = ask(dns, name, qtype);
    assert_eq!(say(&m), expected, "{name} {qtype}");
    assert!(m.authoritative(), "{name}");
}

use RecordType::{A, AAAA, ANY, CNAME, NS, PTR, SOA, SRV, TXT};

#[test]
fn services_have_their_records() {
    let dns = &mut cluster();
    let web = "web.default.svc.cluster.local.";
    check(dns, web, A, "ok web.default.svc.cluster.local. A 10.96.1.1");
    check(dns, web, AAAA, "ok SOA");
    check(
        dns,
        "dual.default.svc.cluster.local.",
        AAAA,
        "ok dual.default.svc.cluster.local. AAAA fd00::2",
    );
    check(
        dns,
        "_http._tcp.web.default.svc.cluster.local.",
        SRV,
        "ok _http._tcp.web.default.svc.cluster.local. SRV 0 100 80 web.default.svc.cluster.local. + \
         web.default.svc.cluster.local. A 10.96.1.1",
    );
    check(dns, "_http._udp.web.default.svc.cluster.local.", SRV, "nx SOA");
    check(dns, "_tcp.web.default.svc.cluster.local.", SRV, "ok SOA");
    check(
        dns,
        "1.1.96.10.in-addr.arpa.",
        PTR,
        "ok 1.1.96.10.in-addr.arpa. PTR web.default.svc.cluster.local.",
    );
    check(dns, "none.default.svc.cluster.local.", A, "nx SOA");
    check(dns, "x.web.default.svc.cluster.local.", A, "nx SOA");
    // Endpoints of a service with an address have no names of their own.
    check(dns, "10-244-0-9.web.default.svc.cluster.local.", A, "nx SOA");
}

#[test]
fn headless_services_show_their_endpoints() {
    let dns = &mut cluster();
    let db = "db.default.svc.cluster.local.";
    check(dns, db, A, &format!("ok {db} A 10.244.0.5, {db} A 10.244.1.6"));
    check(dns, &format!("db-0.{db}"), A, &format!("ok db-0.{db} A 10.244.0.5"));
    check(dns, &format!("10-244-1-6.{db}"), A, &format!("ok 10-244-1-6.{db} A 10.244.1.6"));
    check(dns, &format!("10-244-1-7.{db}"), A, "nx SOA");
    check(
        dns,
        &format!("_http._tcp.{db}"),
        SRV,
        &format!(
            "ok _http._tcp.{db} SRV 0 50 8080 10-244-1-6.{db}, _http._tcp.{db} SRV 0 50 8080 db-0.{db} + \
         10-244-1-6.{db} A 10.244.1.6, db-0.{db} A 10.244.0.5"
        ),
    );
    check(
        dns,
        "5.0.244.10.in-addr.arpa.",
        PTR,
        &format!("ok 5.0.244.10.in-addr.arpa. PTR db-0.{db}"),
    );
    // Changes are seen at once; nothing of the old stays.
    feed(dns, 1, "default/db-1", slice("db", json!([{"addresses": ["10.244.2.2"]}])));
    check(dns, db, A, &format!("ok {db} A 10.244.2.2"));
    check(dns, &format!("db-0.{db}"), A, "nx SOA");
    feed(dns, 1, "default/db-1", None);
    check(dns, db, A, "ok SOA");
    feed(dns, 0, "default/db", None);
    check(dns, db, A, "nx SOA");
}

#[test]
fn the_zone_itself_pods_and_namespaces() {
    let dns = &mut cluster();
    check(dns, "cluster.local.", A, "ok SOA");
    assert_eq!(ask(dns, "cluster.local.", SOA).answers().len(), 1);
    check(
        dns,
        "cluster.local.",
        NS,
        "ok cluster.local. NS ns.dns.cluster.local. + ns.dns.cluster.local. A 10.96.0.10",
    );
    check(dns, "ns.dns.cluster.local.", A, "ok ns.dns.cluster.local. A 10.96.0.10");
    check(dns, "dns-version.cluster.local.", TXT, "ok dns-version.cluster.local. TXT 1.1.0");
    for name in ["svc", "default.svc", "pod", "kube-system.pod"] {
        check(dns, &format!("{name}.cluster.local."), A, "ok SOA");
    }
    for name in
        ["x", "other.svc", "www.example.com.default.svc", "1-2-3.default.pod", "1-2-3-4.other.pod"]
    {
        check(dns, &format!("{name}.cluster.local."), A, "nx SOA");
    }
    check(
        dns,
        "10-244-0-5.default.pod.cluster.local.",
        A,
        "ok 10-244-0-5.default.pod.cluster.local. A 10.244.0.5",
    );
    check(
        dns,
        "fd00--5.default.pod.cluster.local.",
        AAAA,
        "ok fd00--5.default.pod.cluster.local. AAAA fd00::5",
    );
}

#[test]
fn aliases_are_followed() {
    let dns = &mut cluster();
    check(
        dns,
        "inner.default.svc.cluster.local.",
        A,
        "ok inner.default.svc.cluster.local. CNAME web.default.svc.cluster.local., \
         web.default.svc.cluster.local. A 10.96.1.1",
    );
    check(
        dns,
        "ext.default.svc.cluster.local.",
        CNAME,
        "ok ext.default.svc.cluster.local. CNAME www.example.com.",
    );
    assert_eq!(
        ask(dns, "circle.default.svc.cluster.local.", A).response_code(),
        ResponseCode::ServFail
    );
    assert_eq!(ask(dns, "ext.default.svc.cluster.local.", ANY).answers().len(), 1);
    // Outside: the target is asked upstream, the alias put in front.
    let mut out = Vec::new();
    let q = question("ext.default.svc.cluster.local.", A, None);
    assert_eq!(dns.handle_query(5, &q, false, at(0), &mut out), Step::Waiting);
    let (id, sent) = sent(dns);
    assert_eq!(read(&sent).queries()[0].name().to_string(), "www.example.com.");
    dns.handle_upstream(id, &reply(&sent, Rcode::NoError, &["203.0.113.1"]), at(1));
    let (client, answer) = dns.poll_answer().expect("answer");
    assert_eq!(client, 5);
    assert_eq!(
        say(&read(&answer)),
        "ok ext.default.svc.cluster.local. CNAME www.example.com., www.example.com. A 203.0.113.1"
    );
}

/// The one question that is to be sent.
fn sent(dns: &mut Dns<u32>) -> (u64, Vec<u8>) {
    let mut all = dns.take_outputs();
    all.retain(|o| matches!(o, Output::Send { .. }));
    match all.as_slice() {
        [Output::Send { id, server, message, .. }] => {
            assert_eq!(server.to_string(), UP);
            (*id, message.clone())
        }
        other => panic!("{other:?}"),
    }
}

/// An upstream's answer to a question.
fn reply(question: &[u8], code: Rcode, addresses: &[&str]) -> Vec<u8> {
    let query = Query::parse(question).expect("question");
    let mut out = Vec::new();
    let mut b = Builder::new(&mut out, &query, TCP_BYTES_MAX);
    for a in addresses {
        b.add(Section::Answer, None, 20, Data::Address(a.parse().expect("address")));
    }
    if addresses.is_empty() {
        let name = Name::parse("example.com").expect("name");
        let data =
            Data::Authority { server: name.wire(), mailbox: name.wire(), serial: 1, minimum_s: 9 };
        b.add(Section::Authority, Some(name.wire()), 60, data);
    }
    b.finish(code, false);
    out
}

#[test]
fn other_names_are_forwarded_joined_and_kept() {
    let dns = &mut cluster();
    let mut out = Vec::new();
    let mut q = question("www.example.com.", A, Some(1400));
    let spelt = |bytes: &[u8]| bytes[17..24] == *b"eXAMPLe";
    q[17..24].copy_from_slice(b"eXAMPLe");
    for client in [1, 2] {
        assert_eq!(dns.handle_query(client, &q, false, at(0), &mut out), Step::Waiting);
    }
    let (id, message) = sent(dns);
    assert_eq!(dns.pending_count(), 1, "asked once");
    // A forged answer (another id) is passed over.
    let mut forged = reply(&message, Rcode::NoError, &["203.0.113.66"]);
    forged[0] ^= 1;
    dns.handle_upstream(id, &forged, at(1));
    // So is one to another question.
    let other = question("other.example.com.", A, None);
    dns.handle_upstream(id, &reply(&other, Rcode::NoError, &["203.0.113.66"]), at(1));
    assert!(dns.poll_answer().is_none());
    dns.handle_upstream(id, &reply(&message, Rcode::NoError, &["203.0.113.1"]), at(2));
    let mut clients: Vec<u32> = Vec::new();
    while let Some((client, answer)) = dns.poll_answer() {
        clients.push(client);
        let m = read(&answer);
        assert_eq!(m.id(), 77);
        assert_eq!(say(&m), "ok www.eXAMPLe.com. A 203.0.113.1");
        assert!(spelt(&answer), "the client's own spelling");
    }
    clients.sort_unstable();
    assert_eq!(clients, [1, 2]);
    // Kept, with a TTL that shrinks, then asked again.
    assert_eq!(dns.handle_query(3, &q, false, at(5_002), &mut out), Step::Answered);
    assert_eq!(read(&out).answers()[0].ttl(), 15);
    assert_eq!(dns.handle_query(3, &q, false, at(20_002), &mut out), Step::Waiting);
}

#[test]
fn no_such_name_is_kept_as_long_as_its_authority_says() {
    let dns = &mut cluster();
    let mut out = Vec::new();
    let q = question("gone.example.com.", A, None);
    assert_eq!(dns.handle_query(1, &q, false, at(0), &mut out), Step::Waiting);
    let (id, message) = sent(dns);
    dns.handle_upstream(id, &reply(&message, Rcode::NxDomain, &[]), at(0));
    assert_eq!(read(&dns.poll_answer().expect("answer").1).response_code(), ResponseCode::NXDomain);
    assert_eq!(dns.handle_query(1, &q, false, at(8_999), &mut out), Step::Answered);
    assert_eq!(read(&out).response_code(), ResponseCode::NXDomain);
    assert_eq!(dns.handle_query(1, &q, false, at(9_001), &mut out), Step::Waiting);
}

#[test]
fn a_silent_upstream_ends_in_servfail() {
    let dns = &mut cluster();
    let mut out = Vec::new();
    let q = question("www.example.com.", A, None);
    assert_eq!(dns.handle_query(1, &q, false, at(0), &mut out), Step::Waiting);
    let mut now = 0;
    for _ in 0..UPSTREAM_TRIES_MAX {
        sent(dns);
        assert!(dns.poll_answer().is_none());
        let due = dns.poll_timeout().expect("a time limit").0 / 1_000_000;
        assert_eq!(due, now + UPSTREAM_TRY_MS);
        now = due;
        dns.handle_timeout(at(now));
    }
    let (_, answer) = dns.poll_answer().expect("answer");
    assert_eq!(read(&answer).response_code(), ResponseCode::ServFail);
    assert_eq!((dns.poll_timeout(), dns.pending_count()), (None, 0));
    // Without upstreams at once.
    dns.set_upstreams(Vec::new());
    assert_eq!(dns.handle_query(1, &q, false, at(now), &mut out), Step::Answered);
    assert_eq!(read(&out).response_code(), ResponseCode::ServFail);
}

#[test]
fn limits_hold() {
    let dns = &mut cluster();
    let mut out = Vec::new();
    for n in 0..PENDING_MAX {
        let q = question(&format!("n{n}.example.com."), A, None);
        assert_eq!(dns.handle_query(1, &q, false, at(0), &mut out), Step::Waiting);
    }
    let more = question("more.example.com.", A, None);
    assert_eq!(dns.handle_query(1, &more, false, at(0), &mut out), Step::Answered);
    assert_eq!(read(&out).response_code(), ResponseCode::ServFail);
    let first = question("n0.example.com.", A, None);
    for _ in 1..WAITERS_MAX {
        assert_eq!(dns.handle_query(1, &first, false, at(0), &mut out), Step::Waiting);
    }
    assert_eq!(dns.handle_query(1, &first, false, at(0), &mut out), Step::Answered);
    for (id, message) in dns.take_outputs().into_iter().filter_map(|o| match o {
        Output::Send { id, message, .. } => Some((id, message)),
        Output::Close(_) => None,
    }) {
        dns.handle_upstream(id, &reply(&message, Rcode::NoError, &["203.0.113.1"]), at(1));
    }
    let count = std::iter::from_fn(|| dns.poll_answer()).count();
    assert_eq!(count, PENDING_MAX + WAITERS_MAX - 1);
}

#[test]
fn long_answers_are_cut_by_udp_and_whole_by_tcp() {
    let dns = &mut cluster();
    let endpoints: Vec<_> =
        (0..200).map(|n| json!({"addresses": [format!("10.244.3.{n}")]})).collect();
    feed(dns, 1, "default/db-1", slice("db", json!(endpoints)));
    let mut out = Vec::new();
    for (edns, limit) in
        [(None, 512), (Some(100), 512), (Some(900), 900), (Some(4096), UDP_BYTES_MAX)]
    {
        let q = question("db.default.svc.cluster.local.", A, edns);
        dns.handle_query(1, &q, false, at(0), &mut out);
        let m = read(&out);
        assert!(m.truncated() && out.len() <= limit && out.len() + 16 > limit, "{}", out.len());
        assert_eq!(m.extensions().is_some(), edns.is_some());
    }
    let q = question("db.default.svc.cluster.local.", A, None);
    dns.handle_query(1, &q, true, at(0), &mut out);
    let m = read(&out);
    assert_eq!((m.truncated(), m.answers().len()), (false, 200));
    // The first one differs from question to question.
    let first = m.answers()[0].data().clone();
    dns.handle_query(1, &q, true, at(0), &mut out);
    assert_ne!(&first, read(&out).answers()[0].data());
    assert!(matches!(first, RData::A(_)));
}

#[test]
fn before_it_knows_the_cluster_it_says_so() {
    let mut dns = empty();
    assert_eq!(
        ask(&mut dns, "web.default.svc.cluster.local.", A).response_code(),
        ResponseCode::ServFail
    );
    let mut out = Vec::new();
    let q = question("www.example.com.", A, None);
    assert_eq!(dns.handle_query(1, &q, false, at(0), &mut out), Step::Waiting);
}

#[test]
fn odd_questions_get_the_right_code() {
    let dns = &mut cluster();
    let mut out = Vec::new();
    let good = question("web.default.svc.cluster.local.", A, None);
    let mut code = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut q = good.clone();
        edit(&mut q);
        match dns.handle_query(1, &q, false, at(0), &mut out) {
            Step::Answered => Some(out[3] & 0xf),
            _ => None,
        }
    };
    assert_eq!(code(&|_| {}), Some(0));
    assert_eq!(code(&|q| q.truncate(11)), None, "too short");
    assert_eq!(code(&|q| q[2] |= 0x80), None, "an answer");
    assert_eq!(code(&|q| q[2] |= 0x28), Some(4), "an update");
    assert_eq!(code(&|q| q[5] = 2), Some(1), "two questions");
    assert_eq!(code(&|q| q.truncate(20)), Some(1), "a torn name");
    assert_eq!(code(&|q| q[12] = 0xc0), Some(1), "a pointer");
    assert_eq!(code(&|q| *q.last_mut().expect("class") = 3), Some(5), "class CH");
    // EDNS version 1: BADVERS, 16 in the extended bits.
    let mut q = question("web.default.svc.cluster.local.", A, Some(1000));
    let at_version = q.len() - 5;
    q[at_version] = 1;
    dns.handle_query(1, &q, false, at(0), &mut out);
    assert_eq!(u16::from(read(&out).response_code()), 16);
}

#[test]
fn random_bytes_never_harm() {
    let dns = &mut cluster();
    let mut p = Prng::new(11);
    let mut out = Vec::new();
    let seeds = [
        question("web.default.svc.cluster.local.", A, Some(1232)),
        question("_http._tcp.db.default.svc.cluster.local.", SRV, None),
        question("1.1.96.10.in-addr.arpa.", PTR, None),
        question("ext.default.svc.cluster.local.", A, None),
    ];
    let mut answered = 0;
    for _ in 0..60_000 {
        let mut q = seeds[p.below(4) as usize].clone();
        for _ in 0..p.below(5) {
            let i = p.below(q.len() as u64) as usize;
            match p.below(3) {
                0 => q[i] = p.next_u64() as u8,
                1 => q.truncate(i.max(1)),
                _ => q.insert(i, p.next_u64() as u8),
            }
        }
        let tcp = p.chance(1, 2);
        if dns.handle_query(1, &q, tcp, at(0), &mut out) == Step::Answered {
            answered += 1;
            assert_eq!(out[..2], q[..2]);
            // What upstreams put into their records is theirs; our own answers are sound.
            if out[2] & 4 != 0 {
                read(&out);
            }
            assert!(tcp || out.len() <= UDP_BYTES_MAX);
        }
        // Upstreams answer nonsense as well.
        for o in dns.take_outputs() {
            if let Output::Send { id, message, .. } = o {
                let mut m = reply(&message, Rcode::NoError, &["203.0.113.1", "203.0.113.2"]);
                for _ in 0..p.below(4) {
                    let i = p.below(m.len() as u64) as usize;
                    m[i] = p.next_u64() as u8;
                }
                dns.handle_upstream(id, &m, at(0));
                dns.upstream_failed(id, at(0));
            }
        }
        while let Some((_, answer)) = dns.poll_answer() {
            assert!(answer.len() >= 12 && answer[2] & 0x80 != 0);
        }
        dns.handle_timeout(at(p.below(3) * 10_000));
    }
    assert!(answered > 20_000, "{answered}");
}
