//! Events about objects: made once, counted up by patch when they repeat, and limited an object.

use crate::limits::{EVENT_BURST, EVENT_REFILL, EVENT_REPEAT_WITHIN, EVENTS_REMEMBERED_MAX};
use crate::requests::EVENTS;
use pintle_base::{Now, Time};
use pintle_wire::msg::api::Request;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The object that an event is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// `v1`, `apps/v1`.
    pub api_version: String,
    /// `Pod`.
    pub kind: String,
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// `spec.containers{web}` when it is about a container; else empty.
    pub field_path: String,
}

impl ObjectRef {
    /// From an object; kind and version are given because items of a list do not carry them.
    pub fn of(api_version: &str, kind: &str, object: &Value) -> ObjectRef {
        let text = |f: &str| object["metadata"][f].as_str().unwrap_or_default().to_owned();
        ObjectRef {
            api_version: api_version.into(),
            kind: kind.into(),
            namespace: text("namespace"),
            name: text("name"),
            uid: text("uid"),
            field_path: String::new(),
        }
    }

    fn to_json(&self) -> Value {
        let mut v = json!({"apiVersion": self.api_version, "kind": self.kind, "name": self.name});
        let optional =
            [("namespace", &self.namespace), ("uid", &self.uid), ("fieldPath", &self.field_path)];
        for (field, text) in optional {
            if !text.is_empty() {
                v[field] = json!(text);
            }
        }
        v
    }
}

/// Object, type, reason, message.
type EventKey = (ObjectRef, String, String, String);

#[derive(Debug)]
struct Seen {
    name: String,
    count: u64,
    last: Time,
}

/// Tokens of one object; one more every `EVENT_REFILL`.
#[derive(Debug)]
struct Bucket {
    left: u32,
    filled: Time,
}

/// Turns "this happened" into requests. Pure; the daemon sends them and need not look at the answers.
#[derive(Debug)]
pub struct Recorder {
    component: String,
    host: String,
    seen: BTreeMap<EventKey, Seen>,
    buckets: BTreeMap<String, Bucket>,
    serial: u64,
}

impl Recorder {
    /// A recorder for a component (`kubelet`) on a node (empty when it is on none).
    pub fn new(component: &str, host: &str) -> Recorder {
        Recorder {
            component: component.into(),
            host: host.into(),
            seen: BTreeMap::new(),
            buckets: BTreeMap::new(),
            serial: 0,
        }
    }

    /// The request that records an event of type `Normal` or `Warning`; none when the object has had too many.
    pub fn record(
        &mut self,
        about: &ObjectRef,
        kind: &str,
        reason: &str,
        message: &str,
        now: Now,
    ) -> Option<Request> {
        if !self.allowed(&about.uid, now.mono) {
            return None;
        }
        let namespace = if about.namespace.is_empty() { "default" } else { &about.namespace };
        let key = (about.clone(), kind.to_owned(), reason.to_owned(), message.to_owned());
        if let Some(seen) = self.seen.get_mut(&key)
            && now.mono.saturating_since(seen.last) <= EVENT_REPEAT_WITHIN
        {
            seen.count += 1;
            seen.last = now.mono;
            let patch = json!({"count": seen.count, "lastTimestamp": now.wall.rfc3339()});
            return Some(EVENTS.merge_patch(namespace, &seen.name, &patch));
        }
        self.make_room(now.mono);
        self.serial += 1;
        // Unique among restarts by the time and within a process by the serial number.
        let stamp = (now.wall.0 as u64).wrapping_add(self.serial);
        let name = format!("{}.{stamp:016x}", about.name);
        let mut source = json!({"component": self.component});
        if !self.host.is_empty() {
            source["host"] = json!(self.host);
        }
        let event = json!({
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "involvedObject": about.to_json(),
            "type": kind,
            "reason": reason,
            "message": message,
            "count": 1,
            "firstTimestamp": now.wall.rfc3339(),
            "lastTimestamp": now.wall.rfc3339(),
            "source": source,
            "reportingComponent": self.component,
            "reportingInstance": self.host,
        });
        self.seen.insert(key, Seen { name, count: 1, last: now.mono });
        Some(EVENTS.create(namespace, &event))
    }

