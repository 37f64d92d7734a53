//! Histories: the records and facts of one snapshot, replayed by
//! [`crate::history`].

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use mongodb::bson::{Document, doc};

use crate::counter::Counter;
use crate::derive::state::{CountingFacts, Watermark};
use crate::event::EventType::{
    DialogDelete, MemberAdd, MemberRemove, MessageCreate, MessageDelete, TopicCreate,
};
use crate::event::record_type::{BALANCE, DRIFT, REPAIR};
use crate::event::{DialogId, MessageId, Micros, Reaction, SenderType, Status, TenantId, UserId};
use crate::history::share::{self, StateBefore, View};
use crate::history::{
    DialogEffect, DialogRecord, Origin, PageRequest, Position, Timeline, TimelineBuilder,
    TimelineEntry, dialog, message,
};
use crate::store::documents::decode::{boolean, key, micros, text, wrong};
use crate::store::documents::id::part;
use crate::store::documents::{
    collection, id, journal, membership, message as message_field, reaction,
};

mod effects;
mod reach;

use super::ReadError;
use super::queries::Query;
use super::rows::{Counts, DialogRow, Malformed, MembershipRow};
use super::snapshot::{
    Budget, CHUNK_DOCUMENTS, DIALOG_COUNTS, DIALOG_OF_MESSAGE, DIALOG_SEQUENCE, Find, Scan,
    TenantSnapshot,
};
use super::stats::{DialogStats, MessageStats, UserDialogStats};
use effects::Source;
use reach::Records;

/// Whose history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HistoryScope {
    /// The history of a user in one dialog.
    UserInDialog(UserId, DialogId),
    /// The history of a user over all dialogs.
    User(UserId),
    /// The history of a dialog.
    Dialog(DialogId),
    /// The history of a message.
    Message(MessageId),
}

/// Asks how counters came about.
#[derive(Debug, Clone)]
pub struct History {
    /// The tenant whose counters they are.
    pub tenant: TenantId,
    /// What the history is of.
    pub scope: HistoryScope,
    /// The only counter to show; `None` for all.
    pub counter: Option<Counter>,
    /// The page of entries that is asked for.
    pub part: PageRequest,
    /// Records and messages that may be replayed.
    pub most: usize,
}

/// A page of a history.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HistoryPage {
    /// The entries, in the order asked for.
    pub entries: Vec<HistoryEntry>,
    /// The place of the last of them, when there are more.
    pub next: Option<Position>,
    /// The counters as they are served now: what all entries sum to.
    pub values: BTreeMap<Counter, i64>,
}

/// One change of a counter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The event; `None` when none stands behind it.
    pub event: Option<String>,
    /// The type of the event, or of what stands in its place.
    pub kind: String,
    /// The counter that changed.
    pub counter: Counter,
    /// By how much it changed.
    pub delta: i64,
    /// The value of the counter before the change.
    pub old: i64,
    /// Who did it, where known.
    pub actor: Option<String>,
    /// The time of the event.
    pub occurred_at: Option<Micros>,
    /// The time at which the change was committed.
    pub applied_at: Option<Micros>,
    /// The dialog that it happened in, where it has one.
    pub dialog: Option<String>,
    /// The reason that was given for a repair.
    pub reason: Option<String>,
}

impl Query for History {
    type Answer = HistoryPage;

    fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    async fn answer(&self, snapshot: &mut TenantSnapshot) -> Result<HistoryPage, ReadError> {
        let mut reading = Reading {
            tenant: &self.tenant,
            snapshot,
            budget: Budget::new(self.most),
            timeline: TimelineBuilder::new(self.counter.clone()),
        };
        // In a message's history all entries are of its dialog.
        let mut dialog = None;
        match &self.scope {
            HistoryScope::UserInDialog(user, dialog) => {
                reading.user_in_dialog(user, dialog).await?
            }
            HistoryScope::User(user) => reading.user(user).await?,
            HistoryScope::Dialog(dialog) => reading.dialog(dialog).await?,
            HistoryScope::Message(message) => dialog = reading.message(message).await?,
        }
        let timeline = std::mem::take(&mut reading.timeline).finish();
        let (page, more) = timeline.page(&self.part);
        let by_event = matches!(self.scope, HistoryScope::Message(_));
        let sources = reading.sources(&timeline, &page, by_event).await?;
        let entries = page.iter().map(|change| {
            let source = sources.get(&place(&timeline, change, by_event));
            let mut entry = entry(&timeline, change, source);
            if by_event {
                entry.dialog = dialog.as_ref().map(ToString::to_string);
            }
            entry
        });
        let next = page.last().filter(|_| more);
        Ok(HistoryPage {
            entries: entries.collect(),
            next: next.map(|entry| timeline.position(entry)),
            values: timeline.totals().clone(),
        })
    }
}

