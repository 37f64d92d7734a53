//! Arbitrary small sets of events, and arbitrary ways to deliver them.
//!
//! Everything is drawn from a few ids and a few times, so that ties, repeated
//! facts and contradictions are the rule. Ids are such that gluing them
//! together, or taking them for paths, would make them meet.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::kit::random::Random;

const TENANTS: [&str; 3] = ["a", "a|b", "A.$:👍"];
const DIALOGS: [&str; 3] = ["b|c", "c", "d.$x:👍"];
/// The first two are one user.
const USERS: [&str; 5] = ["u1", "\u{feff} U1", "ü$.", "bob:1", "%2E"];
const MESSAGES: [&str; 5] = ["m1", "m.2", "$m3", "b|c", "👍"];
const SENDER_TYPES: [&str; 3] = ["user", "bot", "a.$b%"];
const STATUSES: [&str; 3] = ["read", "Delivered", "unread"];
const REACTIONS: [&str; 2] = ["👍", "$.x"];
const TOPICS: [&str; 2] = ["t1", "t.2"];

/// The only user whose type is learnt, and whose messages always state it: what
/// is learnt must not matter.
const TYPED: usize = USERS.len() - 1;

/// What there is to know of a message. Creates of it may know it worse.
#[derive(Debug, Clone)]
struct Facts {
    dialog: usize,
    sender: usize,
    sender_type: usize,
    at: u8,
    system: bool,
}

/// How a create tells one fact of its message.
#[derive(Debug, Clone, Copy)]
enum Telling {
    Right,
    NotAtAll,
    Otherwise,
}

/// How a create tells the facts of its message.
#[derive(Debug, Clone, Copy)]
struct Said {
    at: Telling,
    sender_type: Telling,
    system: Telling,
}

/// One thing that happens, in one tenant, at a time of its own.
#[derive(Debug, Clone)]
struct Happening {
    tenant: usize,
    at: u8,
    what: What,
}

#[derive(Debug, Clone)]
enum What {
    Create(usize, Said),
    Delete(usize),
    Status(usize, usize, usize),
    React(usize, usize, usize, bool, bool),
    /// As Chat3 does it: no reaction, and the old one.
    Unset(usize, usize, usize),
    BulkRead(usize, usize, u8),
    Join(usize, usize, u8),
    /// A join whose user stands in the entity's id alone, and whose making is
    /// told by when the member was last seen.
    JoinSeen(usize, usize, u8),
    Leave(usize, usize),
    Topic(usize, usize),
    DeleteDialog(usize),
    Typed(usize, usize),
}

/// A way to deliver events: in some order, some more than once, in batches.
#[derive(Debug, Clone)]
pub(crate) struct Schedule {
    seed: u64,
    /// How far an event may be from its place; 0 keeps the order.
    disorder: usize,
    batch: usize,
}

impl Schedule {
    /// What all of its chance comes from.
    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Indexes of events, by batch. Every event is in at least one.
    pub(crate) fn batches(&self, events: usize) -> Vec<Vec<usize>> {
        let mut random = Random::new(self.seed);
        let mut deliveries: Vec<(usize, usize)> = Vec::new();
        for event in 0..events {
            deliveries.push((event + random.below(self.disorder + 1), event));
            if random.one_in(4) {
                deliveries.push((random.below(events + self.disorder), event));
            }
        }
        deliveries.sort_by_key(|(place, _)| *place);
        let mut deliveries = deliveries.into_iter().map(|(_, event)| event).peekable();
        let mut batches = Vec::new();
        while deliveries.peek().is_some() {
            let size = 1 + random.below(self.batch);
            batches.push(deliveries.by_ref().take(size).collect());
        }
        batches
    }
}

fn facts() -> impl Strategy<Value = Facts> {
    (
        0..DIALOGS.len(),
        0..USERS.len(),
        0..SENDER_TYPES.len(),
        0_u8..12,
        prop::bool::weighted(0.1),
    )
        .prop_map(|(dialog, sender, sender_type, at, system)| Facts {
            dialog,
            sender,
            sender_type,
            at,
            system,
        })
}

