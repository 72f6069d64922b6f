//! Where an image comes from, as files by path: a folder, or a tar archive (also gzip or zstd), which is not unpacked but read
//! in place. Nothing in it is followed out of it.

use crate::limits;
use crate::sandbox::{Error, Result};
use crate::state;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Files of an image.
pub enum Source {
    /// An OCI layout as a folder.
    Folder(PathBuf),
    /// An archive with the place of each file in it.
    Archive {
        /// Plain tar.
        file: Arc<File>,
        /// Path -> offset and size.
        files: BTreeMap<String, (u64, u64)>,
        /// Path -> path.
        links: BTreeMap<String, String>,
    },
}

impl Source {
    /// Opens a folder or an archive; a compressed archive is first expanded into `scratch`, which is unlinked at once.
    pub fn open(path: &Path, scratch: &Path) -> Result<Source> {
        let io = |e| state::io("read", path, e);
        if std::fs::metadata(path).map_err(io)?.is_dir() {
            return Ok(Source::Folder(path.to_owned()));
        }
        let mut file = BufReader::new(File::open(path).map_err(io)?);
        let head = file.fill_buf().map_err(io)?;
        let plain = if compression(head) == Compression::None {
            file.into_inner()
        } else {
            let mut out = File::options()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .open(scratch)
                .map_err(|e| state::io("make", scratch, e))?;
            std::fs::remove_file(scratch).map_err(|e| state::io("unlink", scratch, e))?;
            let mut plain = decompress(Box::new(file)).map_err(io)?.take(limits::LAYER_BYTES_MAX);
            std::io::copy(&mut plain, &mut out).map_err(io)?;
            out
        };
        index(plain).map_err(|e| match e.kind() {
            std::io::ErrorKind::InvalidData
            | std::io::ErrorKind::UnexpectedEof
            | std::io::ErrorKind::Other => {
                Error::Invalid(format!("{} is no image archive: {e}", path.display()))
            }
            _ => io(e),
        })
    }

    /// A file of the image; `None` when it is not there.
    pub fn file(&self, name: &str) -> Result<Option<Box<dyn Read>>> {
        if name.split('/').any(|p| p == "..") || name.starts_with('/') {
            return Err(Error::Invalid(format!("image file {name:?} is outside of the image")));
        }
        match self {
            Source::Folder(dir) => {
                let path = dir.join(name);
                match std::fs::symlink_metadata(&path) {
                    Ok(m) if m.is_file() => {}
                    Ok(_) => return Ok(None),
                    Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
                    Err(e) => return Err(state::io("read", &path, e)),
                }
                let file = File::open(&path).map_err(|e| state::io("read", &path, e))?;
                Ok(Some(Box::new(file)))
            }
            Source::Archive { file, files, links } => {
                let mut name = name;
                // docker save links equal layers to each other; one hop is all it makes.
                for _ in 0..2 {
                    if let Some((offset, size)) = files.get(name) {
                        let part = Part { file: Arc::clone(file), at: *offset, left: *size };
                        return Ok(Some(Box::new(part)));
                    }
                    match links.get(name) {
                        Some(to) => name = to,
                        None => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }

    /// A small file, whole.
    pub fn small(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.file(name)? else { return Ok(None) };
        let mut bytes = Vec::new();
        file.take(limits::IMAGE_JSON_BYTES_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::Io(format!("read {name} of the image: {e}"), e))?;
        if bytes.len() as u64 > limits::IMAGE_JSON_BYTES_MAX {
            return Err(Error::Invalid(format!(
                "{name} of the image is over {} bytes",
                limits::IMAGE_JSON_BYTES_MAX
            )));
        }
        Ok(Some(bytes))
    }
}

struct Part {
    file: Arc<File>,
    at: u64,
    left: u64,
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let want = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let n = self.file.read_at(&mut buffer[..want], self.at)?;
        self.at += n as u64;
        self.left -= n as u64;
        Ok(n)
    }
}

fn index(file: File) -> std::io::Result<Source> {
    use std::io::Seek as _;
    let mut copy = file.try_clone()?;
    copy.rewind()?;
    let (mut files, mut links) = (BTreeMap::new(), BTreeMap::new());
    let mut archive = tar::Archive::new(Guard::new(BufReader::new(copy)));
    for entry in archive.entries()? {
        let entry = entry?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = name.trim_start_matches("./").trim_end_matches('/').to_owned();
        let kind = entry.header().entry_type();
        if files.len() + links.len() > limits::ARCHIVE_FILES_MAX {
            return Err(std::io::Error::other("it has too many files"));
        }
        if kind.is_file() {
            files.insert(name, (entry.raw_file_position(), entry.size()));
        } else if (kind.is_symlink() || kind.is_hard_link())
            && let Some(to) = entry.link_name_bytes()
        {
            let to = String::from_utf8_lossy(&to).into_owned();
            let to = if kind.is_symlink() { beside(&name, &to) } else { to };
            links.insert(name, to);
        }
    }
    Ok(Source::Archive { file: Arc::new(file), files, links })
}

// What a relative link in a file's folder means, within the archive.
fn beside(name: &str, to: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in to.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            p => parts.push(p),
        }
    }
    parts.join("/")
}

/// How bytes are packed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compression {
    /// Not.
    None,
    /// gzip.
    Gzip,
    /// zstd.
    Zstd,
}

/// By the first bytes.
pub fn compression(head: &[u8]) -> Compression {
    match head {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        // A frame, or a skippable frame before it.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        _ => Compression::None,
    }
}

