//! Zips good, odd and hostile, made of raw records.

use super::*;

/// One raw entry: path, content, mode with its type bits, how it is stored.
pub(super) struct Raw<'a> {
    path: &'a str,
    content: &'a str,
    mode: u32,
    method: u16,
    flags: u16,
    /// Instead of the true length, in both headers.
    size: Option<u32>,
}

const STORED: u16 = 0;
const DEFLATED: u16 = 8;

pub(super) fn file<'a>(path: &'a str, content: &'a str) -> Raw<'a> {
    Raw {
        path,
        content,
        mode: 0o100_600,
        method: DEFLATED,
        flags: 0,
        size: None,
    }
}

pub(super) fn directory(path: &str) -> Raw<'_> {
    Raw {
        mode: 0o040_700,
        method: STORED,
        ..file(path, "")
    }
}

pub(super) fn link<'a>(path: &'a str, target: &'a str) -> Raw<'a> {
    Raw {
        mode: 0o120_777,
        ..file(path, target)
    }
}

pub(super) fn archive(entries: &[Raw<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for entry in entries {
        let offset = bytes.len() as u32;
        let packed = packed(entry);
        // From the flags to the lengths of name and extra field: alike in both headers.
        let mut common = Vec::new();
        for half in [entry.flags, entry.method, 0x6000, 0x5121] {
            common.extend(half.to_le_bytes());
        }
        let size = entry.size.unwrap_or(entry.content.len() as u32);
        let checksum = rawzip::crc32(entry.content.as_bytes());
        for word in [checksum, packed.len() as u32, size] {
            common.extend(word.to_le_bytes());
        }
        common.extend((entry.path.len() as u16).to_le_bytes());
        common.extend([0, 0]);

        bytes.extend(b"PK\x03\x04\x14\x00");
        bytes.extend(&common);
        bytes.extend(entry.path.as_bytes());
        bytes.extend(packed);

        // Made on Unix, so that the mode counts.
        directory.extend(b"PK\x01\x02\x14\x03\x14\x00");
        directory.extend(&common);
        directory.extend([0; 6]);
        directory.extend((entry.mode << 16).to_le_bytes());
        directory.extend(offset.to_le_bytes());
        directory.extend(entry.path.as_bytes());
    }
    finish(bytes, &directory, entries.len() as u16)
}

fn packed(entry: &Raw<'_>) -> Vec<u8> {
    if entry.method != DEFLATED {
        return entry.content.into();
    }
    let mut encoder = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(entry.content.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn finish(mut bytes: Vec<u8>, directory: &[u8], entries: u16) -> Vec<u8> {
    let offset = bytes.len() as u32;
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\0\0\0\0");
    bytes.extend(entries.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend((directory.len() as u32).to_le_bytes());
    bytes.extend(offset.to_le_bytes());
    bytes.extend([0, 0]);
    bytes
}

#[test]
fn ordinary_zips_are_unpacked() {
    let stored = Raw {
        method: STORED,
        ..file("pkg/deep/x.py", "1")
    };
    let script = Raw {
        mode: 0o104_711,
        ..file("run", "#!")
    };
    // Without type bits, as some writers leave them.
    let bare = Raw {
        mode: 0,
        ..file("bare", "")
    };
    let bytes = archive(&[
        directory("./"),
        file("./f.py", "print()"),
        directory("pkg/"),
        stored,
        script,
        bare,
        link("pkg/same", "../f.py"),
        directory("unslashed"),
    ]);
    let expected = [
        "bare 644 ",
        "f.py 644 print()",
        "pkg/ 755",
        "pkg/deep/ 755",
        "pkg/deep/x.py 644 1",
        "pkg/same -> ../f.py",
        "run 755 #!",
        "unslashed/ 755",
    ];
    assert_eq!(listing(&bytes), expected);
    assert!(listing(&archive(&[])).is_empty());
}

#[test]
fn zips_of_common_tools_are_unpacked() {
    let place = tempfile::tempdir().unwrap();
    std::fs::create_dir(place.path().join("d")).unwrap();
    std::fs::write(place.path().join("d/f.py"), "print()").unwrap();
    let script = "import shutil; shutil.make_archive('made', 'zip', '.', 'd')";
    let status = std::process::Command::new("python3")
        .args(["-c", script])
        .current_dir(place.path())
        .status();
    assert!(status.unwrap().success());
    let bytes = std::fs::read(place.path().join("made.zip")).unwrap();
    assert_eq!(listing(&bytes), ["d/ 755", "d/f.py 644 print()"]);
}

#[test]
fn zips_are_kept_and_removed() {
    let (directory, store) = store();
    let digest = store.put(&archive(&[file("a", "1")])).unwrap();
    assert_eq!(store.digests().unwrap(), std::slice::from_ref(&digest));
    let root = store.dir(&digest).unwrap();
    let modified = std::fs::metadata(root.join("a")).unwrap().mtime();
    assert_eq!(modified, 1_598_961_600, "noon of 1 September 2020");
    let place = directory.path().join("code");
    drop(store);
    let store = CodeStore::open(&place, LIMITS).unwrap();
    store.remove(&digest).unwrap();
    assert_eq!(store.names().unwrap(), [BOOT_ID]);
    assert!(matches!(store.dir(&digest), Err(CodeError::Missing(_))));
}

fn check_refused(entries: &[Raw<'_>], path: &str, problem: &str) {
    let message = refusal(&archive(entries));
    let expected = format!("entry \"{path}\" of the code archive {problem}");
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn hostile_entries_are_named() {
    let check = check_refused;
    check(&[file("/etc/x", "1")], "/etc/x", "has an absolute path");
    check(&[file("a/../../x", "1")], "a/../../x", "has \"..\"");
    check(
        &[link("l", "/etc/passwd")],
        "l",
        "is a link to the absolute",
    );
    check(&[link("a/l", "../../x")], "a/l", "is a link to \"../../x\"");
    check(&[link("l", "")], "l", "is a link without a target");
    check(
        &[link("l", &"x/".repeat(600))],
        "l",
        "has a path longer than 1024",
    );
    check(
        &[link("l", "."), file("l/x", "1")],
        "l/x",
        "is inside of \"l\"",
    );
    for (mode, name) in [
        (0o020_666, "device"),
        (0o060_666, "device"),
        (0o010_666, "fifo"),
        (0o140_666, "thing"),
    ] {
        let odd = Raw {
            mode,
            ..file("x", "")
        };
        check(&[odd], "x", &format!("is a {name}"));
    }
    let encrypted = Raw {
        flags: 1,
        ..file("x", "secret")
    };
    check(&[encrypted], "x", "is encrypted");
    let zstd = Raw {
        method: 93,
        ..file("x", "")
    };
    check(&[zstd], "x", "is encrypted or compressed by another");
}

#[test]
fn limits_hold_for_zips() {
    let large = "x".repeat(600 << 10);
    let message = refusal(&archive(&[file("a", &large), file("b", &large)]));
    assert!(message.contains("code.size_max"), "{message}");
    let names: Vec<_> = (0..101).map(|number| number.to_string()).collect();
    let files: Vec<_> = names.iter().map(|name| file(name, "")).collect();
    assert!(refusal(&archive(&files)).contains("code.entries_max"));
    // A bomb that says it is small: reading stops at what it said.
    let liar = Raw {
        size: Some(10),
        ..file("a", &large)
    };
    assert!(refusal(&archive(&[liar])).contains("damaged after"));
    let giant = Raw {
        size: Some(u32::MAX - 1),
        ..file("a", "1")
    };
    assert!(refusal(&archive(&[giant])).contains("code.file_size_max"));
}

#[test]
fn damaged_zips_are_refused() {
    let whole = archive(&[file("a", "1"), file("b", &"2".repeat(5000))]);
    for end in 4..whole.len() {
        refusal(&whole[..end]);
    }
    let stored = Raw {
        method: STORED,
        ..file("a", "content")
    };
    let mut changed = archive(&[stored]);
    let at = changed
        .windows(7)
        .position(|window| window == b"content")
        .unwrap();
    changed[at] = b'C';
    assert!(refusal(&changed).contains("damaged after"));
    // More entries announced than there are.
    assert!(refusal(&finish(Vec::new(), &[], 0)[..21]).contains("not an archive"));
    let one = archive(&[file("a", "1")]);
    let mut two = one.clone();
    let count = two.len() - 14;
    two[count..count + 4].copy_from_slice(&[2, 0, 2, 0]);
    assert!(refusal(&two).contains("announces 2 entries and has 1"));
}

fn outer(inner: &[Raw<'_>], more: &[(&str, &[u8])]) -> Vec<String> {
    let inner = archive(inner);
    let package = [("fat.zip", &*inner)];
    let entries = package.iter().chain(more).map(|(path, content)| {
        super::Raw(EntryType::Regular, path.as_bytes(), b"", content, 0o644)
    });
    listing(&super::archive(&entries.collect::<Vec<_>>()))
}

#[test]
fn packages_of_go_programs_are_unpacked() {
    let inner = [
        file("handler_amd64", "amd"),
        file("data/x", "inner"),
        file("both", "inner"),
    ];
    let lines = outer(&inner, &[("both", b"outer")]);
    for expected in ["handler_amd64", "data/x", "both 644 outer", "fat.zip"] {
        let found = lines.iter().any(|line| line.starts_with(expected));
        assert!(found, "{expected}: {lines:#?}");
    }
}

#[test]
fn a_zip_for_lambda_is_unpacked_as_the_client_packs_it() {
    let lines = outer(&[file("bootstrap", "program"), file("lib/x", "more")], &[]);
    for expected in ["bootstrap", "lib/x"] {
        let found = lines.iter().any(|line| line.starts_with(expected));
        assert!(found, "{expected}: {lines:#?}");
    }
}

#[test]
fn other_zips_in_archives_are_left_alone() {
    let names = |lines: Vec<String>| -> Vec<String> {
        let first = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
        lines.iter().map(first).collect()
    };
    let data = [file("data", "x"), file("deep/handler_amd64", "x")];
    assert_eq!(names(outer(&data, &[])), ["fat.zip"]);
    let program = [file("handler_amd64", "x"), file("data", "x")];
    let own = outer(&program, &[("handler_amd64", b"own")]);
    assert_eq!(names(own), ["fat.zip", "handler_amd64"]);
    let broken: &[u8] = b"PK\x03\x04 and no more";
    let lines = super::archive(&[super::Raw(EntryType::Regular, b"a.zip", b"", broken, 0o644)]);
    assert_eq!(names(listing(&lines)), ["a.zip"]);
}

#[test]
fn packages_are_held_to_the_limits_of_archives() {
    let escaping = [file("handler_amd64", "x"), file("../out", "x")];
    let inner = archive(&escaping);
    let entry = super::Raw(EntryType::Regular, b"fat.zip", b"", &inner, 0o644);
    let (_directory, store) = store();
    let digest = store.put(&super::archive(&[entry])).unwrap();
    let error = store.dir(&digest).expect_err("should be refused");
    assert!(error.to_string().contains("../out"), "{error}");
    let left = store.names().unwrap();
    assert!(
        left.iter().all(|name| !name.starts_with("tmp-")),
        "{left:?}"
    );
}
