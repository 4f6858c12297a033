//! Zygotes: interpreters that have imported what functions declare, and are forked for sandboxes.
//!
//! A zygote is in a sandbox of its own, without a function, without a way out and with a user of its
//! own. Its executor stays when it ends, since its sandboxes are below that in the tree of pid
//! namespaces: the node kills it when the last of them is gone. A zygote is tried first and never
//! needed: where one fails, a sandbox is started as without. See `joined` for the helper's part and
//! `shim.py` for the zygote's, and decision 23.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use super::link::Link;
use super::message;
use crate::image::User;
use crate::instance::Greeted;
use crate::{Kind, lock};

/// Sandboxes that a zygote has been forked for when another takes its place: they share the layout of
/// their memory and the seed of their hashes.
const CHILDREN_MAX: u32 = 64;
/// How long a zygote is used, for the same reason.
const AGE_MAX: Duration = Duration::from_secs(600);
/// Sandboxes that are being made from a zygote at once.
const BIRTHS_MAX: usize = 8;
/// Processes that a zygote may have: itself, its executor, and three for each of those.
pub(super) const PROCESSES_MAX: u32 = 2 + 3 * BIRTHS_MAX as u32;
/// Memory of a zygote, with that of its children before they are moved away, MiB. One that imports
/// more ends, and its functions do without.
pub(super) const MEMORY_MAX_MB: u64 = 1024;
/// How long a sandbox may take to be made from a zygote. One that takes longer hangs.
pub(super) const START_MAX: Duration = Duration::from_secs(5);
/// Added to the number of a sandbox that is made from a zygote: what is left of it, if that fails,
/// isn't the other's that is made in its place.
pub(super) const CHILD: u64 = 1 << 62;

/// A zygote that is kept ready. Dropping it ends it; sandboxes that were made from it live on.
pub struct Zygote(pub(super) Arc<Home>);

impl Zygote {
    /// Whether sandboxes are made from it. If not, another should take its place.
    pub fn is_fit(&self) -> bool {
        self.0.is_fit()
    }

    /// Its process, if that is visible from here.
    pub fn pid(&self) -> Option<i32> {
        self.0.greeted.shim_pid()
    }

    /// What it holds that nobody else has, MiB, rounded up.
    pub fn memory_mb(&self) -> u64 {
        self.0.memory_mb
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.0.retire();
    }
}

/// A zygote's sandbox. Each that was made from it holds it.
pub(super) struct Home {
    id: u64,
    user: User,
    greeted: Greeted,
    /// The helper that made it, and must make those from it.
    link: Arc<Link>,
    memory_mb: u64,
    /// System call filters that it has itself, as have all that it forks.
    filters: u32,
    since: Instant,
    children: AtomicU32,
    retired: AtomicBool,
    births: Arc<Semaphore>,
}

impl Home {
    pub(super) fn new(id: u64, user: User, greeted: Greeted, link: Arc<Link>) -> Arc<Home> {
        let status = greeted.shim_pid().and_then(|pid| {
            let status = Path::new("/proc").join(pid.to_string()).join("status");
            fs::read_to_string(status).ok()
        });
        let status = status.unwrap_or_default();
        let memory_mb = number(&status, "RssAnon").div_ceil(1024);
        Arc::new(Home {
            filters: number(&status, "Seccomp_filters") as u32,
            id,
            user,
            greeted,
            link,
            memory_mb,
            since: Instant::now(),
            children: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            births: Arc::new(Semaphore::new(BIRTHS_MAX)),
        })
    }

    fn is_fit(&self) -> bool {
        !self.retired.load(Ordering::Relaxed)
            && self.children.load(Ordering::Relaxed) < CHILDREN_MAX
            && self.since.elapsed() < AGE_MAX
            && self.greeted.is_alive()
    }

