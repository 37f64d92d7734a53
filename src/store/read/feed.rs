//! Word of commits, for those who wait for one.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::event_waiters::EventWaiters;
use crate::derive::changes;
use crate::derive::state::EventKey;
use crate::store::commit_log::Committed;
use crate::store::rebuild::fence::WriterId;

/// How long a commit of another replica can stay unnoticed at first, and once
/// the wait has become long.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(25);
const MAX_POLL_INTERVAL: Duration = Duration::from_millis(250);

/// Commits of this process wake a waiter at most this often, so that many
/// waiters beside a busy ingest do not crowd it out.
const MIN_WAKE_INTERVAL: Duration = Duration::from_millis(10);

/// What is kept of commits for those who follow them: so many changed dialogs
/// and shares, some 300 bytes each. Who has come too late asks the store.
const MAX_KEPT_CHANGES: usize = 20_000;

/// Tells waiting readers that something was committed, and what. Clones are one
/// feed.
#[derive(Debug, Clone, Default)]
pub struct CommitFeed {
    commits: watch::Sender<u64>,
    kept: Arc<Mutex<KeptCommits>>,
    event_waiters: EventWaiters,
}

/// Commits of this process that somebody who follows has not taken yet.
#[derive(Debug, Default)]
struct KeptCommits {
    is_followed: bool,
    commits: VecDeque<Committed>,
    changes: usize,
    latest: HashMap<WriterId, i64>,
}

/// What this process has committed since the last time.
#[derive(Debug, Default)]
pub struct Taken {
    /// The oldest first; those that were too many are missing, and all while
    /// nobody followed.
    pub commits: VecDeque<Committed>,
    /// The latest of each writer, in any case.
    pub(crate) latest: HashMap<WriterId, i64>,
}

impl KeptCommits {
    fn add(&mut self, committed: Committed) {
        self.latest.insert(committed.writer, committed.number);
        if !self.is_followed {
            return;
        }
        self.changes += changes(&committed);
        self.commits.push_back(committed);
        while self.changes > MAX_KEPT_CHANGES
            && let Some(oldest) = self.commits.pop_front()
        {
            self.changes -= changes(&oldest);
        }
    }
}

fn changes(committed: &Committed) -> usize {
    let dialogs = &committed.record.dialogs;
    dialogs.iter().map(|changed| 1 + changed.shares.len()).sum()
}

impl CommitFeed {
    /// A feed that nobody listens to yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// To be called after each commit of this process, with the events that it
    /// took. Costs next to nothing.
    pub fn committed(&self, committed: Committed, events: &[changes::Taken]) {
        self.kept().add(committed);
        self.wake();
        let events = events.iter().map(|taken| EventKey {
            tenant: taken.event.tenant.clone(),
            event: taken.event.stamp.event.clone(),
        });
        self.event_waiters.taken(events);
    }

    /// Returns those who wait for events, whom this feed tells of its commits.
    pub(super) fn event_waiters(&self) -> &EventWaiters {
        &self.event_waiters
    }

    /// Has those who wait look again.
    pub fn wake(&self) {
        self.commits
            .send_modify(|commits| *commits = commits.wrapping_add(1));
    }

    /// Whether commits are to be kept for somebody who follows.
    pub fn follow(&self, is_followed: bool) {
        let mut kept = self.kept();
        kept.is_followed = is_followed;
        if !is_followed {
            (kept.commits, kept.changes) = Default::default();
        }
    }

    /// What was committed since the last time.
    pub fn take(&self) -> Taken {
        let mut kept = self.kept();
        kept.changes = 0;
        Taken {
            commits: std::mem::take(&mut kept.commits),
            latest: std::mem::take(&mut kept.latest),
        }
    }

    fn kept(&self) -> MutexGuard<'_, KeptCommits> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes with each commit of this process.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.commits.subscribe()
    }

    /// A listener that has seen every commit up to now.
    pub(super) fn watch(&self) -> CommitWatch {
        CommitWatch {
            commits: self.commits.subscribe(),
            polls: Polls::default(),
        }
    }
}

/// Pauses between looks for what others have committed, growing.
#[derive(Debug)]
pub(super) struct Polls(Duration);

impl Default for Polls {
    fn default() -> Self {
        Self(MIN_POLL_INTERVAL)
    }
}

impl Polls {
    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        let longer = self.0.saturating_mul(2).min(MAX_POLL_INTERVAL);
        std::mem::replace(&mut self.0, longer)
    }
}

/// One waiter's view of a [`CommitFeed`].
#[derive(Debug)]
pub(super) struct CommitWatch {
    commits: watch::Receiver<u64>,
    polls: Polls,
}

impl CommitWatch {
    /// Takes note of every commit up to now: to be called before looking.
    pub(super) fn mark(&mut self) {
        self.commits.mark_unchanged();
    }

    /// Returns when it is time to look again: after a commit of this process
    /// since the last [`CommitWatch::mark`], or a while later, growing from
    /// call to call, as another replica may have committed.
    pub(super) async fn again(&mut self) {
        let not_before = Instant::now() + MIN_WAKE_INTERVAL;
        let poll = self.polls.next();
        match tokio::time::timeout(poll, self.commits.changed()).await {
            Ok(Ok(())) => tokio::time::sleep_until(not_before).await,
            // The feed is gone, and with it the ingest: only polling is left.
            Ok(Err(_)) => tokio::time::sleep(poll).await,
            Err(_elapsed) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_commit_between_looking_and_waiting_is_not_missed() {
        let feed = CommitFeed::new();
        let mut watch = feed.watch();
        watch.polls = Polls(Duration::from_secs(60));
        watch.mark();
        feed.wake();
        // Would hang for a minute otherwise.
        tokio::time::timeout(Duration::from_secs(5), watch.again())
            .await
            .expect("the commit wakes the waiter");
    }

    #[tokio::test]
    async fn without_commits_the_interval_grows_to_its_cap() {
        let feed = CommitFeed::new();
        let mut watch = feed.watch();
        let started = Instant::now();
        watch.again().await;
        assert!(started.elapsed() >= MIN_POLL_INTERVAL);
        for _ in 0..4 {
            watch.polls.next();
        }
        assert_eq!(watch.polls.next(), MAX_POLL_INTERVAL);
    }

    #[tokio::test]
    async fn a_feed_that_is_gone_leaves_polling() {
        let mut watch = CommitFeed::new().watch();
        let started = Instant::now();
        watch.again().await;
        assert!(started.elapsed() >= MIN_POLL_INTERVAL);
    }
}
