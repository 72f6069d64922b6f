//! Reading container logs in the CRI format: `<time> stdout F text`, `P` for a part of a line.
//!
//! [`LogReader`] gives chunks as long as there are some; it never waits. Rotated files (`0.log.1` the youngest)
//! come before the current one; a rotation while following is noticed by the file's identity.

use pintle_base::Wall;
use pintle_kubelet::limits;
use pintle_wire::msg::node::LogOptions;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Bytes read from a file at once.
const READ_BYTES: usize = 64 << 10;
/// A line without an end longer than this is cut.
const LINE_BYTES_MAX: usize = 256 << 10;

/// What [`LogReader::next`] gives.
#[derive(Debug, PartialEq)]
pub enum Chunk {
    /// Text to send.
    Data(Vec<u8>),
    /// No more now: wait until the file changes.
    Wait,
    /// No more ever.
    End,
}

/// One reading of a run's log.
#[derive(Debug)]
pub struct LogReader {
    path: PathBuf,
    // Rotated files still to be read, oldest first.
    older: VecDeque<File>,
    file: Option<File>,
    at_current: bool,
    options: LogOptions,
    carry: Vec<u8>,
    at_line_start: bool,
    left_bytes: Option<u64>,
    /// The container has ended: the end of the file is the end of the log.
    pub finished: bool,
}

fn rotated(path: &Path, n: u32) -> PathBuf {
    PathBuf::from(format!("{}.{n}", path.display()))
}

impl LogReader {
    /// Opens a log. A file that is not there is an empty log.
    pub fn open(path: &Path, options: LogOptions) -> LogReader {
        let mut files: Vec<File> = Vec::new();
        for n in (1..limits::LOG_FILES_MAX).rev() {
            files.extend(File::open(rotated(path, n)).ok());
        }
        let current = File::open(path).ok();
        let at_current = current.is_some();
        files.extend(current);
        if let Some(n) = options.tail_lines {
            files = tail(files, n);
        }
        let mut older: VecDeque<File> = files.into();
        let file = older.pop_front();
        LogReader {
            path: path.to_path_buf(),
            at_current: at_current && older.is_empty(),
            older,
            file,
            left_bytes: options.limit_bytes,
            options,
            carry: Vec::new(),
            at_line_start: true,
            finished: false,
        }
    }

    /// The next piece.
    pub fn next(&mut self) -> Chunk {
        loop {
            if self.left_bytes == Some(0) {
                return Chunk::End;
            }
            let mut buffer = vec![0; READ_BYTES];
            let read = self.file.as_mut().map_or(Ok(0), |f| f.read(&mut buffer));
            match read {
                Ok(0) | Err(_) => {
                    if self.next_file() {
                        continue;
                    }
                    return if self.options.follow && !self.finished {
                        Chunk::Wait
                    } else {
                        Chunk::End
                    };
                }
                Ok(n) => {
                    let out = self.take(&buffer[..n]);
                    if !out.is_empty() {
                        return Chunk::Data(out);
                    }
                }
            }
        }
    }

