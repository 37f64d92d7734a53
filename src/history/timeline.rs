//! The changes of counters over time, gathered compactly and put in order.

use std::collections::{BTreeMap, HashMap};

use crate::counter::Counter;
use crate::event::SenderType;

/// Where a change comes from. The order of the variants is that of changes
/// within one event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The counter had this value before the journal's reach.
    Balance,
    /// An event changed the counter.
    Event,
    /// A repair found the stored value to be wrong.
    Drift,
    /// A repair set the counter to what was counted.
    Repair,
    /// The value that is served now differs from the sum of the changes.
    LastDrift,
}

/// A change of one counter. It is small: there may be a million.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    /// The change's place among those of all groups: the latest time so far in
    /// its group.
    pub(crate) order: i64,
    /// When the record behind it was written, in milliseconds since the epoch;
    /// 0 where there is none.
    pub(crate) at: i64,
    /// The version to which its event raised the dialog; 0 in a message's
    /// history.
    pub(crate) version: i64,
    /// By how much the counter changed.
    pub(crate) delta: i64,
    group: u32,
    counter: u16,
    /// Where the change comes from.
    pub(crate) origin: Origin,
}

/// Gathers the changes of one history. They come in groups: of a dialog, or, in
/// the history of a message, of an event.
#[derive(Debug, Default)]
pub(crate) struct TimelineBuilder {
    wanted: Option<Counter>,
    counters: Vec<Counter>,
    indexes: HashMap<Counter, u16>,
    groups: Vec<String>,
    entries: Vec<TimelineEntry>,
    balances: BTreeMap<Counter, i64>,
    totals: BTreeMap<Counter, i64>,
}

impl TimelineBuilder {
    /// Begins a timeline of one counter, or of all.
    pub(crate) fn new(wanted: Option<Counter>) -> Self {
        Self {
            wanted,
            ..Self::default()
        }
    }

    /// Begins a group. Groups come in the order of their names, unless their
    /// changes are in order anyway.
    pub(crate) fn track(&mut self, group: &str) -> Track<'_> {
        self.groups.push(group.to_owned());
        Track {
            timeline: self,
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

    /// Puts all changes in order, with the values between them.
    pub(crate) fn finish(mut self) -> Timeline {
        let balances = std::mem::take(&mut self.balances);
        // The balances of all groups are one.
        let group = u32::try_from(self.groups.len()).unwrap_or(u32::MAX);
        self.groups.push(String::new());
        for (counter, delta) in balances.into_iter().filter(|(_, delta)| *delta != 0) {
            let counter = self.index(&counter);
            let change = Change {
                order: i64::MIN,
                at: 0,
                version: 0,
                delta,
                group,
                counter,
                origin: Origin::Balance,
            };
            self.entries.push(TimelineEntry { change, old: 0 });
        }
        // In place: there may be a million.
        let (mut entries, counters) = (self.entries, &self.counters);
        entries.sort_unstable_by(|a, b| {
            let key = |entry: &TimelineEntry| {
                let Change {
                    order,
                    group,
                    version,
                    origin,
                    ..
                } = entry.change;
                (order, group, version, origin)
            };
            let counter = |entry: &TimelineEntry| &counters[usize::from(entry.change.counter)];
            key(a).cmp(&key(b)).then_with(|| counter(a).cmp(counter(b)))
        });
        let mut values = vec![0_i64; counters.len()];
        for entry in &mut entries {
            let value = &mut values[usize::from(entry.change.counter)];
            entry.old = *value;
            *value += entry.change.delta;
        }
        Timeline {
            counters: self.counters,
            groups: self.groups,
            entries,
            totals: self.totals,
        }
    }
}

/// Writes the changes of one group, oldest first.
#[derive(Debug)]
pub(crate) struct Track<'t> {
    timeline: &'t mut TimelineBuilder,
    /// The latest time so far: clocks of replicas may differ, versions are in
    /// order.
    order: i64,
    values: BTreeMap<Counter, i64>,
}

