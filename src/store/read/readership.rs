//! How many members have read messages: the arithmetic, apart from where
//! members and receipts come from. Pure.
//!
//! A member has read in bulk what lies between their join and their watermark. So
//! each one who passes by raises the count of a stretch of messages in time by
//! one, which is noted at the two ends of it: members cost no memory, and time
//! by the logarithm of the messages. Apart from them stand those who have to be
//! known by name, the people: the sender, who is not to be counted, and whoever
//! read a message singly, who is, unless their watermark says so already.

use std::collections::HashMap;

use crate::derive::state::Watermark;
use crate::event::{DialogId, MessageId, Micros, UserId};

/// When a member joined, and how far they have read in bulk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Attendance {
    pub joined_at: Micros,
    pub watermark: Watermark,
}

impl Attendance {
    /// Whether a message of that time was there for the member to read.
    fn sees(self, at: Micros) -> bool {
        self.joined_at <= at
    }

    /// Whether it was read in bulk.
    fn has_read(self, at: Micros) -> bool {
        self.sees(at) && self.watermark.covers(at)
    }

    /// Whether it was not, and can have been read singly.
    fn leaves_unread(self, at: Micros) -> bool {
        self.sees(at) && !self.watermark.covers(at)
    }
}

/// A message whose readers are counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub message: MessageId,
    pub dialog: DialogId,
    pub at: Micros,
    pub sender: UserId,
}

/// The readers of messages, as far as they have been counted.
#[derive(Debug)]
pub(super) struct Readership {
    asked: Vec<Asked>,
    /// By message: readers to add to, or senders to take from, those who passed.
    apart: Vec<i64>,
    places: HashMap<MessageId, usize>,
    timelines: HashMap<DialogId, Timeline>,
}

/// The messages of one dialog in time.
#[derive(Debug, Default)]
struct Timeline {
    times: Vec<Micros>,
    /// By time, and one beyond: how many more have read it than the one before.
    more: Vec<i64>,
    /// What is to be settled when the person comes.
    people: HashMap<UserId, Vec<Tie>>,
}

/// What a person has to do with a message.
#[derive(Debug, Clone, Copy)]
enum Tie {
    Sent(usize),
    Read(usize),
}

impl Readership {
    /// Nobody has read anything yet. The senders are people to ask about.
    pub(super) fn of(asked: Vec<Asked>) -> Self {
        let mut timelines: HashMap<DialogId, Timeline> = HashMap::new();
        let mut places = HashMap::new();
        for (place, message) in asked.iter().enumerate() {
            let timeline = timelines.entry(message.dialog.clone()).or_default();
            timeline.times.push(message.at);
            timeline.tie(message.sender.clone(), Tie::Sent(place));
            places.insert(message.message.clone(), place);
        }
        for timeline in timelines.values_mut() {
            timeline.times.sort_unstable();
            timeline.times.dedup();
            timeline.more = vec![0; timeline.times.len() + 1];
        }
        Self {
            apart: vec![0; asked.len()],
            asked,
            places,
            timelines,
        }
    }

    pub(super) fn asked(&self) -> &[Asked] {
        &self.asked
    }

    pub(super) fn dialogs(&self) -> impl Iterator<Item = &DialogId> {
        self.timelines.keys()
    }

    /// Somebody has read a message singly: one more of the people.
    pub(super) fn read_singly(&mut self, message: &MessageId, user: UserId) {
        let Some(&place) = self.places.get(message) else {
            return;
        };
        let message = &self.asked[place];
        if message.sender != user
            && let Some(timeline) = self.timelines.get_mut(&message.dialog)
        {
            timeline.tie(user, Tie::Read(place));
        }
    }

    /// Who has to be known by name.
    pub(super) fn people(&self) -> impl Iterator<Item = (&DialogId, &UserId)> {
        let timelines = self.timelines.iter();
        timelines.flat_map(|(dialog, timeline)| {
            let users = timeline.people.keys();
            users.map(move |user| (dialog, user))
        })
    }

    /// One of the people is a member; anybody else is passed over.
    pub(super) fn person(&mut self, dialog: &DialogId, user: &UserId, member: Attendance) {
        let timeline = self.timelines.get(dialog);
        let ties = timeline.and_then(|timeline| timeline.people.get(user));
        for tie in ties.into_iter().flatten() {
            let (place, by) = match *tie {
                Tie::Sent(place) if member.has_read(self.asked[place].at) => (place, -1),
                Tie::Read(place) if member.leaves_unread(self.asked[place].at) => (place, 1),
                _ => continue,
            };
            self.apart[place] += by;
        }
    }

    /// The people are settled: whoever of them did not come is no member.
    pub(super) fn settle(&mut self) {
        for timeline in self.timelines.values_mut() {
            timeline.people = HashMap::new();
        }
    }

    /// A member passes by, one of the people or not.
    pub(super) fn member(&mut self, dialog: &DialogId, member: Attendance) {
        if let Some(timeline) = self.timelines.get_mut(dialog) {
            timeline.pass(member);
        }
    }

    /// How many have read each message.
    pub(super) fn finish(self) -> HashMap<MessageId, i64> {
        let read: HashMap<DialogId, HashMap<Micros, i64>> = self
            .timelines
            .into_iter()
            .map(|(dialog, timeline)| (dialog, timeline.read()))
            .collect();
        let asked = self.asked.into_iter().zip(self.apart);
        asked
            .map(|(message, apart)| {
                let read = read.get(&message.dialog);
                let read = read.and_then(|read| read.get(&message.at));
                (message.message, read.copied().unwrap_or(0) + apart)
            })
            .collect()
    }
}

