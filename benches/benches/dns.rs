//! The DNS core without sockets: one question, from bytes to bytes, among 10,000 services.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pintle_base::Now;
use pintle_client::{Caches, Daemon, Event, Object, Outbox};
use pintle_dns::message::Name;
use pintle_dns::{Dns, Step};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;

fn tell(dns: &mut Dns<()>, spec: usize, key: String, value: Value) {
    let new = Some(Object { value: Arc::new(value), revision: 1 });
    let event = Event::Changed { spec, key, old: None, new };
    dns.handle(event, &Caches::default(), Now::default(), &mut Outbox::default());
}

fn question(name: &str, kind: u16) -> Vec<u8> {
    let mut q = vec![0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    q.extend_from_slice(Name::parse(name).expect("name").wire());
    q.extend_from_slice(&[(kind >> 8) as u8, kind as u8, 0, 1]);
    // EDNS, 1232 bytes.
    q.extend_from_slice(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]);
    q
}

fn bench(c: &mut Criterion) {
    let own = "10.96.0.10".parse().expect("address");
    let mut dns: Dns<()> = Dns::new("cluster.local", own, Vec::new(), 1).expect("domain");
    tell(&mut dns, 2, "default".into(), json!({}));
    let ports = json!([{"name": "http", "port": 80, "protocol": "TCP"}]);
    for n in 0..10_000u32 {
        let ip = format!("10.96.{}.{}", n >> 8, n & 255);
        let spec = json!({"clusterIP": ip, "clusterIPs": [ip], "ports": ports});
        tell(&mut dns, 0, format!("default/s{n}"), json!({ "spec": spec }));
    }
    let headless = json!({"spec": {"clusterIP": "None", "ports": ports}});
    tell(&mut dns, 0, "default/db".into(), headless);
    let endpoints: Vec<_> = (0..10)
        .map(|n| json!({"addresses": [format!("10.244.0.{n}")], "hostname": format!("db-{n}")}))
        .collect();
    let slice = json!({
        "metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "db"}},
        "addressType": "IPv4", "ports": ports, "endpoints": endpoints,
    });
    tell(&mut dns, 1, "default/db-1".into(), slice);
    dns.handle(Event::Synced, &Caches::default(), Now::default(), &mut Outbox::default());
    let mut group = c.benchmark_group("dns");
    group.throughput(Throughput::Elements(1));
    let mut out = Vec::new();
    for (name, question) in [
        ("a", question("s77.default.svc.cluster.local", 1)),
        ("nodata", question("s77.default.svc.cluster.local", 28)),
        ("nxdomain", question("www.example.com.default.svc.cluster.local", 1)),
        ("headless_10", question("db.default.svc.cluster.local", 1)),
        ("srv_10", question("_http._tcp.db.default.svc.cluster.local", 33)),
    ] {
        group.bench_function(name, |b| {
            b.iter(|| {
                let step = dns.handle_query((), &question, false, Now::default(), &mut out);
                assert_eq!(step, Step::Answered);
                black_box(out.len())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
