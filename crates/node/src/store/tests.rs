//! The store against its promises: what is answered is on disk, in groups, or not at all.

mod log;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use proptest::prelude::*;
use redb::{Database, StorageBackend};

use super::executions::{Append, Begin, Standing};
use super::*;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

#[tokio::test]
async fn functions_survive_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a/b/store.redb");
    let store = Store::open(&path).unwrap();
    assert!(!store.put_function("b c/ü", b"1".to_vec()).await.unwrap());
    assert!(store.put_function("b c/ü", b"2".to_vec()).await.unwrap());
    store.put_function("a", Vec::new()).await.unwrap();
    store.put_function("gone", b"3".to_vec()).await.unwrap();
    assert!(store.delete_function("gone").await.unwrap());
    assert!(!store.delete_function("gone").await.unwrap());
    store.close().await;
    drop(store);

    let store = Store::open(&path).unwrap();
    let expected = vec![
        ("a".to_string(), Vec::new()),
        ("b c/ü".to_string(), b"2".to_vec()),
    ];
    assert_eq!(store.functions().unwrap(), expected);
}

#[tokio::test]
async fn calls_survive_a_restart_in_their_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    for id in ["z", "m", "a", "done"] {
        store.accept_call(id, id.as_bytes().to_vec()).await.unwrap();
    }
    assert_eq!(store.attempt_call("m").await.unwrap(), 1);
    assert_eq!(store.attempt_call("m").await.unwrap(), 2);
    assert_eq!(store.attempt_call("m").await.unwrap(), 3);
    store.withdraw_attempt("m").await.unwrap();
    store.withdraw_attempt("z").await.unwrap();
    store.withdraw_attempt("none").await.unwrap();
    assert!(
        store
            .finish_call("done", b"result".to_vec(), 100)
            .await
            .unwrap()
    );
    // Without `close`: what a crash would leave, but for the file's lock.
    drop(store);

    let store = Store::open(&path).unwrap();
    assert_eq!(store.pending().unwrap(), ["z", "m", "a"]);
    store.accept_call("0", Vec::new()).await.unwrap();
    assert_eq!(store.pending().unwrap(), ["z", "m", "a", "0"]);
    assert_eq!(store.pending_call("m").unwrap(), Some((b"m".to_vec(), 2)));
    assert_eq!(store.pending_call("done").unwrap(), None);
    assert!(store.is_pending("z").unwrap() && !store.is_pending("done").unwrap());
    assert_eq!(store.result("done").unwrap(), Some(b"result".to_vec()));
    assert_eq!(store.result("z").unwrap(), None);
    assert_eq!(store.attempt_call("done").await.unwrap(), 0);
}

#[tokio::test]
async fn sweeps_remove_what_has_expired() {
    let store = Store::in_memory().unwrap();
    for (id, expires) in [("a", 10), ("b", 20), ("c", 30)] {
        assert!(
            !store
                .finish_call(id, id.as_bytes().to_vec(), expires)
                .await
                .unwrap()
        );
    }
    // A second result prolongs the life of the first.
    store.finish_call("a", b"again".to_vec(), 40).await.unwrap();
    assert_eq!(store.sweep(9).await.unwrap(), 0);
    assert_eq!(store.sweep(20).await.unwrap(), 1);
    assert_eq!(store.sweep(30).await.unwrap(), 1);
    assert_eq!(store.result("b").unwrap(), None);
    assert_eq!(store.result("a").unwrap(), Some(b"again".to_vec()));
    assert_eq!(store.sweep(u64::MAX).await.unwrap(), 1);
    assert_eq!(store.sweep(u64::MAX).await.unwrap(), 0);
}

#[tokio::test]
async fn large_sweeps_take_several_steps() {
    let store = Arc::new(Store::in_memory().unwrap());
    let count = u64::from(SWEEP_STEP) + 10;
    let writes = (0..count).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            store
                .finish_call(&format!("call-{number}"), vec![0; 10], number)
                .await
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap().unwrap();
    }
    assert_eq!(store.sweep(u64::MAX).await.unwrap(), count);
}

