//! Services: cluster addresses, families, node ports; what an update keeps and what a change of type drops.
//!
//! References: pkg/registry/core/service/storage/{alloc,storage}.go.

use pintle_api::object;
use pintle_api::status::FieldError;
use serde_json::{Value, json};

use crate::alloc::{Refusal, Reserved};
use crate::registry::Endpoint;
use crate::server::Server;
use crate::status::{Failure, Result};

fn kind_of(s: &Value) -> &str {
    match object::str_at(s, &["spec", "type"]) {
        "" => "ClusterIP",
        t => t,
    }
}

fn is_service(e: &Endpoint) -> bool {
    e.group.is_empty() && e.kind == "Service"
}

fn has_cluster_ip(s: &Value) -> bool {
    kind_of(s) != "ExternalName"
}

fn has_node_ports(s: &Value) -> bool {
    match kind_of(s) {
        "NodePort" => true,
        "LoadBalancer" => {
            object::at(s, &["spec", "allocateLoadBalancerNodePorts"]) != Some(&Value::Bool(false))
        }
        _ => false,
    }
}

fn is_headless(s: &Value) -> bool {
    object::str_at(s, &["spec", "clusterIP"]) == "None"
}

impl Server {
    /// Gives a new service what it needs. On failure nothing stays reserved.
    pub(crate) fn allocate_create(
        &mut self,
        e: &Endpoint,
        v: &mut Value,
        r: &mut Reserved,
    ) -> Result<()> {
        if !is_service(e) {
            return Ok(());
        }
        let done = self.allocate(v, None, r);
        if done.is_err() {
            self.alloc.release(r);
            *r = Reserved::default();
        }
        done
    }

    /// Keeps what a changed service has and gives it what is missing. On failure nothing stays reserved.
    pub(crate) fn allocate_update(
        &mut self,
        e: &Endpoint,
        new: &mut Value,
        old: &Value,
        r: &mut Reserved,
    ) -> Result<()> {
        if !is_service(e) {
            return Ok(());
        }
        keep_allocated(new, old);
        drop_by_type(new, old);
        let done = self.allocate(new, Some(old), r);
        if done.is_err() {
            self.alloc.release(r);
            *r = Reserved::default();
        }
        done
    }

    fn allocate(&mut self, v: &mut Value, old: Option<&Value>, r: &mut Reserved) -> Result<()> {
        settle_families(v);
        let have = old.map(crate::alloc::uses).unwrap_or_default();
        if has_cluster_ip(v) && !is_headless(v) {
            self.allocate_ip(v, &have, r)?;
        }
        if has_node_ports(v) || kind_of(v) == "LoadBalancer" {
            self.allocate_ports(v, &have, r)?;
        }
        let wants_check = kind_of(v) == "LoadBalancer"
            && object::str_at(v, &["spec", "externalTrafficPolicy"]) == "Local";
        if wants_check && object::int_at(v, &["spec", "healthCheckNodePort"]).unwrap_or(0) == 0 {
            let port = self
                .alloc
                .any_port("TCP", &mut self.prng, r)
                .map_err(|_| Failure::internal("failed to allocate a nodePort: range is full"))?;
            object::set(v, &["spec", "healthCheckNodePort"], port);
        }
        Ok(())
    }

    fn allocate_ip(&mut self, v: &mut Value, have: &Reserved, r: &mut Reserved) -> Result<()> {
        let name = object::name(v).to_owned();
        let wanted = match object::str_at(v, &["spec", "clusterIP"]) {
            "" => object::list_at(v, &["spec", "clusterIPs"])
                .first()
                .and_then(Value::as_str)
                .unwrap_or("")
                .to_owned(),
            ip => ip.to_owned(),
        };
        let ip = if wanted.is_empty() {
            match self.alloc.any_ip(&mut self.prng, r) {
                Ok(ip) => ip.to_string(),
                Err(_) => {
                    return Err(Failure::internal("failed to allocate a serviceIP: range is full"));
                }
            }
        } else if have.ips.iter().any(|h| h.to_string() == wanted) {
            wanted
        } else {
            match self.alloc.take_ip(&wanted, r) {
                Ok(ip) => ip.to_string(),
                Err(why) => return Err(self.refused_ip(&name, &wanted, why)),
            }
        };
        object::set(v, &["spec", "clusterIP"], ip.clone());
        object::set(v, &["spec", "clusterIPs"], json!([ip]));
        Ok(())
    }

