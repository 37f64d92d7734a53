//! A chat scenario as a Chat3 platform would publish it, and what a real bus
//! does to it: duplicates, neighbours out of order, poison.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::random::Random;

/// Two tenants with the same dialogs and users, and one with awkward ids.
pub(crate) const TENANTS: [&str; 3] = ["tnt_north", "tnt_south", "tnt.$|:ö"];
/// Users, as they are written.
pub(crate) const USERS: [&str; 8] = [
    "alice", "Bob", "carl ", "dora", "eve", "frank.$", "Ünal", "bot:1",
];
/// Dialogs of each tenant.
pub(crate) const DIALOGS: [&str; 6] = [
    "dlg_general",
    "dlg_random",
    "dlg|a",
    "dlg.b$",
    "dlg:c",
    "dlg_🎉",
];
const REACTIONS: [&str; 4] = ["👍", "❤️", "$inc", "a.b"];
/// Micros of the first event.
const START: i64 = 1_763_551_369_397_648;
/// The limit on a body that the service is expected to have.
const MAX_BODY_BYTES: usize = 1 << 20;

/// What a published message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A counter event.
    Event,
    /// One that was published before.
    Duplicate,
    /// No counter event.
    Ignored,
    /// To be dead-lettered for this reason.
    Poison(&'static str),
}

/// A message for the exchange.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub routing_key: String,
    pub event_type: String,
    pub entity_type: String,
    pub tenant_id: String,
    pub body: Vec<u8>,
    pub kind: Kind,
}

/// All that is published, in order, and the events that count.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub published: Vec<Published>,
    /// Distinct counter events, for the model.
    pub events: Vec<Value>,
}

impl Scenario {
    /// About 5,000 messages.
    pub(crate) fn demo(seed: u64) -> Self {
        Self::new(seed, 4_500)
    }

    /// About 330 messages.
    pub(crate) fn small(seed: u64) -> Self {
        Self::new(seed, 300)
    }

    /// Of so many events, and as many more messages as duplicates and poison
    /// make.
    pub(crate) fn new(seed: u64, size: usize) -> Self {
        let mut story = Story::new(seed);
        let mut published = story.cast();
        while published.len() < size {
            let event = story.next();
            published.push(event);
        }
        let events = published.iter().filter(|event| is_counted(event)).cloned();
        let events = events.collect();
        let published = published.iter().map(good).collect();
        Self {
            published: disturb(published, &mut story.random),
            events,
        }
    }
}

fn is_counted(event: &Value) -> bool {
    event["eventType"] != "dialog.typing"
}

fn good(event: &Value) -> Published {
    let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
    let kind = if is_counted(event) {
        Kind::Event
    } else {
        Kind::Ignored
    };
    let (event_type, entity_type, tenant_id) =
        (text("eventType"), text("entityType"), text("tenantId"));
    let action = event_type.rsplit('.').next().unwrap_or_default();
    Published {
        routing_key: format!("{entity_type}.{action}.{tenant_id}"),
        body: event.to_string().into_bytes(),
        event_type,
        entity_type,
        tenant_id,
        kind,
    }
}

/// One in ten twice, neighbours shuffled, one poison in a hundred.
fn disturb(published: Vec<Published>, random: &mut Random) -> Vec<Published> {
    let mut disturbed = Vec::with_capacity(published.len() * 9 / 8);
    let mut poisons = 0;
    for message in published {
        let duplicate = Published {
            kind: match message.kind {
                Kind::Event => Kind::Duplicate,
                kind => kind,
            },
            ..message.clone()
        };
        disturbed.push(message);
        if random.one_in(10) {
            disturbed.push(duplicate);
        }
        if random.one_in(100) {
            disturbed.push(poison(poisons));
            poisons += 1;
        }
    }
    for index in 1..disturbed.len() {
        let other = index - random.below(index.min(4) + 1);
        disturbed.swap(index, other);
    }
    disturbed
}

