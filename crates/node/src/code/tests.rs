//! Archives good, odd and hostile. The hostile ones are made of raw headers, since the tar crate
//! refuses to write them.

use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use proptest::prelude::*;
use tar::EntryType;

use super::*;

mod zip;

const LIMITS: CodeLimits = CodeLimits {
    unpacked_bytes_max: 1 << 20,
    file_bytes_max: 1 << 20,
    entries_max: 100,
    path_bytes_max: 1024,
    depth_max: 200,
};

/// One raw entry: kind, path, link target, content, mode.
struct Raw<'a>(EntryType, &'a [u8], &'a [u8], &'a [u8], u32);

fn file<'a>(path: &'a str, content: &'a str) -> Raw<'a> {
    Raw(
        EntryType::Regular,
        path.as_bytes(),
        b"",
        content.as_bytes(),
        0o600,
    )
}

fn directory(path: &str) -> Raw<'_> {
    Raw(EntryType::Directory, path.as_bytes(), b"", b"", 0o700)
}

fn link<'a>(path: &'a str, target: &'a str) -> Raw<'a> {
    Raw(
        EntryType::Symlink,
        path.as_bytes(),
        target.as_bytes(),
        b"",
        0o777,
    )
}

fn hard_link<'a>(path: &'a str, target: &'a str) -> Raw<'a> {
    Raw(
        EntryType::Link,
        path.as_bytes(),
        target.as_bytes(),
        b"",
        0o644,
    )
}

fn archive(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in entries {
        append(&mut bytes, entry);
    }
    bytes.extend([0; 1024]);
    bytes
}