    fn refused_ip(&self, name: &str, wanted: &str, why: Refusal) -> Failure {
        let why = match why {
            Refusal::Taken => "provided IP is already allocated".to_owned(),
            Refusal::OutOfRange => {
                "the provided network does not match the current range".to_owned()
            }
            Refusal::Malformed | Refusal::Full => {
                let e = FieldError::invalid_str(
                    "spec.clusterIPs[0]",
                    wanted,
                    "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                );
                return Failure::invalid("", "Service", name, &[e]);
            }
        };
        let detail = format!("failed to allocate IP {wanted}: {why}");
        let e = FieldError::invalid("spec.clusterIPs", &json!([wanted]), &detail);
        Failure::invalid("", "Service", name, &[e])
    }

    fn allocate_ports(&mut self, v: &mut Value, have: &Reserved, r: &mut Reserved) -> Result<()> {
        let name = object::name(v).to_owned();
        let mut ports = object::list_at(v, &["spec", "ports"]).to_vec();
        let allocates = has_node_ports(v);
        let mut seen: Vec<(String, u16)> = Vec::new();
        for (i, p) in ports.iter_mut().enumerate() {
            let protocol = match object::str_at(p, &["protocol"]) {
                "" => "TCP".to_owned(),
                other => other.to_owned(),
            };
            let wanted = object::int_at(p, &["nodePort"]).unwrap_or(0);
            if wanted == 0 && !allocates {
                continue;
            }
            let number = u16::try_from(wanted).unwrap_or(0);
            let key = (protocol.clone(), number);
            if wanted != 0 && (have.ports.contains(&key) || seen.contains(&key)) {
                continue;
            }
            let port = if wanted == 0 {
                self.alloc.any_port(&protocol, &mut self.prng, r).map_err(|_| {
                    Failure::internal("failed to allocate a nodePort: range is full")
                })?
            } else {
                if let Err(why) = self.alloc.take_port(&protocol, number, r) {
                    return Err(self.refused_port(&name, i, wanted, why));
                }
                number
            };
            seen.push((protocol, port));
            object::set(p, &["nodePort"], port);
        }
        object::set(v, &["spec", "ports"], ports);
        Ok(())
    }

    fn refused_port(&self, name: &str, i: usize, wanted: i64, why: Refusal) -> Failure {
        let (from, to) = self.config.node_port_range;
        let detail = match why {
            Refusal::Taken => "provided port is already allocated".to_owned(),
            _ => format!(
                "provided port is not in the valid range. The range of valid ports is {from}-{to}"
            ),
        };
        let at = format!("spec.ports[{i}].nodePort");
        let e = FieldError::invalid(at, &json!(wanted), &detail);
        Failure::invalid("", "Service", name, &[e])
    }
}

/// ipFamilies, ipFamilyPolicy and clusterIPs as they follow from the rest.
fn settle_families(v: &mut Value) {
    if !has_cluster_ip(v) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            let empty = object::at(v, &["spec", key]).is_some_and(|x| x == "" || x == &json!([]));
            if empty {
                object::remove(v, &["spec", key]);
            }
        }
        return;
    }
    if is_headless(v) {
        object::set(v, &["spec", "clusterIPs"], json!(["None"]));
    } else if object::str_at(v, &["spec", "clusterIP"]).is_empty()
        && object::list_at(v, &["spec", "clusterIPs"]).first() == Some(&json!("None"))
    {
        object::set(v, &["spec", "clusterIP"], "None");
    }
    let selects = object::map_at(v, &["spec", "selector"]).is_some_and(|m| !m.is_empty());
    if object::at(v, &["spec", "ipFamilyPolicy"]).is_none() {
        let both = is_headless(v) && !selects;
        let policy = if both { "RequireDualStack" } else { "SingleStack" };
        object::set(v, &["spec", "ipFamilyPolicy"], policy);
    }
    if object::list_at(v, &["spec", "ipFamilies"]).is_empty() {
        let both = is_headless(v)
            && !selects
            && object::str_at(v, &["spec", "ipFamilyPolicy"]) != "SingleStack";
        let families = if both { json!(["IPv4", "IPv6"]) } else { json!(["IPv4"]) };
        object::set(v, &["spec", "ipFamilies"], families);
    }
}

