//! The log: what was answered is there after the power has failed, and nothing else.

use super::*;

/// Writes so many functions, and lets the power fail; the disk after that.
async fn written_before_a_power_failure(count: usize) -> Disk {
    let disk = Disk::default();
    let store = disk.store();
    for number in 0..count {
        store
            .put_function(&format!("{number:04}"), vec![7; 500])
            .await
            .unwrap();
    }
    disk.after_power_failure()
}

#[tokio::test]
async fn what_was_answered_survives_a_power_failure_however_much_it_is() {
    // Much more than the log holds.
    for count in [0, 1, 29, 30, 31, 200] {
        let disk = written_before_a_power_failure(count).await;
        assert_eq!(disk.store().functions().unwrap().len(), count);
        // Nor does reading it again and again change anything.
        let disk = disk.after_power_failure();
        let store = disk.store();
        assert_eq!(store.functions().unwrap().len(), count);
        store.put_function("more", vec![1]).await.unwrap();
        let disk = disk.after_power_failure();
        assert_eq!(disk.store().functions().unwrap().len(), count + 1);
    }
}

#[tokio::test]
async fn one_write_is_one_sync() {
    let disk = Disk::default();
    let store = disk.store();
    store.put_function("first", vec![1]).await.unwrap();
    let before = disk.syncs.load(Ordering::Relaxed);
    for number in 0..10 {
        store
            .put_function(&number.to_string(), vec![1])
            .await
            .unwrap();
    }
    assert_eq!(disk.syncs.load(Ordering::Relaxed) - before, 10);
}

#[tokio::test]
async fn a_torn_record_and_what_follows_it_were_never_answered() {
    let disk = written_before_a_power_failure(5).await;
    let log = disk.log.lock().unwrap().clone();
    let end = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let opened = |log: &[u8]| {
        let torn = disk.after_power_failure();
        torn.log.lock().unwrap().clone_from(&log.to_vec());
        let store = torn.store();
        let names = store.functions().unwrap().into_iter();
        let found: Vec<String> = names.map(|(name, _)| name).collect();
        // It goes on from there.
        let written = runtime().block_on(store.put_function("more", vec![1]));
        assert!(!written.unwrap());
        drop(store);
        assert_eq!(torn.store().functions().unwrap().len(), found.len() + 1);
        found
    };
    let all = ["0000", "0001", "0002", "0003", "0004"];
    std::thread::scope(|scope| {
        let checks = || {
            assert_eq!(opened(&log), all);
            for cut in [1, 100, 500] {
                assert_eq!(opened(&log[..end - cut]), all[..4], "{cut} bytes less");
                let mut scribbled = log.clone();
                scribbled[end - cut] ^= 1;
                assert_eq!(
                    opened(&scribbled),
                    all[..4],
                    "wrong {cut} bytes before the end"
                );
            }
            let mut scribbled = log.clone();
            scribbled[0] = 0xff;
            assert!(opened(&scribbled).is_empty());
            assert!(opened(&[]).is_empty());
        };
        scope.spawn(checks).join().unwrap();
    });
}

#[tokio::test]
async fn the_log_of_another_store_is_none() {
    let disk = written_before_a_power_failure(5).await;
    let other = Disk::default();
    drop(other.store());
    other
        .log
        .lock()
        .unwrap()
        .clone_from(&disk.log.lock().unwrap());
    assert!(other.store().functions().unwrap().is_empty());
    // Nor is one that is ahead of its store, as after a backup was put back.
    let store = disk.store();
    let backup = disk.after_power_failure().bytes.lock().unwrap().clone();
    for number in 0..100 {
        store
            .put_function(&format!("later-{number}"), vec![7; 500])
            .await
            .unwrap();
    }
    drop(store);
    disk.bytes.lock().unwrap().clone_from(&backup);
    let names: Vec<String> = disk
        .store()
        .functions()
        .unwrap()
        .into_iter()
        .map(|it| it.0)
        .collect();
    assert!(
        names.iter().all(|name| !name.starts_with("later-")),
        "{names:?}"
    );
}

#[tokio::test]
async fn a_log_that_can_not_be_written_leaves_the_database() {
    let disk = Disk::default();
    let store = disk.store();
    store.put_function("before", vec![1]).await.unwrap();
    disk.log_lame.store(true, Ordering::Relaxed);
    for number in 0..40 {
        store
            .put_function(&(number % 3).to_string(), vec![number; 400])
            .await
            .unwrap();
    }
    let functions = disk.after_power_failure().store().functions().unwrap();
    assert_eq!(functions.len(), 4);
    assert_eq!(functions[0].1, vec![39; 400]);
    // Once it can be written again, it is.
    disk.log_lame.store(false, Ordering::Relaxed);
    store.put_function("after", vec![1]).await.unwrap();
    let log = disk.after_power_failure().log.lock().unwrap().clone();
    assert!(log.windows(5).any(|it| it == b"after"));
    assert_eq!(
        disk.after_power_failure()
            .store()
            .functions()
            .unwrap()
            .len(),
        5
    );
}
