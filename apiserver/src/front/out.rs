//! Bytes that wait to be written: small pieces are copied together, large shared bodies are referenced.

use super::limits::SHARE_BYTES_MIN;
use pintle_wire::msg::Body;
use std::collections::VecDeque;

enum Piece {
    Own(Vec<u8>),
    Shared(Body),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Piece::Own(v) => v,
            Piece::Shared(b) => b,
        }
    }
}

/// A queue of bytes. Invariant: no piece is empty, and `at` lies inside the first one.
#[derive(Default)]
pub struct OutBuf {
    pieces: VecDeque<Piece>,
    at: usize,
    len: usize,
}

impl OutBuf {
    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Appends a copy.
    pub fn push(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        match self.pieces.back_mut() {
            Some(Piece::Own(last)) if last.len() < SHARE_BYTES_MIN => last.extend_from_slice(bytes),
            _ => self.pieces.push_back(Piece::Own(bytes.to_vec())),
        }
    }

    /// Appends without a copy when that is worth it.
    pub fn push_shared(&mut self, bytes: &Body) {
        if bytes.len() < SHARE_BYTES_MIN {
            return self.push(bytes);
        }
        self.len += bytes.len();
        self.pieces.push_back(Piece::Shared(bytes.clone()));
    }

    /// The first contiguous bytes; empty only when nothing waits.
    pub fn front(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |p| &p.bytes()[self.at..])
    }

    /// The first `n` bytes were written.
    pub fn consume(&mut self, n: usize) {
        let mut n = n.min(self.len);
        self.len -= n;
        while n > 0 {
            let Some(first) = self.pieces.front() else { return };
            let left = first.bytes().len() - self.at;
            if n < left {
                self.at += n;
                return;
            }
            n -= left;
            self.at = 0;
            self.pieces.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pintle_base::Prng;

    #[test]
    fn what_goes_in_comes_out_in_order() {
        let mut prng = Prng::new(7);
        let mut want = Vec::new();
        let mut got = Vec::new();
        let mut out = OutBuf::default();
        for i in 0..400u32 {
            let n = prng.below(if i % 20 == 0 { 40_000 } else { 300 }) as usize;
            let bytes: Vec<u8> = (0..n).map(|k| (k as u32 ^ i) as u8).collect();
            want.extend_from_slice(&bytes);
            if prng.below(2) == 0 {
                out.push(&bytes);
            } else {
                out.push_shared(&Body::from(bytes));
            }
            let take = (prng.below(20_000) as usize).min(out.front().len());
            got.extend_from_slice(&out.front()[..take]);
            out.consume(take);
        }
        while !out.is_empty() {
            let n = out.front().len();
            assert!(n > 0);
            got.extend_from_slice(out.front());
            out.consume(n);
        }
        assert!(got == want);
        assert_eq!(out.len(), 0);
    }
}
