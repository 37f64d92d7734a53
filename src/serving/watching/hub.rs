//! All streams, and who of them watches whom.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::stream::{Given, Stream};
use super::{Subject, Update};
use crate::event::TenantId;
use crate::serving::Cut;
use crate::serving::model::{Model, NotPinned, Pin, Touched};
use crate::telemetry::metrics::WatchMetrics;

/// Streams and those they watch, by the numbers of their pins.
#[derive(Debug)]
pub(in crate::serving) struct Hub {
    streams: Slab<Stream>,
    users: Watchers,
    dialogs: Watchers,
    metrics: WatchMetrics,
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
            users: HashMap::new(),
            dialogs: HashMap::new(),
            metrics,
        }
    }

    /// Whether anybody watches.
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
        self.touch(&touched, now);
    }

    fn touch(&mut self, touched: &Touched, now: Instant) {
        for (user, dialog) in &touched.users {
            let watchers = self.users.get(user).into_iter().flatten();
            note(
                &mut self.streams,
                watchers,
                Some(*dialog),
                now,
                &self.metrics,
            );
        }
        for dialog in &touched.dialogs {
            let watchers = self.dialogs.get(dialog).into_iter().flatten();
            note(&mut self.streams, watchers, None, now, &self.metrics);
        }
    }

    /// Has those loaded anew whose pins are void.
    fn lose(&mut self, model: &Model) {
        for (_, stream) in &mut self.streams {
            let void = |(place, subject, pin): (u32, &Subject, Pin)| {
                (!subject.is_held(model, pin)).then_some(place)
            };
            let places: Vec<u32> = stream.pins().filter_map(void).collect();
            for place in &places {
                stream.lost(*place);
            }
            if !places.is_empty() {
                stream.wake.notify_one();
            }
        }
        (self.users, self.dialogs) = Default::default();
        for (number, stream) in &self.streams {
            for (place, subject, pin) in stream.pins() {
                let watchers = match subject {
                    Subject::User(_) => &mut self.users,
                    Subject::Dialog(_) => &mut self.dialogs,
                };
                let stream = number;
                watchers
                    .entry(pin.number)
                    .or_default()
                    .push(Watcher { stream, place });
            }
        }
    }

    /// Opens a stream; what wakes it comes with its number.
    pub(super) fn open(
        &mut self,
        tenant: TenantId,
        interval: Duration,
        resuming: bool,
    ) -> (usize, Arc<Notify>) {
        let stream = Stream::new(tenant, interval, resuming);
        let wake = Arc::clone(&stream.wake);
        self.metrics.streams.inc();
        (self.streams.insert(stream), wake)
    }

    /// Closes a stream.
    pub(super) fn close(&mut self, number: usize, model: &mut Model) {
        let subjects: Vec<Subject> = {
            let pins = self.streams[number].pins();
            pins.map(|(_, subject, _)| subject.clone()).collect()
        };
        self.remove(number, &subjects, model);
        let stream = self.streams.remove(number);
        self.metrics.subjects.dec_by(stream.len() as i64);
        self.metrics.streams.dec();
    }

    pub(super) fn stream(&mut self, number: usize) -> &mut Stream {
        &mut self.streams[number]
    }

    /// Has a stream watch more, if it then has no more than so many.
    pub(super) fn add(&mut self, number: usize, subjects: Vec<Subject>, most: usize) -> bool {
        let stream = &mut self.streams[number];
        if stream.len() + subjects.len() > most {
            return false;
        }
        let before = stream.len();
        let now = Instant::now();
        for subject in subjects {
            stream.add(subject, now);
        }
        let more = stream.len() - before;
        self.metrics.subjects.inc_by(more as i64);
        stream.wake.notify_one();
        true
    }

    /// Has a stream watch these no longer.
    pub(super) fn remove(&mut self, number: usize, subjects: &[Subject], model: &mut Model) {
        for subject in subjects {
            let Some((place, pin)) = self.streams[number].remove(subject) else {
                continue;
            };
            self.metrics.subjects.dec();
            let Some(pin) = pin else {
                continue;
            };
            subject.unpin(model, pin);
            let watchers = match subject {
                Subject::User(_) => &mut self.users,
                Subject::Dialog(_) => &mut self.dialogs,
            };
            if let Some(of_pin) = watchers.get_mut(&pin.number) {
                let stream = number;
                of_pin.retain(|watcher| *watcher != Watcher { stream, place });
                if of_pin.is_empty() {
                    watchers.remove(&pin.number);
                }
            }
        }
        self.streams[number].wake.notify_one();
    }

    /// Pins the first of those whom a stream wants as long as they are held;
    /// returns the next ones to be loaded.
    ///
    /// # Errors
    /// The one for whom there is no room.
    pub(super) fn pin_wanted(
        &mut self,
        number: usize,
        most: usize,
        model: &mut Model,
    ) -> Result<Vec<Subject>, Subject> {
        let now = Instant::now();
        let mut missing = Vec::new();
        let stream = &mut self.streams[number];
        for (place, subject) in stream.take_wanted(most) {
            match subject.pin(&stream.tenant, model) {
                Ok(pin) => {
                    let version = subject.version(model, pin);
                    stream.pinned(place, pin, version, now);
                    let watchers = match subject {
                        Subject::User(_) => &mut self.users,
                        Subject::Dialog(_) => &mut self.dialogs,
                    };
                    let watcher = Watcher {
                        stream: number,
                        place,
                    };
                    watchers.entry(pin.number).or_default().push(watcher);
                }
                Err(NotPinned::NotHeld) => {
                    stream.want(place);
                    missing.push(subject);
                }
                Err(NotPinned::NoRoom) => return Err(subject),
            }
        }
        Ok(missing)
    }

    /// What a stream is to be given now, and up to where it was given everything.
    pub(super) fn give(&mut self, number: usize, model: &Model) -> (Given, Option<Cut>) {
        let now = Instant::now();
        let stream = &mut self.streams[number];
        let given = stream.give(model, now);
        self.metrics.updates.inc_by(given.updates.len() as u64);
        if let Some(since) = given.since {
            let waited = now.saturating_duration_since(since);
            self.metrics.push_seconds.observe(waited.as_secs_f64());
        }
        let up_to = stream.take_given();
        (given, up_to)
    }

    /// The client of a stream has everything but these, and what was noted since.
    pub(super) fn resume(&mut self, number: usize, touched: &Touched, model: &Model) {
        let now = Instant::now();
        let of_stream = |watcher: &&Watcher| watcher.stream == number;
        for (user, dialog) in &touched.users {
            let watchers = self.users.get(user).into_iter().flatten();
            let watchers = watchers.filter(of_stream);
            note(
                &mut self.streams,
                watchers,
                Some(*dialog),
                now,
                &self.metrics,
            );
        }
        for dialog in &touched.dialogs {
            let watchers = self.dialogs.get(dialog).into_iter().flatten();
            let watchers = watchers.filter(of_stream);
            note(&mut self.streams, watchers, None, now, &self.metrics);
        }
        self.streams[number].resumed(model);
    }
}

