//! A message's life: created, read one by one, deleted. What changes a
//! dialog's sequence.

use std::collections::HashSet;

use super::changes::{Consumed, Disagreement};
use super::state::{
    Authority, Created, DialogKey, MembershipKey, Message, MessageKey, Need, ReceiptKey,
};
use super::{Batch, DeriveResult, Effect, dialog_key, membership_key, message_key, user_key};
use crate::event::{Event, Fact, MessageId, Micros, NewMessage, SenderType, UserId};

impl Batch {
    pub(super) fn message_created(
        &mut self,
        event: &Event,
        new: &NewMessage,
    ) -> DeriveResult<Effect> {
        let key = message_key(event, &new.message);
        let known = self.message(&key);
        let created = self.created(event, new);
        if let Some(first) = &known.created {
            return self.created_again(&key, first, &created, &known);
        }
        let dialog = dialog_key(event, &new.dialog);
        // A message that was deleted before it was created never counts.
        let deleted_before_create = known.deleted;
        if !deleted_before_create {
            let consumers = self.consumers(&dialog, &key, &created)?;
            self.touched.note(&dialog, &new.message, &known);
            self.recount(&dialog, None, Some((&created, &consumers)));
        }
        // Who still takes it for a placeholder must be refused.
        let was_placeholder = i64::from(known.version > 0);
        let change = self.message_mut(&key);
        change.created = Some(created.clone());
        change.version += was_placeholder;
        let message = Message {
            created: Some(created.clone()),
            version: known.version + was_placeholder,
            ..known
        };
        self.state.messages.insert(key, message);
        let mut effect = Effect::on(&dialog);
        effect.sender_type = Some(created.sender_type);
        effect.trace.had_placeholder = was_placeholder > 0;
        effect.trace.deleted_before_create = deleted_before_create;
        Ok(effect)
    }

    /// The message as this create has it.
    fn created(&self, event: &Event, new: &NewMessage) -> Created {
        let by = |presumed| Authority {
            presumed,
            stamp: Some(event.stamp.clone()),
        };
        let presumed = || {
            let key = user_key(event, &new.sender);
            let learnt = || self.state.user_types.get(&key).cloned().flatten();
            new.presumed_type.clone().or_else(learnt)
        };
        let stated = new.sender_type.clone();
        Created {
            dialog: new.dialog.clone(),
            at: new.sent_at,
            sender: new.sender.clone(),
            sender_type: stated.or_else(presumed).unwrap_or_default(),
            system: new.system,
            at_by: by(!new.time_is_stated),
            type_by: by(new.sender_type.is_none()),
            system_by: by(false),
        }
    }

    /// Applies one more create of a message. What it knows better moves the
    /// message, and every counter that depends on it.
    fn created_again(
        &mut self,
        key: &MessageKey,
        first: &Created,
        other: &Created,
        known: &Message,
    ) -> DeriveResult<Effect> {
        let differences = differences(first, other);
        let of_another =
            |kind: &Disagreement| matches!(kind, Disagreement::Dialog | Disagreement::Sender);
        let believed = first.believing(other);
        if differences.iter().any(of_another) || believed == *first {
            self.changes.disagreements.extend(differences);
            return Ok(Effect::nothing());
        }
        let dialog = dialog_of(key, first);
        let (was, is) = (first.counting_facts(), believed.counting_facts());
        if was != is && !known.deleted {
            let leaving = self.consumers(&dialog, key, first)?;
            let joining = self.consumers(&dialog, key, &believed)?;
            let latest = self.latest_after(&dialog, key, first)?;
            self.touched.note(&dialog, &key.message, known);
            self.dialog_mut(&dialog).last_message_at = latest;
            self.recount(
                &dialog,
                Some((first, &leaving)),
                Some((&believed, &joining)),
            );
        }
        self.changes.disagreements.extend(differences);
        self.message_mut(key).created = Some(believed.clone());
        let message = Message {
            created: Some(believed),
            ..known.clone()
        };
        self.state.messages.insert(key.clone(), message);
        // A create that says the same with more authority must be remembered, but
        // changes nothing that anybody sees.
        let mut effect = Effect::on(&dialog);
        effect.changed = was != is;
        effect.trace.corrected = Some((was, is));
        Ok(effect)
    }

    pub(super) fn message_deleted(
        &mut self,
        event: &Event,
        id: &MessageId,
    ) -> DeriveResult<Effect> {
        let key = message_key(event, id);
        let known = self.message(&key);
        if known.deleted {
            return Ok(Effect::nothing());
        }
        let effect = match &known.created {
            None => {
                self.message_mut(&key).version += 1;
                Effect::unguarded()
            }
            Some(created) => self.uncount(&key, created, &known)?,
        };
        self.message_mut(&key).deleted = true;
        let message = Message {
            deleted: true,
            version: known.version + i64::from(known.created.is_none()),
            ..known
        };
        self.state.messages.insert(key, message);
        Ok(effect)
    }

