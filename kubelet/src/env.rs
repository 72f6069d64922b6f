//! The environment of a container: service variables, envFrom, env with `$(VAR)` expansion, downward fields.

use crate::refs::{RefKey, Refs};
use crate::resources;
use crate::spec::{Container, FieldRef, Pod, ResourceFieldRef};
use base64::Engine as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// What the downward API shows beyond the pod's own object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// Address of the pod.
    pub pod_ip: Option<IpAddr>,
    /// Address of the node.
    pub host_ip: Option<IpAddr>,
    /// Milli-CPU that pods of this node may use.
    pub node_cpu_milli: u64,
    /// Bytes of memory that pods of this node may use.
    pub node_memory_bytes: u64,
    /// Bytes of disk that pods of this node may use.
    pub node_storage_bytes: u64,
}

/// Why a container cannot be configured: the message of CreateContainerConfigError.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfigError(pub String);

/// The variables of a container in order, later ones replacing earlier ones of the same name.
pub fn build(
    pod: &Pod,
    c: &Container,
    facts: &Facts,
    services: &BTreeMap<String, String>,
    refs: &Refs,
) -> Result<BTreeMap<String, String>, ConfigError> {
    let mut vars = services.clone();
    let ns = &pod.metadata.namespace;
    for from in &c.env_from {
        if let Some(r) = &from.config_map_ref {
            let key = RefKey::ConfigMap(ns.clone(), r.name.clone());
            add_all(&mut vars, &from.prefix, look_up(refs, &key, r.optional)?, false);
        }
        if let Some(r) = &from.secret_ref {
            let key = RefKey::Secret(ns.clone(), r.name.clone());
            add_all(&mut vars, &from.prefix, look_up(refs, &key, r.optional)?, true);
        }
    }
    for var in &c.env {
        let value = match (&var.value, &var.value_from) {
            (Some(v), _) => Some(expand(v, &vars)),
            (None, None) => Some(String::new()),
            (None, Some(source)) => {
                if let Some(f) = &source.field_ref {
                    Some(field(pod, f, facts)?)
                } else if let Some(r) = &source.resource_field_ref {
                    Some(resource(pod, c, r, facts)?)
                } else if let Some(r) = &source.config_map_key_ref {
                    let key = RefKey::ConfigMap(ns.clone(), r.name.clone());
                    one_key(refs, &key, &r.key, r.optional, false)?
                } else if let Some(r) = &source.secret_key_ref {
                    let key = RefKey::Secret(ns.clone(), r.name.clone());
                    one_key(refs, &key, &r.key, r.optional, true)?
                } else {
                    return Err(ConfigError(format!(
                        "environment variable {:?} has a source that this kubelet does not know",
                        var.name
                    )));
                }
            }
        };
        if let Some(value) = value {
            vars.insert(var.name.clone(), value);
        }
    }
    Ok(vars)
}

fn look_up<'a>(
    refs: &'a Refs,
    key: &RefKey,
    optional: bool,
) -> Result<Option<&'a Value>, ConfigError> {
    match refs.get(key) {
        Some(Ok(object)) => Ok(Some(object)),
        Some(Err(_)) | None if optional => Ok(None),
        Some(Err(why)) => Err(ConfigError(format!("{} {why}", key.describe()))),
        None => Err(ConfigError(format!("{} is not known yet", key.describe()))),
    }
}

fn add_all(
    vars: &mut BTreeMap<String, String>,
    prefix: &str,
    object: Option<&Value>,
    encoded: bool,
) {
    let data = object.and_then(|o| o.get("data")).and_then(Value::as_object);
    for (k, v) in data.into_iter().flatten() {
        let name = format!("{prefix}{k}");
        // Names that no environment can hold are left out (Kubernetes reports InvalidEnvironmentVariableNames).
        if name.is_empty() || name.contains('=') || name.contains('\0') {
            continue;
        }
        if let Some(text) = text_of(v, encoded) {
            vars.insert(name, text);
        }
    }
}

fn text_of(v: &Value, encoded: bool) -> Option<String> {
    bytes_of(v, encoded).map(|b| String::from_utf8_lossy(&b).into_owned())
}

/// The bytes of a data value: text, or base64 for secrets and binaryData.
pub fn bytes_of(v: &Value, encoded: bool) -> Option<Vec<u8>> {
    let text = v.as_str()?;
    if encoded {
        base64::engine::general_purpose::STANDARD.decode(text).ok()
    } else {
        Some(text.as_bytes().to_vec())
    }
}