/// Every kind of bad input in turn.
fn poison(number: usize) -> Published {
    let valid = json!({
        "eventId": format!("evt_poison_{number}"),
        "tenantId": TENANTS[0],
        "eventType": "message.create",
        "entityType": "message",
        "createdAt": START / 1_000,
        "data": {
            "context": { "dialogId": "dlg_poison", "messageId": format!("msg_poison_{number}") },
            "message": { "senderId": "alice" },
        },
    });
    let with = |place: &str, value: Value| {
        let mut event = valid.clone();
        if let Some(found) = event.pointer_mut(place) {
            *found = value;
        }
        event.to_string().into_bytes()
    };
    let numbered = |text: &str| format!("{text}{number}").into_bytes();
    let (body, reason) = match number % 10 {
        0 => ([b"\xff\xfe".to_vec(), numbered("")].concat(), "undecodable"),
        1 => (numbered("{\"eventId\": "), "undecodable"),
        2 => (numbered("["), "undecodable"),
        3 => (numbered(""), "undecodable"),
        4 => (numbered(&" ".repeat(MAX_BODY_BYTES)), "too_large"),
        5 => (with("/data/message/senderId", Value::Null), "invalid_event"),
        6 => (
            with("/data/context/dialogId", json!("x".repeat(513))),
            "invalid_event",
        ),
        7 => (
            with("/data/context/messageId", json!("a\u{0}b")),
            "invalid_event",
        ),
        8 => (with("/createdAt", json!(-1)), "invalid_event"),
        _ => (with("/tenantId", json!(7)), "invalid_event"),
    };
    Published {
        routing_key: "message.create.poison".into(),
        event_type: "message.create".into(),
        entity_type: "message".into(),
        tenant_id: TENANTS[0].into(),
        body,
        kind: Kind::Poison(reason),
    }
}

/// A message that someone may read, delete or react to later.
struct Sent {
    tenant: usize,
    dialog: usize,
    id: String,
}

/// Makes up one event after the other.
struct Story {
    random: Random,
    /// Micros.
    now: i64,
    events: usize,
    sent: Vec<Sent>,
    deleted_dialogs: BTreeSet<(usize, usize)>,
}

impl Story {
    fn new(seed: u64) -> Self {
        Self {
            random: Random::new(seed),
            now: START,
            events: 0,
            sent: Vec::new(),
            deleted_dialogs: BTreeSet::new(),
        }
    }

    /// Everyone joins somewhere first.
    fn cast(&mut self) -> Vec<Value> {
        let mut joins = Vec::new();
        for tenant in 0..TENANTS.len() {
            for dialog in 0..DIALOGS.len() {
                for user in 0..USERS.len() {
                    if !self.random.one_in(3) {
                        joins.push(self.join(tenant, dialog, user));
                    }
                }
            }
        }
        joins
    }

    fn next(&mut self) -> Value {
        let tenant = self.random.below(TENANTS.len());
        let dialog = self.random.below(DIALOGS.len());
        let user = self.random.below(USERS.len());
        match self.random.below(1_000) {
            0..480 => self.message(tenant, dialog, user),
            480..600 => self.status(user, "read"),
            600..650 => self.status(user, "Delivered"),
            650..720 => self.bulk_read(tenant, dialog, user),
            720..780 => self.join(tenant, dialog, user),
            780..820 => self.leave(tenant, dialog, user),
            820..900 => self.reaction(user),
            900..930 => self.delete(user),
            930..950 => self.topic(tenant, dialog, user),
            950..970 => self.user(tenant, user),
            // One dialog in all is deleted.
            970..972 if self.deleted_dialogs.is_empty() && self.events > 200 => {
                self.delete_dialog(tenant, dialog, user)
            }
            _ => self.typing(tenant, dialog, user),
        }
    }