    /// Ends the zygote, but not its sandboxes.
    pub(super) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
        // It may be closed already. The zygote exits when there is nothing more to read.
        let _ = shutdown(self.connection(), Shutdown::Both);
    }

    pub(super) fn connection(&self) -> std::os::fd::BorrowedFd<'_> {
        self.greeted.connection()
    }

    /// Counts one more child, if it may still have one when its turn comes; the permit is for the time
    /// until it is there.
    pub(super) async fn bear(&self) -> Option<OwnedSemaphorePermit> {
        let permit = Arc::clone(&self.births).acquire_owned().await.ok()?;
        let fit = self.is_fit();
        fit.then(|| self.children.fetch_add(1, Ordering::Relaxed))?;
        Some(permit)
    }

    /// What of a sandbox's isolation an interpreter that was forked for it lacks, if anything. `first`
    /// is the sandbox's own first process.
    pub(super) fn lapse(&self, interpreter: i32, first: i32, user: User) -> Option<String> {
        lapse(interpreter, first, user, self.filters + 1)
    }

    pub(super) fn as_message(&self) -> message::Zygote {
        message::Zygote {
            id: self.id,
            uid: self.user.uid,
            gid: self.user.gid,
        }
    }
}

/// The zygotes of a backend, which others keep alive.
#[derive(Default)]
pub(super) struct Zygotes(Mutex<HashMap<Kind, Weak<Home>>>);

impl Zygotes {
    pub(super) fn add(&self, kind: Kind, home: &Arc<Home>) {
        let mut all = lock(&self.0);
        all.retain(|_, home| home.strong_count() > 0);
        all.insert(kind, Arc::downgrade(home));
    }

    /// One to make a sandbox of this kind from, by this helper.
    pub(super) fn find(&self, kind: &Kind, link: &Arc<Link>) -> Option<Arc<Home>> {
        let home = lock(&self.0).get(kind)?.upgrade()?;
        (Arc::ptr_eq(&home.link, link) && home.is_fit()).then_some(home)
    }
}

/// A number of a process's status; memory is in KiB.
fn number(status: &str, name: &str) -> u64 {
    let number = field(status, name).split_whitespace().next();
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

fn field<'a>(status: &'a str, name: &str) -> &'a str {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    lines
        .find(|(key, _)| *key == name)
        .map_or("", |(_, value)| value.trim())
}

/// What of a sandbox's isolation an interpreter that was forked for it lacks, if anything. The zygote
/// has done it, but this is where it is known: no function is loaded before.
fn lapse(interpreter: i32, first: i32, user: User, filters: u32) -> Option<String> {
    let process = |pid: i32| Path::new("/proc").join(pid.to_string());
    let status = match fs::read_to_string(process(interpreter).join("status")) {
        Ok(status) => status,
        Err(error) => return Some(format!("its status can't be read: {error}")),
    };
    let all_four = |id: u32| [id.to_string().as_str(); 4].join("\t");
    let none = "0".repeat(16);
    let expected = [
        ("Uid", all_four(user.uid)),
        ("Gid", all_four(user.gid)),
        ("Groups", String::new()),
        ("CapInh", none.clone()),
        ("CapPrm", none.clone()),
        ("CapEff", none.clone()),
        ("CapBnd", none.clone()),
        ("CapAmb", none),
        ("NoNewPrivs", "1".to_owned()),
        ("Seccomp", "2".to_owned()),
        ("Seccomp_filters", filters.to_string()),
    ];
    for (name, wanted) in expected {
        let found = field(&status, name);
        if found != wanted {
            return Some(format!("{name} is '{found}' and not '{wanted}'"));
        }
    }
    for name in ["user", "mnt", "net", "ipc", "uts", "cgroup", "pid"] {
        let namespace = |pid| fs::read_link(process(pid).join("ns").join(name));
        match (namespace(interpreter), namespace(first)) {
            (Ok(one), Ok(other)) if one == other => {}
            _ => return Some(format!("it has another namespace ({name})")),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_is_not_confined_is_told_from_one_that_is() {
        let own = std::process::id() as i32;
        let user = User::same(0x7fff_0000);
        let lapse = lapse(own, own, user, 2).unwrap();
        assert!(lapse.starts_with("Uid is "), "{lapse}");
        let status = "Name:\tx\nUid:\t1\t1\t1\t1\nGroups:\t \nNoNewPrivs:\t1\n";
        assert_eq!(field(status, "Uid"), "1\t1\t1\t1");
        assert_eq!(field(status, "Groups"), "");
        assert_eq!(field(status, "NoNewPrivs"), "1");
        assert_eq!(field(status, "Seccomp"), "");
        assert_eq!(number("RssAnon:\t    1234 kB\n", "RssAnon"), 1234);
        assert_eq!(number(status, "RssAnon"), 0);
    }
}
