//! `DeadLetterService`: looking at dead letters and working with them.

mod answer;
mod request;

use std::pin::Pin;

use futures::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use tracing::info;

use self::answer::{int, refused};
use self::request::{Audit, ListedLetters};
use super::guard::Caller;
use super::token::Resumable as _;
use super::v1::{self, dead_letter_service_server::DeadLetterService};
use super::validate;
use crate::redrive::{JobProgress, Redrive, RedriveError};
use crate::store::dead_letters::{LetterCollection, LetterEntry, LetterPosition};

/// The most answers that wait for the caller to read them.
const ANSWER_BUFFER: usize = 4;

/// The answers of a method that streams them.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
/// The result of a method that streams its answers.
type Streamed<T> = Result<Response<Answers<T>>, Status>;

/// Answers for whoever works with dead letters: over the network, or in the
/// process of the command line when no service runs.
#[derive(Debug, Clone)]
pub struct DeadLetters {
    redrive: Redrive,
}

impl DeadLetters {
    /// Works with these letters.
    pub fn new(redrive: Redrive) -> Self {
        Self { redrive }
    }

    /// Says good-bye to the broker.
    pub async fn close(&self) {
        self.redrive.close().await;
    }

    /// How index and queue agree, for those who may know of all letters.
    async fn index_for(&self, caller: &Caller) -> Result<Option<v1::IndexState>, Status> {
        if !caller.identity.tenants().are_all() {
            return Ok(None);
        }
        let state = self.redrive.index_state().await.map_err(refused)?;
        Ok(Some(state.into()))
    }
}

