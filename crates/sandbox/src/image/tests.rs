//! Hostile layers and archives, limits, and what is removed when.

use std::collections::HashSet;
use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};
use std::path::Path;

use proptest::prelude::*;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

use super::unpack::{Budget, unpack};
use super::*;

const BUDGET: Budget = Budget {
    bytes: 1 << 20,
    entries: 100,
};

/// Kind, path, and a link's target or a file's content.
type Entry<'a> = (EntryType, &'a [u8], &'a [u8]);

/// A tar without the niceties of a builder, which refuses what a hostile one doesn't.
fn raw(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (kind, path, text) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o4755);
        let fields = header.as_gnu_mut().unwrap();
        fields.name[..path.len()].copy_from_slice(path);
        let content = match kind {
            EntryType::Regular => *text,
            _ => {
                fields.linkname[..text.len()].copy_from_slice(text);
                b""
            }
        };
        header.set_size(content.len() as u64);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
    }
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

fn unpack_into(dir: &Path, layer: &[u8], mut budget: Budget) -> Result<(), ImageError> {
    let root = File::open(dir).unwrap();
    unpack(&mut &*layer, root.as_fd(), &mut budget)
}

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;

#[test]
fn nothing_leads_out_of_a_layer() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("secret"), "secret").unwrap();
    let away = outside.path().to_str().unwrap().as_bytes();
    let secret = [away, b"/secret"].concat();
    for entries in [
        vec![(FILE, &b"../x"[..], &b"x"[..])],
        vec![(FILE, b"a/../../x", b"x")],
        vec![(LINK, b"d", away), (FILE, b"d/x", b"x")],
        vec![(LINK, b"d", b"../../../../../.."), (FILE, b"d/tmp/x", b"x")],
        vec![(LINK, b"f", &secret), (FILE, b"f", b"overwritten")],
        vec![(EntryType::Link, b"h", &secret)],
        vec![(LINK, b"d", away), (EntryType::Link, b"h", b"d/secret")],
        vec![(LINK, b"d", away), (FILE, b"d/.wh.secret", b"")],
        vec![(FILE, b".wh...", b"")],
        vec![(FILE, b"a/.wh.", b"")],
        vec![(LINK, b"p", b"/proc/self/root"), (FILE, b"p/x", b"x")],
    ] {
        let dir = tempfile::tempdir().unwrap();
        // Refused, or harmless.
        let _ = unpack_into(dir.path(), &raw(&entries), BUDGET);
        let names: Vec<_> = fs::read_dir(outside.path()).unwrap().collect();
        assert_eq!(names.len(), 1, "{entries:?}");
        let found = fs::read_to_string(outside.path().join("secret")).unwrap();
        assert_eq!(found, "secret", "{entries:?}");
        let linked = fs::metadata(outside.path().join("secret")).unwrap().nlink();
        assert_eq!(linked, 1, "{entries:?}");
        assert!(!dir.path().parent().unwrap().join("x").exists());
    }
}

#[test]
fn links_of_honest_layers_are_followed_inside() {
    let dir = tempfile::tempdir().unwrap();
    let layer = raw(&[
        (EntryType::Directory, b"usr/lib/", b""),
        (LINK, b"lib", b"/usr/lib"),
        (FILE, b"./lib/a", b"a"),
        (FILE, b"/etc/b", b"b"),
        (EntryType::Link, b"hard", b"usr/lib/a"),
        (EntryType::Char, b"dev/null", b""),
        (EntryType::Fifo, b"fifo", b""),
        (FILE, b"a/.wh.gone", b""),
        (EntryType::Directory, b"a/gone", b""),
    ]);
    unpack_into(dir.path(), &layer, BUDGET).unwrap();
    let at = |path: &str| dir.path().join(path);
    assert_eq!(fs::read_to_string(at("usr/lib/a")).unwrap(), "a");
    let (file, hard) = (
        fs::metadata(at("usr/lib/a")).unwrap(),
        fs::metadata(at("hard")).unwrap(),
    );
    assert_eq!(file.ino(), hard.ino());
    assert_eq!(
        file.mode() & 0o7777,
        0o555,
        "no set-user bit, nothing to write"
    );
    assert_eq!(fs::read_to_string(at("etc/b")).unwrap(), "b");
    assert!(!at("dev/null").exists() && !at("fifo").exists());
    assert!(at("a/gone").is_dir(), "hidden below and made anew");
    let mut value = [0; 4];
    let opaque = rustix::fs::getxattr(at("a/gone"), "trusted.overlay.opaque", &mut value[..]);
    assert_eq!((opaque, value[0]), (Ok(1), b'y'));
}