/// Names the record behind an entry: a dialog and a version, or an event.
type Place = (String, i64);

fn place(timeline: &Timeline, entry: &TimelineEntry, by_event: bool) -> Place {
    let version = if by_event { 0 } else { entry.change.version };
    (timeline.group(entry).to_owned(), version)
}

fn entry(timeline: &Timeline, entry: &TimelineEntry, source: Option<&Source>) -> HistoryEntry {
    let kind = match (entry.change.origin, source) {
        (Origin::Balance, _) => BALANCE.to_owned(),
        (Origin::Drift | Origin::LastDrift, _) => DRIFT.to_owned(),
        (Origin::Event | Origin::Repair, source) => {
            source.map(|source| source.kind.clone()).unwrap_or_default()
        }
    };
    // Drift is nobody's doing, as far as is known.
    let cause = source.filter(|_| kind != DRIFT);
    let group = timeline.group(entry);
    HistoryEntry {
        event: cause
            .filter(|source| !source.is_repair())
            .map(|source| source.event.clone()),
        kind: kind.clone(),
        counter: timeline.counter(entry).clone(),
        delta: entry.change.delta,
        old: entry.old,
        actor: cause.and_then(|source| source.actor.clone()),
        occurred_at: cause.map(|source| source.occurred_at),
        applied_at: source.map(|source| source.applied_at),
        dialog: (!group.is_empty()).then(|| group.to_owned()),
        reason: cause.and_then(|source| source.reason.clone()),
    }
}

/// One history being read.
struct Reading<'r> {
    tenant: &'r TenantId,
    snapshot: &'r mut TenantSnapshot,
    budget: Budget,
    timeline: TimelineBuilder,
}

