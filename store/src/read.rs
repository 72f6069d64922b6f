//! Reads: ranges, now and at older revisions, and compaction, which bounds how old.

use pintle_base::Now;
use pintle_wire::msg::Body;
use pintle_wire::msg::store::{Error, KeyValue, RangeReply, RangeRequest, Reply};

use crate::core::{Store, Tag};
use crate::index::{Span, Version};
use crate::limits;
use crate::log::{Log, Room};
use crate::record::LogOp;
use crate::txn::check_key;
use crate::values::Values;

/// A key-value for a client. `value` false leaves the value out.
pub(crate) fn key_value(
    values: &mut Values,
    log: &Log,
    key: &[u8],
    v: &Version,
    value: bool,
) -> Result<KeyValue, Error> {
    let value = if value && !v.deleted() {
        values.read(log, v).map_err(Error::Damaged)?
    } else {
        Body::from([])
    };
    Ok(KeyValue {
        key: key.to_vec(),
        create_revision: v.create_revision,
        mod_revision: v.mod_revision,
        version: u64::from(v.version),
        lease: v.lease,
        value,
    })
}

impl Store {
    /// Reads a range; `newest` is the revision that "now" means and that none may exceed.
    pub(crate) fn range(&mut self, r: &RangeRequest, newest: u64) -> Result<RangeReply, Error> {
        check_key(&r.key)?;
        let revision = if r.revision == 0 { newest } else { r.revision };
        if revision > newest {
            return Err(Error::FutureRevision { revision: newest });
        }
        if revision < self.compact {
            return Err(Error::Compacted { compact_revision: self.compact });
        }
        let limit = if r.limit == 0 { usize::MAX } else { r.limit as usize };
        let mut reply = RangeReply::default();
        let mut bytes = 0;
        let span = Span::new(r.key.clone(), r.range_end.clone());
        for (key, v) in self.index.range(&span, revision) {
            reply.count += 1;
            if r.count_only || reply.more {
                continue;
            }
            bytes += key.len() + 64 + if r.keys_only { 0 } else { v.len as usize };
            if reply.kvs.len() == limit
                || (bytes > limits::REPLY_BYTES_MAX && !reply.kvs.is_empty())
            {
                reply.more = true;
                continue;
            }
            reply.kvs.push(key_value(&mut self.values, &self.log, key, v, !r.keys_only)?);
        }
        Ok(reply)
    }

    /// Forgets history before `revision`, because a client says so.
    pub(crate) fn compact_request(&mut self, tag: Tag, revision: u64, now: Now) {
        if revision > self.visible {
            self.reply(tag, Reply::Error(Error::FutureRevision { revision: self.visible }));
        } else if revision <= self.compact {
            let compact_revision = self.compact;
            self.reply(tag, Reply::Error(Error::Compacted { compact_revision }));
        } else {
            self.compact_to(revision, now, |_| false);
            let revision = self.visible;
            self.reply_durable(tag, Reply::Done { revision });
        }
    }

    fn compact_to(
        &mut self,
        revision: u64,
        now: Now,
        enough: impl Fn(&crate::index::Index) -> bool,
    ) {
        let memory = &mut self.values.memory;
        let done = self.index.compact(revision, |slot| memory.remove(slot), enough);
        let all = self.index.changes_from(0).next().is_none_or(|c| c.revision > revision);
        let to = if all { revision } else { done.unwrap_or(self.compact) };
        if to <= self.compact {
            return;
        }
        self.compact = to;
        // Without room the compaction is not written down: after a restart the history is there again, for
        // nothing is removed from disk before its record is on it.
        if self.log.room(Log::record_bytes(16), true) == Room::Yes {
            self.append_plain(&[LogOp::Compact(to)], now);
        }
    }

    /// Forgets history beyond its limits of age, size and number.
    pub(crate) fn auto_compact(&mut self, now: Now) {
        let before = now
            .wall
            .0
            .saturating_sub(i64::try_from(self.config.history_age.as_nanos()).unwrap_or(i64::MAX));
        let mut target = 0;
        // A mark says that the store was at a revision: all up to it is older than the next mark.
        while self.marks.len() > 1 && self.marks[1].0 <= before {
            target = self.marks[1].1;
            self.marks.pop_front();
        }
        if target > self.compact {
            self.compact_to(target.min(self.visible), now, |_| false);
        }
        let bytes_max = self.config.history_bytes;
        let too_much = self.index.history_bytes() > bytes_max
            || self.index.changes_len() > limits::HISTORY_CHANGES;
        if too_much {
            // A step at a time: each compaction is a record.
            self.compact_to(self.visible, now, |index| {
                index.history_bytes() <= bytes_max / 8 * 7
                    && index.changes_len() <= limits::HISTORY_CHANGES / 8 * 7
            });
        }
    }
}