    fn event(
        &mut self,
        tenant: usize,
        event_type: &str,
        entity: (&str, String),
        actor: usize,
        data: Value,
    ) -> Value {
        self.now += 100 + i64::try_from(self.random.below(50_000)).unwrap_or_default();
        self.events += 1;
        // Ids that do not sort by time.
        let id = format!("evt_{:08x}", (self.events as u32).wrapping_mul(0x9e37_79b1));
        let created_at = if self.random.one_in(20) {
            json!(rfc3339(self.now))
        } else {
            json!(self.now as f64 / 1_000.0)
        };
        json!({
            "eventId": id,
            "tenantId": TENANTS[tenant],
            "eventType": event_type,
            "entityType": entity.0,
            "entityId": entity.1,
            "actorId": USERS[actor],
            "actorType": "user",
            "data": data,
            "createdAt": created_at,
        })
    }

    fn message(&mut self, tenant: usize, dialog: usize, sender: usize) -> Value {
        let id = format!(
            "msg_{:06}{}",
            self.sent.len(),
            if self.random.one_in(9) { ".$" } else { "" }
        );
        self.sent.push(Sent {
            tenant,
            dialog,
            id: id.clone(),
        });
        let kinds = [
            "internal.text",
            "internal.image",
            "external.text",
            "system.member_joined",
        ];
        let sender_type = ["user", "contact", "bot"][sender % 3];
        let data = json!({
            "context": {
                "version": 2,
                "eventType": "message.create",
                "dialogId": DIALOGS[dialog],
                "entityId": id,
                "messageId": id,
                "includedSections": ["context", "dialog", "message"],
            },
            "dialog": { "dialogId": DIALOGS[dialog], "tenantId": TENANTS[tenant], "meta": {} },
            "message": {
                "messageId": id,
                "dialogId": DIALOGS[dialog],
                "senderId": USERS[sender],
                "senderInfo": { "userId": USERS[sender], "type": sender_type, "meta": {} },
                "type": self.random.pick(&kinds),
                "content": "Shall we meet at the usual place?",
                "quotedMessage": null,
            },
        });
        self.event(tenant, "message.create", ("message", id), sender, data)
    }

    /// A message of the last few, mostly.
    fn recent(&mut self) -> (usize, usize, String) {
        let window = if self.random.one_in(5) {
            self.sent.len()
        } else {
            self.sent.len().min(60)
        };
        if window == 0 {
            return (0, 0, "msg_not_yet".into());
        }
        let sent = &self.sent[self.sent.len() - 1 - self.random.below(window)];
        (sent.tenant, sent.dialog, sent.id.clone())
    }

    fn status(&mut self, user: usize, status: &str) -> Value {
        let (tenant, dialog, message) = self.recent();
        let alias = self.random.one_in(4);
        let event_type = if alias {
            "message.status.update"
        } else {
            "message.status.changed"
        };
        let update = json!({ "userId": USERS[user], "status": status, "oldStatus": "sent" });
        let mut data = json!({ "context": { "messageId": message }, "message": {} });
        // Not every producer names the dialog of a status.
        if !self.random.one_in(5) {
            data["context"]["dialogId"] = json!(DIALOGS[dialog]);
        }
        if self.random.one_in(3) {
            data["statusUpdate"] = update;
        } else {
            data["message"]["statusUpdate"] = update;
        }
        self.event(tenant, event_type, ("messageStatus", message), user, data)
    }

    fn reaction(&mut self, user: usize) -> Value {
        let (tenant, dialog, message) = self.recent();
        let reaction = *self.random.pick(&REACTIONS);
        let old = self.random.one_in(3).then(|| *self.random.pick(&REACTIONS));
        let action = if self.random.one_in(4) {
            "unset"
        } else {
            "set"
        };
        let data = json!({
            "context": { "dialogId": DIALOGS[dialog], "messageId": message },
            "message": {
                "messageId": message,
                "reactionUpdate": {
                    "userId": USERS[user], "reaction": reaction, "action": action, "oldReaction": old,
                },
            },
        });
        self.event(
            tenant,
            "message.reaction.changed",
            ("messageReaction", message),
            user,
            data,
        )
    }