#[tokio::test]
async fn after_close_everything_is_refused() {
    let store = Store::in_memory().unwrap();
    store.close().await;
    store.close().await;
    assert!(matches!(store.functions(), Err(StoreError::Closed)));
    let written = store.put_function("a", Vec::new()).await;
    assert!(matches!(written, Err(StoreError::Closed)));
}

#[tokio::test]
async fn values_have_a_largest_size() {
    let store = Store::in_memory().unwrap();
    let written = store.put_function("a", vec![0; VALUE_BYTES_MAX + 1]).await;
    assert!(matches!(written, Err(StoreError::TooLarge { .. })));
    // More than may wait is fine if it waits alone.
    store
        .put_function("a", vec![7; WAITING_BYTES_MAX + 1])
        .await
        .unwrap();
    assert_eq!(store.functions().unwrap()[0].1.len(), WAITING_BYTES_MAX + 1);
}

#[test]
fn a_store_has_one_owner() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let store = Store::open(&path).unwrap();
    let message = Store::open(&path).err().unwrap().to_string();
    assert!(
        message.contains("another node") && message.contains("storage.path"),
        "{message}"
    );
    assert!(message.contains("store.redb"), "{message}");
    drop(store);
    Store::open(&path).unwrap();
}

#[test]
fn damaged_stores_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let check = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        let error = Store::open(&path).err().unwrap();
        assert!(matches!(error, StoreError::Damaged { .. }), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains("store.redb") && message.contains("backup"),
            "{message}"
        );
    };
    check(b"garbage");
    check(&[0xaa; 10_000]);
    // A real one, cut short or overwritten behind its first page.
    std::fs::remove_file(&path).unwrap();
    drop(Store::open(&path).unwrap());
    let whole = std::fs::read(&path).unwrap();
    check(&whole[..whole.len() / 2]);
    let mut scribbled = whole;
    scribbled[4096..].fill(0xff);
    std::fs::write(&path, &scribbled).unwrap();
    // Cleanly closed files are trusted, so this may be found later; it must not end the process.
    let _ = Store::open(&path);
}

#[test]
fn a_directory_that_is_a_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let message = Store::open(&file.join("store.redb"))
        .err()
        .unwrap()
        .to_string();
    assert!(
        message.contains("file") && message.contains("storage.path"),
        "{message}"
    );
}

#[test]
fn another_format_is_refused_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    drop(Store::open(&path).unwrap());
    let meta: redb::TableDefinition<'_, &str, u64> = redb::TableDefinition::new("meta");
    {
        let database = Database::open(&path).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction
            .open_table(meta)
            .unwrap()
            .insert("format", 3)
            .unwrap();
        transaction.commit().unwrap();
    }
    let error = Store::open(&path).err().unwrap();
    assert!(
        matches!(
            error,
            StoreError::Format {
                found: 3,
                known: 2,
                ..
            }
        ),
        "{error}"
    );
    let database = Database::open(&path).unwrap();
    let snapshot = database.begin_read().unwrap();
    assert_eq!(
        snapshot
            .open_table(meta)
            .unwrap()
            .get("format")
            .unwrap()
            .unwrap()
            .value(),
        3
    );
}

#[test]
fn the_file_is_private() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.redb");
    let _store = Store::open(&path).unwrap();
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
}

/// A disk in memory that counts its syncs and can be made to fail.
#[derive(Debug, Clone, Default)]
struct Disk {
    bytes: Arc<Mutex<Vec<u8>>>,
    syncs: Arc<AtomicUsize>,
    /// Nothing can be written any more.
    broken: Arc<AtomicBool>,
    /// What has been written can be written over, but nothing behind it: as on a disk that is full.
    full: Arc<AtomicBool>,
    /// The end of what has been written; files may be longer than that.
    used: Arc<AtomicUsize>,
    /// This file can't be written any more.
    lame: Arc<AtomicBool>,
    /// Another file on it.
    log: Arc<Mutex<Vec<u8>>>,
    log_used: Arc<AtomicUsize>,
    log_lame: Arc<AtomicBool>,
    /// What of both is sure to survive if the power fails.
    synced: Arc<Mutex<Vec<u8>>>,
    log_synced: Arc<Mutex<Vec<u8>>>,
}

impl Disk {
    fn check(&self) -> std::io::Result<()> {
        match self.broken.load(Ordering::Relaxed) || self.lame.load(Ordering::Relaxed) {
            true => Err(std::io::Error::other("broken")),
            false => Ok(()),
        }
    }

