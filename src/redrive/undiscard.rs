//! Putting discarded letters back into the queue.

use tokio::sync::mpsc;

use super::action::ActionError;
use super::job::{Selection, order};
use super::report::{JobProgress, JobReporter};
use super::{Redrive, RedriveError};
use crate::bus::BlockedTimeout;
use crate::bus::dead_letters::republish::Republisher;
use crate::bus::dead_letters::scan;
use crate::failpoint::{self, Point};
use crate::store::dead_letters::{JobId, JobKind, LetterCollection, StoredLetter};

/// The most letters that are put back together.
const MAX_BATCH_LETTERS: usize = 64;

impl Redrive {
    /// Puts discarded letters back into the dead-letter queue, as they were. As
    /// with [`replay`](Redrive::replay) the same call goes on after an
    /// interruption.
    ///
    /// # Errors
    /// [`RedriveError`]; calling it again goes on.
    pub(crate) async fn undiscard(
        &self,
        selection: Selection,
        progress: mpsc::Sender<JobProgress>,
    ) -> Result<(), RedriveError> {
        let order = order(JobKind::Undiscard, &selection);
        let mut reporter = self.start(&order, &selection.filter, progress).await?;
        let ended = self.put_back(&mut reporter).await;
        self.finish(reporter, ended).await
    }

    /// Puts back all that the job selected; `false` when it was abandoned before.
    async fn put_back(&self, reporter: &mut JobReporter) -> Result<bool, RedriveError> {
        let republisher = Republisher::open(&self.bus, &self.flow, BlockedTimeout::Answer).await?;
        let job = reporter.job().clone();
        loop {
            let letters = self
                .store
                .selected_discarded(&job, MAX_BATCH_LETTERS, scan::batch_bytes(&self.bus))
                .await?;
            if letters.is_empty() {
                republisher.close().await;
                return Ok(true);
            }
            if reporter.is_abandoned() {
                republisher.close().await;
                return Ok(false);
            }
            let (done, failed) = self.put_back_some(&republisher, &job, letters).await?;
            reporter.settled(done, failed);
            reporter.report(false);
        }
    }

    /// Puts letters back, and counts those that were and those that could not be.
    async fn put_back_some(
        &self,
        republisher: &Republisher,
        job: &JobId,
        kept: Vec<StoredLetter>,
    ) -> Result<(u64, u64), RedriveError> {
        let (mut letters, mut failed) = (Vec::with_capacity(kept.len()), Vec::new());
        for kept in kept {
            match kept.into_whole() {
                Ok(letter) => letters.push(letter),
                Err(id) => failed.push(ActionError::NoBody.of(id)),
            }
        }
        let raw: Vec<_> = letters.iter().map(|letter| &letter.raw).collect();
        let sent = republisher.put_back(&raw).await?;
        failpoint::pass(Point::Acted);
        let mut done = Vec::with_capacity(letters.len());
        for (letter, sent) in letters.into_iter().zip(sent) {
            match sent {
                Ok(()) => done.push(letter),
                Err(unsent) => failed.push(ActionError::from(unsent).of(letter.id)),
            }
        }
        self.store
            .release_failed(LetterCollection::Discarded, job, &failed)
            .await?;
        self.store.index_letters(&done).await?;
        let ids: Vec<_> = done.into_iter().map(|letter| letter.id).collect();
        self.store.keep_in_queue(&ids).await?;
        failpoint::pass(Point::Marked);
        self.store.remove_undiscarded(job, &ids).await?;
        failpoint::pass(Point::Removed);
        Ok((ids.len() as u64, failed.len() as u64))
    }
}
