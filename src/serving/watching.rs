//! Watching: those who are watched are pinned in memory, which the follower
//! moves on with every commit, whoever made it; and whoever watches them is woken
//! when something that they can see has changed.
//!
//! Nothing is queued for a slow client: a stream knows who has changed, and gives
//! how they stand when it can. So what comes last is the latest, and a stream
//! takes as much memory as whom it watches, whatever happens.
//!
//! What is lost from memory (a rebuild, a record that is missing) is loaded
//! anew, and given anew where its version is another one.

mod hub;
mod loading;
mod stream;

#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::Serving;
use crate::event::{DialogId, TenantId, UserId};
use crate::failpoint::{self, Point};
use crate::store::commit_log::Cut;
use crate::store::read::{DialogStats, UserDialogStats, UserStats};

pub(super) use hub::Hub;
use hub::StreamId;
use loading::{Loaded, Loading, finished};
use stream::fingerprint;

/// The most subjects of a stream that are loaded together.
const MAX_SUBJECTS_PER_LOAD: usize = 64;
/// Loads in a row after which somebody is still not held, although each of them
/// ended well: there is no room.
const MAX_LOAD_ATTEMPTS: u32 = 20;
/// The time after which a stream says that it is at work although nobody changes.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(15);
/// The time for which memory counts as up to date after it was found to be.
const MAX_AS_OF_AGE: Duration = Duration::from_secs(5);

/// A user or a dialog that is watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A user over all dialogs, and in each.
    User(UserId),
    /// A dialog.
    Dialog(DialogId),
}

/// The counters of a subject that have changed, as they are now.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A user.
    User {
        /// The counters over all dialogs.
        stats: UserStats,
        /// The counters in the dialogs in which something has changed for the user.
        dialogs: Vec<UserDialogStats>,
        /// Whether something may have changed in other dialogs, too.
        more: bool,
    },
    /// A dialog.
    Dialog(DialogStats),
}

/// Where a client was given everything: what a stream can be resumed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumePoint {
    /// Of all that commit records do not tell: a rebuild, writers that were
    /// removed, and what those without records did. With another, nothing can be
    /// told.
    pub untold: u64,
    /// Stands for those whom it watched then. Who is named besides was never given.
    pub subjects: u64,
    /// All commits that it was given.
    pub cut: Cut,
}

/// The updates that a stream gives at once, all as of one moment.
#[derive(Debug, Default)]
pub struct UpdateBatch {
    /// Those who have changed, or were not given before.
    pub updates: Vec<Update>,
    /// From here on everybody who is watched was given once.
    pub all_given: bool,
    /// Where to resume from, now and then.
    pub since: Option<ResumePoint>,
    /// Everything that was committed before this was given; `None` while some of
    /// it was not, or the store does not answer.
    pub as_of: Option<SystemTime>,
}

/// What there is to give, if anything.
struct Turn {
    batch: UpdateBatch,
    /// It says where to go on from to a client that has more than it was told so.
    says_where: bool,
    /// When there is something to be given again, unless something changes.
    next: Option<Instant>,
}

/// Explains why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Somebody is too much for memory, or all who are watched are.
    #[error(
        "there is no room to watch {}: serving.memory_mib is as large as it takes to hold all who are watched twice",
        shown(.0)
    )]
    NoRoom(Subject),
}

/// Keeps watching. Dropping it is fine at any time.
#[derive(Debug)]
pub struct Watch {
    serving: Serving,
    stream: StreamId,
    wake: Arc<Notify>,
    loading: Option<Loading>,
    opened: bool,
    /// Where the client was, until that has been looked at.
    since: Option<ResumePoint>,
    /// Loads in a row that ended well and of which nobody was held.
    tries: u32,
}

/// Changes what a stream watches, from wherever.
#[derive(Debug, Clone)]
pub struct WatchHandle {
    serving: Serving,
    stream: StreamId,
}

impl Serving {
    /// Begins to watch these, of one tenant: at most one update about each in an
    /// interval. With `since`, only what has changed since is given.
    pub fn watch(
        &self,
        tenant: TenantId,
        subjects: Vec<Subject>,
        interval: Duration,
        since: Option<ResumePoint>,
    ) -> Watch {
        let distinct: HashSet<&Subject> = subjects.iter().collect();
        let set = fingerprint(distinct);
        let since = since.filter(|since| since.subjects == set);
        let mut memory = self.shared.memory();
        let (hub, model) = memory.watched();
        let (stream, wake) = hub.open(tenant, interval, since.is_some());
        hub.change(stream, (subjects, &[]), usize::MAX, model);
        drop(memory);
        self.shared.asked.notify_one();
        Watch {
            serving: self.clone(),
            stream,
            wake,
            loading: None,
            opened: false,
            since,
            tries: 0,
        }
    }
}

impl WatchHandle {
    /// Watches some no longer, and then others; returns how many it watched, and
    /// how many it does. `None`, and nothing is changed, when these would be more
    /// than so many, or the stream is gone.
    pub fn change(
        &self,
        add: Vec<Subject>,
        remove: &[Subject],
        most: usize,
    ) -> Option<(usize, usize)> {
        let mut memory = self.serving.shared.memory();
        let (hub, model) = memory.watched();
        hub.change(self.stream, (add, remove), most, model)
    }
}