    /// The disk after a failure of the power, if nothing more has reached it than it was asked for.
    fn after_power_failure(&self) -> Self {
        let copy = |bytes: &Mutex<Vec<u8>>| {
            let bytes = bytes.lock().unwrap().clone();
            let used = Arc::new(AtomicUsize::new(bytes.len()));
            (Arc::new(Mutex::new(bytes)), used)
        };
        let (bytes, used) = copy(&self.synced);
        let (log, log_used) = copy(&self.log_synced);
        let disk = Self {
            bytes,
            used,
            log,
            log_used,
            ..Self::default()
        };
        disk.synced
            .lock()
            .unwrap()
            .clone_from(&disk.bytes.lock().unwrap());
        disk.log_synced
            .lock()
            .unwrap()
            .clone_from(&disk.log.lock().unwrap());
        disk
    }

    fn store(&self) -> Store {
        let disk = self.clone();
        let opener = move || builder().create_with_backend(disk.clone());
        let logger = || -> Result<Box<dyn StorageBackend>, StoreError> {
            let place = Self {
                bytes: Arc::clone(&self.log),
                used: Arc::clone(&self.log_used),
                lame: Arc::clone(&self.log_lame),
                synced: Arc::clone(&self.log_synced),
                ..self.clone()
            };
            Ok(Box::new(place))
        };
        Store::start(Path::new("disk"), Box::new(opener), Some(&logger)).unwrap()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> std::io::Result<u64> {
        Ok(self.bytes.lock().unwrap().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> std::io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.bytes.lock().unwrap()[from..from + out.len()]);
        Ok(())
    }

    fn set_len(&self, length: u64) -> std::io::Result<()> {
        self.check()?;
        self.bytes
            .lock()
            .unwrap()
            .resize(usize::try_from(length).unwrap(), 0);
        Ok(())
    }

    fn sync_data(&self) -> std::io::Result<()> {
        self.check()?;
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.synced
            .lock()
            .unwrap()
            .clone_from(&self.bytes.lock().unwrap());
        // Like a disk: long enough for others to arrive.
        std::thread::sleep(std::time::Duration::from_millis(1));
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.check()?;
        let from = usize::try_from(offset).unwrap();
        let end = from + data.len();
        if end > self.used.load(Ordering::Relaxed) {
            if self.full.load(Ordering::Relaxed) {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.used.store(end, Ordering::Relaxed);
        }
        self.bytes.lock().unwrap()[from..from + data.len()].copy_from_slice(data);
        Ok(())
    }
}

#[test]
fn concurrent_writes_share_commits() {
    let disk = Disk::default();
    let store = Arc::new(disk.store());
    let syncs_before = disk.syncs.load(Ordering::Relaxed);
    runtime().block_on(async {
        let writes = (0..1000).map(|number| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.put_function(&number.to_string(), vec![1]).await })
        });
        for write in writes.collect::<Vec<_>>() {
            write.await.unwrap().unwrap();
        }
    });
    let syncs = disk.syncs.load(Ordering::Relaxed) - syncs_before;
    assert!(syncs < 250, "{syncs} syncs for 1000 writes");
    drop(store);
    assert_eq!(disk.store().functions().unwrap().len(), 1000);
}

#[tokio::test]
async fn a_broken_disk_is_told_to_everyone_and_survived() {
    let disk = Disk::default();
    let store = Arc::new(disk.store());
    store.accept_call("before", b"x".to_vec()).await.unwrap();
    disk.broken.store(true, Ordering::Relaxed);
    let writes = (0..100).map(|number| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.accept_call(&number.to_string(), vec![0; 1000]).await })
    });
    for write in writes.collect::<Vec<_>>() {
        let error = write.await.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::Write { .. }), "{error:?}");
    }
    disk.broken.store(false, Ordering::Relaxed);
    store.accept_call("after", b"y".to_vec()).await.unwrap();
    assert_eq!(store.pending().unwrap(), ["before", "after"]);
    store.close().await;
    assert_eq!(disk.store().pending().unwrap(), ["before", "after"]);
}

