//! Properties of the state machine: any chunking, any schedule, any peer.

use crate::conn::{Conn, Error, Event, Hello, Limits, ResetCode, SendError, StreamId};
use crate::frame::{FLAG_MORE, Header, Kind, MAGIC};
use crate::limits::*;
use crate::msg::Body;
use pintle_base::{Prng, Time};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

fn hello(name: &str) -> Hello {
    Hello { daemon: name.into(), node: "n1".into(), version: "0".into(), features: vec![] }
}

fn small() -> Limits {
    Limits {
        message_bytes_max: 100_000,
        streams_max: 8,
        window_bytes: 8 << 10,
        output_bytes_max: 150_000,
        input_bytes_max: 400_000,
    }
}

fn pair(limits: Limits) -> (Conn, Conn) {
    let mut a = Conn::connect(hello("a"), limits, Time(0));
    let mut b = Conn::accept(hello("b"), limits, Time(0));
    shuttle(&mut a, &mut b);
    assert_eq!(a.poll_event(), Some(Event::Connected(hello("b"))));
    assert_eq!(b.poll_event(), Some(Event::Connected(hello("a"))));
    (a, b)
}

/// Moves all bytes both ways until nobody has any.
fn shuttle(a: &mut Conn, b: &mut Conn) {
    while move_bytes(a, b, usize::MAX) + move_bytes(b, a, usize::MAX) > 0 {}
}

fn move_bytes(from: &mut Conn, to: &mut Conn, max: usize) -> usize {
    let bytes = from.poll_output();
    let bytes = bytes[..bytes.len().min(max)].to_vec();
    from.written(bytes.len());
    to.handle_input(&bytes, Time(1)).expect("a sound peer");
    bytes.len()
}

fn events(conn: &mut Conn) -> Vec<Event> {
    std::iter::from_fn(|| conn.poll_event()).collect()
}

#[test]
fn request_and_reply_close_the_stream_on_both_sides() {
    let (mut a, mut b) = pair(Limits::default());
    let id = a.request(b"get").expect("open");
    shuttle(&mut a, &mut b);
    assert_eq!(events(&mut b), [Event::Opened(id, b"get".to_vec()), Event::Finished(id)]);
    b.send(id, b"he", b"llo").expect("send");
    b.finish(id);
    assert_eq!(b.send(id, b"x", b""), Err(SendError::Closed));
    shuttle(&mut a, &mut b);
    assert_eq!(events(&mut a), [Event::Message(id, b"hello".to_vec()), Event::Finished(id)]);
    a.consumed(id, 5);
    assert_eq!((a.streams_open(), b.streams_open()), (0, 0));
}

#[test]
fn a_message_larger_than_the_window_arrives_whole() {
    let (mut a, mut b) = pair(small());
    let big: Vec<u8> = (0..100_000u32).map(|i| i as u8).collect();
    let one = a.open(&big).expect("open");
    let two = a.open(b"x").expect("open");
    shuttle(&mut a, &mut b);
    let got = events(&mut b);
    assert!(
        got.contains(&Event::Opened(one, big.clone()))
            && got.contains(&Event::Opened(two, b"x".to_vec()))
    );
    // Two at once, shared bodies, back.
    let body: Body = big[1..].into();
    for id in [one, two] {
        assert_eq!(b.send_shared(id, &big[..1], &body), Ok(()), "{id}");
        assert_eq!(b.send(id, b"x", b""), Err(SendError::Blocked));
        shuttle(&mut a, &mut b);
        assert_eq!(events(&mut a), [Event::Message(id, big.clone())]);
        a.consumed(id, big.len());
        shuttle(&mut a, &mut b);
        assert_eq!(events(&mut b), [Event::Writable(id)]);
    }
    assert_eq!(b.send(one, &big, b"x"), Err(SendError::TooLarge));
}

#[test]
fn a_slow_consumer_stalls_only_its_own_stream() {
    let (mut a, mut b) = pair(small());
    let slow = a.open(b"slow").expect("open");
    let fast = a.open(b"fast").expect("open");
    shuttle(&mut a, &mut b);
    events(&mut b);
    while b.send(slow, &[7; 1000], b"").is_ok() {
        shuttle(&mut a, &mut b);
    }
    for _ in 0..1000 {
        b.send(fast, &[8; 1000], b"").expect("the fast stream always has credit");
        shuttle(&mut a, &mut b);
        for event in events(&mut a) {
            if let Event::Message(id, m) = event
                && id == fast
            {
                a.consumed(fast, m.len());
            }
        }
        shuttle(&mut a, &mut b);
    }
}

