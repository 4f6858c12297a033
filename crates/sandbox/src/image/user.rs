//! The user that an image names, by number or by a name that its own files explain.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags, fstat, openat2};

/// Bytes of an image's list of users or groups that are looked at.
const LIST_MAX: u64 = 1 << 20;

/// Numbers of a user and of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// A user with a group of the same number.
    pub(crate) fn same(id: u32) -> Self {
        User { uid: id, gid: id }
    }
}

/// Who `wanted` is (`user`, `user:group`, each a name or a number) in the image with this root.
/// `None`: the image names nobody, or root, whose rights no image gets; a sandbox's own user then.
/// The error is the rest of a sentence that begins with the image.
pub(crate) fn user(wanted: &str, root: BorrowedFd<'_>) -> Result<Option<User>, String> {
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (wanted, None),
    };
    if user.is_empty() {
        return Ok(None);
    }
    let listed = |path, name| find(root, path, name).map_err(|error| unreadable(path, &error));
    let (uid, own_group) = match user.parse::<u32>() {
        // Its group is known from the list only, where there is one.
        Ok(uid) => (
            uid,
            listed("etc/passwd", Wanted::Number(uid))?.and_then(|it| it.1),
        ),
        Err(_) => {
            let found = listed("etc/passwd", Wanted::Name(user))?;
            let (uid, gid) = found.ok_or_else(|| missing("user", user, "/etc/passwd"))?;
            (uid, gid)
        }
    };
    let gid = match group.map(|group| (group, group.parse::<u32>())) {
        None => own_group,
        Some((_, Ok(gid))) => Some(gid),
        Some((name, Err(_))) => {
            let found = listed("etc/group", Wanted::Name(name))?;
            Some(found.ok_or_else(|| missing("group", name, "/etc/group"))?.0)
        }
    };
    // The numbers that mean "leave as it is" to the kernel.
    if uid == u32::MAX || gid == Some(u32::MAX) {
        return Err(format!("names a user, {wanted:?}, that there can't be"));
    }
    let gid = gid.filter(|gid| *gid > 0).unwrap_or(uid);
    Ok((uid > 0).then_some(User { uid, gid }))
}

fn missing(what: &str, name: &str, path: &str) -> String {
    format!("names the {what} {name:?}, whom its {path} doesn't have")
}

fn unreadable(path: &str, error: &io::Error) -> String {
    format!("names a user, and its /{path} can't be read: {error}")
}

#[derive(Clone, Copy)]
enum Wanted<'a> {
    Name(&'a str),
    Number(u32),
}

/// The number, and the one after it, of the first line that is about whom is wanted. Lines are
/// `name:password:number:number...`; what isn't so is passed over.
fn find(
    root: BorrowedFd<'_>,
    path: &str,
    wanted: Wanted<'_>,
) -> io::Result<Option<(u32, Option<u32>)>> {
    let text = read(root, path)?;
    let line = text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let number: u32 = fields.nth(1)?.parse().ok()?;
        let is_it = match wanted {
            Wanted::Name(wanted) => name == wanted,
            Wanted::Number(wanted) => number == wanted,
        };
        let next = fields.next().and_then(|field| field.parse().ok());
        is_it.then_some((number, next))
    });
    Ok(line)
}

/// A file of an image, of which nothing leads out. One that isn't there is empty.
fn read(root: BorrowedFd<'_>, path: &str) -> io::Result<String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match openat2(root, path, flags, Mode::empty(), resolve) {
        Err(rustix::io::Errno::NOENT) => return Ok(String::new()),
        opened => opened?,
    };
    if FileType::from_raw_mode(fstat(file.as_fd())?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other("it is no file"));
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(LIST_MAX + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LIST_MAX {
        return Err(io::Error::other("it is too large"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn check(root: &Path, wanted: &str, expected: Result<Option<(u32, u32)>, &str>) {
        let root = File::open(root).unwrap();
        let expected = match expected {
            Ok(user) => Ok(user.map(|(uid, gid)| User { uid, gid })),
            Err(part) => {
                let error = user(wanted, root.as_fd()).unwrap_err();
                assert!(error.contains(part), "{wanted}: {error}");
                return;
            }
        };
        assert_eq!(user(wanted, root.as_fd()), expected, "{wanted}");
    }

    #[test]
    fn users_are_found_by_number_and_by_name() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        let passwd = "root:x:0:0:root:/root:/bin/sh\n\nbroken\n:::\nbad:x:one:2\n\
                      app:x:1000:1001:App:/home/app:/bin/sh\napp:x:1:1::/:\nlone:x:7\nrooted:x:8:0\n\
                      high:x:4294967295:1\nhuge:x:4294967296:1\n";
        fs::write(dir.path().join("etc/passwd"), passwd).unwrap();
        fs::write(dir.path().join("etc/group"), "root:x:0:\nstaff:x:50:app\n").unwrap();
        for (wanted, expected) in [
            ("", None),
            (":staff", None),
            ("root", None),
            ("0:0", None),
            ("app", Some((1000, 1001))),
            ("app:", Some((1000, 1001))),
            ("app:staff", Some((1000, 50))),
            ("app:60", Some((1000, 60))),
            ("1000", Some((1000, 1001))),
            ("2000", Some((2000, 2000))),
            ("2000:0", Some((2000, 2000))),
            ("2000:staff", Some((2000, 50))),
            ("lone", Some((7, 7))),
            ("rooted", Some((8, 8))),
        ] {
            check(dir.path(), wanted, Ok(expected));
        }
        for (wanted, said) in [
            ("nobody", "/etc/passwd doesn't have"),
            ("bad", "/etc/passwd doesn't have"),
            ("huge", "/etc/passwd doesn't have"),
            ("app:wheel", "/etc/group doesn't have"),
            ("high", "can't be"),
            ("4294967295", "can't be"),
            ("1:4294967295", "can't be"),
            ("-1", "doesn't have"),
        ] {
            check(dir.path(), wanted, Err(said));
        }
    }

    #[test]
    fn lists_are_read_inside_of_the_image_only() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("root"), dir.path().join("outside"));
        fs::create_dir_all(root.join("etc")).unwrap();
        fs::write(&outside, "app:x:1000:1000\n").unwrap();
        let passwd = root.join("etc/passwd");
        symlink(&outside, &passwd).unwrap();
        check(&root, "app", Err("doesn't have"));
        fs::remove_file(&passwd).unwrap();
        symlink("../../../outside", &passwd).unwrap();
        check(&root, "app", Err("doesn't have"));
        fs::remove_file(&passwd).unwrap();
        // Links inside are followed.
        fs::write(root.join("real"), "app:x:1000:1000\n").unwrap();
        symlink("/real", &passwd).unwrap();
        check(&root, "app", Ok(Some((1000, 1000))));
        fs::remove_file(&passwd).unwrap();
        symlink("passwd", &passwd).unwrap();
        check(&root, "app", Err("can't be read"));
        fs::remove_file(&passwd).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &passwd, FileType::Fifo, Mode::RUSR, 0).unwrap();
        check(&root, "app", Err("no file"));
        fs::remove_file(&passwd).unwrap();
        fs::create_dir(&passwd).unwrap();
        check(&root, "app", Err("no file"));
        fs::remove_dir(&passwd).unwrap();
        fs::write(&passwd, vec![b'x'; LIST_MAX as usize + 1]).unwrap();
        check(&root, "app", Err("too large"));
    }
}
