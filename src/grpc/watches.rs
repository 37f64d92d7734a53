//! Watch: streams that tell how users and dialogs stand, and of every change.
//!
//! What is told is read when the client takes it, so a stream has no queue. Each
//! has an end of its own, by which its client comes back, perhaps to another
//! replica: the connection's would cut it in the middle.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::event::TenantId;
use crate::listener::Peer;
use crate::serving::Serving;
use crate::serving::watching::{Subject, Update, UpdateBatch, Watch, WatchError, WatchHandle};
use crate::shutdown::Shutdown;

use super::admission::Sharer;
use super::bounds::MAX_WATCHED;
use super::edge::LongLived;
use super::guard::{Caller, account};
use super::limits::{Limits, try_again_after};
use super::token::{Resumable as _, StreamsOf};
use super::v1;
use super::validate::{self, Watched};

/// The most subjects of all streams, each as often as it is watched: some 300 bytes,
/// and work for each change of it. A caller may have as many as are free.
const MAX_WATCHED_BY_ALL: usize = 250_000;
/// The most streams of one connection: half of its calls at once.
const MAX_STREAMS_PER_CONNECTION: usize = 32;
/// How long a stream lasts at most, give or take a tenth; mostly its connection
/// is to end before. Whoever may no longer watch is asked for credentials again
/// then.
const MAX_STREAM_AGE: Duration = Duration::from_secs(3_600);
/// The time over which the ends of streams are spread: of those of a connection, and
/// of all when the service stops.
const END_SPREAD: Duration = Duration::from_secs(4);
/// The longest time after which clients are told to open another stream.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);
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

/// Streams by their names, and what connections and callers have of them.
#[derive(Debug, Default)]
struct OpenStreams {
    streams: HashMap<String, StreamEntry>,
    connections: HashMap<u64, usize>,
    /// Subjects of each caller, and of all.
    of_callers: HashMap<String, usize>,
    of_all: usize,
}

impl OpenStreams {
    /// Gives a caller some subjects more, if there are as many.
    fn take(&mut self, account: &str, more: usize) -> Result<(), Status> {
        let held = self.of_callers.get(account).copied().unwrap_or(0);
        let free = MAX_WATCHED_BY_ALL.saturating_sub(self.of_all);
        if held + more > free {
            return Err(try_again_after(
                RETRY_AFTER_NO_ROOM,
                &format!(
                    "{held} are watched already by this caller, {free} more can be by anybody"
                ),
            ));
        }
        self.of_all += more;
        *self.of_callers.entry(account.to_owned()).or_default() += more;
        Ok(())
    }

    fn give_back(&mut self, account: &str, fewer: usize) {
        self.of_all -= fewer;
        if let Some(held) = self.of_callers.get_mut(account) {
            *held -= fewer;
            if *held == 0 {
                self.of_callers.remove(account);
            }
        }
    }
}

/// A stream, for whoever may change it.
#[derive(Debug)]
struct StreamEntry {
    account: String,
    tenant: TenantId,
    handle: WatchHandle,
    of_users: bool,
    /// The number of subjects that it watches.
    subjects: usize,
}

/// The content of one message of a stream.
struct WatchMessage {
    watch_id: String,
    resume_token: String,
    batch: UpdateBatch,
}

/// An open stream, from which its messages come.
struct OpenStream {
    /// Before the watch itself: nobody is to change one that is gone.
    _registered: Registered,
    watch: Watch,
    tenant: TenantId,
    /// The name of the stream, until a message had it.
    watch_id: Option<String>,
    end: StreamEnd,
    is_over: bool,
}

/// The conditions on which a stream ends.
struct StreamEnd {
    shutdown: Shutdown,
    at: Instant,
    /// How long after others it ends when all do.
    spread: Duration,
    /// Once the service is to stop.
    leaves_at: Option<Instant>,
}