    /// Takes a counted message out of all counters.
    fn uncount(
        &mut self,
        key: &MessageKey,
        created: &Created,
        known: &Message,
    ) -> DeriveResult<Effect> {
        let dialog = dialog_of(key, created);
        self.require([Need::Dialog(dialog.clone())])?;
        let consumers = self.consumers(&dialog, key, created)?;
        let latest = self.latest_after(&dialog, key, created)?;
        self.touched.note(&dialog, &key.message, known);
        self.dialog_mut(&dialog).last_message_at = latest;
        self.recount(&dialog, Some((created, &consumers)), None);
        let mut effect = Effect::on(&dialog);
        effect.trace.sender = Some(created.sender.clone());
        Ok(effect)
    }

    /// The time of the dialog's latest message once this one is not where it is.
    fn latest_after(
        &self,
        dialog: &DialogKey,
        key: &MessageKey,
        created: &Created,
    ) -> DeriveResult<Option<Micros>> {
        let latest = self.dialog(dialog).last_message_at;
        if latest != Some(created.at) {
            return Ok(latest);
        }
        self.latest_without(dialog, &key.message)
    }

    /// Returns the receipt that the event is, if it is one.
    pub(super) fn receipt(&self, event: &Event) -> Option<ReceiptKey> {
        match &event.fact {
            Fact::StatusReached {
                message,
                user,
                status,
            } => Some(ReceiptKey {
                message: message_key(event, message),
                status: status.clone(),
                user: user.clone(),
            }),
            _ => None,
        }
    }

    pub(super) fn status_reached(&mut self, event: &Event) -> DeriveResult<Effect> {
        let new = self.receipt(event);
        let Some(receipt) = new.filter(|receipt| !self.state.receipts[receipt]) else {
            return Ok(Effect::nothing());
        };
        let (message, user, status) = (&receipt.message, &receipt.user, &receipt.status);
        let known = self.message(message);
        let effect = match &known.created {
            Some(created) if status.is_read() && !created.system => {
                self.read_one(message, &known, created, user)?
            }
            _ => Effect::unguarded(),
        };
        self.note_on(message, |change| {
            *change.statuses.entry(status.clone()).or_default() += 1;
            if status.is_read() {
                change.readers.push(user.clone());
            }
        });
        self.count_status(message, status);
        self.state.receipts.insert(receipt.clone(), true);
        self.changes.receipts.push(receipt);
        Ok(effect)
    }

    /// A read of a message that can be unread. Raises the dialog's version also
    /// when it was not: the watermark that says so can still move back. And also
    /// when it is deleted: the history tells by it which of the two came first.
    fn read_one(
        &mut self,
        key: &MessageKey,
        known: &Message,
        created: &Created,
        user: &UserId,
    ) -> DeriveResult<Effect> {
        let dialog = dialog_of(key, created);
        let membership = membership_key(&dialog, user);
        self.require([
            Need::Dialog(dialog.clone()),
            Need::Membership(membership.clone()),
        ])?;
        let watermark = self.membership(&membership).watermark();
        self.touched.note(&dialog, &key.message, known);
        let was_unread =
            !known.deleted && watermark.is_some_and(|watermark| !watermark.covers(created.at));
        if was_unread && *user != created.sender {
            self.consume(membership, &created.sender_type, 1);
        }
        Ok(Effect::on(&dialog))
    }

    /// Changes something that is only counted on the message itself. On a
    /// placeholder it raises the version, which a create must have seen.
    pub(super) fn note_on(
        &mut self,
        key: &MessageKey,
        change: impl FnOnce(&mut super::changes::MessageChange),
    ) {
        let is_placeholder = self.message(key).created.is_none();
        let noted = self.message_mut(key);
        change(noted);
        if is_placeholder {
            noted.version += 1;
            self.state.messages.entry(key.clone()).or_default().version += 1;
        }
    }

