//! Services, endpoints, endpoint slices.

use super::kit::{Errors, int, list, one_of, or_null, port, required, s, set, texts};
use super::text;
use crate::path::Path;
use crate::status::FieldError;
use serde_json::Value;
use std::collections::BTreeSet;
use std::net::IpAddr;

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

pub(super) fn create(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let v = or_null(o, "spec");
    spec(v, &p, e);
}

fn spec(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let kind = s(v, "type");
    let headless = s(v, "clusterIP") == "None";
    if list(v, "ports").is_empty() && !headless && kind != "ExternalName" {
        e.push(FieldError::required(p.field("ports"), ""));
    }
    if kind == "ExternalName" {
        let name = s(v, "externalName");
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.is_empty() {
            e.push(FieldError::required(p.field("externalName"), ""));
        } else {
            texts(e, &p.field("externalName"), name, text::dns1123_subdomain(name));
        }
    }
    if matches!(kind, "NodePort" | "LoadBalancer") && headless {
        let detail = format!("may not be set to 'None' for {kind} services");
        e.push(FieldError::invalid_str(p.field("clusterIPs").index(0), "None", &detail));
    }
    ports(v, p, e);
    super::kit::labels(e, &p.field("selector"), or_null(v, "selector"));
    one_of(e, p, v, "sessionAffinity", &["ClientIP", "None"]);
    if s(v, "sessionAffinity") == "ClientIP"
        && let Some(n) =
            crate::object::int_at(v, &["sessionAffinityConfig", "clientIP", "timeoutSeconds"])
        && !(1..=86_400).contains(&n)
    {
        let at =
            p.field("sessionAffinityConfig").field("clientIP").field("timeoutSeconds").to_string();
        let detail = "must be greater than 0 and less than 86400";
        e.push(FieldError::invalid(at, &n.into(), detail));
    }
    one_of(e, p, v, "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"]);
    addresses(v, headless, p, e);
    traffic(v, kind, p, e);
}

fn ports(v: &Value, p: &Path<'_>, e: &mut Errors) {
    let all = p.field("ports");
    let list = list(v, "ports");
    let kind = s(v, "type");
    let (mut names, mut numbers, mut node_ports) =
        (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, x) in list.iter().enumerate() {
        let p = all.index(i);
        let (name, protocol, number) =
            (s(x, "name"), s(x, "protocol"), int(x, "port").unwrap_or(0));
        if list.len() > 1 && name.is_empty() {
            e.push(FieldError::required(p.field("name"), ""));
        } else if !name.is_empty() {
            texts(e, &p.field("name"), name, text::dns1123_label(name));
            if !names.insert(name) {
                e.push(FieldError::duplicate(p.field("name"), &name.into()));
            }
        }
        for c in text::port_number(number) {
            e.push(FieldError::invalid(p.field("port"), &number.into(), &c));
        }
        one_of(e, &p, x, "protocol", &PROTOCOLS);
        port(e, &p.field("targetPort"), or_null(x, "targetPort"));
        if let Some(a) = set(x, "appProtocol").and_then(Value::as_str) {
            texts(e, &p.field("appProtocol"), a, text::qualified_name(a));
        }
        if !numbers.insert((protocol, number)) {
            let shown = format!(
                "{{\"Name\":\"\",\"Protocol\":\"{protocol}\",\"AppProtocol\":null,\"Port\":{number},\
                 \"TargetPort\":0,\"NodePort\":0}}"
            );
            let mut f = FieldError::duplicate(p, &Value::Null);
            f.body = format!("Duplicate value: {shown}");
            e.push(f);
        }
        let node = int(x, "nodePort").unwrap_or(0);
        if node != 0 {
            if kind == "ClusterIP" {
                let detail = "may not be used when `type` is 'ClusterIP'";
                e.push(FieldError::forbidden(p.field("nodePort"), detail));
            } else if !node_ports.insert((protocol, node)) {
                e.push(FieldError::duplicate(p.field("nodePort"), &node.into()));
            }
        }
    }
}

