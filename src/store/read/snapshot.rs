//! One consistent view of the committed state, and the finds that reads need.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use mongodb::Collection;
use mongodb::bson::raw::{RawDocument, RawDocumentBuf};
use mongodb::bson::{Document, doc};
use mongodb::options::FindOptions;
use tokio::time::Instant;

use crate::event::{DialogId, EventId, MessageId, TenantId, UserId};
use crate::store::commit_log::Position;
use crate::store::documents::decode::{key, wrong};
use crate::store::documents::id::part;
use crate::store::documents::{collection, dialog, id, membership, message};
use crate::store::rebuild::generation::Generation;
use crate::store::snapshot::Snapshot;
use crate::store::{Store, StoreError};

use super::ReadError;
use super::rows::{DialogRow, Malformed, MembershipRow, MessageRow};

/// Documents in one round trip and in memory at a time.
pub(super) const CHUNK_DOCUMENTS: usize = 1_000;
/// Small documents in one round trip of a scan.
const SCAN_BATCH_DOCUMENTS: u32 = 5_000;
/// Documents that are gone through before others have their turn: a reply has
/// many, and nothing is waited for between them.
const DOCUMENTS_BETWEEN_YIELDS: usize = 100;

/// One tenant's documents at one moment, to be read until a deadline.
pub struct TenantSnapshot {
    snapshot: Snapshot,
    generation: Generation,
    deadline: Instant,
}

impl TenantSnapshot {
    /// The moment is that of the first find, which tells where the tenant's
    /// documents are.
    pub(super) async fn open(
        store: &Store,
        tenant: &TenantId,
        deadline: Instant,
    ) -> Result<Self, ReadError> {
        let snapshot = store.snapshot(Some(left_until(deadline)?)).await;
        let snapshot = snapshot.map_err(|error| match error {
            StoreError::Driver(error) => error.into(),
            _ => ReadError::malformed(collection::META, wrong("tenants")),
        })?;
        Ok(Self {
            generation: snapshot.generations().of(tenant),
            snapshot,
            deadline,
        })
    }

    /// Which commits are in it.
    pub(super) async fn position(&mut self) -> Result<Position, ReadError> {
        Ok(self
            .snapshot
            .store
            .position_in(&mut self.snapshot.session)
            .await?)
    }

    /// Whether an event's effect is part of this snapshot.
    pub(super) async fn has_event(
        &mut self,
        tenant: &TenantId,
        event: &EventId,
    ) -> Result<bool, ReadError> {
        let id = id::event(tenant, event).document();
        let find = Find {
            collection: collection::JOURNAL,
            filter: doc! { id::ID: id },
            fields: &[],
            sort: None,
            limit: 1,
        };
        let found = self.find(find, |_| Ok(())).await?;
        Ok(!found.is_empty())
    }

    /// Shares of users in their dialogs, by user and dialog: the first
    /// [`CHUNK_DOCUMENTS`] of them.
    async fn shares_of_users(
        &mut self,
        tenant: &TenantId,
        users: &[UserId],
    ) -> Result<Vec<MembershipRow>, ReadError> {
        let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
        let user = doc! { "$in": users };
        self.shares(
            doc! { id::TENANT: tenant.as_str(), id::USER: user },
            CHUNK_DOCUMENTS,
        )
        .await
    }

    /// The shares of a user after a dialog, by dialog: the first `limit`.
    /// `members_only` leaves out those of dialogs that the user is not in.
    pub(super) async fn shares_after(
        &mut self,
        tenant: &TenantId,
        user: &UserId,
        after: Option<&DialogId>,
        members_only: bool,
        limit: usize,
    ) -> Result<Vec<MembershipRow>, ReadError> {
        let mut filter = doc! { id::TENANT: tenant.as_str(), id::USER: user.as_str() };
        if let Some(after) = after {
            filter.insert(id::DIALOG, doc! { "$gt": after.as_str() });
        }
        if members_only {
            filter.insert(membership::MEMBER, true);
        }
        self.shares(filter, limit).await
    }

