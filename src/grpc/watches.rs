//! Watch: streams that tell how users and dialogs stand, and of every change.
//!
//! What is told is read when the client takes it, so a stream has no queue. Each
//! has an end of its own, by which its client comes back, perhaps to another
//! replica: the connection's would cut it in the middle.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::{Stream, stream};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::event::TenantId;
use crate::listener::Peer;
use crate::serving::Serving;
use crate::serving::watching::{Batch, Handle, Subject, Unwatchable, Update, Watch};
use crate::shutdown::Shutdown;

use super::admission::Sharer;
use super::edge::Lasting;
use super::guard::{Caller, account};
use super::limits::{Limits, try_again_after};
use super::validate::{self, Watched};
use super::{token, v1};

/// Subjects of one stream, at most.
pub(super) const MOST_SUBJECTS: usize = 10_000;
/// Streams of one connection, at most: half of its calls at once.
const MOST_OF_CONNECTION: usize = 32;
/// How long a stream lasts, give or take a tenth. Whoever may no longer watch is
/// asked for credentials again then.
const AGE: Duration = Duration::from_secs(3_600);
/// Over so long the ends of all streams are spread when the service stops.
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

/// Streams by their names, and how many each connection has.
#[derive(Debug, Default)]
struct Open {
    streams: HashMap<String, Entry>,
    connections: HashMap<u64, usize>,
}

/// A stream, for whoever may change it.
#[derive(Debug)]
struct Entry {
    account: String,
    tenant: TenantId,
    handle: Handle,
    of_users: bool,
}

/// What a message tells.
struct Told {
    watch_id: String,
    resume_token: String,
    batch: Batch,
}

/// A stream that is open.
struct Telling {
    watch: Watch,
    tenant: TenantId,
    /// Until it was told.
    watch_id: Option<String>,
    _registered: Registered,
    shutdown: Shutdown,
    ends_at: Instant,
    is_over: bool,
}

/// Takes a stream out of [`Open`] in the end.
struct Registered {
    open: Arc<Mutex<Open>>,
    watch_id: String,
    connection: u64,
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
        let connection = Peer::of(request).map_or(0, |peer| peer.connection);
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
        let registered = self.register(connection)?;
        let watch = serving.watch(tenant.clone(), subjects, interval, since);
        let entry = Entry {
            account,
            tenant: tenant.clone(),
            handle: watch.handle(),
            of_users,
        };
        let watch_id = registered.watch_id.clone();
        opened(&self.open).streams.insert(watch_id.clone(), entry);
        let open = Telling {
            watch,
            tenant,
            watch_id: Some(watch_id),
            _registered: registered,
            shutdown: self.shutdown.clone(),
            ends_at: Instant::now() + AGE.mul_f64(0.9 + 0.2 * random()),
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

    fn register(&self, connection: u64) -> Result<Registered, Status> {
        let mut open = opened(&self.open);
        let of_connection = open.connections.entry(connection).or_default();
        if *of_connection >= MOST_OF_CONNECTION {
            return Err(Status::resource_exhausted(format!(
                "{MOST_OF_CONNECTION} streams are open on this connection, more leave its other calls no room: watch up to {MOST_SUBJECTS} at once on one stream, or open another connection"
            )));
        }
        *of_connection += 1;
        Ok(Registered {
            open: Arc::clone(&self.open),
            watch_id: format!("{:016x}", RandomState::new().hash_one(connection)),
            connection,
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
        let open = opened(&self.open);
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
        entry.handle.remove(&change.remove);
        if !entry.handle.add(change.add, MOST_SUBJECTS) {
            return Err(Status::resource_exhausted(format!(
                "at most {MOST_SUBJECTS} can be watched on one stream: open another one"
            )));
        }
        Ok(v1::ChangeWatchResponse {})
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
                batch = self.watch.next() => batch,
                () = over(&self.shutdown, self.ends_at) => {
                    self.is_over = true;
                    return Some(Err(come_back()));
                }
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
        let resume_token = since.map(|since| token::resume(&self.tenant, since));
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
        open.streams.remove(&self.watch_id);
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

/// Returns when a stream has its age, or the service stops: streams end one after
/// the other, so that clients do not all come back together.
async fn over(shutdown: &Shutdown, ends_at: Instant) {
    tokio::select! {
        () = sleep_until(ends_at) => {}
        () = shutdown.leaving() => sleep(SPREAD.mul_f64(random())).await,
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
