//! Who sees everything: follows the store's published changes and holds each step against what must never happen.

use pintle_base::{Now, Time};
use pintle_wire::msg::{api, store};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;

/// The oracle, shared with the processes that it looks into.
pub type Shared = Rc<RefCell<Oracle>>;

/// Lines of the log that a failure shows.
const LOG_LINES_MAX: usize = 250;

/// One stored object.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Revision of its last write.
    pub revision: u64,
    /// As the store holds it.
    pub value: Rc<Value>,
}

/// See the module.
#[derive(Default)]
pub struct Oracle {
    /// Newest published revision.
    pub revision: u64,
    /// Everything that is stored, by key.
    pub objects: BTreeMap<String, Stored>,
    /// What must not have happened.
    pub violations: Vec<String>,
    /// When the last write happened that was no heartbeat, and what it was.
    pub last_write: (Time, String),
    /// Invariants hold that faults may break.
    pub strict: bool,
    /// Writes seen.
    pub writes: u64,
    log: VecDeque<String>,
    /// Instead of the usual number of lines.
    pub log_lines_max: Option<usize>,
    /// Keys that a store that came back did not have: a deletion up to this revision must explain each.
    missing: Option<(u64, Vec<(String, u64)>)>,
    /// Pods of each job (by uid) that were ever seen to have succeeded or failed.
    ended: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>,
    /// Most pods that each ReplicaSet (by uid) was ever to have.
    most: BTreeMap<String, i64>,
}

fn is_heartbeat(key: &str) -> bool {
    key.starts_with("/registry/coordination.k8s.io/leases/")
        || key.starts_with("/registry/core/events/")
}

fn is_volatile(key: &str) -> bool {
    is_heartbeat(key) || key.starts_with("/registry/core/nodes/")
}

/// Succeeded or Failed.
pub fn terminal(pod: &Value) -> bool {
    pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed"
}

/// The condition Ready is True.
pub fn ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// Being deleted.
pub fn deleting(object: &Value) -> bool {
    !object["metadata"]["deletionTimestamp"].is_null()
}

/// Its uid.
pub fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

/// Uid and kind of the owner that controls it.
pub fn controller(object: &Value) -> Option<(&str, &str)> {
    let owners = object["metadata"]["ownerReferences"].as_array()?;
    let o = owners.iter().find(|o| o["controller"] == true)?;
    Some((o["kind"].as_str()?, o["uid"].as_str()?))
}

impl Oracle {
    /// Writes a line into the log that a failure shows.
    pub fn note(&mut self, now: Now, text: &str) {
        if self.log.len() >= self.log_lines_max.unwrap_or(LOG_LINES_MAX) {
            self.log.pop_front();
        }
        self.log.push_back(format!("{:>9.3}s {text}", now.mono.0 as f64 / 1e9));
    }

    /// The last lines of the log.
    pub fn log(&self) -> String {
        let lines: Vec<&str> = self.log.iter().map(String::as_str).collect();
        lines.join("\n")
    }

    /// Something happened that must not.
    pub fn violated(&mut self, what: String) {
        self.violations.push(what);
    }