#[test]
fn silence_is_met_with_pings_and_then_an_error() {
    let (mut a, mut b) = pair(small());
    let mut now = Time(1);
    for _ in 0..100 {
        now = a.poll_timeout().expect("timer").min(b.poll_timeout().expect("timer"));
        a.handle_timeout(now).expect("alive");
        b.handle_timeout(now).expect("alive");
        for _ in 0..3 {
            let bytes = a.poll_output().to_vec();
            a.written(bytes.len());
            b.handle_input(&bytes, now).expect("sound");
            let bytes = b.poll_output().to_vec();
            b.written(bytes.len());
            a.handle_input(&bytes, now).expect("sound");
        }
    }
    assert!(now > Time(0) + PING_AFTER * 50);
    let dead_at = now + DEAD_AFTER;
    let mut timers = 0;
    let error = loop {
        timers += 1;
        let at = a.poll_timeout().expect("timer");
        if let Err(error) = a.handle_timeout(at) {
            assert!(at >= dead_at && at <= dead_at + PING_AFTER);
            break error;
        }
    };
    assert_eq!(error, Error::Timeout);
    assert!(timers <= 4);
    let mut half = Conn::accept(hello("b"), small(), Time(0));
    half.handle_input(&[24, 0], Time(0) + Duration::from_secs(9)).expect("half a header");
    assert_eq!(half.handle_timeout(Time(0) + HANDSHAKE_TIMEOUT), Err(Error::Timeout));
}

#[test]
fn versions_are_negotiated_or_refused_on_both_sides() {
    let mut payload = MAGIC.to_vec();
    for v in [VERSION_MAX + 1, VERSION_MAX + 3] {
        payload.extend_from_slice(&v.to_le_bytes());
    }
    for v in [WINDOW_BYTES_MIN, 1000, 10] {
        payload.extend_from_slice(&v.to_le_bytes());
    }
    payload.extend_from_slice(&crate::msg::encode(&hello("new")));
    let frame = |kind, payload: &[u8]| {
        let mut f = Header { len: payload.len(), kind, flags: 0, stream: 0 }.bytes().to_vec();
        f.extend_from_slice(payload);
        f
    };
    let expected = Error::Version {
        peer: (VERSION_MAX + 1, VERSION_MAX + 3),
        ours: (VERSION_MIN, VERSION_MAX),
    };
    let mut b = Conn::accept(hello("b"), small(), Time(0));
    assert_eq!(b.handle_input(&frame(Kind::Hello, &payload), Time(0)), Err(expected.clone()));
    assert_ne!(b.output_len(), 0, "the newer side is told our range");
    assert_eq!(b.handle_input(b"x", Time(0)), Err(expected.clone()), "dead stays dead");
    let mut a = Conn::connect(hello("a"), small(), Time(0));
    assert_eq!(a.handle_input(&frame(Kind::Welcome, &payload), Time(0)), Err(expected));
    // A newer peer that still speaks ours is fine.
    payload[8..10].copy_from_slice(&VERSION_MIN.to_le_bytes());
    let mut b = Conn::accept(hello("b"), small(), Time(0));
    b.handle_input(&frame(Kind::Hello, &payload), Time(0)).expect("common version");
    assert_eq!(b.version(), VERSION_MAX);
}

#[test]
fn go_away_lets_open_streams_finish() {
    let (mut a, mut b) = pair(small());
    let id = a.open(b"x").expect("open");
    shuttle(&mut a, &mut b);
    b.go_away();
    shuttle(&mut a, &mut b);
    assert_eq!(events(&mut a), [Event::GoAway]);
    assert_eq!(a.open(b"y"), Err(SendError::Closed));
    assert_eq!(a.send(id, b"z", b""), Ok(()));
    shuttle(&mut a, &mut b);
    assert_eq!(events(&mut b)[1..], [Event::Message(id, b"z".to_vec())]);
}

#[test]
fn used_up_numbers_end_the_connection_in_good_order() {
    let (mut a, _) = pair(small());
    a.next_id = u32::MAX;
    assert_eq!(a.open(b"last"), Ok(u32::MAX));
    assert_eq!(a.open(b"none"), Err(SendError::Closed));
    assert!(a.handle_timeout(a.poll_timeout().expect("at once")).is_err());
}

