//! The wire protocol without sockets: what framing, credit and copying cost.
//!
//! `request_reply`: a 200-byte request and a 2 KB reply. `large_reply`: 1 MB. `fan_out`: one 2 KB change to 1000
//! watchers, per watcher.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use pintle_base::Time;
use pintle_wire::msg::api::{EventType, Reply};
use pintle_wire::msg::{self, Body};
use pintle_wire::{Conn, Event, Hello, Limits, StreamId};
use std::hint::black_box;

fn pair() -> (Conn, Conn) {
    let mut a = Conn::connect(Hello::default(), Limits::default(), Time(0));
    let mut b = Conn::accept(Hello::default(), Limits::default(), Time(0));
    shuttle(&mut a, &mut b);
    while a.poll_event().is_some() {}
    while b.poll_event().is_some() {}
    (a, b)
}

fn carry(from: &mut Conn, to: &mut Conn) -> bool {
    let mut any = false;
    while let bytes = from.poll_output()
        && !bytes.is_empty()
    {
        let n = bytes.len();
        to.handle_input(bytes, Time(1)).expect("sound bytes");
        from.written(n);
        any = true;
    }
    any
}

fn shuttle(a: &mut Conn, b: &mut Conn) {
    while carry(a, b) | carry(b, a) {}
}

fn round_trip(a: &mut Conn, b: &mut Conn, request: &[u8], reply: &Reply) -> usize {
    a.request(request).expect("open");
    shuttle(a, b);
    while let Some(event) = b.poll_event() {
        if let Event::Opened(id, _) = event {
            let (head, body) = msg::split::reply(reply);
            b.send_shared(id, &head, &body).expect("send");
            b.finish(id);
        }
    }
    shuttle(a, b);
    let mut len = 0;
    while let Some(event) = a.poll_event() {
        if let Event::Message(id, m) = event {
            len += m.len();
            a.consumed(id, m.len());
        }
    }
    len
}

fn watchers(a: &mut Conn, b: &mut Conn, n: usize) -> Vec<StreamId> {
    for _ in 0..n {
        a.request(b"watch").expect("open");
    }
    shuttle(a, b);
    let mut streams = Vec::new();
    while let Some(event) = b.poll_event() {
        if let Event::Opened(id, _) = event {
            streams.push(id);
        }
    }
    streams
}

fn wire(c: &mut Criterion) {
    let mut group = c.benchmark_group("wire");
    for (name, len) in [("request_reply", 2 << 10), ("large_reply", 1 << 20)] {
        let body: Body = vec![b'x'; len].into();
        let reply = Reply::Object { code: 200, warnings: vec![], body };
        let (mut a, mut b) = pair();
        group.throughput(Throughput::Bytes(len as u64));
        group.bench_function(name, |bench| {
            bench.iter(|| black_box(round_trip(&mut a, &mut b, &[7; 200], &reply)));
        });
    }
    let (mut a, mut b) = pair();
    let streams = watchers(&mut a, &mut b, 1000);
    let body: Body = vec![b'x'; 2 << 10].into();
    group.throughput(Throughput::Elements(streams.len() as u64));
    group.bench_function("fan_out", |bench| {
        bench.iter(|| {
            let head = msg::split::event_head(EventType::Modified, 7, &body);
            for id in &streams {
                b.send_shared(*id, &head, &body).expect("credit");
            }
            shuttle(&mut a, &mut b);
            while let Some(event) = a.poll_event() {
                if let Event::Message(id, m) = event {
                    a.consumed(id, m.len());
                }
            }
            shuttle(&mut a, &mut b);
        });
    });
    group.finish();
}

criterion_group!(benches, wire);
criterion_main!(benches);
