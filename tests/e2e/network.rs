//! Services and names as pods and the outside see them, on two nodes: every kind of record, node ports on each node,
//! affinity, endpoints that come and go, proxy and DNS killed meanwhile.

use pintle_tests::{Lab, Load, eventually};
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::Duration;

const WORKLOAD: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 2
      containers:
      - name: c
        image: busybox:1
        command: [sh, -c, 'mkdir /www; hostname > /www/index.html; exec httpd -f -h /www -p 8080']
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
        lifecycle: {preStop: {sleep: {seconds: 1}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http, nodePort: 30090}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  sessionAffinity: ClientIP
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: each}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: alias}
spec: {type: ExternalName, externalName: web.default.svc.cluster.local}
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: nobody}
  ports: [{port: 80}]
"#;

fn texts<'a>(list: &'a Value, pointer: &str) -> BTreeSet<&'a str> {
    let items = list["items"].as_array().into_iter().flatten();
    items.filter_map(|i| i.pointer(pointer)?.as_str()).collect()
}

fn lines(text: &str) -> BTreeSet<&str> {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).collect()
}

#[test]
fn services_and_names_from_everywhere() {
    let mut lab = Lab::up("net", &["--nodes", "2"]);
    lab.import_busybox();
    lab.apply(WORKLOAD).ok();
    lab.k("rollout status deployment/web --timeout=60s").ok();
    let pods = lab.get("pods -l app=web");
    let names = texts(&pods, "/metadata/name");
    let addresses = texts(&pods, "/status/podIP");
    assert_eq!(names.len(), 4);
    assert_eq!(texts(&pods, "/spec/nodeName").len(), 2, "pods on both nodes");
    let inside = |pod: &str, script: &str| lab.kubectl(&["exec", pod, "--", "sh", "-c", script]);

    for pod in &names {
        // 60 tries miss one of four endpoints once in 10^7.
        let seen = inside(pod, "for i in $(seq 60); do wget -qO- http://web/; done").ok();
        assert_eq!(lines(&seen), names, "service web from {pod}");
        let seen = inside(pod, "for i in $(seq 20); do wget -qO- http://sticky/; done").ok();
        assert_eq!(lines(&seen).len(), 1, "affinity from {pod}: {seen}");
        assert_eq!(inside(pod, "wget -qO- http://alias/ >/dev/null && echo ok").ok().trim(), "ok");
        // Refused at once, not after a time limit.
        assert!(inside(pod, "wget -qO- http://nobody/").failed().contains("refused"));
        let all = inside(pod, "nslookup each.default.svc.cluster.local").ok();
        for address in &addresses {
            assert!(all.contains(address), "{address} is missing from {pod}: {all}");
        }
    }
    records(&lab, names.first().expect("a pod"), &addresses);
    node_ports(&lab, &names);
    survives(&lab, &names);
    lab.down();
}

fn records(lab: &Lab, pod: &str, addresses: &BTreeSet<&str>) {
    let ask =
        |what: &str| lab.kubectl(&["exec", pod, "--", "sh", "-c", &format!("nslookup {what}")]);
    let srv = ask("-type=srv _http._tcp.each.default.svc.cluster.local").ok();
    for address in addresses {
        let target = format!("8080 {}.each.default.svc.cluster.local", address.replace('.', "-"));
        assert!(srv.contains(&target), "{target} is missing: {srv}");
    }
    let ip = lab.get("service web")["spec"]["clusterIP"].as_str().expect("clusterIP").to_owned();
    assert!(ask(&ip).ok().contains("web.default.svc.cluster.local"), "PTR of {ip}");
    let srv = ask("-type=srv _http._tcp.web.default.svc.cluster.local").ok();
    assert!(srv.contains("80 web.default.svc.cluster.local"), "{srv}");
    let label = addresses.first().expect("an address").replace('.', "-");
    assert!(ask(&format!("{label}.default.pod.cluster.local")).ok().contains("Address"));
    assert!(ask("none.default.svc.cluster.local").out.contains("NXDOMAIN"));
}

fn node_ports(lab: &Lab, names: &BTreeSet<&str>) {
    let nodes = lab.get("nodes");
    let list = nodes["items"].as_array().into_iter().flatten();
    let addresses = list.flat_map(|n| n["status"]["addresses"].as_array().into_iter().flatten());
    let internal: Vec<&str> = addresses
        .filter(|a| a["type"] == "InternalIP")
        .filter_map(|a| a["address"].as_str())
        .collect();
    assert_eq!(internal.len(), 2, "{internal:?}");
    for address in internal.iter().chain(&["127.0.0.1"]) {
        let script =
            format!("for i in $(seq 60); do curl -sSf --max-time 5 http://{address}:30090/; done");
        assert_eq!(&lines(&lab.sh(&script).ok()), names, "node port on {address}");
    }
}

/// Requests go on while proxies and DNS are killed and pods are replaced; what changed meanwhile is true afterwards.
fn survives(lab: &Lab, old: &BTreeSet<&str>) {
    let ip = lab.get("service web")["spec"]["clusterIP"].as_str().expect("clusterIP").to_owned();
    let load = Load::start(lab, &format!("http://{ip}/"), 10);
    for daemon in lab.daemons() {
        let name = daemon["name"].as_str().unwrap_or_default();
        if name.starts_with("proxy") || name.starts_with("dns") {
            lab.sh(&format!("kill -9 {}", daemon["pid"])).ok();
        }
    }
    lab.k("rollout restart deployment/web").ok();
    lab.k("rollout status deployment/web --timeout=60s").ok();
    eventually("the old pods to go", Duration::from_secs(30), || {
        let pods = lab.get("pods -l app=web");
        (texts(&pods, "/metadata/name").len() == 4).then_some(())
    });
    let pods = lab.get("pods -l app=web");
    let new = texts(&pods, "/metadata/name");
    assert!(new.is_disjoint(old));
    let seen = lab.sh(&format!("for i in $(seq 60); do curl -sSf --max-time 5 http://{ip}/; done"));
    assert_eq!(lines(&seen.ok()), new, "only the new pods");
    load.wait_for(60);
    let (all, failed) = load.stop();
    assert!(failed.is_empty(), "{} of {all} requests failed: {failed:?}", failed.len());
    let pod = new.first().expect("a pod");
    let found = lab.kubectl(&["exec", pod, "--", "nslookup", "web.default.svc.cluster.local"]).ok();
    assert!(found.contains(&ip), "{found}");
}
