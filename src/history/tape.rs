//! Changes of counters, gathered compactly and put in order.

use std::collections::{BTreeMap, HashMap};

use super::Counter;
use crate::event::SenderType;

/// Where a change comes from; also their order within one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// What there was before the journal's reach.
    Balance,
    /// An event.
    Event,
    /// The stored value was found to be wrong by a repair.
    Drift,
    /// A repair.
    Repair,
    /// The served value is wrong now.
    LastDrift,
}

/// One change of one counter. Small: there may be a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Its place among the changes of all groups.
    pub order: i64,
    /// When it was written, in milliseconds. Only events and repairs were.
    pub at: i64,
    /// The version to which its event raised the dialog; 0 in a message's.
    pub version: i64,
    /// By how much.
    pub delta: i64,
    group: u32,
    counter: u16,
    /// Where it comes from.
    pub origin: Origin,
}

/// Takes up the changes of one history. They come in groups: of a dialog, or,
/// in the history of a message, of an event.
#[derive(Debug, Default)]
pub struct Tape {
    wanted: Option<Counter>,
    counters: Vec<Counter>,
    indexes: HashMap<Counter, u16>,
    groups: Vec<String>,
    lines: Vec<Line>,
    balances: BTreeMap<Counter, i64>,
    totals: BTreeMap<Counter, i64>,
}

impl Tape {
    /// A tape for one counter, or for all.
    pub fn new(wanted: Option<Counter>) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Begins a group. Groups come in the order of their names, unless their
    /// changes are in order anyway.
    pub fn track(&mut self, group: &str) -> Track<'_> {
        self.groups.push(group.to_owned());
        Track {
            tape: self,
            order: i64::MIN,
            values: BTreeMap::new(),
        }
    }

    fn index(&mut self, counter: &Counter) -> u16 {
        if let Some(index) = self.indexes.get(counter) {
            return *index;
        }
        // Types, statuses and reactions of one history; beyond that many the
        // last one stands for the rest.
        let index = u16::try_from(self.counters.len()).unwrap_or(u16::MAX);
        self.counters.push(counter.clone());
        self.indexes.insert(counter.clone(), index);
        index
    }

    /// How many changes there are by now.
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// All changes in order, with the values between them.
    pub fn finish(mut self) -> Lines {
        let balances = std::mem::take(&mut self.balances);
        // The balances of all groups are one.
        let group = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        self.groups.push(String::new());
        for (counter, delta) in balances.into_iter().filter(|(_, delta)| *delta != 0) {
            let counter = self.index(&counter);
            let step = Step {
                order: i64::MIN,
                at: 0,
                version: 0,
                delta,
                group,
                counter,
                origin: Origin::Balance,
            };
            self.lines.push(Line { step, old: 0 });
        }
        // In place: there may be a million.
        let (mut lines, counters) = (self.lines, &self.counters);
        lines.sort_unstable_by(|a, b| {
            let key = |line: &Line| {
                let Step {
                    order,
                    group,
                    version,
                    origin,
                    ..
                } = line.step;
                (order, group, version, origin)
            };
            let counter = |line: &Line| &counters[usize::from(line.step.counter)];
            key(a).cmp(&key(b)).then_with(|| counter(a).cmp(counter(b)))
        });
        let mut values = vec![0_i64; counters.len()];
        for line in &mut lines {
            let value = &mut values[usize::from(line.step.counter)];
            line.old = *value;
            *value += line.step.delta;
        }
        Lines {
            counters: self.counters,
            groups: self.groups,
            lines,
            totals: self.totals,
        }
    }
}

/// Writes the changes of one group, oldest first.
#[derive(Debug)]
pub struct Track<'t> {
    tape: &'t mut Tape,
    /// The latest time so far: clocks of replicas may differ, versions are in
    /// order.
    order: i64,
    values: BTreeMap<Counter, i64>,
}

