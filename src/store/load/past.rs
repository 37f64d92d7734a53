//! Answering what events out of order must know of a dialog's past. Always for
//! all members and messages that are asked about at once: a thousand bulk reads
//! that end before the last message are one look at the messages after them.

use std::collections::{HashMap, HashSet};

use futures::TryStreamExt as _;
use mongodb::bson::{Document, doc};
use serde::Deserialize;

use super::Loader;
use crate::derive::state::{
    ByType, DialogKey, MembershipKey, MessageKey, ReceiptKey, State, Watermark,
};
use crate::derive::tail::{Tail, TailMessage};
use crate::event::{MessageId, Micros, Status, UserId};
use crate::store::StoreError;
use crate::store::documents::membership::{self, MarkDocument};
use crate::store::documents::message::{self, MessageTime, TailDocument};
use crate::store::documents::receipt::ReceiptPart;
use crate::store::documents::{Counts, Keyed, by_type, collection, escape, id, invalid, micros};

/// Longest tail of a dialog that is loaded, in messages: some 100 bytes each.
/// For watermarks before it, each member's unread is counted by the server.
pub const MAX_TAIL: usize = 100_000;
/// Keys, or ranges of keys, in one query.
const MAX_KEYS_PER_QUERY: usize = 5_000;
const MAX_RANGES_PER_QUERY: usize = 500;

/// What is asked of the past.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) members_past: HashMap<DialogKey, Micros>,
    pub(super) readers: Vec<MessageKey>,
    pub(super) tails: HashMap<DialogKey, Watermark>,
    pub(super) read_of: HashMap<DialogKey, Vec<(UserId, Watermark)>>,
    pub(super) unread: Vec<(MembershipKey, Watermark)>,
    pub(super) latest: HashMap<DialogKey, usize>,
}

impl Past {
    /// A longer tail, or list, has the shorter one in it.
    pub(super) fn tail(&mut self, dialog: DialogKey, watermark: Watermark) {
        let from = self.tails.entry(dialog).or_insert(watermark);
        *from = watermark.min(*from);
    }

    pub(super) fn members(&mut self, dialog: DialogKey, at: Micros) {
        let from = self.members_past.entry(dialog).or_insert(at);
        *from = at.min(*from);
    }

    pub(super) fn latest(&mut self, dialog: DialogKey, most: usize) {
        let asked = self.latest.entry(dialog).or_insert(most);
        *asked = most.max(*asked);
    }
}

impl Loader {
    pub(super) async fn look_back(
        &mut self,
        past: Past,
        longest: usize,
        state: &mut State,
    ) -> Result<(), StoreError> {
        for (dialog, at) in past.members_past {
            let members = self.members_past(&dialog, at).await?;
            state.know_members_past(dialog, at, members);
        }
        let mut readers = self.readers(&past.readers).await?;
        for message in past.readers {
            let found = readers.remove(&message).unwrap_or_default();
            state.know_readers(message, found);
        }
        for (dialog, watermark) in past.tails {
            let tail = self.tail(&dialog, watermark, longest).await?;
            state.know_tail(dialog, tail);
        }
        for (dialog, users) in past.read_of {
            self.read_of(&dialog, users, state).await?;
        }
        for (membership, watermark) in past.unread {
            let unread = self.unread(&membership, watermark).await?;
            state.know_unread(membership, watermark, unread);
        }
        for (dialog, most) in past.latest {
            let messages = self.latest(&dialog, most).await?;
            state.know_latest(dialog, most, messages);
        }
        Ok(())
    }

    async fn members_past(
        &mut self,
        dialog: &DialogKey,
        at: Micros,
    ) -> Result<Vec<(UserId, Watermark)>, StoreError> {
        let filter = doc! {
            id::TENANT: dialog.tenant.as_str(),
            id::DIALOG: dialog.dialog.as_str(),
            membership::MARK: { "$gte": at.get() },
        };
        let memberships = self
            .snapshot
            .collection::<MarkDocument>(&dialog.tenant, collection::MEMBERSHIPS);
        let mut cursor = memberships
            .find(filter)
            .projection(doc! { id::USER: 1, membership::MARK: 1 })
            .session(&mut self.snapshot.session)
            .await?;
        let mut members = Vec::new();
        while let Some(found) = cursor.stream(&mut self.snapshot.session).try_next().await? {
            members.push((found._id.try_into()?, Watermark(found.mark)));
        }
        Ok(members)
    }

