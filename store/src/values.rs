//! Where values come from: memory, a bounded cache, the log.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use pintle_base::disk;
use pintle_wire::msg::Body;

use crate::index::{MemoryValues, Place, Version};
use crate::job::segment_name;
use crate::log::Log;
use crate::record;

pub(crate) struct Values {
    pub(crate) memory: MemoryValues,
    cache: HashMap<Place, Body>,
    /// Cached places, oldest first.
    order: VecDeque<Place>,
    cache_bytes: usize,
    cache_bytes_max: usize,
}

impl Values {
    pub(crate) fn new(cache_bytes_max: usize) -> Values {
        Values {
            memory: MemoryValues::default(),
            cache: HashMap::new(),
            order: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
        }
    }

    /// Keeps a value. Those at or behind `durable_end` can be read from nowhere else and stay.
    pub(crate) fn cache(&mut self, place: Place, value: Body, durable_end: Place) {
        self.cache_bytes += value.len();
        if let Some(old) = self.cache.insert(place, value) {
            self.cache_bytes -= old.len();
        } else {
            self.order.push_back(place);
        }
        while self.cache_bytes > self.cache_bytes_max
            && let Some(oldest) = self.order.front()
            && *oldest < durable_end
        {
            if let Some(old) = self.order.pop_front().and_then(|p| self.cache.remove(&p)) {
                self.cache_bytes -= old.len();
            }
        }
    }

    /// Forgets the newest cached places while they lie at or behind `end`: those bytes were never written.
    pub(crate) fn forget_from(&mut self, end: Place) {
        let cache = &mut self.cache;
        let bytes = &mut self.cache_bytes;
        self.order.retain(|p| {
            let keep = *p < end;
            if !keep && let Some(old) = cache.remove(p) {
                *bytes -= old.len();
            }
            keep
        });
    }

    /// The value of a version; the error says where the log is damaged.
    pub(crate) fn read(&mut self, log: &Log, v: &Version) -> Result<Body, String> {
        if v.in_memory() {
            let value = self.memory.get(v.place.offset).map(Arc::clone);
            return value.ok_or_else(|| "a volatile value was forgotten too early".to_owned());
        }
        if v.len == 0 {
            return Ok(Body::from([]));
        }
        if let Some(value) = self.cache.get(&v.place) {
            return Ok(Arc::clone(value));
        }
        let (segment, offset) = (u64::from(v.place.segment), u64::from(v.place.offset));
        let place = |why: String| {
            let name = segment_name(segment);
            format!("value of {} bytes at offset {offset} of {name}: {why}", v.len)
        };
        let Some(s) = log.segments.get(&segment) else {
            return Err(place("the segment is gone".to_owned()));
        };
        let bytes = disk::read_exact_at(&*s.file, offset, v.len as usize)
            .map_err(|e| place(e.to_string()))?;
        if record::value_crc(&bytes) != v.crc {
            return Err(place("its checksum does not match".to_owned()));
        }
        let value = Body::from(bytes);
        self.cache(v.place, Arc::clone(&value), log.durable_end());
        Ok(value)
    }

    /// Bytes of memory that values take.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.cache_bytes as u64 + self.memory.bytes()
    }
}