#[test]
fn too_many_streams_wait_for_a_closed_one() {
    let (mut a, mut b) = pair(small());
    let ids: Vec<StreamId> = (0..8).map(|_| a.open(b"x").expect("open")).collect();
    assert_eq!(a.open(b"x"), Err(SendError::Blocked));
    shuttle(&mut a, &mut b);
    b.reset(ids[3], ResetCode::Unsupported);
    shuttle(&mut a, &mut b);
    assert_eq!(events(&mut a), [Event::Writable(0), Event::Reset(ids[3], ResetCode::Unsupported)]);
    assert!(a.open(b"x").is_ok());
    shuttle(&mut a, &mut b);
}

/// One side of the random exchange: what it sent on each stream and has not seen arrive.
#[derive(Default)]
struct Side {
    sent: BTreeMap<StreamId, VecDeque<Vec<u8>>>,
    unconsumed: Vec<(StreamId, usize)>,
    finished: Vec<StreamId>,
}

fn random_message(p: &mut Prng) -> Vec<u8> {
    let len = match p.below(10) {
        0 => 1 + p.below(100_000),
        1..4 => 1 + p.below(10_000),
        _ => 1 + p.below(100),
    };
    let first = p.next_u64();
    (0..len).map(|i| (first.wrapping_add(i * 7)) as u8).collect()
}

fn act(p: &mut Prng, conn: &mut Conn, me: &mut Side) {
    match p.below(10) {
        0 => {
            let m = random_message(p);
            if let Ok(id) = conn.open(&m) {
                me.sent.entry(id).or_default().push_back(m);
            }
        }
        1..7 => {
            let ids: Vec<StreamId> = me.sent.keys().copied().collect();
            if ids.is_empty() {
                return;
            }
            let id = ids[p.below(ids.len() as u64) as usize];
            let m = random_message(p);
            let cut = p.below(m.len() as u64 + 1) as usize;
            let sent = if p.chance(1, 2) {
                conn.send(id, &m[..cut], &m[cut..])
            } else {
                conn.send_shared(id, &m[..cut], &m[cut..].into())
            };
            if sent.is_ok() {
                me.sent.entry(id).or_default().push_back(m);
            }
        }
        7 => {
            if let Some((id, len)) = me.unconsumed.pop() {
                conn.consumed(id, len);
            }
        }
        8 if p.chance(1, 4) => {
            let ids: Vec<StreamId> = me.sent.keys().copied().collect();
            if !ids.is_empty() {
                let id = ids[p.below(ids.len() as u64) as usize];
                conn.finish(id);
                me.finished.push(id);
            }
        }
        _ => {
            if !me.unconsumed.is_empty() {
                let at = p.below(me.unconsumed.len() as u64) as usize;
                let (id, len) = me.unconsumed.swap_remove(at);
                conn.consumed(id, len);
            }
        }
    }
}

fn hear(conn: &mut Conn, me: &mut Side, other: &mut Side) {
    while let Some(event) = conn.poll_event() {
        match event {
            Event::Opened(id, m) => {
                assert_eq!(other.sent.get_mut(&id).and_then(VecDeque::pop_front), Some(m));
                me.sent.entry(id).or_default();
            }
            Event::Message(id, m) => {
                me.unconsumed.push((id, m.len()));
                assert_eq!(other.sent.get_mut(&id).and_then(VecDeque::pop_front), Some(m));
            }
            Event::Finished(id) => {
                assert!(other.finished.contains(&id));
                assert!(other.sent.get(&id).is_none_or(VecDeque::is_empty), "all came before");
            }
            Event::Reset(id, code) => panic!("no reset was sent: {id} {code:?}"),
            Event::Writable(_) | Event::GoAway | Event::Connected(_) => {}
        }
    }
}

#[test]
fn random_streams_arrive_whole_and_in_order_whatever_the_chunking() {
    for seed in 0..20 {
        let mut p = Prng::new(seed);
        let (mut a, mut b) = pair(small());
        let (mut sa, mut sb) = (Side::default(), Side::default());
        for _ in 0..400 {
            act(&mut p, &mut a, &mut sa);
            act(&mut p, &mut b, &mut sb);
            let max = [1, 11, 100, 5_000, 100_000][p.below(5) as usize];
            if p.chance(1, 2) {
                move_bytes(&mut a, &mut b, max);
            }
            if p.chance(1, 2) {
                move_bytes(&mut b, &mut a, max);
            }
            hear(&mut a, &mut sa, &mut sb);
            hear(&mut b, &mut sb, &mut sa);
        }
        // Then everybody consumes: all that was taken arrives, nothing is left anywhere.
        loop {
            shuttle(&mut a, &mut b);
            hear(&mut a, &mut sa, &mut sb);
            hear(&mut b, &mut sb, &mut sa);
            if sa.unconsumed.is_empty() && sb.unconsumed.is_empty() {
                break;
            }
            for (id, len) in sa.unconsumed.drain(..) {
                a.consumed(id, len);
            }
            for (id, len) in sb.unconsumed.drain(..) {
                b.consumed(id, len);
            }
        }
        for side in [&sa, &sb] {
            assert!(side.sent.values().all(VecDeque::is_empty), "seed {seed}: lost messages");
        }
        assert_eq!((a.pending_bytes, a.input_bytes, a.output_len()), (0, 0, 0), "seed {seed}");
    }
}

