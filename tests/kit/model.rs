//! The counters, recounted from the whole set of events in the plainest way
//! possible: a second opinion on semantics.md that shares no code with the
//! service. Slow, and meant to be.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// A time in micros, and the id of the event: ties are broken by its bytes.
type Stamp = (i64, String);
/// Counts by name; zeros are left out.
pub(crate) type Counts = BTreeMap<String, i64>;

/// A user over all dialogs.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UserCounts {
    pub dialog_count: i64,
    pub unread_dialogs_count: i64,
    pub total_unread_count: i64,
    pub total_messages_count: i64,
    pub unread_by_sender_type: Counts,
}

/// A user in a dialog.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct UserDialogCounts {
    pub member: bool,
    pub unread_count: i64,
    pub unread_by_sender_type: Counts,
    pub joined_at: Option<i64>,
    pub read_until: Option<i64>,
}

/// A dialog.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DialogCounts {
    pub message_count: i64,
    pub member_count: i64,
    pub topic_count: i64,
    pub last_message_at: Option<i64>,
}

/// A message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MessageCounts {
    pub dialog_id: Option<String>,
    pub status_counts: Counts,
    pub reaction_counts: Counts,
    pub read_count: i64,
}

#[derive(Debug, Clone)]
struct Message {
    dialog: String,
    sender: String,
    sender_type: String,
    /// The message states its sender's type itself.
    type_stated: bool,
    at: i64,
    /// The message states its time itself.
    at_stated: bool,
    system: bool,
}

/// All that was said of one tenant, by kind.
#[derive(Debug, Default)]
struct Tenant {
    messages: BTreeMap<String, Message>,
    deleted_messages: BTreeSet<String>,
    deleted_dialogs: BTreeSet<String>,
    /// (dialog, user) to what happened when; `Some(join time)` is an add.
    membership: BTreeMap<(String, String), BTreeMap<Stamp, Option<i64>>>,
    read_until: BTreeMap<(String, String), i64>,
    /// (message, status, user)
    statuses: BTreeSet<(String, String, String)>,
    /// (message, reaction, user) to words in order.
    reactions: BTreeMap<(String, String, String), BTreeMap<Stamp, bool>>,
    /// (dialog, topic)
    topics: BTreeSet<(String, String)>,
    /// User to types in order.
    types: BTreeMap<String, BTreeMap<Stamp, String>>,
    dialogs: BTreeSet<String>,
    users: BTreeSet<String>,
    user_dialogs: BTreeSet<(String, String)>,
    message_ids: BTreeSet<String>,
}

/// The counters of a set of events.
#[derive(Debug, Default)]
pub(crate) struct Model {
    tenants: BTreeMap<String, Tenant>,
}

