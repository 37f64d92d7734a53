//! A dialog's own counters.

use std::collections::BTreeMap;

use super::{DialogEffect, DialogRecord, Origin, Repair, Track};
use crate::counter::Counter;

/// A dialog's counters at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// The messages that are created and not deleted.
    pub(crate) messages: i64,
    /// The users who are members.
    pub(crate) members: i64,
    /// The topics that were created.
    pub(crate) topics: i64,
}

impl Counts {
    fn named(self) -> [(Counter, i64); 3] {
        [
            (Counter::Messages, self.messages),
            (Counter::Members, self.members),
            (Counter::Topics, self.topics),
        ]
    }

    /// Returns the counts by counter, without zeros.
    pub(crate) fn map(self) -> BTreeMap<Counter, i64> {
        let named = self.named().into_iter();
        named.filter(|(_, count)| *count != 0).collect()
    }

    /// Returns the counts before the records that led to these, the deletion of
    /// the dialog aside.
    pub(crate) fn before(mut self, records: &[DialogRecord]) -> Self {
        for record in records {
            let more = change(&record.effect);
            self.messages -= more.messages;
            self.members -= more.members;
            self.topics -= more.topics;
        }
        self
    }
}

/// By how much a record changes each counter.
fn change(effect: &DialogEffect) -> Counts {
    let mut more = Counts::default();
    match effect {
        DialogEffect::Created(created) => more.messages = i64::from(!created.deleted_before_create),
        DialogEffect::Deleted { .. } => more.messages = -1,
        DialogEffect::WatermarkMoved { before, after, .. } => {
            more.members = i64::from(after.is_some()) - i64::from(before.is_some());
        }
        DialogEffect::Topic => more.topics = 1,
        _ => {}
    }
    more
}

/// Writes how a dialog's counters came about. `before` is `None` when it was
/// deleted before the first record.
pub(crate) fn replay(
    before: Option<Counts>,
    records: &[DialogRecord],
    served: Counts,
    mut track: Track<'_>,
) {
    for (counter, value) in before.unwrap_or_default().named() {
        track.balance(&counter, value);
    }
    for record in records.iter().filter(|_| before.is_some()) {
        match &record.effect {
            DialogEffect::DialogDeleted => {
                track.end(record.version, record.at);
                break;
            }
            DialogEffect::Repaired(repairs) => repaired(record, repairs, &mut track),
            effect => {
                for (counter, more) in change(effect).named() {
                    track.change(Origin::Event, record.version, record.at, &counter, more);
                }
            }
        }
    }
    track.reconcile(&served.map());
}

fn repaired(record: &DialogRecord, repairs: &[Repair], track: &mut Track<'_>) {
    for repair in repairs.iter().filter(|repair| repair.is_of_dialog()) {
        if let Ok(counter @ (Counter::Messages | Counter::Members | Counter::Topics)) =
            repair.counter.parse()
        {
            let value = |value: Option<i64>| value.unwrap_or(0).max(0);
            let (stored, counted) = (value(repair.stored), value(repair.counted));
            track.repair(record.version, record.at, &counter, stored, counted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::state::Watermark;
    use crate::event::{MessageId, UserId};
    use crate::history::{DialogEffect, TimelineBuilder};

    fn moved(before: Option<i64>, after: Option<i64>) -> DialogEffect {
        DialogEffect::WatermarkMoved {
            user: UserId::new("bob").unwrap(),
            before: before.map(Watermark),
            after: after.map(Watermark),
        }
    }

    fn records(effect: impl IntoIterator<Item = DialogEffect>) -> Vec<DialogRecord> {
        let records = effect.into_iter().zip(1_i64..);
        let records = records.map(|(effect, version)| DialogRecord {
            version,
            at: version,
            effect,
        });
        records.collect()
    }

    #[test]
    fn members_come_and_go_and_all_ends_with_the_dialog() {
        let records = records([
            moved(None, Some(3)),
            moved(Some(3), Some(9)),
            DialogEffect::Topic,
            DialogEffect::Deleted {
                message: MessageId::new("m").unwrap(),
                sender: None,
            },
            moved(Some(9), None),
            DialogEffect::DialogDeleted,
            DialogEffect::Topic,
        ]);
        let now = Counts {
            messages: 4,
            members: 2,
            topics: 5,
        };
        let before = now.before(&records);
        let expected = Counts {
            messages: 5,
            members: 2,
            topics: 3,
        };
        assert_eq!(before, expected);
        let mut timeline = TimelineBuilder::new(None);
        replay(
            Some(before),
            &records,
            Counts::default(),
            timeline.track("d"),
        );
        let timeline = timeline.finish();
        let changes = timeline.all().iter();
        let changes = changes.map(|entry| {
            (
                entry.change.version,
                timeline.counter(entry),
                entry.change.delta,
            )
        });
        let expected = [
            (0, &Counter::Messages, 5),
            (0, &Counter::Members, 2),
            (0, &Counter::Topics, 3),
            (1, &Counter::Members, 1),
            (3, &Counter::Topics, 1),
            (4, &Counter::Messages, -1),
            (5, &Counter::Members, -1),
            (6, &Counter::Messages, -4),
            (6, &Counter::Members, -2),
            (6, &Counter::Topics, -4),
        ];
        assert_eq!(changes.collect::<Vec<_>>(), expected);
    }
}
