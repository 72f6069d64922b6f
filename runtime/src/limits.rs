//! Bounds on everything that comes from outside, with the reason for each.

/// Bytes of one control message. A container with all its mounts and environment takes some 20 KiB.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Bytes of events queued for a subscriber that does not read: some 2,000 events, then it is cut off.
pub const EVENTS_QUEUED_BYTES_MAX: usize = 1 << 20;

/// Characters of an id: it becomes a file name and a cgroup name.
pub const ID_CHARS_MAX: usize = 64;

/// Mounts of one container: each takes a descriptor, and a message carries 240.
pub const MOUNTS_MAX: usize = 200;

/// Bytes of one CRI log line before it is cut into partial ones (what other runtimes do, and readers expect).
pub const LOG_LINE_BYTES_MAX: usize = 16 << 10;

/// Bytes that the shim takes from a stream at once.
pub const STREAM_READ_BYTES: usize = 32 << 10;

/// Bytes of /etc/passwd or /etc/group of an image that are looked at.
pub const PASSWD_BYTES_MAX: u64 = 4 << 20;

/// Connections to one shim at a time: a few callers, each exec and attach a short one.
pub const CONNECTIONS_MAX: usize = 256;

/// Milliseconds that a caller waits for its shim's answer. Answers take single milliseconds; only a sick host is near it.
pub const ANSWER_TIMEOUT_MS: u64 = 30_000;

/// Milliseconds for a killed cgroup to become empty.
pub const KILL_TIMEOUT_MS: u64 = 10_000;

/// Bytes of a config, manifest or index of an image.
pub const IMAGE_JSON_BYTES_MAX: u64 = 4 << 20;

/// Bytes of one unpacked layer.
pub const LAYER_BYTES_MAX: u64 = 64 << 30;

/// Entries of one layer.
pub const LAYER_ENTRIES_MAX: u64 = 4_000_000;

/// Layers of one image: overlayfs takes 500 lower folders.
pub const LAYERS_MAX: usize = 480;

/// Bytes of a long name or an extended header in a tar, which are read into memory.
pub const TAR_HEADER_BYTES_MAX: u64 = 1 << 20;

/// Files of an image archive itself (not of its layers): some per layer.
pub const ARCHIVE_FILES_MAX: usize = 10_000;
