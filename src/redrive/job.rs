//! Jobs: begun or gone on with, one at a time, told about, recorded.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::info;

use super::action::{Action, ReplayAction};
use super::pace::{ReplayPace, ReplayPacer};
use super::pass::{PassEnd, PassTask, QueuePass};
use super::report::{JobProgress, JobReporter};
use super::{Redrive, RedriveError};
use crate::bus::BlockedTimeout;
use crate::bus::dead_letters::republish::Republisher;
use crate::deadletter::{Filter, LetterId};
use crate::event::EventId;
use crate::event::decode::{Decoded, outline};
use crate::failpoint::{self, Point};
use crate::store::dead_letters::{Job, JobId, JobKind, JobRequest, LetterEdit};
use crate::store::{Renewed, StoreError};

/// How long a job waits for the lease: one whose holder was killed ends within eight
/// seconds.
const LEASE_TIMEOUT: Duration = Duration::from_secs(20);
/// How often a job asks for the lease meanwhile.
const LEASE_POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the end of a replay waits for the service to have counted the events.
const COUNTED_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long no letter must come back before a replay ends: one that the service has
/// in hand waits in no queue.
const STABLE_FOR: Duration = Duration::from_secs(1);
/// How often the queue and the job are looked at meanwhile.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Which letters a job is about, and on whose account it is done.
#[derive(Debug, Clone)]
pub(crate) struct Selection {
    /// The conditions that the letters meet.
    pub filter: Filter,
    /// Who asks for the job, as far as the service knows.
    pub actor: String,
    /// Who the caller claims to be; empty if they claim nothing else.
    pub claimed_actor: String,
    /// Why the job is done, in the caller's words.
    pub reason: String,
}

impl Redrive {
    /// Sends letters to the service's queue once more. Tells `progress` from
    /// time to time; ends in order when nobody listens any more, and goes on
    /// when it is called again with the same filter.
    ///
    /// # Errors
    /// [`RedriveError`]; calling it again goes on.
    pub(crate) async fn replay(
        &self,
        selection: Selection,
        pace: ReplayPace,
        progress: mpsc::Sender<JobProgress>,
    ) -> Result<(), RedriveError> {
        let order = order(JobKind::Replay, &selection);
        let action = self.replay_action(pace, None).await?;
        self.job(order, &selection.filter, action, progress).await
    }

    /// Takes letters out of the queue and keeps them elsewhere, as [`replay`]
    /// does.
    ///
    /// # Errors
    /// [`RedriveError`]; calling it again goes on.
    ///
    /// [`replay`]: Redrive::replay
    pub(crate) async fn discard(
        &self,
        selection: Selection,
        progress: mpsc::Sender<JobProgress>,
    ) -> Result<(), RedriveError> {
        let order = order(JobKind::Discard, &selection);
        self.job(order, &selection.filter, Action::Discard, progress)
            .await
    }

    /// Checks a new body for a letter: it must be a counter event, with the
    /// letter's event id if the letter has one, and of a tenant of those
    /// `permitted`, as the letter. Returns type and id.
    ///
    /// # Errors
    /// [`RedriveError::NotThisBody`], and those of [`Redrive::letter`].
    pub(crate) async fn check_edit(
        &self,
        id: &LetterId,
        body: &[u8],
        permitted: Option<&[String]>,
    ) -> Result<(LetterEdit, &'static str, EventId), RedriveError> {
        let kept = self.letter(id, permitted).await?;
        let id = kept.entry.id;
        if kept.entry.discarded_at.is_some() {
            return Err(RedriveError::NotThisBody(format!(
                "the letter {id} was discarded; undiscard it first"
            )));
        }
        let Some(before) = kept.body else {
            return Err(RedriveError::TooLarge(id));
        };
        let event = match self.decoder.decode(body) {
            Ok(Decoded::Event(event, _)) => event,
            Ok(Decoded::Ignored { event_type }) => {
                return Err(RedriveError::NotThisBody(format!(
                    "eventType: expected the type of a counter event, found {event_type:?}, which changes no counter"
                )));
            }
            Err(error) => return Err(RedriveError::NotThisBody(error.to_string())),
        };
        let tenant = event.tenant.as_str();
        if permitted.is_some_and(|permitted| permitted.iter().all(|of| of != tenant)) {
            return Err(RedriveError::NotThisBody(format!(
                "tenantId: expected a tenant of the caller's, found {tenant:?}"
            )));
        }
        let event_id = event.stamp.event;
        if let Some(kept) = outline(&before).event
            && kept != event_id.as_str()
        {
            return Err(RedriveError::NotThisBody(format!(
                "eventId: expected {kept:?}, the letter's own, found {:?}: with another id it could be counted twice",
                event_id.as_str()
            )));
        }
        let after = body.to_vec();
        let edit = LetterEdit {
            letter: id,
            before,
            after,
        };
        Ok((edit, event.fact.event_type().as_str(), event_id))
    }