fn append(bytes: &mut Vec<u8>, Raw(kind, path, target, content, mode): &Raw<'_>) {
    for (name, long) in [
        (path, EntryType::GNULongName),
        (target, EntryType::GNULongLink),
    ] {
        if name.len() > 100 {
            append(bytes, &Raw(long, b"././@LongLink", b"", name, 0));
        }
    }
    let mut header = tar::Header::new_gnu();
    let raw = header.as_old_mut();
    raw.name[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
    raw.linkname[..target.len().min(100)].copy_from_slice(&target[..target.len().min(100)]);
    header.set_entry_type(*kind);
    header.set_size(content.len() as u64);
    header.set_mode(*mode);
    header.set_mtime(1_600_000_000);
    header.set_cksum();
    bytes.extend(header.as_bytes());
    bytes.extend(*content);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn store() -> (tempfile::TempDir, CodeStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = CodeStore::open(&directory.path().join("code"), LIMITS).unwrap();
    (directory, store)
}

/// The message for a refused archive. A refusal leaves nothing behind.
fn refusal(bytes: &[u8]) -> String {
    refusal_within(bytes, LIMITS)
}

fn refusal_within(bytes: &[u8], limits: CodeLimits) -> String {
    let directory = tempfile::tempdir().unwrap();
    let store = CodeStore::open(&directory.path().join("code"), limits).unwrap();
    let error = store.put(bytes).expect_err("should be refused");
    assert!(error.is_caller(), "{error}");
    assert_eq!(store.names().unwrap(), [BOOT_ID], "{error}");
    error.to_string()
}

/// What an accepted archive becomes: one line per path.
fn listing(bytes: &[u8]) -> Vec<String> {
    let (_directory, store) = store();
    let digest = store.put(bytes).unwrap();
    let root = store.dir(&digest).unwrap();
    let mut lines = Vec::new();
    list(&root, &root, &mut lines);
    lines.sort();
    lines
}

fn list(root: &Path, directory: &Path, lines: &mut Vec<String>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.strip_prefix(root).unwrap().display().to_string();
        let metadata = path.symlink_metadata().unwrap();
        let mode = metadata.permissions().mode() & 0o7777;
        if metadata.is_symlink() {
            lines.push(format!(
                "{name} -> {}",
                std::fs::read_link(&path).unwrap().display()
            ));
        } else if metadata.is_dir() {
            lines.push(format!("{name}/ {mode:o}"));
            list(root, &path, lines);
        } else {
            lines.push(format!(
                "{name} {mode:o} {}",
                String::from_utf8_lossy(&std::fs::read(&path).unwrap())
            ));
        }
    }
}

#[test]
fn ordinary_archives_are_unpacked() {
    let bytes = archive(&[
        directory("./"),
        file("./f.py", "print()"),
        directory("pkg/"),
        file("pkg/deep/x.py", "1"),
        Raw(EntryType::Regular, b"run", b"", b"#!", 0o4711),
        link("pkg/same", "../f.py"),
        link("dangling", "nowhere"),
        hard_link("copy", "f.py"),
        Raw(EntryType::Regular, b"old/", b"", b"", 0o644),
    ]);
    let expected = [
        "copy 644 print()",
        "dangling -> nowhere",
        "f.py 644 print()",
        "old/ 755",
        "pkg/ 755",
        "pkg/deep/ 755",
        "pkg/deep/x.py 644 1",
        "pkg/same -> ../f.py",
        "run 755 #!",
    ];
    assert_eq!(listing(&bytes), expected);
    assert_eq!(listing(&gzip(&bytes)), expected);
}

#[test]
fn no_bytes_are_no_files() {
    assert!(listing(b"").is_empty());
    assert!(listing(&[0; 1024]).is_empty());
    assert!(listing(&gzip(b"")).is_empty());
    // Without the blocks of zeros at the end, as some writers leave it.
    let bytes = archive(&[file("a", "1")]);
    assert_eq!(listing(&bytes[..1024]), ["a 644 1"]);
}

#[test]
fn the_last_of_a_name_wins() {
    let bytes = archive(&[
        file("a", "first"),
        link("l", "a"),
        directory("d"),
        hard_link("h", "a"),
        file("a", "second"),
        file("l", "a file now"),
        file("d", "a file too"),
        link("h", "a"),
        file("x", "x"),
        directory("x"),
        file("x/y", "y"),
    ]);
    let expected = [
        "a 644 second",
        "d 644 a file too",
        "h -> a",
        "l 644 a file now",
        "x/ 755",
        "x/y 644 y",
    ];
    assert_eq!(listing(&bytes), expected);
}

#[test]
fn long_and_strange_names() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let bytes = archive(&[file(&long, "1"), file("ü \n'\"$(x)", "2"), file("-rf", "3")]);
    let lines = listing(&bytes);
    assert!(lines.contains(&format!("{long} 644 1")), "{lines:?}");
    assert!(
        lines.contains(&"ü \n'\"$(x) 644 2".to_string()),
        "{lines:?}"
    );
    let bytes = archive(&[Raw(EntryType::Regular, b"\xff\xfe", b"", b"1", 0o644)]);
    assert_eq!(listing(&bytes).len(), 1);
}

