//! What callers are told when the store fails them: one mapping for all services.

use tonic::Status;

use crate::store::read::ReadError;
use crate::store::{Class, FailureKind, StoreError};

/// Tells a caller to try again later: the store cannot be reached, or is between two
/// primaries.
pub(super) fn unavailable() -> Status {
    Status::unavailable("the store cannot be reached, try again later")
}

fn no_snapshot() -> Status {
    Status::unavailable("the store has no snapshot to read from, try again later")
}

/// Tells a caller that the service is at fault, and nothing of how.
pub(super) fn internal() -> Status {
    Status::internal("an error of the service: its log says more")
}

/// Maps a failed read. Errors that say something about the service are logged here,
/// and only here; an unreachable store is logged by its probe.
pub(super) fn of_read(error: &ReadError) -> Status {
    match error {
        ReadError::EventNotSeen | ReadError::TooSlow => {
            Status::deadline_exceeded(error.to_string())
        }
        ReadError::NoSnapshot(_) => no_snapshot(),
        ReadError::Unreachable(_) => {
            tracing::debug!(%error, "not answered");
            unavailable()
        }
        ReadError::TooMuch(_) | ReadError::TooManyReads(_) => {
            Status::resource_exhausted(error.to_string())
        }
        ReadError::Driver(_) | ReadError::Malformed { .. } | ReadError::Position(_) => {
            tracing::error!(%error, "not answered");
            internal()
        }
    }
}

/// Maps a failure of work on dead letters. Those who do that are told the words of the
/// server, unless it cannot be reached: these are long, and about its servers.
pub(super) fn of_dead_letters(error: &StoreError) -> Status {
    if error.is_unreachable() {
        tracing::warn!(%error, "dead letters cannot be worked with now");
        return unavailable();
    }
    if error.kind() == FailureKind::SnapshotUnavailable {
        tracing::warn!(%error, "dead letters cannot be worked with now");
        return no_snapshot();
    }
    if error.class() == Class::Conflict {
        tracing::warn!(%error, "dead letters cannot be worked with now");
        return Status::unavailable("others change the same letters, try again later");
    }
    tracing::error!(%error, "dead letters cannot be worked with");
    Status::internal(error.to_string())
}

/// Maps a failure of long work that was given up and can be begun again: `what` was not
/// done, and why.
pub(super) fn of_maintenance(what: &str, error: &StoreError) -> Status {
    match error.is_unreachable() {
        true => Status::unavailable(format!("{what}: {}", unavailable().message())),
        false => Status::unavailable(format!("{what}: {error}")),
    }
}
