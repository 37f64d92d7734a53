//! The loads: events as a Chat3 producer sends them.

use serde_json::{Value, json};

use super::Options;

pub(crate) const TENANT: &str = "tnt_bench";
/// Micros of the first event. Members joined before.
pub(crate) const START: i64 = 1_763_551_369_397_648;

/// One event to publish.
pub(crate) struct Load {
    pub event_type: &'static str,
    pub entity_type: &'static str,
    pub body: String,
}

impl Load {
    pub(crate) fn is_message(&self) -> bool {
        self.event_type == "message.create"
    }
}

impl Options {
    /// The numbers of a round's events, which no other round has.
    fn indexes(&self, round: usize) -> std::ops::Range<usize> {
        round * self.events..(round + 1) * self.events
    }
}

/// xorshift64*: the same load in every run.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn of(round: usize) -> Self {
        Self(0x9e37_79b9_7f4a_7c15 ^ round as u64)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d);
        ((u128::from(bits) * n as u128) >> 64) as usize
    }
}

pub(crate) fn dialog(index: usize) -> String {
    format!("dlg_{index:020}")
}

pub(crate) fn user(index: usize) -> String {
    format!("usr_{index:08}")
}

fn message_id(index: usize) -> String {
    format!("msg_{index:020}")
}

/// Messages in order of time, spread over dialogs and senders at random.
pub(crate) fn messages(options: &Options, members: usize, round: usize) -> Vec<Load> {
    let mut random = Random::of(round);
    let messages = options.indexes(round).map(|index| {
        let (dialog, sender) = (random.below(options.dialogs), random.below(members));
        message(index, dialog, sender)
    });
    messages.collect()
}

/// 70 % messages, 20 % single reads of a recent message, 5 % bulk reads up to
/// now, 5 % joins and leaves.
pub(crate) fn mixed(options: &Options, members: usize, round: usize) -> Vec<Load> {
    let mut random = Random::of(round);
    let mut recent: Vec<Option<usize>> = vec![None; options.dialogs];
    let events = options.indexes(round).map(|index| {
        let (dialog, user) = (random.below(options.dialogs), random.below(members));
        match (random.below(100), recent[dialog]) {
            (70..90, Some(message)) => read(index, dialog, message, user),
            (90..95, _) => bulk_read(index, dialog, user),
            (95..100, _) => membership(index, dialog, user, random.below(2) == 0),
            _ => {
                recent[dialog] = Some(index);
                message(index, dialog, user)
            }
        }
    });
    events.collect()
}

/// Everyone joins every dialog, in the time before the first round.
pub(crate) fn joins(options: &Options, members: usize) -> Vec<Load> {
    let pairs = (0..options.dialogs).flat_map(|d| (0..members).map(move |m| (d, m)));
    let joins = pairs.enumerate();
    joins
        .map(|(index, (dialog, user))| membership(index, dialog, user, true))
        .collect()
}

fn event(
    index: usize,
    event_type: &'static str,
    entity_type: &'static str,
    entity_id: String,
    actor: usize,
    data: Value,
) -> Load {
    let body = json!({
        "eventId": event_id(index),
        "tenantId": TENANT,
        "eventType": event_type,
        "entityType": entity_type,
        "entityId": entity_id,
        "actorId": user(actor),
        "actorType": "user",
        "data": data,
        "createdAt": at(index),
    });
    Load {
        event_type,
        entity_type,
        body: body.to_string(),
    }
}

pub(crate) fn event_id(index: usize) -> String {
    format!("evt_{index:032}")
}

/// One event a millisecond.
fn at(index: usize) -> f64 {
    START as f64 / 1000.0 + index as f64 + 1.0
}

pub(crate) fn message(index: usize, dialog_index: usize, sender: usize) -> Load {
    message_at(index, dialog_index, sender, at(index))
}

/// A message that was sent between two earlier ones.
pub(crate) fn late_message(index: usize, dialog_index: usize, sender: usize, after: usize) -> Load {
    message_at(index, dialog_index, sender, at(after) + 0.5)
}

fn message_at(index: usize, dialog_index: usize, sender: usize, sent_at: f64) -> Load {
    let (dialog, message) = (dialog(dialog_index), message_id(index));
    let data = json!({
        "context": {
            "version": 2,
            "eventType": "message.create",
            "dialogId": dialog,
            "entityId": message,
            "messageId": message,
            "includedSections": ["dialog", "message"],
            "updatedFields": [],
        },
        "dialog": { "dialogId": dialog, "tenantId": TENANT, "name": "General", "meta": {} },
        "message": {
            "messageId": message,
            "dialogId": dialog,
            "senderId": user(sender),
            "senderInfo": { "userId": user(sender), "type": "user", "name": "A. User" },
            "type": "internal.text",
            "content": "The quick brown fox jumps over the lazy dog, twice a day.",
            "meta": { "channel": "web" },
            "createdAt": sent_at,
        },
    });
    event(
        index,
        "message.create",
        "message",
        message_id(index),
        sender,
        data,
    )
}

fn read(index: usize, dialog_index: usize, message: usize, reader: usize) -> Load {
    let (dialog, message) = (dialog(dialog_index), message_id(message));
    let data = json!({
        "context": { "version": 2, "dialogId": dialog, "messageId": message, "userId": user(reader) },
        "message": {
            "messageId": message,
            "dialogId": dialog,
            "statusUpdate": { "userId": user(reader), "status": "read", "oldStatus": "delivered" },
        },
    });
    event(
        index,
        "message.status.changed",
        "messageStatus",
        message,
        reader,
        data,
    )
}

/// The deletion of an earlier message.
pub(crate) fn delete(index: usize, dialog_index: usize, message: usize) -> Load {
    let (dialog, message) = (dialog(dialog_index), message_id(message));
    let data = json!({ "context": { "version": 2, "dialogId": dialog, "messageId": message } });
    event(index, "message.delete", "message", message, 0, data)
}

fn bulk_read(index: usize, dialog_index: usize, reader: usize) -> Load {
    bulk_read_until(index, dialog_index, reader, index)
}

/// Everything up to an event that may be an earlier one is read.
pub(crate) fn bulk_read_until(
    index: usize,
    dialog_index: usize,
    reader: usize,
    until: usize,
) -> Load {
    let dialog = dialog(dialog_index);
    let data = json!({
        "context": { "version": 2, "dialogId": dialog, "userId": user(reader) },
        "readUntil": at(until),
    });
    event(
        index,
        "dialog.messages.bulk_read",
        "dialog",
        dialog,
        reader,
        data,
    )
}

/// Somebody new who sees what was there since an earlier event.
pub(crate) fn join_since(index: usize, dialog_index: usize, member: usize, since: usize) -> Load {
    let (dialog, user) = (dialog(dialog_index), user(member));
    let entity = format!("{dialog}:{user}");
    let data = json!({
        "context": { "version": 2, "dialogId": dialog, "userId": user },
        "member": { "userId": user, "joinedAt": at(since) },
    });
    event(
        index,
        "dialog.member.add",
        "dialogMember",
        entity,
        member,
        data,
    )
}

fn membership(index: usize, dialog_index: usize, member: usize, joins: bool) -> Load {
    let (dialog, user) = (dialog(dialog_index), user(member));
    let entity = format!("{dialog}:{user}");
    let data = json!({
        "context": { "version": 2, "dialogId": dialog, "userId": user },
        "member": { "userId": user, "state": { "unreadCount": 0, "lastSeenAt": 0 } },
    });
    let event_type = if joins {
        "dialog.member.add"
    } else {
        "dialog.member.remove"
    };
    event(index, event_type, "dialogMember", entity, member, data)
}