fn check_refused(entries: &[Raw<'_>], path: &str, problem: &str) {
    let message = refusal(&archive(entries));
    let expected = format!("entry \"{path}\" of the code archive {problem}");
    assert!(message.starts_with(&expected), "{message}");
    refusal(&gzip(&archive(entries)));
}

#[test]
fn hostile_entries_are_named() {
    let check = check_refused;
    check(
        &[file("ok", "1"), file("/etc/x", "1")],
        "/etc/x",
        "has an absolute path",
    );
    check(&[file("a/../../x", "1")], "a/../../x", "has \"..\"");
    check(&[file("..", "1")], "..", "has \"..\"");
    check(&[file("", "1")], "", "has no name");
    check(&[file(".", "1")], ".", "has no name");
    check(
        &[link("l", "/etc/passwd")],
        "l",
        "is a link to the absolute path \"/etc/passwd\"",
    );
    check(&[link("l", "../x")], "l", "is a link to \"../x\", outside");
    check(
        &[link("a/l", "../../x")],
        "a/l",
        "is a link to \"../../x\", outside",
    );
    check(&[link("l", "")], "l", "is a link without a target");
}

#[test]
fn misplaced_entries_are_named() {
    let check = check_refused;
    check(
        &[hard_link("h", "/etc/passwd")],
        "h",
        "is a hard link to \"/etc/passwd\"",
    );
    check(&[hard_link("h", "../x")], "h", "is a hard link");
    check(
        &[hard_link("h", "later"), file("later", "1")],
        "h",
        "is a hard link",
    );
    check(
        &[link("l", "x"), hard_link("h", "l")],
        "h",
        "is a hard link",
    );
    check(
        &[file("a", "1"), hard_link("a", "a")],
        "a",
        "is a hard link",
    );
    check(
        &[file("f", "1"), file("f/x", "1")],
        "f/x",
        "is inside of \"f\"",
    );
    check(
        &[link("l", "."), file("l/x", "1")],
        "l/x",
        "is inside of \"l\"",
    );
    check(
        &[file("d/x", "1"), file("d", "1")],
        "d",
        "replaces a directory",
    );
    check(
        &[file("d/x", "1"), link("d", "x")],
        "d",
        "replaces a directory",
    );
}

#[test]
fn odd_names_and_kinds_are_named() {
    let check = check_refused;
    let long = "n".repeat(256);
    check(
        &[file(&long, "1")],
        &format!("{}…", &long[..200]),
        "has a name longer than 255",
    );
    let deep = "d/".repeat(600);
    check(
        &[file(&deep, "1")],
        &format!("{}…", &deep[..200]),
        "has a path longer than 1024",
    );
    let zero = Raw(EntryType::GNULongName, b"././@LongLink", b"", b"a\0b", 0);
    check(&[zero, file("x", "1")], "a\\0b", "has a zero byte");
    for (kind, name) in [
        (EntryType::Char, "device"),
        (EntryType::Block, "device"),
        (EntryType::Fifo, "fifo"),
        (EntryType::new(b'Z'), "thing"),
    ] {
        check(
            &[Raw(kind, b"x", b"", b"", 0o644)],
            "x",
            &format!("is a {name}"),
        );
    }
}

#[test]
fn links_are_followed_through_links() {
    // Lexically inside; for the kernel `d/up/..` is the parent of the whole tree.
    let message = refusal(&archive(&[link("d/up", ".."), link("out", "d/up/../x")]));
    assert!(
        message.contains("\"out\"") && message.contains("outside"),
        "{message}"
    );
    let message = refusal(&archive(&[link("a", "b"), link("b", "a")]));
    assert!(message.contains("too many other links"), "{message}");
    // Replaced before the end: harmless.
    let bytes = archive(&[link("l", "../../etc"), file("l", "1")]);
    assert_eq!(listing(&bytes), ["l 644 1"]);
}

#[test]
fn limits_have_names() {
    let large = "x".repeat(600 << 10);
    let message = refusal(&archive(&[file("a", &large), file("b", &large)]));
    assert!(
        message.contains("1048576 bytes") && message.contains("code.size_max"),
        "{message}"
    );
    // The same as a bomb: 600 bytes of gzip a MiB.
    let message = refusal(&gzip(&archive(&[file("a", &large), file("a", &large)])));
    assert!(message.contains("code.size_max"), "{message}");
    let names: Vec<_> = (0..101).map(|number| number.to_string()).collect();
    let files: Vec<_> = names.iter().map(|name| file(name, "")).collect();
    assert!(refusal(&archive(&files)).contains("code.entries_max"));
    let deep = "d/".repeat(101);
    assert!(refusal(&archive(&[file(&deep, "")])).contains("code.entries_max"));
    let again: Vec<_> = (0..101).map(|_| file("same", "")).collect();
    assert!(refusal(&archive(&again)).contains("code.entries_max"));
    let limits = CodeLimits {
        file_bytes_max: 5,
        path_bytes_max: 8,
        depth_max: 2,
        ..LIMITS
    };
    for (entry, key) in [
        (file("a", "123456"), "code.file_size_max"),
        (file("a/b/c", ""), "code.depth_max"),
        (file("too/long", "12345"), ""),
        (file("much/long", "1"), "code.path_max"),
        (link("l", "much/long"), "code.path_max"),
    ] {
        let bytes = archive(&[entry]);
        if key.is_empty() {
            let (_directory, store) = store();
            store.put(&bytes).unwrap();
        } else {
            let message = refusal_within(&bytes, limits);
            assert!(message.contains(key), "{message}");
        }
    }
    // An endless long name is bounded as well.
    let bomb = vec![b'n'; 3 << 20];
    let name = Raw(EntryType::GNULongName, b"././@LongLink", b"", &bomb, 0);
    assert!(refusal(&gzip(&archive(&[name, file("x", "")]))).contains("code.size_max"));
}

#[test]
fn sparse_files_count_with_their_holes() {
    let path = tempfile::tempdir().unwrap();
    let hole = path.path().join("hole");
    std::fs::File::create(&hole)
        .unwrap()
        .set_len(100_000)
        .unwrap();
    let tar = |output: &str| {
        let status = std::process::Command::new("tar")
            .args(["-S", "--format=gnu", "-cf", output, "hole"])
            .current_dir(path.path())
            .status();
        status
            .is_ok_and(|status| status.success())
            .then(|| std::fs::read(path.path().join(output)).unwrap())
    };
    let Some(small) = tar("small.tar") else {
        return;
    };
    let (_directory, store) = store();
    let root = store.dir(&store.put(&small).unwrap()).unwrap();
    assert_eq!(std::fs::metadata(root.join("hole")).unwrap().len(), 100_000);
    std::fs::File::create(&hole)
        .unwrap()
        .set_len(1 << 40)
        .unwrap();
    assert!(refusal(&tar("large.tar").unwrap()).contains("code.file_size_max"));
}

#[test]
fn damage_and_other_kinds_are_told_apart() {
    for (bytes, word) in [
        (&b"hello"[..], "not an archive"),
        (&[b'x'; 2000], "not an archive"),
        (b"PK\x03\x04....", "cut short"),
        (b"PK\x07\x08....", "several parts"),
        (b"\xfd7zXZ\0", "xz"),
        (b"\x1f\x8bjunk", "not an archive"),
        (&gzip(b"def handler(): pass"), "not an archive"),
    ] {
        assert!(refusal(bytes).contains(word), "{}", refusal(bytes));
    }
    let bytes = archive(&[file("a", "1"), file("b", &"2".repeat(5000))]);
    for end in [1024 + 100, 1024 + 512, 1024 + 512 + 3000] {
        let message = refusal(&bytes[..end]);
        assert!(message.contains("damaged after"), "{end}: {message}");
    }
    let packed = gzip(&bytes);
    refusal(&packed[..packed.len() - 4]);
    let mut wrong_checksum = packed.clone();
    let at = packed.len() - 6;
    wrong_checksum[at] ^= 1;
    refusal(&wrong_checksum);
}

#[test]
fn times_are_kept() {
    let (_directory, store) = store();
    let root = store
        .dir(&store.put(&archive(&[file("a", "1")])).unwrap())
        .unwrap();
    assert_eq!(
        std::fs::metadata(root.join("a")).unwrap().mtime(),
        1_600_000_000
    );
}

#[test]
fn code_is_kept_once_and_removed() {
    let (directory, store) = store();
    let (one, two) = (archive(&[file("a", "1")]), archive(&[file("a", "2")]));
    let digest = store.put(&one).unwrap();
    assert_eq!(store.put(&one).unwrap(), digest);
    let other = store.put(&two).unwrap();
    let root = store.dir(&digest).unwrap();
    assert_eq!(store.digests().unwrap().len(), 2);
    store.remove(&digest).unwrap();
    store.remove(&digest).unwrap();
    assert!(!root.exists());
    assert_eq!(store.digests().unwrap(), std::slice::from_ref(&other));
    assert!(matches!(store.dir(&digest), Err(CodeError::Missing(_))));

    // A restart of the node finds all of it, and removes what was half made.
    let unpacked = store.dir(&other).unwrap();
    let place = directory.path().join("code");
    std::fs::create_dir_all(place.join("tmp-7/x")).unwrap();
    std::fs::write(place.join("tmp-8"), "half").unwrap();
    drop(store);
    let store = CodeStore::open(&place, LIMITS).unwrap();
    assert!(!place.join("tmp-7").exists() && !place.join("tmp-8").exists());
    assert_eq!(store.digests().unwrap(), std::slice::from_ref(&other));
    assert!(unpacked.exists());
    // A restart of the machine: what was unpacked isn't trusted.
    std::fs::write(place.join(BOOT_ID), "another").unwrap();
    drop(store);
    let store = CodeStore::open(&place, LIMITS).unwrap();
    assert!(!unpacked.exists());
    assert_eq!(store.dir(&other).unwrap(), unpacked);
    assert!(store.empty_dir().unwrap().is_dir());
    assert!(
        store
            .empty_dir()
            .unwrap()
            .read_dir()
            .unwrap()
            .next()
            .is_none()
    );
}

#[test]
fn many_threads_unpack_one_digest() {
    let (_directory, store) = store();
    let digest = store
        .put(&archive(&[file("d/a", "1"), file("b", "2")]))
        .unwrap();
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let root = store.dir(&digest).unwrap();
                assert_eq!(std::fs::read_to_string(root.join("d/a")).unwrap(), "1");
            });
        }
    });
    assert!(store.unpacking().is_empty());
    assert!(
        !store
            .names()
            .unwrap()
            .iter()
            .any(|name| name.starts_with(TEMPORARY_PREFIX))
    );
}