impl Reading<'_> {
    async fn user(&mut self, user: &UserId) -> Result<(), ReadError> {
        let mut after = None;
        loop {
            let shares = self
                .snapshot
                .shares_after(self.tenant, user, after.as_ref(), false, CHUNK_DOCUMENTS)
                .await?;
            for share in &shares {
                self.share(user, &share.dialog, Some(share), View::Overall)
                    .await?;
            }
            match shares.last().filter(|_| shares.len() == CHUNK_DOCUMENTS) {
                Some(last) => after = Some(last.dialog.clone()),
                None => return Ok(()),
            }
        }
    }

    async fn user_in_dialog(&mut self, user: &UserId, dialog: &DialogId) -> Result<(), ReadError> {
        let share = self.snapshot.share(self.tenant, dialog, user).await?;
        self.share(user, dialog, share.as_ref(), View::InDialog)
            .await
    }

    /// One dialog as seen by one user.
    async fn share(
        &mut self,
        user: &UserId,
        dialog: &DialogId,
        share: Option<&MembershipRow>,
        view: View,
    ) -> Result<(), ReadError> {
        let row = self.row(dialog, DIALOG_SEQUENCE).await?;
        let version = row.as_ref().map_or(0, |row| row.version);
        let filter = doc! { "$or": [
            { journal::TYPE: { "$in": [
                MessageCreate.as_str(), MessageDelete.as_str(), DialogDelete.as_str(), REPAIR,
            ] } },
            { journal::USER: user.as_str() },
        ] };
        let Records { complete, records } = self.records(dialog, version, filter).await?;
        let mut before = StateBefore {
            deleted: was_deleted(row.as_ref(), &records),
            ..StateBefore::default()
        };
        if !before.deleted {
            let seen = Seen::of(user, &records);
            if !complete {
                before.watermark = watermark_before(user, share, &records);
                let lowest = share::lowest_watermark(user, before.watermark, &records);
                (before.messages, before.closed) =
                    self.messages_before(user, dialog, lowest, &seen).await?;
            }
            before.closed.extend(self.read_hidden(user, &seen).await?);
            before.read = self.read_before(user, &records, &seen).await?;
        }
        if !complete && view == View::Overall {
            let now = self.sent(user, dialog).await?;
            before.sent = share::sent_before(user, now, &records);
        }
        let stats = UserDialogStats::of(self.tenant, user, dialog, share, row.as_ref());
        let sent = share.map_or(0, |share| share.sent.max(0));
        let served = served(&stats, sent, view);
        let track = self.timeline.track(dialog.as_str());
        share::replay(user, view, before, &records, &served, track);
        Ok(())
    }

    /// Messages from before the records that the user may have had unread, and
    /// those that were deleted before and are corrected among the records.
    async fn messages_before(
        &mut self,
        user: &UserId,
        dialog: &DialogId,
        lowest: Option<Watermark>,
        seen: &Seen,
    ) -> Result<(Vec<(MessageId, Micros, SenderType)>, HashSet<MessageId>), ReadError> {
        let (mut messages, mut closed) = (Vec::new(), HashSet::new());
        let Some(lowest) = lowest else {
            return Ok((messages, closed));
        };
        let mut ways = vec![doc! {
            message_field::AT: { "$gt": lowest.0 },
            message_field::SYSTEM: { "$ne": true },
        }];
        if !seen.corrected.is_empty() {
            let keys = seen.corrected.keys();
            let keys = keys.map(|message| id::message(self.tenant, message).document());
            ways.push(doc! { id::ID: { "$in": keys.collect::<Vec<_>>() } });
        }
        let scan = Scan {
            collection: collection::MESSAGES,
            filter: doc! {
                id::TENANT: self.tenant.as_str(),
                message_field::DIALOG: dialog.as_str(),
                message_field::SENDER: { "$ne": user.as_str() },
                "$or": ways,
            },
            fields: &[
                message_field::AT,
                message_field::TYPE,
                message_field::DELETED,
            ],
            sort: None,
        };
        self.snapshot
            .scan(scan, &mut self.budget, |row| {
                let (message, mut at, mut sender_type, deleted) = old_message(row)?;
                let gone = deleted && !seen.deleted.contains(&message);
                let mut system = false;
                if let Some(was) = seen.corrected.get(&message) {
                    (at, sender_type, system) = (was.at, was.sender_type.clone(), was.system);
                }
                if gone && seen.corrected.contains_key(&message) {
                    closed.insert(message);
                } else if !gone && !system && !seen.created.contains(&message) {
                    messages.push((message, at, sender_type));
                }
                Ok(())
            })
            .await?;
        let unsure = messages.iter().map(|(message, ..)| message);
        let unsure = unsure.filter(|message| !seen.read.contains(message));
        let unsure: Vec<MessageId> = unsure.cloned().collect();
        let read = self.receipts(user, unsure).await?;
        messages.retain(|(message, ..)| !read.contains(message));
        Ok((messages, closed))
    }

    /// System messages that become others among the records, and that the user had
    /// read before: that changed nothing in the dialog, so no record of it says so.
    async fn read_hidden(
        &mut self,
        user: &UserId,
        seen: &Seen,
    ) -> Result<HashSet<MessageId>, ReadError> {
        let hidden = seen.corrected.iter().filter(|(_, was)| was.system);
        let hidden = hidden.map(|(message, _)| message);
        let hidden = hidden.filter(|message| !seen.read.contains(*message));
        self.receipts(user, hidden.cloned().collect()).await
    }

    /// Messages among the records that the user had read before their create.
    async fn read_before(
        &mut self,
        user: &UserId,
        records: &[DialogRecord],
        seen: &Seen,
    ) -> Result<HashSet<MessageId>, ReadError> {
        let foretold = records.iter().filter_map(|record| match &record.effect {
            DialogEffect::Created(created) if created.had_placeholder => Some(&created.message),
            _ => None,
        });
        let foretold = foretold.filter(|message| !seen.read.contains(message));
        self.receipts(user, foretold.cloned().collect()).await
    }

    /// Those of the messages that the user has read one by one.
    async fn receipts(
        &mut self,
        user: &UserId,
        messages: Vec<MessageId>,
    ) -> Result<HashSet<MessageId>, ReadError> {
        let status = Status::read();
        let keys = messages.iter().map(|message| {
            let id = id::receipt(self.tenant, message, &status, user);
            id.document()
        });
        let read = self
            .snapshot
            .by_keys(collection::RECEIPTS, keys.collect(), &[], |row| {
                Ok((MessageId::new(key(row, part::MESSAGE)?)?, ()))
            })
            .await?;
        Ok(read.into_keys().collect())
    }

    async fn sent(&mut self, user: &UserId, dialog: &DialogId) -> Result<i64, ReadError> {
        let filter = doc! {
            id::TENANT: self.tenant.as_str(),
            message_field::DIALOG: dialog.as_str(),
            message_field::SENDER: user.as_str(),
            message_field::DELETED: { "$ne": true },
        };
        self.count(collection::MESSAGES, filter).await
    }

    async fn dialog(&mut self, dialog: &DialogId) -> Result<(), ReadError> {
        let row = self.row(dialog, DIALOG_COUNTS).await?;
        let version = row.as_ref().map_or(0, |row| row.version);
        let filter = doc! { journal::TYPE: { "$in": [
            MessageCreate.as_str(), MessageDelete.as_str(), MemberAdd.as_str(),
            MemberRemove.as_str(), TopicCreate.as_str(), DialogDelete.as_str(), REPAIR,
        ] } };
        let Records { complete, records } = self.records(dialog, version, filter).await?;
        let before = match (was_deleted(row.as_ref(), &records), complete) {
            (true, _) => None,
            (false, true) => Some(dialog::Counts::default()),
            (false, false) => Some(self.counts(dialog).await?.before(&records)),
        };
        let stats = DialogStats::of(self.tenant, dialog, row.as_ref());
        let served = dialog::Counts {
            messages: stats.messages,
            members: stats.members,
            topics: stats.topics,
        };
        let track = self.timeline.track(dialog.as_str());
        dialog::replay(before, &records, served, track);
        Ok(())
    }

    /// The dialog's counters, counted from its facts.
    async fn counts(&mut self, dialog: &DialogId) -> Result<dialog::Counts, ReadError> {
        let (t, d) = (self.tenant.as_str(), dialog.as_str());
        let messages = doc! {
            id::TENANT: t,
            message_field::DIALOG: d,
            message_field::DELETED: { "$ne": true },
        };
        let members = doc! {
            id::TENANT: t,
            id::DIALOG: d,
            membership::JOINED_AT: { "$exists": true },
        };
        let topics = doc! { id::ID: id::dialog(self.tenant, dialog).below() };
        Ok(dialog::Counts {
            messages: self.count(collection::MESSAGES, messages).await?,
            members: self.count(collection::MEMBERSHIPS, members).await?,
            topics: self.count(collection::TOPICS, topics).await?,
        })
    }

    /// Tells the dialog of the message, once it has one.
    async fn message(&mut self, id: &MessageId) -> Result<Option<DialogId>, ReadError> {
        let rows = self
            .snapshot
            .messages(self.tenant, std::iter::once(id))
            .await?;
        let row = rows.get(id);
        let dialog = row.and_then(|row| row.dialog.clone());
        let mut dialog_deleted = false;
        let mut records = self.happened(id).await?;
        if let Some(dialog) = &dialog {
            let row = self.row(dialog, DIALOG_OF_MESSAGE).await?;
            dialog_deleted = row.is_some_and(|row| row.deleted);
            if dialog_deleted {
                records.extend(self.ended(dialog, id).await?);
            }
        }
        let stats = MessageStats::of(self.tenant, id, row, dialog_deleted);
        let now = message::MessageState {
            counted: self.marks(id).await?,
            served: message_counters(&stats.statuses, &stats.reactions),
            gone: dialog_deleted || row.is_some_and(|row| row.deleted),
        };
        message::replay(id, &now, records, &mut self.timeline);
        Ok(dialog)
    }

    async fn happened(
        &mut self,
        message: &MessageId,
    ) -> Result<Vec<message::MessageRecord>, ReadError> {
        let mut records = Vec::new();
        let scan = Scan {
            collection: collection::JOURNAL,
            filter: doc! { id::TENANT: self.tenant.as_str(), journal::OF: message.as_str() },
            fields: effects::HAPPENED,
            sort: None,
        };
        self.snapshot
            .scan(scan, &mut self.budget, |record| {
                records.extend(effects::happened(record)?);
                Ok(())
            })
            .await?;
        Ok(records)
    }

    /// What ended the messages of a deleted dialog for this one: the deletion,
    /// or its own create after that.
    async fn ended(
        &mut self,
        dialog: &DialogId,
        id: &MessageId,
    ) -> Result<Option<message::MessageRecord>, ReadError> {
        let deletion = self
            .versioned(dialog, 0, doc! { journal::TYPE: DialogDelete.as_str() })
            .await?;
        let since = deletion.as_ref().map_or(0, |(version, _)| *version);
        let create = self
            // The first of its creates, not one that corrects it.
            .versioned(
                dialog,
                since,
                doc! { journal::MESSAGE: id.as_str(), journal::WAS: { "$exists": false } },
            )
            .await?;
        Ok(create.or(deletion).map(|(_, happened)| happened))
    }

    /// A record of a dialog after a version.
    async fn versioned(
        &mut self,
        dialog: &DialogId,
        after: i64,
        mut filter: Document,
    ) -> Result<Option<(i64, message::MessageRecord)>, ReadError> {
        filter.insert(id::TENANT, self.tenant.as_str());
        filter.insert(journal::DIALOG, dialog.as_str());
        filter.insert(journal::VERSION, doc! { "$gt": after });
        let find = Find {
            collection: collection::JOURNAL,
            filter,
            fields: effects::ENDED,
            sort: Some(journal::latest_version_first()),
            limit: 1,
        };
        Ok(self.snapshot.find(find, effects::ended).await?.pop())
    }

    /// A message's users by status and reaction, one by one.
    async fn marks(&mut self, message: &MessageId) -> Result<BTreeMap<Counter, i64>, ReadError> {
        let (mut statuses, mut reactions) = (Counts::new(), Counts::new());
        let range = || doc! { id::ID: id::message(self.tenant, message).below() };
        for (name, part, filter, counts) in [
            (collection::RECEIPTS, part::STATUS, range(), &mut statuses),
            (
                collection::REACTIONS,
                part::REACTION,
                range(),
                &mut reactions,
            ),
        ] {
            let scan = Scan {
                collection: name,
                filter,
                fields: &[reaction::SET],
                sort: None,
            };
            self.snapshot
                .scan(scan, &mut self.budget, |row| {
                    let set = row
                        .get(reaction::SET)?
                        .map(|set| boolean(reaction::SET, set));
                    if set.transpose()?.unwrap_or(true) {
                        *counts.entry(key(row, part)?.to_owned()).or_default() += 1;
                    }
                    Ok(())
                })
                .await?;
        }
        Ok(message_counters(&statuses, &reactions))
    }

    async fn row(
        &mut self,
        dialog: &DialogId,
        fields: &'static [&'static str],
    ) -> Result<Option<DialogRow>, ReadError> {
        let rows = self
            .snapshot
            .dialogs(self.tenant, std::iter::once(dialog), fields)
            .await?;
        Ok(rows.into_values().next())
    }

    async fn count(
        &mut self,
        collection: &'static str,
        filter: Document,
    ) -> Result<i64, ReadError> {
        let pipeline = vec![
            doc! { "$match": filter },
            doc! { "$group": { "_id": null, "count": { "$sum": 1_i64 } } },
        ];
        let found = self.snapshot.aggregate(collection, pipeline).await?;
        Ok(found.map_or(0, |found| found.get_i64("count").unwrap_or_default()))
    }

    /// The records behind the entries of a page.
    async fn sources(
        &mut self,
        timeline: &Timeline,
        page: &[TimelineEntry],
        by_event: bool,
    ) -> Result<HashMap<Place, Source>, ReadError> {
        let recorded = page
            .iter()
            .filter(|entry| !matches!(entry.change.origin, Origin::Balance | Origin::LastDrift));
        let mut groups: BTreeMap<&str, BTreeSet<i64>> = BTreeMap::new();
        for entry in recorded {
            let versions = groups.entry(timeline.group(entry)).or_default();
            versions.insert(entry.change.version);
        }
        let t = self.tenant.as_str();
        if by_event {
            let keys = groups
                .keys()
                .map(|event| doc! { part::TENANT: t, part::EVENT: *event });
            let sources = self
                .snapshot
                .by_keys(
                    collection::JOURNAL,
                    keys.collect(),
                    effects::SOURCE,
                    |row| {
                        let source = Source::parse(row)?;
                        Ok(((source.event.clone(), 0), source))
                    },
                )
                .await?;
            return Ok(sources);
        }
        let mut sources = HashMap::new();
        for (dialog, versions) in groups {
            let versions: Vec<i64> = versions.into_iter().collect();
            for versions in versions.chunks(CHUNK_DOCUMENTS) {
                let find = Find {
                    collection: collection::JOURNAL,
                    filter: doc! {
                        id::TENANT: t,
                        journal::DIALOG: dialog,
                        journal::VERSION: { "$in": versions },
                    },
                    fields: effects::SOURCE,
                    sort: None,
                    limit: CHUNK_DOCUMENTS,
                };
                let found = self.snapshot.find(find, Source::parse).await?;
                sources.extend(
                    found
                        .into_iter()
                        .map(|source| ((dialog.to_owned(), source.version), source)),
                );
            }
        }
        Ok(sources)
    }
}

