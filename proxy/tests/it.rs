//! The proxy on a real kernel: a node, its pods and an outside client as network namespaces, small servers, real
//! connections. Needs root, iptables. Leaves nothing.

use pintle_base::{Now, Time};
use pintle_client::{Caches, Daemon, Event, Object, Outbox};
use pintle_proxy::Proxy;
use pintle_proxy::build::Config;
use pintle_proxy::model::Cidr;
use pintle_proxy::worker::{self, Done, Worker};
use pintle_runtime::net::iptables::{Iptables, Variant};
use pintle_runtime::net::{self, Bridge, NodeLink, Port};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

/// A namespace, gone at the end.
struct Netns(PathBuf);

impl Netns {
    fn path() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        std::env::temp_dir().join(format!("pintle-proxy-{}-{n}", std::process::id()))
    }

    fn new() -> Netns {
        let path = Netns::path();
        net::create_netns(&path).expect("make a namespace (root?)");
        Netns(path)
    }

    fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        net::in_netns(&self.0, f).expect("enter the namespace")
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = net::remove_netns(&self.0);
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

/// Answers every connection with its name and the client's address; ends when dropped.
struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    netns: PathBuf,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Server {
    fn start(netns: &Netns, name: &str, port: u16) -> Server {
        let listener = netns.run(|| TcpListener::bind(("0.0.0.0", port))).expect("listen");
        let stop = Arc::new(AtomicBool::new(false));
        let (ended, name) = (Arc::clone(&stop), name.to_owned());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(mut stream) = stream else { continue };
                let peer = stream.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
                let _ = stream.write_all(format!("{name} {peer}").as_bytes());
            }
        });
        let address = SocketAddr::new(ip("127.0.0.1"), port);
        Server { address, stop, netns: netns.0.clone(), thread: Some(thread) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let address = self.address;
        let _ = net::in_netns(&self.netns, || TcpStream::connect(address));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// "server client-address", or the kind of error.
fn ask(from: &Netns, to: &str) -> Result<String, std::io::ErrorKind> {
    let to: SocketAddr = to.parse().expect("address and port");
    from.run(|| {
        let mut stream =
            TcpStream::connect_timeout(&to, Duration::from_secs(3)).map_err(|e| e.kind())?;
        stream.set_read_timeout(Some(Duration::from_secs(3))).map_err(|e| e.kind())?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|e| e.kind())?;
        Ok(text)
    })
}

/// How often each answer came.
fn count(from: &Netns, to: &str, times: u32) -> BTreeMap<String, u32> {
    let mut seen = BTreeMap::new();
    for _ in 0..times {
        *seen.entry(ask(from, to).expect("answer")).or_insert(0) += 1;
    }
    seen
}

/// One node with two pods and a client on the network outside.
struct World {
    node: Netns,
    pods: Vec<Netns>,
    client: Netns,
    proxy: Proxy,
    worker: Worker,
    _host: Netns,
}

const NODE_IP: &str = "172.31.7.2";

impl World {
    fn new() -> World {
        let host = Netns::new();
        let under =
            Bridge { name: "under".into(), addresses: vec![(ip("172.31.7.1"), 24)], mtu: 1500 };
        let machine = |n: u8| {
            let netns = Netns(Netns::path());
            let link = NodeLink {
                netns: netns.0.clone(),
                bridge: under.clone(),
                host_name: format!("m{n}"),
                inner_name: "eth0".into(),
                address: (ip(&format!("172.31.7.{n}")), 24),
            };
            host.run(|| net::node_link(&link)).expect("machine");
            netns
        };
        let (node, client) = (machine(2), machine(3));
        let pods = vec![Netns::new(), Netns::new()];
        node.run(|| {
            let addresses = vec![(ip("10.244.0.1"), 24)];
            net::ensure_bridge(&Bridge { name: "pintle0".into(), addresses, mtu: 1500 })
                .expect("bridge");
            for (i, pod) in pods.iter().enumerate() {
                net::attach(&Port {
                    bridge: "pintle0".into(),
                    host_name: format!("p{i}"),
                    inner_name: "eth0".into(),
                    netns: pod.0.clone(),
                    address: (ip(&format!("10.244.0.{}", 5 + i)), 24),
                    gateway: ip("10.244.0.1"),
                    mtu: 1500,
                    hairpin: true,
                })
                .expect("attach");
            }
        });
        let proxy = World::proxy();
        let mut world = World { node, pods, client, proxy, worker: Worker::default(), _host: host };
        world.change(2, "n1", Some(node_object("n1", NODE_IP, "10.244.0.0/24")));
        world
    }

