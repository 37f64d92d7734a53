//! Messages that the events of a batch have changed. Answers from the store are
//! of the moment before the batch: what these messages add or take away is put
//! on top of them, so that no event has to wait for a commit.

use std::collections::HashMap;

use super::state::{
    ByType, Created, DialogKey, MembershipKey, Message, MessageKey, Need, ReceiptKey, Watermark,
};
use super::{Batch, DeriveResult, Missing};
use crate::event::{MessageId, Micros, Status, UserId};

/// Per dialog, the messages that were changed, as they are stored.
#[derive(Debug, Default)]
pub(super) struct Touched(HashMap<DialogKey, HashMap<MessageId, Message>>);

impl Touched {
    /// Notes a message of a dialog before it is changed for the first time.
    pub(super) fn note(&mut self, dialog: &DialogKey, message: &MessageId, stored: &Message) {
        let here = self.0.entry(dialog.clone()).or_default();
        if !here.contains_key(message) {
            here.insert(message.clone(), stored.clone());
        }
    }

    fn of(&self, dialog: &DialogKey) -> impl Iterator<Item = (&MessageId, &Message)> {
        self.0.get(dialog).into_iter().flatten()
    }

    fn len(&self, dialog: &DialogKey) -> usize {
        self.0.get(dialog).map_or(0, HashMap::len)
    }

    fn has(&self, dialog: &DialogKey, message: &MessageId) -> bool {
        let here = self.0.get(dialog);
        here.is_some_and(|here| here.contains_key(message))
    }
}

impl Batch {
    /// How many messages after the watermark are unread for a user, were they a
    /// member: as stored, and with what this batch has changed.
    pub(super) fn unread_after(
        &self,
        key: &MembershipKey,
        watermark: Watermark,
    ) -> DeriveResult<ByType> {
        let mut unread = self.stored_unread(key, watermark)?;
        let mut missing = Vec::new();
        for (id, stored) in self.touched.of(&key.dialog) {
            let message = MessageKey {
                tenant: key.dialog.tenant.clone(),
                message: id.clone(),
            };
            let now = self.state.messages.get(&message);
            let was = open_to(&key.user, watermark, Some(stored));
            let is = open_to(&key.user, watermark, now);
            let has_read = self.reads_in_batch(&message, &key.user);
            let same = was.map(|was| &was.sender_type) == is.map(|is| &is.sender_type);
            if same && !has_read {
                continue;
            }
            match self.had_read(&message, &key.user, has_read) {
                None => missing.push(Need::Receipt(receipt(message, &key.user))),
                Some(true) => {}
                Some(false) => {
                    if let Some(was) = was {
                        unread.add(&was.sender_type, -1);
                    }
                    if let Some(is) = is.filter(|_| !has_read) {
                        unread.add(&is.sender_type, 1);
                    }
                }
            }
        }
        match missing.is_empty() {
            true => Ok(unread),
            false => Err(Missing(missing)),
        }
    }

    /// The same, as stored. In one pass for all members of the dialog, unless
    /// the messages after the watermark are too many to be loaded.
    fn stored_unread(&self, key: &MembershipKey, watermark: Watermark) -> DeriveResult<ByType> {
        match self.state.tails.get(&key.dialog) {
            Some(tail) if tail.reaches(watermark) => {
                let none_read = tail.read_after(watermark).next().is_none();
                let need = Need::ReadOf(key.clone(), watermark);
                self.require((!none_read).then_some(need))?;
                let read = self.state.read_of.get(key);
                let nothing = Default::default();
                let read = read.map_or(&nothing, |(_, read)| read);
                Ok(tail.unread(&key.user, watermark, read))
            }
            Some(tail) if tail.was_asked(watermark) => {
                self.require([Need::Unread(key.clone(), watermark)])?;
                Ok(self.state.unread[&(key.clone(), watermark)].clone())
            }
            _ => Err(Missing(vec![Need::Tail(key.dialog.clone(), watermark)])),
        }
    }

    fn reads_in_batch(&self, message: &MessageKey, user: &UserId) -> bool {
        let change = self.changes.messages.get(message);
        change.is_some_and(|change| change.readers.contains(user))
    }

    /// Whether the user had read the message before this batch; `None` when that
    /// is not known.
    fn had_read(&self, message: &MessageKey, user: &UserId, reads_now: bool) -> Option<bool> {
        if reads_now || !self.is_stored(message) {
            return Some(false);
        }
        let key = receipt(message.clone(), user);
        let known = self.state.receipts.get(&key).copied();
        known.or_else(|| Some(self.state.readers.get(message)?.contains(user)))
    }

    /// The time of a dialog's latest message but one: as stored, and with what
    /// this batch has changed.
    pub(super) fn latest_without(
        &self,
        dialog: &DialogKey,
        message: &MessageId,
    ) -> DeriveResult<Option<Micros>> {
        self.require([self.need_of_latest(dialog)])?;
        let stored = self.state.latest[dialog].1.iter();
        let stored = stored
            .filter(|(_, id)| id != message && !self.touched.has(dialog, id))
            .map(|(at, _)| *at)
            .next();
        let touched = self.touched.of(dialog).filter(|(id, _)| *id != message);
        let touched = touched.filter_map(|(id, _)| {
            let key = MessageKey {
                tenant: dialog.tenant.clone(),
                message: id.clone(),
            };
            let now = self.state.messages.get(&key)?;
            let created = now.created.as_ref().filter(|_| !now.deleted)?;
            Some(created.at)
        });
        Ok(touched.chain(stored).max())
    }

    /// As many of the latest messages as there may be changed ones among them,
    /// and one more; rounded, so that a batch of deletes does not ask each time.
    pub(super) fn need_of_latest(&self, dialog: &DialogKey) -> Need {
        let most = self.touched.len(dialog) + 2;
        Need::Latest(dialog.clone(), most.next_power_of_two())
    }
}

/// The message, if it could be unread for a member with that watermark who has not
/// read it one by one.
fn open_to<'m>(
    user: &UserId,
    watermark: Watermark,
    message: Option<&'m Message>,
) -> Option<&'m Created> {
    let message = message.filter(|message| !message.deleted)?;
    let created = message.created.as_ref()?;
    let open = !created.system && created.sender != *user && !watermark.covers(created.at);
    open.then_some(created)
}

fn receipt(message: MessageKey, user: &UserId) -> ReceiptKey {
    ReceiptKey {
        message,
        status: Status::read(),
        user: user.clone(),
    }
}
