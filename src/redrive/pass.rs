//! One pass through the queue on account of a job, or to compare the index.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::RedriveError;
use super::action::Action;
use super::report::JobReporter;
use crate::bus::dead_letters::scan::{QueueScan, ScannedLetter};
use crate::config;
use crate::deadletter::LetterId;
use crate::failpoint::{self, Point};
use crate::store::Store;
use crate::store::dead_letters::{IndexSnapshot, LetterCollection, SelectionState};

/// The most letters that are taken in hand together.
const MAX_LETTERS_IN_HAND: usize = 512;
/// The longest time that letters are held. RabbitMQ ends a consumer that holds some
/// for half an hour, and nobody else can read them meanwhile.
const MAX_PASS_DURATION: Duration = Duration::from_secs(10 * 60);

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PassEnd {
    /// The pass reached the end of the queue, and the index agrees with it.
    Complete(PassTotals),
    /// The pass took too long, and another one will go on.
    TooLong,
    /// Nobody waits for the job any more.
    Abandoned,
}

/// What a complete pass has found and changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct PassTotals {
    /// The number of letters in the queue.
    pub(super) examined: u64,
    /// The number of letters that had no entry in the index.
    pub(super) added: u64,
    /// The number of entries that had no letter in the queue.
    pub(super) removed: u64,
}

/// What a pass does for a job, and to whom it reports.
pub(super) struct PassTask<'a> {
    pub(super) action: &'a mut Action,
    pub(super) reporter: &'a mut JobReporter,
}

/// A pass through the dead-letter queue that is under way.
pub(super) struct QueuePass<'a> {
    store: &'a Store,
    scan: QueueScan,
    before: IndexSnapshot,
    found: HashMap<LetterId, i64>,
    added: u64,
    task: Option<PassTask<'a>>,
    /// Letters that the job has acted upon: their copies only have to go.
    acted: &'a mut HashSet<LetterId>,
    began: Instant,
}

/// The letters in hand, by what is to be done with them.
#[derive(Default)]
struct SortedLetters {
    act: Vec<ScannedLetter>,
    /// Copies of letters that are acted upon, or were before.
    remove: Vec<ScannedLetter>,
    keep: Vec<ScannedLetter>,
}

