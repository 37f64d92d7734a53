//! Up to where a member has read a dialog, as a position in its time.

use crate::event::Micros;

/// A position in a dialog's time: messages at or before it are not unread.
/// Microseconds, one below a join time, so it can be -1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watermark(pub i64);

impl Watermark {
    /// Returns the watermark of a member who joined at, and read up to, these
    /// times.
    pub fn of(joined_at: Micros, read_until: Option<Micros>) -> Self {
        let read = read_until.map_or(-1, Micros::get);
        Self(read.max(joined_at.get() - 1))
    }

    /// Returns whether a message of that time is at or before the watermark,
    /// and so not unread.
    pub fn covers(self, at: Micros) -> bool {
        at.get() <= self.0
    }
}