    /// Everyone for whom the message is not unread: its sender, members whose
    /// watermark covers it, and those who have read it one by one. Someone who is
    /// not a member may be among them: their share means nothing until they
    /// join, and is then set anew.
    fn consumers(
        &self,
        dialog: &DialogKey,
        key: &MessageKey,
        created: &Created,
    ) -> DeriveResult<HashSet<UserId>> {
        let mut consumers = HashSet::from([created.sender.clone()]);
        if created.system {
            return Ok(consumers);
        }
        let past = self.members_past_need(dialog, created.at, created.system);
        let out_of_order = past.is_some();
        let is_stored = self.is_stored(key);
        let readers = is_stored.then(|| Need::Readers(key.clone()));
        self.require(past.into_iter().chain(readers))?;
        if out_of_order {
            consumers.extend(self.members_past(dialog, created));
        }
        if is_stored {
            consumers.extend(self.state.readers[key].iter().cloned());
        }
        let changed = self.changes.messages.get(key);
        let read_in_batch = changed.map(|change| &change.readers);
        consumers.extend(read_in_batch.into_iter().flatten().cloned());
        Ok(consumers)
    }

    /// Whether anything about the message is in the store.
    pub(super) fn is_stored(&self, key: &MessageKey) -> bool {
        use super::changes::MessageBefore::Absent;
        match self.changes.messages.get(key) {
            Some(change) => change.before != Absent,
            None => {
                let message = self.message(key);
                message.version > 0 || message.created.is_some()
            }
        }
    }

    /// Members whose watermark covers the message: as stored, unless the membership
    /// is known better.
    fn members_past(&self, dialog: &DialogKey, created: &Created) -> Vec<UserId> {
        let known = self.state.memberships.get(dialog);
        let is_known = |user| known.is_some_and(|known| known.contains_key(user));
        let stored = self.state.members_past[dialog].1.iter();
        let stored =
            stored.filter(|(user, watermark)| watermark.covers(created.at) && !is_known(user));
        let known = known.into_iter().flatten().filter(|(_, membership)| {
            let watermark = membership.watermark();
            watermark.is_some_and(|watermark| watermark.covers(created.at))
        });
        stored
            .map(|(user, _)| user.clone())
            .chain(known.map(|(user, _)| user.clone()))
            .collect()
    }

    /// Takes a message out of the counters as it was, and puts it in as it is.
    fn recount(&mut self, dialog: &DialogKey, was: Counted<'_>, is: Counted<'_>) {
        let counters = self.dialog_mut(dialog);
        for (counted, by) in [(was, -1), (is, 1)] {
            let Some((created, _)) = counted else {
                continue;
            };
            counters.messages += by;
            if by > 0 {
                counters.last_message_at = counters.last_message_at.max(Some(created.at));
            }
            if !created.system {
                counters.sequence.add(&created.sender_type, by);
            }
        }
        // Whoever had consumed it as it was, and has as it is, is not concerned.
        let same = unread_from(was) == unread_from(is);
        for (counted, other, by) in [(was, is, -1), (is, was, 1)] {
            let Some((created, consumers)) = counted else {
                continue;
            };
            let stay = |user: &&UserId| same && other.is_some_and(|(_, o)| o.contains(*user));
            for user in consumers.iter().filter(|user| !stay(user)) {
                let key = membership_key(dialog, user);
                if !created.system {
                    self.consume(key.clone(), &created.sender_type, by);
                }
                if *user == created.sender {
                    self.share_mut(key).sent += by;
                }
            }
        }
    }

    fn consume(&mut self, key: MembershipKey, sender_type: &SenderType, by: i64) {
        match &mut self.share_mut(key).consumed {
            Consumed::Add(share) | Consumed::Set(share) => share.add(sender_type, by),
        }
    }
}

/// A message that counts, and for whom it is not unread.
type Counted<'c> = Option<(&'c Created, &'c HashSet<UserId>)>;

/// The type under which the message can be unread; `None` when it cannot.
fn unread_from(counted: Counted<'_>) -> Option<&SenderType> {
    let countable = counted.filter(|(created, _)| !created.system);
    countable.map(|(created, _)| &created.sender_type)
}

fn dialog_of(key: &MessageKey, created: &Created) -> DialogKey {
    DialogKey {
        tenant: key.tenant.clone(),
        dialog: created.dialog.clone(),
    }
}

/// Returns what another create says otherwise. A type that it does not state
/// itself contradicts none.
fn differences(first: &Created, other: &Created) -> Vec<Disagreement> {
    let both_stated = !first.type_by.presumed && !other.type_by.presumed;
    let found = [
        (Disagreement::Dialog, first.dialog != other.dialog),
        (Disagreement::Sender, first.sender != other.sender),
        (Disagreement::Time, first.at != other.at),
        (
            Disagreement::SenderType,
            both_stated && first.sender_type != other.sender_type,
        ),
        (Disagreement::System, first.system != other.system),
    ];
    let found = found.into_iter().filter(|(_, differs)| *differs);
    found.map(|(kind, _)| kind).collect()
}