/// Whether the dialog was deleted before the first record.
fn was_deleted(row: Option<&DialogRow>, records: &[DialogRecord]) -> bool {
    let deletion = |record: &DialogRecord| record.effect == DialogEffect::DialogDeleted;
    row.is_some_and(|row| row.deleted) && !records.iter().any(deletion)
}

/// The user's watermark before the first record.
fn watermark_before(
    user: &UserId,
    share: Option<&MembershipRow>,
    records: &[DialogRecord],
) -> Option<Watermark> {
    let first = records.iter().find_map(|record| match &record.effect {
        DialogEffect::WatermarkMoved {
            user: of, before, ..
        } if of == user => Some(*before),
        _ => None,
    });
    first.unwrap_or_else(|| {
        let share = share?;
        Some(Watermark::of(share.joined_at?, share.read_until))
    })
}

/// What the records themselves say happened to messages.
#[derive(Default)]
struct Seen {
    created: HashSet<MessageId>,
    deleted: HashSet<MessageId>,
    /// By the user.
    read: HashSet<MessageId>,
    /// Messages that a further create corrected, as they were before.
    corrected: HashMap<MessageId, CountingFacts>,
}

impl Seen {
    fn of(user: &UserId, records: &[DialogRecord]) -> Self {
        let mut seen = Self::default();
        for record in records {
            match &record.effect {
                DialogEffect::Created(created) => {
                    seen.created.insert(created.message.clone());
                }
                DialogEffect::Corrected {
                    message,
                    sender,
                    was,
                    ..
                } if sender != user => {
                    let first = seen.corrected.entry(message.clone());
                    first.or_insert_with(|| was.clone());
                }
                DialogEffect::Deleted { message, .. } => drop(seen.deleted.insert(message.clone())),
                DialogEffect::Read { message, user: by } if by == user => {
                    seen.read.insert(message.clone());
                }
                _ => {}
            }
        }
        seen
    }
}

