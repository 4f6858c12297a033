//! Executions that come from another node, or go to one.

use redb::ReadableTable as _;
use serde::{Deserialize, Serialize};

use super::{Begin, Change, ExecutionTables, Id, Store, StoreError};
use crate::store::writer::Operation;

/// An execution of another node, whole.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::store) struct Adopted {
    begin: Begin,
    records: Vec<(u64, Vec<u8>)>,
    definition: Vec<u8>,
}

impl Adopted {
    pub(super) fn value_bytes(&self) -> usize {
        let records = self.records.iter().map(|(_, record)| record.len());
        self.definition.len() + records.sum::<usize>()
    }
}

impl ExecutionTables<'_> {
    /// In the place of what there is of it.
    pub(super) fn adopt(&mut self, adopted: &Adopted) -> Result<u64, redb::Error> {
        let Begin {
            id,
            workflow,
            name,
            is_named,
            digest,
            standing,
            ..
        } = &adopted.begin;
        self.definitions
            .insert(digest.as_str(), adopted.definition.as_slice())?;
        // Before the former one is left, so that it isn't removed.
        self.use_definition(digest)?;
        self.forget(*id)?;
        let key = (workflow.as_str(), name.as_str());
        // One that was begun here under this name keeps it.
        if *is_named && self.by_name.get(key)?.is_none() {
            self.by_name.insert(key, id)?;
        }
        self.stand(*id, (workflow, name, digest), 0, standing)?;
        for (sequence, record) in &adopted.records {
            self.journal.insert((*id, *sequence), record.as_slice())?;
        }
        Ok(1)
    }

    /// 1 if there was one.
    pub(super) fn forget(&mut self, id: Id) -> Result<u64, redb::Error> {
        let Some(row) = self.executions.remove(id)? else {
            return Ok(0);
        };
        let (_, expires, workflow, name, digest, _) = row.value();
        let (workflow, name, digest) = (workflow.to_owned(), name.to_owned(), digest.to_owned());
        drop(row);
        self.by_workflow.remove((workflow.as_str(), id))?;
        let key = (workflow.as_str(), name.as_str());
        let is_its = self.by_name.get(key)?.is_some_and(|it| it.value() == id);
        if is_its {
            self.by_name.remove(key)?;
        }
        self.unfinished.remove(id)?;
        self.expiries.remove((expires, id))?;
        self.journal
            .retain_in((id, 0)..=(id, u64::MAX), |_, _| false)?;
        self.leave_definition(Some(digest))
    }

    /// Changes the summary; 1 if there is such an execution.
    pub(super) fn mark(&mut self, id: Id, summary: &[u8]) -> Result<u64, redb::Error> {
        let Some(row) = self.executions.get(id)? else {
            return Ok(0);
        };
        let (status, expires, workflow, name, digest, _) = row.value();
        let (workflow, name, digest) = (workflow.to_owned(), name.to_owned(), digest.to_owned());
        drop(row);
        let row = (status, expires, &*workflow, &*name, &*digest, summary);
        self.executions.insert(id, row)?;
        Ok(1)
    }
}

impl Store {
    /// Writes an execution of another node with all records of its journal, in the place of what there
    /// is of it.
    pub(crate) async fn adopt_execution(
        &self,
        begin: Begin,
        records: Vec<(u64, Vec<u8>)>,
        definition: Vec<u8>,
    ) -> Result<(), StoreError> {
        let change = Change::Adopt(Box::new(Adopted {
            begin,
            records,
            definition,
        }));
        self.write(Operation::Workflow(change)).await?;
        Ok(())
    }

    /// Removes an execution and its journal. `false` if there was none.
    pub(crate) async fn forget_execution(&self, id: Id) -> Result<bool, StoreError> {
        let change = Change::Forget { id };
        Ok(self.write(Operation::Workflow(change)).await? != 0)
    }

    /// Changes what is known of an execution beside its status.
    pub(crate) async fn mark_execution(&self, id: Id, summary: Vec<u8>) -> Result<(), StoreError> {
        let change = Change::Mark { id, summary };
        self.write(Operation::Workflow(change)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Standing;
    use super::*;

    fn begin(id: Id, name: &str) -> Begin {
        Begin {
            id,
            workflow: "w".into(),
            name: name.into(),
            is_named: true,
            digest: "d".into(),
            standing: Standing {
                status: 0,
                summary: b"{}".to_vec(),
                wake: Some(7),
                expires_unix: 0,
            },
            record: b"begun".to_vec(),
        }
    }

    fn records(store: &Store, id: Id) -> Vec<(u64, Vec<u8>)> {
        let mut records = Vec::new();
        store
            .visit_journal(id, |sequence, record| {
                if records.iter().all(|(known, _)| *known != sequence) {
                    records.push((sequence, record.to_vec()));
                }
            })
            .unwrap();
        records
    }

    fn unfinished(store: &Store) -> Vec<Id> {
        let mut found = Vec::new();
        store.visit_unfinished(|id, _| found.push(id)).unwrap();
        found
    }

    #[tokio::test]
    async fn what_comes_takes_the_place_of_what_there_was_and_what_goes_leaves_nothing() {
        let store = Store::in_memory().unwrap();
        let put = store.put_workflow("w", "d", vec![1], b"text".to_vec());
        assert!(!put.await.unwrap());
        store.begin_execution(begin(1, "one")).await.unwrap();
        store.begin_execution(begin(2, "two")).await.unwrap();
        // From elsewhere: under another definition, and a name that is taken.
        let mut other = begin(3, "two");
        other.digest = "e".into();
        let theirs = vec![(0, b"theirs".to_vec()), (4, b"more".to_vec())];
        let adopted = store.adopt_execution(other, theirs.clone(), b"their text".to_vec());
        adopted.await.unwrap();
        assert_eq!(records(&store, 3), theirs);
        assert_eq!(store.definition("e").unwrap().unwrap(), b"their text");
        assert_eq!(store.execution_named("w", "two").unwrap(), Some(2));
        assert_eq!(unfinished(&store), [1, 2, 3]);
        // One that was here before is what it has become.
        let adopted = store.adopt_execution(begin(1, "one"), theirs.clone(), b"text".to_vec());
        adopted.await.unwrap();
        assert_eq!(records(&store, 1), theirs);
        assert_eq!(store.execution_named("w", "one").unwrap(), Some(1));

        store.mark_execution(1, b"marked".to_vec()).await.unwrap();
        assert_eq!(store.execution(1).unwrap().unwrap().summary, b"marked");
        assert_eq!(unfinished(&store), [1, 2, 3]);

        assert!(store.forget_execution(1).await.unwrap());
        assert!(!store.forget_execution(1).await.unwrap());
        assert!(store.forget_execution(3).await.unwrap());
        assert_eq!(store.execution_named("w", "one").unwrap(), None);
        assert_eq!(records(&store, 1), []);
        assert_eq!(unfinished(&store), [2]);
        assert_eq!(store.definition("e").unwrap(), None);
        assert!(store.definition("d").unwrap().is_some());
        // Of one that there isn't, nothing is known.
        store.mark_execution(1, b"marked".to_vec()).await.unwrap();
        assert!(store.execution(1).unwrap().is_none());
    }

    #[tokio::test]
    async fn a_call_is_forgotten_without_a_result() {
        let store = Store::in_memory().unwrap();
        store.accept_call("c", b"{}".to_vec()).await.unwrap();
        assert!(store.forget_call("c").await.unwrap());
        assert!(!store.is_pending("c").unwrap());
        assert_eq!(store.result("c").unwrap(), None);
        assert!(!store.forget_call("c").await.unwrap());
    }
}
