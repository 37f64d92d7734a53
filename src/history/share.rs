//! A user in a dialog: what happened there, as seen by them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Applied, Counter, Created, Origin, Repair, Track, What};
use crate::derive::state::{ByType, Mark};
use crate::event::{MessageId, Micros, SenderType, UserId};

/// Which counters are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum View {
    /// Those of a user in one dialog.
    InDialog,
    /// Those of a user over all dialogs.
    Overall,
}

/// What was so before the first record.
#[derive(Debug, Clone, Default)]
pub struct Before {
    /// The user's mark; `None`: was not a member.
    pub mark: Option<Mark>,
    /// Messages that could be unread, were the user a member: countable, of
    /// others, not read by them.
    pub messages: Vec<(MessageId, Micros, SenderType)>,
    /// Messages among the records that the user had read before their create.
    pub read: HashSet<MessageId>,
    /// Messages sent by the user.
    pub sent: i64,
    /// The dialog was deleted.
    pub deleted: bool,
}

/// The user's counters as they are served now.
pub type Served = BTreeMap<Counter, i64>;

/// The lowest mark that the user ever had: nothing at or before it was ever
/// unread. `None` when they never were a member.
pub fn lowest_mark(user: &UserId, before: Option<Mark>, records: &[Applied]) -> Option<Mark> {
    let moved = records.iter().filter_map(|record| match &record.what {
        What::Moved {
            user: of, after, ..
        } if of == user => *after,
        _ => None,
    });
    moved.chain(before).min()
}

/// How many messages the user had sent before the records that led to `now`.
pub fn sent_before(user: &UserId, now: i64, records: &[Applied]) -> i64 {
    let more = records.iter().map(|record| match &record.what {
        What::Created(created) if created.sender == *user => i64::from(!created.stillborn),
        What::Deleted { sender, .. } if sender.as_ref() == Some(user) => -1,
        _ => 0,
    });
    now - more.sum::<i64>()
}

/// Writes how the user's counters in a dialog came about.
pub fn replay(
    user: &UserId,
    view: View,
    before: Before,
    records: &[Applied],
    served: &Served,
    mut track: Track<'_>,
) {
    let mut replay = Replay::new(user, view, &before);
    if !before.deleted {
        replay.balance(&before, &mut track);
        for record in records {
            if record.what == What::DialogDeleted {
                track.end(record.version, record.at);
                break;
            }
            replay.take(record, &before.read, &mut track);
        }
    }
    track.serve(served);
}

struct Replay<'u> {
    user: &'u UserId,
    view: View,
    mark: Option<Mark>,
    /// Messages that are unread if they are after the mark, by time.
    open: BTreeSet<(Micros, u32)>,
    messages: Vec<(Micros, u16)>,
    known: HashMap<MessageId, u32>,
    types: Vec<SenderType>,
}

impl<'u> Replay<'u> {
    fn new(user: &'u UserId, view: View, before: &Before) -> Self {
        let mut replay = Self {
            user,
            view,
            mark: before.mark,
            open: BTreeSet::new(),
            messages: Vec::new(),
            known: HashMap::new(),
            types: Vec::new(),
        };
        for (message, at, sender_type) in &before.messages {
            replay.put(message, *at, sender_type);
        }
        replay
    }

    fn balance(&self, before: &Before, track: &mut Track<'_>) {
        let mut unread = ByType::default();
        if let Some(mark) = self.mark {
            self.count(mark.0, i64::MAX, 1, &mut unread);
        }
        let total = total(&unread);
        match self.view {
            View::InDialog => track.balance(&Counter::Unread, total),
            View::Overall => {
                track.balance(&Counter::TotalUnread, total);
                track.balance(&Counter::UnreadDialogs, i64::from(total > 0));
                track.balance(&Counter::Dialogs, i64::from(self.mark.is_some()));
                track.balance(&Counter::Sent, before.sent);
            }
        }
        for (sender_type, count) in unread.iter() {
            track.balance(&Counter::UnreadFrom(sender_type.clone()), count);
        }
    }

