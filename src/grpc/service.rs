//! The methods: validate, read, map.

use std::sync::Arc;

use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::auth::Identity;
use crate::event::EventId;
use crate::store::read::{self, Query, ReadError, Reader};

use super::admission::Sharer;
use super::guard::{Caller, account};
use super::health::StoreState;
use super::limits::{Cost, Deadline, Kept, Limits};
use super::token::{self, Scope};
use super::v1::{self, counter_service_server::CounterService};
use super::validate;

/// Answers from the store.
#[derive(Debug)]
pub(super) struct Counters {
    reader: Reader,
    limits: Limits,
    store: StoreState,
}

/// What a call is apart from its message.
struct Call {
    method: &'static str,
    cost: Cost,
    who: Arc<Identity>,
    deadline: Deadline,
    /// On whose account it takes a place.
    caller: String,
}

/// An answer, and what it keeps until the caller has it.
struct Answered<A> {
    answer: A,
    kept: Kept,
}

impl<A> Answered<A> {
    fn with<M>(self, message: impl FnOnce(A) -> M) -> Response<M> {
        let mut response = Response::new(message(self.answer));
        response.extensions_mut().insert(self.kept);
        response
    }
}

#[tonic::async_trait]
impl CounterService for Counters {
    async fn get_user_stats(
        &self,
        request: Request<v1::GetUserStatsRequest>,
    ) -> Result<Response<v1::UserStats>, Status> {
        let (call, request) = self.open("GetUserStats", request)?;
        let (query, after) = validate::user(&request, &call.who)?;
        let answer = self.answer(call, query, after).await?;
        only(answer)
    }

    async fn batch_get_user_stats(
        &self,
        request: Request<v1::BatchGetUserStatsRequest>,
    ) -> Result<Response<v1::BatchGetUserStatsResponse>, Status> {
        let (call, request) = self.open("BatchGetUserStats", request)?;
        let (query, after) = validate::users(&request, &call.who)?;
        let answer = self.answer(call, query, after).await?;
        Ok(answer.with(|answer| v1::BatchGetUserStatsResponse {
            user_stats: all(answer),
        }))
    }

    async fn get_user_dialog_stats(
        &self,
        request: Request<v1::GetUserDialogStatsRequest>,
    ) -> Result<Response<v1::UserDialogStats>, Status> {
        let (call, request) = self.open("GetUserDialogStats", request)?;
        let (query, after) = validate::user_in_dialog(&request, &call.who)?;
        let answer = self.answer(call, query, after).await?;
        Ok(answer.with(Into::into))
    }

    async fn list_user_dialog_stats(
        &self,
        request: Request<v1::ListUserDialogStatsRequest>,
    ) -> Result<Response<v1::ListUserDialogStatsResponse>, Status> {
        let (call, request) = self.open("ListUserDialogStats", request)?;
        let (query, after) = validate::dialogs_of_user(&request, &call.who)?;
        let page = self.answer(call, query.clone(), after).await?;
        Ok(page.with(|page| v1::ListUserDialogStatsResponse {
            next_page_token: next_page_token(&query, &page),
            user_dialog_stats: all(page.dialogs),
        }))
    }

    async fn get_dialog_stats(
        &self,
        request: Request<v1::GetDialogStatsRequest>,
    ) -> Result<Response<v1::DialogStats>, Status> {
        let (call, request) = self.open("GetDialogStats", request)?;
        let (query, after) = validate::dialog(&request, &call.who)?;
        let answer = self.answer(call, query, after).await?;
        only(answer)
    }

    async fn batch_get_dialog_stats(
        &self,
        request: Request<v1::BatchGetDialogStatsRequest>,
    ) -> Result<Response<v1::BatchGetDialogStatsResponse>, Status> {
        let (call, request) = self.open("BatchGetDialogStats", request)?;
        let (query, after) = validate::dialogs(&request, &call.who)?;
        let answer = self.answer(call, query, after).await?;
        Ok(answer.with(|answer| v1::BatchGetDialogStatsResponse {
            dialog_stats: all(answer),
        }))
    }

    async fn get_message_stats(
        &self,
        request: Request<v1::GetMessageStatsRequest>,
    ) -> Result<Response<v1::MessageStats>, Status> {
        let (call, request) = self.open("GetMessageStats", request)?;
        let (query, after) = validate::message(&request, &call.who)?;
        let answer = self.answer(call, query, after).await?;
        only(answer)
    }

    async fn batch_get_message_stats(
        &self,
        request: Request<v1::BatchGetMessageStatsRequest>,
    ) -> Result<Response<v1::BatchGetMessageStatsResponse>, Status> {
        let (call, request) = self.open("BatchGetMessageStats", request)?;
        let (query, after) = validate::messages(&request, &call.who)?;
        let answer = self.answer(call, query, after).await?;
        Ok(answer.with(|answer| v1::BatchGetMessageStatsResponse {
            message_stats: all(answer),
        }))
    }

    async fn list_counter_history(
        &self,
        request: Request<v1::ListCounterHistoryRequest>,
    ) -> Result<Response<v1::ListCounterHistoryResponse>, Status> {
        let (mut call, request) = self.open("ListCounterHistory", request)?;
        call.cost = Cost::History;
        let (query, after) = validate::history(&request, &call.who)?;
        let page = self.answer(call, query.clone(), after).await?;
        Ok(page.with(|page| {
            let next = page.next.as_ref().map(|next| token::after(&query, next));
            let values = page.values.into_iter();
            let values = values.map(|(counter, value)| (counter.to_string(), value));
            v1::ListCounterHistoryResponse {
                entries: all(page.entries),
                next_page_token: next.unwrap_or_default(),
                current_values: values.filter(|(_, value)| *value != 0).collect(),
            }
        }))
    }
}

