//! Looking: which letters there are, one by one and by cause.

use std::time::{Duration, SystemTime};

use futures::{Stream, TryStreamExt as _, stream};
use mongodb::bson::{Bson, Document, doc};
use serde::Deserialize;
use time::OffsetDateTime;

use super::collection::LetterCollection;
use super::document::{LetterDocument, LetterEntry, StoredLetter, millis, moment};
use super::index::{BodySize, GONE};
use crate::deadletter::{Filter, LetterId};
use crate::store::{Store, StoreError};

/// The number of groups in one answer at most.
const MAX_LETTER_GROUPS: i64 = 1_000;
/// The number of tenants that are named of a group at most.
const MAX_TENANTS_NAMED: usize = 20;

/// The position in a listing where a page ends: the next page begins after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterPosition {
    /// When the last letter of the page failed last, in milliseconds since the epoch.
    pub millis: i64,
    /// The name of that letter.
    pub id: LetterId,
}

/// A page of letters, latest failure first.
#[derive(Debug)]
pub struct LetterPage {
    /// The letters of the page.
    pub entries: Vec<LetterEntry>,
    /// Whether there are more letters behind the page.
    pub more: bool,
}

/// The letters with the same cause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LetterGroup {
    /// The name of the group.
    pub id: String,
    /// The name of the reason for which the letters were given up.
    pub reason: String,
    /// The error without what differs from letter to letter.
    pub cause: String,
    /// The number of letters, copies included.
    pub count: u64,
    /// When a letter of the group first failed.
    pub first_seen_at: OffsetDateTime,
    /// When a letter of the group last failed.
    pub last_seen_at: OffsetDateTime,
    /// The tenants with the most letters of the group, 20 at most.
    pub tenants: Vec<String>,
    /// The number of tenants with letters of the group.
    pub tenant_count: u64,
    /// The name of the letter that failed last.
    pub example: LetterId,
}