    /// Objects of a resource with their keys (`namespace/name` or `name`).
    pub fn list<'a>(
        &'a self,
        group: &str,
        resource: &str,
    ) -> impl Iterator<Item = (&'a str, &'a Stored)> + use<'a> {
        let group = if group.is_empty() { "core" } else { group };
        let prefix = format!("/registry/{group}/{resource}/");
        let from = prefix.clone();
        self.objects
            .range(from..)
            .take_while(move |(k, _)| k.starts_with(&prefix))
            .map(|(k, o)| (k.splitn(5, '/').nth(4).unwrap_or_default(), o))
    }

    /// Keys and revisions of a resource, as a client's cache should hold them.
    pub fn keys_of(&self, group: &str, resource: &str) -> BTreeMap<String, u64> {
        self.list(group, resource).map(|(k, o)| (k.to_owned(), o.revision)).collect()
    }

    /// The store was opened and holds this.
    pub fn recovered(&mut self, revision: u64, kvs: &[store::KeyValue]) {
        if revision < self.revision {
            let was = self.revision;
            self.violated(format!("the store came back at revision {revision}, it was at {was}"));
        }
        let found: BTreeMap<String, u64> = kvs
            .iter()
            .map(|kv| (String::from_utf8_lossy(&kv.key).into_owned(), kv.mod_revision))
            .collect();
        let lost: Vec<String> = self
            .objects
            .iter()
            .filter(|(key, o)| {
                !is_volatile(key) && found.get(*key).is_some_and(|r| *r < o.revision)
            })
            .map(|(key, o)| format!("{key} went back from revision {}", o.revision))
            .collect();
        self.violations.extend(lost);
        let missing =
            self.objects.iter().filter(|(k, _)| !is_volatile(k) && !found.contains_key(*k));
        self.missing = Some((revision, missing.map(|(k, o)| (k.clone(), o.revision)).collect()));
        // Volatile writes that nobody will hear of again.
        let gone: Vec<String> = self
            .objects
            .keys()
            .filter(|k| is_volatile(k) && !found.contains_key(*k))
            .cloned()
            .collect();
        for key in gone {
            self.objects.remove(&key);
        }
    }

    /// The store published changes.
    pub fn published(&mut self, events: &[store::Event], revision: u64, now: Now) {
        for event in events {
            let key = String::from_utf8_lossy(&event.kv.key).into_owned();
            let at = event.kv.mod_revision;
            if at < self.revision {
                let was = self.revision;
                self.violated(format!("{key} was published at revision {at} after {was}"));
            }
            self.revision = self.revision.max(at);
            self.writes += 1;
            let old = self.objects.get(&key).cloned();
            if event.deleted {
                self.objects.remove(&key);
                self.written(&key, old.as_ref().map(|o| &*o.value), None, now);
            } else {
                let value: Value = serde_json::from_slice(&event.kv.value).unwrap_or_default();
                let value = Rc::new(value);
                let stored = Stored { revision: at, value: value.clone() };
                self.objects.insert(key.clone(), stored);
                self.written(&key, old.as_ref().map(|o| &*o.value), Some(&value), now);
            }
        }
        self.revision = self.revision.max(revision);
        if let Some((_, missing)) = self.missing.take_if(|(at, _)| *at <= revision) {
            for (key, at) in missing {
                if self.objects.get(&key).is_some_and(|o| o.revision == at) {
                    self.violated(format!("{key} of revision {at} was lost"));
                }
            }
        }
    }

    /// A watch delivered this to somebody.
    pub fn delivered(&mut self, kind: api::EventType, revision: u64, body: &[u8]) {
        if !matches!(kind, api::EventType::Added | api::EventType::Modified) {
            return;
        }
        // Only the name of the resource is missing in the object; its revision is unique anyway.
        let known = self.revision >= revision;
        if !known {
            let text = String::from_utf8_lossy(body).chars().take(200).collect::<String>();
            self.violated(format!("revision {revision} was delivered and never published: {text}"));
        }
    }

    fn written(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>, now: Now) {
        let steady = |v: Option<&Value>| {
            let mut v = v?.clone();
            for c in v["status"]["conditions"].as_array_mut().into_iter().flatten() {
                c["lastHeartbeatTime"] = Value::Null;
            }
            Some(v)
        };
        let heartbeat = is_heartbeat(key)
            || key.starts_with("/registry/core/nodes/") && steady(old) == steady(new);
        if !heartbeat {
            let what = match (old, new) {
                (None, _) => "created",
                (_, None) => "deleted",
                _ => "changed",
            };
            self.last_write = (now.mono, format!("{what} {key}"));
            let detail = difference(old, new);
            self.note(now, &format!("{what} {} {detail}", key.trim_start_matches("/registry/")));
        }
        let resource = key.split('/').nth(3).unwrap_or_default();
        match resource {
            "pods" => self.check_pod(key, old, new),
            "nodes" => self.check_unique("nodes", key, new, |n| n["spec"]["podCIDR"].as_str()),
            "services" => {
                let ip = |s: &'_ Value| -> Option<String> {
                    let ip = s["spec"]["clusterIP"].as_str()?;
                    (ip != "None" && !ip.is_empty()).then(|| ip.to_owned())
                };
                if let Some(mine) = new.and_then(ip) {
                    let clash = self
                        .list("", "services")
                        .find(|(k, s)| {
                            !key.ends_with(&format!("services/{k}"))
                                && ip(&s.value).as_deref() == Some(&mine)
                        })
                        .map(|(k, _)| k.to_owned());
                    if let Some(other) = clash {
                        self.violated(format!("{key} and {other} both have address {mine}"));
                    }
                }
            }
            "replicasets" => self.check_replicaset(new),
            "jobs" => self.check_job(key, new),
            _ => {}
        }
    }

    fn check_unique(
        &mut self,
        resource: &str,
        key: &str,
        new: Option<&Value>,
        of: impl Fn(&Value) -> Option<&str>,
    ) {
        let Some(mine) = new.and_then(&of).map(str::to_owned) else { return };
        let clash = self
            .list("", resource)
            .find(|(k, o)| {
                !key.ends_with(&format!("{resource}/{k}")) && of(&o.value) == Some(&mine)
            })
            .map(|(k, _)| k.to_owned());
        if let Some(other) = clash {
            self.violated(format!("{key} and {other} both have {mine}"));
        }
    }

    fn check_pod(&mut self, key: &str, old: Option<&Value>, new: Option<&Value>) {
        // A job's pod may vanish only after it was counted; its end is seen here, before that.
        for pod in [old, new].into_iter().flatten() {
            if let Some(("Job", owner)) = controller(pod) {
                let (ok, bad) = self.ended.entry(owner.to_owned()).or_default();
                if pod["status"]["phase"] == "Succeeded" {
                    ok.insert(uid(pod).to_owned());
                } else if terminal(pod) || deleting(pod) {
                    bad.insert(uid(pod).to_owned());
                }
            }
        }
        let Some(pod) = new else { return };
        if let Some(old) = old.filter(|o| uid(o) == uid(pod)) {
            let node = &old["spec"]["nodeName"];
            if node.as_str().is_some_and(|n| !n.is_empty()) && *node != pod["spec"]["nodeName"] {
                self.violated(format!("{key} moved from {node} to {}", pod["spec"]["nodeName"]));
            }
            if terminal(old) && old["status"]["phase"] != pod["status"]["phase"] {
                self.violated(format!("{key} left its last phase {}", old["status"]["phase"]));
            }
            if deleting(old) && !deleting(pod) {
                self.violated(format!("{key} is no longer being deleted"));
            }
        }
        if let Some(ip) = pod["status"]["podIP"].as_str()
            && !terminal(pod)
        {
            let clash = self
                .list("", "pods")
                .find(|(_, p)| {
                    uid(&p.value) != uid(pod)
                        && !terminal(&p.value)
                        && p.value["status"]["podIP"] == ip
                })
                .map(|(k, _)| k.to_owned());
            if let Some(other) = clash {
                self.violated(format!("{key} and {other} run with the same address {ip}"));
            }
        }
        if self.strict
            && old.is_none()
            && let Some(("ReplicaSet", owner)) = controller(pod)
        {
            let most = self.most.get(owner).copied().unwrap_or(0);
            let active = self
                .list("", "pods")
                .filter(|(_, p)| {
                    let p = &p.value;
                    controller(p).is_some_and(|(_, o)| o == owner) && !terminal(p) && !deleting(p)
                })
                .count();
            if active as i64 > most {
                self.violated(format!(
                    "{key} is pod {active} of a ReplicaSet that never was to have more than {most}"
                ));
            }
        }
    }

    fn check_replicaset(&mut self, new: Option<&Value>) {
        let Some(rs) = new else { return };
        let most = self.most.entry(uid(rs).to_owned()).or_default();
        *most = (*most).max(rs["spec"]["replicas"].as_i64().unwrap_or(1));
        // Together never more than the deployment's pods and its surge, as the deployment was when they were
        // sized: the annotation says so.
        let Some(("Deployment", owner)) = controller(rs) else { return };
        let owner = owner.to_owned();
        let sets: Vec<(i64, i64)> = self
            .list("apps", "replicasets")
            .filter(|(_, r)| controller(&r.value).is_some_and(|(_, o)| o == owner))
            .map(|(_, r)| {
                let max =
                    &r.value["metadata"]["annotations"]["deployment.kubernetes.io/max-replicas"];
                let max = max.as_str().and_then(|s| s.parse().ok()).unwrap_or(i64::MAX);
                (r.value["spec"]["replicas"].as_i64().unwrap_or(1), max)
            })
            .collect();
        let total: i64 = sets.iter().map(|(n, _)| n).sum();
        let max = sets.iter().map(|(_, m)| *m).max().unwrap_or(i64::MAX);
        if self.strict && total > max {
            self.violated(format!(
                "the ReplicaSets of deployment {owner} ask for {total} pods, {max} are allowed"
            ));
        }
    }

    fn check_job(&mut self, key: &str, new: Option<&Value>) {
        let Some(job) = new else { return };
        let (ok, bad) = self.ended.get(uid(job)).map_or((0, 0), |(o, b)| (o.len(), b.len()));
        for (field, most) in [("succeeded", ok), ("failed", bad)] {
            let counted = job["status"][field].as_u64().unwrap_or(0);
            if counted > most as u64 {
                self.violated(format!("{key} counts {counted} {field}, only {most} pods were"));
            }
        }
        if let Some(completions) = job["spec"]["completions"].as_u64()
            && job["spec"]["completionMode"] == "Indexed"
            && job["status"]["succeeded"].as_u64().unwrap_or(0) > completions
        {
            self.violated(format!("{key} counts more than its {completions} completions"));
        }
    }
}

// The top-level fields that changed, shortly.
fn difference(old: Option<&Value>, new: Option<&Value>) -> String {
    let (Some(old), Some(new)) = (old, new) else { return String::new() };
    let mut parts = Vec::new();
    for top in ["metadata", "spec", "status"] {
        let (a, b) = (&old[top], &new[top]);
        let fields: BTreeSet<&String> =
            [a, b].into_iter().filter_map(Value::as_object).flat_map(|m| m.keys()).collect();
        for f in fields {
            if f != "managedFields" && a[f.as_str()] != b[f.as_str()] {
                let mut text = b[f.as_str()].to_string();
                if text.len() > 90 {
                    let end = (0..=90).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
                    text.truncate(end);
                }
                parts.push(format!("{top}.{f}={text}"));
            }
        }
    }
    parts.join(" ")
}
