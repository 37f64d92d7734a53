//! All streams, and who of them watches whom.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Subject;
use super::stream::{Given, Noted, Reached, Stream};
use crate::event::TenantId;
use crate::serving::model::{Model, NotPinned, Pin, Touched};
use crate::telemetry::metrics::WatchMetrics;

/// Streams and those they watch, by the numbers of their pins.
#[derive(Debug)]
pub(in crate::serving) struct Hub {
    streams: Slab<Stream>,
    /// The number of streams that there were.
    serial: u64,
    users: Watchers,
    dialogs: Watchers,
    metrics: WatchMetrics,
}

/// One stream among those that there are, and were.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct StreamId {
    number: usize,
    serial: u64,
}

/// What it came to to pin whom a stream wants.
#[derive(Debug, Default)]
pub(super) struct Pinning {
    /// Those who are to be loaded next.
    pub(super) missing: Vec<Subject>,
    /// The number of subjects that were pinned.
    pub(super) pinned: usize,
}

/// Who watches what is pinned under a number.
type Watchers = HashMap<u32, Vec<Watcher>>;

/// A subject of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Watcher {
    stream: usize,
    place: u32,
}

impl Hub {
    pub(in crate::serving) fn new(metrics: WatchMetrics) -> Self {
        Self {
            streams: Slab::new(),
            serial: 0,
            users: HashMap::new(),
            dialogs: HashMap::new(),
            metrics,
        }
    }

    /// Tells whether nobody watches.
    pub(in crate::serving) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    /// Takes over what changed in the model. To be called whenever it has, before
    /// anything else is done here.
    pub(in crate::serving) fn follow(&mut self, model: &mut Model, now: Instant) {
        let touched = model.take_touched();
        if model.take_lost() {
            self.lose(model);
        }
        self.note(&touched, now, |_| true);
    }

    /// Notes what was touched in the streams of those who watch it, as far as they
    /// are meant.
    fn note(&mut self, touched: &Touched, now: Instant, is_meant: impl Fn(&Watcher) -> bool) {
        let users = touched.users.iter();
        let users = users.map(|(user, dialog)| (self.users.get(user), Some(*dialog)));
        let dialogs = touched.dialogs.iter();
        let dialogs = dialogs.map(|dialog| (self.dialogs.get(dialog), None));
        for (watchers, dialog) in users.chain(dialogs) {
            for watcher in watchers.into_iter().flatten().filter(|one| is_meant(one)) {
                let stream = &mut self.streams[watcher.stream];
                match stream.note(watcher.place, dialog, now) {
                    Noted::Already => {
                        self.metrics.coalesced.inc();
                    }
                    Noted::First => stream.wake.notify_one(),
                    Noted::Later => {}
                }
            }
        }
    }

    /// Has those loaded anew whose pins are void.
    fn lose(&mut self, model: &Model) {
        for (_, stream) in &mut self.streams {
            let void = |(place, subject, pin): (u32, &Subject, Pin)| {
                let is_user = matches!(subject, Subject::User(_));
                (!subject.is_held(model, pin)).then_some((place, is_user, pin))
            };
            let lost: Vec<_> = stream.pins().filter_map(void).collect();
            if !lost.is_empty() {
                stream.wake.notify_one();
            }
            for (place, is_user, pin) in lost {
                stream.lost(place);
                let watchers = match is_user {
                    true => &mut self.users,
                    false => &mut self.dialogs,
                };
                // All who watch what a void pin stands for have lost it.
                watchers.remove(&pin.number);
            }
        }
    }

    /// Opens a stream; what wakes it comes with its number.
    pub(super) fn open(
        &mut self,
        tenant: TenantId,
        interval: Duration,
        resuming: bool,
    ) -> (StreamId, Arc<Notify>) {
        self.serial += 1;
        let serial = self.serial;
        let stream = Stream::new(serial, tenant, interval, resuming);
        let wake = Arc::clone(&stream.wake);
        self.metrics.streams.inc();
        let number = self.streams.insert(stream);
        (StreamId { number, serial }, wake)
    }

    /// Closes a stream and takes its pins off.
    pub(super) fn close(&mut self, id: StreamId, model: &mut Model) {
        if self.stream(id).is_none() {
            return;
        }
        let pins: Vec<(u32, Subject, Pin)> = {
            let pins = self.streams[id.number].pins();
            pins.map(|(place, subject, pin)| (place, subject.clone(), pin))
                .collect()
        };
        for (place, subject, pin) in pins {
            self.unpin((id.number, place), &subject, pin, model);
        }
        let stream = self.streams.remove(id.number);
        self.metrics.subjects.dec_by(stream.len() as i64);
        self.metrics.streams.dec();
    }