    /// Replays one letter with another body. `by` says on whose account; of its
    /// filter only whom that permits counts.
    ///
    /// # Errors
    /// [`RedriveError`]; calling it again goes on.
    pub(crate) async fn edit(
        &self,
        edit: LetterEdit,
        by: Selection,
        progress: mpsc::Sender<JobProgress>,
    ) -> Result<(), RedriveError> {
        let filter = Filter {
            ids: vec![edit.letter.clone()],
            permitted: by.filter.permitted.clone(),
            ..Default::default()
        };
        let selection = Selection { filter, ..by };
        let mut order = order(JobKind::Edit, &selection);
        order.key.push_str(&String::from_utf8_lossy(&edit.after));
        let body = Some(edit.after.clone());
        let action = self.replay_action(ReplayPace::default(), body).await?;
        order.edit = Some(edit);
        self.job(order, &selection.filter, action, progress).await
    }

    /// Connects for a replay, with the body to send in place of the letters' own, if any.
    async fn replay_action(
        &self,
        pace: ReplayPace,
        body: Option<Vec<u8>>,
    ) -> Result<Action, RedriveError> {
        Ok(Action::Replay(Box::new(ReplayAction {
            republisher: Republisher::open(&self.bus, &self.flow, BlockedTimeout::Answer).await?,
            pacer: ReplayPacer::new(pace),
            body,
        })))
    }

    /// Does a job: begins it or goes on with it, and records how it ended.
    async fn job(
        &self,
        order: JobRequest,
        filter: &Filter,
        mut action: Action,
        progress: mpsc::Sender<JobProgress>,
    ) -> Result<(), RedriveError> {
        let mut reporter = self.start(&order, filter, progress).await?;
        let mut acted = HashSet::new();
        let ended = self.passes(&mut reporter, &mut action, &mut acted).await;
        action.close().await;
        self.finish(reporter, ended).await
    }

    /// Takes the lease, and begins a job or goes on with it.
    pub(super) async fn start(
        &self,
        order: &JobRequest,
        filter: &Filter,
        to: mpsc::Sender<JobProgress>,
    ) -> Result<JobReporter, RedriveError> {
        let purpose = format!("{} by {}", order.kind.as_str(), order.actor);
        let lease = self
            .lease(&purpose, LEASE_TIMEOUT, || to.is_closed())
            .await?;
        if let Err(error) = self.brought_up_to_date().await {
            lease.give_up().await;
            return Err(error);
        }
        let interrupted = self.store.interrupted_job(order).await?;
        let resumed = interrupted.is_some();
        let (mut job, selected) = match interrupted {
            Some(found) => found,
            None => (self.store.begin_job(order).await?, false),
        };
        if !selected {
            self.select(&mut job, filter).await?;
        }
        failpoint::pass(Point::Selected);
        info!(
            job = job.id.as_str(),
            kind = order.kind.as_str(),
            by = order.actor,
            says = order.claimed_actor,
            reason = order.reason,
            selection = order.selection,
            selected = job.tally.selected,
            resumed,
            "a job on dead letters begins"
        );
        let progress = JobProgress {
            job: job.id,
            tally: job.tally,
            failures: Vec::new(),
            examined: 0,
            braking: false,
            resumed,
            finished: false,
        };
        Ok(JobReporter::begin(order.kind, progress, to, lease))
    }

    /// Selects the letters of a job in the index.
    async fn select(&self, job: &mut Job, filter: &Filter) -> Result<(), StoreError> {
        let collection = job.kind.collection();
        let selected = self
            .store
            .select_letters(collection, filter, &job.id)
            .await?;
        self.store.note_selected(&job.id, selected).await?;
        job.tally.selected = selected;
        Ok(())
    }

