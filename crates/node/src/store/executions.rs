//! The store's part of workflows: definitions, executions and their journals.
//!
//! A definition is kept under its digest for as long as a workflow or an execution that is kept
//! uses it; uses are counted in the transaction that makes or ends them. Of an execution there is a
//! summary, which is written when its status changes, and its journal, which only grows. What the
//! bytes mean is `workflows`' business.

use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, Table, TableDefinition, TableHandle,
    WriteTransaction,
};
use serde::{Deserialize, Serialize};

use self::moving::Adopted;
use super::writer::Operation;
use super::{Store, StoreError};

mod moving;

/// Identity of an execution: begins with its time, so that they are in order.
pub(crate) type Id = u128;

/// Name of a workflow to the digest of its definition, and its record.
const WORKFLOWS: TableDefinition<'_, &str, (&str, &[u8])> = TableDefinition::new("workflows");

/// Digest of a definition to its text.
const DEFINITIONS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("definitions");

/// Digest of a definition to the number of workflows and executions that have it.
const USES: TableDefinition<'_, &str, u64> = TableDefinition::new("definition_uses");

/// Status, second of expiry (0: none), workflow, name, digest of the definition, summary.
type Row<'a> = (u8, u64, &'a str, &'a str, &'a str, &'a [u8]);

/// All executions that are kept.
const EXECUTIONS: TableDefinition<'_, Id, Row<'static>> = TableDefinition::new("executions");

/// Those of a workflow, with their status.
const BY_WORKFLOW: TableDefinition<'_, (&str, Id), u8> =
    TableDefinition::new("executions_by_workflow");

/// Those that were given a name.
const BY_NAME: TableDefinition<'_, (&str, &str), Id> = TableDefinition::new("executions_by_name");

/// Those that have not ended, with the time to wake them: see [`Standing::wake`].
const UNFINISHED: TableDefinition<'_, Id, i64> = TableDefinition::new("executions_unfinished");

/// What has happened to an execution, in order.
const JOURNAL: TableDefinition<'_, (Id, u64), &[u8]> = TableDefinition::new("journal");

/// When which execution may be forgotten.
const EXPIRIES: TableDefinition<'_, (u64, Id), ()> = TableDefinition::new("execution_expiries");

/// Executions that one transaction of a sweep removes with their journals.
const SWEEP_STEP: u32 = 256;

/// How an execution stands.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Standing {
    /// Its status, as a number.
    pub(crate) status: u8,
    /// What else is known of it.
    pub(crate) summary: Vec<u8>,
    /// `None` if it has ended; else when it is to be woken, in milliseconds since 1970: 0 if it has
    /// something to do whenever the node starts.
    pub(crate) wake: Option<i64>,
    /// From which second on it may be forgotten; 0 = never.
    pub(crate) expires_unix: u64,
}

/// A new execution.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    pub(crate) id: Id,
    pub(crate) workflow: String,
    /// What it is called.
    pub(crate) name: String,
    /// Whether it can be found by that.
    pub(crate) is_named: bool,
    /// Digest of its definition.
    pub(crate) digest: String,
    pub(crate) standing: Standing,
    /// The first record of its journal.
    pub(crate) record: Vec<u8>,
}

/// More of an execution's journal, and its standing if that has changed.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Append {
    pub(crate) id: Id,
    pub(crate) sequence: u64,
    pub(crate) record: Vec<u8>,
    pub(crate) standing: Option<Standing>,
}

/// One change. Its answer is a number as with other operations.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Change {
    PutWorkflow {
        name: String,
        digest: String,
        record: Vec<u8>,
        definition: Vec<u8>,
    },
    DeleteWorkflow {
        name: String,
    },
    Begin(Box<Begin>),
    Append(Box<Append>),
    Sweep {
        now_unix: u64,
        limit: u32,
    },
    Adopt(Box<Adopted>),
    Forget {
        id: Id,
    },
    Mark {
        id: Id,
        summary: Vec<u8>,
    },
}