    /// Returns a stream, if it is there still.
    pub(super) fn stream(&mut self, id: StreamId) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(id.number);
        stream.filter(|stream| stream.serial == id.serial)
    }

    /// Has a stream watch some no longer, and then others, if it then watches no
    /// more than so many; returns how many it watched, and how many it does.
    /// Without a change `None`.
    pub(super) fn change(
        &mut self,
        id: StreamId,
        (add, remove): (Vec<Subject>, &[Subject]),
        most: usize,
        model: &mut Model,
    ) -> Option<(usize, usize)> {
        let stream = self.stream(id)?;
        let before = stream.len();
        let removed: HashSet<&Subject> = remove.iter().collect();
        let gone = removed.len() - stream.count_new(&removed);
        let again = add.iter().filter(|subject| removed.contains(subject));
        let added: HashSet<&Subject> = add.iter().collect();
        let back: HashSet<&Subject> = again.collect();
        let back = back.len() - stream.count_new(&back);
        let after = before - gone + back + stream.count_new(&added);
        if after > most {
            return None;
        }
        for subject in remove {
            let Some((place, pin)) = self.streams[id.number].remove(subject) else {
                continue;
            };
            if let Some(pin) = pin {
                self.unpin((id.number, place), subject, pin, model);
            }
        }
        let stream = &mut self.streams[id.number];
        stream.tidy();
        let now = Instant::now();
        for subject in add {
            stream.add(subject, now);
        }
        let after = stream.len();
        stream.wake.notify_one();
        self.metrics.subjects.inc_by(after as i64 - before as i64);
        Some((before, after))
    }

    /// Takes a stream's pin off somebody.
    fn unpin(
        &mut self,
        (stream, place): (usize, u32),
        subject: &Subject,
        pin: Pin,
        model: &mut Model,
    ) {
        subject.unpin(model, pin);
        let watchers = match subject {
            Subject::User(_) => &mut self.users,
            Subject::Dialog(_) => &mut self.dialogs,
        };
        if let Some(of_pin) = watchers.get_mut(&pin.number) {
            of_pin.retain(|watcher| *watcher != Watcher { stream, place });
            if of_pin.is_empty() {
                watchers.remove(&pin.number);
            }
        }
    }

    /// Pins the first of those whom a stream wants as far as they are held.
    ///
    /// # Errors
    /// The one for whom there is no room.
    pub(super) fn pin_wanted(
        &mut self,
        id: StreamId,
        most: usize,
        model: &mut Model,
    ) -> Result<Pinning, Subject> {
        let now = Instant::now();
        let (mut pinning, mut missing) = (Pinning::default(), Vec::new());
        let Some(stream) = self.streams.get_mut(id.number) else {
            return Ok(pinning);
        };
        for (place, subject) in stream.take_wanted(most) {
            match subject.pin(&stream.tenant, model) {
                Ok(pin) => {
                    let version = subject.version(model, pin);
                    stream.pinned(place, pin, version, now);
                    let watchers = match subject {
                        Subject::User(_) => &mut self.users,
                        Subject::Dialog(_) => &mut self.dialogs,
                    };
                    pinning.pinned += 1;
                    let watcher = Watcher {
                        stream: id.number,
                        place,
                    };
                    watchers.entry(pin.number).or_default().push(watcher);
                }
                Err(NotPinned::NotHeld) => {
                    missing.push(place);
                    pinning.missing.push(subject);
                }
                Err(NotPinned::NoRoom) => return Err(subject),
            }
        }
        stream.want_first(&missing);
        Ok(pinning)
    }

    /// Returns what a stream is to be given now, and up to where it was given
    /// everything.
    pub(super) fn give(&mut self, id: StreamId, model: &Model) -> (Given, Option<Reached>) {
        let now = Instant::now();
        let Some(stream) = self.streams.get_mut(id.number) else {
            return Default::default();
        };
        let given = stream.give(model, now);
        self.metrics.updates.inc_by(given.updates.len() as u64);
        if let Some(since) = given.since {
            let waited = now.saturating_duration_since(since);
            self.metrics.push_seconds.observe(waited.as_secs_f64());
        }
        let up_to = stream.take_given();
        (given, up_to)
    }

    /// Notes that the client of a stream has everything but these, and what was noted
    /// since.
    pub(super) fn resume(&mut self, id: StreamId, touched: &Touched, model: &Model) {
        let of_stream = |watcher: &Watcher| watcher.stream == id.number;
        self.note(touched, Instant::now(), of_stream);
        if let Some(stream) = self.stream(id) {
            stream.resumed(model);
        }
    }
}

impl Subject {
    fn pin(&self, tenant: &TenantId, model: &mut Model) -> Result<Pin, NotPinned> {
        match self {
            Subject::User(user) => model.pin_user(tenant, user),
            Subject::Dialog(dialog) => model.pin_dialog(tenant, dialog),
        }
    }

    fn unpin(&self, model: &mut Model, pin: Pin) {
        match self {
            Subject::User(_) => model.unpin_user(pin),
            Subject::Dialog(_) => model.unpin_dialog(pin),
        }
    }

    fn is_held(&self, model: &Model, pin: Pin) -> bool {
        match self {
            Subject::User(_) => model.holds_user(pin),
            Subject::Dialog(_) => model.holds_dialog(pin),
        }
    }

    /// Returns the version at which it is held.
    pub(super) fn version(&self, model: &Model, pin: Pin) -> i64 {
        match self {
            Subject::User(_) => model.pinned_user_version(pin),
            Subject::Dialog(_) => model.pinned_dialog_version(pin),
        }
    }
}
