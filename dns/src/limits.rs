//! Bounds of this crate, each with its reason.

/// Longest name in its wire form (RFC 1035, 2.3.4).
pub const NAME_BYTES_MAX: usize = 255;

/// Longest label (RFC 1035, 2.3.4).
pub const LABEL_BYTES_MAX: usize = 63;

/// UDP answer for a client that says nothing of its own limit (RFC 1035, 2.3.4).
pub const UDP_BYTES_PLAIN: usize = 512;

/// Largest UDP answer, and what we offer to others: fits every path without fragments (DNS flag day 2020).
pub const UDP_BYTES_MAX: usize = 1232;

/// Largest message at all, by TCP.
pub const TCP_BYTES_MAX: usize = 65_535;

/// CNAMEs that are followed inside the cluster for one question, so that a circle of ExternalName services ends.
pub const CNAME_STEPS_MAX: usize = 8;

/// Pointers that one compressed name may have; each must lead backwards anyway.
pub const POINTERS_MAX: usize = 64;

/// Questions that wait for upstreams at once; further ones get SERVFAIL. Each costs a socket.
pub const PENDING_MAX: usize = 512;

/// Clients that wait for one and the same question.
pub const WAITERS_MAX: usize = 64;

/// How long an upstream may take for one try, in milliseconds.
pub const UPSTREAM_TRY_MS: u64 = 1_500;

/// How often a question is sent before SERVFAIL, over all upstreams together. Resolvers of clients give up after 5 s.
pub const UPSTREAM_TRIES_MAX: u32 = 3;

/// Answers of upstreams that are kept.
pub const CACHE_ENTRIES_MAX: usize = 4_096;

/// Bytes of the answers that are kept, all together.
pub const CACHE_BYTES_MAX: usize = 2 << 20;

/// Longest time for which an upstream's answer is kept, in seconds, whatever it says.
pub const CACHE_TTL_S_MAX: u32 = 30;

/// TTL of the cluster's own records, in seconds: changes are seen at once here, by others after this time.
pub const CLUSTER_TTL_S: u32 = 5;