/// A complaint where the address is none that a service can stand for.
fn special_address(ip: &str, p: &Path<'_>, e: &mut Errors) {
    let complaints = text::ip(ip);
    let parsed: Result<IpAddr, _> = ip.parse();
    texts(e, p, ip, complaints);
    let Ok(ip_value) = parsed else { return };
    let detail = match ip_value {
        a if a.is_unspecified() => "may not be unspecified",
        a if a.is_loopback() => "may not be in the loopback range (127.0.0.0/8, ::1/128)",
        IpAddr::V4(a) if a.is_link_local() => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfe80 => {
            "may not be in the link-local range (169.254.0.0/16, fe80::/10)"
        }
        IpAddr::V4(a) if a.octets()[..3] == [224, 0, 0] => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        IpAddr::V6(a) if a.segments()[0] & 0xff0f == 0xff02 => {
            "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)"
        }
        _ => return,
    };
    e.push(FieldError::invalid_str(p, ip, detail));
}

fn addresses(v: &Value, headless: bool, p: &Path<'_>, e: &mut Errors) {
    let ips = p.field("clusterIPs");
    let mut given: Vec<&str> = list(v, "clusterIPs").iter().filter_map(Value::as_str).collect();
    let first = s(v, "clusterIP");
    if given.is_empty() && !first.is_empty() {
        given.push(first);
    }
    for (i, ip) in given.iter().enumerate() {
        if !headless && !ip.is_empty() {
            texts(e, &ips.index(i), ip, text::ip(ip));
        }
    }
    let families = p.field("ipFamilies");
    let mut seen = BTreeSet::new();
    for (i, f) in list(v, "ipFamilies").iter().filter_map(Value::as_str).enumerate() {
        if !["IPv4", "IPv6"].contains(&f) {
            e.push(FieldError::not_supported(families.index(i), f, &["IPv4", "IPv6"]));
        } else if !seen.insert(f) {
            e.push(FieldError::duplicate(families.index(i), &f.into()));
        }
    }
    if set(v, "ipFamilyPolicy").is_some() {
        let good = ["PreferDualStack", "RequireDualStack", "SingleStack"];
        one_of(e, p, v, "ipFamilyPolicy", &good);
    }
    let external = p.field("externalIPs");
    for (i, ip) in list(v, "externalIPs").iter().filter_map(Value::as_str).enumerate() {
        special_address(ip, &external.index(i), e);
    }
}

fn traffic(v: &Value, kind: &str, p: &Path<'_>, e: &mut Errors) {
    let external = matches!(kind, "NodePort" | "LoadBalancer")
        || (kind == "ClusterIP" && !list(v, "externalIPs").is_empty());
    let policy = s(v, "externalTrafficPolicy");
    if !policy.is_empty() {
        if !external {
            let detail = "may only be set for externally-accessible services";
            e.push(FieldError::invalid_str(p.field("externalTrafficPolicy"), policy, detail));
        } else {
            one_of(e, p, v, "externalTrafficPolicy", &["Cluster", "Local"]);
        }
    } else if matches!(kind, "NodePort" | "LoadBalancer") {
        e.push(FieldError::required(p.field("externalTrafficPolicy"), ""));
    }
    if set(v, "internalTrafficPolicy").is_some() {
        one_of(e, p, v, "internalTrafficPolicy", &["Cluster", "Local"]);
    }
    let ranges = list(v, "loadBalancerSourceRanges");
    if kind != "LoadBalancer" {
        if !ranges.is_empty() {
            let detail = "may only be used when `type` is 'LoadBalancer'";
            e.push(FieldError::forbidden(p.field("LoadBalancerSourceRanges"), detail));
        }
        for key in ["loadBalancerClass", "allocateLoadBalancerNodePorts"] {
            if set(v, key).is_some() {
                let detail = "may only be used when `type` is 'LoadBalancer'";
                e.push(FieldError::forbidden(p.field(key), detail));
            }
        }
    }
    let at = p.field("LoadBalancerSourceRanges");
    for (i, r) in ranges.iter().filter_map(Value::as_str).enumerate() {
        texts(e, &at.index(i), r, text::cidr(r.trim()));
    }
    if kind != "LoadBalancer" || policy != "Local" {
        let n = int(v, "healthCheckNodePort").unwrap_or(0);
        if n != 0 {
            let detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            e.push(FieldError::invalid(p.field("healthCheckNodePort"), &n.into(), detail));
        }
    }
}

