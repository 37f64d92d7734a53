//! The methods: validate, read, map.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::auth::Identity;
use crate::event::EventId;
use crate::store::read::{self, Query, ReadError, Reader};

use super::guard::Caller;
use super::health::StoreState;
use super::limits::{Deadline, Limits, Permit};
use super::token::{self, Scope};
use super::v1::{self, counter_service_server::CounterService};
use super::validate;

/// Histories replayed at once; others wait. Each may take 200 MB.
const HISTORIES: usize = 2;

/// Answers from the store.
#[derive(Debug)]
pub(super) struct Counters {
    reader: Reader,
    limits: Limits,
    store: StoreState,
    histories: Arc<Semaphore>,
}

/// What a call is apart from its message.
struct Call {
    method: &'static str,
    who: Arc<Identity>,
    deadline: Deadline,
    permit: Option<Permit>,
    /// Its place among the histories, if it is one.
    turn: Option<OwnedSemaphorePermit>,
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
        let user_stats = all(answer);
        Ok(Response::new(v1::BatchGetUserStatsResponse { user_stats }))
    }

    async fn get_user_dialog_stats(
        &self,
        request: Request<v1::GetUserDialogStatsRequest>,
    ) -> Result<Response<v1::UserDialogStats>, Status> {
        let (call, request) = self.open("GetUserDialogStats", request)?;
        let (query, after) = validate::user_in_dialog(&request, &call.who)?;
        let answer = self.answer(call, query, after).await?;
        Ok(Response::new(answer.into()))
    }

    async fn list_user_dialog_stats(
        &self,
        request: Request<v1::ListUserDialogStatsRequest>,
    ) -> Result<Response<v1::ListUserDialogStatsResponse>, Status> {
        let (call, request) = self.open("ListUserDialogStats", request)?;
        let (query, after) = validate::dialogs_of_user(&request, &call.who)?;
        let page = self.answer(call, query.clone(), after).await?;
        let next_page_token = next_page_token(&query, &page);
        Ok(Response::new(v1::ListUserDialogStatsResponse {
            user_dialog_stats: all(page.dialogs),
            next_page_token,
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
        let dialog_stats = all(answer);
        Ok(Response::new(v1::BatchGetDialogStatsResponse {
            dialog_stats,
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
        let message_stats = all(answer);
        Ok(Response::new(v1::BatchGetMessageStatsResponse {
            message_stats,
        }))
    }

    async fn list_counter_history(
        &self,
        request: Request<v1::ListCounterHistoryRequest>,
    ) -> Result<Response<v1::ListCounterHistoryResponse>, Status> {
        let (mut call, request) = self.open("ListCounterHistory", request)?;
        let (query, after) = validate::history(&request, &call.who)?;
        call.turn = Some(self.turn(&call).await?);
        let page = self.answer(call, query.clone(), after).await?;
        let next = page.next.as_ref().map(|next| token::after(&query, next));
        let values = page.values.into_iter();
        let values = values.map(|(counter, value)| (counter.to_string(), value));
        Ok(Response::new(v1::ListCounterHistoryResponse {
            entries: all(page.entries),
            next_page_token: next.unwrap_or_default(),
            current_values: values.filter(|(_, value)| *value != 0).collect(),
        }))
    }
}

impl Counters {
    pub(super) fn new(reader: Reader, limits: Limits, store: StoreState) -> Self {
        Self {
            reader,
            limits,
            store,
            histories: Arc::new(Semaphore::new(HISTORIES)),
        }
    }

    /// Waits until there is a place for one more history.
    async fn turn(&self, call: &Call) -> Result<OwnedSemaphorePermit, Status> {
        let free = Arc::clone(&self.histories).acquire_owned();
        match tokio::time::timeout_at(call.deadline.soft, free).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Status::resource_exhausted(
                "too many histories at once, try again later",
            )),
        }
    }

    fn open<T>(&self, method: &'static str, mut request: Request<T>) -> Result<(Call, T), Status> {
        let call = Call {
            method,
            who: Caller::of(&request)?.identity,
            deadline: self.limits.deadline(request.metadata()),
            permit: request.extensions_mut().remove::<Permit>(),
            turn: None,
        };
        Ok((call, request.into_inner()))
    }

    /// Reads in a task of its own, which outlives a caller that is gone or out
    /// of patience and keeps the call's permit: the driver's futures are not to
    /// be dropped half-way, and a slow store must not pile reads up.
    async fn answer<Q: Query<Answer: 'static> + 'static>(
        &self,
        call: Call,
        query: Q,
        after: Option<EventId>,
    ) -> Result<Q::Answer, Status> {
        let Call {
            method,
            deadline,
            permit,
            turn,
            ..
        } = call;
        if self.store.is_lost() {
            return Err(unavailable());
        }
        let span = tracing::info_span!("grpc", method, tenant = %query.tenant());
        let reader = self.reader.clone();
        let read = async move {
            let _places = (permit, turn);
            let answer = reader.ask(&query, after.as_ref(), deadline.soft).await;
            answer.map_err(|error| status(&error))
        };
        let read = tokio::spawn(read.instrument(span));
        tokio::select! {
            answer = read => answer.unwrap_or_else(|_panicked| Err(internal())),
            () = self.store.lost() => Err(unavailable()),
            () = tokio::time::sleep_until(deadline.hard) => match self.store.is_unreachable() {
                true => Err(unavailable()),
                false => Err(status(&ReadError::TooSlow)),
            },
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

fn internal() -> Status {
    Status::internal("an error of the service: its log says more")
}

fn all<A, M: From<A>>(answers: Vec<A>) -> Vec<M> {
    answers.into_iter().map(M::from).collect()
}

/// The answer to a question about one thing.
fn only<A, M: From<A>>(mut answers: Vec<A>) -> Result<Response<M>, Status> {
    match answers.pop() {
        Some(answer) => Ok(Response::new(answer.into())),
        None => Err(internal()),
    }
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
