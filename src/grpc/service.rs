//! The methods: validate, read, map.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::runtime::Handle;
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::auth::Identity;
use crate::event::{EventId, TenantId};
use crate::serving::{Remembered, Serving};
use crate::store::read::{self, Query, ReadError, Reader};

use super::admission::Sharer;
use super::failure;
use super::guard::{Caller, account};
use super::health::StoreState;
use super::limits::{Cost, Deadline, Kept, Limits};
use super::token::Resumable as _;
use super::v1::{self, counter_service_server::CounterService};
use super::validate::{self, Listing};
use super::watches::{Messages, Watches};

/// Answers from the store.
#[derive(Debug)]
pub(super) struct Counters {
    reader: Reader,
    serving: Option<Serving>,
    limits: Limits,
    store: StoreState,
    watches: Watches,
}

/// What a call is apart from its message.
struct Call {
    method: &'static str,
    cost: Cost,
    who: Arc<Identity>,
    deadline: Deadline,
    /// On whose account it takes a place.
    caller: String,
    /// How old the answer may be.
    staleness: Duration,
    began: SystemTime,
}

impl Call {
    /// Of an answer that has all that was committed before the call.
    fn as_of(&self) -> Option<SystemTime> {
        (!self.staleness.is_zero()).then_some(self.began)
    }

    /// On whose accounts it takes a place.
    fn sharers(&self, query: &impl Query) -> Vec<Sharer> {
        vec![
            Sharer::Caller(self.caller.clone()),
            Sharer::Tenant(query.tenant().to_string()),
        ]
    }
}

/// An answer, and what it keeps until the caller has it.
struct Answered<A> {
    answer: A,
    kept: Kept,
    /// All that was committed before this is in it; `None` where nobody asked.
    as_of: Option<SystemTime>,
}

