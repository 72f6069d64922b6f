//! The watch cache: every object once, as the bytes that clients get, and the latest changes of each resource.
//!
//! Fed by the store's watch alone, in revision order; read by get, list and watch. An object's bytes begin
//! with apiVersion, kind and metadata, and the resourceVersion is the first field of the metadata, so that a
//! list item is a suffix of them. A resource's ring of changes is its window: what lies before it is answered
//! with 410. Reads never go back in time: the revision only grows until a reload, which cuts all watchers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use pintle_base::Time;
use pintle_wire::msg::Body;
use serde_json::{Map, Value};

use crate::limits;
use crate::registry::{Resource, ResourceId};

/// One object as it stands at one revision.
#[derive(Debug)]
pub struct Object {
    /// `namespace/name`, or `name`.
    pub key: Box<str>,
    /// Length of the namespace within the key; 0 for cluster-scoped objects.
    namespace_len: u32,
    /// Where the list item's suffix begins in `body`.
    item_from: u32,
    /// Its mod revision.
    pub revision: u64,
    /// JSON with resourceVersion, in the version that is stored.
    pub body: Body,
    /// `metadata.labels`.
    pub labels: Option<Map<String, Value>>,
    /// Values of the resource's selectable fields, in its order (`metadata.*` are not among them).
    pub fields: Vec<Box<str>>,
}

impl Object {
    /// Its namespace, empty when cluster-scoped.
    pub fn namespace(&self) -> &str {
        &self.key[..self.namespace_len as usize]
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self.namespace_len {
            0 => &self.key,
            n => &self.key[n as usize + 1..],
        }
    }

    /// The whole object parsed. `Null` never happens for what this server wrote.
    pub fn parse(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }

    /// The object without apiVersion and kind, as in lists.
    pub fn push_item(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        out.extend_from_slice(&self.body[self.item_from as usize..]);
    }

    /// The object as the store's value becomes it.
    pub fn from_stored(
        resource: &Resource,
        key: &str,
        stored: &[u8],
        revision: u64,
    ) -> Option<Object> {
        let value: Value = serde_json::from_slice(stored).ok()?;
        value.as_object()?;
        let prefix = resource.stored_prefix();
        let spliced = splice_revision(stored, prefix.as_bytes(), revision);
        let body = match spliced {
            Some(body) => body,
            // Written by something else than this server's encoder: bring it into our form.
            None => splice_revision(&encode(&value), head(&value).as_bytes(), revision)?,
        };
        Some(Object::from_body(resource, key, &value, body, revision))
    }

    fn from_body(
        resource: &Resource,
        key: &str,
        value: &Value,
        body: Body,
        revision: u64,
    ) -> Object {
        let labels = value.pointer("/metadata/labels").and_then(Value::as_object).cloned();
        let fields = resource.fields.iter().map(|f| field_text(value, f).into()).collect();
        let namespace_len = key.find('/').unwrap_or(0) as u32;
        let item_from = find_metadata(&body).unwrap_or(1) as u32;
        Object { key: key.into(), namespace_len, item_from, revision, body, labels, fields }
    }

    /// The same object with another resourceVersion: what a watcher gets when it is deleted.
    pub fn at_revision(&self, resource: &Resource, revision: u64) -> Object {
        let mut value = self.parse();
        if let Some(m) = value.pointer_mut("/metadata").and_then(Value::as_object_mut) {
            m.remove("resourceVersion");
        }
        let body = encode_at(&value, revision);
        Object::from_body(resource, &self.key, &value, body, revision)
    }
}

