//! An open stream: its messages, and its end.

use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::RETRY_AFTER_NO_ROOM;
use super::registry::Registered;
use crate::event::TenantId;
use crate::grpc::limits::try_again_after;
use crate::grpc::token::{Resumable as _, StreamsOf};
use crate::grpc::v1;
use crate::listener::Peer;
use crate::serving::watching::{Update, UpdateBatch, Watch, WatchError};
use crate::shutdown::Shutdown;

/// How long a stream lasts at most, give or take a tenth; mostly its connection
/// is to end before. Whoever may no longer watch is asked for credentials again
/// then.
const MAX_STREAM_AGE: Duration = Duration::from_secs(3_600);
/// The time over which the ends of streams are spread: of those of a connection, and
/// of all when the service stops.
const END_SPREAD: Duration = Duration::from_secs(4);
/// The longest time after which clients are told to open another stream.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);

/// The content of one message of a stream.
pub(super) struct WatchMessage {
    watch_id: String,
    resume_token: String,
    batch: UpdateBatch,
}

/// An open stream, from which its messages come.
pub(super) struct OpenStream {
    /// Dropped before the watch itself: nobody is to change one that is gone.
    pub(super) _registered: Registered,
    pub(super) watch: Watch,
    pub(super) tenant: TenantId,
    /// The name of the stream, until a message had it.
    pub(super) watch_id: Option<String>,
    pub(super) end: StreamEnd,
    /// Whether the last message was given.
    pub(super) is_over: bool,
}

/// The conditions on which a stream ends.
pub(super) struct StreamEnd {
    shutdown: Shutdown,
    at: Instant,
    /// How long after others it ends when all do.
    spread: Duration,
    /// Once the service is to stop.
    leaves_at: Option<Instant>,
}

impl OpenStream {
    /// Returns the next message; `None` after the last.
    pub(super) async fn next(&mut self) -> Option<Result<WatchMessage, Status>> {
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

impl StreamEnd {
    /// Has a stream end with its connection, at the age that streams have, or when the
    /// service stops.
    pub(super) fn new(peer: Option<&Peer>, shutdown: Shutdown) -> Self {
        let spread = END_SPREAD.mul_f64(random());
        let by_age = Instant::now() + MAX_STREAM_AGE.mul_f64(0.9 + 0.2 * random());
        let of_connection = peer.and_then(|peer| peer.ends_at);
        let of_connection = of_connection.map(|at| Instant::from_std(at) + spread);
        Self {
            shutdown,
            at: of_connection.map_or(by_age, |at| at.min(by_age)),
            spread,
            leaves_at: None,
        }
    }

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
