//! Layers as hostile as one can write them, and each form of an image. As root: owners, overlay's marks.

use super::source::Source;
use super::store::{Store, digest, hex};
use super::*;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::PathBuf;

struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let dir = Path::new("/var/tmp").join(format!("pt-image-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("mkdir");
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).expect("clean up");
    }
}

#[derive(Clone)]
enum Entry<'a> {
    Dir(&'a str),
    File(&'a str, &'a [u8]),
    Symlink(&'a str, &'a str),
    Link(&'a str, &'a str),
    Device(&'a str),
    /// A header that says a size and has no such content.
    Claim(&'a str, u64),
    Attribute(&'a str, &'a str, &'a str),
}

// The crate's own setters refuse hostile paths, so that names go into the header as bytes.
fn header(name: &str, kind: u8, size: u64, link: &str) -> tar::Header {
    let mut h = tar::Header::new_gnu();
    {
        let old = h.as_old_mut();
        old.name[..name.len()].copy_from_slice(name.as_bytes());
        old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    }
    h.set_mode(if kind == b'5' { 0o755 } else { 0o4711 });
    h.set_uid(7);
    h.set_gid(8);
    h.set_mtime(1_000_000);
    h.set_size(size);
    h.set_entry_type(tar::EntryType::new(kind));
    h.set_cksum();
    h
}

fn tar_of(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut put = |h: tar::Header, content: &[u8]| {
        out.extend_from_slice(h.as_bytes());
        out.extend_from_slice(content);
        out.resize(out.len().next_multiple_of(512), 0);
    };
    for e in entries {
        match e {
            Entry::Dir(p) => put(header(p, b'5', 0, ""), &[]),
            Entry::File(p, c) => put(header(p, b'0', c.len() as u64, ""), c),
            Entry::Symlink(p, to) => put(header(p, b'2', 0, to), &[]),
            Entry::Link(p, to) => put(header(p, b'1', 0, to), &[]),
            Entry::Device(p) => {
                let mut h = header(p, b'4', 0, "");
                h.set_device_major(8).expect("gnu");
                h.set_device_minor(0).expect("gnu");
                h.set_cksum();
                put(h, &[]);
            }
            Entry::Claim(p, size) => put(header(p, b'0', *size, ""), &[]),
            Entry::Attribute(p, key, value) => {
                let body = format!(" SCHILY.xattr.{key}={value}\n");
                let mut n = body.len() + 2;
                while n != body.len() + n.to_string().len() {
                    n = body.len() + n.to_string().len();
                }
                let record = format!("{n}{body}");
                put(header("pax", b'x', record.len() as u64, ""), record.as_bytes());
                put(header(p, b'0', 1, ""), b"x");
            }
        }
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn import_layer(dir: &Dir, tar: &[u8]) -> Result<PathBuf> {
    let store = Store::open(&dir.0.join("images"))?;
    let id = digest(tar);
    layer::import(&store, Box::new(std::io::Cursor::new(tar.to_vec())), &id, None)?;
    Ok(store.layer(&id)?.join("fs"))
}

#[test]
fn a_layer_comes_out_as_it_went_in() {
    let dir = Dir::new("plain");
    let fs = import_layer(
        &dir,
        &tar_of(&[
            Entry::Dir("./"),
            Entry::Dir("a/"),
            Entry::File("a/f", b"content"),
            Entry::Link("a/g", "a/f"),
            Entry::Symlink("s", "/a/f"),
            Entry::Attribute("x", "user.k", "v"),
            Entry::File("deep/er/without/folders", b"1"),
            Entry::Device("dev/sda"),
            Entry::File("zeroes", &[0; 200_000]),
        ]),
    )
    .expect("import");
    let f = std::fs::metadata(fs.join("a/f")).expect("f");
    assert_eq!((f.uid(), f.gid(), f.mode() & 0o7777, f.mtime()), (7, 8, 0o4711, 1_000_000));
    assert_eq!(f.nlink(), 2);
    assert_eq!(f.ino(), std::fs::metadata(fs.join("a/g")).expect("g").ino());
    assert_eq!(std::fs::read_link(fs.join("s")).expect("s"), Path::new("/a/f"));
    let mut value = [0u8; 8];
    assert_eq!(rustix::fs::getxattr(fs.join("x"), "user.k", &mut value[..]), Ok(1));
    assert_eq!(std::fs::read(fs.join("deep/er/without/folders")).expect("deep"), b"1");
    assert!(!fs.join("dev/sda").exists(), "device nodes are not made");
    let zeroes = std::fs::metadata(fs.join("zeroes")).expect("zeroes");
    assert_eq!(zeroes.len(), 200_000);
    assert!(zeroes.blocks() * 512 < 200_000, "holes stay holes");
}

#[test]
fn whiteouts_become_overlays() {
    let dir = Dir::new("whiteout");
    let fs = import_layer(
        &dir,
        &tar_of(&[
            Entry::File("a/.wh.gone", b""),
            Entry::File("o/.wh..wh..opq", b""),
            Entry::File("o/new", b"1"),
            Entry::File(".wh.again", b""),
            Entry::Dir("again/"),
            Entry::File("kept", b"1"),
            Entry::File(".wh.kept", b""),
            Entry::File(".wh..wh.plnk", b""),
        ]),
    )
    .expect("import");
    let gone = std::fs::symlink_metadata(fs.join("a/gone")).expect("whiteout");
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |p: &str| {
        let mut v = [0u8; 4];
        rustix::fs::getxattr(fs.join(p), "trusted.overlay.opaque", &mut v[..]) == Ok(1)
    };
    assert!(opaque("o") && opaque("again") && !opaque("a"));
    assert_eq!(std::fs::read(fs.join("kept")).expect("kept"), b"1");
    assert_eq!(std::fs::read_dir(&fs).expect("list").count(), 4);
}

#[test]
fn hostile_layers_stay_inside_or_are_refused() {
    let dir = Dir::new("hostile");
    let victim = dir.0.join("victim");
    std::fs::write(&victim, "untouched").expect("write");
    let victim_text = victim.to_str().expect("utf-8").to_owned();
    let up = "../../../../victim";
    let refused: &[&[Entry<'_>]] = &[
        &[Entry::File(up, b"x")],
        &[Entry::File("a/../../../../../victim", b"x")],
        &[Entry::Link("l", up)],
        &[Entry::Link("l", "no/such/file")],
        &[Entry::File("a/.wh...", b"")],
        &[Entry::Claim("huge", u64::MAX >> 2)],
        &[Entry::Claim("bomb", crate::limits::LAYER_BYTES_MAX + 1)],
        &[Entry::Claim("short", 100_000)],
        &[Entry::File("f", b"x"), Entry::File("f/under", b"x")],
    ];
    for entries in refused {
        assert!(import_layer(&dir, &tar_of(entries)).is_err());
    }
    // Absolute names and links that lead out mean places inside.
    let outside = format!("{victim_text}-made");
    let inside: &[&[Entry<'_>]] = &[
        &[Entry::File(&victim_text, b"x")],
        &[Entry::Symlink("d", "/"), Entry::File("d/landed", b"x")],
        &[Entry::Symlink("d", "../../../.."), Entry::File("d/landed", b"x")],
        &[Entry::Symlink("f", &victim_text), Entry::File("f", b"replaced")],
        &[
            Entry::Dir("d/"),
            Entry::Symlink("d2", "d"),
            Entry::File("d2/x", b"1"),
            Entry::Symlink("d3", &outside),
        ],
        &[Entry::Symlink("l", &victim_text), Entry::Link("hard", "l")],
    ];
    for entries in inside {
        let r = import_layer(&dir, &tar_of(entries));
        assert!(r.is_ok(), "{r:?}");
    }
    assert_eq!(std::fs::read_to_string(&victim).expect("read"), "untouched");
    assert_eq!(std::fs::metadata(&victim).expect("victim").nlink(), 1);
    assert!(!Path::new("/landed").exists() && !dir.0.join("victim-made").exists());
    // A header's extension that would fill the memory.
    let mut bomb = header("pax", b'x', 8 << 20, "").as_bytes().to_vec();
    bomb.resize(9 << 20, b'1');
    let e = import_layer(&dir, &bomb).expect_err("too long").to_string();
    assert!(e.contains("too long"), "{e}");
    // Nothing half-made shows.
    let layers = std::fs::read_dir(dir.0.join("images/layers")).expect("list").count();
    assert_eq!(layers, inside.len());
}

#[test]
fn damaged_layers_are_refused() {
    let dir = Dir::new("damaged");
    let store = Store::open(&dir.0.join("images")).expect("store");
    let tar = tar_of(&[Entry::File("f", b"x")]);
    let import = |bytes: &[u8], id: &str, blob: Option<&str>| {
        layer::import(&store, Box::new(std::io::Cursor::new(bytes.to_vec())), id, blob)
    };
    let e = import(&tar, &digest(b"other"), None).expect_err("other digest");
    assert!(e.to_string().contains("damaged"), "{e}");
    assert!(import(&tar, &digest(&tar), Some(&digest(b"other"))).is_err());
    assert!(import(&tar[..700], &digest(&tar), None).is_err());
    assert!(!store.has_layer(&digest(&tar)).expect("look"));
    import(&tar, &digest(&tar), Some(&digest(&tar))).expect("right");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut e = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    e.write_all(bytes).expect("gzip");
    e.finish().expect("gzip")
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest)
}

fn config(layers: &[&[u8]]) -> Vec<u8> {
    let ids: Vec<_> = layers.iter().map(|l| digest(l)).collect();
    serde_json::to_vec(&serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["A=b"], "Cmd": ["run"], "WorkingDir": "/w", "User": "7"},
        "rootfs": {"type": "layers", "diff_ids": ids},
    }))
    .expect("json")
}

// (path, content) of an OCI layout with one gzip and one zstd layer.
fn oci_files(layers: [&[u8]; 2]) -> Vec<(String, Vec<u8>)> {
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", &digest(bytes)[7..]), bytes.to_vec());
    let packed = [gzip(layers[0]), zstd(layers[1])];
    let config = config(&layers);
    let descriptor =
        |bytes: &[u8]| serde_json::json!({"digest": digest(bytes), "size": bytes.len()});
    let manifest = serde_json::to_vec(&serde_json::json!({
        "schemaVersion": 2, "config": descriptor(&config),
        "layers": [descriptor(&packed[0]), descriptor(&packed[1])],
    }))
    .expect("json");
    let inner = serde_json::to_vec(&serde_json::json!({"manifests": [
        {"digest": digest(b"other"), "platform": {"os": "linux", "architecture": "s390x"}},
        {"digest": digest(&manifest), "platform": {"os": "linux", "architecture": "amd64"}},
    ]}))
    .expect("json");
    let index = serde_json::to_vec(&serde_json::json!({"schemaVersion": 2, "manifests": [{
        "mediaType": "application/vnd.oci.image.index.v1+json", "digest": digest(&inner),
        "annotations": {"io.containerd.image.name": "docker.io/library/app:2", "org.opencontainers.image.ref.name": "2"},
    }]}))
    .expect("json");
    vec![
        ("oci-layout".into(), b"{\"imageLayoutVersion\":\"1.0.0\"}".to_vec()),
        ("index.json".into(), index),
        blob(&inner),
        blob(&manifest),
        blob(&config),
        blob(&packed[0]),
        blob(&packed[1]),
    ]
}

fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let entries: Vec<_> = files.iter().map(|(p, c)| Entry::File(p, c)).collect();
    tar_of(&entries)
}

fn check_imported(dir: &Dir, source: &Path, name: Option<&str>, expected: &str) {
    let images = dir.0.join("images");
    let image = import(&images, source, name, &mut |_| {}).expect("import");
    assert_eq!(image.names, [expected]);
    assert!(image.size_bytes > 0);
    let p = prepare(&images, expected).expect("prepare");
    assert_eq!(p.config.env, ["A=b"]);
    assert_eq!((p.config.working_dir.as_str(), p.config.user.as_str()), ("/w", "7"));
    assert_eq!(std::fs::read(p.layers[1].join("lower")).expect("lower"), b"1");
    assert_eq!(std::fs::read(p.layers[0].join("upper")).expect("upper"), b"2");
    assert_eq!(resolve(&images, &image.id).expect("by id"), image);
    assert_eq!(resolve(&images, &image.id[7..19]).expect("by prefix"), image);
    remove(&images, expected).expect("remove");
    assert!(list(&images).expect("list").is_empty());
    assert!(resolve(&images, expected).is_err());
    for left in ["layers", "blobs/sha256", "tmp"] {
        assert_eq!(std::fs::read_dir(images.join(left)).expect(left).count(), 0, "{left}");
    }
}

#[test]
fn all_forms_of_an_image() {
    let dir = Dir::new("forms");
    let (lower, upper) =
        (tar_of(&[Entry::File("lower", b"1")]), tar_of(&[Entry::File("upper", b"2")]));
    let files = oci_files([&lower, &upper]);
    let folder = dir.0.join("oci");
    for (path, content) in &files {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().expect("folder")).expect("mkdir");
        std::fs::write(path, content).expect("write");
    }
    check_imported(&dir, &folder, None, "docker.io/library/app:2");
    check_imported(&dir, &folder, Some("mine:3"), "docker.io/library/mine:3");
    let tar = archive(&files);
    for (name, bytes) in [("a.tar", tar.clone()), ("a.tgz", gzip(&tar)), ("a.tzst", zstd(&tar))] {
        let path = dir.0.join(name);
        std::fs::write(&path, bytes).expect("write");
        check_imported(&dir, &path, None, "docker.io/library/app:2");
    }
    // docker save, the old way: layers by folder, one a link to another's place.
    let config = config(&[&lower, &upper]);
    let manifest = br#"[{"Config": "c.json", "RepoTags": ["saved:1"], "Layers": ["1/layer.tar", "2/layer.tar"]}]"#;
    let saved = tar_of(&[
        Entry::File("1/layer.tar", &lower),
        Entry::Symlink("2/layer.tar", "../3/layer.tar"),
        Entry::File("3/layer.tar", &upper),
        Entry::File("c.json", &config),
        Entry::File("manifest.json", manifest),
    ]);
    let path = dir.0.join("saved.tar");
    std::fs::write(&path, saved).expect("write");
    check_imported(&dir, &path, None, "docker.io/library/saved:1");
    // What is no image says so.
    std::fs::write(&path, b"#!/bin/sh\n").expect("write");
    let e = import(&dir.0.join("images"), &path, None, &mut |_| {}).expect_err("no archive");
    assert!(matches!(e, Error::Invalid(_)), "{e:?}");
    std::fs::write(&path, tar_of(&[Entry::File("x", b"y")])).expect("write");
    let e = import(&dir.0.join("images"), &path, None, &mut |_| {}).expect_err("no manifest");
    assert!(e.to_string().contains("manifest.json"), "{e}");
    let e = import(&dir.0.join("images"), &dir.0, None, &mut |_| {}).expect_err("no name");
    assert!(e.to_string().contains("--name"), "{e}");
}

#[test]
fn files_of_a_source_stay_in_it() {
    let dir = Dir::new("source");
    std::fs::write(dir.0.join("secret"), "s").expect("write");
    let folder = dir.0.join("layout");
    std::fs::create_dir(&folder).expect("mkdir");
    std::os::unix::fs::symlink("../secret", folder.join("link")).expect("link");
    let source = Source::open(&folder, &dir.0.join("scratch")).expect("open");
    assert!(source.file("../secret").is_err());
    assert!(source.file("/etc/passwd").is_err());
    assert!(source.file("link").expect("look").is_none());
    std::fs::write(folder.join("f"), "x").expect("write");
    let mut text = String::new();
    source.file("f").expect("open").expect("there").read_to_string(&mut text).expect("read");
    assert_eq!(text, "x");
}

#[test]
fn a_folder_is_one_layer_and_the_same_folder_the_same_image() {
    let dir = Dir::new("rootfs");
    let rootfs = dir.0.join("rootfs");
    std::fs::create_dir_all(rootfs.join("bin")).expect("mkdir");
    std::fs::write(rootfs.join("bin/a"), "a").expect("write");
    std::fs::hard_link(rootfs.join("bin/a"), rootfs.join("bin/b")).expect("link");
    std::os::unix::fs::symlink("bin", rootfs.join("sbin")).expect("link");
    let images = dir.0.join("images");
    let one = import(&images, &rootfs, Some("web:1"), &mut |_| {}).expect("import");
    let two = import(&images, &rootfs, Some("web:2"), &mut |_| {}).expect("import");
    assert_eq!(one.id, two.id);
    assert_eq!(two.names, ["docker.io/library/web:1", "docker.io/library/web:2"]);
    assert_eq!(two.size_bytes, 1);
    let fs = &prepare(&images, "web:1").expect("prepare").layers[0];
    assert_eq!(std::fs::metadata(fs.join("bin/a")).expect("a").nlink(), 2);
    std::fs::write(rootfs.join("bin/a"), "changed").expect("write");
    assert_eq!(std::fs::read(fs.join("bin/a")).expect("a"), b"a");
    let three = import(&images, &rootfs, Some("web:2"), &mut |_| {}).expect("import");
    assert_ne!(three.id, one.id);
    remove(&images, "web:1").expect("remove");
    assert_eq!(list(&images).expect("list"), [three]);
    assert_eq!(hex(&[1, 0xab]), "01ab");
}
