//! Where in a body each value stands: the lists of places of semantics.md.
//! The first hit wins; `null` and the empty string are misses.

use std::fmt;

use super::wire::{Body, Data, Leaf, Message, Section, Update};

/// One place that a value may stand in, and what is there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'b> {
    /// The JSON path, for error texts.
    pub(super) path: &'static str,
    /// What stands at the path.
    pub(super) value: Value<'b>,
}

/// What is in a place.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value<'b> {
    /// Nothing, `null` or the empty string.
    Missing,
    /// A string that is not empty.
    Text(&'b str),
    /// A finite number.
    Number(f64),
    /// Neither a string nor a number: what it is, in words.
    Other(&'static str),
    /// Cannot be reached: the section at `path` is not an object.
    Blocked {
        path: &'static str,
        found: &'static str,
    },
}

/// For error texts: numbers are shown, strings only by their length, since
/// they may be message content.
impl fmt::Display for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Missing => f.write_str("nothing"),
            Value::Text(text) => write!(f, "a string of {} bytes", text.len()),
            // The shorter form for what no time or count can be.
            Value::Number(number) if number.abs() >= 1e16 => write!(f, "number {number:e}"),
            Value::Number(number) => write!(f, "number {number}"),
            Value::Other(kind) | Value::Blocked { found: kind, .. } => f.write_str(kind),
        }
    }
}

/// The first place with something in it.
///
/// # Errors
/// When a place before it cannot be reached: its section is of a wrong type.
pub(super) fn first_hit<'b>(places: &[Place<'b>]) -> Result<Option<Place<'b>>, String> {
    for place in places {
        match place.value {
            Value::Missing => {}
            Value::Blocked { path, found } => {
                return Err(format!("{path}: expected an object, found {found}"));
            }
            _ => return Ok(Some(*place)),
        }
    }
    Ok(None)
}

/// The error text for a value that is in none of its places.
pub(super) fn missing(places: &[Place<'_>]) -> String {
    let mut paths = places.iter().map(|place| place.path);
    let first = paths.next().unwrap_or_default();
    let mut others: Vec<_> = paths.collect();
    others.dedup();
    if others.is_empty() {
        format!("{first}: expected a value, found nothing")
    } else {
        let others = others.join(", ");
        format!("{first}: expected a value here or at {others}, found nothing")
    }
}

fn place<'b>(path: &'static str, leaf: &'b Leaf<'_>) -> Place<'b> {
    let value = match leaf {
        Leaf::Text(text) => part(text),
        Leaf::Absent => Value::Missing,
        Leaf::Number(number) => Value::Number(*number),
        Leaf::Other(kind) => Value::Other(kind),
    };
    Place { path, value }
}

fn part(text: &str) -> Value<'_> {
    if text.is_empty() {
        Value::Missing
    } else {
        Value::Text(text)
    }
}

/// How far a walk down the sections got.
#[derive(Clone, Copy)]
enum Reached<'b, T> {
    Nothing,
    Object(&'b T),
    Blocked {
        path: &'static str,
        found: &'static str,
    },
}

fn reach<'b, T>(path: &'static str, section: &'b Section<T>) -> Reached<'b, T> {
    match section {
        Section::Absent => Reached::Nothing,
        Section::Found(object) => Reached::Object(object),
        Section::Wrong(found) => Reached::Blocked { path, found },
    }
}

impl<'b, T> Reached<'b, T> {
    fn section<U>(
        self,
        path: &'static str,
        field: impl FnOnce(&'b T) -> &'b Section<U>,
    ) -> Reached<'b, U> {
        match self {
            Reached::Nothing => Reached::Nothing,
            Reached::Object(object) => reach(path, field(object)),
            Reached::Blocked { path, found } => Reached::Blocked { path, found },
        }
    }

    fn leaf<'a: 'b>(
        self,
        path: &'static str,
        field: impl FnOnce(&'b T) -> &'b Leaf<'a>,
    ) -> Place<'b> {
        match self {
            Reached::Nothing => Place {
                path,
                value: Value::Missing,
            },
            Reached::Object(object) => place(path, field(object)),
            Reached::Blocked {
                path: section,
                found,
            } => Place {
                path,
                value: Value::Blocked {
                    path: section,
                    found,
                },
            },
        }
    }
}

impl<'a> Body<'a> {
    fn data(&self) -> Reached<'_, Data<'a>> {
        reach("data", &self.data)
    }

    fn message(&self) -> Reached<'_, Message<'a>> {
        self.data().section("data.message", |d| &d.message)
    }

    fn update(&self) -> [Reached<'_, Update<'a>>; 4] {
        let (message, data) = (|| self.message(), || self.data());
        [
            message().section("data.message.statusUpdate", |m| &m.status_update),
            data().section("data.statusUpdate", |d| &d.status_update),
            message().section("data.message.reactionUpdate", |m| &m.reaction_update),
            data().section("data.reactionUpdate", |d| &d.reaction_update),
        ]
    }