    fn take(&mut self, record: &Applied, read: &HashSet<MessageId>, track: &mut Track<'_>) {
        let place = (Origin::Event, record.version, record.at);
        match &record.what {
            What::Created(created) if created.sender == *self.user => {
                self.sent(i64::from(!created.stillborn), record, track);
            }
            What::Created(created) => {
                let unread = self.created(created, read);
                self.unread(place, &unread, track);
            }
            What::Deleted { message, sender } => {
                if sender.as_ref() == Some(self.user) {
                    self.sent(-1, record, track);
                }
                let unread = self.removed(message);
                self.unread(place, &unread, track);
            }
            What::Read { message, user } if user == self.user => {
                let unread = self.removed(message);
                self.unread(place, &unread, track);
            }
            What::Moved {
                user,
                before,
                after,
            } if user == self.user => {
                let unread = self.moved(*after);
                self.unread(place, &unread, track);
                let more = i64::from(after.is_some()) - i64::from(before.is_some());
                if self.view == View::Overall {
                    let (origin, version, at) = place;
                    track.step(origin, version, at, &Counter::Dialogs, more);
                }
            }
            What::Repaired(repairs) => self.repaired(record, repairs, track),
            _ => {}
        }
    }

    fn sent(&self, more: i64, record: &Applied, track: &mut Track<'_>) {
        if self.view == View::Overall {
            track.step(
                Origin::Event,
                record.version,
                record.at,
                &Counter::Sent,
                more,
            );
        }
    }

    fn put(&mut self, message: &MessageId, at: Micros, sender_type: &SenderType) {
        let place = self.types.iter().position(|known| known == sender_type);
        let place = place.unwrap_or_else(|| {
            self.types.push(sender_type.clone());
            self.types.len() - 1
        });
        let index = u32::try_from(self.messages.len()).unwrap_or(u32::MAX);
        self.messages
            .push((at, u16::try_from(place).unwrap_or(u16::MAX)));
        self.known.insert(message.clone(), index);
        self.open.insert((at, index));
    }

    fn created(&mut self, created: &Created, read: &HashSet<MessageId>) -> ByType {
        let mut unread = ByType::default();
        let closed = created.system || created.stillborn || read.contains(&created.message);
        if !closed {
            self.put(&created.message, created.at, &created.sender_type);
            if self.mark.is_some_and(|mark| !mark.covers(created.at)) {
                unread.add(&created.sender_type, 1);
            }
        }
        unread
    }

    /// A message is read or deleted: it is not unread any more, if it was.
    fn removed(&mut self, message: &MessageId) -> ByType {
        let mut unread = ByType::default();
        if let Some(index) = self.known.get(message) {
            let (at, place) = self.messages[*index as usize];
            let was_open = self.open.remove(&(at, *index));
            if was_open && self.mark.is_some_and(|mark| !mark.covers(at)) {
                unread.add(&self.types[usize::from(place)], -1);
            }
        }
        unread
    }

    fn moved(&mut self, after: Option<Mark>) -> ByType {
        let end = |mark: Option<Mark>| mark.map_or(i64::MAX, |mark| mark.0);
        let (old, new) = (end(self.mark), end(after));
        self.mark = after;
        let mut unread = ByType::default();
        if old < new {
            self.count(old, new, -1, &mut unread);
        } else {
            self.count(new, old, 1, &mut unread);
        }
        unread
    }

    /// Counts the open messages after one time, up to and including another.
    fn count(&self, after: i64, until: i64, by: i64, unread: &mut ByType) {
        let from = Micros::new(after.saturating_add(1));
        for (at, index) in from.iter().flat_map(|from| self.open.range((*from, 0)..)) {
            if at.get() > until {
                break;
            }
            let (_, place) = self.messages[*index as usize];
            unread.add(&self.types[usize::from(place)], by);
        }
    }

