//! What went wrong in the store, and the one classification of it: reads, writes,
//! leases, dead letters and the statuses of gRPC all go by `FailureKind`.

use mongodb::error::{
    Error, ErrorKind, RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR,
    UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure,
};

use super::documents::collection::WRITERS;
use crate::config::SecretError;
use crate::pki::FileError;

/// Any failure of an operation on the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The driver or the server reported an error.
    // Only its kind: the whole would show the server's reply in hexadecimal.
    #[error("MongoDB: {}", .0.kind)]
    Driver(#[from] Error),
    /// A file with the URL or a password cannot be used.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A file with certificates or a private key cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The URL switches off the verification of certificates.
    #[error(
        "the store's URL sets {option}, with which anybody can pose as MongoDB: name the authority of its certificate in tlsCAFile, or allow it by store.allow_insecure_tls = true"
    )]
    Insecure {
        /// The URL option that switches verification off.
        option: String,
    },
    /// The server refused a write inside an otherwise successful command.
    #[error("MongoDB refused a write to `{collection}`: {message} (code {code})")]
    Write {
        /// The collection, without the suffix of its generation.
        collection: &'static str,
        /// The server's error code.
        code: i32,
        /// The server's error message.
        message: String,
    },
    /// A document has changed since the write was derived from it.
    #[error("{expected} documents of `{collection}` expected as derived from, {found} found")]
    Moved {
        /// The collection, without the suffix of its generation.
        collection: &'static str,
        /// The number of documents that were to be changed.
        expected: i64,
        /// The number of documents that still were as expected.
        found: i64,
    },
    /// A document would become larger than the server stores. Nothing was sent.
    #[error(
        "expected a document of `{collection}` of at most {most} bytes, found one that would have {bytes}"
    )]
    TooLarge {
        /// The collection, without the suffix of its generation.
        collection: &'static str,
        /// The size that the document would have, in bytes.
        bytes: usize,
        /// The largest size allowed, in bytes.
        most: usize,
    },
    /// A batch reads or writes more than fits into the memory allowed for one.
    /// Nothing was sent, and a batch of fewer events may succeed.
    #[error("expected a batch that takes at most {most} bytes, found one that takes more")]
    TooMuch {
        /// The memory that one batch may take, in bytes.
        most: usize,
    },
    /// A rebuild keeps writers out while it switches over.
    #[error(
        "a rebuild is switching over to its collections; writes wait until it has, or gives up"
    )]
    SwitchingOver,
    /// The server's answer, or a stored document, is not as the schema says.
    #[error("unexpected answer of MongoDB: {0}")]
    Answer(String),
}

/// What a caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The store is down, slow, electing, full or misconfigured: the same operation
    /// may succeed later. Unknown errors are of this class, so that nothing is given
    /// up that could still be done.
    Retryable,
    /// Another writer changed the same documents: load them, derive and write again.
    Conflict,
    /// The server refuses the data itself, however often it is sent.
    Permanent,
}

impl Class {
    /// Returns the name used in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Retryable => "retryable",
            Class::Conflict => "conflict",
            Class::Permanent => "permanent",
        }
    }
}

/// What an error of the driver or the server says, told from its code, its kind and
/// its labels. [`Class`] and the statuses of gRPC follow from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FailureKind {
    /// No server can be reached, or none is in a state to answer, as during an
    /// election.
    Unreachable,
    /// The operation ran into its time limit on the server.
    TimedOut,
    /// The server no longer has the changes that a change stream is to go on with.
    HistoryLost,
    /// The server no longer keeps the point in time of the snapshot.
    SnapshotTooOld,
    /// The server cannot read at the point in time of the snapshot: a new one may do.
    SnapshotUnavailable,
    /// Two writers have met at the same documents.
    Conflict,
    /// The server refuses the data, not the moment.
    DataRefused,
    /// Anything else.
    Other,
}

/// The server's error code for a document whose key is taken.
const DUPLICATE_KEY: i32 = 11_000;