/// Takes a stream out of [`OpenStreams`] in the end.
struct Registered {
    open: Arc<Mutex<OpenStreams>>,
    watch_id: String,
    connection: u64,
    account: String,
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
        let registered = self.register(connection, &account)?;
        let distinct: HashSet<&Subject> = subjects.iter().collect();
        let count = distinct.len();
        opened(&self.open).take(&account, count)?;
        let watch = serving.watch(tenant.clone(), subjects, interval, since);
        let entry = StreamEntry {
            account,
            tenant: tenant.clone(),
            handle: watch.handle(),
            of_users,
            subjects: count,
        };
        let watch_id = registered.watch_id.clone();
        opened(&self.open).streams.insert(watch_id.clone(), entry);
        let spread = END_SPREAD.mul_f64(random());
        let by_age = Instant::now() + MAX_STREAM_AGE.mul_f64(0.9 + 0.2 * random());
        let of_connection = peer.and_then(|peer| peer.ends_at);
        let of_connection = of_connection.map(|at| Instant::from_std(at) + spread);
        let open = OpenStream {
            watch,
            tenant,
            watch_id: Some(watch_id),
            _registered: registered,
            end: StreamEnd {
                shutdown: self.shutdown.clone(),
                at: of_connection.map_or(by_age, |at| at.min(by_age)),
                spread,
                leaves_at: None,
            },
            is_over: false,
        };
        let messages = stream::unfold(open, |mut open| async move {
            let message = open.next().await?;
            Some((message.map(M::from), open))
        });
        let mut response: Response<Messages<M>> = Response::new(Box::pin(messages));
        response.extensions_mut().insert(kept);
        response.extensions_mut().insert(LongLived);
        Ok(response)
    }

    fn register(&self, connection: u64, account: &str) -> Result<Registered, Status> {
        let mut open = opened(&self.open);
        let of_connection = open.connections.entry(connection).or_default();
        if *of_connection >= MAX_STREAMS_PER_CONNECTION {
            return Err(Status::resource_exhausted(format!(
                "{MAX_STREAMS_PER_CONNECTION} streams are open on this connection, more leave its other calls no room: watch up to {MAX_WATCHED} at once on one stream, or open another connection"
            )));
        }
        *of_connection += 1;
        Ok(Registered {
            open: Arc::clone(&self.open),
            watch_id: format!("{:016x}", RandomState::new().hash_one(connection)),
            connection,
            account: account.to_owned(),
        })
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
        let mut open = opened(&self.open);
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

impl OpenStream {
    /// The next message; `None` after the last.
    async fn next(&mut self) -> Option<Result<WatchMessage, Status>> {
        if self.is_over {
            return None;
        }
        let batch = match self.watch_id.is_some() {
            // What names the stream does not wait for anybody to be loaded.
            true => Ok(UpdateBatch::default()),
            false => tokio::select! {
                // First, however much there is to tell.
                biased;
                () = self.end.comes() => {
                    self.is_over = true;
                    return Some(Err(come_back()));
                }
                batch = self.watch.next() => batch,
            },
        };
        match batch {
            Ok(batch) => Some(Ok(self.message(batch))),
            Err(WatchError::NoRoom(subject)) => {
                self.is_over = true;
                let why = WatchError::NoRoom(subject).to_string();
                Some(Err(try_again_after(RETRY_AFTER_NO_ROOM, &why)))
            }
        }
    }

    fn message(&mut self, batch: UpdateBatch) -> WatchMessage {
        let since = batch.since.as_ref();
        let resume_token = since.map(|since| StreamsOf(&self.tenant).token(since));
        WatchMessage {
            watch_id: self.watch_id.take().unwrap_or_default(),
            resume_token: resume_token.unwrap_or_default(),
            batch,
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = opened(&self.open);
        if let Some(entry) = open.streams.remove(&self.watch_id) {
            open.give_back(&self.account, entry.subjects);
        }
        match open.connections.get_mut(&self.connection) {
            Some(streams) if *streams > 1 => *streams -= 1,
            _ => {
                open.connections.remove(&self.connection);
            }
        }
    }
}

fn opened(open: &Mutex<OpenStreams>) -> MutexGuard<'_, OpenStreams> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl StreamEnd {
    /// Returns when the stream has its age, or the service stops: streams end one
    /// after the other, so that clients do not all come back together.
    async fn comes(&mut self) {
        let leaving = async {
            self.shutdown.leaving().await;
            let leaves_at = *self
                .leaves_at
                .get_or_insert_with(|| Instant::now() + self.spread);
            sleep_until(leaves_at).await;
        };
        tokio::select! {
            () = sleep_until(self.at) => {}
            () = leaving => {}
        }
    }
}

fn come_back() -> Status {
    let wait = MAX_RECONNECT_DELAY.mul_f64(0.1 + 0.9 * random());
    Status::with_error_details(
        Code::Unavailable,
        "the stream has had its time: open another one with the last resume_token",
        ErrorDetails::with_retry_info(Some(wait)),
    )
}

/// From 0 to 1: no secret, only spread.
fn random() -> f64 {
    let random = RandomState::new().hash_one(0_u8) >> 32;
    random as f64 / f64::from(u32::MAX)
}

impl From<WatchMessage> for v1::WatchUserStatsResponse {
    fn from(message: WatchMessage) -> Self {
        let updates = message.batch.updates.into_iter();
        let updates = updates.filter_map(|update| match update {
            Update::User {
                stats,
                dialogs,
                more,
            } => Some(v1::UserUpdate {
                user_stats: Some(stats.into()),
                user_dialog_stats: dialogs.into_iter().map(Into::into).collect(),
                others_may_have_changed: more,
            }),
            Update::Dialog(_) => None,
        });
        Self {
            watch_id: message.watch_id,
            updates: updates.collect(),
            all_told: message.batch.all_given,
            resume_token: message.resume_token,
            as_of: message.batch.as_of.map(Into::into),
        }
    }
}

impl From<WatchMessage> for v1::WatchDialogStatsResponse {
    fn from(message: WatchMessage) -> Self {
        let updates = message.batch.updates.into_iter();
        let updates = updates.filter_map(|update| match update {
            Update::Dialog(stats) => Some(stats.into()),
            Update::User { .. } => None,
        });
        Self {
            watch_id: message.watch_id,
            dialog_stats: updates.collect(),
            all_told: message.batch.all_given,
            resume_token: message.resume_token,
            as_of: message.batch.as_of.map(Into::into),
        }
    }
}