impl Counters {
    pub(super) fn new(reader: Reader, limits: Limits, store: StoreState) -> Self {
        Self {
            reader,
            limits,
            store,
        }
    }

    fn open<T>(&self, method: &'static str, request: Request<T>) -> Result<(Call, T), Status> {
        let call = Call {
            method,
            cost: Cost::Read,
            deadline: self.limits.deadline(request.metadata().as_ref()),
            caller: account(request.extensions()),
            who: Caller::of(&request)?.identity,
        };
        Ok((call, request.into_inner()))
    }

    /// Answers; when the event `after` is not there yet, waits for it meanwhile
    /// without keeping others from reading.
    async fn answer<Q: Query<Answer: 'static> + 'static>(
        &self,
        call: Call,
        query: Q,
        after: Option<EventId>,
    ) -> Result<Answered<Q::Answer>, Status> {
        if self.store.is_lost() {
            return Err(unavailable());
        }
        let query = Arc::new(query);
        let sharers = vec![
            Sharer::Caller(call.caller.clone()),
            Sharer::Tenant(query.tenant().to_string()),
        ];
        let entered = self.limits.enter(call.cost, sharers.clone(), call.deadline);
        // Calls that wait for the store may be what takes all the places.
        let mut kept = entered.await.map_err(|busy| self.or_unavailable(busy))?;
        loop {
            let read = self.read(&call, Arc::clone(&query), after.clone(), kept);
            match (read.await?, &after) {
                (Some(answered), _) => return Ok(answered),
                (None, None) => return Err(internal()),
                (None, Some(after)) => {
                    let waiting = self.limits.wait(sharers.clone())?;
                    let taken = self.reader.taken(query.tenant(), after, call.deadline.soft);
                    tokio::select! {
                        taken = taken => taken.map_err(|error| status(&error))?,
                        () = self.store.lost() => return Err(unavailable()),
                    }
                    drop(waiting);
                    let resumed = self
                        .limits
                        .resume(call.cost, sharers.clone(), call.deadline);
                    kept = resumed.await?;
                }
            }
        }
    }

    /// Reads in a task of its own, which outlives a caller that is gone or out
    /// of patience and keeps the call's place: the driver's futures are not to
    /// be dropped half-way, and a slow store must not pile reads up. `None` when
    /// the event `after` is not there yet.
    async fn read<Q: Query<Answer: 'static> + 'static>(
        &self,
        call: &Call,
        query: Arc<Q>,
        after: Option<EventId>,
        kept: Kept,
    ) -> Result<Option<Answered<Q::Answer>>, Status> {
        let Deadline { soft, hard } = call.deadline;
        let method = call.method;
        let span = tracing::info_span!("grpc", method, tenant = %query.tenant());
        let reader = self.reader.clone();
        let read = async move {
            match reader.ask(&*query, after.as_ref(), soft).await {
                Ok(answer) => Ok(Some(Answered { answer, kept })),
                Err(ReadError::EventNotSeen) => Ok(None),
                Err(error) => Err(status(&error)),
            }
        };
        let read = tokio::spawn(read.instrument(span));
        tokio::select! {
            answer = read => answer.unwrap_or_else(|_panicked| Err(internal())),
            () = self.store.lost() => Err(unavailable()),
            () = tokio::time::sleep_until(hard) => {
                Err(self.or_unavailable(status(&ReadError::TooSlow)))
            }
        }
    }

    /// What a caller is told while the store cannot be reached, whatever it
    /// shows in.
    fn or_unavailable(&self, status: Status) -> Status {
        match self.store.is_unreachable() {
            true => unavailable(),
            false => status,
        }
    }
}

/// What the caller is told. Errors that say something about the service are
/// logged here, and only here; an unreachable store is logged by its probe.
fn status(error: &ReadError) -> Status {
    match error {
        ReadError::EventNotSeen | ReadError::TooSlow => {
            Status::deadline_exceeded(error.to_string())
        }
        ReadError::NoSnapshot(_) => {
            Status::unavailable("the store has no snapshot to read from, try again later")
        }
        ReadError::Unreachable(_) => {
            tracing::debug!(%error, "not answered");
            unavailable()
        }
        ReadError::TooMuch(_) | ReadError::TooManyReads(_) => {
            Status::resource_exhausted(error.to_string())
        }
        ReadError::Driver(_) | ReadError::Malformed { .. } => {
            tracing::error!(%error, "not answered");
            internal()
        }
    }
}

pub(super) fn unavailable() -> Status {
    Status::unavailable("the store cannot be reached, try again later")
}

pub(super) fn internal() -> Status {
    Status::internal("an error of the service: its log says more")
}

fn all<A, M: From<A>>(answers: Vec<A>) -> Vec<M> {
    answers.into_iter().map(M::from).collect()
}

/// The answer to a question about one thing.
fn only<A, M: From<A>>(answered: Answered<Vec<A>>) -> Result<Response<M>, Status> {
    let Answered { mut answer, kept } = answered;
    let answer = answer.pop().ok_or_else(internal)?;
    Ok(Answered { answer, kept }.with(Into::into))
}

fn next_page_token(query: &read::DialogsOfUser, page: &read::Page) -> String {
    let scope = Scope {
        tenant: &query.tenant,
        user: &query.user,
        unread_only: query.unread_only,
    };
    match page.dialogs.last() {
        Some(last) if page.more => scope.token(&last.dialog),
        _ => String::new(),
    }
}