impl Change {
    pub(super) fn value_bytes(&self) -> usize {
        match self {
            Self::PutWorkflow {
                record, definition, ..
            } => record.len() + definition.len(),
            Self::Begin(begin) => begin.record.len() + begin.standing.summary.len(),
            Self::Append(append) => {
                let summary = append.standing.as_ref().map_or(0, |it| it.summary.len());
                append.record.len() + summary
            }
            Self::Adopt(adopted) => adopted.value_bytes(),
            Self::Mark { summary, .. } => summary.len(),
            Self::DeleteWorkflow { .. } | Self::Forget { .. } | Self::Sweep { .. } => 0,
        }
    }
}

/// Makes the tables in a store from before there were workflows.
pub(super) fn prepare(database: &Database) -> Result<(), redb::Error> {
    let snapshot = database.begin_read()?;
    let has_them = snapshot
        .list_tables()?
        .any(|table| table.name() == EXPIRIES.name());
    if has_them {
        return Ok(());
    }
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate)?;
    make_tables(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Makes the tables.
pub(super) fn make_tables(transaction: &WriteTransaction) -> Result<(), redb::Error> {
    ExecutionTables::open(transaction).map(drop)
}

/// The tables, in a transaction.
pub(super) struct ExecutionTables<'txn> {
    workflows: Table<'txn, &'static str, (&'static str, &'static [u8])>,
    definitions: Table<'txn, &'static str, &'static [u8]>,
    uses: Table<'txn, &'static str, u64>,
    executions: Table<'txn, Id, Row<'static>>,
    by_workflow: Table<'txn, (&'static str, Id), u8>,
    by_name: Table<'txn, (&'static str, &'static str), Id>,
    unfinished: Table<'txn, Id, i64>,
    journal: Table<'txn, (Id, u64), &'static [u8]>,
    expiries: Table<'txn, (u64, Id), ()>,
}