fn one_key(
    refs: &Refs,
    key: &RefKey,
    name: &str,
    optional: bool,
    encoded: bool,
) -> Result<Option<String>, ConfigError> {
    let Some(object) = look_up(refs, key, optional)? else { return Ok(None) };
    match object.get("data").and_then(|d| d.get(name)).and_then(|v| text_of(v, encoded)) {
        Some(text) => Ok(Some(text)),
        None if optional => Ok(None),
        None => {
            let (kind, ns, object_name) = match key {
                RefKey::ConfigMap(ns, n) => ("ConfigMap", ns, n),
                RefKey::Secret(ns, n) => ("Secret", ns, n),
                RefKey::Claim(..) | RefKey::Volume(_) | RefKey::Token { .. } => return Ok(None),
            };
            Err(ConfigError(format!("couldn't find key {name} in {kind} {ns}/{object_name}")))
        }
    }
}

/// Replaces `$(NAME)` by the variable; `$$` is a dollar; an unknown name stays as it is.
pub fn expand(text: &str, vars: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = rest.strip_prefix('(') {
            match inner.find(')') {
                Some(end) => {
                    let name = &inner[..end];
                    match vars.get(name) {
                        Some(value) => out.push_str(value),
                        None => {
                            out.push_str("$(");
                            out.push_str(name);
                            out.push(')');
                        }
                    }
                    rest = &inner[end + 1..];
                }
                None => out.push('$'),
            }
        } else {
            out.push('$');
        }
    }
    out.push_str(rest);
    out
}

/// A field of the pod for env and downwardAPI files.
pub fn field(pod: &Pod, f: &FieldRef, facts: &Facts) -> Result<String, ConfigError> {
    let m = &pod.metadata;
    let address = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
    let path = f.field_path.as_str();
    if let Some((map, key)) = path.strip_suffix("']").and_then(|p| p.split_once("['")) {
        return match map {
            "metadata.labels" => Ok(m.labels.get(key).cloned().unwrap_or_default()),
            "metadata.annotations" => Ok(m.annotations.get(key).cloned().unwrap_or_default()),
            _ => Err(ConfigError(format!("unsupported fieldPath: {path}"))),
        };
    }
    Ok(match path {
        "metadata.name" => m.name.clone(),
        "metadata.namespace" => m.namespace.clone(),
        "metadata.uid" => m.uid.clone(),
        "metadata.labels" => format_map(&m.labels),
        "metadata.annotations" => format_map(&m.annotations),
        "spec.nodeName" => pod.spec.node_name.clone(),
        "spec.serviceAccountName" => pod.spec.service_account_name.clone(),
        "status.hostIP" | "status.hostIPs" => address(facts.host_ip),
        "status.podIP" | "status.podIPs" => address(facts.pod_ip),
        _ => return Err(ConfigError(format!("unsupported fieldPath: {path}"))),
    })
}

fn format_map(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<String> = map.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// A resource of a container for env and downwardAPI files: whole units of the divisor, rounded up.
pub fn resource(
    pod: &Pod,
    own: &Container,
    r: &ResourceFieldRef,
    facts: &Facts,
) -> Result<String, ConfigError> {
    let c = if r.container_name.is_empty() {
        own
    } else {
        match pod.container(&r.container_name) {
            Some((_, c)) => c,
            None => {
                return Err(ConfigError(format!("container {} not found", r.container_name)));
            }
        }
    };
    let (list, name) = match r.resource.split_once('.') {
        Some(("limits", name)) => (&c.resources.limits, name),
        Some(("requests", name)) => (&c.resources.requests, name),
        _ => return Err(ConfigError(format!("unsupported container resource : {}", r.resource))),
    };
    const NANO: i128 = 1_000_000_000;
    let is_limit = r.resource.starts_with("limits.");
    let nano = match list.get(name).and_then(resources::quantity_nano) {
        Some(n) if n > 0 || !is_limit => n,
        // A container without a limit may use what the node has.
        _ if is_limit => match name {
            "cpu" => i128::from(facts.node_cpu_milli) * 1_000_000,
            "memory" => i128::from(facts.node_memory_bytes) * NANO,
            "ephemeral-storage" => i128::from(facts.node_storage_bytes) * NANO,
            _ => 0,
        },
        _ => 0,
    };
    let divisor = r.divisor.as_ref().and_then(resources::quantity_nano).filter(|d| *d > 0);
    let divisor = divisor.unwrap_or(NANO);
    Ok(((nano + divisor - 1) / divisor).to_string())
}

/// Variables of the services of a pod's namespace (`enableServiceLinks`) and of `kubernetes`.
pub fn service_variables<'a>(
    pod: &Pod,
    services: impl Iterator<Item = &'a Value>,
) -> BTreeMap<String, String> {
    let mut out = BTreeMap::new();
    let links = pod.spec.enable_service_links.unwrap_or(true);
    for s in services {
        let (ns, name) = (&s["metadata"]["namespace"], &s["metadata"]["name"]);
        let master = ns == "default" && name == "kubernetes";
        let linked = links && ns.as_str() == Some(pod.metadata.namespace.as_str());
        let ip = s["spec"]["clusterIP"].as_str().unwrap_or_default();
        if (master || linked) && !ip.is_empty() && ip != "None" {
            one_service(&mut out, name.as_str().unwrap_or_default(), ip, &s["spec"]["ports"]);
        }
    }
    out
}

