//! A message's own counters.

use std::collections::BTreeMap;

use super::{Counter, Origin, Repair, Tape};
use crate::event::MessageId;

/// A record of the journal about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happened {
    /// When it was written, in milliseconds.
    pub at: i64,
    /// The event; repairs have an id of their own.
    pub event: String,
    /// What it did.
    pub what: Word,
}

/// What a record says about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Word {
    /// Counters changed.
    Changed(Vec<(Counter, i64)>),
    /// The message counts no longer: it, or its dialog, was deleted.
    Ended,
    /// Stored counters were set to what was counted.
    Repaired(Vec<Repair>),
}

/// What is recorded of a message now, and what is served.
#[derive(Debug, Clone, Default)]
pub struct Now {
    /// Users by status and reaction, counted one by one.
    pub counted: BTreeMap<Counter, i64>,
    /// The counters as they are served.
    pub served: BTreeMap<Counter, i64>,
    /// It, or its dialog, was deleted.
    pub gone: bool,
}

/// Writes how a message's counters came about.
pub fn replay(message: &MessageId, now: &Now, mut records: Vec<Happened>, tape: &mut Tape) {
    records.sort_by(|a, b| (a.at, &a.event).cmp(&(b.at, &b.event)));
    let mut before = now.counted.clone();
    for (counter, more) in records.iter().flat_map(changes) {
        *before.entry(counter.clone()).or_default() -= more;
    }
    let ended = records.iter().position(|record| record.what == Word::Ended);
    if now.gone && ended.is_none() {
        // It was gone before the first record.
        (before, records) = Default::default();
    }
    records.truncate(ended.map_or(usize::MAX, |ended| ended + 1));
    let mut track = tape.track("");
    for (counter, value) in &before {
        track.balance(counter, *value);
    }
    for record in &records {
        track.next(&record.event);
        match &record.what {
            Word::Changed(_) => {
                for (counter, more) in changes(record) {
                    track.step(Origin::Event, 0, record.at, counter, *more);
                }
            }
            Word::Ended => track.end(0, record.at),
            Word::Repaired(repairs) => {
                let own = repairs.iter();
                let own = own.filter(|repair| repair.message.as_ref() == Some(message));
                for repair in own {
                    if let Ok(counter) = repair.counter.parse() {
                        let value = |value: Option<i64>| value.unwrap_or(0).max(0);
                        let (stored, counted) = (value(repair.stored), value(repair.counted));
                        track.repair(0, record.at, &counter, stored, counted);
                    }
                }
            }
        }
    }
    track.next("");
    track.serve(&now.served);
}

fn changes(record: &Happened) -> impl Iterator<Item = &(Counter, i64)> {
    let changes = match &record.what {
        Word::Changed(changes) => changes.as_slice(),
        _ => &[],
    };
    changes.iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Status;
    use crate::history::Line;

    fn read() -> Counter {
        Counter::Status(Status::new("read").unwrap())
    }

    fn happened(event: &str, at: i64, what: Word) -> Happened {
        Happened {
            at,
            event: event.into(),
            what,
        }
    }

    fn more() -> Word {
        Word::Changed(vec![(read(), 1)])
    }

    fn replayed(now: &Now, records: Vec<Happened>) -> Vec<(String, i64)> {
        let mut tape = Tape::new(None);
        replay(&MessageId::new("m").unwrap(), now, records, &mut tape);
        let lines = tape.finish();
        let change = |line: &Line| (lines.group(line).to_owned(), line.step.delta);
        lines.all().iter().map(change).collect()
    }

    fn change(event: &str, delta: i64) -> (String, i64) {
        (event.into(), delta)
    }

    #[test]
    fn records_count_in_the_order_of_their_writing_until_the_end() {
        let now = Now {
            counted: BTreeMap::from([(read(), 4)]),
            served: BTreeMap::new(),
            gone: true,
        };
        let records = vec![
            happened("e3", 9, Word::Ended),
            happened("e1", 5, more()),
            happened("e4", 10, more()),
            happened("e2", 5, more()),
        ];
        let expected = [
            change("", 1),
            change("e1", 1),
            change("e2", 1),
            change("e3", -3),
        ];
        assert_eq!(replayed(&now, records), expected);
    }

    #[test]
    fn a_message_gone_before_the_first_record_has_no_history() {
        let now = Now {
            counted: BTreeMap::from([(read(), 2)]),
            served: BTreeMap::new(),
            gone: true,
        };
        assert_eq!(replayed(&now, vec![happened("e1", 5, more())]), []);
    }
}
