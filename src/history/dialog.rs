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
        What::Created(created) => more.messages = i64::from(!created.stillborn),
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
