//! What went wrong in the store, classified once.

use mongodb::error::{
    Error, ErrorKind, TRANSIENT_TRANSACTION_ERROR, UNKNOWN_TRANSACTION_COMMIT_RESULT, WriteFailure,
};

use super::schema::collection::WRITERS;
use crate::config::SecretError;
use crate::pki::FileError;

/// An error of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The driver or the server said so.
    // Only its kind: the whole would show the server's reply in hexadecimal.
    #[error("MongoDB: {}", .0.kind)]
    Driver(#[from] Error),
    /// A file with the URL or a password is of no use.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A file with certificates or a key is of no use.
    #[error(transparent)]
    File(#[from] FileError),
    /// The URL switches the verification of certificates off.
    #[error(
        "the store's URL sets {option}, with which anybody can pose as MongoDB: name the authority of its certificate in tlsCAFile, or allow it by store.allow_insecure_tls = true"
    )]
    Insecure {
        /// The option.
        option: String,
    },
    /// A write was refused inside an otherwise successful command.
    #[error("MongoDB refused a write to `{collection}`: {message} (code {code})")]
    Write {
        /// Where.
        collection: &'static str,
        /// The server's error code.
        code: i32,
        /// The server's words.
        message: String,
    },
    /// A document is no longer what the change was derived from.
    #[error("{expected} documents of `{collection}` expected as derived from, {found} found")]
    Moved {
        /// Where.
        collection: &'static str,
        /// Documents that were to be changed.
        expected: i64,
        /// Documents that still were as expected.
        found: i64,
    },
    /// A document would become larger than any may be. Nothing was sent.
    #[error(
        "expected a document of `{collection}` of at most {most} bytes, found one that would have {bytes}"
    )]
    TooLarge {
        /// Where.
        collection: &'static str,
        /// What it would have.
        bytes: usize,
        /// What it may have.
        most: usize,
    },
    /// What a batch needs, or writes, takes more memory than one may. Nothing
    /// was sent, and fewer events may do.
    #[error("expected a batch that takes at most {most} bytes, found one that takes more")]
    TooMuch {
        /// What it may take.
        most: usize,
    },
    /// A rebuild keeps writers out while it switches over.
    #[error(
        "a rebuild is switching over to its collections; writes wait until it has, or gives up"
    )]
    SwitchingOver,
    /// The server's answer, or a stored document, is not what it must be.
    #[error("unexpected answer of MongoDB: {0}")]
    Answer(String),
}

/// What can be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// The store is down, slow, electing, full or misconfigured: the same again
    /// later. Also whatever is not known, so that nothing is given up in vain.
    Retryable,
    /// Someone else changed the same documents: load, derive and try again.
    Conflict,
    /// The data itself is refused, now and always.
    Permanent,
}

impl Class {
    /// The name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Class::Retryable => "retryable",
            Class::Conflict => "conflict",
            Class::Permanent => "permanent",
        }
    }
}

/// Server error codes that mean a conflict between two writers.
const CONFLICT_CODES: [i32; 3] = [
    112,    // WriteConflict
    246,    // SnapshotUnavailable
    11_000, // DuplicateKey
];

/// Server error codes that blame the data, not the state of the server.
const PERMANENT_CODES: [i32; 14] = [
    2,      // BadValue: also an $inc past the range of int64
    9,      // FailedToParse
    14,     // TypeMismatch
    15,     // Overflow
    28,     // PathNotViable
    40,     // ConflictingUpdateOperators
    52,     // DollarPrefixedFieldName
    56,     // EmptyFieldName
    121,    // DocumentValidationFailure
    257,    // TransactionTooLarge
    10_334, // BSONObjectTooLarge
    17_280, // KeyTooLong
    17_419, // the resulting document is too large (update)
    17_420, // the resulting document is too large (replacement)
];

/// The server's error code for a snapshot that is past its time.
const SNAPSHOT_TOO_OLD: i32 = 239;

impl StoreError {
    /// The one classification of errors.
    pub fn class(&self) -> Class {
        match self {
            StoreError::Moved { .. } => Class::Conflict,
            StoreError::Write { code, .. } => class_of_code(*code),
            StoreError::SwitchingOver
            | StoreError::Secret(_)
            | StoreError::File(_)
            | StoreError::Insecure { .. } => Class::Retryable,
            StoreError::TooLarge { .. } | StoreError::TooMuch { .. } | StoreError::Answer(_) => {
                Class::Permanent
            }
            StoreError::Driver(error) => class_of_driver_error(error),
        }
    }

    /// Whether the server could not be asked at all, or is not in a state to
    /// answer: for callers who can try again.
    pub fn is_unreachable(&self) -> bool {
        let StoreError::Driver(error) = self else {
            return false;
        };
        matches!(
            error.kind.as_ref(),
            ErrorKind::ServerSelection { .. }
                | ErrorKind::Io(_)
                | ErrorKind::ConnectionPoolCleared { .. }
        ) || error.contains_label(mongodb::error::RETRYABLE_WRITE_ERROR)
            || error.contains_label(TRANSIENT_TRANSACTION_ERROR)
    }

    /// Whether the server itself refused just this, for a cause that is not known
    /// to go away: it may well take something else.
    pub fn may_be_of_these_events(&self) -> bool {
        let code = match self {
            StoreError::Write { .. } => true,
            StoreError::Driver(error) => matches!(error.kind.as_ref(), ErrorKind::Command(_)),
            _ => false,
        };
        code && !self.is_unreachable()
    }

    /// Whether a snapshot's moment is so long ago that the server no longer has
    /// it.
    pub fn is_snapshot_too_old(&self) -> bool {
        let StoreError::Driver(error) = self else {
            return false;
        };
        matches!(error.kind.as_ref(), ErrorKind::Command(e) if e.code == SNAPSHOT_TOO_OLD)
    }

    /// Whether the writer was fenced off, and must enrol anew.
    pub fn is_fenced_off(&self) -> bool {
        matches!(self, StoreError::Moved { collection, .. } if *collection == WRITERS)
    }

    /// What the driver said, if it is that.
    pub(crate) fn driver(&self) -> Option<&Error> {
        match self {
            StoreError::Driver(error) => Some(error),
            _ => None,
        }
    }

    /// Whether a commit may or may not have happened.
    pub fn is_unknown_commit(&self) -> bool {
        matches!(self, StoreError::Driver(e) if e.contains_label(UNKNOWN_TRANSACTION_COMMIT_RESULT))
    }
}

fn class_of_code(code: i32) -> Class {
    if CONFLICT_CODES.contains(&code) {
        Class::Conflict
    } else if PERMANENT_CODES.contains(&code) {
        Class::Permanent
    } else {
        Class::Retryable
    }
}

fn class_of_driver_error(error: &Error) -> Class {
    match error.kind.as_ref() {
        ErrorKind::Command(e) => class_of_code(e.code),
        ErrorKind::Write(WriteFailure::WriteError(e)) => class_of_code(e.code),
        // The document cannot even be sent.
        ErrorKind::BsonSerialization(_) | ErrorKind::InvalidArgument { .. }
            if !error.contains_label(TRANSIENT_TRANSACTION_ERROR) =>
        {
            Class::Permanent
        }
        _ => Class::Retryable,
    }
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
            (10_107, Class::Retryable), // NotWritablePrimary
            (14_031, Class::Retryable), // OutOfDiskSpace
            (50, Class::Retryable),     // MaxTimeMSExpired
            (0, Class::Retryable),
        ];
        for (code, class) in rows {
            assert_eq!(refused(code).class(), class, "code {code}");
        }
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
