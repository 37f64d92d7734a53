//! The methods: validate, read, map.

use tonic::{Request, Response, Status};

use super::failure;
use super::limits::Cost;
use super::reads::{Answered, ReadPath};
use super::token::Resumable as _;
use super::v1::{self, counter_service_server::CounterService};
use super::validate::{self, Listing};
use super::watches::{Messages, Watches};
use crate::store::read;

/// Answers `CounterService`, from memory where that is served, else from the store.
#[derive(Debug)]
pub(super) struct Counters {
    reads: ReadPath,
    watches: Watches,
}

#[tonic::async_trait]
impl CounterService for Counters {
    async fn get_user_stats(
        &self,
        request: Request<v1::GetUserStatsRequest>,
    ) -> Result<Response<v1::UserStats>, Status> {
        let (mut call, request) = self.reads.open("GetUserStats", request)?;
        call.staleness = validate::staleness(request.max_staleness_ms)?;
        let (query, after) = validate::user(&request, &call.who)?;
        let answer = self.reads.answer_from_memory(call, query, after).await?;
        let as_of = answer.as_of();
        let mut response: Response<v1::UserStats> = only(answer)?;
        response.get_mut().as_of = as_of;
        Ok(response)
    }

    async fn batch_get_user_stats(
        &self,
        request: Request<v1::BatchGetUserStatsRequest>,
    ) -> Result<Response<v1::BatchGetUserStatsResponse>, Status> {
        let (call, request) = self.reads.open("BatchGetUserStats", request)?;
        let (query, after) = validate::users(&request, &call.who)?;
        let answer = self.reads.answer_from_memory(call, query, after).await?;
        Ok(answer.with(|answer| v1::BatchGetUserStatsResponse {
            user_stats: all(answer),
        }))
    }

    async fn get_user_dialog_stats(
        &self,
        request: Request<v1::GetUserDialogStatsRequest>,
    ) -> Result<Response<v1::UserDialogStats>, Status> {
        let (mut call, request) = self.reads.open("GetUserDialogStats", request)?;
        call.staleness = validate::staleness(request.max_staleness_ms)?;
        let (query, after) = validate::user_in_dialog(&request, &call.who)?;
        let answer = self.reads.answer_from_memory(call, query, after).await?;
        let as_of = answer.as_of();
        let mut response = answer.with(v1::UserDialogStats::from);
        response.get_mut().as_of = as_of;
        Ok(response)
    }

    async fn list_user_dialog_stats(
        &self,
        request: Request<v1::ListUserDialogStatsRequest>,
    ) -> Result<Response<v1::ListUserDialogStatsResponse>, Status> {
        let (call, request) = self.reads.open("ListUserDialogStats", request)?;
        match validate::dialogs_of_user(&request, &call.who)? {
            (Listing::ById(query), after) => {
                let page = self
                    .reads
                    .answer_from_memory(call, query.clone(), after)
                    .await?;
                Ok(page.with(|page| v1::ListUserDialogStatsResponse {
                    next_page_token: next_page_token(&query, &page),
                    user_dialog_stats: all(page.dialogs),
                }))
            }
            (Listing::InOrder(query), after) => {
                let page = self
                    .reads
                    .answer_from_memory(call, query.clone(), after)
                    .await?;
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
        let (mut call, request) = self.reads.open("GetDialogStats", request)?;
        call.staleness = validate::staleness(request.max_staleness_ms)?;
        let (query, after) = validate::dialog(&request, &call.who)?;
        let answer = self.reads.answer_from_memory(call, query, after).await?;
        let as_of = answer.as_of();
        let mut response: Response<v1::DialogStats> = only(answer)?;
        response.get_mut().as_of = as_of;
        Ok(response)
    }

    async fn batch_get_dialog_stats(
        &self,
        request: Request<v1::BatchGetDialogStatsRequest>,
    ) -> Result<Response<v1::BatchGetDialogStatsResponse>, Status> {
        let (call, request) = self.reads.open("BatchGetDialogStats", request)?;
        let (query, after) = validate::dialogs(&request, &call.who)?;
        let answer = self.reads.answer_from_memory(call, query, after).await?;
        Ok(answer.with(|answer| v1::BatchGetDialogStatsResponse {
            dialog_stats: all(answer),
        }))
    }

    async fn get_message_stats(
        &self,
        request: Request<v1::GetMessageStatsRequest>,
    ) -> Result<Response<v1::MessageStats>, Status> {
        let (call, request) = self.reads.open("GetMessageStats", request)?;
        let (query, after) = validate::message(&request, &call.who)?;
        let answer = self.reads.answer(call, query, after).await?;
        only(answer)
    }

    async fn batch_get_message_stats(
        &self,
        request: Request<v1::BatchGetMessageStatsRequest>,
    ) -> Result<Response<v1::BatchGetMessageStatsResponse>, Status> {
        let (call, request) = self.reads.open("BatchGetMessageStats", request)?;
        let (query, after) = validate::messages(&request, &call.who)?;
        let answer = self.reads.answer(call, query, after).await?;
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
        let (mut call, request) = self.reads.open("ListCounterHistory", request)?;
        call.cost = Cost::History;
        let (query, after) = validate::history(&request, &call.who)?;
        let page = self.reads.answer(call, query.clone(), after).await?;
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
    /// Answers reads by this path, and watches with these streams.
    pub(super) fn new(reads: ReadPath, watches: Watches) -> Self {
        Self { reads, watches }
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

fn next_page_token(query: &read::DialogsOfUser, page: &read::DialogsPage) -> String {
    match page.dialogs.last() {
        Some(last) if page.more => query.token(&last.dialog),
        _ => String::new(),
    }
}

fn next_token_in_order(query: &read::DialogsInOrder, page: &read::PageInOrder) -> String {
    let next = page.next.as_ref();
    next.map(|last| query.token(last)).unwrap_or_default()
}
