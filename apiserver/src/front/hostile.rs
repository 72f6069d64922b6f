//! What a hostile client can send, as functions of bytes: the fuzz targets in `fuzz/` call them, and so do the unit
//! tests with bytes from a seed. They panic when a promise is broken. Compiled for tests and with `check` only.

use super::http::{Conn, Head};
use super::limits::{
    BODY_BYTES_MAX, HEAD_BYTES_MAX, PIPELINE_BYTES_MAX, SPDY_FRAME_BYTES_MAX, WS_MESSAGE_BYTES_MAX,
};
use super::stream::exec::{Exec, PROTOCOLS};
use super::stream::forward::Forward;
use super::stream::{Io, NodeEvent, spdy, ws};
use super::uri::Query;
use super::{negotiate, rest};
use pintle_base::Time;
use pintle_wire::msg::Body;
use pintle_wire::msg::node::{self, Frame, Target};

// The first byte says in what portions the others arrive.
fn portions(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    let (how, rest) = data.split_first().unwrap_or((&0, &[]));
    rest.chunks([1, 3, 17, 100, 4096, 65_536][usize::from(*how) % 6])
}

/// A client of HTTP: requests come out whole and within the limits, are routed, and answered in order.
pub fn http(data: &[u8]) {
    let now = Time(1);
    let mut conn = Conn::new(now);
    for piece in portions(data) {
        if !conn.wants_input() {
            break;
        }
        conn.handle_input(piece, now);
        while let Some(mut request) = conn.poll_request() {
            assert!(request.body.len() <= BODY_BYTES_MAX);
            assert!(request.path.len() + request.query.len() <= HEAD_BYTES_MAX);
            route(&mut request);
            conn.respond(&Head::new(200, "text/plain"), &Body::from(&b"ok"[..]), now);
        }
        let n = conn.output_len();
        assert!(n < HEAD_BYTES_MAX + PIPELINE_BYTES_MAX + piece.len() * 200);
        while conn.output_len() > 0 {
            let n = conn.output().len();
            conn.written(n, now);
        }
    }
}

fn route(request: &mut super::http::Request) {
    let Ok(path) = rest::decoded_path(&request.path) else { return };
    let query = Query::parse(&request.query);
    let _ = negotiate::negotiate(request.header("accept"), &query);
    let Some(target) = rest::Target::parse(&path) else { return };
    if let Some(verb) = target.verb(&request.method, &query) {
        let _ = rest::request(&target, verb, request, &query);
    }
}

/// A client of WebSocket, with exec behind it.
pub fn websocket(data: &[u8]) {
    let mut reader = ws::Reader::default();
    for piece in portions(data) {
        reader.push(piece);
        loop {
            match reader.next_message() {
                Ok(Some(ws::Message::Data(bytes))) => assert!(bytes.len() <= WS_MESSAGE_BYTES_MAX),
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let io = node::Io { stdin: true, stdout: true, stderr: true, tty: true };
    for protocol in PROTOCOLS {
        let mut session = Exec::websocket(protocol, io, Vec::new());
        run(data, |piece, io| session.client(piece, io));
    }
}

/// A client of SPDY, with exec and port-forward behind it.
pub fn spdy(data: &[u8]) {
    let mut codec = spdy::Codec::default();
    for piece in portions(data) {
        codec.push(piece);
        loop {
            match codec.next_frame() {
                Ok(Some(spdy::Frame::Data { bytes, .. })) => {
                    assert!(bytes.len() <= SPDY_FRAME_BYTES_MAX);
                }
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
    let io = node::Io { stdin: true, stdout: true, stderr: false, tty: true };
    let mut exec = Exec::spdy("v4.channel.k8s.io", io, Vec::new());
    run(data, |piece, io| {
        exec.node(NodeEvent::Frame(Frame::Data { channel: 1, bytes: vec![b'x'; 9] }), io);
        exec.client(piece, io);
    });
    let target = Target {
        namespace: "n".into(),
        pod: "p".into(),
        uid: "u".into(),
        container: String::new(),
    };
    let mut forward = Forward::new(target, false);
    run(data, |piece, io| {
        forward.node(0, NodeEvent::Frame(Frame::CloseChannel { channel: 1 }), io);
        forward.client(piece, io);
    });
}

fn run(data: &[u8], mut feed: impl FnMut(&[u8], &mut Io)) {
    for piece in portions(data) {
        let mut io = Io::default();
        feed(piece, &mut io);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_base::Prng;

    fn mutations(seeds: &[&[u8]], rounds: u64, target: impl Fn(&[u8])) {
        for round in 0..rounds {
            let mut prng = Prng::new(round);
            let seed = seeds[prng.below(seeds.len() as u64) as usize];
            let mut bytes = vec![prng.next_u64() as u8];
            for _ in 0..1 + prng.below(3) {
                bytes.extend_from_slice(seed);
            }
            for _ in 0..prng.below(8) {
                let at = prng.below(bytes.len() as u64) as usize;
                match prng.below(3) {
                    0 => bytes[at] = prng.next_u64() as u8,
                    1 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, prng.next_u64() as u8),
                }
            }
            target(&bytes);
        }
    }

    #[test]
    fn hostile_clients_break_nothing() {
        let http_seeds: [&[u8]; 3] = [
            b"GET /api/v1/namespaces/a/pods?limit=5&labelSelector=a%3Db HTTP/1.1\r\nHost: h\r\nAccept: application/json;as=Table;v=v1;g=meta.k8s.io\r\n\r\n",
            b"POST /apis/apps/v1/namespaces/a/deployments HTTP/1.1\r\nHost: h\r\nContent-Type: application/yaml\r\nContent-Length: 6\r\n\r\na: {b}",
            b"DELETE /api/v1/namespaces/a/pods/b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
        ];
        mutations(&http_seeds, 2_000, http);
        let ws_seeds: [&[u8]; 2] = [
            b"\x82\x87\0\0\0\0\x04{\"Widt\x81\x85\0\0\0\x000aGk=",
            b"\x02\x81\0\0\0\0\x00\x80\x82\0\0\0\0hi\x89\x80\0\0\0\0\x88\x82\0\0\0\0\x03\xe8",
        ];
        mutations(&ws_seeds, 2_000, websocket);
        let mut client = spdy::tests::Client::default();
        let mut stream = client.syn_stream(1, &[("streamtype", "error"), ("port", "80")]);
        stream.extend(client.syn_stream(3, &[("streamtype", "data"), ("port", "80")]));
        spdy::data(3, b"hello", true, &mut stream);
        mutations(&[&stream], 2_000, spdy);
    }
}