    fn proxy() -> Proxy {
        let config = Config {
            cluster_cidrs: vec![Cidr::parse("10.244.0.0/16").expect("network")],
            local_vips: vec![],
            masquerade_cidrs: vec![],
        };
        let mut proxy = Proxy::new("n1", config);
        proxy.handle(Event::Synced, &Caches::default(), now(), &mut Outbox::default());
        proxy
    }

    fn change(&mut self, spec: usize, key: &str, value: Option<Value>) {
        let new = value.map(|v| Object { value: Arc::new(v), revision: 1 });
        let event = Event::Changed { spec, key: key.into(), old: None, new };
        self.proxy.handle(event, &Caches::default(), now(), &mut Outbox::default());
    }

    /// Does all work that there is; how many steps.
    fn settle(&mut self) -> u32 {
        let (node, proxy, worker) = (&self.node, &mut self.proxy, &mut self.worker);
        for step in 0..10 {
            let Some(work) = proxy.poll_apply(now()) else { return step };
            match node.run(|| worker.run(work)) {
                Done::Looked(seen) => {
                    assert!(seen.is_ok(), "{seen:?}");
                    proxy.looked(seen, now());
                }
                Done::Applied(result) => {
                    assert_eq!(result, Default::default());
                    proxy.applied(result, now());
                }
            }
        }
        panic!("the proxy never comes to rest");
    }

    fn rules(&self) -> String {
        self.node.run(|| {
            let tables = Iptables::detect(true, &["KUBE-"]).expect("iptables");
            tables.save().expect("save")
        })
    }
}

fn now() -> Now {
    Now { mono: Time(1), ..Now::default() }
}

fn node_object(name: &str, address: &str, pods: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {"podCIDR": pods, "podCIDRs": [pods]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

fn service(name: &str, cluster_ip: &str, extra: Value) -> Value {
    let mut spec = json!({
        "type": "NodePort", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip],
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30080}],
    });
    for (key, value) in extra.as_object().expect("fields") {
        spec[key] = value.clone();
    }
    json!({"metadata": {"namespace": "default", "name": name}, "spec": spec})
}

fn slice(service: &str, addresses: &[&str], port: u16, protocol: &str) -> Value {
    let endpoint =
        |a: &&str| json!({"addresses": [a], "nodeName": "n1", "conditions": {"ready": true}});
    json!({
        "metadata": {"namespace": "default", "name": format!("{service}-x"),
                     "labels": {"kubernetes.io/service-name": service}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": port, "protocol": protocol}],
        "endpoints": addresses.iter().map(endpoint).collect::<Vec<_>>(),
    })
}

const A: &str = "10.244.0.5";
const B: &str = "10.244.0.6";

#[test]
fn a_service_works_in_every_way() {
    every_way(World::new());
}

#[test]
fn a_service_works_in_every_way_with_legacy_tables() {
    let w = World::new();
    // Chains of ours in the legacy tables: this machine uses those.
    w.node.run(|| {
        let legacy = Iptables::of(Variant::Legacy, true).expect("iptables-legacy");
        legacy.restore("*nat\n:KUBE-OLD - [0:0]\nCOMMIT\n").expect("restore");
    });
    every_way(w);
}

fn every_way(mut w: World) {
    let _servers = [Server::start(&w.pods[0], "a", 8080), Server::start(&w.pods[1], "b", 8080)];
    w.change(0, "default/web", Some(service("web", "10.96.1.1", json!({}))));
    w.change(1, "default/web-x", Some(slice("web", &[A, B], 8080, "TCP")));
    assert_eq!(w.settle(), 2, "a look and an apply");
    // From the node: both endpoints, about evenly (a fair coin shows 20 or less of 100 once in 10^9).
    let seen = count(&w.node, "10.96.1.1:80", 100);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen.values().all(|n| *n > 20), "{seen:?}");
    // From a pod: its own address is kept towards others, and masqueraded towards itself (hairpin).
    let seen = count(&w.pods[0], "10.96.1.1:80", 40);
    let expected = [format!("a {}", "10.244.0.1"), format!("b {A}")];
    assert_eq!(seen.keys().cloned().collect::<Vec<_>>(), expected, "{seen:?}");
    // Node port: from outside, from a pod, from the node by its address and by 127.0.0.1.
    let node_port = format!("{NODE_IP}:30080");
    let seen = count(&w.client, &node_port, 40);
    assert_eq!(seen.keys().cloned().collect::<Vec<_>>(), ["a 10.244.0.1", "b 10.244.0.1"]);
    for (from, to) in
        [(&w.pods[1], &*node_port), (&w.node, &*node_port), (&w.node, "127.0.0.1:30080")]
    {
        assert_eq!(count(from, to, 40).len(), 2, "{to}");
    }
    // Pods reach the outside with the node's address.
    let _outside = Server::start(&w.client, "outside", 9090);
    assert_eq!(ask(&w.pods[0], "172.31.7.3:9090"), Ok(format!("outside {NODE_IP}")));
    // One endpoint goes: the other serves all. Only the difference is applied.
    w.change(1, "default/web-x", Some(slice("web", &[B], 8080, "TCP")));
    assert_eq!(w.settle(), 1);
    assert_eq!(
        count(&w.pods[1], "10.96.1.1:80", 20).into_keys().collect::<Vec<_>>(),
        ["b 10.244.0.1"]
    );
    // None left: refused at once, everywhere.
    w.change(1, "default/web-x", None);
    w.settle();
    for (from, to) in [
        (&w.pods[0], "10.96.1.1:80"),
        (&w.node, "10.96.1.1:80"),
        (&w.client, &*node_port),
        (&w.node, "127.0.0.1:30080"),
    ] {
        assert_eq!(ask(from, to), Err(std::io::ErrorKind::ConnectionRefused), "{to}");
    }
    assert_eq!(w.settle(), 0, "nothing changes any more");
    w.node.run(worker::cleanup).expect("cleanup");
    w.node.run(worker::cleanup).expect("cleanup twice");
    for variant in [Variant::Nft, Variant::Legacy] {
        let tables = Iptables::of(variant, true).expect("iptables");
        let rules = w.node.run(|| tables.save()).expect("save");
        assert!(!rules.contains("KUBE-") && !rules.contains("PINTLE-"), "{rules}");
    }
}

