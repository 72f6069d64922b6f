//! A work queue with one entry a key and back-off a key: what a controller asks "which object next?".

use crate::limits::{QUEUE_RETRY_MAX, QUEUE_RETRY_MIN};
use crate::reflector::jitter;
use pintle_base::{Prng, Time};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Keys that wait, each due at one time. Pure: time comes in as an argument.
#[derive(Debug)]
pub struct WorkQueue<K> {
    due: BTreeSet<(Time, K)>,
    at: BTreeMap<K, Time>,
    failures: BTreeMap<K, u32>,
    min: Duration,
    max: Duration,
    prng: Prng,
}

impl<K: Ord + Clone> WorkQueue<K> {
    /// An empty queue with the usual pauses (10 ms doubling to 60 s).
    pub fn new(seed: u64) -> WorkQueue<K> {
        WorkQueue::with_pauses(seed, QUEUE_RETRY_MIN, QUEUE_RETRY_MAX)
    }

    /// An empty queue with its own shortest and longest pause.
    pub fn with_pauses(seed: u64, min: Duration, max: Duration) -> WorkQueue<K> {
        WorkQueue {
            due: BTreeSet::new(),
            at: BTreeMap::new(),
            failures: BTreeMap::new(),
            min,
            max,
            prng: Prng::new(seed),
        }
    }

    /// The key is to be worked on now.
    pub fn add(&mut self, key: K, now: Time) {
        self.add_at(key, now);
    }

    /// The key is to be worked on at `at`, or earlier if it was due earlier already.
    pub fn add_at(&mut self, key: K, at: Time) {
        match self.at.get(&key).copied() {
            Some(known) if known <= at => return,
            Some(known) => {
                self.due.remove(&(known, key.clone()));
            }
            None => {}
        }
        self.at.insert(key.clone(), at);
        self.due.insert((at, key));
    }

    /// Work on the key failed: it comes again after a pause that doubles with each failure in a row.
    pub fn retry(&mut self, key: K, now: Time) {
        let failures = self.failures.entry(key.clone()).or_insert(0);
        let pause = self.min.saturating_mul(2u32.saturating_pow((*failures).min(31)));
        *failures = failures.saturating_add(1);
        let pause = jitter(pause.min(self.max), &mut self.prng);
        self.add_at(key, now + pause);
    }

    /// Work on the key succeeded: its next failure begins with the shortest pause.
    pub fn succeeded(&mut self, key: &K) {
        self.failures.remove(key);
    }

    /// Nothing more is to be done about the key, ever.
    pub fn forget(&mut self, key: &K) {
        self.failures.remove(key);
        if let Some(at) = self.at.remove(key) {
            self.due.remove(&(at, key.clone()));
        }
    }

    /// The next key that is due, taken out.
    pub fn pop(&mut self, now: Time) -> Option<K> {
        if self.due.first()?.0 > now {
            return None;
        }
        let (_, key) = self.due.pop_first()?;
        self.at.remove(&key);
        Some(key)
    }

    /// When the next key is due.
    pub fn poll_timeout(&self) -> Option<Time> {
        self.due.first().map(|(at, _)| *at)
    }

    /// Keys that wait.
    pub fn len(&self) -> usize {
        self.at.len()
    }

    /// None waits.
    pub fn is_empty(&self) -> bool {
        self.at.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_there_once_at_its_earliest_time() {
        let mut q = WorkQueue::new(1);
        q.add_at("a", Time(50));
        q.add_at("a", Time(90));
        q.add("b", Time(10));
        q.add_at("a", Time(20));
        assert_eq!((q.len(), q.poll_timeout()), (2, Some(Time(10))));
        assert_eq!(
            (q.pop(Time(9)), q.pop(Time(30)), q.pop(Time(30))),
            (None, Some("b"), Some("a"))
        );
        assert!(q.is_empty() && q.poll_timeout().is_none());
    }

    #[test]
    fn failures_in_a_row_wait_longer_up_to_the_limit() {
        let mut q = WorkQueue::new(1);
        let mut last = Duration::ZERO;
        for i in 0..40 {
            q.retry("a", Time(0));
            let pause = q.poll_timeout().expect("due") - Time(0);
            assert!(pause <= QUEUE_RETRY_MAX && (pause > last || i > 11), "{i}: {pause:?}");
            last = pause;
            assert!(q.pop(Time(u64::MAX)).is_some());
        }
        assert!(last >= QUEUE_RETRY_MAX / 2);
        q.succeeded(&"a");
        q.retry("a", Time(0));
        assert!(q.poll_timeout().expect("due") - Time(0) <= QUEUE_RETRY_MIN);
        q.forget(&"a");
        assert!(q.is_empty());
    }
}