impl Track<'_> {
    /// Begins another group with the same counters.
    pub(super) fn next(&mut self, group: &str) {
        self.tape.groups.push(group.to_owned());
    }

    /// What a counter is before the first event.
    pub fn balance(&mut self, counter: &Counter, value: i64) {
        if value != 0 {
            *self.values.entry(counter.clone()).or_default() += value;
            if self.is_wanted(counter) {
                *self.tape.balances.entry(counter.clone()).or_default() += value;
            }
        }
    }

    /// A counter changes with an event, written at `at`.
    pub fn step(&mut self, origin: Origin, version: i64, at: i64, counter: &Counter, delta: i64) {
        self.order = self.order.max(at);
        if delta == 0 {
            return;
        }
        *self.values.entry(counter.clone()).or_default() += delta;
        let order = match origin {
            Origin::LastDrift => i64::MAX,
            _ => self.order,
        };
        self.push(order, origin, version, at, counter, delta);
    }

    /// All counters become 0, but those that outlive a dialog.
    pub fn end(&mut self, version: i64, at: i64) {
        for (counter, value) in self.values.clone() {
            if !counter.outlives_dialog() {
                self.step(Origin::Event, version, at, &counter, -value);
            }
        }
    }

    /// The value of a counter.
    pub fn value(&self, counter: &Counter) -> i64 {
        self.values.get(counter).copied().unwrap_or(0)
    }

    /// Senders' types whose unread was counted, other than these.
    pub(super) fn senders_beside(&self, known: &[SenderType]) -> Vec<SenderType> {
        let counted = self.values.keys().filter_map(|counter| match counter {
            Counter::UnreadFrom(sender_type) => Some(sender_type),
            _ => None,
        });
        let beside = counted.filter(|sender_type| !known.contains(sender_type));
        beside.cloned().collect()
    }

    /// A repair found `stored` and set it to `counted`.
    pub fn repair(&mut self, version: i64, at: i64, counter: &Counter, stored: i64, counted: i64) {
        let drift = stored - self.value(counter);
        self.step(Origin::Drift, version, at, counter, drift);
        self.step(Origin::Repair, version, at, counter, counted - stored);
    }

    /// The values that are served now: what they differ by is drift.
    pub fn serve(mut self, served: &BTreeMap<Counter, i64>) {
        for (counter, value) in served {
            if self.is_wanted(counter) {
                *self.tape.totals.entry(counter.clone()).or_default() += value;
            }
            self.values.entry(counter.clone()).or_default();
        }
        for (counter, value) in self.values.clone() {
            let drift = served.get(&counter).copied().unwrap_or(0) - value;
            self.step(Origin::LastDrift, i64::MAX, 0, &counter, drift);
        }
    }

    fn is_wanted(&self, counter: &Counter) -> bool {
        self.tape
            .wanted
            .as_ref()
            .is_none_or(|wanted| wanted == counter)
    }

    fn push(
        &mut self,
        order: i64,
        origin: Origin,
        version: i64,
        at: i64,
        counter: &Counter,
        delta: i64,
    ) {
        if !self.is_wanted(counter) {
            return;
        }
        let group = u32::try_from(self.tape.groups.len() - 1).unwrap_or(u32::MAX);
        let counter = self.tape.index(counter);
        let step = Step {
            order,
            at,
            version,
            delta,
            group,
            counter,
            origin,
        };
        self.tape.lines.push(Line { step, old: 0 });
    }
}

/// One entry of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line {
    /// The change.
    pub step: Step,
    /// The value before it.
    pub old: i64,
}

/// A whole history, oldest first.
#[derive(Debug, Default)]
pub struct Lines {
    counters: Vec<Counter>,
    groups: Vec<String>,
    lines: Vec<Line>,
    totals: BTreeMap<Counter, i64>,
}

/// The place of an entry in its history. It stays when others come after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// See [`Step::order`].
    pub order: i64,
    /// The group: a dialog's or an event's id.
    pub group: String,
    /// See [`Step::version`].
    pub version: i64,
    /// See [`Step::origin`].
    pub origin: Origin,
    /// The counter.
    pub counter: Counter,
}

/// What a page is to have.
#[derive(Debug, Clone, Default)]
pub struct Part {
    /// Written at this time, in milliseconds, or later.
    pub since: Option<i64>,
    /// Written before this time.
    pub until: Option<i64>,
    /// Newest first.
    pub newest_first: bool,
    /// The last entry of the page before.
    pub after: Option<Position>,
    /// At most so many.
    pub limit: usize,
}