#[test]
fn hundreds_of_services_in_a_tree() {
    let mut w = World::new();
    let _servers = [Server::start(&w.pods[0], "a", 8080), Server::start(&w.pods[1], "b", 8080)];
    let ip_of = |n: u32| format!("10.96.{}.{}", (n * 163 % 65_536) >> 8, (n * 163) & 255);
    for n in 1..=300 {
        let name = format!("s{n}");
        let ports = json!({"ports": [{"port": 80, "protocol": "TCP", "nodePort": 30_000 + n * 7}]});
        w.change(0, &format!("default/{name}"), Some(service(&name, &ip_of(n), ports)));
        let address = if n % 2 == 0 { A } else { B };
        // Every tenth has no endpoints: refusals are a tree too.
        let addresses: &[&str] = if n % 10 == 0 { &[] } else { &[address] };
        let key = format!("default/{name}-x");
        w.change(1, &key, Some(slice(&name, addresses, 8080, "TCP")));
    }
    w.settle();
    let check = |w: &World| {
        for n in [1, 2, 9, 10, 64, 65, 128, 150, 299, 300] {
            let want = match n {
                n if n % 10 == 0 => Err(std::io::ErrorKind::ConnectionRefused),
                n if n % 2 == 0 => Ok("a 10.244.0.1".to_owned()),
                _ => Ok("b 10.244.0.1".to_owned()),
            };
            assert_eq!(ask(&w.node, &format!("{}:80", ip_of(n))), want, "service {n}");
            let node_port = format!("{NODE_IP}:{}", 30_000 + n * 7);
            assert_eq!(ask(&w.client, &node_port), want, "node port of {n}");
        }
    };
    check(&w);
    assert!(w.rules().contains("KUBE-IPS-"), "a tree");
    // One change of one service is one small transaction, and harms no other.
    w.change(1, "default/s64-x", Some(slice("s64", &[B], 8080, "TCP")));
    assert_eq!(w.settle(), 1);
    assert_eq!(ask(&w.node, &format!("{}:80", ip_of(64))), Ok("b 10.244.0.1".into()));
    w.change(1, "default/s64-x", Some(slice("s64", &[A], 8080, "TCP")));
    w.settle();
    check(&w);
    // Back to few: the tree goes.
    for n in 21..=300 {
        w.change(0, &format!("default/s{n}"), None);
    }
    w.settle();
    assert!(!w.rules().contains("KUBE-IPS-"), "no tree:\n{}", w.rules());
    assert_eq!(ask(&w.node, &format!("{}:80", ip_of(2))), Ok("a 10.244.0.1".into()));
}

