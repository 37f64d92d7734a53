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
mod tests {
    use super::*;
    use crate::history::{PageRequest, TimelineBuilder};

    fn id(id: &str) -> MessageId {
        MessageId::new(id).unwrap()
    }

    fn user(id: &str) -> UserId {
        UserId::new(id).unwrap()
    }

    fn created(message: &str, sender: &str, at: i64) -> DialogEffect {
        DialogEffect::Created(Created {
            message: id(message),
            sender: user(sender),
            sender_type: SenderType::default(),
            at: Micros::new(at).unwrap(),
            system: false,
            had_placeholder: false,
            deleted_before_create: false,
        })
    }

    fn moved(before: Option<i64>, after: Option<i64>) -> DialogEffect {
        DialogEffect::WatermarkMoved {
            user: user("bob"),
            before: before.map(Watermark),
            after: after.map(Watermark),
        }
    }

    fn read(message: &str) -> DialogEffect {
        DialogEffect::Read {
            message: id(message),
            user: user("bob"),
        }
    }

    fn deleted(message: &str) -> DialogEffect {
        DialogEffect::Deleted {
            message: id(message),
            sender: Some(user("ann")),
        }
    }

    /// Bob's changes of one counter: the version (0 for a balance) and delta.
    fn changes(
        before: StateBefore,
        effect: impl IntoIterator<Item = DialogEffect>,
        view: View,
        counter: Counter,
        served: i64,
    ) -> Vec<(i64, i64)> {
        let records = effect.into_iter().zip(7_i64..);
        let records = records.map(|(effect, version)| DialogRecord {
            version,
            at: version,
            effect,
        });
        let records: Vec<_> = records.collect();
        let mut timeline = TimelineBuilder::new(Some(counter.clone()));
        let served = Served::from([(counter, served)]);
        replay(
            &user("bob"),
            view,
            before,
            &records,
            &served,
            timeline.track("d"),
        );
        let timeline = timeline.finish();
        let all = PageRequest {
            limit: 100,
            ..PageRequest::default()
        };
        let (page, more) = timeline.page(&all);
        assert!(!more);
        page.iter()
            .map(|entry| (entry.change.version, entry.change.delta))
            .collect()
    }

    fn unread(
        before: StateBefore,
        effect: impl IntoIterator<Item = DialogEffect>,
        served: i64,
    ) -> Vec<(i64, i64)> {
        changes(before, effect, View::InDialog, Counter::Unread, served)
    }

    fn member() -> StateBefore {
        StateBefore {
            watermark: Some(Watermark(0)),
            ..StateBefore::default()
        }
    }

    #[test]
    fn unread_rises_with_messages_of_others_after_the_mark() {
        let effect = [
            created("m1", "ann", 5),
            created("own", "bob", 6),
            moved(Some(0), Some(7)),
            created("late", "ann", 7),
            created("m2", "ann", 8),
        ];
        assert_eq!(unread(member(), effect, 1), [(7, 1), (9, -1), (11, 1)]);
    }

    #[test]
    fn a_mark_that_moves_back_brings_messages_back_but_not_those_read_or_deleted() {
        let effect = [
            created("m1", "ann", 5),
            created("m2", "ann", 5),
            created("m3", "ann", 6),
            moved(Some(0), Some(9)),
            read("m1"),
            deleted("m3"),
            moved(Some(9), Some(4)),
            moved(Some(4), None),
            moved(None, Some(4)),
        ];
        let expected = [(7, 1), (8, 1), (9, 1), (10, -3), (13, 1), (14, -1), (15, 1)];
        assert_eq!(unread(member(), effect, 1), expected);
    }

    #[test]
    fn what_was_before_makes_a_balance() {
        let message = |name: &str, at| (id(name), Micros::new(at).unwrap(), SenderType::default());
        let before = StateBefore {
            messages: vec![message("m1", 0), message("m2", 1), message("m3", 2)],
            read: HashSet::from([id("m4")]),
            ..member()
        };
        let mut known = created("m4", "ann", 3);
        if let DialogEffect::Created(created) = &mut known {
            created.had_placeholder = true;
        }
        let effect = [read("m2"), known, deleted("m3"), deleted("m1")];
        assert_eq!(unread(before, effect, 0), [(0, 2), (7, -1), (9, -1)]);
    }

    /// Found by `make torture`.
    #[test]
    fn a_system_message_that_was_read_is_not_opened_by_a_correction() {
        let standing = |system| CountingFacts {
            at: Micros::new(5).unwrap(),
            sender_type: SenderType::default(),
            system,
        };
        let corrected = || DialogEffect::Corrected {
            message: id("m"),
            sender: user("ann"),
            was: standing(true),
            is: standing(false),
        };
        assert_eq!(unread(member(), [corrected()], 1), [(7, 1)]);
        let before = StateBefore {
            closed: HashSet::from([id("m")]),
            ..member()
        };
        assert_eq!(unread(before, [corrected()], 0), []);
    }

    #[test]
    fn the_end_of_the_dialog_is_the_end_of_its_history() {
        let effect = [
            created("m1", "ann", 5),
            DialogEffect::DialogDeleted,
            created("m2", "ann", 6),
            moved(Some(0), None),
        ];
        assert_eq!(unread(member(), effect.clone(), 0), [(7, 1), (8, -1)]);
        let gone = StateBefore {
            deleted: true,
            ..member()
        };
        assert_eq!(unread(gone, effect, 0), []);
    }

