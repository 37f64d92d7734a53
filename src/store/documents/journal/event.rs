//! A record of a taken event, and the event of a record.

use mongodb::bson::DateTime;

use super::{BelievedFacts, JournalRecord, Messages, RecordId, RecordedReaction};
use crate::derive::changes::{Taken, Trace};
use crate::derive::state::CountingFacts;
use crate::event::{
    DialogId, Event, EventId, EventType, Fact, InvalidId, MADE_BEFORE_MICROS, MessageId,
    NewMessage, Reaction, SenderType, Stamp, Status, TenantId, TopicId, UserId,
};
use crate::store::StoreError;
use crate::store::documents::message::{STATED_TIME, STATED_TYPE};
use crate::store::documents::micros;

impl<'r> JournalRecord<'r> {
    /// Makes the record of a taken event, written at `now`.
    pub(crate) fn of_taken(taken: &'r Taken, now: DateTime) -> Self {
        let event = &taken.event;
        let mut record = Self {
            id: RecordId {
                tenant: event.tenant.as_str(),
                event: event.stamp.event.as_str(),
            },
            recorded_type: event.fact.event_type().as_str(),
            at: Some(event.stamp.at.get()),
            actor: event.actor.as_ref().map(|actor| actor.as_str()),
            version: taken.dialog.as_ref().map(|(_, version)| *version),
            user_type: taken.sender_type.as_ref().map(|known| known.as_str()),
            applied_at: Some(now),
            ..Self::default()
        };
        record.state(event);
        record.trace(&taken.trace);
        // A message's dialog is that of its create, whatever this event said.
        if let Some((dialog, _)) = &taken.dialog {
            record.dialog = Some(dialog.dialog.as_str());
        }
        record
    }

    /// Fills in what the event found and left.
    fn trace(&mut self, trace: &'r Trace) {
        self.unchanged = trace.unchanged;
        self.foretold = trace.had_placeholder;
        self.stillborn = trace.deleted_before_create;
        if let Some((before, after)) = trace.watermarks {
            self.mark_before = before.map(|mark| mark.0);
            self.mark = after.map(|mark| mark.0);
        }
        if let Some(sender) = &trace.sender {
            self.user = Some(sender.as_str());
        }
        if let Some((was, is)) = &trace.corrected {
            self.was = Some(BelievedFacts::of(was));
            self.is = Some(BelievedFacts::of(is));
        }
        let reactions = self.words.iter_mut().flatten();
        for (reaction, delta) in reactions.zip(&trace.reaction_deltas) {
            reaction.delta = *delta;
        }
    }

    /// Fills in what the event's fact states.
    fn state(&mut self, event: &'r Event) {
        self.dialog = event.dialog_hint.as_ref().map(|dialog| dialog.as_str());
        match &event.fact {
            Fact::MessageCreated(new) => self.state_create(new),
            Fact::MessageDeleted { message } => self.of = Some(Messages::One(message.as_str())),
            Fact::StatusReached {
                message,
                user,
                status,
            } => {
                self.of = Some(Messages::One(message.as_str()));
                self.user = Some(user.as_str());
                self.status = Some(status.as_str());
            }
            Fact::ReactionChanged {
                message,
                user,
                reactions,
            } => {
                self.of = Some(Messages::One(message.as_str()));
                self.user = Some(user.as_str());
                let reactions = reactions.iter().map(|(reaction, set)| RecordedReaction {
                    reaction: reaction.as_str(),
                    set: *set,
                    delta: 0,
                });
                self.words = Some(reactions.collect());
            }
            Fact::BulkRead {
                dialog,
                user,
                read_until,
            } => {
                self.state_member(dialog, user);
                self.read_until = Some(read_until.get());
            }
            Fact::MemberAdded {
                dialog,
                user,
                joined_at,
                made_at,
            } => {
                self.state_member(dialog, user);
                self.joined_at = Some(joined_at.get());
                self.made_at =
                    Some(made_at.get()).filter(|made_at| *made_at != event.stamp.at.get());
            }
            Fact::MemberRemoved { dialog, user } => self.state_member(dialog, user),
            Fact::TopicCreated { dialog, topic } => {
                self.dialog = Some(dialog.as_str());
                self.topic = Some(topic.as_str());
            }
            Fact::DialogDeleted { dialog } => self.dialog = Some(dialog.as_str()),
            Fact::UserTyped { user, user_type } => {
                self.user = Some(user.as_str());
                self.user_type = Some(user_type.as_str());
            }
        }
    }