#[test]
fn digests_are_checked() {
    let (_directory, store) = store();
    let digest = store.put(b"").unwrap();
    assert_eq!(Digest::parse(digest.as_str()).unwrap(), digest);
    for wrong in [
        "",
        "../../etc",
        &"A".repeat(64),
        &"a".repeat(63),
        &"é".repeat(32),
    ] {
        assert!(Digest::parse(wrong).is_err());
    }
}

fn any_entry() -> impl Strategy<Value = (u8, String, String, String)> {
    let name = prop_oneof![
        "[ab]",
        "[ab]/[ab]",
        "[ab]/[ab]/[ab]",
        "\\.\\./[ab]",
        "/[ab]",
        "\\./[ab]/"
    ];
    let target = prop_oneof![
        "[ab]",
        "\\.\\.",
        "\\.\\./[ab]",
        "[ab]/\\.\\./\\.\\.",
        "[ab]/[ab]/\\.\\."
    ];
    (0_u8..4, name, target, "[xyz]{0,20}")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// Whatever is accepted unpacks, and nothing in it leads out, as the kernel sees it.
    #[test]
    fn nothing_gets_out(entries in proptest::collection::vec(any_entry(), 1..8)) {
        let raw: Vec<_> = entries.iter().map(|(kind, path, target, content)| match kind {
            0 => file(path, content),
            1 => directory(path),
            2 => link(path, target),
            _ => hard_link(path, target),
        }).collect();
        let zipped: Vec<_> = entries.iter().map(|(kind, path, target, content)| match kind {
            0 => zip::file(path, content),
            1 => zip::directory(path),
            _ => zip::link(path, target),
        }).collect();
        for bytes in [archive(&raw), zip::archive(&zipped)] {
            let (_directory, store) = store();
            if let Ok(digest) = store.put(&bytes) {
                let root = store.dir(&digest).unwrap().canonicalize().unwrap();
                let mut all = vec![root.clone()];
                while let Some(path) = all.pop() {
                    if let Ok(real) = path.canonicalize() {
                        let shown = path.display();
                        prop_assert!(real.starts_with(&root), "{shown} is {}", real.display());
                    }
                    if path.symlink_metadata().unwrap().is_dir() {
                        all.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
                    }
                }
                let outside = store.directory.parent().unwrap();
                prop_assert_eq!(outside.read_dir().unwrap().count(), 1);
            }
        }
    }

    /// Bytes at random, and good archives with some bytes changed, never panic.
    #[test]
    fn damage_is_an_error(at in 0_usize..3000, value in any::<u8>(), format in 0..3) {
        let mut bytes = archive(&[file("a/b", "content"), link("l", "a"), directory("d")]);
        match format {
            0 => {}
            1 => bytes = gzip(&bytes),
            _ => bytes = zip::archive(&[
                zip::file("a/b", "content"),
                zip::link("l", "a"),
                zip::directory("d/"),
            ]),
        }
        let at = at % bytes.len();
        bytes[at] = value;
        let (_directory, store) = store();
        if let Ok(digest) = store.put(&bytes) {
            store.dir(&digest).unwrap();
        }
    }
}