    /// Who has read these messages one by one.
    async fn readers(
        &mut self,
        messages: &[MessageKey],
    ) -> Result<HashMap<MessageKey, HashSet<UserId>>, StoreError> {
        let read = Status::read();
        let mut readers: HashMap<_, HashSet<_>> = HashMap::new();
        for messages in messages.chunks(MAX_RANGES_PER_QUERY) {
            let mut ranges: HashMap<_, Vec<_>> = HashMap::new();
            for message in messages {
                let of = id::receipts(&message.tenant, &message.message, &read);
                let range = doc! { id::ID: of.below() };
                ranges.entry(&message.tenant).or_default().push(range);
            }
            for (tenant, ranges) in ranges {
                let receipts = self
                    .snapshot
                    .collection::<Keyed<ReceiptPart>>(tenant, collection::RECEIPTS);
                let found = receipts.find(doc! { "$or": ranges });
                let mut cursor = found.session(&mut self.snapshot.session).await?;
                while let Some(found) = cursor.stream(&mut self.snapshot.session).try_next().await?
                {
                    let message = MessageKey {
                        tenant: tenant.clone(),
                        message: MessageId::new(&found._id.m).map_err(invalid)?,
                    };
                    let reader = UserId::new(&found._id.u).map_err(invalid)?;
                    readers.entry(message).or_default().insert(reader);
                }
            }
        }
        Ok(readers)
    }

    /// The countable messages after the watermark, or the newest of them.
    async fn tail(
        &mut self,
        dialog: &DialogKey,
        watermark: Watermark,
        longest: usize,
    ) -> Result<Tail, StoreError> {
        let filter = doc! {
            id::TENANT: dialog.tenant.as_str(),
            message::DIALOG: dialog.dialog.as_str(),
            message::AT: { "$gt": watermark.0 },
            message::SYSTEM: { "$ne": true },
            message::DELETED: { "$ne": true },
        };
        let fields = doc! {
            id::MESSAGE: 1,
            message::AT: 1,
            message::SENDER: 1,
            message::TYPE: 1,
            message::READ_COUNT: 1,
        };
        let mut cursor = self
            .snapshot
            .collection::<TailDocument>(&dialog.tenant, collection::MESSAGES)
            .find(filter)
            .sort(message::latest_first())
            .limit(i64::try_from(longest).unwrap_or(i64::MAX))
            .projection(fields)
            .session(&mut self.snapshot.session)
            .await?;
        let mut messages = Vec::new();
        while let Some(found) = cursor.stream(&mut self.snapshot.session).try_next().await? {
            messages.push(TailMessage::try_from(found)?);
        }
        let mut from = watermark;
        if messages.len() == longest
            && let Some(oldest) = messages.last().map(|message| message.at)
        {
            // Others of the same time may be missing.
            from = Watermark(oldest.get());
            messages.retain(|message| message.at > oldest);
        }
        Ok(Tail::new(watermark, from, messages))
    }