impl<'txn> ExecutionTables<'txn> {
    pub(super) fn open(transaction: &'txn WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            workflows: transaction.open_table(WORKFLOWS)?,
            definitions: transaction.open_table(DEFINITIONS)?,
            uses: transaction.open_table(USES)?,
            executions: transaction.open_table(EXECUTIONS)?,
            by_workflow: transaction.open_table(BY_WORKFLOW)?,
            by_name: transaction.open_table(BY_NAME)?,
            unfinished: transaction.open_table(UNFINISHED)?,
            journal: transaction.open_table(JOURNAL)?,
            expiries: transaction.open_table(EXPIRIES)?,
        })
    }

    pub(super) fn apply(&mut self, change: &Change) -> Result<u64, redb::Error> {
        match change {
            Change::PutWorkflow {
                name,
                digest,
                record,
                definition,
            } => {
                self.use_definition(digest)?;
                self.definitions
                    .insert(digest.as_str(), definition.as_slice())?;
                let value = (digest.as_str(), record.as_slice());
                let former = self.workflows.insert(name.as_str(), value)?;
                let former = former.map(|former| former.value().0.to_owned());
                self.leave_definition(former)
            }
            Change::DeleteWorkflow { name } => {
                let former = self.workflows.remove(name.as_str())?;
                let former = former.map(|former| former.value().0.to_owned());
                self.leave_definition(former)
            }
            Change::Begin(begin) => self.begin(begin),
            Change::Append(append) => self.append(append),
            Change::Adopt(adopted) => self.adopt(adopted),
            Change::Forget { id } => self.forget(*id),
            Change::Mark { id, summary } => self.mark(*id, summary),
            Change::Sweep { now_unix, limit } => self.sweep(*now_unix, *limit),
        }
    }

    fn use_definition(&mut self, digest: &str) -> Result<(), redb::Error> {
        let uses = self.uses.get(digest)?.map_or(0, |uses| uses.value());
        self.uses.insert(digest, uses + 1)?;
        Ok(())
    }

    /// 1 if there was one to leave.
    fn leave_definition(&mut self, digest: Option<String>) -> Result<u64, redb::Error> {
        let Some(digest) = digest else {
            return Ok(0);
        };
        let uses = self.uses.get(digest.as_str())?.map_or(0, |it| it.value());
        if uses > 1 {
            self.uses.insert(digest.as_str(), uses - 1)?;
        } else {
            self.uses.remove(digest.as_str())?;
            self.definitions.remove(digest.as_str())?;
        }
        Ok(1)
    }

    fn begin(&mut self, begin: &Begin) -> Result<u64, redb::Error> {
        let Begin {
            id,
            workflow,
            name,
            digest,
            standing,
            ..
        } = begin;
        self.use_definition(digest)?;
        if begin.is_named {
            self.by_name
                .insert((workflow.as_str(), name.as_str()), id)?;
        }
        self.stand(*id, (workflow, name, digest), 0, standing)?;
        self.journal.insert((*id, 0), begin.record.as_slice())?;
        Ok(1)
    }

    fn append(&mut self, append: &Append) -> Result<u64, redb::Error> {
        let Append { id, sequence, .. } = append;
        if let Some(standing) = &append.standing {
            let Some(row) = self.executions.get(id)? else {
                // Swept, which doesn't happen to one that runs.
                return Ok(0);
            };
            let (_, expires, workflow, name, digest, _) = row.value();
            let (workflow, name, digest) =
                (workflow.to_owned(), name.to_owned(), digest.to_owned());
            drop(row);
            self.stand(*id, (&workflow, &name, &digest), expires, standing)?;
        }
        self.journal
            .insert((*id, *sequence), append.record.as_slice())?;
        Ok(1)
    }

    fn stand(
        &mut self,
        id: Id,
        (workflow, name, digest): (&str, &str, &str),
        former_expiry: u64,
        standing: &Standing,
    ) -> Result<(), redb::Error> {
        let expires = standing.expires_unix;
        let row = (
            standing.status,
            expires,
            workflow,
            name,
            digest,
            standing.summary.as_slice(),
        );
        self.executions.insert(id, row)?;
        self.by_workflow.insert((workflow, id), standing.status)?;
        match standing.wake {
            Some(wake) => self.unfinished.insert(id, wake)?,
            None => self.unfinished.remove(id)?,
        };
        if former_expiry != expires {
            self.expiries.remove((former_expiry, id))?;
            if expires > 0 {
                self.expiries.insert((expires, id), ())?;
            }
        }
        Ok(())
    }

    fn sweep(&mut self, now_unix: u64, limit: u32) -> Result<u64, redb::Error> {
        let mut removed = 0;
        while removed < u64::from(limit) {
            let first = self.expiries.first()?.map(|(key, _)| key.value());
            let Some((expires, id)) = first.filter(|(expires, _)| *expires <= now_unix) else {
                break;
            };
            self.expiries.remove((expires, id))?;
            removed += 1;
            self.forget(id)?;
        }
        Ok(removed)
    }
}

/// An execution as it is kept.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) id: Id,
    pub(crate) status: u8,
    pub(crate) workflow: String,
    pub(crate) name: String,
    pub(crate) digest: String,
    pub(crate) summary: Vec<u8>,
}

impl Stored {
    fn of(id: Id, (status, _, workflow, name, digest, summary): Row<'_>) -> Self {
        Self {
            id,
            status,
            workflow: workflow.to_owned(),
            name: name.to_owned(),
            digest: digest.to_owned(),
            summary: summary.to_vec(),
        }
    }
}

/// Which executions are wanted, the newest first.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wanted {
    pub(crate) workflow: Option<String>,
    pub(crate) status: Option<u8>,
    /// Older than this one.
    pub(crate) before: Option<Id>,
    pub(crate) limit: usize,
}

/// Executions that are looked at for one page at most, so that a rare status costs no more.
const SCAN_MAX: usize = 10_000;