#[tonic::async_trait]
impl DeadLetterService for DeadLetters {
    async fn list_dead_letters(
        &self,
        request: Request<v1::ListDeadLettersRequest>,
    ) -> Result<Response<v1::ListDeadLettersResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let discarded = request.discarded;
        let asked = request::list(request, &caller.identity)?;
        let collection = match discarded {
            true => LetterCollection::Discarded,
            false => LetterCollection::Queue,
        };
        let (redrive, filter) = (&self.redrive, &asked.filter);
        let page = redrive.list(collection, filter, asked.after.as_ref(), asked.limit);
        let page = page.await.map_err(refused)?;
        let total = redrive.count(collection, filter).await.map_err(refused)?;
        let index = match discarded {
            true => None,
            false => self.index_for(&caller).await?,
        };
        let next = page.entries.last().filter(|_| page.more).and_then(place);
        let query = ListedLetters { filter, discarded };
        let next = next.map(|place| query.token(&place));
        Ok(Response::new(v1::ListDeadLettersResponse {
            dead_letters: page.entries.into_iter().map(Into::into).collect(),
            next_page_token: next.unwrap_or_default(),
            total: int(total),
            index,
        }))
    }

    async fn get_dead_letter(
        &self,
        request: Request<v1::GetDeadLetterRequest>,
    ) -> Result<Response<v1::GetDeadLetterResponse>, Status> {
        let Caller { identity, .. } = Caller::of(&request)?;
        let id = request::id(&request.into_inner().id)?;
        let permitted = identity.tenants().ids();
        let letter = self.redrive.letter(&id, permitted.as_deref());
        let letter = letter.await.map_err(refused)?;
        let headers = self.redrive.headers(&letter);
        let body = letter.body.filter(|_| identity.reads_bodies());
        Ok(Response::new(v1::GetDeadLetterResponse {
            dead_letter: Some(letter.entry.into()),
            body: body.unwrap_or_default(),
            headers,
        }))
    }

    async fn list_dead_letter_groups(
        &self,
        request: Request<v1::ListDeadLetterGroupsRequest>,
    ) -> Result<Response<v1::ListDeadLetterGroupsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let filter = request::groups(request.into_inner(), &caller.identity)?;
        let groups = self.redrive.groups(&filter).await.map_err(refused)?;
        Ok(Response::new(v1::ListDeadLetterGroupsResponse {
            total: int(groups.iter().map(|group| group.count).sum()),
            groups: groups.into_iter().map(Into::into).collect(),
            index: self.index_for(&caller).await?,
        }))
    }

    type ReplayDeadLettersStream = Answers<v1::ReplayDeadLettersResponse>;

    async fn replay_dead_letters(
        &self,
        request: Request<v1::ReplayDeadLettersRequest>,
    ) -> Streamed<v1::ReplayDeadLettersResponse> {
        let caller = Caller::of(&request)?;
        let mut request = request.into_inner();
        let selection = request::selection(request.selection.take(), false, &caller)?;
        if request.dry_run {
            let plan = self
                .redrive
                .plan(&selection.filter)
                .await
                .map_err(refused)?;
            let event = v1::replay_dead_letters_response::Event::Plan(plan.into());
            let answer = Ok(v1::ReplayDeadLettersResponse { event: Some(event) });
            return Ok(Response::new(Box::pin(tokio_stream::once(answer))));
        }
        let pace = request::pace(&request);
        let redrive = self.redrive.clone();
        let job = move |to| async move { redrive.replay(selection, pace, to).await };
        let progress = streamed(job).map(|progress| {
            let event = v1::replay_dead_letters_response::Event::Progress(progress?);
            Ok(v1::ReplayDeadLettersResponse { event: Some(event) })
        });
        Ok(Response::new(Box::pin(progress)))
    }

    async fn edit_dead_letter(
        &self,
        request: Request<v1::EditDeadLetterRequest>,
    ) -> Result<Response<v1::EditDeadLetterResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let (id, by) = request::edit(&request, &caller)?;
        let permitted = by.filter.permitted.as_deref();
        let checked = self.redrive.check_edit(&id, &request.body, permitted);
        let (edit, event_type, event) = checked.await.map_err(refused)?;
        let mut answer = v1::EditDeadLetterResponse {
            job_id: String::new(),
            event_type: event_type.to_owned(),
            event_id: event.to_string(),
        };
        if !request.validate_only {
            let redrive = self.redrive.clone();
            let job = |to| async move { redrive.edit(edit, by, to).await };
            let mut progress = std::pin::pin!(streamed(job));
            let mut last = None;
            while let Some(progress) = progress.next().await {
                last = Some(progress?);
            }
            let last = last.unwrap_or_default();
            if let Some(v1::DeadLetterFailure { cause, .. }) = last.failures.into_iter().next() {
                return Err(Status::failed_precondition(format!(
                    "the letter {id} was not replayed, and stays in the queue: {cause}"
                )));
            }
            if !last.finished || last.done == 0 {
                return Err(Status::not_found(format!(
                    "the letter {id} is no longer in the queue, or another job has taken it"
                )));
            }
            answer.job_id = last.job_id;
        }
        Ok(Response::new(answer))
    }

    type DiscardDeadLettersStream = Answers<v1::DiscardDeadLettersResponse>;

    async fn discard_dead_letters(
        &self,
        request: Request<v1::DiscardDeadLettersRequest>,
    ) -> Streamed<v1::DiscardDeadLettersResponse> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let reason_needed = !request.dry_run;
        let selection = request::selection(request.selection, reason_needed, &caller)?;
        if request.dry_run {
            let count = self
                .redrive
                .count(LetterCollection::Queue, &selection.filter);
            let progress = v1::JobProgress {
                selected: int(count.await.map_err(refused)?),
                ..Default::default()
            };
            let progress = Some(progress);
            let answer = Ok(v1::DiscardDeadLettersResponse { progress });
            return Ok(Response::new(Box::pin(tokio_stream::once(answer))));
        }
        let redrive = self.redrive.clone();
        let job = |to| async move { redrive.discard(selection, to).await };
        let progress = streamed(job).map(|progress| {
            let progress = Some(progress?);
            Ok(v1::DiscardDeadLettersResponse { progress })
        });
        Ok(Response::new(Box::pin(progress)))
    }

    type UndiscardDeadLettersStream = Answers<v1::UndiscardDeadLettersResponse>;

    async fn undiscard_dead_letters(
        &self,
        request: Request<v1::UndiscardDeadLettersRequest>,
    ) -> Streamed<v1::UndiscardDeadLettersResponse> {
        let caller = Caller::of(&request)?;
        let selection = request.into_inner().selection;
        let selection = request::selection(selection, false, &caller)?;
        let redrive = self.redrive.clone();
        let job = |to| async move { redrive.undiscard(selection, to).await };
        let progress = streamed(job).map(|progress| {
            let progress = Some(progress?);
            Ok(v1::UndiscardDeadLettersResponse { progress })
        });
        Ok(Response::new(Box::pin(progress)))
    }

    async fn sync_dead_letters(
        &self,
        request: Request<v1::SyncDeadLettersRequest>,
    ) -> Result<Response<v1::SyncDeadLettersResponse>, Status> {
        let caller = Caller::of(&request)?;
        validate::of_all_tenants(&caller.identity)?;
        info!(
            by = caller.described(),
            "the index of dead letters is compared with the queue"
        );
        let synced = self.redrive.sync().await.map_err(refused)?;
        Ok(Response::new(v1::SyncDeadLettersResponse {
            examined: int(synced.examined),
            added: int(synced.added),
            removed: int(synced.removed),
        }))
    }

    async fn list_dead_letter_audit(
        &self,
        request: Request<v1::ListDeadLetterAuditRequest>,
    ) -> Result<Response<v1::ListDeadLetterAuditResponse>, Status> {
        let Caller { identity, .. } = Caller::of(&request)?;
        let (before, limit) = request::audit(&request.into_inner())?;
        let permitted = identity.tenants().ids();
        let jobs = self
            .redrive
            .audit(before.as_deref(), permitted.as_deref(), limit);
        let (mut jobs, more) = jobs.await.map_err(refused)?;
        let next = jobs.last().filter(|_| more);
        let next = next.map(|last| Audit.token(&last.id.as_str().to_owned()));
        if !identity.reads_bodies() {
            for edit in jobs.iter_mut().filter_map(|job| job.edit.as_mut()) {
                (edit.before, edit.after) = Default::default();
            }
        }
        Ok(Response::new(v1::ListDeadLetterAuditResponse {
            jobs: jobs.into_iter().map(Into::into).collect(),
            next_page_token: next.unwrap_or_default(),
        }))
    }
}

/// Runs a job for as long as its answers are read; the last is its error, if it
/// has one.
fn streamed<F>(
    job: impl FnOnce(mpsc::Sender<JobProgress>) -> F,
) -> impl Stream<Item = Result<v1::JobProgress, Status>>
where
    F: Future<Output = Result<(), RedriveError>> + Send + 'static,
{
    let (to, progress) = mpsc::channel(ANSWER_BUFFER);
    let job = job(to);
    let (failed, failure) = mpsc::channel(1);
    // A task of its own: a caller that goes away must not cut it off half-way.
    tokio::spawn(async move {
        if let Err(error) = job.await {
            let _ = failed.send(refused(error)).await;
        }
    });
    let progress = ReceiverStream::new(progress).map(|progress| Ok(progress.into()));
    progress.chain(ReceiverStream::new(failure).map(Err))
}

fn place(last: &LetterEntry) -> Option<LetterPosition> {
    let at = last.details.last_failed_at?.unix_timestamp_nanos() / 1_000_000;
    Some(LetterPosition {
        millis: i64::try_from(at).ok()?,
        id: last.id.clone(),
    })
}