    fn state_create(&mut self, new: &'r NewMessage) {
        self.dialog = Some(new.dialog.as_str());
        self.message = Some(new.message.as_str());
        self.user = Some(new.sender.as_str());
        self.sent_at = Some(new.sent_at.get());
        self.system = new.system;
        let stated_type = new.sender_type.as_ref();
        self.user_type = self.user_type.or(stated_type.map(|known| known.as_str()));
        self.stated = i32::from(new.time_is_stated) * STATED_TIME
            + i32::from(stated_type.is_some()) * STATED_TYPE;
    }

    fn state_member(&mut self, dialog: &'r DialogId, user: &'r UserId) {
        self.dialog = Some(dialog.as_str());
        self.user = Some(user.as_str());
    }
}

impl<'r> BelievedFacts<'r> {
    fn of(facts: &'r CountingFacts) -> Self {
        Self {
            at: facts.at.get(),
            sender_type: facts.sender_type.as_str(),
            system: facts.system,
        }
    }
}

impl JournalRecord<'_> {
    /// Returns the event that the record is of.
    ///
    /// # Errors
    /// [`StoreError::Answer`] when it lacks what an event of its type has.
    pub(crate) fn event(&self) -> Result<Event, StoreError> {
        let fact = self.fact()?;
        Ok(Event {
            tenant: TenantId::new(self.id.tenant).map_err(invalid)?,
            stamp: Stamp {
                at: micros(self.at.unwrap_or(0))?,
                event: EventId::new(self.id.event).map_err(invalid)?,
            },
            actor: None,
            dialog_hint: self
                .dialog
                .map(DialogId::new)
                .transpose()
                .map_err(invalid)?,
            fact,
        })
    }

    fn fact(&self) -> Result<Fact, StoreError> {
        let Some(event_type) = EventType::of_record(self.recorded_type) else {
            return Err(StoreError::Answer(format!(
                "the journal has {:?} of type {:?}, which this version does not know",
                self.id.event, self.recorded_type
            )));
        };
        Ok(match event_type {
            EventType::MessageCreate => Fact::MessageCreated(self.message_created()?),
            EventType::MessageDelete => Fact::MessageDeleted {
                message: self.message_of()?,
            },
            EventType::StatusChanged => Fact::StatusReached {
                message: self.message_of()?,
                user: self.user()?,
                status: self.id("status", self.status, Status::new)?,
            },
            EventType::ReactionChanged => Fact::ReactionChanged {
                message: self.message_of()?,
                user: self.user()?,
                reactions: self.reactions()?,
            },
            EventType::BulkRead => Fact::BulkRead {
                dialog: self.dialog()?,
                user: self.user()?,
                read_until: micros(self.read_until()?)?,
            },
            EventType::MemberAdd => {
                let joined_at = self.there("joined_at", self.joined_at)?;
                Fact::MemberAdded {
                    dialog: self.dialog()?,
                    user: self.user()?,
                    joined_at: micros(joined_at)?,
                    made_at: micros(self.made_at(joined_at))?,
                }
            }
            EventType::MemberRemove => Fact::MemberRemoved {
                dialog: self.dialog()?,
                user: self.user()?,
            },
            EventType::TopicCreate => Fact::TopicCreated {
                dialog: self.dialog()?,
                topic: self.id("topic", self.topic, TopicId::new)?,
            },
            EventType::DialogDelete => Fact::DialogDeleted {
                dialog: self.dialog()?,
            },
            EventType::UserChanged => Fact::UserTyped {
                user: self.user()?,
                user_type: self.id("user_type", self.user_type, SenderType::new)?,
            },
        })
    }

    /// What the create stated counts for that; of records that say nothing about
    /// it, as were written under the rules 1, a time other than the event's own
    /// was stated, and a type is not known to have been.
    fn message_created(&self) -> Result<NewMessage, StoreError> {
        let sent_at = self.there("sent_at", self.sent_at)?;
        let known = self.user_type.map(SenderType::new).transpose();
        let known = known.map_err(invalid)?;
        let (stated, presumed) = match self.stated & STATED_TYPE {
            0 => (None, known),
            _ => (known, None),
        };
        Ok(NewMessage {
            dialog: self.dialog()?,
            message: self.id("m", self.message, MessageId::new)?,
            sender: self.user()?,
            sender_type: stated,
            presumed_type: presumed,
            sent_at: micros(sent_at)?,
            time_is_stated: self.stated & STATED_TIME != 0 || Some(sent_at) != self.at,
            system: self.system,
        })
    }

    /// Returns when the membership was made. Where the record says nothing of it, as
    /// those of the rules 1 do: at the join time, if that is just before
    /// the event.
    fn made_at(&self, joined_at: i64) -> i64 {
        let at = self.at.unwrap_or(0);
        let just_before = (at - MADE_BEFORE_MICROS..=at).contains(&joined_at);
        let presumed = if just_before { joined_at } else { at };
        self.made_at.unwrap_or(presumed)
    }

    /// Returns until when the reader has read, which is never later than the event: one
    /// has read what was there.
    fn read_until(&self) -> Result<i64, StoreError> {
        let read_until = self.there("read_until", self.read_until)?;
        Ok(read_until.min(self.at.unwrap_or(0)))
    }

    fn reactions(&self) -> Result<Vec<(Reaction, bool)>, StoreError> {
        let reactions = self.words.iter().flatten();
        reactions
            .map(|word| Ok((Reaction::new(word.reaction).map_err(invalid)?, word.set)))
            .collect()
    }

    fn dialog(&self) -> Result<DialogId, StoreError> {
        self.id("d", self.dialog, DialogId::new)
    }

    /// Returns the message that the event is about after its create. The earliest records
    /// have it where creates have theirs, so it is read from there too.
    fn message_of(&self) -> Result<MessageId, StoreError> {
        let of = match self.of {
            Some(Messages::One(message)) => Some(message),
            _ => self.message,
        };
        self.id("m", of, MessageId::new)
    }

    fn user(&self) -> Result<UserId, StoreError> {
        self.id("u", self.user, UserId::new)
    }

    fn id<T>(
        &self,
        field: &str,
        found: Option<&str>,
        parse: impl FnOnce(&str) -> Result<T, InvalidId>,
    ) -> Result<T, StoreError> {
        parse(self.there(field, found)?).map_err(invalid)
    }

    fn there<T>(&self, field: &str, found: Option<T>) -> Result<T, StoreError> {
        found.ok_or_else(|| {
            StoreError::Answer(format!(
                "the journal has {:?} of type {:?} without `{field}`",
                self.id.event, self.recorded_type
            ))
        })
    }
}

