//! Files that are reread when they change.
//!
//! By their contents, from time to time: secrets of Kubernetes change by a
//! symbolic link two directories up, of which a watcher of the file learns
//! nothing.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tracing::{error, info};

use crate::shutdown::Shutdown;

/// The time between two looks at a file.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// The largest file that is read, in bytes.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Explains why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read.
    #[error("{path} cannot be read: {error}")]
    Unreadable {
        /// The path of the file.
        path: String,
        /// The error with which reading failed.
        error: std::io::Error,
    },
    /// The file does not have what it must have.
    #[error("{path}: {why}")]
    Unusable {
        /// The path of the file.
        path: String,
        /// What was expected instead, without secrets.
        why: String,
    },
}

/// The value in a file: the latest that could be used. Clones share it.
#[derive(Debug)]
pub struct Reloaded<T>(Arc<RwLock<Arc<T>>>);

impl<T> Clone for Reloaded<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Reloaded<T> {
    /// Returns the latest value that could be used.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Wraps a value that never changes.
    pub(super) fn of(value: T) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(value))))
    }

    fn replace(&self, new: T) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(new);
    }
}

/// Polls a file, and replaces the value when the contents change.
pub(super) struct FileWatch<T> {
    path: PathBuf,
    parse: fn(&str) -> Result<T, String>,
    seen: Seen,
    current: Reloaded<T>,
}

/// The digest of what was found last; `None`: it could not be read.
type Seen = Option<[u8; 32]>;

impl<T: Send + Sync> FileWatch<T> {
    /// Reads a file, which must be good now.
    pub(super) fn open(
        path: &Path,
        parse: fn(&str) -> Result<T, String>,
    ) -> Result<Self, FileError> {
        let text = read(path)?;
        let seen = Some(digest(&text));
        let parsed = parse(&text).map_err(|why| unusable(path, why))?;
        Ok(Self {
            path: path.to_owned(),
            parse,
            seen,
            current: Reloaded::of(parsed),
        })
    }

    /// Returns the value, which changes when the file does.
    pub(super) fn current(&self) -> Reloaded<T> {
        self.current.clone()
    }

    /// Rereads it until the stop, and tells `broken` whether what is there now
    /// can be used. While it cannot, what was there before holds.
    pub(super) async fn run(mut self, broken: impl Fn(bool) + Send, shutdown: Shutdown) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = shutdown.requested() => return,
            }
            if let Some(good) = self.look() {
                broken(!good);
            }
        }
    }

    /// Whether it can be used now; `None`: it is as it was.
    fn look(&mut self) -> Option<bool> {
        let read = read(&self.path);
        let seen = read.as_ref().ok().map(|text| digest(text));
        if std::mem::replace(&mut self.seen, seen) == seen {
            return None;
        }
        let path = self.path.display();
        let parsed =
            read.and_then(|text| (self.parse)(&text).map_err(|why| unusable(&self.path, why)));
        match parsed {
            Ok(parsed) => {
                self.current.replace(parsed);
                info!(%path, "a file has changed and was read again");
                Some(true)
            }
            Err(error) => {
                error!(%error, "a file has changed and cannot be used; what it said before holds");
                Some(false)
            }
        }
    }
}

fn read(path: &Path) -> Result<String, FileError> {
    let unreadable = |error| FileError::Unreadable {
        path: path.display().to_string(),
        error,
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut text = String::new();
    let read = file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text);
    match read.map_err(unreadable)? as u64 {
        bytes if bytes > MAX_FILE_BYTES => Err(unusable(
            path,
            format!("expected at most {MAX_FILE_BYTES} bytes"),
        )),
        _ => Ok(text),
    }
}

fn unusable(path: &Path, why: String) -> FileError {
    let path = path.display().to_string();
    FileError::Unusable { path, why }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// Returns what is wrong with TOML: the message and the line, not what stands there.
pub(super) fn toml_trouble(text: &str) -> impl Fn(toml::de::Error) -> String {
    move |error| {
        let line = error.span().map_or_else(String::new, |span| {
            let before = text.get(..span.start).unwrap_or_default();
            format!("line {}: ", before.matches('\n').count() + 1)
        });
        format!("{line}{}", error.message())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(text: &str) -> Result<u32, String> {
        text.trim().parse().map_err(|_| "a number".into())
    }

    #[test]
    fn what_was_good_holds_until_the_next_that_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        assert!(matches!(
            FileWatch::open(&path, number),
            Err(FileError::Unreadable { .. })
        ));
        std::fs::write(&path, "x").unwrap();
        assert!(matches!(
            FileWatch::open(&path, number),
            Err(FileError::Unusable { .. })
        ));
        std::fs::write(&path, "1").unwrap();
        let mut watch = FileWatch::open(&path, number).unwrap();
        let current = watch.current();
        let mut then = |change: &dyn Fn(), looked, value| {
            change();
            assert_eq!(watch.look(), looked);
            assert_eq!(*current.current(), value);
        };
        let write = |text: &'static str| {
            let path = path.clone();
            move || std::fs::write(&path, text).unwrap()
        };
        then(&|| {}, None, 1);
        then(&write("2"), Some(true), 2);
        then(&write("two"), Some(false), 2);
        then(&|| {}, None, 2);
        then(&|| std::fs::remove_file(&path).unwrap(), Some(false), 2);
        then(&|| {}, None, 2);
        then(&write("3"), Some(true), 3);
    }
}