#[tokio::test]
async fn what_is_on_a_full_disk_can_be_read_and_removed() {
    let disk = Disk::default();
    let store = disk.store();
    for id in ["done", "large"] {
        store.accept_call(id, b"x".to_vec()).await.unwrap();
    }
    store
        .finish_call("done", b"result".to_vec(), 10)
        .await
        .unwrap();
    disk.full.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let written = store.finish_call("large", vec![1; 9 << 20], 100).await;
        assert!(
            matches!(written, Err(StoreError::Write { .. })),
            "{written:?}"
        );
        assert_eq!(store.result("done").unwrap(), Some(b"result".to_vec()));
        assert_eq!(store.pending().unwrap(), ["large"]);
    }
    // What fits is written all the same.
    assert_eq!(store.sweep(50).await.unwrap(), 1);
    // Nor does opening need room.
    drop(store);
    let store = disk.store();
    assert_eq!(store.pending().unwrap(), ["large"]);
    disk.full.store(false, Ordering::Relaxed);
    let result = vec![1; 9 << 20];
    store
        .finish_call("large", result.clone(), 100)
        .await
        .unwrap();
    store.close().await;
    assert_eq!(disk.store().result("large").unwrap(), Some(result));
}

fn begin(id: u128, digest: &str, expires_unix: u64) -> Begin {
    Begin {
        id,
        workflow: "w".into(),
        name: id.to_string(),
        is_named: true,
        digest: digest.into(),
        standing: Standing {
            status: 1,
            summary: b"{}".to_vec(),
            wake: (expires_unix == 0).then_some(7),
            expires_unix,
        },
        record: b"begun".to_vec(),
    }
}

#[tokio::test]
async fn a_definition_stays_while_somebody_uses_it() {
    let store = Store::in_memory().unwrap();
    let put = |digest: &'static str| store.put_workflow("w", digest, vec![1], digest.into());
    assert!(!put("old").await.unwrap());
    // The same again is one use.
    assert!(put("old").await.unwrap());
    store.begin_execution(begin(1, "old", 0)).await.unwrap();
    store.begin_execution(begin(2, "old", 50)).await.unwrap();
    assert!(put("new").await.unwrap());
    assert_eq!(store.definition("old").unwrap(), Some(b"old".to_vec()));
    assert_eq!(store.sweep_executions(49).await.unwrap(), 0);
    assert_eq!(store.sweep_executions(50).await.unwrap(), 1);
    assert!(store.execution(2).unwrap().is_none());
    assert_eq!(store.execution_named("w", "2").unwrap(), None);
    assert_eq!(store.journal_first(2).unwrap(), None);
    assert_eq!(store.definition("old").unwrap(), Some(b"old".to_vec()));
    let ended = Append {
        id: 1,
        sequence: 1,
        record: b"ended".to_vec(),
        standing: Some(begin(1, "", 60).standing),
    };
    store.append_journal(ended).await.unwrap();
    let mut unfinished = 0;
    store.visit_unfinished(|_, _| unfinished += 1).unwrap();
    assert_eq!(unfinished, 0);
    let last = store.journal_last(1, |record| Some(record.to_vec()));
    assert_eq!(last.unwrap(), Some(b"ended".to_vec()));
    assert_eq!(store.sweep_executions(100).await.unwrap(), 1);
    assert_eq!(store.definition("old").unwrap(), None);
    assert!(store.delete_workflow("w").await.unwrap());
    assert!(!store.delete_workflow("w").await.unwrap());
    assert_eq!(store.definition("new").unwrap(), None);
}

#[tokio::test]
async fn a_store_from_before_there_were_workflows_gets_their_tables() {
    let disk = Disk::default();
    let database = builder().create_with_backend(disk.clone()).unwrap();
    let transaction = database.begin_write().unwrap();
    schema::make_first_tables(&transaction).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let store = disk.store();
    assert_eq!(store.definition("x").unwrap(), None);
    store.begin_execution(begin(1, "x", 0)).await.unwrap();
    assert!(store.execution(1).unwrap().is_some());
}

/// What the store should hold, kept the simple way.
#[derive(Debug, Default)]
struct Model {
    functions: BTreeMap<String, Vec<u8>>,
    pending: Vec<(String, Vec<u8>, u32)>,
    results: BTreeMap<String, (u64, Vec<u8>)>,
}

