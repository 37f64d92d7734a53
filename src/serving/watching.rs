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
mod stream;

#[cfg(test)]
mod tests;

use std::future::pending;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

use super::cut::Cut;
use super::follow::MOST_FETCHED;
use super::model::{Touched, Wanted};
use super::{Serving, shared::Memory};
use crate::event::{DialogId, TenantId, UserId};
use crate::failpoint::{self, Point};
use crate::store::commits::Span;
use crate::store::read::{DialogStats, UserDialogStats, UserStats};

pub(super) use hub::Hub;

/// Subjects of a stream that are loaded together.
const LOADED_TOGETHER: usize = 64;
/// How long a load may take before it is tried again.
const LOAD: Duration = Duration::from_secs(10);
/// Before a load that failed is tried again.
const PAUSE: Duration = Duration::from_millis(250);
/// Loads in a row after which somebody is still not held, although each of them
/// ended well: there is no room.
const TRIES: u32 = 20;
/// A stream of which nobody changes says after so long that it is at work.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How often it is looked whether memory has come to where a client was.
const LOOKS: u32 = 5;

/// Somebody who is watched.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A user over all dialogs, and in each.
    User(UserId),
    /// A dialog.
    Dialog(DialogId),
}

/// How somebody stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Update {
    /// A user.
    User {
        /// Over all dialogs.
        stats: UserStats,
        /// In those in which something has changed for them.
        dialogs: Vec<UserDialogStats>,
        /// Whether that may be so in others, too.
        more: bool,
    },
    /// A dialog.
    Dialog(DialogStats),
}

/// Where a client was given everything: what a stream can be resumed from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Since {
    /// The epoch of the tenants' generations: with another, nothing can be told.
    pub epoch: i64,
    /// All commits that it was given.
    pub cut: Cut,
}

/// What a stream gives at once: all as of one moment.
#[derive(Debug, Default)]
pub struct Batch {
    /// Those who have changed, or were not given before.
    pub updates: Vec<Update>,
    /// From here on everybody who is watched was given once.
    pub all_given: bool,
    /// Where to resume from, now and then.
    pub since: Option<Since>,
    /// Everything that was committed before this is in what was given; `None`
    /// when it is not known yet, or the store does not answer.
    pub as_of: Option<SystemTime>,
}

/// Why a stream ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unwatchable {
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
    number: usize,
    wake: Arc<Notify>,
    loading: Option<Loading>,
    opened: bool,
    /// Where the client was, until that has been looked at.
    since: Option<Since>,
    tries: u32,
}

/// Changes what a stream watches, from wherever.
#[derive(Debug, Clone)]
pub struct Handle {
    serving: Serving,
    number: usize,
}

/// What a stream waits for; `true`: it may have been of use.
struct Loading(BoxFuture<'static, Loaded>);

enum Loaded {
    /// Perhaps they are held now.
    LookAgain,
    /// What was touched since the client was there; `None`: that cannot be told.
    Touched(Option<Touched>),
}

impl std::fmt::Debug for Loading {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Loading")
    }
}

impl Serving {
    /// Begins to watch these, of one tenant: at most one update about each in an
    /// interval. With `since`, only what has changed since is given.
    pub fn watch(
        &self,
        tenant: TenantId,
        subjects: Vec<Subject>,
        interval: Duration,
        since: Option<Since>,
    ) -> Watch {
        let mut memory = self.shared.memory();
        let (hub, _) = memory.watched();
        let (number, wake) = hub.open(tenant, interval, since.is_some());
        hub.add(number, subjects, usize::MAX);
        drop(memory);
        self.shared.asked.notify_one();
        Watch {
            serving: self.clone(),
            number,
            wake,
            loading: None,
            opened: false,
            since,
            tries: 0,
        }
    }
}

impl Handle {
    /// Watches more; `false` when that would be more than so many.
    pub fn add(&self, subjects: Vec<Subject>, most: usize) -> bool {
        let mut memory = self.serving.shared.memory();
        let (hub, _) = memory.watched();
        hub.add(self.number, subjects, most)
    }

    /// Watches less.
    pub fn remove(&self, subjects: &[Subject]) {
        let mut memory = self.serving.shared.memory();
        let (hub, model) = memory.watched();
        hub.remove(self.number, subjects, model);
    }
}

impl Watch {
    /// What changes what it watches, for as long as it is there.
    pub fn handle(&self) -> Handle {
        Handle {
            serving: self.serving.clone(),
            number: self.number,
        }
    }

