//! Watch: streams that tell how users and dialogs stand, and of every change.
//!
//! What is told is read when the client takes it, so a stream has no queue. Each
//! has an end of its own, by which its client comes back, perhaps to another
//! replica: the connection's would cut it in the middle.

mod registry;
mod stream;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::Stream;
use tonic::{Request, Response, Status};

use super::admission::Sharer;
use super::bounds::MAX_WATCHED;
use super::edge::LongLived;
use super::guard::{Caller, account};
use super::limits::Limits;
use super::v1;
use super::validate::{self, Watched};
use crate::listener::Peer;
use crate::serving::Serving;
use crate::serving::watching::Subject;
use crate::shutdown::Shutdown;
use registry::{OpenStreams, StreamEntry, lock, register};
use stream::{OpenStream, StreamEnd, WatchMessage};

/// The time after which clients are told to try again where there is no room.
const RETRY_AFTER_NO_ROOM: Duration = Duration::from_secs(10);

/// The messages of a stream.
pub(super) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// All streams of this process.
#[derive(Debug)]
pub(super) struct Watches {
    serving: Option<Serving>,
    limits: Limits,
    open: Arc<Mutex<OpenStreams>>,
    shutdown: Shutdown,
}

impl Watches {
    pub(super) fn new(serving: Option<Serving>, limits: Limits, shutdown: Shutdown) -> Self {
        Self {
            serving,
            limits,
            open: Arc::default(),
            shutdown,
        }
    }

    /// Opens a stream of messages about users.
    pub(super) fn users(
        &self,
        request: &Request<v1::WatchUserStatsRequest>,
    ) -> Result<Response<Messages<v1::WatchUserStatsResponse>>, Status> {
        let who = Caller::of(request)?.identity;
        let watched = validate::watched_users(request.get_ref(), &who)?;
        self.begin(request, watched, true)
    }

    /// Opens a stream of messages about dialogs.
    pub(super) fn dialogs(
        &self,
        request: &Request<v1::WatchDialogStatsRequest>,
    ) -> Result<Response<Messages<v1::WatchDialogStatsResponse>>, Status> {
        let who = Caller::of(request)?.identity;
        let watched = validate::watched_dialogs(request.get_ref(), &who)?;
        self.begin(request, watched, false)
    }

    fn begin<T, M: From<WatchMessage> + Send + 'static>(
        &self,
        request: &Request<T>,
        watched: Watched,
        of_users: bool,
    ) -> Result<Response<Messages<M>>, Status> {
        let Some(serving) = &self.serving else {
            return Err(Status::failed_precondition(
                "nothing can be watched: the service holds no counters in memory (serving.memory_mib is 0)",
            ));
        };
        let account = account(request.extensions());
        let peer = Peer::of(request);
        let connection = peer.map_or(0, |peer| peer.connection);
        let Watched {
            tenant,
            subjects,
            interval,
            since,
        } = watched;
        let sharers = vec![
            Sharer::Caller(account.clone()),
            Sharer::Tenant(tenant.to_string()),
        ];
        let kept = self.limits.watch(sharers)?;
        let registered = register(&self.open, connection, &account)?;
        let distinct: HashSet<&Subject> = subjects.iter().collect();
        let count = distinct.len();
        lock(&self.open).take(&account, count)?;
        let watch = serving.watch(tenant.clone(), subjects, interval, since);
        let entry = StreamEntry {
            account,
            tenant: tenant.clone(),
            handle: watch.handle(),
            of_users,
            subjects: count,
        };
        let watch_id = registered.watch_id.clone();
        lock(&self.open).streams.insert(watch_id.clone(), entry);
        let open = OpenStream {
            watch,
            tenant,
            watch_id: Some(watch_id),
            _registered: registered,
            end: StreamEnd::new(peer, self.shutdown.clone()),
            is_over: false,
        };
        let messages = futures::stream::unfold(open, |mut open| async move {
            let message = open.next().await?;
            Some((message.map(M::from), open))
        });
        let mut response: Response<Messages<M>> = Response::new(Box::pin(messages));
        response.extensions_mut().insert(kept);
        response.extensions_mut().insert(LongLived);
        Ok(response)
    }

    /// Changes whom a stream watches.
    pub(super) fn change(
        &self,
        request: &Request<v1::ChangeWatchRequest>,
    ) -> Result<v1::ChangeWatchResponse, Status> {
        let who = Caller::of(request)?.identity;
        let account = account(request.extensions());
        let request = request.get_ref();
        let change = validate::watch_change(request, &who)?;
        // Until the end of it: the stream does not go meanwhile.
        let mut open = lock(&self.open);
        let entry = open.streams.get(&request.watch_id).filter(|entry| {
            // Others are not told that there is one.
            entry.account == account && entry.tenant == change.tenant
        });
        let Some(entry) = entry else {
            return Err(Status::not_found(
                "no such stream here: it has ended, or another process serves it; open one with its resume_token",
            ));
        };
        let fits = |subject: &Subject| matches!(subject, Subject::User(_)) == entry.of_users;
        if !change.add.iter().chain(&change.remove).all(fits) {
            let (is, found) = match entry.of_users {
                true => ("users", "dialogs"),
                false => ("dialogs", "users"),
            };
            return Err(Status::invalid_argument(format!(
                "the stream is about {is}, found {found}"
            )));
        }
        let (handle, before) = (entry.handle.clone(), entry.subjects);
        // As many as it may be, for a moment.
        let most = change.add.len();
        open.take(&account, most)?;
        let changed = handle.change(change.add, &change.remove, MAX_WATCHED);
        let after = changed.map_or(before, |(_, after)| after);
        open.give_back(&account, before + most - after);
        if let Some(entry) = open.streams.get_mut(&request.watch_id) {
            entry.subjects = after;
        }
        match changed {
            Some(_) => Ok(v1::ChangeWatchResponse {}),
            None => Err(Status::resource_exhausted(format!(
                "at most {MAX_WATCHED} can be watched on one stream: open another one"
            ))),
        }
    }
}
