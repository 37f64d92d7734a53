//! A user in a dialog: what happened there, as seen by them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use super::{Created, DialogEffect, DialogRecord, Origin, Repair, Track};
use crate::counter::Counter;
use crate::derive::state::{ByType, CountingFacts, Watermark};
use crate::event::{MessageId, Micros, SenderType, UserId};
use crate::verify::{CONSUMED, MEMBER, SEQUENCE};

/// Which of a user's counters a replay shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// The counters of a user in one dialog.
    InDialog,
    /// The counters of a user over all dialogs.
    Overall,
}

/// The state of a user in a dialog before the first record.
#[derive(Debug, Clone, Default)]
pub(crate) struct StateBefore {
    /// The user's watermark; `None` when they were not a member.
    pub(crate) watermark: Option<Watermark>,
    /// The messages that could be unread, were the user a member: countable, of
    /// others, not read by them.
    pub(crate) messages: Vec<(MessageId, Micros, SenderType)>,
    /// Messages that are corrected among the records and must not be opened by
    /// that: deleted before the records, or read by the user while nobody could
    /// have them unread.
    pub(crate) closed: HashSet<MessageId>,
    /// The messages among the records that the user had read before their
    /// create.
    pub(crate) read: HashSet<MessageId>,
    /// The messages that the user sent, whether or not the dialog was deleted.
    pub(crate) sent: i64,
    /// Whether the dialog was deleted: the user had neither a watermark nor
    /// messages then.
    pub(crate) deleted: bool,
}

/// The user's counters as they are served now.
pub(crate) type Served = BTreeMap<Counter, i64>;

/// Returns the lowest watermark that the user ever had, at or before which
/// nothing was ever unread; `None` when they never were a member.
pub(crate) fn lowest_watermark(
    user: &UserId,
    before: Option<Watermark>,
    records: &[DialogRecord],
) -> Option<Watermark> {
    let moved = records.iter().filter_map(|record| match &record.effect {
        DialogEffect::WatermarkMoved {
            user: of, after, ..
        } if of == user => *after,
        _ => None,
    });
    moved.chain(before).min()
}

/// Returns how many messages the user had sent before the records that led to
/// `now`.
pub(crate) fn sent_before(user: &UserId, now: i64, records: &[DialogRecord]) -> i64 {
    let more = records.iter();
    let more = more.map(|record| sent_more(user, &record.effect));
    now - more.sum::<i64>()
}

/// By how much a record changes what the user has sent.
fn sent_more(user: &UserId, effect: &DialogEffect) -> i64 {
    match effect {
        DialogEffect::Created(created) if created.sender == *user => {
            i64::from(!created.deleted_before_create)
        }
        DialogEffect::Deleted { sender, .. } if sender.as_ref() == Some(user) => -1,
        _ => 0,
    }
}

/// Writes how the user's counters in a dialog came about.
pub(crate) fn replay(
    user: &UserId,
    view: View,
    before: StateBefore,
    records: &[DialogRecord],
    served: &Served,
    mut track: Track<'_>,
) {
    let mut replay = Replay::new(user, view, &before);
    replay.balance(&before, &mut track);
    let mut ended = before.deleted;
    for record in records {
        if ended {
            replay.take_after_end(record, &mut track);
        } else if record.effect == DialogEffect::DialogDeleted {
            track.end(record.version, record.at);
            ended = true;
        } else {
            replay.take(record, &before.read, &mut track);
        }
    }
    track.reconcile(served);
}

struct Replay<'u> {
    user: &'u UserId,
    view: View,
    watermark: Option<Watermark>,
    /// Messages that are unread if they are after the watermark, by time.
    open: BTreeSet<(Micros, u32)>,
    messages: Vec<(Micros, u16)>,
    known: HashMap<MessageId, u32>,
    /// Messages that could not be unread when they were read or deleted: what
    /// corrects them later must not open them.
    closed: HashSet<MessageId>,
    types: Vec<SenderType>,
}