fn note<'w>(
    streams: &mut Slab<Stream>,
    watchers: impl Iterator<Item = &'w Watcher>,
    dialog: Option<u32>,
    now: Instant,
    metrics: &WatchMetrics,
) {
    for watcher in watchers {
        let stream = &mut streams[watcher.stream];
        if stream.note(watcher.place, dialog, now) {
            metrics.coalesced.inc();
        } else {
            stream.wake.notify_one();
        }
    }
}

impl Update {
    /// Bytes of the ids in it.
    pub(super) fn ids(&self) -> usize {
        match self {
            Update::Dialog(stats) => stats.tenant.as_str().len() + stats.dialog.as_str().len(),
            Update::User { stats, dialogs, .. } => {
                let user = stats.tenant.as_str().len() + stats.user.as_str().len();
                let dialogs = dialogs.iter().map(|dialog| dialog.dialog.as_str().len());
                user + dialogs.map(|dialog| dialog + user + 120).sum::<usize>()
            }
        }
    }

    /// The version that it says.
    pub(super) fn version(&self) -> i64 {
        match self {
            Update::Dialog(stats) => stats.version,
            Update::User { stats, .. } => stats.version,
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

    /// The version at which it is held.
    pub(super) fn version(&self, model: &Model, pin: Pin) -> i64 {
        match self {
            Subject::User(_) => model.pinned_user_version(pin),
            Subject::Dialog(_) => model.pinned_dialog_version(pin),
        }
    }
}