impl Timeline {
    fn tie(&mut self, user: UserId, tie: Tie) {
        self.people.entry(user).or_default().push(tie);
    }

    fn pass(&mut self, member: Attendance) {
        let first = self.times.partition_point(|at| !member.sees(*at));
        let end = self
            .times
            .partition_point(|at| member.watermark.covers(*at));
        if first < end {
            self.more[first] += 1;
            self.more[end] -= 1;
        }
    }

    /// By time: how many members have read it in bulk.
    fn read(self) -> HashMap<Micros, i64> {
        let readers = self.more.into_iter().scan(0, |readers, more| {
            *readers += more;
            Some(*readers)
        });
        self.times.into_iter().zip(readers).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    fn dialog(number: usize) -> DialogId {
        DialogId::new(&format!("d{number}")).unwrap()
    }

    fn user(number: usize) -> UserId {
        UserId::new(&format!("u{number}")).unwrap()
    }

    fn message(number: usize) -> MessageId {
        MessageId::new(&format!("m{number}")).unwrap()
    }

    fn at(micros: i64) -> Micros {
        Micros::new(micros).unwrap()
    }

    /// Join and read-until.
    type Member = (i64, Option<i64>);

    /// What there is to know, all by number.
    #[derive(Debug, Clone)]
    struct Facts {
        /// Dialog, time, sender.
        messages: Vec<(usize, i64, usize)>,
        /// By dialog and user: a member, or nobody.
        members: Vec<Vec<Option<Member>>>,
        /// Message and user.
        receipts: BTreeSet<(usize, usize)>,
    }

    const DIALOGS: usize = 2;
    const USERS: usize = 6;
    const TIMES: i64 = 8;

    fn facts() -> impl Strategy<Value = Facts> {
        let message = (0..DIALOGS, 0..TIMES, 0..USERS);
        let member =
            proptest::option::weighted(0.8, (0..TIMES, proptest::option::weighted(0.7, 0..TIMES)));
        let members = vec(vec(member, USERS), DIALOGS);
        (vec(message, 0..8), members).prop_flat_map(|(messages, members)| {
            let receipt = (0..messages.len().max(1), 0..USERS);
            let receipts = proptest::collection::btree_set(receipt, 0..12);
            receipts.prop_map(move |receipts| Facts {
                messages: messages.clone(),
                members: members.clone(),
                receipts,
            })
        })
    }

    /// The definition, word by word.
    fn readers(facts: &Facts, number: usize) -> i64 {
        let (of, at, sender) = facts.messages[number];
        let members = facts.members[of].iter().enumerate();
        let readers = members.filter(|(user, member)| {
            member.is_some_and(|(joined_at, read_until)| {
                let in_bulk = read_until.is_some_and(|until| until >= at);
                let singly = facts.receipts.contains(&(number, *user));
                *user != sender && joined_at <= at && (in_bulk || singly)
            })
        });
        readers.count() as i64
    }

    /// As a read goes about it: people a few receipts at a time, and members.
    fn counted(facts: &Facts, page: usize) -> HashMap<MessageId, i64> {
        let asked = facts.messages.iter().enumerate();
        let asked = asked.map(|(number, (of, time, sender))| Asked {
            message: message(number),
            dialog: dialog(*of),
            at: at(*time),
            sender: user(*sender),
        });
        let mut readership = Readership::of(asked.collect());
        let attendance = |of: usize, who: usize| {
            let (joined_at, read_until) = facts.members[of][who]?;
            let watermark = Watermark::of(at(joined_at), read_until.map(at));
            let joined_at = at(joined_at);
            Some(Attendance {
                joined_at,
                watermark,
            })
        };
        let receipts: Vec<_> = facts.receipts.iter().collect();
        // Without receipts, too, there are senders.
        for page in receipts.chunks(page).chain([&[][..]]) {
            for (number, who) in page {
                readership.read_singly(&message(*number), user(*who));
            }
            for of in 0..DIALOGS {
                for who in 0..USERS {
                    if let Some(member) = attendance(of, who) {
                        readership.person(&dialog(of), &user(who), member);
                    }
                }
            }
            readership.settle();
            assert_eq!(readership.people().count(), 0);
        }
        for of in 0..DIALOGS {
            for member in (0..USERS).filter_map(|who| attendance(of, who)) {
                readership.member(&dialog(of), member);
            }
        }
        readership.finish()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]
        #[test]
        fn readers_are_counted_as_they_are_defined(facts in facts(), page in 1_usize..5) {
            let counted = counted(&facts, page);
            prop_assert_eq!(counted.len(), facts.messages.len());
            for number in 0..facts.messages.len() {
                prop_assert_eq!(counted[&message(number)], readers(&facts, number), "m{}", number);
            }
        }
    }

    #[test]
    fn a_stretch_has_both_its_ends_and_nothing_beyond() {
        let mut members = vec![vec![None; USERS]; DIALOGS];
        members[0][0] = Some((2, Some(4)));
        members[0][1] = Some((3, None));
        let facts = |time| Facts {
            messages: vec![(0, time, 5)],
            members: members.clone(),
            receipts: BTreeSet::from([(0, 1)]),
        };
        // The first from 2 to 4; the second, who read it singly, from 3 on.
        for (time, expected) in [(1, 0), (2, 1), (3, 2), (4, 2), (5, 1)] {
            let facts = facts(time);
            let found = counted(&facts, 1)[&message(0)];
            assert_eq!((found, readers(&facts, 0)), (expected, expected), "{time}");
        }
    }
}
