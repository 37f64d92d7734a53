//! A dialog's own counters.

use std::collections::BTreeMap;

use super::{Applied, Counter, Origin, Repair, Track, What};

/// A dialog's counters at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages created and not deleted.
    pub messages: i64,
    /// Members.
    pub members: i64,
    /// Topics.
    pub topics: i64,
}

impl Counts {
    fn named(self) -> [(Counter, i64); 3] {
        [
            (Counter::Messages, self.messages),
            (Counter::Members, self.members),
            (Counter::Topics, self.topics),
        ]
    }

    /// As a map by counter, without zeros.
    pub fn map(self) -> BTreeMap<Counter, i64> {
        let named = self.named().into_iter();
        named.filter(|(_, count)| *count != 0).collect()
    }

    /// What it was before the records that led to it, the deletion of the
    /// dialog aside.
    pub fn before(mut self, records: &[Applied]) -> Self {
        for record in records {
            let more = change(&record.what);
            self.messages -= more.messages;
            self.members -= more.members;
            self.topics -= more.topics;
        }
        self
    }
}

/// By how much a record changes each counter.
fn change(what: &What) -> Counts {
    let mut more = Counts::default();
    match what {
        What::Created(created) => more.messages = i64::from(!created.deleted_before_create),
        What::Deleted { .. } => more.messages = -1,
        What::Moved { before, after, .. } => {
            more.members = i64::from(after.is_some()) - i64::from(before.is_some());
        }
        What::Topic => more.topics = 1,
        _ => {}
    }
    more
}

/// Writes how a dialog's counters came about. `before` is `None` when it was
/// deleted before the first record.
pub fn replay(before: Option<Counts>, records: &[Applied], served: Counts, mut track: Track<'_>) {
    for (counter, value) in before.unwrap_or_default().named() {
        track.balance(&counter, value);
    }
    for record in records.iter().filter(|_| before.is_some()) {
        match &record.what {
            What::DialogDeleted => {
                track.end(record.version, record.at);
                break;
            }
            What::Repaired(repairs) => repaired(record, repairs, &mut track),
            what => {
                for (counter, more) in change(what).named() {
                    track.step(Origin::Event, record.version, record.at, &counter, more);
                }
            }
        }
    }
    track.serve(&served.map());
}

fn repaired(record: &Applied, repairs: &[Repair], track: &mut Track<'_>) {
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
    use crate::history::{Tape, What};

    fn moved(before: Option<i64>, after: Option<i64>) -> What {
        What::Moved {
            user: UserId::new("bob").unwrap(),
            before: before.map(Watermark),
            after: after.map(Watermark),
        }
    }

    fn records(what: impl IntoIterator<Item = What>) -> Vec<Applied> {
        let records = what.into_iter().zip(1_i64..);
        let records = records.map(|(what, version)| Applied {
            version,
            at: version,
            what,
        });
        records.collect()
    }

    #[test]
    fn members_come_and_go_and_all_ends_with_the_dialog() {
        let records = records([
            moved(None, Some(3)),
            moved(Some(3), Some(9)),
            What::Topic,
            What::Deleted {
                message: MessageId::new("m").unwrap(),
                sender: None,
            },
            moved(Some(9), None),
            What::DialogDeleted,
            What::Topic,
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
        let mut tape = Tape::new(None);
        replay(Some(before), &records, Counts::default(), tape.track("d"));
        let lines = tape.finish();
        let changes = lines.all().iter();
        let changes = changes.map(|line| (line.step.version, lines.counter(line), line.step.delta));
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