impl<'a> QueuePass<'a> {
    /// Begins at the head of the queue, to act for a job if there is one.
    pub(super) async fn begin(
        store: &'a Store,
        bus: &config::Bus,
        task: Option<PassTask<'a>>,
        acted: &'a mut HashSet<LetterId>,
    ) -> Result<QueuePass<'a>, RedriveError> {
        // In this order: a letter is in the queue before it is in the index.
        let before = store.index_snapshot().await?;
        let scan = QueueScan::open(bus, before.letters()).await?;
        Ok(Self {
            store,
            scan,
            before,
            found: HashMap::new(),
            added: 0,
            task,
            acted,
            began: Instant::now(),
        })
    }

    /// Goes through the queue. Whatever goes wrong, the letters that were not removed stay.
    pub(super) async fn run(mut self) -> Result<PassEnd, RedriveError> {
        loop {
            let letters = self.scan.next(MAX_LETTERS_IN_HAND).await?;
            if letters.is_empty() {
                break;
            }
            let sorted = self.sort(letters).await?;
            for letter in sorted.keep {
                self.scan.keep(letter);
            }
            let early = self.act(sorted.act).await?;
            // After the letter itself: should it have to stay, so do its copies.
            let (done, not_yet): (Vec<_>, Vec<_>) = sorted
                .remove
                .into_iter()
                .partition(|letter| self.acted.contains(&letter.letter.id));
            self.remove(done).await?;
            for letter in not_yet {
                self.scan.keep(letter);
            }
            if let Some(task) = &mut self.task {
                task.reporter.examined(self.scan.examined());
            }
            if let Some(early) = early {
                self.scan.end().await?;
                return Ok(early);
            }
        }
        let examined = self.scan.examined() as u64;
        self.scan.end().await?;
        let removed = self.store.reconcile_index(self.before, &self.found);
        Ok(PassEnd::Complete(PassTotals {
            examined,
            added: self.added,
            removed: removed.await?,
        }))
    }

    /// Sorts letters by what is to be done with them, and gives those without an entry one.
    async fn sort(&mut self, letters: Vec<ScannedLetter>) -> Result<SortedLetters, RedriveError> {
        let job = self.task.as_ref().map(|task| task.reporter.job());
        let ids = letters.iter().map(|letter| &letter.letter.id);
        let standings = self.store.selection_states(ids, job).await?;
        let mut sorted = SortedLetters::default();
        let mut in_hand = HashSet::new();
        let mut unknown = Vec::new();
        for letter in letters {
            *self.found.entry(letter.letter.id.clone()).or_default() += 1;
            let copy =
                self.acted.contains(&letter.letter.id) || in_hand.contains(&letter.letter.id);
            match standings.get(&letter.letter.id) {
                _ if copy => sorted.remove.push(letter),
                Some(SelectionState::Acted) => {
                    self.acted.insert(letter.letter.id.clone());
                    sorted.remove.push(letter);
                }
                Some(SelectionState::Selected) => {
                    in_hand.insert(letter.letter.id.clone());
                    sorted.act.push(letter);
                }
                Some(SelectionState::NotSelected) => sorted.keep.push(letter),
                None => unknown.push(letter),
            }
        }
        let entries = unknown.iter().map(|scanned| &scanned.letter);
        self.added += self.store.index_letters(entries).await?;
        sorted.keep.extend(unknown);
        Ok(sorted)
    }

    /// Acts upon letters, a few at a time. `Some` when the pass has to end early.
    async fn act(
        &mut self,
        mut letters: Vec<ScannedLetter>,
    ) -> Result<Option<PassEnd>, RedriveError> {
        while let Some(PassTask { action, reporter }) = &mut self.task
            && !letters.is_empty()
        {
            let ended = match reporter.is_abandoned() {
                true => Some(PassEnd::Abandoned),
                false => (self.began.elapsed() > MAX_PASS_DURATION).then_some(PassEnd::TooLong),
            };
            if ended.is_some() {
                letters
                    .into_iter()
                    .for_each(|letter| self.scan.keep(letter));
                return Ok(ended);
            }
            let size = action.batch().min(letters.len());
            if !action.wait(size).await? {
                reporter.report(true);
                continue;
            }
            let batch = letters.split_off(letters.len() - size);
            let outcomes = action.act(self.store, reporter.job(), &batch).await?;
            failpoint::pass(Point::Acted);
            let (mut done, mut failed) = (Vec::new(), Vec::new());
            for (letter, outcome) in batch.into_iter().zip(outcomes) {
                match outcome {
                    Ok(()) => done.push(letter),
                    Err(unable) => {
                        failed.push(unable.of(letter.letter.id.clone()));
                        self.scan.keep(letter);
                    }
                }
            }
            let job = reporter.job();
            self.store
                .release_failed(LetterCollection::Queue, job, &failed)
                .await?;
            let ids: Vec<_> = done.iter().map(|letter| letter.letter.id.clone()).collect();
            self.store.mark_acted(job, &ids).await?;
            failpoint::pass(Point::Marked);
            self.acted.extend(ids);
            let done_letters = self
                .before
                .letters_of(done.iter().map(|scanned| &scanned.letter.id));
            let failed_letters = self.before.letters_of(failed.iter().map(|f| &f.letter));
            reporter.settled(done_letters, failed_letters);
            self.remove(done).await?;
            if let Some(task) = &mut self.task {
                task.reporter.report(false);
            }
        }
        Ok(None)
    }

    /// Removes letters from the queue, and the entries of those that are not known to have
    /// copies further back: these keep theirs until the job ends.
    async fn remove(&mut self, letters: Vec<ScannedLetter>) -> Result<(), RedriveError> {
        if letters.is_empty() {
            return Ok(());
        }
        let ids = letters.iter().map(|letter| letter.letter.id.clone());
        let (single, _several): (Vec<_>, Vec<_>) = ids.partition(|id| self.before.copies(id) <= 1);
        self.scan.remove(letters).await?;
        failpoint::pass(Point::Removed);
        Ok(self.store.remove_acted(&single).await?)
    }
}
