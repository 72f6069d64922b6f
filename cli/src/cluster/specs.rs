//! Which daemons a cluster on one machine has, with which arguments and in which order. Pure.

use super::layout::Layout;
use super::settings::{Settings, UNDERLAY};
use super::units::Spec;
use std::net::IpAddr;

/// Which parts of the control plane to run; all when empty.
pub type Components = Vec<String>;

/// Port on which nodes reach the API server over the wire protocol, next to the HTTPS port.
pub fn wire_port(settings: &Settings) -> u16 {
    settings.api_port.saturating_add(1)
}

/// All units. `addresses[i]` is the address of node `i`.
pub fn all(
    layout: &Layout,
    settings: &Settings,
    addresses: &[IpAddr],
    only: &Components,
) -> Vec<Spec> {
    let path = |p: std::path::PathBuf| p.display().to_string();
    let pki = |name: &str| path(layout.pki_file(name));
    let advertise = addresses.first().map_or_else(|| "127.0.0.1".into(), ToString::to_string);
    let unit = |name: &str, daemon, node: &str, after: &[&str], args: Vec<String>| Spec {
        name: name.to_owned(),
        daemon,
        node: node.to_owned(),
        args,
        after: after.iter().map(|s| (*s).to_owned()).collect(),
    };
    let api = format!("unix:{}", path(layout.socket("apiserver")));
    let mut units = vec![
        unit(
            "store",
            "store",
            "",
            &[],
            flags(&[
                ("--data-dir", path(layout.store())),
                ("--socket", path(layout.socket("store"))),
            ]),
        ),
        unit(
            "apiserver",
            "apiserver",
            "",
            &["store"],
            flags(&[
                ("--store-socket", path(layout.socket("store"))),
                ("--socket", path(layout.socket("apiserver"))),
                ("--port", settings.api_port.to_string()),
                ("--wire-port", wire_port(settings).to_string()),
                ("--advertise-address", advertise),
                ("--service-cidr", settings.service_cidr.clone()),
                ("--tls-cert", pki("apiserver.crt")),
                ("--tls-key", pki("apiserver.key")),
                ("--client-ca", pki("ca.crt")),
                ("--sa-key", pki("sa.key")),
            ]),
        ),
        unit("scheduler", "scheduler", "", &["apiserver"], flags(&[("--server", api.clone())])),
        unit(
            "controllers",
            "controllers",
            "",
            &["apiserver"],
            flags(&[
                ("--server", api),
                ("--root-ca", pki("ca.crt")),
                ("--cluster-cidr", settings.pod_cidr.clone()),
            ]),
        ),
    ];
    for (i, node) in settings.nodes.iter().enumerate() {
        let server = if i == 0 {
            format!("unix:{}", path(layout.socket("apiserver")))
        } else {
            format!(
                "{}:{}",
                addresses.first().map_or_else(String::new, ToString::to_string),
                wire_port(settings)
            )
        };
        let identity = |who: &str| {
            vec![
                ("--node", node.clone()),
                ("--server", server.clone()),
                ("--ca", pki("ca.crt")),
                ("--cert", pki(&format!("{who}-{node}.crt"))),
                ("--key", pki(&format!("{who}-{node}.key"))),
            ]
        };
        let mut kubelet = identity("node");
        kubelet.extend([
            ("--data-dir", path(layout.node(node))),
            ("--images", path(layout.images())),
            ("--cgroup-root", format!("{}/{node}", layout.cgroup_root())),
            ("--cluster-dns", settings.cluster_dns.to_string()),
            ("--service-cidr", settings.service_cidr.clone()),
            ("--cluster-domain", settings.cluster_domain.clone()),
        ]);
        if let Some(address) = addresses.get(i) {
            kubelet.push(("--node-ip", address.to_string()));
        }
        let mut proxy = identity("proxy");
        proxy.push(("--cluster-cidr", settings.pod_cidr.clone()));
        proxy.push(("--cluster-dns", settings.cluster_dns.to_string()));
        if i == 0 && settings.nodes.len() > 1 {
            // Further nodes reach the world beyond this machine through it.
            proxy.push(("--masquerade", format!("{}/{}", UNDERLAY.0, UNDERLAY.1)));
        }
        let mut dns = identity("dns");
        dns.extend([
            ("--bind", settings.cluster_dns.to_string()),
            ("--cluster-domain", settings.cluster_domain.clone()),
        ]);
        for (daemon, args) in [("kubelet", kubelet), ("proxy", proxy), ("dns", dns)] {
            let name = if i == 0 { daemon.to_owned() } else { format!("{daemon}-{node}") };
            units.push(unit(&name, daemon, node, &["apiserver"], flags(&args)));
        }
    }
    if !only.is_empty() {
        units.retain(|u| only.iter().any(|c| c == u.daemon));
        for u in &mut units {
            u.after.retain(|a| only.iter().any(|c| c == a));
        }
    }
    units
}

fn flags(pairs: &[(&str, String)]) -> Vec<String> {
    pairs.iter().flat_map(|(k, v)| [(*k).to_owned(), v.clone()]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn further_nodes_go_over_tls_and_names_are_unique() {
        let settings = Settings::new("edge", 2, 6443);
        let addresses = [Settings::underlay_address(0), Settings::underlay_address(1)];
        let units = all(&Layout::new("/d"), &settings, &addresses, &Vec::new());
        let names: std::collections::BTreeSet<&str> =
            units.iter().map(|u| u.name.as_str()).collect();
        assert_eq!(names.len(), 4 + 2 * 3);
        let second =
            units.iter().find(|u| u.name == "kubelet-edge-2").expect("kubelet of the second node");
        assert!(second.args.contains(&"10.245.0.1:6444".to_owned()), "{:?}", second.args);
    }

    #[test]
    fn components_can_be_left_out() {
        let settings = Settings::new("edge", 1, 6443);
        let only = vec!["store".to_owned(), "apiserver".to_owned()];
        let units = all(&Layout::new("/d"), &settings, &[], &only);
        assert_eq!(
            units.iter().map(|u| u.name.as_str()).collect::<Vec<_>>(),
            ["store", "apiserver"]
        );
    }
}
