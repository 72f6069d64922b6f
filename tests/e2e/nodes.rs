//! Several nodes on one machine: pods on different nodes reach each other, names and services work from each.

use pintle_tests::Lab;
use serde_json::Value;

#[test]
fn pods_on_three_nodes_reach_each_other() {
    let mut lab = Lab::up("nodes", &["--nodes", "3"]);
    lab.import_busybox();
    let nodes = lab.get("nodes");
    let names: Vec<&str> =
        items(&nodes).map(|n| n["metadata"]["name"].as_str().expect("name")).collect();
    assert_eq!(names.len(), 3);
    for (i, node) in names.iter().enumerate() {
        lab.apply(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: p{i}, labels: {{app: p}}}}\nspec:\n  nodeName: {node}\n  \
             terminationGracePeriodSeconds: 0\n  containers:\n  - name: c\n    image: busybox:1\n    \
             command: [sh, -c, 'mkdir /www; echo p{i} > /www/index.html; exec httpd -f -h /www -p 80']\n    \
             readinessProbe: {{tcpSocket: {{port: 80}}, periodSeconds: 1}}\n"
        ))
        .ok();
    }
    lab.apply("apiVersion: v1\nkind: Service\nmetadata: {name: p}\nspec:\n  selector: {app: p}\n  ports: [{port: 80}]\n").ok();
    lab.k("wait --for=condition=Ready pod -l app=p --timeout=60s").ok();

    let pods = lab.get("pods -l app=p");
    for from in items(&pods) {
        let name = from["metadata"]["name"].as_str().expect("name");
        for to in items(&pods) {
            let ip = to["status"]["podIP"].as_str().expect("podIP");
            let out =
                lab.kubectl(&["exec", name, "--", "wget", "-qO-", &format!("http://{ip}/")]).ok();
            assert_eq!(
                out.trim(),
                to["metadata"]["name"].as_str().expect("name"),
                "{name} to {ip}"
            );
        }
        // The service by name, often enough to reach every endpoint (1 in 3 each: 40 tries miss one in 10^7).
        let script = "for i in $(seq 40); do wget -qO- http://p/; done | sort -u";
        let seen = lab.kubectl(&["exec", name, "--", "sh", "-c", script]).ok();
        assert_eq!(
            seen.split_whitespace().collect::<Vec<_>>(),
            ["p0", "p1", "p2"],
            "service from {name}"
        );
    }
    lab.down();
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}
