//! One stream: who it watches, and what it has not been given yet. Nothing is
//! queued but the fact that somebody changed: what is given is how they stand
//! when it is.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::{Subject, Update};
use crate::event::TenantId;
use crate::serving::model::{Model, Pin};
use crate::store::commit_log::Cut;

/// The most subjects in one batch of a stream.
const MAX_UPDATES: usize = 500;
/// The bytes that the updates of a batch may take together, roughly.
const MAX_BATCH_BYTES: usize = 256 << 10;
/// The bytes that one counter's message takes beside the ids in it, roughly.
const BYTES_BESIDE_IDS: usize = 120;
/// The most dialogs of a user that one update names; with more, it says so.
const MAX_UPDATE_DIALOGS: usize = 20;
/// The shortest time between two marks.
const MARK_INTERVAL: Duration = match cfg!(test) {
    true => Duration::ZERO,
    false => Duration::from_secs(1),
};

/// When something is due, and as the how manieth it was noted.
type Due = (Instant, u64);

/// A stream: whom it watches, and what it has not given yet.
#[derive(Debug)]
pub(super) struct Stream {
    /// No other had it, or will have it.
    pub(super) serial: u64,
    pub(super) tenant: TenantId,
    /// Between two updates about one subject, at least.
    interval: Duration,
    subjects: Slab<Watched>,
    places: HashMap<Subject, u32>,
    /// Stands for all of them: see [`fingerprint`].
    set: u64,
    due: BTreeMap<Due, u32>,
    /// The number of changes noted so far.
    noted: u64,
    /// Those to be loaded and pinned.
    wanted: VecDeque<u32>,
    /// Subjects of which nothing was given yet.
    ungiven: usize,
    /// Whether it was said that there are none.
    said_all: bool,
    /// Whether nothing is given before it is known what the client has.
    pub(super) resuming: bool,
    /// Where the model stood when so many changes were noted.
    mark: Option<Mark>,
    marked_at: Option<Instant>,
    /// Something was given since it was last said up to where everything is.
    is_ahead: bool,
    /// Notified when the stream has something to give.
    pub(super) wake: Arc<Notify>,
}

/// A state of the model that a stream will have given all of.
#[derive(Debug)]
struct Mark {
    /// How many changes were noted by then.
    noted: u64,
    /// How many of them are not given.
    left: usize,
    reached: Reached,
}

/// What a stream has given all of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reached {
    /// The cut of the commits of which everything was given.
    pub(super) cut: Cut,
    /// Of whom: see [`fingerprint`].
    pub(super) set: u64,
}

/// What noting a change came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Noted {
    /// Something was noted of the subject already.
    Already,
    /// It is what is to be given first.
    First,
    /// Something else is to be given before.
    Later,
}

/// A subject of a stream.
#[derive(Debug)]
struct Watched {
    subject: Subject,
    pin: Option<Pin>,
    /// The version that was given last.
    given: Option<i64>,
    not_before: Instant,
    dirty: Option<Dirty>,
}

/// What was not given yet of a subject.
#[derive(Debug)]
struct Dirty {
    due: Due,
    since: Instant,
    dialogs: Vec<u32>,
    /// Whether others of the user's dialogs may have changed as well.
    more: bool,
}

/// What a stream is given at once.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// The updates, one for each subject that is due.
    pub(super) updates: Vec<Update>,
    /// Everybody who is watched was in an update, since this was last said.
    pub(super) all: bool,
    /// When there is something next.
    pub(super) next: Option<Instant>,
    /// Since when the one of these that waited longest had changed.
    pub(super) since: Option<Instant>,
}

impl Stream {
    pub(super) fn new(serial: u64, tenant: TenantId, interval: Duration, resuming: bool) -> Self {
        Self {
            serial,
            tenant,
            interval,
            subjects: Slab::new(),
            places: HashMap::new(),
            set: 0,
            due: BTreeMap::new(),
            noted: 0,
            wanted: VecDeque::new(),
            ungiven: 0,
            said_all: false,
            resuming,
            mark: None,
            marked_at: None,
            is_ahead: false,
            wake: Arc::default(),
        }
    }

    /// Returns the number of subjects.
    pub(super) fn len(&self) -> usize {
        self.subjects.len()
    }

    /// Watches somebody from now on, who is to be loaded and pinned.
    pub(super) fn add(&mut self, subject: Subject, now: Instant) {
        if self.places.contains_key(&subject) {
            return;
        }
        let place = self.subjects.insert(Watched {
            subject: subject.clone(),
            pin: None,
            given: None,
            not_before: now,
            dirty: None,
        });
        let place = place as u32;
        self.set = self.set.wrapping_add(fingerprint([&subject]));
        self.places.insert(subject, place);
        self.wanted.push_back(place);
        self.ungiven += 1;
        self.said_all = false;
    }