impl Store {
    /// Writes a workflow and its definition. `true` if it replaced one.
    pub(crate) async fn put_workflow(
        &self,
        name: &str,
        digest: &str,
        record: Vec<u8>,
        definition: Vec<u8>,
    ) -> Result<bool, StoreError> {
        let change = Change::PutWorkflow {
            name: name.to_owned(),
            digest: digest.to_owned(),
            record,
            definition,
        };
        Ok(self.write(Operation::Workflow(change)).await? != 0)
    }

    /// Removes a workflow. `false` if there was none.
    pub(crate) async fn delete_workflow(&self, name: &str) -> Result<bool, StoreError> {
        let name = name.to_owned();
        let change = Change::DeleteWorkflow { name };
        Ok(self.write(Operation::Workflow(change)).await? != 0)
    }

    /// Writes a new execution.
    pub(crate) async fn begin_execution(&self, begin: Begin) -> Result<(), StoreError> {
        let change = Change::Begin(Box::new(begin));
        self.write(Operation::Workflow(change)).await?;
        Ok(())
    }

    /// Adds to an execution's journal.
    pub(crate) async fn append_journal(&self, append: Append) -> Result<(), StoreError> {
        let change = Change::Append(Box::new(append));
        self.write(Operation::Workflow(change)).await?;
        Ok(())
    }

    /// Forgets executions that have expired at `now_unix` (seconds); returns how many.
    pub(crate) async fn sweep_executions(&self, now_unix: u64) -> Result<u64, StoreError> {
        let mut removed = 0;
        loop {
            let limit = SWEEP_STEP;
            let change = Change::Sweep { now_unix, limit };
            let step = self.write(Operation::Workflow(change)).await?;
            removed += step;
            if step < u64::from(limit) {
                return Ok(removed);
            }
        }
    }

    /// Shows all workflows: name, digest of the definition, record. After an I/O error it begins
    /// anew, so some may be shown twice.
    pub(crate) fn visit_workflows(
        &self,
        mut visit: impl FnMut(&str, &str, &[u8]),
    ) -> Result<(), StoreError> {
        self.read(|snapshot| {
            for entry in snapshot.open_table(WORKFLOWS)?.iter()? {
                let (name, value) = entry?;
                let (digest, record) = value.value();
                visit(name.value(), digest, record);
            }
            Ok(())
        })
    }

