//! The store's requests and replies. Vocabulary: etcd's (revision, compact, lease, txn, watch).
//!
//! `range_end` works as in etcd: empty = the single key; `[0]` = all keys >= `key`; else keys in
//! `key..range_end`. A revision of 0 means "now".

use super::Body;
use bincode::{Decode, Encode};

/// One key-value as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// Revision of the put that made the key (first after it did not exist).
    pub create_revision: u64,
    /// Revision of the last put.
    pub mod_revision: u64,
    /// Puts since creation, starting at 1.
    pub version: u64,
    /// Lease that the key hangs on, 0 = none.
    pub lease: u64,
    /// The value; empty when only keys were asked for.
    pub value: Body,
}

/// How precious a write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Durability {
    /// Answered when it is on disk.
    Durable,
    /// Heartbeats, lease renewals, events: kept in memory, given to watchers, written lazily or not at all.
    /// The revision still counts; after a crash the key shows its last durable value (or is gone).
    Volatile,
}

/// A condition of a transaction; all must hold for `then` to be done.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Compare {
    /// The key's mod revision is exactly this; 0 = the key does not exist.
    ModRevision(Vec<u8>, u64),
    /// The key's create revision is exactly this; 0 = the key does not exist.
    CreateRevision(Vec<u8>, u64),
    /// The key's version is exactly this; 0 = the key does not exist.
    Version(Vec<u8>, u64),
    /// The key's value is exactly this.
    Value(Vec<u8>, Vec<u8>),
}

/// One operation of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Op {
    /// Write a key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its new value.
        value: Body,
        /// Lease to hang it on, 0 = none.
        lease: u64,
    },
    /// Delete a key or range.
    Delete {
        /// First key.
        key: Vec<u8>,
        /// See the module's words on `range_end`.
        range_end: Vec<u8>,
    },
    /// Read a key or range at the transaction's revision.
    Range(RangeRequest),
}

/// A read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RangeRequest {
    /// First key.
    pub key: Vec<u8>,
    /// See the module's words on `range_end`.
    pub range_end: Vec<u8>,
    /// Read as of this revision; 0 = now.
    pub revision: u64,
    /// At most so many keys; 0 = all (the server still cuts at its own limit and sets `more`).
    pub limit: u32,
    /// Leave values out.
    pub keys_only: bool,
    /// Only the count.
    pub count_only: bool,
}

/// What a client asks of the store: one per stream.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Request {
    /// Read a key or range.
    Range(RangeRequest),
    /// Compare, then do one list of operations or the other: atomically, at one revision.
    Txn {
        /// All must hold.
        compare: Vec<Compare>,
        /// Done when they hold.
        then: Vec<Op>,
        /// Done when one does not.
        otherwise: Vec<Op>,
        /// Whether the answer waits for the disk.
        durability: Durability,
    },
    /// Changes from a revision on, until the stream is reset.
    Watch {
        /// First key.
        key: Vec<u8>,
        /// See the module's words on `range_end`.
        range_end: Vec<u8>,
        /// First revision wanted; 0 = from the next change on.
        from_revision: u64,
        /// Send the previous value too.
        prev_kv: bool,
    },
    /// Make a lease.
    LeaseGrant {
        /// Wanted id, 0 = the store chooses.
        id: u64,
        /// Time to live.
        ttl_ms: u64,
    },
    /// Give a lease its whole time to live again.
    LeaseKeepAlive {
        /// The lease.
        id: u64,
    },
    /// End a lease and delete its keys.
    LeaseRevoke {
        /// The lease.
        id: u64,
    },
    /// Forget history before this revision.
    Compact {
        /// Oldest revision that stays readable.
        revision: u64,
    },
    /// Figures.
    Status,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Event {
    /// The key is gone; `kv` then holds key and mod revision only.
    pub deleted: bool,
    /// The key-value after the change.
    pub kv: KeyValue,
    /// The key-value before it, when asked for and there was one.
    pub prev: Option<KeyValue>,
}

/// What one operation of a transaction gave.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum OpReply {
    /// A put was done.
    Put,
    /// So many keys were deleted.
    Delete(u64),
    /// What a read found.
    Range(RangeReply),
}

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct RangeReply {
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
    /// There are more keys in the range than the limit let through.
    pub more: bool,
    /// Keys in the range, whatever the limit.
    pub count: u64,
}

/// What the store answers.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Reply {
    /// To `Range`; `revision` is the store's at the time of the read.
    Range(u64, RangeReply),
    /// To `Txn`.
    Txn {
        /// The compares held.
        succeeded: bool,
        /// The store's revision after it (that of the transaction if it wrote anything).
        revision: u64,
        /// One a done operation.
        replies: Vec<OpReply>,
    },
    /// The watch stands; the first event has at least this revision.
    WatchCreated {
        /// First revision that will be delivered.
        from_revision: u64,
    },
    /// All changes of one revision (never split), or of several in order.
    WatchEvents {
        /// The changes, in the order of their revisions.
        events: Vec<Event>,
        /// Every change up to this revision has now been delivered.
        revision: u64,
    },
    /// Every change up to this revision has been delivered though none matched.
    WatchProgress {
        /// The revision.
        revision: u64,
    },
    /// A lease and its time to live.
    Lease {
        /// The lease.
        id: u64,
        /// Milliseconds that it has left.
        ttl_ms: u64,
    },
    /// Done (compaction, revoke).
    Done {
        /// The store's revision.
        revision: u64,
    },
    /// Figures.
    Status(Status),
    /// The request was not carried out.
    Error(Error),
}

/// Figures about the store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct Status {
    /// Newest revision.
    pub revision: u64,
    /// Newest revision that is on disk.
    pub durable_revision: u64,
    /// Oldest readable revision.
    pub compact_revision: u64,
    /// Live keys.
    pub keys: u64,
    /// Bytes on disk.
    pub disk_bytes: u64,
    /// Bytes kept in memory for keys, index and cache, estimated.
    pub memory_bytes: u64,
}

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Error {
    /// The revision asked for is older than the oldest that is kept.
    Compacted {
        /// Oldest readable revision.
        compact_revision: u64,
    },
    /// The revision asked for is newer than the newest.
    FutureRevision {
        /// Newest revision.
        revision: u64,
    },
    /// No such lease.
    LeaseNotFound(u64),
    /// A limit was exceeded; the text names it with its unit.
    TooLarge(String),
    /// The disk is full: writes are refused, reads and watches go on.
    NoSpace(String),
    /// The request makes no sense; the text says why.
    Invalid(String),
    /// A value cannot be read back; the text names segment and offset. Other keys are not concerned.
    Damaged(String),
}