#[test]
fn each_violation_is_named() {
    let check = |frames: &[(Kind, u8, u32, &[u8])], expected: &str| {
        let (_, mut b) = pair(small());
        let mut result = Ok(());
        for (kind, flags, stream, payload) in frames {
            let h = Header { len: payload.len(), kind: *kind, flags: *flags, stream: *stream };
            result = b.handle_input(&[&h.bytes(), *payload].concat(), Time(1));
        }
        let text = result.expect_err(expected).to_string();
        assert!(text.contains(expected), "{text}");
    };
    let open = (Kind::Open, 0, 1, &b"x"[..]);
    check(&[(Kind::Hello, 0, 0, &[0; 30])], "wrong time");
    check(&[(Kind::Data, 0, 1, b"x")], "never opened");
    check(&[(Kind::Data, 0, 2, b"x")], "never opened");
    check(&[(Kind::Open, 0, 2, b"x")], "opens stream 2");
    check(&[open, open], "its last was 1");
    check(&[open, (Kind::Data, 0, 1, &[0; 9000])], "credit left 8191");
    check(&[open, (Kind::Credit, 0, 1, &u32::MAX.to_le_bytes())], "credit of 4294967295");
    check(&[open, (Kind::Credit, 0, 1, &[0; 4])], "credit of 0");
    check(&[open, (Kind::Finish, 0, 1, b""), (Kind::Data, 0, 1, b"x")], "after its finish");
    check(&[open, (Kind::Data, FLAG_MORE, 1, b"x"), (Kind::Finish, 0, 1, b"")], "within a message");
    let many: Vec<_> = (0..9).map(|i| (Kind::Open, 0u8, 1 + 2 * i, &b"x"[..])).collect();
    check(&many, "with 8 open, limit 8");
    let mut bad = Conn::accept(hello("b"), small(), Time(0));
    let h = Header { len: 30, kind: Kind::Hello, flags: 0, stream: 0 };
    let text = bad.handle_input(&[&h.bytes()[..], &[b'G'; 30]].concat(), Time(0));
    assert!(text.expect_err("bad magic").to_string().contains("magic is"));
}

#[test]
fn a_message_over_the_limit_resets_its_stream_only() {
    let (mut a, mut b) = pair(small());
    a.limits.message_bytes_max = usize::MAX;
    a.peer = a.peer.map(|p| crate::conn::PeerLimits { message_bytes_max: u32::MAX, ..p });
    let id = a.open(b"x").expect("open");
    let other = a.open(b"y").expect("open");
    a.limits.output_bytes_max = usize::MAX;
    a.send(id, &vec![0; 200_000], b"").expect("taken");
    shuttle(&mut a, &mut b);
    assert_eq!(events(&mut a), [Event::Reset(id, ResetCode::Limit)]);
    assert!(events(&mut b).contains(&Event::Reset(id, ResetCode::Limit)));
    a.send(other, b"z", b"").expect("still there");
    shuttle(&mut a, &mut b);
    assert_eq!(events(&mut b), [Event::Message(other, b"z".to_vec())]);
}

#[test]
fn a_peer_that_does_not_read_its_pongs_is_cut_off() {
    let (_, mut b) = pair(small());
    let ping =
        [&Header { len: 8, kind: Kind::Ping, flags: 0, stream: 0 }.bytes()[..], &[0; 8]].concat();
    let many = ping.repeat(1000);
    let mut rounds = 0;
    while b.handle_input(&many, Time(1)).is_ok() {
        rounds += 1;
        assert!(rounds < 1000);
    }
    assert!(b.output_len() <= small().output_bytes_max + CONTROL_BYTES_MAX + 2 * many.len());
}
