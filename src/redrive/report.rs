//! Reports of how far a job has come.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::store::Renewed;
use crate::store::dead_letters::{FailedLetter, JobId, JobKind, JobTally};

/// The shortest time between two reports of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(500);

/// How far a job has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobProgress {
    /// The job that this is about.
    pub job: JobId,
    /// How many letters were selected, done and failed.
    pub tally: JobTally,
    /// The first of the letters to which it could not be done; known at the end.
    pub failures: Vec<FailedLetter>,
    /// The number of letters of the queue examined since this call began.
    pub examined: u64,
    /// Whether the job waits until live traffic is counted.
    pub braking: bool,
    /// Whether an earlier call has begun the job.
    pub resumed: bool,
    /// Whether nothing is left to do.
    pub finished: bool,
}

/// Reports to whoever asked for a job how far it has come.
pub(super) struct JobReporter {
    pub(super) kind: JobKind,
    pub(super) progress: JobProgress,
    to: mpsc::Sender<JobProgress>,
    last_told: Instant,
    lease: Renewed,
}

impl JobReporter {
    /// Begins to report on a job to `to`, with a first report. The job holds the lease
    /// for as long as it is reported on.
    pub(super) fn begin(
        kind: JobKind,
        progress: JobProgress,
        to: mpsc::Sender<JobProgress>,
        lease: Renewed,
    ) -> Self {
        let mut reporter = Self {
            kind,
            progress,
            to,
            last_told: Instant::now(),
            lease,
        };
        reporter.send();
        reporter
    }

    /// Gives up the lease; returns the last report and where it goes.
    pub(super) async fn end(self) -> (JobProgress, mpsc::Sender<JobProgress>) {
        self.lease.give_up().await;
        (self.progress, self.to)
    }

    /// Whether nobody waits for the job any more, or somebody else is at the
    /// queue by now.
    pub(super) fn is_abandoned(&self) -> bool {
        self.to.is_closed() || self.lease.is_lost()
    }

    /// Notes how many letters of the queue were examined.
    pub(super) fn examined(&mut self, letters: usize) {
        self.progress.examined = letters as u64;
    }

    /// Notes that letters were acted upon, and that others could not be.
    pub(super) fn settled(&mut self, done: u64, failed: u64) {
        self.progress.tally.done += done;
        self.progress.tally.failed += failed;
    }

    /// Reports how far the job has come, unless it has just done so.
    pub(super) fn report(&mut self, braking: bool) {
        self.progress.braking = braking;
        if self.last_told.elapsed() >= PROGRESS_INTERVAL {
            self.send();
        }
    }

    fn send(&mut self) {
        self.last_told = Instant::now();
        // Full: whoever reads it is behind, and gets the next one. Closed: seen
        // to by `is_abandoned`.
        let _ = self.to.try_send(self.progress.clone());
    }

    /// The job that is reported on.
    pub(super) fn job(&self) -> &JobId {
        &self.progress.job
    }
}
