//! The proxy's core without a kernel: rules of 1,000 and 10,000 services with two endpoints each.
//!
//! `build`: all rules from services and slices, and their text for iptables-restore. `change`: one endpoint comes or
//! goes, from the event to the text of the difference.

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use pintle_base::Now;
use pintle_client::{Caches, Daemon, Event, Object, Outbox};
use pintle_proxy::build::Config;
use pintle_proxy::model::Cidr;
use pintle_proxy::{Applied, Proxy, Seen, Work};
use serde_json::{Value, json};
use std::hint::black_box;
use std::sync::Arc;

fn service(n: u32) -> Value {
    let ip = format!("10.{}.{}.{}", 96 + (n >> 16), n >> 8 & 255, n & 255);
    json!({
        "metadata": {"namespace": "default", "name": format!("s{n}")},
        "spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip],
                 "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]},
    })
}

fn slice(n: u32, endpoints: u32) -> Value {
    let endpoint = |e: u32| {
        let a = format!("10.{}.{}.{}", 244 + (n >> 14), n >> 6 & 255, (n & 63) * 4 + e);
        json!({"addresses": [a], "nodeName": "n", "conditions": {"ready": true}})
    };
    json!({
        "metadata": {"namespace": "default", "name": format!("s{n}-x"),
                     "labels": {"kubernetes.io/service-name": format!("s{n}")}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": (0..endpoints).map(endpoint).collect::<Vec<_>>(),
    })
}

fn tell(proxy: &mut Proxy, spec: usize, key: String, value: Value) {
    let new = Some(Object { value: Arc::new(value), revision: 1 });
    let event = Event::Changed { spec, key, old: None, new };
    proxy.handle(event, &Caches::default(), Now::default(), &mut Outbox::default());
}

/// A proxy that knows all services and has looked at empty tables.
fn proxy(services: &[(Value, Value)]) -> Proxy {
    let config = Config {
        cluster_cidrs: vec![Cidr::parse("10.244.0.0/14").expect("network")],
        local_vips: Vec::new(),
        masquerade_cidrs: Vec::new(),
    };
    let mut proxy = Proxy::new("n", config);
    proxy.handle(Event::Synced, &Caches::default(), Now::default(), &mut Outbox::default());
    for (n, (service, slice)) in services.iter().enumerate() {
        tell(&mut proxy, 0, format!("default/s{n}"), service.clone());
        tell(&mut proxy, 1, format!("default/s{n}-x"), slice.clone());
    }
    assert!(matches!(proxy.poll_apply(Now::default()), Some(Work::Look(_))));
    proxy.looked(Ok(Seen::default()), Now::default());
    proxy
}

/// Bytes of the rules that are to be applied.
fn apply(proxy: &mut Proxy) -> usize {
    let Some(Work::Apply(apply)) = proxy.poll_apply(Now::default()) else { panic!("no work") };
    proxy.applied(Applied::default(), Now::default());
    apply.rules.iter().map(|(_, text)| text.len()).sum()
}

fn bench(c: &mut Criterion) {
    for count in [1_000u32, 10_000] {
        let services: Vec<_> = (0..count).map(|n| (service(n), slice(n, 2))).collect();
        let mut group = c.benchmark_group("proxy");
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("build", count), |b| {
            b.iter_batched(
                || proxy(&services),
                |mut p| black_box(apply(&mut p)),
                criterion::BatchSize::LargeInput,
            );
        });
        let mut p = proxy(&services);
        apply(&mut p);
        let mut endpoints = 2;
        group.bench_function(BenchmarkId::new("change", count), |b| {
            b.iter(|| {
                endpoints = 3 - endpoints;
                tell(&mut p, 1, "default/s7-x".into(), slice(7, endpoints));
                black_box(apply(&mut p))
            });
        });
        group.finish();
    }
}

criterion_group!(benches, bench);
criterion_main!(benches);