impl Lines {
    /// A page, and whether there is more after it.
    pub fn page(&self, part: &Part) -> (Vec<Line>, bool) {
        let within = |line: &&Line| {
            let at = match line.step.origin {
                Origin::Balance => i64::MIN,
                Origin::LastDrift => i64::MAX,
                _ => line.step.at,
            };
            part.since.is_none_or(|since| at >= since) && part.until.is_none_or(|until| at < until)
        };
        let reached = |line: &Line, after: &Position| match part.newest_first {
            true => self.position(line) < *after,
            false => self.position(line) <= *after,
        };
        // The entries stand in the order of their positions.
        let split = part.after.as_ref().map(|after| {
            let reached = |line: &Line| reached(line, after);
            self.lines.partition_point(reached)
        });
        let (before, beyond) = match (split, part.newest_first) {
            (Some(split), _) => self.lines.split_at(split),
            (None, true) => (self.lines.as_slice(), [].as_slice()),
            (None, false) => ([].as_slice(), self.lines.as_slice()),
        };
        let wanted = part.limit.saturating_add(1);
        let mut page: Vec<Line> = match part.newest_first {
            true => before
                .iter()
                .rev()
                .filter(within)
                .take(wanted)
                .copied()
                .collect(),
            false => beyond.iter().filter(within).take(wanted).copied().collect(),
        };
        let more = page.len() > part.limit;
        page.truncate(part.limit);
        (page, more)
    }

    /// Where an entry stands.
    pub fn position(&self, line: &Line) -> Position {
        Position {
            order: line.step.order,
            group: self.group(line).to_owned(),
            version: line.step.version,
            origin: line.step.origin,
            counter: self.counter(line).clone(),
        }
    }

    /// The counter that an entry is about.
    pub fn counter(&self, line: &Line) -> &Counter {
        &self.counters[usize::from(line.step.counter)]
    }

    /// The name of an entry's group; empty for a balance.
    pub fn group(&self, line: &Line) -> &str {
        &self.groups[line.step.group as usize]
    }

    /// The values that are served: the sums of all changes.
    pub fn totals(&self) -> &BTreeMap<Counter, i64> {
        &self.totals
    }

    /// Every entry, oldest first.
    pub fn all(&self) -> &[Line] {
        &self.lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        let mut tape = Tape::new(None);
        let mut track = tape.track("a");
        track.balance(&Counter::Messages, 2);
        track.step(Origin::Event, 1, 10, &Counter::Messages, 1);
        // By the clock of another replica, behind.
        track.step(Origin::Event, 2, 7, &Counter::Messages, 1);
        track.repair(3, 12, &Counter::Messages, 9, 4);
        track.serve(&BTreeMap::from([(Counter::Messages, 4)]));
        let mut track = tape.track("b");
        track.balance(&Counter::Messages, 1);
        track.step(Origin::Event, 1, 8, &Counter::Messages, -1);
        track.step(Origin::Event, 2, 11, &Counter::Topics, 1);
        track.serve(&BTreeMap::from([(Counter::Messages, 1)]));
        tape.finish()
    }

    #[test]
    fn groups_are_merged_by_time_each_in_the_order_of_its_versions() {
        let lines = lines();
        let found = lines.all().iter();
        let found = found.map(|line| {
            (
                lines.group(line),
                line.step.version,
                line.old,
                line.step.delta,
            )
        });
        let expected = [
            ("", 0, 0, 3),
            ("b", 1, 3, -1),
            ("a", 1, 2, 1),
            ("a", 2, 3, 1),
            ("b", 2, 0, 1),
            ("a", 3, 4, 5),
            ("a", 3, 9, -5),
            ("b", i64::MAX, 4, 1),
            ("b", i64::MAX, 1, -1),
        ];
        assert_eq!(found.collect::<Vec<_>>(), expected);
        assert_eq!(lines.totals(), &BTreeMap::from([(Counter::Messages, 5)]));
    }

    #[test]
    fn pages_join_up_in_both_directions_and_times_are_those_of_writing() {
        let lines = lines();
        for newest_first in [false, true] {
            for limit in 1..10 {
                let mut part = Part {
                    newest_first,
                    limit,
                    ..Part::default()
                };
                let mut paged = Vec::new();
                loop {
                    let (page, more) = lines.page(&part);
                    paged.extend_from_slice(&page);
                    part.after = page.last().map(|line| lines.position(line));
                    if !more {
                        break;
                    }
                }
                if newest_first {
                    paged.reverse();
                }
                assert_eq!(paged, lines.all());
            }
        }
        let within = |since, until| {
            let part = Part {
                since,
                until,
                limit: 100,
                ..Part::default()
            };
            lines.page(&part).0.len()
        };
        assert_eq!(within(None, None), 9);
        assert_eq!(within(Some(8), None), 7);
        assert_eq!(within(None, Some(8)), 2);
        assert_eq!(within(Some(7), Some(11)), 3);
    }
}