#[test]
fn limits_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let content = vec![b'x'; 5000];
    let layer = raw(&[(FILE, b"a", &content), (FILE, b"b", b"")]);
    for (bytes, entries, fits) in [(12288, 2, true), (12287, 2, false), (12288, 1, false)] {
        let unpacked = unpack_into(dir.path(), &layer, Budget { bytes, entries });
        assert_eq!(unpacked.is_ok(), fits, "{bytes} {entries}");
    }
    // A name of 2 MiB, of which only the header tells.
    let name = vec![b'n'; 2 << 20];
    let mut long = raw(&[(FILE, b"././@LongLink", &name)]);
    long[156] = b'L';
    let mut header = Header::from_byte_slice(&long[..512]).clone();
    header.set_cksum();
    long[..512].copy_from_slice(header.as_bytes());
    let refused = unpack_into(dir.path(), &long, BUDGET).unwrap_err();
    assert!(refused.to_string().contains("too long"), "{refused}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever a layer says, a directory beside its own stays as it is.
    #[test]
    fn a_layer_stays_inside(entries in proptest::collection::vec((0_u8..5, path(), path()), 1..12)) {
        let dir = tempfile::tempdir().unwrap();
        let (inside, beside) = (dir.path().join("b"), dir.path().join("a"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(&beside).unwrap();
        fs::write(beside.join("a"), "untouched").unwrap();
        symlink("a", dir.path().join("c")).unwrap();
        let kinds = [FILE, LINK, EntryType::Link, EntryType::Directory, EntryType::Char];
        let entries: Vec<Entry<'_>> = entries
            .iter()
            .map(|(kind, path, target)| (kinds[*kind as usize], &path[..], &target[..]))
            .collect();
        let _ = unpack_into(&inside, &raw(&entries), BUDGET);
        prop_assert_eq!(fs::read_to_string(beside.join("a")).unwrap(), "untouched");
        prop_assert_eq!(fs::metadata(beside.join("a")).unwrap().nlink(), 1);
        prop_assert_eq!(fs::read_dir(&beside).unwrap().count(), 1);
        prop_assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
        for entry in fs::read_dir(&inside).unwrap() {
            let kind = entry.unwrap().file_type().unwrap();
            prop_assert!(!kind.is_fifo() && !kind.is_block_device());
        }
    }
}

/// Made of few things, so that entries meet each other.
fn path() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        4 => Just("a"), 4 => Just("b"), 3 => Just(".."), 1 => Just("."), 1 => Just(""),
        1 => Just(".wh.a"), 1 => Just(".wh..wh..opq"), 1 => Just(".wh..."),
    ];
    let parts = proptest::collection::vec(part, 1..5);
    parts.prop_map(|parts| parts.join("/").into_bytes())
}

/// An archive like Docker's of an image with these layers.
fn archive(name: &str, layers: &[&[u8]]) -> Vec<u8> {
    let digest = |bytes: &[u8]| hex::encode(Sha256::digest(bytes));
    let ids: Vec<String> = layers
        .iter()
        .map(|it| format!("sha256:{}", digest(it)))
        .collect();
    let configuration = serde_json::json!({
        "os": "linux", "architecture": architecture(), "rootfs": {"diff_ids": ids}});
    let configuration = configuration.to_string();
    let paths: Vec<String> = (0..layers.len()).map(|n| format!("{n}.tar")).collect();
    let manifest = serde_json::json!([{"Config": "c", "RepoTags": [name], "Layers": paths}]);
    let manifest = manifest.to_string();
    let mut entries: Vec<Entry<'_>> = vec![
        (FILE, b"manifest.json", manifest.as_bytes()),
        (FILE, b"c", configuration.as_bytes()),
    ];
    entries.extend(
        paths
            .iter()
            .zip(layers)
            .map(|(path, it)| (FILE, path.as_bytes(), *it)),
    );
    raw(&entries)
}

fn store(dir: &Path, store_max: u64) -> ImageStore {
    let mut config = ImageConfig::new(dir);
    config.limits.store_max = store_max;
    ImageStore::open(config).unwrap()
}

