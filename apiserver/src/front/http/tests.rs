//! The connection driven by bytes: pipelining, limits, what is malformed, slow clients, seeded mutations.

use super::*;
use pintle_base::Prng;

const T0: Time = Time(1_000_000_000);

fn body(text: &str) -> Body {
    Body::from(text.as_bytes())
}

fn output(conn: &mut Conn) -> String {
    let mut all = Vec::new();
    while conn.output_len() > 0 {
        let n = conn.output().len();
        all.extend_from_slice(conn.output());
        conn.written(n, T0);
    }
    String::from_utf8(all).expect("ascii")
}

// Feeds `bytes` in pieces of `step`; answers each request with its own method, path and body.
fn talk(bytes: &[u8], step: usize) -> (Vec<Request>, String, bool) {
    let mut conn = Conn::new(T0);
    let mut requests = Vec::new();
    let mut out = String::new();
    for piece in bytes.chunks(step) {
        conn.handle_input(piece, T0);
        while let Some(r) = conn.poll_request() {
            let text = format!("{} {} {}", r.method, r.path, r.body.len());
            requests.push(r);
            conn.respond(&Head::new(200, "text/plain"), &body(&text), T0);
        }
        out.push_str(&output(&mut conn));
    }
    (requests, out, conn.is_done())
}

#[test]
fn pipelined_requests_are_answered_in_order_however_they_arrive() {
    let bytes = b"GET /a?x=1 HTTP/1.1\r\nHost: h\r\n\r\n\
        POST /b HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello\
        PUT /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n2\r\nde\r\n0\r\nT: t\r\n\r\n\
        GET /d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    let whole = talk(bytes, bytes.len());
    assert_eq!(whole.0.len(), 4);
    assert_eq!(whole.0[0].query, "x=1");
    assert_eq!(whole.0[1].body, b"hello");
    assert_eq!(whole.0[2].body, b"abcde");
    assert!(whole.2, "Connection: close ends it");
    for step in 1..40 {
        assert_eq!(talk(bytes, step), whole, "in pieces of {step}");
    }
}

#[test]
fn malformed_requests_are_refused_and_end_the_connection() {
    for (bytes, code) in [
        ("nonsense\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n", 505),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            400,
        ),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (
            "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            400,
        ),
    ] {
        let (requests, out, done) = talk(bytes.as_bytes(), bytes.len());
        assert!(requests.is_empty() && done, "{bytes:?}");
        assert!(out.starts_with(&format!("HTTP/1.1 {code} ")), "{bytes:?} -> {out:?}");
    }
}

#[test]
fn limits_are_reached_and_held() {
    let mut long = b"GET / HTTP/1.1\r\nHost: h\r\nX: ".to_vec();
    long.resize(HEAD_BYTES_MAX + 10, b'a');
    assert!(talk(&long, 4096).1.starts_with("HTTP/1.1 431 "));
    let url = format!("GET /{} HTTP/1.1\r\nHost: h\r\n\r\n", "a".repeat(URL_BYTES_MAX));
    assert!(talk(url.as_bytes(), 65536).1.starts_with("HTTP/1.1 414 "));

    let n = BODY_BYTES_MAX;
    let mut post = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {n}\r\n\r\n");
    post.push_str(&"x".repeat(n));
    let (requests, ..) = talk(post.as_bytes(), 65536);
    assert!(!requests[0].too_large && requests[0].body.len() == n);

    let n = n + 1;
    let mut post = format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {n}\r\n\r\n");
    post.push_str(&"x".repeat(n));
    post.push_str("GET /next HTTP/1.1\r\nHost: h\r\n\r\n");
    let (requests, ..) = talk(post.as_bytes(), 65536);
    assert!(requests[0].too_large && requests[0].body.is_empty());
    assert_eq!(requests[1].path, "/next", "the connection goes on after the body was dropped");
}

#[test]
fn expect_continue_is_answered_before_the_body() {
    let mut conn = Conn::new(T0);
    let head = "POST / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: ";
    conn.handle_input(format!("{head}2\r\n\r\n").as_bytes(), T0);
    assert_eq!(output(&mut conn), "HTTP/1.1 100 Continue\r\n\r\n");
    conn.handle_input(b"ok", T0);
    assert_eq!(conn.poll_request().expect("whole").body, b"ok");

    let mut conn = Conn::new(T0);
    conn.handle_input(format!("{head}99999999\r\n\r\n").as_bytes(), T0);
    assert_eq!(output(&mut conn), "");
    assert!(conn.poll_request().expect("at once").too_large);
}

