//! The kernel's edge: every `unsafe` block of Pintle, and the few wrappers that read a clock or raise a syscall that
//! rustix lacks. Nothing here decides anything; callers above are safe code.

pub mod child;
pub mod filter;
pub mod pass;
pub mod process;
pub mod raw;
pub mod signal;
pub mod tty;

/// Wall time in nanoseconds since 1970.
pub fn wall_ns() -> i64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

/// Monotonic time in nanoseconds.
pub fn mono_ns() -> u64 {
    let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(t.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(t.tv_nsec).unwrap_or(0)
}