    /// The next that there is to give; waits until there is something, but a
    /// while at most.
    ///
    /// # Errors
    /// [`Unwatchable`]: the stream is of no more use.
    pub async fn next(&mut self) -> Result<Batch, Unwatchable> {
        let heartbeat = Instant::now() + HEARTBEAT;
        loop {
            let (batch, next) = self.give();
            if !batch.updates.is_empty() {
                failpoint::pass(Point::Given);
            }
            if !batch.updates.is_empty() || batch.all_given || Instant::now() >= heartbeat {
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

    fn give(&mut self) -> (Batch, Option<Instant>) {
        let mut memory = self.serving.shared.memory();
        let (hub, model) = memory.watched();
        let (given, cut) = hub.give(self.number, model);
        let epoch = memory.generations.epoch;
        let batch = Batch {
            updates: given.updates,
            all_given: given.all,
            since: cut.map(|cut| Since { epoch, cut }),
            as_of: memory.as_of.map(|as_of| as_of.shown),
        };
        (batch, given.next)
    }

    /// What is to be waited for so that everybody can be given.
    fn wanted(&mut self) -> Result<Option<Loading>, Unwatchable> {
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
        let missing = hub.pin_wanted(self.number, LOADED_TOGETHER, model);
        let missing = missing.map_err(Unwatchable::NoRoom)?;
        let stream = hub.stream(self.number);
        let (tenant, is_whole) = (stream.tenant.clone(), stream.is_whole());
        drop(memory);
        if let Some(first) = missing.first() {
            self.tries += 1;
            if self.tries > TRIES || serving.is_too_large(&tenant, first) {
                return Err(Unwatchable::NoRoom(first.clone()));
            }
            return Ok(Some(Loading::new(serving.loaded(tenant, missing))));
        }
        self.tries = 0;
        match (is_whole, self.since.take()) {
            (true, Some(since)) => Ok(Some(Loading::new(async move {
                Loaded::Touched(serving.touched_since(&tenant, since).await)
            }))),
            (false, since) => {
                self.since = since;
                // There are more, and those before were held already.
                self.wake.notify_one();
                Ok(None)
            }
            (true, None) => {
                self.wake_if_pinned();
                Ok(None)
            }
        }
    }

    /// Those just pinned have something to be given.
    fn wake_if_pinned(&self) {
        let mut memory = self.serving.shared.memory();
        let (hub, _) = memory.watched();
        if hub.stream(self.number).is_due(Instant::now()) {
            self.wake.notify_one();
        }
    }

    fn take_over(&mut self, loaded: Loaded) {
        let Loaded::Touched(touched) = loaded else {
            return;
        };
        let mut memory = self.serving.shared.memory();
        let (hub, model) = memory.watched();
        match touched {
            // Those who were lost meanwhile are told anew.
            Some(touched) if hub.stream(self.number).is_whole() => {
                hub.resume(self.number, &touched, model);
            }
            _ => hub.stream(self.number).not_resumed(Instant::now()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut memory = self.serving.shared.memory();
        let (hub, model) = memory.watched();
        hub.close(self.number, model);
    }
}

impl Loading {
    fn new(loading: impl Future<Output = Loaded> + Send + 'static) -> Self {
        Self(Box::pin(loading))
    }
}

/// Waits for what is loaded, if anything is.
async fn finished(loading: &mut Option<Loading>) -> Loaded {
    let Some(Loading(under_way)) = loading else {
        return pending().await;
    };
    let loaded = under_way.await;
    *loading = None;
    loaded
}

impl Serving {
    /// Has these read into memory.
    async fn loaded(self, tenant: TenantId, subjects: Vec<Subject>) -> Loaded {
        let mut wanted = Wanted::default();
        for subject in subjects {
            match subject {
                Subject::User(user) => wanted.users.push(user),
                Subject::Dialog(dialog) => wanted.dialogs.push(dialog),
            }
        }
        if !self.load(&tenant, wanted, Instant::now() + LOAD).await {
            sleep(PAUSE).await;
        }
        Loaded::LookAgain
    }

    fn is_too_large(&self, tenant: &TenantId, subject: &Subject) -> bool {
        match subject {
            Subject::User(user) => self.shared.too_large.has(tenant, user),
            Subject::Dialog(_) => false,
        }
    }

    /// What was touched since a client was given everything; `None` when that
    /// cannot be told.
    async fn touched_since(&self, tenant: &TenantId, since: Since) -> Option<Touched> {
        let spans = self.spans_since(&since).await?;
        let count: i64 = spans.iter().map(|span| span.to + 1 - span.from).sum();
        if count > MOST_FETCHED {
            return None;
        }
        let store = self.shared.store.clone();
        // What uses the driver is not to be dropped half-way.
        let fetched = tokio::spawn(async move { store.commit_records(&spans).await });
        let fetched = fetched.await.ok()?.ok()?;
        let is_told = |record: &crate::store::commits::Record| !record.untold.contains(tenant);
        let all_told = fetched.iter().all(|committed| is_told(&committed.record));
        if fetched.len() as i64 != count || !all_told {
            return None;
        }
        let memory = self.shared.memory();
        let records = fetched.iter().map(|committed| &*committed.record);
        Some(memory.model.touched_by(records))
    }

    /// The commits that memory has and a client was not given. Waits until memory
    /// has come to where the client was.
    async fn spans_since(&self, since: &Since) -> Option<Vec<Span>> {
        for _ in 0..LOOKS {
            {
                let memory = self.shared.memory();
                if memory.generations.epoch != since.epoch {
                    return None;
                }
                let now = memory.model.cut();
                if now.covers(&since.cut) {
                    let ahead = since.cut.until(now);
                    let span = |(writer, from, to)| Span { writer, from, to };
                    return Some(ahead.map(span).collect());
                }
            }
            self.round().await?;
        }
        None
    }
}

impl Memory {
    /// The streams, at what the model has come to.
    pub(super) fn watched(&mut self) -> (&mut Hub, &mut super::model::Model) {
        self.hub.follow(&mut self.model, Instant::now());
        (&mut self.hub, &mut self.model)
    }
}

fn shown(subject: &Subject) -> String {
    match subject {
        Subject::User(user) => format!("the user {:?}", user.as_str()),
        Subject::Dialog(dialog) => format!("the dialog {:?}", dialog.as_str()),
    }
}
