//! What is wrong with a setting, and where it comes from.

use std::fmt;
use std::path::PathBuf;

/// The beginning of the name of every environment variable that sets a key.
pub(super) const PREFIX: &str = "CHAT_COUNTERS__";

/// Where the value of a key comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// No source sets the key.
    Default,
    /// The configuration file at this path.
    File(PathBuf),
    /// The environment variable of this name.
    Variable(String),
    /// The flag of the command line with this name.
    Flag(&'static str),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default => f.write_str("default"),
            Source::File(path) => write!(f, "file {}", path.display()),
            Source::Variable(name) => write!(f, "environment variable {name}"),
            Source::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A thing that is wrong with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The name of the key, or what stands in its place.
    pub key: String,
    /// The source that sets it.
    pub source: Source,
    /// What was expected, in words.
    pub expected: String,
    /// What was found instead. It never holds a secret.
    pub found: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Problem {
            key,
            source,
            expected,
            found,
        } = self;
        write!(f, "{key} ({source}): expected {expected}; found {found}")
    }
}
