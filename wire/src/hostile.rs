//! What a hostile peer can do, as functions of bytes: the fuzz targets in `fuzz/` call them, and so do the unit
//! tests with bytes from a seed. They panic when a promise is broken. Compiled for tests and with `check` only.

use crate::conn::{Conn, Event, Hello, Limits};
use crate::limits::{CONTROL_BYTES_MAX, FRAME_PAYLOAD_BYTES_MAX, HELLO_BYTES_MAX};
use crate::msg;
use pintle_base::Time;

fn limits() -> Limits {
    Limits {
        message_bytes_max: 100_000,
        streams_max: 8,
        window_bytes: 8 << 10,
        output_bytes_max: 150_000,
        input_bytes_max: 400_000,
    }
}

/// Feeds bytes to an accepting connection; the first byte says in what portions and whether a proper hello comes
/// before them. Memory stays within the limits whatever they are.
pub fn connection(data: &[u8]) {
    let Some((how, data)) = data.split_first() else { return };
    let limits = limits();
    let mut conn = Conn::accept(Hello::default(), limits, Time(0));
    if how & 1 == 1 {
        let mut peer = Conn::connect(Hello::default(), limits, Time(0));
        let hello = peer.poll_output().to_vec();
        assert!(conn.handle_input(&hello, Time(0)).is_ok());
        conn.written(usize::MAX);
    }
    for piece in data.chunks([1, 7, 13, 100, 4096, 100_000][usize::from(how >> 1) % 6]) {
        let result = conn.handle_input(piece, Time(1));
        check_memory(&conn, &limits, piece.len());
        if result.is_err() {
            assert_eq!(conn.poll_timeout(), None);
            return;
        }
        while let Some(event) = conn.poll_event() {
            match event {
                // Refusals are the protocol's business, not ours.
                Event::Opened(id, _) => drop(conn.send(id, b"answer", &[1; 5000])),
                Event::Message(id, m) if m.len() % 2 == 0 => conn.consumed(id, m.len()),
                Event::Finished(id) => conn.finish(id),
                _ => {}
            }
        }
    }
}

fn check_memory(conn: &Conn, limits: &Limits, piece: usize) {
    let held: usize = conn.streams.values().map(|s| s.partial.capacity() + s.unconsumed).sum();
    assert!(held <= 2 * limits.input_bytes_max + limits.streams_max * FRAME_PAYLOAD_BYTES_MAX);
    assert!(conn.reader.control.capacity() <= 2 * HELLO_BYTES_MAX);
    let answers = CONTROL_BYTES_MAX + 2 * piece + 100;
    assert!(conn.output_len() <= limits.output_bytes_max + answers);
}

/// Decodes bytes as each kind of message; what decodes encodes to a message that decodes to the same.
pub fn messages(data: &[u8]) {
    fn check<T: bincode::Encode + bincode::Decode<()> + PartialEq + std::fmt::Debug>(data: &[u8]) {
        if let Ok(message) = msg::decode::<T>(data) {
            let again = msg::decode::<T>(&msg::encode(&message));
            assert_eq!(again.ok(), Some(message));
        }
    }
    check::<msg::Open>(data);
    check::<msg::Info>(data);
    check::<Hello>(data);
    check::<msg::api::Reply>(data);
    check::<msg::store::Reply>(data);
    check::<msg::node::Frame>(data);
    if let Ok(reply) = msg::decode::<msg::api::Reply>(data) {
        let (head, body) = msg::split::reply(&reply);
        assert_eq!([&head[..], &body].concat(), msg::encode(&reply));
    }
    if let Ok(msg::Open::Api(request)) = msg::decode::<msg::Open>(data) {
        let (head, body) = msg::split::request(&request);
        assert_eq!([&head[..], &body].concat(), msg::encode(&msg::Open::Api(request)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::msg::api::{EventType, Reply, Request, Verb};
    use crate::msg::{node, store};
    use pintle_base::Prng;

    /// Frames that are nearly right, so that the bytes get past the first check.
    fn frames(p: &mut Prng) -> Vec<u8> {
        let mut data = vec![p.next_u64() as u8];
        for _ in 0..p.below(60) {
            if p.chance(1, 30) {
                data.extend((0..p.below(50)).map(|_| p.next_u64() as u8));
                continue;
            }
            let kind = p.below(12) as u8;
            let len = match kind {
                5 | 10 => 0,
                6 | 7 => 4,
                8 | 9 => 8,
                _ if p.chance(1, 20) => p.next_u64() as usize,
                _ => 1 + p.below(5000) as usize,
            };
            let flags = if p.chance(1, 20) { p.next_u64() as u8 } else { p.below(3) as u8 };
            let flags = if kind == 3 || kind == 4 { flags } else { 0 };
            let stream = if matches!(kind, 1 | 2 | 8..) { 0 } else { 1 + 2 * p.below(6) as u32 };
            data.extend_from_slice(&(len as u32).to_le_bytes());
            data.extend_from_slice(&[kind, flags, 0, 0]);
            data.extend_from_slice(&stream.to_le_bytes());
            data.extend((0..len.min(6000)).map(|_| p.next_u64() as u8));
        }
        data
    }

    #[test]
    fn random_bytes_and_nearly_right_frames_do_no_harm() {
        for seed in 0..600 {
            let mut p = Prng::new(seed);
            let bytes: Vec<u8> = (0..p.below(300)).map(|_| p.next_u64() as u8).collect();
            connection(&bytes);
            connection(&frames(&mut p));
        }
    }

    fn corpus() -> Vec<Vec<u8>> {
        let mut request = Request::new(Verb::Create, "apps", "v1", "deployments");
        request.body = b"{}".as_slice().into();
        let kv = store::KeyValue {
            key: b"/registry/core/pods/a/b".to_vec(),
            create_revision: 1,
            mod_revision: 300,
            version: 70_000,
            lease: 0,
            value: b"{}".as_slice().into(),
        };
        let event = store::Event { deleted: false, kv: kv.clone(), prev: Some(kv.clone()) };
        let put = store::Op::Put { key: kv.key.clone(), value: kv.value.clone(), lease: 0 };
        let txn = store::Request::Txn {
            compare: vec![store::Compare::ModRevision(kv.key, 7)],
            then: vec![put],
            otherwise: vec![],
            durability: store::Durability::Volatile,
        };
        let body: msg::Body = b"{\"a\":1}".as_slice().into();
        vec![
            msg::encode(&msg::Open::Api(Box::new(request))),
            msg::encode(&msg::Open::Store(txn)),
            msg::encode(&Reply::Event { kind: EventType::Added, revision: 9, body: body.clone() }),
            msg::encode(&Reply::Object { code: 200, warnings: vec!["w".into()], body }),
            msg::encode(&store::Reply::WatchEvents { events: vec![event], revision: 300 }),
            msg::encode(&node::Frame::Data { channel: 1, bytes: vec![1, 2, 3] }),
        ]
    }

    #[test]
    fn mutated_messages_decode_to_what_they_encode_or_not_at_all() {
        for bytes in corpus() {
            messages(&bytes);
            for seed in 0..3000 {
                let mut p = Prng::new(seed);
                let mut mutated = bytes.clone();
                for _ in 0..1 + p.below(4) {
                    let at = p.below(mutated.len() as u64) as usize;
                    match p.below(4) {
                        0 => mutated[at] = p.next_u64() as u8,
                        1 => mutated.truncate(at + 1),
                        2 => mutated[at] = [250, 251, 252, 253, 254, 255][p.below(6) as usize],
                        _ => mutated.insert(at, p.next_u64() as u8),
                    }
                }
                messages(&mutated);
            }
        }
    }
}