impl Track<'_> {
    /// Begins another group with the same counters.
    pub(super) fn next_group(&mut self, group: &str) {
        self.timeline.groups.push(group.to_owned());
    }

    /// Sets what a counter is before the first event.
    pub(crate) fn balance(&mut self, counter: &Counter, value: i64) {
        if value != 0 {
            *self.values.entry(counter.clone()).or_default() += value;
            if self.is_wanted(counter) {
                *self.timeline.balances.entry(counter.clone()).or_default() += value;
            }
        }
    }

    /// Adds a counter's change by an event, written at `at`.
    pub(crate) fn change(
        &mut self,
        origin: Origin,
        version: i64,
        at: i64,
        counter: &Counter,
        delta: i64,
    ) {
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

    /// Sets all counters to 0, but those that outlive a dialog.
    pub(crate) fn end(&mut self, version: i64, at: i64) {
        for (counter, value) in self.values.clone() {
            if !counter.outlives_dialog() {
                self.change(Origin::Event, version, at, &counter, -value);
            }
        }
    }

    /// Returns the value of a counter after the changes so far.
    pub(crate) fn value(&self, counter: &Counter) -> i64 {
        self.values.get(counter).copied().unwrap_or(0)
    }

    /// Returns the senders' types whose unread was counted, other than these.
    pub(super) fn senders_beside(&self, known: &[SenderType]) -> Vec<SenderType> {
        let counted = self.values.keys().filter_map(|counter| match counter {
            Counter::UnreadFrom(sender_type) => Some(sender_type),
            _ => None,
        });
        let beside = counted.filter(|sender_type| !known.contains(sender_type));
        beside.cloned().collect()
    }

    /// Adds a repair, which found `stored` and set it to `counted`.
    pub(crate) fn repair(
        &mut self,
        version: i64,
        at: i64,
        counter: &Counter,
        stored: i64,
        counted: i64,
    ) {
        let drift = stored - self.value(counter);
        self.change(Origin::Drift, version, at, counter, drift);
        self.change(Origin::Repair, version, at, counter, counted - stored);
    }

    /// Ends the group with the values that are served now: what they differ by
    /// is drift.
    pub(crate) fn reconcile(mut self, served: &BTreeMap<Counter, i64>) {
        for (counter, value) in served {
            if self.is_wanted(counter) {
                *self.timeline.totals.entry(counter.clone()).or_default() += value;
            }
            self.values.entry(counter.clone()).or_default();
        }
        for (counter, value) in self.values.clone() {
            let drift = served.get(&counter).copied().unwrap_or(0) - value;
            self.change(Origin::LastDrift, i64::MAX, 0, &counter, drift);
        }
    }

    fn is_wanted(&self, counter: &Counter) -> bool {
        self.timeline
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
        let group = u32::try_from(self.timeline.groups.len() - 1).unwrap_or(u32::MAX);
        let counter = self.timeline.index(counter);
        let change = Change {
            order,
            at,
            version,
            delta,
            group,
            counter,
            origin,
        };
        self.timeline.entries.push(TimelineEntry { change, old: 0 });
    }
}

/// An entry of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimelineEntry {
    /// The change that the entry tells.
    pub(crate) change: Change,
    /// The counter's value before the change.
    pub(crate) old: i64,
}

/// A whole history, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Timeline {
    counters: Vec<Counter>,
    groups: Vec<String>,
    entries: Vec<TimelineEntry>,
    totals: BTreeMap<Counter, i64>,
}

/// The place of an entry in its history. It stays when others come after it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The entry's place among the changes of all groups.
    pub order: i64,
    /// The group: a dialog's or an event's id.
    pub group: String,
    /// The version to which its event raised the dialog; 0 in a message's history.
    pub version: i64,
    /// Where the change comes from.
    pub origin: Origin,
    /// The counter that changed.
    pub counter: Counter,
}

/// What a page of a timeline is to have.
#[derive(Debug, Clone, Default)]
pub struct PageRequest {
    /// Only entries written at this time or later, in milliseconds since the
    /// epoch.
    pub since: Option<i64>,
    /// Only entries written before this time, in milliseconds since the epoch.
    pub until: Option<i64>,
    /// Whether the newest entries come first.
    pub newest_first: bool,
    /// The position of the last entry of the page before; `None` for the first
    /// page.
    pub after: Option<Position>,
    /// How many entries the page has at most.
    pub limit: usize,
}