    /// Goes on with the next file, if there is one.
    fn next_file(&mut self) -> bool {
        if let Some(file) = self.older.pop_front() {
            self.at_current = self.older.is_empty();
            self.file = Some(file);
            return true;
        }
        if !self.options.follow {
            return false;
        }
        // While following, the file under the name may be a new one.
        let Ok(found) = File::open(&self.path) else { return false };
        let id = |f: &File| f.metadata().map(|m| (m.dev(), m.ino())).ok();
        if self.at_current && self.file.as_ref().and_then(id) == id(&found) {
            return false;
        }
        self.at_current = true;
        self.file = Some(found);
        true
    }

    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.carry.extend_from_slice(bytes);
        let carry = std::mem::take(&mut self.carry);
        let mut out = Vec::new();
        let mut rest = carry.as_slice();
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            self.line(&rest[..end], &mut out);
            rest = &rest[end + 1..];
        }
        if rest.len() <= LINE_BYTES_MAX {
            self.carry = rest.to_vec();
        }
        if let Some(left) = &mut self.left_bytes {
            out.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= out.len() as u64;
        }
        out
    }

    fn line(&mut self, line: &[u8], out: &mut Vec<u8>) {
        let mut parts = line.splitn(4, |b| *b == b' ');
        let (Some(time), Some(_stream), Some(tag)) = (parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        let text = parts.next().unwrap_or_default();
        let time = std::str::from_utf8(time).unwrap_or_default();
        if let Some(since) = self.options.since_unix_ns
            && Wall::parse_rfc3339(time).is_none_or(|at| at.0 < since)
        {
            return;
        }
        if self.options.timestamps && self.at_line_start {
            out.extend_from_slice(time.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text);
        self.at_line_start = tag != b"P";
        if self.at_line_start {
            out.push(b'\n');
        }
    }
}

/// Leaves the files that the last `n` lines lie in, the first one at their start.
fn tail(files: Vec<File>, n: u64) -> Vec<File> {
    let mut left = n;
    let mut kept = VecDeque::new();
    for mut file in files.into_iter().rev() {
        let (start, lines) = tail_start(&file, left);
        left = left.saturating_sub(lines);
        if file.seek(SeekFrom::Start(start)).is_ok() {
            kept.push_front(file);
        }
        if left == 0 {
            break;
        }
    }
    kept.into()
}

/// Where the last `n` lines of a file start, and how many there are of them.
fn tail_start(file: &File, n: u64) -> (u64, u64) {
    let size = file.metadata().map_or(0, |m| m.len());
    let mut lines = 0;
    let mut end = size;
    while end > 0 {
        let start = end.saturating_sub(READ_BYTES as u64);
        let mut block = vec![0; usize::try_from(end - start).unwrap_or(0)];
        if file.read_exact_at(&mut block, start).is_err() {
            return (size, lines);
        }
        for (i, _) in block.iter().enumerate().rev().filter(|(_, b)| **b == b'\n') {
            if lines == n {
                return (start + i as u64 + 1, n);
            }
            lines += 1;
        }
        end = start;
    }
    (0, lines)
}

/// The termination message of a run that ended: its file, or the end of its log.
pub fn termination_message(t: &pintle_kubelet::Termination) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(&t.file) {
        // What cannot be read is no message.
        let _ = file.take(limits::TERMINATION_MESSAGE_BYTES_MAX as u64).read_to_end(&mut bytes);
    }
    if bytes.is_empty()
        && let Some(log) = &t.log
    {
        let lines = Some(limits::TERMINATION_LOG_LINES_MAX);
        let options = LogOptions { tail_lines: lines, ..LogOptions::default() };
        let mut reader = LogReader::open(log, options);
        while let Chunk::Data(more) = reader.next() {
            bytes.extend_from_slice(&more);
        }
        let surplus = bytes.len().saturating_sub(limits::TERMINATION_LOG_BYTES_MAX);
        bytes.drain(..surplus);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);
    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn read(reader: &mut LogReader) -> (String, Chunk) {
        let mut text = String::new();
        loop {
            match reader.next() {
                Chunk::Data(d) => text.push_str(&String::from_utf8_lossy(&d)),
                end => return (text, end),
            }
        }
    }

    #[test]
    fn lines_tails_times_and_rotation() {
        let folder = Folder(std::env::temp_dir().join(format!("pt-logs-{}", std::process::id())));
        std::fs::create_dir_all(&folder.0).expect("temporary folder");
        let path = folder.0.join("0.log");
        let line = |s: u32, tag: &str, t: &str| {
            format!("2026-01-01T00:00:0{s}.000000000Z stdout {tag} {t}\n")
        };
        std::fs::write(rotated(&path, 1), line(1, "F", "one")).expect("written");
        let current = [line(2, "F", "two"), line(3, "P", "thr"), line(3, "F", "ee")].concat();
        std::fs::write(&path, &current).expect("written");
        let check = |options: LogOptions, expected: &str| {
            let (text, end) = read(&mut LogReader::open(&path, options.clone()));
            assert_eq!((text.as_str(), end), (expected, Chunk::End), "{options:?}");
        };
        let none = LogOptions::default;
        check(none(), "one\ntwo\nthree\n");
        check(LogOptions { tail_lines: Some(3), ..none() }, "two\nthree\n");
        check(LogOptions { tail_lines: Some(0), ..none() }, "");
        check(LogOptions { tail_lines: Some(99), ..none() }, "one\ntwo\nthree\n");
        check(LogOptions { limit_bytes: Some(5), ..none() }, "one\nt");
        let since = Wall::parse_rfc3339("2026-01-01T00:00:02Z").map(|w| w.0);
        check(LogOptions { since_unix_ns: since, ..none() }, "two\nthree\n");
        check(
            LogOptions { timestamps: true, tail_lines: Some(2), ..none() },
            "2026-01-01T00:00:03.000000000Z three\n",
        );
        let mut follow = LogReader::open(&path, LogOptions { follow: true, ..none() });
        assert_eq!(read(&mut follow), ("one\ntwo\nthree\n".into(), Chunk::Wait));
        std::fs::rename(&path, rotated(&path, 2)).expect("rotated");
        std::fs::write(&path, line(4, "F", "four")).expect("written");
        assert_eq!(read(&mut follow), ("four\n".into(), Chunk::Wait));
        follow.finished = true;
        assert_eq!(read(&mut follow), (String::new(), Chunk::End));
    }
}
