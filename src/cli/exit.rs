//! How a command ends.

use std::io::{self, Write as _};

use crate::app::AppError;
use crate::bus::BusError;
use crate::config::ConfigError;
use crate::grpc::ServeError;
use crate::store::{Class, StoreError};

/// What a command tells its caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitCode {
    /// The command did what it was asked for.
    Done = 0,
    /// The answer is no, problems were found, or a part of the work failed.
    No = 1,
    /// The usage or the configuration is wrong.
    Usage = 2,
    /// A server cannot be reached or refuses.
    Server = 3,
}

impl From<ExitCode> for std::process::ExitCode {
    fn from(code: ExitCode) -> Self {
        (code as u8).into()
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) struct Failure {
    code: ExitCode,
    /// For the person at the terminal; empty = nothing to say.
    message: String,
}

impl Failure {
    /// Makes a failure with a message for the person at the terminal.
    pub(crate) fn new(code: ExitCode, message: impl Into<String>) -> Self {
        Failure {
            code,
            message: message.into(),
        }
    }

    /// Adds what the person at the terminal may do about it.
    pub(crate) fn advising(self, advice: &str) -> Self {
        let message = format!("{}: {advice}", self.message);
        Failure { message, ..self }
    }

    /// Tells whether a server is to blame.
    pub(crate) fn is_server(&self) -> bool {
        self.code == ExitCode::Server
    }

    /// Logs the failure and returns its exit code.
    pub(crate) fn log(self, what: &str) -> ExitCode {
        if !self.message.is_empty() {
            tracing::error!("{what}: {}", self.message);
        }
        self.code
    }

    /// Prints the failure on stderr and returns its exit code.
    pub(crate) fn tell(self) -> ExitCode {
        if !self.message.is_empty() {
            // With stderr gone there is no one left to tell.
            let _ = writeln!(io::stderr(), "error: {}", self.message);
        }
        self.code
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Failure::new(ExitCode::Usage, error.to_string())
    }
}

impl From<BusError> for Failure {
    fn from(error: BusError) -> Self {
        let code = match error {
            BusError::Url { .. } | BusError::NameTooLong { .. } => ExitCode::Usage,
            _ => ExitCode::Server,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let code = match error.class() {
            // Said of the URL's options, before any server was asked.
            Class::Permanent => ExitCode::Usage,
            Class::Retryable | Class::Conflict => ExitCode::Server,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<AppError> for Failure {
    fn from(error: AppError) -> Self {
        match error {
            AppError::Store(error) => error.into(),
            AppError::Bus(error) => error.into(),
            AppError::Refused(error) => Failure::new(ExitCode::Server, error.to_string()),
            AppError::Listen { .. } | AppError::Auth(_) | AppError::Grpc(ServeError::Listen(_)) => {
                Failure::new(ExitCode::Usage, error.to_string())
            }
            _ => Failure::new(ExitCode::No, error.to_string()),
        }
    }
}

/// From writing to stdout. A reader that has seen enough (`| head`) is no
/// failure worth words.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::new(ExitCode::Done, ""),
            _ => Failure::new(ExitCode::No, format!("cannot write: {error}")),
        }
    }
}