/// Text of a selectable field (`spec.nodeName`); absent is empty.
pub fn field_text(value: &Value, path: &str) -> String {
    let mut v = value;
    for step in path.split('.') {
        match v.get(step) {
            Some(next) => v = next,
            None => return String::new(),
        }
    }
    match v {
        Value::String(s) => s.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn head(value: &Value) -> String {
    let text = |k: &str| value.get(k).cloned().unwrap_or(Value::from(""));
    format!("{{\"apiVersion\":{},\"kind\":{},", text("apiVersion"), text("kind"))
}

fn find_metadata(body: &[u8]) -> Option<usize> {
    const KEY: &[u8] = b"\"metadata\":";
    body.windows(KEY.len()).position(|w| w == KEY)
}

/// The bytes for the store: apiVersion, kind and metadata first, no resourceVersion.
pub fn encode(value: &Value) -> Vec<u8> {
    encode_with(value, None)
}

/// The bytes for a client: the same with the resourceVersion.
pub fn encode_at(value: &Value, revision: u64) -> Body {
    encode_with(value, Some(revision)).into()
}

fn encode_with(value: &Value, revision: Option<u64>) -> Vec<u8> {
    let mut out = head(value).into_bytes();
    out.extend_from_slice(b"\"metadata\":{");
    let mut first = true;
    if let Some(r) = revision {
        out.extend_from_slice(format!("\"resourceVersion\":\"{r}\"").as_bytes());
        first = false;
    }
    let field = |out: &mut Vec<u8>, k: &str, v: &Value, first: &mut bool| {
        if !*first {
            out.push(b',');
        }
        *first = false;
        out.extend_from_slice(Value::from(k).to_string().as_bytes());
        out.push(b':');
        // Writing to a vector cannot fail.
        let _ = serde_json::to_writer(&mut *out, v);
    };
    if let Some(m) = value.get("metadata").and_then(Value::as_object) {
        for (k, v) in m.iter().filter(|(k, _)| k.as_str() != "resourceVersion") {
            field(&mut out, k, v, &mut first);
        }
    }
    out.push(b'}');
    let mut first = false;
    if let Some(m) = value.as_object() {
        for (k, v) in m {
            if !matches!(k.as_str(), "apiVersion" | "kind" | "metadata") {
                field(&mut out, k, v, &mut first);
            }
        }
    }
    out.push(b'}');
    out
}

fn splice_revision(stored: &[u8], prefix: &[u8], revision: u64) -> Option<Body> {
    const KEY: &[u8] = b"\"metadata\":{";
    let rest = stored.strip_prefix(prefix)?.strip_prefix(KEY)?;
    let comma = if rest.first() == Some(&b'}') { "" } else { "," };
    let version = format!("\"resourceVersion\":\"{revision}\"{comma}");
    Some([prefix, KEY, version.as_bytes(), rest].concat().into())
}

/// One change of one object.
#[derive(Debug)]
pub struct Change {
    /// Its revision.
    pub revision: u64,
    /// The object after it; for a deletion its last state with the deletion's revision.
    pub object: Arc<Object>,
    /// The object before it, if there was one.
    pub old: Option<Arc<Object>>,
    /// The object is gone.
    pub deleted: bool,
    at: Time,
}

/// A change has left the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// The objects of one resource and its latest changes.
#[derive(Debug, Default)]
pub struct Table {
    objects: BTreeMap<Box<str>, Arc<Object>>,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// Sequence number of the ring's first change.
    first_seq: u64,
    /// Every change after this revision is in the ring.
    window_start: u64,
}

impl Table {
    /// One object.
    pub fn get(&self, key: &str) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// No objects.
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// All objects of a namespace (empty = of all), in key order.
    pub fn iter<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Arc<Object>> {
        self.iter_after(namespace, "")
    }

    /// The same, only keys after `after`.
    pub fn iter_after<'a>(
        &'a self,
        namespace: &'a str,
        after: &str,
    ) -> impl Iterator<Item = &'a Arc<Object>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let start: Box<str> =
            if after > prefix.as_str() { after.into() } else { prefix.as_str().into() };
        // The prefix itself is never a key: a key has a name after the slash.
        self.objects
            .range::<str, _>((
                if start.is_empty() { Unbounded } else { Excluded(&*start) },
                Unbounded,
            ))
            .map(|(_, o)| o)
            .take_while(move |o| namespace.is_empty() || o.namespace() == namespace)
            .collect::<Vec<_>>()
            .into_iter()
    }

    /// The objects as they stood at `revision`; `None` when the window does not reach back so far.
    pub fn snapshot(
        &self,
        namespace: &str,
        after: &str,
        revision: u64,
    ) -> Option<Vec<Arc<Object>>> {
        if revision < self.window_start {
            return None;
        }
        let mut undo: BTreeMap<&str, Option<&Arc<Object>>> = BTreeMap::new();
        for change in self.ring.iter().rev().take_while(|c| c.revision > revision) {
            undo.insert(&change.object.key, change.old.as_ref());
        }
        let wanted = |o: &Arc<Object>| {
            (namespace.is_empty() || o.namespace() == namespace) && &*o.key > after
        };
        let mut all: Vec<Arc<Object>> = self
            .iter_after(namespace, after)
            .filter(|o| !undo.contains_key(&*o.key))
            .cloned()
            .collect();
        if !undo.is_empty() {
            all.extend(undo.values().filter_map(|o| o.filter(|o| wanted(o)).cloned()));
            all.sort_by(|a, b| a.key.cmp(&b.key));
        }
        Some(all)
    }

    /// Sequence number of the first change after `revision`; `None` when it is no longer in the ring.
    pub fn seq_after(&self, revision: u64) -> Option<u64> {
        if revision < self.window_start {
            return None;
        }
        let n = self.ring.partition_point(|c| c.revision <= revision);
        Some(self.first_seq + n as u64)
    }

    /// Sequence number that the next change will have.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + self.ring.len() as u64
    }

    /// The change with this number; `Ok(None)` when it is yet to come.
    ///
    /// # Errors
    /// [`Gone`] when it has left the ring.
    pub fn change(&self, seq: u64) -> Result<Option<&Arc<Change>>, Gone> {
        match seq.checked_sub(self.first_seq) {
            None => Err(Gone),
            Some(i) => Ok(self.ring.get(i as usize)),
        }
    }

    /// Oldest revision whose successors are all known.
    pub fn window_start(&self) -> u64 {
        self.window_start
    }

    fn push(&mut self, change: Change) {
        let now = change.at;
        self.ring_bytes += change.object.body.len();
        self.ring.push_back(Arc::new(change));
        while let Some(first) = self.ring.front() {
            let old = now.saturating_since(first.at) > limits::WINDOW_AGE_MIN
                && self.ring.len() > limits::WINDOW_CHANGES_MIN;
            let full = self.ring_bytes > limits::WINDOW_BYTES_MAX && self.ring.len() > 1;
            if !old && !full {
                break;
            }
            self.window_start = first.revision;
            self.ring_bytes -= first.object.body.len();
            self.first_seq += 1;
            self.ring.pop_front();
        }
    }
}