impl Model {
    /// Counts a set of valid events; what is no counter event is passed over,
    /// and of events with the same id only the first is taken.
    pub(crate) fn of<'e>(events: impl IntoIterator<Item = &'e Value>) -> Self {
        let mut distinct: BTreeMap<(String, String), &Value> = BTreeMap::new();
        for event in events {
            let key = (text(event, "/tenantId"), text(event, "/eventId"));
            distinct.entry(key).or_insert(event);
        }
        let mut in_time_order: Vec<_> = distinct.into_values().collect();
        in_time_order.sort_by_key(|event| stamp(event));
        let mut model = Self::default();
        // Types are learnt before messages, so that their order is no matter.
        let (types, others): (Vec<_>, Vec<_>) = in_time_order
            .into_iter()
            .partition(|event| text(event, "/eventType").starts_with("user."));
        for event in types.into_iter().chain(others) {
            let tenant = model.tenants.entry(text(event, "/tenantId")).or_default();
            tenant.take(event);
        }
        model
    }

    fn tenant(&self, tenant: &str) -> &Tenant {
        self.tenants.get(tenant).expect("a tenant of the events")
    }

    fn all<'m, T>(&'m self, of: impl Fn(&'m Tenant) -> Vec<T>) -> Vec<(String, T)> {
        let tenants = self.tenants.iter();
        let keys = tenants
            .flat_map(|(name, tenant)| of(tenant).into_iter().map(move |key| (name.clone(), key)));
        keys.collect()
    }

    /// Every (tenant, user).
    pub(crate) fn users(&self) -> Vec<(String, String)> {
        self.all(|tenant| tenant.users.iter().cloned().collect())
    }

    /// Every (tenant, user, dialog).
    pub(crate) fn user_dialogs(&self) -> Vec<(String, String, String)> {
        let keys = self.all(|tenant| tenant.user_dialogs.iter().cloned().collect());
        keys.into_iter()
            .map(|(tenant, (user, dialog))| (tenant, user, dialog))
            .collect()
    }

    /// Every (tenant, dialog).
    pub(crate) fn dialogs(&self) -> Vec<(String, String)> {
        self.all(|tenant| tenant.dialogs.iter().cloned().collect())
    }

    /// Every (tenant, message).
    pub(crate) fn messages(&self) -> Vec<(String, String)> {
        self.all(|tenant| tenant.message_ids.iter().cloned().collect())
    }

    /// A user's counters over all dialogs.
    pub(crate) fn user(&self, tenant: &str, user: &str) -> UserCounts {
        let tenant = self.tenant(tenant);
        let mut counts = UserCounts::default();
        for dialog in &tenant.dialogs {
            let here = tenant.user_dialog(user, dialog);
            counts.dialog_count += i64::from(here.member);
            counts.unread_dialogs_count += i64::from(here.unread_count > 0);
            counts.total_unread_count += here.unread_count;
            for (sender_type, unread) in here.unread_by_sender_type {
                *counts.unread_by_sender_type.entry(sender_type).or_default() += unread;
            }
        }
        // Not those of `existing`: a message stays sent when its dialog ends.
        let sent = tenant.messages.iter().filter(|(id, message)| {
            message.sender == user && !tenant.deleted_messages.contains(*id)
        });
        counts.total_messages_count = sent.count() as i64;
        counts
    }

    /// A user's counters in a dialog.
    pub(crate) fn user_dialog(&self, tenant: &str, user: &str, dialog: &str) -> UserDialogCounts {
        self.tenant(tenant).user_dialog(user, dialog)
    }

    /// A dialog's counters.
    pub(crate) fn dialog(&self, tenant: &str, dialog: &str) -> DialogCounts {
        let tenant = self.tenant(tenant);
        if tenant.deleted_dialogs.contains(dialog) {
            return DialogCounts::default();
        }
        let here = || {
            tenant
                .existing()
                .filter(|(_, message)| message.dialog == dialog)
        };
        let members = tenant.users.iter();
        let members = members.filter(|user| tenant.joined_at(user, dialog).is_some());
        let topics = tenant.topics.iter().filter(|(of, _)| of == dialog);
        DialogCounts {
            message_count: here().count() as i64,
            member_count: members.count() as i64,
            topic_count: topics.count() as i64,
            last_message_at: here().map(|(_, message)| message.at).max(),
        }
    }

    /// A message's counters.
    pub(crate) fn message(&self, tenant: &str, message: &str) -> MessageCounts {
        let tenant = self.tenant(tenant);
        let dialog_id = tenant
            .messages
            .get(message)
            .map(|known| known.dialog.clone());
        let in_deleted = dialog_id
            .as_ref()
            .is_some_and(|dialog| tenant.deleted_dialogs.contains(dialog));
        let mut counts = MessageCounts {
            dialog_id,
            ..MessageCounts::default()
        };
        if in_deleted || tenant.deleted_messages.contains(message) {
            return counts;
        }
        for (of, status, _user) in &tenant.statuses {
            if of == message {
                *counts.status_counts.entry(status.clone()).or_default() += 1;
            }
        }
        for ((of, reaction, _user), words) in &tenant.reactions {
            let is_set = words.last_key_value().is_some_and(|(_, set)| *set);
            if of == message && is_set {
                *counts.reaction_counts.entry(reaction.clone()).or_default() += 1;
            }
        }
        counts.read_count = tenant.readers(message);
        counts
    }
}

