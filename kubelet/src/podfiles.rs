//! The files that the kubelet puts over those of the image: /etc/hosts, /etc/hostname, /etc/resolv.conf.

use crate::spec::Pod;
use std::fmt::Write as _;
use std::net::IpAddr;

/// What the cluster and the node say about names.
#[derive(Clone, Debug, Default)]
pub struct DnsFacts {
    /// Address of the cluster's DNS.
    pub cluster_dns: String,
    /// `cluster.local`.
    pub cluster_domain: String,
    /// The node's own /etc/resolv.conf.
    pub host_resolv_conf: String,
    /// The node's own /etc/hosts.
    pub host_hosts: String,
}

/// Host name and, for a pod with a subdomain, its full name.
pub fn names(pod: &Pod, dns: &DnsFacts) -> (String, Option<String>) {
    let host = pod.hostname();
    let fqdn = (!pod.spec.subdomain.is_empty()).then(|| {
        let m = &pod.metadata;
        format!("{host}.{}.{}.svc.{}", pod.spec.subdomain, m.namespace, dns.cluster_domain)
    });
    (host, fqdn)
}

/// /etc/hosts.
pub fn hosts(pod: &Pod, ip: Option<IpAddr>, dns: &DnsFacts) -> String {
    let mut out = if pod.spec.host_network {
        format!("# Kubernetes-managed hosts file (host network).\n{}", dns.host_hosts)
    } else {
        let mut out = String::from(
            "# Kubernetes-managed hosts file.\n\
             127.0.0.1\tlocalhost\n\
             ::1\tlocalhost ip6-localhost ip6-loopback\n\
             fe00::0\tip6-localnet\n\
             fe00::0\tip6-mcastprefix\n\
             fe00::1\tip6-allnodes\n\
             fe00::2\tip6-allrouters\n",
        );
        if let Some(ip) = ip {
            let (host, fqdn) = names(pod, dns);
            let _ = match fqdn {
                Some(fqdn) => writeln!(out, "{ip}\t{fqdn}\t{host}"),
                None => writeln!(out, "{ip}\t{host}"),
            };
        }
        out
    };
    if !pod.spec.host_aliases.is_empty() {
        out.push_str("\n# Entries added by HostAliases.\n");
        for alias in &pod.spec.host_aliases {
            let _ = writeln!(out, "{}\t{}", alias.ip, alias.hostnames.join("\t"));
        }
    }
    out
}

#[derive(Default)]
struct Resolv {
    nameservers: Vec<String>,
    searches: Vec<String>,
    options: Vec<String>,
}

fn parse(text: &str) -> Resolv {
    let mut r = Resolv::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => r.nameservers.extend(words.next().map(String::from)),
            Some("search") => r.searches = words.map(String::from).collect(),
            Some("options") => r.options.extend(words.map(String::from)),
            _ => {}
        }
    }
    r
}

/// Most name servers and search domains that Kubernetes passes on.
const NAMESERVERS_MAX: usize = 3;
const SEARCHES_MAX: usize = 32;

/// /etc/resolv.conf by `dnsPolicy` and `dnsConfig`.
pub fn resolv_conf(pod: &Pod, dns: &DnsFacts) -> String {
    let host = parse(&dns.host_resolv_conf);
    let cluster = match pod.spec.dns_policy.as_str() {
        "ClusterFirst" | "" => !pod.spec.host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    } && !dns.cluster_dns.is_empty();
    let mut r = if cluster {
        let domain = &dns.cluster_domain;
        let mut searches = vec![
            format!("{}.svc.{domain}", pod.metadata.namespace),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        searches.extend(host.searches);
        Resolv {
            nameservers: vec![dns.cluster_dns.clone()],
            searches,
            options: vec!["ndots:5".into()],
        }
    } else if pod.spec.dns_policy == "None" {
        Resolv::default()
    } else {
        host
    };
    if let Some(config) = &pod.spec.dns_config {
        r.nameservers.extend(config.nameservers.iter().cloned());
        r.searches.extend(config.searches.iter().cloned());
        for option in &config.options {
            let text = match &option.value {
                Some(v) if !v.is_empty() => format!("{}:{v}", option.name),
                _ => option.name.clone(),
            };
            r.options.retain(|o| o.split(':').next() != Some(option.name.as_str()));
            r.options.push(text);
        }
    }
    write_resolv(r)
}

fn write_resolv(r: Resolv) -> String {
    let unique = |list: Vec<String>, max: usize| {
        let mut out: Vec<String> = Vec::new();
        for item in list {
            if !out.contains(&item) && out.len() < max {
                out.push(item);
            }
        }
        out
    };
    let mut out = String::new();
    let searches = unique(r.searches, SEARCHES_MAX);
    if !searches.is_empty() {
        let _ = writeln!(out, "search {}", searches.join(" "));
    }
    for server in unique(r.nameservers, NAMESERVERS_MAX) {
        let _ = writeln!(out, "nameserver {server}");
    }
    if !r.options.is_empty() {
        let _ = writeln!(out, "options {}", r.options.join(" "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn dns() -> DnsFacts {
        DnsFacts {
            cluster_dns: "10.96.0.10".into(),
            cluster_domain: "cluster.local".into(),
            host_resolv_conf: "nameserver 9.9.9.9\nsearch example.org\noptions rotate\n".into(),
            host_hosts: "127.0.0.1 localhost\n".into(),
        }
    }

    fn check(spec: Value, expected: &str) {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": spec});
        let pod: Pod = serde_json::from_value(pod).expect("pod");
        assert_eq!(resolv_conf(&pod, &dns()), expected);
    }

    const CLUSTER: &str = "search ns.svc.cluster.local svc.cluster.local cluster.local example.org\n\
                           nameserver 10.96.0.10\noptions ndots:5\n";
    const HOST: &str = "search example.org\nnameserver 9.9.9.9\noptions rotate\n";

    #[test]
    fn dns_policies() {
        check(json!({"dnsPolicy": "ClusterFirst"}), CLUSTER);
        check(json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}), HOST);
        check(json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}), CLUSTER);
        check(json!({"dnsPolicy": "Default"}), HOST);
        check(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.2.3.4"], "searches": ["a.b"],
                "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
            "search a.b\nnameserver 1.2.3.4\noptions ndots:2 edns0\n",
        );
        check(
            json!({"dnsConfig": {"options": [{"name": "ndots", "value": "1"}]}}),
            &CLUSTER.replace("ndots:5", "ndots:1"),
        );
    }

    #[test]
    fn hosts_file() {
        let pod = json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"hostname": "h",
            "subdomain": "s", "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a", "b"]}]}});
        let pod: Pod = serde_json::from_value(pod).expect("pod");
        let text = hosts(&pod, Some("10.244.0.5".parse().expect("address")), &dns());
        assert!(text.contains("10.244.0.5\th.s.ns.svc.cluster.local\th\n"), "{text}");
        assert!(text.ends_with("1.1.1.1\ta\tb\n"), "{text}");
    }
}