    /// Passes through the queue until nothing is left to do; `false` when the job was
    /// abandoned before.
    async fn passes(
        &self,
        reporter: &mut JobReporter,
        action: &mut Action,
        acted: &mut HashSet<LetterId>,
    ) -> Result<bool, RedriveError> {
        if reporter.progress.tally.selected == 0 {
            return Ok(true);
        }
        loop {
            let task = PassTask {
                action: &mut *action,
                reporter: &mut *reporter,
            };
            let pass = QueuePass::begin(&self.store, &self.bus, Some(task), acted).await?;
            match pass.run().await? {
                PassEnd::Complete(_) => break,
                PassEnd::TooLong => {}
                PassEnd::Abandoned => return Ok(false),
            }
        }
        if let Action::Replay(sending) = action {
            self.wait_until_counted(&sending.republisher, reporter.job())
                .await?;
        }
        Ok(true)
    }

    /// Waits, but not for ever, until the service has dealt with what was sent:
    /// nothing waits in its queue, and no more letters come back.
    async fn wait_until_counted(
        &self,
        republisher: &Republisher,
        job: &JobId,
    ) -> Result<(), RedriveError> {
        let deadline = Instant::now() + COUNTED_TIMEOUT;
        let (mut last, mut since) = (None, Instant::now());
        while Instant::now() < deadline && since.elapsed() < STABLE_FOR {
            let waiting = republisher.waiting_events().await?;
            let known = self.store.job(job).await?;
            let state = (waiting, known.map(|job| job.tally.failed_again));
            if waiting > 0 || last != Some(state) {
                (last, since) = (Some(state), Instant::now());
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }

    /// Records how far a job has come, and lets the next one in.
    pub(super) async fn finish(
        &self,
        mut reporter: JobReporter,
        ended: Result<bool, RedriveError>,
    ) -> Result<(), RedriveError> {
        let finished = *ended.as_ref().unwrap_or(&false);
        let recorded = self.record(&mut reporter, finished).await;
        let (progress, to) = reporter.end().await;
        let tally = progress.tally;
        info!(
            job = progress.job.as_str(),
            finished,
            selected = tally.selected,
            done = tally.done,
            missing = tally.missing,
            taken = tally.taken,
            failed = tally.failed,
            "a job on dead letters has ended"
        );
        ended?;
        recorded?;
        // The last one must arrive; closed, there is nobody to tell.
        let _ = to.send(progress).await;
        Ok(())
    }

    /// Records that a job has finished, if it has, and reads what it came to.
    async fn record(&self, reporter: &mut JobReporter, finished: bool) -> Result<(), StoreError> {
        let job = reporter.job().clone();
        if finished {
            failpoint::pass(Point::AllDone);
            self.store.end_job(reporter.kind.collection(), &job).await?;
        }
        if let Some(known) = self.store.job(&job).await? {
            reporter.progress.tally = known.tally;
            reporter.progress.failures = known.failures;
        }
        reporter.progress.finished = finished;
        Ok(())
    }

    /// Takes the lease; waits for it, but not for ever.
    pub(super) async fn lease(
        &self,
        purpose: &str,
        timeout: Duration,
        is_left: impl Fn() -> bool,
    ) -> Result<Renewed, RedriveError> {
        let deadline = Instant::now() + timeout;
        loop {
            match self.store.take_dead_letter_lease(purpose).await? {
                Ok(lease) => {
                    let lease = Renewed::new(lease);
                    // The holder before may have been killed in the middle of one.
                    // Should this fail, it ends by itself.
                    let _ = self.store.end_stale_transactions().await;
                    return Ok(lease);
                }
                // A caller that is gone waits for nothing.
                Err(by) if is_left() || Instant::now() >= deadline => {
                    return Err(RedriveError::Busy(by));
                }
                Err(_) => tokio::time::sleep(LEASE_POLL_INTERVAL).await,
            }
        }
    }
}

/// Makes what is recorded of a job when it is asked for.
pub(super) fn order(kind: JobKind, selection: &Selection) -> JobRequest {
    JobRequest {
        kind,
        actor: selection.actor.clone(),
        claimed_actor: selection.claimed_actor.clone(),
        tenants: selection.filter.tenants(),
        reason: selection.reason.clone(),
        selection: selection.filter.to_string(),
        key: selection.filter.key(),
        edit: None,
    }
}