    /// The text of a definition.
    pub(crate) fn definition(&self, digest: &str) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|snapshot| {
            let text = snapshot.open_table(DEFINITIONS)?.get(digest)?;
            Ok(text.map(|text| text.value().to_vec()))
        })
    }

    /// An execution.
    pub(crate) fn execution(&self, id: Id) -> Result<Option<Stored>, StoreError> {
        self.read(|snapshot| {
            let row = snapshot.open_table(EXECUTIONS)?.get(id)?;
            Ok(row.map(|row| Stored::of(id, row.value())))
        })
    }

    /// The execution that was given this name.
    pub(crate) fn execution_named(
        &self,
        workflow: &str,
        name: &str,
    ) -> Result<Option<Id>, StoreError> {
        self.read(|snapshot| {
            let id = snapshot.open_table(BY_NAME)?.get((workflow, name))?;
            Ok(id.map(|id| id.value()))
        })
    }

    /// A page of executions, the newest first, and the one before which the next page begins.
    pub(crate) fn executions(
        &self,
        wanted: &Wanted,
    ) -> Result<(Vec<Stored>, Option<Id>), StoreError> {
        let end = wanted.before.unwrap_or(Id::MAX);
        self.read(|snapshot| {
            let executions = snapshot.open_table(EXECUTIONS)?;
            let mut page = Page::of(wanted);
            if let Some(workflow) = &wanted.workflow {
                let index = snapshot.open_table(BY_WORKFLOW)?;
                let range = (workflow.as_str(), 0)..(workflow.as_str(), end);
                for entry in index.range(range)?.rev() {
                    let (key, status) = entry?;
                    let (_, id) = key.value();
                    if page.is_full(id) {
                        break;
                    }
                    if page.wants(status.value())
                        && let Some(row) = executions.get(id)?
                    {
                        page.found.push(Stored::of(id, row.value()));
                    }
                }
            } else {
                for entry in executions.range(0..end)?.rev() {
                    let (id, row) = entry?;
                    let id = id.value();
                    if page.is_full(id) {
                        break;
                    }
                    if page.wants(row.value().0) {
                        page.found.push(Stored::of(id, row.value()));
                    }
                }
            }
            Ok((page.found, page.next))
        })
    }

    /// Shows the records of an execution's journal, in order.
    pub(crate) fn visit_journal(
        &self,
        id: Id,
        mut visit: impl FnMut(u64, &[u8]),
    ) -> Result<(), StoreError> {
        self.read(|snapshot| {
            let journal = snapshot.open_table(JOURNAL)?;
            for entry in journal.range((id, 0)..=(id, u64::MAX))? {
                let (key, record) = entry?;
                visit(key.value().1, record.value());
            }
            Ok(())
        })
    }

    /// Records of an execution's journal from this number on, in order, until they have `bytes`.
    pub(crate) fn journal_from(
        &self,
        id: Id,
        from: u64,
        bytes: usize,
    ) -> Result<Vec<(u64, Vec<u8>)>, StoreError> {
        self.read(|snapshot| {
            let journal = snapshot.open_table(JOURNAL)?;
            let (mut records, mut read) = (Vec::new(), 0);
            for entry in journal.range((id, from)..=(id, u64::MAX))? {
                let (key, record) = entry?;
                read += record.value().len();
                records.push((key.value().1, record.value().to_vec()));
                if read >= bytes {
                    break;
                }
            }
            Ok(records)
        })
    }

    /// The first record of an execution's journal.
    pub(crate) fn journal_first(&self, id: Id) -> Result<Option<Vec<u8>>, StoreError> {
        self.read(|snapshot| {
            let record = snapshot.open_table(JOURNAL)?.get((id, 0))?;
            Ok(record.map(|record| record.value().to_vec()))
        })
    }

    /// What `find` makes of the last record of an execution's journal of which it makes something.
    pub(crate) fn journal_last<T>(
        &self,
        id: Id,
        find: impl Fn(&[u8]) -> Option<T>,
    ) -> Result<Option<T>, StoreError> {
        self.read(|snapshot| {
            let journal = snapshot.open_table(JOURNAL)?;
            for entry in journal.range((id, 0)..=(id, u64::MAX))?.rev() {
                if let Some(found) = find(entry?.1.value()) {
                    return Ok(Some(found));
                }
            }
            Ok(None)
        })
    }

    /// Shows all executions that have not ended, with the time to wake them.
    pub(crate) fn visit_unfinished(
        &self,
        mut visit: impl FnMut(Id, i64),
    ) -> Result<(), StoreError> {
        self.read(|snapshot| {
            for entry in snapshot.open_table(UNFINISHED)?.iter()? {
                let (id, wake) = entry?;
                visit(id.value(), wake.value());
            }
            Ok(())
        })
    }
}

/// A page in the making.
struct Page {
    found: Vec<Stored>,
    next: Option<Id>,
    status: Option<u8>,
    limit: usize,
    scanned: usize,
    last: Option<Id>,
}

impl Page {
    fn of(wanted: &Wanted) -> Self {
        Self {
            found: Vec::new(),
            next: None,
            status: wanted.status,
            limit: wanted.limit,
            scanned: 0,
            last: wanted.before,
        }
    }

    /// Whether the execution `id` belongs to the next page.
    fn is_full(&mut self, id: Id) -> bool {
        if self.found.len() >= self.limit || self.scanned >= SCAN_MAX {
            self.next = self.last;
            return true;
        }
        self.scanned += 1;
        self.last = Some(id);
        false
    }

    fn wants(&self, status: u8) -> bool {
        self.status.is_none_or(|wanted| wanted == status)
    }
}
