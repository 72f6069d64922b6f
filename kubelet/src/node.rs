//! The Node object and its lease: what this node says of itself.

use crate::limits;
use pintle_base::{Now, Time};
use pintle_wire::msg::api::{PatchType, Request, Verb};
use serde_json::{Value, json};
use std::net::IpAddr;

/// What the shell found out about the machine.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// CPUs.
    pub cpus: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes of the disk that pods are on.
    pub disk_bytes: u64,
    /// /etc/machine-id.
    pub machine_id: String,
    /// /proc/sys/kernel/random/boot_id.
    pub boot_id: String,
    /// Kernel release.
    pub kernel: String,
    /// PRETTY_NAME of /etc/os-release.
    pub os_image: String,
    /// `amd64`, `arm64`, ...
    pub arch: String,
    /// Version of the binary as in `kubeletVersion`.
    pub version: String,
    /// What the runtime cannot enforce on this host.
    pub runtime_gaps: Vec<String>,
}

/// An image on the node.
#[derive(Clone, Debug, PartialEq)]
pub struct ImageInfo {
    /// Names.
    pub names: Vec<String>,
    /// Bytes.
    pub size_bytes: u64,
}

/// State of the node's own objects.
#[derive(Debug)]
pub struct Node {
    name: String,
    machine: Machine,
    ip: Option<IpAddr>,
    /// The object is known to exist.
    pub registered: bool,
    registering: bool,
    // The object was in the cache: when it goes from there, somebody deleted it.
    seen: bool,
    lease_due: Time,
    lease_exists: Option<bool>,
    lease_under_way: bool,
    status_due: Time,
    status_under_way: bool,
    sent: Value,
    images: Vec<ImageInfo>,
    network_ready: bool,
    changed: bool,
}

/// What a request of the node is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Creation of the Node object.
    Register,
    /// Its labels.
    Labels,
    /// Its status.
    Status,
    /// Creation of the lease.
    LeaseCreate,
    /// Renewal of the lease.
    LeaseRenew,
}

impl Node {
    /// A node that has not spoken to the API server yet.
    pub fn new(name: &str, machine: Machine, ip: Option<IpAddr>) -> Node {
        Node {
            name: name.into(),
            machine,
            ip,
            registered: false,
            registering: false,
            seen: false,
            lease_due: Time(0),
            lease_exists: None,
            lease_under_way: false,
            status_due: Time(0),
            status_under_way: false,
            sent: Value::Null,
            images: Vec::new(),
            network_ready: false,
            changed: true,
        }
    }

    /// The pod network is up (or not).
    pub fn set_network_ready(&mut self, ready: bool) {
        self.changed |= self.network_ready != ready;
        self.network_ready = ready;
    }

    /// The images on the node.
    pub fn set_images(&mut self, images: Vec<ImageInfo>) {
        self.changed |= self.images != images;
        self.images = images;
    }

    /// The connection went: answers will not come.
    pub fn disconnected(&mut self) {
        self.registering = false;
        self.lease_under_way = false;
        self.status_under_way = false;
    }

    fn labels(&self) -> Value {
        json!({
            "kubernetes.io/hostname": self.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": self.machine.arch,
            "beta.kubernetes.io/os": "linux",
            "beta.kubernetes.io/arch": self.machine.arch,
        })
    }

    /// What must be sent now. `node`: the Node object as cached.
    pub fn turn(&mut self, node: Option<&Value>, now: Now) -> Vec<(Purpose, Request)> {
        let mut out = Vec::new();
        if let Some(node) = node {
            if !self.seen {
                (self.seen, self.registered) = (true, true);
                out.extend(self.missing_labels(node));
            }
        } else {
            self.registered &= !self.seen;
            self.seen = false;
            if !self.registered && !self.registering {
                self.registering = true;
                out.push((Purpose::Register, self.create(now)));
            }
        }
        if self.registered {
            out.extend(self.status(node, now));
        }
        if self.registered && !self.lease_under_way && self.lease_due <= now.mono {
            self.lease_under_way = true;
            self.lease_due = now.mono + limits::LEASE_RENEW;
            out.push(self.lease(node, now));
        }
        out
    }

    /// When `turn` wants to be called though nothing happened.
    pub fn poll_timeout(&self) -> Option<Time> {
        if !self.registered {
            return None;
        }
        let lease = (!self.lease_under_way).then_some(self.lease_due);
        let status = (!self.status_under_way).then_some(self.status_due);
        lease.into_iter().chain(status).min()
    }