#[test]
fn affinity_policies_and_a_new_proxy() {
    let mut w = World::new();
    let _servers = [Server::start(&w.pods[0], "a", 8080), Server::start(&w.pods[1], "b", 8080)];
    let affinity = json!({"sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 100}}});
    w.change(0, "default/web", Some(service("web", "10.96.1.1", affinity)));
    w.change(1, "default/web-x", Some(slice("web", &[A, B], 8080, "TCP")));
    let local = json!({"externalTrafficPolicy": "Local",
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30081}]});
    w.change(0, "default/local", Some(service("local", "10.96.1.2", local)));
    w.change(1, "default/local-x", Some(slice("local", &[A], 8080, "TCP")));
    w.settle();
    assert_eq!(count(&w.pods[1], "10.96.1.1:80", 20).len(), 1, "the same endpoint each time");
    // Policy Local keeps the client's address.
    assert_eq!(ask(&w.client, &format!("{NODE_IP}:30081")), Ok("a 172.31.7.3".into()));
    // The proxy dies; its rules stay. A service goes meanwhile; a foreign rule is there.
    let before = w.rules();
    assert!(before.contains("default/local"));
    w.node.run(|| {
        let tables = Iptables::detect(true, &["KUBE-"]).expect("iptables");
        tables.restore("*nat\n:OTHER - [0:0]\n-A OTHER -j RETURN\nCOMMIT\n").expect("restore");
    });
    w.proxy = World::proxy();
    w.change(2, "n1", Some(node_object("n1", NODE_IP, "10.244.0.0/24")));
    w.change(2, "n2", Some(node_object("n2", "172.31.7.3", "10.244.1.0/24")));
    w.change(0, "default/web", Some(service("web", "10.96.1.1", json!({}))));
    w.change(1, "default/web-x", Some(slice("web", &[A, B], 8080, "TCP")));
    assert_eq!(ask(&w.client, &format!("{NODE_IP}:30081")), Ok("a 172.31.7.3".into()));
    w.settle();
    let after = w.rules();
    assert!(!after.contains("default/local"), "{after}");
    assert!(after.contains(":OTHER"), "{after}");
    let hooks = |text: &str| {
        text.lines()
            .filter(|l| l.starts_with("-A PREROUTING") || l.starts_with("-A FORWARD"))
            .count()
    };
    assert_eq!(hooks(&before), hooks(&after), "no hook twice:\n{after}");
    assert_eq!(count(&w.client, &format!("{NODE_IP}:30080"), 40).len(), 2);
    // The route to the other node's pods came, and goes with it.
    let route = ((ip("10.244.1.0"), 24), ip("172.31.7.3"));
    assert_eq!(w.node.run(net::routes).expect("routes"), [route]);
    w.change(2, "n2", None);
    w.settle();
    assert_eq!(w.node.run(net::routes).expect("routes"), []);
}

#[test]
fn udp_flows_of_a_gone_endpoint_move() {
    let mut w = World::new();
    let udp = |pod: &Netns| {
        let socket = pod.run(|| UdpSocket::bind("0.0.0.0:5353")).expect("bind");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("timeout");
        socket
    };
    let (a, b) = (udp(&w.pods[0]), udp(&w.pods[1]));
    let ports = json!({"type": "ClusterIP", "ports": [{"port": 53, "protocol": "UDP"}]});
    w.change(0, "default/dns", Some(service("dns", "10.96.1.3", ports)));
    w.change(1, "default/dns-x", Some(slice("dns", &[A], 5353, "UDP")));
    w.settle();
    let client = w.pods[1].run(|| UdpSocket::bind("0.0.0.0:0")).expect("bind");
    let mut buffer = [0; 16];
    client.send_to(b"one", "10.96.1.3:53").expect("send");
    assert_eq!(a.recv(&mut buffer).expect("a gets it"), 3);
    // The same socket goes on: without the deletion its packets would go to the old endpoint for ever.
    w.change(1, "default/dns-x", Some(slice("dns", &[B], 5353, "UDP")));
    w.settle();
    client.send_to(b"second", "10.96.1.3:53").expect("send");
    assert_eq!(b.recv(&mut buffer).expect("b gets it"), 6);
}