fn telling() -> impl Strategy<Value = Telling> {
    prop_oneof![
        6 => Just(Telling::Right),
        1 => Just(Telling::NotAtAll),
        1 => Just(Telling::Otherwise),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    (telling(), telling(), telling()).prop_map(|(at, sender_type, system)| Said {
        at,
        sender_type,
        system,
    })
}

fn what() -> impl Strategy<Value = What> {
    let (dialog, user, message) = (0..DIALOGS.len(), 0..USERS.len(), 0..MESSAGES.len());
    prop_oneof![
        8 => (message.clone(), said()).prop_map(|(message, said)| What::Create(message, said)),
        2 => message.clone().prop_map(What::Delete),
        5 => (message.clone(), user.clone(), 0..STATUSES.len())
            .prop_map(|(message, user, status)| What::Status(message, user, status)),
        3 => (message.clone(), user.clone(), 0..REACTIONS.len(), any::<bool>(), any::<bool>())
            .prop_map(|(m, u, r, set, replaces)| What::React(m, u, r, set, replaces)),
        1 => (message, user.clone(), 0..REACTIONS.len())
            .prop_map(|(message, user, old)| What::Unset(message, user, old)),
        4 => (dialog.clone(), user.clone(), 0_u8..14)
            .prop_map(|(dialog, user, until)| What::BulkRead(dialog, user, until)),
        6 => (dialog.clone(), user.clone(), 0_u8..14)
            .prop_map(|(dialog, user, joined_at)| What::Join(dialog, user, joined_at)),
        2 => (dialog.clone(), user.clone(), 0_u8..14)
            .prop_map(|(dialog, user, seen)| What::JoinSeen(dialog, user, seen)),
        4 => (dialog.clone(), user.clone())
            .prop_map(|(dialog, user)| What::Leave(dialog, user)),
        1 => (dialog.clone(), 0..TOPICS.len()).prop_map(|(dialog, topic)| What::Topic(dialog, topic)),
        // Rare: what is deleted has no more counters to compare.
        1 => (dialog, 0_u8..4).prop_map(|(dialog, chance)| match chance {
            0 => What::DeleteDialog(dialog),
            _ => What::Topic(dialog, 0),
        }),
        1 => (0..SENDER_TYPES.len()).prop_map(|typed| What::Typed(TYPED, typed)),
    ]
}

fn happening() -> impl Strategy<Value = Happening> {
    // Most in one tenant: there it is crowded.
    let tenant = prop_oneof![8 => Just(0), 1 => Just(1), 1 => Just(2)];
    (tenant, 0_u8..12, what()).prop_map(|(tenant, at, what)| Happening { tenant, at, what })
}

/// A set of events, and a schedule. Some of the events say what others say,
/// under ids of their own: a producer that tries again.
pub(crate) fn events_and_schedule() -> impl Strategy<Value = (Vec<Value>, Schedule)> {
    let facts = prop::collection::vec(facts(), TENANTS.len() * MESSAGES.len());
    let happenings = prop::collection::vec(happening(), 1..60);
    let repeated = prop::collection::vec(any::<prop::sample::Index>(), 0..8);
    let schedule = (
        any::<u64>(),
        prop_oneof![Just(0), Just(3), Just(100)],
        1_usize..12,
    );
    let schedule = schedule.prop_map(|(seed, disorder, batch)| Schedule {
        seed,
        disorder,
        batch,
    });
    let events = (facts, happenings, repeated).prop_map(|(facts, mut happenings, repeated)| {
        let again: Vec<_> = repeated
            .iter()
            .map(|index| index.get(&happenings).clone())
            .collect();
        happenings.extend(again);
        // Ids in an order that has nothing to do with that of the times.
        let numbered = happenings.iter().enumerate();
        let events = numbered.map(|(number, happening)| {
            event(&format!("e{:02}", number * 37 % 71), happening, &facts)
        });
        events.collect()
    });
    (events, schedule)
}

fn event(id: &str, happening: &Happening, facts: &[Facts]) -> Value {
    let facts = &facts[happening.tenant * MESSAGES.len()..];
    let (event_type, data) = match &happening.what {
        What::Create(message, said) => {
            ("message.create", create(*message, &facts[*message], *said))
        }
        What::Delete(message) => (
            "message.delete",
            json!({ "message": { "messageId": MESSAGES[*message] } }),
        ),
        What::Status(message, user, status) => (
            "message.status.changed",
            json!({
                "context": { "messageId": MESSAGES[*message] },
                "message": {
                    "statusUpdate": { "userId": USERS[*user], "status": STATUSES[*status] },
                },
            }),
        ),
        What::React(message, user, reaction, set, replaces) => (
            "message.reaction.update",
            react(*message, *user, *reaction, *set, *replaces),
        ),
        What::Unset(message, user, old) => (
            "message.reaction.changed",
            json!({
                "message": {
                    "messageId": MESSAGES[*message],
                    "reactionUpdate": {
                        "userId": USERS[*user],
                        "reaction": null,
                        "oldReaction": REACTIONS[*old],
                    },
                },
            }),
        ),
        What::BulkRead(dialog, user, until) => (
            "dialog.messages.bulk_read",
            json!({
                "context": { "dialogId": DIALOGS[*dialog], "userId": USERS[*user] },
                "readUntil": until,
            }),
        ),
        What::Join(dialog, user, joined_at) => (
            "dialog.member.add",
            json!({
                "dialog": { "dialogId": DIALOGS[*dialog] },
                "member": { "userId": USERS[*user], "joinedAt": joined_at },
            }),
        ),
        What::JoinSeen(dialog, _, seen) => (
            "member.add",
            json!({
                "dialog": { "dialogId": DIALOGS[*dialog] },
                "member": { "state": { "lastSeenAt": seen } },
            }),
        ),
        What::Leave(dialog, user) => (
            "member.remove",
            json!({
                "dialog": { "dialogId": DIALOGS[*dialog] },
                "member": { "userId": USERS[*user] },
            }),
        ),
        What::Topic(dialog, topic) => (
            "dialog.topic.create",
            json!({
                "context": { "dialogId": DIALOGS[*dialog] },
                "topic": { "topicId": TOPICS[*topic] },
            }),
        ),
        What::DeleteDialog(dialog) => (
            "dialog.delete",
            json!({ "context": { "dialogId": DIALOGS[*dialog] } }),
        ),
        What::Typed(user, user_type) => (
            "user.changed",
            json!({ "user": { "userId": USERS[*user], "type": SENDER_TYPES[*user_type] } }),
        ),
    };
    let entity = match &happening.what {
        What::JoinSeen(dialog, user, _) => format!("{}:{}", DIALOGS[*dialog], USERS[*user]),
        _ => String::new(),
    };
    json!({
        "eventId": id,
        "tenantId": TENANTS[happening.tenant],
        "entityType": if entity.is_empty() { "" } else { "dialogMember" },
        "entityId": entity,
        "eventType": event_type,
        "createdAt": happening.at,
        "data": data,
    })
}

fn create(message: usize, facts: &Facts, said: Said) -> Value {
    let at = match said.at {
        Telling::Right => Some(facts.at),
        Telling::NotAtAll => None,
        Telling::Otherwise => Some((facts.at + 5) % 12),
    };
    let sender_type = match said.sender_type {
        Telling::NotAtAll if facts.sender != TYPED => None,
        Telling::Otherwise => Some((facts.sender_type + 1) % SENDER_TYPES.len()),
        _ => Some(facts.sender_type),
    };
    let system = facts.system != matches!(said.system, Telling::Otherwise);
    json!({
        "context": { "dialogId": DIALOGS[facts.dialog] },
        "message": {
            "messageId": MESSAGES[message],
            "senderId": USERS[facts.sender],
            "senderType": sender_type.map(|sender_type| SENDER_TYPES[sender_type]),
            "type": if system { "system.info" } else { "internal.text" },
            "createdAt": at,
        },
    })
}

fn react(message: usize, user: usize, reaction: usize, set: bool, replaces: bool) -> Value {
    let old = replaces.then(|| REACTIONS[1 - reaction]);
    json!({
        "message": {
            "messageId": MESSAGES[message],
            "reactionUpdate": {
                "userId": USERS[user],
                "reaction": REACTIONS[reaction],
                "action": if set { "set" } else { "unset" },
                "oldReaction": old,
            },
        },
    })
}