impl Timeline {
    /// Returns a page, and whether there is more after it.
    pub(crate) fn page(&self, request: &PageRequest) -> (Vec<TimelineEntry>, bool) {
        let within = |entry: &&TimelineEntry| {
            let at = match entry.change.origin {
                Origin::Balance => i64::MIN,
                Origin::LastDrift => i64::MAX,
                _ => entry.change.at,
            };
            request.since.is_none_or(|since| at >= since)
                && request.until.is_none_or(|until| at < until)
        };
        let reached = |entry: &TimelineEntry, after: &Position| match request.newest_first {
            true => self.position(entry) < *after,
            false => self.position(entry) <= *after,
        };
        // The entries stand in the order of their positions.
        let split = request.after.as_ref().map(|after| {
            let reached = |entry: &TimelineEntry| reached(entry, after);
            self.entries.partition_point(reached)
        });
        let (before, beyond) = match (split, request.newest_first) {
            (Some(split), _) => self.entries.split_at(split),
            (None, true) => (self.entries.as_slice(), [].as_slice()),
            (None, false) => ([].as_slice(), self.entries.as_slice()),
        };
        let wanted = request.limit.saturating_add(1);
        let mut page: Vec<TimelineEntry> = match request.newest_first {
            true => before
                .iter()
                .rev()
                .filter(within)
                .take(wanted)
                .copied()
                .collect(),
            false => beyond.iter().filter(within).take(wanted).copied().collect(),
        };
        let more = page.len() > request.limit;
        page.truncate(request.limit);
        (page, more)
    }

    /// Returns the position of an entry, from which the next page goes on.
    pub(crate) fn position(&self, entry: &TimelineEntry) -> Position {
        Position {
            order: entry.change.order,
            group: self.group(entry).to_owned(),
            version: entry.change.version,
            origin: entry.change.origin,
            counter: self.counter(entry).clone(),
        }
    }

    /// Returns the counter that an entry is about.
    pub(crate) fn counter(&self, entry: &TimelineEntry) -> &Counter {
        &self.counters[usize::from(entry.change.counter)]
    }

    /// Returns the name of an entry's group, which is empty for a balance.
    pub(crate) fn group(&self, entry: &TimelineEntry) -> &str {
        &self.groups[entry.change.group as usize]
    }

    /// Returns the values that are served, which are the sums of all changes.
    pub(crate) fn totals(&self) -> &BTreeMap<Counter, i64> {
        &self.totals
    }

    /// Returns every entry, oldest first.
    #[cfg(test)]
    pub(crate) fn all(&self) -> &[TimelineEntry] {
        &self.entries
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let mut timeline = TimelineBuilder::new(None);
        let mut track = timeline.track("a");
        track.balance(&Counter::Messages, 2);
        track.change(Origin::Event, 1, 10, &Counter::Messages, 1);
        // By the clock of another replica, behind.
        track.change(Origin::Event, 2, 7, &Counter::Messages, 1);
        track.repair(3, 12, &Counter::Messages, 9, 4);
        track.reconcile(&BTreeMap::from([(Counter::Messages, 4)]));
        let mut track = timeline.track("b");
        track.balance(&Counter::Messages, 1);
        track.change(Origin::Event, 1, 8, &Counter::Messages, -1);
        track.change(Origin::Event, 2, 11, &Counter::Topics, 1);
        track.reconcile(&BTreeMap::from([(Counter::Messages, 1)]));
        timeline.finish()
    }

    #[test]
    fn groups_are_merged_by_time_each_in_the_order_of_its_versions() {
        let timeline = timeline();
        let found = timeline.all().iter();
        let found = found.map(|entry| {
            (
                timeline.group(entry),
                entry.change.version,
                entry.old,
                entry.change.delta,
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
        assert_eq!(timeline.totals(), &BTreeMap::from([(Counter::Messages, 5)]));
    }

    #[test]
    fn pages_join_up_in_both_directions_and_times_are_those_of_writing() {
        let timeline = timeline();
        for newest_first in [false, true] {
            for limit in 1..10 {
                let mut request = PageRequest {
                    newest_first,
                    limit,
                    ..PageRequest::default()
                };
                let mut paged = Vec::new();
                loop {
                    let (page, more) = timeline.page(&request);
                    paged.extend_from_slice(&page);
                    request.after = page.last().map(|entry| timeline.position(entry));
                    if !more {
                        break;
                    }
                }
                if newest_first {
                    paged.reverse();
                }
                assert_eq!(paged, timeline.all());
            }
        }
        let within = |since, until| {
            let request = PageRequest {
                since,
                until,
                limit: 100,
                ..PageRequest::default()
            };
            timeline.page(&request).0.len()
        };
        assert_eq!(within(None, None), 9);
        assert_eq!(within(Some(8), None), 7);
        assert_eq!(within(None, Some(8)), 2);
        assert_eq!(within(Some(7), Some(11)), 3);
    }
}
