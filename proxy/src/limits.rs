//! Bounds of this crate, each with its reason.

/// Addresses (or node ports) that one chain tells apart rule by rule. Above, packets go through a tree of chains
/// by prefix, so that neither the walk of a packet nor the text of a change grows with the number of services.
pub const FLAT_ENTRIES_MAX: usize = 64;

/// Bytes of an iptables chain name (`XT_EXTENSION_MAXNAMELEN` less the zero byte and what iptables keeps).
pub const CHAIN_NAME_BYTES_MAX: usize = 28;

/// First wait after rules could not be applied, in milliseconds; it doubles each time.
pub const RETRY_MS_MIN: u64 = 500;

/// Longest wait between two tries, in milliseconds.
pub const RETRY_MS_MAX: u64 = 30_000;