    /// Which messages of the tail users have read one by one: looked up where
    /// that is less than to go through all that was read of them.
    async fn read_of(
        &mut self,
        dialog: &DialogKey,
        users: Vec<(UserId, Watermark)>,
        state: &mut State,
    ) -> Result<(), StoreError> {
        let Some(tail) = state.tail(dialog) else {
            return Ok(());
        };
        let message = |id: &MessageId| MessageKey {
            tenant: dialog.tenant.clone(),
            message: id.clone(),
        };
        let lowest = users.iter().map(|(_, watermark)| *watermark).min();
        let listed = lowest
            .into_iter()
            .flat_map(|watermark| tail.read_after(watermark));
        let (listed, reads): (Vec<_>, Vec<i64>) =
            listed.map(|(id, reads)| (message(id), reads)).unzip();
        let lookups = users
            .iter()
            .map(|(_, watermark)| tail.read_after(*watermark).count());
        let lookups: usize = lookups.sum();
        let list = usize::try_from(reads.iter().sum::<i64>()).is_ok_and(|reads| reads < lookups);
        let mut read: HashMap<UserId, HashSet<MessageId>> = HashMap::new();
        if list {
            for (message, readers) in self.readers(&listed).await? {
                for reader in readers {
                    let of = read.entry(reader).or_default();
                    of.insert(message.message.clone());
                }
            }
        } else {
            let keys = users.iter().flat_map(|(user, watermark)| {
                tail.read_after(*watermark).map(|(id, _)| ReceiptKey {
                    message: message(id),
                    status: Status::read(),
                    user: user.clone(),
                })
            });
            let keys: Vec<_> = keys.collect();
            for keys in keys.chunks(MAX_KEYS_PER_QUERY) {
                for (key, found) in self.exist(collection::RECEIPTS, keys.to_vec()).await? {
                    if found {
                        read.entry(key.user)
                            .or_default()
                            .insert(key.message.message);
                    }
                }
            }
        }
        for (user, watermark) in users {
            let found = read.get(&user).cloned().unwrap_or_default();
            let key = MembershipKey {
                dialog: dialog.clone(),
                user,
            };
            state.know_read_of(key, watermark, found);
        }
        Ok(())
    }

    /// Counts over the facts of the messages after the watermark, one member at a
    /// time.
    async fn unread(
        &mut self,
        membership: &MembershipKey,
        watermark: Watermark,
    ) -> Result<ByType, StoreError> {
        let dialog = &membership.dialog;
        let user = membership.user.as_str();
        let pipeline = [
            doc! { "$match": {
                id::TENANT: dialog.tenant.as_str(),
                message::DIALOG: dialog.dialog.as_str(),
                message::AT: { "$gt": watermark.0 },
                message::SENDER: { "$ne": user },
                message::SYSTEM: { "$ne": true },
                message::DELETED: { "$ne": true },
            } },
            doc! { "$project": {
                message::TYPE: 1,
                "receipt": { "t": "$_id.t", "m": "$_id.m", "s": "read", "u": { "$literal": user } },
            } },
            doc! { "$lookup": {
                "from": &*self.snapshot.generations().of(&dialog.tenant).collection(collection::RECEIPTS),
                "localField": "receipt",
                "foreignField": id::ID,
                "as": "read",
            } },
            doc! { "$match": { "read": { "$size": 0 } } },
            doc! { "$group": { "_id": "$type", "count": { "$sum": 1_i64 } } },
        ];
        let mut cursor = self
            .snapshot
            .collection::<Document>(&dialog.tenant, collection::MESSAGES)
            .aggregate(pipeline)
            .session(&mut self.snapshot.session)
            .with_type::<CountDocument>()
            .await?;
        let mut counts = Counts::new();
        while let Some(found) = cursor.stream(&mut self.snapshot.session).try_next().await? {
            counts.insert(escape(&found._id), found.count);
        }
        by_type(&counts)
    }

    async fn latest(
        &mut self,
        dialog: &DialogKey,
        most: usize,
    ) -> Result<Vec<(Micros, MessageId)>, StoreError> {
        let filter = doc! {
            id::TENANT: dialog.tenant.as_str(),
            message::DIALOG: dialog.dialog.as_str(),
            message::DELETED: { "$ne": true },
        };
        let mut cursor = self
            .snapshot
            .collection::<MessageTime>(&dialog.tenant, collection::MESSAGES)
            .find(filter)
            .sort(message::latest_first())
            .limit(i64::try_from(most).unwrap_or(i64::MAX))
            .projection(doc! { id::MESSAGE: 1, message::AT: 1 })
            .session(&mut self.snapshot.session)
            .await?;
        let mut latest = Vec::new();
        while let Some(found) = cursor.stream(&mut self.snapshot.session).try_next().await? {
            latest.push((micros(found.at)?, found._id.try_into()?));
        }
        Ok(latest)
    }
}

/// A count under a name.
#[derive(Deserialize)]
struct CountDocument {
    _id: String,
    count: i64,
}