#[derive(Debug, Clone)]
enum Step {
    Put(u8, Vec<u8>),
    Delete(u8),
    Accept(u8, Vec<u8>),
    Attempt(u8),
    Finish(u8, Vec<u8>, u64),
    Sweep(u64),
    Reopen,
    PowerFailure,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0_u8..6;
    let value = proptest::collection::vec(any::<u8>(), 0..20);
    let step = prop_oneof![
        (key.clone(), value.clone()).prop_map(|(key, value)| Step::Put(key, value)),
        key.clone().prop_map(Step::Delete),
        (key.clone(), value.clone()).prop_map(|(key, value)| Step::Accept(key, value)),
        key.clone().prop_map(Step::Attempt),
        (key, value, 0_u64..50).prop_map(|(key, value, at)| Step::Finish(key, value, at)),
        (0_u64..50).prop_map(Step::Sweep),
        Just(Step::Reopen),
        Just(Step::PowerFailure),
    ];
    proptest::collection::vec(step, 1..60)
}

impl Model {
    /// Does the step to both, and compares the answers.
    async fn step(&mut self, store: &Store, step: Step) {
        match step {
            Step::Put(key, value) => {
                let replaced = self
                    .functions
                    .insert(key.to_string(), value.clone())
                    .is_some();
                assert_eq!(
                    store.put_function(&key.to_string(), value).await.unwrap(),
                    replaced
                );
            }
            Step::Delete(key) => {
                let existed = self.functions.remove(&key.to_string()).is_some();
                assert_eq!(
                    store.delete_function(&key.to_string()).await.unwrap(),
                    existed
                );
            }
            Step::Accept(key, value) => {
                self.take_pending(key);
                self.pending.push((key.to_string(), value.clone(), 0));
                store.accept_call(&key.to_string(), value).await.unwrap();
            }
            Step::Attempt(key) => {
                let call = self
                    .pending
                    .iter_mut()
                    .find(|(id, ..)| *id == key.to_string());
                let attempts = call.map_or(0, |(.., attempts)| {
                    *attempts += 1;
                    *attempts
                });
                assert_eq!(
                    store.attempt_call(&key.to_string()).await.unwrap(),
                    attempts
                );
            }
            Step::Finish(key, value, at) => {
                let was_pending = self.take_pending(key);
                self.results.insert(key.to_string(), (at, value.clone()));
                let finished = store
                    .finish_call(&key.to_string(), value, at)
                    .await
                    .unwrap();
                assert_eq!(finished, was_pending);
            }
            Step::Sweep(now) => {
                let before = self.results.len();
                self.results.retain(|_, (expires, _)| *expires > now);
                let removed = (before - self.results.len()) as u64;
                assert_eq!(store.sweep(now).await.unwrap(), removed);
            }
            Step::Reopen | Step::PowerFailure => {}
        }
    }

    fn take_pending(&mut self, key: u8) -> bool {
        let before = self.pending.len();
        self.pending.retain(|(id, ..)| *id != key.to_string());
        before != self.pending.len()
    }

    fn check(&self, store: &Store) {
        let functions: Vec<_> = self.functions.clone().into_iter().collect();
        assert_eq!(store.functions().unwrap(), functions);
        let pending: Vec<_> = self.pending.iter().map(|(id, ..)| id.clone()).collect();
        assert_eq!(store.pending().unwrap(), pending);
        for (id, body, attempts) in &self.pending {
            assert_eq!(
                store.pending_call(id).unwrap(),
                Some((body.clone(), *attempts))
            );
        }
        for key in 0..6_u8 {
            let result = self
                .results
                .get(&key.to_string())
                .map(|(_, value)| value.clone());
            assert_eq!(store.result(&key.to_string()).unwrap(), result);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn behaves_like_a_map(steps in steps()) {
        runtime().block_on(async {
            let mut disk = Disk::default();
            let mut store = disk.store();
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Reopen => {
                        drop(store);
                        store = disk.store();
                    }
                    Step::PowerFailure => {
                        let left = disk.after_power_failure();
                        drop(store);
                        disk = left;
                        store = disk.store();
                    }
                    _ => {}
                }
                model.step(&store, step).await;
                model.check(&store);
            }
        });
    }
}
