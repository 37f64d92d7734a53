//! What had to change of a message's properties, and how that is said.

use std::fmt;

use super::MAX_DEPTH;
use crate::deadletter::shortened;

/// The most headers that were let go which are named one by one.
const MAX_NAMED: usize = 5;
/// The longest of these names that is shown whole, in bytes.
const MAX_NAME_BYTES: usize = 80;

/// What had to change.
#[derive(Debug, Default)]
pub(super) struct Notes {
    /// Properties that were not UTF-8.
    pub(super) texts: Vec<&'static str>,
    /// Names of headers that were not UTF-8.
    pub(super) names: usize,
    /// Tables and arrays that were too deep.
    pub(super) cut: usize,
    /// Places at which a table did not say what follows.
    pub(super) unread: usize,
    /// The properties ended early, or bytes were left over.
    pub(super) damaged: bool,
    /// Headers that were let go for want of room, and their sizes in bytes.
    pub(super) dropped: Vec<(String, usize)>,
    /// Size in bytes of properties that were let go as a whole.
    pub(super) let_go: Option<usize>,
}

impl Notes {
    pub(super) fn is_empty(&self) -> bool {
        self.only_cut() && self.cut == 0
    }

    /// Whether nothing was wrong but the depth.
    pub(super) fn only_cut(&self) -> bool {
        self.texts.is_empty()
            && (self.names, self.unread) == (0, 0)
            && !self.damaged
            && self.dropped.is_empty()
            && self.let_go.is_none()
    }
}

impl fmt::Display for Notes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = Vec::new();
        if !self.texts.is_empty() {
            said.push(format!("not UTF-8: {}", self.texts.join(", ")));
        }
        if self.names > 0 {
            said.push(format!(
                "names of headers that are not UTF-8: {}",
                self.names
            ));
        }
        if self.cut > 0 {
            said.push(format!(
                "tables or arrays nested more than {MAX_DEPTH} deep, left out: {}",
                self.cut
            ));
        }
        if self.unread > 0 {
            said.push(format!(
                "values of unknown type or size, kept as bytes with all that followed them: {}",
                self.unread
            ));
        }
        if self.damaged {
            said.push("the properties are not as long as they say".into());
        }
        if let Some(size) = self.let_go {
            said.push(format!("properties of {size} bytes, left out"));
        }
        if !self.dropped.is_empty() {
            said.push(format!(
                "left out of the headers, so that they fit into a frame: {}",
                named(&self.dropped)
            ));
        }
        f.write_str(&said.join("; "))
    }
}

/// Headers that were let go, by name with their sizes in bytes; the first of
/// them, if there are many.
pub(in crate::bus) fn named(dropped: &[(String, usize)]) -> String {
    let first = dropped.iter().take(MAX_NAMED);
    let first: Vec<_> = first
        .map(|(name, size)| format!("{} ({size} bytes)", shortened(name, MAX_NAME_BYTES)))
        .collect();
    let more = match dropped.len() - first.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!("{}{more}", first.join(", "))
}