/// A changed Service: addresses stay while the type needs them.
pub(super) fn update(new: &Value, old: &Value, e: &mut Errors) {
    let root = Path::root();
    let p = root.field("spec");
    let (n, o) = (or_null(new, "spec"), or_null(old, "spec"));
    let keeps = |v: &Value| s(v, "type") != "ExternalName";
    let (was, is) = (s(o, "clusterIP"), s(n, "clusterIP"));
    if keeps(n) && keeps(o) && !was.is_empty() && was != is {
        let shown = or_null(n, "clusterIPs").to_string();
        let detail = "may not change once set";
        e.push(FieldError::invalid_shown(p.field("clusterIPs").index(0), &shown, detail));
    }
}

pub(super) fn endpoints(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let all = root.field("subsets");
    for (i, x) in list(o, "subsets").iter().enumerate() {
        let p = all.index(i);
        if list(x, "addresses").is_empty() && list(x, "notReadyAddresses").is_empty() {
            let detail = "must specify `addresses` or `notReadyAddresses`";
            e.push(FieldError::required(p, detail));
        }
        for key in ["addresses", "notReadyAddresses"] {
            let at = p.field(key);
            for (j, a) in list(x, key).iter().enumerate() {
                let p = at.index(j);
                let ip = s(a, "ip");
                let octet = |o: &str| {
                    o.len() > 1 && o.starts_with('0') && o.bytes().all(|c| c.is_ascii_digit())
                };
                if ip.split('.').count() == 4 && ip.split('.').any(octet) {
                    e.push(FieldError::invalid_str(p.field("ip"), ip, "must not have leading 0s"));
                } else {
                    special_address(ip, &p.field("ip"), e);
                }
                super::kit::optional_text(e, &p, a, "hostname", text::dns1123_label);
            }
        }
        let at = p.field("ports");
        let many = list(x, "ports").len() > 1;
        for (j, y) in list(x, "ports").iter().enumerate() {
            let p = at.index(j);
            if many {
                required(e, &p, y, "name");
            }
            super::kit::optional_text(e, &p, y, "name", text::dns1123_label);
            let n = int(y, "port").unwrap_or(0);
            for c in text::port_number(n) {
                e.push(FieldError::invalid(p.field("port"), &n.into(), &c));
            }
            one_of(e, &p, y, "protocol", &PROTOCOLS);
        }
    }
}

pub(super) fn endpoint_slice(o: &Value, e: &mut Errors) {
    let root = Path::root();
    let kind = s(o, "addressType");
    if kind.is_empty() {
        e.push(FieldError::required(root.field("addressType"), ""));
    } else {
        one_of(e, &root, o, "addressType", &["FQDN", "IPv4", "IPv6"]);
    }
    let all = root.field("endpoints");
    for (i, x) in list(o, "endpoints").iter().enumerate() {
        slice_endpoint(x, kind, &all.index(i), e);
    }
    let all = root.field("ports");
    let mut names = BTreeSet::new();
    for (i, x) in list(o, "ports").iter().enumerate() {
        let p = all.index(i);
        let name = s(x, "name");
        if !name.is_empty() {
            texts(e, &p.field("name"), name, text::dns1123_label(name));
        }
        if !names.insert(name) {
            e.push(FieldError::duplicate(p.field("name"), &name.into()));
        }
        one_of(e, &p, x, "protocol", &PROTOCOLS);
    }
}

fn slice_endpoint(x: &Value, kind: &str, p: &Path<'_>, e: &mut Errors) {
    const ADDRESSES_MAX: usize = 100;
    let at = p.field("addresses");
    let addresses = list(x, "addresses");
    if addresses.is_empty() {
        e.push(FieldError::required(at, "must contain at least 1 address"));
    } else if addresses.len() > ADDRESSES_MAX {
        e.push(FieldError::too_many(at, addresses.len(), ADDRESSES_MAX));
    }
    for (j, a) in addresses.iter().filter_map(Value::as_str).enumerate() {
        match kind {
            "IPv4" | "IPv6" => {
                let wrong = match a.parse::<IpAddr>() {
                    Ok(ip) => ip.is_ipv4() != (kind == "IPv4"),
                    Err(_) => false,
                };
                if wrong {
                    let article = if kind == "IPv4" { "an IPv4" } else { "an IPv6" };
                    e.push(FieldError::invalid_str(at, a, &format!("must be {article} address")));
                }
                special_address(a, &at.index(j), e);
            }
            "FQDN" => texts(e, &at.index(j), a, text::dns1123_subdomain(a)),
            _ => {}
        }
    }
    super::kit::optional_text(e, p, x, "nodeName", text::dns1123_subdomain);
    super::kit::optional_text(e, p, x, "hostname", text::dns1123_label);
}
