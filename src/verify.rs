//! Recounting a dialog from its recorded facts, and comparing with its stored
//! counters. Pure: [`crate::store`] reads the facts and writes the repairs.
//!
//! It shares no code with [`crate::derive`]: that follows events one by one,
//! this counts what they left behind.

mod difference;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

pub(crate) use difference::{CONSUMED, MEMBER, SEQUENCE};
pub use difference::{Difference, Field, Subject};

use crate::derive::state::{ByType, Created, Dialog, Membership, Watermark};
use crate::event::{MessageId, Micros, Reaction, SenderType, Status, UserId};

/// The counters that are stored of a user in a dialog, besides the facts.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct StoredShare {
    /// Whether readers are told that the user is a member.
    pub(crate) member: bool,
    /// When the user joined, as readers are told.
    pub(crate) joined_at: Option<Micros>,
    /// Up to where nothing is unread for the user, as stored.
    pub(crate) watermark: Option<Watermark>,
    /// The share of the dialog's sequence that is not unread for the user, as
    /// stored.
    pub(crate) consumed: ByType,
    /// How many messages the user sent, as stored.
    pub(crate) sent: i64,
}

/// A message with what is stored about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredMessage {
    /// The message's id.
    pub(crate) id: MessageId,
    /// The facts of the message's create.
    pub(crate) created: Created,
    /// Whether the message was deleted, which is final.
    pub(crate) deleted: bool,
    /// The stored counts of users by status; zeros are as good as nothing.
    pub(crate) statuses: HashMap<String, i64>,
    /// The stored counts of users by reaction; zeros are as good as nothing.
    pub(crate) reactions: HashMap<String, i64>,
}

/// The receipts and reactions that are recorded of a message, one by one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct MessageFacts {
    /// The statuses that users reached, with the users.
    pub(crate) receipts: Vec<(Status, UserId)>,
    /// The reactions that are set, one entry for each user who has set one.
    pub(crate) reactions: Vec<Reaction>,
}

/// One dialog, being recounted: first all [`Recount::member`]s, then all
/// [`Recount::message`]s, then [`Recount::differences`].
///
/// Holds some 40 bytes a message and the state of everyone in the dialog.
#[derive(Debug)]
pub(crate) struct Recount {
    stored: Dialog,
    people: HashMap<UserId, Person>,
    /// Countable messages in order of time, with their sender's type.
    countable: Vec<(Micros, usize)>,
    types: Vec<SenderType>,
    messages: i64,
    last_message_at: Option<Micros>,
    found: Differences,
}

#[derive(Debug, Default)]
struct Person {
    facts: Membership,
    stored: StoredShare,
    sent: i64,
    /// Countable messages after the watermark that are not unread all the same:
    /// their own, and those read one by one.
    known: ByType,
}

impl Recount {
    /// Begins a recount with what is stored of the dialog.
    pub(crate) fn new(stored: Dialog) -> Self {
        Self {
            stored,
            people: HashMap::new(),
            countable: Vec::new(),
            types: Vec::new(),
            messages: 0,
            last_message_at: None,
            found: Differences::default(),
        }
    }

    /// Adds a user of whom something is recorded in this dialog.
    pub(crate) fn member(&mut self, user: UserId, facts: Membership, stored: StoredShare) {
        let person = Person {
            facts,
            stored,
            ..Person::default()
        };
        self.people.insert(user, person);
    }

    /// Adds a message of this dialog; messages come in order of time.
    pub(crate) fn message(&mut self, message: &StoredMessage, facts: &MessageFacts) {
        let StoredMessage {
            id,
            statuses,
            reactions,
            ..
        } = message;
        self.found.message(id, statuses, reactions, facts);
        if message.deleted {
            return;
        }
        let created = &message.created;
        self.messages += 1;
        self.last_message_at = self.last_message_at.max(Some(created.at));
        self.people.entry(created.sender.clone()).or_default().sent += 1;
        if created.system {
            return;
        }
        let sender_type = self.type_index(&created.sender_type);
        self.countable.push((created.at, sender_type));
        let readers = facts.receipts.iter();
        let readers = readers.filter(|(status, _)| status.is_read());
        let mut knowing: HashSet<&UserId> = readers.map(|(_, user)| user).collect();
        knowing.insert(&created.sender);
        for user in knowing {
            if let Some(person) = self.people.get_mut(user)
                && !person
                    .facts
                    .watermark()
                    .is_some_and(|watermark| watermark.covers(created.at))
            {
                person.known.add(&created.sender_type, 1);
            }
        }
    }

    fn type_index(&mut self, sender_type: &SenderType) -> usize {
        let known = self.types.iter().position(|known| known == sender_type);
        known.unwrap_or_else(|| {
            self.types.push(sender_type.clone());
            self.types.len() - 1
        })
    }

    /// Returns everything that is not stored as it is counted.
    pub(crate) fn differences(mut self, topics: i64) -> Vec<Difference> {
        let stored = std::mem::take(&mut self.stored);
        let people = std::mem::take(&mut self.people);
        let types = std::mem::take(&mut self.types);
        let messages = MessagesAfter::new(&self.countable, &types);
        let members = people.values().filter(|p| p.facts.joined_at().is_some());
        let dialog = Subject::Dialog;
        self.found
            .compare(&dialog, Field::Messages, stored.messages, self.messages);
        self.found.compare(
            &dialog,
            Field::Members,
            stored.members,
            members.count() as i64,
        );
        self.found
            .compare(&dialog, Field::Topics, stored.topics, topics);
        self.found.compare_optional(
            &dialog,
            Field::LastMessageAt,
            stored.last_message_at.map(Micros::get),
            self.last_message_at.map(Micros::get),
        );
        self.found
            .compare_by_type(&dialog, &stored.sequence, &messages.all(), Field::Sequence);
        // It may be above all watermarks: members leave, and it stays.
        let highest = people.values().filter_map(|p| p.facts.watermark()).max();
        if highest > stored.high_watermark {
            let (stored, highest) = (stored.high_watermark.map(|m| m.0), highest.map(|m| m.0));
            self.found
                .compare_optional(&dialog, Field::HighWatermark, stored, highest);
        }
        for (user, person) in people {
            self.person(user, person, &messages);
        }
        self.found.0
    }

