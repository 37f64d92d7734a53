//! Derive against the model: whatever the schedule, the same counters.

use std::collections::BTreeMap;

use chat_counters::derive::LoadMode;
use chat_counters::derive::state::{ByType, DialogKey, MembershipKey, MessageKey};
use chat_counters::event::decode::{Decoded, Decoder};
use chat_counters::event::{DialogId, Event, MessageId, TenantId, UserId};
use serde_json::Value;

use crate::kit::model::Model;
use crate::memory::{Memory, Writer};
use crate::strategy::{self, Schedule};
use crate::torture::Torture;

pub(crate) fn decoded(event: &Value) -> Event {
    match Decoder::default().decode(event.to_string().as_bytes()) {
        Ok(Decoded::Event(event, _)) => event,
        other => panic!("{event} gave {other:?}"),
    }
}

fn key(tenant: &str, dialog: &str) -> DialogKey {
    DialogKey {
        tenant: TenantId::new(tenant).unwrap(),
        dialog: DialogId::new(dialog).unwrap(),
    }
}

fn positive(by_type: &ByType) -> BTreeMap<String, i64> {
    let counts = by_type.iter().filter(|(_, count)| *count != 0);
    counts
        .map(|(name, count)| (name.to_string(), count))
        .collect()
}

fn nonzero(counts: &BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    let counts = counts.iter().filter(|(_, count)| **count != 0);
    counts.map(|(name, count)| (name.clone(), *count)).collect()
}

/// Every counter of the documents, by the rules of reading, against the model.
pub(crate) fn compare(memory: &Memory, model: &Model) {
    for (tenant, dialog) in model.dialogs() {
        let stored = memory
            .dialogs
            .get(&key(&tenant, &dialog))
            .cloned()
            .unwrap_or_default();
        let expected = model.dialog(&tenant, &dialog);
        let found = if stored.deleted {
            (0, 0, 0, None)
        } else {
            let last = stored.last_message_at.map(|at| at.get());
            (stored.messages, stored.members, stored.topics, last)
        };
        let expected = (
            expected.message_count,
            expected.member_count,
            expected.topic_count,
            expected.last_message_at,
        );
        assert_eq!(found, expected, "dialog {tenant:?} {dialog:?}");
    }
    for (tenant, user, dialog) in model.user_dialogs() {
        let dialog_key = key(&tenant, &dialog);
        let stored = memory.dialogs.get(&dialog_key).cloned().unwrap_or_default();
        let membership = MembershipKey {
            dialog: dialog_key,
            user: UserId::new(&user).unwrap(),
        };
        let share = memory
            .memberships
            .get(&membership)
            .cloned()
            .unwrap_or_default();
        let member = share.facts.joined_at().is_some() && !stored.deleted;
        let unread = if member {
            positive(&stored.sequence.minus(&share.consumed))
        } else {
            BTreeMap::new()
        };
        let expected = model.user_dialog(&tenant, &user, &dialog);
        assert_eq!(member, expected.member, "{tenant:?} {user:?} {dialog:?}");
        assert_eq!(
            unread, expected.unread_by_sender_type,
            "{tenant:?} {user:?} {dialog:?}"
        );
    }
    for (tenant, user) in model.users() {
        let sent = memory
            .memberships
            .iter()
            .filter(|(key, _)| key.dialog.tenant.as_str() == tenant && key.user.as_str() == user);
        let sent: i64 = sent.map(|(_, share)| share.sent).sum();
        let expected = model.user(&tenant, &user).total_messages_count;
        assert_eq!(sent, expected, "sent by {tenant:?} {user:?}");
    }
    compare_messages(memory, model);
}

fn compare_messages(memory: &Memory, model: &Model) {
    for (tenant, message) in model.messages() {
        let message_key = MessageKey {
            tenant: TenantId::new(&tenant).unwrap(),
            message: MessageId::new(&message).unwrap(),
        };
        let stored = memory
            .messages
            .get(&message_key)
            .cloned()
            .unwrap_or_default();
        let created = stored.message.created.as_ref();
        let dialog = created.map(|c| key(&tenant, c.dialog.as_str()));
        let dialog_deleted = dialog.is_some_and(|key| {
            memory
                .dialogs
                .get(&key)
                .is_some_and(|dialog| dialog.deleted)
        });
        let gone = stored.message.deleted || dialog_deleted;
        let shown = |counts: &BTreeMap<String, i64>| {
            if gone {
                BTreeMap::new()
            } else {
                nonzero(counts)
            }
        };
        let expected = model.message(&tenant, &message);
        let place = format!("message {tenant:?} {message:?}");
        assert_eq!(shown(&stored.statuses), expected.status_counts, "{place}");
        assert_eq!(
            shown(&stored.reactions),
            expected.reaction_counts,
            "{place}"
        );
        let readers = if gone {
            0
        } else {
            memory.readers(&message_key)
        };
        assert_eq!(readers, expected.read_count, "{place}");
    }
}

/// Two writers take turns with the batches of a schedule; each remembers
/// dialogs that the other has changed since.
fn run(events: &[Value], schedule: &Schedule) {
    let mut memory = Memory::default();
    let mut writers = [Writer::default(), Writer::default()];
    for (turn, batch) in schedule.batches(events.len()).into_iter().enumerate() {
        let batch: Vec<_> = batch
            .into_iter()
            .map(|index| decoded(&events[index]))
            .collect();
        let writer = &mut writers[turn % 2];
        // A process that is killed has derived, and nothing of it is left.
        drop(writer.derive(&memory, &batch, LoadMode::Optimistic));
        writer.take(&mut memory, &batch, LoadMode::Optimistic);
    }
    compare(&memory, &Model::of(events));
}

#[test]
fn every_schedule_gives_the_counters_of_the_model() {
    let torture = Torture {
        what: "schedules in memory",
        regressions: "tests/it/derive.regressions",
        cases: 1_000,
    };
    torture.run(&strategy::events_and_schedule(), |(events, schedule)| {
        run(&events, &schedule);
    });
}