impl Tenant {
    /// Messages created, not deleted, in dialogs that are not deleted.
    fn existing(&self) -> impl Iterator<Item = (&String, &Message)> {
        self.messages.iter().filter(|(id, message)| {
            !self.deleted_messages.contains(*id) && !self.deleted_dialogs.contains(&message.dialog)
        })
    }

    /// The join time of a member; `None` for someone who is not one.
    fn joined_at(&self, user: &str, dialog: &str) -> Option<i64> {
        if self.deleted_dialogs.contains(dialog) {
            return None;
        }
        let key = (dialog.to_owned(), user.to_owned());
        let mut joined_at = None;
        for happened in self.membership.get(&key)?.values() {
            match happened {
                // A second add while already a member changes nothing.
                Some(join_time) => joined_at = joined_at.or(Some(*join_time)),
                None => joined_at = None,
            }
        }
        joined_at
    }

    fn user_dialog(&self, user: &str, dialog: &str) -> UserDialogCounts {
        let key = (dialog.to_owned(), user.to_owned());
        let mut counts = UserDialogCounts {
            // A statement about the user, not a counter: it outlives the dialog.
            read_until: self.read_until.get(&key).copied(),
            ..UserDialogCounts::default()
        };
        let Some(joined_at) = self.joined_at(user, dialog) else {
            return counts;
        };
        counts.member = true;
        counts.joined_at = Some(joined_at);
        for (id, message) in self.existing() {
            let read = (id.clone(), "read".to_owned(), user.to_owned());
            let is_unread = message.dialog == dialog
                && !message.system
                && message.sender != user
                && message.at >= joined_at
                && counts
                    .read_until
                    .is_none_or(|read_until| message.at > read_until)
                && !self.statuses.contains(&read);
            if is_unread {
                counts.unread_count += 1;
                let sender_type = message.sender_type.clone();
                *counts.unread_by_sender_type.entry(sender_type).or_default() += 1;
            }
        }
        counts
    }

    /// How many members have read a message that exists.
    fn readers(&self, id: &str) -> i64 {
        let Some(message) = self.messages.get(id) else {
            return 0;
        };
        let readers = self.users.iter().filter(|user| {
            let key = (message.dialog.clone(), (*user).clone());
            let read = (id.to_owned(), "read".to_owned(), (*user).clone());
            let joined_at = self.joined_at(user, &message.dialog);
            let read_until = self.read_until.get(&key);
            **user != message.sender
                && joined_at.is_some_and(|joined_at| joined_at <= message.at)
                && (read_until.is_some_and(|until| *until >= message.at)
                    || self.statuses.contains(&read))
        });
        readers.count() as i64
    }

    fn take(&mut self, event: &Value) {
        let stamp = stamp(event);
        match text(event, "/eventType").as_str() {
            "message.create" => self.create(event),
            "message.delete" => {
                let message = self.message_of(event);
                self.deleted_messages.insert(message);
            }
            "message.status.changed" | "message.status.update" => {
                let (message, user) = (self.message_of(event), self.acting_user_of(event));
                let places = [
                    "/data/message/statusUpdate/status",
                    "/data/statusUpdate/status",
                ];
                let status = first(event, &places).to_lowercase();
                self.statuses.insert((message, status, user));
            }
            "message.reaction.changed" | "message.reaction.update" => self.react(event, &stamp),
            "dialog.messages.bulk_read" => {
                let key = self.user_dialog_of(event);
                // A reader has read what was there, whatever their clock says.
                let until = read_until(event).unwrap_or(stamp.0).min(stamp.0);
                let known = self.read_until.entry(key).or_insert(until);
                *known = until.max(*known);
            }
            "dialog.member.add" | "member.add" => {
                let key = self.user_dialog_of(event);
                let joined_at = time(event, "/data/member/joinedAt").unwrap_or(stamp.0);
                self.membership
                    .entry(key)
                    .or_default()
                    .insert(order_of_add(event, stamp), Some(joined_at));
            }
            "dialog.member.remove" | "member.remove" => {
                let key = self.user_dialog_of(event);
                self.membership.entry(key).or_default().insert(stamp, None);
            }
            "dialog.topic.create" => {
                let dialog = self.dialog_of(event);
                let topic = first(event, &["/data/topic/topicId", "/entityId"]);
                self.topics.insert((dialog, topic));
            }
            "dialog.delete" => {
                let dialog = self.dialog_of(event);
                self.deleted_dialogs.insert(dialog);
            }
            "user.add" | "user.changed" | "user.update" => {
                let user = self.typed_user_of(event);
                let user_type = counted_as(first(event, &["/data/user/type", "/data/type"]));
                self.types.entry(user).or_default().insert(stamp, user_type);
            }
            _ => {}
        }
    }