impl<'u> Replay<'u> {
    fn new(user: &'u UserId, view: View, before: &StateBefore) -> Self {
        let mut replay = Self {
            user,
            view,
            watermark: before.watermark,
            open: BTreeSet::new(),
            messages: Vec::new(),
            known: HashMap::new(),
            closed: before.closed.clone(),
            types: Vec::new(),
        };
        for (message, at, sender_type) in &before.messages {
            replay.put(message, *at, sender_type);
        }
        replay
    }

    fn balance(&self, before: &StateBefore, track: &mut Track<'_>) {
        let mut unread = ByType::default();
        if let Some(watermark) = self.watermark {
            self.count(watermark.0, i64::MAX, 1, &mut unread);
        }
        let total = total(&unread);
        match self.view {
            View::InDialog => track.balance(&Counter::Unread, total),
            View::Overall => {
                track.balance(&Counter::TotalUnread, total);
                track.balance(&Counter::UnreadDialogs, i64::from(total > 0));
                track.balance(&Counter::Dialogs, i64::from(self.watermark.is_some()));
                track.balance(&Counter::Sent, before.sent);
            }
        }
        for (sender_type, count) in unread.iter() {
            track.balance(&Counter::UnreadFrom(sender_type.clone()), count);
        }
    }

    fn take(&mut self, record: &DialogRecord, read: &HashSet<MessageId>, track: &mut Track<'_>) {
        let place = (Origin::Event, record.version, record.at);
        self.sent(record, track);
        match &record.effect {
            DialogEffect::Created(created) if created.sender != *self.user => {
                let unread = self.created(created, read);
                self.unread(place, &unread, track);
            }
            DialogEffect::Corrected {
                message,
                sender,
                was,
                is,
            } if sender != self.user => {
                let unread = self.corrected(message, was, is);
                self.unread(place, &unread, track);
            }
            DialogEffect::Deleted { message, .. } => {
                let unread = self.removed(message);
                self.unread(place, &unread, track);
            }
            DialogEffect::Read { message, user } if user == self.user => {
                let unread = self.removed(message);
                self.unread(place, &unread, track);
            }
            DialogEffect::WatermarkMoved {
                user,
                before,
                after,
            } if user == self.user => {
                let unread = self.moved(*after);
                self.unread(place, &unread, track);
                let more = i64::from(after.is_some()) - i64::from(before.is_some());
                if self.view == View::Overall {
                    let (origin, version, at) = place;
                    track.change(origin, version, at, &Counter::Dialogs, more);
                }
            }
            DialogEffect::Repaired(repairs) => self.repaired(record, repairs, track),
            _ => {}
        }
    }

    /// In a dialog that was deleted only what was sent goes on changing.
    fn take_after_end(&self, record: &DialogRecord, track: &mut Track<'_>) {
        self.sent(record, track);
        if let DialogEffect::Repaired(repairs) = &record.effect {
            self.sent_repaired(record, repairs, track);
        }
    }

    fn sent(&self, record: &DialogRecord, track: &mut Track<'_>) {
        if self.view == View::Overall {
            let more = sent_more(self.user, &record.effect);
            let (version, at) = (record.version, record.at);
            track.change(Origin::Event, version, at, &Counter::Sent, more);
        }
    }