    fn allowed(&mut self, uid: &str, now: Time) -> bool {
        let full = Bucket { left: EVENT_BURST, filled: now };
        let bucket = self.buckets.entry(uid.to_owned()).or_insert(full);
        let earned = now.saturating_since(bucket.filled).as_secs() / EVENT_REFILL.as_secs();
        if earned > 0 {
            let earned = u32::try_from(earned).unwrap_or(u32::MAX);
            bucket.left = bucket.left.saturating_add(earned).min(EVENT_BURST);
            bucket.filled += EVENT_REFILL * earned;
        }
        let allowed = bucket.left > 0;
        bucket.left = bucket.left.saturating_sub(1);
        allowed
    }

    /// Forgets what has not happened for long, and when that is not enough, everything.
    fn make_room(&mut self, now: Time) {
        if self.seen.len() >= EVENTS_REMEMBERED_MAX {
            self.seen.retain(|_, s| now.saturating_since(s.last) <= EVENT_REPEAT_WITHIN);
            if self.seen.len() >= EVENTS_REMEMBERED_MAX {
                self.seen.clear();
            }
        }
        if self.buckets.len() >= EVENTS_REMEMBERED_MAX {
            self.buckets.retain(|_, b| {
                let refilled = now.saturating_since(b.filled).as_secs() / EVENT_REFILL.as_secs();
                u64::from(b.left) + refilled < u64::from(EVENT_BURST)
            });
            if self.buckets.len() >= EVENTS_REMEMBERED_MAX {
                self.buckets.clear();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_base::Wall;
    use pintle_wire::msg::api::Verb;
    use std::time::Duration;

    fn at(s: u64) -> Now {
        Now { mono: Time(s * 1_000_000_000), wall: Wall::from_unix_s(1_795_424_482 + s as i64) }
    }

    fn pod(uid: &str) -> ObjectRef {
        ObjectRef {
            kind: "Pod".into(),
            name: "web".into(),
            uid: uid.into(),
            ..ObjectRef::default()
        }
    }

    #[test]
    fn repetitions_are_counted_on_one_object() {
        let mut r = Recorder::new("kubelet", "n1");
        let first = r.record(&pod("u"), "Warning", "BackOff", "again", at(0)).expect("event");
        let made: Value = serde_json::from_slice(&first.body).expect("JSON");
        assert_eq!((first.verb, first.namespace.as_str()), (Verb::Create, "default"));
        assert_eq!((&made["count"], &made["source"]["host"]), (&json!(1), &json!("n1")));
        let second = r.record(&pod("u"), "Warning", "BackOff", "again", at(9)).expect("event");
        assert_eq!(second.verb, Verb::Patch);
        assert_eq!(json!(second.name), made["metadata"]["name"]);
        let patch: Value = serde_json::from_slice(&second.body).expect("JSON");
        assert_eq!(patch, json!({"count": 2, "lastTimestamp": at(9).wall.rfc3339()}));
        let other = r.record(&pod("u"), "Warning", "BackOff", "else", at(9)).expect("event");
        assert_eq!(other.verb, Verb::Create);
        let late = at(10 + EVENT_REPEAT_WITHIN.as_secs());
        let again = r.record(&pod("u"), "Warning", "BackOff", "again", late).expect("event");
        assert_eq!(again.verb, Verb::Create);
        assert_ne!(again.name, second.name);
    }

    #[test]
    fn one_object_cannot_flood_and_memory_is_bounded() {
        let mut r = Recorder::new("c", "");
        let count = |r: &mut Recorder, now| {
            (0..100)
                .filter(|i| r.record(&pod("u"), "Normal", "R", &i.to_string(), now).is_some())
                .count()
        };
        assert_eq!(count(&mut r, at(0)), EVENT_BURST as usize);
        assert_eq!(count(&mut r, at(1)), 0);
        let later = at(EVENT_REFILL.as_secs() * 3 + 1);
        assert_eq!(count(&mut r, later), 3);
        assert_eq!(later.mono - Time(0), EVENT_REFILL * 3 + Duration::from_secs(1));
        for i in 0..3 * EVENTS_REMEMBERED_MAX {
            r.record(&pod(&i.to_string()), "Normal", "R", "m", at(1));
            assert!(
                r.seen.len() <= EVENTS_REMEMBERED_MAX && r.buckets.len() <= EVENTS_REMEMBERED_MAX
            );
        }
    }
}