    fn create(&mut self, event: &Value) {
        let (dialog, id) = (self.dialog_of(event), self.message_of(event));
        let sender = self.user_named(&text(event, "/data/message/senderId"));
        self.user_dialogs.insert((sender.clone(), dialog.clone()));
        let places = ["/data/message/senderType", "/data/message/senderInfo/type"];
        let learnt = || {
            let known = self.types.get(&sender)?;
            known.last_key_value().map(|(_, learnt)| learnt.clone())
        };
        let stated_type = Some(first(event, &places)).filter(|known| !known.is_empty());
        let stated_type = stated_type.map(counted_as);
        let stated_at = time(event, "/data/message/createdAt");
        let (type_stated, at_stated) = (stated_type.is_some(), stated_at.is_some());
        let sender_type = stated_type.or_else(learnt);
        let message = Message {
            dialog,
            sender,
            sender_type: sender_type.unwrap_or_else(|| "user".into()),
            type_stated,
            at: stated_at.unwrap_or(stamp(event).0),
            at_stated,
            system: text(event, "/data/message/type").starts_with("system."),
        };
        // Creates come in time order: the first that states a fact has it.
        let known = self.messages.entry(id).or_insert_with(|| message.clone());
        if at_stated && !known.at_stated {
            (known.at, known.at_stated) = (message.at, true);
        }
        if type_stated && !known.type_stated {
            (known.sender_type, known.type_stated) = (message.sender_type, true);
        }
    }

    fn react(&mut self, event: &Value, stamp: &Stamp) {
        let (message, user) = (self.message_of(event), self.acting_user_of(event));
        let update = ["/data/message/reactionUpdate", "/data/reactionUpdate"];
        let field = |name: &str| first(event, &update.map(|place| format!("{place}/{name}")));
        let (reaction, old) = (field("reaction"), field("oldReaction"));
        let set = field("action") != "unset";
        let mut say = |reaction: String, set: bool| {
            let key = (message.clone(), reaction, user.clone());
            self.reactions
                .entry(key)
                .or_default()
                .insert(stamp.clone(), set);
        };
        if !old.is_empty() && old != reaction {
            say(old, false);
        }
        // Chat3 unsets a reaction by naming none, and the old one.
        if !reaction.is_empty() {
            say(reaction, set);
        }
    }

    fn user_named(&mut self, name: &str) -> String {
        // JavaScript takes U+FEFF for white space.
        let white = |c: char| c.is_whitespace() || c == '\u{feff}';
        let user = name.trim_matches(white).to_lowercase();
        self.users.insert(user.clone());
        user
    }

    fn dialog_of(&mut self, event: &Value) -> String {
        let places = [
            "/data/context/dialogId",
            "/data/dialog/dialogId",
            "/data/message/dialogId",
        ];
        let mut dialog = first(event, &places);
        if dialog.is_empty() {
            dialog = match text(event, "/entityType").as_str() {
                "dialogMember" => member_entity(event).0,
                "dialog" => text(event, "/entityId"),
                _ => dialog,
            };
        }
        self.dialogs.insert(dialog.clone());
        dialog
    }

    fn message_of(&mut self, event: &Value) -> String {
        let places = ["/data/context/messageId", "/data/message/messageId"];
        let mut message = first(event, &places);
        if message.is_empty() {
            message = text(event, "/entityId");
        }
        self.message_ids.insert(message.clone());
        message
    }