fn one_service(out: &mut BTreeMap<String, String>, name: &str, ip: &str, ports: &Value) {
    let prefix = name.to_uppercase().replace('-', "_");
    let ports: Vec<&Value> = ports.as_array().into_iter().flatten().collect();
    let Some(first) = ports.first() else { return };
    let number = |p: &Value| p["port"].as_u64().unwrap_or(0);
    let protocol = |p: &Value| p["protocol"].as_str().unwrap_or("TCP").to_string();
    let mut set = |key: String, value: String| {
        out.insert(key, value);
    };
    let bracketed = if ip.contains(':') { format!("[{ip}]") } else { ip.to_string() };
    set(format!("{prefix}_SERVICE_HOST"), ip.to_string());
    set(format!("{prefix}_SERVICE_PORT"), number(first).to_string());
    let url = |p: &Value| format!("{}://{bracketed}:{}", protocol(p).to_lowercase(), number(p));
    set(format!("{prefix}_PORT"), url(first));
    for p in ports {
        if let Some(port_name) = p["name"].as_str().filter(|n| !n.is_empty()) {
            let port_name = port_name.to_uppercase().replace('-', "_");
            set(format!("{prefix}_SERVICE_PORT_{port_name}"), number(p).to_string());
        }
        let base = format!("{prefix}_PORT_{}_{}", number(p), protocol(p).to_uppercase());
        set(base.clone(), url(p));
        set(format!("{base}_PROTO"), protocol(p).to_lowercase());
        set(format!("{base}_PORT"), number(p).to_string());
        set(format!("{base}_ADDR"), ip.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn expansion() {
        let vars: BTreeMap<String, String> =
            [("A", "1"), ("B", "$(A)")].map(|(k, v)| (k.into(), v.into())).into();
        for (text, expected) in [
            ("x$(A)y", "x1y"),
            ("$$(A)", "$(A)"),
            ("$(NO)", "$(NO)"),
            ("$(B)", "$(A)"),
            ("$(A", "$(A"),
            ("100$", "100$"),
            ("$A", "$A"),
            ("$$$(A)", "$1"),
        ] {
            assert_eq!(expand(text, &vars), expected, "{text}");
        }
    }

    #[test]
    fn services_make_variables() {
        let pod: Pod =
            serde_json::from_value(json!({"metadata": {"namespace": "n"}})).expect("pod");
        let services = [
            json!({"metadata": {"namespace": "default", "name": "kubernetes"},
                "spec": {"clusterIP": "10.96.0.1", "ports": [{"name": "https", "port": 443}]}}),
            json!({"metadata": {"namespace": "n", "name": "my-db"},
                "spec": {"clusterIP": "10.96.0.7", "ports": [{"port": 5432, "protocol": "TCP"}]}}),
            json!({"metadata": {"namespace": "other", "name": "x"},
                "spec": {"clusterIP": "10.96.0.8", "ports": [{"port": 1}]}}),
            json!({"metadata": {"namespace": "n", "name": "headless"},
                "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}),
        ];
        let vars = service_variables(&pod, services.iter());
        assert_eq!(vars["KUBERNETES_SERVICE_HOST"], "10.96.0.1");
        assert_eq!(vars["KUBERNETES_SERVICE_PORT_HTTPS"], "443");
        assert_eq!(vars["MY_DB_PORT"], "tcp://10.96.0.7:5432");
        assert_eq!(vars["MY_DB_PORT_5432_TCP_ADDR"], "10.96.0.7");
        assert!(!vars.keys().any(|k| k.starts_with('X') || k.starts_with("HEADLESS")));
    }
}
