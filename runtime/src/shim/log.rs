//! The CRI log format: `<rfc3339nano> stdout F line`, `P` for a line that goes on; rotation by size and count.
//!
//! `0.log` is the current file; rotated ones are `0.log.1` (youngest), `0.log.2`, ... A log that cannot be written loses lines,
//! never the container: it goes on when there is room again.

use crate::limits::LOG_LINE_BYTES_MAX;
use pintle_base::Wall;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

/// Which stream a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// 1, and a terminal.
    Stdout,
    /// 2.
    Stderr,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        }
    }
}

/// Cuts a byte stream into log lines. Holds at most one line of [`LOG_LINE_BYTES_MAX`].
#[derive(Debug, Default)]
pub struct Lines {
    open: Vec<u8>,
}

impl Lines {
    /// Appends the lines that `bytes` complete to `out`.
    pub fn push(&mut self, stream: Stream, at: Wall, bytes: &[u8], out: &mut Vec<u8>) {
        let stamp = at.rfc3339_nano();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = LOG_LINE_BYTES_MAX - self.open.len();
            let window = &rest[..rest.len().min(room)];
            match window.iter().position(|b| *b == b'\n') {
                Some(i) => {
                    self.line(stream, &stamp, "F", &rest[..i], out);
                    rest = &rest[i + 1..];
                }
                None if window.len() == room => {
                    self.line(stream, &stamp, "P", window, out);
                    rest = &rest[room..];
                }
                None => {
                    self.open.extend_from_slice(rest);
                    rest = &[];
                }
            }
        }
    }

    /// The stream ended: what is open is a line without its newline, which CRI marks as partial.
    pub fn finish(&mut self, stream: Stream, at: Wall, out: &mut Vec<u8>) {
        if !self.open.is_empty() {
            self.line(stream, &at.rfc3339_nano(), "P", &[], out);
        }
        self.open = Vec::new();
    }

    fn line(&mut self, stream: Stream, stamp: &str, tag: &str, end: &[u8], out: &mut Vec<u8>) {
        for part in [stamp, " ", stream.name(), " ", tag, " "] {
            out.extend_from_slice(part.as_bytes());
        }
        out.append(&mut self.open);
        out.extend_from_slice(end);
        out.push(b'\n');
    }
}

/// The file with its rotation.
#[derive(Debug)]
pub struct LogFile {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    bytes_max: u64,
    files_max: u32,
}

impl LogFile {
    /// Opens (appends) and makes the folder. An empty path logs nothing.
    pub fn open(path: &Path, bytes_max: u64, files_max: u32) -> std::io::Result<LogFile> {
        let mut log = LogFile { path: path.into(), file: None, size: 0, bytes_max, files_max };
        if !path.as_os_str().is_empty() {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            log.reopen()?;
        }
        Ok(log)
    }

    fn reopen(&mut self) -> std::io::Result<()> {
        let file = File::options().append(true).create(true).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes whole lines; rotates so that no file exceeds the size (a single longer line excepted).
    pub fn write(&mut self, mut lines: &[u8]) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        while !lines.is_empty() {
            let room = match self.bytes_max {
                0 => usize::MAX,
                max => usize::try_from(max.saturating_sub(self.size)).unwrap_or(usize::MAX),
            };
            let fits = lines.len().min(room);
            let end_of = |i: usize| i + 1;
            let fits = match (fits == lines.len(), self.size) {
                (true, _) => fits,
                (false, size) => match lines[..fits].iter().rposition(|b| *b == b'\n') {
                    Some(i) => end_of(i),
                    // Not one line fits: into a fresh file, and if this is one, all the same.
                    None if size > 0 => 0,
                    None => lines.iter().position(|b| *b == b'\n').map_or(lines.len(), end_of),
                },
            };
            let (now, later) = lines.split_at(fits);
            self.append(now);
            if !later.is_empty() {
                self.rotate();
            }
            lines = later;
        }
    }

    fn append(&mut self, lines: &[u8]) {
        if lines.is_empty() || (self.file.is_none() && self.reopen().is_err()) {
            return;
        }
        if let Some(file) = &mut self.file
            && file.write_all(lines).is_ok()
        {
            self.size += lines.len() as u64;
        }
    }

    fn numbered(&self, n: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{n}"));
        name.into()
    }

    fn rotate(&mut self) {
        self.file = None;
        self.size = 0;
        let old = self.files_max.saturating_sub(1);
        if old == 0 {
            let _ = std::fs::remove_file(&self.path);
            return;
        }
        // Renames replace the target: the eldest goes away by that.
        for n in (1..old).rev() {
            let _ = std::fs::rename(self.numbered(n), self.numbered(n + 1));
        }
        let _ = std::fs::rename(&self.path, self.numbered(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(chunks: &[&[u8]], expected: &str) {
        let (mut lines, mut out) = (Lines::default(), Vec::new());
        for c in chunks {
            lines.push(Stream::Stdout, Wall(0), c, &mut out);
        }
        lines.finish(Stream::Stdout, Wall(0), &mut out);
        let text = String::from_utf8(out).expect("utf-8");
        assert_eq!(text.replace("1970-01-01T00:00:00.000000000Z stdout ", ""), expected);
    }

    #[test]
    fn lines_are_cut() {
        check(&[b"a\nb\n"], "F a\nF b\n");
        check(&[b"a", b"b", b"\n\n"], "F ab\nF \n");
        check(&[b"no end"], "P no end\n");
        let long = vec![b'x'; LOG_LINE_BYTES_MAX];
        let x = "x".repeat(LOG_LINE_BYTES_MAX);
        check(&[&long, b"\n"], &format!("P {x}\nF \n"));
        check(&[&long[1..], b"\n"], &format!("F {}\n", &x[1..]));
        check(&[b"yy", &long, b"z\n"], &format!("P yy{}\nF xxz\n", &x[2..]));
    }

    #[test]
    fn rotation_keeps_as_many_as_asked() {
        let dir = std::env::temp_dir().join(format!("pintle-log-{}", std::process::id()));
        let path = dir.join("x/0.log");
        let mut log = LogFile::open(&path, 10, 3).expect("open");
        // Lines of seven bytes: one a file. Those of two together, and one that is too long for any.
        log.write(b"way too long for a file\n000000\n");
        let all: String = (1..6).map(|i| format!("{i}{i}{i}{i}{i}{i}\n")).collect();
        log.write(all.as_bytes());
        let read = |p: PathBuf| std::fs::read_to_string(p).unwrap_or_default();
        assert_eq!(read(path.clone()), "555555\n");
        assert_eq!(read(log.numbered(1)), "444444\n");
        assert_eq!(read(log.numbered(2)), "333333\n");
        assert_eq!(read(log.numbered(3)), "");
        let mut wide = LogFile::open(&dir.join("y"), 15, 9).expect("open");
        wide.write(all.as_bytes());
        assert_eq!(read(wide.numbered(2)), "111111\n222222\n");
        assert_eq!(read(wide.numbered(1)), "333333\n444444\n");
        assert_eq!(read(dir.join("y")), "555555\n");
        std::fs::remove_dir_all(&dir).expect("clean up");
    }
}