    async fn shares(
        &mut self,
        filter: Document,
        limit: usize,
    ) -> Result<Vec<MembershipRow>, ReadError> {
        let find = Find {
            collection: collection::MEMBERSHIPS,
            filter,
            fields: SHARE_FIELDS,
            sort: Some(membership::by_user()),
            limit,
        };
        self.find(find, MembershipRow::parse).await
    }

    /// One user's share of one dialog.
    pub(super) async fn share(
        &mut self,
        tenant: &TenantId,
        dialog: &DialogId,
        user: &UserId,
    ) -> Result<Option<MembershipRow>, ReadError> {
        let id = id::membership(tenant, dialog, user).document();
        let find = Find {
            collection: collection::MEMBERSHIPS,
            filter: doc! { id::ID: id },
            fields: SHARE_FIELDS,
            sort: None,
            limit: 1,
        };
        Ok(self.find(find, MembershipRow::parse).await?.pop())
    }

    /// The dialogs that exist among `ids`, with the fields asked for.
    pub(super) async fn dialogs(
        &mut self,
        tenant: &TenantId,
        ids: impl Iterator<Item = &DialogId>,
        fields: &'static [&'static str],
    ) -> Result<HashMap<DialogId, DialogRow>, ReadError> {
        let keys = ids.map(|dialog| id::dialog(tenant, dialog).document());
        self.by_keys(collection::DIALOGS, keys.collect(), fields, |row| {
            Ok((
                DialogId::new(key(row, part::DIALOG)?)?,
                DialogRow::parse(row)?,
            ))
        })
        .await
    }

    /// The messages that exist among `ids`.
    pub(super) async fn messages(
        &mut self,
        tenant: &TenantId,
        ids: impl Iterator<Item = &MessageId>,
    ) -> Result<HashMap<MessageId, MessageRow>, ReadError> {
        let keys = ids.map(|message| id::message(tenant, message).document());
        self.by_keys(
            collection::MESSAGES,
            keys.collect(),
            MESSAGE_FIELDS,
            |row| {
                Ok((
                    MessageId::new(key(row, part::MESSAGE)?)?,
                    MessageRow::parse(row)?,
                ))
            },
        )
        .await
    }

    pub(super) async fn by_keys<K: Eq + std::hash::Hash, V>(
        &mut self,
        collection: &'static str,
        mut keys: Vec<Document>,
        fields: &'static [&'static str],
        parse: impl Fn(&RawDocument) -> Result<(K, V), Malformed>,
    ) -> Result<HashMap<K, V>, ReadError> {
        let mut found = HashMap::new();
        while !keys.is_empty() {
            let rest = keys.split_off(keys.len().min(CHUNK_DOCUMENTS));
            let filter = match keys.len() {
                1 => doc! { id::ID: keys.swap_remove(0) },
                _ => doc! { id::ID: { "$in": keys } },
            };
            keys = rest;
            let find = Find {
                collection,
                filter,
                fields,
                sort: None,
                limit: CHUNK_DOCUMENTS,
            };
            found.extend(self.find(find, &parse).await?);
        }
        Ok(found)
    }

    /// What is found, at most [`CHUNK_DOCUMENTS`] documents. Never more than one round
    /// trip unless they are huge: what follows it would not be retried by the
    /// driver (and be sent with a read concern, which servers need not take).
    pub(super) async fn find<T>(
        &mut self,
        find: Find,
        parse: impl Fn(&RawDocument) -> Result<T, Malformed>,
    ) -> Result<Vec<T>, ReadError> {
        debug_assert!((1..=CHUNK_DOCUMENTS).contains(&find.limit));
        let left = self.left()?;
        let limit = u32::try_from(find.limit).unwrap_or(u32::MAX);
        let options = FindOptions::builder()
            .projection(projection(find.fields))
            .sort(find.sort)
            .limit(i64::from(limit))
            // One more than the limit, so that the first reply ends the cursor.
            .batch_size(limit.saturating_add(1))
            .max_time(left)
            .build();
        let mut cursor = self
            .collection(find.collection)
            .find(find.filter)
            .with_options(options)
            .session(&mut self.snapshot.session)
            .await?;
        let mut found = Vec::new();
        while cursor.advance(&mut self.snapshot.session).await? {
            let row = parse(cursor.current());
            found.push(row.map_err(|e| ReadError::malformed(find.collection, e))?);
            if found.len().is_multiple_of(DOCUMENTS_BETWEEN_YIELDS) {
                tokio::task::yield_now().await;
            }
        }
        Ok(found)
    }

    /// Goes through all that is found, however much it is, with memory bounded
    /// by what `each` keeps. Counts against `budget`. Beyond the first reply
    /// the driver does not try again: a server that is lost ends the call.
    pub(super) async fn scan(
        &mut self,
        scan: Scan,
        budget: &mut Budget,
        mut each: impl FnMut(&RawDocument) -> Result<(), Malformed>,
    ) -> Result<(), ReadError> {
        let walk = Walk {
            collection: scan.collection,
            filter: scan.filter,
            projection: projection(scan.fields),
            sort: scan.sort,
            limit: None,
        };
        self.walk(walk, |row| {
            budget.take()?;
            each(row).map_err(|e| ReadError::malformed(scan.collection, e))
        })
        .await
    }

    /// Goes through what is found as [`TenantSnapshot::scan`] does, but only the
    /// deadline ends it.
    pub(super) async fn walk(
        &mut self,
        walk: Walk,
        mut each: impl FnMut(&RawDocument) -> Result<(), ReadError>,
    ) -> Result<(), ReadError> {
        let options = FindOptions::builder()
            .projection(walk.projection)
            .sort(walk.sort)
            .limit(walk.limit)
            .batch_size(SCAN_BATCH_DOCUMENTS)
            .max_time(self.left()?)
            .build();
        let mut cursor = self
            .collection(walk.collection)
            .find(walk.filter)
            .with_options(options)
            .session(&mut self.snapshot.session)
            .await?;
        let mut gone_through = 0_usize;
        while cursor.advance(&mut self.snapshot.session).await? {
            if self.deadline <= Instant::now() {
                return Err(ReadError::TooSlow);
            }
            each(cursor.current())?;
            gone_through += 1;
            if gone_through.is_multiple_of(DOCUMENTS_BETWEEN_YIELDS) {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// What a pipeline of one result comes to; `None` when it has none.
    pub(super) async fn aggregate(
        &mut self,
        collection: &'static str,
        pipeline: Vec<Document>,
    ) -> Result<Option<Document>, ReadError> {
        let mut cursor = self
            .collection(collection)
            .aggregate(pipeline)
            .max_time(self.left()?)
            .session(&mut self.snapshot.session)
            .await?;
        match cursor.advance(&mut self.snapshot.session).await? {
            true => Ok(Some(cursor.deserialize_current()?)),
            false => Ok(None),
        }
    }

    /// The time that is left.
    fn left(&self) -> Result<Duration, ReadError> {
        left_until(self.deadline)
    }

    fn collection(&self, name: &'static str) -> Collection<RawDocumentBuf> {
        self.snapshot.collection_in(self.generation, name)
    }
}

/// The time that is left until a deadline, at least a millisecond.
fn left_until(deadline: Instant) -> Result<Duration, ReadError> {
    let left = deadline.saturating_duration_since(Instant::now());
    match left.is_zero() {
        true => Err(ReadError::TooSlow),
        false => Ok(left.max(Duration::from_millis(1))),
    }
}

pub(super) struct Find {
    pub collection: &'static str,
    pub filter: Document,
    pub fields: &'static [&'static str],
    pub sort: Option<Document>,
    /// 1 to [`CHUNK_DOCUMENTS`].
    pub limit: usize,
}

/// A find without a limit of its own.
pub(super) struct Scan {
    pub collection: &'static str,
    pub filter: Document,
    pub fields: &'static [&'static str],
    pub sort: Option<Document>,
}

