//! The streams that are open: by which name each can be changed, and how much
//! connections and callers have of them.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tonic::Status;

use super::RETRY_AFTER_NO_ROOM;
use crate::event::TenantId;
use crate::grpc::bounds::MAX_WATCHED;
use crate::grpc::limits::try_again_after;
use crate::serving::watching::WatchHandle;

/// The most subjects of all streams, each as often as it is watched: some 300 bytes,
/// and work for each change of it. A caller may have as many as are free.
const MAX_WATCHED_BY_ALL: usize = 250_000;
/// The most streams of one connection: half of its calls at once.
const MAX_STREAMS_PER_CONNECTION: usize = 32;

/// Streams by their names, and what connections and callers have of them.
#[derive(Debug, Default)]
pub(super) struct OpenStreams {
    pub(super) streams: HashMap<String, StreamEntry>,
    connections: HashMap<u64, usize>,
    /// Subjects of each caller, and of all.
    of_callers: HashMap<String, usize>,
    of_all: usize,
}

impl OpenStreams {
    /// Gives a caller some subjects more.
    ///
    /// # Errors
    /// `RESOURCE_EXHAUSTED` when fewer are free.
    pub(super) fn take(&mut self, account: &str, more: usize) -> Result<(), Status> {
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

    /// Takes some subjects back from a caller.
    pub(super) fn give_back(&mut self, account: &str, fewer: usize) {
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
pub(super) struct StreamEntry {
    pub(super) account: String,
    pub(super) tenant: TenantId,
    pub(super) handle: WatchHandle,
    /// Whether it watches users, not dialogs.
    pub(super) of_users: bool,
    /// The number of subjects that it watches.
    pub(super) subjects: usize,
}

/// Takes a stream out of [`OpenStreams`] in the end.
pub(super) struct Registered {
    open: Arc<Mutex<OpenStreams>>,
    /// The name of the stream.
    pub(super) watch_id: String,
    connection: u64,
    account: String,
}

/// Registers a stream of a connection, by a new name.
///
/// # Errors
/// `RESOURCE_EXHAUSTED` when the connection has too many.
pub(super) fn register(
    open: &Arc<Mutex<OpenStreams>>,
    connection: u64,
    account: &str,
) -> Result<Registered, Status> {
    let mut streams = lock(open);
    let of_connection = streams.connections.entry(connection).or_default();
    if *of_connection >= MAX_STREAMS_PER_CONNECTION {
        return Err(Status::resource_exhausted(format!(
            "{MAX_STREAMS_PER_CONNECTION} streams are open on this connection, more leave its other calls no room: watch up to {MAX_WATCHED} at once on one stream, or open another connection"
        )));
    }
    *of_connection += 1;
    Ok(Registered {
        open: Arc::clone(open),
        watch_id: format!("{:016x}", RandomState::new().hash_one(connection)),
        connection,
        account: account.to_owned(),
    })
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut open = lock(&self.open);
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

/// Locks the table of streams.
pub(super) fn lock(open: &Mutex<OpenStreams>) -> MutexGuard<'_, OpenStreams> {
    open.lock().unwrap_or_else(PoisonError::into_inner)
}