fn layer(text: &str) -> Vec<u8> {
    raw(&[(FILE, b"f", text.as_bytes())])
}

#[test]
fn those_used_longest_ago_are_removed_first_and_shared_layers_stay() {
    let dir = tempfile::tempdir().unwrap();
    // Each layer counts for two blocks: one entry of less than one, rounded up... of four.
    let store = store(dir.path(), 4 * 4096);
    let shared = layer("shared");
    for name in ["a", "b"] {
        let own = layer(name);
        store
            .load(&mut &*archive(name, &[&shared, &own]), None)
            .unwrap();
    }
    let name = |name: &str| name.parse::<Reference>().unwrap();
    assert_eq!(
        store.collect(&HashSet::new()).unwrap(),
        Collected::default(),
        "three quarters"
    );
    store
        .load(&mut &*archive("c", &[&layer("c")]), None)
        .unwrap();
    let full = store
        .load(&mut &*archive("d", &[&layer("d")]), None)
        .unwrap_err();
    assert!(full.to_string().contains("image.store_max"), "{full}");

    // Its use is noted by the clock of the disk, which may stand still between two of these.
    let records = dir.path().join("records");
    for entry in fs::read_dir(&records).unwrap() {
        let past = std::time::UNIX_EPOCH + Duration::from_secs(1);
        File::open(entry.unwrap().path())
            .unwrap()
            .set_modified(past)
            .unwrap();
    }
    store.find(&name("a")).unwrap().unwrap();
    let keep = HashSet::from([name("c").to_string()]);
    let collected = store.collect(&keep).unwrap();
    assert_eq!(collected.images, [name("b").to_string()]);
    assert_eq!((collected.layers, collected.bytes), (1, 4096));
    let left: Vec<String> = store
        .list()
        .unwrap()
        .into_iter()
        .map(|it| it.name)
        .collect();
    assert_eq!(left, [name("a").to_string(), name("c").to_string()]);
    let image = store.find(&name("a")).unwrap().unwrap();
    let used = store.use_layers(&image).unwrap();
    assert_eq!(
        store.remove(&name("a")).unwrap().layers,
        0,
        "somebody runs from them"
    );
    drop(used);
    assert_eq!(store.collect(&keep).unwrap().layers, 2);
    assert!(matches!(
        store.remove(&name("a")),
        Err(ImageError::Missing(_))
    ));
}

#[test]
fn what_was_left_half_done_is_removed_and_a_layer_without_its_size_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let whole = archive("a", &[&layer("a")]);
    let image = store(dir.path(), 1 << 20)
        .load(&mut &*whole, None)
        .unwrap()
        .remove(0);
    fs::create_dir_all(dir.path().join("tmp/1-1/x")).unwrap();
    fs::write(dir.path().join("tmp/1-2"), "x").unwrap();
    let store = store(dir.path(), 1 << 20);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
    fs::remove_file(dir.path().join(format!("layers/{}.size", image.layers[0]))).unwrap();
    let name: Reference = "a".parse().unwrap();
    assert_eq!(store.find(&name).unwrap(), None);
    store.load(&mut &*whole, None).unwrap();
    assert_eq!(store.find(&name).unwrap(), Some(image));
}

#[test]
fn archives_that_lie_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = store(dir.path(), 1 << 20);
    let honest = archive("a", &[&layer("honest")]);
    let text = String::from_utf8_lossy(&honest).into_owned();
    let from = text.find("honest").unwrap();
    let mut swapped = honest.clone();
    swapped[from..from + 6].copy_from_slice(b"wicked");
    let escaping = archive("a", &[&raw(&[(FILE, b"../x", b"")])]);
    let bare = raw(&[(FILE, b"x", b"")]);
    let cut = &honest[..honest.len() / 2];
    for (bytes, said) in [
        (&swapped[..], "has the digest"),
        (&escaping, ".. in its path"),
        (&bare, "neither a manifest.json"),
        (cut, ""),
        (b"no archive", ""),
        (b"\x28\xb5\x2f\xfd....", "can't be read"),
    ] {
        let refused = store.load(&mut &*bytes, None).unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
    }
    assert_eq!(store.list().unwrap(), []);
    assert_eq!(fs::read_dir(dir.path().join("tmp")).unwrap().count(), 0);
}