    /// Watches somebody no longer; returns the pin that they had, and their place.
    /// [`Stream::tidy`] is to follow before anybody else comes.
    pub(super) fn remove(&mut self, subject: &Subject) -> Option<(u32, Option<Pin>)> {
        let place = self.places.remove(subject)?;
        self.set = self.set.wrapping_sub(fingerprint([subject]));
        let watched = self.subjects.remove(place as usize);
        if let Some(dirty) = watched.dirty {
            self.is_given(dirty.due);
        }
        self.ungiven -= usize::from(watched.given.is_none());
        Some((place, watched.pin))
    }

    /// Forgets the wishes for those who were removed.
    pub(super) fn tidy(&mut self) {
        let subjects = &self.subjects;
        self.wanted
            .retain(|place| subjects.contains(*place as usize));
    }

    /// Returns how many of these it does not watch yet.
    pub(super) fn count_new(&self, subjects: &HashSet<&Subject>) -> usize {
        let new = |subject: &&&Subject| !self.places.contains_key(**subject);
        subjects.iter().filter(new).count()
    }

    /// Returns all subjects that have a pin.
    pub(super) fn pins(&self) -> impl Iterator<Item = (u32, &Subject, Pin)> {
        let subjects = self.subjects.iter();
        subjects.filter_map(|(place, watched)| Some((place as u32, &watched.subject, watched.pin?)))
    }

    /// Takes the first of those to be pinned; each is then to be pinned or wanted
    /// again.
    pub(super) fn take_wanted(&mut self, most: usize) -> Vec<(u32, Subject)> {
        let first = self.wanted.drain(..most.min(self.wanted.len()));
        let subject = |place: u32| (place, self.subjects[place as usize].subject.clone());
        first.map(subject).collect()
    }

    /// Has these loaded before all others, in their order.
    pub(super) fn want_first(&mut self, places: &[u32]) {
        for place in places.iter().rev() {
            self.wanted.push_front(*place);
        }
    }

    /// Tells whether everybody has a pin.
    pub(super) fn is_whole(&self) -> bool {
        self.wanted.is_empty()
    }

    /// Notes that somebody is held from now on, at this version.
    pub(super) fn pinned(&mut self, place: u32, pin: Pin, version: i64, now: Instant) {
        let watched = &mut self.subjects[place as usize];
        watched.pin = Some(pin);
        // What happened while they were not held is not known.
        if watched.given != Some(version) && !self.resuming {
            self.note(place, None, now);
        }
    }

    /// Notes that somebody's pin has become void: how they stand is not known any more.
    pub(super) fn lost(&mut self, place: u32) {
        let watched = &mut self.subjects[place as usize];
        watched.pin = None;
        if let Some(dirty) = watched.dirty.take() {
            // Whatever it was, it is not what was given.
            watched.given = watched.given.map(|_| -1);
            self.is_given(dirty.due);
        }
        self.wanted.push_back(place);
        // What has happened to them until they are held again is noted only then.
        self.mark = None;
    }

    /// Notes that something changed about somebody: in a dialog, or wherever.
    pub(super) fn note(&mut self, place: u32, dialog: Option<u32>, now: Instant) -> Noted {
        let watched = &mut self.subjects[place as usize];
        let was_noted = watched.dirty.is_some();
        let dirty = watched.dirty.get_or_insert_with(|| {
            self.noted += 1;
            let due = (watched.not_before.max(now), self.noted);
            self.due.insert(due, place);
            Dirty {
                due,
                since: now,
                dialogs: Vec::new(),
                more: false,
            }
        });
        match dialog {
            Some(dialog) if dirty.dialogs.contains(&dialog) => {}
            Some(dialog) if dirty.dialogs.len() < MAX_UPDATE_DIALOGS => dirty.dialogs.push(dialog),
            _ => dirty.more = true,
        }
        let due = dirty.due;
        match self.due.first_key_value() {
            _ if was_noted => Noted::Already,
            Some((first, _)) if *first == due => Noted::First,
            _ => Noted::Later,
        }
    }

    /// Nothing of it is left to be given.
    fn is_given(&mut self, due: Due) {
        self.due.remove(&due);
        if let Some(mark) = &mut self.mark {
            mark.left -= usize::from(due.1 <= mark.noted);
        }
    }

    /// Notes that what the client has of those of whom nothing was given is known: all
    /// but what was touched since.
    pub(super) fn resumed(&mut self, model: &Model) {
        self.resuming = false;
        for (_, watched) in &mut self.subjects {
            if let (None, None, Some(pin)) = (watched.given, &watched.dirty, watched.pin) {
                watched.given = Some(watched.subject.version(model, pin));
                self.ungiven -= 1;
            }
        }
    }

    /// Notes that nothing is known of what the client has.
    pub(super) fn not_resumed(&mut self, now: Instant) {
        self.resuming = false;
        let places: Vec<u32> = self
            .subjects
            .iter()
            .map(|(place, _)| place as u32)
            .collect();
        for place in places {
            let watched = &self.subjects[place as usize];
            if watched.given.is_none() && watched.pin.is_some() {
                self.note(place, None, now);
            }
        }
    }

