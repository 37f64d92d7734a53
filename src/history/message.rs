//! A message's own counters.

use std::collections::BTreeMap;

use super::{Origin, Repair, TimelineBuilder};
use crate::counter::Counter;
use crate::event::MessageId;

/// A record of the journal about a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MessageRecord {
    /// When the record was written, in milliseconds since the epoch.
    pub(crate) at: i64,
    /// The id of the event; repairs have ids of their own.
    pub(crate) event: String,
    /// What the record did to the message.
    pub(crate) effect: MessageEffect,
}

/// The effect of a record on a message's counters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MessageEffect {
    /// Counters of the message changed by so much.
    Changed(Vec<(Counter, i64)>),
    /// The message counts no longer: it, or its dialog, was deleted.
    Ended,
    /// A repair set stored counters to what was counted.
    Repaired(Vec<Repair>),
}

/// What is recorded of a message now, and what is served.
#[derive(Debug, Clone, Default)]
pub(crate) struct MessageState {
    /// The users by status and reaction, counted one by one.
    pub(crate) counted: BTreeMap<Counter, i64>,
    /// The counters as they are served.
    pub(crate) served: BTreeMap<Counter, i64>,
    /// Whether the message, or its dialog, was deleted.
    pub(crate) gone: bool,
}

/// Writes how a message's counters came about.
pub(crate) fn replay(
    message: &MessageId,
    now: &MessageState,
    mut records: Vec<MessageRecord>,
    timeline: &mut TimelineBuilder,
) {
    records.sort_by(|a, b| (a.at, &a.event).cmp(&(b.at, &b.event)));
    let mut before = now.counted.clone();
    for (counter, more) in records.iter().flat_map(changes) {
        *before.entry(counter.clone()).or_default() -= more;
    }
    let ended = records
        .iter()
        .position(|record| record.effect == MessageEffect::Ended);
    if now.gone && ended.is_none() {
        // It was gone before the first record.
        (before, records) = Default::default();
    }
    records.truncate(ended.map_or(usize::MAX, |ended| ended + 1));
    let mut track = timeline.track("");
    for (counter, value) in &before {
        track.balance(counter, *value);
    }
    for record in &records {
        track.next_group(&record.event);
        match &record.effect {
            MessageEffect::Changed(_) => {
                for (counter, more) in changes(record) {
                    track.change(Origin::Event, 0, record.at, counter, *more);
                }
            }
            MessageEffect::Ended => track.end(0, record.at),
            MessageEffect::Repaired(repairs) => {
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
    track.next_group("");
    track.reconcile(&now.served);
}

fn changes(record: &MessageRecord) -> impl Iterator<Item = &(Counter, i64)> {
    let changes = match &record.effect {
        MessageEffect::Changed(changes) => changes.as_slice(),
        _ => &[],
    };
    changes.iter()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Status;
    use crate::history::TimelineEntry;

    fn read() -> Counter {
        Counter::Status(Status::new("read").unwrap())
    }

    fn happened(event: &str, at: i64, effect: MessageEffect) -> MessageRecord {
        MessageRecord {
            at,
            event: event.into(),
            effect,
        }
    }

    fn more() -> MessageEffect {
        MessageEffect::Changed(vec![(read(), 1)])
    }

    fn replayed(now: &MessageState, records: Vec<MessageRecord>) -> Vec<(String, i64)> {
        let mut timeline = TimelineBuilder::new(None);
        replay(&MessageId::new("m").unwrap(), now, records, &mut timeline);
        let timeline = timeline.finish();
        let change = |entry: &TimelineEntry| (timeline.group(entry).to_owned(), entry.change.delta);
        timeline.all().iter().map(change).collect()
    }

    fn change(event: &str, delta: i64) -> (String, i64) {
        (event.into(), delta)
    }

    #[test]
    fn records_count_in_the_order_of_their_writing_until_the_end() {
        let now = MessageState {
            counted: BTreeMap::from([(read(), 4)]),
            served: BTreeMap::new(),
            gone: true,
        };
        let records = vec![
            happened("e3", 9, MessageEffect::Ended),
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
        let now = MessageState {
            counted: BTreeMap::from([(read(), 2)]),
            served: BTreeMap::new(),
            gone: true,
        };
        assert_eq!(replayed(&now, vec![happened("e1", 5, more())]), []);
    }
}