    #[test]
    fn what_was_sent_outlives_the_dialog() {
        let own = |name: &str| created(name, "bob", 5);
        let gone = |name: &str| DialogEffect::Deleted {
            message: id(name),
            sender: Some(user("bob")),
        };
        let repaired = DialogEffect::Repaired(vec![
            super::Repair {
                user: Some(user("bob")),
                message: None,
                counter: "total_messages_count".into(),
                stored: Some(9),
                counted: Some(2),
            },
            super::Repair {
                user: Some(user("bob")),
                message: None,
                counter: "member".into(),
                stored: Some(0),
                counted: Some(1),
            },
        ]);
        let effect = || {
            [
                own("m1"),
                created("m2", "ann", 6),
                DialogEffect::DialogDeleted,
                own("m3"),
                gone("m1"),
                own("m4"),
                created("m5", "ann", 6),
                moved(Some(0), None),
                repaired.clone(),
            ]
        };
        let of =
            |before, counter, served| changes(before, effect(), View::Overall, counter, served);
        let sent = [(7, 1), (10, 1), (11, -1), (12, 1), (15, 7), (15, -7)];
        assert_eq!(of(member(), Counter::Sent, 2), sent);
        assert_eq!(of(member(), Counter::Dialogs, 0), [(0, 1), (9, -1)]);
        assert_eq!(of(member(), Counter::TotalUnread, 0), [(8, 1), (9, -1)]);
        // The end was before the first record.
        let ended = || StateBefore {
            sent: 4,
            deleted: true,
            ..StateBefore::default()
        };
        let effect = || [own("m3"), gone("m1"), created("m5", "ann", 6)];
        let of = |counter, served| changes(ended(), effect(), View::Overall, counter, served);
        assert_eq!(of(Counter::Sent, 4), [(0, 4), (7, 1), (8, -1)]);
        assert_eq!(of(Counter::TotalUnread, 0), []);
    }

    #[test]
    fn what_is_served_but_not_explained_is_drift() {
        let last = i64::MAX;
        let effect = [created("m1", "ann", 5)];
        assert_eq!(unread(member(), effect, 4), [(7, 1), (last, 3)]);
        assert_eq!(unread(StateBefore::default(), [], 4), [(last, 4)]);
    }

    #[test]
    fn a_repair_shows_what_it_found_and_undoes_it() {
        let repair = |user: Option<UserId>, counter: &str, stored, counted| super::Repair {
            user,
            message: None,
            counter: counter.into(),
            stored: Some(stored),
            counted: Some(counted),
        };
        let bob = || Some(user("bob"));
        let repairs =
            |repairs: Vec<Repair>| [created("m1", "ann", 5), DialogEffect::Repaired(repairs)];
        for (found, expected) in [
            // One unread too many in the sequence, three in Bob's share.
            (
                vec![
                    repair(None, "sequence.user", 5, 4),
                    repair(bob(), "consumed.user", 1, 3),
                ],
                vec![(7, 1), (8, 3), (8, -3)],
            ),
            // Never shown below 0.
            (
                vec![repair(bob(), "consumed.user", 9, 3)],
                vec![(7, 1), (8, -1), (8, 1)],
            ),
            // Another's.
            (
                vec![repair(Some(user("ann")), "consumed.user", 9, 3)],
                vec![(7, 1)],
            ),
            // A type that there is none of.
            (
                vec![repair(None, "sequence.bot", 2, 0)],
                vec![(7, 1), (8, 2), (8, -2)],
            ),
            // Someone not a member is shown nothing.
            (
                vec![repair(bob(), "member", 0, 1)],
                vec![(7, 1), (8, -1), (8, 1)],
            ),
        ] {
            assert_eq!(unread(member(), repairs(found), 1), expected);
        }
    }

    #[test]
    fn over_all_dialogs_there_is_more_to_count() {
        let effect = || {
            [
                created("m1", "ann", 5),
                created("m2", "ann", 6),
                created("own", "bob", 7),
                moved(Some(0), None),
                DialogEffect::Deleted {
                    message: id("own"),
                    sender: Some(user("bob")),
                },
            ]
        };
        let before = || StateBefore {
            sent: 2,
            ..member()
        };
        let of = |counter, served| changes(before(), effect(), View::Overall, counter, served);
        assert_eq!(of(Counter::TotalUnread, 0), [(7, 1), (8, 1), (10, -2)]);
        assert_eq!(of(Counter::UnreadDialogs, 0), [(7, 1), (10, -1)]);
        assert_eq!(of(Counter::Dialogs, 0), [(0, 1), (10, -1)]);
        assert_eq!(of(Counter::Sent, 2), [(0, 2), (9, 1), (11, -1)]);
        let records: Vec<_> = effect()
            .into_iter()
            .map(|effect| DialogRecord {
                version: 1,
                at: 1,
                effect,
            })
            .collect();
        assert_eq!(sent_before(&user("bob"), 2, &records), 2);
        assert_eq!(sent_before(&user("ann"), 2, &records), 0);
        assert_eq!(
            lowest_watermark(&user("bob"), Some(Watermark(0)), &records),
            Some(Watermark(0))
        );
        assert_eq!(lowest_watermark(&user("ann"), None, &records), None);
    }
}