impl Store {
    /// Returns the letters that match after a position, at most so many.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn list_letters(
        &self,
        collection: LetterCollection,
        filter: &Filter,
        after: Option<&LetterPosition>,
        limit: usize,
    ) -> Result<LetterPage, StoreError> {
        let mut conditions = vec![matching(filter)];
        if let Some(LetterPosition { millis, id }) = after {
            let at = mongodb::bson::DateTime::from_millis(*millis);
            conditions.push(doc! { "$or": [
                { "last_failed_at": { "$lt": at } },
                { "last_failed_at": at, "_id": { "$lt": id.as_str() } },
            ] });
        }
        let found = self
            .letters_in::<LetterDocument>(collection)
            .find(doc! { "$and": conditions })
            .sort(doc! { "last_failed_at": -1, "_id": -1 })
            .limit(i64::try_from(limit + 1).unwrap_or(i64::MAX))
            .projection(doc! { "properties": 0, "body": 0 })
            .await?;
        let mut entries: Vec<_> = found
            .map_ok(LetterDocument::into_entry)
            .try_collect()
            .await?;
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(LetterPage { entries, more })
    }

    /// Counts the letters that match, copies included.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn count_letters(
        &self,
        collection: LetterCollection,
        filter: &Filter,
    ) -> Result<u64, StoreError> {
        let entries = match filter.is_empty() {
            true => self.count_entries(collection).await?,
            false => {
                let letters = self.letters_in::<Document>(collection);
                letters.count_documents(matching(filter)).await?
            }
        };
        Ok(entries + self.further_copies(collection, matching(filter)).await?)
    }

    /// Returns the letters with this id, or whose ids begin so, of the tenants
    /// `permitted` (see [`Filter::permitted`]): two of them at most.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn find_letters(
        &self,
        collection: LetterCollection,
        id: &LetterId,
        permitted: Option<&[String]>,
    ) -> Result<Vec<StoredLetter>, StoreError> {
        let letters = self.letters_in::<LetterDocument>(collection);
        let mut wanted = named(id);
        wanted.extend(permitted.map(of_tenants).unwrap_or_default());
        let found = letters.find(wanted).limit(2).await?;
        let found = found.map_ok(LetterDocument::into_stored);
        Ok(found.try_collect().await?)
    }

    /// Reads the letters of the queue that match, with their bodies, some at a time: at
    /// most so many, and no more than have bodies of so many bytes.
    ///
    /// # Errors
    /// Any [`StoreError`], also while they are read.
    pub async fn read_letters(
        &self,
        filter: &Filter,
        limits: (usize, usize),
    ) -> Result<impl Stream<Item = Result<Vec<StoredLetter>, StoreError>>, StoreError> {
        let sizes = self.letters_in::<BodySize>(LetterCollection::Queue);
        let sizes = sizes.find(matching(filter)).projection(doc! { "bytes": 1 });
        let sizes = sizes.await?.map_err(StoreError::from);
        let letters = self.letters_in::<LetterDocument>(LetterCollection::Queue);
        // Chosen by size first: an answer of the server has up to 16 MiB.
        let some = grouped(sizes, limits).and_then(move |ids| {
            let letters = letters.clone();
            async move {
                let found = letters.find(doc! { "_id": { "$in": ids } }).await?;
                Ok(found
                    .map_ok(LetterDocument::into_stored)
                    .try_collect()
                    .await?)
            }
        });
        Ok(some)
    }

    /// Groups the letters that match by their cause, the most frequent first.
    ///
    /// # Errors
    /// Any [`StoreError`].
    pub async fn letter_groups(&self, filter: &Filter) -> Result<Vec<LetterGroup>, StoreError> {
        let mut which = vec![matching(filter)];
        if filter.is_empty() {
            // True of all, and has them read from the index alone.
            which.push(doc! { "group": { "$gte": "" } });
        }
        let stages = [
            doc! { "$match": { "$and": which } },
            // By tenant first, so that no list grows with the letters.
            doc! { "$group": {
                "_id": { "group": "$group", "tenant": "$tenant" },
                "count": { "$sum": { "$max": ["$copies", 1_i64] } },
                "first": { "$min": "$first_failed_at" },
                "last": { "$max": { "at": "$last_failed_at", "id": "$_id" } },
            } },
            doc! { "$sort": { "count": -1, "_id": 1 } },
            doc! { "$group": {
                "_id": "$_id.group",
                "count": { "$sum": "$count" },
                "first": { "$min": "$first" },
                "last": { "$max": "$last" },
                "tenants": { "$push": "$_id.tenant" },
            } },
            doc! { "$set": {
                "tenant_count": { "$size": "$tenants" },
                "tenants": { "$slice": ["$tenants", MAX_TENANTS_NAMED as i32] },
            } },
            doc! { "$sort": { "count": -1, "_id": 1 } },
            doc! { "$limit": MAX_LETTER_GROUPS },
            // The texts are those of any letter of the group.
            doc! { "$lookup": {
                "from": LetterCollection::Queue.name(),
                "localField": "last.id",
                "foreignField": "_id",
                "as": "example",
                "pipeline": [{ "$project": { "reason": 1, "cause": 1 } }],
            } },
        ];
        let letters = self.letters_in::<Document>(LetterCollection::Queue);
        let found = letters.aggregate(stages).with_type::<GroupDocument>();
        let found = found.await?.map_ok(GroupDocument::group);
        Ok(found.try_collect().await?)
    }
}

/// Groups letters in the order in which they come, as many together as the limits allow:
/// a number of letters, and the bytes of their bodies.
fn grouped(
    sizes: impl Stream<Item = Result<BodySize, StoreError>> + Unpin,
    (most, most_bytes): (usize, usize),
) -> impl Stream<Item = Result<Vec<String>, StoreError>> {
    stream::try_unfold((sizes, None), move |(mut sizes, mut next)| async move {
        let (mut some, mut sum) = (Vec::new(), 0);
        loop {
            let size = match next.take() {
                Some(size) => size,
                None => match sizes.try_next().await? {
                    Some(size) => size,
                    None => break,
                },
            };
            sum += usize::try_from(size.bytes).unwrap_or(0);
            if !some.is_empty() && (some.len() == most || sum > most_bytes) {
                next = Some(size);
                break;
            }
            some.push(size.id);
        }
        Ok((!some.is_empty()).then_some((some, (sizes, next))))
    })
}

#[derive(Deserialize)]
struct GroupDocument {
    #[serde(rename = "_id")]
    id: String,
    count: i64,
    first: mongodb::bson::DateTime,
    last: Last,
    tenants: Vec<Option<String>>,
    tenant_count: i64,
    example: Vec<Example>,
}