#[test]
fn streams_are_chunked_for_11_and_end_with_the_connection_for_10() {
    let mut conn = Conn::new(T0);
    conn.handle_input(b"GET /w HTTP/1.1\r\nHost: h\r\n\r\n", T0);
    conn.poll_request().expect("whole");
    conn.begin(&Head::new(200, "application/json"), T0);
    conn.chunk(b"{\"a\":", &body("1"), b"}\n", T0);
    conn.end(T0);
    assert_eq!(
        output(&mut conn),
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n\
         8\r\n{\"a\":1}\n\r\n0\r\n\r\n"
    );
    assert!(!conn.is_done());
    let mut conn = Conn::new(T0);
    conn.handle_input(b"GET /w HTTP/1.0\r\n\r\n", T0);
    conn.poll_request().expect("whole");
    conn.begin(&Head::new(200, ""), T0);
    conn.chunk(b"", &body("x"), b"", T0);
    conn.end(T0);
    assert_eq!(output(&mut conn), "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nx");
    assert!(conn.is_done());
}

#[test]
fn head_has_no_body_and_upgraded_bytes_pass_through() {
    let mut conn = Conn::new(T0);
    conn.handle_input(b"HEAD /w HTTP/1.1\r\nHost: h\r\n\r\n", T0);
    conn.poll_request().expect("whole");
    conn.respond(&Head::new(200, ""), &body("hello"), T0);
    assert_eq!(output(&mut conn), "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
    conn.handle_input(b"GET /exec HTTP/1.1\r\nHost: h\r\nUpgrade: x\r\n\r\nearly", T0);
    conn.poll_request().expect("whole");
    conn.upgrade(&[("Upgrade", "x")], T0);
    conn.handle_input(b"+late", T0);
    assert_eq!(conn.take_raw(), b"early+late");
    conn.write_raw(b"back", T0);
    conn.end_raw();
    assert!(output(&mut conn).ends_with("\r\n\r\nback") && conn.is_done());
}

#[test]
fn slow_clients_are_cut_off() {
    let mut conn = Conn::new(T0);
    conn.handle_input(b"GET / HT", T0);
    conn.handle_timeout(T0 + HEAD_TIME);
    assert!(output(&mut conn).starts_with("HTTP/1.1 408 ") && conn.is_done());

    let mut conn = Conn::new(T0);
    conn.handle_timeout(conn.poll_timeout().expect("idle limit"));
    assert!(conn.is_done());

    let mut conn = Conn::new(T0);
    conn.handle_input(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", T0);
    conn.poll_request().expect("whole");
    assert_eq!(conn.poll_timeout(), None, "the server's time is not the client's fault");
    conn.begin(&Head::new(200, ""), T0);
    conn.chunk(b"x", &body(""), b"", T0);
    conn.handle_timeout(T0 + STALL_TIME);
    assert!(conn.is_done());
}

#[test]
fn random_bytes_never_panic_and_never_cost_more_than_the_limits() {
    let seeds: [&[u8]; 4] = [
        b"GET /a?b=c HTTP/1.1\r\nHost: h\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\nabc",
        b"\r\n\r\nGET http://x/y HTTP/1.0\nConnection: keep-alive\n\n",
    ];
    for seed in 0..3_000u64 {
        let mut prng = Prng::new(seed);
        let mut bytes = seeds[prng.below(4) as usize].repeat(1 + prng.below(3) as usize);
        for _ in 0..prng.below(6) {
            let at = prng.below(bytes.len() as u64) as usize;
            match prng.below(3) {
                0 => bytes[at] = prng.next_u64() as u8,
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, prng.next_u64() as u8),
            }
            if bytes.is_empty() {
                bytes.push(b'G');
            }
        }
        let step = 1 + prng.below(bytes.len() as u64) as usize;
        let whole = talk(&bytes, bytes.len());
        let pieces = talk(&bytes, step);
        assert_eq!(whole.0, pieces.0, "seed {seed}: requests depend on how bytes arrive");
    }
}