    /// Gives what is due, as it stands in the model.
    pub(super) fn give(&mut self, model: &Model, now: Instant) -> Given {
        let mut given = Given::default();
        if self.resuming {
            return given;
        }
        self.set_mark(model.cut(), now);
        let mut bytes = 0;
        while given.updates.len() < MAX_UPDATES
            && bytes < MAX_BATCH_BYTES
            && let Some((due, place)) = self.due.first_key_value()
            && due.0 <= now
        {
            let (due, place) = (*due, *place);
            self.is_given(due);
            let watched = &mut self.subjects[place as usize];
            let (Some(dirty), Some(pin)) = (watched.dirty.take(), watched.pin) else {
                continue;
            };
            watched.not_before = now + self.interval;
            given.since = given.since.into_iter().chain([dirty.since]).min();
            let is_first = watched.given.is_none();
            let update = watched.update(model, pin, &dirty, is_first);
            bytes += update.bytes();
            self.ungiven -= usize::from(is_first);
            watched.given = Some(update.version());
            given.updates.push(update);
        }
        if self.ungiven == 0 && !std::mem::replace(&mut self.said_all, true) {
            given.all = true;
        }
        self.is_ahead |= !given.updates.is_empty() || given.all;
        // Only now everybody may be known.
        self.set_mark(model.cut(), now);
        let next_due = self.due.first_key_value().map(|((at, _), _)| *at);
        // Whoever is cut off then is to go on from there, and not from long ago.
        let next_mark = self.marked_at.map(|at| at + MARK_INTERVAL);
        let next_mark = next_mark.filter(|_| self.is_ahead && self.mark.is_none());
        given.next = next_due.into_iter().chain(next_mark).min();
        given
    }

    /// Tells whether the client has something that it is not yet told to go on after.
    pub(super) fn is_ahead(&self) -> bool {
        self.is_ahead
    }

    /// Returns up to where everything was given, if anything was since it was last
    /// asked.
    pub(super) fn take_given(&mut self) -> Option<Reached> {
        let is_given = |mark: &mut Mark| mark.left == 0;
        let given = self.mark.take_if(is_given)?;
        self.is_ahead = false;
        Some(given.reached)
    }

    /// Tells whether everything was given that memory has.
    pub(super) fn has_given_all(&self) -> bool {
        self.due.is_empty() && self.ungiven == 0 && self.is_whole() && !self.resuming
    }

    /// Sets a mark, while everybody is known.
    fn set_mark(&mut self, cut: &Cut, now: Instant) {
        let is_soon = |at: Instant| now < at + MARK_INTERVAL;
        let is_known = self.ungiven == 0 && self.is_whole();
        if is_known && self.mark.is_none() && !self.marked_at.is_some_and(is_soon) {
            self.mark = Some(Mark {
                noted: self.noted,
                left: self.due.len(),
                reached: Reached {
                    cut: cut.clone(),
                    set: self.set,
                },
            });
            self.marked_at = Some(now);
        }
    }
}

impl Update {
    /// What its message takes, roughly.
    fn bytes(&self) -> usize {
        let of_ids = match self {
            Update::Dialog(stats) => stats.tenant.as_str().len() + stats.dialog.as_str().len(),
            Update::User { stats, dialogs, .. } => {
                let user = stats.tenant.as_str().len() + stats.user.as_str().len();
                let beside = user + BYTES_BESIDE_IDS;
                let dialogs = dialogs.iter().map(|dialog| dialog.dialog.as_str().len());
                user + dialogs.map(|dialog| dialog + beside).sum::<usize>()
            }
        };
        of_ids + BYTES_BESIDE_IDS
    }

    /// The version that it says.
    fn version(&self) -> i64 {
        match self {
            Update::Dialog(stats) => stats.version,
            Update::User { stats, .. } => stats.version,
        }
    }
}

/// Returns a number that stands for a set of subjects, in whatever order. Another
/// version may make another one of them.
pub(super) fn fingerprint<'s>(subjects: impl IntoIterator<Item = &'s Subject>) -> u64 {
    let of_one = |subject: &Subject| {
        let mut hasher = DefaultHasher::new();
        subject.hash(&mut hasher);
        hasher.finish()
    };
    subjects.into_iter().map(of_one).fold(0, u64::wrapping_add)
}

impl Watched {
    fn update(&self, model: &Model, pin: Pin, dirty: &Dirty, is_first: bool) -> Update {
        match &self.subject {
            Subject::Dialog(_) => Update::Dialog(model.pinned_dialog(pin)),
            Subject::User(_) => {
                let dialogs = dirty.dialogs.iter();
                let dialogs = dialogs.map(|dialog| model.pinned_user_in_dialog(pin, *dialog));
                Update::User {
                    stats: model.pinned_user(pin),
                    dialogs: match is_first {
                        true => Vec::new(),
                        false => dialogs.collect(),
                    },
                    more: dirty.more || is_first,
                }
            }
        }
    }
}