    /// The two parts of a `dialogMember` entity's id, `{dialogId}:{userId}`.
    /// Both may hold colons: a dialog that `data` names tells where the second
    /// part begins, or that the id is the dialog's alone.
    fn member_entity(&self) -> (Value<'_>, Value<'_>) {
        let (Some("dialogMember"), Some(id)) = (self.entity_type.text(), self.entity_id.text())
        else {
            return (Value::Missing, Value::Missing);
        };
        if let Ok(Some(Place {
            value: Value::Text(named),
            ..
        })) = first_hit(&self.named_dialog())
            && let Some(user) = id.strip_prefix(named)
        {
            match user.strip_prefix(':') {
                Some(user) => return (part(named), part(user)),
                None if user.is_empty() => return (part(named), Value::Missing),
                None => {}
            }
        }
        match id.split_once(':') {
            Some((dialog, user)) => (part(dialog), part(user)),
            None => (part(id), Value::Missing),
        }
    }

    /// `entityId`, when the entity is of one of these types.
    fn entity_of(&self, types: &[&str]) -> Place<'_> {
        let is_one = self.entity_type.text().is_some_and(|t| types.contains(&t));
        if is_one {
            place("entityId", &self.entity_id)
        } else {
            Place {
                path: "entityId",
                value: Value::Missing,
            }
        }
    }

    /// Returns the place of the event's type.
    pub(super) fn event_type(&self) -> [Place<'_>; 1] {
        [place("eventType", &self.event_type)]
    }

    /// Returns the place of the event's id.
    pub(super) fn event_id(&self) -> [Place<'_>; 1] {
        [place("eventId", &self.event_id)]
    }

    /// Returns the place of the tenant's id.
    pub(super) fn tenant_id(&self) -> [Place<'_>; 1] {
        [place("tenantId", &self.tenant_id)]
    }

    /// Returns the place of the id of whoever did it.
    pub(super) fn actor_id(&self) -> [Place<'_>; 1] {
        [place("actorId", &self.actor_id)]
    }

    /// Returns the place of the event's time.
    pub(super) fn created_at(&self) -> [Place<'_>; 1] {
        [place("createdAt", &self.created_at)]
    }

    /// The dialog as `data` names it.
    fn named_dialog(&self) -> [Place<'_>; 3] {
        [
            self.data()
                .section("data.context", |d| &d.context)
                .leaf("data.context.dialogId", |c| &c.dialog_id),
            self.data()
                .section("data.dialog", |d| &d.dialog)
                .leaf("data.dialog.dialogId", |d| &d.dialog_id),
            self.message()
                .leaf("data.message.dialogId", |m| &m.dialog_id),
        ]
    }

    /// Returns the places of the dialog's id.
    pub(super) fn dialog_id(&self) -> [Place<'_>; 5] {
        let [context, dialog, message] = self.named_dialog();
        let member = Place {
            path: "entityId",
            value: self.member_entity().0,
        };
        [
            context,
            dialog,
            message,
            member,
            self.entity_of(&["dialog"]),
        ]
    }

    /// Returns the places of the message's id.
    pub(super) fn message_id(&self) -> [Place<'_>; 3] {
        [
            self.data()
                .section("data.context", |d| &d.context)
                .leaf("data.context.messageId", |c| &c.message_id),
            self.message()
                .leaf("data.message.messageId", |m| &m.message_id),
            self.entity_of(&["message", "messageStatus", "messageReaction"]),
        ]
    }

    fn context_user(&self) -> Place<'_> {
        self.data()
            .section("data.context", |d| &d.context)
            .leaf("data.context.userId", |c| &c.user_id)
    }

    fn member_user(&self) -> Place<'_> {
        self.data()
            .section("data.member", |d| &d.member)
            .leaf("data.member.userId", |m| &m.user_id)
    }

    /// The user of an event about a dialog's member.
    pub(super) fn user_id(&self) -> [Place<'_>; 3] {
        [
            self.context_user(),
            self.member_user(),
            Place {
                path: "entityId",
                value: self.member_entity().1,
            },
        ]
    }

    /// The user of a status or reaction event: last, whoever did it.
    pub(super) fn acting_user_id(&self) -> [Place<'_>; 8] {
        let [s0, s1, r0, r1] = self.update();
        let [actor] = self.actor_id();
        let [context, member, entity] = self.user_id();
        [
            context,
            member,
            s0.leaf("data.message.statusUpdate.userId", |u| &u.user_id),
            s1.leaf("data.statusUpdate.userId", |u| &u.user_id),
            r0.leaf("data.message.reactionUpdate.userId", |u| &u.user_id),
            r1.leaf("data.reactionUpdate.userId", |u| &u.user_id),
            entity,
            actor,
        ]
    }

    /// The user of a `user.*` event.
    pub(super) fn typed_user_id(&self) -> [Place<'_>; 4] {
        [
            self.context_user(),
            self.data()
                .section("data.user", |d| &d.user)
                .leaf("data.user.userId", |u| &u.user_id),
            self.member_user(),
            self.entity_of(&["user"]),
        ]
    }

    /// Returns the places of the type that a `user.*` event states.
    pub(super) fn user_type(&self) -> [Place<'_>; 2] {
        [
            self.data()
                .section("data.user", |d| &d.user)
                .leaf("data.user.type", |u| &u.r#type),
            self.data().leaf("data.type", |d| &d.r#type),
        ]
    }

    /// Returns the place of a message's sender.
    pub(super) fn sender_id(&self) -> [Place<'_>; 1] {
        [self
            .message()
            .leaf("data.message.senderId", |m| &m.sender_id)]
    }

    /// Returns the places of the sender's type.
    pub(super) fn sender_type(&self) -> [Place<'_>; 2] {
        [
            self.message()
                .leaf("data.message.senderType", |m| &m.sender_type),
            self.message()
                .section("data.message.senderInfo", |m| &m.sender_info)
                .leaf("data.message.senderInfo.type", |s| &s.r#type),
        ]
    }

    /// Returns the place of a message's type, which marks system messages.
    pub(super) fn message_type(&self) -> [Place<'_>; 1] {
        [self.message().leaf("data.message.type", |m| &m.r#type)]
    }

    /// Returns the place of a message's own time.
    pub(super) fn message_time(&self) -> [Place<'_>; 1] {
        [self
            .message()
            .leaf("data.message.createdAt", |m| &m.created_at)]
    }

    /// Returns the place of the time of a join.
    pub(super) fn joined_at(&self) -> [Place<'_>; 1] {
        [self
            .data()
            .section("data.member", |d| &d.member)
            .leaf("data.member.joinedAt", |m| &m.joined_at)]
    }

    /// Returns the place of the time up to which all is read.
    pub(super) fn read_until(&self) -> [Place<'_>; 1] {
        [self.data().leaf("data.readUntil", |d| &d.read_until)]
    }

    /// Returns the place of the time at which a member was last seen.
    pub(super) fn last_seen_at(&self) -> [Place<'_>; 1] {
        [self
            .data()
            .section("data.member", |d| &d.member)
            .section("data.member.state", |m| &m.state)
            .leaf("data.member.state.lastSeenAt", |s| &s.last_seen_at)]
    }

    /// Returns the places of a topic's id.
    pub(super) fn topic_id(&self) -> [Place<'_>; 2] {
        [
            self.data()
                .section("data.topic", |d| &d.topic)
                .leaf("data.topic.topicId", |t| &t.topic_id),
            place("entityId", &self.entity_id),
        ]
    }

    /// Returns the places of the status that was reached.
    pub(super) fn status(&self) -> [Place<'_>; 2] {
        let [in_message, in_data, ..] = self.update();
        [
            in_message.leaf("data.message.statusUpdate.status", |u| &u.status),
            in_data.leaf("data.statusUpdate.status", |u| &u.status),
        ]
    }

    /// Returns the places of the reaction that is set or unset.
    pub(super) fn reaction(&self) -> [Place<'_>; 2] {
        let [.., in_message, in_data] = self.update();
        [
            in_message.leaf("data.message.reactionUpdate.reaction", |u| &u.reaction),
            in_data.leaf("data.reactionUpdate.reaction", |u| &u.reaction),
        ]
    }

    /// Returns the places of what is done to the reaction, set or unset.
    pub(super) fn reaction_action(&self) -> [Place<'_>; 2] {
        let [.., in_message, in_data] = self.update();
        [
            in_message.leaf("data.message.reactionUpdate.action", |u| &u.action),
            in_data.leaf("data.reactionUpdate.action", |u| &u.action),
        ]
    }

    /// Returns the places of the reaction that is replaced, or unset.
    pub(super) fn old_reaction(&self) -> [Place<'_>; 2] {
        let [.., in_message, in_data] = self.update();
        [
            in_message.leaf("data.message.reactionUpdate.oldReaction", |u| {
                &u.old_reaction
            }),
            in_data.leaf("data.reactionUpdate.oldReaction", |u| &u.old_reaction),
        ]
    }
}

impl<'a> Body<'a> {
    /// Where the word of a reaction event may stand: set, or unset.
    pub(super) fn reactions(&self) -> [Place<'_>; 4] {
        let ([in_message, in_data], [old_in_message, old_in_data]) =
            (self.reaction(), self.old_reaction());
        [in_message, in_data, old_in_message, old_in_data]
    }
}

impl Leaf<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Leaf::Text(text) => Some(text),
            _ => None,
        }
    }
}