    fn delete(&mut self, user: usize) -> Value {
        let (tenant, dialog, message) = self.recent();
        let data = json!({ "context": { "dialogId": DIALOGS[dialog], "messageId": message } });
        self.event(tenant, "message.delete", ("message", message), user, data)
    }

    fn bulk_read(&mut self, tenant: usize, dialog: usize, user: usize) -> Value {
        let past = if self.random.one_in(4) { 2_000_000 } else { 0 };
        let until = (self.now - past) as f64 / 1_000.0;
        let mut data = json!({
            "context": { "dialogId": DIALOGS[dialog], "userId": USERS[user] },
            "member": { "userId": USERS[user], "state": { "lastSeenAt": 0 } },
        });
        match self.random.below(3) {
            0 => data["readUntil"] = json!(until),
            1 => data["member"]["state"]["lastSeenAt"] = json!(until),
            _ => {}
        }
        let entity = ("dialog", DIALOGS[dialog].to_owned());
        self.event(tenant, "dialog.messages.bulk_read", entity, user, data)
    }

    fn join(&mut self, tenant: usize, dialog: usize, user: usize) -> Value {
        let event_type = if self.random.one_in(5) {
            "member.add"
        } else {
            "dialog.member.add"
        };
        let mut data = json!({ "context": { "dialogId": DIALOGS[dialog] }, "member": { "userId": USERS[user] } });
        if self.random.one_in(6) {
            data["member"]["joinedAt"] = json!((self.now - 5_000_000) as f64 / 1_000.0);
        }
        // Everything can also be told from the id of the entity.
        if !USERS[user].contains(' ') && !DIALOGS[dialog].contains(':') && self.random.one_in(4) {
            data = json!({});
        }
        let entity = (
            "dialogMember",
            format!("{}:{}", DIALOGS[dialog], USERS[user]),
        );
        self.event(tenant, event_type, entity, user, data)
    }

    fn leave(&mut self, tenant: usize, dialog: usize, user: usize) -> Value {
        let data = json!({ "context": { "dialogId": DIALOGS[dialog], "userId": USERS[user] } });
        let entity = (
            "dialogMember",
            format!("{}:{}", DIALOGS[dialog], USERS[user]),
        );
        self.event(tenant, "dialog.member.remove", entity, user, data)
    }

    fn topic(&mut self, tenant: usize, dialog: usize, user: usize) -> Value {
        let topic = format!("topic_{}", self.random.below(4));
        let data =
            json!({ "context": { "dialogId": DIALOGS[dialog] }, "topic": { "topicId": topic } });
        self.event(tenant, "dialog.topic.create", ("topic", topic), user, data)
    }

    fn user(&mut self, tenant: usize, user: usize) -> Value {
        let user_type = ["user", "contact", "bot"][user % 3];
        let data = json!({
            "context": { "eventType": "user.changed" },
            "user": { "userId": USERS[user], "type": user_type, "meta": {} },
        });
        self.event(
            tenant,
            "user.changed",
            ("user", USERS[user].to_owned()),
            user,
            data,
        )
    }

    fn delete_dialog(&mut self, tenant: usize, dialog: usize, user: usize) -> Value {
        self.deleted_dialogs.insert((tenant, dialog));
        let data = json!({ "context": { "dialogId": DIALOGS[dialog] } });
        self.event(
            tenant,
            "dialog.delete",
            ("dialog", DIALOGS[dialog].to_owned()),
            user,
            data,
        )
    }

    fn typing(&mut self, tenant: usize, dialog: usize, user: usize) -> Value {
        let data = json!({ "context": { "dialogId": DIALOGS[dialog] } });
        self.event(
            tenant,
            "dialog.typing",
            ("dialog", DIALOGS[dialog].to_owned()),
            user,
            data,
        )
    }
}

fn rfc3339(micros: i64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000);
    let format = &time::format_description::well_known::Rfc3339;
    at.ok()
        .and_then(|at| at.format(format).ok())
        .unwrap_or_default()
}
