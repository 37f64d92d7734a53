//! What of a dialog's sequence is not unread for a user, in few bytes: a share
//! has one of these, and there are more shares than anything else.

use super::memory::{heap, room_for};

/// The number of types whose counts fit into the share itself.
const INLINE_TYPES: usize = 3;

/// A count for each type of the dialog, in the dialog's order of them.
#[derive(Debug)]
pub(super) enum Consumed {
    /// Nearly always: chats have two or three types of senders.
    Few([i32; INLINE_TYPES]),
    Many(Box<Many>),
}

/// The counts for dialogs with more types.
#[derive(Debug)]
pub(super) struct Many {
    counts: Vec<i64>,
}

impl Default for Consumed {
    fn default() -> Self {
        Self::Few([0; INLINE_TYPES])
    }
}

impl Consumed {
    /// Returns the count of the dialog's type at a place.
    pub(super) fn get(&self, place: usize) -> i64 {
        match self {
            Self::Few(counts) => counts.get(place).map_or(0, |count| i64::from(*count)),
            Self::Many(many) => many.counts.get(place).copied().unwrap_or(0),
        }
    }

    /// Sets the count of the dialog's type at a place.
    pub(super) fn set(&mut self, place: usize, count: i64) {
        match (&mut *self, i32::try_from(count)) {
            (Self::Few(counts), Ok(count)) if place < INLINE_TYPES => counts[place] = count,
            (Self::Few(counts), _) => {
                let counts = counts.iter().map(|count| i64::from(*count));
                let mut many = Many {
                    counts: counts.collect(),
                };
                many.set(place, count);
                *self = Self::Many(Box::new(many));
            }
            (Self::Many(many), _) => many.set(place, count),
        }
    }

    /// Sets all counts to 0.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Returns the bytes that it takes beside itself.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Few(_) => 0,
            Self::Many(many) => heap(size_of::<Many>()) + room_for::<i64>(many.counts.capacity()),
        }
    }
}

impl Many {
    fn set(&mut self, place: usize, count: i64) {
        if place >= self.counts.len() {
            self.counts.resize(place + 1, 0);
        }
        self.counts[place] = count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_that_do_not_fit_are_kept_as_well() {
        assert_eq!(size_of::<Consumed>(), 16);
        let mut consumed = Consumed::default();
        consumed.set(0, 5);
        consumed.set(2, -7);
        assert_eq!(
            (consumed.get(2), consumed.get(9), consumed.bytes()),
            (-7, 0, 0)
        );
        consumed.set(1, i64::from(i32::MAX) + 1);
        consumed.set(6, 2);
        let counts: Vec<i64> = (0..8).map(|place| consumed.get(place)).collect();
        assert_eq!(counts, [5, i64::from(i32::MAX) + 1, -7, 0, 0, 0, 2, 0]);
        assert!(consumed.bytes() > 0);
        consumed.clear();
        assert_eq!((consumed.get(0), consumed.bytes()), (0, 0));
    }
}
