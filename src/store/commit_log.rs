//! Commit records: what each transaction changed, for those who follow the
//! counters rather than ask for them.
//!
//! Each transaction of a writer raises the number in its document in `writers`
//! (`rebuild::fence`) and inserts one document into `commits`, keyed by both. So
//! the numbers of all writers, a [`Position`], say what is committed, and a record
//! that should be there and is not says that something is missing.

mod cut;
mod position;
mod record;

use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use mongodb::bson::oid::ObjectId;
use mongodb::bson::raw::RawDocument;
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, DateTime, Document, RawDocumentBuf, doc, rawdoc};

pub use cut::Cut;
pub use position::Position;
pub use record::{
    ConsumedChanged, DialogChanged, DialogNow, Facts, NotARecord, Record, ShareChanged,
};

use super::documents::collection;
use super::rebuild::fence::{Enrolment, WriterId};
use super::{Store, StoreError};
use crate::event::Micros;

/// A question that takes longer is given up by the server.
const QUERY_TIMEOUT: Duration = Duration::from_secs(5);
/// Records that are read at once, some five times as much in memory.
const MAX_READ_BYTES: usize = 8 << 20;
/// Commits of one writer that are asked for at once, at most.
const MAX_COMMITS_PER_RANGE: i64 = 1_000;

/// A transaction that is committed.
#[derive(Debug, Clone)]
pub struct Committed {
    /// The writer that committed it.
    pub(crate) writer: WriterId,
    /// Its number among those of its writer, from 1.
    pub number: i64,
    /// What the transaction changed.
    pub record: Arc<Record>,
}

/// Commits of one writer, the ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The writer whose commits they are.
    pub(crate) writer: WriterId,
    /// The number of the first commit.
    pub from: i64,
    /// The number of the last commit.
    pub to: i64,
}

/// Makes the document of `commits` that tells of a writer's next transaction. What is
/// too much to tell becomes so in `record` as well.
pub(super) fn commit_document(by: &Enrolment, record: &mut Record) -> RawDocumentBuf {
    let bytes = Binary {
        subtype: BinarySubtype::Generic,
        bytes: record.to_bytes(),
    };
    rawdoc! {
        "_id": { "w": by.writer().id(), "n": by.next() },
        "at": DateTime::from_millis(record.at.get() / 1_000),
        "r": bytes,
    }
}

/// The time of writing as [`Micros`].
pub(super) fn written_at(now: DateTime) -> Micros {
    Micros::shown_by(now.to_system_time())
}

impl Store {
    /// The records of these commits that there are, in any order: those that are
    /// missing were removed, are not to be seen from this server yet, or are too
    /// many to be had at once.
    ///
    /// # Errors
    /// Any [`StoreError`]; [`StoreError::Answer`] for one that cannot be read.
    pub async fn commit_records(&self, spans: &[Span]) -> Result<Vec<Committed>, StoreError> {
        let ranges = spans.iter().flat_map(|span| pieces(*span)).map(range);
        let ranges: Vec<Document> = ranges.collect();
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let commits = self
            .database()
            .collection::<RawDocumentBuf>(collection::COMMITS);
        let mut found = commits
            .find(doc! { "$or": ranges })
            .max_time(QUERY_TIMEOUT)
            .await?;
        let (mut records, mut bytes) = (Vec::new(), 0);
        while bytes < MAX_READ_BYTES
            && let Some(document) = found.try_next().await?
        {
            bytes += document.as_bytes().len();
            records.push(committed(&document)?);
        }
        Ok(records)
    }
}

fn pieces(span: Span) -> impl Iterator<Item = Span> {
    let starts = (span.from..=span.to).step_by(MAX_COMMITS_PER_RANGE as usize);
    starts.map(move |from| Span {
        from,
        to: span.to.min(from + MAX_COMMITS_PER_RANGE - 1),
        ..span
    })
}

fn range(span: Span) -> Document {
    let id = |number: i64| doc! { "w": span.writer.id(), "n": number };
    doc! { "_id": { "$gte": Bson::Document(id(span.from)), "$lte": id(span.to) } }
}

fn committed(document: &RawDocument) -> Result<Committed, StoreError> {
    let malformed = |what: String| StoreError::Answer(format!("a commit record with {what}"));
    let part = |error: mongodb::bson::error::Error| malformed(error.to_string());
    let id = document.get_document("_id").map_err(part)?;
    let writer: ObjectId = id.get_object_id("w").map_err(part)?;
    let bytes = document.get_binary("r").map_err(part)?.bytes;
    let record = Record::from_bytes(bytes).map_err(|error| malformed(error.to_string()))?;
    Ok(Committed {
        writer: WriterId::of(writer),
        number: id.get_i64("n").map_err(part)?,
        record: Arc::new(record),
    })
}