    /// (dialog, user) of an event about a member.
    fn user_dialog_of(&mut self, event: &Value) -> (String, String) {
        let dialog = self.dialog_of(event);
        let mut user = first(event, &["/data/context/userId", "/data/member/userId"]);
        if user.is_empty() {
            user = member_entity(event).1;
        }
        let user = self.user_named(&user);
        self.user_dialogs.insert((user.clone(), dialog.clone()));
        (dialog, user)
    }

    fn acting_user_of(&mut self, event: &Value) -> String {
        let user = first(
            event,
            &[
                "/data/context/userId",
                "/data/member/userId",
                "/data/message/statusUpdate/userId",
                "/data/statusUpdate/userId",
                "/data/message/reactionUpdate/userId",
                "/data/reactionUpdate/userId",
                "/actorId",
            ],
        );
        self.user_named(&user)
    }

    fn typed_user_of(&mut self, event: &Value) -> String {
        let places = [
            "/data/context/userId",
            "/data/user/userId",
            "/data/member/userId",
        ];
        let mut user = first(event, &places);
        if user.is_empty() {
            user = text(event, "/entityId");
        }
        self.user_named(&user)
    }
}

/// A sender type by its own name, if it is one of those that have one.
fn counted_as(stated: String) -> String {
    match stated.as_str() {
        "user" | "contact" | "bot" => stated,
        _ => "other".into(),
    }
}

/// An add stands where the membership was made, if that is said plausibly.
fn order_of_add(event: &Value, stamp: Stamp) -> Stamp {
    let last_seen = time(event, "/data/member/state/lastSeenAt").filter(|at| *at > 0);
    let made = time(event, "/data/member/joinedAt").or(last_seen);
    let earliest = stamp.0 - 10 * 1_000_000;
    match made {
        Some(made) if earliest <= made && made <= stamp.0 => (made, stamp.1),
        _ => stamp,
    }
}

/// The two parts of `{dialogId}:{userId}`. The dialog may have colons where it
/// is also named elsewhere.
fn member_entity(event: &Value) -> (String, String) {
    let entity = text(event, "/entityId");
    let named = first(
        event,
        &[
            "/data/context/dialogId",
            "/data/dialog/dialogId",
            "/data/message/dialogId",
        ],
    );
    if entity == named {
        return (named, String::new());
    }
    if !named.is_empty() && entity.starts_with(&format!("{named}:")) {
        return (named.clone(), entity[named.len() + 1..].to_owned());
    }
    let (dialog, user) = entity.split_once(':').unwrap_or((&entity, ""));
    (dialog.to_owned(), user.to_owned())
}

/// A string; empty when there is none.
fn text(event: &Value, place: &str) -> String {
    let found = event.pointer(place).and_then(Value::as_str);
    found.unwrap_or_default().to_owned()
}

/// The first of the places with a string in it.
fn first(event: &Value, places: &[impl AsRef<str>]) -> String {
    let found = places.iter().map(|place| text(event, place.as_ref()));
    found
        .into_iter()
        .find(|text| !text.is_empty())
        .unwrap_or_default()
}

fn stamp(event: &Value) -> Stamp {
    let at = time(event, "/createdAt").expect("a valid event has a time");
    (at, text(event, "/eventId"))
}

fn read_until(event: &Value) -> Option<i64> {
    let last_seen = time(event, "/data/member/state/lastSeenAt").filter(|at| *at > 0);
    time(event, "/data/readUntil").or(last_seen)
}

/// A time in micros, from milliseconds or RFC 3339.
fn time(event: &Value, place: &str) -> Option<i64> {
    match event.pointer(place)? {
        Value::Number(millis) => Some((millis.as_f64()? * 1_000.0).round() as i64),
        Value::String(text) if !text.is_empty() => {
            let format = &time::format_description::well_known::Rfc3339;
            let at = time::OffsetDateTime::parse(text, format).expect("RFC 3339");
            Some(((at.unix_timestamp_nanos() + 500) / 1_000) as i64)
        }
        _ => None,
    }
}
