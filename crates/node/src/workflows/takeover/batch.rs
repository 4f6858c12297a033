//! Writes of many executions in few transactions: what comes while others are under way goes along
//! with the next one.
//!
//! Each write has its own conditions. If a transaction of several fails for those of one, each is
//! tried by itself.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::federation::etcd::transaction::{Done, Transaction};
use crate::federation::etcd::{Etcd, EtcdError, VALUE_MAX};

/// Transactions under way at once.
const UNDER_WAY_MAX: usize = 8;

/// Writes that wait at most; who has more waits.
pub(super) const WAITING_MAX: usize = 1024;

/// A write on its way.
pub(super) struct Write {
    pub(super) transaction: Transaction,
    pub(super) answer: oneshot::Sender<Result<Done, Arc<EtcdError>>>,
}

/// Carries writes out until nobody is left who could ask.
pub(super) async fn run(etcd: Arc<Etcd>, mut queue: mpsc::Receiver<Write>) {
    let permits = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut left: Option<Write> = None;
    loop {
        let first = match left.take() {
            Some(write) => write,
            None => match queue.recv().await {
                Some(write) => write,
                None => return,
            },
        };
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let mut whole = first.transaction.clone();
        let mut batch = vec![first];
        while let Ok(next) = queue.try_recv() {
            if !whole.has_room_for(&next.transaction, VALUE_MAX) {
                left = Some(next);
                break;
            }
            whole = whole.and(&next.transaction);
            batch.push(next);
        }
        tokio::spawn(send(Arc::clone(&etcd), whole, batch, permit));
    }
}

async fn send(
    etcd: Arc<Etcd>,
    whole: Transaction,
    batch: Vec<Write>,
    _permit: OwnedSemaphorePermit,
) {
    if batch.len() > 1 {
        match etcd.transact(&whole).await {
            Ok(done) if done.succeeded => {
                for write in batch {
                    let done = Done {
                        found: Vec::new(),
                        ..done
                    };
                    let _ = write.answer.send(Ok(done));
                }
                return;
            }
            // It may be the fault of one.
            Ok(_) => {}
            Err(error) if error.is_final() => {}
            Err(error) => {
                let error = Arc::new(error);
                for write in batch {
                    let _ = write.answer.send(Err(Arc::clone(&error)));
                }
                return;
            }
        }
    }
    for write in batch {
        let done = etcd.transact(&write.transaction).await;
        let _ = write.answer.send(done.map_err(Arc::new));
    }
}