#[derive(Deserialize)]
struct Last {
    at: mongodb::bson::DateTime,
    id: String,
}

#[derive(Deserialize)]
struct Example {
    reason: String,
    cause: String,
}

impl GroupDocument {
    fn group(self) -> LetterGroup {
        let count = |count: i64| u64::try_from(count).unwrap_or(0);
        // None: it was replayed this very moment.
        let example = self.example.into_iter().next();
        let (reason, cause) = example.map_or_else(Default::default, |e| (e.reason, e.cause));
        LetterGroup {
            id: self.id,
            reason,
            cause,
            count: count(self.count),
            first_seen_at: moment(self.first),
            last_seen_at: moment(self.last.at),
            tenants: self.tenants.into_iter().flatten().collect(),
            tenant_count: count(self.tenant_count),
            example: LetterId::stored(self.last.id),
        }
    }
}

/// Makes the filter on documents that finds the entries which stand for letters and match.
pub(super) fn matching(filter: &Filter) -> Document {
    let mut all = vec![doc! { "state": { "$ne": GONE } }];
    all.extend(filter.permitted.as_deref().map(of_tenants));
    if !filter.ids.is_empty() {
        let ids: Vec<Document> = filter.ids.iter().map(named).collect();
        all.push(doc! { "$or": ids });
    }
    if !filter.reasons.is_empty() {
        all.push(doc! { "reason": { "$in": &filter.reasons } });
    }
    for (field, value) in [
        ("group", &filter.group),
        ("type", &filter.event_type),
        ("tenant", &filter.tenant),
        ("event", &filter.event),
        ("dialog", &filter.dialog),
    ] {
        if let Some(value) = value {
            all.push(doc! { field: { "$eq": value } });
        }
    }
    if let Some(text) = &filter.error {
        let pattern = doc! { "$regex": escaped(text), "$options": "i" };
        all.push(doc! { "error": pattern });
    }
    let now = OffsetDateTime::from(SystemTime::now());
    // Longer ago than there is time to count: before everything.
    let ago = |age: &Duration| {
        let age = time::Duration::try_from(*age).ok();
        let at = age.and_then(|age| now.checked_sub(age));
        at.unwrap_or(OffsetDateTime::UNIX_EPOCH)
    };
    let younger = filter.younger_than.as_ref().map(ago);
    let older = filter.older_than.as_ref().map(ago);
    for since in filter.since.into_iter().chain(younger) {
        all.push(doc! { "last_failed_at": { "$gte": millis(since) } });
    }
    for until in filter.until.into_iter().chain(older) {
        all.push(doc! { "last_failed_at": { "$lt": millis(until) } });
    }
    doc! { "$and": all }
}

/// Makes the filter that finds letters of these tenants, and none of unknown tenants.
fn of_tenants(permitted: &[String]) -> Document {
    doc! { "tenant": { "$in": permitted } }
}

/// Makes the filter that finds letters by their name, or how it begins.
fn named(id: &LetterId) -> Document {
    if id.is_whole() {
        return doc! { "_id": id.as_str() };
    }
    // "g" comes after every hexadecimal digit.
    let end: Bson = format!("{id}g").into();
    doc! { "_id": { "$gte": id.as_str(), "$lt": end } }
}

/// Returns a pattern that matches this text and nothing else.
fn escaped(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn letters_are_read_as_many_together_as_may_be() {
        let sizes = [3, 3, 3, 20, 1, 1, 1, 1].into_iter().enumerate();
        let sizes = sizes.map(|(number, bytes)| {
            let id = number.to_string();
            Ok(BodySize { id, bytes })
        });
        let groups = grouped(stream::iter(sizes), (3, 8));
        let groups: Vec<_> = groups.try_collect().await.unwrap();
        let sizes: Vec<_> = groups.iter().map(Vec::len).collect();
        assert_eq!((groups.concat().len(), sizes), (8, vec![2, 1, 1, 3, 1]));
    }

    #[test]
    fn a_text_is_not_taken_for_a_pattern() {
        assert_eq!(escaped("a.b* [é] \\"), "a\\.b\\* \\[é\\] \\\\");
    }
}