/// All resources.
#[derive(Debug, Default)]
pub struct Cache {
    tables: Vec<Table>,
    revision: u64,
}

impl Cache {
    /// An empty cache for so many resources.
    pub fn new(resources: usize) -> Cache {
        Cache { tables: (0..resources).map(|_| Table::default()).collect(), revision: 0 }
    }

    /// Every change up to this revision is in the cache.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// One resource.
    pub fn table(&self, id: ResourceId) -> &Table {
        &self.tables[id.0]
    }

    /// A resource was added to the registry at run time.
    pub fn grow(&mut self, resources: usize) {
        while self.tables.len() < resources {
            self.tables.push(Table { window_start: self.revision, ..Table::default() });
        }
    }

    /// Begins a load at `revision`: everything known is forgotten, windows start there.
    pub fn begin_load(&mut self, revision: u64) {
        for t in &mut self.tables {
            let first_seq = t.next_seq() + 1;
            *t = Table { window_start: revision, first_seq, ..Table::default() };
        }
        self.revision = revision;
    }

    /// One object of the load.
    pub fn load(&mut self, id: ResourceId, object: Object) {
        self.tables[id.0].objects.insert(object.key.clone(), Arc::new(object));
    }

    /// An object was put.
    pub fn put(&mut self, id: ResourceId, object: Object, at: Time) -> Arc<Change> {
        let t = &mut self.tables[id.0];
        let object = Arc::new(object);
        let old = t.objects.insert(object.key.clone(), object.clone());
        t.push(Change {
            revision: object.revision,
            object: object.clone(),
            old,
            deleted: false,
            at,
        });
        t.ring.back().expect("just pushed").clone()
    }

    /// An object was deleted. `None` when it was not known.
    pub fn delete(
        &mut self,
        id: ResourceId,
        resource: &Resource,
        key: &str,
        revision: u64,
        at: Time,
    ) -> Option<Arc<Change>> {
        let t = &mut self.tables[id.0];
        let old = t.objects.remove(key)?;
        let object = Arc::new(old.at_revision(resource, revision));
        t.push(Change { revision, object, old: Some(old), deleted: true, at });
        t.ring.back().cloned()
    }

    /// Every change up to `revision` has been given.
    pub fn advance(&mut self, revision: u64) {
        self.revision = self.revision.max(revision);
    }
}