    /// The answer to one of its requests: the HTTP code of a refusal, or good.
    pub fn answered(&mut self, purpose: Purpose, result: Result<(), Option<u16>>, now: Time) {
        match (purpose, result) {
            (Purpose::Register, Ok(()) | Err(Some(409))) => {
                self.registering = false;
                self.registered = true;
            }
            // Tried again when the connection is back, or with the next renewal.
            (Purpose::Register, Err(_)) => self.registering = false,
            (Purpose::Labels, _) => {}
            (Purpose::Status, result) => {
                self.status_under_way = false;
                if result.is_err() {
                    self.sent = Value::Null;
                    self.status_due = now + limits::RETRY_FIRST;
                }
            }
            (Purpose::LeaseCreate, result) => {
                self.lease_under_way = false;
                self.lease_exists = match result {
                    Ok(()) | Err(Some(409)) => Some(true),
                    Err(_) => None,
                };
                if result == Err(Some(409)) {
                    self.lease_due = now;
                }
            }
            (Purpose::LeaseRenew, result) => {
                self.lease_under_way = false;
                if result == Err(Some(404)) {
                    self.lease_exists = Some(false);
                    self.lease_due = now;
                }
            }
        }
    }

    fn create(&self, now: Now) -> Request {
        let mut r = Request::new(Verb::Create, "", "v1", "nodes");
        r.body = crate::event::body(&json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": self.name, "labels": self.labels(),
                "annotations": {"volumes.kubernetes.io/controller-managed-attach-detach": "true"}},
            "spec": {},
            "status": self.full_status(None, now),
        }));
        r
    }

    fn missing_labels(&self, node: &Value) -> Option<(Purpose, Request)> {
        let wanted = self.labels();
        let have = &node["metadata"]["labels"];
        let missing = wanted.as_object()?.iter().any(|(k, v)| have.get(k) != Some(v));
        missing.then(|| {
            let mut r = Request::new(Verb::Patch, "", "v1", "nodes");
            r.name = self.name.clone();
            r.patch_type = Some(PatchType::Merge);
            r.body = crate::event::body(&json!({"metadata": {"labels": wanted}}));
            (Purpose::Labels, r)
        })
    }

    fn status(&mut self, node: Option<&Value>, now: Now) -> Option<(Purpose, Request)> {
        if self.status_under_way || (!self.changed && self.status_due > now.mono) {
            return None;
        }
        self.changed = false;
        let status = self.full_status(node, now);
        let steady = without_times(&status);
        if steady == self.sent && self.status_due > now.mono {
            return None;
        }
        self.sent = steady;
        self.status_under_way = true;
        self.status_due = now.mono + limits::NODE_STATUS_PERIOD;
        let mut r = Request::new(Verb::Patch, "", "v1", "nodes");
        r.name = self.name.clone();
        r.subresource = "status".into();
        r.patch_type = Some(PatchType::Strategic);
        r.body = crate::event::body(&json!({ "status": status }));
        Some((Purpose::Status, r))
    }

    fn full_status(&self, node: Option<&Value>, now: Now) -> Value {
        let m = &self.machine;
        let amounts = json!({
            "cpu": m.cpus.to_string(),
            "memory": format!("{}Ki", m.memory_bytes / 1024),
            "ephemeral-storage": format!("{}Ki", m.disk_bytes / 1024),
            "pods": limits::PODS_MAX.to_string(),
            "hugepages-2Mi": "0",
            "hugepages-1Gi": "0",
        });
        let mut addresses = vec![json!({"type": "Hostname", "address": self.name})];
        if let Some(ip) = self.ip {
            addresses.insert(0, json!({"type": "InternalIP", "address": ip.to_string()}));
        }
        let images: Vec<Value> = self
            .images
            .iter()
            .take(limits::NODE_IMAGES_MAX)
            .map(|i| json!({"names": i.names, "sizeBytes": i.size_bytes}))
            .collect();
        json!({
            "capacity": amounts, "allocatable": amounts,
            "addresses": addresses, "images": images,
            "conditions": self.conditions(node, now),
            "nodeInfo": {
                "machineID": m.machine_id, "systemUUID": m.machine_id, "bootID": m.boot_id,
                "kernelVersion": m.kernel, "osImage": m.os_image, "operatingSystem": "linux",
                "architecture": m.arch, "kubeletVersion": m.version, "kubeProxyVersion": "",
                "containerRuntimeVersion": format!("pintle://{}", env!("CARGO_PKG_VERSION")),
            },
        })
    }

    fn conditions(&self, node: Option<&Value>, now: Now) -> Value {
        let ready = if self.network_ready {
            ("True", "KubeletReady", "kubelet is posting ready status".to_string())
        } else {
            (
                "False",
                "KubeletNotReady",
                "container runtime network not ready: the node has no podCIDR yet".to_string(),
            )
        };
        let gaps = &self.machine.runtime_gaps;
        let limited = if gaps.is_empty() {
            ("False", "RuntimeEnforcesAll", "every limit that a pod can ask for is enforced".into())
        } else {
            ("True", "HostLacksFeatures", gaps.join("; "))
        };
        let all = [
            (
                "MemoryPressure",
                (
                    "False",
                    "KubeletHasSufficientMemory",
                    "kubelet has sufficient memory available".to_string(),
                ),
            ),
            (
                "DiskPressure",
                ("False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure".into()),
            ),
            (
                "PIDPressure",
                ("False", "KubeletHasSufficientPID", "kubelet has sufficient PID available".into()),
            ),
            ("RuntimeLimited", limited),
            ("Ready", ready),
        ];
        let old = node.and_then(|n| n["status"]["conditions"].as_array());
        let time = now.wall.rfc3339();
        let values = all.into_iter().map(|(kind, (status, reason, message))| {
            let since = old
                .into_iter()
                .flatten()
                .find(|c| c["type"] == kind && c["status"] == status)
                .and_then(|c| c["lastTransitionTime"].as_str())
                .unwrap_or(&time);
            json!({"type": kind, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": time, "lastTransitionTime": since})
        });
        Value::Array(values.collect())
    }

    fn lease(&self, node: Option<&Value>, now: Now) -> (Purpose, Request) {
        let renew = now.wall.rfc3339_micro();
        let verb = if self.lease_exists == Some(true) { Verb::Patch } else { Verb::Create };
        let mut r = Request::new(verb, "coordination.k8s.io", "v1", "leases");
        r.namespace = "kube-node-lease".into();
        if verb == Verb::Patch {
            r.name = self.name.clone();
            r.patch_type = Some(PatchType::Merge);
            r.body = crate::event::body(&json!({"spec": {"renewTime": renew,
                "holderIdentity": self.name}}));
            return (Purpose::LeaseRenew, r);
        }
        let mut metadata = json!({"name": self.name, "namespace": "kube-node-lease"});
        if let Some(uid) = node.and_then(|n| n["metadata"]["uid"].as_str()) {
            metadata["ownerReferences"] = json!([{"apiVersion": "v1", "kind": "Node",
                "name": self.name, "uid": uid}]);
        }
        r.body = crate::event::body(&json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
            "spec": {"holderIdentity": self.name, "renewTime": renew,
                "leaseDurationSeconds": limits::LEASE_DURATION_SECONDS},
        }));
        (Purpose::LeaseCreate, r)
    }
}

