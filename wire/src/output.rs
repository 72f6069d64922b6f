//! Bytes that wait to be written: small pieces run together, large shared bodies by reference.

use crate::limits::SHARE_BYTES_MIN;
use crate::msg::Body;
use std::collections::VecDeque;
use std::ops::Range;

#[derive(Debug)]
enum Chunk {
    Own(Vec<u8>),
    Shared(Body, Range<usize>),
}

impl Chunk {
    fn bytes(&self) -> &[u8] {
        match self {
            Chunk::Own(v) => v,
            Chunk::Shared(body, range) => &body[range.clone()],
        }
    }
}

/// Pieces run together stay below this, so that a written piece's memory goes soon.
const OWN_CHUNK_BYTES_MAX: usize = 64 << 10;

/// A queue of bytes. Invariant: `len` is the sum of all chunks minus `done`; no chunk is empty.
#[derive(Debug, Default)]
pub(crate) struct Output {
    chunks: VecDeque<Chunk>,
    done: usize,
    len: usize,
}

impl Output {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Copies bytes in.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
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
    pub(crate) fn push_shared(&mut self, body: &Body, range: Range<usize>) {
        if range.len() < SHARE_BYTES_MIN {
            self.push(&body[range]);
            return;
        }
        self.len += range.len();
        self.chunks.push_back(Chunk::Shared(body.clone(), range));
    }

    /// The first bytes, contiguous; empty when there are none.
    pub(crate) fn front(&self) -> &[u8] {
        self.chunks.front().map_or(&[], |c| &c.bytes()[self.done..])
    }

    /// All pieces in order, for a vectored write.
    pub(crate) fn slices(&self) -> impl Iterator<Item = &[u8]> {
        let done = self.done;
        self.chunks.iter().enumerate().map(
            move |(i, c)| {
                if i == 0 { &c.bytes()[done..] } else { c.bytes() }
            },
        )
    }

    /// The first `n` bytes are gone. More than there are counts as all.
    pub(crate) fn written(&mut self, n: usize) {
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

    pub(crate) fn check_invariants(&self) {
        let sum: usize = self.chunks.iter().map(|c| c.bytes().len()).sum();
        assert_eq!(sum - self.done, self.len);
        assert!(self.chunks.iter().all(|c| !c.bytes().is_empty()));
    }
}
