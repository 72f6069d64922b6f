//! The kernel's clocks: the one place where Pintle reads them.

use pintle_base::{Clock, Now, Time, Wall};
use rustix::time::{ClockId, clock_gettime};

/// `CLOCK_MONOTONIC` and `CLOCK_REALTIME`.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl Clock for RealClock {
    fn now(&self) -> Now {
        let mono = clock_gettime(ClockId::Monotonic);
        let wall = clock_gettime(ClockId::Realtime);
        let ns = |t: rustix::time::Timespec| {
            t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
        };
        Now { mono: Time(u64::try_from(ns(mono)).unwrap_or(0)), wall: Wall(ns(wall)) }
    }
}

impl RealClock {
    /// Only the monotonic clock.
    pub fn now_mono(self) -> Time {
        self.now().mono
    }
}