/// A scan that may leave the key out, so that an index answers by itself.
pub(super) struct Walk {
    pub collection: &'static str,
    pub filter: Document,
    pub projection: Document,
    pub sort: Option<Document>,
    pub limit: Option<i64>,
}

/// How many documents one answer may still go through.
#[derive(Debug)]
pub(super) struct Budget {
    most: usize,
    left: usize,
    refusal: fn(usize) -> ReadError,
}

impl Budget {
    /// For what a history replays.
    pub(super) fn new(most: usize) -> Self {
        Self {
            most,
            left: most,
            refusal: ReadError::TooMuch,
        }
    }

    /// For receipts of messages that were read singly.
    pub(super) fn of_reads(most: usize) -> Self {
        Self {
            refusal: ReadError::TooManyReads,
            ..Self::new(most)
        }
    }

    /// Takes one document.
    pub(super) fn take(&mut self) -> Result<(), ReadError> {
        self.expect(1)?;
        self.left -= 1;
        Ok(())
    }

    /// Refuses before anything is read, if there is no room for so many more.
    pub(super) fn expect(&self, more: usize) -> Result<(), ReadError> {
        match more <= self.left {
            true => Ok(()),
            false => Err((self.refusal)(self.most)),
        }
    }
}

fn projection(fields: &[&str]) -> Document {
    let mut projection = doc! { id::ID: 1 };
    for field in fields {
        projection.insert(*field, 1);
    }
    projection
}

