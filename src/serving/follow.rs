//! Keeping the model at what is committed: one question to the store for all
//! reads that wait, then the records of what came in between.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::MAX_FETCHED_COMMITS;
use super::shared::{AsOf, Memory, SharedState};
use crate::failpoint::{self, Point};
use crate::shutdown::Shutdown;
use crate::store::commit_log::Cut;
use crate::store::commit_log::{Committed, Position, Record, Span};
use crate::store::rebuild::fence::WriterId;
use crate::store::{StoreError, detached};
use crate::telemetry::metrics::Forgotten;

/// The longest time that a round may take. A store that is slower is asked by each read.
const ROUND_TIMEOUT: Duration = Duration::from_secs(2);
/// The time after which a server that shows less than is known is asked again.
const BEHIND_RETRY_INTERVAL: Duration = Duration::from_millis(20);
/// The time after which a server that goes on showing less is believed: a backup was
/// restored.
const RESTORED_AFTER: Duration = Duration::from_secs(60);
/// The time for which a writer that does not number its commits is taken to go on writing
/// after it was last seen to have written. Writers of an earlier version number none: no
/// record tells what they commit, so nothing is held in memory meanwhile.
const UNNUMBERED_WRITER_TIMEOUT: Duration = Duration::from_secs(10);
/// The time between two rounds while nobody reads: commits are taken over, so that they
/// do not pile up, nor a read has to take them all over.
const UNASKED_INTERVAL: Duration = Duration::from_millis(200);
/// The same while somebody is watched: as long as commits of other replicas may
/// go unnoticed. Those of this process are taken over at once.
const WATCHED_INTERVAL: Duration = Duration::from_millis(25);

/// A round of the follower: a question that was asked, and all that it showed
/// was applied.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Round {
    /// The number of the round, from 1.
    pub number: u64,
    /// Whether memory has come to what the round showed.
    pub succeeded: bool,
}

/// Asks the store how far it is, and moves the model on. One for all reads.
#[derive(Debug)]
pub(super) struct Follower {
    shared: Arc<SharedState>,
    ended: watch::Sender<Round>,
    /// What is known to be committed.
    known: KnownCommits,
    /// Since when the store shows less than that.
    behind_since: Option<Instant>,
    /// Commits of this process that the model has not come to yet.
    pending: BTreeMap<(WriterId, i64), Arc<Record>>,
}

/// The most that was seen to be committed.
#[derive(Debug, Default)]
struct KnownCommits {
    commits: BTreeMap<WriterId, i64>,
    unnumbered: BTreeMap<WriterId, i64>,
    removed: i64,
    epoch: i64,
}

impl KnownCommits {
    /// Whether a server shows less. A primary that was just elected may. A
    /// writer that is not to be found was removed, if more were removed than was
    /// known.
    fn exceeds(&self, position: &Position) -> bool {
        let removed = position.removed > self.removed;
        let less = |known: &BTreeMap<WriterId, i64>, shown: &BTreeMap<WriterId, i64>| {
            known.iter().any(|(writer, known)| match shown.get(writer) {
                Some(shown) => shown < known,
                None => !removed,
            })
        };
        position.removed < self.removed
            || position.generations.epoch < self.epoch
            || less(&self.commits, &position.commits)
            || less(&self.unnumbered, &position.unnumbered)
    }

    fn learn_own(&mut self, latest: HashMap<WriterId, i64>) {
        for (writer, number) in latest {
            let known = self.commits.entry(writer).or_default();
            *known = number.max(*known);
        }
    }

    fn learn(&mut self, position: &Position) {
        self.commits.clone_from(&position.commits);
        self.unnumbered.clone_from(&position.unnumbered);
        self.removed = position.removed;
        self.epoch = position.generations.epoch;
    }
}

impl Follower {
    pub(super) fn new(shared: Arc<SharedState>, ended: watch::Sender<Round>) -> Self {
        Self {
            shared,
            ended,
            known: KnownCommits::default(),
            behind_since: None,
            pending: BTreeMap::new(),
        }
    }

    /// Goes on until the shutdown.
    pub(super) async fn run(mut self, shutdown: Shutdown) {
        let mut commits = self.shared.feed.subscribe();
        loop {
            let is_watched = !self.shared.memory().hub.is_empty();
            let unasked = match is_watched {
                true => WATCHED_INTERVAL,
                false => UNASKED_INTERVAL,
            };
            tokio::select! {
                () = self.shared.asked.notified() => {}
                // Never an error: the sender is ours.
                _ = commits.changed(), if is_watched => {}
                () = tokio::time::sleep(unasked), if !self.is_idle() => {}
                () = shutdown.requested() => return,
            }
            let number = self.begin();
            let began = Instant::now();
            let as_of = AsOf {
                asked: began,
                shown: SystemTime::now(),
            };
            let round = tokio::time::timeout(ROUND_TIMEOUT, self.round()).await;
            self.shared
                .metrics
                .round_seconds
                .observe(began.elapsed().as_secs_f64());
            let succeeded = match round {
                Ok(Ok(())) => {
                    self.shared.memory().as_of = Some(as_of);
                    true
                }
                Ok(Err(error)) => {
                    debug!(%error, "how far the store is cannot be told");
                    false
                }
                Err(_elapsed) => false,
            };
            if !succeeded {
                // Nothing piles up while the store is away: it has them, too.
                self.pending.clear();
            }
            self.ended.send_replace(Round { number, succeeded });
        }
    }

    fn is_idle(&self) -> bool {
        self.shared.memory().model.is_empty()
    }

