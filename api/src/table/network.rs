//! Rows of networking.k8s.io and discovery.k8s.io.

use super::{Cells, core, three};
use crate::object::{self, list_at, str_at};
use serde_json::Value;

pub(super) fn cells(kind: &str, c: &Cells<'_>) -> Option<Vec<Value>> {
    Some(match kind {
        "Ingress" => ingress(c),
        "IngressClass" => {
            let p = |k: &str| c.text(&["spec", "parameters", k]);
            let parameters = match (p("kind"), p("apiGroup")) {
                ("", _) => "<none>".to_owned(),
                (kind, group) => format!("{}/{}", crate::status::qualified(group, kind), p("name")),
            };
            vec![c.name(), c.str(&["spec", "controller"]), parameters.into(), c.age()]
        }
        "NetworkPolicy" => vec![c.name(), c.selector(&["spec", "podSelector"]), c.age()],
        "EndpointSlice" => endpoint_slice(c),
        "IPAddress" => {
            let p = |k: &str| c.text(&["spec", "parentRef", k]);
            let resource = crate::status::qualified(p("group"), p("resource"));
            let parts = [resource.as_str(), p("namespace"), p("name")];
            let parts: Vec<&str> = parts.into_iter().filter(|s| !s.is_empty()).collect();
            vec![c.name(), parts.join("/").into(), c.age()]
        }
        "ServiceCIDR" => {
            let all: Vec<&str> =
                c.list(&["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
            vec![c.name(), all.join(",").into(), c.age()]
        }
        _ => return None,
    })
}

fn ingress(c: &Cells<'_>) -> Vec<Value> {
    let class = match c.text(&["spec", "ingressClassName"]) {
        "" => object::annotation(c.o, "kubernetes.io/ingress.class").unwrap_or("<none>"),
        class => class,
    };
    let hosts: Vec<String> = c
        .list(&["spec", "rules"])
        .iter()
        .map(|r| str_at(r, &["host"]).to_owned())
        .filter(|h| !h.is_empty())
        .collect();
    let ports = if c.list(&["spec", "tls"]).is_empty() { "80" } else { "80, 443" };
    vec![
        c.name(),
        class.into(),
        three(&hosts, "*"),
        core::load_balancer(c).join(",").into(),
        ports.into(),
        c.age(),
    ]
}

fn endpoint_slice(c: &Cells<'_>) -> Vec<Value> {
    let port = |p: &Value| match (object::int_at(p, &["port"]), p.get("name")) {
        (Some(n), _) => n.to_string(),
        (None, Some(Value::String(name))) => name.clone(),
        (None, _) => "*".to_owned(),
    };
    let ports: Vec<String> = c.list(&["ports"]).iter().map(port).collect();
    let addresses: Vec<String> = c
        .list(&["endpoints"])
        .iter()
        .flat_map(|e| list_at(e, &["addresses"]))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    vec![
        c.name(),
        c.str(&["addressType"]),
        three(&ports, "<unset>"),
        three(&addresses, "<unset>"),
        c.age(),
    ]
}