fn invalid(what: InvalidId) -> StoreError {
    StoreError::Answer(format!("the journal has {what}"))
}

#[cfg(test)]
mod tests {
    use mongodb::bson::{Document, RawDocumentBuf, doc};

    use super::*;
    use crate::event::Micros;

    fn at(micros: i64) -> Micros {
        Micros::new(micros).unwrap()
    }

    fn taken(fact: Fact) -> Taken {
        Taken {
            event: Event {
                tenant: TenantId::new("t").unwrap(),
                stamp: Stamp {
                    at: at(1_000),
                    event: EventId::new("e").unwrap(),
                },
                actor: None,
                dialog_hint: None,
                fact,
            },
            dialog: None,
            sender_type: None,
            trace: Trace::default(),
        }
    }

    fn written(taken: &Taken) -> Document {
        let record = JournalRecord::of_taken(taken, DateTime::from_millis(7));
        Document::try_from(record.encode().unwrap()).unwrap()
    }

    fn read_back(document: Document) -> Event {
        let raw = RawDocumentBuf::try_from(&document).unwrap();
        JournalRecord::parse(&raw).unwrap().event().unwrap()
    }

    fn facts() -> Vec<Fact> {
        let dialog = || DialogId::new("d").unwrap();
        let message = || MessageId::new("m").unwrap();
        let user = || UserId::new("u").unwrap();
        let user_type = || SenderType::new("bot").unwrap();
        vec![
            Fact::MessageCreated(NewMessage {
                dialog: dialog(),
                message: message(),
                sender: user(),
                sender_type: Some(user_type()),
                presumed_type: None,
                sent_at: at(900),
                time_is_stated: true,
                system: true,
            }),
            Fact::MessageDeleted { message: message() },
            Fact::StatusReached {
                message: message(),
                user: user(),
                status: Status::read(),
            },
            Fact::ReactionChanged {
                message: message(),
                user: user(),
                reactions: vec![
                    (Reaction::new("+1").unwrap(), true),
                    (Reaction::new("-1").unwrap(), false),
                ],
            },
            Fact::BulkRead {
                dialog: dialog(),
                user: user(),
                read_until: at(800),
            },
            Fact::MemberAdded {
                dialog: dialog(),
                user: user(),
                joined_at: at(700),
                made_at: at(600),
            },
            Fact::MemberRemoved {
                dialog: dialog(),
                user: user(),
            },
            Fact::TopicCreated {
                dialog: dialog(),
                topic: TopicId::new("x").unwrap(),
            },
            Fact::DialogDeleted { dialog: dialog() },
            Fact::UserTyped {
                user: user(),
                user_type: user_type(),
            },
        ]
    }