/// What the client left out of an update stays as it was allocated.
fn keep_allocated(new: &mut Value, old: &Value) {
    if has_cluster_ip(new) && has_cluster_ip(old) {
        let same_kind = object::str_at(new, &["spec", "clusterIP"]).is_empty()
            && object::list_at(new, &["spec", "clusterIPs"]).is_empty();
        if same_kind {
            for key in ["clusterIP", "clusterIPs"] {
                if let Some(v) = object::at(old, &["spec", key]) {
                    object::set(new, &["spec", key], v.clone());
                }
            }
        }
    }
    if has_node_ports(new) && has_node_ports(old) {
        let before = object::list_at(old, &["spec", "ports"]).to_vec();
        let mut ports = object::list_at(new, &["spec", "ports"]).to_vec();
        let id =
            |p: &Value| (object::int_at(p, &["port"]), object::str_at(p, &["protocol"]).to_owned());
        let taken: Vec<i64> =
            ports.iter().filter_map(|p| object::int_at(p, &["nodePort"])).collect();
        for p in &mut ports {
            if object::int_at(p, &["nodePort"]).unwrap_or(0) != 0 {
                continue;
            }
            let was = before.iter().find(|b| id(b) == id(p));
            if let Some(n) = was.and_then(|b| object::int_at(b, &["nodePort"]))
                && !taken.contains(&n)
            {
                object::set(p, &["nodePort"], n);
            }
        }
        object::set(new, &["spec", "ports"], ports);
    }
    let check = |v: &Value| object::int_at(v, &["spec", "healthCheckNodePort"]).unwrap_or(0);
    if kind_of(new) == "LoadBalancer" && check(new) == 0 && check(old) != 0 {
        object::set(new, &["spec", "healthCheckNodePort"], check(old));
    }
}

/// What belonged to the old type goes when the client left it as it was.
fn drop_by_type(new: &mut Value, old: &Value) {
    let same =
        |key: &str, new: &Value| object::at(new, &["spec", key]) == object::at(old, &["spec", key]);
    if has_cluster_ip(old) && !has_cluster_ip(new) {
        for key in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            if same(key, new) {
                object::remove(new, &["spec", key]);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(new) {
        let before: Vec<i64> = object::list_at(old, &["spec", "ports"])
            .iter()
            .filter_map(|p| object::int_at(p, &["nodePort"]))
            .collect();
        let mut ports = object::list_at(new, &["spec", "ports"]).to_vec();
        for p in &mut ports {
            if object::int_at(p, &["nodePort"]).is_some_and(|n| before.contains(&n)) {
                object::remove(p, &["nodePort"]);
            }
        }
        object::set(new, &["spec", "ports"], ports);
    }
    let external = |v: &Value| matches!(kind_of(v), "NodePort" | "LoadBalancer");
    if external(old) && !external(new) && same("externalTrafficPolicy", new) {
        object::remove(new, &["spec", "externalTrafficPolicy"]);
    }
    if kind_of(old) == "LoadBalancer" && kind_of(new) != "LoadBalancer" {
        for key in ["healthCheckNodePort", "allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(key, new) {
                object::remove(new, &["spec", key]);
            }
        }
        object::set(new, &["status", "loadBalancer"], json!({}));
    }
    if kind_of(new) == "ExternalName" && same("internalTrafficPolicy", new) {
        object::remove(new, &["spec", "internalTrafficPolicy"]);
    }
}
