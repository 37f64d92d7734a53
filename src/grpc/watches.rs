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
use crate::serving::watching::{Batch, Handle, Subject, Unwatchable, Update, Watch};
use crate::shutdown::Shutdown;

use super::admission::Sharer;
use super::bounds::MAX_WATCHED;
use super::edge::Lasting;
use super::guard::{Caller, account};
use super::limits::{Limits, try_again_after};
use super::token::{Resumable as _, StreamsOf};
use super::v1;
use super::validate::{self, Watched};

/// Subjects of all streams, each as often as it is watched: some 300 bytes, and
/// work for each change of it. A caller may have as many as are free.
const MOST_OF_ALL: usize = 250_000;
/// Streams of one connection, at most: half of its calls at once.
const MOST_OF_CONNECTION: usize = 32;
/// How long a stream lasts at most, give or take a tenth; mostly its connection
/// is to end before. Whoever may no longer watch is asked for credentials again
/// then.
const AGE: Duration = Duration::from_secs(3_600);
/// Over so long the ends of streams are spread, of a connection, and of all when
/// the service stops.
const SPREAD: Duration = Duration::from_secs(4);
/// When to come back after that, at the latest.
const COME_BACK: Duration = Duration::from_secs(1);
/// When to try again where there is no room.
const NO_ROOM: Duration = Duration::from_secs(10);

/// The messages of a stream.
pub(super) type Messages<M> = Pin<Box<dyn Stream<Item = Result<M, Status>> + Send>>;

/// All streams of this process.
#[derive(Debug)]
pub(super) struct Watches {
    serving: Option<Serving>,
    limits: Limits,
    open: Arc<Mutex<Open>>,
    shutdown: Shutdown,
}

/// Streams by their names, and what connections and callers have of them.
#[derive(Debug, Default)]
struct Open {
    streams: HashMap<String, Entry>,
    connections: HashMap<u64, usize>,
    /// Subjects of each caller, and of all.
    of_callers: HashMap<String, usize>,
    of_all: usize,
}

impl Open {
    /// Gives a caller some subjects more, if there are as many.
    fn take(&mut self, account: &str, more: usize) -> Result<(), Status> {
        let held = self.of_callers.get(account).copied().unwrap_or(0);
        let free = MOST_OF_ALL.saturating_sub(self.of_all);
        if held + more > free {
            return Err(try_again_after(
                NO_ROOM,
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
struct Entry {
    account: String,
    tenant: TenantId,
    handle: Handle,
    of_users: bool,
    /// How many it watches.
    subjects: usize,
}

/// What a message tells.
struct Told {
    watch_id: String,
    resume_token: String,
    batch: Batch,
}

/// A stream that is open.
struct Telling {
    /// Before the watch itself: nobody is to change one that is gone.
    _registered: Registered,
    watch: Watch,
    tenant: TenantId,
    /// Until it was told.
    watch_id: Option<String>,
    end: End,
    is_over: bool,
}

/// When a stream ends.
struct End {
    shutdown: Shutdown,
    at: Instant,
    /// How long after others it ends when all do.
    spread: Duration,
    /// Once the service is to stop.
    leaves_at: Option<Instant>,
}

/// Takes a stream out of [`Open`] in the end.
struct Registered {
    open: Arc<Mutex<Open>>,
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

    fn begin<T, M: From<Told> + Send + 'static>(
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
        let entry = Entry {
            account,
            tenant: tenant.clone(),
            handle: watch.handle(),
            of_users,
            subjects: count,
        };
        let watch_id = registered.watch_id.clone();
        opened(&self.open).streams.insert(watch_id.clone(), entry);
        let spread = SPREAD.mul_f64(random());
        let by_age = Instant::now() + AGE.mul_f64(0.9 + 0.2 * random());
        let of_connection = peer.and_then(|peer| peer.ends_at);
        let of_connection = of_connection.map(|at| Instant::from_std(at) + spread);
        let open = Telling {
            watch,
            tenant,
            watch_id: Some(watch_id),
            _registered: registered,
            end: End {
                shutdown: self.shutdown.clone(),
                at: of_connection.map_or(by_age, |at| at.min(by_age)),
                spread,
                leaves_at: None,
            },
            is_over: false,
        };
        let messages = stream::unfold(open, |mut open| async move {
            let told = open.next().await?;
            Some((told.map(M::from), open))
        });
        let mut response: Response<Messages<M>> = Response::new(Box::pin(messages));
        response.extensions_mut().insert(kept);
        response.extensions_mut().insert(Lasting);
        Ok(response)
    }

    fn register(&self, connection: u64, account: &str) -> Result<Registered, Status> {
        let mut open = opened(&self.open);
        let of_connection = open.connections.entry(connection).or_default();
        if *of_connection >= MOST_OF_CONNECTION {
            return Err(Status::resource_exhausted(format!(
                "{MOST_OF_CONNECTION} streams are open on this connection, more leave its other calls no room: watch up to {MAX_WATCHED} at once on one stream, or open another connection"
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

impl Telling {
    /// The next message; `None` after the last.
    async fn next(&mut self) -> Option<Result<Told, Status>> {
        if self.is_over {
            return None;
        }
        let batch = match self.watch_id.is_some() {
            // What names the stream does not wait for anybody to be loaded.
            true => Ok(Batch::default()),
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
            Ok(batch) => Some(Ok(self.told(batch))),
            Err(Unwatchable::NoRoom(subject)) => {
                self.is_over = true;
                let why = Unwatchable::NoRoom(subject).to_string();
                Some(Err(try_again_after(NO_ROOM, &why)))
            }
        }
    }

    fn told(&mut self, batch: Batch) -> Told {
        let since = batch.since.as_ref();
        let resume_token = since.map(|since| StreamsOf(&self.tenant).token(since));
        Told {
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

fn opened(open: &Mutex<Open>) -> MutexGuard<'_, Open> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}

impl End {
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
    let wait = COME_BACK.mul_f64(0.1 + 0.9 * random());
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

impl From<Told> for v1::WatchUserStatsResponse {
    fn from(told: Told) -> Self {
        let updates = told.batch.updates.into_iter();
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
            watch_id: told.watch_id,
            updates: updates.collect(),
            all_told: told.batch.all_given,
            resume_token: told.resume_token,
            as_of: told.batch.as_of.map(Into::into),
        }
    }
}

impl From<Told> for v1::WatchDialogStatsResponse {
    fn from(told: Told) -> Self {
        let updates = told.batch.updates.into_iter();
        let updates = updates.filter_map(|update| match update {
            Update::Dialog(stats) => Some(stats.into()),
            Update::User { .. } => None,
        });
        Self {
            watch_id: told.watch_id,
            dialog_stats: updates.collect(),
            all_told: told.batch.all_given,
            resume_token: told.resume_token,
            as_of: told.batch.as_of.map(Into::into),
        }
    }
}