/// The server's error codes that say something of their own. Codes that are not listed
/// are [`FailureKind::Other`].
const CODES: [(i32, FailureKind); 33] = {
    use FailureKind::{
        Conflict, DataRefused, HistoryLost, SnapshotTooOld, SnapshotUnavailable, TimedOut,
        Unreachable,
    };
    [
        (6, Unreachable),      // HostUnreachable
        (7, Unreachable),      // HostNotFound
        (89, Unreachable),     // NetworkTimeout
        (91, Unreachable),     // ShutdownInProgress
        (189, Unreachable),    // PrimarySteppedDown
        (9_001, Unreachable),  // SocketException
        (10_058, Unreachable), // LegacyNotPrimary
        (10_107, Unreachable), // NotWritablePrimary
        (11_600, Unreachable), // InterruptedAtShutdown
        (11_602, Unreachable), // InterruptedDueToReplStateChange
        (13_435, Unreachable), // NotPrimaryNoSecondaryOk
        (13_436, Unreachable), // NotPrimaryOrSecondary
        (50, TimedOut),        // MaxTimeMSExpired
        (280, HistoryLost),    // ChangeStreamFatalError
        (286, HistoryLost),    // ChangeStreamHistoryLost
        (239, SnapshotTooOld),
        (246, SnapshotUnavailable),
        (112, Conflict),           // WriteConflict
        (DUPLICATE_KEY, Conflict), // DuplicateKey
        (2, DataRefused),          // BadValue: also an $inc past the range of int64
        (9, DataRefused),          // FailedToParse
        (14, DataRefused),         // TypeMismatch
        (15, DataRefused),         // Overflow
        (28, DataRefused),         // PathNotViable
        (40, DataRefused),         // ConflictingUpdateOperators
        (52, DataRefused),         // DollarPrefixedFieldName
        (56, DataRefused),         // EmptyFieldName
        (121, DataRefused),        // DocumentValidationFailure
        (257, DataRefused),        // TransactionTooLarge
        (10_334, DataRefused),     // BSONObjectTooLarge
        (17_280, DataRefused),     // KeyTooLong
        (17_419, DataRefused),     // the resulting document is too large (update)
        (17_420, DataRefused),     // the resulting document is too large (replacement)
    ]
};

impl FailureKind {
    /// Classifies an error of the driver: by the server's code first, then by the
    /// labels that the server and the driver put on it.
    pub(crate) fn of(error: &Error) -> Self {
        let told = match error.kind.as_ref() {
            ErrorKind::Command(refused) => Self::of_code(refused.code),
            ErrorKind::Write(WriteFailure::WriteError(refused)) => Self::of_code(refused.code),
            ErrorKind::Write(WriteFailure::WriteConcernError(failed)) => Self::of_code(failed.code),
            ErrorKind::Io(_)
            | ErrorKind::ConnectionPoolCleared { .. }
            | ErrorKind::ServerSelection { .. }
            | ErrorKind::DnsResolve { .. } => Self::Unreachable,
            // The document cannot even be sent.
            ErrorKind::BsonSerialization(_) | ErrorKind::InvalidArgument { .. }
                if !error.contains_label(TRANSIENT_TRANSACTION_ERROR) =>
            {
                Self::DataRefused
            }
            _ => Self::Other,
        };
        let may_succeed_later = [RETRYABLE_WRITE_ERROR, TRANSIENT_TRANSACTION_ERROR]
            .iter()
            .any(|label| error.contains_label(label));
        match told {
            Self::Other if may_succeed_later => Self::Unreachable,
            told => told,
        }
    }

    fn of_code(code: i32) -> Self {
        let listed = CODES.iter().find(|(listed, _)| *listed == code);
        listed.map_or(Self::Other, |(_, kind)| *kind)
    }

    fn class(self) -> Class {
        match self {
            Self::Conflict | Self::SnapshotUnavailable => Class::Conflict,
            Self::DataRefused => Class::Permanent,
            Self::Unreachable
            | Self::TimedOut
            | Self::HistoryLost
            | Self::SnapshotTooOld
            | Self::Other => Class::Retryable,
        }
    }
}

impl StoreError {
    /// Returns what the caller can do about the error.
    pub fn class(&self) -> Class {
        match self {
            StoreError::Moved { .. } => Class::Conflict,
            StoreError::SwitchingOver
            | StoreError::Secret(_)
            | StoreError::File(_)
            | StoreError::Insecure { .. } => Class::Retryable,
            StoreError::TooLarge { .. } | StoreError::TooMuch { .. } | StoreError::Answer(_) => {
                Class::Permanent
            }
            StoreError::Driver(_) | StoreError::Write { .. } => self.kind().class(),
        }
    }