fn old_message(
    row: &mongodb::bson::RawDocument,
) -> Result<(MessageId, Micros, SenderType, bool), Malformed> {
    let (mut at, mut sender_type, mut deleted) = (None, None, false);
    for field in row {
        let (name, value) = field?;
        match name.as_str() {
            message_field::AT => at = Some(micros("at", value)?),
            message_field::TYPE => sender_type = Some(SenderType::new(text("type", value)?)?),
            message_field::DELETED => deleted = boolean("deleted", value)?,
            _ => {}
        }
    }
    let message = MessageId::new(key(row, part::MESSAGE)?)?;
    let at = at.ok_or_else(|| wrong("at"))?;
    Ok((
        message,
        at,
        sender_type.ok_or_else(|| wrong("type"))?,
        deleted,
    ))
}

fn served(stats: &UserDialogStats, sent: i64, view: View) -> share::Served {
    let mut served: share::Served = stats
        .unread_by_sender_type
        .iter()
        .filter_map(|(name, count)| {
            let sender_type = SenderType::new(name).ok()?;
            Some((Counter::UnreadFrom(sender_type), *count))
        })
        .collect();
    match view {
        View::InDialog => drop(served.insert(Counter::Unread, stats.unread)),
        View::Overall => served.extend([
            (Counter::TotalUnread, stats.unread),
            (Counter::UnreadDialogs, i64::from(stats.unread > 0)),
            (Counter::Dialogs, i64::from(stats.member)),
            (Counter::Sent, sent),
        ]),
    }
    served.retain(|_, count| *count != 0);
    served
}

/// Names that are no status or reaction were never counted.
fn message_counters(statuses: &Counts, reactions: &Counts) -> BTreeMap<Counter, i64> {
    let statuses = statuses.iter();
    let statuses = statuses
        .filter_map(|(name, count)| Some((Counter::Status(Status::new(name).ok()?), *count)));
    let reactions = reactions.iter();
    let reactions = reactions
        .filter_map(|(name, count)| Some((Counter::Reaction(Reaction::new(name).ok()?), *count)));
    statuses.chain(reactions).collect()
}
