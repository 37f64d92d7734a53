//! One pass through the queue on account of a job, or to compare the index.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use super::RedriveError;
use super::action::Action;
use super::job::Reporter;
use crate::bus::dead_letters::scan::{QueueScan, ScannedLetter};
use crate::config;
use crate::deadletter::LetterId;
use crate::failpoint::{self, Point};
use crate::store::Store;
use crate::store::dead_letters::{IndexSnapshot, LetterCollection, SelectionState};

/// Letters taken in hand together.
const IN_HAND: usize = 512;
/// How long letters are held at most. RabbitMQ ends a consumer that holds some
/// for half an hour, and nobody else can read them meanwhile.
const LONGEST: Duration = Duration::from_secs(10 * 60);

/// How a pass ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// At the end of the queue, and the index agrees with it.
    Whole(Sums),
    /// Before: it took too long. Another one will go on.
    TooLong,
    /// Before: nobody waits for it any more.
    Abandoned,
}

/// What a whole pass came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) examined: u64,
    /// Letters that had no entry.
    pub(super) added: u64,
    /// Entries that had no letter.
    pub(super) removed: u64,
}

/// What is to be done on the way, and who is told.
pub(super) struct Task<'a> {
    pub(super) action: &'a mut Action,
    pub(super) reporter: &'a mut Reporter,
}

/// A pass under way.
pub(super) struct Walk<'a> {
    store: &'a Store,
    pass: QueueScan,
    before: IndexSnapshot,
    found: HashMap<LetterId, i64>,
    added: u64,
    task: Option<Task<'a>>,
    /// Letters that the job has acted upon: their copies only have to go.
    acted: &'a mut HashSet<LetterId>,
    began: Instant,
}

/// What is to be done with the letters in hand.
#[derive(Default)]
struct Sorted {
    act: Vec<ScannedLetter>,
    /// Copies of what is acted upon, and what was before.
    remove: Vec<ScannedLetter>,
    keep: Vec<ScannedLetter>,
}

impl<'a> Walk<'a> {
    pub(super) async fn begin(
        store: &'a Store,
        bus: &config::Bus,
        task: Option<Task<'a>>,
        acted: &'a mut HashSet<LetterId>,
    ) -> Result<Walk<'a>, RedriveError> {
        // In this order: a letter is in the queue before it is in the index.
        let before = store.index_snapshot().await?;
        let pass = QueueScan::open(bus, before.letters()).await?;
        Ok(Self {
            store,
            pass,
            before,
            found: HashMap::new(),
            added: 0,
            task,
            acted,
            began: Instant::now(),
        })
    }

    /// Goes through the queue. Whatever goes wrong, what was not removed stays.
    pub(super) async fn run(mut self) -> Result<Ended, RedriveError> {
        loop {
            let letters = self.pass.next(IN_HAND).await?;
            if letters.is_empty() {
                break;
            }
            let sorted = self.sort(letters).await?;
            for letter in sorted.keep {
                self.pass.keep(letter);
            }
            let early = self.act(sorted.act).await?;
            // After the letter itself: should it have to stay, so do its copies.
            let (done, not_yet): (Vec<_>, Vec<_>) = sorted
                .remove
                .into_iter()
                .partition(|letter| self.acted.contains(&letter.letter.id));
            self.tidy(done).await?;
            for letter in not_yet {
                self.pass.keep(letter);
            }
            if let Some(task) = &mut self.task {
                task.reporter.examined(self.pass.examined());
            }
            if let Some(early) = early {
                self.pass.end().await?;
                return Ok(early);
            }
        }
        let examined = self.pass.examined() as u64;
        self.pass.end().await?;
        let removed = self.store.reconcile_index(self.before, &self.found);
        Ok(Ended::Whole(Sums {
            examined,
            added: self.added,
            removed: removed.await?,
        }))
    }

    /// Tells apart what is to be done with letters, and enters those that have
    /// no entry.
    async fn sort(&mut self, letters: Vec<ScannedLetter>) -> Result<Sorted, RedriveError> {
        let job = self.task.as_ref().map(|task| task.reporter.job());
        let ids = letters.iter().map(|letter| &letter.letter.id);
        let standings = self.store.selection_states(ids, job).await?;
        let mut sorted = Sorted::default();
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

    /// Acts upon letters, a few at a time. `Some` when the pass is to end.
    async fn act(
        &mut self,
        mut letters: Vec<ScannedLetter>,
    ) -> Result<Option<Ended>, RedriveError> {
        while let Some(Task { action, reporter }) = &mut self.task
            && !letters.is_empty()
        {
            let ended = match reporter.is_abandoned() {
                true => Some(Ended::Abandoned),
                false => (self.began.elapsed() > LONGEST).then_some(Ended::TooLong),
            };
            if ended.is_some() {
                letters
                    .into_iter()
                    .for_each(|letter| self.pass.keep(letter));
                return Ok(ended);
            }
            let size = action.batch().min(letters.len());
            if !action.wait(size).await? {
                reporter.told(true);
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
                        self.pass.keep(letter);
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
            self.tidy(done).await?;
            if let Some(task) = &mut self.task {
                task.reporter.told(false);
            }
        }
        Ok(None)
    }

    /// Takes letters out of the queue, and the entries of those that are not
    /// known to have copies further back: these keep theirs until the job ends.
    async fn tidy(&mut self, letters: Vec<ScannedLetter>) -> Result<(), RedriveError> {
        if letters.is_empty() {
            return Ok(());
        }
        let ids = letters.iter().map(|letter| letter.letter.id.clone());
        let (single, _several): (Vec<_>, Vec<_>) = ids.partition(|id| self.before.copies(id) <= 1);
        self.pass.remove(letters).await?;
        failpoint::pass(Point::Removed);
        Ok(self.store.remove_acted(&single).await?)
    }
}