    fn sent_repaired(&self, record: &DialogRecord, repairs: &[Repair], track: &mut Track<'_>) {
        let sent = repairs.iter().find(|repair| {
            repair.user.as_ref() == Some(self.user) && repair.counter.parse() == Ok(Counter::Sent)
        });
        if let Some(repair) = sent.filter(|_| self.view == View::Overall) {
            let stored = repair.stored.unwrap_or(0).max(0);
            let counted = repair.counted.unwrap_or(0).max(0);
            let (version, at) = (record.version, record.at);
            track.repair(version, at, &Counter::Sent, stored, counted);
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
        let closed = created.deleted_before_create || read.contains(&created.message);
        if closed {
            self.closed.insert(created.message.clone());
        } else if !created.system {
            self.put(&created.message, created.at, &created.sender_type);
            if self
                .watermark
                .is_some_and(|watermark| !watermark.covers(created.at))
            {
                unread.add(&created.sender_type, 1);
            }
        }
        unread
    }

    /// A message is read or deleted: it is not unread any more, if it was.
    fn removed(&mut self, message: &MessageId) -> ByType {
        let mut unread = ByType::default();
        let Some(index) = self.known.get(message) else {
            self.closed.insert(message.clone());
            return unread;
        };
        let (at, place) = self.messages[*index as usize];
        let was_open = self.open.remove(&(at, *index));
        if was_open
            && self
                .watermark
                .is_some_and(|watermark| !watermark.covers(at))
        {
            unread.add(&self.types[usize::from(place)], -1);
        }
        unread
    }

    /// A message takes another place in time, or counts as another type.
    fn corrected(
        &mut self,
        message: &MessageId,
        was: &CountingFacts,
        is: &CountingFacts,
    ) -> ByType {
        let place = self.known.get(message).copied();
        let is_open = match place {
            Some(index) => {
                let (at, _) = self.messages[index as usize];
                self.open.contains(&(at, index))
            }
            None => was.system && !self.closed.contains(message),
        };
        if !is_open {
            return ByType::default();
        }
        let mut unread = match place {
            Some(_) => self.removed(message),
            None => ByType::default(),
        };
        if is.system {
            self.known.remove(message);
        } else {
            self.put(message, is.at, &is.sender_type);
            if self
                .watermark
                .is_some_and(|watermark| !watermark.covers(is.at))
            {
                unread.add(&is.sender_type, 1);
            }
        }
        unread
    }

    fn moved(&mut self, after: Option<Watermark>) -> ByType {
        let end =
            |watermark: Option<Watermark>| watermark.map_or(i64::MAX, |watermark| watermark.0);
        let (old, new) = (end(self.watermark), end(after));
        self.watermark = after;
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
        track.change(origin, version, at, &counter, total(more));
        if self.view == View::Overall {
            let more = i64::from(track.value(&counter) > 0) - i64::from(before > 0);
            track.change(origin, version, at, &Counter::UnreadDialogs, more);
        }
        for (sender_type, more) in more.iter() {
            let counter = Counter::UnreadFrom(sender_type.clone());
            track.change(origin, version, at, &counter, more);
        }
    }

    /// Writes what was served before a repair, and what is after it. Unread is
    /// kept as `sequence` less `consumed`, for members.
    fn repaired(&self, record: &DialogRecord, repairs: &[Repair], track: &mut Track<'_>) {
        let own = |repair: &&Repair| repair.user.as_ref() == Some(self.user);
        let member = repairs.iter().filter(own);
        let member = member.clone().find(|repair| repair.counter == MEMBER);
        let was_member = match member {
            Some(repair) => repair.stored == Some(1),
            None => self.watermark.is_some(),
        };
        let (mut stored, mut counted) = (ByType::default(), ByType::default());
        if let Some(watermark) = self.watermark {
            self.count(watermark.0, i64::MAX, 1, &mut counted);
        }
        // Types first, so that those that a repair alone names are seen.
        if was_member {
            self.count(
                self.watermark.map_or(i64::MAX, |watermark| watermark.0),
                i64::MAX,
                1,
                &mut stored,
            );
            for repair in repairs {
                let (name, by) = match repair.counter.split_once('.') {
                    Some((SEQUENCE, name)) if repair.is_of_dialog() => (name, 1),
                    Some((CONSUMED, name)) if own(&repair) => (name, -1),
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
            let is_member = i64::from(self.watermark.is_some());
            track.repair(
                version,
                at,
                &Counter::Dialogs,
                i64::from(was_member),
                is_member,
            );
        }
        self.sent_repaired(record, repairs, track);
    }

    /// Writes a change of what is unread, to these counts.
    fn drift(&self, record: &DialogRecord, origin: Origin, to: &ByType, track: &mut Track<'_>) {
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

#[cfg(test)]
mod tests;