fn without_times(status: &Value) -> Value {
    let mut s = status.clone();
    for c in s["conditions"].as_array_mut().into_iter().flatten() {
        if let Some(c) = c.as_object_mut() {
            c.remove("lastHeartbeatTime");
            c.remove("lastTransitionTime");
        }
    }
    s
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn registers_then_reports_then_only_renews() {
        let mut node = Node::new("n", Machine::default(), None);
        let now = |s: u64| Now { mono: Time(s * 1_000_000_000), wall: pintle_base::Wall(1) };
        let first = node.turn(None, now(0));
        assert_eq!(first.iter().map(|r| r.0).collect::<Vec<_>>(), [Purpose::Register]);
        assert!(node.turn(None, now(0)).is_empty(), "one at a time");
        node.answered(Purpose::Register, Ok(()), Time(0));
        let object = json!({"metadata": {"name": "n", "labels": node.labels()}});
        let kinds = |r: Vec<(Purpose, Request)>| r.into_iter().map(|r| r.0).collect::<Vec<_>>();
        assert_eq!(
            kinds(node.turn(Some(&object), now(0))),
            [Purpose::Status, Purpose::LeaseCreate]
        );
        node.answered(Purpose::Status, Ok(()), Time(0));
        node.answered(Purpose::LeaseCreate, Ok(()), Time(0));
        assert!(node.turn(Some(&object), now(1)).is_empty());
        assert_eq!(node.poll_timeout(), Some(Time(0) + Duration::from_secs(10)));
        assert_eq!(kinds(node.turn(Some(&object), now(10))), [Purpose::LeaseRenew]);
        node.set_network_ready(true);
        assert_eq!(kinds(node.turn(Some(&object), now(11))), [Purpose::Status]);
    }
}