impl<A> Answered<A> {
    fn as_of(&self) -> Option<prost_types::Timestamp> {
        self.as_of.map(prost_types::Timestamp::from)
    }

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
        let (mut call, request) = self.open("GetUserStats", request)?;
        call.staleness = validate::staleness(request.max_staleness_ms)?;
        let (query, after) = validate::user(&request, &call.who)?;
        let answer = self.recall(call, query, after).await?;
        let as_of = answer.as_of();
        let mut response: Response<v1::UserStats> = only(answer)?;
        response.get_mut().as_of = as_of;
        Ok(response)
    }

    async fn batch_get_user_stats(
        &self,
        request: Request<v1::BatchGetUserStatsRequest>,
    ) -> Result<Response<v1::BatchGetUserStatsResponse>, Status> {
        let (call, request) = self.open("BatchGetUserStats", request)?;
        let (query, after) = validate::users(&request, &call.who)?;
        let answer = self.recall(call, query, after).await?;
        Ok(answer.with(|answer| v1::BatchGetUserStatsResponse {
            user_stats: all(answer),
        }))
    }

    async fn get_user_dialog_stats(
        &self,
        request: Request<v1::GetUserDialogStatsRequest>,
    ) -> Result<Response<v1::UserDialogStats>, Status> {
        let (mut call, request) = self.open("GetUserDialogStats", request)?;
        call.staleness = validate::staleness(request.max_staleness_ms)?;
        let (query, after) = validate::user_in_dialog(&request, &call.who)?;
        let answer = self.recall(call, query, after).await?;
        let as_of = answer.as_of();
        let mut response = answer.with(v1::UserDialogStats::from);
        response.get_mut().as_of = as_of;
        Ok(response)
    }

    async fn list_user_dialog_stats(
        &self,
        request: Request<v1::ListUserDialogStatsRequest>,
    ) -> Result<Response<v1::ListUserDialogStatsResponse>, Status> {
        let (call, request) = self.open("ListUserDialogStats", request)?;
        match validate::dialogs_of_user(&request, &call.who)? {
            (Listing::ById(query), after) => {
                let page = self.recall(call, query.clone(), after).await?;
                Ok(page.with(|page| v1::ListUserDialogStatsResponse {
                    next_page_token: next_page_token(&query, &page),
                    user_dialog_stats: all(page.dialogs),
                }))
            }
            (Listing::InOrder(query), after) => {
                let page = self.recall(call, query.clone(), after).await?;
                Ok(page.with(|page| v1::ListUserDialogStatsResponse {
                    next_page_token: next_token_in_order(&query, &page),
                    user_dialog_stats: all(page.dialogs),
                }))
            }
        }
    }

    async fn get_dialog_stats(
        &self,
        request: Request<v1::GetDialogStatsRequest>,
    ) -> Result<Response<v1::DialogStats>, Status> {
        let (mut call, request) = self.open("GetDialogStats", request)?;
        call.staleness = validate::staleness(request.max_staleness_ms)?;
        let (query, after) = validate::dialog(&request, &call.who)?;
        let answer = self.recall(call, query, after).await?;
        let as_of = answer.as_of();
        let mut response: Response<v1::DialogStats> = only(answer)?;
        response.get_mut().as_of = as_of;
        Ok(response)
    }

    async fn batch_get_dialog_stats(
        &self,
        request: Request<v1::BatchGetDialogStatsRequest>,
    ) -> Result<Response<v1::BatchGetDialogStatsResponse>, Status> {
        let (call, request) = self.open("BatchGetDialogStats", request)?;
        let (query, after) = validate::dialogs(&request, &call.who)?;
        let answer = self.recall(call, query, after).await?;
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

    type WatchUserStatsStream = Messages<v1::WatchUserStatsResponse>;

    async fn watch_user_stats(
        &self,
        request: Request<v1::WatchUserStatsRequest>,
    ) -> Result<Response<Self::WatchUserStatsStream>, Status> {
        self.watches.users(&request)
    }

    type WatchDialogStatsStream = Messages<v1::WatchDialogStatsResponse>;

    async fn watch_dialog_stats(
        &self,
        request: Request<v1::WatchDialogStatsRequest>,
    ) -> Result<Response<Self::WatchDialogStatsStream>, Status> {
        self.watches.dialogs(&request)
    }

    async fn change_watch(
        &self,
        request: Request<v1::ChangeWatchRequest>,
    ) -> Result<Response<v1::ChangeWatchResponse>, Status> {
        self.watches.change(&request).map(Response::new)
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
            let next = page.next.as_ref().map(|next| query.token(next));
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
    pub(super) fn new(
        (reader, serving): (Reader, Option<Serving>),
        limits: Limits,
        store: StoreState,
        watches: Watches,
    ) -> Self {
        Self {
            reader,
            serving,
            limits,
            store,
            watches,
        }
    }

    fn open<T>(&self, method: &'static str, request: Request<T>) -> Result<(Call, T), Status> {
        let call = Call {
            method,
            cost: Cost::Read,
            deadline: self.limits.deadline(request.metadata().as_ref()),
            caller: account(request.extensions()),
            staleness: Duration::ZERO,
            began: SystemTime::now(),
            who: Caller::of(&request)?.identity,
        };
        Ok((call, request.into_inner()))
    }

    /// Answers from memory, if that is served.
    async fn recall<Q>(
        &self,
        call: Call,
        query: Q,
        after: Option<EventId>,
    ) -> Result<Answered<Q::Answer>, Status>
    where
        Q: Remembered + 'static,
    {
        let Some(serving) = &self.serving else {
            return self.answer(call, query, after).await;
        };
        let sharers = call.sharers(&query);
        if after.is_none() && !call.staleness.is_zero() {
            let entered = self.limits.enter(call.cost, sharers.clone(), call.deadline);
            let kept = entered.await?;
            if let Some((answer, as_of)) = serving.recent(&query, call.staleness) {
                let as_of = Some(as_of);
                return Ok(Answered {
                    answer,
                    kept,
                    as_of,
                });
            }
        }
        if self.store.is_lost() {
            return Err(failure::unavailable());
        }
        if let Some(after) = &after {
            self.await_event(&call, query.tenant(), after, &sharers)
                .await?;
        }
        let entered = self.limits.enter(call.cost, sharers, call.deadline);
        let kept = entered.await.map_err(|busy| self.or_unavailable(busy))?;
        let answer = tokio::select! {
            answer = serving.answer(&query, call.deadline.soft) => answer,
            () = self.store.lost() => return Err(failure::unavailable()),
        };
        match answer {
            Some(answer) => Ok(Answered {
                answer,
                kept,
                as_of: call.as_of(),
            }),
            None => {
                let read = self.read(&call, Arc::new(query), None, kept);
                read.await?.ok_or_else(failure::internal)
            }
        }
    }

    /// Waits for an event without keeping others from reading.
    async fn await_event(
        &self,
        call: &Call,
        tenant: &TenantId,
        event: &EventId,
        sharers: &[Sharer],
    ) -> Result<(), Status> {
        let waiting = self.limits.wait(sharers.to_vec())?;
        let taken = self.reader.taken(tenant, event, call.deadline.soft);
        tokio::select! {
            taken = taken => taken.map_err(|error| failure::of_read(&error))?,
            () = self.store.lost() => return Err(failure::unavailable()),
        }
        drop(waiting);
        Ok(())
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
            return Err(failure::unavailable());
        }
        let query = Arc::new(query);
        let sharers = call.sharers(&*query);
        let entered = self.limits.enter(call.cost, sharers.clone(), call.deadline);
        // Calls that wait for the store may be what takes all the places.
        let mut kept = entered.await.map_err(|busy| self.or_unavailable(busy))?;
        loop {
            let read = self.read(&call, Arc::clone(&query), after.clone(), kept);
            match (read.await?, &after) {
                (Some(answered), _) => return Ok(answered),
                (None, None) => return Err(failure::internal()),
                (None, Some(after)) => {
                    self.await_event(&call, query.tenant(), after, &sharers)
                        .await?;
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
        let as_of = call.as_of();
        let read = async move {
            match reader.ask(&*query, after.as_ref(), soft).await {
                Ok(answer) => Ok(Some(Answered {
                    answer,
                    kept,
                    as_of,
                })),
                Err(ReadError::EventNotSeen) => Ok(None),
                Err(error) => Err(failure::of_read(&error)),
            }
        };
        let read = read.instrument(span);
        let read = match call.cost {
            // Replaying takes a while without a pause: not on a thread that
            // answers others.
            Cost::History => {
                let runtime = Handle::current();
                tokio::task::spawn_blocking(move || runtime.block_on(read))
            }
            _ => tokio::spawn(read),
        };
        tokio::select! {
            answer = read => answer.unwrap_or_else(|_panicked| Err(failure::internal())),
            () = self.store.lost() => Err(failure::unavailable()),
            () = tokio::time::sleep_until(hard) => {
                Err(self.or_unavailable(failure::of_read(&ReadError::TooSlow)))
            }
        }
    }

    /// What a caller is told while the store cannot be reached, whatever it
    /// shows in.
    fn or_unavailable(&self, status: Status) -> Status {
        match self.store.is_unreachable() {
            true => failure::unavailable(),
            false => status,
        }
    }
}

fn all<A, M: From<A>>(answers: Vec<A>) -> Vec<M> {
    answers.into_iter().map(M::from).collect()
}

/// The answer to a question about one thing.
fn only<A, M: From<A>>(answered: Answered<Vec<A>>) -> Result<Response<M>, Status> {
    let Answered {
        mut answer,
        kept,
        as_of,
    } = answered;
    let answer = answer.pop().ok_or_else(failure::internal)?;
    let answered = Answered {
        answer,
        kept,
        as_of,
    };
    Ok(answered.with(Into::into))
}

fn next_page_token(query: &read::DialogsOfUser, page: &read::Page) -> String {
    match page.dialogs.last() {
        Some(last) if page.more => query.token(&last.dialog),
        _ => String::new(),
    }
}

fn next_token_in_order(query: &read::DialogsInOrder, page: &read::PageInOrder) -> String {
    let next = page.next.as_ref();
    next.map(|last| query.token(last)).unwrap_or_default()
}