    /// Returns what the driver or the server said; [`FailureKind::Other`] where
    /// neither was involved.
    pub(crate) fn kind(&self) -> FailureKind {
        match self {
            StoreError::Driver(error) => FailureKind::of(error),
            StoreError::Write { code, .. } => FailureKind::of_code(*code),
            _ => FailureKind::Other,
        }
    }

    /// Tells whether the server could not be asked at all, or was not in a state to
    /// answer, so that whoever asked should try again later.
    pub(crate) fn is_unreachable(&self) -> bool {
        self.kind() == FailureKind::Unreachable
    }

    /// Tells whether the server refused this very write for a reason that may not go
    /// away by itself, so that it may well accept others.
    pub(crate) fn may_be_of_these_events(&self) -> bool {
        let is_refused = match self {
            StoreError::Write { .. } => true,
            StoreError::Driver(error) => matches!(error.kind.as_ref(), ErrorKind::Command(_)),
            _ => false,
        };
        is_refused && !self.is_unreachable()
    }

    /// Tells whether a snapshot's point in time is so long ago that the server no
    /// longer keeps it.
    pub(crate) fn is_snapshot_too_old(&self) -> bool {
        self.kind() == FailureKind::SnapshotTooOld
    }

    /// Tells whether the server no longer has the changes that are to be followed.
    pub(crate) fn is_history_lost(&self) -> bool {
        self.kind() == FailureKind::HistoryLost
    }

    /// Tells whether the writer was fenced off, and must enrol anew.
    pub(crate) fn is_fenced_off(&self) -> bool {
        matches!(self, StoreError::Moved { collection, .. } if *collection == WRITERS)
    }

    /// Returns the driver's error, if it is one.
    pub(crate) fn driver(&self) -> Option<&Error> {
        match self {
            StoreError::Driver(error) => Some(error),
            _ => None,
        }
    }

    /// Tells whether the outcome of a commit is unknown: it may have happened.
    pub(crate) fn is_unknown_commit(&self) -> bool {
        matches!(self, StoreError::Driver(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT))
    }
}

/// Returns how many documents of an insertion were there already; `None` if anything
/// else went wrong.
pub(super) fn duplicates_alone(error: &Error) -> Option<u64> {
    let ErrorKind::InsertMany(failed) = error.kind.as_ref() else {
        return None;
    };
    let errors = failed.write_errors.as_deref().unwrap_or_default();
    let alone = failed.write_concern_error.is_none()
        && errors.iter().all(|error| error.code == DUPLICATE_KEY);
    alone.then_some(errors.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: i32) -> StoreError {
        StoreError::Write {
            collection: "journal",
            code,
            message: String::new(),
        }
    }

    #[test]
    fn codes_are_classified_by_what_can_be_done() {
        let rows = [
            (11_000, Class::Conflict),
            (112, Class::Conflict),
            (121, Class::Permanent),
            (10_334, Class::Permanent),
            (257, Class::Permanent),
            (13, Class::Retryable),     // Unauthorized: an operator's to cure
            (91, Class::Retryable),     // ShutdownInProgress
            (239, Class::Retryable),    // SnapshotTooOld
            (246, Class::Conflict),     // SnapshotUnavailable
            (10_107, Class::Retryable), // NotWritablePrimary
            (14_031, Class::Retryable), // OutOfDiskSpace
            (50, Class::Retryable),     // MaxTimeMSExpired
            (0, Class::Retryable),
        ];
        for (code, class) in rows {
            assert_eq!(refused(code).class(), class, "code {code}");
        }
    }

    /// A write of many statements reports them one by one: none of these is about
    /// the events.
    #[test]
    fn a_step_down_is_never_blamed_on_the_events() {
        for code in [91, 189, 10_107, 11_600, 11_602, 13_435, 13_436] {
            let error = refused(code);
            assert!(error.is_unreachable(), "code {code}");
            assert!(!error.may_be_of_these_events(), "code {code}");
        }
        assert!(refused(14_031).may_be_of_these_events());
    }

    #[test]
    fn a_document_that_moved_is_a_conflict() {
        let error = StoreError::Moved {
            collection: "dialogs",
            expected: 2,
            found: 1,
        };
        assert_eq!(error.class(), Class::Conflict);
    }
}
