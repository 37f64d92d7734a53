//! Writing a batch: everything that its events change, in one transaction.
//!
//! The driver's `Client::bulk_write` needs a server of version 8. What is used
//! here, an `insert` or `update` command with many statements, is what the
//! older bulk writes send, and works on every version; [`Write`] is the only
//! type that would change.

mod abandoned;
mod name_limits;
mod statements;

use std::sync::Arc;

use mongodb::bson::{DateTime, Document, RawArrayBuf, RawDocumentBuf, rawdoc};
use mongodb::{ClientSession, Database};

use super::commit_log::{Committed, Record, commit_document, written_at};
use super::documents::collection;
use super::rebuild::fence::Enrolment;
use super::rebuild::generation::{Generation, Generations};
use super::transaction::Transaction;
use super::{Store, StoreError};
use crate::derive::Changes;
use crate::failpoint::{self, Point};
use statements::{Events, writes};
pub(super) use statements::{Verb, Write};

/// Statements in one command. The server allows 100,000.
const MAX_STATEMENTS_PER_COMMAND: usize = 20_000;
/// Bytes in one command. The server allows a document of 16 MiB.
const MAX_COMMAND_BYTES: usize = 8 << 20;

impl Store {
    /// Writes a batch: all of it, or nothing.
    ///
    /// # Errors
    /// Any [`StoreError`]. Unless [`StoreError::is_unknown_commit`], nothing
    /// was written. In that case, and when it is [`StoreError::is_fenced_off`],
    /// the writer must enrol anew, and derive from what is stored.
    pub(crate) async fn commit(
        &self,
        changes: &Changes,
        by: &mut Enrolment,
    ) -> Result<Committed, StoreError> {
        let now = DateTime::now();
        let record = Record::of(changes, written_at(now));
        let mut writes = writes(changes, by.generations(), Events::Taken, now)?;
        let committed = prove(&mut writes, record, by);
        self.write("commit", &writes).await?;
        by.count();
        Ok(committed)
    }

    /// Writes what events from the journal change in collections that are
    /// being rebuilt: all of it, or nothing.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub(crate) async fn commit_replayed(
        &self,
        changes: &Changes,
        to: &Generations,
    ) -> Result<(), StoreError> {
        let writes = writes(changes, to, Events::Replayed, DateTime::now())?;
        self.write("commit_replayed", &writes).await
    }

    /// Writes all of it, or nothing, in a transaction of this name. Statements are
    /// written in their order.
    ///
    /// # Errors
    /// As [`Store::commit`].
    pub(super) async fn write(
        &self,
        name: &'static str,
        writes: &[Write],
    ) -> Result<(), StoreError> {
        self.run_transaction(&Writing { name, writes }).await?;
        failpoint::pass(Point::AfterCommit);
        Ok(())
    }
}

/// The transaction of [`Store::write`].
struct Writing<'w> {
    name: &'static str,
    writes: &'w [Write],
}

impl Transaction for Writing<'_> {
    type Output = ();

    fn name(&self) -> &'static str {
        self.name
    }

    async fn run(&self, store: &Store, session: &mut ClientSession) -> Result<(), StoreError> {
        let database = store.database();
        failpoint::pass(Point::TransactionBegun);
        for write in self.writes {
            write.run(&database, session).await?;
        }
        failpoint::pass(Point::BeforeCommit);
        Ok(())
    }
}

/// Puts before the writes of a transaction what permits it and gives it its
/// number, and after its dialogs what tells of it.
pub(super) fn prove(writes: &mut Vec<Write>, mut record: Record, by: &Enrolment) -> Committed {
    let told = commit_document(by, &mut record);
    let told = single(collection::COMMITS, Verb::Insert, told);
    let proof = single(collection::WRITERS, Verb::Update, by.proof());
    writes.insert(0, proof);
    // A conflict shows at the dialogs: nothing is sent before them in vain.
    writes.insert(writes.len().min(2), told);
    Committed {
        writer: by.writer(),
        number: by.next(),
        record: Arc::new(record),
    }
}

/// Makes the write of one statement to a collection that no rebuild makes anew.
fn single(collection: &'static str, verb: Verb, statement: RawDocumentBuf) -> Write {
    Write {
        collection,
        generation: Generation::default(),
        verb,
        statements: vec![statement],
    }
}

impl Write {
    async fn run(
        &self,
        database: &Database,
        session: &mut ClientSession,
    ) -> Result<(), StoreError> {
        let mut rest = self.statements.as_slice();
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(chunk_len(rest));
            let reply = database
                .run_raw_command(self.command(chunk))
                .session(&mut *session)
                .await?;
            self.check(&reply, chunk.len())?;
            rest = later;
        }
        Ok(())
    }

    fn command(&self, statements: &[RawDocumentBuf]) -> RawDocumentBuf {
        let mut array = RawArrayBuf::new();
        for statement in statements {
            array.push(statement);
        }
        let collection = self.generation.collection(self.collection);
        match self.verb {
            Verb::Insert => rawdoc! { "insert": &*collection, "documents": array },
            Verb::Update => rawdoc! { "update": &*collection, "updates": array },
        }
    }

    /// `run_command` hands the reply over as it is: refusals are inside.
    fn check(&self, reply: &Document, statements: usize) -> Result<(), StoreError> {
        if let Ok(errors) = reply.get_array("writeErrors") {
            let first = errors.first().and_then(|error| error.as_document());
            let first = first.cloned().unwrap_or_default();
            return Err(StoreError::Write {
                collection: self.collection,
                code: first.get_i32("code").unwrap_or_default(),
                message: first.get_str("errmsg").unwrap_or_default().to_owned(),
            });
        }
        let found = i64::from(reply.get_i32("n").map_err(|e| {
            StoreError::Answer(format!("a write to `{}` without `n`: {e}", self.collection))
        })?);
        let expected = statements as i64;
        if found == expected {
            Ok(())
        } else {
            Err(StoreError::Moved {
                collection: self.collection,
                expected,
                found,
            })
        }
    }
}

/// How many statements fit into one command: at least one.
fn chunk_len(statements: &[RawDocumentBuf]) -> usize {
    let mut bytes = 0;
    let fitting = statements
        .iter()
        .take(MAX_STATEMENTS_PER_COMMAND)
        .take_while(|s| {
            bytes += s.as_bytes().len() + 16;
            bytes <= MAX_COMMAND_BYTES
        });
    fitting.count().max(1)
}
