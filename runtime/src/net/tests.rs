//! Real links, addresses and packets, in namespaces that each test makes and removes. Needs root.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};

/// A namespace of the test, gone at the end, also after a failed assertion that unwinds.
struct Netns(PathBuf);

impl Netns {
    fn new() -> Netns {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pintle-net-{}-{n}", std::process::id());
        let path = std::env::temp_dir().join(name);
        create_netns(&path).expect("make a namespace (root?)");
        Netns(path)
    }

    fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        in_netns(&self.0, f).expect("enter the namespace")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = remove_netns(&self.0);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

fn bridge() -> Bridge {
    Bridge {
        name: "pintle0".into(),
        addresses: vec![(ip("10.244.0.1"), 24), (ip("10.96.0.10"), 32)],
        mtu: 1500,
    }
}

fn port(netns: &Netns, n: u8) -> Port {
    Port {
        bridge: "pintle0".into(),
        host_name: format!("pt{n}"),
        inner_name: "eth0".into(),
        netns: netns.0.clone(),
        address: (ip(&format!("10.244.0.{n}")), 24),
        gateway: ip("10.244.0.1"),
        mtu: 1500,
        hairpin: true,
    }
}

/// Who a server at `address` in `server` sees when `client` connects to it.
fn connect(server: &Netns, client: &Netns, address: &str) -> String {
    let listener = server.run(|| TcpListener::bind(address)).expect("listen");
    let mut stream = client.run(|| TcpStream::connect(address)).expect("connect");
    let (mut accepted, peer) = listener.accept().expect("accept");
    accepted.write_all(b"hello").expect("write");
    drop(accepted);
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("read");
    assert_eq!(text, "hello");
    peer.ip().to_string()
}

/// What iproute2 says of a port.
#[expect(clippy::disallowed_methods, reason = "the test asks another program what the kernel has")]
fn hairpin_of(link: &str) -> bool {
    let out = std::process::Command::new("bridge")
        .args(["-d", "link", "show", "dev", link])
        .output()
        .expect("run bridge");
    String::from_utf8_lossy(&out.stdout).contains("hairpin on")
}

#[test]
fn pods_reach_each_other_through_the_bridge() {
    let (node, a, b) = (Netns::new(), Netns::new(), Netns::new());
    node.run(|| {
        for _ in 0..2 {
            ensure_bridge(&bridge()).expect("bridge");
            attach(&port(&a, 5)).expect("attach a");
            attach(&port(&b, 6)).expect("attach b");
        }
    });
    assert_eq!(connect(&b, &a, "10.244.0.6:80"), "10.244.0.5");
    assert_eq!(connect(&node, &a, "10.96.0.10:53"), "10.244.0.5");
    assert_eq!(connect(&a, &node, "10.244.0.5:81"), "10.244.0.1");
    // Hairpin mode is set on the port.
    assert!(node.run(|| hairpin_of("pt5")));
    node.run(|| {
        detach("pt5").expect("detach");
        detach("pt5").expect("detach twice");
        remove_link("pintle0").expect("remove bridge");
        remove_link("pintle0").expect("remove bridge twice");
    });
}

#[test]
fn attach_repairs_what_is_half_made() {
    let (node, old, new) = (Netns::new(), Netns::new(), Netns::new());
    node.run(|| {
        ensure_bridge(&bridge()).expect("bridge");
        attach(&port(&old, 5)).expect("attach");
        // The same port for another sandbox: the old pair is in the way.
        attach(&port(&new, 5)).expect("attach again");
    });
    assert_eq!(connect(&new, &node, "10.244.0.5:80"), "10.244.0.1");
    // Another address for the same sandbox.
    let mut moved = port(&new, 5);
    moved.address.0 = ip("10.244.0.9");
    node.run(|| attach(&moved)).expect("attach with a new address");
    assert_eq!(connect(&new, &node, "10.244.0.9:80"), "10.244.0.1");
    let addresses = new.run(addresses).expect("addresses");
    assert!(!addresses.contains(&ip("10.244.0.5")), "{addresses:?}");
}

#[test]
fn nodes_route_to_each_others_pods() {
    let (host, pod_a, pod_b) = (Netns::new(), Netns::new(), Netns::new());
    let under = Bridge {
        name: "pintle-under".into(),
        addresses: vec![(ip("172.31.255.1"), 24)],
        mtu: 1500,
    };
    let dir = std::env::temp_dir();
    let node = |n: u8| NodeLink {
        netns: dir.join(format!("pintle-node-{}-{n}", std::process::id())),
        bridge: under.clone(),
        host_name: format!("ptn{n}"),
        inner_name: "eth0".into(),
        address: (ip(&format!("172.31.255.{n}")), 24),
    };
    let nodes = [node(2), node(3)];
    let _pins = nodes.each_ref().map(|n| Netns(n.netns.clone()));
    host.run(|| {
        for n in &nodes {
            node_link(n).expect("node link");
            node_link(n).expect("node link twice");
        }
    });
    for (i, (n, pod)) in nodes.iter().zip([&pod_a, &pod_b]).enumerate() {
        in_netns(&n.netns, || {
            let gateway = ip(&format!("10.244.{i}.1"));
            ensure_bridge(&Bridge { addresses: vec![(gateway, 24)], ..bridge() }).expect("bridge");
            let address = (ip(&format!("10.244.{i}.5")), 24);
            attach(&Port { address, gateway, ..port(pod, 5) }).expect("attach");
            let other = (ip(&format!("10.244.{}.0", 1 - i)), 24);
            // 10.0.0.9 is behind the default route: its next hop is taken; then the right one replaces it.
            set_route(other, Some(ip("10.0.0.9"))).expect("route by way of the router");
            assert_eq!(routes().expect("routes"), [(other, ip("172.31.255.1"))]);
            let via = nodes[1 - i].address.0;
            set_route(other, Some(via)).expect("route");
            assert_eq!(routes().expect("routes"), [(other, via)]);
            assert_eq!(primary_address().expect("address"), Some(n.address.0));
        })
        .expect("enter the node");
    }
    assert_eq!(connect(&pod_b, &pod_a, "10.244.1.5:80"), "10.244.0.5");
    in_netns(&nodes[0].netns, || {
        set_route((ip("10.244.1.0"), 24), None).expect("remove");
        set_route((ip("10.244.1.0"), 24), None).expect("remove twice");
        assert_eq!(routes().expect("routes"), []);
    })
    .expect("enter the node");
    host.run(|| {
        for n in nodes.iter().chain(&nodes) {
            remove_node_link(n).expect("remove");
        }
        assert!(find(&mut open().expect("socket"), "pintle-under").expect("look up").is_none());
    });
    assert!(nodes.iter().all(|n| !n.netns.exists()));
}

#[test]
fn wrong_input_is_refused_with_a_reason() {
    let node = Netns::new();
    node.run(|| {
        let text = |r: Result<()>| r.expect_err("refused").to_string();
        let long = Bridge { name: "a-name-of-16-byte".into(), ..bridge() };
        assert!(text(ensure_bridge(&long)).contains("1 to 15 characters"));
        assert!(text(attach(&port(&node, 5))).contains("no link pintle0"));
        let gone = Port { netns: "/nonexistent/ns".into(), ..port(&node, 5) };
        assert!(text(attach(&gone)).contains("no network namespace at /nonexistent/ns"));
        let unreachable = set_route((ip("10.1.0.0"), 16), Some(ip("10.9.9.9")));
        assert!(text(unreachable).contains("nothing leads to 10.9.9.9"));
        let lo = Bridge { name: "lo".into(), ..bridge() };
        assert!(text(ensure_bridge(&lo)).contains("not a bridge"));
    });
}

#[test]
fn threads_are_not_left_in_other_namespaces() {
    let here = || std::fs::read_link("/proc/thread-self/ns/net").expect("own namespace");
    let before = here();
    let node = Netns::new();
    let inside = node.run(here);
    assert_ne!(before, inside);
    assert_eq!(before, here());
}