const SHARE_FIELDS: &[&str] = &[
    membership::VERSION,
    membership::MEMBER,
    membership::JOINED_AT,
    membership::READ_UNTIL,
    membership::CONSUMED,
    membership::SENT,
    membership::UPDATED_AT,
];

const MESSAGE_FIELDS: &[&str] = &[
    message::DIALOG,
    message::AT,
    message::SENDER,
    message::DELETED,
    message::STATUSES,
    message::REACTIONS,
];

/// What a user's numbers need of a dialog.
pub(super) const DIALOG_SEQUENCE: &[&str] = &[
    dialog::VERSION,
    dialog::SEQUENCE,
    dialog::LAST_MESSAGE_AT,
    dialog::DELETED,
    dialog::UPDATED_AT,
];

/// All that readers see of a dialog.
pub(super) const DIALOG_ROW: &[&str] = &[
    dialog::VERSION,
    dialog::MESSAGES,
    dialog::MEMBERS,
    dialog::TOPICS,
    dialog::SEQUENCE,
    dialog::LAST_MESSAGE_AT,
    dialog::DELETED,
    dialog::UPDATED_AT,
];

/// What a dialog's own numbers need.
pub(super) const DIALOG_COUNTS: &[&str] = &[
    dialog::VERSION,
    dialog::MESSAGES,
    dialog::MEMBERS,
    dialog::TOPICS,
    dialog::LAST_MESSAGE_AT,
    dialog::DELETED,
    dialog::UPDATED_AT,
];

/// What a message's numbers need of its dialog.
pub(super) const DIALOG_OF_MESSAGE: &[&str] = &[dialog::MEMBERS, dialog::DELETED];

/// Goes through all shares of users, a chunk at a time.
pub(super) struct ShareScan {
    /// Who is left, the last one first.
    users: Vec<UserId>,
    /// How far the next user's shares were seen already.
    after: Option<DialogId>,
}

impl ShareScan {
    /// All shares of `users`, who are made unique.
    pub(super) fn new(users: impl IntoIterator<Item = UserId>) -> Self {
        let unique: BTreeSet<UserId> = users.into_iter().collect();
        Self {
            users: unique.into_iter().rev().collect(),
            after: None,
        }
    }

    /// The next shares, by user and dialog. None at the end, and only there.
    pub(super) async fn next(
        &mut self,
        tenant: &TenantId,
        snapshot: &mut TenantSnapshot,
    ) -> Result<Vec<MembershipRow>, ReadError> {
        while let Some(user) = self.users.last().cloned() {
            let one = self.users.len() == 1 || self.after.is_some();
            let chunk = if one {
                let after = self.after.take();
                snapshot
                    .shares_after(tenant, &user, after.as_ref(), false, CHUNK_DOCUMENTS)
                    .await?
            } else {
                snapshot.shares_of_users(tenant, &self.users).await?
            };
            match chunk.last().filter(|_| chunk.len() == CHUNK_DOCUMENTS) {
                // There may be more, of the last one's user to begin with.
                Some(last) => {
                    self.users.retain(|user| *user >= last.user);
                    self.after = Some(last.dialog.clone());
                }
                None if one => drop(self.users.pop()),
                None => self.users.clear(),
            }
            if !chunk.is_empty() {
                return Ok(chunk);
            }
        }
        Ok(Vec::new())
    }
}