/// Expands if need be.
pub fn decompress(from: Box<dyn Read>) -> std::io::Result<Box<dyn Read>> {
    let mut from = BufReader::with_capacity(128 << 10, from);
    Ok(match compression(from.fill_buf()?) {
        Compression::None => Box::new(from),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
        Compression::Zstd => Box::new(Zstd { state: ZstdState::Between(from) }),
    })
}

type ZstdFrame =
    ruzstd::decoding::StreamingDecoder<BufReader<Box<dyn Read>>, ruzstd::decoding::FrameDecoder>;

enum ZstdState {
    Between(BufReader<Box<dyn Read>>),
    Inside(Box<ZstdFrame>),
    Over,
}

/// Several frames one after the other, as `zstd` and registries write them.
struct Zstd {
    state: ZstdState,
}

impl Read for Zstd {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            match std::mem::replace(&mut self.state, ZstdState::Over) {
                ZstdState::Over => return Ok(0),
                ZstdState::Between(mut from) => {
                    let head = from.fill_buf()?;
                    if head.is_empty() {
                        return Ok(0);
                    }
                    if let [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] = head {
                        skip_frame(&mut from)?;
                        self.state = ZstdState::Between(from);
                        continue;
                    }
                    let frame = ZstdFrame::new(from)
                        .map_err(|e| std::io::Error::other(format!("zstd: {e}")))?;
                    self.state = ZstdState::Inside(Box::new(frame));
                }
                ZstdState::Inside(mut frame) => {
                    let n = frame.read(buffer)?;
                    if n > 0 || buffer.is_empty() {
                        self.state = ZstdState::Inside(frame);
                        return Ok(n);
                    }
                    self.state = ZstdState::Between(frame.into_inner());
                }
            }
        }
    }
}

fn skip_frame(from: &mut BufReader<Box<dyn Read>>) -> std::io::Result<()> {
    let mut head = [0u8; 8];
    from.read_exact(&mut head)?;
    let size = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]]));
    std::io::copy(&mut from.take(size), &mut std::io::sink()).map(drop)
}

/// Passes a tar stream through and refuses what the tar crate would read into memory without a limit (long names and
/// extended headers), and sparse entries, whose headers go on where this does not look.
pub struct Guard<R> {
    inner: R,
    /// Bytes of the current entry's content (with padding) still to pass.
    content: u64,
    header: Vec<u8>,
    /// Content of an extended header, for its `size`.
    extended: Option<Vec<u8>>,
    /// `size` of the last extended header: applies to the next entry.
    size: Option<u64>,
}

impl<R> Guard<R> {
    /// Of a plain tar.
    pub fn new(inner: R) -> Guard<R> {
        Guard { inner, content: 0, header: Vec::with_capacity(512), extended: None, size: None }
    }

    /// The stream below.
    pub fn into_inner(self) -> R {
        self.inner
    }

    fn look(&mut self, mut bytes: &[u8]) -> std::io::Result<()> {
        while !bytes.is_empty() {
            if self.content > 0 {
                let n = usize::try_from(self.content).unwrap_or(usize::MAX).min(bytes.len());
                if let Some(e) = &mut self.extended {
                    e.extend_from_slice(&bytes[..n]);
                }
                self.content -= n as u64;
                bytes = &bytes[n..];
                if self.content == 0
                    && let Some(e) = self.extended.take()
                {
                    self.size = tar::PaxExtensions::new(&e)
                        .flatten()
                        .filter(|p| p.key() == Ok("size"))
                        .filter_map(|p| p.value().ok()?.parse().ok())
                        .last();
                }
                continue;
            }
            let n = (512 - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..n]);
            bytes = &bytes[n..];
            if self.header.len() == 512 {
                self.entry()?;
                self.header.clear();
            }
        }
        Ok(())
    }

    fn entry(&mut self) -> std::io::Result<()> {
        let bad = |why: &str| Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
        if self.header.iter().all(|b| *b == 0) {
            return Ok(());
        }
        let size = match self.header[124] & 0x80 {
            0 => {
                let text = String::from_utf8_lossy(&self.header[124..136]).into_owned();
                let digits = text.trim_matches(|c: char| c == '\0' || c == ' ');
                match u64::from_str_radix(digits, 8) {
                    Ok(n) => n,
                    Err(_) if digits.is_empty() => 0,
                    Err(_) => return bad("a header's size is no number"),
                }
            }
            _ => self.header[128..136].iter().fold(0, |n, b| n << 8 | u64::from(*b)),
        };
        let kind = self.header[156];
        match kind {
            b'L' | b'K' | b'x' | b'g' | b'X' if size > limits::TAR_HEADER_BYTES_MAX => {
                return bad("an extended header is too long");
            }
            b'S' => {
                return bad("sparse entries are not supported: write the archive without --sparse");
            }
            b'x' => self.extended = Some(Vec::new()),
            _ => {}
        }
        let size = match kind {
            b'L' | b'K' | b'x' | b'g' | b'X' => size,
            // Links and folders have no content, whatever they say; the tar crate goes by the number as well.
            _ => self.size.take().unwrap_or(size),
        };
        self.content = match size.checked_next_multiple_of(512) {
            Some(n) => n,
            None => return bad("an entry is too large"),
        };
        if self.content == 0 {
            self.extended = None;
        }
        Ok(())
    }
}

impl<R: Read> Read for Guard<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.look(&buffer[..n])?;
        Ok(n)
    }
}
