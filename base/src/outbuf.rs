//! Bytes that wait to be written: small pieces run together, large shared bodies by reference.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// Pieces of shared bodies shorter than this are copied: a reference would cost more.
pub const SHARE_BYTES_MIN: usize = 4 << 10;

/// Pieces run together stay below this, so that a written piece's memory goes soon.
const OWN_CHUNK_BYTES_MAX: usize = 64 << 10;

#[derive(Debug)]
enum Chunk {
    Own(Vec<u8>),
    Shared(Arc<[u8]>, Range<usize>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Own(v) => v,
            Chunk::Shared(body, range) => &body[range.clone()],
        }
    }
}

/// A queue of bytes. Invariant: `len` is the sum of all chunks minus `done`; no chunk is empty.
#[derive(Debug, Default)]
pub struct Outbuf {
    chunks: VecDeque<Chunk>,
    done: usize,
    len: usize,
}

impl Outbuf {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies bytes in.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        if let Some(Chunk::Own(tail)) = self.chunks.back_mut()
            && tail.len() + bytes.len() <= OWN_CHUNK_BYTES_MAX
        {
            tail.extend_from_slice(bytes);
            return;
        }
        self.chunks.push_back(Chunk::Own(bytes.to_vec()));
    }

    /// Takes a piece of a shared body without copying it when it is worth it.
    pub fn push_shared(&mut self, body: &Arc<[u8]>, range: Range<usize>) {
        if range.len() < SHARE_BYTES_MIN {
            self.push(&body[range]);
            return;
        }
        self.len += range.len();
        self.chunks.push_back(Chunk::Shared(body.clone(), range));
    }

    /// The first bytes, contiguous; empty when there are none.
    pub fn front(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |c| &c.bytes()[self.done..])
    }

    /// All pieces in order, for a vectored write.
    pub fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let done = self.done;
        self.chunks
            .iter()
            .enumerate()
            .map(move |(i, c)| if i == 0 { &c.bytes()[done..] } else { c.bytes() })
    }

    /// The first `n` bytes are gone. More than there are counts as all.
    pub fn written(&mut self, n: usize) {
        let mut n = n.min(self.len);
        self.len -= n;
        while let Some(front) = self.chunks.front() {
            let left = front.bytes().len() - self.done;
            if n < left {
                self.done += n;
                return;
            }
            n -= left;
            self.done = 0;
            self.chunks.pop_front();
            if n == 0 {
                return;
            }
        }
    }

    /// Panics when the invariant does not hold; for tests.
    pub fn check_invariants(&self) {
        let sum: usize = self.chunks.iter().map(|c| c.bytes().len()).sum();
        assert_eq!(sum - self.done, self.len);
        assert!(self.chunks.iter().all(|c| !c.bytes().is_empty()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Prng;

    #[test]
    fn what_goes_in_comes_out_in_any_portions() {
        for seed in 0..50 {
            let mut p = Prng::new(seed);
            let (mut out, mut expected, mut got) = (Outbuf::default(), Vec::new(), Vec::new());
            let body: Arc<[u8]> = (0..20_000u32).map(|i| i as u8).collect();
            for _ in 0..100 {
                let from = p.below(20_000) as usize;
                let to = from + p.below(20_001 - from as u64) as usize;
                if p.chance(1, 2) {
                    out.push(&body[from..to]);
                } else {
                    out.push_shared(&body, from..to);
                }
                expected.extend_from_slice(&body[from..to]);
                let n = (p.below(15_000) as usize).min(out.len());
                let all: Vec<u8> = out.slices().flatten().copied().collect();
                assert!(all.starts_with(out.front()) && all.len() == out.len());
                got.extend_from_slice(&all[..n]);
                out.written(n);
                out.check_invariants();
            }
            out.slices().for_each(|s| got.extend_from_slice(s));
            assert!(got == expected, "seed {seed}");
        }
    }
}