    /// Writes a change of what is unread, in all of its forms.
    fn unread(&self, place: (Origin, i64, i64), more: &ByType, track: &mut Track<'_>) {
        let (origin, version, at) = place;
        let counter = match self.view {
            View::InDialog => Counter::Unread,
            View::Overall => Counter::TotalUnread,
        };
        let before = track.value(&counter);
        track.step(origin, version, at, &counter, total(more));
        if self.view == View::Overall {
            let more = i64::from(track.value(&counter) > 0) - i64::from(before > 0);
            track.step(origin, version, at, &Counter::UnreadDialogs, more);
        }
        for (sender_type, more) in more.iter() {
            let counter = Counter::UnreadFrom(sender_type.clone());
            track.step(origin, version, at, &counter, more);
        }
    }

    /// What was served before the repair, and what is after it. Unread is kept
    /// as `sequence` less `consumed`, for members.
    fn repaired(&self, record: &Applied, repairs: &[Repair], track: &mut Track<'_>) {
        let own = |repair: &&Repair| repair.user.as_ref() == Some(self.user);
        let member = repairs.iter().filter(own);
        let member = member.clone().find(|repair| repair.counter == "member");
        let was_member = match member {
            Some(repair) => repair.stored == Some(1),
            None => self.mark.is_some(),
        };
        let (mut stored, mut counted) = (ByType::default(), ByType::default());
        if let Some(mark) = self.mark {
            self.count(mark.0, i64::MAX, 1, &mut counted);
        }
        // Types first, so that those that a repair alone names are seen.
        if was_member {
            self.count(
                self.mark.map_or(i64::MAX, |mark| mark.0),
                i64::MAX,
                1,
                &mut stored,
            );
            for repair in repairs {
                let (name, by) = match repair.counter.split_once('.') {
                    Some(("sequence", name)) if repair.is_of_dialog() => (name, 1),
                    Some(("consumed", name)) if own(&repair) => (name, -1),
                    _ => continue,
                };
                if let Ok(sender_type) = SenderType::new(name) {
                    stored.add(&sender_type, by * repair.excess());
                }
            }
        }
        // As reads do: never below 0.
        let clamp = |counts: &ByType| -> ByType {
            let counts = counts.iter();
            let counts = counts.map(|(name, count)| (name.clone(), count.max(0)));
            counts.collect()
        };
        let (stored, counted) = (clamp(&stored), clamp(&counted));
        self.drift(record, Origin::Drift, &stored, track);
        self.drift(record, Origin::Repair, &counted, track);
        if self.view == View::Overall {
            let (version, at) = (record.version, record.at);
            let is_member = i64::from(self.mark.is_some());
            track.repair(
                version,
                at,
                &Counter::Dialogs,
                i64::from(was_member),
                is_member,
            );
            let sent = repairs.iter().filter(own);
            let sent = sent
                .clone()
                .find(|repair| repair.counter == "total_messages_count");
            if let Some(repair) = sent {
                let stored = repair.stored.unwrap_or(0).max(0);
                let counted = repair.counted.unwrap_or(0).max(0);
                track.repair(version, at, &Counter::Sent, stored, counted);
            }
        }
    }

    /// Writes a change of what is unread, to these counts.
    fn drift(&self, record: &Applied, origin: Origin, to: &ByType, track: &mut Track<'_>) {
        let mut more = to.clone();
        for sender_type in &self.types {
            let value = track.value(&Counter::UnreadFrom(sender_type.clone()));
            more.add(sender_type, -value);
        }
        let strange = track.senders_beside(&self.types);
        for sender_type in strange {
            let value = track.value(&Counter::UnreadFrom(sender_type.clone()));
            more.add(&sender_type, -value);
        }
        self.unread((origin, record.version, record.at), &more, track);
    }
}

fn total(by_type: &ByType) -> i64 {
    by_type.iter().map(|(_, count)| count).sum()
}