    fn person(&mut self, user: UserId, person: Person, messages: &MessagesAfter<'_>) {
        let subject = Subject::User(user);
        let Person {
            facts,
            stored,
            sent,
            known,
        } = person;
        let (joined_at, watermark) = (facts.joined_at(), facts.watermark());
        self.found.compare(&subject, Field::Sent, stored.sent, sent);
        let member = joined_at.is_some();
        self.found
            .compare(&subject, Field::Member, stored.member.into(), member.into());
        let (was, is) = (
            stored.joined_at.map(Micros::get),
            joined_at.map(Micros::get),
        );
        self.found
            .compare_optional(&subject, Field::JoinedAt, was, is);
        let (was, is) = (stored.watermark.map(|m| m.0), watermark.map(|m| m.0));
        self.found
            .compare_optional(&subject, Field::Watermark, was, is);
        if let Some(watermark) = watermark {
            let unread = messages.after(watermark).minus(&known);
            let consumed = messages.all().minus(&unread);
            self.found
                .compare_by_type(&subject, &stored.consumed, &consumed, Field::Consumed);
        }
    }
}

/// Returns what is not stored as it is counted of a message whose create is not
/// known, of which nothing else counts.
pub(crate) fn of_message(
    id: &MessageId,
    statuses: &HashMap<String, i64>,
    reactions: &HashMap<String, i64>,
    facts: &MessageFacts,
) -> Vec<Difference> {
    let mut found = Differences::default();
    found.message(id, statuses, reactions, facts);
    found.0
}

/// What was found to differ.
#[derive(Debug, Default)]
struct Differences(Vec<Difference>);

impl Differences {
    /// Compares the message's own counters.
    fn message(
        &mut self,
        id: &MessageId,
        statuses: &HashMap<String, i64>,
        reactions: &HashMap<String, i64>,
        facts: &MessageFacts,
    ) {
        let subject = Subject::Message(id.clone());
        let counted = count(facts.receipts.iter().map(|(status, _)| status.as_str()));
        self.compare_named(&subject, statuses, &counted, Field::Status);
        let counted = count(facts.reactions.iter().map(Reaction::as_str));
        self.compare_named(&subject, reactions, &counted, Field::Reaction);
    }

    fn compare_named(
        &mut self,
        subject: &Subject,
        stored: &HashMap<String, i64>,
        counted: &BTreeMap<&str, i64>,
        field: fn(String) -> Field,
    ) {
        let stored: BTreeMap<&str, i64> = stored.iter().map(|(k, v)| (k.as_str(), *v)).collect();
        let names: BTreeSet<&str> = stored.keys().chain(counted.keys()).copied().collect();
        for name in names {
            let of = |counts: &BTreeMap<&str, i64>| counts.get(name).copied().unwrap_or_default();
            self.compare(subject, field(name.to_owned()), of(&stored), of(counted));
        }
    }

    fn compare(&mut self, subject: &Subject, field: Field, stored: i64, counted: i64) {
        self.compare_optional(subject, field, Some(stored), Some(counted));
    }

    fn compare_optional(
        &mut self,
        subject: &Subject,
        field: Field,
        stored: Option<i64>,
        counted: Option<i64>,
    ) {
        if stored != counted {
            self.0.push(Difference {
                subject: subject.clone(),
                field,
                stored,
                counted,
            });
        }
    }

    fn compare_by_type(
        &mut self,
        subject: &Subject,
        stored: &ByType,
        counted: &ByType,
        field: fn(SenderType) -> Field,
    ) {
        for (sender_type, difference) in stored.minus(counted).iter() {
            if difference != 0 {
                let (stored, counted) = (stored.get(sender_type), counted.get(sender_type));
                self.compare(subject, field(sender_type.clone()), stored, counted);
            }
        }
    }
}

fn count<'n>(names: impl Iterator<Item = &'n str>) -> BTreeMap<&'n str, i64> {
    let mut counts = BTreeMap::new();
    for name in names {
        *counts.entry(name).or_default() += 1;
    }
    counts
}

/// Countable messages after a time, by type.
struct MessagesAfter<'t> {
    times: Vec<Micros>,
    /// For each type, which of the messages are of it, in order.
    places: Vec<Vec<u32>>,
    types: &'t [SenderType],
}

impl<'t> MessagesAfter<'t> {
    fn new(countable: &[(Micros, usize)], types: &'t [SenderType]) -> Self {
        // So that each member is a look-up for each type.
        let mut places = vec![Vec::new(); types.len()];
        for (place, (_, sender_type)) in (0_u32..).zip(countable) {
            places[*sender_type].push(place);
        }
        Self {
            times: countable.iter().map(|(at, _)| *at).collect(),
            places,
            types,
        }
    }

    fn all(&self) -> ByType {
        self.at(0)
    }

    fn after(&self, watermark: Watermark) -> ByType {
        self.at(self.times.partition_point(|at| watermark.covers(*at)))
    }

    fn at(&self, index: usize) -> ByType {
        let before = |place: &u32| (*place as usize) < index;
        let counts = self.types.iter().zip(&self.places);
        counts
            .map(|(sender_type, places)| {
                let after = places.len() - places.partition_point(before);
                (sender_type.clone(), after as i64)
            })
            .collect()
    }
}