    #[test]
    fn every_fact_comes_back_as_it_was_written() {
        for fact in facts() {
            let back = read_back(written(&taken(fact.clone())));
            assert_eq!(back.fact, fact);
            assert_eq!((back.tenant.as_str(), back.stamp.at), ("t", at(1_000)));
        }
    }

    /// Readers of other versions find what they look for: no field is renamed, and none
    /// that says nothing is written.
    #[test]
    fn a_record_has_the_fields_that_it_always_had() {
        let mut reacted = taken(facts().swap_remove(3));
        reacted.trace.reaction_deltas = vec![1, 0];
        let expected = doc! {
            "_id": { "t": "t", "e": "e" },
            "type": "message.reaction.changed",
            "at": 1_000_i64,
            "of": "m",
            "u": "u",
            "words": [
                { "r": "+1", "set": true, "by": 1_i64 },
                { "r": "-1", "set": false },
            ],
            "applied_at": DateTime::from_millis(7),
        };
        assert_eq!(written(&reacted), expected);
        let created = written(&taken(facts().swap_remove(0)));
        let expected = doc! {
            "_id": { "t": "t", "e": "e" },
            "type": "message.create",
            "at": 1_000_i64,
            "d": "d",
            "m": "m",
            "u": "u",
            "user_type": "bot",
            "sent_at": 900_i64,
            "system": true,
            "stated": 3_i32,
            "applied_at": DateTime::from_millis(7),
        };
        assert_eq!(created, expected);
    }

    /// Records from before `stated`, `made_at` and `of`.
    #[test]
    fn the_earliest_records_are_still_understood() {
        let created = read_back(doc! {
            "_id": { "t": "t", "e": "e" }, "type": "message.create", "at": 1_000_i64,
            "d": "d", "m": "m", "u": "u", "user_type": "bot", "sent_at": 900_i64,
            "applied_at": DateTime::from_millis(7),
        });
        let Fact::MessageCreated(new) = created.fact else {
            panic!("{created:?}");
        };
        assert_eq!(new.sender_type, None);
        assert_eq!(new.presumed_type, SenderType::new("bot").ok());
        assert!(new.time_is_stated && !new.system);
        let added = read_back(doc! {
            "_id": { "t": "t", "e": "e" }, "type": "dialog.member.add", "at": 1_000_i64,
            "d": "d", "u": "u", "joined_at": 990_i64, "applied_at": DateTime::from_millis(7),
        });
        let Fact::MemberAdded { made_at, .. } = added.fact else {
            panic!("{added:?}");
        };
        assert_eq!(made_at, at(990));
        let deleted = read_back(doc! {
            "_id": { "t": "t", "e": "e" }, "type": "message.delete", "at": 1_000_i64,
            "m": "m", "applied_at": DateTime::from_millis(7),
        });
        let message = MessageId::new("m").unwrap();
        assert_eq!(deleted.fact, Fact::MessageDeleted { message });
    }
}