    fn begin(&self) -> u64 {
        let mut memory = self.shared.memory();
        memory.begun += 1;
        memory.begun
    }

    async fn round(&mut self) -> Result<(), StoreError> {
        let position = loop {
            // What is acknowledged before the question is in the answer; what is
            // later need not be.
            let own = self.take_own();
            self.known.learn_own(own);
            let store = self.shared.store.clone();
            let position = detached(async move { store.position().await }).await?;
            if !self.known.exceeds(&position) || self.is_restored() {
                break position;
            }
            tokio::time::sleep(BEHIND_RETRY_INTERVAL).await;
        };
        self.behind_since = None;
        let later = self.take_own();
        self.known.learn(&position);
        self.known.learn_own(later);
        self.move_on(position).await
    }

    /// Takes over what this process has committed; returns the latest of each
    /// writer.
    fn take_own(&mut self) -> HashMap<WriterId, i64> {
        let taken = self.shared.feed.take();
        for committed in taken.commits {
            let Committed {
                writer,
                number,
                record,
            } = committed;
            self.pending.insert((writer, number), record);
        }
        taken.latest
    }

    /// Whether the store has shown less than is known for so long that it will
    /// not show it again.
    fn is_restored(&mut self) -> bool {
        let since = *self.behind_since.get_or_insert_with(Instant::now);
        let restored = since.elapsed() > RESTORED_AFTER;
        if restored {
            warn!("the database has fewer commits than it had: what was in memory is read anew");
            let mut memory = self.shared.memory();
            memory.model.reset(Cut::default());
            memory.watched();
        }
        restored
    }

    /// Brings the model to the position, with records, or empty.
    async fn move_on(&mut self, position: Position) -> Result<(), StoreError> {
        let to = Cut::from(&position);
        let from = {
            let mut memory = self.shared.memory();
            let from = memory.model.cut().clone();
            let was_empty = memory.model.is_empty();
            let why = self.why_forget(&memory, &from, &to, &position);
            memory.removed = position.removed;
            if memory.unnumbered != position.unnumbered && memory.as_of.is_some() {
                memory.idle_until = Some(Instant::now() + UNNUMBERED_WRITER_TIMEOUT);
            }
            if why.is_some() || was_empty {
                memory.generations = position.generations;
                memory.unnumbered = position.unnumbered;
                memory.model.reset(to);
                self.pending.clear();
                self.shared.feed.follow(false);
                if let Some(why) = why.filter(|_| !was_empty) {
                    self.shared.metrics.forgotten(why);
                }
                self.shared.show(&memory.model);
                memory.watched();
                return Ok(());
            }
            from
        };
        let records = self.records(&from, &to).await?;
        let applied = records.len() as u64;
        let mut memory = self.shared.memory();
        let metrics = &self.shared.metrics;
        if memory.model.advance(&to, records) {
            metrics.commits.inc_by(applied);
            if applied > 0 {
                failpoint::pass(Point::Moved);
            }
        } else {
            warn!("commit records are missing: what was in memory is read anew");
            metrics.forgotten(Forgotten::RecordMissing);
        }
        self.shared.show(&memory.model);
        memory.watched();
        Ok(())
    }

    /// Why what is in memory cannot be brought to the position.
    fn why_forget(
        &self,
        memory: &Memory,
        from: &Cut,
        to: &Cut,
        position: &Position,
    ) -> Option<Forgotten> {
        let fetched = |(writer, first, last): (WriterId, i64, i64)| {
            let own = self.pending.range((writer, first)..=(writer, last));
            last + 1 - first - own.count() as i64
        };
        if memory.generations != position.generations {
            Some(Forgotten::SwitchedOver)
        } else if memory.unnumbered != position.unnumbered {
            Some(Forgotten::Unnumbered)
        } else if !to.covers(from) {
            // A writer was removed, and with it perhaps commits not seen yet.
            Some(Forgotten::WriterRemoved)
        } else if from.until(to).map(fetched).sum::<i64>() > MAX_FETCHED_COMMITS {
            Some(Forgotten::TooFar)
        } else {
            None
        }
    }

    /// All that there is of what was committed after one cut up to another.
    async fn records(&mut self, from: &Cut, to: &Cut) -> Result<Vec<CommittedRecord>, StoreError> {
        let (mut records, mut missing) = (Vec::new(), Vec::new());
        for (writer, first, last) in from.until(to) {
            for number in first..=last {
                match self.pending.remove(&(writer, number)) {
                    Some(record) => records.push((writer, number, record)),
                    None => lengthen(&mut missing, writer, number),
                }
            }
        }
        self.pending
            .retain(|(writer, number), _| *number > to.of(*writer));
        let store = self.shared.store.clone();
        let fetched = detached(async move { store.commit_records(&missing).await }).await;
        let fetched = match fetched {
            Ok(fetched) => fetched,
            Err(error @ StoreError::Answer(_)) => {
                warn!(%error, "a commit record cannot be read");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let metrics = &self.shared.metrics;
        metrics.commits_fetched.inc_by(fetched.len() as u64);
        let fetched = fetched.into_iter();
        records.extend(fetched.map(|told| (told.writer, told.number, told.record)));
        Ok(records)
    }
}

/// A commit, with what it changed.
type CommittedRecord = (WriterId, i64, Arc<Record>);

fn lengthen(spans: &mut Vec<Span>, writer: WriterId, number: i64) {
    match spans.last_mut() {
        Some(last) if last.writer == writer && last.to + 1 == number => last.to = number,
        _ => spans.push(Span {
            writer,
            from: number,
            to: number,
        }),
    }
}