impl Watch {
    /// What changes what it watches, for as long as it is there.
    pub fn handle(&self) -> WatchHandle {
        WatchHandle {
            serving: self.serving.clone(),
            stream: self.stream,
        }
    }

    /// The next that there is to give; waits until there is something, but a
    /// while at most.
    ///
    /// # Errors
    /// [`WatchError`]: the stream is of no more use.
    pub async fn next(&mut self) -> Result<UpdateBatch, WatchError> {
        let heartbeat = Instant::now() + HEARTBEAT_INTERVAL;
        loop {
            let Turn {
                batch,
                says_where,
                next,
            } = self.give();
            if !batch.updates.is_empty() {
                failpoint::pass(Point::Given);
            }
            let is_worth_it = !batch.updates.is_empty() || batch.all_given || says_where;
            if is_worth_it || Instant::now() >= heartbeat {
                return Ok(batch);
            }
            if self.loading.is_none() {
                self.loading = self.wanted()?;
            }
            let next = next.map_or(heartbeat, |next| next.min(heartbeat));
            tokio::select! {
                loaded = finished(&mut self.loading) => self.take_over(loaded),
                () = self.wake.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    fn give(&mut self) -> Turn {
        let mut memory = self.serving.shared.memory();
        let (hub, model) = memory.watched();
        let stream = hub.stream(self.stream);
        let was_ahead = stream.is_some_and(|stream| stream.is_ahead());
        let (given, reached) = hub.give(self.stream, model);
        let stream = hub.stream(self.stream);
        let has_given_all = stream.is_some_and(|stream| stream.has_given_all());
        let as_of = memory
            .as_of
            .filter(|as_of| as_of.asked.elapsed() < MAX_AS_OF_AGE);
        let batch = UpdateBatch {
            updates: given.updates,
            all_given: given.all,
            since: reached.map(|reached| ResumePoint {
                untold: memory.untold(),
                subjects: reached.set,
                cut: reached.cut,
            }),
            as_of: as_of.filter(|_| has_given_all).map(|as_of| as_of.shown),
        };
        Turn {
            says_where: was_ahead && batch.since.is_some(),
            batch,
            next: given.next,
        }
    }

    /// What is to be waited for so that everybody can be given.
    fn wanted(&mut self) -> Result<Option<Loading>, WatchError> {
        let serving = self.serving.clone();
        if !std::mem::replace(&mut self.opened, true) {
            // As of now, not as of when it was last asked.
            return Ok(Some(Loading::new(async move {
                let _ = serving.round().await;
                Loaded::LookAgain
            })));
        }
        let mut memory = serving.shared.memory();
        let (hub, model) = memory.watched();
        let pinning = hub.pin_wanted(self.stream, MAX_SUBJECTS_PER_LOAD, model);
        let pinning = pinning.map_err(WatchError::NoRoom)?;
        let Some(stream) = hub.stream(self.stream) else {
            return Ok(None);
        };
        let (tenant, is_whole) = (stream.tenant.clone(), stream.is_whole());
        drop(memory);
        if pinning.pinned > 0 {
            self.tries = 0;
            // They have something to be given.
            self.wake.notify_one();
        }
        if let Some(first) = pinning.missing.first() {
            if self.tries > MAX_LOAD_ATTEMPTS || serving.is_too_large(&tenant, first) {
                return Err(WatchError::NoRoom(first.clone()));
            }
            let loaded = serving.loaded(tenant, pinning.missing);
            return Ok(Some(Loading::new(loaded)));
        }
        match (is_whole, self.since.take()) {
            (true, Some(since)) => Ok(Some(Loading::new(async move {
                Loaded::Touched(serving.touched_since(&tenant, since).await)
            }))),
            // Perhaps there are more, and those before were held already.
            (_, since) => {
                self.since = since;
                Ok(None)
            }
        }
    }

    fn take_over(&mut self, loaded: Loaded) {
        let touched = match loaded {
            Loaded::LookAgain => return,
            Loaded::Perhaps => {
                self.tries += 1;
                return;
            }
            Loaded::Touched(touched) => touched,
        };
        let mut memory = self.serving.shared.memory();
        let (hub, model) = memory.watched();
        let Some(stream) = hub.stream(self.stream) else {
            return;
        };
        match touched.filter(|_| stream.is_whole()) {
            Some(touched) => hub.resume(self.stream, &touched, model),
            // Those who were lost meanwhile are told anew, and so are all.
            None => stream.not_resumed(Instant::now()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut memory = self.serving.shared.memory();
        let (hub, model) = memory.watched();
        hub.close(self.stream, model);
    }
}

fn shown(subject: &Subject) -> String {
    match subject {
        Subject::User(user) => format!("the user {:?}", user.as_str()),
        Subject::Dialog(dialog) => format!("the dialog {:?}", dialog.as_str()),
    }
}
